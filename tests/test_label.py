"""Labels: what people say of rows decides what belongs to the baseline, and can be taken back."""

from __future__ import annotations

import threading

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.profiles import create, profile, refresh, train_small


@pytest.fixture
def readings(database: Database) -> psycopg.Connection:
    """Return a connection to a database with a table reading of ten old days and its detector, refreshed."""
    make_readings(database)
    return database.superuser


def make_readings(database: Database) -> None:
    connection = database.superuser
    query(connection, "create table reading (id integer primary key, at timestamptz, x float8)")
    query(
        connection,
        "insert into reading select n, timestamptz '2024-01-01 00:30Z' + n * interval '1 hour', n % 7 "
        "from generate_series(1, 240) as n",
    )
    create(connection, "r", "reading", ["x"], time_column="at", time_zone="UTC")
    refresh(connection, "r")


def count(connection: psycopg.Connection) -> int:
    refresh(connection, "r")
    found = profile(connection, "r")
    assert found is not None
    return int(found["count"][0])


def label(connection: psycopg.Connection, row: int, is_anomaly: bool | None, note: str | None = None) -> None:
    query(connection, "select relief.label('r', jsonb_build_object('id', %s::integer), %s, %s)", row, is_anomaly, note)


def test_an_anomalous_row_leaves_the_baseline_however_old_and_comes_back(readings) -> None:
    assert count(readings) == 240
    label(readings, 5, True, "sensor was wet")
    assert count(readings) == 239
    assert count(readings) == 239
    assert query(readings, "select key, is_anomaly, note from relief.label") == [({"id": 5}, True, "sensor was wet")]
    label(readings, 5, None)
    assert count(readings) == 240
    assert query(readings, "select from relief.label") == []


def test_what_is_said_last_counts(readings) -> None:
    label(readings, 5, False)
    label(readings, 5, True, "after all")
    assert count(readings) == 239
    label(readings, 5, False)
    assert count(readings) == 240
    assert query(readings, "select is_anomaly, note from relief.label") == [(False, None)]


def test_a_full_refresh_follows_the_same_labels(readings) -> None:
    for row in (1, 100, 239):
        label(readings, row, True)
    assert count(readings) == 237
    refresh(readings, "r", full=True)
    found = profile(readings, "r")
    assert found is not None and found["count"] == [237]


def test_a_flagged_row_that_is_called_ordinary_belongs_to_the_baseline(database) -> None:
    make_readings(database)
    connection = database.superuser
    train_small(database.dsn(), "r")
    query(connection, "select relief.attach('r')")
    flagged = value(
        connection, "insert into reading values (1000, '2024-01-11 01:00Z', 1e6) returning relief_is_anomaly"
    )
    assert flagged is True
    assert count(connection) == 240
    label(connection, 1000, False, "new sensor")
    assert count(connection) == 241
    label(connection, 1000, None)
    assert count(connection) == 240


def test_labels_hold_without_a_time_column(database) -> None:
    connection = database.superuser
    query(connection, "create table reading (id integer primary key, x float8)")
    query(connection, "insert into reading select n, n from generate_series(1, 50) as n")
    create(connection, "r", "reading", ["x"])
    assert count(connection) == 50
    label(connection, 5, True)
    assert count(connection) == 49
    label(connection, 5, None)
    assert count(connection) == 50


def test_a_row_is_named_by_all_columns_of_its_key(database) -> None:
    connection = database.superuser
    query(
        connection,
        'create table reading ("b B" text, a_a integer, "A" date, at timestamptz, x float8, '
        'primary key ("b B", a_a, "A"))',
    )
    query(
        connection, "insert into reading values ('it''s', 1, '2024-01-01', now(), 1), ('b', 1, '2024-01-01', now(), 2)"
    )
    create(connection, "r", "reading", ["x"], time_column="at")
    assert count(connection) == 2
    query(connection, """select relief.label('r', '{"b B": "it''s", "a_a": 1, "A": "2024-01-01"}', true)""")
    assert count(connection) == 1
    with refused("22023", "is not that of table", "a_a"):
        query(connection, """select relief.label('r', '{"b B": "b"}', true)""")


def test_a_label_of_a_transaction_that_ends_after_a_refresh_counts_at_the_next(database) -> None:
    """The day is marked already: by another label, whose mark the refresh takes away."""
    make_readings(database)
    label(database.superuser, 5, True)
    slow = database.connect(autocommit=False)
    label(slow, 6, True)
    refreshing = threading.Thread(target=refresh, args=(database.connect(), "r"))
    refreshing.start()
    refreshing.join(timeout=1)
    slow.commit()
    refreshing.join()
    assert count(database.superuser) == 238


@pytest.mark.parametrize(
    ("key", "state", "message", "hint"),
    [
        ('{"id": 9999}', "P0002", "has no row with key", """such as '{"id": 1}'."""),
        ('{"id": null}', "P0002", "has no row with key", "primary key"),
        (
            '{"x": 1}',
            "22023",
            'key {"x": 1} is not that of table',
            "Give a JSON object with: id, such as '{\"id\": 1}'.",
        ),
        ('{"id": 1, "x": 1}', "22023", "is not that of table", "Give a JSON object with: id, such as '{\"id\": 1}'."),
        ("{}", "22023", "key {} is not that of table", "Give a JSON object with: id, such as '{\"id\": 1}'."),
        ("5", "22023", "key 5 is not that of table", "Give a JSON object with: id, such as '{\"id\": 1}'."),
        ("[5]", "22023", "key [5] is not that of table", "Give a JSON object with: id, such as '{\"id\": 1}'."),
        ("null", "22023", "key null is not that of table", "Give a JSON object with: id, such as '{\"id\": 1}'."),
        (None, "22023", "key NULL is not that of table", "Give a JSON object with: id, such as '{\"id\": 1}'."),
        (
            '{"id": "five"}',
            "22P02",
            'key {"id": "five"} is not that of table public.reading: invalid input syntax for type integer: "five"',
            "Give a value of its column's type",
        ),
    ],
)
def test_a_key_that_names_no_row_is_refused(readings, key, state, message, hint) -> None:
    with refused(state, message, hint):
        query(readings, "select relief.label('r', %s::jsonb, true)", key)
    assert query(readings, "select from relief.label") == []


def test_rows_without_a_primary_key_cannot_be_labelled(readings) -> None:
    query(readings, "alter table reading drop constraint reading_pkey")
    with refused("0A000", 'of detector "r" has no primary key', "add one"):
        query(readings, "select relief.label('r', '{\"id\": 1}', true)")
    assert count(readings) == 240


def test_what_could_be_the_primary_key_is_named_where_labels_lack_it(readings) -> None:
    query(readings, "alter table reading drop constraint reading_pkey")
    query(readings, "create unique index on reading (at, x)")
    query(readings, "create unique index on reading (id) include (x)")
    query(readings, "create unique index on reading (x) where x > 0 and id < 8")
    with refused(
        "0A000",
        'table public.reading of detector "r" has no primary key',
        "Labels name rows by their primary key: alter table public.reading add primary key (id);",
    ):
        query(readings, "select relief.label('r', '{\"id\": 1}', true)")


@pytest.mark.parametrize(
    ("view", "way"),
    [
        ("view v as select * from reading", ": make a detector of public.reading."),
        ("materialized view v as select r.* from reading as r, other", ": make a detector of public.reading."),
        ("view v as select n as id, n::float8 as x from generate_series(1, 3) as n", "."),
    ],
)
def test_rows_of_a_view_are_labelled_where_they_come_from(readings, view, way) -> None:
    query(readings, "create table other ()")
    query(readings, f"create {view}")
    create(readings, "v", "v", ["x"])
    with refused(
        "0A000",
        'table public.v of detector "v" has no primary key',
        "Labels name rows by their primary key, which a view can't have" + way,
    ):
        query(readings, "select relief.label('v', '{\"id\": 1}', true)")


def test_labels_of_unknown_detectors_and_lost_tables_are_refused(readings) -> None:
    with refused("42704", 'detector "q" does not exist', "List the detectors"):
        query(readings, "select relief.label('q', '{\"id\": 1}', true)")
    query(readings, "drop table reading cascade")
    with refused("42P01", 'of detector "r" does not exist any more', "relief.drop_detector"):
        query(readings, "select relief.label('r', '{\"id\": 1}', true)")


def test_only_the_owner_of_the_table_labels_its_rows(database) -> None:
    make_readings(database)
    admin = database.role("admin")
    database.query("select relief.grant_admin(%s::regrole)", admin)
    with refused("42704", 'detector "r" does not exist'):
        query(database.connect(admin), "select relief.label('r', '{\"id\": 1}', true)")
    database.query(f"alter table reading owner to {admin}")
    query(database.connect(admin), "select relief.label('r', '{\"id\": 1}', true)")
    assert database.query("select labelled_by::text from relief.label") == [admin]
    assert count(database.connect(admin)) == 239
