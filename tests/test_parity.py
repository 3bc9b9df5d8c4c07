"""Parity, in the server: every row in the same leaf of every tree as scikit-learn finds, every score within one ULP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from helpers import benchmark_sets
from helpers.database import Database, query
from helpers.forests import Trained, fetch_features, train
from psycopg import Connection
from sklearn.metrics import roc_auc_score

from relief_trainer import parity
from relief_trainer.errors import ReliefError

SEEDS = (0, 1, 2)

# Walks and compiles, with the runtime that the install script has put into the server and the forest as it is stored.
LEAVES = """
create function public.leaves(started text, key text, packed bytea, numbers float8[])
  returns integer[] language plpython3u stable
as $python$
    import sys

    if SD.get("key") != key:
        trees = sys.modules["relief_runtime.packed"].unpack(packed, key).trees
        runtime = sys.modules["relief_runtime.trees"]
        leaves = runtime.Leaves(range(len(trees.features)), None, "", lambda leaf: [f"leaf = {leaf:d}"], "leaf")
        SD.update(key=key, trees=trees, compiled=[runtime.compile_block(trees, [root], leaves) for root in trees.roots])
    row = [float("nan") if number is None else number for number in numbers]
    trees = SD["trees"]
    walked = [trees.find_leaf(root, row) for root in trees.roots]
    if walked != [find(None, row) for find in SD["compiled"]]:
        plpy.error("walked and compiled trees differ")
    return [leaf - root for leaf, root in zip(walked, trees.roots)]
$python$
"""


@pytest.fixture(scope="module")
def connection(module_database: Database) -> Connection:
    query(module_database.superuser, LEAVES)
    return module_database.superuser


@pytest.fixture(scope="module", params=benchmark_sets.NAMES)
def benchmark_set(request: pytest.FixtureRequest, connection: Connection) -> Iterator[tuple[str, list[str]]]:
    name = request.param
    columns = benchmark_sets.load(connection, name)
    yield name, columns
    query(connection, "select relief.drop_detector(%s)", name)
    query(connection, f"drop table public.{name}")


def _assert_same_leaves(connection: Connection, name: str, trained: Trained, rows: npt.NDArray[np.float64]) -> None:
    call = query(connection, "select relief._features_call(d, 'o') from relief.detector as d where name = %s", name)[0]
    leaves = "public.leaves(relief._start(), m.forest_checksum, m.forest, " + call + ")"
    stored = (
        "(select m.* from relief.model as m join relief.detector as d on d.id = m.detector_id "
        "where d.name = %s order by version desc limit 1)"
    )
    found = np.array(query(connection, f"select {leaves} from public.{name} as o, {stored} as m order by o.id", name))
    seen = parity.to_float32(rows)
    pairs = zip(trained.forest.estimators_, trained.forest.estimators_features_, strict=True)
    expected = np.array([tree.tree_.apply(np.ascontiguousarray(seen[:, used])) for tree, used in pairs]).T
    assert np.array_equal(found, expected)


def _assert_same_scores(connection: Connection, name: str, trained: Trained, rows: npt.NDArray[np.float64]) -> None:
    found = query(connection, f"select public.relief_score(o) from public.{name} as o order by id")
    scores = np.array(found, dtype=np.float64)
    expected = parity.scikit_scores(trained.forest, rows)
    assert np.array_equal(np.isnan(scores), np.isnan(expected))
    assert parity.ulps(expected, scores) <= 1


def _assert_parity(connection: Connection, name: str, columns: list[str], trained: Trained) -> None:
    """Compare all rows of a table, after adding some on and beside thresholds, infinite and missing."""
    awkward = parity.rows_beside_thresholds(trained.document, trained.rows, count=500)
    awkward = np.vstack([awkward, np.full((2, len(columns)), np.nan)])
    benchmark_sets.append(connection, name, columns, awkward)
    rows = fetch_features(connection, name, "id")
    assert len(rows) == len(trained.rows) + len(awkward)
    _assert_same_leaves(connection, name, trained, rows)
    _assert_same_scores(connection, name, trained, rows)
    query(connection, f"delete from public.{name} where id >= %s", len(trained.rows))


def test_every_row_falls_into_the_leaves_that_scikit_learn_finds(
    connection: Connection, benchmark_set: tuple[str, list[str]]
) -> None:
    name, columns = benchmark_set
    _assert_parity(connection, name, columns, train(connection, name, trees=100))


def test_anomalies_are_found_as_well_as_scikit_learn_finds_them(
    connection: Connection, benchmark_set: tuple[str, list[str]]
) -> None:
    name, _ = benchmark_set
    reference = benchmark_sets.reference(name)
    mean, deviation = float(reference["sklearn_auroc_mean"]), float(reference["sklearn_auroc_sd"])
    measured = []
    for seed in SEEDS:
        train(connection, name, trees=100, seed=seed)
        labelled = query(connection, f"select label, public.relief_score(o) from public.{name} as o")
        labels, scores = zip(*labelled, strict=True)
        measured.append(roc_auc_score(labels, scores))
    # One seed in 15,000 lies farther than 4 standard deviations; the mean of three varies by 1/sqrt(3) of one.
    assert all(abs(auroc - mean) < 4 * deviation for auroc in measured), measured
    assert abs(np.mean(measured) - mean) < 4 * deviation / np.sqrt(len(SEEDS)), measured


@pytest.fixture(scope="module")
def awkward(connection: Connection) -> tuple[str, list[str]]:
    """Return a table of what float32 can't hold: epoch seconds, huge, tiny and whole numbers, holes, infinities."""
    generator = np.random.default_rng(7)
    rows = np.column_stack(
        [
            1.7e9 + generator.uniform(0, 3e4, 2000),
            10.0 ** generator.uniform(-300, 300, 2000) * generator.choice([-1, 1], 2000),
            10.0 ** generator.uniform(-46, -37, 2000),
            2.0**53 - generator.integers(0, 1000, 2000),
            generator.integers(0, 3, 2000).astype(np.float64),
            generator.choice([-np.inf, np.inf, 0.0, 1.0, np.nan], 2000),
        ]
    )
    rows[generator.random(rows.shape) < 0.05] = np.nan
    columns = ["epoch", "huge", "tiny", "whole", "few", "infinite"]
    benchmark_sets.create_table(connection, "awkward", columns, rows)
    return "awkward", columns


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_features": 0.5},
        {"max_features": 1},
        {"max_samples": 1},
        {"max_samples": 2},
        {"max_samples": 3},
        {"max_samples": 1.0},
        {"max_samples": 2000, "bootstrap": True},
        {"trees": 1},
        {"trees": 101, "max_samples": 16},
    ],
    ids=str,
)
def test_awkward_values_fall_into_the_leaves_that_scikit_learn_finds(
    connection: Connection, awkward: tuple[str, list[str]], options: dict[str, Any]
) -> None:
    name, columns = awkward
    _assert_parity(connection, name, columns, train(connection, name, seed=3, **options))


def test_forest_that_never_saw_a_missing_value_takes_rows_with_them(connection: Connection) -> None:
    rows = np.random.default_rng(1).normal(size=(300, 3))
    benchmark_sets.create_table(connection, "complete", ["x", "y", "z"], rows)
    _assert_parity(connection, "complete", ["x", "y", "z"], train(connection, "complete"))


def test_integers_numerics_and_reals_are_scored_as_the_doubles_that_they_become(connection: Connection) -> None:
    query(
        connection,
        "create table public.typed as select n as id, n::smallint as s, n * 10000000000 as big, "
        "(n / 7.0)::numeric(20, 10) as exact, (n / 3.0)::real as r from generate_series(0, 499) as n",
    )
    query(connection, "select relief.create_detector('typed', 'public.typed', '{s, big, exact, r, sqrt(s) AS root}')")
    trained = train(connection, "typed")
    _assert_same_leaves(connection, "typed", trained, trained.rows)
    _assert_same_scores(connection, "typed", trained, trained.rows)


def test_trainer_refuses_a_document_that_differs_from_the_forest(connection: Connection) -> None:
    name = "complete_too"
    benchmark_sets.create_table(connection, name, ["x"], np.random.default_rng(1).normal(size=(300, 1)))
    trained = train(connection, name)
    parity.check(trained.forest, trained.document, trained.rows)
    changed = json.loads(json.dumps(trained.document))
    split = changed["trees"][5]["feature"].index(0)
    changed["trees"][5]["value"][split] += 0.5
    with pytest.raises(ReliefError, match="differs from scikit-learn in"):
        parity.check(trained.forest, changed, trained.rows)
    changed = {**trained.document, "average_path_length": trained.document["average_path_length"] * (1 + 1e-14)}
    with pytest.raises(ReliefError, match="ULP"):
        parity.check(trained.forest, changed, trained.rows)
