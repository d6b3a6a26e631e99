"""How Sphinx makes the site; `make docs` runs it.

Its source folder is the whole repository: READMEs stand in the site as they are, and a link works there as it does
between the files.
"""

import vstorage_core

project = "vstorage"
release = vstorage_core.__version__
root_doc = "docs/index"
include_patterns = ["CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "plugins/*/README.md", "examples/*/README.md"]
exclude_patterns = [".*", "site"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
# Docstrings mark code as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"vstorage {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["root"]
html_show_copyright = False
html_copy_source = False
