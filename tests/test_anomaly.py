"""What an application reads, anomalies and failures, and what it says of them."""

from __future__ import annotations

import pytest
from helpers.database import Database, query, refused, value
from helpers.shop import attach_orders
from helpers.world import World
from psycopg import Connection

LOW = "insert into shop.orders (a, b) values (-2, 1)"
FAILING = "insert into shop.orders (a, b) values (2, -6)"


@pytest.fixture
def orders(database: Database) -> Connection:
    """Return a connection to a database where a <= 0 is an anomaly of shop.orders, and b <= 0 a failure."""
    attach_orders(database.superuser)
    return database.superuser


def test_an_anomaly_is_read_with_its_label(orders: Connection) -> None:
    query(orders, LOW)
    ((event, *told),) = query(
        orders,
        "select event, detector, relation::text, key, score, verdict, rows, is_summary, quarantine, is_anomaly "
        "from relief.anomaly",
    )
    assert told == ["orders", "shop.orders", {"id": 501}, 0.5, "score", 1, False, None, None]
    for is_anomaly in (False, True, None):
        query(orders, "select relief.label_event(%s, %s, 'as seen')", event, is_anomaly)
        note = None if is_anomaly is None else "as seen"
        assert query(orders, "select is_anomaly, note from relief.anomaly") == [(is_anomaly, note)]
    assert value(orders, "select count(*) from relief.failure") == 0


def test_a_failure_is_read_with_its_reason(orders: Connection) -> None:
    query(orders, FAILING)
    told = query(orders, "select detector, relation::text, key, reason, rows, is_summary from relief.failure")
    assert told == [("orders", "shop.orders", {"id": 501}, "cannot take logarithm of a negative number", 1, False)]
    assert value(orders, "select count(*) from relief.anomaly") == 0
    event = value(orders, "select event from relief.failure")
    query(orders, "select relief.label_event(%s, true)", event)
    assert query(orders, "select key, is_anomaly from relief.label") == [({"id": 501}, True)]


def test_every_row_that_comes_before_a_model_is_a_failure(database: Database) -> None:
    attach_orders(database.superuser, rows=10)
    query(database.superuser, "select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    query(database.superuser, "select relief.detach('orders')")
    query(database.superuser, "select relief.attach('second')")
    query(database.superuser, LOW)
    assert query(database.superuser, "select reason from relief.failure") == ['detector "second" has no promoted model']


def test_the_time_of_scoring_is_told_of_anomalies(orders: Connection) -> None:
    query(orders, LOW)
    query(orders, FAILING)
    anomaly, failure = query(orders, "select scoring_ms from relief.event order by id")
    assert 0 < anomaly < 60_000
    assert failure is None


def test_views_show_what_belongs_to_the_reader(attached_world: World) -> None:
    world = attached_world
    query(world.user, "insert into shop.orders (a, b) values (-2, 1), (2, -6)")
    for view in ("anomaly", "failure"):
        counted = f"select count(*) from relief.{view}"
        assert value(world.app, counted) == 1
        assert value(world.mallory, counted) == 0
        for other in (world.user, world.scorer):
            with refused("42501"):
                query(other, counted)
    event = value(world.app, "select event from relief.anomaly")
    with refused("P0002", f"event {event} does not exist", "select event, sentence from relief.anomaly"):
        query(world.mallory, "select relief.label_event(%s, false)", event)
    query(world.app, "select relief.label_event(%s, false)", event)
    assert query(world.app, "select key, is_anomaly from relief.label") == [({"id": 21}, False)]


def test_events_that_name_no_row_can_not_be_labelled(orders: Connection) -> None:
    query(orders, "select relief.set_mode('orders', 'flag', events_per_second => 1)")
    query(orders, "insert into shop.orders (a, b) values (-2, 1), (-2, 1)")
    _, summary = query(orders, "select event from relief.anomaly order by event")
    with refused("0A000", f"event {summary} names no row", "a summary of many: label rows by their key"):
        query(orders, "select relief.label_event(%s, false)", summary)
    query(orders, "alter table shop.orders drop constraint orders_pkey")
    query(orders, "select relief.set_mode('orders', 'flag', events_per_second => 100)")
    query(orders, LOW)
    event = value(orders, "select max(event) from relief.anomaly")
    with refused("0A000", f"event {event} names no row", "Table shop.orders has no primary key"):
        query(orders, "select relief.label_event(%s, false)", event)
    with refused("P0002", "event 0 does not exist", "from relief.anomaly order by event desc;"):
        query(orders, "select relief.label_event(0, false)")


def test_the_row_of_an_event_is_labelled_once_it_is_released(orders: Connection) -> None:
    query(orders, "select relief.set_mode('orders', 'quarantine')")
    query(orders, LOW)
    ((event, held),) = query(orders, "select event, quarantine_id from relief.anomaly")
    with refused("55000", f"the row of event {event} is not in table shop.orders", f"select relief.release({held});"):
        query(orders, "select relief.label_event(%s, true)", event)
    query(orders, "select relief.release(%s)", held)
    query(orders, "select relief.label_event(%s, true)", event)
    assert query(orders, "select quarantine, is_anomaly from relief.anomaly") == [("released", True)]
