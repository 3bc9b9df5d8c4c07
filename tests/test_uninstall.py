"""Uninstalling: users' tables stay as they were, and nothing of Relief's is left."""

from __future__ import annotations

import difflib
import subprocess

import pytest
from helpers.catalog import catalog, differences
from helpers.database import Database, query, refused
from helpers.releases import make_shop, run_shop
from helpers.server import install
from psycopg import Connection
from relief_sql.assemble import uninstall_script

from relief_trainer.cluster import find_server

WAYS = pytest.mark.parametrize(
    "by_extension", [pytest.param(True, marks=pytest.mark.extension, id="extension"), pytest.param(False, id="script")]
)
LEFT = """
    select proname::text from pg_proc where proname ~ 'relief' or pronamespace = to_regnamespace('relief')
    union all
    select tgname from pg_trigger where tgname ~ 'relief'
    union all
    select relname from pg_class where relname ~ 'relief' or relnamespace = to_regnamespace('relief')
    union all
    select nspname from pg_namespace where nspname = 'relief'
    union all
    select extname from pg_extension where extname = 'relief'
"""
COLUMNS = ["anomaly_score double precision", "is_anomaly boolean", "deviation jsonb", "model_version integer"]


def uninstall(superuser: Connection, drop_columns: str) -> None:
    query(superuser, f"set relief.drop_columns = {drop_columns}")
    query(superuser, uninstall_script())


def tables(database: Database) -> list[str]:
    """Return the statements that make the users' tables; pg_dump writes a random word into two lines."""
    command = [find_server() / "pg_dump", "--schema-only", "--table", "shop.*", database.dsn()]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in finished.stdout.splitlines() if "restrict " not in line]


@WAYS
@pytest.mark.parametrize("drop_columns", ["on", "off"])
def test_tables_are_as_they_were_but_for_the_columns_that_are_to_stay(
    empty_database: Database, by_extension: bool, drop_columns: str
) -> None:
    superuser = empty_database.superuser
    install(superuser, by_extension)
    shop = make_shop(empty_database)
    before = tables(empty_database)
    assert any("CREATE TABLE shop.payment" in line for line in before)

    uninstall(run_shop(shop).database.superuser, drop_columns)
    assert query(superuser, LEFT) == []
    left = [line.strip() for line in difflib.ndiff(before, tables(empty_database)) if line[0] in "+-"]
    added = [f"+     relief_{column}" for column in COLUMNS]
    if drop_columns == "on":
        assert left == []
    else:
        assert [line.rstrip(",") for line in left if line.startswith("+     relief_")] == added * 2


@WAYS
def test_what_others_built_on_relief_stops_it_and_nothing_is_lost(empty_database: Database, by_extension: bool) -> None:
    superuser = empty_database.superuser
    install(superuser, by_extension)
    run_shop(make_shop(empty_database))
    query(superuser, "create view shop.known as select relief.version()")
    before = catalog(empty_database)
    with refused("2BP01", "cannot uninstall Relief because other objects depend on it", "Drop those first."):
        uninstall(superuser, "off")
    query(superuser, "rollback")
    assert differences(before, catalog(empty_database), ("before", "after")) == []
    assert query(superuser, "select count(*) from relief.detector") == [3]


def test_without_relief_there_is_nothing_to_uninstall(empty_database: Database) -> None:
    superuser = empty_database.superuser
    with refused("42704", "Relief is not installed in this database", "psql --list"):
        uninstall(superuser, "off")
    query(superuser, "rollback; create schema relief; create table relief.detector ()")
    mallory = empty_database.role("mallory")
    query(superuser, f"alter schema relief owner to {mallory}")
    with refused("42501", f"schema relief belongs to {mallory}, which is not a superuser", "alter schema relief owner"):
        uninstall(superuser, "off")
    query(superuser, "rollback")
