"""The command ``relief score``."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from relief_trainer.options import ROWS, print_json, split_columns, with_dsn, with_json


@click.command()
@click.option("--source", "uri", metavar="URI", required=True, help="The file or database whose rows to score.")
@click.option("--model", "named", metavar="FILE|NAME", required=True, help="A model's file, or a detector's name.")
@click.option("--out", metavar="FILE", required=True, help="Where to: .parquet, .csv or .jsonl.")
@click.option("--keep", callback=split_columns, metavar="COLUMNS", help="Columns to copy; by default the source's key.")
@click.option("--batch-rows", type=ROWS, default=10_000, show_default=True, help="Rows that are read at a time.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Threads that score; by default one a core.")
@with_dsn
@with_json
def score(
    uri: str,
    named: str,
    out: str,
    keep: list[str] | None,
    batch_rows: int,
    jobs: int | None,
    dsn: str | None,
    as_json: bool,
) -> None:
    """Score the rows of a file or database outside PostgreSQL, as the server would, and write the scores to a file.

    The source's columns are called as the model's features and hold their values. --dsn is for a model by its NAME.

    \b
    Example:
      relief score --source flights.parquet --model flights.json --out scores.parquet
      relief score --source 'mysql://app:${PASSWORD}@host/shop?table=orders' --model orders --out scores.csv
    """
    from relief_trainer.connection import connect
    from relief_trainer.progress import Progress
    from relief_trainer.scoring import find_model
    from relief_trainer.scoring import score as run
    from relief_trainer.sources import open_source

    model = find_model(named, lambda: connect(dsn))
    with open_source(uri) as source, Progress.shown() as progress:
        cores = os.cpu_count() or 1
        scored = run(source, model, out, keep=keep, batch_rows=batch_rows, jobs=jobs or cores, progress=progress)
    if not scored.rows:
        click.echo(f"warning: {scored.source} has no rows", err=True)
    if as_json:
        print_json(asdict(scored))
        return
    unscored = f", {scored.unscored:,} without any feature not scored" if scored.unscored else ""
    click.echo(
        f"{out}: {scored.rows:,} rows, {scored.anomalies:,} anomalies from score {scored.threshold:.4f} on{unscored}"
    )
