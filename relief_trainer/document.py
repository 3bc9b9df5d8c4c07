"""Turn a fitted scikit-learn forest into a model document, the JSON that Relief stores and scores with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from relief_runtime import document as runtime_document
from relief_runtime.ordinary import PROBABILITIES
from sklearn.ensemble import IsolationForest

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Feature:
    """A feature of a detector, in the order in which the detector's models take it."""

    name: str
    expression: str
    kind: str = "number"


@dataclass(frozen=True)
class Threshold:
    """The score from which a row is an anomaly, and where it came from: ``contamination`` or ``fixed``."""

    value: float
    origin: str
    contamination: float | None = None


@dataclass(frozen=True)
class Ordinary:
    """Scores and farthest deviations of the training rows, by which severity is told; NaN = unknown."""

    scores: Floats
    deviations: Floats

    def quantiles(self) -> dict[str, list[float] | None]:
        """Return the quantiles of both at the runtime's probabilities."""
        return {"scores": _quantiles(self.scores), "deviations": _quantiles(self.deviations)}


def _quantiles(values: Floats) -> list[float] | None:
    known = values[~np.isnan(values)]
    return [float(value) for value in np.quantile(known, PROBABILITIES)] if len(known) else None


def build(
    forest: IsolationForest,
    features: Sequence[Feature],
    threshold: Threshold,
    profile: Mapping[str, Mapping[str, Any]],
    ordinary: Ordinary,
    provenance: Mapping[str, Any],
    encoders: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return the model document (format 1, see `relief_runtime.document`) of a fitted forest.

    Parameters
    ----------
    forest
        A fitted IsolationForest whose columns are ``features``, in that order.
    profile
        Statistics of each feature over the training rows, by the feature's name.
    provenance
        What was trained on what, by whom, when, with which versions and settings.
    encoders
        What gave the features of kind ``category`` their numbers, by the feature's name.
    """
    subsample = np.array([forest.max_samples_])
    return {
        "format": runtime_document.FORMAT,
        "features": [{"name": f.name, "expression": f.expression, "kind": f.kind} for f in features],
        "encoders": {name: dict(encoder) for name, encoder in (encoders or {}).items()},
        "samples": int(forest.max_samples_),
        "average_path_length": float(average_path_length(subsample)[0]),
        "trees": list(_trees(forest)),
        "threshold": {
            "value": threshold.value,
            "origin": threshold.origin,
            **({} if threshold.contamination is None else {"contamination": threshold.contamination}),
        },
        "ordinary": ordinary.quantiles(),
        "profile": {name: dict(statistics) for name, statistics in profile.items()},
        "provenance": dict(provenance),
    }


def serialize(document: Mapping[str, Any]) -> str:
    """Return the one text that a document is stored and checksummed as."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def average_path_length(sample_counts: npt.NDArray[np.int64]) -> Floats:
    """Return c(n), the average length of an unsuccessful search in a binary search tree of n rows.

    Liu, Ting, Zhou, "Isolation Forest" (ICDM 2008), section 2, equation 1; c(1) = 0 and c(2) = 1 as in scikit-learn.
    """
    counts = sample_counts.astype(np.float64)
    result = np.zeros_like(counts)
    result[sample_counts == 2] = 1.0
    larger = sample_counts > 2
    n = counts[larger]
    result[larger] = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return result


def exact_thresholds(thresholds: Floats) -> Floats:
    """Return, for each threshold below the largest float32, the largest double that rounds to a float32 not above it.

    scikit-learn casts a row to float32 before it compares; with these thresholds, comparing the doubles themselves
    takes the same branch for every value.
    """
    low = thresholds.astype(np.float32)
    with np.errstate(over="ignore"):
        low = np.where(low.astype(np.float64) > thresholds, np.nextafter(low, np.float32(-np.inf)), low)
        high = np.nextafter(low, np.float32(np.inf)).astype(np.float64)
    middle = (low.astype(np.float64) + high) / 2.0
    # Rounding to nearest even: the double in the middle goes to the neighbour whose last bit is 0.
    low_is_even = low.view(np.uint32) % 2 == 0
    return np.where(low_is_even, middle, np.nextafter(middle, -np.inf))


def _trees(forest: IsolationForest) -> Iterable[dict[str, Any]]:
    for estimator, columns in zip(forest.estimators_, forest.estimators_features_, strict=True):
        tree = estimator.tree_
        is_leaf = tree.children_left < 0
        splits = np.flatnonzero(~is_leaf)
        if not np.array_equal(tree.children_left[splits], splits + 1):
            raise RuntimeError("this version of scikit-learn doesn't number the nodes of a tree in preorder")
        # scikit-learn's own expression, added in its order: depth, counted in nodes, plus c(rows in the leaf), minus 1.
        path_lengths = tree.compute_node_depths() + average_path_length(tree.n_node_samples) - 1.0
        missing_left = getattr(tree, "missing_go_to_left", np.zeros(tree.node_count, dtype=np.uint8))
        # A split that parts missing values from all others has an infinite threshold, which JSON can't hold: null.
        # So has one at the largest float32, as a greater double counts as that one.
        parts_missing = ~is_leaf & (tree.threshold >= np.finfo(np.float32).max)
        values = np.where(is_leaf, path_lengths, exact_thresholds(np.where(parts_missing, 0.0, tree.threshold)))
        yield {
            "feature": np.where(is_leaf, -1, np.asarray(columns)[np.where(is_leaf, 0, tree.feature)]).tolist(),
            "value": np.where(parts_missing, None, values).tolist(),  # type: ignore[call-overload]
            "missing_left": np.where(is_leaf, 0, missing_left).astype(int).tolist(),
            "rows": tree.n_node_samples.tolist(),
        }
