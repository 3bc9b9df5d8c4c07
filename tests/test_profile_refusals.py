"""What profiles refuse: every option that can't be, with what is wrong and what to write instead."""

from __future__ import annotations

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.profiles import create, train_small


@pytest.fixture
def trips(database: Database) -> psycopg.Connection:
    """Return a connection to a database with a table trip and no detector."""
    query(database.superuser, "create domain shift as interval")
    query(
        database.superuser,
        "create table trip (id integer primary key, at timestamptz, day date, driver text, line integer, "
        "x float8, y float8, "
        "took shift, lines integer[], open tstzrange, fare money, board regclass, "
        "km_driver text generated always as (driver || ' km') stored)",
    )
    return database.superuser


OPTIONS = [
    ("entity => '{pilot}'", "42703", 'entity column "pilot" of detector "t" is not a column', "driver, line"),
    ("entity => '{driver, null}'", "42703", 'entity column "NULL" of detector "t"', "The columns are: id, at"),
    ("entity => null", "42703", 'entity column "NULL" of detector "t"', "The columns are: id, at"),
    ("entity => '{ctid}'", "42703", 'entity column "ctid" of detector "t"', "The columns are: id, at"),
    ("entity => '{km_driver}'", "0A000", 'column "km_driver" of detector "t" is generated', "columns that it"),
    ("entity => '{driver, driver}'", "42701", 'entity column "driver" of detector "t" is given twice', "once"),
    ("entity => '{driver, took}'", "0A000", 'column "took" of detector "t" is of a type that each', "a uuid, a time"),
    ("entity => '{lines}'", "0A000", 'column "lines" of detector "t" is of a type that each', "a number, a text"),
    ("entity => '{open}'", "0A000", 'column "open" of detector "t" is of a type that each', "a number, a text"),
    ("entity => '{fare}'", "0A000", 'column "fare" of detector "t" is of a type that each', "a number, a text"),
    ("entity => '{board}'", "0A000", 'column "board" of detector "t" is of a type that each', "a number, a text"),
    (
        "time_column => 'x'",
        "42703",
        'time column "x" of detector "t" is not a date or timestamp',
        "The date and timestamp columns are: ",
    ),
    (
        "time_column => 'when'",
        "42703",
        'time column "when" of detector "t"',
        "The date and timestamp columns are: at, day",
    ),
    ("season => 'day_of_week'", "22023", 'detector "t" has season "day_of_week" but no time column', "time_column =>"),
    ("season => 'monthly', time_column => 'at'", "22023", 'season of detector "t" is "monthly"', "hour_of_day"),
    ("season => 'hour_of_day', time_column => 'day'", "22023", "is a date, which has no hour", "day_of_week"),
    ("season => 'hour_of_week', time_column => 'day'", "22023", "is a date, which has no hour", "timestamp column"),
    ("profile_window => '90 days'", "22023", "has a profile window but no time column", "time_column =>"),
    ("profile_window => '0', time_column => 'at'", "22003", "profile window 00:00:00 of", "such as '90 days'"),
    ("profile_window => '-1 day', time_column => 'at'", "22003", "is not positive", "such as '90 days'"),
    ("profile_window => '1 month -31 days', time_column => 'at'", "22003", "is not positive", "such as '90 days'"),
    ("profile_window => '900000 years', time_column => 'at'", "22003", "is longer than", "such as '90 days'"),
    ("verdict => 'maybe'", "22023", 'verdict of detector "t" is "maybe"', "score, deviation, either and both"),
    ("verdict => null", "22023", 'verdict of detector "t"', "score, deviation, either and both"),
    ("deviation_threshold => 0", "22003", 'deviation threshold 0 of detector "t"', "such as 6"),
    ("deviation_threshold => -6", "22003", 'deviation threshold -6 of detector "t"', "such as 6"),
    ("deviation_threshold => 'NaN'", "22003", 'deviation threshold NaN of detector "t"', "such as 6"),
    ("deviation_threshold => 'Infinity'", "22003", 'deviation threshold Infinity of detector "t"', "such as 6"),
    ("deviation_threshold => null", "22003", "deviation threshold", "such as 6"),
    ("min_history => 1", "22003", 'min_history 1 of detector "t" is not at least 2', "such as 30"),
    ("min_history => -5", "22003", "min_history -5", "such as 30"),
    ("min_history => null", "22003", "min_history", "such as 30"),
    ("scale => '{log}'", "22023", "for each of 2 features", "Leave it out"),
    ("scale => '{log, logarithmic}'", "22023", "not auto, linear or log", "Leave it out"),
    ("scale => '{log, null}'", "22023", "not auto, linear or log", "Leave it out"),
    ("time_zone => 'Mars/Olympus'", "22023", 'time zone "Mars/Olympus" of detector "t" is not known', "Europe/Berlin"),
    ("time_zone => null", "22023", "time zone", "Europe/Berlin"),
]


@pytest.mark.parametrize(("options", "state", "message", "hint"), OPTIONS, ids=[option[0] for option in OPTIONS])
def test_an_option_that_cannot_be_is_refused(trips, options, state, message, hint) -> None:
    with refused(state, message, hint):
        query(trips, f"select relief.create_detector('t', 'trip', '{{x, y}}', {options})")
    assert query(trips, "select from relief.detector") == []
    assert (
        query(trips, "select from pg_proc where proname like '%relief%' and pronamespace = 'public'::regnamespace")
        == []
    )


def test_an_unknown_option_is_refused(trips) -> None:
    with refused("42883"):
        query(trips, "select relief.create_detector('t', 'trip', '{x, y}', seasonality => 'hour_of_day')")


TOLERANCES = [
    ("'q', 'x'", "42704", 'detector "q" does not exist', "List the detectors"),
    ("'t', 'z'", "42703", 'detector "t" has no feature "z"', "The features are: x, y."),
    ("'t', null", "42703", 'detector "t" has no feature', "The features are: x, y."),
    ("'t', 'x', 'sideways'", "22023", 'direction "sideways" is not up, down or both', "up lets only"),
    ("'t', 'x', null", "22023", "is not up, down or both", "up lets only"),
    ("'t', 'x', min_absolute => -1", "22003", "min_absolute -1", "0 lets all count"),
    ("'t', 'x', min_relative => -0.1", "22003", "min_relative -0.1", "0 lets all count"),
    ("'t', 'x', min_absolute => null", "22003", "min_absolute", "0 lets all count"),
    ("'t', 'x', min_relative => null", "22003", "min_relative", "0 lets all count"),
    ("'t', 'x', min_absolute => 'NaN'", "22003", "min_absolute NaN", "0 lets all count"),
    ("'t', 'x', min_relative => 'Infinity'", "22003", "min_relative Infinity", "0 lets all count"),
    ("""'t', 'x', entity => '{"driver": "HA"}'""", "22023", "is not one of detector", "driver, line"),
    ("""'t', 'x', entity => '{"driver": "HA", "line": 1, "x": 2}'""", "22023", "is not one of", "driver, line"),
    ("""'t', 'x', entity => '{"driver": "HA", "line": null}'""", "22023", "is not one of", "driver, line"),
    ("""'t', 'x', entity => '"HA"'""", "22023", "is not one of", "driver, line"),
    ("""'t', 'x', entity => '["HA", 1]'""", "22023", "is not one of", "driver, line"),
    ("""'t', 'x', entity => 'null'""", "22023", "is not one of", "driver, line"),
    ("""'t', 'x', entity => '{"driver": "HA", "line": "one"}'""", "22P02", "invalid input syntax", ""),
]


@pytest.mark.parametrize(("arguments", "state", "message", "hint"), TOLERANCES, ids=[case[0] for case in TOLERANCES])
def test_a_tolerance_that_cannot_be_is_refused(trips, arguments, state, message, hint) -> None:
    create(trips, "t", "trip", ["x", "y"], entity=["driver", "line"])
    with refused(state, message, hint):
        query(trips, f"select relief.set_tolerance({arguments})")
    assert query(trips, "select from relief.tolerance") == []


def test_a_detector_without_entities_has_no_tolerance_for_one(trips) -> None:
    create(trips, "t", "trip", ["x", "y"])
    with refused("22023", 'is not one of detector "t"', "The detector has no entities."):
        query(trips, "select relief.set_tolerance('t', 'x', entity => '{\"driver\": \"HA\"}')")


def test_a_tolerance_holds_from_then_on_for_its_entity_or_for_all(database, trips) -> None:
    query(
        trips,
        "insert into trip (id, driver, line, x, y) "
        "select n, case when n % 2 = 0 then 'HA' else 'UA' end, 1, 10 + n % 5, n % 7 from generate_series(1, 400) as n",
    )
    create(trips, "t", "trip", ["x", "y"], entity=["driver", "line"], verdict="deviation")
    train_small(database.dsn(), "t")

    def flagged() -> list[tuple[str, int]]:
        return [
            (driver, x)
            for driver in ("HA", "UA")
            for x in (-500, 500)
            if value(
                trips,
                "select is_anomaly "
                "from relief.detect('t', jsonb_build_object('driver', %s::text, 'line', 1, 'x', %s::integer))",
                driver,
                x,
            )
        ]

    assert flagged() == [("HA", -500), ("HA", 500), ("UA", -500), ("UA", 500)]
    query(trips, "select relief.set_tolerance('t', 'x', 'up')")
    assert flagged() == [("HA", 500), ("UA", 500)]
    query(trips, "select relief.set_tolerance('t', 'x', 'down', entity => '{\"driver\": \"HA\", \"line\": 1}')")
    assert flagged() == [("HA", -500), ("UA", 500)]
    query(trips, "select relief.set_tolerance('t', 'x', min_absolute => 1000)")
    assert flagged() == [("HA", -500)]
    query(trips, "select relief.set_tolerance('t', 'x')")
    assert flagged() == [("HA", -500), ("UA", -500), ("UA", 500)]


def test_what_refreshes_nothing_is_refused(trips) -> None:
    with refused("42704", 'detector "q" does not exist', "List the detectors"):
        query(trips, "select relief.refresh_profile('q')")
    create(trips, "t", "trip", ["x"], time_column="at")
    with refused("0A000", "pg_cron is not installed", "relief refresh t"):
        query(trips, "select relief.schedule_refresh('t')")
    query(trips, "drop table trip cascade")
    with refused("42P01", 'of detector "t" does not exist any more', "relief.drop_detector"):
        query(trips, "select relief.refresh_profile('t')")
