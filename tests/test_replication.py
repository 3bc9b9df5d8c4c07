"""Logical replication: what a subscription applies is scored on the subscriber where that was asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from helpers.database import Database, query
from helpers.forests import add_model, stump
from helpers.shop import FEATURES

pytestmark = pytest.mark.pgoutput
SCORES = "select a, relief_anomaly_score from shop.orders order by id"


@pytest.fixture
def publisher(database: Database, empty_database: Database) -> Database:
    """Return a database that publishes a table of two rows."""
    query(
        empty_database.superuser,
        "create schema shop; create table shop.orders (id integer primary key, a integer, b float8);"
        "insert into shop.orders values (1, -2, 1), (2, 2, 1); create publication orders for table shop.orders",
    )
    query(empty_database.superuser, "select pg_create_logical_replication_slot('orders', 'pgoutput')")
    return empty_database


@pytest.fixture(params=[True, False], ids=["on_replica", "by_default"])
def subscriber(request: pytest.FixtureRequest, publisher: Database, database: Database) -> Iterator[Database]:
    """Return a database whose attached table subscribes to it."""
    connection = database.superuser
    query(connection, "create schema shop; create table shop.orders (id integer primary key, a integer, b float8)")
    query(connection, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders')")
    query(connection, "select relief.attach('orders', on_replica => %s)", request.param)
    query(
        connection,
        f"create subscription orders connection '{publisher.dsn()}' publication orders "
        "with (create_slot = false, slot_name = 'orders')",
    )
    database.on_replica = request.param
    try:
        yield database
    finally:
        query(connection, "alter subscription orders disable")
        query(connection, "alter subscription orders set (slot_name = none)")
        query(connection, "drop subscription orders")
        _drop_slot(publisher)


def test_applied_rows_are_scored_where_that_was_asked_for(publisher: Database, subscriber: Database) -> None:
    scored = subscriber.on_replica
    low, high = (0.5, 0.125) if scored else (None, None)
    _wait(subscriber, [(-2, low), (2, high)])
    publisher.query("insert into shop.orders values (3, -3, 1), (4, 3, 1)")
    _wait(subscriber, [(-2, low), (2, high), (-3, low), (3, high)])
    publisher.query("update shop.orders set a = -a where id = 4")
    publisher.query("delete from shop.orders where id = 3")
    _wait(subscriber, [(-2, low), (2, high), (-3, low)])
    assert subscriber.query("select (key ->> 'id')::integer from relief.event order by 1") == ([1, 3] if scored else [])
    subscriber.query("call relief.backfill('orders')")
    assert subscriber.query(SCORES) == [(-2, 0.5), (2, 0.125), (-3, 0.5)]
    assert set(subscriber.query("select result from relief.check()")) == {"ok"}


def _wait(subscriber: Database, rows: list[object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while (arrived := subscriber.query(SCORES)) != rows:
        assert time.monotonic() < deadline, arrived
        time.sleep(0.02)


def _drop_slot(publisher: Database) -> None:
    """Drop the slot as soon as the worker that reads it has gone."""
    active = "select active from pg_replication_slots where slot_name = 'orders'"
    deadline = time.monotonic() + 60.0
    while publisher.value(active) and time.monotonic() < deadline:
        time.sleep(0.02)
    publisher.query("select pg_drop_replication_slot('orders')")
