"""`python -m vstorage_keys NAME ROLE` makes a key."""

from __future__ import annotations

import json
import secrets
import sys

from vstorage_keys.keyring import Key, digest_of


def main(name: str, role: str) -> None:
    """Print a new key for the caller, and its entry for the file."""
    secret = secrets.token_urlsafe(32)
    print("key, shown this once:", secret)
    print("entry of the file:", json.dumps(Key(name=name, role=role, sha256=digest_of(secret)).model_dump()))


if __name__ == "__main__":
    main(*sys.argv[1:])
