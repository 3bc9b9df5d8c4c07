"""Backfill: rows that were there before are scored in the end, whatever happens beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.sessions import running
from helpers.shop import FEATURES, attach_orders, make_orders
from psycopg import Connection

ROWS = 20_000
STALE = "select count(*) from shop.orders where relief_model_version is distinct from %s"


@pytest.fixture
def attached(database: Database) -> Database:
    """Return a database where "orders" is attached to shop.orders, with 20,000 rows that aren't scored."""
    attach_orders(database.superuser, rows=ROWS)
    database.query("analyze shop.orders")
    return database


def test_every_row_is_scored_as_an_insert_would_score_it(attached: Database) -> None:
    attached.query("call relief.backfill('orders')")
    assert attached.value(STALE, 1) == 0
    wrong = "select count(*) from shop.orders as o where relief_anomaly_score is distinct from shop.relief_score(o)"
    assert attached.value(wrong) == 0
    assert attached.value("select count(*) from shop.orders where relief_deviation is null") == 0


def test_rows_of_the_promoted_version_are_passed_over(attached: Database) -> None:
    attached.query("call relief.backfill('orders')")
    versions_before = attached.query("select xmin::text from shop.orders order by id")
    told: list[str] = []
    attached.superuser.add_notice_handler(lambda notice: told.append(notice.message_primary))
    attached.query("call relief.backfill('orders')")
    assert told == ['backfill of detector "orders": 0 rows scored']
    assert attached.query("select xmin::text from shop.orders order by id") == versions_before


def test_rows_of_an_older_version_are_scored_anew(attached: Database) -> None:
    attached.query("call relief.backfill('orders')")
    add_model(attached.superuser, "orders", stump(FEATURES, split=99.0))
    attached.query("select relief.promote('orders')")
    attached.query("call relief.backfill('orders')")
    assert attached.value(STALE, 2) == 0
    assert attached.value("select count(*) from shop.orders where relief_anomaly_score = 0.5") == ROWS


def test_batches_are_committed_one_by_one(attached: Database) -> None:
    attached.query("call relief.backfill('orders', batch_rows => 1000)")
    transactions = attached.value("select count(distinct xmin::text) from shop.orders")
    assert transactions >= 10


def test_backfill_that_was_killed_is_resumed(attached: Database) -> None:
    observer = attached.connect()
    victim = attached.connect()

    def backfill() -> None:
        with pytest.raises(psycopg.OperationalError):
            query(victim, "call relief.backfill('orders', batch_rows => 100)")

    thread = threading.Thread(target=backfill)
    thread.start()
    while value(observer, STALE, 1) > ROWS - 1000:
        time.sleep(0.001)
    query(observer, "select pg_terminate_backend(%s)", victim.info.backend_pid)
    thread.join()
    left = value(observer, STALE, 1)
    assert 0 < left < ROWS
    told: list[str] = []
    observer.add_notice_handler(lambda notice: told.append(notice.message_primary))
    query(observer, "call relief.backfill('orders')")
    assert value(observer, STALE, 1) == 0
    assert told[-1] == f'backfill of detector "orders": {left} rows scored'


def test_bad_rows_do_not_stop_it_and_are_tried_again_next_time(attached: Database) -> None:
    attached.query("alter table shop.orders disable trigger user")
    attached.query("update shop.orders set b = -1 where id % 100 = 0")
    attached.query("alter table shop.orders enable trigger user")
    told: list[str] = []
    attached.superuser.add_notice_handler(lambda notice: told.append(f"{notice.severity}: {notice.message_primary}"))
    attached.query("call relief.backfill('orders', batch_rows => 500)")
    assert told == [
        f'NOTICE: backfill of detector "orders": {ROWS * 99 // 100} rows scored',
        f'WARNING: backfill of detector "orders": {ROWS // 100} rows could not be scored; '
        "their relief_deviation says why",
    ]
    bad = "select count(*) from shop.orders where relief_deviation ? 'error' and relief_model_version is null"
    assert attached.value(bad) == ROWS // 100
    assert attached.value(STALE, 1) == ROWS // 100
    attached.query("alter table shop.orders disable trigger user")
    attached.query("update shop.orders set b = 1 where id % 100 = 0")
    attached.query("alter table shop.orders enable trigger user")
    attached.query("call relief.backfill('orders')")
    assert attached.value(STALE, 1) == 0


def test_rows_without_any_feature_count_as_scored(attached: Database) -> None:
    attached.query("alter table shop.orders disable trigger user")
    attached.query("update shop.orders set a = null, b = null where id <= 10")
    attached.query("alter table shop.orders enable trigger user")
    attached.query("call relief.backfill('orders')")
    assert attached.value(STALE, 1) == 0
    assert attached.value("select count(*) from shop.orders where relief_anomaly_score is null") == 10


def test_locked_rows_are_scored_in_the_end(attached: Database) -> None:
    # One of them failed once, before there was a model.
    attached.query("alter table shop.orders disable trigger user")
    attached.query("""update shop.orders set relief_deviation = '{"error": "no model"}' where id = 5000""")
    attached.query("alter table shop.orders enable trigger user")
    holder = attached.connect(autocommit=False)
    query(holder, "select from shop.orders where id in (7, 5000, 19999) for update")
    observer = attached.connect()

    def backfill(stop: threading.Event) -> None:
        query(attached.superuser, "call relief.backfill('orders', batch_rows => 1000)")

    with running(backfill):
        while value(observer, STALE, 1) > 3:
            time.sleep(0.01)
        holder.commit()
    assert attached.value(STALE, 1) == 0


def test_rows_written_meanwhile_are_scored_and_nothing_is_lost(attached: Database) -> None:
    writers = [attached.connect() for _ in range(2)]
    written = [0, 0]

    def insert(stop: threading.Event) -> None:
        while not stop.is_set():
            query(writers[0], "insert into shop.orders (a, b, note) values (1, 1, 'new'), (-1, 1, 'new')")
            written[0] += 2

    def update(stop: threading.Event) -> None:
        while not stop.is_set():
            # A column that no feature reads: the row moves and isn't rescored.
            key = written[1] * 7 % ROWS + 1
            query(writers[1], "update shop.orders set note = coalesce(note, '') || 'x' where id = %s", key)
            written[1] += 1

    with running(insert, update):
        attached.query("call relief.backfill('orders', batch_rows => 500)")
    assert attached.value(STALE, 1) == 0
    assert attached.value("select count(*) from shop.orders where note = 'new'") == written[0]
    assert attached.value("select sum(length(note)) from shop.orders where note ~ '^x+$'") == written[1]


def test_rows_that_are_updated_all_the_time_are_scored_too(attached: Database) -> None:
    writers = [attached.connect() for _ in range(3)]

    def touch(connection: Connection, key: int) -> Callable[[threading.Event], None]:
        def run(stop: threading.Event) -> None:
            while not stop.is_set():
                query(connection, "update shop.orders set note = clock_timestamp()::text where id = %s", key)

        return run

    with running(*(touch(connection, key) for connection, key in zip(writers, (1, 2, ROWS), strict=True))):
        for version in range(2, 8):
            attached.query("call relief.backfill('orders')")
            assert attached.value(STALE, version - 1) == 0
            add_model(attached.superuser, "orders", stump(FEATURES, split=float(version)))
            attached.query("select relief.promote('orders')")


def test_promotion_meanwhile_leaves_rows_of_two_versions_and_the_next_call_mends_it(attached: Database) -> None:
    add_model(attached.superuser, "orders", stump(FEATURES, split=99.0))
    observer = attached.connect()

    def backfill(stop: threading.Event) -> None:
        query(attached.superuser, "call relief.backfill('orders', batch_rows => 200)")

    with running(backfill):
        while value(observer, STALE, 1) > ROWS - 2000:
            time.sleep(0.001)
        query(observer, "select relief.promote('orders', 2)")
    agree = "select count(*) from shop.orders where (relief_model_version = 2) and relief_anomaly_score <> 0.5"
    assert attached.value(agree) == 0
    attached.query("call relief.backfill('orders')")
    assert attached.value(STALE, 2) == 0


def test_partitioned_table_is_backfilled_in_all_its_leaves(database: Database) -> None:
    database.query("create schema shop")
    database.query("create table shop.orders (a integer, b float8) partition by list (a)")
    database.query("create table shop.negative partition of shop.orders for values in (-1) partition by range (b)")
    database.query("create table shop.low partition of shop.negative for values from (0) to (10)")
    database.query("create table shop.high partition of shop.negative default")
    database.query("create table shop.rest partition of shop.orders default")
    database.query("insert into shop.orders select n % 4 - 1, n / 10.0 + 0.1 from generate_series(1, 400) as n")
    database.query("select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
    add_model(database.superuser, "orders", stump(FEATURES))
    database.query("select relief.promote('orders')")
    database.query("select relief.attach('orders')")
    database.query("call relief.backfill('orders', 50)")
    assert database.value(STALE, 1) == 0
    assert database.query("select count(*) from shop.orders group by tableoid order by 1") == [24, 76, 300]


def test_table_that_was_never_analyzed_or_is_mostly_empty_is_backfilled(database: Database) -> None:
    make_orders(database.superuser, rows=5000)
    database.query("delete from shop.orders where id % 1000 <> 0")
    add_model(database.superuser, "orders", stump(FEATURES))
    database.query("select relief.promote('orders')")
    database.query("select relief.attach('orders')")
    database.query("call relief.backfill('orders', 1)")
    assert database.value(STALE, 1) == 0


def test_what_can_not_be_attached_can_not_be_backfilled_and_is_told_the_query(orders: Connection) -> None:
    query(orders, "create view shop.large as select * from shop.orders where a > 5")
    query(orders, "select relief.create_detector('large', 'shop.large', '{a}')")
    with refused(
        "42809",
        'detector "large" cannot be backfilled: shop.large is a view',
        "Score it in queries: select shop.relief_score(o) from shop.large as o;",
    ):
        query(orders, "call relief.backfill('large')")
    query(orders, "drop table shop.orders cascade")
    with refused("42P01", 'table shop.orders of detector "orders" does not exist any more', "relief.drop_detector("):
        query(orders, "call relief.backfill('orders')")


def test_wrong_calls_are_refused(orders: Connection) -> None:
    with refused("42704", 'detector "order" does not exist'):
        query(orders, "call relief.backfill('order')")
    with refused("55000", 'detector "orders" has no promoted model', "relief train orders --promote"):
        query(orders, "call relief.backfill('orders')")
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    with refused(
        "55000", 'detector "orders" is not attached, or its trigger is disabled', "select relief.attach('orders');"
    ):
        query(orders, "call relief.backfill('orders')")
    query(orders, "select relief.attach('orders')")
    query(orders, 'alter table shop.orders disable trigger "~relief"')
    with refused("55000", "or its trigger is disabled", 'Enable it: alter table shop.orders enable trigger "~relief";'):
        query(orders, "call relief.backfill('orders')")
    query(orders, 'alter table shop.orders enable trigger "~relief"')
    with refused("22003", "batch_rows is 0, not at least 1", "10000 rows is the default"):
        query(orders, "call relief.backfill('orders', 0)")


def test_backfill_inside_a_transaction_is_refused(orders: Connection) -> None:
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    query(orders, "select relief.attach('orders')")
    with refused("2D000"), orders.transaction():
        query(orders, "call relief.backfill('orders')")


def test_backfill_under_policy_raise_stops_at_the_first_bad_row_and_goes_on_once_it_is_mended(
    database: Database,
) -> None:
    make_orders(database.superuser, rows=1000, on_error="raise")
    add_model(database.superuser, "orders", stump(FEATURES))
    database.query("select relief.promote('orders')")
    database.query("update shop.orders set b = -1 where id = 900")
    database.query("select relief.attach('orders')")
    database.query("analyze shop.orders")
    with refused("2201E", "cannot take logarithm of a negative number"):
        database.query("call relief.backfill('orders', batch_rows => 100)")
    # The batches before are there, that of the bad row isn't.
    left = database.query("select id from shop.orders where relief_model_version is null")
    assert 900 in left
    assert 1 < len(left) <= 200
    assert database.value("select count(*) from shop.orders where relief_deviation ? 'error'") == 0
    with refused("2201E", "cannot take logarithm of a negative number"):
        database.query("call relief.backfill('orders')")
    database.query("update shop.orders set b = 1 where id = 900")
    told: list[str] = []
    database.superuser.add_notice_handler(lambda notice: told.append(notice.message_primary))
    database.query("call relief.backfill('orders')")
    assert told == [f'backfill of detector "orders": {len(left) - 1} rows scored']
    assert database.value(STALE, 1) == 0


def test_backfill_inside_a_transaction_block_is_refused(attached: Database) -> None:
    message, hint = (
        "relief.backfill commits and cannot run inside a transaction block or a function",
        "Call it on its own, with autocommit: call relief.backfill('orders');",
    )
    with refused("2D000", message, hint):
        attached.query("begin; call relief.backfill('orders')")
    attached.query(
        "rollback; create function f() returns void language plpgsql as $$begin call relief.backfill('orders'); end$$"
    )
    with refused("2D000", message, hint):
        attached.query("select f()")
    assert attached.value(STALE, 1) == ROWS
    attached.query("do $$begin call relief.backfill('orders'); end$$")
    assert attached.value(STALE, 1) == 0
