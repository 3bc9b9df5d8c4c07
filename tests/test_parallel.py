"""Parallel query: workers score as the leader does, and what isn't safe in a worker never gets there."""

from __future__ import annotations

import pytest
from helpers.database import Database, query, value
from helpers.forests import add_model, stump, train
from psycopg import Connection

ROWS = 30_000


@pytest.fixture(scope="module")
def shop(module_database: Database) -> Connection:
    connection = module_database.superuser
    query(connection, "create schema shop")
    query(connection, "create table shop.orders (id integer, a integer, b float8)")
    query(connection, "select setseed(0.5)")
    query(
        connection,
        "insert into shop.orders select n, random() * 10, nullif(random(), 0) from generate_series(1, %s) as n",
        ROWS,
    )
    query(connection, "analyze shop.orders")
    return connection


@pytest.fixture
def detector(shop: Connection) -> Connection:
    """Return the connection; whatever detector a test makes is dropped behind it."""
    yield shop
    for name in query(shop, "select name from relief.detector"):
        query(shop, "select relief.drop_detector(%s)", name)


EAGER = (
    "set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; "
    "set max_parallel_workers_per_gather = 2"
)
SUMMED = (
    "select count(*), count(s), sum(s)::numeric(20, 6), min(s), max(s) from (select {} as s from shop.orders as o) as x"
)
SCORE = SUMMED.format("shop.relief_score(o)")


def _plan(connection: Connection, statement: str) -> str:
    return "\n".join(query(connection, f"explain (analyze, verbose, costs off, timing off, summary off) {statement}"))


def _results(connection: Connection, statement: str) -> tuple[list[object], list[object]]:
    """Return the results of the parallel and of the serial plan."""
    with connection.transaction(force_rollback=True):
        query(connection, EAGER)
        parallel = query(connection, statement)
    with connection.transaction(force_rollback=True):
        query(connection, "set max_parallel_workers_per_gather = 0")
        return parallel, query(connection, statement)


def _eager_plan(connection: Connection, statement: str) -> str:
    with connection.transaction(force_rollback=True):
        query(connection, EAGER)
        return _plan(connection, statement)


def test_workers_score_as_the_leader_does(detector: Connection) -> None:
    query(detector, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    train(detector, "orders")
    plan = _eager_plan(detector, SCORE)
    assert "Workers Launched: 2" in plan
    assert "relief._score(" in plan[plan.index("Gather") :]
    parallel, serial = _results(detector, SCORE)
    assert parallel == serial
    assert parallel[0][0] == ROWS
    rows = "select id, shop.relief_score(o) from shop.orders as o"
    parallel, serial = _results(detector, rows)
    assert sorted(parallel) == sorted(serial)


def test_workers_find_the_model_in_a_session_that_never_scored(detector: Connection, module_database: Database) -> None:
    query(detector, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    train(detector, "orders")
    expected = query(detector, SCORE)
    for leader_takes_part in ("on", "off"):
        with module_database.connect() as session:
            query(session, EAGER)
            query(session, f"set parallel_leader_participation = {leader_takes_part}")
            assert query(session, SCORE) == expected


def test_filter_and_order_by_score_run_in_workers(detector: Connection) -> None:
    query(detector, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    train(detector, "orders")
    score = "shop.relief_score(o)"
    strangest = f"select id from shop.orders as o where {score} > 0.6 order by {score} desc, id limit 20"
    assert "Workers Launched: 2" in _eager_plan(detector, strangest)
    parallel, serial = _results(detector, strangest)
    assert parallel == serial


def test_workers_of_a_user_without_rights_on_relief_score_too(detector: Connection, module_database: Database) -> None:
    query(detector, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    train(detector, "orders")
    user = module_database.role("user")
    query(detector, f"grant usage on schema shop to {user}")
    query(detector, f"grant select on shop.orders to {user}")
    with module_database.connect(user) as session:
        query(session, EAGER)
        assert "Workers Launched: 2" in _plan(session, SCORE)
        assert query(session, SCORE) == query(detector, SCORE)
    query(detector, f"revoke all on shop.orders from {user}; revoke all on schema shop from {user}")


# PL/Python that queries in a worker corrupts the interpreter before PostgreSQL 17: it must never get there.
UNSAFE = (
    "create function shop.asks(integer) returns integer language plpython3u stable as "
    "$$return plpy.execute('select %d as n' % args[0])[0]['n']$$"
)


@pytest.mark.parametrize(
    ("preparation", "expression"),
    [
        ("", "shop.asks(a)"),
        (
            "create function shop.wrapper(integer) returns integer language sql stable return shop.asks($1)",
            "shop.wrapper(a)",
        ),
        ("create operator shop.!! (rightarg = integer, procedure = shop.asks)", "operator(shop.!!) a"),
        ("create domain shop.checked as integer check (shop.asks(value) = value)", "a::shop.checked"),
    ],
    ids=["function", "inlined function", "operator", "domain"],
)  # fmt: skip
def test_feature_that_calls_what_is_parallel_unsafe_gets_a_serial_plan(
    detector: Connection, preparation: str, expression: str
) -> None:
    query(detector, UNSAFE)
    if preparation:
        query(detector, preparation)
    try:
        query(detector, "select relief.create_detector('orders', 'shop.orders', %s)", [f"{expression} AS asked"])
        add_model(detector, "orders", stump(["asked"], split=5.0))
        query(detector, "select relief.promote('orders')")
        plan = _eager_plan(detector, SCORE)
        assert "Gather" not in plan
        expected = value(detector, "select count(*) from shop.orders where a <= 5")
        assert value(detector, "select count(*) from shop.orders as o where shop.relief_score(o) = 0.5") == expected
        query(detector, "select relief.drop_detector('orders')")
    finally:
        query(detector, "drop function shop.asks cascade")


def test_relief_score_inlines_to_bare_expressions(detector: Connection) -> None:
    query(detector, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    add_model(detector, "orders", stump(["a", "log_b"]))
    query(detector, "select relief.promote('orders')")
    plan = "\n".join(query(detector, "explain (verbose, costs off) select shop.relief_score(o) from shop.orders as o"))
    assert "relief_score" not in plan
    assert "_relief_" not in plan
    assert "ARRAY[(a)::double precision, ln(b)]" in plan
