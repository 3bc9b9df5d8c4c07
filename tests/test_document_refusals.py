"""What is no model: documents, rows and direct calls that the runtime refuses, each with an SQLSTATE and what to do."""

from __future__ import annotations

import json
import shlex
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, told
from helpers.shop import FEATURES, make_orders
from psycopg import Connection
from relief_runtime.document import checksum


@pytest.fixture(scope="module")
def shop(module_database: Database) -> Connection:
    make_orders(module_database.superuser, rows=10)
    return module_database.superuser


def _changed(**changes: Any) -> str:
    return json.dumps({**stump(FEATURES), **changes})


HINT = "Store models with the trainer: relief train orders, or relief import <file>."
DOCUMENT_REFUSALS = {
    "not JSON": ("__import__('os')", "22023", "model document is not JSON", HINT),
    "key without quotes": ("{0: 1}", "22023", "model document is not JSON", HINT),
    "format": (_changed(format=2), "22023", "model document has format 2, not 1", HINT),
    "NaN": (_changed(samples=float("nan")), "22023", "model document contains NaN", HINT),
    "text for a number": (_changed(average_path_length="1"), "22023", '"average_path_length" of', HINT),
    "no trees": (_changed(trees=[]), "22023", "model document has no trees", HINT),
    "cycle": (
        _changed(trees=[{"feature": [0, 0, 0], "value": [1, 1, 1], "missing_left": [0, 0, 0], "rows": [1, 1, 1]}]),
        "22023",
        "tree 0 has a split without two children",
        HINT,
    ),
    "other features": (
        json.dumps(stump(["a"])),
        "55000",
        'takes the features {a}, but detector "orders" has {a,log_b}',
        "Train the detector: relief train orders",
    ),
    "features in another order": (json.dumps(stump(["log_b", "a"])), "55000", "the features {log_b,a}", "relief train"),
    "NUL in a name": (_changed(features=[{"name": "\0", "kind": "number"}] * 2), "22P05", "unsupported Unicode", ""),
    "lone surrogate in a name": (_changed(features=[{"name": "\ud800", "kind": "number"}] * 2), "22P02", "", ""),
    "text in the profile": (_changed(profile={"a": {"scaled": {"mean": "x"}}}), "22P02", "invalid input syntax", ""),
    "text for a quantile": (_changed(ordinary={"scores": ["x"]}), "22023", '"scores" of ordinary rows', HINT),
}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "sqlstate", "message", "hint"), DOCUMENT_REFUSALS.values(), ids=DOCUMENT_REFUSALS.keys()
)
def test_document_that_can_not_be_scored_with_is_not_stored(
    shop: Connection, document: str, sqlstate: str, message: str, hint: str
) -> None:
    with refused(sqlstate, message, hint):
        add_model(shop, "orders", document)
    assert value(shop, "select count(*) from relief.model") == 0


def test_what_python_refuses_of_a_document_is_told_in_its_own_words(shop: Connection) -> None:
    query(shop, "select relief.create_detector('It''s one', 'shop.orders', '{a}', score_function => false)")
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refusal:
        add_model(shop, "It's one", "x")
    query(shop, "select relief.drop_detector('It''s one')")
    assert refusal.value.diag.message_primary == "model document is not JSON: no value at character 0"
    hint = refusal.value.diag.message_hint or ""
    assert shlex.split(hint.split(": ")[1].split(",")[0]) == ["relief", "train", "It's one"]


@pytest.mark.parametrize(("document", "key"), [("{}", "0"), (_changed(), checksum("{}")), (None, "0"), ("{}", None)])
def test_document_without_its_checksum_is_not_stored(shop: Connection, document: str | None, key: str | None) -> None:
    with refused():
        query(shop, "select relief.add_model('orders', %s, %s)", document, key)
    assert value(shop, "select count(*) from relief.model") == 0


def test_document_without_a_profile_scores_without_deviations(orders: Connection) -> None:
    for profile in ({}, {"a": {}}, {"a": None, "log_b": {"mean": 1.0, "stddev": 0.0}}):
        add_model(orders, "orders", stump(FEATURES, profile=profile))
        query(orders, "select relief.promote('orders')")
        score, deviation = query(
            orders, """select score, deviation from relief.detect('orders', '{"a": 1, "b": 1}')"""
        )[0]
        assert score == 0.125
        assert deviation == {"state": "warming up"}
    half = {"log_b": stump(FEATURES)["profile"]["log_b"]}
    add_model(orders, "orders", stump(FEATURES, profile=half))
    query(orders, "select relief.promote('orders')")
    deviation = value(orders, """select deviation from relief.detect('orders', '{"a": 1, "b": 1}')""")
    assert deviation == {"a": None, "log_b": told(0.0)}


def test_row_that_does_not_fit_the_model_is_refused(orders: Connection) -> None:
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    for numbers, message in (
        ("{1}", "model takes 2 features, not 1"),
        ("{{1,2}}", "model takes 2 features, not 1"),
        (None, ""),
    ):
        with refused("22023", f"row cannot be scored: {message}"):
            query(orders, "select shop._relief_verdict_orders(%s, null)", numbers)
    with refused("22023", "row cannot be scored: model takes 0 categories, not 1"):
        query(orders, "select shop._relief_verdict_orders('{1,2}', '{red}')")


def test_direct_calls_of_the_runtime_cannot_score_with_what_was_not_validated(orders: Connection) -> None:
    with refused("22023", "row cannot be scored"):
        query(orders, "select relief._score('0', '', '{1}', null)")
    query(orders, "select relief._start()")
    with refused("22023", "model cannot be loaded: packed forest has checksum"):
        query(orders, "select relief._load('', '0', 'x')")
    with refused("22023", "model cannot be loaded: packed forest has an unknown format"):
        query(orders, "select relief._load('', encode(sha256('x'), 'hex'), 'x')")
    add_model(orders, "orders", stump(FEATURES))
    with refused("22023", "model cannot be explained: packed explainer has an unknown format"):
        query(orders, "select relief._load_explainer('', '0', 'x')")
    with refused("22023", "model cannot be explained: packed explainer is of the document with checksum"):
        query(orders, "select relief._load_explainer('', '0', explainer) from relief.model")
    with refused("22023", "model cannot be explained: packed explainer has checksum"):
        query(
            orders,
            "select relief._load_explainer('', checksum, set_byte(explainer, 200, 255 - get_byte(explainer, 200))) "
            "from relief.model",
        )
    with refused("22023", "model document has checksum"):
        query(orders, "select relief._pack_explainer('', '0', %s)", _changed())
    with refused("22023", "model document has checksum"):
        query(orders, "select relief._pack('', '0', %s)", _changed())
    with refused("22023", "score cannot be explained"):
        query(orders, "select relief._contributions('0', '', '{1}', null)")
    with refused("22023", "row cannot be judged"):
        query(orders, "select relief._judge('0', '0', '', '{1}', null, '', '{}', true)")
    with refused("22023", "row cannot be explained"):
        query(orders, "select relief._explanation('0', '', '{1,1}', '{1}', null, '', '{}')")
    with refused("22023", "rule cannot be loaded: rule has checksum"):
        query(orders, "select relief._load_rule('0', '{}', '')")
    for rule in ("", "x", "[]", "{}", '{"features": 5}'):
        with refused("22023", "rule cannot be loaded"):
            query(orders, "select relief._load_rule(encode(sha256(convert_to(%s, 'UTF8')), 'hex'), %s, '')", rule, rule)
    with refused("22023", "rule cannot be loaded"):
        query(orders, "select relief._load_rule('0', null, '')")
    assert value(orders, "select relief._have('0')") is None
