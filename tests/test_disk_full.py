"""A full disk: statements fail with PostgreSQL's error, nothing is half done, and all goes on once there is room.

What stands for the full disk needs no rights on the machine: RLIMIT_FSIZE, set by a session on itself, ends every
write beyond 16 MB of a file, as the file system does when it is full; PostgreSQL's message is the same up to the
reason, which is "File too large". A file of the log has 16 MB and is never cut. For temporary files temp_file_limit
does the same.
"""

from __future__ import annotations

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, train
from helpers.shop import FEATURES, make_orders
from psycopg import Connection
from psycopg.conninfo import make_conninfo

import relief_trainer.train
from relief_trainer import connection as trainer_connection
from relief_trainer.errors import ReliefError

ROWS = 3_000
SIZE = 16 * 1024 * 1024
FULL = {"message": "could not extend file", "hint": "Check free disk space"}
LIMIT = """
    create function public.limit_files(size bigint) returns void language plpython3u as $$
    from resource import RLIM_INFINITY, RLIMIT_FSIZE, setrlimit
    setrlimit(RLIMIT_FSIZE, (RLIM_INFINITY if size is None else size, RLIM_INFINITY))
    $$
"""
# Rows of 4 kB that nobody asks for, until a table has 16 MB.
FILLED = "select repeat('x', 4000) from generate_series(1, 4096)"


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database with an attached detector and rows that were scored."""
    make_orders(database.superuser, rows=ROWS)
    train(database.superuser, "orders", trees=20)
    database.query("select relief.attach('orders')")
    database.query("call relief.backfill('orders')")
    database.query(LIMIT)
    return database


def _full(database: Database) -> Connection:
    """Return a session for which the disk is full."""
    connection = database.connect()
    query(connection, "select public.limit_files(%s)", SIZE)
    return connection


def _has_room(connection: Connection) -> None:
    query(connection, "select public.limit_files(null)")


def _fill_orders(database: Database) -> None:
    database.query("alter table shop.orders alter note set storage plain, disable trigger user")
    database.query(f"insert into shop.orders (note) {FILLED}")
    database.query("alter table shop.orders enable trigger user")


def _assert_whole(database: Database) -> None:
    wrong = "select count(*) from shop.orders as o where relief_anomaly_score is distinct from shop.relief_score(o)"
    assert database.value(wrong) == 0
    told = dict(database.query('select "check", result from relief.check()'))
    assert told["detector orders"] == "ok"


def test_an_insert_into_a_full_table_fails_as_without_relief(shop: Database) -> None:
    _fill_orders(shop)
    rows = shop.value("select count(*) from shop.orders")
    connection = _full(shop)
    insert = "insert into shop.orders (a, b, note) select 1, 1, repeat('y', 4000) from generate_series(1, 100)"
    with refused(**FULL):
        query(connection, insert)
    assert shop.value("select count(*) from shop.orders") == rows
    _has_room(connection)
    query(connection, insert)
    assert shop.value("select count(*) from shop.orders where relief_model_version = 1 and note ^@ 'y'") == 100
    _assert_whole(shop)


def test_a_backfill_keeps_what_it_has_committed_and_goes_on_when_there_is_room(shop: Database) -> None:
    add_model(shop.superuser, "orders", stump(FEATURES))
    shop.query("select relief.promote('orders')")
    _fill_orders(shop)
    connection = _full(shop)
    stale = "select count(*) from shop.orders where relief_model_version is distinct from 2 and note is null"
    with refused(**FULL):
        query(connection, "call relief.backfill('orders', 500)")
    left = shop.value(stale)
    assert left > 0
    assert shop.value("select count(*) from shop.orders where relief_model_version is null and note is null") == 0
    _has_room(connection)
    query(connection, "call relief.backfill('orders', 500)")
    assert shop.value(stale) == 0
    _assert_whole(shop)


def test_a_row_is_stored_though_its_event_cannot_be(shop: Database) -> None:
    shop.query("alter table relief.event alter sentence set storage plain")
    shop.query(
        "insert into relief.event (detector, relation, verdict, sentence) "
        f"select 'x', 'shop.orders', 'score', s from ({FILLED}) as f (s)"
    )
    connection = _full(shop)
    told: list[str] = []
    connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
    query(connection, "insert into shop.orders (a, b) select -1e6, 1 from generate_series(1, 90)")
    assert shop.value("select count(*) from shop.orders where a = -1e6 and relief_is_anomaly") == 90
    stored = shop.value("select count(*) from relief.event where detector = 'orders'")
    assert stored + len(told) == 90
    assert {message.partition(":")[0] for message in told} == {"anomaly was stored but its event was not"}
    _has_room(connection)
    query(connection, "insert into shop.orders (a, b) values (-1e6, 1)")
    assert shop.value("select count(*) from relief.event where detector = 'orders'") == stored + 1
    _assert_whole(shop)


def test_a_model_that_finds_no_room_leaves_nothing(shop: Database) -> None:
    shop.query("alter table relief.model disable trigger user")
    shop.query(
        "insert into relief.model (detector_id, version, document, checksum, forest, forest_checksum, threshold, "
        "threshold_origin, features) "
        "select detector_id, 99, '', '', convert_to(repeat('x', %s), 'UTF8'), '', 0.5, 'fixed', '{}' from relief.model",
        SIZE,
    )
    shop.query("alter table relief.model enable trigger user")
    connection = _full(shop)
    text = relief_trainer.train.document.serialize(stump(FEATURES, trees=[stump(FEATURES)["trees"][0]] * 1500))
    checksum = "encode(sha256(convert_to(%s, 'UTF8')), 'hex')"
    with refused(**FULL):
        query(connection, f"select relief.add_model('orders', %s, {checksum})", text, text)
    assert shop.query("select version from relief.model order by version") == [1, 99]
    _has_room(connection)
    assert value(connection, f"select relief.add_model('orders', %s, {checksum})", text, text) == 100
    _assert_whole(shop)


def test_training_and_refreshing_without_room_for_temporary_files_can_be_repeated(shop: Database) -> None:
    cramped = "-c work_mem=64kB -c temp_buffers=800kB -c temp_file_limit=64kB"
    profile = "select rows, count, mean from relief.profile order by entity, season"
    shop.query("insert into shop.orders (a, b) select 1, 1 + random() from generate_series(1, 20000)")
    before = shop.query(profile)
    with refused("53400", "temporary file size exceeds"), shop.connect(options=cramped) as connection:
        query(connection, "select relief.refresh_profile('orders')")
    assert shop.query(profile) == before
    dsn = make_conninfo(shop.dsn(), options=cramped)
    settings = relief_trainer.train.Settings(trees=5)
    with pytest.raises(ReliefError, match="temporary file size exceeds"), trainer_connection.connect(dsn) as training:
        relief_trainer.train.train(training, "orders", settings)
    assert shop.value("select count(*) from relief.model") == 1
    shop.query("select relief.refresh_profile('orders')")
    assert shop.value("select rows from relief.profile") > 20000
    with trainer_connection.connect(shop.dsn()) as training:
        assert relief_trainer.train.train(training, "orders", settings).version == 2
    _assert_whole(shop)
