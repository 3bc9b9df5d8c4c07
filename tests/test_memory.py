"""Out of memory: what couldn't be done is told, and nothing half done is scored with afterwards.

Allocations fail where the test says: a trace function raises MemoryError at the n-th line that the runtime executes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import COMPANIONS, FEATURES, make_orders
from psycopg import Connection
from relief_runtime import session
from relief_runtime.document import checksum
from relief_runtime.packed import checksum as packed_checksum
from relief_runtime.trees import WALKED_ROWS

from relief_trainer.document import serialize

ROW = [-1.0, 0.5]
TREE = {"feature": [0, -1, 1, -1, -1], "value": [0.0, 1.0, 0.2, 2.5, 3.0], "missing_left": [1, 0, 0, 0, 0]}
DOCUMENT = serialize(stump(FEATURES, trees=[TREE] * 4))


@contextmanager
def _failing_at(line: int) -> Iterator[None]:
    """Let the runtime run out of memory at a line, counted from the first that it executes."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        nonlocal left
        if "relief_runtime" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise MemoryError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _each_line(act: Callable[[], object]) -> Iterator[None]:
    """Run something again and again, failing at its first line, its second, and so on, until none is left."""
    line = 1
    while True:
        try:
            with _failing_at(line):
                act()
        except MemoryError:
            yield
            line += 1
        else:
            break
    assert line > 5


def _forget() -> None:
    for kept in (session._forests, session._rules, session._explainers):
        kept.clear()


def test_a_model_that_could_not_be_loaded_is_not_held() -> None:
    packed = session.pack(checksum(DOCUMENT), DOCUMENT)
    key = packed_checksum(packed)
    _forget()
    session.load(key, packed)
    right = session.score(key, ROW, None)

    def load() -> None:
        _forget()
        session.load(key, packed)

    for _ in _each_line(load):
        if not session.have(key):
            session.load(key, packed)
        assert session.score(key, ROW, None) == right


def test_scores_stay_right_wherever_scoring_and_compiling_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relief_runtime.trees.TREES_PER_BLOCK", 2)
    monkeypatch.setattr("relief_runtime.trees.WALKED_ROWS", 1)
    packed = session.pack(checksum(DOCUMENT), DOCUMENT)
    key = packed_checksum(packed)
    _forget()
    session.load(key, packed)
    right = session.score(key, ROW, None)

    def score_until_compiled() -> None:
        if not session.have(key):
            session.load(key, packed)
        assert session.score(key, ROW, None) == right

    for rows in (0, 1, 2):
        _forget()
        for _ in _each_line(score_until_compiled):
            _forget()
            session.load(key, packed)
            for _ in range(rows):
                session.score(key, ROW, None)
        assert [session.score(key, ROW, None) for _ in range(5)] == [right] * 5


def test_a_forest_that_cannot_be_compiled_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("relief_runtime.trees.compile_block", fail)
    packed = session.pack(checksum(DOCUMENT), DOCUMENT)
    key = packed_checksum(packed)
    _forget()
    session.load(key, packed)
    scores = {session.score(key, ROW, None) for _ in range(2 * WALKED_ROWS)}
    assert len(scores) == 1


def test_an_explainer_that_could_not_be_loaded_is_not_held() -> None:
    key = checksum(DOCUMENT)
    packed = session.pack_explainer(key, DOCUMENT)
    _forget()
    session.load_explainer(key, packed)
    right = session.explain(key, ROW, None)

    def explain() -> None:
        _forget()
        session.load_explainer(key, packed)
        session.explain(key, ROW, None)

    for _ in _each_line(explain):
        if not session.have_explainer(key):
            session.load_explainer(key, packed)
        assert session.explain(key, ROW, None) == right


FAIL_AT = """
    create function public.fail_at(line integer) returns void language plpython3u as $$
    import sys
    left = line
    def trace(frame, event, _):
        nonlocal left
        if "relief_runtime" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise MemoryError
        return trace
    sys.settrace(trace if line else None)
    $$
"""
INSERT = f"insert into shop.orders (a, b) values (-1, 1) returning {COMPANIONS}"
SELECT = "select shop.relief_score(o) from shop.orders as o where id = 1"


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database with an attached detector whose sessions can be made to run out of memory."""
    make_orders(database.superuser, rows=10)
    add_model(database.superuser, "orders", stump(FEATURES))
    database.query("select relief.promote('orders')")
    database.query("select relief.attach('orders')")
    database.query(FAIL_AT)
    return database


def _fail_at(connection: Connection, line: int) -> None:
    query(connection, "select public.fail_at(%s)", line)


@pytest.mark.parametrize("line", [5, 40, 120, 200])
def test_a_row_goes_in_with_the_reason_and_the_session_goes_on(shop: Database, line: int) -> None:
    (right,) = shop.query(INSERT)
    connection = shop.connect()
    query(connection, "select relief._start()")
    _fail_at(connection, line)
    inserted = query(connection, INSERT)
    assert inserted == [(None, None, {"error": "out of memory"}, None)]
    assert query(connection, INSERT) == [right]
    assert value(connection, SELECT) == shop.value(SELECT)


def test_statements_that_score_or_store_fail_and_the_session_goes_on(shop: Database) -> None:
    text = serialize(stump(FEATURES, split=7.0))
    right = shop.value(SELECT)
    connection = shop.connect()
    query(connection, "select relief._start()")
    explain = """select sentence from relief.explain('orders', '{"a": 1, "b": 1}')"""
    for statement in (SELECT, explain, f"select relief.add_model('orders', $${text}$$, '{checksum(text)}')"):
        _fail_at(connection, 30)
        hint = "train a smaller forest: relief train orders --trees 50" if "add_model" in statement else None
        with refused("53200", "out of memory", hint):
            query(connection, statement)
        assert value(connection, SELECT) == right
        query(connection, statement)
    assert shop.query("select version from relief.model order by version") == [1, 2]


def test_a_row_of_policy_raise_is_refused(shop: Database) -> None:
    shop.query("select relief.drop_detector('orders', drop_columns => true); drop table shop.orders")
    make_orders(shop.superuser, rows=1, schema=False, on_error="raise")
    add_model(shop.superuser, "orders", stump(FEATURES))
    shop.query("select relief.promote('orders')")
    shop.query("select relief.attach('orders')")
    connection = shop.connect()
    query(connection, "select relief._start()")
    _fail_at(connection, 40)
    with refused("53200", "out of memory"):
        query(connection, INSERT)
    assert query(connection, INSERT)[0][0] == 0.5
    assert shop.value("select count(*) from shop.orders") == 2
