"""Row-level security: scoring shows nobody a row that he can't see, and check tells where it hides rows from Relief."""

from __future__ import annotations

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import FEATURES
from psycopg import Connection

CHECK = "select result from relief.check() where \"check\" = 'detector orders'"


@pytest.fixture
def app(database: Database) -> Connection:
    """Return the connection of a role whose table shows every role its own rows, with "orders" attached."""
    role = database.role("app")
    database.query(f"select relief.grant_admin('{role}'); create schema shop authorization {role}")
    connection = database.connect(role)
    query(
        connection,
        "create table shop.orders (id integer primary key, a integer, b float8, owner name default current_user);"
        "alter table shop.orders enable row level security;"
        "create policy own on shop.orders using (owner = current_user)",
    )
    query(connection, "insert into shop.orders select n, n - 5, 1, 'nobody' from generate_series(1, 10) as n")
    query(connection, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders'); select relief.attach('orders')")
    return connection


@pytest.fixture
def guest(database: Database, app: Connection) -> Connection:
    """Return the connection of a role that may read and write the table, and score by name."""
    role = database.role("guest")
    database.query(f"select relief.grant_usage('{role}')")
    query(app, f"grant usage on schema shop to {role}; grant select, insert, update, delete on shop.orders to {role}")
    query(app, f"insert into shop.orders values (11, -3, 1, '{role}')")
    return database.connect(role)


def test_only_visible_rows_are_scored_in_a_query(app: Connection, guest: Connection) -> None:
    assert query(guest, "select id, shop.relief_score(o) from shop.orders as o") == [(11, 0.5)]
    assert query(guest, "select distinct id from shop.orders, lateral shop.relief_explain(orders)") == [11]
    assert len(query(app, "select shop.relief_score(o) from shop.orders as o")) == 11


def test_what_a_query_calls_first_sees_no_hidden_row(guest: Connection) -> None:
    told: list[str] = []
    guest.add_notice_handler(lambda notice: told.append(notice.message_primary))
    query(
        guest,
        "create function pg_temp.leak(float8, integer) returns boolean language plpgsql cost 0.0000001 as "
        "$$ begin raise notice '% %', $1, $2; return true; end $$",
    )
    query(guest, "select from shop.orders as o where pg_temp.leak(shop.relief_score(o), o.a)")
    assert told == ["0.5 -3"]


def test_expression_that_fails_on_a_hidden_row_says_nothing(app: Connection, guest: Connection) -> None:
    query(app, "insert into shop.orders values (12, 1, -1, 'nobody')")
    assert query(guest, "select shop.relief_score(o) from shop.orders as o") == [0.5]
    with refused("2201E"):
        query(app, "select shop.relief_score(o) from shop.orders as o")


def test_written_rows_are_scored_and_hidden_ones_are_left(app: Connection, guest: Connection) -> None:
    inserted = "insert into shop.orders (id, a, b) values (13, -2, 1) returning relief_anomaly_score"
    assert query(guest, inserted) == [0.5]
    assert query(guest, "update shop.orders set a = 2 returning id, relief_anomaly_score") == [(11, 0.125), (13, 0.125)]
    with refused("42501", "new row violates row-level security policy"):
        query(guest, "insert into shop.orders (id, a, b, owner) values (14, -2, 1, 'nobody')")
    assert query(app, "select key from relief.event order by id") == [{"id": 11}, {"id": 13}]
    with refused("42501"):
        query(guest, "select * from relief.event")


def test_row_given_by_name_is_compared_with_no_row_of_the_table(guest: Connection) -> None:
    assert value(guest, 'select relief.score(\'orders\', \'{"id": 1, "a": -2, "b": 1}\')') == 0.5


def test_check_tells_where_policies_hide_rows_from_the_owner(app: Connection) -> None:
    assert value(app, CHECK) == "ok"
    query(app, "alter table shop.orders force row level security")
    found = value(app, CHECK)
    assert found == (
        "row-level security is forced on the owner of table shop.orders: training, histories and backfill know only "
        "the rows that its policies show; alter table shop.orders no force row level security;"
    )
    query(app, "call relief.backfill('orders')")
    query(app, found.split("; ", 1)[1])
    assert value(app, "select count(*) from shop.orders where relief_anomaly_score is null") == 10
    query(app, "call relief.backfill('orders')")
    assert value(app, "select count(*) from shop.orders where relief_anomaly_score is null") == 0
    assert value(app, CHECK) == "ok"


def test_a_role_that_sees_no_row_can_not_read_models_or_histories(guest: Connection) -> None:
    for table in ("detector", "model", "profile", "event", "label"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(guest, f"select * from relief.{table}")
