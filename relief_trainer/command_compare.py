"""The commands ``relief backtest`` and ``relief thresholds``."""

from __future__ import annotations

import click

from relief_trainer.options import ROWS, print_json, version_number, with_dsn, with_json

with_plot = click.option(
    "--plot", "plot_file", metavar="FILE", help="Draw it too: .png, .svg or .pdf; needs '.[plot]'."
)
with_max_rows = click.option("--max-rows", type=ROWS, default=20_000, show_default=True, help="Rows to draw.")


@click.command()
@click.argument("name")
@click.argument("version", callback=version_number, required=False)
@with_dsn
@with_json
@click.option("--since", metavar="TIME", help="Only rows whose time column is at or after this.")
@with_max_rows
@click.option("-k", "--alerts", "k", type=ROWS, help="Rows that somebody looks at, for precision_at_k.")
@with_plot
def backtest(
    name: str,
    version: int | None,
    dsn: str | None,
    as_json: bool,
    since: str | None,
    max_rows: int,
    k: int | None,
    plot_file: str | None,
) -> None:
    """Compare a version, the newest unless VERSION is given, with the promoted one, on rows of the table.

    \b
    Example:
      relief backtest flights
      relief backtest flights 3 --since 2013-12-01 --plot scores.png
    """
    from relief_trainer import plot
    from relief_trainer.connection import connect, require_moment
    from relief_trainer.queries import query
    from relief_trainer.show import table

    asked = {"detector": name, "version": version, "since": since, "rows": max_rows}
    with connect(dsn) as connection:
        if since is not None:
            require_moment(connection, since)
        figures = connection.execute(query("backtest", **asked, k=k)).fetchall()
        if plot_file is not None:
            compared = connection.execute(query("compared_scores", **asked)).fetchone() or {}
            plot.draw_scores(plot_file, name, compared)
    if as_json:
        told = {side: {row["figure"]: row[side] for row in figures} for side in ("candidate", "promoted")}
        print_json({"detector": name, **told})
    else:
        click.echo(table(["figure", "candidate", "promoted", "meaning"], [list(row.values()) for row in figures]))


@click.command()
@click.argument("name")
@click.argument("version", callback=version_number, required=False)
@with_dsn
@with_json
@with_max_rows
@with_plot
def thresholds(
    name: str, version: int | None, dsn: str | None, as_json: bool, max_rows: int, plot_file: str | None
) -> None:
    """Tell what each threshold would flag of labelled rows, by the promoted version unless VERSION is given.

    Nothing is changed. In SQL, relief.set_threshold makes a version with another threshold.

    \b
    Example:
      relief thresholds flights --plot thresholds.png
    """
    from relief_trainer import plot
    from relief_trainer.connection import connect
    from relief_trainer.queries import query
    from relief_trainer.show import table

    with connect(dsn) as connection:
        found = connection.execute(query("suggest_threshold", detector=name, version=version, rows=max_rows)).fetchall()
    if plot_file is not None:
        plot.draw_thresholds(plot_file, name, found)
    if as_json:
        print_json(found)
    else:
        click.echo(table(list(found[0]), [list(row.values()) for row in found]))
