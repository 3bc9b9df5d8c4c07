"""Events: an anomaly that has really arrived leaves one, and an ordinary row costs none."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, value
from helpers.profiles import create, train_small
from psycopg.rows import dict_row

ORDINARY = "insert into reading (id, sensor, x, y) values (%s, 'a', 10, 5)"
ANOMALY = "insert into reading (id, sensor, x, y) values (%s, 'a', 1e6, 5)"


@pytest.fixture
def readings(database: Database) -> psycopg.Connection:
    """Return a connection to a database with a trained detector attached to a table reading."""
    make_readings(database)
    return database.superuser


def make_readings(database: Database, key: str = "primary key", on_error: str = "pass") -> None:
    connection = database.superuser
    query(connection, f"create table reading (id integer {key}, sensor text, x float8, y float8)")
    query(connection, "select setseed(0.5)")
    query(
        connection,
        "insert into reading select n, case when n <= 200 then 'a' else 'b' end, 8 + 4 * random(), 4 + 2 * random() "
        "from generate_series(1, 300) as n",
    )
    create(
        connection, "r", "reading", ["x", "y", "x + y AS total", "x - y AS gap"], entity=["sensor"], on_error=on_error
    )
    train_small(database.dsn(), "r", trees=50)
    query(connection, "select relief.attach('r')")


def events(connection: psycopg.Connection) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute("select *, relation::text as relation from relief.event order by id").fetchall()


def test_an_anomaly_leaves_an_event_that_says_what_is_strange(readings) -> None:
    query(readings, ANOMALY, 1000)
    (event,) = events(readings)
    (row,) = query(readings, "select relief_anomaly_score, relief_model_version from reading where id = 1000")
    assert (event["detector"], event["relation"], event["key"]) == ("r", "reading", {"id": 1000})
    assert (event["score"], event["model_version"]) == row
    assert event["verdict"] in ("deviation", "both")
    assert 0.99 <= event["severity"] <= 1
    assert abs((event["happened_at"] - value(readings, "select now()")).total_seconds()) < 600
    told = query(readings, "select to_jsonb(e) from reading as o, relief_explain(o) as e where o.id = 1000")
    assert event["contributions"] == told[:3]
    assert event["sentence"] == told[0]["sentence"]
    assert " deviations above the mean " in event["sentence"]
    assert " of sensor a (n=200)" in event["sentence"]


def test_ordinary_rows_leave_none(readings) -> None:
    for n in range(20):
        query(readings, ORDINARY, 1000 + n)
    assert events(readings) == []


def test_many_rows_in_a_statement_leave_one_event_each(readings) -> None:
    query(
        readings,
        "insert into reading select n, 'a', case when n % 10 = 0 then 1e6 else 10 end, 5 "
        "from generate_series(1001, 1100) as n",
    )
    assert [event["key"]["id"] for event in events(readings)] == list(range(1010, 1101, 10))


def test_rows_that_never_arrive_leave_none(readings) -> None:
    query(readings, ANOMALY + " on conflict do nothing", 5)
    assert events(readings) == []
    with pytest.raises(psycopg.errors.UniqueViolation):
        query(readings, ANOMALY, 5)
    with readings.transaction(force_rollback=True):
        query(readings, ANOMALY, 1000)
        assert len(events(readings)) == 1
    assert events(readings) == []
    query(readings, ANOMALY + " on conflict (id) do nothing", 1001)
    assert [event["key"] for event in events(readings)] == [{"id": 1001}]


def test_an_update_leaves_no_event(readings) -> None:
    query(readings, "update reading set x = 1e6 where id = 5")
    assert value(readings, "select relief_is_anomaly from reading where id = 5") is True
    query(readings, ORDINARY + " on conflict (id) do update set x = 1e6", 6)
    assert events(readings) == []


def test_whoever_may_insert_leaves_events_without_any_right_on_relief(database) -> None:
    make_readings(database)
    clerk = database.role("clerk")
    database.query(f"grant insert on reading to {clerk}")
    as_clerk = database.connect(clerk)
    query(as_clerk, ANOMALY, 1000)
    assert [event["key"] for event in events(database.superuser)] == [{"id": 1000}]
    for statement in ("select * from relief.event", "insert into relief.event (detector) values ('r')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            query(as_clerk, statement)


def test_the_owner_of_a_table_sees_the_events_of_that_table_alone(database) -> None:
    make_readings(database)
    owner, stranger = database.role("owner"), database.role("stranger")
    for role in (owner, stranger):
        database.query("select relief.grant_admin(%s::regrole)", role)
    database.query(f"grant create on schema public to {owner}")
    as_owner = database.connect(owner)
    query(as_owner, "create table own (id integer primary key, x float8)")
    query(as_owner, "insert into own select n, n % 10 from generate_series(1, 100) as n")
    create(as_owner, "own", "own", ["x"])
    train_small(database.dsn(owner), "own")
    query(as_owner, "select relief.attach('own')")
    query(as_owner, "insert into own values (1000, 1e6)")
    query(database.superuser, ANOMALY, 1000)
    assert sorted(event["detector"] for event in events(database.superuser)) == ["own", "r"]
    assert [(event["detector"], event["created_by"]) for event in events(as_owner)] == [("own", owner)]
    assert events(database.connect(stranger)) == []


def test_an_event_that_fails_never_loses_the_row(readings) -> None:
    warnings: list[str] = []
    readings.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    query(readings, "alter table relief.event add constraint never check (detector <> 'r') not valid")
    query(readings, ANOMALY, 1000)
    assert value(readings, "select relief_is_anomaly from reading where id = 1000") is True
    assert events(readings) == []
    assert len(warnings) == 1
    assert "anomaly was stored but its event was not: " in warnings[0]


def test_under_policy_raise_an_event_that_fails_refuses_the_row(database) -> None:
    make_readings(database, on_error="raise")
    query(database.superuser, "alter table relief.event add constraint never check (detector <> 'r') not valid")
    with pytest.raises(psycopg.errors.CheckViolation):
        query(database.superuser, ANOMALY, 1000)
    query(database.superuser, ORDINARY, 1000)


def test_a_table_without_a_primary_key_has_events_without_a_key(database) -> None:
    make_readings(database, key="")
    query(database.superuser, ANOMALY, 1000)
    (event,) = events(database.superuser)
    assert event["key"] is None
    assert " above the mean " in event["sentence"]


def test_after_detaching_there_are_no_more_events(readings) -> None:
    query(readings, ANOMALY, 1000)
    query(readings, "select relief.detach('r')")
    query(readings, ANOMALY, 1001)
    assert [event["key"] for event in events(readings)] == [{"id": 1000}]
    query(readings, "select relief.attach('r')")
    query(readings, ANOMALY, 1002)
    assert [event["key"] for event in events(readings)] == [{"id": 1000}, {"id": 1002}]


def test_a_partitioned_table_has_events_with_its_own_name(database) -> None:
    connection = database.superuser
    query(connection, "create table reading (id integer, x float8, primary key (id)) partition by range (id)")
    query(connection, "create table low partition of reading for values from (0) to (500)")
    query(connection, "create table high partition of reading for values from (500) to (5000)")
    query(connection, "insert into reading select n, n % 10 from generate_series(1, 300) as n")
    create(connection, "r", "reading", ["x"])
    train_small(database.dsn(), "r")
    query(connection, "select relief.attach('r')")
    query(connection, "insert into reading values (1000, 1e6)")
    assert [(event["relation"], event["key"]) for event in events(connection)] == [("reading", {"id": 1000})]


@pytest.mark.parametrize("verdict", ["score", "deviation", "both"])
def test_the_rule_of_the_detector_decides_which_rows_leave_events(database, verdict) -> None:
    connection = database.superuser
    query(connection, "create table reading (id integer primary key, x float8)")
    query(connection, "insert into reading select n, n % 10 from generate_series(1, 300) as n")
    create(connection, "r", "reading", ["x"], verdict=verdict, threshold=0.999)
    train_small(database.dsn(), "r")
    query(connection, "select relief.attach('r')")
    query(connection, "insert into reading values (1000, 1e6)")
    assert len(events(connection)) == (verdict == "deviation")
