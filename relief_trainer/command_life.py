"""The commands of a model's life: ``relief promote``, ``rollback``, ``retire`` and ``log``."""

from __future__ import annotations

from typing import Any

import click

from relief_trainer.errors import ReliefError
from relief_trainer.options import Command, print_json, print_table, tell_warnings, version_number, with_dsn, with_json


def with_reason(command: Command) -> Command:
    """Add ``--reason``."""
    return click.option("--reason", metavar="TEXT", help="Why, for the log.")(command)


@click.command()
@click.argument("name")
@click.argument("version", callback=version_number, required=False)
@with_dsn
@with_json
@click.option("--force", is_flag=True, help="Promote it though it fails its check; the log says so.")
@with_reason
def promote(name: str, version: int | None, dsn: str | None, as_json: bool, force: bool, reason: str | None) -> None:
    """Make a version the one that scores, the newest that isn't retired unless VERSION is given.

    \b
    Example:
      relief promote flights 2
      relief promote flights 1 --force --reason "made by hand"
    """
    promoted = _run("promote", dsn, detector=name, version=version, force=force, reason=reason)
    _tell({"detector": name, "version": promoted}, f"{name}: version {promoted} is promoted", as_json)


@click.command()
@click.argument("name")
@with_dsn
@with_json
@with_reason
def rollback(name: str, dsn: str | None, as_json: bool, reason: str | None) -> None:
    """Retire the promoted version and go back to the one promoted before it.

    \b
    Example:
      relief rollback flights --reason "too many alarms"
    """
    promoted = _run("rollback", dsn, detector=name, reason=reason)
    _tell({"detector": name, "version": promoted}, f"{name}: version {promoted} is promoted again", as_json)


@click.command()
@click.argument("name")
@click.argument("version", callback=version_number)
@with_dsn
@with_json
@with_reason
def retire(name: str, version: int, dsn: str | None, as_json: bool, reason: str | None) -> None:
    """Put a version out of service: neither promote nor rollback takes it.

    \b
    Example:
      relief retire flights 3 --reason "trained on a bad day"
    """
    _run("retire", dsn, detector=name, version=version, reason=reason)
    _tell({"detector": name, "version": version}, f"{name}: version {version} is retired", as_json)


@click.command()
@click.argument("name")
@with_dsn
@with_json
def log(name: str, dsn: str | None, as_json: bool) -> None:
    """Show what was done to a detector, by whom, when and why; the newest last.

    \b
    Example:
      relief log flights
    """
    from relief_trainer.connection import connect
    from relief_trainer.queries import query

    with connect(dsn) as connection:
        entries = connection.execute(query("log", detector=name)).fetchall()
    if not entries:
        raise ReliefError(f'nothing is logged of a detector "{name}"', "List the detectors: relief list")
    if as_json:
        print_json(entries)
    else:
        print_table([{**entry, "happened_at": f"{entry['happened_at']:%Y-%m-%d %H:%M:%S%z}"} for entry in entries])


def _run(verb: str, dsn: str | None, **arguments: Any) -> Any:
    """Run a query of that name, commit, and return the one value that it gives."""
    from relief_trainer.connection import connect
    from relief_trainer.queries import query

    with connect(dsn) as connection:
        tell_warnings(connection)
        row = connection.execute(query(verb, **arguments)).fetchone() or {}
        connection.commit()
    return row[verb]


def _tell(result: dict[str, Any], sentence: str, as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        click.echo(sentence)
