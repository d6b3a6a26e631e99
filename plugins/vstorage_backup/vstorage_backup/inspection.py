"""Comparing an uploaded file with the models: its tables and columns, and then every value in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ForeignKeyConstraint, Table, UniqueConstraint

from vstorage_backup.columns import FileColumn, file_columns
from vstorage_backup.export import MARK_TABLE, quoted
from vstorage_backup.ranges import Ranges, parts
from vstorage_backup.report import Finding, SchemaDifference
from vstorage_backup.upload import Upload
from vstorage_core import ImportRefused, Storage, report_progress
from vstorage_core.audit import AUDIT_TABLE

MOST_FINDINGS = 20
_LAST_SENSIBLE_KEY = 2**62


@dataclass
class Inspection:
    """What a look through the file has shown.

    Attributes:
        differences: Between its schema and the models.
        violations: Records that refer to records which the file does not have.
        invalid: Values that the models do not allow.
        columns: By table, the columns that are taken from the file.
        fills: By table, the columns that the file does not have, each with what is stored in its place.
        new: By table, which rows had to be looked at; None: all.
    """

    differences: list[SchemaDifference] = field(default_factory=list)
    violations: list[Finding] = field(default_factory=list)
    invalid: list[Finding] = field(default_factory=list)
    columns: dict[str, list[FileColumn]] = field(default_factory=dict)
    fills: dict[str, list[tuple[FileColumn, Any]]] = field(default_factory=dict)
    new: dict[str, Ranges | None] = field(default_factory=dict)

    @property
    def refusal(self) -> str | None:
        """Why the file is refused, in a sentence, or None."""
        open_names = [difference.name for difference in self.differences if not difference.accepted]
        if open_names:
            return (
                f"the backup does not have the tables and columns of this application: {self._first_difference()}."
                f" To restore it all the same, allow {', '.join(open_names)}"
            )
        if self.invalid:
            finding = self.invalid[0]
            return f"the backup holds a value that is not allowed: {finding.table}.{finding.column} {finding.problem}"
        if self.violations:
            finding = self.violations[0]
            return f"the backup holds broken references: {finding.table}.{finding.column} {finding.problem}"
        return None

    def details(self) -> list[dict[str, Any]]:
        """All that was found, for `ImportRefused`."""
        return [finding.model_dump() for finding in [*self.differences, *self.invalid, *self.violations]]

    def _first_difference(self) -> str:
        first = next(difference for difference in self.differences if not difference.accepted)
        return f"{first.name} {first.difference}"


def inspect_upload(
    storage: Storage,
    upload: Upload,
    tables: Sequence[Table],
    left_alone: Collection[str] = (),
    allow: Collection[str] = (),
    new_rows: Callable[[Inspection, Table], Ranges | None] = lambda inspection, table: None,
) -> Inspection:
    """Look through the file.

    Args:
        storage: Where it is to be restored.
        upload: The file.
        tables: Of the models.
        left_alone: Other tables of the database.
        allow: Names of differences to accept.
        new_rows: Tells which rows of a table must be looked at, or None for all; asked when the schemas have been
            compared.

    Raises:
        ImportRefused: It has none of the tables, or lacks something that cannot be made up.
    """
    inspection = Inspection()
    if not any(table.name in upload.tables for table in tables):
        raise ImportRefused("the file is an SQLite database of another application: it has none of our tables")
    _compare_schemas(storage, upload, tables, left_alone, allow, inspection)
    present = [table for table in tables if table.name in upload.tables]
    for done, table in enumerate(present):
        report_progress("checking tables", done, len(present))
        new = inspection.new[table.name] = new_rows(inspection, table)
        for part in parts(new):
            inspection.invalid += _invalid_values(upload, table, inspection.columns[table.name], *part)
            if len(inspection.invalid) >= MOST_FINDINGS:
                break
    if not inspection.invalid:
        inspection.invalid += _used_up_keys(upload, present)
        for table in present:
            if table is not AUDIT_TABLE:
                stored = {column.name for column in inspection.columns[table.name]}
                inspection.invalid += _repeated_values(upload, table, stored)
                inspection.violations += _reference_violations(upload, table, stored)
    return inspection


def _compare_schemas(
    storage: Storage,
    upload: Upload,
    tables: Sequence[Table],
    left_alone: Collection[str],
    allow: Collection[str],
    inspection: Inspection,
) -> None:
    def differs(name: str, difference: str) -> None:
        inspection.differences.append(SchemaDifference(name=name, difference=difference, accepted=name in allow))

    for table in tables:
        columns = file_columns(table.columns, storage.engine.dialect)
        names = upload.tables.get(table.name)
        if names is None:
            # A file without a trail adds nothing to ours.
            if table is not AUDIT_TABLE:
                differs(table.name, "is missing in the backup: restoring it empties the table")
            continue
        inspection.columns[table.name] = [column for column in columns if column.name in names]
        fills = inspection.fills[table.name] = []
        for column in columns:
            if column.name not in names:
                if table is AUDIT_TABLE and column.column.nullable:
                    continue
                value = _default(storage, column.column)
                fills.append((column, column.stored(value)))
                shown = "no value" if value is None else f"the value {value!r}"
                differs(f"{table.name}.{column.name}", f"is missing in the backup: its records get {shown}")
        for name in names:
            if name not in table.columns:
                differs(f"{table.name}.{name}", "is unknown to this application: its values are not restored")
            elif (table.name, name) in upload.computed and table.columns[name].computed is None:
                raise ImportRefused(f"table {table.name} of the file computes {name}; a backup stores its values")
    ours = {table.name for table in tables}
    for name in sorted(set(upload.tables) - ours - set(left_alone) - {MARK_TABLE}):
        differs(name, "is unknown to this application: its records are not restored")


def _default(storage: Storage, column: Column[Any]) -> Any:
    """What a record gets that was stored before the column existed: the model's default, else NULL."""
    for accessor in storage.accessors:
        record = accessor.record
        for name, candidate in record.columns.items():
            if candidate is column and name in record.model.model_fields:
                field_info = record.model.model_fields[name]
                if not field_info.is_required():
                    value = field_info.get_default(call_default_factory=True, validated_data={})
                    if value is not None or column.nullable:
                        return value
    if not column.nullable:
        raise ImportRefused(
            f"the backup does not have {column.table.name}.{column.name}, which every record needs and for which the"
            " model has no default"
        )
    return None


def _invalid_values(
    upload: Upload, table: Table, columns: Sequence[FileColumn], where: str = "", *values: Any
) -> list[Finding]:
    findings: list[Finding] = []
    key_names = [column.name for column in table.primary_key.columns]
    unsure = _unsure_columns(upload, table, columns, where, *values)
    columns = [column for column in columns if column in unsure or column.name in key_names]
    keys = [index for index, column in enumerate(columns) if column.name in key_names]
    for rows in upload.rows(table, columns, where, *values) if unsure else ():
        for column, stored in zip(columns, zip(*rows, strict=True), strict=True):
            found = column.problem(stored)
            if found is not None:
                index, problem = found
                record = ", ".join(str(rows[index][key]) for key in keys) or None
                findings.append(Finding(table=table.name, column=column.name, record=record, problem=problem))
        if len(findings) >= MOST_FINDINGS:
            break
    return findings[:MOST_FINDINGS]


def _unsure_columns(
    upload: Upload, table: Table, columns: Sequence[FileColumn], where: str, *values: Any
) -> Sequence[FileColumn]:
    """The columns that must be looked at value by value: those of which SQLite cannot tell that all is well."""
    sure = [column for column in columns if column.sure is not None]
    if not sure:
        return columns
    rules = " AND ".join(f"({column.sure}) IS TRUE" for column in sure)
    rest = f"{where} AND" if where else "WHERE"
    sql = f"SELECT 1 FROM {quoted(table.name)} NOT INDEXED {rest} NOT ({rules}) LIMIT 1"  # noqa: S608
    texts = [column for column in sure if column.is_text]
    if upload.scalar(sql, values) is not None or not upload.is_clean_text(table, texts, where, *values):
        return columns
    return [column for column in columns if column.sure is None]


def _used_up_keys(upload: Upload, tables: Sequence[Table]) -> list[Finding]:
    """Tables that could take no new record, because SQLite never gives a key again and the last one is taken."""
    keys = upload.last_keys(tables)
    return [
        Finding(table=table.name, column=table.autoincrement_column.name, record=None, problem="has no keys left")
        for table in tables
        if table.autoincrement_column is not None and keys.get(table.name, 0) > _LAST_SENSIBLE_KEY
    ]


def _repeated_values(upload: Upload, table: Table, stored: set[str]) -> list[Finding]:
    findings = []
    # SQLite's check has seen that row numbers ascend.
    row_number = {upload.row_numbers.get(table.name)}
    for names in _unique_columns(table):
        if names <= stored and names != row_number:
            columns = ", ".join(quoted(name) for name in sorted(names))
            present = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in sorted(names))
            twice = upload.scalar(
                f"SELECT count(*) FROM (SELECT 1 FROM {quoted(table.name)} NOT INDEXED WHERE {present}"  # noqa: S608
                f" GROUP BY {columns} HAVING count(*) > 1)"
            )
            if twice:
                findings.append(
                    Finding(
                        table=table.name,
                        column=", ".join(sorted(names)),
                        record=None,
                        problem=f"must be unique, and {twice} values occur twice or more",
                    )
                )
    return findings


def _unique_columns(table: Table) -> Iterator[frozenset[str]]:
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint) or constraint is table.primary_key:
            names = frozenset(column.name for column in constraint.columns)
            if names:
                yield names
    for index in table.indexes:
        # One with conditions or expressions is the database's to enforce.
        is_partial = any(index.dialect_options[name]["where"] is not None for name in ("sqlite", "postgresql"))
        if index.unique and not is_partial:
            names = frozenset(column.name for column in index.columns)
            if len(names) == len(index.expressions):
                yield names


def _reference_violations(upload: Upload, table: Table, stored: Collection[str]) -> list[Finding]:
    findings = []
    for constraint in table.constraints:
        if not isinstance(constraint, ForeignKeyConstraint):
            continue
        pairs = [(element.parent.name, element.column.name) for element in constraint.elements]
        names = [child for child, _ in pairs]
        if not set(names) <= set(stored):
            continue
        present = " AND ".join(f"child.{quoted(child)} IS NOT NULL" for child in names)
        parent = constraint.referred_table.name
        missing = present
        if parent in upload.tables:
            matches = " AND ".join(f"parent.{quoted(theirs)} = child.{quoted(ours)}" for ours, theirs in pairs)
            missing += f" AND NOT EXISTS (SELECT 1 FROM {quoted(parent)} AS parent WHERE {matches})"  # noqa: S608
        source = f"FROM {quoted(table.name)} AS child WHERE {missing}"
        count = upload.scalar(f"SELECT count(*) {source}")
        if count:
            keys = ", ".join(f"child.{quoted(column.name)}" for column in table.primary_key.columns) or "NULL"
            row = upload.connection.execute(f"SELECT {keys} {source} LIMIT 1").fetchone()
            findings.append(
                Finding(
                    table=table.name,
                    column=", ".join(names),
                    record=", ".join(map(str, row)),
                    problem=f"refers to {parent} that the backup does not have, in {count} records",
                )
            )
    return findings
