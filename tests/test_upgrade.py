"""Upgrades: what the release before installed becomes what this one installs, and scores as before."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pglast
import psycopg
import pytest
import relief_sql
from click.testing import CliRunner, Result
from helpers.catalog import CATALOG, EXTENSION, catalog, differences
from helpers.database import Database, query, refused, value
from helpers.releases import BEFORE, Shop, install_release, make_shop, release, run_shop
from helpers.server import install
from relief_runtime import __version__
from relief_sql.assemble import install_script, previous_version, upgrade_script
from relief_sql.statements import split
from relief_sql.upgrade import objects

from relief_trainer.cli import main
from relief_trainer.cluster import find_server

STEPS = Path(relief_sql.__file__).parent / "migrations"
WAYS = [
    pytest.param(True, marks=[pytest.mark.extension, pytest.mark.releases], id="extension"),
    pytest.param(False, id="script"),
]
SCORES = {
    "payment": "select id, shop.relief_score(o) from shop.payment as o order by id",
    "reading": "select id, shop.relief_score(o), relief.score('numbers', to_jsonb(o)) from shop.reading as o "
    "order by id",
    "judgement": "select id, t.* from shop.payment as o, relief.detect('categories', to_jsonb(o)) as t "
    "where id < 10 order by id",
    "explanation": "select id, t.* from shop.payment as o, shop.relief_explain(o) as t where id < 5 "
    "order by id, feature",
    "stored": "select * from shop.payment order by id",
    "status": "select detector, relation, promoted_version, attached, baseline_rows, entities, rows_missing, state, "
    "problems from relief.status order by detector",
}
INSERT = (
    "insert into shop.payment (customer, amount, country, kind) "
    "values ('customer 1', 1e6, 'XX', 'barter'), ('customer 2', 30, 'NL', 'card') "
    "returning relief_anomaly_score, relief_is_anomaly, relief_deviation, relief_model_version"
)
# What is in each of Relief's tables, in the columns that it has when this is asked.
HELD = (
    "select format('select row(%s)::text from relief.%I order by 1', "
    "string_agg(quote_ident(a.attname), ', ' order by a.attnum), c.relname) "
    "from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped "
    "where c.relnamespace = 'relief'::regnamespace and c.relkind = 'r' group by c.relname order by c.relname"
)
STALE = (
    "select distinct substring(result from 'its functions were made by Relief [0-9.]+') from relief.check() "
    "where result <> 'ok'"
)


def upgrade(connection: psycopg.Connection, by_extension: bool) -> None:
    query(connection, "alter extension relief update" if by_extension else upgrade_script())


@pytest.fixture
def old(empty_database: Database, by_extension: bool) -> Shop:
    install_release(empty_database.superuser, by_extension)
    return run_shop(make_shop(empty_database))


@pytest.fixture
def fresh(server: str) -> Iterator[Database]:
    made = Database(server)
    yield made
    made.drop()


@pytest.mark.parametrize("by_extension", WAYS)
def test_upgraded_catalog_is_that_of_a_fresh_installation(old: Shop, fresh: Database, by_extension: bool) -> None:
    upgrade(old.database.superuser, by_extension)
    old.database.query("select relief.regenerate()")
    install(fresh.superuser, by_extension)
    fresh.query("select relief.grant_admin(%s), relief.grant_usage(%s)", old.admin, old.user)
    kinds = CATALOG | (EXTENSION if by_extension else {})
    told = differences(catalog(fresh, kinds), catalog(old.database, kinds), ("installed", "upgraded"))
    hint = f"\n\nAdd what makes up for it to sql/relief_sql/migrations/{previous_version()}--{__version__}.sql"
    assert not told, "\n".join(told) + hint


@pytest.mark.parametrize("by_extension", WAYS)
def test_rows_are_scored_as_before_at_every_step_of_an_upgrade(old: Shop, by_extension: bool) -> None:
    superuser = old.database.superuser
    session = old.database.connect(old.admin)
    query(session, "prepare scores as select shop.relief_score(o) from shop.payment as o where id = 7")
    score = value(session, "execute scores")
    held = query(superuser, HELD)
    kept = [query(superuser, statement) for statement in held]
    assert all(kept)
    before = {name: query(old.app, statement) for name, statement in SCORES.items()}
    inserted = _tried(old.app)
    assert [row[1] for row in inserted] == [True, False]

    upgrade(superuser, by_extension)
    for connection in (old.app, session, old.database.connect(old.admin)):
        assert _tried(connection) == inserted
        assert {name: query(connection, statement) for name, statement in SCORES.items()} == before
    assert value(session, "execute scores") == score
    assert query(superuser, STALE) == [f"its functions were made by Relief {BEFORE}"]

    query(superuser, "select relief.regenerate()")
    assert query(superuser, "select result from relief.check() where result <> 'ok'") == []
    for connection in (old.app, session, old.database.connect(old.admin)):
        assert _tried(connection) == inserted
        assert {name: query(connection, statement) for name, statement in SCORES.items()} == before
    assert value(session, "execute scores") == score
    assert [query(superuser, statement) for statement in held] == kept


def _tried(connection: psycopg.Connection) -> list[Any]:
    """Return how the trigger judges two rows, and that the strange one left an event; take them back."""
    with connection.transaction(force_rollback=True):
        judged = query(connection, INSERT)
        assert value(connection, "select count(*) from relief.event where happened_at >= now()") == 1
    return judged


@pytest.mark.extension
@pytest.mark.releases
@pytest.mark.parametrize("by_extension", [True], ids=["extension"])
def test_a_dump_of_the_release_before_is_restored_into_this_one(old: Shop, fresh: Database, tmp_path: Path) -> None:
    before = {name: query(old.app, statement) for name, statement in SCORES.items()}
    inserted = _tried(old.app)
    dump = str(tmp_path / "dump")
    programs = find_server()
    subprocess.run([programs / "pg_dump", "--format=custom", "--file", dump, old.database.dsn()], check=True)
    # As the files of the release before weren't there: CREATE EXTENSION takes the default version.
    restored = subprocess.run(
        [programs / "pg_restore", "--dbname", fresh.dsn(), dump], capture_output=True, text=True, check=False
    )
    failed = re.findall(r"^Command was: (.*)", restored.stderr, flags=re.MULTILINE)
    assert [command for command in failed if not command.startswith(("GRANT", "REVOKE"))] == [], restored.stderr
    app = fresh.connect(old.admin)
    assert query(fresh.superuser, STALE) == [f"its functions were made by Relief {BEFORE}"]
    assert _tried(app) == inserted
    query(fresh.superuser, "select relief.regenerate()")
    assert query(fresh.superuser, "select result from relief.check() where result <> 'ok'") == []
    assert {name: query(app, statement) for name, statement in SCORES.items()} == before
    assert _tried(app) == inserted
    # A document of 0.1.0 doesn't tell of its comparison with scikit-learn.
    with refused("55000", "tells of no comparison with scikit-learn", "promote('numbers', 2, force => true)"):
        query(app, "select relief.promote('numbers', 2)")
    query(app, "select relief.refresh_profile('categories'), relief.promote('numbers', 2, force => true)")


def test_a_script_upgrades_no_other_installation_than_its_own(empty_database: Database) -> None:
    superuser = empty_database.superuser
    with refused("42704", "Relief is not installed in this database", f"relief-{__version__}-install.sql"):
        query(superuser, upgrade_script())
    query(superuser, "rollback; create schema relief; create table relief.detector ()")
    mallory = empty_database.role("mallory")
    query(superuser, f"alter schema relief owner to {mallory}")
    query(superuser, "create function relief.version() returns text language sql as $$select 1 / 0$$")
    with refused(
        "42501", f"schema relief belongs to {mallory}, which is not a superuser", "alter schema relief owner to"
    ):
        query(superuser, upgrade_script())
    query(superuser, "rollback; drop schema relief cascade")
    query(superuser, install_script())
    with refused(
        "55000",
        f"Relief {__version__} is installed in this database, and this upgrades {BEFORE}",
        "select relief.regenerate();",
    ):
        query(superuser, upgrade_script())
    query(superuser, "rollback")
    assert query(superuser, "select relief.version()") == [__version__]


@pytest.mark.extension
def test_no_extension_is_made_where_a_script_installed_relief(empty_database: Database) -> None:
    query(empty_database.superuser, install_script())
    with refused("55000", "Relief is installed in this database already, by its script", "from relief.check();"):
        query(empty_database.superuser, "create extension relief")


@pytest.mark.extension
def test_a_script_upgrades_no_extension(database: Database) -> None:
    with refused(
        "55000", "Relief was installed in this database by CREATE EXTENSION", "alter extension relief update;"
    ):
        query(database.superuser, upgrade_script())
    query(database.superuser, "rollback")


@pytest.mark.parametrize("by_extension", [False], ids=["script"])
def test_a_session_scores_the_row_in_whose_midst_an_upgrade_is_committed(old: Shop) -> None:
    session = old.database.connect(old.admin)
    score = value(session, "select relief.score('numbers', to_jsonb(o)) from shop.reading as o where id = 7")
    query(old.database.superuser, upgrade_script())
    # By the code before the upgrade it had just found that it holds the model.
    key = value(
        session,
        "select forest_checksum from relief.model join relief.detector as d on d.id = detector_id "
        "where name = 'numbers' and version = 1",
    )
    numbers = value(session, "select array[amount, weight, hour] from shop.reading where id = 7")
    assert value(session, "select relief._score(%s, '', %s, null)", key, numbers) == score
    with refused("22023", "row cannot be scored"):
        value(old.database.connect(old.admin), "select relief._score(%s, '', %s, null)", key, numbers)


@pytest.mark.parametrize("by_extension", [False], ids=["script"])
def test_a_failed_upgrade_leaves_everything_as_it_was(old: Shop) -> None:
    superuser = old.database.superuser
    before = catalog(old.database)
    query(superuser, "create view public.history as select relief._levels(1, '', 0::smallint)")
    broken = upgrade_script().replace("commit;", "drop function relief._levels(integer, text, smallint);\ncommit;")
    with refused("2BP01", "cannot drop function relief._levels"):
        query(superuser, broken)
    query(superuser, "rollback")
    assert differences(before, catalog(old.database), ("before", "after")) == []
    assert [row[1] for row in _tried(old.app)] == [True, False]


@pytest.mark.parametrize("by_extension", [False], ids=["script"])
def test_what_an_upgrade_makes_belongs_to_whoever_installed_relief(old: Shop) -> None:
    other = old.database.role("other_superuser")
    query(old.database.superuser, f"alter role {other} superuser")
    query(old.database.connect(other), upgrade_script())
    owners = "select distinct proowner::regrole::text from pg_proc where pronamespace = 'relief'::regnamespace"
    assert query(old.database.superuser, owners) == query(old.database.superuser, "select current_user::text")


def test_what_a_release_consists_of_is_what_its_script_makes() -> None:
    script = release(f"relief-{BEFORE}-install.sql")
    schema = script[script.index("comment on schema") : script.rindex("commit;")].partition(";")[2]
    listed = (STEPS / f"{BEFORE}.txt").read_text().splitlines()
    assert objects(schema) == listed


def test_scripts_are_split_where_postgresql_splits_them() -> None:
    for script in (install_script(), upgrade_script()):
        assert [" ".join(text.split()) for text in pglast.split(script)] == [
            " ".join(text.split()) for text in split(script)
        ]


def test_regenerate_grants_what_is_new_to_whom_it_is_due(database: Database) -> None:
    functions = {"admin": "relief.promote", "usage": "relief._require_columns", "monitor": "relief._health"}
    allowed = "select has_function_privilege(%s, %s::regproc, 'execute')"
    roles = {verb: database.role(verb) for verb in functions}
    database.query(f"grant pg_monitor to {roles['monitor']}")
    for verb, role in roles.items():
        database.query(f"select relief.grant_{verb}('{role}')")
    everybody = set(roles.values())
    for function in functions.values():
        database.query(f"revoke execute on function {function} from {', '.join(everybody)}")
    database.query("select relief.regenerate()")
    granted = {
        verb: [other for other, role in roles.items() if database.value(allowed, role, function)]
        for verb, function in functions.items()
    }
    assert granted == {"admin": ["admin"], "usage": ["admin", "usage"], "monitor": ["admin", "monitor"]}


def _command(database: Database, *arguments: str, user: str | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments, "--dsn", database.dsn(user)])


def test_an_ordinary_role_is_told_who_may_upgrade(database: Database) -> None:
    for command, deed in ((["upgrade"], "replace functions of plpython3u"), (["uninstall"], "drop what")):
        result = _command(database, *command, user=database.role("ordinary"))
        assert result.exit_code == 1
        assert f"is not a superuser, who alone may {deed}" in result.stderr
        assert f"hint: Connect as a superuser: relief {command[0]} --dsn" in result.stderr


@pytest.mark.extension
def test_a_server_that_lacks_the_files_is_told_of(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relief_trainer.install.__version__", "9.0.0")
    told = _command(database, "upgrade").stderr.splitlines()
    assert told == [
        f"error: extension relief {__version__} can't be upgraded: the server lacks the files of 9.0.0",
        "hint: Put them there, in a clone on the server: make install",
    ]


@pytest.mark.parametrize("by_extension", [False], ids=["script"])
def test_a_command_that_needs_a_newer_release_in_the_database_says_so(old: Shop) -> None:
    old.database.query("alter function relief.promote(text, integer) rename to other")
    result = _command(old.database, "promote", "numbers", user=old.admin)
    assert f"error: Relief in this database is not {__version__}: function relief.promote(" in result.stderr
    assert "hint: Upgrade it: relief upgrade --dsn …" in result.stderr


@pytest.mark.parametrize("by_extension", WAYS)
def test_commands_upgrade_and_uninstall(old: Shop, by_extension: bool) -> None:
    database = old.database
    upgraded = _command(database, "upgrade")
    assert upgraded.exit_code == 0, upgraded.output
    assert upgraded.stdout.startswith(f"Relief {__version__} is installed\n")
    assert database.query("select result from relief.check() where result <> 'ok'") == []
    assert _command(database, "show", "numbers", user=old.admin).exit_code == 0
    again = _command(database, "upgrade")
    assert again.exit_code == (0 if by_extension else 1), again.output

    asked = _command(database, "uninstall")
    assert asked.exit_code == 1  # nobody said yes
    assert f'of database "{database.name}" will be gone. Go on?' in asked.output
    uninstalled = _command(database, "uninstall", "--yes", "--drop-columns")
    assert uninstalled.stdout == "Relief is uninstalled\n", uninstalled.output
    assert database.query("select attname from pg_attribute where attname ~ '^relief_' and not attisdropped") == []
    for command in (["upgrade"], ["uninstall"]):
        result = _command(database, *command)
        assert result.stderr == (
            "error: Relief is not installed in this database\nhint: Install it: relief install --dsn …\n"
        )


@pytest.mark.soak
@pytest.mark.parametrize("by_extension", WAYS)
@pytest.mark.parametrize("attempt", range(5))
def test_no_row_loses_its_score_to_an_upgrade(old: Shop, by_extension: bool, attempt: int) -> None:
    written = threading.Barrier(9, timeout=60)
    stop = threading.Event()

    def insert() -> list[Any]:
        with psycopg.connect(old.database.dsn(old.admin), autocommit=True) as session:
            rows = query(session, INSERT)
            written.wait()
            while not stop.is_set():
                rows += query(session, INSERT)
            return rows

    with ThreadPoolExecutor(8) as pool:
        sessions = [pool.submit(insert) for _ in range(8)]
        written.wait()
        try:
            upgrade(old.database.superuser, by_extension)
            old.database.query("select relief.regenerate()")
        finally:
            stop.set()
        rows = [row for session in sessions for row in session.result()]
    assert [row for row in rows if row[0] is None or row[3] != 1] == []
    assert old.database.value("select count(*) from shop.payment where kind = 'barter'") == 1 + len(rows) / 2
    assert old.database.value("select count(*) from relief.event") == 1 + len(rows) / 2
