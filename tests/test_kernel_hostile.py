"""The kernel's C functions, called by an ordinary role with whatever SQL can pass: they answer or refuse."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.kernel import give_library
from helpers.profiles import create, refresh
from hypothesis import given, settings
from hypothesis import strategies as st

# What an argument of a type may be, as SQL. In the table held: short, compressed, and stored outside of the row.
ARGUMENTS = {
    "text": [
        *(
            "null",
            "''",
            "'x'",
            "'ü'",
            "e'\\x01'",
            "'[\"a\"]'",
            "'[\"none\"]'",
            "'{}'",
            "'null'",
            "'{\"features\": []}'",
        ),
        *("repeat('0', 64)", "repeat('ü', 32)", "repeat('x', 300000)", "(select h.t from held as h where h.n = 9999)"),
        *("forest.key", "upper(forest.key)", "left(forest.key, 63)", "forest.key || '0'", "rule.key", "rule.content"),
    ],
    "double precision[]": [
        *("null", "'{}'", "'{1}'", "'{-1, 1}'", "'{null, 2}'", "'{null, null}'", "'{nan, inf}'", "'{-inf, 1e-320}'"),
        *("'[5:6]={1, 2}'", "'[-2147483648:-2147483647]={1, 2}'", "'{{1, 2}}'", "'{{1}, {null}}'"),
        *("array_fill(1e0, array[1600])", "array_fill(null::float8, array[1601])", "array_fill(7e0, array[3, 2, 2])"),
        *("array_fill('nan'::float8, array[13])", "array_fill(9e0, array[2, 13], array[-9, 3])", "held.a"),
        *("array_fill(1e308::float8, array[26])", "array_fill(null::float8, array[13])"),
    ],
    "text[]": [
        *("null", "'{}'", "'{a}'", "'{null}'", "'{ü, b}'", "'{{a, b}, {c, null}}'", "'[0:0]={a}'", "array[held.t]"),
        *("'{{ü}}'", "array[repeat('x', 100000)]", "array_fill('a'::text, array[3000])", "array['a'::varchar]::text[]"),
    ],
    "bytea": [
        *("null", "''", "'\\x00'", "forest.content", "substr(forest.content, 1, 40)", "forest.content || '\\x00'"),
        *("held.t::bytea", "forest.content || '[[1, {\"a\": 1e400}, 0, 0]]'"),
    ],
    "integer": ["null", "0", "1", "-1", "2147483647", "-2147483648", "detector.id"],
    "smallint": [f"{number}::smallint" for number in ("null", "0", "1", "-1", "23", "32767", "(-32768)")],
    "boolean": ["null", "true", "false"],
}
NUMBERS, CATEGORIES = ARGUMENTS["double precision[]"], ARGUMENTS["text[]"]
# What encodes the second of two features, a category.
ENCODERS = b'[[1, {"a": 1.5, "\xc3\xbc": -2, "": 0}, 0.5, 3]]'
HELD = """
create temp table held as
select n, repeat('x', n) as t, array_fill(1e0, array[n]) as a from unnest('{1, 1000}'::int[]) as n
union all select 9999, string_agg(md5(i::text), ''), array_agg(sin(i)) from generate_series(1, 9999) as i
"""
JUDGED = """
select relief._judge(f.key, r.key, coalesce(relief._have_rule(f.key, r.key), relief._load_rule(r.key, r.content,
  coalesce(relief._have(f.key), relief._load('', f.key, f.content)))), '{-1, null}', '{a}', '', null, false)
  ->> 'relief_anomaly_score'
from forest as f, rule as r
"""


class Guest:
    """A session of a role that may call what PUBLIC may, and what it calls that with."""

    def __init__(self, database: Database) -> None:
        admin = database.superuser
        query(admin, "create table t (at timestamp, who text, x float8, y float8)")
        query(admin, "insert into t select timestamp '2024-01-01', 'a', n, -n from generate_series(1, 20) as n")
        create(admin, "t", "t", ["x", "y"], entity=["who"], season="hour_of_day", time_column="at", min_history=5)
        add_model(admin, "t", stump(["x", "y"]))
        query(admin, "select relief.promote('t')")
        refresh(admin, "t")
        query(admin, "select relief.use_kernel()")
        self.signatures: list[str] = query(admin, "select signature::text from relief._kernel_functions() order by 1")
        self.forest: bytes = value(admin, "select forest from relief.model") + ENCODERS
        rule = value(admin, "select relief._rule(d, m) from relief.detector as d, relief.model as m")
        role = database.role("guest")
        query(admin, f"grant usage on schema relief to {role}")
        self.session = database.connect(role)
        for name, content in (("forest", self.forest), ("rule", rule), ("detector", None)):
            query(
                self.session, f"create temp table {name} (content {'bytea' if name == 'forest' else 'text'}, key text)"
            )
            query(self.session, f"insert into {name} values (%s)", content)
        query(self.session, "update forest set key = encode(sha256(content), 'hex')")
        query(self.session, "update rule set key = encode(sha256(convert_to(content, 'UTF8')), 'hex')")
        query(self.session, "alter table detector add id integer")
        query(self.session, "update detector set id = %s", value(admin, "select id from relief.detector"))
        query(self.session, HELD)
        query(self.session, "analyze")

    def run(self, statement: str, *parameters: object) -> None:
        """Run what may be refused, for a fault of the caller; then what the same session must still do."""
        before = self.session.info.backend_pid
        try:
            query(self.session, statement, *parameters)
        except psycopg.Error as error:
            assert error.sqlstate is not None, error
            assert error.sqlstate[:2] in ("02", "22"), (error.sqlstate, error)
        assert (value(self.session, JUDGED), value(self.session, "select pg_backend_pid()")) == ("0.5", before)


@pytest.fixture(scope="module")
def guest(module_database: Database, kernel_library: Path) -> Guest:
    """Return such a session, on a server with the kernel in use."""
    give_library(module_database.superuser, kernel_library)
    return Guest(module_database)


def _call(signature: str) -> st.SearchStrategy[str]:
    name, _, types = signature.rstrip(")").partition("(")
    kinds = [kind for kind in types.split(",") if kind]
    arguments = st.tuples(*(st.sampled_from(ARGUMENTS[kind]) for kind in kinds))
    return arguments.map(lambda told: f"{name}({', '.join(told)})")


@settings(max_examples=400)
@given(data=st.data())
def test_function_called_with_anything_answers_or_refuses(guest: Guest, data: st.DataObject) -> None:
    assert len(guest.signatures) == 8
    call = data.draw(st.sampled_from(guest.signatures).flatmap(_call))
    guest.run(f"select {call} from forest, rule, detector, held")


@settings(max_examples=300)
@given(
    numbers=st.just("'{1, null}'") | st.sampled_from(NUMBERS),
    categories=st.just("'{b}'") | st.sampled_from(CATEGORIES),
    entity=st.sampled_from(ARGUMENTS["text"]),
    levels=st.sampled_from(NUMBERS),
)
def test_row_of_any_shape_is_judged_or_refused(
    guest: Guest, numbers: str, categories: str, entity: str, levels: str
) -> None:
    guest.run(
        f"select relief._score(forest.key, '', {numbers}, {categories}), "
        f"relief._judge(forest.key, rule.key, '', {numbers}, {categories}, {entity}, {levels}, true) "
        "from forest, rule, held where held.n = 9999"
    )


@settings(max_examples=300)
@given(
    at=st.integers(16, 140),
    piece=st.binary(min_size=1, max_size=8),
    cut=st.just(0) | st.integers(0, 60),
    numbers=st.just("'{-1, null}'") | st.sampled_from(NUMBERS),
)
def test_forest_with_any_bytes_in_it_is_refused_or_scores(
    guest: Guest, at: int, piece: bytes, cut: int, numbers: str
) -> None:
    damaged = (guest.forest[:at] + piece + guest.forest[at + len(piece) :])[: len(guest.forest) - cut]
    guest.run(
        f"select relief._score(k, relief._load('', k, f), {numbers}, case when n = 1 then '{{a}}'::text[] end) "
        "from (select f, encode(sha256(f), 'hex') as k from (select %s::bytea as f) as g offset 0) as g, held "
        "order by n",
        damaged,
    )


def test_function_that_is_no_longer_strict_refuses_null(guest: Guest, module_database: Database) -> None:
    for signature, call in (("_have(text)", "_have(null)"), ("_have_rule(text, text)", "_have_rule(forest.key, null)")):
        module_database.query(f"alter function relief.{signature} called on null input")
        guest.run("select relief._load('', key, content) from forest")
        with refused("22004", "is NULL"):
            query(guest.session, f"select relief.{call} from forest")
        module_database.query(f"alter function relief.{signature} strict")


def test_arrays_that_a_function_holds_expanded_are_read(guest: Guest) -> None:
    query(
        guest.session,
        """
        do $$
        declare
          numbers float8[] := '{1, 2}';
          categories text[] := '{b}';
          levels float8[] := '{}';
          forest_key text := (select key from forest);
          rule_key text := (select key from rule);
        begin
          numbers[1] := -1;
          numbers[2] := null;
          categories[1] := 'a';
          for n in 0..12 loop
            levels[n] := n;
          end loop;
          assert relief._score(forest_key, '', numbers, categories) = 0.5;
          assert relief._judge(forest_key, rule_key, '', numbers, categories, 'x', levels, true) #>>
            '{relief_deviation, x, level}' = 'global';
        end
        $$
        """,
    )
