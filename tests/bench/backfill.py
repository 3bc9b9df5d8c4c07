"""Scoring a whole table that is there already, against fetching it, scoring with scikit-learn, and writing back."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.ensemble import IsolationForest

from relief_trainer.flights import ROWS
from tests.bench.measure import medians, say, seconds
from tests.bench.result import Result
from tests.bench.server import (
    FEATURES,
    Connection,
    connect,
    copy_table,
    create_detector,
    document,
    promote_copy,
    trained_server,
)

REPETITIONS = 3


def backfill() -> list[Result]:
    """Measure relief.backfill of all flights, against a script with pandas and scikit-learn."""
    with trained_server() as cluster, connect(cluster) as connection:
        forest = _fit(connection)
        say(f"  {ROWS:,} rows, {REPETITIONS} times each")
        taken = medians(
            REPETITIONS,
            {"relief": lambda: _backfill(connection), "script": lambda: _fetch_and_write(connection, forest)},
        )
    what = f"backfill of {ROWS:,} rows, against pandas and scikit-learn outside"
    detail = f"{taken['relief']:.1f} s / {taken['script']:.1f} s, the latter without deviations"
    return [Result(what, taken["relief"] / taken["script"], detail=detail)]


def _backfill(connection: Connection) -> float:
    connection.execute("select relief.drop_detector(name) from relief.detector where name = 'scored'")
    content = document(connection)
    copy_table(connection, "scored")
    create_detector(connection, "scored")
    promote_copy(connection, "scored", content, 1)
    connection.execute("select relief.attach('scored')")
    return seconds(lambda: connection.execute("call relief.backfill('scored')"))


def _fit(connection: Connection) -> IsolationForest:
    return IsolationForest(max_samples=256, random_state=0).fit(_fetch(connection, "flights")[FEATURES].head(100_000))


def _fetch_and_write(connection: Connection, forest: IsolationForest) -> float:
    copy_table(connection, "written")
    connection.execute("alter table written add column score double precision, add column is_anomaly boolean")
    return seconds(lambda: _score_outside(connection, forest))


def _score_outside(connection: Connection, forest: IsolationForest) -> None:
    rows = _fetch(connection, "written")
    scores = -forest.score_samples(rows[FEATURES])
    anomalies = scores >= np.quantile(scores, 0.99)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("create temporary table scores (id bigint, score float8, is_anomaly boolean) on commit drop")
        with cursor.copy("copy scores from stdin") as copy:
            for row in zip(rows["id"].tolist(), scores.tolist(), anomalies.tolist(), strict=True):
                copy.write_row(row)
        cursor.execute("analyze scores")
        cursor.execute(
            "update written as w set score = s.score, is_anomaly = s.is_anomaly from scores as s where s.id = w.id"
        )


def _fetch(connection: Connection, table: str) -> pd.DataFrame:
    columns = ["id", *FEATURES]
    rows = connection.execute(f"select {', '.join(columns)} from {table}").fetchall()
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(FEATURES, np.float64))
