"""Training: what is drawn, what is stored, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from helpers.database import Database
from helpers.shop import make_orders

from relief_trainer import parity
from relief_trainer.connection import connect
from relief_trainer.errors import ReliefError
from relief_trainer.sample import Request, histogram
from relief_trainer.train import Settings, train


@pytest.fixture
def shop(database: Database) -> Database:
    make_orders(database.superuser, rows=3000)
    return database


def trained(database: Database, *, promote: bool = False, dsn: str | None = None, **settings: object):
    with connect(dsn or database.dsn()) as connection:
        return train(connection, "orders", Settings(**settings), promote=promote)  # type: ignore[arg-type]


def document(database: Database, version: int = 1) -> dict:
    return json.loads(database.value("select document from relief.model where version = %s", version))


def refusal(database: Database, **settings: object) -> ReliefError:
    with pytest.raises(ReliefError) as caught:
        trained(database, **settings)
    assert database.value("select count(*) from relief.model") == 0
    return caught.value


def test_versions_count_up_and_promotion_is_a_choice(shop: Database) -> None:
    assert trained(shop).version == 1
    assert shop.value("select promoted_version from relief.detector") is None
    assert trained(shop, promote=True).version == 2
    assert shop.value("select promoted_version from relief.detector") == 2
    assert shop.value("select count(shop.relief_score(o)) from shop.orders as o") == 3000


def test_contamination_bounds_the_share_of_training_rows_that_are_flagged(shop: Database) -> None:
    trained(shop, promote=True)
    shop.query("select relief.attach('orders')")
    shop.query("call relief.backfill('orders')")
    share = shop.value("select avg(relief_is_anomaly::integer)::float8 from shop.orders")
    assert 0.04 < share <= 0.05


def test_a_fixed_threshold_is_stored_as_fixed(shop: Database) -> None:
    shop.query("select relief.drop_detector('orders')")
    shop.query("select relief.create_detector('orders', 'shop.orders', array['a'], threshold => 0.61)")
    assert (trained(shop).threshold, trained(shop).threshold_origin) == (0.61, "fixed")
    assert shop.query("select threshold, threshold_origin from relief.model where version = 1") == [(0.61, "fixed")]


def test_the_same_seed_draws_the_same_rows_and_grows_the_same_trees(shop: Database) -> None:
    shop.query("insert into shop.orders (a, b) select n, n from generate_series(1, 20000) as n")
    shop.query("analyze shop.orders")
    for seed in (1, 1, 2):
        trained(shop, seed=seed, request=Request(rows=1000, seed=seed))
    first, again, other = (document(shop, version)["trees"] for version in (1, 2, 3))
    assert first == again
    assert first != other


def test_no_more_rows_are_drawn_than_asked_for_and_the_whole_table_is_not_read(shop: Database) -> None:
    shop.query("insert into shop.orders (a, b) select n, n from generate_series(1, 60000) as n")
    shop.query("analyze shop.orders")
    result = trained(shop, request=Request(rows=2000))
    assert 1500 <= result.rows <= 2000
    assert document(shop)["provenance"]["table_percent"] < 10


def test_a_condition_draws_only_rows_that_fulfil_it(shop: Database) -> None:
    trained(shop, request=Request(where="a > 0 -- just these"))
    assert document(shop)["profile"]["a"]["minimum"] > 0


def test_a_selective_condition_reads_more_of_the_table(shop: Database) -> None:
    shop.query("insert into shop.orders (a, b) select n % 100, 1 + n from generate_series(1, 60000) as n")
    shop.query("analyze shop.orders")
    result = trained(shop, request=Request(rows=500, where="a = 50"))
    assert result.rows >= 450


def test_since_compares_with_the_time_column(database: Database) -> None:
    database.query("create schema shop")
    database.query("create table shop.orders (a integer, at timestamptz)")
    database.query(
        "insert into shop.orders select n, timestamptz '2024-01-01 00:00Z' + n * interval '1 day' "
        "from generate_series(0, 99) as n"
    )
    database.query("select relief.create_detector('orders', 'shop.orders', array['a'], time_column => 'at')")
    trained(database, request=Request(since="2024-02-20"))
    assert document(database)["profile"]["a"]["minimum"] == 50


def test_since_that_is_no_time_is_told(database: Database) -> None:
    database.query("create schema shop")
    database.query("create table shop.orders as select n as a, now() as at from generate_series(1, 100) as n")
    database.query("select relief.create_detector('orders', 'shop.orders', array['a'], time_column => 'at')")
    error = refusal(database, request=Request(since="yesterdayy"))
    assert str(error) == '--since: invalid input syntax for type timestamp with time zone: "yesterdayy"'
    assert error.hint == "Give a time as PostgreSQL reads it: 2013-06-01, '2013-06-01 12:00+02', yesterday."


@pytest.mark.parametrize(
    ("where", "told"),
    [("c < 1", 'column "c" does not exist'), ("a + 1", "argument of WHERE must be type boolean, not type integer")],
)
def test_where_that_is_no_condition_is_told(shop: Database, where: str, told: str) -> None:
    error = refusal(shop, request=Request(where=where))
    assert str(error) == f"--where: {told}"
    assert error.hint == "Give a condition over columns of table shop.orders: id, a, b, note."


def test_since_without_a_time_column_is_refused(shop: Database) -> None:
    error = refusal(shop, request=Request(since="2024-01-01"))
    assert str(error) == 'detector "orders" has no time column to compare --since with'
    assert error.hint == "Use --where."
    shop.query('alter table shop.orders add column number integer, add column "It\'s" date')
    error = refusal(shop, request=Request(since="2024-01-01"))
    assert error.hint == "Use --where, or create the detector with time_column => 'It''s'."


def test_rows_whose_features_fail_are_left_out_and_counted(shop: Database) -> None:
    shop.query("insert into shop.orders (a, b) select 1, -1 from generate_series(1, 7)")
    result = trained(shop)
    assert (result.rows, result.failed) == (3000, 7)
    assert result.warnings == ["7 of the rows drawn have features that fail to compute and were left out"]


def test_the_profile_is_that_of_the_rows_drawn(shop: Database) -> None:
    shop.query("update shop.orders set a = null where id % 4 = 0")
    trained(shop)
    expected = shop.query("select count(a), avg(a)::float8, stddev_samp(a)::float8, min(a), max(a) from shop.orders")[0]
    stored = shop.query("select count[1], mean[1], stddev[1], minimum[1], maximum[1] from relief.profile")[0]
    assert stored == pytest.approx(expected, rel=1e-12)
    assert shop.value("select null_rate[1] from relief.profile") == 0.25


def test_the_profile_keeps_its_precision_far_from_zero(shop: Database) -> None:
    shop.query("update shop.orders set b = 1e9 + id % 2, a = id % 3")
    shop.query("select relief.drop_detector('orders')")
    shop.query("select relief.create_detector('orders', 'shop.orders', array['a', 'b'])")
    trained(shop)
    assert shop.value("select stddev[2] from relief.profile") == pytest.approx(np.std([0, 1] * 1500, ddof=1), rel=1e-9)


def test_infinities_and_huge_numbers_train_and_score_as_extremes(shop: Database) -> None:
    shop.query("insert into shop.orders (a, b) values (1, 'Infinity'), (1, 1e300), (1, 'NaN')")
    shop.query("select relief.drop_detector('orders')")
    shop.query("select relief.create_detector('orders', 'shop.orders', array['a', 'b'])")
    trained(shop, promote=True)
    infinite, huge, usual = shop.query(
        "select relief.score('orders', jsonb_build_object('a', 1, 'b', b)) "
        "from unnest(array['Infinity', '1e300', '5']) as b"
    )
    assert infinite == huge > usual
    assert shop.value("select maximum[2] from relief.profile") < 1e3


def test_provenance_tells_what_was_trained_on_what_by_whom_with_which_versions(shop: Database) -> None:
    trained(shop, trees=10, samples=64, max_features=0.5, seed=3, request=Request(rows=500, where="a > -100"))
    told = document(shop)["provenance"]
    assert told["table"] == "shop.orders"
    assert told["role"] == shop.value("select session_user")
    assert told["trained_at"].startswith("20")
    assert (told["trees"], told["samples"], told["max_features"], told["seed"]) == (10, 64, 0.5, 3)
    assert (told["rows_asked"], told["where"]) == (500, "a > -100")
    assert set(told["versions"]) == {"relief", "python", "scikit-learn", "numpy", "postgresql"}


def test_too_few_rows_are_refused(shop: Database) -> None:
    error = refusal(shop, request=Request(where="id <= 3"))
    assert str(error) == 'detector "orders" has 3 rows to train on in table shop.orders, fewer than 10'
    assert error.hint == "Wait for more rows, or widen --where and --since."


def test_rows_without_any_variation_are_refused(shop: Database) -> None:
    shop.query("update shop.orders set a = 1, b = 2")
    error = refusal(shop)
    assert str(error) == 'every feature of detector "orders" is constant or missing in the 3000 rows drawn'
    assert error.hint == "Choose features that vary, or widen --where and --since."


def test_one_constant_feature_is_told(shop: Database) -> None:
    shop.query("update shop.orders set a = 1")
    assert trained(shop).warnings == ['feature "a" is constant or missing in the rows drawn']


def test_a_category_whose_values_are_equally_frequent_is_told(shop: Database) -> None:
    shop.query("alter table shop.orders add kind text")
    shop.query("update shop.orders set kind = (array['x', 'y', 'z'])[1 + id % 3]")
    shop.query("select relief.drop_detector('orders')")
    shop.query("select relief.create_detector('orders', 'shop.orders', array['a', 'kind'])")
    told = 'the values of feature "kind" are equally frequent in the rows drawn: none is rarer than another'
    assert trained(shop).warnings == [told]
    shop.query("update shop.orders set kind = 'x'")
    assert trained(shop).warnings == ['feature "kind" is constant or missing in the rows drawn']


def test_only_such_categories_are_refused_by_name(shop: Database) -> None:
    shop.query("alter table shop.orders add kind text")
    shop.query("update shop.orders set kind = (array['x', 'y', 'z'])[1 + id % 3]")
    shop.query("select relief.drop_detector('orders')")
    shop.query("select relief.create_detector('orders', 'shop.orders', array['kind'])")
    assert "or a category whose values are equally frequent" in str(refusal(shop))


def test_the_number_of_rows_trained_on_is_never_above_that_of_the_table(shop: Database) -> None:
    shop.query("analyze shop.orders")
    shop.query("alter table shop.orders set (autovacuum_enabled = false)")
    shop.query("insert into shop.orders (a, b) select n % 7, 1 + n % 5 from generate_series(1, 2000) as n")
    every = trained(shop)
    assert (every.rows, every.table_rows, every.table_rows_counted) == (5000, 5000, True)
    assert document(shop)["provenance"]["table_rows_estimate"] == 5000
    for request in (Request(where="id > 0"), Request(rows=5000), Request(rows=4999), Request(rows=1000)):
        some = trained(shop, request=request)
        assert some.rows <= some.table_rows
        assert not some.table_rows_counted


def test_a_model_that_differs_from_scikit_learn_is_not_stored(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    # The thresholds as scikit-learn has them, without its rounding, are what parity must catch on float64 values.
    monkeypatch.setattr("relief_trainer.document.exact_thresholds", lambda thresholds: thresholds)
    error = refusal(shop)
    assert "differs from scikit-learn" in str(error)
    assert error.hint is not None


def test_scores_that_differ_are_not_stored(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "runtime_scores", lambda _, rows, *__: np.full(len(rows), 0.5))
    assert "scores differ from scikit-learn's" in str(refusal(shop))


def test_an_unknown_detector_is_refused(shop: Database) -> None:
    with (
        connect(shop.dsn()) as connection,
        pytest.raises(ReliefError, match='detector "nope" does not exist') as caught,
    ):
        train(connection, "nope", Settings())
    assert caught.value.hint == "List the detectors: relief list"


def test_a_superuser_is_refused_for_another_roles_table(shop: Database) -> None:
    owner = shop.role("owner")
    shop.query(f"alter table shop.orders owner to {owner}")
    error = refusal(shop)
    assert "is a superuser, and table shop.orders belongs to" in str(error)
    assert error.hint == f'Connect as a role that has the rights of "{owner}".'


def test_an_ordinary_owner_trains_with_admin_rights_and_is_told_without(database: Database) -> None:
    owner = database.role("owner")
    database.query(f"create schema shop authorization {owner}")
    with pytest.raises(ReliefError, match="permission denied for schema relief") as caught:
        trained(database, dsn=database.dsn(owner))
    assert caught.value.hint == f"Ask a superuser for the rights: select relief.grant_admin('{owner}');"
    database.query(f"select relief.grant_admin('{owner}')")
    connection = database.connect(owner)
    make_orders(connection, schema=False)
    assert trained(database, dsn=database.dsn(owner), promote=True).version == 1


def test_a_promotion_that_fails_leaves_the_model_stored(shop: Database) -> None:
    shop.query("alter function relief._replace_verdict(relief.detector, relief.model) rename to gone")
    with pytest.raises(ReliefError):
        trained(shop, promote=True)
    assert shop.value("select count(*) from relief.model") == 1


def test_an_unreachable_server_is_told_with_a_hint() -> None:
    with pytest.raises(ReliefError, match="cannot reach the server") as caught, connect("host=/nonexistent dbname=x"):
        pass
    assert "--dsn" in (caught.value.hint or "")


def test_a_database_without_relief_says_how_to_install_it(empty_database: Database) -> None:
    with pytest.raises(ReliefError, match="Relief is not installed in this database") as caught:
        trained(empty_database)
    assert caught.value.hint == "Install it: relief install --dsn …"


def test_memory_of_a_sample_is_bounded_by_the_rows_asked_for(shop: Database) -> None:
    shop.query("insert into shop.orders (a, b) select n, n from generate_series(1, 50000) as n")
    result = trained(shop, request=Request(rows=100))
    assert result.rows <= 100
    with psycopg.connect(shop.dsn()) as connection:
        assert connection.execute("select to_regclass('pg_temp.relief_sample')").fetchone() == (None,)


def test_histogram_between_the_largest_numbers_has_edges() -> None:
    largest = np.finfo(np.float64).max
    told = histogram(np.repeat([-largest, largest], 3))
    ordinary = histogram(np.repeat([-1.0, 1.0], 3))
    assert np.isfinite(told["edges"]).all()
    # Above the largest there is no edge.
    assert np.allclose(np.array(told["edges"]) / largest, ordinary["edges"][:-1])
