"""How well anomalies are found: contextual ones among real flights, and the failures of a real machine."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from relief_trainer import connection as trainer_connection
from relief_trainer.sample import Request
from relief_trainer.train import Settings, train
from tests.bench.measure import say
from tests.bench.result import Bar, Result
from tests.bench.server import Connection, connect, server

DATA = Path(__file__).parent.parent / "data"
SAMPLED_FLIGHTS = 100_000
SWAPPED_SHARE = 0.01
# The Numenta Anomaly Benchmark lets a detector learn from the first 15 % of a series.
PROBATION = 0.15


def contextual() -> list[Result]:
    """Measure how anomalies are ranked whose values are ordinary globally, but not for their route."""
    results = []
    with server() as cluster, connect(cluster) as connection:
        for swapped in ("air_time", "distance"):
            for features in (("air_time", "distance"), ("dep_delay", "arr_delay", "air_time", "distance")):
                say(f"  {swapped} of other flights, seen by {', '.join(features)}")
                _swap(connection, swapped)
                _detect(connection, cluster.dsn(), "swapped", features, "time_hour", ["origin", "dest"])
                rows: list[Any] = connection.execute(
                    "select o.is_swapped, d.score, d.severity from swapped as o"
                    " cross join lateral relief.detect('swapped', to_jsonb(o) - 'is_swapped') as d"
                    " where o.is_swapped or o.id % 10 = 0"
                ).fetchall()
                connection.execute("select relief.drop_detector('swapped')")
                truth = np.array([row[0] for row in rows])
                forest, severity = (roc_auc_score(truth, [row[n] for row in rows]) for n in (1, 2))
                results.append(
                    Result(
                        f"AUROC of severity, {swapped} swapped between flights, {len(features)} features",
                        severity,
                        unit="",
                        bar=Bar(0.90, at_least=True, unit=""),
                        detail=f"plain forest {forest:.3f}; 1 % of {SAMPLED_FLIGHTS:,} flights swapped",
                    )
                )
    return results


def machine() -> list[Result]:
    """Measure which failures of a machine its temperature tells, and how many false alarms that costs."""
    with gzip.open(DATA / "machine_temperature.csv.gz", "rt", encoding="utf-8") as file:
        series = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(file)]
    windows = json.loads((DATA / "machine_temperature_windows.json").read_text())[
        "machine_temperature_system_failure.csv"
    ]
    since = series[int(len(series) * PROBATION)][0]
    results = []
    with server() as cluster, connect(cluster) as connection:
        for verdict, threshold in (("score", 6), ("either", 6), ("deviation", 3)):
            connection.execute("drop table if exists machine cascade")
            connection.execute("create table machine (id serial primary key, at timestamp, value float8)")
            with connection.cursor() as cursor, cursor.copy("copy machine (at, value) from stdin") as copy:
                for row in series:
                    copy.write_row(row)
            _detect(
                connection,
                cluster.dsn(),
                "machine",
                ("value",),
                "at",
                [],
                where=f"at < '{since}'",
                verdict=verdict,
                deviation_threshold=threshold,
            )
            judged: list[Any] = connection.execute(
                "select m.at::text, d.is_anomaly from machine as m"
                " cross join lateral relief.detect('machine', to_jsonb(m)) as d where m.at >= %s",
                [since],
            ).fetchall()
            connection.execute("select relief.drop_detector('machine')")
            results.append(_count_alarms(judged, windows, since, f"verdict {verdict}"))
    return results


def _count_alarms(judged: list[Any], windows: list[list[str]], since: str, what: str) -> Result:
    later = [(begin, end) for begin, end in windows if end > since]
    inside = [any(begin <= at <= end for begin, end in later) for at, _ in judged]
    hits = sum(any(flag and begin <= at <= end for at, flag in judged) for begin, end in later)
    outside = [flag for (_, flag), within in zip(judged, inside, strict=True) if not within]
    return Result(
        f"machine temperature, {what}: labelled windows hit",
        hits / len(later),
        unit="",
        detail=f"{hits} of {len(later)}; {1000 * sum(map(bool, outside)) / len(outside):.1f} in 1,000 false alarms",
    )


def _swap(connection: Connection, column: str) -> None:
    """Make the table ``swapped``: flights of which one in a hundred has another flight's value in a column."""
    count = int(SAMPLED_FLIGHTS * SWAPPED_SHARE)
    connection.execute("drop table if exists swapped cascade")
    connection.execute("select setseed(0.3)")
    statements: list[Any] = [
        "create table swapped as select id, origin, dest, time_hour, dep_delay, arr_delay, air_time, distance,"
        " false as is_swapped from flights where air_time is not null order by random()"
        f" limit {SAMPLED_FLIGHTS}",
        f"with picked as (select id, row_number() over () as n from (select id from swapped order by random()"
        f" limit {count}) as p), other as (select {column} as value, row_number() over (order by random()) as n"
        f" from swapped) update swapped set {column} = other.value, is_swapped = true"
        " from picked join other using (n) where swapped.id = picked.id",
        "alter table swapped add primary key (id)",
    ]
    for statement in statements:
        connection.execute(statement)


def _detect(
    connection: Connection,
    dsn: str,
    name: str,
    features: tuple[str, ...],
    time_column: str,
    entity: list[str],
    where: str | None = None,
    verdict: str = "either",
    deviation_threshold: float = 6,
) -> None:
    connection.execute(
        "select relief.create_detector(%s, %s, %s, time_column => %s, entity => %s, verdict => %s,"
        " deviation_threshold => %s)",
        [name, name, list(features), time_column, entity, verdict, deviation_threshold],
    )
    with trainer_connection.connect(dsn) as training:
        train(training, name, Settings(request=Request(where=where)), promote=True)


def explanations() -> list[Result]:
    """Compare the contributions of features with those of SHAP's TreeExplainer, where shap is installed."""
    try:
        import shap
    except ImportError:
        return [Result("contributions against SHAP", None, detail="skipped: pip install shap")]
    import pandas as pd
    from relief_runtime.document import checksum
    from relief_runtime.explain import Explainer
    from scipy.stats import spearmanr

    from relief_trainer.document import Feature, Ordinary, Threshold, build, serialize
    from tests.bench.server import FEATURES

    with server() as cluster, connect(cluster) as connection:
        found: list[Any] = connection.execute(
            f"select {', '.join(FEATURES)} from flights where air_time is not null order by id % 997, id limit 20000"  # type: ignore[arg-type]
        ).fetchall()
    rows = pd.DataFrame(found, columns=FEATURES, dtype=float)
    forest = IsolationForest(random_state=0).fit(rows)
    unknown = Ordinary(np.array([np.nan]), np.array([np.nan]))
    document = build(forest, [Feature(name, name) for name in FEATURES], Threshold(0.6, "fixed"), {}, unknown, {})
    explainer = Explainer(checksum(serialize(document)), serialize(document))
    strangest = rows.iloc[np.argsort(forest.score_samples(rows))[:500]]
    theirs = shap.TreeExplainer(forest).shap_values(strangest)
    ours = [explainer.contributions(row)[1:] for row in strangest.to_numpy().tolist()]
    ranks = [spearmanr(one, other).statistic for one, other in zip(ours, theirs, strict=True)]
    return [Result("rank correlation with SHAP, the 500 strangest flights", float(np.median(ranks)), unit="")]
