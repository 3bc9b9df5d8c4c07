"""The command ``relief backfill``."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from relief_trainer.options import ROWS, print_json, with_dsn, with_json


@click.command()
@click.argument("name")
@click.option(
    "--jobs", type=click.IntRange(1), metavar="N", help="Connections at once; by default one a core of this machine."
)
@click.option("--batch-rows", type=ROWS, default=10_000, show_default=True, help="Rows a transaction.")
@with_dsn
@with_json
def backfill(name: str, jobs: int | None, batch_rows: int, dsn: str | None, as_json: bool) -> None:
    """Score the rows that were there before, over several connections at once.

    The detector must be attached. Stopped, it goes on where it was when called again.

    \b
    Example:
      relief backfill flights --jobs 4
    """
    from relief_trainer.backfill import backfill as run
    from relief_trainer.progress import Progress

    with Progress.shown() as progress:
        done = run(dsn, name, jobs=jobs or os.cpu_count() or 1, batch_rows=batch_rows, progress=progress)
    if as_json:
        print_json(asdict(done))
    else:
        click.echo(f"{name}: {done.rows:,} rows scored")
    if done.failed:
        click.echo(f"warning: {done.failed:,} rows could not be scored; their relief_deviation says why", err=True)
