"""Scoring many rows at once, without a server: every score is the runtime's, to the last bit."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from helpers.forests import stump
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relief_runtime.forest import Forest
from sklearn.ensemble import IsolationForest

from relief_trainer.batch_forest import BatchForest, RowForest
from relief_trainer.document import Feature, Ordinary, Threshold, build, exact_thresholds
from relief_trainer.errors import ReliefError
from relief_trainer.parity import as_server_keeps, rows_beside_thresholds

rows_of_three = st.lists(
    st.lists(st.integers(-3, 3).map(float) | st.floats(), min_size=3, max_size=3), min_size=1, max_size=20
)


def _same(
    document: dict[str, Any], numbers: list[list[float]], categories: list[list[str | None]] | None = None
) -> None:
    """Assert that rows score in one go as they do one by one, to the last bit."""
    forest, others = _scorers(json.dumps(document))
    expected = [
        forest.score([None if math.isnan(number) else number for number in row], texts)
        for row, texts in zip(numbers, categories or [None] * len(numbers), strict=True)
    ]
    for other in others:
        assert other.score(np.array(numbers), categories) == expected


@lru_cache(maxsize=1)
def _scorers(text: str) -> tuple[Forest, list[BatchForest | RowForest]]:
    return Forest(as_server_keeps(text)), [BatchForest(text), RowForest(text)]


@pytest.fixture(scope="module", params=[{}, {"max_features": 0.5}, {"max_samples": 3}, {"max_samples": 1}])
def grown(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the document of a forest fitted on rows with missing values."""
    rows = np.random.default_rng(1).lognormal(size=(500, 3))
    rows[::7, 1] = np.nan
    forest = IsolationForest(n_estimators=30, random_state=0, **request.param).fit(rows)
    features = [Feature(name, name) for name in "abc"]
    unknown = np.full(1, np.nan)
    return build(forest, features, Threshold(0.6, "fixed"), {}, Ordinary(unknown, unknown), {})


@given(rows_of_three)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_score_as_the_runtime_scores_them(grown: dict[str, Any], rows: list[list[float]]) -> None:
    _same(grown, rows)


def test_rows_on_and_beside_thresholds_score_as_the_runtime_scores_them(grown: dict[str, Any]) -> None:
    rows = np.random.default_rng(2).lognormal(size=(2_000, 3))
    _same(grown, [*rows.tolist(), *rows_beside_thresholds(grown, rows).tolist()])


@given(st.lists(st.tuples(st.none() | st.floats(), st.none() | st.sampled_from("xyz")), min_size=1, max_size=20))
def test_categories_score_as_the_runtime_scores_them(rows: list[tuple[float | None, str | None]]) -> None:
    split = float(exact_thresholds(np.array([1.5]))[0])
    document = {
        **stump(
            ["n"],
            trees=[{"feature": [0, -1, 1, -1, -1], "value": [split, 1.0, split, 2.0, 3.0], "missing_left": [0] * 5}],
        ),
        "features": [
            {"name": "n", "expression": "n", "kind": "number"},
            {"name": "c", "expression": "c", "kind": "category"},
        ],
        "encoders": {"c": {"values": {"x": 1.0, "y": 2.0}, "missing": 0.5, "other": 3.0}},
    }
    _same(document, [[math.nan if n is None else n, math.nan] for n, _ in rows], [[c] for _, c in rows])


def test_thresholds_that_float32_rounds_otherwise_are_left_to_the_runtime() -> None:
    text = json.dumps(stump(["x"], split=0.1))
    with pytest.raises(ReliefError, match="other thresholds"):
        BatchForest(text)
    # Above the threshold as a double, and not as float32.
    assert RowForest(text).score(np.array([[math.nextafter(0.1, 1)]])) == [0.125]


@pytest.mark.parametrize("levels", [90, 150, 5_000])
def test_deep_trees_score_as_the_runtime_scores_them(levels: int) -> None:
    splits = exact_thresholds(np.linspace(1, 2, levels)).tolist()
    chain = {
        "feature": [*[0, -1] * levels, -1],
        "value": [*[number for split in splits for number in (split, 1.0)], 2.0],
        "missing_left": [0] * (2 * levels + 1),
    }
    _same(stump(["x"], trees=[chain]), [[0.5], [1.5], [1.99], [3.0], [math.nan]])
