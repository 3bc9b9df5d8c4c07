"""Scoring without a server: missing values, walking and compiled code, what a session keeps."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from helpers.forests import stump
from hypothesis import given, settings
from hypothesis import strategies as st
from relief_runtime import session
from relief_runtime.document import checksum, read
from relief_runtime.forest import Forest
from relief_runtime.packed import MAGIC, PackedError, pack, unpack
from relief_runtime.packed import checksum as packed_checksum
from relief_runtime.trees import MAX_COMPILED_DEPTH, TREES_PER_BLOCK, WALKED_ROWS, Leaves, compile_block

from relief_trainer.document import average_path_length, exact_thresholds
from relief_trainer.parity import as_server_keeps

FEATURES = 3
NAN = float("nan")


@st.composite
def trees(draw: st.DrawFn, depth: int = 5) -> dict[str, list[Any]]:
    """Draw a tree in preorder."""
    feature: list[int] = []
    value: list[float | None] = []
    missing_left: list[int] = []

    def grow(levels: int) -> None:
        if levels == 0 or draw(st.integers(0, 3)) == 0:
            feature.append(-1)
            value.append(draw(st.floats(0, 20)))
            missing_left.append(0)
            return
        feature.append(draw(st.integers(0, FEATURES - 1)))
        value.append(draw(st.none() | st.integers(-3, 3).map(float) | st.floats(allow_nan=False, allow_infinity=False)))
        missing_left.append(draw(st.integers(0, 1)))
        grow(levels - 1)
        grow(levels - 1)

    grow(depth)
    return {"feature": feature, "value": value, "missing_left": missing_left}


rows = st.lists(st.integers(-3, 3).map(float) | st.floats() | st.none(), min_size=FEATURES, max_size=FEATURES)


def _forest(content: dict[str, Any]) -> Forest:
    return Forest(as_server_keeps(json.dumps(content)))


def _walk(tree: dict[str, list[Any]], row: list[float | None]) -> float:
    """Walk a document's tree as its description says, without the runtime's code."""

    def size(node: int) -> int:
        return 1 if tree["feature"][node] < 0 else 1 + (left := size(node + 1)) + size(node + 1 + left)

    node = 0
    while (feature := tree["feature"][node]) >= 0:
        value, threshold = row[feature], tree["value"][node]
        if value is None or math.isnan(value):
            goes_left = bool(tree["missing_left"][node])
        else:
            goes_left = threshold is None or value <= threshold
        node = node + 1 if goes_left else node + 1 + size(node + 1)
    return tree["value"][node]


@given(st.lists(trees(), min_size=1, max_size=3), st.lists(rows, min_size=1, max_size=5))
def test_walked_and_compiled_trees_find_the_leaf_that_the_document_describes(
    grown: list[dict[str, list[Any]]], examples: list[list[float | None]]
) -> None:
    trees = as_server_keeps(json.dumps(stump(["x", "y", "z"], trees=grown))).trees
    numbers = Leaves(
        range(len(trees.features)),
        lambda total, leaf: [*total, leaf],
        "leaves = total",
        lambda leaf: [f"leaves += [{leaf:d}]"],
        "leaves",
    )
    compiled = compile_block(trees, trees.roots, numbers)
    for row in examples:
        floats = [NAN if value is None else value for value in row]
        walked = [trees.find_leaf(root, floats) for root in trees.roots]
        assert compiled([], floats) == walked
        assert [trees.thresholds[leaf] for leaf in walked] == [_walk(tree, row) for tree in grown]


@given(st.lists(trees(3), min_size=11, max_size=25), rows)
@settings(max_examples=25)
def test_score_stays_the_same_while_the_forest_is_compiled(
    grown: list[dict[str, list[Any]]], row: list[float | None]
) -> None:
    forest = _forest(stump(["x", "y", "z"], trees=grown))
    first = forest.score(row)
    blocks = -(-len(grown) // TREES_PER_BLOCK)
    assert {forest.score(row) for _ in range(WALKED_ROWS + blocks + 1)} == {first}


@given(rows)
def test_null_and_nan_score_alike(row: list[float | None]) -> None:
    forest = _forest(stump(["x", "y", "z"]))
    assert forest.score(row) == forest.score([NAN if value is None else value for value in row])


def test_row_whose_features_are_all_missing_has_no_score() -> None:
    forest = _forest(stump(["x", "y"]))
    for row in ([None, None], [NAN, None], [NAN, NAN]):
        assert forest.score(row) is None
    assert forest.score([None, 1.0]) is not None


def test_infinities_are_the_extreme_values_that_they_are() -> None:
    forest = _forest(stump(["x"], split=1e308))
    assert forest.score([math.inf]) == 0.125
    assert forest.score([-math.inf]) == 0.5


def test_too_few_and_too_many_features_are_refused() -> None:
    forest = _forest(stump(["x", "y"]))
    for row in ([], [1.0], [1.0, 2.0, 3.0]):
        with pytest.raises(ValueError, match=f"model takes 2 features, not {len(row)}"):
            forest.score(row)


def test_too_few_and_too_many_categories_are_refused() -> None:
    with pytest.raises(ValueError, match="model takes 0 categories, not 1"):
        _forest(stump(["x"])).score([1.0], ["red"])
    category = [{"name": "x", "expression": "x", "kind": "category"}]
    encoder = {"x": {"values": {"red": 1.0}, "missing": 2.0, "other": 3.0}}
    forest = _forest({**stump(["x"]), "features": category, "encoders": encoder})
    for texts in (None, [], ["red", "red"]):
        with pytest.raises(ValueError, match=f"model takes 1 categories, not {len(texts or ())}"):
            forest.score([None], texts)


def test_forest_of_one_training_row_scores_one_half() -> None:
    leaf = {"feature": [-1], "value": [0.0], "missing_left": [0]}
    assert _forest(stump(["x"], average_path_length=0, trees=[leaf])).score([1.0]) == 0.5


def test_tree_too_deep_to_compile_is_walked_on() -> None:
    splits = MAX_COMPILED_DEPTH + 50
    chain = {
        "feature": [0] * splits + [-1] * (splits + 1),
        "value": [float(-n) for n in range(splits)] + [1.0] * (splits + 1),
        "missing_left": [0] * (2 * splits + 1),
    }
    forest = _forest(stump(["x"], trees=[chain]))
    assert {forest.score([-5.0]) for _ in range(WALKED_ROWS + 5)} == {0.5}


def _packed(content: dict[str, Any]) -> tuple[str, bytes]:
    text = json.dumps(content)
    packed = pack(read(text, checksum(text)))
    return packed_checksum(packed), packed


def test_session_forgets_the_model_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_forests", {})
    models = [_packed(stump(["x"], split=float(n))) for n in range(session.MODELS_KEPT + 1)]
    keys = [key for key, _ in models]
    for key, packed in models[:-1]:
        session.load(key, packed)
    session.score(keys[0], [1.0], None)
    session.load(*models[-1])
    assert session.have(keys[0])
    assert not session.have(keys[1])
    assert [session.have(key) for key in keys[2:]] == [True] * (session.MODELS_KEPT - 1)


def test_session_keeps_nothing_of_a_forest_with_another_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_forests", {})
    with pytest.raises(PackedError, match="packed forest has checksum"):
        session.load("0", _packed(stump(["x"]))[1])
    assert not session.have("0")


@given(st.lists(trees(), min_size=1, max_size=3), st.data())
def test_packed_forest_that_is_changed_anywhere_is_refused_or_still_ends_each_walk(
    grown: list[dict[str, list[Any]]], data: st.DataObject
) -> None:
    _, packed = _packed(stump(["x", "y", "z"], trees=grown))
    at = data.draw(st.integers(0, len(packed) - 1))
    for changed in (packed[:at], packed + b"0", packed[:at] + data.draw(st.binary(max_size=9)) + packed[at + 1 :]):
        try:
            forest = Forest(unpack(changed, packed_checksum(changed)))
            score = forest.score([1.0, 2.0, None])
            assert score is None or isinstance(score, float)
        except (PackedError, LookupError, ArithmeticError, ValueError):
            continue


def test_packed_forest_of_another_format_is_refused() -> None:
    content = b"x" * (len(MAGIC) + 100)
    with pytest.raises(PackedError, match="unknown format"):
        unpack(content, packed_checksum(content))


LARGEST = float(np.finfo(np.float32).max)
thresholds = st.floats(-LARGEST, LARGEST, exclude_max=True) | st.sampled_from(
    [0.0, -0.0, 1e-45, -1e-45, 1.4e-45, 1e-300, 1.1754943508222875e-38, 0.1, 16777217.0, 1700000000.5, -LARGEST]
)


def _as_float32(x: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(x))


@given(thresholds, st.floats(allow_nan=False))
def test_exact_threshold_parts_doubles_as_scikit_learn_parts_their_float32(threshold: float, x: float) -> None:
    exact = float(exact_thresholds(np.array([threshold]))[0])
    assert (x <= exact) == (_as_float32(x) <= threshold)


@given(thresholds, st.integers(-3, 3), st.booleans())
def test_exact_threshold_holds_beside_float32_values_and_at_ties(threshold: float, steps: int, at_tie: bool) -> None:
    exact = float(exact_thresholds(np.array([threshold]))[0])
    near = np.float32(threshold)
    with np.errstate(over="ignore", under="ignore"):
        for _ in range(abs(steps)):
            near = np.nextafter(near, np.float32(math.copysign(math.inf, steps)))
        after = np.nextafter(near, np.float32(math.inf))
    x = (float(near) + float(after)) / 2 if at_tie else float(near)
    for candidate in (x, math.nextafter(x, -math.inf), math.nextafter(x, math.inf), exact):
        assert (candidate <= exact) == (_as_float32(candidate) <= threshold)


def test_average_path_length_follows_the_paper() -> None:
    counts = np.array([1, 2, 3, 256])
    euler = 0.5772156649015329
    expected = [0.0, 1.0, *(2 * (math.log(n - 1) + euler) - 2 * (n - 1) / n for n in (3, 256))]
    assert average_path_length(counts).tolist() == pytest.approx(expected, rel=1e-15)


def test_average_path_length_is_scikit_learns_to_the_last_bit() -> None:
    from sklearn.ensemble._iforest import _average_path_length

    counts = np.arange(1, 5000)
    assert np.array_equal(average_path_length(counts), _average_path_length(counts))
