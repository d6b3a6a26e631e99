"""What an import tells: per table what it did, and everything that is wrong with the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from vstorage_core import ImportRefused
from vstorage_transfer.formats import FileReader
from vstorage_transfer.table import BadRow, Finding, ImportTable, Row

MAX_BAD_ROWS = 10_000
MAX_DIFFERENCES = 20
_MAX_VALUE_CHARACTERS = 200


class Difference(BaseModel):
    """One field that an update changes.

    Attributes:
        line: Where its row begins, or the row's number where a file has no lines.
    """

    line: int
    key: Any
    column: str
    before: Any
    after: Any


class Problem(BaseModel):
    """Why a row is bad; `line` as in `Difference`."""

    file: str
    line: int | None
    column: str | None
    value: str | None
    reason: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file} line {self.line}"
        if self.column is None:
            return f"{where}: {self.reason}"
        return f"{where}: {self.column} {'is empty' if self.value is None else repr(self.value)}: {self.reason}"


class TableReport(BaseModel):
    """What the import does to one table.

    Attributes:
        differences: The first fields that updates change.
        errors_file: The bad rows as a file, where the format is text: repair the rows and import it again.
    """

    table: str
    file: str
    create: int = 0
    update: int = 0
    unchanged: int = 0
    delete: int = 0
    bad: int = 0
    differences: list[Difference] = []
    errors_file: str | None = None


class ImportReport(BaseModel):
    """What the import did, or would do.

    Attributes:
        batch: Stands in every audit row of the import; None for a dry run.
        tables: In the order in which they were imported.
        problems: One per bad cell.
        skipped: Files that were not imported, and why.
    """

    dry_run: bool
    batch: str | None
    tables: list[TableReport] = []
    problems: list[Problem] = []
    skipped: dict[str, str] = {}


def counted(number: int, what: str) -> str:
    """E.g. "1 bad row", "2,000 bad rows"."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


class TableFindings:
    """What is found out about one table while it is imported; writes its report.

    Attributes:
        report: Of the table.
        problems: What is wrong with it, known at the end.
    """

    def __init__(self, file: str, table: ImportTable, reader: FileReader) -> None:
        self._table = table
        self._reader = reader
        self._bad: list[BadRow] = []
        self.report = TableReport(table=table.name, file=file)
        self.problems: list[Problem] = []

    def bad(self, row: BadRow) -> None:
        """Note a bad row.

        Raises:
            ImportRefused: There are more of them than anybody reads.
        """
        self._bad.append(row)
        refuse_too_many(len(self._bad))

    def updated(self, row: Row, before: dict[str, Any], after: dict[str, Any], changed: Sequence[str]) -> None:
        """Note an update of the attributes in `changed`."""
        self.report.update += 1
        table = self._table
        for name in changed[: MAX_DIFFERENCES - len(self.report.differences)]:
            self.report.differences.append(
                Difference(
                    line=row.line,
                    key=table.shown(table.record.key, before[table.record.key]),
                    column=table.record.columns[name].name,
                    before=table.shown(name, before[name]),
                    after=table.shown(name, after[name]),
                )
            )

    def not_deleted(self, key: Any, reason: str) -> None:
        """Note a record that should be deleted and cannot be."""
        self.report.bad += 1
        reason = f"the record {key} is not in the file and cannot be deleted: {reason}"
        self.problems.append(Problem(file=self.report.file, line=None, column=None, value=None, reason=reason))

    def finish(self) -> None:
        """Write what is wrong with the rows, in the order of the file."""
        rows = sorted(self._bad, key=lambda row: row.line)
        self.report.bad += len(rows)
        if rows:
            self.report.errors_file = self._reader.errors_file(rows)
        self.problems[:0] = [self._problem(row, finding) for row in rows for finding in row.findings]

    def _problem(self, row: BadRow, finding: Finding) -> Problem:
        value = None if finding.column is None else self._reader.cell(row.source, finding.column)
        return Problem(
            file=self.report.file,
            line=row.line,
            column=None if finding.column is None else _encodable(finding.column),
            value=None if value is None else _encodable(value[:_MAX_VALUE_CHARACTERS]),
            reason=_encodable(finding.reason),
        )


def _encodable(text: str) -> str:
    """The text with halves of characters, which JSON can carry and UTF-8 cannot, spelt out."""
    return text.encode(errors="backslashreplace").decode()


def refuse_too_many(bad: int) -> None:
    """Refuse an import with more bad rows than anybody reads.

    Raises:
        ImportRefused: It has.
    """
    if bad > MAX_BAD_ROWS:
        raise ImportRefused(f"more than {MAX_BAD_ROWS:,} rows are bad, nothing was imported; try the first few rows")
