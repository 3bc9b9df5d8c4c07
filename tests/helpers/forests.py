"""Tiny forests: trained on the rows of a detector's table, or written by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from relief_runtime.document import checksum
from sklearn.ensemble import IsolationForest

from helpers.database import query, value
from relief_trainer.document import Feature, Threshold, build, serialize
from relief_trainer.parity import scikit_scores, to_float32


@dataclass(frozen=True)
class Trained:
    """A forest that was stored as a model."""

    version: int
    forest: IsolationForest
    document: dict[str, Any]
    rows: npt.NDArray[np.float64]


def fetch_features(connection: psycopg.Connection, detector: str, order_by: str = "o.ctid") -> npt.NDArray[np.float64]:
    """Return the features of a detector's rows, NULL as NaN."""
    call, relation = query(
        connection,
        "select relief._features_call(d, 'o'), d.relation::text from relief.detector as d where name = %s",
        detector,
    )[0]
    rows = query(connection, f"select {call} from {relation} as o order by {order_by}")
    return np.array(rows, dtype=np.float64)


def train(
    connection: psycopg.Connection,
    detector: str,
    *,
    contamination: float = 0.05,
    promote: bool = True,
    trees: int = 20,
    seed: int = 0,
    **options: Any,
) -> Trained:
    """Fit a forest on all rows that have a feature, and store it."""
    rows = fetch_features(connection, detector)
    forest = IsolationForest(n_estimators=trees, random_state=seed, **options).fit(to_float32(rows))
    features = [
        Feature(name, expression)
        for name, expression in query(
            connection,
            "select name, expression from relief.feature where detector_id = "
            "(select id from relief.detector where name = %s) order by position",
            detector,
        )
    ]
    scores = scikit_scores(forest, rows)
    threshold = Threshold(float(np.nanquantile(scores, 1 - contamination)), "contamination", contamination)
    document = build(forest, features, threshold, _profile(features, rows), {"seed": seed})
    version = add_model(connection, detector, document)
    if promote:
        value(connection, "select relief.promote(%s, %s)", detector, version)
    return Trained(version, forest, document, rows)


def add_model(connection: psycopg.Connection, detector: str, document: dict[str, Any] | str) -> int:
    """Store a document with its right checksum."""
    text = document if isinstance(document, str) else serialize(document)
    return value(connection, "select relief.add_model(%s, %s, %s)", detector, text, checksum(text))


def stump(features: list[str], split: float = 0.0, threshold: float = 0.4, **changes: Any) -> dict[str, Any]:
    """Return a document of one split on the first feature: 0.5 left of it or where it is missing, 0.125 right of it."""
    return {
        "format": 1,
        "features": [{"name": name, "expression": name, "kind": "number"} for name in features],
        "encoders": {},
        "samples": 2,
        "average_path_length": 1.0,
        "trees": [{"feature": [0, -1, -1], "value": [split, 1.0, 3.0], "missing_left": [1, 0, 0]}],
        "threshold": {"value": threshold, "origin": "fixed"},
        "profile": {
            name: {"count": 9, "mean": 0.0, "stddev": 2.0, "minimum": -3.0, "maximum": 3.0, "null_rate": 0.0}
            for name in features
        },
        "provenance": {},
        **changes,
    }


def constant(features: list[str], score: float, threshold: float) -> dict[str, Any]:
    """Return a document that gives every row the same score."""
    leaf = {"feature": [-1], "value": [float(-np.log2(score))], "missing_left": [0]}
    return stump(features, threshold=threshold, trees=[leaf])


def copy_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy."""
    return json.loads(json.dumps(document))


def _profile(features: list[Feature], rows: npt.NDArray[np.float64]) -> dict[str, dict[str, float | int | None]]:
    profile: dict[str, dict[str, float | int | None]] = {}
    for feature, column in zip(features, rows.T, strict=True):
        known = column[~np.isnan(column)]
        with np.errstate(over="ignore", invalid="ignore"):
            statistics = {
                "mean": known.mean(),
                "stddev": known.std(ddof=1),
                "minimum": known.min(),
                "maximum": known.max(),
                "null_rate": np.isnan(column).mean(),
            }
        finite = {name: float(number) if np.isfinite(number) else None for name, number in statistics.items()}
        profile[feature.name] = {"count": len(known), **finite}
    return profile
