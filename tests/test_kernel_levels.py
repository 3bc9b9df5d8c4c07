"""The kernel's reading of histories: what a query finds, in the snapshot of who asks."""

from __future__ import annotations

import pytest
from helpers.database import Database, query, refused, value
from helpers.profiles import create, refresh

LEVELS = "select relief._levels(id, %s, %s::smallint) from relief.detector"
KEYS = ["", '["a"]', '["b"]', '["ü"]', '["none"]', None]
SEASONS = [-1, 0, 5, 23, 24, None]


@pytest.fixture
def trips(kernel: Database) -> Database:
    """Return a database with histories of entities and hours, complete ones and others, one with NULL in it."""
    kernel.query("create table trip (at timestamptz, driver text, x float8, y float8)")
    kernel.query(
        "insert into trip select timestamptz '2024-01-01Z' + n * interval '5 hours', "
        "(array['a', 'b', 'b', 'ü'])[1 + n % 4], n from generate_series(1, 300) as n"
    )
    options = {"season": "hour_of_day", "time_column": "at", "time_zone": "UTC", "min_history": 3, "entity": ["driver"]}
    create(kernel.superuser, "t", "trip", ["x"], **options)
    refresh(kernel.superuser, "t")
    # One that lacks values has NULL among its figures.
    kernel.query("update relief.profile set mean = '{null}' where entity = '[\"b\"]' and season = 5")
    kernel.query("update relief.profile set complete = false where season = 5")
    return kernel


def test_histories_are_those_that_a_query_finds(trips: Database) -> None:
    asked = [(key, season) for key in KEYS for season in SEASONS]
    by_query = [trips.value(LEVELS, *key) for key in asked]
    trips.query("select relief.use_kernel()")
    assert [trips.value(LEVELS, *key) for key in asked] == by_query
    lengths = {len(levels) if levels else 0 for levels in by_query}
    assert lengths == {0, 7, 14}
    assert any(None in levels for levels in by_query if levels)


def test_histories_are_those_of_the_snapshot(trips: Database) -> None:
    trips.query("select relief.use_kernel()")
    with trips.connect(autocommit=False) as reader:
        query(reader, "set transaction isolation level repeatable read")
        before = value(reader, LEVELS, '["a"]', -1)
        trips.query("insert into trip values ('2024-06-01Z', 'a', 1e6, 1)")
        trips.query("select relief.refresh_profile('t')")
        assert value(reader, LEVELS, '["a"]', -1) == before
        reader.rollback()
        assert value(reader, LEVELS, '["a"]', -1) != before


def test_histories_written_by_the_same_transaction_are_read(trips: Database) -> None:
    trips.query("select relief.use_kernel()")
    with trips.connect(autocommit=False) as writer:
        before = value(writer, LEVELS, '["a"]', -1)
        query(writer, "update relief.profile set mean = '{-1}' where entity = '[\"a\"]' and season = -1")
        assert value(writer, LEVELS, '["a"]', -1) != before
        writer.rollback()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "alter column figures drop expression, alter column figures type text",
            'relief.profile has no column "figures" of type double precision[]',
        ),
        (
            "alter column figures drop expression, alter column figures drop not null",
            'column "figures" of relief.profile is null',
        ),
        ("rename column complete to completed", 'relief.profile has no column "complete" of type boolean'),
        ("drop constraint profile_pkey", "relief.profile has no index profile_pkey"),
        ("rename to history", "could not open relation"),
    ],
)
def test_table_that_another_release_made_is_refused(trips: Database, change: str, message: str) -> None:
    """It is read without PostgreSQL's checks of types: whatever stands in its columns, the session lives."""
    trips.query("select relief.use_kernel()")
    trips.query(f"alter table relief.profile {change}")
    if "drop not null" in change:
        trips.query("update relief.profile set figures = null")
    with refused("XX000", message):
        trips.value(LEVELS, '["a"]', 5)
