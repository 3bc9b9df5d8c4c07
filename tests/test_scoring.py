"""Scoring in queries: relief_score(row), and relief.score and relief.detect by a detector's name."""

from __future__ import annotations

import json

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, told, train
from helpers.shop import FEATURES
from psycopg import Connection


def test_score_of_a_row_is_the_same_in_a_query_and_by_name(orders: Connection) -> None:
    train(orders, "orders")
    rows = query(orders, "select to_jsonb(o)::text, shop.relief_score(o) from shop.orders as o where id <= 100")
    for row, score in rows:
        assert value(orders, "select relief.score('orders', %s)", row) == score
        assert 0 < score <= 1


def test_detect_tells_score_threshold_flag_deviation_version_and_severity(orders: Connection) -> None:
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    detected = query(orders, "select * from relief.detect('orders', %s)", json.dumps({"a": -4, "b": 1}))
    assert detected == [(0.5, 0.4, True, {"a": told(-2.0), "log_b": told(0.0)}, 1, 0.5)]
    detected = query(orders, "select * from relief.detect('orders', %s)", json.dumps({"a": 4}))
    assert detected == [(0.125, 0.4, False, {"a": told(2.0), "log_b": None}, 1, 0.2)]


def test_a_score_at_the_threshold_is_an_anomaly(orders: Connection) -> None:
    add_model(orders, "orders", stump(FEATURES, threshold=0.5))
    query(orders, "select relief.promote('orders')")
    assert value(orders, """select is_anomaly from relief.detect('orders', '{"a": -1}')""") is True


def test_row_whose_features_are_all_missing_scores_null(orders: Connection) -> None:
    train(orders, "orders")
    assert query(orders, "select score, is_anomaly from relief.detect('orders', '{}')") == [(None, None)]
    assert value(orders, "select shop.relief_score(null::shop.orders)") is None


def test_failing_expression_gives_null_and_the_reason(orders: Connection) -> None:
    train(orders, "orders")
    score, deviation = query(orders, """select score, deviation from relief.detect('orders', '{"a": 1, "b": -6}')""")[0]
    assert score is None
    assert deviation == {"error": "cannot take logarithm of a negative number"}
    notices: list[str] = []
    orders.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    assert value(orders, """select relief.score('orders', '{"a": 1, "b": -6}')""") is None
    assert notices == ['row for detector "orders" has no score: cannot take logarithm of a negative number']


def test_failing_expression_is_an_error_under_policy_raise(orders: Connection) -> None:
    query(orders, "select relief.drop_detector('orders')")
    query(orders, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}', on_error => 'raise')")
    train(orders, "orders")
    with refused("2201E"):
        query(orders, """select relief.score('orders', '{"a": 1, "b": -6}')""")


def test_infinities_and_nan_are_scored_by_name(orders: Connection) -> None:
    query(orders, "create table shop.reading (x float8, y float8)")
    query(orders, "select relief.create_detector('reading', 'shop.reading', '{x, y}')")
    add_model(orders, "reading", stump(["x", "y"]))
    query(orders, "select relief.promote('reading')")
    scores = {
        x: value(orders, "select relief.score('reading', jsonb_build_object('x', %s::text, 'y', 1))", x)
        for x in ("-Infinity", "Infinity", "NaN", None)
    }
    assert scores == {"-Infinity": 0.5, "Infinity": 0.125, "NaN": 0.5, None: 0.5}


@pytest.mark.parametrize(
    ("row", "sqlstate", "message", "hint"),
    [
        ('{"zz": 1}', "42703", 'column "zz" of table shop.orders does not exist', "The detector reads: a, b."),
        ("[1]", "22023", 'row for detector "orders" is array, not a JSON object', "'{\"amount\": 12.5}'"),
        (None, "22023", 'row for detector "orders" is NULL, not a JSON object', "column names and values"),
        (
            '{"a": "many"}',
            "22P02",
            'value of column "a" of table shop.orders cannot be taken: invalid input syntax for type integer: "many"',
            "Give one of type integer, or leave the column out.",
        ),
        (
            '{"b": 1, "a": 3000000000}',
            "22003",
            'value of column "a" of table shop.orders cannot be taken: '
            'value "3000000000" is out of range for type integer',
            "Give one of type integer, or leave the column out.",
        ),
        (
            '{"grade": 7}',
            "23514",
            'value of column "grade" of table shop.orders cannot be taken: '
            'value for domain shop.grade violates check constraint "grade_check"',
            "Give one of type shop.grade, or leave the column out.",
        ),
    ],
)
def test_wrong_rows_are_refused(orders: Connection, row: str | None, sqlstate: str, message: str, hint: str) -> None:
    query(orders, "create domain shop.grade as integer check (value < 7)")
    query(orders, "alter table shop.orders add column grade shop.grade")
    train(orders, "orders")
    for verb in ("relief.score", "relief.detect", "relief.explain"):
        with refused(sqlstate, message, hint):
            query(orders, f"select {verb}('orders', %s)", row)


def test_unknown_detector_is_refused(orders: Connection) -> None:
    for verb in ("relief.score", "relief.detect"):
        with refused("42704", 'detector "order" does not exist', "select name from relief.detector;"):
            query(orders, f"select {verb}('order', '{{}}')")


def test_detector_without_a_model_says_how_to_get_one(orders: Connection) -> None:
    for statement in ("select relief.score('orders', '{}')", "select shop.relief_score(o) from shop.orders as o"):
        with refused("55000", 'detector "orders" has no promoted model', "relief train orders --promote"):
            query(orders, statement)


def test_nineteen_models_in_one_session_score_as_each_does_alone(orders: Connection) -> None:
    for number in range(19):
        query(
            orders, "select relief.create_detector(%s, 'shop.orders', '{a, b}', score_function => false)", f"d{number}"
        )
        add_model(orders, f"d{number}", stump(["a", "b"], split=float(number)))
        query(orders, "select relief.promote(%s)", f"d{number}")
    for a in (3, 18, 0):
        scores = [
            value(orders, "select relief.score(%s, jsonb_build_object('a', %s::integer))", f"d{n}", a)
            for n in range(19)
        ]
        assert scores == [0.5 if a <= n else 0.125 for n in range(19)]


def test_two_detectors_share_a_table_but_not_relief_score(orders: Connection) -> None:
    with refused(
        "42723", 'function relief_score(shop.orders) already exists for detector "orders"', "score_function => false"
    ):
        query(orders, "select relief.create_detector('second', 'shop.orders', '{a}')")
    query(orders, "select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    add_model(orders, "second", stump(["a"]))
    query(orders, "select relief.promote('second')")
    assert value(orders, """select relief.score('second', '{"a": -1}')""") == 0.5
    query(orders, "select relief.drop_detector('second')")
    train(orders, "orders")
    assert value(orders, "select count(shop.relief_score(o)) from shop.orders as o") == 500


def test_score_reads_nothing_but_the_row_and_works_in_a_read_only_transaction(
    database: Database, orders: Connection
) -> None:
    train(orders, "orders")
    reader = database.connect(options="-c default_transaction_read_only=on")
    assert value(reader, """select relief.score('orders', '{"a": 1, "b": 1}')""") > 0
    assert value(reader, "select count(shop.relief_score(o)) from shop.orders as o") == 500
