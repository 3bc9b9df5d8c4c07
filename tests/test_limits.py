"""Limits: what is too large is refused when it is trained or stored, with both sides and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import FEATURES
from helpers.world import World
from psycopg import Connection
from relief_runtime.document import LIMITS, checksum

from relief_trainer.archive import from_json
from relief_trainer.connection import connect
from relief_trainer.document import serialize
from relief_trainer.errors import ReliefError
from relief_trainer.source_training import column_features
from relief_trainer.train import Settings, train

SMALLER = "Train with fewer trees, or smaller ones: relief train <detector> --trees 100 --samples 256"
FEWER = "Choose the features that tell most, or make several detectors."
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_readme_tells_the_limits(database: Database) -> None:
    detectors = database.value("select relief._max_detectors()")
    for limit in (*(LIMITS[what] for what in ("features", "trees", "nodes")), detectors):
        assert f"| {limit:,} |" in README
    assert LIMITS["characters"] == 64 * 2**20
    assert "| 64 million characters |" in README


def test_a_detector_has_as_many_features_as_its_models_may(orders: Connection) -> None:
    assert value(orders, "select relief._max_features()") == LIMITS["features"]
    features = [f"a + {n} AS a{n}" for n in range(LIMITS["features"] + 1)]
    with refused("54000", 'detector "wide" is given 1601 features, more than 1600', FEWER):
        query(orders, "select relief.create_detector('wide', 'shop.orders', %s, score_function => false)", features)
    assert value(orders, "select count(*) from relief.detector") == 1


def test_a_database_has_so_many_detectors_whoever_makes_them(world: World) -> None:
    columns = (
        "relation, schema_name, table_name, columns, arguments, time_zone, entity, contamination, on_error, verdict, "
        "deviation_threshold, min_history, refresh_lag, score_function"
    )
    insert = f"insert into relief.detector (name, {columns}) select %s || n, {columns} from relief.detector"
    query(world.app, f"{insert}, generate_series(1, relief._max_detectors() - 1) as n", "orders")
    message = f'database "{world.database.name}" would have 10001 detectors, more than 10000'
    hint = "list them: select name, relation from relief.detector order by name;"
    query(world.mallory, "create table mal.t (a integer)")
    with refused("54000", message, hint):
        query(world.mallory, "select relief.create_detector('t', 'mal.t', '{a}')")
    with refused("54000", message, hint):
        query(world.app, f"{insert}, (values (1)) as f (n) where name = 'orders'", "other")
    query(world.app, "select relief.drop_detector('orders')")
    query(world.mallory, "select relief.create_detector('t', 'mal.t', '{a}')")
    assert value(world.app, "select count(*) from relief.detector") == 9999


def test_a_model_beyond_a_limit_is_not_stored(orders: Connection) -> None:
    leaf = {"feature": [-1], "value": [1.0], "missing_left": [0]}
    smaller = SMALLER.replace("<detector>", "orders")
    with refused("54000", "model document has 2001 trees, more than 2000", smaller):
        add_model(orders, "orders", stump(FEATURES, trees=[leaf] * (LIMITS["trees"] + 1)))
    with refused("54000", "model document has 1601 features, more than 1600", FEWER):
        add_model(orders, "orders", stump([f"a{n}" for n in range(LIMITS["features"] + 1)]))
    with refused("54000", "model document has 67108865 characters, more than 67108864", smaller):
        query(orders, "select relief.add_model('orders', repeat(' ', %s), '')", LIMITS["characters"] + 1)
    assert value(orders, "select count(*) from relief.model") == 0


@pytest.mark.parametrize("what", ["nodes", "characters"])
def test_training_ends_where_the_model_grows_too_large(
    orders: Connection, database: Database, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, what, 500)
    with connect(database.dsn()) as connection, pytest.raises(ReliefError, match=f"{what}, more than 500$") as refusal:
        train(connection, "orders", Settings(trees=20))
    assert refusal.value.hint == SMALLER
    assert value(orders, "select count(*) from relief.model") == 0


def test_training_with_too_many_trees_or_features_does_not_begin() -> None:
    with pytest.raises(ReliefError, match="model document has 2001 trees, more than 2000") as refusal:
        Settings(trees=2001)
    assert refusal.value.hint == SMALLER
    with pytest.raises(ReliefError, match="model document has 1601 features, more than 1600") as refusal:
        column_features([f"a{n}" for n in range(1601)])
    assert refusal.value.hint == FEWER


def test_exported_model_beyond_a_limit_is_not_imported() -> None:
    content = stump(FEATURES, trees=[0] * 2001)
    exported = {"detector": "orders", "checksum": checksum(serialize(content)), "document": content}
    with pytest.raises(ReliefError, match="model document has 2001 trees, more than 2000") as refusal:
        from_json(json.dumps(exported))
    assert refusal.value.hint == SMALLER
