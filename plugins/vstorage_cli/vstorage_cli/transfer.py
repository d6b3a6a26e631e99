"""`vstorage export` and `vstorage import`: one command per exporter and importer of the installed plugins."""

from __future__ import annotations

import getpass
import json
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePath
from shutil import copyfileobj
from typing import Any, BinaryIO
from urllib.parse import quote

import click
from pydantic import BaseModel

from vstorage_cli.context import CommandContext, FunctionT, database_file, database_options
from vstorage_cli.flags import OptionFlags
from vstorage_cli.progress import ProgressBar
from vstorage_cli.text import lines_of
from vstorage_core import Exporter, Importer, ImportRefused, Storage, acting_as

_EXPORT_FLAGS = frozenset({"app", "force", "help", "quiet", "table", "url"})
_IMPORT_FLAGS = frozenset({"actor", "app", "create", "help", "json", "quiet", "url"})


def _silence(_ctx: click.Context, _parameter: click.Parameter, quiet: bool) -> bool:
    for handler in logging.getLogger("vstorage").handlers if quiet else ():
        handler.setLevel(logging.ERROR)
    return quiet


quiet_option = click.option(
    "-q", "--quiet", is_flag=True, callback=_silence, help="Print nothing but errors; no progress bar."
)


def report_options(function: FunctionT) -> FunctionT:
    """Give a command that imports the options `--actor` and `--json`, as arguments `actor` and `as_json`."""
    actor = click.option("--actor", help="Who does it, for the audit trail.  [default: your login name]")
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
    return actor(as_json(function))


def acting(actor: str | None) -> AbstractContextManager[None]:
    """Write the block's changes to the audit trail as of `actor` or else of whoever is logged in."""
    return acting_as(_login_name() if actor is None else actor, actor_source="login" if actor is None else "option")


def print_report(report: BaseModel, *, as_json: bool, quiet: bool) -> None:
    """Print what an importer has to tell."""
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    elif not quiet:
        click.echo("\n".join(lines_of(report.model_dump(mode="json"))))


class _ContributedGroup(click.Group):
    """A group whose commands come from plugins."""

    kind = ""

    def provided(self, context: CommandContext) -> Mapping[str, Any]:
        """What there is a command for, by name."""
        raise NotImplementedError

    def build(self, contribution: Any) -> click.Command:
        """The command for it."""
        raise NotImplementedError

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.provided(ctx.obj))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        contribution = self.provided(ctx.obj).get(cmd_name)
        return None if contribution is None else self.build(contribution)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        is_known = args[0].startswith("-") or args[0] in self.provided(ctx.obj)
        # In a shell's completion nobody reads an error.
        if not is_known and not ctx.resilient_parsing:
            known = ", ".join(self.list_commands(ctx)) or "none; install a plugin that brings one"
            problem = f"There is no {self.kind} '{args[0]}'. Installed: {known}"
            ctx.fail("\n".join([problem, *ctx.obj.catalogue.broken]))
        return super().resolve_command(ctx, args)


class ExportGroup(_ContributedGroup):
    """`vstorage export NAME`."""

    kind = "exporter"

    def provided(self, context: CommandContext) -> Mapping[str, Exporter]:
        """The exporters."""
        return context.catalogue.exporters

    def build(self, contribution: Exporter) -> click.Command:
        """The command of one exporter."""
        return _export_command(contribution)


class ImportGroup(_ContributedGroup):
    """`vstorage import NAME`."""

    kind = "importer"

    def provided(self, context: CommandContext) -> Mapping[str, Importer]:
        """The importers."""
        return context.catalogue.importers

    def build(self, contribution: Importer) -> click.Command:
        """The command of one importer."""
        return _import_command(contribution)


@click.group("export", cls=ExportGroup)
def export_group() -> None:
    """Write the database to a file with one of the installed exporters.

    See the options of one with: vstorage export NAME --help
    """


@click.group("import", cls=ImportGroup)
def import_group() -> None:
    """Read a file into the database with one of the installed importers.

    See the options of one with: vstorage import NAME --help
    """


def _export_command(exporter: Exporter) -> click.Command:
    flags = OptionFlags(exporter.options, exporter.name, _EXPORT_FLAGS)

    @click.command(
        exporter.name,
        short_help=exporter.summary,
        help=f"{exporter.summary or f'Export {exporter.name}'}.\n\nOUTPUT is a file, a folder to put"
        f" {exporter.filename} in, or - for standard output.  [default: {exporter.filename}]",
    )
    @click.argument("output", required=False, metavar="[OUTPUT|-]")
    @click.option("--force", is_flag=True, help="Replace OUTPUT where it exists, once the new file is complete.")
    @database_options
    @quiet_option
    @click.pass_obj
    def command(
        context: CommandContext,
        /,
        output: str | None,
        force: bool,
        url: str | None,
        app: str | None,
        quiet: bool,
        table: str | None = None,
        **values: Any,
    ) -> None:
        options = flags.parse(values)
        filename = exporter.filename
        if exporter.table is not None and table is not None:
            filename = f"{quote(table, safe='')}{PurePath(exporter.table.filename).suffix}"
        path = None if output == "-" else _target(output or filename, filename, force=force)
        with context.open_storage(url, app) as storage:
            if not storage.tables():
                click.echo(f"Warning: {storage.url} has no tables to export", err=True)
            if path is not None:
                _refuse_database(storage, path)
            with ProgressBar(quiet=quiet) as bar, _sink(path) as target:
                storage.export(exporter.name, target, table=table, progress=bar, **options)
        if path is not None and not quiet:
            click.echo(f"Wrote {path} ({path.stat().st_size:,} bytes)", err=True)

    command.params[1:1] = flags.parameters
    if exporter.table is not None:
        text = f"Write this table alone, by default to TABLE{PurePath(exporter.table.filename).suffix}."
        command.params.insert(1, click.Option(["--table"], metavar="TABLE", help=text))
    return command


def _target(output: str, filename: str, *, force: bool) -> Path:
    path = Path(output)
    if path.is_dir():
        path = path / filename
    if path.is_file() and not force:
        raise click.ClickException(f"{path} exists. Replace it with --force, or name another file.")
    if not path.parent.is_dir():
        raise click.ClickException(f"There is no folder {path.parent}.")
    return path


def _refuse_database(storage: Storage, path: Path) -> None:
    database = database_file(storage)
    if database is not None and path.exists() and path.samefile(database):
        raise click.ClickException(f"{path} is the database itself.")


@contextmanager
def _sink(path: Path | None) -> Iterator[str | Path | BinaryIO]:
    if path is None:
        stream = sys.stdout.buffer
        yield stream
        stream.flush()
    elif path.exists() and not path.is_file():
        # A device or pipe is written to, never replaced.
        with path.open("wb") as stream:
            yield stream
    else:
        # Through a symbolic link the file is replaced, not the link.
        yield path.resolve()


def _import_command(importer: Importer) -> click.Command:
    flags = OptionFlags(importer.options, importer.name, _IMPORT_FLAGS)

    @click.command(
        importer.name,
        short_help=importer.summary,
        help=f"{importer.summary or f'Import {importer.name}'}.\n\nFILE is a file, or - for standard input.",
    )
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), metavar="FILE|-")
    @click.option("--create", is_flag=True, help="Create the database and its tables where they are missing.")
    @report_options
    @database_options
    @quiet_option
    @click.pass_obj
    def command(
        context: CommandContext,
        /,
        file: str,
        actor: str | None,
        create: bool,
        as_json: bool,
        url: str | None,
        app: str | None,
        quiet: bool,
        **values: Any,
    ) -> None:
        options = flags.parse(values)
        try:
            with (
                context.open_storage(url, app, create=create) as storage,
                acting(actor),
                ProgressBar(quiet=quiet) as bar,
                _source(file) as stream,
            ):
                report = storage.import_(importer.name, stream, progress=bar, **options)
        except ImportRefused as refusal:
            if as_json:
                click.echo(json.dumps({"error": str(refusal), "details": refusal.details}, indent=2, default=str))
            hint = "" if app else "\nWithout --app no models are known, which some importers need."
            raise ImportRefused(f"{refusal}{hint}", refusal.details) from refusal
        print_report(report, as_json=as_json, quiet=quiet)

    command.params[1:1] = flags.parameters
    return command


def _login_name() -> str | None:
    try:
        return getpass.getuser()
    # No such user in a container: the error differs from Python to Python.
    except (ImportError, KeyError, OSError):
        return None


@contextmanager
def _source(file: str) -> Iterator[BinaryIO]:
    with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as stream:
        if stream.seekable():
            yield stream
            return
        # A pipe, with a name or without.
        with tempfile.TemporaryFile() as spool:
            copyfileobj(stream, spool)
            spool.seek(0)
            yield spool
