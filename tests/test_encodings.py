"""Databases in other encodings than UTF-8: Relief is installed, trains and scores there, texts and all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from helpers.database import query, value
from helpers.kernel import give_library
from helpers.server import install
from psycopg import sql
from psycopg.conninfo import make_conninfo

from relief_trainer.cli import main

pytestmark = pytest.mark.server

INSERT = """
    insert into item (a, kind) values (1e6, %s)
    returning relief_anomaly_score, relief_is_anomaly, relief_deviation, relief_model_version
"""
# Of each encoding a text that it can hold.
WORDS = {"UTF8": "\u2744 snow", "LATIN1": "Größe", "EUC_JP": "大きさ", "SQL_ASCII": "size"}


WAYS = ["script", pytest.param("extension", marks=pytest.mark.extension)]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=list(WORDS))
def encoded(server: str, way: str, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """Return the connection string of a database in an encoding, with Relief installed, and a text for it."""
    encoding = request.param
    name = sql.Identifier(f"relief_{encoding}_{way}".lower())
    with psycopg.connect(server, autocommit=True) as connection:
        made = "create database {} template template0 encoding {} locale 'C'"
        connection.execute(sql.SQL(made).format(name, encoding))
        try:
            dsn = make_conninfo(server, dbname=name.as_string().strip('"'), client_encoding="utf8")
            with psycopg.connect(dsn, autocommit=True) as inside:
                install(inside, by_extension=way == "extension")
            yield dsn, WORDS[encoding]
        finally:
            connection.execute(sql.SQL("drop database {} with (force)").format(name))


def _train(dsn: str, connection: psycopg.Connection, word: str) -> str:
    """Train on a table of which a third of the rows has a text, attach it, and return what commands print."""
    query(connection, "create table item (id integer generated always as identity primary key, a float8, kind text)")
    query(connection, "select setseed(0.5)")
    query(
        connection,
        "insert into item (a, kind) select random(), case when n %% 3 = 0 then %s else 'plain' end "
        "from generate_series(1, 300) as n",
        word,
    )
    query(
        connection,
        "select relief.create_detector('items', 'item', array['a', format('kind as %%I', %s::text)], "
        "entity => '{kind}')",
        word,
    )
    printed = ""
    for arguments in (["train", "items", "--promote"], ["refresh", "items"], ["show", "items"]):
        done = CliRunner().invoke(main, [*arguments, "--dsn", dsn], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        printed += done.stdout
    query(connection, "select relief.attach('items')")
    return printed


def test_texts_are_trained_on_scored_and_told_in_any_encoding(encoded: tuple[str, str]) -> None:
    dsn, word = encoded
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert word in _train(dsn, connection, word)
        (row,) = query(connection, INSERT, word)
        assert row[1] is True
        assert row[2]["a"]["level"] == "entity"
        assert word in row[2]
        assert word in value(connection, "select sentence from relief.event")
        long = word + "x" * 100
        explain = "select sentence from relief.explain('items', jsonb_build_object('a', 1, 'kind', %s::text))"
        assert any("x...;" in sentence for sentence in query(connection, explain, long))


@pytest.mark.parametrize("way", ["script"], indirect=True)
def test_the_kernel_judges_texts_as_the_runtime_does_in_any_encoding(
    encoded: tuple[str, str], kernel_library: Path
) -> None:
    dsn, word = encoded
    with psycopg.connect(dsn, autocommit=True) as connection:
        _train(dsn, connection, word)
        by_runtime = [query(connection, INSERT, text) for text in (word, "plain", "unseen", None)]
        give_library(connection, kernel_library)
        query(connection, "select relief.use_kernel()")
        assert [query(connection, INSERT, text) for text in (word, "plain", "unseen", None)] == by_runtime
