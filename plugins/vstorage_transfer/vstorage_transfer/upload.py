"""What was uploaded: a zip of files or one file, looked at from all sides before a row of it is read."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vstorage_core import ImportRefused, Storage
from vstorage_transfer.archive import FORMAT_VERSION, MANIFEST, Manifest

if TYPE_CHECKING:
    from vstorage_transfer.formats import FileFormat

_ENCRYPTED = 0x1
_MAX_MEMBERS = 10_000
_MAX_MANIFEST_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class ImportSettings(BaseModel):
    """What may be imported; a file format's own settings inherit it.

    Attributes:
        max_import_bytes: Most bytes that an upload may have when it is unpacked.
    """

    model_config = ConfigDict(extra="forbid")

    max_import_bytes: int = Field(default=1024**3, gt=0)


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One file of an upload.

    Attributes:
        name: As the user knows it.
        table: Name of the table that it is of, as far as its name or the manifest tells.
        rows: How many rows it has, or None when nobody knows.
        open: Gives its bytes from the start.
        settings: Of the format.
    """

    name: str
    table: str | None
    rows: int | None
    open: Callable[[], AbstractContextManager[BinaryIO]]
    settings: Any


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What was uploaded.

    Attributes:
        manifest: Of the archive, or None without one.
        files: Of which each is of one table.
    """

    manifest: Manifest | None
    files: list[UploadedFile]


@contextmanager
def open_upload(storage: Storage, stream: BinaryIO, file_format: FileFormat, *, edited: bool) -> Iterator[Upload]:
    """The files in `stream`, which is a zip of files of this format or such a file.

    Args:
        storage: For its settings.
        stream: Seekable.
        file_format: Of the files.
        edited: Whether the files may differ from the manifest.

    Raises:
        ImportRefused: It is neither, damaged, too large, or not what its manifest says.
    """
    settings = storage.settings(file_format.name, file_format.settings)
    if not hasattr(stream, "seekable"):
        # Python 3.10's SpooledTemporaryFile, in which uploads arrive, can seek but does not say so; zipfile asks.
        stream.seekable = lambda: True  # type: ignore[method-assign]
    stream.seek(0)
    is_zip = stream.read(2) == b"PK"
    stream.seek(0, io.SEEK_END)
    size = stream.tell()
    stream.seek(0)
    if not is_zip:
        _refuse_size(size, settings, file_format)
        yield Upload(manifest=None, files=[_single(stream, settings, file_format)])
        return
    try:
        archive = zipfile.ZipFile(stream)
        upload = _contents(archive, settings, file_format, edited)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ImportRefused(f"the zip file is damaged or incomplete ({error}); export or upload it again") from error
    with archive:
        yield upload


def _refuse_size(size: int, settings: ImportSettings, file_format: FileFormat) -> None:
    if size > settings.max_import_bytes:
        raise ImportRefused(
            f"the file has {size:,} bytes when it is unpacked; the setting {file_format.name}.max_import_bytes allows"
            f" {settings.max_import_bytes:,}"
        )


def _single(stream: BinaryIO, settings: ImportSettings, file_format: FileFormat) -> UploadedFile:
    path = getattr(stream, "name", None)
    name = PurePath(path).name if isinstance(path, str) else "the file"

    def open_() -> AbstractContextManager[BinaryIO]:
        stream.seek(0)
        return nullcontext(stream)

    return UploadedFile(name=name, table=file_format.table_name(name), rows=None, open=open_, settings=settings)


def _contents(archive: zipfile.ZipFile, settings: ImportSettings, file_format: FileFormat, edited: bool) -> Upload:
    title = file_format.title
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise ImportRefused("the zip file has two members of the same name")
    if len(members) > _MAX_MEMBERS:
        raise ImportRefused(f"the zip file has {len(members):,} members; no export has more than {_MAX_MEMBERS:,}")
    for name, member in members.items():
        if not name or any(part in name for part in "/\\:\0") or name.startswith("."):
            raise ImportRefused(
                f"the zip file has a member {name!r}; pack the {title} files themselves, without a folder"
            )
        if name != MANIFEST and file_format.table_name(name) is None:
            raise ImportRefused(f"the zip file has a member {name!r} that is no {title} file")
        if member.flag_bits & _ENCRYPTED:
            raise ImportRefused(f"{name} is encrypted; pack it without a password")
        # The others unpack a block at once, however large it becomes.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImportRefused(f"{name} is packed in an unusual way; use the plain zip format (deflate)")
    _refuse_size(sum(member.file_size for member in members.values()), settings, file_format)
    digests = {name: _digest(archive, name) for name in members if name != MANIFEST}
    if not digests:
        raise ImportRefused(f"the zip file has no {title} file in it")
    manifest = _manifest(archive, file_format) if MANIFEST in members else None
    if manifest is not None and not edited:
        _compare(manifest, digests)
    listed = {} if manifest is None else {table.file: table for table in manifest.tables}

    def file(name: str) -> UploadedFile:
        table = listed.get(name)
        return UploadedFile(
            name=name,
            table=file_format.table_name(name) if table is None else table.name,
            rows=None if table is None or edited else table.rows,
            # A zip member reads single lines slowly.
            open=lambda: io.BufferedReader(archive.open(name), _CHUNK_BYTES),  # type: ignore[type-var]
            settings=settings,
        )

    return Upload(manifest=manifest, files=[file(name) for name in digests])


def _digest(archive: zipfile.ZipFile, name: str) -> str:
    digest = hashlib.sha256()
    # Reading to the end also compares the checksum of the zip file.
    with archive.open(name) as member:
        while chunk := member.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _manifest(archive: zipfile.ZipFile, file_format: FileFormat) -> Manifest:
    if archive.getinfo(MANIFEST).file_size > _MAX_MANIFEST_BYTES:
        raise ImportRefused(f"{MANIFEST} has more than {_MAX_MANIFEST_BYTES:,} bytes")
    text = archive.read(MANIFEST)
    _refuse_other_format(text, file_format)
    try:
        manifest = file_format.manifest.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ImportRefused(
            f"{MANIFEST} is not one of {file_format.manifest_name}: {where}: {problem['msg']}"
        ) from None
    if manifest.format_version > FORMAT_VERSION:
        raise ImportRefused(
            f"the file was made by vstorage {manifest.vstorage_version} in the newer format {manifest.format_version};"
            f" upgrade {file_format.manifest_name} to import it"
        )
    return manifest


def _refuse_other_format(text: bytes, file_format: FileFormat) -> None:
    try:
        found = json.loads(text)["format"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return
    if isinstance(found, str) and found != file_format.manifest_name:
        raise ImportRefused(
            f"{MANIFEST} says that the file is of {found[:100]!r}; import it as {found[:100].removeprefix('vstorage-')}"
        )


def _compare(manifest: Manifest, digests: dict[str, str]) -> None:
    listed = {table.file: table.sha256 for table in manifest.tables}
    different = sorted(name for name in listed.keys() | digests.keys() if listed.get(name) != digests.get(name))
    if different:
        raise ImportRefused(
            f"{MANIFEST} does not match {', '.join(different)}: changed, added or missing since the export."
            " If you edited the files, say so with edited=true"
        )
