"""How well anomalies are found, on real rows: late flights, flights with a value of another's, a machine's failures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest
from helpers.database import Database, query
from helpers.profiles import create, train_small
from helpers.quality import count_alarms, judge, load_machine, swap_flights
from psycopg.types.json import Jsonb
from sklearn.metrics import roc_auc_score

from relief_trainer import flights
from relief_trainer.sample import Request


@pytest.fixture(scope="module")
def flown(module_database: Database) -> Iterator[Database]:
    """Return a database with the flights."""
    flights.load(module_database.superuser)
    yield module_database


@pytest.mark.parametrize(
    ("entity", "absurd", "ordinary", "whose"),
    [
        (["carrier"], ("UA",), ("F9",), "of carrier UA (n=57,7"),
        (["origin", "dest"], ("JFK", "MCO"), ("JFK", "CVG"), "of origin JFK, dest MCO (n=5,4"),
    ],
    ids=["carrier", "route"],
)
def test_five_hours_late_is_absurd_for_one_and_ordinary_for_another(
    flown: Database, entity: list[str], absurd: tuple[str], ordinary: tuple[str], whose: str
) -> None:
    connection = flown.superuser
    create(connection, "late", "flights", ["arr_delay"], entity=entity, time_column="time_hour", verdict="deviation")
    train_small(flown.dsn(), "late")

    columns = ", ".join(f"o.{column}" for column in entity)
    judged = judge(connection, "late", f"jsonb_build_array({columns})", "o.arr_delay between 297 and 303")
    assert {row.deviation["arr_delay"]["level"] for row in judged} == {"entity"}
    flags: dict[tuple[str, ...], set[bool | None]] = {}
    for row in judged:
        flags.setdefault(tuple(row.known), set()).add(row.is_anomaly)
    assert (flags[absurd], flags[ordinary]) == ({True}, {False})

    query(connection, "select relief.attach('late')")
    inserted = (
        "insert into flights (year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin, dest,"
        " distance, hour, minute, time_hour, arr_delay)"
        " select year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin, dest,"
        f" distance, hour, minute, time_hour, 300 from flights as o where jsonb_build_array({columns}) = %s"
        " limit 1 returning relief_is_anomaly"
    )
    assert [query(connection, inserted, Jsonb(who)) for who in (absurd, ordinary)] == [[True], [False]]
    (sentence,) = query(connection, "select sentence from relief.event where detector = 'late'")
    assert "arr_delay 300 is " in sentence
    assert "deviations above the mean " in sentence
    assert whose in sentence
    query(connection, "select relief.drop_detector('late', true)")
    query(connection, "delete from relief.event")
    query(connection, "delete from flights where id > %s", flights.ROWS)


@pytest.mark.parametrize("swapped", ["air_time", "distance"])
def test_values_of_another_flight_stand_out_by_severity_where_the_forest_alone_misses_them(
    flown: Database, swapped: str
) -> None:
    connection = flown.superuser
    swap_flights(connection, swapped, 20_000)
    create(
        connection,
        "swapped",
        "swapped",
        ["air_time", "distance"],
        entity=["origin", "dest"],
        time_column="time_hour",
    )
    train_small(flown.dsn(), "swapped", trees=100, samples=256)
    judged = judge(connection, "swapped", "o.is_swapped")
    truth = np.array([row.known for row in judged])
    assert truth.sum() == 200
    severity = roc_auc_score(truth, [row.severity for row in judged])
    forest = roc_auc_score(truth, [row.score for row in judged])
    assert severity >= 0.90
    assert severity >= forest + 0.05
    query(connection, "select relief.drop_detector('swapped')")


def test_failures_of_a_machine_are_told_without_false_alarms_where_the_forest_alone_has_many(
    database: Database,
) -> None:
    connection: psycopg.Connection = database.superuser
    since = load_machine(connection)
    create(connection, "machine", "machine", ["value"], time_column="at", verdict="deviation", deviation_threshold=3)
    train_small(database.dsn(), "machine", trees=100, samples=256, request=Request(where=f"at < '{since}'"))
    judged = judge(connection, "machine", "o.at::text", f"o.at >= '{since}'")
    forest = count_alarms(((row.known, row.score >= row.threshold) for row in judged), since)
    deviation = count_alarms(((row.known, row.is_anomaly) for row in judged), since)
    assert len(judged) > 19_000
    assert (forest.windows, forest.hits, deviation.hits) == (3, 2, 2)
    assert forest.false_per_thousand > 5
    assert deviation.false_per_thousand < 1
