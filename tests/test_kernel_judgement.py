"""The kernel in a server judges as the runtime does: by histories, tolerances and categories, to the last digit."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, value
from helpers.forests import add_model, stump
from helpers.kernel import JUDGE, USED
from helpers.profiles import create, refresh, train_small
from helpers.shop import FEATURES, make_orders


def _judged(connection: psycopg.Connection, detector: str) -> list[Any]:
    """Return the scores of all rows of a detector's table, and their judgements in full, as they are written."""
    call, relation, score = query(
        connection,
        "select relief._judgement_call(d, 'o', relief._features_call(d, 'o'), relief._categories_call(d, 'o'), true), "
        "d.relation::text, "
        "format('(%%s(%%s, %%s))[1]', relief._function_name(d, 'verdict'), relief._features_call(d, 'o'), "
        "relief._categories_call(d, 'o')) "
        "from relief.detector as d where d.name = %s",
        detector,
    )[0]
    return query(connection, f"select {score}, ({call})::text from {relation} as o order by o.id")


def _assert_same(connection: psycopg.Connection, detector: str) -> list[Any]:
    """Assert that the kernel scores and judges all rows as the runtime does, and return what both say."""
    by_runtime = _judged(connection, detector)
    query(connection, USED, True)
    try:
        assert value(connection, JUDGE) == "c"
        by_kernel = _judged(connection, detector)
    finally:
        query(connection, USED, False)
    assert value(connection, JUDGE) == "plpython3u"
    for one, other in zip(by_runtime, by_kernel, strict=True):
        assert one == other
    return [(score, json.loads(judgement)) for score, judgement in by_kernel]


def test_rows_with_nothing_nan_and_infinity_are_scored_and_judged_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, x float8, y float8, z float8)")
    query(connection, "insert into t (x, y, z) select sin(n), exp(n % 17), n from generate_series(1, 400) as n")
    create(connection, "t", "t", ["x", "y", "z"], contamination=0.05)
    train_small(kernel.dsn(), "t")
    query(
        connection,
        "insert into t (x, y, z) select x, y, z "
        "from unnest(array[null, 'nan', 'inf', '-inf', 0, 1e-300, -7, 1e308]::float8[]) as x, "
        "unnest(array[null, 'nan', 'inf', 3, 1e30]::float8[]) as y, unnest(array[null, -1, 'inf']::float8[]) as z",
    )
    judged = _assert_same(connection, "t")
    assert [score for score, _ in judged].count(None) == 4
    assert {judgement["relief_is_anomaly"] for _, judgement in judged} == {True, False, None}


def test_rows_are_judged_by_histories_of_any_figures_as_by_the_runtime(kernel: Database) -> None:
    """Figures that no refresh makes of a table's rows, but that may stand in relief.profile."""
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, e integer, x float8, y float8)")
    query(connection, "insert into t (e, x, y) select n % 2, sin(n), exp(n % 17) from generate_series(1, 400) as n")
    create(connection, "t", "t", ["x", "y"], entity=["e"], min_history=8)
    train_small(kernel.dsn(), "t")
    refresh(connection, "t")
    query(
        connection,
        "create table figure as select 10 + row_number() over () as e, * from ("
        "select null::float8 as mean, 1::float8 as median, 1::float8 as stddev, 1::float8 as spread, 0e0 as floor, "
        "100e0 as rows union all select 1, 1, 1, 1, 0, * from unnest(array[null, 'nan', 'inf', '-inf']::float8[]) as r "
        "union all select *, 100 from unnest(array['inf', '-inf', 'nan', -1e308, 0]::float8[]) as mean, "
        "unnest(array['inf', '-inf', 'nan', 1e308, 0]::float8[]) as median, "
        "unnest(array[null, 'nan', 'inf', 1e308, 1e-300]::float8[]) as stddev, "
        "unnest(array['nan', 'inf', 0]::float8[]) as spread, "
        "unnest(array[null, 'nan', 'inf', 0]::float8[]) as floor) as f",
    )
    query(
        connection,
        "insert into relief.profile (detector_id, entity, season, rows, complete, count, mean, stddev, median, "
        "spread, spread_floor, p01, p99, minimum, maximum, null_rate) "
        "select d.id, jsonb_build_array(f.e)::text, -1, 100, true, array[f.rows, 100], array[f.mean, 0], "
        "array[f.stddev, 1], array[f.median, 0], array[f.spread, 1], array[f.floor, 0], "
        "'{0, 0}', '{0, 0}', '{0, 0}', '{0, 0}', '{0, 0}' from figure as f cross join relief.detector as d",
    )
    query(
        connection,
        "insert into t (e, x, y) select f.e, x, 0 from figure as f "
        "cross join unnest(array['inf', '-inf', 'nan', 1e308, -1e308, 0, 5e-324]::float8[]) as x",
    )
    assert _levels(_assert_same(connection, "t")) == {"global", "entity"}
    # The history of all rows comes with the rule, as JSON.
    for figures, levels in (("{inf, 0}", {"entity"}), ("{0, nan}", {"global", "entity"})):
        query(connection, "update relief.profile set mean = %s, stddev = '{inf, nan}' where entity = ''", figures)
        query(connection, "select relief.regenerate('t')")
        assert _levels(_assert_same(connection, "t")) == levels


@pytest.mark.parametrize("verdict", ["score", "deviation", "either", "both"])
def test_rows_are_judged_by_entity_season_and_tolerance_as_by_the_runtime(kernel: Database, verdict: str) -> None:
    connection = kernel.superuser
    query(
        connection,
        "create table trip (id integer generated always as identity, at timestamptz, driver text, x float8, y float8)",
    )
    query(connection, "select setseed(0.1)")
    query(
        connection,
        "insert into trip (at, driver, x, y) select timestamptz '2024-01-01Z' + n * interval '5 hours', "
        "(array['a', 'b', 'b', 'ü', null])[1 + n % 5], 10 * (n % 3) + random(), exp(5 * random()) "
        "from generate_series(1, 500) as n",
    )
    create(
        connection,
        "t",
        "trip",
        ["x", "y"],
        entity=["driver"],
        season="hour_of_day",
        time_column="at",
        time_zone="UTC",
        min_history=8,
        verdict=verdict,
    )
    train_small(kernel.dsn(), "t")
    refresh(connection, "t")
    query(
        connection,
        "insert into trip (at, driver, x, y) select timestamptz '2024-05-01Z' + h * interval '1 hour', driver, x, y "
        "from unnest(array['a', 'ü', 'new', null]) as driver, unnest(array[0, 5, 7]) as h, "
        "unnest(array[null, 10, 60, -1e9]) as x, unnest(array[0, 3, 1e12]) as y",
    )
    judged = _assert_same(connection, "t")
    assert _levels(judged) == {"global", "entity", "entity and season"}
    query(connection, "select relief.set_tolerance('t', 'x', 'up', min_absolute => 20)")
    query(
        connection,
        """select relief.set_tolerance('t', 'y', 'down', min_relative => 0.5, entity => '{"driver": "ü"}')""",
    )
    tolerant = _assert_same(connection, "t")
    calls = [sum(of["verdict"] in ("deviation", "both") for _, of in judgements) for judgements in (judged, tolerant)]
    assert calls[0] > calls[1] > 0


def _levels(judged: list[Any]) -> set[str]:
    return {of["level"] for _, judgement in judged for of in judgement["relief_deviation"].values() if of}


def test_rows_are_judged_by_season_alone_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, at timestamp, x float8)")
    query(
        connection,
        "insert into t (at, x) select timestamp '2024-01-01' + n * interval '1 day', n % 7 + sin(n) / 9 "
        "from generate_series(1, 300) as n",
    )
    create(connection, "t", "t", ["x"], season="day_of_week", time_column="at", min_history=20)
    train_small(kernel.dsn(), "t")
    refresh(connection, "t")
    query(connection, "insert into t (at, x) values ('2024-05-01', 100), (null, 1)")
    assert _levels(_assert_same(connection, "t")) == {"global", "season"}


def test_categories_are_scored_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, x float8, color text, kind text)")
    query(
        connection,
        "insert into t (x, color, kind) select sin(n), 'c' || sqrt(n)::int, (array['ä', '', 'b\"\\', null])[1 + n % 4] "
        "from generate_series(1, 500) as n",
    )
    create(connection, "t", "t", ["color", "x", "kind"], contamination=0.05)
    train_small(kernel.dsn(), "t")
    query(
        connection,
        "insert into t (x, color, kind) select x, color, kind from unnest(array[null, 0.5, 'nan']::float8[]) as x, "
        "unnest(array[null, 'c1', 'never seen']) as color, unnest(array[null, '', 'ä', 'never']) as kind",
    )
    judged = _assert_same(connection, "t")
    assert [score for score, _ in judged].count(None) == 2
    assert len({score for score, _ in judged}) > 20


def test_table_with_categories_alone_needs_no_history(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, color text)")
    query(connection, "insert into t (color) select 'c' || sqrt(n)::int from generate_series(1, 200) as n")
    create(connection, "t", "t", ["color"], contamination=0.05)
    train_small(kernel.dsn(), "t")
    judged = _assert_same(connection, "t")
    assert judged[0][1]["relief_deviation"] == {"color": None}


def test_rows_warm_up_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    make_orders(connection, rows=20)
    add_model(connection, "orders", {**stump(FEATURES), "profile": None})
    query(connection, "select relief.promote('orders')")
    assert {str(judgement["relief_deviation"]) for _, judgement in _assert_same(connection, "orders")} == {
        "{'state': 'warming up'}"
    }
