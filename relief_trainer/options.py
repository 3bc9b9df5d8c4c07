"""Options that several commands of ``relief`` have, and how they print."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relief_trainer.errors import ReliefError

if TYPE_CHECKING:
    from psycopg.errors import Diagnostic

    from relief_trainer.connection import Connection

Command = TypeVar("Command", bound=Callable[..., Any])


# How many rows: what the server takes for a number of them.
ROWS = click.IntRange(1, 2**31 - 1)


def with_dsn(command: Command) -> Command:
    """Add ``--dsn``."""
    return click.option(
        "--dsn", metavar="DSN", help="Connection string or URI; what it leaves out comes from the PG* environment."
    )(command)


def with_json(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def split_columns(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """Return the names of an option's columns, separated by commas; one that holds a comma stands in double quotes."""
    if value is None:
        return None
    names = next(csv.reader([value], skipinitialspace=True), [])
    if not all(names):
        raise click.BadParameter("a column's name is empty", ctx, param)
    return names


def version_number(ctx: click.Context, _: click.Parameter, value: str | None) -> int | None:
    """Return the number of a model's version; whatever is none is told with where to find them."""
    if value is None:
        return None
    if value.isascii() and value.isdigit() and 0 < int(value) < 2**31:
        return int(value)
    raise ReliefError(
        f'"{value}" is no version of a model', f"List the versions: relief show {shlex.quote(ctx.params['name'])}"
    )


def tell_warnings(connection: Connection) -> None:
    """Print what the server warns of on a connection, with its hints, beside the command's result."""

    def tell(notice: Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            click.echo(f"warning: {notice.message_primary}", err=True)
            if notice.message_hint:
                click.echo(f"hint: {notice.message_hint}", err=True)

    connection.add_notice_handler(tell)


def print_json(value: Any) -> None:
    """Print a value as JSON that can be piped."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows under their names, aligned."""
    from relief_trainer.show import table

    click.echo(table(list(rows[0]), [list(row.values()) for row in rows]))
