"""The kernel in a server: sessions score and judge with it, keep little, and refuse what is damaged."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, train
from helpers.kernel import JUDGE, USED, give_library
from helpers.shop import COMPANIONS, FEATURES, attach_orders, make_orders
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def attached(kernel: Database) -> psycopg.Connection:
    """Return a connection with shop.orders attached and the kernel in use."""
    attach_orders(kernel.superuser)
    query(kernel.superuser, USED, True)
    return kernel.superuser


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
