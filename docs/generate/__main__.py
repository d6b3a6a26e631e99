"""Writes the pages that are made from the code: `make reference`; a test compares.

python -m docs.generate [FOLDER]
"""

import os
import sys
from pathlib import Path

# Examples that happen to be installed are no part of the pages; plugins are found when the pages are imported.
os.environ["VSTORAGE_DISABLED_PLUGINS"] = "hello,keys"

from docs.generate import cli, hooks, http, settings

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
for page in (cli, hooks, http, settings):
    name = page.__name__.rpartition(".")[2]
    folder.joinpath(f"{name}.md").write_text(page.render(), encoding="utf-8")
