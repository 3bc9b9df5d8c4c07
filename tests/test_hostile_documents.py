"""Tampered models: refused, or harmless. Nothing but validated numbers reaches what the runtime compiles."""

from __future__ import annotations

import ast
import math
import re

import psycopg
import pytest
from helpers.database import Database, query
from helpers.forests import add_model, explainer_of, stump
from helpers.hostile import nothing_changes
from helpers.mutations import tampered
from helpers.shop import FEATURES
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection
from relief_runtime import document, packed, session, trees
from relief_runtime.document import DocumentError, checksum
from relief_runtime.trees import MAX_COMPILED_DEPTH, Leaves, Trees

from relief_trainer.document import serialize

BRANCHES = [
    {"feature": [0, -1, -1], "value": [0.0, 1.0, 3.0], "missing_left": [1, 0, 0]},
    {"feature": [1, 0, -1, -1, -1], "value": [2.5, None, 2.0, 2.25, 1.0], "missing_left": [0, 1, 0, 0, 0]},
]
PLAIN = stump(FEATURES, trees=BRANCHES)
CATEGORIES = {
    **PLAIN,
    "features": [*PLAIN["features"], {"name": "c", "expression": "c", "kind": "category"}],
    "encoders": {"c": {"values": {"red": 0.5, "": 2}, "missing": 1.25, "other": 3.0}},
    "trees": [
        *PLAIN["trees"],
        {"feature": [2, -1, -1], "value": [1.5, 1, 3], "missing_left": [1, 0, 0], "rows": [2, 1, 1]},
    ],
}
NUMBERS = (-1e308, -1.0, 0.0, 2.25, float("inf"), float("nan"))

# All that a compiled tree consists of: comparisons and additions of numbers, of a row's values and of running totals.
# fmt: off
NODES = {
    "Module", "FunctionDef", "arguments", "arg", "Assign", "AugAssign", "Return", "If", "Pass", "Add", "Sub", "Compare",
    "LtE", "Gt", "UnaryOp", "Not", "USub", "BinOp", "Subscript", "List", "Name", "Load", "Store", "Constant",
}
# fmt: on
NAME = re.compile(r"row|total|length|[xt][0-9]{1,4}")


def _assert_numbers_alone(source: str) -> None:
    for node in ast.walk(ast.parse(source)):
        assert type(node).__name__ in NODES, ast.dump(node)
        if isinstance(node, ast.Constant):
            assert type(node.value) in (int, float), node.value
        elif isinstance(node, ast.Name):
            assert NAME.fullmatch(node.id), node.id


def _sources(found: Trees, leaves: Leaves) -> list[str]:
    compiled = [root for root in found.roots if found.depth(root) <= MAX_COMPILED_DEPTH]
    return [trees.block_source(found, [root], leaves) for root in compiled]


def _rows(count: int) -> list[list[float | None]]:
    return [[number] * count for number in NUMBERS] + [[None] * count]


def _assert_refused_or_harmless(text: str) -> None:
    """Read a document, store and score with it as the server does; compare walked and compiled trees."""
    try:
        read = document.read(text, checksum(text))
        kept = packed.unpack(content := packed.pack(read), packed.checksum(content))
    except DocumentError:
        return
    forest = session.Forest(kept)
    for source in _sources(kept.trees, forest._blocks._leaves):
        _assert_numbers_alone(source)
    categories = ["red"] * len(read.encoders) or None
    scores = [forest.score(row, categories) for row in _rows(kept.feature_count)]
    assert all(score is None or 0 <= score <= 1 for score in scores)
    _compile(forest._blocks)
    assert [forest.score(row, categories) for row in _rows(kept.feature_count)] == scores
    explainer = explainer_of(text)
    for source in _sources(read.trees, explainer._blocks._leaves):
        _assert_numbers_alone(source)
    for row in _rows(kept.feature_count):
        explained = explainer.contributions(row, categories)
        assert len(explained) == kept.feature_count + 1
        assert not any(map(math.isnan, explained))


def _compile(blocks: trees.Blocks) -> None:
    """Compile now what would be compiled after some hundred rows."""
    for position, roots in blocks._uncompiled:
        if max(map(blocks._trees.depth, roots)) <= MAX_COMPILED_DEPTH:
            blocks._blocks[position] = trees.compile_block(blocks._trees, roots, blocks._leaves)
    blocks._uncompiled = []


documents = tampered(PLAIN) | tampered(CATEGORIES)


@given(documents)
@settings(max_examples=300)
def test_tampered_document_is_refused_or_harmless(text: str) -> None:
    _assert_refused_or_harmless(text)


@pytest.mark.soak
@given(documents)
@settings(max_examples=7_000)
def test_thousands_of_tampered_documents_are_refused_or_harmless(text: str) -> None:
    _assert_refused_or_harmless(text)


KEPT = packed.pack(document.read(serialize(CATEGORIES), checksum(serialize(CATEGORIES))))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a packed forest of which some bytes were changed, cut off or added."""
    content = bytearray(KEPT)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(len(packed.MAGIC), len(content)))
        content[place : place + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(content)


def _assert_harmless(content: bytes) -> None:
    """Load a packed forest as anybody may who calls the runtime directly, and score with it, walked and compiled."""
    try:
        forest = session.Forest(kept := packed.unpack(content, packed.checksum(content)))
        for source in _sources(kept.trees, forest._blocks._leaves):
            _assert_numbers_alone(source)
        for _ in range(2):
            for row in _rows(min(kept.feature_count, 5)):
                forest.score(row, ["red"])
            _compile(forest._blocks)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return  # what the database's functions expect, and tell as an error


@given(damaged())
@settings(max_examples=100)
def test_damaged_packed_forest_is_refused_or_harmless(content: bytes) -> None:
    _assert_harmless(content)


@pytest.mark.soak
@given(damaged())
@settings(max_examples=2_000)
def test_thousands_of_damaged_packed_forests_are_refused_or_harmless(content: bytes) -> None:
    _assert_harmless(content)


@pytest.fixture(scope="module")
def connection(module_database: Database) -> Connection:
    """Return a superuser's connection to a database with a detector for either kind of document."""
    connection = module_database.superuser
    query(connection, "create table public.victim (a integer, b float8, c text)")
    query(connection, "insert into public.victim select n % 7, n, 'red' from generate_series(1, 50) as n")
    for name, features in (("plain", "{a, ln(b) AS log_b}"), ("categories", "{a, ln(b) AS log_b, c}")):
        query(
            connection,
            "select relief.create_detector(%s, 'public.victim', %s, score_function => false)", name, features,
        )  # fmt: skip
    return connection


# What is done with a model once it is promoted: whatever it holds, this works or says what is wrong with the data.
USES = (
    'select score, is_anomaly, severity from relief.detect(%s, \'{"a": -2, "b": 1, "c": "red"}\')',
    'select * from relief.explain(%s, \'{"a": 1, "b": 2}\')',
    "select * from relief.drift(%s)",
    "select relief.refresh_profile(%s)",
    "select * from relief.metrics where detector = %s",
)


def _assert_database_is_unharmed(connection: Connection, detector: str, text: str) -> None:
    """Store a document, promote and use it, and undo it all; nothing else has changed."""
    # What PostgreSQL takes in no text at all: the client refuses it.
    text = text.replace("\0", "").encode(errors="ignore").decode()
    with connection.transaction(force_rollback=True), nothing_changes(connection):
        try:
            with connection.transaction():
                version = add_model(connection, detector, text)
                query(connection, "select relief.promote(%s, %s)", detector, version)
        except psycopg.Error as refusal:
            assert refusal.sqlstate[:2] in ("22", "54", "55"), str(refusal)
            return
        for use in USES:
            try:
                with connection.transaction():
                    query(connection, use, detector)
            except psycopg.DataError as refusal:
                assert refusal.sqlstate[:2] == "22"


@given(st.just("plain"), tampered(PLAIN))
@settings(max_examples=50)
def test_tampered_document_does_a_database_no_harm(connection: Connection, detector: str, text: str) -> None:
    _assert_database_is_unharmed(connection, detector, text)


@pytest.mark.soak
@given(st.data(), st.sampled_from(["plain", "categories"]))
@settings(max_examples=700)
def test_hundreds_of_tampered_documents_do_a_database_no_harm(
    connection: Connection, data: st.DataObject, detector: str
) -> None:
    text = data.draw(tampered(PLAIN if detector == "plain" else CATEGORIES))
    _assert_database_is_unharmed(connection, detector, text)
