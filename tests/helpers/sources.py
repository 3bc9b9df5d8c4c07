"""The same orders in every kind of source: id, two numbers of which some are missing, an exact one, and two texts."""

from __future__ import annotations

import csv
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import redis
from psycopg.conninfo import conninfo_to_dict
from pyarrow import parquet

from helpers.database import Database
from helpers.stores import MariaDB

COLUMNS = ("id", "a", "b", "c", "note", "land")
FEATURES = ("a", "b", "c", "land")
_generator = random.Random(4)
ROWS: list[tuple[int, float | None, int | None, Decimal, str, str | None]] = [
    (
        number,
        None if number % 17 == 0 else _generator.gauss(0.0, 1e3) + 0.1,
        None if number % 23 == 0 else _generator.randrange(-(2**40), 2**40),
        Decimal(_generator.randrange(10**12)) / 1000,
        f'o\'{number}, "ü"',
        _generator.choice(["Österreich", "NA", "NA", "NA", "null", None]),
    )
    for number in range(1, 301)
]
CREATE = (
    "create table {table} "
    "(id integer primary key, a double precision, b bigint, c numeric(15,3), note varchar(50), land text)"
)


class Places:
    """Where a test's sources are put.

    Parameters
    ----------
    folder
        For files.
    get
        Gives the fixture of a name, so that a server is started only by the tests that need it.
    """

    def __init__(self, folder: Path, get: Callable[[str], Any]) -> None:
        self._folder = folder
        self._get = get

    def fill(self, kind: str, rows: list[tuple] = ROWS, name: str = "orders") -> str:
        """Make a source of a kind that holds rows, and return its URI."""
        return getattr(self, f"_{kind}")(rows, name)

    def _postgresql(self, rows: list[tuple], name: str) -> str:
        database: Database = self._get("database")
        database.query(CREATE.format(table=name))
        with database.superuser.cursor() as cursor:
            cursor.executemany(f"insert into {name} values (%s, %s, %s, %s, %s, %s)", rows)
        parts = conninfo_to_dict(database.dsn())
        query = "&".join(f"{key}={value}" for key, value in parts.items() if key not in ("user", "dbname"))
        return f"postgresql://{parts['user']}@/{database.name}?{query}&table={name}"

    def _mariadb(self, rows: list[tuple], name: str) -> str:
        mariadb: MariaDB = self._get("mariadb")
        mariadb.run(f"drop table if exists {name}", CREATE.format(table=name) + " character set utf8mb4")
        with closing(mariadb.connect()) as connection, connection.cursor() as cursor:
            cursor.executemany(f"insert into {name} values (%s, %s, %s, %s, %s, %s)", rows)
            connection.commit()
        return mariadb.uri(name)

    def _sqlite(self, rows: list[tuple], name: str) -> str:
        with closing(sqlite3.connect(self._folder / "shop.db")) as connection:
            connection.execute(CREATE.format(table=name))
            texts = [[str(value) if isinstance(value, Decimal) else value for value in row] for row in rows]
            connection.executemany(f"insert into {name} values (?, ?, ?, ?, ?, ?)", texts)
            connection.commit()
        return f"sqlite:///{self._folder}/shop.db?table={name}"

    def _parquet(self, rows: list[tuple], name: str) -> str:
        path = self._folder / f"{name}.parquet"
        types = (pa.int32(), pa.float64(), pa.int64(), pa.decimal128(15, 3), pa.string(), pa.string())
        columns = [pa.array([row[place] for row in rows], kind) for place, kind in enumerate(types)]
        parquet.write_table(pa.table(columns, COLUMNS), path, row_group_size=100)
        return str(path)

    def _csv(self, rows: list[tuple], name: str) -> str:
        path = self._folder / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(rows)
        return f"file://{path}"

    def _jsonl(self, rows: list[tuple], name: str) -> str:
        path = self._folder / f"{name}.jsonl"
        objects = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
        path.write_text("".join(json.dumps(content, default=float) + "\n" for content in objects), encoding="utf-8")
        return str(path)

    def _hashes(self, rows: list[tuple], name: str) -> str:
        with self._redis() as client:
            for row in rows:
                client.hset(f"{name}:{row[0]}", mapping=_fields(row))
        return f"redis+unix://{self._get('redis_socket')}?db=0&hashes={name}:*"

    def _stream(self, rows: list[tuple], name: str) -> str:
        with self._redis() as client:
            for row in rows:
                client.xadd(name, _fields(row), id=f"{row[0]}-1")
        return f"redis+unix://{self._get('redis_socket')}?db=0&stream={name}"

    def _redis(self) -> redis.Redis:
        client = redis.Redis(unix_socket_path=self._get("redis_socket"))
        client.flushdb()
        return client


KINDS = ("postgresql", "mariadb", "sqlite", "parquet", "csv", "jsonl", "hashes", "stream")
# What a row of a kind is called in a file of scores, and how it tells which order it is.
IDENTITY: dict[str, tuple[str, Callable[[Any], int]]] = {
    **dict.fromkeys(("postgresql", "mariadb", "sqlite"), ("id", int)),
    **dict.fromkeys(("parquet", "csv", "jsonl"), ("row", int)),
    "hashes": ("key", lambda key: int(key.partition(":")[2])),
    "stream": ("id", lambda identity: int(identity.partition("-")[0])),
}


def _fields(row: tuple) -> dict[str, str]:
    """Return a row as Redis has it: texts, and nothing for what is missing."""
    return {name: str(value) for name, value in zip(COLUMNS, row, strict=True) if value is not None}
