"""Any table: of columns of any types, names and values, a detector is made, and every insert arrives and is scored."""

from __future__ import annotations

import random
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query
from helpers.reference import assert_same_scores, expected_scores
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from psycopg import Connection, sql

from relief_trainer.connection import connect
from relief_trainer.errors import ReliefError
from relief_trainer.train import Settings, train

TYPES = """
    create type public.mood as enum ('good', 'bad', 'so-so');
    create domain public.amount as numeric check (value is distinct from 13);
    create domain public.word as text;
"""


@pytest.fixture(scope="module")
def database(module_database: Database) -> Database:
    module_database.query(TYPES)
    module_database.query("set timezone = 'America/New_York'")
    return module_database


characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
names = (
    (
        st.text(characters, min_size=1, max_size=20)
        | st.text(st.sampled_from("'\"$\\;-%{}[]() .,\n~é🌊"), min_size=1, max_size=15)
        | st.sampled_from(["select", "user", "error", "state", "new", "old", "o", "numbers", "categories", "kind", "d"])
        | st.sampled_from(["a", "a_hour", "log_a", "x as y", "x" * 63, "é" * 31])
    )
    .filter(lambda name: len(name.encode()) <= 63)
)  # fmt: skip

integers = st.integers(-5, 5) | st.integers(-(2**15), 2**15 - 1)
floats = st.floats() | st.sampled_from([0.0, 1.5, 1e308, 5e-324, float("inf"), float("nan")]) | st.integers(0, 9)
numerics = integers | st.sampled_from(["1e400", "-1e400", "1e-400", "NaN", "Infinity", "0.1", "123456789.123456789"])
moments = (
    st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "99999-01-01", "2026-03-29 02:30"]) | st.datetimes()
)
words = st.sampled_from(["", "red", "blue", "NULL", "é🌊"]) | st.text(characters, max_size=6)

# By type, the values that a column may have, as PostgreSQL reads them.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "smallint": integers,
    "integer": integers,
    "bigint": integers | st.integers(-(2**63), 2**63 - 1),
    "numeric": numerics,
    "public.amount": numerics.filter(lambda value: value != 13),
    "real": st.floats(width=32) | st.integers(0, 9),
    "double precision": floats,
    "money": st.integers(-(10**12), 10**12),
    "boolean": st.booleans(),
    "date": moments.map(lambda value: str(value).split(" BC")[0].split(" ")[0]),
    "time": st.times(),
    "timestamp": moments,
    "timestamptz": moments,
    "interval": st.timedeltas().map(lambda value: f"{value.days} days {value.seconds} seconds"),
    "text": words,
    "varchar(9)": words,
    "char(9)": words,
    "public.word": words,
    "public.mood": st.sampled_from(["good", "bad", "so-so"]),
    "uuid": st.uuids() | st.just("00000000-0000-0000-0000-000000000000"),
    "inet": st.sampled_from(["10.0.0.1", "10.0.0.0/8", "::1"]) | st.ip_addresses(v=4),
    "integer[]": st.just("{1,2}"),
    "jsonb": st.just('{"a": 1}'),
}  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, list[str], list[str], list[list[Any]]]:
    """Draw a table: its name, names and types of its columns, and rows, of which the second half is inserted later."""
    columns = draw(st.lists(names, min_size=2, max_size=6, unique=True))
    types = [draw(st.sampled_from(list(VALUES))) for _ in columns]
    types[0] = draw(st.sampled_from(["numeric", "double precision", "public.mood", "timestamptz"]))
    # Few different values, many times: as tables have them.
    pools = [draw(st.lists(st.none() | VALUES[kind], min_size=2, max_size=6)) for kind in types]
    chosen = random.Random(draw(st.integers(0, 99)))
    rows = [[chosen.choice(pool) for pool in pools] for _ in range(draw(st.sampled_from([4, 30, 60])))]
    return draw(names), columns, types, rows


def insert(connection: Connection, table: sql.Identifier, types: list[str], rows: list[list[Any]]) -> None:
    marks = sql.SQL(", ").join(sql.SQL("%s::text::{}").format(sql.SQL(kind)) for kind in types)
    name = sql.SQL(table.as_string(connection).replace("%", "%%"))
    statement = sql.SQL("insert into {} values ({})").format(name, marks)
    with connection.cursor() as cursor:
        cursor.executemany(statement, [[None if value is None else str(value) for value in row] for row in rows])


@given(tables())
@settings(max_examples=40)
def test_every_insert_arrives_and_scores_as_the_trainer_says(
    database: Database, table: tuple[str, list[str], list[str], list[list[Any]]]
) -> None:
    name, columns, types, rows = table
    connection = database.superuser
    identifier = sql.Identifier("public", name)
    described = [sql.SQL("{} {}").format(sql.Identifier(c), sql.SQL(t)) for c, t in zip(columns, types, strict=True)]
    connection.execute(sql.SQL("create table {} ({})").format(identifier, sql.SQL(", ").join(described)))
    try:
        insert(connection, identifier, types, rows[: len(rows) // 2])
        _watch(database, identifier.as_string(connection), name)
        insert(connection, identifier, types, rows[len(rows) // 2 :])
        arrived = query(
            connection, sql.SQL("select to_jsonb(t) from {} as t order by ctid").format(identifier).as_string()
        )
        assert len(arrived) == len(rows)
        later = arrived[len(rows) // 2 :]
        expected = expected_scores(database, name)
        assert_same_scores(expected[len(rows) // 2 :], [row["relief_anomaly_score"] for row in later])
        scored = sql.SQL("select public.relief_score(t) from {} as t order by ctid").format(identifier).as_string()
        if not any("error" in (row["relief_deviation"] or {}) for row in later):
            assert_same_scores(expected, query(connection, scored))
    finally:
        if query(connection, "select from relief.detector where name = %s", name):
            query(connection, "select relief.drop_detector(%s)", name)
        connection.execute(sql.SQL("drop table {}").format(identifier))


def _watch(database: Database, relation: str, name: str) -> None:
    """Create, train and attach a detector of what is suggested; give up on tables that have nothing to compare."""
    connection = database.superuser
    try:
        query(connection, "select relief.create_detector(%s, %s::regclass)", name, relation)
    except psycopg.errors.InvalidParameterValue as refusal:
        event("nothing to suggest")
        assert "has no column that makes a feature" in str(refusal)
        assume(False)
    kinds = query(connection, "select kind from relief.feature")
    event(f"kinds: {sorted(set(kinds))}")
    try:
        with connect(database.dsn()) as training:
            train(training, name, Settings(trees=5), promote=True)
    except ReliefError as refusal:
        event("nothing to train on")
        assert "fewer than 10" in str(refusal) or "is constant or missing" in str(refusal), str(refusal)
        assume(False)
    query(connection, "select relief.attach(%s)", name)
