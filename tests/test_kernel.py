"""The kernel in a server: the same scores and judgements, whenever it takes over, and what if it is gone."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, train
from helpers.kernel import give_library, library_for_server, without_library
from helpers.profiles import create, refresh, train_small
from helpers.server import install
from helpers.shop import COMPANIONS, FEATURES, make_orders
from hypothesis import given, settings
from hypothesis import strategies as st

from relief_trainer.cluster import find_server

USED = "select relief.use_kernel(%s)"
# Of a function that the kernel can take over, the language.
LANGUAGE = (
    "select l.lanname from pg_proc as p join pg_language as l on l.oid = p.prolang where p.oid = 'relief.{}'::regproc"
)
JUDGE = LANGUAGE.format("_judge")


@pytest.fixture
def kernel(database: Database, kernel_library: Path) -> Database:
    """Return a database of a server that has the kernel's library, which isn't used yet."""
    give_library(database.superuser, kernel_library)
    return database


@pytest.fixture
def attached(kernel: Database) -> psycopg.Connection:
    """Return a connection with shop.orders attached and the kernel in use."""
    make_orders(kernel.superuser)
    add_model(kernel.superuser, "orders", stump(FEATURES))
    query(kernel.superuser, "select relief.promote('orders')")
    query(kernel.superuser, "select relief.attach('orders')")
    query(kernel.superuser, USED, True)
    return kernel.superuser


def _judged(connection: psycopg.Connection, detector: str) -> list[Any]:
    """Return the scores of all rows of a detector's table, and their judgements in full, as they are written."""
    call, relation, score = query(
        connection,
        "select relief._judgement_call(d, 'o', relief._features_call(d, 'o'), relief._categories_call(d, 'o'), true), "
        "d.relation::text, "
        "format('(%%s(%%s, %%s))[1]', relief._function_name(d, 'verdict'), relief._features_call(d, 'o'), "
        "relief._categories_call(d, 'o')) "
        "from relief.detector as d where d.name = %s",
        detector,
    )[0]
    return query(connection, f"select {score}, ({call})::text from {relation} as o order by o.id")


def _assert_same(connection: psycopg.Connection, detector: str) -> list[Any]:
    """Assert that the kernel scores and judges all rows as the runtime does, and return what both say."""
    by_runtime = _judged(connection, detector)
    query(connection, USED, True)
    try:
        assert value(connection, JUDGE) == "c"
        by_kernel = _judged(connection, detector)
    finally:
        query(connection, USED, False)
    assert value(connection, JUDGE) == "plpython3u"
    for one, other in zip(by_runtime, by_kernel, strict=True):
        assert one == other
    return [(score, json.loads(judgement)) for score, judgement in by_kernel]


def test_rows_with_nothing_nan_and_infinity_are_scored_and_judged_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, x float8, y float8, z float8)")
    query(connection, "insert into t (x, y, z) select sin(n), exp(n % 17), n from generate_series(1, 400) as n")
    create(connection, "t", "t", ["x", "y", "z"], contamination=0.05)
    train_small(kernel.dsn(), "t")
    query(
        connection,
        "insert into t (x, y, z) select x, y, z "
        "from unnest(array[null, 'nan', 'inf', '-inf', 0, 1e-300, -7, 1e308]::float8[]) as x, "
        "unnest(array[null, 'nan', 'inf', 3, 1e30]::float8[]) as y, unnest(array[null, -1, 'inf']::float8[]) as z",
    )
    judged = _assert_same(connection, "t")
    assert [score for score, _ in judged].count(None) == 4
    assert {judgement["relief_is_anomaly"] for _, judgement in judged} == {True, False, None}


def test_rows_are_judged_by_histories_of_any_figures_as_by_the_runtime(kernel: Database) -> None:
    """Figures that no refresh makes of a table's rows, but that may stand in relief.profile."""
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, e integer, x float8, y float8)")
    query(connection, "insert into t (e, x, y) select n % 2, sin(n), exp(n % 17) from generate_series(1, 400) as n")
    create(connection, "t", "t", ["x", "y"], entity=["e"], min_history=8)
    train_small(kernel.dsn(), "t")
    refresh(connection, "t")
    query(
        connection,
        "create table figure as select 10 + row_number() over () as e, * from ("
        "select null::float8 as mean, 1::float8 as median, 1::float8 as stddev, 1::float8 as spread, 0e0 as floor, "
        "100e0 as rows union all select 1, 1, 1, 1, 0, * from unnest(array[null, 'nan', 'inf', '-inf']::float8[]) as r "
        "union all select *, 100 from unnest(array['inf', '-inf', 'nan', -1e308, 0]::float8[]) as mean, "
        "unnest(array['inf', '-inf', 'nan', 1e308, 0]::float8[]) as median, "
        "unnest(array[null, 'nan', 'inf', 1e308, 1e-300]::float8[]) as stddev, "
        "unnest(array['nan', 'inf', 0]::float8[]) as spread, "
        "unnest(array[null, 'nan', 'inf', 0]::float8[]) as floor) as f",
    )
    query(
        connection,
        "insert into relief.profile (detector_id, entity, season, rows, complete, count, mean, stddev, median, "
        "spread, spread_floor, p01, p99, minimum, maximum, null_rate) "
        "select d.id, jsonb_build_array(f.e)::text, -1, 100, true, array[f.rows, 100], array[f.mean, 0], "
        "array[f.stddev, 1], array[f.median, 0], array[f.spread, 1], array[f.floor, 0], "
        "'{0, 0}', '{0, 0}', '{0, 0}', '{0, 0}', '{0, 0}' from figure as f cross join relief.detector as d",
    )
    query(
        connection,
        "insert into t (e, x, y) select f.e, x, 0 from figure as f "
        "cross join unnest(array['inf', '-inf', 'nan', 1e308, -1e308, 0, 5e-324]::float8[]) as x",
    )
    assert _levels(_assert_same(connection, "t")) == {"global", "entity"}
    # The history of all rows comes with the rule, as JSON.
    for figures, levels in (("{inf, 0}", {"entity"}), ("{0, nan}", {"global", "entity"})):
        query(connection, "update relief.profile set mean = %s, stddev = '{inf, nan}' where entity = ''", figures)
        query(connection, "select relief.regenerate('t')")
        assert _levels(_assert_same(connection, "t")) == levels


@pytest.mark.parametrize("verdict", ["score", "deviation", "either", "both"])
def test_rows_are_judged_by_entity_season_and_tolerance_as_by_the_runtime(kernel: Database, verdict: str) -> None:
    connection = kernel.superuser
    query(
        connection,
        "create table trip (id integer generated always as identity, at timestamptz, driver text, x float8, y float8)",
    )
    query(connection, "select setseed(0.1)")
    query(
        connection,
        "insert into trip (at, driver, x, y) select timestamptz '2024-01-01Z' + n * interval '5 hours', "
        "(array['a', 'b', 'b', 'ü', null])[1 + n % 5], 10 * (n % 3) + random(), exp(5 * random()) "
        "from generate_series(1, 500) as n",
    )
    create(
        connection,
        "t",
        "trip",
        ["x", "y"],
        entity=["driver"],
        season="hour_of_day",
        time_column="at",
        time_zone="UTC",
        min_history=8,
        verdict=verdict,
    )
    train_small(kernel.dsn(), "t")
    refresh(connection, "t")
    query(
        connection,
        "insert into trip (at, driver, x, y) select timestamptz '2024-05-01Z' + h * interval '1 hour', driver, x, y "
        "from unnest(array['a', 'ü', 'new', null]) as driver, unnest(array[0, 5, 7]) as h, "
        "unnest(array[null, 10, 60, -1e9]) as x, unnest(array[0, 3, 1e12]) as y",
    )
    judged = _assert_same(connection, "t")
    assert _levels(judged) == {"global", "entity", "entity and season"}
    query(connection, "select relief.set_tolerance('t', 'x', 'up', min_absolute => 20)")
    query(
        connection,
        """select relief.set_tolerance('t', 'y', 'down', min_relative => 0.5, entity => '{"driver": "ü"}')""",
    )
    tolerant = _assert_same(connection, "t")
    calls = [sum(of["verdict"] in ("deviation", "both") for _, of in judgements) for judgements in (judged, tolerant)]
    assert calls[0] > calls[1] > 0


def _levels(judged: list[Any]) -> set[str]:
    return {of["level"] for _, judgement in judged for of in judgement["relief_deviation"].values() if of}


def test_rows_are_judged_by_season_alone_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, at timestamp, x float8)")
    query(
        connection,
        "insert into t (at, x) select timestamp '2024-01-01' + n * interval '1 day', n % 7 + sin(n) / 9 "
        "from generate_series(1, 300) as n",
    )
    create(connection, "t", "t", ["x"], season="day_of_week", time_column="at", min_history=20)
    train_small(kernel.dsn(), "t")
    refresh(connection, "t")
    query(connection, "insert into t (at, x) values ('2024-05-01', 100), (null, 1)")
    assert _levels(_assert_same(connection, "t")) == {"global", "season"}


def test_categories_are_scored_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, x float8, color text, kind text)")
    query(
        connection,
        "insert into t (x, color, kind) select sin(n), 'c' || sqrt(n)::int, (array['ä', '', 'b\"\\', null])[1 + n % 4] "
        "from generate_series(1, 500) as n",
    )
    create(connection, "t", "t", ["color", "x", "kind"], contamination=0.05)
    train_small(kernel.dsn(), "t")
    query(
        connection,
        "insert into t (x, color, kind) select x, color, kind from unnest(array[null, 0.5, 'nan']::float8[]) as x, "
        "unnest(array[null, 'c1', 'never seen']) as color, unnest(array[null, '', 'ä', 'never']) as kind",
    )
    judged = _assert_same(connection, "t")
    assert [score for score, _ in judged].count(None) == 2
    assert len({score for score, _ in judged}) > 20


def test_table_with_categories_alone_needs_no_history(kernel: Database) -> None:
    connection = kernel.superuser
    query(connection, "create table t (id integer generated always as identity, color text)")
    query(connection, "insert into t (color) select 'c' || sqrt(n)::int from generate_series(1, 200) as n")
    create(connection, "t", "t", ["color"], contamination=0.05)
    train_small(kernel.dsn(), "t")
    judged = _assert_same(connection, "t")
    assert judged[0][1]["relief_deviation"] == {"color": None}


def test_rows_warm_up_as_by_the_runtime(kernel: Database) -> None:
    connection = kernel.superuser
    make_orders(connection, rows=20)
    add_model(connection, "orders", {**stump(FEATURES), "profile": None})
    query(connection, "select relief.promote('orders')")
    assert {str(judgement["relief_deviation"]) for _, judgement in _assert_same(connection, "orders")} == {
        "{'state': 'warming up'}"
    }


def test_trigger_explanation_and_detect_work_with_the_kernel(attached: psycopg.Connection) -> None:
    assert query(attached, f"insert into shop.orders (a, b) values (-2, 1), (2, -6) returning {COMPANIONS}") == [
        (
            0.5,
            True,
            {
                "a": {"z": -1.0, "level": "global", "robust": -1.0, "expected": 0},
                "log_b": {"z": 0.0, "level": "global", "robust": 0.0, "expected": 0},
            },
            1,
        ),
        (None, None, {"error": "cannot take logarithm of a negative number"}, None),
    ]
    assert value(attached, """select relief.score('orders', '{"a": -1, "b": 1}')""") == 0.5
    assert value(attached, """select verdict from relief.event where score is not null""") == "score"
    explained = query(attached, "select feature from shop.orders as o, shop.relief_explain(o) where o.a = -2 limit 2")
    assert sorted(explained) == ["a", "log_b"]
    assert {result for _, result in query(attached, "select * from relief.check()")} == {"ok"}


def test_session_without_python_scores(attached: psycopg.Connection, database: Database) -> None:
    session = database.connect()
    assert value(session, "select count(shop.relief_score(o)) from shop.orders as o") == 500
    maps = Path(f"/proc/{session.info.backend_pid}/maps").read_text()
    assert "relief_kernel" in maps
    assert "plpython" not in maps


def test_open_sessions_follow_promotion_rollback_and_the_choice_of_what_scores(
    attached: psycopg.Connection, database: Database
) -> None:
    session = database.connect(prepare_threshold=0)
    score = "insert into shop.orders (a, b) values (-2, 1) returning relief_anomaly_score, relief_model_version"
    assert query(session, score) == [(0.5, 1)]
    add_model(attached, "orders", stump(FEATURES, split=-5.0))
    query(attached, "select relief.promote('orders')")
    assert query(session, score) == [(0.125, 2)]
    query(attached, "select relief.promote('orders', 1)")
    assert query(session, score) == [(0.5, 1)]
    for used in (False, True, False, True):
        query(attached, USED, used)
        assert query(session, score) == [(0.5, 1)]
        assert value(session, JUDGE) == ("c" if used else "plpython3u")
    with attached.transaction(force_rollback=True):
        query(attached, USED, False)
    assert query(session, score) == [(0.5, 1)]
    assert value(attached, "select count(*) from relief.event") == 7


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


def _contexts(session: psycopg.Connection) -> list[Any]:
    return query(session, "select name, total_bytes from pg_backend_memory_contexts where name ~ '^relief '")


def test_200_promotions_take_no_more_memory_than_the_models_that_are_kept(
    attached: psycopg.Connection, database: Database
) -> None:
    query(attached, "select relief.detach('orders')")
    train(attached, "orders", trees=100)
    session = database.connect()
    score = (
        "select count(shop.relief_score(o)), "
        "count(shop._relief_judgement_orders('{1, 1}', null, '', -1::int2, false)) from shop.orders as o"
    )
    query(session, score)
    contexts = _contexts(session)
    assert [name for name, _ in contexts].count("relief model") == 1
    # Of a tree of eight levels at most 37 blocks of 64 bytes: 1 of two levels, 4 of three, 32 of three.
    assert 50_000 < sum(size for name, size in contexts if name == "relief model") < 240_000
    # What reading its JSON took isn't kept.
    assert 0 < sum(size for name, size in contexts if name == "relief rule") < 16_000
    sizes = []
    for number in range(200):
        add_model(attached, "orders", stump(FEATURES, split=float(number)))
        query(attached, "select relief.promote('orders')")
        query(session, score)
        sizes.append(sum(size for _, size in _contexts(session)))
    names = [name for name, _ in _contexts(session)]
    assert (names.count("relief model"), names.count("relief rule")) == (16, 64)
    # Rules differ by some letters; a model or rule that isn't freed would add up over the promotions.
    assert max(sizes[64:]) - min(sizes[64:]) < 50_000


def test_parallel_workers_score_as_the_leader_does(attached: psycopg.Connection) -> None:
    query(attached, "select relief.detach('orders')")
    train(attached, "orders")
    query(attached, "insert into shop.orders (a, b) select n % 100, 1 + n from generate_series(1, 30000) as n")
    query(attached, "vacuum analyze shop.orders")
    statement = (
        "select count(s), sum(s)::numeric(20, 6), min(s), max(s) "
        "from (select shop.relief_score(o) as s from shop.orders as o) as x"
    )
    query(attached, "set max_parallel_workers_per_gather = 0")
    alone = query(attached, statement)
    for setting in ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_table_scan_size"):
        query(attached, f"set {setting} = 0")
    query(attached, "set max_parallel_workers_per_gather = 2")
    plan = "\n".join(query(attached, f"explain (analyze, costs off) {statement}"))
    assert "Workers Launched: 2" in plan
    assert query(attached, statement) == alone


def test_what_is_loaded_must_have_its_checksum_and_be_whole(attached: psycopg.Connection) -> None:
    packed = value(attached, "select forest from relief.model")
    load = "select relief._load('', encode(sha256(%s), 'hex'), %s)"
    assert value(attached, load, packed, packed) == ""
    for position in range(0, len(packed), 7):
        damaged = packed[:position] + bytes([packed[position] ^ 4]) + packed[position + 1 :]
        with refused("22023", "model cannot be loaded: it has checksum"):
            query(attached, load, packed, damaged)
    with refused("22023", "model cannot be loaded: it is cut off"):
        query(attached, load, packed[:40], packed[:40])
    with refused("22023", "model cannot be loaded: it has an unknown format"):
        query(attached, load, b"", b"")
    with refused("02000", 'model with checksum "0" is not stored any more', "Promote a stored version"):
        query(attached, "select relief._load('', '0', null)")
    with refused("22004", "argument 2 is NULL"):
        query(attached, "select relief._load('', null, '')")
    with refused("22023", "model cannot be loaded: its encoders are damaged"):
        query(attached, load, packed + b"7", packed + b"7")
    for encoders in (
        b"[1]",
        b"[[0, {}, 1]]",
        b"[[7, {}, 1, 1]]",
        b"[[0, [], 1, 1]]",
        b"[[0, {}, null, 1]]",
        b"[[-1, {}, 1, 1]]",
    ):
        with refused("22023", "model cannot be loaded: an encoder is damaged"):
            query(attached, load, packed + encoders, packed + encoders)
    with refused("22P02"):
        query(attached, load, packed + b"[", packed + b"[")
    with refused("22023", "rule cannot be loaded: it has checksum"):
        query(attached, "select relief._load_rule('0', '{}', '')")


def test_rows_that_are_none_are_refused(attached: psycopg.Connection) -> None:
    key = value(attached, "select forest_checksum from relief.model")
    query(attached, "select relief._fetch(%s)", key)
    score = "select relief._score(%s, '', %s::float8[], %s::text[])"
    assert value(attached, score, key, [-1, 1], None) == 0.5
    assert value(attached, score, key, [None, None], None) is None
    with refused("22023", "row cannot be scored: model takes 2 features, not 1"):
        query(attached, score, key, [1], None)
    with refused("22023", "row cannot be scored: model takes 2 features, not 0"):
        query(attached, score, key, None, None)
    with refused("22023", "row cannot be scored: model takes 0 categories, not 1"):
        query(attached, score, key, [1, 2], ["a"])
    with refused("22023", "row cannot be scored: '0'"):
        query(attached, score, "0", [1, 2], None)
    rule = value(
        attached, "select relief._rule(d, m) from relief.detector as d join relief.model as m on m.detector_id = d.id"
    )
    rule_key = value(attached, "select encode(sha256(convert_to(%s, 'UTF8')), 'hex')", rule)
    judge = "select relief._judge(%s, %s, '', %s::float8[], null, null, %s::float8[], true)"
    with refused("22023", f"row cannot be judged: '{'0' * 64}'"):
        query(attached, judge, key, "0" * 64, [1, 2], None)
    query(attached, "select relief._load_rule(%s, %s, '')", rule_key, rule)
    assert value(attached, judge, key, rule_key, [-1, 2], None)["relief_anomaly_score"] == 0.5
    with refused("22023", "row cannot be judged: model takes 2 features, not 3"):
        query(attached, judge, key, rule_key, [1, 2, 3], None)
    with refused("22023", "row cannot be judged: its histories are damaged"):
        query(attached, judge, key, rule_key, [1, 2], [1.0])
    shorter = json.dumps({**json.loads(rule), "features": json.loads(rule)["features"][:1], "history": None})
    shorter_key = value(attached, "select encode(sha256(convert_to(%s, 'UTF8')), 'hex')", shorter)
    query(attached, "select relief._load_rule(%s, %s, '')", shorter_key, shorter)
    with refused("22023", "row cannot be judged: rule takes 1 features, not 2"):
        query(attached, judge, key, shorter_key, [1, 2], None)


@pytest.fixture(scope="module")
def judging(module_database: Database, kernel_library: Path) -> Iterator[tuple[psycopg.Connection, str, Any]]:
    """Return a connection to the kernel, the key of a loaded model, and a rule for it."""
    connection = module_database.superuser
    give_library(connection, kernel_library)
    make_orders(connection)
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders')")
    query(connection, "select relief.set_tolerance('orders', 'a', 'up', min_absolute => 1)")
    query(connection, USED, True)
    key = value(connection, "select forest_checksum from relief.model")
    query(connection, "select relief._fetch(%s)", key)
    yield (
        connection,
        key,
        json.loads(value(connection, "select relief._rule(d, m) from relief.detector as d, relief.model as m")),
    )


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "log", "up", "a"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["", "name", "unit", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_rules_are_refused_or_judge_and_the_session_lives(
    judging: tuple[psycopg.Connection, str, Any], data: st.DataObject
) -> None:
    connection, key, rule = judging
    damaged = json.loads(json.dumps(rule))
    for _ in range(data.draw(st.integers(1, 2))):
        place = damaged
        while isinstance(place, dict | list) and place:
            at = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[at], dict | list) or not place[at] or data.draw(st.booleans()):
                break
            place = place[at]
        if place:
            place[at] = data.draw(_JSON)
    text = json.dumps(damaged)
    pid = connection.info.backend_pid
    with contextlib.suppress(psycopg.errors.DataError):
        query(
            connection,
            "select relief._judge(%s, k, relief._load_rule(k, %s, ''), array[%s, 2], null, '', null, true) "
            "from encode(sha256(convert_to(%s, 'UTF8')), 'hex') as k",
            key,
            text,
            data.draw(st.floats()),
            text,
        )
    assert value(connection, "select pg_backend_pid()") == pid
