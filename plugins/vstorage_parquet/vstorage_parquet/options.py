"""What can be chosen when Parquet files are written and read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vstorage_core import SelectionOptions
from vstorage_transfer import ImportSettings


class ParquetSettings(ImportSettings):
    """The `parquet` section of a storage's configuration.

    Attributes:
        max_import_bytes: Most bytes that an upload may have when it is unpacked.
    """


class ParquetTableOptions(BaseModel):
    """Options of the export of a single table."""

    model_config = ConfigDict(extra="forbid")

    compression: Literal["zstd", "snappy", "gzip", "none"] = Field(
        default="zstd", description="Inside of the files; all readers know snappy"
    )


class ParquetExportOptions(SelectionOptions, ParquetTableOptions):
    """Options of the export."""
