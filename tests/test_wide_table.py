"""A table of 200 columns, all of them features: more than a function takes arguments."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.reference import assert_same_scores, expected_scores

from relief_trainer.connection import connect
from relief_trainer.train import Settings, train

NUMBERS = [f"n{n}" for n in range(150)]
TEXTS = [f"t{n}" for n in range(50)]
CHECK = "select result from relief.check() where \"check\" = 'detector wide'"
CALLED = "select proname::text from pg_proc where proname like '\\_relief\\_%%wide' order by 1"


@pytest.fixture
def wide(database: Database) -> Database:
    # Numbers and texts in turns, so that each part of the features has both.
    columns = [f"n{n} float8, n{n + 50} float8, n{n + 100} float8, t{n} text" for n in range(50)]
    database.query(f"create table public.wide ({', '.join(columns)})")
    database.query("select setseed(0.5)")
    _fill(database, 200)
    return database


def _fill(database: Database, rows: int) -> None:
    values = ["random(), random(), random(), 'x' || (random() * 3)::integer" for _ in range(50)]
    database.query(f"insert into public.wide select {', '.join(values)} from generate_series(1, {rows})")


def test_two_hundred_columns_are_suggested_trained_on_and_scored(wide: Database) -> None:
    wide.query("select relief.create_detector('wide', 'public.wide')")
    assert wide.query("select kind, count(*) from relief.feature group by kind order by kind") == [
        ("category", 50), ("number", 150)
    ]  # fmt: skip
    kinds = "categories2 categories contributions explanation features2 features guarded2 guarded judgement verdict"
    assert wide.query(CALLED) == [f"_relief_{kind}_wide" for kind in kinds.split()]
    with connect(wide.dsn()) as training:
        train(training, "wide", Settings(trees=20), promote=True)
    wide.query("select relief.attach('wide')")
    _fill(wide, 10)
    expected = expected_scores(wide, "wide")
    assert not np.isnan(expected).any()
    assert_same_scores(expected, wide.query("select public.relief_score(o) from public.wide as o order by ctid"))
    inserted = wide.query("select relief_anomaly_score from public.wide order by ctid offset 200")
    assert_same_scores(expected[200:], inserted)
    by_name = "select relief.score('wide', to_jsonb(o)) from public.wide as o order by ctid limit 5"
    assert_same_scores(expected[:5], wide.query(by_name))
    assert len(wide.query("select * from relief.explain('wide', '{\"n149\": 5}')")) == 200
    assert wide.value(CHECK) == "ok"


def test_a_wide_detector_goes_and_is_made_again_as_any_other(wide: Database) -> None:
    wide.query("select relief.create_detector('wide', 'public.wide')")
    made = wide.query(CALLED)
    wide.query("alter table public.wide rename n149 to last")
    wide.query("alter table public.wide alter t49 type varchar")
    wide.query("drop function public._relief_guarded2_wide")
    wide.query("select relief.regenerate('wide')")
    assert wide.query(CALLED) == made
    with connect(wide.dsn()) as training:
        train(training, "wide", Settings(trees=5), promote=True)
    assert wide.value(CHECK) == "ok"
    wide.query("select relief.drop_detector('wide')")
    assert wide.query(CALLED) == []


def test_a_feature_that_fails_in_any_part_leaves_the_row_out(wide: Database) -> None:
    features = [*NUMBERS, "1 / n0 AS first", "1 / n149 AS last"]
    wide.query("select relief.create_detector('wide', 'public.wide', %s)", features)
    wide.query("update public.wide set n0 = 0 where ctid = '(0,1)'")
    wide.query("insert into public.wide (n0, n149) values (1, 0), (1, 1)")
    with connect(wide.dsn()) as training:
        trained = train(training, "wide", Settings(trees=5))
    assert (trained.rows, trained.failed) == (200, 2)


def test_hundred_columns_take_one_function_and_more_features_than_arguments_work(wide: Database) -> None:
    connection = wide.superuser
    names = NUMBERS[:100] + [f"{name} + 1 AS plus_{name}" for name in NUMBERS[:100]]
    query(connection, "select relief.create_detector('wide', 'public.wide', %s)", names)
    assert value(connection, "select max(part) from relief.feature") == 1
    add_model(connection, "wide", stump(query(connection, "select name from relief.feature order by position")))
    query(connection, "select relief.promote('wide')")
    query(connection, "select relief.attach('wide')")
    score, deviation = query(
        connection, "insert into public.wide (n0, n99) values (-4, 6) returning relief_anomaly_score, relief_deviation"
    )[0]
    assert score == 0.5
    assert len(deviation) == 200
    assert [deviation[name]["z"] for name in ("n0", "n99", "plus_n99")] == [-2.0, 3.0, 3.5]


def test_a_detector_of_a_wide_table_can_not_take_the_name_of_somebodys_function(wide: Database) -> None:
    wide.query("create function public._relief_features2_wide(n float8) returns float8[] language sql return array[n]")
    wide.query("select relief.create_detector('wide', 'public.wide')")
    assert wide.value("select count(*) from pg_proc where proname = '_relief_features2_wide'") == 2
    with refused("42710", 'detector "wide" already exists'):
        wide.query("select relief.create_detector('wide', 'public.wide', score_function => false)")
    wide.query("select relief.drop_detector('wide')")
    assert wide.query(CALLED) == ["_relief_features2_wide"]
