"""Busy tables: attaching, mending and backfilling beside those who read and write, and what they lock."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.sessions import running
from helpers.shop import FEATURES, make_orders
from psycopg import Connection

ROWS = 5000
MADE = (
    "select (select count(*) from pg_attribute where attrelid = 'shop.orders'::regclass and attname like 'relief%'"
    " and not attisdropped), (select count(*) from pg_trigger where tgrelid = 'shop.orders'::regclass),"
    " (select count(*) from pg_proc where proname in ('_relief_trigger_orders', '_relief_event_orders'))"
)


@pytest.fixture
def promoted(database: Database) -> Database:
    """Return a database with shop.orders and a promoted stump, not attached."""
    make_orders(database.superuser, rows=ROWS)
    add_model(database.superuser, "orders", stump(FEATURES))
    database.query("select relief.promote('orders')")
    return database


@pytest.mark.parametrize("verb", ["attach", "detach", "regenerate"])
def test_lock_timeout_is_honoured_and_nothing_is_left_half_done(promoted: Database, verb: str) -> None:
    if verb != "attach":
        promoted.query("select relief.attach('orders')")
    before = promoted.query(MADE)
    reader = promoted.connect(autocommit=False)
    query(reader, "select count(*) from shop.orders")
    impatient = promoted.connect()
    query(impatient, "set lock_timeout = '100ms'")
    with refused("55P03", "canceling statement due to lock timeout"):
        query(impatient, f"select relief.{verb}('orders')")
    assert promoted.query(MADE) == before
    # Nobody is held up by who gave up.
    promoted.query("insert into shop.orders (a, b) values (1, 1)")
    reader.commit()
    query(impatient, f"select relief.{verb}('orders')")
    if verb != "regenerate":
        assert promoted.query(MADE) != before


# From the weakest to the strongest.
MODES = ["AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock"]
MODES += ["ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock"]
STRONGEST = {
    "select relief.promote('orders')": None,
    "select * from relief.check()": None,
    "select count(shop.relief_score(o)) from shop.orders as o": "AccessShareLock",
    "select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)": "AccessShareLock",
    "select relief.refresh_profile('orders')": "AccessShareLock",
    "select relief.attach('orders')": "AccessExclusiveLock",
}


@pytest.mark.parametrize("statement", STRONGEST)
def test_statements_lock_the_table_as_the_readme_says(promoted: Database, statement: str) -> None:
    connection = promoted.superuser
    with connection.transaction(force_rollback=True):
        query(connection, statement)
        held = "select mode from pg_locks where pid = pg_backend_pid() and relation = 'shop.orders'::regclass"
        modes = query(connection, held)
    assert max(modes, key=MODES.index, default=None) == STRONGEST[statement]


def test_table_is_attached_under_traffic(promoted: Database) -> None:
    written: list[int] = [0, 0]
    writers = [promoted.connect() for _ in range(2)]

    def insert(stop: threading.Event) -> None:
        while not stop.is_set():
            query(writers[0], "insert into shop.orders (a, b, note) values (-1, 1, clock_timestamp())")
            written[0] += 1

    def update(stop: threading.Event) -> None:
        while not stop.is_set():
            key = written[1] % ROWS + 1
            query(writers[1], "update shop.orders set a = -7, b = 2 where id = %s", key)
            written[1] += 1

    attaching = promoted.connect()
    query(attaching, "set lock_timeout = '1s'")
    with running(insert, update):
        time.sleep(0.1)
        query(attaching, "select relief.attach('orders')")
        attached_at = value(attaching, "select clock_timestamp()")
        done = list(written)
        while written[0] < done[0] + 50 or written[1] < done[1] + 50:
            time.sleep(0.01)
    assert promoted.value("select count(*) from shop.orders where note is not null") == written[0]
    unscored = (
        "select count(*) from shop.orders where note::timestamptz > %s and relief_anomaly_score is distinct from 0.5"
    )
    assert promoted.value(unscored, attached_at) == 0
    assert promoted.value("select count(*) from shop.orders where note::timestamptz > %s", attached_at) >= 50
    promoted.query("call relief.backfill('orders')")
    _assert_whole(promoted)


def _assert_whole(database: Database) -> None:
    """Assert that every row has the score that its values give."""
    wrong = "select count(*) from shop.orders as o where relief_anomaly_score is distinct from shop.relief_score(o)"
    assert database.value(wrong) == 0
    assert database.value("select count(*) from shop.orders where relief_model_version is distinct from 1") == 0


class _Writers:
    """Sessions that insert rows and give existing ones new values, and know what must be there in the end."""

    def __init__(self, database: Database) -> None:
        self._inserting, self._updating = database.connect(), database.connect()
        self.inserted = 0
        self.values: dict[int, tuple[int, float]] = {}

    def insert(self, stop: threading.Event) -> None:
        while not stop.is_set():
            query(self._inserting, "insert into shop.orders (a, b, note) values (1, 1, 'new'), (-1, 1, 'new')")
            self.inserted += 2

    def update(self, stop: threading.Event) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            key, a, b = turn * 7 % ROWS + 1, turn % 11 - 5, 1.0 + turn
            query(self._updating, "update shop.orders set a = %s, b = %s where id = %s", a, b, key)
            self.values[key] = (a, b)

    def assert_nothing_is_lost(self, database: Database) -> None:
        assert database.value("select count(*) from shop.orders where note = 'new'") == self.inserted > 0
        rows = database.query("select id, a, b from shop.orders where id = any (%s)", list(self.values))
        assert {key: (a, b) for key, a, b in rows} == self.values


def test_backfill_overwrites_nothing_that_others_write_to_the_same_rows(promoted: Database) -> None:
    promoted.query("select relief.attach('orders')")
    writers = _Writers(promoted)
    with running(writers.insert, writers.update):
        promoted.query("call relief.backfill('orders', batch_rows => 200)")
    writers.assert_nothing_is_lost(promoted)
    _assert_whole(promoted)


def test_backfill_killed_under_traffic_is_resumed(promoted: Database) -> None:
    promoted.query("select relief.attach('orders')")
    writers = _Writers(promoted)
    observer = promoted.connect()
    stale = "select count(*) from shop.orders where relief_model_version is null"

    def backfill(victim: Connection) -> None:
        with pytest.raises(psycopg.OperationalError):
            query(victim, "call relief.backfill('orders', batch_rows => 50)")

    with running(writers.insert, writers.update):
        for remaining in (4000, 2500):
            victim = promoted.connect()
            thread = threading.Thread(target=backfill, args=(victim,))
            thread.start()
            while value(observer, stale) > remaining:
                time.sleep(0.001)
            query(observer, "select pg_terminate_backend(%s)", victim.info.backend_pid)
            thread.join()
        assert value(observer, stale) > 0
        query(observer, "call relief.backfill('orders', batch_rows => 500)")
        assert value(observer, stale) == 0
    writers.assert_nothing_is_lost(promoted)
    _assert_whole(promoted)
