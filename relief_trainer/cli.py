"""The command ``relief``: a thin skin over the library."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from relief_trainer import __version__
from relief_trainer.command_backfill import backfill
from relief_trainer.command_compare import backtest, thresholds
from relief_trainer.command_life import log, promote, retire, rollback
from relief_trainer.command_score import score
from relief_trainer.command_train import train
from relief_trainer.command_upgrade import uninstall, upgrade
from relief_trainer.command_vacuum import vacuum
from relief_trainer.command_watch import watch
from relief_trainer.command_worker import jobs, worker
from relief_trainer.errors import ReliefError
from relief_trainer.options import print_json, print_table, version_number, with_dsn, with_json


class _Group(click.Group):
    """Ends with one line and a hint where the user can mend what is wrong, without a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ReliefError as error:
            click.echo(f"error: {error}", err=True)
            if error.hint:
                click.echo(f"hint: {error.hint}", err=True)
            ctx.exit(1)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from relief_trainer.train import versions

        click.echo(" ".join(f"{name} {version}" for name, version in versions().items()))
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print versions.")
def main() -> None:
    """Anomaly detection that lives inside PostgreSQL: train isolation forests that score rows as they are written."""


@main.command()
@with_dsn
def install(dsn: str | None) -> None:
    """Install Relief in a database, as a superuser.

    \b
    Example:
      relief install --dsn postgresql://postgres@localhost/shop
    """
    from relief_trainer.connection import connect
    from relief_trainer.install import install as run

    with connect(dsn) as connection:
        checks = run(connection)
    click.echo(f"Relief {__version__} is installed")
    print_table([{"check": name, "result": result} for name, result in checks])


@main.command()
@click.argument("name")
@with_dsn
@with_json
@click.option("--full", is_flag=True, help="Make the whole profile again, from the whole table.")
def refresh(name: str, dsn: str | None, as_json: bool, full: bool) -> None:
    """Bring a detector's profile up to date: what rows of each entity and season look like.

    \b
    Example:
      relief refresh flights
    """
    from relief_trainer.connection import connect
    from relief_trainer.detector import fetch, refuse_changed_columns, refuse_foreign_superuser
    from relief_trainer.queries import query

    with connect(dsn) as connection:
        detector = fetch(connection, name)
        refuse_foreign_superuser(connection, detector.relation)
        refuse_changed_columns(connection, detector)
        row = connection.execute(query("refresh", name=name, full=full)).fetchone() or {}
        connection.commit()
    if as_json:
        print_json({"detector": name, "profiles": row["refresh_profile"]})
    else:
        click.echo(f"{name}: {row['refresh_profile']:,} profiles are up to date")


@main.command("list")
@with_dsn
@with_json
def list_detectors(dsn: str | None, as_json: bool) -> None:
    """List the detectors that you may act on.

    \b
    Example:
      relief list --json
    """
    from relief_trainer.connection import connect
    from relief_trainer.queries import query

    with connect(dsn) as connection:
        rows = connection.execute(query("detectors")).fetchall()
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("no detectors; make one: select relief.create_detector('name', 'schema.table', array['column', …]);")
    else:
        print_table(rows)


@main.command()
@click.argument("name")
@with_dsn
@with_json
def show(name: str, dsn: str | None, as_json: bool) -> None:
    """Show a detector: its features, versions, and what the promoted model was trained on.

    \b
    Example:
      relief show flights
    """
    from relief_trainer.connection import connect
    from relief_trainer.show import describe, render

    with connect(dsn) as connection:
        description = describe(connection, name)
    if as_json:
        print_json(description)
    else:
        click.echo(render(description))


@main.command()
@click.argument("name")
@click.argument("version", callback=version_number, required=False)
@with_dsn
@click.option("--json", "json_file", metavar="FILE", help="Write the model document; - is standard output.")
@click.option("--joblib", "joblib_file", metavar="FILE", help="Write a scikit-learn IsolationForest.")
def export(name: str, version: int | None, dsn: str | None, json_file: str | None, joblib_file: str | None) -> None:
    """Write a model to a file, the newest unless VERSION is given.

    \b
    Example:
      relief export flights --json flights.json
      relief export flights 2 --joblib flights.joblib
    """
    from relief_trainer import archive
    from relief_trainer.connection import connect

    if (json_file is None) == (joblib_file is None):
        raise ReliefError(
            "give one of --json and --joblib",
            f"For example: relief export {shlex.quote(name)} --json {shlex.quote(f'{name}.json')}",
        )
    with connect(dsn) as connection:
        stored = archive.fetch(connection, name, version)
    if json_file == "-":
        click.echo(archive.to_json(stored), nl=False)
        return
    if json_file:
        archive.write_file(json_file, stored)
    elif joblib_file:
        archive.to_joblib(stored, joblib_file)
    click.echo(f"{name}: version {stored.version} written to {json_file or joblib_file}")


@main.command("import")
@click.argument("file")
@with_dsn
@with_json
@click.option("--detector", metavar="NAME", help="Store it for this detector instead of the one it was exported from.")
def import_model(file: str, dsn: str | None, as_json: bool, detector: str | None) -> None:
    """Store an exported model as the next version of its detector; - reads standard input.

    \b
    Example:
      relief import flights.json --dsn postgresql://app@replica-of-shop/shop
    """
    from relief_trainer import archive
    from relief_trainer.connection import connect

    stored = archive.from_json(sys.stdin.read()) if file == "-" else archive.read_file(file)
    name = detector or stored.detector
    with connect(dsn) as connection:
        version = archive.store(connection, name, stored.document)
        connection.commit()
    if as_json:
        print_json({"detector": name, "version": version})
    else:
        click.echo(f"{name}: stored as version {version}; promote it: relief promote {shlex.quote(name)} {version}")


@main.command()
@with_dsn
@click.option("--keep", is_flag=True, help="Leave the server running.")
@click.option("--load", is_flag=True, help="Only load the flights into a database of your own, as the table flights.")
def demo(dsn: str | None, keep: bool, load: bool) -> None:
    """Show everything on 336,776 real flights, on a throwaway server.

    \b
    Example:
      relief demo --keep
      relief demo --load --dsn postgresql://app@localhost/shop
    """
    if load:
        from psycopg import errors

        from relief_trainer import flights
        from relief_trainer.connection import connect

        with connect(dsn) as connection:
            try:
                rows = flights.load(connection)
            except errors.InsufficientPrivilege as error:
                hint = f'As a superuser: grant create on schema public to "{connection.info.user}";'
                raise ReliefError(error.diag.message_primary or str(error), hint) from None
            except errors.DuplicateTable:
                raise ReliefError("there is a table flights already", "Drop it first: drop table flights;") from None
        click.echo(f"table flights has {rows:,} rows")
        return
    if dsn is not None:
        raise ReliefError("the demo runs on a server of its own", "Load its flights into yours: relief demo --load")
    from relief_trainer.demo import run

    run(keep=keep)


COMMANDS = (
    *(train, backfill, score, backtest, thresholds, upgrade, uninstall),
    *(worker, jobs, watch, promote, rollback, retire, log, vacuum),
)
for command in COMMANDS:
    main.add_command(command)
