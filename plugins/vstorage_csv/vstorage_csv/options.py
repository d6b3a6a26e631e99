"""What can be chosen when CSV files are written and read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vstorage_core import SelectionOptions
from vstorage_csv.sheet import Dates
from vstorage_transfer import ImportOptions, ImportSettings, Manifest

Dialect = Literal["exact", "spreadsheet"]
Delimiter = Literal[",", ";", "\t"]


class CsvSettings(ImportSettings):
    """The `csv` section of a storage's configuration.

    Attributes:
        max_import_bytes: Most bytes that an upload may have when it is unpacked.
        max_row_bytes: Most bytes of one row of a file; a row is held in memory.
        dialect: Of exports for which nobody names one.
        delimiter: Of spreadsheets for which nobody names one.
        decimal_comma: Of spreadsheets for which nobody says it.
        compression_level: Of exports for which nobody names one.
    """

    max_row_bytes: int = Field(default=16 * 1024**2, gt=0)
    dialect: Dialect = "exact"
    delimiter: Delimiter = ","
    decimal_comma: bool = False
    compression_level: int = Field(default=6, ge=0, le=9)


class CsvTableOptions(BaseModel):
    """Options of the export of a single table."""

    model_config = ConfigDict(extra="forbid")

    dialect: Dialect = Field(
        default="exact",
        description="exact: reads back as the same values; spreadsheet: for people, formulas defused",
    )
    delimiter: Delimiter = Field(
        default=",", description="Between the cells of the spreadsheet dialect; exact files always have a comma"
    )
    decimal_comma: bool = Field(default=False, description="Numbers of the spreadsheet dialect have a decimal comma")

    @model_validator(mode="after")
    def _fits(self) -> CsvTableOptions:
        if self.dialect == "exact":
            asked = {
                name: getattr(self, name) for name in ("delimiter", "decimal_comma") if name in self.model_fields_set
            }
            if asked.get("delimiter", ",") != "," or asked.get("decimal_comma"):
                raise ValueError("delimiter and decimal_comma are for dialect=spreadsheet; exact files have one form")
            # What the machine's settings say of spreadsheets.
            self.delimiter, self.decimal_comma = ",", False
        return self


class CsvExportOptions(SelectionOptions, CsvTableOptions):
    """Options of the export."""

    compression_level: int = Field(default=6, ge=0, le=9, description="0: fastest, 9: smallest")


class CsvImportOptions(ImportOptions):
    """Options of the import."""

    dialect: Dialect | None = Field(
        default=None, description="Of the files; default: what the manifest says, else spreadsheet"
    )
    decimal_comma: bool | None = Field(
        default=None, description="Numbers have a decimal comma; default: what the manifest says, else a point"
    )
    dates: Dates = Field(
        default="iso",
        description="How dates of a spreadsheet are written that do not begin with the year: dmy is 31.01.2026 or"
        " 31/1/2026, mdy is 1/31/2026; iso: not at all",
    )


class CsvManifest(Manifest):
    """The manifest of a zip of CSV files."""

    dialect: Dialect
    delimiter: str = Field(min_length=1, max_length=1)
    decimal_comma: bool = False
