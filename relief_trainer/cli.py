"""The command ``relief``: a thin skin over the library."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from relief_trainer import __version__
from relief_trainer.errors import ReliefError

Command = TypeVar("Command", bound=Callable[..., Any])


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


def _with_dsn(command: Command) -> Command:
    return click.option(
        "--dsn", metavar="DSN", help="Connection string or URI; what it leaves out comes from the PG* environment."
    )(command)


def _with_json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print versions.")
def main() -> None:
    """Anomaly detection that lives inside PostgreSQL: train isolation forests that score rows as they are written."""


@main.command()
@_with_dsn
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
    _print_table(["check", "result"], checks)


@main.command()
@click.argument("name")
@_with_dsn
@_with_json
@click.option("--promote", is_flag=True, help="Promote the model once it is stored.")
@click.option("--trees", type=click.IntRange(1, 2000), default=100, show_default=True, help="Trees of the forest.")
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
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes; -1 takes all cores.")
@click.option("--sample-rows", type=click.IntRange(10), default=100_000, show_default=True, help="Rows to draw.")
@click.option("--where", metavar="SQL", help="Draw only rows for which this condition holds.")
@click.option("--since", metavar="TIME", help="Draw only rows whose time column is at or after this.")
def train(
    name: str,
    dsn: str | None,
    as_json: bool,
    promote: bool,
    trees: int,
    samples: int,
    max_features: float,
    seed: int,
    contamination: float | None,
    jobs: int,
    sample_rows: int,
    where: str | None,
    since: str | None,
) -> None:
    """Fit a forest on a sample of the detector's table and store it as the next version.

    Before it is stored, the model is compared with scikit-learn, leaf by leaf.

    \b
    Example:
      relief train flights --dsn postgresql://app@localhost/shop --promote
      relief train flights --since 2013-06-01 --where "carrier <> 'HA'" --trees 200
    """
    from relief_trainer.connection import connect
    from relief_trainer.progress import Progress
    from relief_trainer.sample import Request
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
    with connect(dsn) as connection, Progress.shown(total=6 + promote) as progress:
        trained = run(connection, name, settings, promote=promote, progress=progress)
    for warning in trained.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        _print_json(asdict(trained))
        return
    click.echo(
        f"{name}: version {trained.version} trained on {trained.rows:,} rows of about {trained.table_rows:,}; "
        f"a row is an anomaly from score {trained.threshold:.4f} on ({trained.threshold_origin})"
    )
    if not promote:
        click.echo(f"promote it: relief promote {name} {trained.version}")


@main.command()
@click.argument("name")
@_with_dsn
@click.option("--full", is_flag=True, help="Make the whole profile again, from the whole table.")
def refresh(name: str, dsn: str | None, full: bool) -> None:
    """Bring a detector's profile up to date: what rows of each entity and season look like.

    \b
    Example:
      relief refresh flights
    """
    from relief_trainer.connection import connect
    from relief_trainer.detector import fetch, refuse_foreign_superuser
    from relief_trainer.queries import query

    with connect(dsn) as connection:
        refuse_foreign_superuser(connection, fetch(connection, name))
        row = connection.execute(query("refresh", name=name, full=full)).fetchone() or {}
        connection.commit()
    click.echo(f"{name}: {row['refresh_profile']:,} profiles are up to date")


@main.command("list")
@_with_dsn
@_with_json
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
        _print_json(rows)
    elif not rows:
        click.echo("no detectors; make one: select relief.create_detector('name', 'schema.table', array['column', …]);")
    else:
        _print_table(list(rows[0]), [list(row.values()) for row in rows])


@main.command()
@click.argument("name")
@_with_dsn
@_with_json
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
        _print_json(description)
    else:
        click.echo(render(description))


@main.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@_with_dsn
def promote(name: str, version: int | None, dsn: str | None) -> None:
    """Make a version the one that scores, the newest unless VERSION is given.

    \b
    Example:
      relief promote flights 2
    """
    from relief_trainer.connection import connect
    from relief_trainer.queries import query

    with connect(dsn) as connection:
        row = connection.execute(query("promote", detector=name, version=version)).fetchone() or {}
        connection.commit()
    click.echo(f"{name}: version {row['promote']} is promoted")


@main.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(1), required=False)
@_with_dsn
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
        raise ReliefError("give one of --json and --joblib", f"For example: relief export {name} --json {name}.json")
    with connect(dsn) as connection:
        stored = archive.fetch(connection, name, version)
    path = json_file or joblib_file or ""
    try:
        if joblib_file:
            archive.to_joblib(stored, joblib_file)
        elif json_file == "-":
            click.echo(archive.to_json(stored), nl=False)
            return
        else:
            Path(path).write_text(archive.to_json(stored), encoding="utf-8")
    except OSError as error:
        raise ReliefError(f"cannot write {path}: {error.strerror}") from None
    click.echo(f"{name}: version {stored.version} written to {path}")


@main.command("import")
@click.argument("file")
@_with_dsn
@click.option("--detector", metavar="NAME", help="Store it for this detector instead of the one it was exported from.")
def import_model(file: str, dsn: str | None, detector: str | None) -> None:
    """Store an exported model as the next version of its detector; - reads standard input.

    \b
    Example:
      relief import flights.json --dsn postgresql://app@replica-of-shop/shop
    """
    from relief_trainer import archive
    from relief_trainer.connection import connect

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ReliefError(f"cannot read {file}: {reason}", "Export a model first: relief export …") from None
    stored = archive.from_json(text)
    name = detector or stored.detector
    with connect(dsn) as connection:
        version = archive.store(connection, name, stored.document)
        connection.commit()
    click.echo(f"{name}: stored as version {version}; promote it: relief promote {name} {version}")


@main.command()
@click.option("--keep", is_flag=True, help="Leave the server running.")
def demo(keep: bool) -> None:
    """Show everything on 336,776 real flights, on a throwaway server.

    \b
    Example:
      relief demo --keep
    """
    from relief_trainer.demo import run

    run(keep=keep)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _print_table(header: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> None:
    from relief_trainer.show import table

    click.echo(table(header, [list(row) for row in rows]))
