"""Score a source's rows in batches, as the server would, and write the scores to a file."""

from __future__ import annotations

import json
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relief_trainer import archive
from relief_trainer import detector as detectors
from relief_trainer.archive import Stored
from relief_trainer.batch_forest import BatchForest, RowForest
from relief_trainer.connection import Connection
from relief_trainer.errors import ReliefError
from relief_trainer.progress import Progress
from relief_trainer.score_file import ScoreFile
from relief_trainer.sources import Row, Source, values

Scores = list[float | None]

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
        self.detector = stored.detector
        self.version = stored.version
        self._forest: BatchForest | RowForest
        try:
            self._forest = BatchForest(stored.document)
        except ReliefError:
            self._forest = RowForest(stored.document)
        content = json.loads(stored.document)
        self.threshold = float(content["threshold"]["value"])
        self.columns: dict[str, type] = {
            feature["name"]: str if feature["kind"] == "category" else float for feature in content["features"]
        }
        self._has_categories = str in self.columns.values()

    def score(self, rows: Sequence[Row], source_name: str) -> Scores:
        """Return the scores of rows that begin with the features, in (0, 1], higher = more anomalous.

        None is that of a row whose features are all missing.
        """
        numbers = values.matrix(rows, self.columns, source_name)
        texts = [values.texts(row, self.columns) for row in rows] if self._has_categories else None
        return self._forest.score(numbers, texts)


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
        Rows that are read at a time; as many batches as there are jobs, and one more, are held in memory.
    jobs
        Threads that score, each a batch at a time, beside the one that reads and writes.

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
        # A source reads a column once, whatever it is for.
        columns = {**model.columns, **{name: object for name in kept if name not in model.columns}}
        places = [list(columns).index(name) for name in kept]
        batches = (list(batch) for batch in source.batches(columns, batch_rows))
        for batch, scores in _scored(batches, model, source.name, jobs):
            lines = []
            for row, value in zip(batch, scores, strict=True):
                rows += 1
                is_anomaly = None if value is None else value >= model.threshold
                anomalies += is_anomaly is True
                unscored += value is None
                lines.append([*([values.plain(row[place]) for place in places] or [rows]), value, is_anomaly])
            file.write(lines)
            advance(len(lines))
    seconds = round(time.monotonic() - begun, 3)
    return Scored(model.detector, model.version, source.name, out, model.threshold, rows, anomalies, unscored, seconds)


def _scored(
    batches: Iterator[list[Row]], model: Model, source_name: str, jobs: int
) -> Iterator[tuple[list[Row], Scores]]:
    """Yield batches with their scores, in order, while the next ones are being scored."""
    waiting: deque[tuple[list[Row], Future[Scores]]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(model.score, batch, source_name)))
            if len(waiting) > jobs:
                first, scores = waiting.popleft()
                yield first, scores.result()
        for last, scores in waiting:
            yield last, scores.result()
