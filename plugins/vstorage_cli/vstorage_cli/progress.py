"""A progress bar on a terminal."""

from __future__ import annotations

import shutil
import sys
import time

import click

from vstorage_core import Progress

_SECONDS_BETWEEN_DRAWINGS = 0.1
_BAR_WIDTH = 24


class ProgressBar:
    """Draws what an export or import reports on standard error, when that is a terminal; a context manager.

    Args:
        quiet: Draw nothing anyway.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._visible = sys.stderr.isatty() and not quiet
        self._next_drawing = 0.0
        self._drawn = 0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._replace("")

    def __call__(self, progress: Progress) -> None:
        """Draw it, unless the last drawing is too young; the end of a part is always drawn."""
        now = time.monotonic()
        if self._visible and (now >= self._next_drawing or progress.done == progress.total):
            self._next_drawing = now + _SECONDS_BETWEEN_DRAWINGS
            self._replace(_line(progress)[: shutil.get_terminal_size().columns - 1])

    def _replace(self, line: str) -> None:
        if self._visible and (line or self._drawn):
            blank = " " * (self._drawn - len(line))
            click.echo(f"\r{line}{blank}" + ("" if line else "\r"), nl=False, err=True)
            self._drawn = len(line)


def _line(progress: Progress) -> str:
    if not progress.total:
        return f"{progress.label:<20}  {progress.done:,}"
    fraction = min(progress.done / progress.total, 1.0)
    bar = ("#" * int(fraction * _BAR_WIDTH)).ljust(_BAR_WIDTH, "-")
    return f"{progress.label:<20}  [{bar}] {fraction:4.0%}  {progress.done:,} of {progress.total:,}"
