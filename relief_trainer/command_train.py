"""The command ``relief train``."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click
from relief_runtime.document import LIMITS

from relief_trainer.errors import ReliefError
from relief_trainer.options import ROWS, print_json, split_columns, with_dsn, with_json

if TYPE_CHECKING:
    from relief_trainer.connection import Connection
    from relief_trainer.progress import Progress
    from relief_trainer.retraining import Decision
    from relief_trainer.train import Trained


@click.command()
@click.argument("name")
@with_dsn
@with_json
@click.option("--promote", is_flag=True, help="Promote the model once it is stored.")
@click.option("--promote-if-better", is_flag=True, help="Promote it if it compares well with the promoted one.")
@click.option("--if-drifted", is_flag=True, help="Train only if a feature has drifted; see relief.drift.")
@click.option("--max-age", metavar="INTERVAL", help="Train only if no model is as young, such as 30d; or if drifted.")
@click.option(
    "--trees", type=click.IntRange(1, LIMITS["trees"]), default=100, show_default=True, help="Trees of the forest."
)
@click.option("--samples", type=click.IntRange(2), default=256, show_default=True, help="Rows each tree is grown on.")
@click.option(
    "--max-features",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the features each tree is grown on.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Repeats a training.")
@click.option(
    "--contamination",
    type=click.FloatRange(0.0, 0.5, min_open=True),
    help="Share of rows to flag, instead of the detector's own.",
)
@click.option("--jobs", type=click.IntRange(-1), default=1, show_default=True, help="Processes; -1 takes all cores.")
@click.option(
    "--sample-rows", type=click.IntRange(10, ROWS.max), default=100_000, show_default=True, help="Rows to draw."
)
@click.option("--where", metavar="SQL", help="Draw only rows for which this condition holds.")
@click.option("--since", metavar="TIME", help="Draw only rows whose time column is at or after this.")
@click.option("--source", "uri", metavar="URI", help="Train on this file or database: its columns are the features.")
@click.option(
    "--features", callback=split_columns, metavar="COLUMNS", help="With --source and --out: needs no database."
)
@click.option("--categories", callback=split_columns, metavar="COLUMNS", help="Those of --features that hold texts.")
@click.option("--out", metavar="FILE", help="With --source and --features: write the model to this file.")
def train(
    name: str,
    dsn: str | None,
    as_json: bool,
    promote: bool,
    promote_if_better: bool,
    if_drifted: bool,
    max_age: str | None,
    trees: int,
    samples: int,
    max_features: float,
    seed: int,
    contamination: float | None,
    jobs: int,
    sample_rows: int,
    where: str | None,
    since: str | None,
    uri: str | None,
    features: list[str] | None,
    categories: list[str] | None,
    out: str | None,
) -> None:
    """Fit a forest on a sample of the detector's table and store it as the next version.

    Before it is stored, the model is compared with scikit-learn, leaf by leaf.

    \b
    Example:
      relief train flights --dsn postgresql://app@localhost/shop --promote
      relief train flights --since 2013-06-01 --where "carrier <> 'HA'" --trees 200
      relief train flights --if-drifted --max-age 30d --promote-if-better
      relief train flights --source flights.parquet --promote
      relief train flights --source flights.parquet --features dep_delay,air_time --out flights.json
    """
    from relief_runtime.document import checksum

    from relief_trainer import archive
    from relief_trainer.archive import Stored
    from relief_trainer.connection import connect
    from relief_trainer.progress import Progress
    from relief_trainer.sample import Request
    from relief_trainer.source_training import column_features, train_document
    from relief_trainer.sources import open_source
    from relief_trainer.train import Settings
    from relief_trainer.train import train as run

    settings = Settings(
        trees=trees,
        samples=samples,
        max_features=max_features,
        seed=seed,
        contamination=contamination,
        jobs=jobs,
        request=Request(rows=sample_rows, where=where, since=since, seed=seed),
    )
    if promote and promote_if_better:
        raise ReliefError("--promote and --promote-if-better are two things", "Give one of them.")
    if categories is not None and features is None:
        raise ReliefError("--categories are some of --features", "A detector knows its own: relief.create_detector.")
    if uri is None:
        _refuse_without_source(name, features, out)
    else:
        _refuse_with_source(
            name,
            features,
            out,
            condition=where or since,
            promote=promote or promote_if_better,
            age=if_drifted or max_age is not None,
        )
    judged = None
    steps = (6 if out is None else 4) + promote + promote_if_better
    with contextlib.ExitStack() as held, Progress.shown(total=steps) as progress:
        source = held.enter_context(open_source(uri)) if uri is not None else None
        if source is not None and features is not None and out is not None:
            document, trained = train_document(
                source, name, column_features(features, categories or []), settings, progress
            )
            archive.write_file(out, Stored(name, 0, document, checksum(document)))
        else:
            connection = held.enter_context(connect(dsn))
            if (if_drifted or max_age is not None) and _is_skipped(
                connection, name, if_drifted, max_age, as_json=as_json
            ):
                return
            trained = run(connection, name, settings, promote=promote, source=source, progress=progress)
            if promote_if_better:
                judged, trained = _judge(connection, trained, progress)
    for warning in trained.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        print_json(asdict(trained) | ({"reason": judged.reason} if judged else {}))
    else:
        _tell(trained, judged, out)


def _is_skipped(connection: Connection, name: str, if_drifted: bool, max_age: str | None, *, as_json: bool) -> bool:
    """Return whether neither drift nor age asks for a training, and tell so."""
    from relief_trainer import retraining
    from relief_trainer.connection import require_age

    if max_age is not None:
        require_age(connection, max_age)
    decision = retraining.consider(connection, name, if_drifted=if_drifted, max_age=max_age)
    if decision.yes:
        return False
    connection.commit()
    if as_json:
        print_json({"detector": name, "version": None, "reason": decision.reason})
    else:
        click.echo(f"{name}: not trained: {decision.reason}")
    return True


def _judge(connection: Connection, trained: Trained, progress: Progress) -> tuple[Decision, Trained]:
    """Promote what was trained if it is better than what is promoted."""
    from relief_trainer import retraining

    with progress.step(f"comparing version {trained.version} with the promoted one"):
        judged = retraining.promote_if_better(connection, trained.detector, trained.version)
        connection.commit()
    return judged, replace(trained, promoted=judged.yes)


def _tell(trained: Trained, judged: Decision | None, out: str | None) -> None:
    name = trained.detector
    about = "" if trained.table_rows_counted else "about "
    model = f"version {trained.version}" if out is None else f"model {out}"
    click.echo(
        f"{name}: {model} trained on {trained.rows:,} rows of {about}{trained.table_rows:,}; "
        f"a row is an anomaly from score {trained.threshold:.4f} on ({trained.threshold_origin})"
    )
    if out is not None:
        click.echo(f"store it: relief import {shlex.quote(out)}")
        return
    if judged:
        click.echo(f"{'promoted' if judged.yes else 'not promoted'}: {judged.reason}")
    if not trained.promoted:
        click.echo(f"promote it: relief promote {shlex.quote(name)} {trained.version}")


def _refuse_without_source(name: str, features: list[str] | None, out: str | None) -> None:
    if features is not None:
        raise ReliefError("--features is for training on a --source", "A detector has its own: relief.create_detector.")
    if out is not None:
        raise ReliefError(
            "--out is for training on a --source",
            f"Train, then: relief export {shlex.quote(name)} --json {shlex.quote(f'{name}.json')}",
        )


def _refuse_with_source(
    name: str,
    features: list[str] | None,
    out: str | None,
    *,
    condition: str | None,
    promote: bool,
    age: bool,
) -> None:
    if (features is None) != (out is None):
        raise ReliefError(
            "--features and --out go together: they train without a database",
            f"Give both, or neither to store the model for detector {name}.",
        )
    if condition is not None:
        raise ReliefError("--where and --since are for the detector's own table", "Give a view or file of those rows.")
    if promote and out is not None:
        raise ReliefError("--promote is for a model in the database", f"First: relief import {shlex.quote(out)}")
    if age and out is not None:
        raise ReliefError("--if-drifted and --max-age are for a detector in the database", "Leave them out.")
