"""Dump and restore: a restored database scores as the old one did."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.database import Database, query, value
from helpers.forests import train
from helpers.server import extension_files, install
from helpers.shop import COMPANIONS, make_orders

from relief_trainer.cluster import Cluster, find_server, throwaway_cluster
from tests.matrix.servers import fetch, readable_copy

STATE = {
    "scores": f"select id, shop.relief_score(o), {COMPANIONS} from shop.orders as o order by id",
    "detectors": "select name, relation::text, columns, promoted_version, created_by from relief.detector",
    "features": "select * from relief.feature order by detector_id, position",
    "models": "select version, checksum, threshold, features, md5(document) from relief.model order by id",
    **{
        table: f"select t::text from relief.{table} as t order by 1"
        for table in ("tolerance", "profile", "bucket", "refresh", "stale_day", "label", "quarantine")
    },
    # Transactions have other numbers in another cluster.
    "events": "select to_jsonb(e) - 'transaction' from relief.event as e order by id",
    "status": "select * from relief.status",
    "check": "select * from relief.check()",
    "frequencies": "select frequencies from relief.profile where frequencies is not null",
    "functions": "select proname, proowner::regrole::text, proacl::text, proparallel, provolatile, "
    "obj_description(oid, 'pg_proc') from pg_proc where pronamespace = 'shop'::regnamespace order by 1",
}


@pytest.fixture(params=[pytest.param("extension", marks=pytest.mark.extension), "script"])
def original(request: pytest.FixtureRequest, empty_database: Database) -> Database:
    database = empty_database
    install(database.superuser, by_extension=request.param == "extension")
    app = database.role("app")
    query(database.superuser, "select relief.grant_admin(%s)", app)
    query(database.superuser, f"create schema shop authorization {app}")
    connection = database.connect(app)
    make_orders(connection, schema=False)
    train(connection, "orders", seed=1, promote=False)
    train(connection, "orders", seed=2)
    query(connection, "select relief.attach('orders')")
    query(connection, "call relief.backfill('orders')")
    query(connection, "select relief.refresh_profile('orders')")
    query(connection, "select relief.set_tolerance('orders', 'a', min_absolute => 0.5)")
    query(connection, """select relief.label('orders', '{"id": 7}', true, 'a typing error')""")
    query(connection, "insert into shop.orders (a, b) values (-100, 1)")
    query(connection, "select relief.set_mode('orders', 'quarantine')")
    query(connection, "insert into shop.orders (a, b) values (-200, 1)")
    query(connection, "select relief.create_detector('notes', 'shop.orders', '{note}', score_function => false)")
    query(connection, "select relief.refresh_profile('notes')")
    return database


@pytest.fixture
def target(server: str) -> Iterator[Database]:
    made = Database(server)
    yield made
    made.drop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a server that knows nothing of the roles of the tests'."""
    with throwaway_cluster({"max_connections": "60"}, extension_files()) as running:
        yield running


@pytest.fixture
def newer_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Return a server of PostgreSQL 18."""
    with readable_copy(fetch("18")) as programs, contextlib.ExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setenv("RELIEF_PG_BIN", str(programs))
            running = stack.enter_context(throwaway_cluster({"max_connections": "60"}, extension_files()))
        yield running


def _run(program: Path, *arguments: str) -> None:
    # A server that was unpacked somewhere has its libraries beside it.
    environment = {**os.environ, "LD_LIBRARY_PATH": str(program.parent.parent / "lib")}
    finished = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""


def test_restored_database_scores_as_before(original: Database, target: Database, tmp_path: Path) -> None:
    _move(original, target, find_server(), tmp_path / "dump", "plain")


@pytest.mark.own_cluster
def test_database_restored_in_another_cluster_scores_as_before(
    original: Database, cluster: Cluster, tmp_path: Path
) -> None:
    _move_to_cluster(original, cluster, tmp_path)


@pytest.mark.soak
@pytest.mark.own_cluster
def test_database_restored_in_a_newer_postgresql_scores_as_before(
    original: Database, newer_cluster: Cluster, tmp_path: Path
) -> None:
    assert original.value("show server_version_num") < "180000"
    _move_to_cluster(original, newer_cluster, tmp_path)


def _move_to_cluster(original: Database, cluster: Cluster, place: Path) -> None:
    roles = place / "roles"
    _run(find_server() / "pg_dumpall", "--roles-only", "--dbname", original.dsn(), "--file", str(roles))
    known = {"CREATE ROLE postgres;"}
    roles.write_text("\n".join(line for line in roles.read_text().splitlines() if line not in known))
    _run(cluster.bin / "psql", cluster.dsn(), "--quiet", "--set", "ON_ERROR_STOP=1", "--file", str(roles))
    target = Database(cluster.dsn())
    try:
        _move(original, target, cluster.bin, place / "dump", "custom")
    finally:
        target.drop()


def _move(original: Database, target: Database, programs: Path, dump: Path, form: str) -> None:
    """Dump a database and restore it, and assert that it is and works as before."""
    before = {name: original.query(statement) for name, statement in STATE.items()}
    assert all(before.values())
    # Not by the programs of a newer major version, which may lag behind what a minor release of the older one writes.
    _run(find_server() / "pg_dump", "--dbname", original.dsn(), "--format", form, "--file", str(dump))
    if form == "custom":
        _run(programs / "pg_restore", "--dbname", target.dsn(), "--exit-on-error", str(dump))
    else:
        options = ("--quiet", "--output", "/dev/null", "--set", "ON_ERROR_STOP=1", "--file", str(dump))
        _run(programs / "psql", target.dsn(), *options)
    assert {name: target.query(statement) for name, statement in STATE.items()} == before

    app = target.connect(target.value("select tableowner from pg_tables where tablename = 'orders'"))
    for database, owner in ((original, original.connect(app.info.user)), (target, app)):
        database.query("insert into shop.orders (a, b) values (-100, 1)")
        query(owner, "select relief.release(id) from relief.quarantine")
        assert sorted(database.query("select a from shop.orders where a < -10")) == [-200, -100, -100]
        database.query("select relief.set_mode('orders', 'flag')")
    insert = f"insert into shop.orders (a, b) values (-100, 1), (1, 1) returning {COMPANIONS}"
    assert target.query(insert) == original.query(insert)
    assert target.value("select count(*) from relief.event") == original.value("select count(*) from relief.event") > 1
    assert value(app, "select relief.refresh_profile('orders')") == 1
    trained = train(target.superuser, "orders", seed=3)
    assert trained.version == 3
    target.query("call relief.backfill('orders')")
    assert target.value("select count(*) from shop.orders where relief_model_version is distinct from 3") == 0
    reason = target.value("insert into shop.orders (a, b) values (1, -1) returning relief_deviation ->> 'error'")
    assert reason == "cannot take logarithm of a negative number"
    target.query("select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    target.query("select relief.drop_detector('orders', drop_columns => true)")
