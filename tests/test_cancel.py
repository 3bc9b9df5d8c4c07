"""Cancellations and timeouts: they end a statement wherever it is, policy "pass" or not, and the session scores on."""

from __future__ import annotations

import time

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import train
from helpers.sessions import running
from helpers.shop import COMPANIONS, make_orders
from psycopg import Connection
from psycopg.pq import TransactionStatus

import relief_trainer.train
from relief_trainer import connection as trainer_connection

ROWS = 500
SCORES = "select sum(shop.relief_score(o)) from shop.orders as o"
# Scores for longer than any test lasts.
FOREVER = "select sum(shop.relief_score(o)) from shop.orders as o cross join generate_series(1, 1000000)"
INSERT = f"insert into shop.orders (a, b) values (-1, 1) returning {COMPANIONS}"

# A function that takes as long as it is told to: features may call any that isn't volatile.
SLOW = """
    create table public.pause (seconds float8);
    insert into public.pause values (0);
    create function public.paused(x float8) returns float8 language plpgsql stable as
    'begin perform pg_sleep((select seconds from public.pause)); return x; end'
"""


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database with an attached detector of 100 trees, one feature of which can be slowed down."""
    database.query(SLOW)
    make_orders(database.superuser, rows=ROWS)
    database.query("select relief.drop_detector('orders')")
    database.query(
        "select relief.create_detector('orders', 'shop.orders', array['a', 'public.paused(ln(b)) AS log_b'])"
    )
    train(database.superuser, "orders", trees=100)
    database.query("select relief.attach('orders')")
    return database


def _slow_down(database: Database, seconds: float) -> None:
    database.query("update public.pause set seconds = %s", seconds)


def _assert_session_goes_on(database: Database, connection: Connection) -> None:
    """Assert that a session scores as a fresh one does."""
    assert value(connection, SCORES) == value(database.connect(), SCORES)
    assert query(connection, INSERT) == query(database.connect(), INSERT)


def test_a_long_query_is_canceled_and_the_session_goes_on(shop: Database) -> None:
    connection = shop.connect()
    with refused("57014", "canceling statement due to statement timeout"):
        query(connection, f"set statement_timeout = '300ms'; {FOREVER}")
    query(connection, "set statement_timeout = 0")
    _assert_session_goes_on(shop, connection)

    process = connection.info.backend_pid
    active = "select 1 from pg_stat_activity where pid = %s and query_start < clock_timestamp() - interval '0.2 s'"

    def cancel(_: object) -> None:
        while not shop.query(f"{active} and state = 'active'", process):
            time.sleep(0.01)
        shop.query("select pg_cancel_backend(%s)", process)

    with pytest.raises(psycopg.errors.QueryCanceled), running(cancel):
        query(connection, FOREVER)
    _assert_session_goes_on(shop, connection)


def test_a_timeout_at_any_moment_of_loading_and_compiling_harms_nothing(shop: Database) -> None:
    canceled = 0
    for milliseconds in (2, 5, 10, 20, 40, 80):
        connection = shop.connect()
        query(connection, f"set statement_timeout = {milliseconds}")
        for _ in range(2):
            try:
                query(connection, SCORES)
            except psycopg.errors.QueryCanceled:
                canceled += 1
        query(connection, "set statement_timeout = 0")
        _assert_session_goes_on(shop, connection)
    assert canceled > 0


def test_a_row_whose_scoring_is_canceled_is_refused_under_policy_pass(shop: Database) -> None:
    _slow_down(shop, 60)
    connection = shop.connect()
    with refused("57014", "canceling statement due to statement timeout"):
        query(connection, f"set statement_timeout = '100ms'; {INSERT}")
    assert shop.value("select count(*) from shop.orders") == ROWS
    _slow_down(shop, 0)
    query(connection, "set statement_timeout = 0")
    _assert_session_goes_on(shop, connection)


def test_a_transaction_goes_on_from_a_savepoint_before_what_was_canceled(shop: Database) -> None:
    connection = shop.connect(autocommit=False)
    (right,) = query(connection, INSERT)
    query(connection, "savepoint before")
    query(connection, "set local statement_timeout = '100ms'")
    with refused("57014"):
        query(connection, FOREVER)
    query(connection, "rollback to before")
    assert query(connection, INSERT) == [right]
    connection.commit()
    assert shop.value("select count(*) from shop.orders") == ROWS + 2


@pytest.mark.parametrize("statement", ["select relief.refresh_profile('orders')", "call relief.backfill('orders')"])
def test_what_is_canceled_is_done_again_as_if_it_had_not_been_tried(shop: Database, statement: str) -> None:
    profile = "select rows, count from relief.profile where entity = '' and season = -1"
    before = shop.query(profile)
    stale = "select count(*) from shop.orders where relief_model_version is null"
    _slow_down(shop, 60)
    connection = shop.connect()
    query(connection, "set statement_timeout = '200ms'")
    with refused("57014"):
        query(connection, statement)
    assert shop.query(profile) == before
    assert shop.value(stale) == ROWS
    _slow_down(shop, 0)
    query(connection, "set statement_timeout = 0")
    query(connection, statement)
    _assert_session_goes_on(shop, connection)


def test_a_row_whose_history_is_locked_goes_in_with_the_reason(shop: Database) -> None:
    """A lock that isn't had in time is no cancellation: the row is stored, and says why it has no score."""
    shop.query("select relief.drop_detector('orders')")
    shop.query("select relief.create_detector('orders', 'shop.orders', array['a', 'ln(b)'], entity => '{id}')")
    train(shop.superuser, "orders", trees=5)
    shop.query("select relief.attach('orders')")
    (right,) = shop.query("insert into shop.orders (a, b) values (-1, 1) returning relief_anomaly_score")
    blocker, connection = shop.connect(autocommit=False), shop.connect()
    query(blocker, "lock table relief.profile in access exclusive mode")
    query(connection, "set lock_timeout = '100ms'")
    inserted = query(connection, INSERT)
    assert inserted == [(None, None, {"error": "canceling statement due to lock timeout"}, None)]
    blocker.rollback()
    assert query(connection, INSERT)[0][0] == right


def test_a_session_that_idles_in_a_transaction_takes_its_rows_and_promotion_along(shop: Database) -> None:
    train(shop.superuser, "orders", trees=5, seed=1, promote=False)
    connection = shop.connect(autocommit=False)
    query(connection, "set idle_in_transaction_session_timeout = '100ms'")
    query(connection, "select relief.promote('orders', 2)")
    query(connection, INSERT)
    while shop.value("select count(*) from pg_stat_activity where pid = %s", connection.info.backend_pid):
        time.sleep(0.01)
    assert shop.value("select promoted_version from relief.detector") == 1
    assert shop.value("select count(*) from shop.orders") == ROWS
    assert shop.query(INSERT)[0][3] == 1


def test_no_transaction_is_open_while_trees_grow(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or whoever alters the table waits for them, and idle_in_transaction_session_timeout ends the training."""
    grown: list[TransactionStatus] = []
    grow = relief_trainer.train.fit
    with trainer_connection.connect(shop.dsn()) as connection:

        def fit(*arguments):
            grown.append(connection.info.transaction_status)
            return grow(*arguments)

        monkeypatch.setattr(relief_trainer.train, "fit", fit)
        relief_trainer.train.train(connection, "orders", relief_trainer.train.Settings(trees=5))
    assert grown == [TransactionStatus.IDLE]
