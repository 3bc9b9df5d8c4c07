"""Readers of events: each reads every event at least once, also one whose transaction commits late."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.database import Database, query, refused, value
from helpers.shop import attach_orders
from psycopg import Connection

LOW = "insert into shop.orders (a, b) values (-2, 1)"


@pytest.fixture
def orders(database: Database) -> Connection:
    """Return a connection to a database where "mailer" reads the events of shop.orders: a <= 0."""
    attach_orders(database.superuser, ", events_per_second => 10000")
    query(database.superuser, "select relief.subscribe('orders', 'mailer')")
    return database.superuser


def _next(connection: Connection, count: int = 100) -> list[tuple[str, int]]:
    """Return what is next for "mailer": batch and key of each event."""
    rows = query(
        connection, "select batch::text, event, content from relief.next_events('orders', 'mailer', %s)", count
    )
    return [(batch, event, content["key"]["id"]) for batch, event, content in rows]


def _confirm(connection: Connection, batch: str, event: int, *_: object) -> None:
    query(connection, "select relief.confirm('orders', 'mailer', %s, %s)", batch, event)


def _read(connection: Connection, count: int = 100) -> list[Any]:
    """Read what is next, confirm it, and return the keys."""
    events = _next(connection, count)
    if events:
        _confirm(connection, *events[-1])
    return [key for _, _, key in events]


def test_an_event_is_returned_until_it_is_confirmed(orders: Connection) -> None:
    assert _next(orders) == []
    for _ in range(3):
        query(orders, LOW)
    events = _next(orders)
    assert [key for *_, key in events] == [501, 502, 503]
    assert _next(orders) == events
    _confirm(orders, *events[1])
    assert _next(orders) == events[2:]
    _confirm(orders, *events[0])
    assert _next(orders) == events[2:]
    _confirm(orders, *events[2])
    assert _next(orders) == []
    query(orders, LOW)
    assert _read(orders) == [504]
    assert _read(orders) == []


def test_an_event_that_commits_late_is_read_though_later_ones_were(database: Database, orders: Connection) -> None:
    late, later = database.connect(), database.connect()
    late.execute("begin")
    query(late, LOW)
    later.execute("begin")
    query(later, LOW)
    query(orders, LOW)
    assert _read(orders) == [503]
    assert _read(orders) == []
    later.execute("commit")
    query(orders, LOW)
    assert _read(orders) == [502, 504]
    # In the midst of a batch, what commits waits for the next one.
    query(orders, LOW)
    query(orders, LOW)
    events = _next(orders, 1)
    late.execute("commit")
    _confirm(orders, *events[0])
    assert [events[0][2], *_read(orders), *_read(orders), *_read(orders)] == [505, 506, 501]


def test_an_event_of_a_savepoint_is_read_and_one_rolled_back_is_not(database: Database, orders: Connection) -> None:
    late = database.connect()
    with late.transaction():
        with late.transaction():
            query(late, LOW)
        with late.transaction(force_rollback=True):
            query(late, LOW)
        query(orders, LOW)
        assert _read(orders) == [503]
        query(late, LOW)
    assert _read(orders) == [501, 504]


def test_no_event_is_lost_whatever_the_order_of_commits(database: Database, orders: Connection) -> None:
    writers = [database.connect() for _ in range(4)]
    read: list[int] = []
    expected = set()
    for number in range(60):
        writer = writers[number * 7 % 4]
        if writer.info.transaction_status.name == "INTRANS" and number % 3 == 0:
            writer.execute("rollback" if number % 5 == 0 else "commit")
        writer.execute("begin") if writer.info.transaction_status.name == "IDLE" else None
        query(writer, LOW)
        if number % 2:
            read += _read(orders, 1 + number % 3)
    for writer in writers:
        writer.execute("commit")
    expected = set(query(orders, "select id from shop.orders where id > 500"))
    while more := _read(orders, 5):
        read += more
    assert len(read) == len(set(read))
    assert set(read) == expected


def test_a_reader_begins_at_a_moment_or_with_what_comes(orders: Connection) -> None:
    query(orders, LOW)
    moment = value(orders, "select clock_timestamp()")
    query(orders, LOW)
    told = "select content -> 'key' -> 'id' from relief.next_events('orders', %s)"
    for name, since, expected in (("all", "-infinity", [501, 502]), ("some", moment, [502]), ("new", None, [])):
        assert value(orders, "select relief.subscribe('orders', %s, %s)", name, since) is True
        assert query(orders, told, name) == expected
        assert value(orders, "select relief.subscribe('orders', %s)", name) is False
        assert query(orders, told, name) == expected
    query(orders, LOW)
    assert query(orders, told, "new") == [503]


def test_a_reader_is_told_nothing_of_a_former_detector_of_the_same_name(orders: Connection) -> None:
    query(orders, LOW)
    query(orders, "select relief.drop_detector('orders', drop_columns => true)")
    query(orders, "drop table shop.orders")
    attach_orders(orders, schema=False)
    query(orders, LOW)
    query(orders, "select relief.subscribe('orders', 'all', '-infinity')")
    assert value(orders, "select count(*) from relief.event where detector = 'orders'") == 2
    assert len(query(orders, "select from relief.next_events('orders', 'all')")) == 1


def test_what_is_told_of_an_event_is_all_that_an_application_needs(orders: Connection) -> None:
    query(orders, "insert into shop.orders (a, b) values (-2, 1), (2, -6)")
    anomaly, failure = query(orders, "select content from relief.next_events('orders', 'mailer')")
    assert (anomaly["kind"], anomaly["detector"], anomaly["relation"]) == ("anomaly", "orders", "shop.orders")
    assert (anomaly["key"], anomaly["score"], anomaly["rows"]) == ({"id": 501}, 0.5, 1)
    assert anomaly["happened_at"].endswith("Z")
    assert (failure["kind"], failure["error"]) == ("failure", "cannot take logarithm of a negative number")


def test_idle_readers_write_nothing(orders: Connection) -> None:
    state = "select xmin::text, s::text from relief.subscription as s"
    query(orders, LOW)
    _read(orders)
    _read(orders)
    before = query(orders, state)
    for _ in range(3):
        assert _next(orders) == []
    assert query(orders, state) == before


def test_a_second_reader_of_a_subscription_is_told(orders: Connection) -> None:
    query(orders, LOW)
    one = _next(orders)
    _confirm(orders, *_next(orders)[0])
    query(orders, LOW)
    assert [key for *_, key in _next(orders)] == [502]
    message = 'subscription "mailer" of detector "orders" is not reading batch'
    with refused("55000", message, "give each a subscription of its own, or let one read."):
        _confirm(orders, *one[0])
    assert _read(orders) == [502]


def test_readers_that_are_not_there_and_names_that_can_not_be_are_refused(orders: Connection) -> None:
    for statement in (
        "select * from relief.next_events('orders', 'nobody')",
        "select relief.confirm('orders', 'nobody', '1:1:', 1)",
        "select relief.unsubscribe('orders', 'nobody')",
    ):
        with refused(
            "42704", 'detector "orders" has no subscription "nobody"', "relief.subscribe('orders', 'nobody');"
        ):
            query(orders, statement)
    with refused("42704", 'detector "nope" does not exist'):
        query(orders, "select relief.subscribe('nope', 'mailer')")
    for name in ("", None):
        with refused("22023", "the name of the subscription is empty", "Name it as what reads: 'mailer'."):
            query(orders, "select relief.subscribe('orders', %s)", name)
    for count in (0, None):
        with refused(
            "22003", f"max_events is {'NULL' if count is None else count}, not at least 1", "100 is the default."
        ):
            query(orders, "select * from relief.next_events('orders', 'mailer', %s)", count)
    query(orders, "select relief.unsubscribe('orders', 'mailer')")
    assert query(orders, "select * from relief.subscription") == []


def test_a_restored_reader_begins_an_hour_before_it_last_moved(orders: Connection) -> None:
    # As a dump is restored: rows with the times and snapshots of then.
    query(
        orders,
        "insert into relief.event (detector, relation, key, happened_at) "
        "select 'orders', 'shop.orders', jsonb_build_object('id', n), now() - n * interval '40 minutes' "
        "from generate_series(1, 5) as n",
    )
    query(
        orders,
        "insert into relief.subscription select id, 'restored', '-infinity', '9999999:9999999:', '9999999:9999999:', "
        "77, now() - interval '1 hour' from relief.detector",
    )
    restored = query(orders, "select content -> 'key' -> 'id' from relief.next_events('orders', 'restored')")
    assert restored == [1, 2]


def test_reading_what_is_new_does_not_read_what_is_old(orders: Connection) -> None:
    query(
        orders,
        "insert into relief.event (detector, relation) select 'orders', 'shop.orders' from generate_series(1, 5000)",
    )
    query(orders, "analyze relief.event")
    while events := _next_of(orders, "mailer"):
        _confirm(orders, *events[-1])
    query(orders, "vacuum analyze relief.event")
    query(orders, LOW)
    touched = "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relid = 'relief.event'::regclass"
    with orders.transaction():
        before = value(orders, touched) or 0
        assert _read(orders) == [501]
        assert value(orders, touched) - before < 100


def _next_of(connection: Connection, name: str) -> list[tuple[str, int]]:
    return query(connection, "select batch::text, event from relief.next_events('orders', %s, 1000)", name)
