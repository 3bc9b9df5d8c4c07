"""The commands ``relief worker`` and ``relief jobs``."""

from __future__ import annotations

import sys

import click

from relief_trainer.errors import ReliefError
from relief_trainer.options import ROWS, print_json, with_dsn, with_json


@click.command()
@with_dsn
@click.option("--once", is_flag=True, help="Work off what is due, and end; with status 1 if a job failed.")
@click.option("--json", "as_json", is_flag=True, help="Tell each event as a line of JSON.")
@click.option("--concurrency", type=click.IntRange(1, 64), default=1, show_default=True, help="Jobs at a time.")
@click.option(
    "--retry-after",
    type=click.FloatRange(0.1, 3600.0),
    default=5.0,
    show_default=True,
    help="Seconds until a job whose server was lost is tried again; each time twice as long.",
)
@click.option(
    "--stalled-after",
    type=click.FloatRange(1.0, 3600.0),
    default=30.0,
    show_default=True,
    help="Seconds without a sign of life after which another worker counts as dead.",
)
def worker(
    dsn: str | None, once: bool, as_json: bool, concurrency: int, retry_after: float, stalled_after: float
) -> None:
    """Carry out what relief.request_training and relief.schedule ask for, on tables whose owner's rights the role has.

    Workers may be several. SIGTERM lets the job that is running end.

    \b
    Example:
      relief worker --dsn postgresql://relief_worker@localhost/shop
      relief worker --once
    """
    from relief_trainer.report import Report

    try:
        from relief_trainer.worker import Options, Worker
    except ModuleNotFoundError as error:
        raise ReliefError(f"the package {error.name} is not installed", "pip install '.[worker]'") from None

    running = Worker(dsn, Options(concurrency, retry_after, stalled_after), Report(sys.stdout, as_json=as_json))
    if not once:
        running.run()
    elif not running.run_once():
        sys.exit(1)


@click.command()
@click.argument("name", required=False)
@with_dsn
@with_json
@click.option("--rows", type=ROWS, default=20, show_default=True, help="How many, the newest first.")
def jobs(name: str | None, dsn: str | None, as_json: bool, rows: int) -> None:
    """Show what was asked of the worker, of one detector or of all, and what became of it.

    \b
    Example:
      relief jobs flights --json
    """
    from relief_trainer.connection import connect
    from relief_trainer.detector import fetch
    from relief_trainer.queries import query
    from relief_trainer.show import table

    with connect(dsn) as connection:
        if name is not None:
            fetch(connection, name)
        found = connection.execute(query("jobs", detector=name, rows=rows)).fetchall()
    if as_json:
        print_json(found)
    elif not found:
        detector = "…" if name is None else name.replace("'", "''")
        click.echo(f"no jobs; ask for one: select relief.request_training('{detector}');")
    else:
        shown = ("id", "detector", "kind", "state", "requested_by", "requested_at", "attempts", "version", "promoted")
        told = [[*(job[column] for column in shown), job["error"] or job["reason"]] for job in found]
        click.echo(table([*shown, "why"], told))
