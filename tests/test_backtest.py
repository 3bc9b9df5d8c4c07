"""Backtests: what a version would have said of the rows that are there, beside what the promoted one says."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from helpers.database import query, refused, value
from helpers.forests import add_model, constant, stump, train
from helpers.profiles import create, refresh
from helpers.shop import FEATURES, make_orders
from helpers.world import World
from psycopg import Connection
from sklearn.metrics import average_precision_score, roc_auc_score


def figures(connection: Connection, arguments: str = "", detector: str = "orders") -> dict[str, tuple[Any, Any]]:
    """Return each figure of a backtest: the candidate's and the promoted version's."""
    found = query(connection, f"select figure, candidate, promoted from relief.backtest('{detector}'{arguments})")
    return {name: (candidate, promoted) for name, candidate, promoted in found}


def meaning(connection: Connection, figure: str, arguments: str = "") -> str:
    found = f"select meaning from relief.backtest('orders'{arguments}) where figure = %s"
    return value(connection, found, figure)


@pytest.fixture
def stumps(database) -> Connection:
    """Return a connection to orders with a from -5 to 4, ten rows each; version 1 flags a <= 0, version 2 a <= -3."""
    connection = database.superuser
    make_orders(connection, rows=0, verdict="score")
    query(connection, "insert into shop.orders (a, b) select n % 10 - 5, 1 from generate_series(1, 100) as n")
    for split in (0.0, -3.0):
        add_model(connection, "orders", stump(FEATURES, split))
    query(connection, "select relief.promote('orders', 1)")
    return connection


def label(connection: Connection, anomalies: str, ordinary: str) -> None:
    """Label the rows for which the conditions hold."""
    for condition, flag in ((anomalies, True), (ordinary, False)):
        query(
            connection,
            "select relief.label('orders', jsonb_build_object('id', id), %s) from shop.orders where "
            + condition.replace("%", "%%"),
            flag,
        )


def test_a_backtest_counts_the_rows_that_change_verdict_both_ways(stumps: Connection) -> None:
    # The candidate flags 30 rows of the 60 that the promoted version flags.
    assert figures(stumps) == {
        "version": (2, 1),
        "rows": (100, 100),
        "failed": (0, 0),
        "agreement": (0.7, 0.7),
        "flagged_alone": (0, 30),
        "alert_rate": (0.3, 0.6),
        "above_threshold": (0.3, 0.6),
        "labelled_anomalies": (0, 0),
        "labelled_ordinary": (0, 0),
        "auroc": (None, None),
        "average_precision": (None, None),
        "precision_at_k": (None, None),
    }
    query(stumps, "select relief.promote('orders', 2)")
    assert figures(stumps, ", 1")["flagged_alone"] == (30, 0)
    assert figures(stumps, ", 2")["agreement"] == (1, 1)


def test_labels_tell_which_version_ranks_better(stumps: Connection) -> None:
    label(stumps, "a = -4", "a = -1 or a = 3 and id < 50")
    found = figures(stumps)
    assert (found["labelled_anomalies"], found["labelled_ordinary"]) == ((10, 10), (15, 15))
    assert found["auroc"] == (1, pytest.approx(1 - 10 / 15 / 2, abs=1e-6))
    assert found["average_precision"] == (1, 0.5)
    # As many as there are anomalies; the promoted version ties 10 of 20.
    assert found["precision_at_k"] == (1, 0.5)
    assert figures(stumps, ", k => 20")["precision_at_k"] == (pytest.approx(0.5 + 0 / 20), 0.5)
    assert "the 10 labelled rows" in meaning(stumps, "precision_at_k")
    assert "the 25 labelled rows" in meaning(stumps, "precision_at_k", ", k => 1000")


def test_labels_of_one_kind_tell_nothing(stumps: Connection) -> None:
    label(stumps, "a = -4", "false")
    found = figures(stumps)
    assert found["labelled_anomalies"] == (10, 10)
    assert {found[name] for name in ("auroc", "average_precision", "precision_at_k")} == {(None, None)}


def test_figures_of_trained_forests_are_those_of_their_scores(orders: Connection) -> None:
    for seed in (1, 2):
        train(orders, "orders", seed=seed, promote=seed == 1)
    label(orders, "id % 7 = 0", "id % 5 = 0 and id % 7 <> 0")
    rows = query(
        orders,
        "select l.is_anomaly, relief._score(m.forest_checksum, relief._fetch(m.forest_checksum), "
        "array[o.a, ln(o.b)], null) from shop.orders as o "
        "join relief.label as l on l.key = jsonb_build_object('id', id) "
        "cross join relief.model as m order by m.version, o.id",
    )
    half = len(rows) // 2
    found = figures(orders)
    for name, measure in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        expected = [measure(*zip(*part, strict=True)) for part in (rows[half:], rows[:half])]
        assert found[name] == tuple(pytest.approx(one, abs=1e-6) for one in expected)
        assert expected[0] != expected[1]


@pytest.mark.parametrize("verdict", ["score", "deviation", "either", "both"])
def test_the_promoted_half_flags_what_the_trigger_would(database, verdict: str) -> None:
    connection = database.superuser
    query(connection, "create table reading (id integer primary key, at timestamptz, sensor text, x float8)")
    query(
        connection,
        "insert into reading select n, timestamptz '2024-01-01Z' + n * interval '1 hour', n % 3, "
        "case when n % 33 = 1 then 40 else n % 7 end + 20 * (n % 3) from generate_series(1, 100) as n",
    )
    options = {"entity": ["sensor"], "season": "day_of_week", "time_column": "at", "time_zone": "UTC"}
    create(connection, "r", "reading", ["x"], verdict=verdict, deviation_threshold=2, min_history=5, **options)
    refresh(connection, "r")
    for seed in (1, 2):
        train(connection, "r", seed=seed)
    flagged = value(
        connection,
        "select count(*) from reading as o cross join relief.detect('r', to_jsonb(o)) as t where t.is_anomaly",
    )
    found = figures(connection, ", 1", "r")
    assert found["rows"] == (100, 100)
    assert found["alert_rate"][1] == pytest.approx(flagged / 100, abs=1e-6)
    assert flagged > 0


def test_rows_whose_features_fail_are_counted_and_stop_nothing(stumps: Connection) -> None:
    query(stumps, "insert into shop.orders (a, b) values (-5, -1), (1, -1), (null, null)")
    found = figures(stumps)
    assert (found["failed"], found["rows"]) == ((2, 2), (101, 101))
    assert found["flagged_alone"] == (0, 30)
    label(stumps, "a = -5", "b is null or a = 4")
    found = figures(stumps)
    # One failed, and a row without any feature has no score.
    assert (found["labelled_anomalies"], found["labelled_ordinary"]) == ((10, 10), (10, 10))
    query(stumps, "delete from shop.orders where b > 0")
    assert (figures(stumps)["rows"], figures(stumps)["failed"]) == ((1, 1), (2, 2))


def test_an_empty_table_has_no_figures(stumps: Connection) -> None:
    query(stumps, "truncate shop.orders")
    found = figures(stumps)
    assert (found["rows"], found["agreement"], found["alert_rate"]) == ((0, 0), (None, None), (None, None))


def test_a_large_table_is_sampled_the_same_way_each_time_and_the_answer_says_so(stumps: Connection) -> None:
    query(stumps, "insert into shop.orders (a, b) select n % 10 - 5, 1 from generate_series(1, 19900) as n")
    query(stumps, "analyze shop.orders")
    label(stumps, "id = 1", "id between 50 and 60")
    found = figures(stumps, ", max_rows => 2000")
    assert 1000 < found["rows"][0] <= 2000
    assert found["alert_rate"] == (pytest.approx(0.3, abs=0.05), pytest.approx(0.6, abs=0.05))
    assert meaning(stumps, "rows", ", max_rows => 2000") == "rows drawn from about 20000"
    assert found == figures(stumps, ", max_rows => 2000")
    # Labelled rows are few: all of them are looked at.
    assert (found["labelled_anomalies"], found["labelled_ordinary"]) == ((1, 1), (11, 11))
    assert meaning(stumps, "rows") == "rows"


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_since_leaves_out_older_rows_and_their_labels(database, kind: str) -> None:
    connection = database.superuser
    query(connection, f"create table reading (id integer primary key, at {kind}, a float8)")
    query(connection, "insert into reading select n, date '2024-01-01' + n, -1 from generate_series(1, 100) as n")
    create(connection, "orders", "reading", ["a"], time_column="at")
    add_model(connection, "orders", stump(["a"]))
    for row in (10, 90):
        query(connection, f"select relief.label('orders', '{{\"id\": {row}}}', true)")
    found = figures(connection, ", since => '2024-02-20'")
    assert (found["rows"][0], found["labelled_anomalies"][0]) == (51, 1)
    assert meaning(connection, "rows", ", since => '2024-02-20'").startswith("rows since 2024-02-20")


def test_before_a_promotion_the_candidate_stands_alone(orders: Connection) -> None:
    add_model(orders, "orders", stump(FEATURES))
    found = figures(orders)
    assert (found["version"], found["rows"]) == ((1, None), (500, None))
    assert found["agreement"] == found["flagged_alone"] == (None, None)
    assert 0 < found["alert_rate"][0] < 1


@pytest.mark.parametrize(
    "made_by",
    [
        "create table public.t (id integer primary key, a float8)",
        "create table public.t (a float8, id integer primary key) partition by range (id);"
        "create table public.t_1 partition of public.t for values from (0) to (30);"
        "create table public.t_2 partition of public.t default",
        "create table public.u (id integer, a float8); create view public.t as select * from public.u",
        'create table public.t (id integer primary key, a float8, "relief_draw" text, "%s" text)',
    ],
)
def test_tables_of_every_kind_are_backtested(database, made_by: str) -> None:
    connection = database.superuser
    query(connection, made_by)
    query(connection, "insert into public.t (id, a) select n, n - 20 from generate_series(1, 100) as n")
    create(connection, "orders", "public.t", ["a"], verdict="score")
    add_model(connection, "orders", stump(["a"]))
    query(connection, "select relief.promote('orders')")
    assert figures(connection)["alert_rate"] == (0.2, 0.2)
    assert figures(connection, ", max_rows => 10")["rows"][0] <= 10


def test_composite_and_strange_keys_find_their_rows(database) -> None:
    connection = database.superuser
    query(connection, """create table t ("it's" timestamptz, "%I" bytea, a float8, primary key ("%I", "it's"))""")
    query(
        connection,
        "insert into t select timestamptz '2024-01-01Z' + n * interval '1.5 s', decode('00ff', 'hex'), n - 10 "
        "from generate_series(1, 20) as n",
    )
    create(connection, "orders", "t", ["a"])
    add_model(connection, "orders", stump(["a"]))
    query(
        connection,
        """select relief.label('orders', jsonb_build_object('it''s', "it's", '%I', "%I"), a <= 0) from t """
        "where a in (-3, 3)",
    )
    assert figures(connection)["auroc"] == (1, None)


def test_without_a_primary_key_there_are_no_labels(stumps: Connection) -> None:
    label(stumps, "a = -4", "a = 4")
    query(stumps, "alter table shop.orders drop constraint orders_pkey")
    found = figures(stumps)
    assert (found["rows"], found["labelled_anomalies"]) == ((100, 100), (0, 0))


@pytest.mark.parametrize(
    ("arguments", "state", "message", "hint"),
    [
        (", 9", "42704", 'detector "orders" has no model of version 9', "The versions are: 1, 2."),
        (", max_rows => 0", "22003", "max_rows is 0, not at least 1", "such as 20000"),
        (", max_rows => null", "22003", "max_rows is <NULL>, not at least 1", "such as 20000"),
        (", k => 0", "22003", "k is 0, not at least 1", "NULL for as many as"),
        (", since => now()", "22023", 'detector "orders" has no time column to compare since with', "Leave since out."),
    ],
)
def test_what_a_backtest_cannot_do_is_refused(stumps: Connection, arguments, state, message, hint) -> None:
    with refused(state, message, hint):
        figures(stumps, arguments)


def test_detectors_that_are_not_there_or_not_whole_are_refused(stumps: Connection) -> None:
    with refused("42704", 'detector "order" does not exist', "List the detectors"):
        figures(stumps, detector="order")
    query(stumps, "select relief.create_detector('bare', 'shop.orders', '{a}', score_function => false)")
    with refused("42704", 'detector "bare" has no model', "Train one: relief train bare"):
        figures(stumps, detector="bare")
    query(stumps, "drop function shop._relief_guarded_orders")
    with refused("42883", 'of detector "orders" does not exist any more', "select relief.regenerate('orders');"):
        figures(stumps)
    query(stumps, "drop table shop.orders cascade")
    with refused("42P01", 'of detector "orders" does not exist any more', "relief.drop_detector('orders')"):
        figures(stumps)


def test_a_table_that_has_changed_is_told_with_what_mends_it(stumps: Connection) -> None:
    query(stumps, "alter table shop.orders rename b to quantity")
    with refused("42703", 'rows of table shop.orders can\'t be scored by detector "orders": column', "relief.check()"):
        figures(stumps)
    query(stumps, "select relief.regenerate('orders')")
    assert figures(stumps)["rows"] == (100, 100)


def test_a_superuser_runs_nobody_elses_expressions(world: World) -> None:
    for _ in range(2):
        add_model(world.app, "orders", stump(FEATURES))
    query(world.app, "select relief.promote('orders', 1)")
    for call in ("backtest('orders')", "_better('orders', 2)"):
        with refused("42501", "whose expressions would run with a superuser's rights", "Connect as a role that has"):
            query(world.database.superuser, f"select * from relief.{call}")
        with refused("42704", 'detector "orders" does not exist'):
            query(world.mallory, f"select * from relief.{call}")
    assert figures(world.app)["rows"] == (20, 20)


def better(connection: Connection, version: int, arguments: str = "") -> tuple[bool, str]:
    (found,) = query(connection, f"select * from relief._better('orders', %s::integer{arguments})", version)
    return found


def share(score: float, above: float, contamination: float | None = None) -> dict[str, Any]:
    """Return a stump that gives a share of the rows 1 to 1000 a score above its threshold."""
    document = stump(["a"], above * 1000, threshold=0.4)
    if contamination is not None:
        document["threshold"] = {"value": 0.4, "origin": "contamination", "contamination": contamination}
    return document


@pytest.fixture
def thousand(database) -> Connection:
    """Return a connection to a table of a thousand rows, and version 1, which flags a hundredth as it was asked to."""
    connection = database.superuser
    query(connection, "create table t (id integer primary key, a float8)")
    query(connection, "insert into t select n, n from generate_series(1, 1000) as n")
    create(connection, "orders", "t", ["a"], contamination=0.01, verdict="score")
    add_model(connection, "orders", share(0.5, 0.01, 0.01))
    return connection


def test_any_version_is_better_than_none_and_none_better_than_itself(thousand: Connection) -> None:
    assert better(thousand, 1) == (True, 'no version of detector "orders" is promoted')
    query(thousand, "select relief.promote('orders')")
    assert better(thousand, 1) == (False, "version 1 is the promoted one")


@pytest.mark.parametrize(
    ("above", "verdict", "reason"),
    [
        (0.012, True, "versions 2 and 1 agree on 99.8 % of 1000 rows"),
        # Three times as many, and what chance makes of ten rows on top.
        (0.03, True, "versions 2 and 1 agree on 98 % of 1000 rows"),
        (0.2, False, "version 2 puts 20 % of 1000 rows above its threshold, where 1 % were expected"),
    ],
)
def test_without_labels_a_version_must_flag_about_what_was_asked_for(thousand, above, verdict, reason) -> None:
    query(thousand, "select relief.promote('orders')")
    add_model(thousand, "orders", share(0.5, above, 0.01))
    assert better(thousand, 2) == (verdict, reason)


def test_a_version_that_flags_nothing_of_many_rows_is_no_better(thousand: Connection) -> None:
    query(thousand, "insert into t select n, n from generate_series(1001, 10000) as n")
    query(thousand, "update t set a = a / 10")
    query(thousand, "select relief.promote('orders')")
    add_model(thousand, "orders", constant(["a"], 0.1, 0.4))
    told = "version 2 puts 0 % of 10000 rows above its threshold, where 1 % were expected"
    assert better(thousand, 2) == (False, told)


def test_without_labels_a_version_must_agree_with_the_promoted_one(thousand: Connection) -> None:
    add_model(thousand, "orders", share(0.5, 0.3, 0.2))
    add_model(thousand, "orders", share(0.5, 0.1, 0.2))
    query(thousand, "select relief.promote('orders', 2)")
    verdict, reason = better(thousand, 3)
    assert verdict is False
    assert reason == (
        "versions 3 and 2 agree on 80 % of 1000 rows, less than 90 %, "
        "and too few rows are labelled to tell which is right"
    )


def test_a_promoted_version_that_is_out_of_tune_needs_no_agreement(thousand: Connection) -> None:
    """Rows have drifted away from version 1: it flags nearly all of them."""
    query(thousand, "select relief.promote('orders')")
    query(thousand, "update t set a = a / 100")
    add_model(thousand, "orders", share(0.5, 0.0001, 0.01))
    told = "version 1 puts 100 % of 1000 rows above its threshold, where 1 % were expected, and version 2 1 %"
    assert better(thousand, 2) == (True, told)


@pytest.mark.parametrize(("anomalies", "verdict"), [("a <= 12", True), ("a between 990 and 1000", False)])
def test_with_labels_average_precision_decides(thousand: Connection, anomalies: str, verdict: bool) -> None:
    query(thousand, "select relief.promote('orders')")
    # It flags the last rows, and scores all others low.
    tree = {"feature": [0, -1, -1], "value": [988.0, 3.0, 1.0], "missing_left": [1, 0, 0]}
    document = stump(["a"], trees=[tree])
    document["threshold"] = {"value": 0.4, "origin": "contamination", "contamination": 0.01}
    add_model(thousand, "orders", document)
    for condition, flag in ((anomalies, True), ("a between 500 and 520", False)):
        query(
            thousand,
            f"select relief.label('orders', jsonb_build_object('id', id), %s) from t where {condition}",
            flag,
        )
    found, reason = better(thousand, 2)
    assert found is (not verdict)
    assert reason.startswith("average precision on labelled rows is ")
    assert reason.endswith(" by version 1")


def test_few_labels_decide_nothing(thousand: Connection) -> None:
    query(thousand, "select relief.promote('orders')")
    add_model(thousand, "orders", share(0.5, 0.012, 0.01))
    query(thousand, "select relief.label('orders', jsonb_build_object('id', id), id < 10) from t where id < 300")
    assert better(thousand, 2)[1].startswith("versions 2 and 1 agree on ")


def test_without_rows_no_version_is_better(thousand: Connection) -> None:
    query(thousand, "select relief.promote('orders')")
    add_model(thousand, "orders", share(0.5, 0.01, 0.01))
    query(thousand, "truncate t")
    assert better(thousand, 2) == (False, 'detector "orders" has no rows to compare versions 2 and 1 on')


def test_a_fixed_threshold_is_held_against_the_promoted_version(thousand: Connection) -> None:
    query(thousand, "select relief.drop_detector('orders')")
    create(thousand, "orders", "t", ["a"], threshold=0.4, verdict="score")
    for above in (0.1, 0.12, 0.6):
        add_model(thousand, "orders", share(0.5, above))
    query(thousand, "select relief.promote('orders', 1)")
    assert better(thousand, 2)[0] is True
    told = "version 3 puts 60 % of 1000 rows above its threshold, where 10 % were expected"
    assert better(thousand, 3) == (False, told)


def test_versions_that_are_not_there_are_no_better(thousand: Connection) -> None:
    with refused("42704", 'detector "orders" has no model of version 7', "The versions are: 1."):
        better(thousand, 7)
    with pytest.raises(psycopg.errors.UndefinedObject):
        query(thousand, "select * from relief._better('nope', 1)")
