"""`vstorage migrate`: what differs between models and database, and adding what is missing."""

from __future__ import annotations

from typing import Any

import click


@click.command("migrate")
@click.option("--plan", "only_plan", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--app",
    metavar="MODULE[:NAME]",
    envvar="VSTORAGE_APP",
    required=True,
    help="Where your models and accessors are.  [env var: VSTORAGE_APP]",
)
@click.option(
    "--url",
    metavar="URL",
    help="The database.  [default: the one that --app opens, $VSTORAGE_DATABASE_URL, or sqlite:///./storage.db]",
)
@click.pass_obj
def migrate_command(context: Any, only_plan: bool, app: str, url: str | None) -> None:
    """Add to the database what the models have and it has not.

    New tables, new columns that are optional or have a default, and new indexes are added, all or none. Where
    anything else differs nothing is changed: it is listed, with the Alembic command that drafts the change, and
    the exit code is 1.
    """
    # Here: all other commands would wait for Alembic too.
    from vstorage_migrate.migration import migrate
    from vstorage_migrate.planning import plan

    with context.open_storage(url, app) as storage:
        if only_plan:
            found = plan(storage)
            click.echo(str(found))
            if found.is_refused:
                raise click.exceptions.Exit(1)
            return
        done = migrate(storage)
    if done.plan.is_empty:
        click.echo(str(done.plan))
    for step in done.plan.steps:
        click.echo(f"{step.table}: added {step.what}")
    if done.copy is not None:
        click.echo(f"The database as it was before is in {done.copy}")
