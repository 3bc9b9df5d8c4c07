"""Hostile expressions and names: refused with a clear error, or quoted right; nothing in them is executed."""

from __future__ import annotations

import json

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, told
from helpers.hostile import nothing_changes
from helpers.world import World
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from psycopg import Connection, sql


@pytest.fixture(scope="module")
def connection(module_database: Database) -> Connection:
    connection = module_database.superuser
    query(connection, "create table public.victim (a integer, b float8, c text)")
    query(connection, "insert into public.victim values (1, 2, 'x')")
    return connection


def _try(connection: Connection, features: list[str]) -> psycopg.Error | None:
    """Make a detector and drop it again, or return why it was refused."""
    try:
        query(connection, "select relief.create_detector('hostile', 'public.victim', %s)", features)
    except psycopg.Error as refusal:
        return refusal
    query(connection, "select relief.drop_detector('hostile')")
    return None


INJECTIONS = [
    "a)::float8]; alter role postgres nosuperuser; --",
    "a); drop table public.victim; --",
    "a; drop table public.victim",
    "a); commit; drop table public.victim; --",
    "a), (b",
    "a) as value, (b",
    "a)::float8 from only public.victim union all select (b",
    "a) as value from only public.victim where (true",
    "a) from public.victim; delete from public.victim; select (1",
    "a)::float8], array[(b",
    "a) -- x",
    "a /* y",
    "*/ a",
    "a\\",
    "a'",
    "'a",
    'a"',
    '"a',
    "$$a",
    "$sql$ || a || $sql$",
    "$1",
    "%s",
    "%1$s",
    "%L",
    "{}",
    "",
    " ",
    "\n",
    "-- only a comment",
    "/* only a comment */",
    "*",
    "victim",
    "victim.*",
    "(victim).a + (victim).b * 0 + (victim.*)::text::integer",
    "a AS",
    "AS a",
    "a AS b AS c",
    'a AS "',
    'a AS ""',
    "a AS x; drop table public.victim; --",
    "(select 1)",
    "(select count(*) from pg_authid)",
    "a + (select count(*) from pg_authid)",
    "a + (select random())",
    "a + (with x as (select 1 as y) select y from x)",
    "a * exists (select 1)::integer",
    "array(select 1)",
    "(with x as (delete from public.victim returning a) select a from x)",
    "count(*)",
    "sum(a)",
    "sum(a) over ()",
    "row_number() over ()",
    "generate_series(1, 2)",
    "unnest(array[1, 2])",
    "random()",
    "nextval('x')",
    "pg_sleep(1)",
    "setval('x', 1)",
    "set_config('search_path', 'x', false)::integer",
    "lo_import('/etc/passwd')::integer",
    "pg_read_file('/etc/passwd')::integer",
    "query_to_xml('drop table public.victim', true, true, '')::text::integer",
    "clock_timestamp()",
    "ctid",
    "tableoid",
    "xmin::text::integer",
    "null",
    "'1'",
    "true",
    "row(a, b)",
    "now()",
    "array[a]",
    "zz",
    "pg_catalog.zz(a)",
    'b collate "C"',
    "default",
    "current_user::text",
]


@pytest.mark.parametrize("expression", INJECTIONS)
def test_injection_is_refused_and_not_executed(connection: Connection, expression: str) -> None:
    with nothing_changes(connection):
        refusal = _try(connection, [expression])
    assert refusal is not None
    assert refusal.sqlstate not in (None, "XX000")
    assert "hostile" in str(refusal) or "victim" in str(refusal), str(refusal)


def test_comment_at_the_end_of_an_expression_ends_with_it(connection: Connection) -> None:
    with nothing_changes(connection):
        assert _try(connection, ["a -- )", "b /* ) */", "a + b /* -- */ AS s"]) is None


def test_expression_that_ran_when_it_was_planned_could_change_nothing(connection: Connection) -> None:
    """A function that lies about being immutable runs as the caller when planned: as any query of the caller's."""
    query(
        connection,
        "create function public.liar() returns integer language plpgsql immutable as "
        "'begin create role lied; return 1; end'",
    )
    with nothing_changes(connection):
        refusal = _try(connection, ["public.liar() + a"])
        assert refusal is not None
        assert "CREATE ROLE is not allowed in a non-volatile function" in str(refusal)


# fmt: off
TOKENS = [
    "a", "b", "c", "(", ")", "[", "]", "{", "}", ",", ";", "'", '"', "$$", "$x$", "--", "/*", "*/", "\n", "\\", "%",
    "1", "x", "+", "*", "::float8", " as ", "select", "union", "from", "public.victim", "drop table public.victim",
    "é", "\u202e", "🌊",
]
# fmt: on
PIECES = st.lists(st.sampled_from(TOKENS), max_size=9)


@given(PIECES)
@settings(max_examples=250)
def test_expression_glued_from_pieces_is_refused_or_harmless(connection: Connection, pieces: list[str]) -> None:
    with nothing_changes(connection):
        refusal = _try(connection, ["".join(pieces)])
    assert refusal is None or refusal.sqlstate not in (None, "XX000"), str(refusal)


# Any text but NUL and lone surrogates, which PostgreSQL takes nowhere; up to 63 bytes.
names = (
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63)
    | st.text(st.sampled_from("'\"$\\;-%{}[]() .,\n~é🌊"), min_size=1, max_size=40)
    | st.sampled_from(
        ["select", "user", "table", "order", "null", "ctid ", "relief_score", "new", "old", "numbers", "o", "t", "s"]
    )
).filter(lambda name: len(name.encode()) <= 63)
LONGEST = "x" * 63
QUOTES = "\"'$$;--/*%s%1$I%L{}\\"


@given(names, names, names, names)
@example("select", "table", "user", "order")
@example(LONGEST, LONGEST, LONGEST, LONGEST)
@example("é" * 31, "🌊" * 15, "ß" * 31, "猫" * 21)
@example(QUOTES, QUOTES, QUOTES, QUOTES)
@example("$sql$", "$body$", "$python$", "$$")
@example("$body$", "$sql$", "$body$", "$body$")
@example("a", "numbers", "verdict", "new")
@settings(max_examples=40)
def test_any_names_of_schema_table_column_and_detector_work_through_the_life_cycle(
    connection: Connection, schema: str, table: str, column: str, detector: str
) -> None:
    _live(connection, schema, table, column, detector)


@pytest.mark.soak
@given(names, names, names, names)
@settings(max_examples=300)
def test_hundreds_of_names_work_through_the_life_cycle(
    connection: Connection, schema: str, table: str, column: str, detector: str
) -> None:
    _live(connection, schema, table, column, detector)


def _live(connection: Connection, schema: str, table: str, column: str, detector: str) -> None:
    assume(not schema.startswith("pg_") and schema not in ("relief", "public", "information_schema"))
    assume(column not in ("error", "state"))
    named = {name: sql.Identifier(text) for name, text in (("s", schema), ("t", table), ("c", column))}

    def run(statement: str) -> list[object]:
        return query(connection, sql.SQL(statement).format(**named).as_string(connection))

    with nothing_changes(connection):
        run("create schema {s}")
        try:
            run("create table {s}.{t} ({c} integer)")
            relation = sql.SQL("{s}.{t}").format(**named).as_string(connection)
            features = [sql.Identifier(column).as_string(connection)]
            query(connection, "select relief.create_detector(%s, %s::regclass, %s)", detector, relation, features)
            add_model(connection, detector, stump([column]))
            query(connection, "select relief.promote(%s)", detector)
            query(connection, "select relief.attach(%s)", detector)
            inserted = run(
                "insert into {s}.{t} ({c}) values (-2), (2), (null) returning relief_anomaly_score, relief_deviation"
            )
            assert [row[0] for row in inserted] == [0.5, 0.125, None]
            assert inserted[0][1] == {column: told(-1.0)}
            scores = run("select {s}.relief_score(x) from {s}.{t} as x")
            assert scores == [0.5, 0.125, None]
            row = query(connection, "select jsonb_build_object(%s::text, -2)::text", column)[0]
            assert value(connection, "select relief.score(%s, %s)", detector, row) == 0.5
            query(connection, "call relief.backfill(%s)", detector)
            add_model(connection, detector, stump([column], split=-9.0))
            query(connection, "select relief.shadow(%s, 2)", detector)
            run("insert into {s}.{t} ({c}) values (-2)")
            assert query(connection, "select score, promoted_score from relief.shadow_score") == [(0.125, 0.5)]
            bad = query(connection, "select result from relief.check() where result <> 'ok'")
            assert bad == []
            query(connection, "select relief.drop_detector(%s, drop_columns => true)", detector)
        finally:
            query(connection, "delete from relief.detector; delete from relief.shadow_score")
            run("drop schema {s} cascade")


@given(names, names, names, names)
@example("select", "table", "user", "order")
@example(LONGEST, "a" * 63, "b" * 63, LONGEST)
@example("é" * 31, "🌊" * 15, "猫" * 21, "ß" * 31)
@example("a%b", "%s", "%1$s", "%L")
@example(QUOTES, QUOTES + "x", QUOTES + "y", QUOTES)
@example("$sql$", "$body$", "$$", "$python$")
@example("$body$", "$$", "$sql$", "$sql$")
@settings(max_examples=40)
def test_any_names_of_entity_time_and_key_work_in_profiles_explanations_labels_and_events(
    connection: Connection, entity: str, time: str, key: str, detector: str
) -> None:
    assume(len({entity, time, key, "a"}) == 4 and "relief" not in entity + time + key)
    named = {name: sql.Identifier(text) for name, text in (("e", entity), ("t", time), ("k", key))}

    def run(statement: str, *parameters: object) -> list[object]:
        return query(connection, sql.SQL(statement).format(**named).as_string(connection), *parameters)

    with nothing_changes(connection):
        run("create table public.hostile ({k} text primary key, {e} text, {t} timestamptz, a integer)")
        try:
            odd = "%s ' \" $$ \\ é"
            rows = "select %s::text || n, %s, '2024-01-01 12:00', n %% 3 - 1 from generate_series(1, 40) as n"
            run(f"insert into public.hostile {rows}", odd, odd)
            run(
                "select relief.create_detector(%s, 'public.hostile', '{{a}}', time_column => %s, "
                "entity => array[%s]::name[], season => 'hour_of_week')", detector, time, entity,
            )  # fmt: skip
            add_model(connection, detector, stump(["a"]))
            run("select relief.promote(%s)", detector)
            run("select relief.attach(%s)", detector)
            add_model(connection, detector, stump(["a"], split=-9.0))
            run("select relief.shadow(%s, 2)", detector)
            # All rows, those of the entity, and those of both entity and season.
            assert run("select relief.refresh_profile(%s)", detector) == [3]
            assert run("select entity from relief.profile where entity <> '' limit 1") == [
                json.dumps([odd], ensure_ascii=False)
            ]
            run(
                "select relief.set_tolerance(%s, 'a', 'up', entity => jsonb_build_object(%s::text, %s::text))",
                detector,
                entity,
                odd,
            )
            row = "values (%s, %s, '2024-01-01 12:30', -100)"
            inserted = run(
                f"insert into public.hostile {row} returning relief_is_anomaly, relief_deviation", "x" + odd, odd
            )
            assert inserted[0][0] is True
            assert inserted[0][1]["a"]["level"] == "entity and season"
            assert run("select key from relief.shadow_score") == [{key: "x" + odd}]
            event = run("select key, verdict, sentence from relief.event where relation = 'public.hostile'::regclass")
            assert [told[:2] for told in event] == [({key: "x" + odd}, "score")]
            assert odd in event[0][2]
            run("select relief.label(%s, jsonb_build_object(%s::text, %s::text), true)", detector, key, odd + "1")
            assert run("select relief.refresh_profile(%s)", detector) == [3]
            assert run("select distinct rows from relief.profile") == [39]
            assert run(
                "select candidate from relief.backtest(%s, 2) where figure = 'labelled_anomalies'", detector
            ) == [1]
            explained = run(
                "select feature from relief.explain(%s, jsonb_build_object(%s::text, %s::text, 'a', 1))",
                detector,
                entity,
                odd,
            )
            assert explained == ["a"]
            assert run("select count(e) from public.hostile as h, public.relief_explain(h) as e") == [41]
            assert run("select feature from relief.drift(%s)", detector) in (["a"], [])
            assert run("select result from relief.check() where result <> 'ok'") == []
            run("select relief.drop_detector(%s)", detector)
        finally:
            query(connection, "delete from relief.detector; delete from relief.event; delete from relief.shadow_score")
            run("drop table public.hostile cascade")


def test_a_name_that_ends_a_body_makes_nobody_run_what_follows(world: World) -> None:
    """Whoever makes functions again, such as a superuser after an upgrade, runs nothing of another's names."""
    mallory, name = world.mallory, "$body$;select mal.f();select $body$"
    query(mallory, "create table mal.t (a integer)")
    query(mallory, "create table mal.ran (by name)")
    query(mallory, "create function mal.f() returns void language sql as 'insert into mal.ran select current_user'")
    # Without it, the body that ends too early would be refused.
    query(mallory, "set check_function_bodies = off")
    query(mallory, "select relief.create_detector(%s, 'mal.t', '{a}')", name)
    query(mallory, 'drop function mal."_relief_guarded_$body$;select mal.f();select $body$"')
    query(world.database.superuser, "set check_function_bodies = off")
    query(world.database.superuser, "select relief.regenerate()")
    assert query(mallory, "select by from mal.ran") == []
    assert query(mallory, "select result from relief.check() where result ~ 'guarded'") == []


def test_feature_without_a_name_is_called_as_its_column_or_as_it_is_written(connection: Connection) -> None:
    query(connection, """select relief.create_detector('hostile', 'public.victim', '{A,"\\"b\\"",a+b,"(a)"}')""")
    assert query(connection, "select name from relief.feature order by position") == ["a", "b", "a+b", "(a)"]
    query(connection, "select relief.drop_detector('hostile')")


@given(names, names)
@example("a' || (select 1) || '", "x")
@example(LONGEST, QUOTES)
@settings(max_examples=40)
def test_any_names_of_features_are_kept_as_they_are(connection: Connection, first: str, second: str) -> None:
    assume(first != second and not {"error", "state"} & {first, second})
    features = [sql.SQL("{} AS {}").format(sql.SQL(expression), sql.Identifier(name)).as_string(connection)
                for expression, name in (("a", first), ("b", second))]  # fmt: skip
    query(connection, "select relief.create_detector('hostile', 'public.victim', %s)", features)
    try:
        stored = query(connection, "select name, expression from relief.feature order by position")
        assert stored == [(first, "a"), (second, "b")]
        add_model(connection, "hostile", stump([first, second]))
        query(connection, "select relief.promote('hostile')")
        deviation = value(connection, """select deviation from relief.detect('hostile', '{"a": 4, "b": -1}')""")
        assert deviation == {first: told(2.0), second: told(-0.5)}
    finally:
        query(connection, "select relief.drop_detector('hostile')")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), st.integers(0, 20))
@settings(max_examples=60)
def test_any_string_constant_may_stand_in_an_expression(connection: Connection, text: str, number: int) -> None:
    for literal in (sql.Literal(text).as_string(connection), f"$relief${text}$relief$"):
        refusal = _try(connection, [f"length({literal}) + a + {number} AS n"])
        assert refusal is None or "$relief$" in text, str(refusal)


@given(names, names)
@settings(max_examples=40)
def test_names_that_are_not_there_are_refused(connection: Connection, name: str, column: str) -> None:
    for statement in (
        "select relief.promote(%s)",
        "select relief.attach(%s)",
        "select relief.detach(%s)",
        "select relief.drop_detector(%s)",
        "select relief.add_model(%s, '{}', 'x')",
        "call relief.backfill(%s)",
        "select relief.score(%s, '{}')",
        "select relief.detect(%s, '{}')",
    ):
        with nothing_changes(connection), refused("42704", f'detector "{name}" does not exist'):
            query(connection, statement, name)
