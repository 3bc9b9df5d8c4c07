"""Partitions come and go: those of tomorrow are scored, and check tells of rows that no trigger has seen."""

from __future__ import annotations

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, told
from helpers.shop import COMPANIONS, FEATURES
from psycopg import Connection

ANOMALY = (0.5, True, {"a": told(-1.0), "log_b": told(0.0)}, 1)
UNSCORED = (None, None, None, None)
CHECK = "select result from relief.check() where \"check\" = 'detector orders'"
BARE = "day integer, a integer, b float8"
ADDED = "relief_anomaly_score float8, relief_is_anomaly boolean, relief_deviation jsonb, relief_model_version integer"


@pytest.fixture
def orders(database: Database) -> Connection:
    """Return a connection to a database where "orders" is attached to a partitioned table."""
    connection = database.superuser
    query(connection, f"create schema shop; create table shop.orders ({BARE}) partition by list (day)")
    query(connection, "create table shop.day_1 partition of shop.orders for values in (1)")
    query(connection, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders'); select relief.attach('orders')")
    return connection


def _mend(connection: Connection) -> None:
    """Run the statement that check tells."""
    (statement,) = [line.split("; ", 1)[1] for line in value(connection, CHECK).splitlines()]
    query(connection, statement)


def test_partitions_made_later_are_scored(orders: Connection) -> None:
    query(orders, "create table shop.day_2 partition of shop.orders for values in (2, 3) partition by range (a)")
    query(orders, "create table shop.day_2_low partition of shop.day_2 for values from (-10) to (0)")
    query(orders, "create table shop.rest partition of shop.orders default")
    for day in (1, 2, 9):
        inserted = f"insert into shop.orders (day, a, b) values ({day}, -2, 1) returning {COMPANIONS}"
        assert query(orders, inserted) == [ANOMALY]
    assert query(orders, f"insert into shop.day_2_low (day, a, b) values (3, -2, 1) returning {COMPANIONS}") == [
        ANOMALY
    ]
    assert value(orders, CHECK) == "ok"
    moved = f"update shop.orders set day = 3 where day = 1 returning {COMPANIONS}"
    assert query(orders, moved) == [ANOMALY]


def test_table_needs_the_columns_to_become_a_partition(orders: Connection) -> None:
    query(orders, f"create table shop.day_2 ({BARE})")
    with refused("42804", "child table is missing column"):
        query(orders, "alter table shop.orders attach partition shop.day_2 for values in (2)")


def test_check_tells_of_rows_that_an_attached_partition_brings(orders: Connection) -> None:
    query(orders, f"create table shop.day_2 ({ADDED}, {BARE}); insert into shop.day_2 (day, a, b) values (2, -2, 1)")
    query(orders, "alter table shop.orders attach partition shop.day_2 for values in (2)")
    assert query(orders, f"insert into shop.orders (day, a, b) values (2, -2, 1) returning {COMPANIONS}") == [ANOMALY]
    told_of = (
        "partition shop.day_2 of table shop.orders has brought rows that aren't scored; call relief.backfill('orders');"
    )
    assert value(orders, CHECK) == told_of
    query(orders, "select relief.refresh_profile('orders')")
    assert value(orders, CHECK) == told_of
    _mend(orders)
    assert value(orders, CHECK) == "ok"
    assert query(orders, "select relief_anomaly_score from shop.day_2") == [0.5, 0.5]


def test_empty_table_may_become_a_partition_without_a_word(orders: Connection) -> None:
    query(orders, f"create table shop.day_2 ({ADDED}, {BARE})")
    query(orders, "alter table shop.orders attach partition shop.day_2 for values in (2)")
    assert value(orders, CHECK) == "ok"


@pytest.mark.parametrize("noted_by", ["attach", "refresh"])
def test_check_tells_of_a_detached_partition(orders: Connection, noted_by: str) -> None:
    leaf = "shop.day_1" if noted_by == "attach" else "shop.day_2"
    if noted_by == "refresh":
        query(orders, "create table shop.day_2 partition of shop.orders for values in (2)")
        query(orders, "insert into shop.orders (day, a, b) values (2, -2, 1)")
        query(orders, "select relief.refresh_profile('orders')")
    query(orders, f"alter table shop.orders detach partition {leaf}")
    assert query(orders, f"insert into {leaf} (day, a, b) values (1, -2, 1) returning {COMPANIONS}") == [UNSCORED]
    assert value(orders, CHECK) == (
        f"table {leaf} was detached from table shop.orders: what is written to it isn't scored; "
        "call relief.backfill('orders'); -- takes the partitions as they are"
    )
    _mend(orders)
    assert value(orders, CHECK) == "ok"


def test_detached_partition_with_a_detector_of_its_own_is_in_order(orders: Connection) -> None:
    query(orders, "alter table shop.orders detach partition shop.day_1")
    query(orders, "select relief.create_detector('day_1', 'shop.day_1', '{a, ln(b) AS log_b}')")
    add_model(orders, "day_1", stump(FEATURES))
    query(orders, "select relief.promote('day_1'); select relief.attach('day_1')")
    assert set(query(orders, "select result from relief.check()")) == {"ok"}
    assert query(orders, f"insert into shop.day_1 (day, a, b) values (1, -2, 1) returning {COMPANIONS}") == [ANOMALY]


def test_dropped_partition_is_no_matter(orders: Connection) -> None:
    query(orders, "drop table shop.day_1")
    assert value(orders, CHECK) == "ok"


def test_check_tells_of_a_child_table_that_came_later(database: Database) -> None:
    connection = database.superuser
    query(connection, "create table public.orders (a integer, b float8)")
    query(connection, "select relief.create_detector('orders', 'public.orders', '{a, ln(b) AS log_b}')")
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders'); select relief.attach('orders')")
    query(connection, "create table public.child () inherits (public.orders)")
    assert query(connection, f"insert into public.child (a, b) values (-2, 1) returning {COMPANIONS}") == [UNSCORED]
    assert value(connection, CHECK) == (
        "what is written to table public.child, which inherits from table public.orders, isn't scored; "
        "alter table public.child no inherit public.orders;"
    )
    _mend(connection)
    assert value(connection, CHECK) == "ok"


def test_trigger_that_sorts_behind_is_renamed_by_what_check_tells(orders: Connection) -> None:
    query(
        orders,
        "create function shop.negate() returns trigger language plpgsql as "
        "$$ begin new.a := -new.a; return new; end $$;"
        'create trigger "~z" before insert on shop.orders for each row execute function shop.negate()',
    )
    inserted = "insert into shop.orders (day, a, b) values (1, 2, 1) returning a, relief_anomaly_score"
    assert query(orders, inserted) == [(-2, 0.125)]
    assert value(orders, CHECK) == (
        'trigger "~z" on table shop.orders fires after "~relief"; alter trigger "~z" on shop.orders rename to "a_~z";'
    )
    _mend(orders)
    if orders.info.server_version < 150000:  # there, each partition's trigger is renamed for itself
        _mend(orders)
    assert value(orders, CHECK) == "ok"
    assert query(orders, inserted) == [(-2, 0.5)]
