"""The kernel without a server: by every path the leaves of scikit-learn, and to the bit the runtime's scores."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import benchmark_sets
from helpers.forests import stump
from helpers.kernel import COMPILERS, PATHS, ROOT, SANITIZED, Shim, compile_c
from relief_runtime import document as runtime_document
from relief_runtime.document import Document
from relief_runtime.forest import Forest
from relief_runtime.packed import Packed, checksum, pack, unpack
from relief_runtime.trees import Trees
from sklearn.ensemble import IsolationForest

from relief_trainer import parity
from relief_trainer.document import Feature, Ordinary, Threshold, build, serialize

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    source = ROOT / "tests" / "kernel" / "shim.c"
    return Shim(compile_c(tmp_path_factory.mktemp("kernel") / "shim.so", source, "-O2", "-shared", "-fPIC"))


def _rows(features: int, count: int = 2000, seed: int = 0) -> Floats:
    """Return rows of numbers of all sizes, some missing and some infinite."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, features)) * 10.0 ** generator.integers(-3, 9, features)
    rows[:, 0] += 1.7e9
    rows[generator.random(rows.shape) < 0.02] = np.nan
    rows[generator.random(rows.shape) < 0.01] = np.inf
    rows[generator.random(rows.shape) < 0.01] = -np.inf
    return rows


def _fitted(rows: Floats, trees: int = 30, **options: Any) -> tuple[IsolationForest, dict[str, Any]]:
    forest = IsolationForest(n_estimators=trees, random_state=0, **options).fit(parity.to_float32(rows))
    features = [Feature(f"f{number}", f"f{number}") for number in range(rows.shape[1])]
    nothing = np.full(len(rows), np.nan)
    threshold = Threshold(0.5, "fixed", None)
    return forest, build(forest, features, threshold, {}, Ordinary(nothing, nothing), {})


def _packed(document: dict[str, Any]) -> bytes:
    text = serialize(document)
    return pack(runtime_document.read(text, runtime_document.checksum(text)))


def _runtime_scores(packed: Packed, rows: Floats) -> Floats:
    forest = Forest(packed)
    return np.array(
        [np.nan if score is None else score for score in map(forest.score, rows.tolist())], dtype=np.float64
    )


def _assert_runtimes_scores(shim: Shim, packed: bytes, rows: Floats) -> Floats:
    """Assert that every path gives the scores that the runtime gives, to the bit, and return them."""
    expected = _runtime_scores(unpack(packed, checksum(packed)), rows)
    with shim.forest(packed) as forest:
        for path in shim.paths:
            assert np.array_equal(forest.score(path, rows), expected, equal_nan=True), PATHS[path]
    return expected


def _assert_same_leaves(shim: Shim, packed: bytes, forest: IsolationForest, rows: Floats) -> None:
    """Compare the leaf of each tree, which alone in a forest tells by its score which leaf it is."""
    read = unpack(packed, checksum(packed))
    trees, seen = read.trees, parity.to_float32(rows)
    ends = [*trees.roots[1:], len(trees.features)]
    pairs = zip(trees.roots, ends, forest.estimators_, forest.estimators_features_, strict=True)
    for root, end, estimator, used in pairs:
        features = list(trees.features[root:end])
        numbers = [float(n) if feature < 0 else trees.thresholds[root + n] for n, feature in enumerate(features)]
        alone = Trees([0], features, numbers, list(trees.steps[root:end]), list(trees.missing_left[root:end]))
        kinds = ["number"] * read.feature_count
        with shim.forest(pack(Document(alone, [1] * len(features), kinds, [], float(len(features))))) as one:
            for path in shim.paths:
                leaves = np.rint(-np.log2(one.score(path, rows)) * len(features))
                assert np.array_equal(leaves, estimator.tree_.apply(np.ascontiguousarray(seen[:, used]))), PATHS[path]


def _assert_parity(shim: Shim, rows: Floats, leaves: bool = True, **options: Any) -> None:
    forest, document = _fitted(rows, **options)
    packed = _packed(document)
    with shim.forest(packed) as read:
        assert read.is_in_blocks == (rows.shape[1] <= 256)
    tried = np.vstack([rows[:200], parity.rows_beside_thresholds(document, rows, count=300)])
    scores = _assert_runtimes_scores(shim, packed, np.vstack([tried, np.full((1, rows.shape[1]), np.nan)]))
    assert np.isnan(scores[-1])
    expected = parity.scikit_scores(forest, tried)
    assert np.array_equal(np.isnan(expected), np.isnan(scores[:-1]))
    assert parity.ulps(expected, scores[:-1]) <= 1
    if leaves:
        present = tried[~np.isnan(tried).all(axis=1)]
        _assert_same_leaves(shim, packed, forest, present)


@pytest.mark.parametrize("features", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 199, 200, 256, 257])
def test_rows_of_any_width_fall_into_the_leaves_that_scikit_learn_finds(shim: Shim, features: int) -> None:
    _assert_parity(shim, _rows(features, 1000), trees=12)


@pytest.mark.parametrize("name", benchmark_sets.NAMES)
def test_known_data_falls_into_the_leaves_that_scikit_learn_finds(shim: Shim, name: str) -> None:
    rows = benchmark_sets.read(name)[:, :-1]
    _assert_parity(shim, rows, trees=100)


@pytest.mark.parametrize(
    "options",
    [
        {"trees": 1},
        {"trees": 2, "max_samples": 1},
        {"trees": 20, "max_samples": 2},
        {"trees": 20, "max_samples": 3},
        {"trees": 20, "max_samples": 9},
        {"trees": 9, "max_samples": 4096},
        {"trees": 1000, "leaves": False},
        {"trees": 30, "max_features": 1},
        {"trees": 30, "max_features": 0.5, "bootstrap": True},
    ],
    ids=str,
)
def test_forests_of_any_size_fall_into_the_leaves_that_scikit_learn_finds(shim: Shim, options: dict[str, Any]) -> None:
    _assert_parity(shim, _rows(6, 5000), **options)


def test_forest_that_never_saw_a_missing_value_takes_rows_with_them(shim: Shim) -> None:
    _assert_parity(shim, np.random.default_rng(1).normal(size=(300, 3)))


def test_thresholds_that_no_float32_stands_for_are_compared_as_doubles(shim: Shim) -> None:
    for split in (0.0, 0.1, 1e300, -1e300, 5e-324, float(np.nextafter(np.float32(1), np.float32(2)))):
        packed = _packed(stump(["x"], split=split))
        beside = [
            split,
            np.nextafter(split, -np.inf),
            np.nextafter(split, np.inf),
            -split,
            np.inf,
            -np.inf,
            np.nan,
            0.0,
        ]
        _assert_runtimes_scores(shim, packed, np.array(beside)[:, None])
        with shim.forest(packed) as forest:
            assert not forest.is_in_blocks


def test_trees_of_very_different_depth_are_walked_in_one_forest(shim: Shim) -> None:
    generator = np.random.default_rng(3)
    trees = []
    for depth in (0, 50, 1, 3, 4, 2, 200, 6, 7):
        # A chain: to the left a leaf, to the right the next split.
        cuts = [_float_cut(cut) for cut in np.sort(generator.normal(size=depth)).tolist()]
        feature = [value for number in range(depth) for value in (number % 2, -1)] + [-1]
        values = [value for number, cut in enumerate(cuts) for value in (cut, number + 0.25)] + [depth + 0.5]
        missing = [int(value) for value in generator.integers(0, 2, len(feature))]
        trees.append({"feature": feature, "value": values, "missing_left": missing})
    packed = _packed(stump(["x", "y"], trees=trees))
    rows = generator.normal(size=(500, 2))
    rows[generator.random(rows.shape) < 0.1] = np.nan
    _assert_runtimes_scores(shim, packed, rows)
    with shim.forest(packed) as forest:
        assert forest.is_in_blocks


def _float_cut(cut: float) -> float:
    """Return the largest double that rounds to the float32 of a number, as the trainer writes thresholds."""
    low, high = np.float32(cut), np.nextafter(np.float32(cut), np.float32(np.inf))
    middle = (float(low) + float(high)) / 2
    return middle if np.float32(middle) == low else float(np.nextafter(middle, -np.inf))


@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda compiler: Path(compiler).name)
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_compilers_and_their_optimizations_change_no_score(tmp_path: Path, compiler: str, level: str) -> None:
    source = ROOT / "tests" / "kernel" / "shim.c"
    compiled = Shim(compile_c(tmp_path / "shim.so", source, level, "-shared", "-fPIC", compiler=compiler))
    for features in (3, 12, 20, 40):
        rows = _rows(features)
        _assert_runtimes_scores(compiled, _packed(_fitted(rows, trees=11)[1]), rows)


def test_forest_takes_at_most_150_kilobytes(shim: Shim) -> None:
    for features in (2, 8, 30):
        rows = np.random.default_rng(0).exponential(size=(5000, features))
        with shim.forest(_packed(_fitted(rows, trees=100)[1])) as forest:
            assert forest.size <= 150_000


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command that reads damaged forests under sanitizers, its files at the end, without count and seed."""
    folder = tmp_path_factory.mktemp("damaged")
    documents = [_fitted(_rows(features, 300), trees=3, max_samples=16)[1] for features in (1, 3, 12, 40)]
    documents.append(stump(["x", "y"], split=0.1))
    for number, document in enumerate(documents):
        (folder / f"{number}.forest").write_bytes(_packed(document))
    program = compile_c(folder / "damage", ROOT / "tests" / "kernel" / "damage.c", *SANITIZED)
    return [str(program), *(str(file) for file in sorted(folder.glob("*.forest")))]


def _read_damaged(command: list[str], count: int, seed: int) -> None:
    done = subprocess.run([command[0], str(count), str(seed), *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    refused, taken = (int(word) for word in done.stdout.split() if word.isdigit())
    assert refused + taken == count
    # Both happen: what is refused, and what is taken and then scored with.
    assert refused > count / 4
    assert taken > count / 20


def test_damaged_forests_are_refused_or_score_without_a_wrong_access(damaged: list[str]) -> None:
    _read_damaged(damaged, 4_000, seed=1)


@pytest.mark.soak
def test_100000_damaged_forests_are_refused_or_score_without_a_wrong_access(damaged: list[str]) -> None:
    _read_damaged(damaged, 100_000, seed=2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda packed: packed[:15], "it has an unknown format"),
        (lambda packed: b"relief forest 2\n" + packed[16:], "it has an unknown format"),
        (lambda packed: packed[:20], "it is cut off"),
        (lambda packed: packed[:60], "it is cut off"),
        (lambda packed: packed[:16] + np.array([np.nan]).tobytes() + packed[24:], "its size is out of range"),
        (lambda packed: packed[:24] + np.array([0], "u4").tobytes() + packed[28:], "its size is out of range"),
        (lambda packed: packed[:28] + np.array([2001], "u4").tobytes() + packed[32:], "its size is out of range"),
        (lambda packed: packed[:36] + np.array([4], "u4").tobytes() + packed[40:], "not as many nodes as it has"),
        (lambda packed: packed[:36] + np.array([2], "u4").tobytes() + packed[40:], "a split has not two children"),
        (lambda packed: packed[:40] + np.array([1], "i2").tobytes() + packed[42:], "a split is damaged"),
        (lambda packed: packed[:42] + np.array([-2], "i2").tobytes() + packed[44:], "a leaf is damaged"),
        (lambda packed: packed[:46] + b"\2" + packed[47:], "a split is damaged"),
        (lambda packed: packed[:49] + np.array([1], "u4").tobytes() + packed[53:], "a split has not two children"),
        (lambda packed: packed[:61] + np.array([np.nan]).tobytes() + packed[69:], "a split is damaged"),
        (lambda packed: packed[:69] + np.array([np.inf]).tobytes() + packed[77:], "a leaf is damaged"),
    ],
)
def test_each_damage_has_its_reason(shim: Shim, change: Any, why: str) -> None:
    packed = _packed(stump(["x"]))
    with pytest.raises(ValueError, match=why), shim.forest(change(packed)):
        pass
