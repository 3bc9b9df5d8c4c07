"""Drift: whether recent rows still look like those that the promoted model was trained on."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, refused
from helpers.profiles import create, train_small

STABLE, SHIFTED, DRIFTED = "stable", "shifted: watch it", "drifted: train again"


@pytest.fixture
def readings(database: Database) -> psycopg.Connection:
    """Return a connection to a database with a detector trained on two thousand rows of January."""
    return make_readings(database)


def make_readings(database: Database, features: str = "{x,y}") -> psycopg.Connection:
    connection = database.superuser
    query(connection, "create table reading (at timestamptz, x float8, y float8)")
    query(connection, "select setseed(0.5)")
    add(connection, "2024-01-01", 2000)
    query(connection, "select relief.create_detector('r', 'reading', %s::text[], time_column => 'at')", features)
    train_small(database.dsn(), "r")
    return connection


def add(connection: psycopg.Connection, day: str, rows: int, x: str = "normal", y: str = "uniform") -> None:
    """Add rows of one day: x and y are expressions of two random numbers, normal and uniform."""
    query(
        connection,
        f"insert into reading select timestamptz '{day} 00:00Z' + n * interval '10 seconds', {x}, {y} from ("
        "select n, sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) as normal, random() as uniform "
        f"from generate_series(1, {rows}) as n) as r",
    )


def drift(connection: psycopg.Connection, arguments: str = "") -> dict[str, dict[str, Any]]:
    found = query(connection, f"select to_jsonb(d) from relief.drift('r'{arguments}) as d")
    return {row["feature"]: row for row in found}


def verdicts(connection: psycopg.Connection, arguments: str = "") -> dict[str, str]:
    return {name: row["verdict"] for name, row in drift(connection, arguments).items()}


def test_rows_of_the_same_kind_are_stable(readings) -> None:
    add(readings, "2024-03-01", 2000)
    found = drift(readings)
    for row in found.values():
        assert (row["verdict"], row["rows"]) == (STABLE, 2000)
        assert 0 <= row["psi"] < 0.05
        assert 0 <= row["ks"] < 0.06
    assert verdicts(readings, ", since => '2000-01-01'") == {"x": STABLE, "y": STABLE}


def test_the_rows_that_were_trained_on_do_not_drift_at_all(readings) -> None:
    for row in drift(readings, ", since => '2000-01-01'").values():
        assert (row["psi"], row["ks"], row["null_rate_now"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "x", ["normal + 3", "normal - 3", "normal * 5", "normal / 5", "case when n > 1000 then 9 else normal end"]
)
def test_shifted_and_scaled_values_have_drifted(readings, x) -> None:
    add(readings, "2024-03-01", 2000, x=x)
    assert verdicts(readings) == {"x": DRIFTED, "y": STABLE}
    assert drift(readings)["x"]["ks"] > 0.2


def test_few_rows_of_the_same_kind_are_stable(readings) -> None:
    for number, rows in enumerate((1, 5, 20, 50, 100, 300) * 3):
        add(readings, f"{2025 + number}-01-01", rows)
        assert verdicts(readings) == {"x": STABLE, "y": STABLE}, rows


def test_a_hundred_shifted_rows_are_enough_to_tell(readings) -> None:
    add(readings, "2024-03-01", 100, x="normal + 3")
    assert verdicts(readings) == {"x": DRIFTED, "y": STABLE}


def test_a_small_shift_is_to_be_watched(readings) -> None:
    add(readings, "2024-03-01", 5000, x="normal + 0.4")
    assert verdicts(readings) == {"x": SHIFTED, "y": STABLE}


def test_the_distances_are_those_of_the_distributions(readings) -> None:
    """A normal distribution shifted by one: its largest distance is 2 Phi(1/2) - 1 = 0.383, its index about 1."""
    add(readings, "2024-03-01", 20000, x="normal + 1")
    found = drift(readings)["x"]
    assert found["ks"] == pytest.approx(0.383, abs=0.04)
    assert found["psi"] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("share", "verdict"), [(0.005, STABLE), (0.05, SHIFTED), (0.3, DRIFTED)])
@pytest.mark.parametrize("missing", ["null", "'NaN'"])
def test_more_missing_values_are_told(readings, share, verdict, missing) -> None:
    add(readings, "2024-03-01", 2000, x=f"case when n <= {share} * 2000 then {missing} else normal end")
    found = drift(readings)["x"]
    assert (found["verdict"], found["null_rate_then"]) == (verdict, 0)
    assert found["null_rate_now"] == pytest.approx(share)


def test_a_feature_that_is_missing_everywhere_is_told(readings) -> None:
    add(readings, "2024-03-01", 500, x="null")
    found = drift(readings)["x"]
    assert (found["verdict"], found["psi"], found["ks"], found["null_rate_now"]) == (
        "missing everywhere",
        None,
        None,
        1,
    )


def test_a_constant_that_changes_either_way_has_drifted(database) -> None:
    connection = database.superuser
    query(connection, "create table reading (at timestamptz, x float8, y float8)")
    query(connection, "select setseed(0.5)")
    add(connection, "2024-01-01", 1000, x="5")
    create(connection, "r", "reading", ["x", "y"], time_column="at")
    train_small(database.dsn(), "r")
    for day, value, verdict in (("2024-03-01", 5, STABLE), ("2024-04-01", 7, DRIFTED), ("2024-05-01", 3, DRIFTED)):
        add(connection, day, 500, x=str(value))
        assert verdicts(connection) == {"x": verdict, "y": STABLE}


def test_infinite_values_are_beyond_all_others(readings) -> None:
    add(readings, "2024-03-01", 1000, x="case when n % 2 = 0 then 'Infinity' else '-Infinity' end::float8")
    assert verdicts(readings) == {"x": DRIFTED, "y": STABLE}


def test_rows_that_always_failed_are_no_drift(database) -> None:
    connection = make_readings(database, features='{"ln(x) AS log_x",y}')
    add(connection, "2024-03-01", 2000)
    assert verdicts(connection) == {"log_x": STABLE, "y": STABLE}


def test_recent_means_the_last_seven_days_of_data_unless_told(readings) -> None:
    add(readings, "2024-03-01", 1000, x="normal + 3")
    add(readings, "2024-03-20", 1000)
    assert verdicts(readings)["x"] == STABLE
    assert verdicts(readings, ", since => '2024-02-01'")["x"] == DRIFTED
    assert {row["rows"] for row in drift(readings, ", since => '2024-03-19'").values()} == {1000}
    assert {row["rows"] for row in drift(readings, ", max_rows => 300").values()} == {300}


def test_without_recent_rows_nothing_is_compared(readings) -> None:
    for arguments in (", since => '2030-01-01'", ""):
        for row in drift(readings, arguments).values():
            assert (row["verdict"], row["rows"], row["psi"], row["ks"]) == ("no recent rows", 0, None, None)
        query(readings, "truncate reading")


@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_every_kind_of_time_column_tells_what_is_recent(database, kind) -> None:
    connection = database.superuser
    query(connection, f"create table reading (at {kind}, x float8, y float8)")
    add(connection, "2024-01-01", 1000)
    create(connection, "r", "reading", ["x", "y"], time_column="at")
    train_small(database.dsn(), "r")
    add(connection, "2024-03-01", 1000, x="normal + 3")
    assert verdicts(connection) == {"x": DRIFTED, "y": STABLE}


def test_without_a_time_column_the_whole_table_is_compared(database) -> None:
    connection = database.superuser
    query(connection, "create table reading (at timestamptz, x float8, y float8)")
    add(connection, "2024-01-01", 1000)
    create(connection, "r", "reading", ["x", "y"])
    train_small(database.dsn(), "r")
    assert verdicts(connection) == {"x": STABLE, "y": STABLE}
    with refused(
        "22023",
        'detector "r" has no time column to compare since with',
        "or create the detector with time_column => 'at'.",
    ):
        drift(connection, ", since => '2024-01-01'")


@pytest.mark.parametrize("rows", ["0", "-5", "null"])
def test_a_number_of_rows_that_cannot_be_is_refused(readings, rows) -> None:
    with refused("22003", "max_rows is", "such as 100000"):
        drift(readings, f", max_rows => {rows}")


def test_drift_needs_a_detector_with_a_promoted_model(readings) -> None:
    with refused("42704", 'detector "q" does not exist', "List the detectors"):
        query(readings, "select * from relief.drift('q')")
    create(readings, "q", "reading", ["x"], score_function=False)
    with refused("55000", 'detector "q" has no promoted model', "Train one"):
        query(readings, "select * from relief.drift('q')")
