"""How well anomalies are found: contextual ones among real flights, and the failures of a real machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from relief_trainer import connection as trainer_connection
from relief_trainer.sample import Request
from relief_trainer.train import Settings, train
from tests.bench.measure import say
from tests.bench.result import Bar, Result
from tests.bench.server import connect, server
from tests.helpers.quality import count_alarms, judge, load_machine, swap_flights

SAMPLED_FLIGHTS = 100_000


def contextual() -> list[Result]:
    """Measure how anomalies are ranked whose values are ordinary globally, but not for their route."""
    results = []
    with server() as cluster, connect(cluster) as connection:
        for swapped in ("air_time", "distance"):
            swap_flights(connection, swapped, SAMPLED_FLIGHTS)
            for features in (("air_time", "distance"), ("dep_delay", "arr_delay", "air_time", "distance")):
                say(f"  {swapped} of other flights, seen by {', '.join(features)}")
                connection.execute(
                    "select relief.create_detector('swapped', 'swapped', %s, time_column => 'time_hour',"
                    " entity => '{origin, dest}')",
                    [list(features)],
                )
                _train(cluster.dsn(), "swapped")
                judged = judge(connection, "swapped", "o.is_swapped")
                connection.execute("select relief.drop_detector('swapped')")
                truth = np.array([row.known for row in judged])
                severity = roc_auc_score(truth, [row.severity for row in judged])
                forest = roc_auc_score(truth, [row.score for row in judged])
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
    results = []
    with server() as cluster, connect(cluster) as connection:
        since = load_machine(connection)
        for verdict, threshold in (("score", 6), ("either", 6), ("deviation", 3)):
            connection.execute(
                "select relief.create_detector('machine', 'machine', '{value}', time_column => 'at', verdict => %s,"
                " deviation_threshold => %s)",
                [verdict, threshold],
            )
            _train(cluster.dsn(), "machine", where=f"at < '{since}'")
            judged = judge(connection, "machine", "o.at::text", f"o.at >= '{since}'")
            connection.execute("select relief.drop_detector('machine')")
            alarms = count_alarms(((row.known, row.is_anomaly) for row in judged), since)
            results.append(
                Result(
                    f"machine temperature, verdict {verdict}: labelled windows hit",
                    alarms.hits / alarms.windows,
                    unit="",
                    detail=f"{alarms.hits} of {alarms.windows}; {alarms.false_per_thousand:.1f} in 1,000 false alarms",
                )
            )
    return results


def _train(dsn: str, name: str, where: str | None = None) -> None:
    with trainer_connection.connect(dsn) as training:
        train(training, name, Settings(request=Request(where=where)), promote=True)


def explanations() -> list[Result]:
    """Compare the contributions of features with those of SHAP's TreeExplainer, where shap is installed."""
    try:
        import shap
    except ImportError:
        return [Result("contributions against SHAP", None, detail="skipped: pip install 'relief[bench]'")]
    import pandas as pd
    from relief_runtime import explain
    from relief_runtime.document import checksum, read
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
    text = serialize(document)
    explainer = explain.Explainer(checksum(text), explain.pack(read(text, checksum(text)), checksum(text)))
    for row in rows.head(1000).to_numpy().tolist():  # it compiles the trees after some hundred
        explainer.contributions(row)
    results = []
    for what, some in (
        ("the 500 strangest flights", rows.iloc[np.argsort(forest.score_samples(rows))[:500]]),
        ("500 flights by chance", rows.sample(500, random_state=0)),
    ):
        theirs, shap_seconds = _timed(lambda some=some: shap.TreeExplainer(forest).shap_values(some))
        ours, our_seconds = _timed(lambda some=some: [explainer.contributions(row)[1:] for row in some.values.tolist()])
        ranks = [spearmanr(one, other).statistic for one, other in zip(ours, theirs, strict=True)]
        same = np.mean([np.argmin(one) == np.argmin(other) for one, other in zip(ours, theirs, strict=True)])
        results.append(
            Result(
                f"median rank correlation with SHAP, {what}",
                float(np.median(ranks)),
                unit="",
                detail=f"the same feature first in {same:.0%};"
                f" {our_seconds / len(some) * 1e6:.0f} / {shap_seconds / len(some) * 1e6:.0f} us a row",
            )
        )
    return results


def _timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return action(), time.perf_counter() - start
