"""Features: expressions over columns of any type, resolved once, and how far they deviate from the profile."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, fetch_features, stump
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import Connection
from relief_runtime.document import PROBABILITIES, checksum

from relief_trainer.document import serialize


@pytest.fixture
def shop(database: Database) -> Connection:
    connection = database.superuser
    query(
        connection,
        """
        create schema shop;
        create type shop.state as enum ('new', 'paid');
        create domain shop.amount as numeric(12, 2) check (value >= 0);
        create type shop.size as (width integer, height integer);
        create table shop.parcel (
          state shop.state, price shop.amount, size shop.size, tags text[], at timestamptz, sent boolean, body jsonb,
          fixed char(3), span tstzrange
        );
        insert into shop.parcel values
          ('paid', 9.5, (2, 3), '{a,b}', '2026-01-01 13:00+00', true, '{"w": 7}', 'abc', '[2026-01-01, 2026-01-02)'),
          (null, null, null, null, null, null, null, null, null);
        """,
    )
    query(connection, "set timezone = 'UTC'")
    return connection


FEATURES = {
    "(state = 'paid')::integer AS paid": 1.0,
    "price": 9.5,
    "(size).width * (size).height AS area": 6.0,
    "cardinality(tags) AS tags": 2.0,
    "extract(hour from at) AS hour": 13.0,
    "sent::integer AS sent": 1.0,
    "(body ->> 'w')::float8 AS weight": 7.0,
    "length(fixed) AS letters": 3.0,
    "extract(epoch from upper(span) - lower(span)) AS seconds": 86400.0,
    "case when sent then price end AS sent_price": 9.5,
    "coalesce(price, -1) AS known_price": 9.5,
}


def test_features_read_columns_of_any_type(shop: Connection) -> None:
    query(shop, "select relief.create_detector('parcel', 'shop.parcel', %s)", list(FEATURES))
    rows = fetch_features(shop, "parcel")
    assert rows[0].tolist() == list(FEATURES.values())
    assert [math.isnan(number) for number in rows[1]] == [True] * 10 + [False]
    names = query(shop, "select name from relief.feature order by position")
    add_model(shop, "parcel", stump(names))
    query(shop, "select relief.promote('parcel')")
    query(shop, "select relief.attach('parcel')")
    columns = "state, price, size, tags, at, sent, body, fixed, span"
    query(shop, f"insert into shop.parcel ({columns}) select {columns} from shop.parcel")
    assert query(shop, "select relief_anomaly_score from shop.parcel order by ctid") == [None, None, 0.125, 0.5]
    by_name = "select relief.score('parcel', to_jsonb(p)) from shop.parcel as p where relief_anomaly_score is not null"
    assert query(shop, by_name) == [0.125, 0.5]


def test_a_session_that_reads_backslashes_in_its_own_way_makes_the_same_features(shop: Connection) -> None:
    query(shop, "set standard_conforming_strings = off; set escape_string_warning = off")
    with refused("42P17", "calls the volatile function random()", "immutable or stable"):
        query(shop, "select relief.create_detector('parcel', 'shop.parcel', array['price * random()'])")
    query(shop, "select relief.create_detector('parcel', 'shop.parcel', %s)", list(FEATURES))
    assert fetch_features(shop, "parcel")[0].tolist() == list(FEATURES.values())
    read = "select array_to_string(columns, ',') from relief.feature order by position limit 3"
    assert query(shop, read) == ["state", "price", "size"]


def test_texts_of_an_extension_are_categories_told_apart_by_their_letters(database: Database) -> None:
    connection = database.superuser
    query(connection, "create extension citext")
    query(connection, "create table visit (city citext); insert into visit values ('Ulm'), ('ulm')")
    query(connection, "select relief.create_detector('visit', 'visit', '{city}')")
    assert query(connection, "select _relief_categories_visit(city) from visit") == [["Ulm"], ["ulm"]]


def test_names_are_looked_up_once_in_the_callers_path(shop: Connection) -> None:
    for schema, factor in (("shop", 2), ("public", 3)):
        query(
            shop,
            f"create function {schema}.scaled(numeric) returns numeric language sql immutable return $1 * {factor}",
        )
    query(shop, "set search_path = shop")
    query(shop, "select relief.create_detector('parcel', 'parcel', '{scaled(price) AS x}')")
    query(shop, "set search_path = public")
    assert fetch_features(shop, "parcel")[0].tolist() == [19.0]
    query(shop, "select relief.drop_detector('parcel')")
    query(shop, "select relief.create_detector('parcel', 'shop.parcel', '{scaled(price) AS x}', name_path => 'public')")
    assert fetch_features(shop, "parcel")[0].tolist() == [28.5]
    assert value(shop, "show search_path") == "public"


def test_function_that_a_feature_calls_can_be_renamed_but_not_dropped(shop: Connection) -> None:
    query(shop, "create function shop.scaled(numeric) returns numeric language sql immutable as 'select $1 * 2'")
    query(shop, "select relief.create_detector('parcel', 'shop.parcel', '{shop.scaled(price) AS x}')")
    query(shop, "alter function shop.scaled rename to doubled")
    assert fetch_features(shop, "parcel")[0].tolist() == [19.0]
    with refused("2BP01", "other objects depend on it"):
        query(shop, "drop function shop.doubled")


@pytest.mark.parametrize(
    ("feature", "row", "reason"),
    [
        ("1 / (cardinality(tags) - 1) AS x", '{"tags": ["a"]}', "division by zero"),
        ("(body ->> 'w')::integer AS x", '{"body": {"w": "many"}}', 'invalid input syntax for type integer: "many"'),
        ("((body ->> 'w')::integer)::shop.amount AS x", '{"body": {"w": -1}}', "violates check constraint"),
        ("shop.fails(price) AS x", '{"price": 1}', "no such luck"),
        ("shop.fails_in_python(price) AS x", '{"price": 1}', "ZeroDivisionError"),
    ],
)
def test_row_whose_feature_fails_is_told_why_by_name_and_by_trigger(
    shop: Connection, feature: str, row: str, reason: str
) -> None:
    body = "'begin raise exception $x$no such luck$x$; end'"
    query(shop, f"create function shop.fails(numeric) returns numeric language plpgsql immutable as {body}")
    body = "'return 1 / 0'"
    query(
        shop, f"create function shop.fails_in_python(numeric) returns numeric language plpython3u immutable as {body}"
    )
    query(shop, "select relief.create_detector('parcel', 'shop.parcel', %s)", [feature])
    add_model(shop, "parcel", stump(["x"]))
    query(shop, "select relief.promote('parcel')")
    query(shop, "select relief.attach('parcel')")
    score, deviation = query(shop, "select score, deviation from relief.detect('parcel', %s)", row)[0]
    assert score is None
    assert reason in deviation["error"]
    inserted = query(
        shop,
        "insert into shop.parcel select * from jsonb_populate_record(null::shop.parcel, %s) "
        "returning relief_anomaly_score, relief_deviation",
        row,
    )
    assert inserted[0][0] is None
    assert reason in inserted[0][1]["error"]


RULE = {
    "threshold": 0.9,
    "version": 1,
    "history": None,
    "verdict": "either",
    "entity": [],
    "season": None,
    "deviation_threshold": 6,
    "min_history": 2,
    "ordinary_scores": None,
    "ordinary_deviations": list(PROBABILITIES),
    "features": [{"name": "x", "transform": "linear", "unit": 1, "origin": 0, "tolerances": {}}],
}


@pytest.fixture(scope="module")
def shared(module_database: Database) -> Iterator[Connection]:
    connection, text = module_database.superuser, serialize(stump(["x"]))
    query(
        connection,
        "create table public.packed as select relief._pack(relief._start(), %s, %s) as forest",
        checksum(text),
        text,
    )
    query(connection, "select relief._load('', encode(sha256(forest), 'hex'), forest) from public.packed")
    rule = json.dumps(RULE)
    query(connection, "select relief._load_rule(encode(sha256(convert_to(%s, 'UTF8')), 'hex'), %s, '')", rule, rule)
    return connection


def _judge(connection: Connection, number: float | None, mean: float | None, stddev: float | None) -> Any:
    """Return what the server makes of a number whose history has this mean, median, standard deviation and spread."""
    levels = [None if part is None else float(part) for part in (0, 100, mean, stddev, mean, stddev, 0)]
    judged = value(
        connection,
        "select relief._judge((select encode(sha256(forest), 'hex') from public.packed), "
        "encode(sha256(convert_to(%s, 'UTF8')), 'hex'), '', %s::float8[], null, '', %s::float8[], true)",
        json.dumps(RULE),
        [number],
        levels,
    )
    return {name.removeprefix("relief_"): told for name, told in judged.items()}


doubles = st.floats() | st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-310, 1.0000001, 1e6, 1e302])


@given(doubles, doubles, st.floats(min_value=0) | st.sampled_from([0.0, 5e-324, 1e-305, 1.0, 1e302, 1e308, math.nan]))
@example(1e308, -1e308, 1e307)
@example(1e-320, 0.0, 1e10)
@example(1.0, 0.0, 5e-324)
@example(math.inf, math.inf, math.nan)
@example(math.inf, 0.0, math.inf)
@example(5.0, 2.0, 1.5)
@example(7e-192, 0.0, 7e-192)
def test_deviation_is_a_bounded_number_whatever_the_values(
    shared: Connection, number: float, mean: float, stddev: float
) -> None:
    judged = _judge(shared, number, mean, stddev)
    if not math.isfinite(mean):  # no history at all: nothing lies any number of deviations away from it
        assert judged["deviation"] == {"state": "warming up"}
        return
    if math.isnan(number):
        assert judged["is_anomaly"] is None
        assert judged["deviation"] == {"x": None}
        assert judged["severity"] is None
        return
    told = judged["deviation"]["x"]
    assert told["z"] == told["robust"]
    # What is too small for its square to be a number counts as zero.
    number = 0.0 if abs(number) < 1e-140 else number
    assert judged["is_anomaly"] == (abs(told["z"]) >= 6)
    assert 0 <= judged["severity"] <= 1
    if stddev > 0 and abs(number - mean) < 1e6 * stddev:
        assert told["z"] == pytest.approx((number - mean) / stddev, abs=0.0006)
    else:
        assert abs(told["z"]) in (0.0, 1e6)
        assert not told["z"] * (number - mean) < 0


def test_departure_from_a_constant_history_and_infinities_deviate_most(shared: Connection) -> None:
    cases = {
        (1.5, 1.5, 0): 0.0,
        (1.6, 1.5, 0): 1e6,
        (-math.inf, 1.5, 2): -1e6,
        (3.0, 1.5, 1): 1.5,
        (2.0, 1.0, None): 1e6,
    }
    for arguments, expected in cases.items():
        told = _judge(shared, *arguments)["deviation"]["x"]
        assert (told["z"], told["robust"]) == (expected, expected)
    assert _judge(shared, 2.0, None, 1)["deviation"] == {"state": "warming up"}
    assert _judge(shared, None, 1.0, 1)["deviation"] == {"x": None}


def test_numbers_beyond_doubles_moments_without_end_and_nan_are_decided(shop: Connection) -> None:
    """A numeric beyond a double is an infinity, too small a one 0; NaN and parts of an infinite moment are missing."""
    query(
        shop,
        "create table shop.extreme (n numeric, r real, d float8, m money, t timestamp, i interval, c time, b boolean)",
    )
    query(
        shop,
        """
        insert into shop.extreme values
          (1e400, 'Infinity', 1e308, '-92233720368547758.08', 'infinity', '-1 day', '24:00', true),
          (-1e400, '-Infinity', -1e308, 0.5, '-infinity', '178000000 years', '0:00', false),
          ('NaN', 'NaN', 'NaN', null, '2026-01-01 23:59:59', '0', null, null),
          ('Infinity', 1e-45, 5e-324, 1, null, null, null, null),
          (1e-400, 0, '-0', 1, null, null, null, null),
          (1.7976931348623157e308, 0, 0, 1, null, null, null, null)
        """,
    )
    features = ["n", "r", "d", "m", "extract(hour from t) AS hour", "extract(epoch from t) AS seconds", "i", "c", "b"]
    query(shop, "select relief.create_detector('extreme', 'shop.extreme', %s)", features)
    nan, inf = math.nan, math.inf
    expected = [
        [inf, inf, 1e308, -92233720368547758.08, nan, inf, -86400.0, 86400.0, 1.0],
        [-inf, -inf, -1e308, 0.5, nan, -inf, 178000000 * 31557600.0, 0.0, 0.0],
        [nan, nan, nan, nan, 23.0, 1767311999.0, 0.0, nan, nan],
        [inf, 1.401298464324817e-45, 5e-324, 1.0, nan, nan, nan, nan, nan],
        [0.0, 0.0, -0.0, 1.0, nan, nan, nan, nan, nan],
        [1.7976931348623157e308, 0.0, 0.0, 1.0, nan, nan, nan, nan, nan],
    ]
    np.testing.assert_array_equal(fetch_features(shop, "extreme"), expected)
    add_model(shop, "extreme", stump(["n", "r", "d", "m", "hour", "seconds", "i", "c", "b"]))
    query(shop, "select relief.promote('extreme')")
    query(shop, "select relief.attach('extreme')")
    query(shop, "insert into shop.extreme (n, d) values (1e400, 1), (-1e400, 1), ('NaN', 1)")
    assert query(shop, "select relief_anomaly_score from shop.extreme where d = 1") == [0.125, 0.5, 0.5]


def test_a_numeric_feature_is_inlined_into_the_query(shop: Connection) -> None:
    query(shop, "select relief.create_detector('parcel', 'shop.parcel', '{price}')")
    add_model(shop, "parcel", stump(["price"]))
    query(shop, "select relief.promote('parcel')")
    plan = "\n".join(query(shop, "explain verbose select shop.relief_score(p) from shop.parcel as p"))
    assert "relief._score(" in plan
    assert "relief._float8(" not in plan
