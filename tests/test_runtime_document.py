"""Model documents, without a server: what isn't one is refused, with one kind of error, and is never run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.forests import copy_of, stump
from hypothesis import given
from hypothesis import strategies as st
from relief_runtime import document
from relief_runtime.document import DocumentError, LimitError, checksum, read
from relief_runtime.forest import Forest

from relief_trainer.parity import as_server_keeps

# A tree of five nodes beside two stumps, one of them on a category: enough structure to break.
NUMBERS = stump(
    ["x", "y"],
    trees=[
        {"feature": [0, -1, -1], "value": [0.0, 1.0, 3.0], "missing_left": [1, 0, 0]},
        {"feature": [1, 0, -1, -1, -1], "value": [2.5, None, 2.0, 2.25, 1.0], "missing_left": [0, 1, 0, 0, 0]},
        {"feature": [2, -1, -1], "value": [1.5, 1.0, 3.0], "missing_left": [1, 0, 0]},
    ],
)
BASE = {
    **NUMBERS,
    "features": [*NUMBERS["features"], {"name": "c", "expression": "c", "kind": "category"}],
    "encoders": {"c": {"values": {"red": 0.5, "": 2}, "missing": 1.25, "other": 3.0}},
}
ROWS: list[list[float | None]] = [[-1.0, 2.0], [1.0, 3.0], [None, 2.0], [float("nan"), 9.0], [float("inf"), None]]
TEXTS = [None, "red", "", "blue", "red"]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -(10**400), 2**63, 1e308, -0.0, "1", "nan", "__import__('os')", [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def _scores(text: str) -> list[float | None]:
    forest = Forest(as_server_keeps(text))
    return [forest.score([*row, None], [text]) for row, text in zip(ROWS, TEXTS, strict=True)]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in children for deeper in _paths(child, (*path, key)))]


PATHS = _paths(BASE)


@given(st.sampled_from(PATHS[1:]), json_values)
def test_document_with_one_value_replaced_is_refused_or_scores(path: tuple[Any, ...], value: Any) -> None:
    changed = copy_of(BASE)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    _refused_or_scored(json.dumps(changed))


@given(st.sampled_from(PATHS[1:]))
def test_document_with_one_part_missing_is_refused_or_scores(path: tuple[Any, ...]) -> None:
    changed = copy_of(BASE)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    _refused_or_scored(json.dumps(changed))


@given(st.integers(0, 600), st.text(max_size=3), st.integers(0, 40))
def test_document_with_its_text_damaged_is_refused_or_scores(place: int, inserted: str, removed: int) -> None:
    text = json.dumps(BASE)
    _refused_or_scored(text[:place] + inserted + text[place + removed :])


def _refused_or_scored(text: str) -> None:
    try:
        scores = _scores(text)
    except DocumentError:
        return
    except ValueError as error:
        # A document may announce other numbers of features and categories than the rows have.
        assert "model takes" in str(error)
        return
    assert all(score is None or 0 <= score <= 1 for score in scores)


@given(json_values)
def test_any_json_that_is_not_a_document_is_refused(content: Any) -> None:
    text = json.dumps(content)
    with pytest.raises(DocumentError):
        read(text, checksum(text))


def test_what_is_not_read_does_not_change_scores() -> None:
    for part in ("profile", "provenance", "samples", "unknown"):
        assert _scores(json.dumps({**BASE, part: {"__class__": "os.system"}})) == _scores(json.dumps(BASE))


def _with(**changes: Any) -> str:
    return json.dumps({**BASE, **changes})


def _tree(**changes: Any) -> str:
    return _with(trees=[{**BASE["trees"][0], **changes}])


def _encoder(**changes: Any) -> str:
    return _with(encoders={"c": {**BASE["encoders"]["c"], **changes}})


REFUSED = {
    "not JSON": ("{", "model document is not JSON"),
    "not an object": ("[]", "model document is not a JSON object"),
    "deeply nested": ("[" * 100_000, "model document is not JSON"),
    "a number of 5000 digits": (_with(samples=1).replace('"samples": 1', '"samples": ' + "9" * 5000), "is not JSON"),
    "no format": (json.dumps({k: v for k, v in BASE.items() if k != "format"}), "has format None, not 1"),
    "format 2": (_with(format=2), "model document has format 2, not 1"),
    "format as text": (_with(format="1"), "model document has format '1', not 1"),
    "format true": (_with(format=True), "model document has format True, not 1"),
    "NaN threshold": (_with(threshold={"value": float("nan"), "origin": "fixed"}), "model document contains NaN"),
    "infinite value": (_tree(value=[float("inf"), 1.0, 3.0]), "model document contains Infinity"),
    "overflowing value": (_tree(value=[1, 1, 3]).replace("[1, 1, 3]", "[1e999, 1, 3]"), "not all finite"),
    "huge integer": (_tree(value=[10**400, 1, 3]), "not all finite"),
    "threshold above 1": (_with(threshold={"value": 1.5, "origin": "fixed"}), "not a number from 0 to 1"),
    "threshold as text": (_with(threshold={"value": "0.5", "origin": "fixed"}), "not a number from 0 to 1"),
    "threshold from nowhere": (_with(threshold={"value": 0.5, "origin": "magic"}), "origin 'magic' is not one of"),
    "divisor as text": (_with(average_path_length="10"), '"average_path_length" of the model document is not a number'),
    "negative divisor": (_with(average_path_length=-1), '"average_path_length" of the model document is not a number'),
    "no features": (_with(features=[]), "model document has no features"),
    "unknown kind": (_with(features=[{"name": "x", "kind": "code"}]), "no name or no known kind"),
    "no encoder": (_with(encoders={}), '"encoders" of the model document are not one for each category'),
    "an encoder of a number": (_with(encoders={**BASE["encoders"], "x": {}}), "are not one for each category"),
    "an encoder of another name": (_with(encoders={"d": BASE["encoders"]["c"]}), "are not one for each category"),
    "encoders as a list": (_with(encoders=[]), '"encoders" of the model document is not a dict'),
    "encoder as text": (_with(encoders={"c": "x"}), "the encoder of feature 2 is not an object with values"),
    "values as a list": (_encoder(values=[1.0]), "the encoder of feature 2 is not an object with values"),
    "rarity as text": (_encoder(values={"red": "1"}), "holds what is not a number from 0 to 1000"),
    "rarity true": (_encoder(missing=True), "holds what is not a number from 0 to 1000"),
    "no rarity of NULL": (_encoder(missing=None), "holds what is not a number from 0 to 1000"),
    "negative rarity": (_encoder(other=-1), "holds what is not a number from 0 to 1000"),
    "huge rarity": (_encoder(other=10**400), "holds what is not a number from 0 to 1000"),
    "too many categories": (_encoder(values={str(n): 1.0 for n in range(1001)}), "lists more than 1000 categories"),
    "a long category": (_encoder(values={"x" * 201: 1.0}), "or one of more than 200 characters"),
    "no trees": (_with(trees=[]), "model document has no trees"),
    "too many trees": (_with(trees=[{}] * 2001), "has 2001 trees, more than 2000"),
    "tree as text": (_with(trees=["x"]), "tree 0 of the model document is not an object"),
    "lists of two lengths": (_tree(value=[1.0]), "the lists of tree 0 are empty or differ in length"),
    "empty tree": (_tree(feature=[], value=[], missing_left=[]), "the lists of tree 0 are empty"),
    "feature that isn't there": (_tree(feature=[3, -1, -1]), "splits on a feature that is not one of 3"),
    "feature as text": (_tree(feature=["0", -1, -1]), "splits on a feature that is not one of 3"),
    "feature true": (_tree(feature=[True, -1, -1]), "splits on a feature that is not one of 3"),
    "value as text": (_tree(value=["0", 1.0, 3.0]), '"value" of tree 0 is not all numbers'),
    "leaf without length": (_tree(value=[0.0, None, 3.0]), "a leaf of tree 0 has no path length"),
    "leaf of negative length": (
        _tree(value=[0.0, 1.0, -3000.0]),
        "a leaf of tree 0 has no path length, or a negative one",
    ),
    "missing_left 2": (_tree(missing_left=[2, 0, 0]), '"missing_left" of tree 0 is not all 0 or 1'),
    "quantiles as text": (_with(ordinary="x"), '"ordinary" of the model document is not a dict'),
    "too few quantiles": (_with(ordinary={"scores": [0.5]}), '"scores" of ordinary rows is not a list of 119 quan'),
    "a quantile as text": (_with(ordinary={"deviations": ["x"] * 119}), '"deviations" of ordinary rows is not all num'),
    "a huge quantile": (_with(ordinary={"scores": [10**400] * 119}), '"scores" of ordinary rows is not all numbers'),
    "falling quantiles": (_with(ordinary={"scores": [1.0] * 118 + [0]}), '"scores" of ordinary rows does not ascend'),
    "no rows": (json.dumps({**BASE, "trees": [{**BASE["trees"][0], "rows": None}]}), 'tree 0 lacks a list "feature"'),
    "rows of another length": (_tree(rows=[2, 1]), "the lists of tree 0 are empty or differ in length"),
    "node without rows": (_tree(rows=[1, 1, 0]), '"rows" of tree 0 is not all from 1 to'),
    "huge row count": (_tree(rows=[10**400, 1, 1]), '"rows" of tree 0 is not all from 1 to'),
    "rows as text": (_tree(rows=["2", "1", "1"]), '"rows" of tree 0 is not all from 1 to'),
    "split without children": (_tree(feature=[0, 0, -1]), "tree 0 has a split without two children"),
    "two trees in one": (_tree(feature=[-1, -1, -1]), "tree 0 is 3 trees"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_malformed_document_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as refusal:
        read(text, checksum(text))
    assert message in str(refusal.value)


def test_wrong_checksum_is_refused_before_anything_is_read() -> None:
    with pytest.raises(DocumentError, match=r"has checksum \w+, not 0"):
        read("{", "0")


@pytest.mark.parametrize("what", document.LIMITS)
def test_document_is_read_at_its_limits_and_refused_beyond_them(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(BASE)
    count = {"characters": len(text), "features": 3, "trees": 3, "nodes": 11}[what]
    monkeypatch.setitem(document.LIMITS, what, count)
    read(text, checksum(text))
    monkeypatch.setitem(document.LIMITS, what, count - 1)
    with pytest.raises(LimitError, match=f"^model document has {count} {what}, more than {count - 1}$"):
        read(text, checksum(text))


def test_a_chain_as_deep_as_the_limit_is_read_and_scored() -> None:
    splits = 200_000
    chain = {
        "feature": [0] * splits + [-1] * (splits + 1),
        "value": [0.0] * splits + [1.0] * (splits + 1),
        "missing_left": [0] * (2 * splits + 1),
        "rows": [1] * (2 * splits + 1),
    }
    text = _with(trees=[chain])
    forest = Forest(as_server_keeps(text))
    assert forest.score([-1.0, 0.0, None], [None]) == 0.5
    # Rows enough to reach the compilation, which leaves a tree of this depth alone.
    assert {forest.score([1.0, 0.0, None], [None]) for _ in range(400)} == {0.5}
