"""Prove that the runtime scores as scikit-learn does: the same leaf of every tree, and the same score to one ULP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from relief_runtime import document as runtime_document
from relief_runtime.forest import Forest
from relief_runtime.packed import Packed, checksum, pack, unpack
from relief_runtime.trees import MAX_COMPILED_DEPTH, Leaves, compile_block
from sklearn.ensemble import IsolationForest

from relief_trainer import rarity
from relief_trainer.document import Feature, serialize
from relief_trainer.errors import ReliefError

Floats = npt.NDArray[np.float64]
Categories = Sequence[Sequence[str | None]]

# Rows that the server compares again, and the share of their values that is missing.
PROBES = 16
MISSING = 0.1
UNSEEN = "(no training row has this)"


def scikit_scores(forest: IsolationForest, rows: Floats) -> Floats:
    """Return scikit-learn's scores of rows, in (0, 1], higher = more anomalous; NaN where every feature is missing.

    Values beyond float32 are taken for the extremes that they are, where scikit-learn would refuse them.
    """
    scores: Floats = np.full(len(rows), np.nan)
    present = ~np.isnan(rows).all(axis=1)
    if present.any():
        scores[present] = -forest.score_samples(_as_fitted(forest, to_float32(rows[present])))
    return scores


def to_float32(rows: Floats) -> npt.NDArray[np.float32]:
    """Return rows as scikit-learn sees them, infinities and what would become one as the largest float32."""
    limit = np.finfo(np.float32).max
    return np.clip(rows, -float(limit), float(limit)).astype(np.float32)


def runtime_scores(document_text: str, rows: Floats, categories: Categories = ()) -> Floats:
    """Return the runtime's scores of rows, in (0, 1], higher = more anomalous; NaN where every feature is missing.

    Parameters
    ----------
    rows
        Shape (rows, features), NaN = missing or a category.
    categories
        Each row's texts, one a feature of kind ``category``; none where a model has no such feature.
    """
    forest = Forest(as_server_keeps(document_text))
    scores = map(forest.score, rows.tolist(), categories or [()] * len(rows))
    return np.array([np.nan if score is None else score for score in scores], dtype=np.float64)


def as_server_keeps(document_text: str) -> Packed:
    """Return a document's forest in the form in which the server scores with it."""
    content = pack(runtime_document.read(document_text, runtime_document.checksum(document_text)))
    return unpack(content, checksum(content))


def check(
    forest: IsolationForest, document: Mapping[str, Any], rows: Floats, categories: Categories = ()
) -> dict[str, Any]:
    """Raise an error unless the runtime agrees with scikit-learn on every row, on every tree's leaf and on the score.

    Returns what the document is to tell of it under ``parity``.

    Parameters
    ----------
    document
        The model document of the forest.
    rows
        Shape (rows, features), float64, NaN = missing, with the numbers of categories in their places. Rows on and
        beside the forest's thresholds are added.
    categories
        The texts that gave these numbers: the scores are those of the texts. Rows with NULL, and with a category that
        was never seen, are added.
    """
    numbers, texts = _as_given(document, rows, categories)
    rows = np.vstack([rows, rows_beside_thresholds(document, rows)])
    wrong_leaves = count_wrong_leaves(forest, document, rows)
    if wrong_leaves:
        raise ReliefError(
            f"the model differs from scikit-learn in {wrong_leaves} leaves of {len(rows)} rows and is not stored",
            "Report this with the versions that `relief --version` prints.",
        )
    encoders, features = document["encoders"], _features(document)
    expected = scikit_scores(forest, rarity.encoded(encoders, features, numbers, texts))
    actual = runtime_scores(serialize(document), numbers, texts)
    if not np.array_equal(np.isnan(expected), np.isnan(actual)) or ulps(expected, actual) > 1:
        raise ReliefError(
            f"the model's scores differ from scikit-learn's by {ulps(expected, actual):g} ULP and it is not stored",
            "Report this with the versions that `relief --version` prints.",
        )
    return proof(document, len(rows), lambda *given: scikit_scores(forest, rarity.encoded(encoders, features, *given)))


def proof(
    document: Mapping[str, Any], rows_compared: int, score: Callable[[Floats, Categories], Floats]
) -> dict[str, Any]:
    """Return what a document tells of its comparison with scikit-learn, with probes for the server to compare again.

    The probes are made of the document's thresholds and categories: they give away no row of the table.
    """
    generator = np.random.default_rng(0)
    kinds = [feature.kind for feature in _features(document)]
    numbers = np.full((PROBES, len(kinds)), np.nan)
    for position, values in _thresholds(document).items():
        beside = np.concatenate([values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf)])
        numbers[:, position] = np.where(generator.random(PROBES) < MISSING, np.nan, generator.choice(beside, PROBES))
    numbers[:, [kind == "category" for kind in kinds]] = np.nan
    listed = [[*encoder["values"], None, UNSEEN] for encoder in _encoders(document)]
    texts = [[values[generator.integers(len(values))] for values in listed] for _ in range(PROBES)]
    given = zip(_with_none(numbers), texts, _with_none(score(numbers, texts)), strict=True)
    probes = [{"numbers": row, "categories": categories, "score": expected} for row, categories, expected in given]
    return {"rows": rows_compared, "probes": probes}


def _thresholds(document: Mapping[str, Any]) -> dict[int, Floats]:
    """Return the thresholds of the features that are split on, by the feature's position."""
    found: dict[int, list[float]] = {}
    for tree in document["trees"]:
        for feature, value in zip(tree["feature"], tree["value"], strict=True):
            if feature >= 0 and value is not None:
                found.setdefault(feature, []).append(value)
    return {position: np.array(values, dtype=np.float64) for position, values in found.items()}


def _encoders(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the encoders of the categories, in their order."""
    return [document["encoders"][feature.name] for feature in _features(document) if feature.kind == "category"]


def _with_none(values: Floats) -> list[Any]:
    return np.where(np.isnan(values), None, values).tolist()  # type: ignore[call-overload, no-any-return]


def _as_given(document: Mapping[str, Any], rows: Floats, categories: Categories) -> tuple[Floats, Categories]:
    """Return rows, and some beside the forest's thresholds, with the texts of categories instead of their numbers."""
    beside = rows_beside_thresholds(document, rows)
    numbers = np.vstack([rows, beside])
    numbers[:, [feature.kind == "category" for feature in _features(document)]] = np.nan
    if not document["encoders"]:
        return numbers, ()
    generator = np.random.default_rng(0)
    picked = [categories[position] for position in generator.integers(len(categories), size=len(beside))]
    changed = [[generator.choice([text, text, None, UNSEEN]) for text in texts] for texts in picked]
    return numbers, [*categories, *changed]


def _features(document: Mapping[str, Any]) -> list[Feature]:
    return [Feature(**feature) for feature in document["features"]]


def count_wrong_leaves(forest: IsolationForest, document: Mapping[str, Any], rows: Floats) -> int:
    """Return how often, over all trees, walking and compiled code find another leaf than scikit-learn does."""
    trees = as_server_keeps(serialize(document)).trees
    seen = to_float32(rows)
    as_lists = rows.tolist()
    wrong = 0
    numbers = Leaves(range(len(trees.features)), lambda _, leaf: leaf, "", lambda leaf: [f"leaf = {leaf:d}"], "leaf")
    for root, estimator, columns in zip(trees.roots, forest.estimators_, forest.estimators_features_, strict=True):
        leaves = root + estimator.tree_.apply(np.ascontiguousarray(seen[:, columns]))
        wrong += int(np.sum(leaves != np.array([trees.find_leaf(root, row) for row in as_lists])))
        # What is deeper is walked by the server too.
        if trees.depth(root) <= MAX_COMPILED_DEPTH:
            compiled = compile_block(trees, [root], numbers)
            wrong += int(np.sum(leaves != np.array([compiled(None, row) for row in as_lists])))
    return wrong


def ulps(expected: Floats, actual: Floats) -> float:
    """Return the largest difference of two arrays in units of the last place, NaN pairs left out."""
    both = ~(np.isnan(expected) | np.isnan(actual))
    if not both.any():
        return 0.0
    return float(np.max(np.abs(expected[both] - actual[both]) / np.spacing(expected[both])))


def rows_beside_thresholds(document: Mapping[str, Any], rows: Floats, count: int = 1000) -> Floats:
    """Return rows of which some values lie on a threshold, one double beside it, or are infinite or missing."""
    generator = np.random.default_rng(0)
    picked = rows[generator.integers(len(rows), size=count)].copy()
    features = np.concatenate([tree["feature"] for tree in document["trees"]])
    values = np.concatenate([tree["value"] for tree in document["trees"]])
    values = np.array([np.inf if value is None else value for value in values], dtype=np.float64)
    splits = np.flatnonzero(features >= 0)
    if not len(splits):
        return picked[:0]
    for row in picked:
        for split in generator.choice(splits, size=2):
            beside = (values[split], np.nextafter(values[split], -np.inf), np.nextafter(values[split], np.inf))
            row[features[split]] = generator.choice([*beside, *beside, np.inf, -np.inf, np.nan])
    return picked


def _as_fitted(forest: IsolationForest, rows: npt.NDArray[np.float32]) -> Any:
    names = getattr(forest, "feature_names_in_", None)
    if names is None:
        return rows
    return pd.DataFrame(rows, columns=names)
