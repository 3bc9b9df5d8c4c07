"""A throwaway server with Relief, the flights, and a promoted model of 8 features, 100 trees of 256 rows."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import psycopg
from psycopg import sql
from relief_runtime.document import checksum
from relief_sql.assemble import artefacts

from relief_trainer import connection as trainer_connection
from relief_trainer import flights, train
from relief_trainer.cluster import Cluster, throwaway_cluster

ROOT = Path(__file__).parents[2]
FEATURES = ["dep_delay", "arr_delay", "air_time", "distance", "dep_time", "arr_time", "hour", "month"]
Connection = psycopg.Connection[Any]


@contextlib.contextmanager
def server(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a throwaway server with Relief and the table ``flights`` for the length of a ``with`` block."""
    with throwaway_cluster(settings, artefacts()) as cluster:
        with connect(cluster) as connection:
            connection.execute("create extension relief cascade")
            flights.load(connection)
        yield cluster


@contextlib.contextmanager
def trained_server(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run a `server` whose detector ``flights`` has a promoted model."""
    with server(settings) as cluster:
        with connect(cluster) as connection:
            create_detector(connection, "flights")
        with trainer_connection.connect(cluster.dsn()) as connection:
            train.train(connection, "flights", train.Settings(), promote=True)
        yield cluster


def connect(cluster: Cluster) -> Connection:
    """Open a session in which each statement is a transaction, and is planned anew: a kept plan keeps its workers."""
    return psycopg.connect(cluster.dsn(), autocommit=True, prepare_threshold=None)


def create_detector(connection: Connection, table: str) -> None:
    """Create a detector of the benchmarks' features, named as its table."""
    connection.execute("select relief.create_detector(%s, %s, %s, contamination => 0.01)", [table, table, FEATURES])


def document(connection: Connection) -> dict[str, Any]:
    """Return the promoted model document of the flights."""
    row = connection.execute("select document from relief.model order by id desc limit 1").fetchone()
    assert row is not None
    return json.loads(row[0])  # type: ignore[no-any-return]


def promote_copy(connection: Connection, detector: str, content: Mapping[str, Any], number: int) -> None:
    """Store and promote a document whose forest differs from the others in one leaf: to sessions a model of its own."""
    first, *others = content["trees"]
    leaf = first["feature"].index(-1)
    values = list(first["value"])
    values[leaf] += 1e-12 * crc32(f"{detector} {number}".encode())
    provenance = {"copy": f"{detector} {number}"}
    text = json.dumps({**content, "trees": [{**first, "value": values}, *others], "provenance": provenance})
    connection.execute("select relief.add_model(%s, %s, %s)", [detector, text, checksum(text)])
    connection.execute("select relief.promote(%s)", [detector])


def add_kernel(cluster: Cluster) -> None:
    """Compile the kernel for a server, put it where the server finds it, and use it."""
    make = ["make", "--silent", "kernel", f"PG_CONFIG={cluster.bin / 'pg_config'}"]
    subprocess.run(make, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with connect(cluster) as connection:
        row = connection.execute(
            "select setting, current_setting('server_version_num')::integer / 10000 from pg_config "
            "where name = 'PKGLIBDIR'"
        ).fetchone()
        assert row is not None
        place = Path(row[0]) / "relief_kernel.so"
        # What is written through a link would replace the installed server's own.
        place.unlink(missing_ok=True)
        shutil.copy2(ROOT / "build" / f"kernel-{row[1]}" / place.name, place)
        connection.execute("select relief.use_kernel()")


def copy_table(connection: Connection, name: str) -> None:
    """Make a table like ``flights``, with its rows, as if it had just been loaded."""
    connection.execute(sql.SQL("drop table if exists {} cascade").format(sql.Identifier(name)))
    connection.execute(sql.SQL("create table {} (like flights including all)").format(sql.Identifier(name)))
    columns = sql.SQL(", ").join(map(sql.Identifier, flights.COLUMNS))
    connection.execute(
        sql.SQL("insert into {} ({}) select {} from flights").format(sql.Identifier(name), columns, columns)
    )
    connection.execute(sql.SQL("vacuum analyze {}").format(sql.Identifier(name)))
