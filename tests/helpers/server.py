"""Where the tests' server comes from: a throwaway cluster, RELIEF_TEST_DSN, or a container of RELIEF_TEST_IMAGE."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
from relief_runtime import __version__
from relief_sql.assemble import artefacts, install_script

from helpers.releases import BEFORE, release
from relief_trainer.cluster import throwaway_cluster


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Yield the connection string of a superuser."""
    if dsn := os.environ.get("RELIEF_TEST_DSN"):
        yield dsn
    elif image := os.environ.get("RELIEF_TEST_IMAGE"):
        with _container(image) as dsn:
            yield dsn
    else:
        with throwaway_cluster(
            {"max_connections": "60", "wal_level": "logical"}, extension_files=extension_files()
        ) as cluster:
            yield cluster.dsn()


def extension_files() -> dict[str, str]:
    """Return the files of this release, and of the one before for upgrades to start from."""
    before = f"relief--{BEFORE}.sql"
    return artefacts() | {before: release(before)}


@contextlib.contextmanager
def _container(image: str) -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    # Engines publish a port to the whole network by default.
    with PostgresContainer(image, password=secrets.token_hex(), driver=None) as container:
        for name, content in extension_files().items():
            encoded = base64.b64encode(content.encode()).decode()
            place = f"$(pg_config --sharedir)/extension/{name}"
            status, output = container.exec(["sh", "-c", f"echo {encoded} | base64 -d > {place}"])
            if status:
                raise RuntimeError(output.decode(errors="replace"))
        yield container.get_connection_url()


def has_extension_files(dsn: str, version: str = __version__) -> bool:
    """Return whether CREATE EXTENSION relief can work on a server: one that isn't ours may lack the files."""
    available = "select from pg_available_extension_versions where name = 'relief' and version = %s"
    with psycopg.connect(dsn) as connection:
        return connection.execute(available, [version]).fetchone() is not None


def may_lack(library: str) -> bool:
    """Return whether the tests run on a server that isn't ours, or is named to us and lacks a library."""
    if os.environ.get("RELIEF_TEST_DSN") or os.environ.get("RELIEF_TEST_IMAGE"):
        return True
    named = os.environ.get("RELIEF_PG_BIN")
    return named is not None and not any(Path(named).parent.glob(f"lib/**/{library}.so"))


def install(connection: psycopg.Connection, by_extension: bool) -> None:
    """Install Relief in a database."""
    if by_extension:
        connection.execute("create extension relief cascade")
    else:
        connection.execute(install_script())
