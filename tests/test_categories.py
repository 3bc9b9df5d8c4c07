"""Categories in the database: texts, enums and other names as features, from training to every way of scoring."""

from __future__ import annotations

import json
import math
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.reference import assert_same_scores, expected_scores
from psycopg import Connection

from relief_trainer import archive, document, flights, parity, rarity
from relief_trainer import detector as detectors
from relief_trainer.connection import connect
from relief_trainer.sample import Request, draw
from relief_trainer.train import Settings, Trained, train

MAKE = """
    create schema shop;
    create type shop.color as enum ('red', 'green', 'blue', 'white');
    create domain shop.code as varchar(3);
    create table shop.item (
      id integer generated always as identity primary key, price float8, color shop.color, code shop.code,
      fixed char(4), maker uuid, host inet, note text, body jsonb, sold boolean
    );
"""
COLUMNS = "price, color, code, fixed, maker, host, note, body, sold"
FEATURES = [
    "price",
    "color",
    "code",
    "fixed",
    "maker",
    "host",
    "left(note, 1) AS initial",
    "body ->> 'kind' AS kind",
    "sold",
    "sold::text AS sold_or_not",
]
FILL = """
    insert into shop.item (price, color, code, fixed, maker, host, note, body, sold)
    select random(), (array['red', 'green', 'red', null]::shop.color[])[1 + n %% 4], 'c' || n %% 3, 'f' || n %% 2,
           ('00000000-0000-0000-0000-00000000000' || n %% 5)::uuid, ('10.0.0.' || n %% 6)::inet, 'note ' || n,
           jsonb_build_object('kind', n %% 7), n %% 10 = 0
    from generate_series(1, %s) as n
"""


@pytest.fixture
def shop(database: Database) -> Database:
    database.query(MAKE)
    database.query("select setseed(0.5)")
    database.query(FILL, 1000)
    return database


def trained(database: Database, name: str = "item", **settings: Any) -> Trained:
    with connect(database.dsn()) as connection:
        return train(connection, name, Settings(trees=20, **settings), promote=True)


def create(database: Database, features: list[str] | None = None, **options: str) -> None:
    more = "".join(f", {name} => %s" for name in options)
    database.query(
        f"select relief.create_detector('item', 'shop.item', %s{more})", features or FEATURES, *options.values()
    )


def test_every_type_of_category_scores_the_same_in_every_way_of_asking(shop: Database) -> None:
    create(shop)
    assert shop.query("select kind from relief.feature order by position") == [
        "number", *["category"] * 7, "number", "category"
    ]  # fmt: skip
    trained(shop)
    shop.query("select relief.attach('item')")
    shop.query(FILL, 20)
    shop.query(f"insert into shop.item ({COLUMNS}) values (0.5, 'white', 'new', 'new', null, '::1', 'é', '{{}}', null)")
    shop.query("insert into shop.item (price) values (null)")
    expected = expected_scores(shop, "item")
    assert np.isnan(expected[-1])
    assert_same_scores(expected, shop.query("select shop.relief_score(o) from shop.item as o order by ctid"))
    by_name = "select relief.score('item', to_jsonb(o) - 'id') from shop.item as o order by ctid"
    assert_same_scores(expected, shop.query(by_name))
    inserted = shop.query("select relief_anomaly_score from shop.item where id > 1000 order by ctid")
    assert_same_scores(expected[1000:], inserted)
    shop.query("call relief.backfill('item')")
    by_id = shop.query("select relief_anomaly_score from shop.item order by id")
    assert_same_scores(expected, by_id)
    shop.query("update shop.item set color = 'white', code = 'c9', price = 9 where id = 1")
    changed = shop.value("select relief_anomaly_score from shop.item where id = 1")
    assert changed != by_id[0]
    assert changed == shop.value("select shop.relief_score(o) from shop.item as o where id = 1")


def test_an_unseen_category_is_rarer_than_any_seen_and_null_is_one_of_its_own(shop: Database) -> None:
    create(shop, ["price", "color"])
    trained(shop)
    encoder = json.loads(shop.value("select document from relief.model"))["encoders"]["color"]
    assert encoder["values"] == pytest.approx({"red": -math.log(501 / 1004), "green": -math.log(251 / 1004)})
    assert encoder["missing"] == pytest.approx(-math.log(251 / 1004))
    assert encoder["other"] == pytest.approx(-math.log(1 / 1004))
    assert encoder["other"] > max(encoder["values"].values())


def test_null_alone_is_nothing_to_score(shop: Database) -> None:
    create(shop, ["color", "code"])
    trained(shop)
    alone, beside = shop.query(
        "select relief.score('item', r::jsonb) from unnest(array['{}', '{\"code\": \"c1\"}']) as r"
    )
    assert alone is None
    assert beside is not None


def test_a_detector_of_categories_alone_judges_and_refreshes(shop: Database) -> None:
    create(shop, ["color", "code"], verdict="both")
    trained(shop)
    shop.query("select relief.attach('item')")
    inserted = "insert into shop.item (color) values ('white') returning relief_is_anomaly, relief_deviation"
    assert shop.query(inserted) == [(False, {"color": None, "code": None})]
    shop.query("select relief.refresh_profile('item')")
    assert shop.query(inserted) == [(False, {"color": None, "code": None})]


def test_histories_of_entities_are_complete_without_the_categories(shop: Database) -> None:
    create(shop, ["price", "color"], entity="{code}", min_history="30")
    trained(shop)
    shop.query("select relief.refresh_profile('item')")
    assert shop.query("select distinct complete from relief.profile") == [True]
    deviation = shop.value(
        'select deviation from relief.detect(\'item\', \'{"price": 9, "color": "red", "code": "c1"}\')'
    )
    assert deviation["color"] is None
    assert deviation["price"]["level"] == "entity"


def test_an_explanation_names_the_category(shop: Database) -> None:
    create(shop, ["price", "color", "left(note, 100) AS note"])
    trained(shop)
    told = dict(
        shop.query(
            "select feature, sentence from relief.explain('item', %s)", json.dumps({"price": 0.5, "note": "x" * 90})
        )
    )
    assert told["color"].startswith("color is missing; contributes ")
    assert told["note"].startswith(f"note {'x' * 57}...; contributes ")
    parts = shop.query("select baseline, contribution from relief.explain('item', '{\"color\": \"white\"}')")
    score = shop.value("select relief.score('item', '{\"color\": \"white\"}')")
    divisor = json.loads(shop.value("select document from relief.model"))["average_path_length"]
    length = parts[0][0] + sum(part[1] for part in parts)
    assert score == pytest.approx(2 ** -(length / divisor))


def test_an_event_tells_of_a_category(shop: Database) -> None:
    create(shop, ["color"], verdict="score")
    trained(shop, contamination=0.01)
    shop.query("select relief.attach('item')")
    shop.query("insert into shop.item (color) values ('white')")
    assert shop.query("select sentence from relief.event") == ["color white; contributes 100 % of the anomaly score"]


def test_a_category_that_fails_is_told_and_left_out_of_training(shop: Database) -> None:
    shop.query("update shop.item set price = 0 where id <= 10")
    create(shop, ["price", "to_hex((1 / price)::integer) AS hex"])
    result = trained(shop)
    assert result.failed == 10
    assert result.rows == 990
    shop.query("select relief.attach('item')")
    told = shop.query("insert into shop.item (price) values (0) returning relief_anomaly_score, relief_deviation")
    assert told == [(None, {"error": "division by zero"})]
    detected = shop.query("select score, deviation from relief.detect('item', '{\"price\": 0}')")
    assert detected == [(None, {"error": "division by zero"})]


def test_a_hundred_thousand_categories_stay_bounded_and_are_told(database: Database) -> None:
    database.query(
        "create table public.wide as "
        "select 'customer number ' || n as customer, n % 10 as x from generate_series(1, 100000) as n"
    )
    database.query("select relief.create_detector('wide', 'public.wide', '{customer, x}')")
    result = trained(database, "wide", request=Request(rows=100_000))
    assert result.warnings == [
        'feature "customer" has 100,000 different values: the 1,000 most frequent are told apart, '
        "all others, 99% of the rows, count as one"
    ]
    length = database.value("select length(document) from relief.model")
    assert length < 400_000
    assert_same_scores(
        expected_scores(database, "wide")[:500],
        database.query("select public.relief_score(o) from public.wide as o order by ctid limit 500"),
    )


def test_a_model_moves_with_its_encoders(shop: Database, tmp_path: Any) -> None:
    create(shop, ["price", "color"])
    trained(shop)
    with connect(shop.dsn()) as connection:
        stored = archive.fetch(connection, "item")
        again = archive.from_json(archive.to_json(stored))
        assert archive.store(connection, "item", again.document) == 2
        connection.commit()
    one, other = shop.query("select checksum from relief.model order by version")
    assert one == other
    archive.to_joblib(stored, str(tmp_path / "item.joblib"))
    forest = joblib.load(tmp_path / "item.joblib")
    assert forest.relief_encoders_ == json.loads(stored.document)["encoders"]
    row = pd.DataFrame({"price": [0.5], "color": [forest.relief_encoders_["color"]["values"]["red"]]}, dtype=np.float32)
    expected = shop.value('select relief.score(\'item\', \'{"price": 0.5, "color": "red"}\')')
    assert -forest.score_samples(row).item() == pytest.approx(expected, abs=1e-12)


def test_a_model_of_another_kind_of_feature_is_refused(shop: Database) -> None:
    create(shop, ["price", "color"])
    with refused(
        "55000", 'version 1 takes "color" for a number, but for detector "item" it is a category', "relief train"
    ):
        add_model(shop.superuser, "item", stump(["price", "color"]))
    hostile = {
        **stump(["price", "color"]),
        "features": [{"name": "price", "kind": "number"}, {"name": "color", "kind": "category"}],
    }
    with refused("22023", '"encoders" of the model document are not one for each category', "Store models with"):
        add_model(shop.superuser, "item", hostile)


def test_a_difference_of_encoders_is_found_before_a_model_is_stored(
    shop: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(shop, ["price", "color"])
    serialize = document.serialize

    def altered(content: dict[str, Any]) -> str:
        encoders = {"color": {**content["encoders"]["color"], "missing": 0.0, "values": {}}}
        return serialize({**content, "encoders": encoders})

    monkeypatch.setattr(parity, "serialize", altered)
    with pytest.raises(Exception, match="differ from scikit-learn's"):
        trained(shop)
    assert shop.value("select count(*) from relief.model") == 0


def test_categories_are_functions_of_the_owner_that_go_with_the_detector(shop: Database) -> None:
    create(shop, ["price", "color"])
    made = (
        "select pg_get_function_identity_arguments(oid), provolatile, proparallel "
        "from pg_proc where proname = '_relief_categories_item'"
    )
    assert shop.query(made) == [("price double precision, color shop.color", "s", "s")]
    shop.query("select relief.drop_detector('item')")
    assert shop.query(made) == []


def _flights(database: Database) -> Connection:
    connection = database.superuser
    with connect(database.dsn()) as loading:
        flights.load(loading)
    query(connection, "analyze flights")
    return connection


def test_flights_are_suggested_with_carrier_origin_and_destination_and_score_as_trained(database: Database) -> None:
    connection = _flights(database)
    query(connection, "set timezone = 'America/New_York'")
    suggested = dict(
        query(connection, "select feature, kind from relief.suggest_features('flights') where feature is not null")
    )
    assert {name for name, kind in suggested.items() if kind == "category"} == {"carrier", "origin", "dest"}
    hour = "extract(hour from time_hour at time zone 'America/New_York') AS time_hour_hour"
    assert suggested[hour] == "number"
    assert "tailnum" not in suggested
    query(connection, "select relief.create_detector('flights', 'flights', time_column => 'time_hour')")
    with connect(database.dsn()) as training:
        train(training, "flights", Settings(request=Request(rows=20_000)), promote=True)
        detector = detectors.fetch(training, "flights")
        drawn = draw(training, detector, Request(rows=1000, seed=9))
        stored = json.loads(archive.fetch(training, "flights").document)
        texts = [list(row) for row in drawn.categories]
        encoded = rarity.encoded(stored["encoders"], detector.features, drawn.rows, texts)
        expected = parity.scikit_scores(archive.to_estimator(stored), encoded)
    verdict = "select (_relief_verdict_flights(%s::float8[], %s::text[]))[1]"
    kinds = [feature.kind for feature in detector.features]
    numbers = [
        [None if math.isnan(number) or kind == "category" else number for number, kind in zip(row, kinds, strict=True)]
        for row in drawn.rows[:200].tolist()
    ]
    found = [value(connection, verdict, row, row_texts) for row, row_texts in zip(numbers, texts[:200], strict=True)]
    assert_same_scores(expected[:200], found)


def test_a_generated_column_is_a_category_in_the_row_that_it_is_generated_in(shop: Database) -> None:
    initial = "case when color = 'red' then 'R' when color = 'green' then 'G' end"
    shop.query(f"alter table shop.item add column initial text generated always as ({initial}) stored")
    create(shop, ["price", "initial"])
    trained(shop)
    shop.query("select relief.attach('item')")
    inserted = shop.value("insert into shop.item (price, color) values (0.5, 'red') returning relief_anomaly_score")
    assert inserted == shop.value("select shop.relief_score(o) from shop.item as o where id > 1000")
    red, green = shop.query(
        "select relief.score('item', jsonb_build_object('price', 0.5, 'color', c)) "
        "from unnest(array['red', 'green']) as c"
    )
    assert inserted == red != green


def test_a_renamed_and_retyped_category_is_followed(shop: Database) -> None:
    create(shop, ["price", "color"])
    trained(shop)
    shop.query("select relief.attach('item')")
    shop.query("drop function shop.relief_score(shop.item), shop.relief_explain(shop.item)")
    expected = shop.value("insert into shop.item (price, color) values (0.5, 'red') returning relief_anomaly_score")
    shop.query("alter table shop.item rename color to shade")
    shop.query("alter table shop.item alter shade type text")
    shop.query("select relief.regenerate('item')")
    assert shop.query("select result from relief.check() where \"check\" = 'detector item'") == ["ok"]
    assert expected == shop.value(
        "insert into shop.item (price, shade) values (0.5, 'red') returning relief_anomaly_score"
    )
    shop.query("drop function shop._relief_categories_item")
    (found,) = shop.query("select result from relief.check() where \"check\" = 'detector item'")
    assert found.startswith("function shop._relief_categories_item is gone; ")
