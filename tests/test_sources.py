"""Sources: the same orders in each kind train the same model, and get the scores that the server gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers.database import Database
from helpers.sources import CREATE, FEATURES, IDENTITY, KINDS, ROWS, Places

from relief_trainer.cli import main
from relief_trainer.sources import open_source


@pytest.fixture
def places(tmp_path: Path, request: pytest.FixtureRequest) -> Places:
    return Places(tmp_path, request.getfixturevalue)


@pytest.fixture
def shop(database: Database) -> Iterator[Database]:
    """Return a database with the orders in shop.orders, and the detector "orders" on its numbers and a category."""
    database.query("create schema shop")
    database.query(CREATE.format(table="shop.orders"))
    with database.superuser.cursor() as cursor:
        cursor.executemany("insert into shop.orders values (%s, %s, %s, %s, %s, %s)", ROWS)
    database.query("select relief.create_detector('orders', 'shop.orders', %s, 0.05)", list(FEATURES))
    return database


def relief(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def succeeds(*arguments: str) -> str:
    result = relief(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trained_on_a_source_scores_it_as_the_server_scores_the_table(
    shop: Database, places: Places, tmp_path: Path, kind: str
) -> None:
    uri = places.fill(kind)
    out = tmp_path / "scores.jsonl"
    succeeds("train", "orders", "--source", uri, "--trees", "20", "--promote", "--dsn", shop.dsn())
    told = succeeds(
        "score",
        "--source",
        uri,
        "--model",
        "orders",
        "--out",
        str(out),
        "--batch-rows",
        "70",
        "--json",
        "--dsn",
        shop.dsn(),
    )
    expected = dict(shop.query("select id, shop.relief_score(o) from shop.orders as o"))
    name, order = IDENTITY[kind]
    lines = written(out)
    assert {order(line[name]): line["relief_anomaly_score"] for line in lines} == expected
    assert len(lines) == json.loads(told)["rows"] == len(ROWS)
    flagged = shop.value("select count(*) from shop.orders as o join relief.model on shop.relief_score(o) >= threshold")
    assert sum(line["relief_is_anomaly"] for line in lines) == json.loads(told)["anomalies"] == flagged == 15


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trained_without_a_database_is_the_one_that_is_imported(
    shop: Database, places: Places, tmp_path: Path, kind: str
) -> None:
    model, out = str(tmp_path / "orders.json"), tmp_path / "scores.jsonl"
    uri = places.fill(kind)
    told = succeeds(
        "train",
        "orders",
        "--source",
        uri,
        "--features",
        "a,b,c,land",
        "--categories",
        "land",
        "--contamination",
        "0.05",
        "--out",
        model,
    )
    assert f"store it: relief import {model}" in told
    succeeds("score", "--source", uri, "--model", model, "--out", str(out))
    assert "stored as version 1" in succeeds("import", model, "--dsn", shop.dsn())
    succeeds("promote", "orders", "--dsn", shop.dsn())
    expected = sorted(shop.query("select shop.relief_score(o) from shop.orders as o"))
    assert sorted(line["relief_anomaly_score"] for line in written(out)) == expected
    assert (
        shop.value("select (relief.detect('orders', '{\"a\": 1e6, \"b\": 1, \"c\": 1}')).deviation #>> '{a,level}'")
        == "global"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_drawn_at_random_and_again_with_the_same_seed(places: Places, kind: str) -> None:
    with open_source(places.fill(kind)) as source:
        name, order = IDENTITY[kind]
        identity = "id" if name == "row" else name
        wanted = {identity: object, "a": float}
        (first, total), (again, _), (other, _) = (source.sample(wanted, 50, seed) for seed in (1, 1, 2))
        assert total in (len(ROWS), 0)  # PostgreSQL knows of none before ANALYZE
        drawn = [order(row[0]) for row in first]
        assert len(set(drawn)) == 50
        assert sorted(map(str, again)) == sorted(map(str, first))
        assert sorted(map(str, other)) != sorted(map(str, first))
        assert min(drawn) < 75
        assert max(drawn) > 225
        values = {row[0]: row[1] for row in ROWS}
        assert all(row[1] == values[number] for row, number in zip(first, drawn, strict=True))
        everything, total = source.sample(wanted, 1000, 1)
        assert len(everything) == len(ROWS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_in_batches_of_the_columns_wanted_in_their_order(places: Places, kind: str) -> None:
    with open_source(places.fill(kind)) as source:
        assert set(source.columns()) >= {"a", "b", "c", "note"}
        batches = list(source.batches({"note": object, "b": float}, 64))
        assert max(len(batch) for batch in batches) <= 64
        found = {note: number for batch in batches for note, number in batch}
        assert found == {row[4]: row[2] for row in ROWS}


def test_provenance_tells_the_source_and_no_secret(shop: Database, places: Places, tmp_path: Path) -> None:
    uri = places.fill("mariadb")
    succeeds("train", "orders", "--source", uri, "--trees", "5", "--dsn", shop.dsn())
    stored = shop.value("select document from relief.model")
    assert json.loads(stored)["provenance"]["source"] == "table orders of mysql://localhost/shop"
    model = tmp_path / "orders.json"
    succeeds("train", "orders", "--source", uri, "--features", "a,b", "--trees", "5", "--out", str(model))
    password = uri.split(":")[2].split("@")[0]
    assert password not in stored + model.read_text()


def test_a_feature_that_is_an_expression_takes_a_column_of_its_name_and_says_so(shop: Database, places: Places) -> None:
    shop.query(
        "select relief.create_detector('twice', 'shop.orders', array['a', '2 * b AS b'], score_function => false)"
    )
    result = relief("train", "twice", "--source", places.fill("csv"), "--trees", "5", "--dsn", shop.dsn())
    assert 'warning: column "b" of the source is taken for what 2 * b gives in the table' in result.stderr
    assert 'column "a"' not in result.stderr


def test_a_detector_whose_own_table_is_empty_learns_from_a_source_what_is_normal(
    shop: Database, places: Places
) -> None:
    shop.query("delete from shop.orders")
    succeeds("train", "orders", "--source", places.fill("parquet"), "--promote", "--dsn", shop.dsn())
    shop.query("select relief.attach('orders')")
    shop.query("insert into shop.orders (id, a, b, c) values (1, 0, 0, 500000000), (2, 1e7, 0, 500000000)")
    assert shop.query("select relief_is_anomaly from shop.orders order by id") == [False, True]
    assert shop.value("select count(*) from relief.profile where rows = 300") == 1


def test_a_password_comes_from_the_environment(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = places.fill("mariadb")
    password = uri.split(":")[2].split("@")[0]
    monkeypatch.setenv("SHOP_PASSWORD", password)
    with open_source(uri.replace(password, "${SHOP_PASSWORD}")) as source:
        assert source.keys() == ["id"]


def test_a_folder_of_files_is_read_as_one(places: Places, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(3):
        Path(places.fill("parquet", ROWS[number * 100 :][:100], name=f"part{number}")).rename(
            folder / f"{number}.parquet"
        )
    with open_source(str(folder)) as source:
        assert source.count() == 300
        found = [row[0] for batch in source.batches({"id": object}, 1000) for row in batch]
    assert found == [row[0] for row in ROWS]
