"""What vstorage_cli contributes, for pluggy: the hook by which other plugins add commands."""

from vstorage_cli import hookspecs as hookspecs
