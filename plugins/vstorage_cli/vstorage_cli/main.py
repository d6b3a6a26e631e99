"""The `vstorage` command: its commands, and how it fails."""

from __future__ import annotations

import errno
import logging
import signal
import traceback
from typing import Any

import click
from sqlalchemy.exc import OperationalError

from vstorage_cli.check import check
from vstorage_cli.context import CommandContext
from vstorage_cli.copy import copy
from vstorage_cli.listing import plugins
from vstorage_cli.text import table
from vstorage_cli.transfer import export_group, import_group
from vstorage_core import ConfigurationError, ImportRefused, StorageError, StorageUnavailable, __version__

_SHOWN_DETAILS = 20


class _Root(click.Group):
    """The own commands and those that plugins contribute."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        extra.setdefault("obj", CommandContext())
        return super().make_context(info_name, args, parent, **extra)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*self.commands, *ctx.obj.catalogue.commands])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # Own ones first: they must work, and quickly, whatever is installed.
        return self.commands.get(cmd_name) or ctx.obj.catalogue.commands.get(cmd_name)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        for problem in ctx.obj.catalogue.broken:
            formatter.write_paragraph()
            formatter.write_text(f"BROKEN: {problem}")

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        # Whatever goes wrong in a plugin or a database, its user gets a sentence.
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            message, exit_code = _explain(error)
            click.echo(f"Error: {message}", err=True)
            ctx.exit(exit_code)


def _explain(error: Exception) -> tuple[str, int]:
    """What to say about it, and the exit code."""
    if isinstance(error, ImportRefused):
        lines = [str(error), *table(error.details[:_SHOWN_DETAILS])]
        if len(error.details) > _SHOWN_DETAILS:
            lines.append(f"... and {len(error.details) - _SHOWN_DETAILS} more; --json prints all")
        return "\n".join(lines), 1
    if isinstance(error, StorageUnavailable):
        cause = str(error.__cause__ or "").partition("\n")[0]
        return f"{error} ({cause})" if cause else str(error), 3
    if isinstance(error, ConfigurationError):
        return str(error), 2
    if isinstance(error, StorageError):
        return str(error), 1
    if isinstance(error, OperationalError):
        return (
            f"the database cannot be used ({error.orig.args[-1] if error.orig and error.orig.args else error.orig})",
            3,
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 1
    first_line = str(error).partition("\n")[0]
    return f"failed with {type(error).__name__}: {first_line}\n`vstorage --debug ...` shows where", 1


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="vstorage %(version)s")
@click.option(
    "--debug", is_flag=True, envvar="VSTORAGE_DEBUG", help="Show tracebacks of errors.  [env var: VSTORAGE_DEBUG]"
)
def vstorage(debug: bool) -> None:
    """Work with the database of a machine: export, import, copy, check, serve.

    \b
    Exit codes:
      0    done
      1    failed or refused: a check found problems, a file cannot be imported
      2    wrong command line or set-up: an option, a URL, --app, a broken plugin
      3    the database cannot be used now: missing, locked, full, unreachable
      130  interrupted
    """


for command in (check, copy, export_group, import_group, plugins):
    vstorage.add_command(command)


class _OneLine(logging.Formatter):
    """A log record without its traceback."""

    def formatException(self, ei: Any) -> str:
        return f"  {ei[0].__name__}: {ei[1]}"


def main() -> None:
    """Run the command line of this process."""
    # As Ctrl-C, so that a stopped export removes what it began and `serve` closes its database.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(levelname)s: %(message)s"))
    logging.getLogger("vstorage").addHandler(handler)
    vstorage(prog_name="vstorage")
