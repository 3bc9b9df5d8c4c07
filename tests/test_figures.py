"""Figures of ranking: what scikit-learn computes, ties included, to the last digits."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.database import Database, value
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import Connection
from sklearn.metrics import average_precision_score, roc_auc_score

# Few scores make ties, and so do many rows.
SCORES = st.one_of(st.sampled_from([0.25, 0.5, 0.75]), st.floats(1e-300, 1.0))
ROWS = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


@pytest.fixture(scope="module")
def connection(module_database: Database) -> Connection:
    return module_database.superuser


def figure(connection: Connection, name: str, rows: list[tuple[float | None, bool | None]], *more: int) -> float | None:
    arguments = "".join(f", {number}" for number in more)
    return value(
        connection,
        f"select relief.{name}(%s::float8[], %s::boolean[]{arguments})",
        [score for score, _ in rows],
        [label for _, label in rows],
    )


@given(rows=ROWS)
@example(rows=[(0.5, True), (0.5, False)])
@example(rows=[(0.1, True), (0.9, False)])
def test_auroc_and_average_precision_are_those_of_scikit_learn(connection: Connection, rows) -> None:
    scores, labels = zip(*rows, strict=True)
    assert figure(connection, "_auroc", rows) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert figure(connection, "_average_precision", rows) == pytest.approx(expected, abs=1e-12)


@given(rows=ROWS, k=st.integers(1, 70))
def test_precision_at_k_is_the_mean_over_all_orders_of_tied_rows(connection: Connection, rows, k) -> None:
    """The expected precision of the first k rows, ties in random order: each tied row is there with the same chance."""
    scores = np.array([score for score, _ in rows])
    labels = np.array([label for _, label in rows])
    k_rows = min(k, len(rows))
    chance = [np.clip((k_rows - (scores > s).sum()) / (scores == s).sum(), 0, 1) for s in scores]
    expected = float(np.dot(chance, labels)) / k_rows
    assert figure(connection, "_precision_at", rows, k) == pytest.approx(expected, abs=1e-12)


def test_many_rows_are_ranked_as_exactly_as_few(connection: Connection) -> None:
    random = np.random.default_rng(0)
    labels = random.random(30_000) < 0.03
    scores = np.round(random.normal(labels * 1.0), 3)
    rows = list(zip(scores.tolist(), labels.tolist(), strict=True))
    assert figure(connection, "_auroc", rows) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    expected = average_precision_score(labels, scores)
    assert figure(connection, "_average_precision", rows) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label", [True, False])
def test_of_one_kind_of_rows_no_ranking_is_told(connection: Connection, label: bool) -> None:
    for rows in ([], [(0.5, label)], [(0.5, label), (0.7, label)]):
        assert figure(connection, "_auroc", rows) is None
        assert figure(connection, "_average_precision", rows) is None


def test_rows_without_a_score_or_a_label_do_not_count(connection: Connection) -> None:
    rows = [(0.5, True), (0.4, False), (None, True), (0.9, None)]
    assert figure(connection, "_auroc", rows) == 1
    assert figure(connection, "_average_precision", rows) == 1
    assert figure(connection, "_precision_at", rows, 5) == 0.5
