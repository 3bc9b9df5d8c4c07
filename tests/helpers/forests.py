"""Tiny forests: trained on the rows of a detector's table, or written by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from relief_runtime import explain
from relief_runtime.document import PROBABILITIES, DocumentError, checksum, read
from sklearn.ensemble import IsolationForest

from helpers.database import query, value
from relief_trainer.document import Feature, Ordinary, Threshold, build, serialize
from relief_trainer.parity import proof, runtime_scores, scikit_scores, to_float32


@dataclass(frozen=True)
class Trained:
    """A forest that was stored as a model."""

    version: int
    forest: IsolationForest
    document: dict[str, Any]
    rows: npt.NDArray[np.float64]


def explainer_of(text: str) -> explain.Explainer:
    """Return what explains a document's forest, by way of its packed form."""
    return explain.Explainer(checksum(text), explain.pack(read(text, checksum(text)), checksum(text)))


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
    ordinary = Ordinary(scores, np.full(len(rows), np.nan))
    document = build(forest, features, threshold, _profile(features, rows), ordinary, {"seed": seed})
    version = add_model(connection, detector, document)
    if promote:
        value(connection, "select relief.promote(%s, %s)", detector, version)
    return Trained(version, forest, document, rows)


def add_model(connection: psycopg.Connection, detector: str, document: dict[str, Any] | str) -> int:
    """Store a document with its right checksum."""
    text = document if isinstance(document, str) else serialize(proven(document))
    return value(connection, "select relief.add_model(%s, %s, %s)", detector, text, checksum(text))


def proven(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with the proof that a trainer's carries, by its own scores; one that can't be read as it is."""
    if "parity" in document:
        return document
    text = serialize(document)
    try:
        read(text, checksum(text))
    except DocumentError:
        return document
    return {**document, "parity": proof(document, 1, lambda *given: runtime_scores(text, *given))}


def stump(
    features: list[str], split: float = 0.0, threshold: float = 0.4, trees: list[Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """Return a document of one split on the first feature: 0.5 left of it or where it is missing, 0.125 right of it.

    Each feature has mean 0 and standard deviation 2 on a linear scale. Of ordinary rows, a share of s scores below s,
    and a tenth has a deviation below 1, two tenths below 2, and so on. Trees given without row counts get some.
    """
    if trees is None:
        trees = [{"feature": [0, -1, -1], "value": [split, 1.0, 3.0], "missing_left": [1, 0, 0]}]
    return {
        "format": 1,
        "features": [{"name": name, "expression": name, "kind": "number"} for name in features],
        "encoders": {},
        "samples": 2,
        "average_path_length": 1.0,
        "trees": [{"rows": [1] * len(tree["feature"]), **tree} if type(tree) is dict else tree for tree in trees],
        "threshold": {"value": threshold, "origin": "fixed"},
        "ordinary": {"scores": list(PROBABILITIES), "deviations": [10 * share for share in PROBABILITIES]},
        "profile": {name: _statistics(100, 0.0, 2.0, -3.0, 3.0, 0.0) for name in features},
        "provenance": {},
        **changes,
    }


def told(z: float, level: str = "global") -> dict[str, Any]:
    """Return what relief_deviation holds of a feature that lies z standard deviations from the mean of a stump."""
    return {"z": z, "robust": z, "expected": 0.0, "level": level}


def constant(features: list[str], score: float, threshold: float) -> dict[str, Any]:
    """Return a document that gives every row the same score."""
    leaf = {"feature": [-1], "value": [float(-np.log2(score))], "missing_left": [0]}
    return stump(features, threshold=threshold, trees=[leaf])


def copy_of(document: dict[str, Any]) -> dict[str, Any]:
    """Return a deep copy."""
    return json.loads(json.dumps(document))


def _profile(features: list[Feature], rows: npt.NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    profile: dict[str, dict[str, Any]] = {}
    for feature, column in zip(features, rows.T, strict=True):
        known = column[~np.isnan(column)]
        with np.errstate(over="ignore", invalid="ignore"):
            profile[feature.name] = _statistics(
                len(known), known.mean(), known.std(ddof=1), known.min(), known.max(), float(np.isnan(column).mean())
            )
    return profile


def _statistics(
    count: int, mean: float, stddev: float, minimum: float, maximum: float, null_rate: float
) -> dict[str, Any]:
    """Return a feature's profile, on a linear scale, of a history whose median is its mean."""
    numbers = {"mean": mean, "stddev": stddev, "minimum": minimum, "maximum": maximum, "null_rate": null_rate}
    finite = {name: float(number) if np.isfinite(number) else None for name, number in numbers.items()}
    scaled = {"median": finite["mean"], "spread": finite["stddev"], "p01": finite["minimum"], "p99": finite["maximum"]}
    return {"count": count, **finite, "scaled": {"count": count, **finite, **scaled}}
