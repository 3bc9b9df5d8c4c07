"""Keys of entities and rows: the same text in every session, whatever its time zone and formats are."""

from __future__ import annotations

import json

import psycopg
import pytest
from helpers.database import Database, query, value
from helpers.profiles import create, profiles, refresh, train_small

SETTINGS = (
    {"timezone": "UTC"},
    {
        "timezone": "Asia/Kathmandu",
        "datestyle": "German",
        "bytea_output": "escape",
        "intervalstyle": "iso_8601",
        "standard_conforming_strings": "off",
    },
    {"timezone": "America/New_York", "datestyle": "SQL, DMY"},
)
LAUNCHES = ("2024-03-31 01:30Z", "2024-11-03 05:30Z", "2024-11-03 06:30Z", "infinity", "0044-03-15 12:00Z BC")


@pytest.fixture
def sessions(database: Database) -> list[psycopg.Connection]:
    """Return three sessions with other settings, in a database with a detector by launch, code and day."""
    query(database.superuser, "create domain launch as timestamptz")
    query(database.superuser, "create domain known_launch as launch not null")
    query(
        database.superuser,
        "create table reading (at timestamptz, id bytea, launch known_launch, day date, x float8, "
        "primary key (at, id))",
    )
    made = []
    for number, settings in enumerate(SETTINGS):
        connection = database.connect()
        for name, setting in settings.items():
            query(connection, "select set_config(%s, %s, false)", name, setting)
        for launch in LAUNCHES:
            query(
                connection,
                "insert into reading select timestamptz '2024-12-01Z' + n * interval '1 minute', %s, %s, "
                "date '2024-12-01', n from generate_series(1, 20) as n",
                f"{number} {launch}\\\xff".encode("latin-1"),
                launch,
            )
        made.append(connection)
    create(
        made[0], "r", "reading", ["x"], entity=["launch", "day"], time_column="at", time_zone="UTC", verdict="deviation"
    )
    return made


def test_an_entity_has_one_history_whoever_refreshes_and_inserts(database: Database, sessions) -> None:
    refresh(sessions[1], "r")
    found = profiles(sessions[2], "r")
    assert {json.loads(entity)[0] for entity, _ in found if entity} == {
        "2024-03-31T01:30:00+00:00",
        "2024-11-03T05:30:00+00:00",
        "2024-11-03T06:30:00+00:00",
        "infinity",
        "0044-03-15T12:00:00+00:00 BC",
    }
    assert all(figures["rows"] == 60 for (entity, _), figures in found.items() if entity)
    train_small(database.dsn(), "r")
    query(sessions[0], "select relief.attach('r')")
    for number, connection in enumerate(sessions):
        query(connection, "select relief.refresh_profile('r', \"full\" => true)")
        for launch in LAUNCHES:
            level = value(
                connection,
                "insert into reading values ('2024-12-02Z', %s, %s, '2024-12-01', 5) "
                "returning relief_deviation #>> '{x,level}'",
                f"new {number} {launch}".encode(),
                launch,
            )
            assert level == "entity"
            explained = "select level from reading as o, relief_explain(o) where launch = %s limit 1"
            assert value(connection, explained, launch) == "entity"


def test_a_tolerance_of_an_entity_holds_in_every_session(database: Database, sessions) -> None:
    refresh(sessions[0], "r")
    train_small(database.dsn(), "r")
    query(sessions[0], "select relief.attach('r')")
    # Midnight, six hours later in Kathmandu.
    given = {"launch": "2024-11-03 11:15", "day": value(sessions[1], "select date '2024-12-01'::text")}
    query(sessions[1], "select relief.set_tolerance('r', 'x', min_absolute => 1e9, entity => %s)", json.dumps(given))
    for number, connection in enumerate(sessions):
        flags = [
            value(
                connection,
                "insert into reading values ('2024-12-02Z', %s, %s, '2024-12-01', 1e6) returning relief_is_anomaly",
                f"new {number} {launch}".encode(),
                launch,
            )
            for launch in LAUNCHES
        ]
        assert flags == [True, False, True, True, True]


def test_a_label_holds_in_every_session(database: Database, sessions) -> None:
    refresh(sessions[0], "r")
    for number, connection in enumerate(sessions):
        key = value(connection, "select to_jsonb(k) from (select at, id from reading where x = 7 limit 1) as k")
        query(connection, "select relief.label('r', %s, true)", json.dumps(key))
        query(connection, "delete from relief.label")
        query(connection, "select relief.label('r', %s, true)", json.dumps(key))
        reader = sessions[(number + 1) % len(sessions)]
        refresh(reader, "r")
        assert profiles(reader, "r")["", -1]["rows"] == 60 * len(LAUNCHES) - 1
        query(connection, "select relief.label('r', %s, null)", json.dumps(key))
        assert query(reader, "select from relief.label") == []


def test_the_key_of_an_event_can_be_given_to_label_in_every_session(database: Database, sessions) -> None:
    refresh(sessions[0], "r")
    train_small(database.dsn(), "r")
    query(sessions[0], "select relief.attach('r')")
    for number, connection in enumerate(sessions):
        query(
            connection,
            "insert into reading values ('2024-12-02 00:30Z', %s, %s, '2024-12-01', 1e6)",
            f"new {number}".encode(),
            LAUNCHES[0],
        )
    keys = query(sessions[0], "select key from relief.event order by id")
    assert {key["at"] for key in keys} == {"2024-12-02T00:30:00+00:00"}
    for connection in sessions:
        for key in keys:
            query(connection, "select relief.label('r', %s, false)", json.dumps(key))
    assert query(sessions[0], "select key from relief.label order by key") == sorted(keys, key=lambda key: key["id"])


def test_times_in_keys_are_written_as_a_session_at_utc_writes_them(sessions) -> None:
    text = value(sessions[0], "select relief._entity_text(d, 'o') from relief.detector as d")
    times = (
        "from (select to_timestamp(n * 7919137.25), date '2024-12-01' from generate_series(-8000, 8000) as n) "
        "as o (launch, day)"
    )
    utc = query(sessions[0], f"select jsonb_build_array(launch, day)::text {times}")
    assert len(set(utc)) == 16001
    for connection in sessions:
        assert query(connection, f"select {text} {times}") == utc
