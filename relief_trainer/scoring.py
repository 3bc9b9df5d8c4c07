"""Score a source's rows in batches, with the code that runs in the server, and write the scores to a file."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from relief_runtime.forest import Forest

from relief_trainer import archive, parity
from relief_trainer import detector as detectors
from relief_trainer.archive import Stored
from relief_trainer.connection import Connection
from relief_trainer.errors import ReliefError
from relief_trainer.progress import Progress
from relief_trainer.score_file import ScoreFile
from relief_trainer.sources import Row, Source, values

# Rows of features and columns to keep; columns to keep and scores.
_Batch = list[tuple[Row, list[Any]]]
_ScoredBatch = list[tuple[list[Any], float | None]]

# Other processes take some 2 s to start: so many rows are scored in less.
ROWS_ALONE = 100_000

SCORE, IS_ANOMALY, ROW = "relief_anomaly_score", "relief_is_anomaly", "row"


@dataclass(frozen=True)
class Scored:
    """What came out of scoring a source.

    ``version`` is 0 for a model of a file; ``anomalies`` have a score of at least ``threshold``; ``unscored`` rows have
    no feature at all.
    """

    detector: str
    version: int
    source: str
    out: str
    threshold: float
    rows: int
    anomalies: int
    unscored: int
    seconds: float


class Model:
    """A stored model, ready to score rows of columns that are called as its features."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.detector = stored.detector
        self.version = stored.version
        self._forest = Forest(parity.as_server_keeps(stored.document))
        content = json.loads(stored.document)
        self.threshold = float(content["threshold"]["value"])
        self.columns: dict[str, type] = {
            feature["name"]: str if feature["kind"] == "category" else float for feature in content["features"]
        }
        self._has_categories = str in self.columns.values()

    def score(self, row: Row, source_name: str) -> float | None:
        """Return the score of one row's features, in (0, 1], higher = more anomalous; None if all are missing."""
        numbers = values.numbers(row, self.columns, source_name)
        return self._forest.score(numbers, values.texts(row, self.columns) if self._has_categories else None)


def find_model(named: str, connect: Callable[[], Any]) -> Model:
    """Return the model of a file that ``relief export`` or ``relief train`` wrote, or the promoted one of a detector.

    Parameters
    ----------
    named
        A path, if there is such a file or it looks like one; else the name of a detector.
    connect
        Gives a connection, as `relief_trainer.connection.connect` does; called for a detector alone.
    """
    if Path(named).is_file() or named.endswith(".json") or "/" in named:
        return Model(archive.read_file(named))
    with connect() as connection:
        return Model(_promoted(connection, named))


def _promoted(connection: Connection, name: str) -> Stored:
    version = detectors.fetch(connection, name).promoted_version
    if version is None:
        raise ReliefError(
            f'detector "{name}" has no promoted model', f"Promote one: relief promote {shlex.quote(name)}"
        )
    return archive.fetch(connection, name, version)


def score(
    source: Source,
    model: Model,
    out: str,
    *,
    keep: Sequence[str] | None = None,
    batch_rows: int = 10_000,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Scored:
    """Score all rows of a source and write the scores to a CSV, JSON lines or Parquet file, whole or not at all.

    Parameters
    ----------
    keep
        Columns to write beside the scores; by default those that identify a row, or else the row's number from 1 on.
    batch_rows
        Rows that a process holds in memory at a time.
    jobs
        Processes that score, each a batch at a time; they are started once a source has more than `ROWS_ALONE` rows.

    Raises
    ------
    ReliefError
        If the source lacks a column, holds something else than numbers in it, or if the file can't be written.
    """
    progress = progress or Progress.silent()
    kept = list(source.keys() if keep is None else keep)
    source.require([*model.columns, *kept])
    header = [*(kept or [ROW]), SCORE, IS_ANOMALY]
    repeated = next((name for name in header if header.count(name) > 1), None)
    if repeated is not None:
        raise ReliefError(f'column "{repeated}" would be written twice', "Leave it out of --keep.")
    begun = time.monotonic()
    rows = anomalies = unscored = 0
    with (
        ScoreFile(out, header) as file,
        progress.counting(f"scoring {source.name}", source.count()) as advance,
    ):
        batches = _read(source, model.columns, kept, batch_rows)
        alone = islice(batches, ROWS_ALONE // batch_rows)
        for batch in chain(
            (_score_batch(batch, model, source.name) for batch in alone),
            _score_batches(batches, model, source.name, jobs),
        ):
            lines = []
            for beside, value in batch:
                rows += 1
                is_anomaly = None if value is None else value >= model.threshold
                anomalies += is_anomaly is True
                unscored += value is None
                lines.append([*(beside or [rows]), value, is_anomaly])
            file.write(lines)
            advance(len(lines))
    seconds = round(time.monotonic() - begun, 3)
    return Scored(model.detector, model.version, source.name, out, model.threshold, rows, anomalies, unscored, seconds)


def _score_batches(batches: Iterator[_Batch], model: Model, source_name: str, jobs: int) -> Iterator[_ScoredBatch]:
    """Yield batches with their scores, in order; what is read is read by this process alone."""
    with Parallel(n_jobs=jobs) as parallel:
        while several := list(islice(batches, jobs)):
            if len(several) == 1:
                # Not worth the start of other processes.
                yield _score_batch(several[0], model, source_name)
            else:
                calls = (delayed(_score_as_stored)(batch, model.stored, source_name) for batch in several)
                yield from parallel(calls)


def _score_batch(batch: _Batch, model: Model, source_name: str) -> _ScoredBatch:
    return [(beside, model.score(features, source_name)) for features, beside in batch]


def _score_as_stored(batch: _Batch, stored: Stored, source_name: str) -> _ScoredBatch:
    """Score a batch in another process, to which compiled forests don't travel."""
    return _score_batch(batch, _model(stored), source_name)


_model = lru_cache(maxsize=1)(Model)


def _read(source: Source, features: Mapping[str, type], kept: Sequence[str], batch_rows: int) -> Iterator[_Batch]:
    """Yield batches of features and columns to keep; a source reads a column once, whatever it is for."""
    both = [name for name in kept if name in features]
    columns = {**features, **{name: object for name in kept if name not in both}}
    places = [list(columns).index(name) for name in kept]
    count = len(features)
    for batch in source.batches(columns, batch_rows):
        yield [(row[:count], [values.plain(row[place]) for place in places]) for row in batch]
