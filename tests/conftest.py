"""Fixtures: one server a run, one database a test."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from helpers.database import Database
from helpers.server import has_extension_files, install, running_server
from helpers.shop import make_orders
from hypothesis import HealthCheck, settings

# A server answers when it answers: no deadlines. A run is to be repeatable: no random seeds.
settings.register_profile(
    "relief", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("relief")


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Return the connection string of the server's superuser."""
    with running_server() as dsn:
        yield dsn


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
