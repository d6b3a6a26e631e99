"""What a restore tells, before it happens and after."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class RestoreOptions(BaseModel):
    """Options of the importer `restore`."""

    model_config = ConfigDict(extra="forbid")

    integrity_check: bool = Field(default=False, description="Check the indexes of the file too; takes longer")
    dry_run: bool = Field(default=False, description="Only tell what would happen")
    allow: list[str] = Field(
        default_factory=list,
        description="Differences between file and models to accept, each by its name in the report: table or"
        " table.column",
    )


class SchemaDifference(BaseModel):
    """A table or column that only the file or only the models have.

    Attributes:
        name: `table` or `table.column`.
        difference: What it is and what accepting it would mean.
        accepted: Whether `allow` names it; a restore with one that is not accepted is refused.
    """

    name: str
    difference: str
    accepted: bool


class Finding(BaseModel):
    """Something in the file that the models do not allow; the restore is refused.

    Attributes:
        table: Where.
        column: Column, or several separated by commas.
        record: Key of the first record concerned.
        problem: What is wrong.
    """

    table: str
    column: str
    record: str | None
    problem: str


class RestoredTable(BaseModel):
    """What happens to one table.

    Attributes:
        rows_before: Records in the database now.
        rows_after: Records in the file, which replace them.
        rows_lost: Records of now whose keys the file does not have.
    """

    rows_before: int
    rows_after: int
    rows_lost: int


class RestoreReport(BaseModel):
    """What a restore did, or in a dry run what it would do.

    Attributes:
        restored: Whether the database was replaced.
        refused_because: Why a restore would be refused; only in a dry run.
        sha256: Of the file.
        size_bytes: Of the file.
        backup_taken_at: When the backup was taken, in UTC; None for a file that vstorage did not make.
        backup_age_seconds: How long ago that is.
        changes_since_backup: Rows of the present audit trail that are younger than the backup.
        schema_differences: Between file and models.
        foreign_key_violations: Records of the file that refer to records which it does not have.
        invalid_values: Values of the file that the models do not allow.
        tables: By name, without the audit trail.
        tables_left_alone: Tables of the database that no model describes; nothing in them changes.
        audit_rows_added: Rows of the file's audit trail that the database did not have; nothing of its own is removed.
        safety_copy: File name of the backup of what was replaced.
        no_safety_copy_because: Why there is none.
        duration_seconds: How long it took.
    """

    restored: bool
    refused_because: str | None = None
    sha256: str
    size_bytes: int
    backup_taken_at: datetime | None
    backup_age_seconds: float | None
    changes_since_backup: int | None
    schema_differences: list[SchemaDifference]
    foreign_key_violations: list[Finding]
    invalid_values: list[Finding]
    tables: dict[str, RestoredTable]
    tables_left_alone: list[str]
    audit_rows_added: int
    safety_copy: str | None = None
    no_safety_copy_because: str | None = None
    duration_seconds: float
