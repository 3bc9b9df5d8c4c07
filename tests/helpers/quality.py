"""Anomalies that are known, for tests and benchmarks: flights with another flight's value, a machine's failures."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

_DATA = Path(__file__).parent.parent / "data"
SWAPPED_SHARE = 0.01
# The Numenta Anomaly Benchmark lets a detector learn from the first 15 % of a series.
PROBATION = 0.15


@dataclass(frozen=True)
class Judged:
    """What a detector says of a row of its table, which column says what is known of it."""

    known: Any
    score: float
    threshold: float
    is_anomaly: bool | None
    severity: float | None
    deviation: dict[str, Any]


def judge(connection: psycopg.Connection[Any], detector: str, known: str, condition: str = "true") -> list[Judged]:
    """Judge the rows, called o, of a detector's table by its promoted model, all in one query.

    It calls the detector's functions as its trigger does, some ten times faster than relief.detect a row.

    Parameters
    ----------
    known
        An expression on o that is handed through.
    condition
        Picks the rows.
    """
    found = connection.execute(
        "select d.relation::text, relief._features_call(d, 'o'), relief._categories_call(d, 'o'),"
        " relief._judgement_call(d, 'o', 'f.numbers', 'f.categories', true)"
        " from relief.detector as d where d.name = %s",
        [detector],
    ).fetchone()
    assert found is not None
    relation, features, categories, judgement = found
    # OFFSET 0: a judgement is made once, not wherever a part of it is used.
    statement: Any = (
        f"select {known}, (j.judged ->> 'relief_anomaly_score')::float8, (j.judged ->> 'threshold')::float8,"
        " (j.judged ->> 'relief_is_anomaly')::boolean, (j.judged ->> 'severity')::float8,"
        f" j.judged -> 'relief_deviation' from {relation} as o"
        f" cross join lateral (select {features} as numbers, {categories} as categories offset 0) as f"
        f" cross join lateral (select {judgement} as judged offset 0) as j"
        f" where {condition} order by o.ctid"
    )
    return [Judged(*row) for row in connection.execute(statement).fetchall()]


def swap_flights(connection: psycopg.Connection[Any], column: str, rows: int) -> None:
    """Make the table ``swapped``: flights of which one in a hundred has another flight's value in a column.

    Hashes draw them, as random() draws others in each version of PostgreSQL.
    """
    named = sql.Identifier(column)
    connection.execute("drop table if exists swapped cascade")
    connection.execute(
        sql.SQL(
            "create table swapped as select id, origin, dest, time_hour, dep_delay, arr_delay, air_time, distance,"
            " false as is_swapped from flights where air_time is not null order by md5('drawn' || id) limit {}"
        ).format(rows)
    )
    connection.execute(
        sql.SQL(
            "with picked as (select id, row_number() over (order by md5('picked' || id)) as n from swapped),"
            " other as (select {column} as value, row_number() over (order by md5('other' || id)) as n from swapped)"
            " update swapped set {column} = other.value, is_swapped = true"
            " from picked join other using (n) where swapped.id = picked.id and n <= {count}"
        ).format(count=int(rows * SWAPPED_SHARE), column=named)
    )
    connection.execute("alter table swapped add primary key (id)")


def load_machine(connection: psycopg.Connection[Any]) -> str:
    """Make the table ``machine`` of a machine's temperatures, and return when the training rows end."""
    with gzip.open(_DATA / "machine_temperature.csv.gz", "rt", encoding="utf-8") as file:
        series = [(row["timestamp"], float(row["value"])) for row in csv.DictReader(file)]
    connection.execute("create table machine (id integer generated always as identity, at timestamp, value float8)")
    with connection.cursor() as cursor, cursor.copy("copy machine (at, value) from stdin") as copy:
        for row in series:
            copy.write_row(row)
    return series[int(len(series) * PROBATION)][0]


@dataclass(frozen=True)
class Alarms:
    """How many of the labelled windows were hit, and how many of 1,000 points outside them raised a false alarm."""

    windows: int
    hits: int
    false_per_thousand: float


def count_alarms(flagged: Iterable[tuple[str, bool | None]], since: str) -> Alarms:
    """Compare times and flags, from ``since`` on, with the labelled windows of the machine's failures."""
    labelled = json.loads((_DATA / "machine_temperature_windows.json").read_text(encoding="utf-8"))
    windows = [(begin, end) for begin, end in labelled["machine_temperature_system_failure.csv"] if end > since]
    hit: set[str] = set()
    outside = false_alarms = 0
    for at, flag in flagged:
        window = next((begin for begin, end in windows if begin <= at <= end), None)
        if window is None:
            outside += 1
            false_alarms += bool(flag)
        elif flag:
            hit.add(window)
    return Alarms(len(windows), len(hit), 1000 * false_alarms / outside)
