"""Many anomalies at once: few events, one of which counts the others, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.database import Database, query, value
from helpers.shop import attach_orders
from psycopg import Connection

# of shop.orders with b: a <= 0 is an anomaly.
STORM = "insert into shop.orders (a, b) select -2, 1 from generate_series(1, %s)"
TOLD = "select is_summary, rows, key is null from relief.anomaly order by event"


@pytest.fixture
def orders(database: Database) -> Connection:
    """Return a connection to a database where shop.orders may leave 10 events a second."""
    attach_orders(database.superuser, ", events_per_second => 10")
    return database.superuser


def test_a_statement_leaves_as_many_events_as_are_allowed_and_one_that_counts_the_others(orders: Connection) -> None:
    query(orders, STORM, 1000)
    assert query(orders, TOLD) == [(False, 1, False)] * 10 + [(True, 990, True)]
    assert value(orders, "select count(*) from shop.orders where relief_is_anomaly and id > 500") == 1000
    (sentence,) = query(orders, "select sentence from relief.anomaly where is_summary")
    assert sentence == "more than 10 a second or in a transaction: these rows are not told one by one"


def test_a_transaction_has_one_summary_whatever_it_is_made_of(orders: Connection) -> None:
    with orders.transaction():
        query(orders, STORM, 100)
        for _ in range(5):
            query(orders, STORM, 1)
        query(orders, STORM, 100)
    assert query(orders, TOLD) == [(False, 1, False)] * 10 + [(True, 195, True)]


def test_what_is_rolled_back_leaves_nothing_and_the_next_transaction_is_told(orders: Connection) -> None:
    with orders.transaction(force_rollback=True):
        query(orders, STORM, 100)
    assert query(orders, TOLD) == []
    query(orders, STORM, 100)
    told = query(orders, TOLD)
    assert sum(rows for _, rows, _ in told) == 100
    assert [is_summary for is_summary, _, _ in told].count(True) == 1


def test_a_savepoint_that_takes_the_summary_with_it_loses_no_row(orders: Connection) -> None:
    with orders.transaction():
        query(orders, STORM, 10)
        with orders.transaction(force_rollback=True):
            query(orders, STORM, 50)
        query(orders, STORM, 7)
    ((_, rows, _),) = query(orders, TOLD)[10:]
    # Those of the savepoint may be among them; none that arrived is missing.
    assert 7 <= rows <= 57


def test_constraints_that_are_made_immediate_settle_a_summary_and_begin_another(orders: Connection) -> None:
    with orders.transaction():
        query(orders, STORM, 30)
        query(orders, "set constraints all immediate")
        query(orders, STORM, 5)
        query(orders, "set constraints all deferred")
        query(orders, STORM, 5)
    told = query(orders, TOLD)
    assert sum(rows for _, rows, _ in told) == 40
    assert told[:11] == [(False, 1, False)] * 10 + [(True, 20, True)]
    assert told[11:] == [(True, 1, True)] * 5 + [(True, 5, True)]


def test_a_million_small_transactions_would_be_counted_each(orders: Connection) -> None:
    for _ in range(200):
        query(orders, STORM, 1)
    assert value(orders, "select sum(rows) from relief.anomaly") == 200


def test_failures_have_an_allowance_of_their_own(orders: Connection) -> None:
    query(
        orders,
        "insert into shop.orders (a, b) select n, case when n % 2 = 0 then 1 else -6 end "
        "from generate_series(-999, 0) as n",
    )
    assert query(orders, TOLD) == [(False, 1, False)] * 10 + [(True, 490, True)]
    assert query(orders, "select is_summary, rows, reason from relief.failure order by event") == [
        (is_summary, rows, "cannot take logarithm of a negative number")
        for is_summary, rows in [(False, 1)] * 10 + [(True, 490)]
    ]


def test_the_allowance_of_one_detector_is_not_anothers(database: Database, orders: Connection) -> None:
    query(orders, "create table shop.more (like shop.orders including all)")
    query(orders, "alter table shop.more drop column relief_anomaly_score, drop column relief_is_anomaly")
    query(orders, "select relief.create_detector('more', 'shop.more', '{a, ln(b) AS log_b}')")
    from helpers.forests import add_model, stump

    add_model(orders, "more", stump(["a", "log_b"]))
    query(orders, "select relief.promote('more')")
    query(orders, "select relief.attach('more', events_per_second => 3)")
    with orders.transaction():
        query(orders, STORM, 20)
        query(orders, STORM.replace("orders", "more"), 20)
    counted = "select detector, rows, count(*) from relief.anomaly group by 1, 2 order by 1, 2"
    assert query(orders, counted) == [("more", 1, 3), ("more", 17, 1), ("orders", 1, 10), ("orders", 10, 1)]


def test_a_storm_does_not_flood_those_who_listen(database: Database, orders: Connection) -> None:
    query(orders, "select relief.set_mode('orders', 'notify')")
    listener = database.connect()
    query(listener, "listen relief_orders")
    query(orders, STORM, 1000)
    query(listener, "select 1")
    heard = [json.loads(notice.payload) for notice in listener.notifies(timeout=0)]
    events = query(orders, "select event from relief.anomaly order by event")
    assert [told["event"] for told in heard] == events
    assert heard[-1] == {"event": events[-1], "detector": "orders", "is_summary": True}
    # Each of many small transactions has its summary, but few of them are told.
    for _ in range(100):
        query(orders, STORM, 1)
    query(listener, "select 1")
    summaries = value(orders, "select count(*) from relief.anomaly where is_summary")
    heard = [json.loads(notice.payload) for notice in listener.notifies(timeout=0)]
    assert sum("is_summary" in told for told in heard) < summaries


def test_every_anomaly_of_a_storm_is_held_back(orders: Connection) -> None:
    query(orders, "select relief.set_mode('orders', 'quarantine')")
    query(orders, STORM, 1000)
    assert value(orders, "select count(*) from shop.orders where id > 500") == 0
    assert value(orders, "select count(*) from relief.quarantine where state = 'held'") == 1000
    assert query(orders, TOLD) == [(False, 1, False)] * 10 + [(True, 990, True)]


def test_nobody_can_write_a_summary_of_a_transaction_of_others(database: Database, orders: Connection) -> None:
    query(
        orders,
        "insert into relief.event (detector, relation, transaction, is_summary) "
        "values ('orders', 'shop.orders', '1', true)",
    )
    assert query(orders, "select transaction::text <> '1', rows from relief.event") == [(True, 1)]


def _memory(connection: Connection) -> int:
    """Return how much memory the session's process holds, in kB."""
    pid = connection.info.backend_pid
    status = Path(f"/proc/{pid}/status")
    return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("RssAnon")))


def _storm(connection: Connection, rows: int) -> None:
    query(connection, STORM, 10_000)
    before = _memory(connection)
    query(connection, STORM, rows)
    assert query(connection, "select sum(rows) from relief.anomaly") == [10_000 + rows]
    assert value(connection, "select count(*) from relief.event") <= 2 * (10 + 1)
    # What PostgreSQL itself keeps of a row for an AFTER trigger is a dozen bytes.
    assert _memory(connection) - before < 20_000 + rows * 30 / 1000


def test_a_large_load_of_anomalies_goes_in_and_its_memory_is_flat(orders: Connection) -> None:
    _storm(orders, 20_000)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["flag", "notify", "quarantine"])
def test_a_million_anomalies_neither_flood_nor_stop(database: Database, mode: str) -> None:
    connection = database.superuser
    attach_orders(connection, f", events_per_second => 10, mode => '{mode}'")
    listener = database.connect()
    query(listener, "listen relief_orders")
    _storm(connection, 1_000_000)
    query(listener, "select 1")
    heard = {json.loads(notice.payload)["event"] for notice in listener.notifies(timeout=0)}
    events = query(connection, "select event, is_summary from relief.anomaly")
    # How many depends on how long it took; each single one is told, and of the summaries one at most a second.
    assert {event for event, is_summary in events if not is_summary} <= heard or mode != "notify"
    assert heard <= {event for event, _ in events}
    assert bool(heard) == (mode == "notify")
