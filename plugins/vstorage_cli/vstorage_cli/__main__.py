"""`python -m vstorage_cli` is `vstorage`."""

from vstorage_cli.main import main

main()
