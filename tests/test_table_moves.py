"""The table is renamed, moved, or made anew: its detector follows, and nobody else's table inherits its models."""

from __future__ import annotations

import pytest
from helpers.changes import ANOMALY, CHECK, advice, attach, broken
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import COMPANIONS, FEATURES
from psycopg import Connection

# What a training, a refresh and a backtest ask for: a row whose features fail has none.
GUARDED = "select count(depot._relief_guarded_orders(o.a, o.b)) from depot.orders as o"


@pytest.fixture
def attached(orders: Connection) -> Connection:
    return attach(orders)


def test_renamed_table_is_followed_at_once(attached: Connection) -> None:
    query(attached, "alter table shop.orders rename to sales")
    assert query(attached, "select relation::text, state, problems from relief.status") == [
        ("shop.sales", "ready", None)
    ]
    assert value(attached, CHECK) == "ok"
    assert query(attached, f"insert into shop.sales (a, b) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]
    assert value(attached, "select shop.relief_score(o) from shop.sales as o order by id desc limit 1") == 0.5


def test_table_moved_to_another_schema(attached: Connection) -> None:
    query(attached, "create schema depot; alter table shop.orders set schema depot")
    inserted = f"insert into depot.orders (a, b) values (-2, 1) returning {COMPANIONS}"
    assert query(attached, inserted) == [ANOMALY]
    found = broken(attached)
    assert found == (
        "table depot.orders was in schema shop when the detector was made; select relief.regenerate('orders');"
    )
    query(attached, advice(found))
    assert value(attached, CHECK) == "ok"
    assert query(attached, inserted) == [ANOMALY]
    assert value(attached, "select count(depot.relief_score(o)) from depot.orders as o") == 502
    assert value(attached, GUARDED) == 502
    assert value(attached, "select count(*) from pg_proc where pronamespace = 'shop'::regnamespace") == 0
    add_model(attached, "orders", stump(FEATURES, split=9.0))
    query(attached, "select relief.promote('orders')")
    query(attached, "select relief.drop_detector('orders', true)")


def test_schema_is_renamed(attached: Connection) -> None:
    query(attached, "alter schema shop rename to depot")
    inserted = f"insert into depot.orders (a, b) values (-2, 1) returning {COMPANIONS}"
    assert query(attached, inserted)[0][0] is None
    query(attached, advice(broken(attached)))
    assert value(attached, CHECK) == "ok"
    assert query(attached, inserted) == [ANOMALY]
    assert value(attached, GUARDED) == 502


def test_table_is_dropped_and_created_again(attached: Connection) -> None:
    with refused("2BP01"):
        query(attached, "drop table shop.orders")
    query(attached, "drop table shop.orders cascade")
    found = broken(attached)
    assert found == "table shop.orders is gone; select relief.drop_detector('orders');"
    query(attached, "create table shop.orders (note text, b float8, id serial primary key, a bigint)")
    assert query(attached, "insert into shop.orders (a, b) values (-2, 1) returning a") == [-2]
    found = broken(attached)
    assert found == "table shop.orders was dropped and created again; select relief.regenerate('orders');"
    query(attached, advice(found))
    assert value(attached, CHECK) == "ok"
    assert query(attached, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]
    assert query(attached, "select shop.relief_score(o) from shop.orders as o") == [0.5, 0.5]
    query(attached, "call relief.backfill('orders')")
    assert value(attached, "select count(*) from shop.orders where relief_model_version is null") == 0


def test_another_ones_table_of_the_old_name_does_not_inherit_the_models(
    database: Database, attached: Connection
) -> None:
    thief = database.role("thief")
    query(attached, f"grant create on schema shop to {thief}")
    query(attached, "drop table shop.orders cascade")
    query(database.connect(thief), "create table shop.orders (id integer, a integer, b float8)")
    assert broken(attached) == "table shop.orders is gone; select relief.drop_detector('orders');"
    with refused("42P01", 'table shop.orders of detector "orders" does not exist any more', "relief.drop_detector("):
        query(attached, "select relief.regenerate('orders')")
