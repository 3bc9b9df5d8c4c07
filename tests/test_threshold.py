"""Thresholds: what each would flag of labelled rows, and a version with another one."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, train
from helpers.shop import FEATURES, make_orders
from helpers.world import World
from hypothesis import given
from hypothesis import strategies as st
from psycopg import Connection
from psycopg.rows import dict_row
from sklearn.metrics import precision_recall_fscore_support

SCORES = st.one_of(st.sampled_from([0.25, 0.5, 0.75]), st.floats(1e-3, 1.0))
ROWS = st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=80).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


def suggested(connection: Connection, arguments: str = "") -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(f"select * from relief.suggest_threshold('orders'{arguments})".encode()).fetchall()


def label(connection: Connection, condition: str, flag: bool) -> None:
    query(
        connection,
        "select relief.label('orders', jsonb_build_object('id', id), %s) from shop.orders where "
        + condition.replace("%", "%%"),
        flag,
    )


@given(rows=ROWS, in_use=st.floats(0.01, 1.0))
def test_the_figures_of_each_threshold_are_those_of_scikit_learn(module_database: Database, rows, in_use) -> None:
    scores, labels = (list(each) for each in zip(*rows, strict=True))
    found = query(
        module_database.superuser,
        "select * from relief._threshold_figures(%s::float8[], %s::boolean[], %s::float8[], %s::float8)",
        scores,
        labels,
        scores,
        in_use,
    )
    assert 1 <= len(found) <= 21
    assert [row[0] for row in found] == sorted({row[0] for row in found})
    for threshold, precision, recall, f1, alert_rate, _ in found:
        flags = [score >= threshold for score in scores]
        expected = precision_recall_fscore_support(labels, flags, average="binary", zero_division=0)
        assert (precision or 0, recall, f1) == tuple(pytest.approx(one, abs=1e-12) for one in expected[:3])
        assert alert_rate == pytest.approx(sum(flags) / len(flags), abs=1e-12)
    best = [row for row in found if "best F1" in (row[5] or "")]
    assert len(best) == 1 and best[0][3] == max(row[3] for row in found)
    assert [row[0] for row in found if "in use" in (row[5] or "")] == [in_use]
    # Every anomaly is flagged from the lowest threshold on.
    assert found[0][2] == 1


@pytest.fixture
def forest(orders: Connection) -> Connection:
    train(orders, "orders")
    return orders


def test_thresholds_are_told_from_the_labels_and_nothing_is_changed(forest: Connection) -> None:
    label(forest, "id % 9 = 0", True)
    label(forest, "id % 4 = 0 and id % 9 <> 0", False)
    before = query(forest, "select version, threshold from relief.model")
    found = suggested(forest)
    assert 5 <= len(found) <= 21
    assert [row["threshold"] for row in found] == sorted(row["threshold"] for row in found)
    assert found[0]["recall"] == 1
    assert {"in use", "best F1"} <= {word for row in found for word in (row["remark"] or "").split(", ")}
    rates = [row["alert_rate"] for row in found]
    assert rates == sorted(rates, reverse=True)
    assert query(forest, "select version, threshold from relief.model") == before


def test_the_promoted_version_is_told_of_unless_another_is_given(database) -> None:
    make_orders(database.superuser)
    for threshold in (0.2, 0.3):
        add_model(database.superuser, "orders", stump(FEATURES, threshold=threshold))
    label(database.superuser, "a < -2", True)
    label(database.superuser, "a > 2", False)
    in_use = [row["threshold"] for row in suggested(database.superuser) if "in use" in (row["remark"] or "")]
    assert in_use == [0.3]
    query(database.superuser, "select relief.promote('orders', 1)")
    for arguments, threshold in (("", 0.2), (", 2", 0.3)):
        found = suggested(database.superuser, arguments)
        assert [row["threshold"] for row in found if "in use" in (row["remark"] or "")] == [threshold]
        assert [(row["threshold"], row["precision"], row["recall"], row["f1"]) for row in found] == [
            (threshold, 1, 1, 1),
            (0.5, 1, 1, 1),
        ]


def test_labels_of_both_kinds_are_needed(forest: Connection) -> None:
    told = 'of the rows of detector "orders", {} are labelled as anomalies and 0 as ordinary: both kinds are needed'
    for anomalies in (0, 2):
        missing = "false" if anomalies else "true"
        with refused("55000", told.format(anomalies), f"""select relief.label('orders', '{{"id": 1}}', {missing});"""):
            suggested(forest)
        label(forest, "id in (1, 2)", True)


@pytest.mark.parametrize(
    ("arguments", "state", "message", "hint"),
    [
        (", 9", "42704", 'detector "orders" has no model of version 9', "The versions are: 1."),
        (", max_rows => 0", "22003", "max_rows is 0, not at least 1", "such as 20000"),
    ],
)
def test_what_no_threshold_can_be_told_of_is_refused(forest: Connection, arguments, state, message, hint) -> None:
    with refused(state, message, hint):
        suggested(forest, arguments)


def test_a_superuser_runs_nobody_elses_expressions(world: World) -> None:
    add_model(world.app, "orders", stump(FEATURES))
    with refused("42501", "whose expressions would run with a superuser's rights", "Connect as a role that has"):
        suggested(world.database.superuser)
    with refused("42704", 'detector "orders" does not exist'):
        suggested(world.mallory)


def test_another_threshold_makes_another_version_with_the_same_scores(forest: Connection) -> None:
    scored = "select array_agg(shop.relief_score(o) order by o.id) from shop.orders as o"
    before = value(forest, scored)
    threshold = sorted(before)[-10]
    assert value(forest, "select relief.set_threshold('orders', %s)", threshold) == 2
    assert value(forest, "select promoted_version from relief.detector") == 1
    query(forest, "select relief.promote('orders', 2)")
    assert value(forest, scored) == before
    detected = "select count(*) from shop.orders as o, relief.detect('orders', to_jsonb(o)) as t where t.score >= %s"
    assert value(forest, detected + " and t.threshold = %s", threshold, threshold) == 10
    stored = query(forest, "select threshold, threshold_origin, forest_checksum from relief.model order by version")
    assert stored[1][:2] == (threshold, "fixed")
    assert stored[0][2] == stored[1][2]


@pytest.mark.parametrize("threshold", ["0", "-1", "1.01", "'NaN'", "null"])
def test_a_threshold_that_is_no_score_is_refused(forest: Connection, threshold: str) -> None:
    with refused("22003", 'of detector "orders" is not in (0, 1]', "select * from relief.suggest_threshold('orders');"):
        query(forest, f"select relief.set_threshold('orders', {threshold})")
    assert value(forest, "select count(*) from relief.model") == 1


def test_a_threshold_of_no_version_is_refused(orders: Connection) -> None:
    with refused("42704", 'detector "orders" has no model', "Train one: relief train orders"):
        query(orders, "select relief.set_threshold('orders', 0.5)")
