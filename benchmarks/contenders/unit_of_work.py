"""vstorage where nothing goes past SQLAlchemy's unit of work."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders import vstorage


class Contender(vstorage.Contender):
    def __init__(self, path: Path, durability: str | None = None) -> None:
        super().__init__(path, durability)
        self._storage.allows_direct_rows = False
