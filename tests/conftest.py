"""Fixtures: one server a run, one database a test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from helpers.database import Database, query
from helpers.forests import add_model, stump
from helpers.kernel import give_library, library_for_server, may_lack_headers
from helpers.releases import BEFORE
from helpers.server import has_extension_files, install, may_lack, running_server
from helpers.shop import FEATURES, make_orders
from helpers.stores import MariaDB, running_mariadb, running_redis
from helpers.world import World, make_world
from hypothesis import HealthCheck, settings

# A server answers when it answers: no deadlines. A run is to be repeatable: no random seeds.
settings.register_profile(
    "relief", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("relief")

# Libraries of the server that markers are called by.
SERVER_LIBRARIES = ("pg_cron", "mysql_fdw", "pgoutput", "libpqwalreceiver")


@pytest.hookimpl(tryfirst=True)  # before markers select
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server, and leave out tests of extensions on one that isn't ours and lacks their files."""
    for item in items:
        if "server" in getattr(item, "fixturenames", ()):
            item.add_marker("server")
        if "kernel_library" in getattr(item, "fixturenames", ()):
            item.add_marker("kernel")
    dsn = os.environ.get("RELIEF_TEST_DSN")
    lacking = {
        "extension": dsn and not has_extension_files(dsn),
        "releases": dsn and not has_extension_files(dsn, BEFORE),
        "own_cluster": dsn or os.environ.get("RELIEF_TEST_IMAGE"),
        "kernel": may_lack_headers(),
        "debian": shutil.which("dpkg-deb") is None,
        **{name: may_lack(name) for name in SERVER_LIBRARIES},
    }
    needing = [item for item in items if any(item.get_closest_marker(name) for name in lacking if lacking[name])]
    items[:] = [item for item in items if item not in needing]
    config.hook.pytest_deselected(items=needing)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Return the connection string of the server's superuser."""
    with running_server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """Return a throwaway MariaDB server."""
    with running_mariadb() as running:
        yield running


@pytest.fixture(scope="session")
def redis_socket() -> Iterator[str]:
    """Return the socket of a throwaway Redis server."""
    with running_redis() as socket:
        yield socket


@pytest.fixture(scope="session")
def kernel_library() -> Iterator[Path]:
    """Return the kernel's library, compiled for the tests' server."""
    with library_for_server() as library:
        yield library


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """Return the name of a database with Relief in it, to be cloned."""
    made = Database(server)
    install(made.superuser, by_extension=has_extension_files(server))
    made.superuser.close()
    yield made.name
    made.drop()


@pytest.fixture
def database(server: str, template: str) -> Iterator[Database]:
    """Return a database with Relief installed, of this test alone."""
    made = Database(server, template)
    yield made
    made.drop()


@pytest.fixture
def kernel(database: Database, kernel_library: Path) -> Database:
    """Return a database of a server that has the kernel's library, which isn't used yet."""
    give_library(database.superuser, kernel_library)
    return database


@pytest.fixture(scope="module")
def module_database(server: str, template: str) -> Iterator[Database]:
    """Return a database that the tests of a module share: for reading, or where each example cleans up."""
    made = Database(server, template)
    yield made
    made.drop()


@pytest.fixture
def empty_database(server: str) -> Iterator[Database]:
    """Return a database without Relief."""
    made = Database(server)
    yield made
    made.drop()


@pytest.fixture
def orders(database: Database) -> psycopg.Connection:
    """Return a superuser's connection to a database with shop.orders and the detector "orders", without a model."""
    make_orders(database.superuser)
    return database.superuser


@pytest.fixture
def world(database: Database) -> World:
    """Return a database with shop.orders of "app", and roles that have fewer rights."""
    return make_world(database)


@pytest.fixture
def attached_world(world: World) -> World:
    """Return a world whose detector "orders" has a model and is attached."""
    add_model(world.app, "orders", stump(FEATURES))
    query(world.app, "select relief.promote('orders')")
    query(world.app, "select relief.attach('orders')")
    return world
