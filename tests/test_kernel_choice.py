"""Whether the kernel is used, and its library: chosen, refused, gone, restored elsewhere."""

from __future__ import annotations

import re
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from helpers.database import Database, query, refused
from helpers.forests import add_model, stump
from helpers.kernel import JUDGE, USED, give_library, library_for_server, without_library
from helpers.server import install
from helpers.shop import COMPANIONS, FEATURES, attach_orders, make_orders

from relief_trainer.cluster import find_server


@pytest.fixture
def attached(kernel: Database) -> psycopg.Connection:
    """Return a connection with shop.orders attached and the kernel in use."""
    attach_orders(kernel.superuser)
    query(kernel.superuser, USED, True)
    return kernel.superuser


def test_choice_is_the_same_again_and_leaves_nothing_behind(kernel: Database) -> None:
    functions = (
        "select p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proacl::text, p.procost, p.proowner, "
        "obj_description(p.oid, 'pg_proc') from pg_proc as p where p.pronamespace = 'relief'::regnamespace order by 1"
    )
    before = kernel.query(functions)
    for used in (True, True, False, False):
        kernel.query(USED, used)
    assert kernel.query(functions) == before
    kernel.query(USED, True)
    kept = [row for row in kernel.query(functions) if row[0].startswith("relief._python")]
    assert len(kept) == kernel.value("select count(*) from relief._kernel_functions()") == 8
    # As closed as what isn't in use should be, and told what it is.
    assert {row[2] is not None and ",=X" not in row[2] and not row[2].startswith("{=X") for row in kept} == {True}
    assert all(row[5] for row in kept)
    kernel.query("select relief.use_kernel(false)")
    assert kernel.query(functions) == before


@pytest.mark.extension
def test_extension_is_dropped_with_the_kernel_in_use(empty_database: Database, kernel_library: Path) -> None:
    install(empty_database.superuser, by_extension=True)
    give_library(empty_database.superuser, kernel_library)
    empty_database.query(USED, True)
    empty_database.query("drop extension relief")
    assert empty_database.query("select from pg_proc where pronamespace = 'relief'::regnamespace") == []


def test_choice_of_nothing_is_refused(kernel: Database) -> None:
    kernel.query(USED, True)
    with refused("22004", "whether the kernel is to be used is NULL", "Give true or false: select relief.use_kernel"):
        kernel.query("select relief.use_kernel(null)")
    assert kernel.value(JUDGE) == "c"


def test_kernel_is_refused_where_its_library_is_not(kernel: Database) -> None:
    with without_library(kernel.superuser):
        session = kernel.connect()
        with pytest.raises(psycopg.errors.UndefinedFile, match="the kernel cannot be used: could") as refusal:
            query(session, "select relief.use_kernel()")
        told = refusal.value.diag
        assert told.message_detail == "The library is relief_kernel in the folder that pg_config --pkglibdir names."
        major = kernel.value("select current_setting('server_version_num')::integer / 10000")
        assert told.message_hint == (
            "First install it on this server, where Relief's sources are: make install-kernel PG_CONFIG=<its pg_config>"
            f", or make deb, then apt install ./build/postgresql-{major}-relief_*.deb"
        )
    with without_library(kernel.superuser, b"not a library"):
        session = kernel.connect()
        with refused("58P01", "the kernel cannot be used: could not load library", "make install-kernel"):
            query(session, "select relief.use_kernel()")
    assert kernel.value(JUDGE) == "plpython3u"
    assert kernel.query("select from pg_proc where proname ~ '^_python'") == []


def test_library_of_another_contract_is_refused(kernel: Database) -> None:
    with (
        library_for_server("-Drelief_judge_1=relief_judge_0") as other,
        without_library(kernel.superuser, other.read_bytes()),
        refused("58P01", 'the kernel cannot be used: could not find function "relief_judge_1"', "First install"),
    ):
        query(kernel.connect(), "select relief.use_kernel()")
    assert kernel.value(JUDGE) == "plpython3u"


def test_library_for_another_postgresql_is_refused(kernel: Database, kernel_library: Path) -> None:
    library = kernel_library.read_bytes()
    major = kernel.value("select current_setting('server_version_num')::integer / 100")
    # What PG_MODULE_MAGIC begins with: the version, and how many arguments a function may have.
    assert library.count(struct.pack("ii", major, 100)) == 1
    other = library.replace(struct.pack("ii", major, 100), struct.pack("ii", 1300, 100))
    with without_library(kernel.superuser, other), pytest.raises(psycopg.errors.UndefinedFile) as refusal:
        query(kernel.connect(), "select relief.use_kernel()")
    assert re.match("the kernel cannot be used: incompatible library .*: version mismatch", str(refusal.value))
    assert refusal.value.diag.message_detail == f"Server is version {major // 100}, library is version 13."
    assert kernel.value(JUDGE) == "plpython3u"


def test_what_another_release_kept_is_no_obstacle(kernel: Database) -> None:
    left = "create function relief._python_have(checksum text) returns integer return 1"
    for used in (True, False):
        kernel.query(left)
        kernel.query(USED, used)
        assert kernel.value(JUDGE) == ("c" if used else "plpython3u")
        kernel.query("select relief.use_kernel(false)")
    assert kernel.query("select from pg_proc where proname ~ '^_python'") == []


def test_sessions_that_choose_at_once_wait_for_each_other(kernel: Database) -> None:
    role = kernel.role("reader")
    for statement in (USED % "true", f"select relief.grant_usage('{role}')", USED % "false"):
        with (
            kernel.connect(autocommit=False) as first,
            kernel.connect() as second,
            ThreadPoolExecutor() as pool,
        ):
            query(first, USED, True)
            waiting = pool.submit(query, second, statement)
            kernel.wait_until_blocked(second)
            first.commit()
            assert waiting.result(timeout=60) == [""]
    assert kernel.value(JUDGE) == "plpython3u"
    assert kernel.query("select from pg_proc where proname ~ '^_python'") == []


def test_inserts_go_on_where_the_library_is_gone(attached: psycopg.Connection, database: Database) -> None:
    insert = f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}"
    # PostgreSQL 18 leaves out where it looked.
    cannot_access = re.compile(r'could not access file "([$]libdir/)?relief_kernel"')
    with without_library(attached):
        # On this node: a standby that was promoted, a restored data directory, a new major version.
        session = database.connect()
        ((score, is_anomaly, deviation, version),) = query(session, insert)
        assert (score, is_anomaly, version) == (None, None, None)
        assert cannot_access.match(deviation["error"])
        with refused("58P01", "could not access file"):
            query(session, "select shop.relief_score(o) from shop.orders as o")
        checks = dict(query(session, "select * from relief.check()"))
        told = checks["the kernel scores as it should"]
        assert cannot_access.match(told)
        assert "server at port 5432 needs the kernel: install it on this server, where Relief's sources are" in told
        assert "make deb, then apt install ./build/postgresql-" in told
        assert "or score without it: select relief.use_kernel(false);" in told
        # What is used already isn't for that there.
        for asking in (session, attached):
            with refused("58P01", "the kernel cannot be used: could not access file", "make install-kernel"):
                query(asking, USED, True)
        query(session, "update relief.detector set on_error = 'raise'")
        query(session, "select relief.regenerate('orders')")
        with refused("58P01", "could not access file"):
            query(session, insert)
        query(session, USED, False)
        assert query(session, insert)[0][0] == 0.5
        assert dict(query(session, "select * from relief.check()"))["PL/Python scores as it should"] == "ok"
    query(attached, USED, True)
    assert query(database.connect(), insert)[0][0] == 0.5


@pytest.mark.extension
def test_restored_database_scores_without_the_kernel(
    empty_database: Database, server: str, kernel_library: Path, tmp_path: Path
) -> None:
    connection = empty_database.superuser
    install(connection, by_extension=True)
    give_library(connection, kernel_library)
    make_orders(connection)
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders')")
    query(connection, "select relief.attach('orders')")
    query(connection, USED, True)
    target = Database(server)
    try:
        with without_library(connection):
            dump, restore = find_server() / "pg_dump", find_server() / "pg_restore"
            subprocess.run([dump, "-Fc", "-f", tmp_path / "dump", empty_database.dsn()], check=True)
            subprocess.run([restore, "--exit-on-error", "-d", target.dsn(), tmp_path / "dump"], check=True)
            assert target.value("insert into shop.orders (a, b) values (-2, 1) returning relief_anomaly_score") == 0.5
            assert target.value(JUDGE) == "plpython3u"
            assert {result for _, result in target.query("select * from relief.check()")} == {"ok"}
        target.query(USED, True)
        assert target.value("insert into shop.orders (a, b) values (-2, 1) returning relief_anomaly_score") == 0.5
        target.query(USED, False)
        assert target.query("select from pg_proc where proname ~ '^_python'") == []
    finally:
        target.drop()
