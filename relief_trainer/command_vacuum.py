"""The command ``relief vacuum``."""

from __future__ import annotations

from typing import Any

import click

from relief_trainer.options import ROWS, print_json, print_table, tell_warnings, with_dsn, with_json


@click.command()
@click.argument("name", required=False)
@with_dsn
@with_json
@click.option(
    "--max-rows",
    type=ROWS,
    default=100_000,
    show_default=True,
    help="Rows of each kind in one transaction; it goes on until nothing is past its limit.",
)
def vacuum(name: str | None, dsn: str | None, as_json: bool, max_rows: int) -> None:
    """Drop what is past its limit, of one detector or of all, and tell how much there was and is.

    The limits are those of relief.set_retention.

    \b
    Example:
      relief vacuum flights
      relief vacuum --json
    """
    from relief_trainer.connection import connect
    from relief_trainer.queries import query

    told: dict[tuple[str, str], dict[str, Any]] = {}
    with connect(dsn) as connection:
        tell_warnings(connection)
        goes_on = True
        while goes_on:
            rows = connection.execute(query("vacuum", detector=name, max_rows=max_rows)).fetchall()
            connection.commit()
            for row in rows:
                before = told.get((row["name"], row["what"]), {"dropped": 0})
                told[row["name"], row["what"]] = row | {"dropped": before["dropped"] + row["dropped"]}
            # Less than was allowed is all that there was.
            goes_on = any(row["dropped"] >= max_rows for row in rows)
    if as_json:
        print_json(list(told.values()))
    elif told:
        print_table(list(told.values()))
    else:
        click.echo("no detectors, and nothing left by any")
