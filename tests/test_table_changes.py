"""The table changes under its detector: rows go in all the same, and status and check say what mends it."""

from __future__ import annotations

import pytest
from helpers.changes import ANOMALY, CHECK, STATE, advice, attach, broken
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import COMPANIONS, FEATURES, make_orders
from psycopg import Connection

from relief_trainer.connection import connect
from relief_trainer.train import Settings
from relief_trainer.train import train as train_forest


@pytest.fixture
def attached(orders: Connection) -> Connection:
    return attach(orders)


@pytest.mark.parametrize(
    ("change", "problem", "insert"),
    [
        ("rename column b to c", "column b of table shop.orders is called c by now; ", "(a, c) values (-2, 1)"),
        (
            'rename column b to "Größe ""x"""',
            'column b of table shop.orders is called "Größe ""x""" by now; ',
            '(a, "Größe ""x""") values (-2, 1)',
        ),
        (
            "alter column a type bigint",
            "column a of table shop.orders is of type bigint, not integer as when the detector was made; ",
            "(a, b) values (-2, 1)",
        ),
        (
            "alter column a type text, alter column b type numeric(20, 3)",
            "column a of table shop.orders is of type text, not integer as when the detector was made; ",
            "(a, b) values ('-2', 1)",
        ),
    ],
)
def test_used_column_is_renamed_or_retyped(
    database: Database, attached: Connection, change: str, problem: str, insert: str
) -> None:
    query(attached, f"alter table shop.orders {change}")
    inserted = f"insert into shop.orders {insert} returning {COMPANIONS}"
    for connection in (attached, database.connect()):
        ((score, flag, reason, version),) = query(connection, inserted)
        assert (score, flag, version) == (None, None, None)
        assert "error" in reason
    found = broken(attached)
    assert found.startswith(problem)
    query(attached, advice(found.splitlines()[0]))
    assert value(attached, CHECK) == "ok"
    assert query(attached, STATE) == [("ready", None)]
    for connection in (attached, database.connect()):
        assert query(connection, inserted) == [ANOMALY]
    assert value(attached, "select shop.relief_score(o) from shop.orders as o order by id desc limit 1") == 0.5
    assert value(attached, "select count(*) from shop.orders, lateral shop.relief_explain(orders)") > 0
    assert value(attached, "select count(*) from relief.label") == 1
    query(attached, "call relief.backfill('orders')")
    query(attached, "select relief.refresh_profile('orders')")
    assert value(attached, "select count(*) from shop.orders where relief_model_version is null") == 0


@pytest.mark.parametrize(
    "change",
    [
        "alter column price type float8",
        "alter column price type integer",
        "alter column sold type integer using sold::integer",
        "alter column maker type varchar(9)",
        "alter column maker type shop.kind using maker::shop.kind",
        'rename column maker to "the Maker"',
    ],
)
def test_features_of_other_types_and_categories_follow_too(database: Database, change: str) -> None:
    database.query(
        "create schema shop; create type shop.kind as enum ('x', 'y', 'z');"
        "create table shop.item (id integer primary key, price numeric(10, 2), sold boolean, maker text);"
        "insert into shop.item select n, n, n % 3 = 0, (array['x', 'y', 'y'])[1 + n % 3] "
        "from generate_series(1, 300) as n"
    )
    database.query("select relief.create_detector('item', 'shop.item', '{price, sold, maker}')")
    with connect(database.dsn()) as connection:
        train_forest(connection, "item", Settings(trees=10), promote=True)
    database.query("select relief.attach('item')")
    scores = database.query("select shop.relief_score(o) from shop.item as o order by id")
    database.query(f"alter table shop.item {change}")
    found = database.value("select problems from relief.status")
    assert found.endswith(" select relief.regenerate('item');")
    database.query(advice(found))
    assert set(database.query("select result from relief.check()")) == {"ok"}
    assert database.query("select shop.relief_score(o) from shop.item as o order by id") == scores
    database.query("call relief.backfill('item')")
    assert database.query("select relief_anomaly_score from shop.item order by id") == scores


def test_view_on_scores_outlives_what_mends_a_renamed_column(attached: Connection) -> None:
    query(attached, "create view shop.scored as select id, shop.relief_score(o) as score from shop.orders as o")
    query(attached, "alter table shop.orders rename column b to c")
    query(attached, advice(broken(attached)))
    assert value(attached, "select count(score) from shop.scored") == 500


def test_renamed_entity_and_time_columns_are_followed(database: Database) -> None:
    connection = database.superuser
    query(connection, "create schema shop; create table shop.orders (id integer, who text, at timestamptz, a integer)")
    query(connection, "insert into shop.orders select n, 'x', now(), n from generate_series(1, 100) as n")
    query(
        connection,
        "select relief.create_detector('orders', 'shop.orders', '{a}', entity => '{who}', time_column => 'at', "
        "season => 'hour_of_day', time_zone => 'UTC')",
    )
    add_model(connection, "orders", stump(["a"]))
    query(connection, "select relief.promote('orders'); select relief.attach('orders')")
    query(connection, "alter table shop.orders rename who to whom; alter table shop.orders rename at to moment")
    inserted = (
        "insert into shop.orders (id, whom, moment, a) values (101, 'x', now(), -2) returning relief_anomaly_score"
    )
    assert value(connection, inserted) is None
    assert broken(connection).splitlines() == [
        "column at of table shop.orders is called moment by now; select relief.regenerate('orders');",
        "column who of table shop.orders is called whom by now; select relief.regenerate('orders');",
    ]
    query(connection, "select relief.regenerate('orders')")
    assert value(connection, CHECK) == "ok"
    assert value(connection, inserted) == 0.5
    assert query(connection, "select entity, time_column from relief.detector") == [(["whom"], "moment")]
    assert value(connection, "select relief.refresh_profile('orders', \"full\" => true)") > 0


def test_new_column_of_the_old_name_is_not_taken_for_the_renamed_one(attached: Connection) -> None:
    query(attached, "alter table shop.orders rename column b to c")
    query(attached, "alter table shop.orders add column b float8")
    assert broken(attached).startswith("column b of table shop.orders is called c by now; ")
    query(attached, "select relief.regenerate()")
    assert query(attached, f"insert into shop.orders (a, b, c) values (-2, -6, 1) returning {COMPANIONS}") == [ANOMALY]


def test_column_numbers_from_before_a_restore_are_not_believed(attached: Connection) -> None:
    # As after a restore: the table has another number, and columns that were dropped before leave no gaps.
    query(attached, "update relief.detector set attributes_of = 1, attributes = jsonb_build_object('a', 3, 'b', 2)")
    assert value(attached, CHECK) == "ok"
    query(attached, "alter table shop.orders rename column b to c")
    assert broken(attached).startswith("column b of table shop.orders is gone; ")
    query(attached, "alter table shop.orders rename column c to b")
    query(attached, "select relief.promote('orders')")
    query(attached, "alter table shop.orders rename column b to c")
    assert broken(attached).startswith("column b of table shop.orders is called c by now; ")


def test_dropped_column_takes_its_features_with_it(attached: Connection) -> None:
    query(attached, "alter table shop.orders drop column b cascade")
    inserted = f"insert into shop.orders (a) values (-2) returning {COMPANIONS}"
    assert query(attached, inserted)[0][0] is None
    found = broken(attached)
    assert found == (
        "column b of table shop.orders is gone; select relief.drop_detector('orders'); "
        "select relief.create_detector('orders', 'shop.orders', array['a'], contamination => 0.05, "
        f"time_zone => '{value(attached, 'show timezone')}'); select relief.attach('orders');"
    )
    with refused(
        "42703",
        'column "b" of table shop.orders, which detector "orders" reads, is gone',
        "select relief.create_detector(",
    ):
        query(attached, "select relief.regenerate('orders')")
    query(attached, advice(found))
    assert query(attached, STATE) == [("no model", None)]
    assert value(attached, CHECK) == "no model is promoted; relief train orders --promote"
    add_model(attached, "orders", stump(["a"]))
    query(attached, "select relief.promote('orders')")
    assert value(attached, CHECK) == "ok"
    assert query(attached, inserted)[0][0] == 0.5


def test_renamed_column_is_named_where_the_detector_is_to_be_made_again(attached: Connection) -> None:
    query(attached, "alter table shop.orders rename column b to c")
    query(attached, "select relief.regenerate('orders')")
    query(attached, "alter table shop.orders drop column a cascade")
    assert broken(attached).endswith(
        "array['ln(b) AS log_b'], contamination => 0.05, "
        f"time_zone => '{value(attached, 'show timezone')}'); select relief.attach('orders'); "
        "-- log_b reads c: write the column's name of now"
    )


def test_column_that_is_called_as_one_of_reliefs_by_now_is_told_and_stops_nothing(attached: Connection) -> None:
    query(attached, "select relief.detach('orders', drop_columns => true)")
    query(attached, "alter table shop.orders rename column b to relief_anomaly_score")
    query(attached, "select relief.regenerate('orders')")
    assert query(attached, STATE) == [("ready", None)]
    told_by_check = value(attached, CHECK)
    assert told_by_check.startswith("it reads column relief_anomaly_score, which Relief writes; select relief.drop")
    query(attached, advice(told_by_check))
    assert query(attached, "select name::text from relief.feature") == ["a"]
    assert value(attached, CHECK) == "no model is promoted; relief train orders --promote"


@pytest.mark.parametrize("name", ["c", 'Größe "x"'])
def test_feature_that_is_a_renamed_column_is_made_again_by_the_name_of_now(attached: Connection, name: str) -> None:
    query(attached, "alter table shop.orders rename column a to " + value(attached, "select quote_ident(%s)", name))
    query(attached, "select relief.regenerate('orders')")
    query(attached, "alter table shop.orders drop column b cascade")
    query(attached, advice(broken(attached)))
    quoted = value(attached, "select quote_ident(%s)", name)
    assert query(attached, "select name::text, expression from relief.feature") == [("a", quoted)]


@pytest.mark.parametrize(
    ("change", "state"),
    [("drop column b cascade", "42703"), ("rename column b to c", "42703"), ("alter column b type text", "42883")],
)
def test_whoever_scores_by_name_is_told_where_the_remedy_is(attached: Connection, change: str, state: str) -> None:
    query(attached, f"alter table shop.orders {change}")
    for function in ("score", "detect"):
        for row, message in (
            ('{"a": -2, "b": "x"}', "of table shop.orders"),
            ('{"a": -2}', """rows of table shop.orders can't be scored by detector "orders": """),
        ):
            with refused(state, message, "select * from relief.check();"):
                query(attached, f"select relief.{function}('orders', %s)", row)


def test_detector_whose_columns_are_all_gone_is_to_be_dropped(attached: Connection) -> None:
    query(attached, "alter table shop.orders drop column a cascade, drop column b cascade")
    assert broken(attached) == "column a of table shop.orders is gone; select relief.drop_detector('orders');"
    query(attached, "insert into shop.orders default values")


def test_new_column_changes_nothing(attached: Connection) -> None:
    query(attached, "alter table shop.orders add column extra integer not null default 5")
    assert value(attached, CHECK) == "ok"
    assert query(attached, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]


@pytest.mark.parametrize(
    "function",
    [
        "_relief_guarded_orders",
        "_relief_verdict_orders",
        "_relief_judgement_orders",
        "_relief_contributions_orders",
        "_relief_explanation_orders",
        "relief_explain",
    ],
)
def test_lost_function_is_made_again(attached: Connection, function: str) -> None:
    query(attached, f"drop function shop.{function} cascade")
    query(attached, "insert into shop.orders (a, b) values (-2, 1)")
    assert f"function shop.{function} is gone; " in broken(attached).replace(
        "relief_explain(shop.orders)", "shop.relief_explain"
    )
    query(attached, advice(broken(attached).splitlines()[0]))
    assert value(attached, CHECK) == "ok"
    assert query(attached, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]


def test_lost_expressions_can_only_be_given_again(attached: Connection) -> None:
    query(attached, "drop function shop._relief_features_orders")
    with refused(
        "42883", "which holds its expressions, is gone", "array['a', 'ln(b) AS log_b'], contamination => 0.05"
    ):
        query(attached, "select relief.regenerate('orders')")
    query(attached, advice(broken(attached)))
    assert query(attached, STATE) == [("no model", None)]
    add_model(attached, "orders", stump(FEATURES))
    query(attached, "select relief.promote('orders')")
    assert query(attached, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]


def test_type_that_the_expressions_do_not_take_is_refused_with_what_to_do(attached: Connection) -> None:
    query(attached, "alter table shop.orders alter column a type boolean using a > 0")
    query(attached, "insert into shop.orders (a, b) values (true, 1)")
    with refused(
        "42804", """the features of detector "orders" can't be computed from the types""", "Make the detector again: "
    ):
        query(attached, "select relief.regenerate('orders')")
    assert value(attached, "select count(*) from pg_proc where proname = '_relief_features_orders'") == 1


def test_what_a_subscription_applies_is_scored_after_mending_as_before(attached: Connection) -> None:
    query(attached, "select relief.detach('orders'); select relief.attach('orders', on_replica => true)")
    query(attached, "alter table shop.orders rename column b to c")
    query(attached, "select relief.regenerate('orders')")
    query(attached, "set session_replication_role = replica")
    assert query(attached, f"insert into shop.orders (a, c) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]


def test_regenerate_leaves_what_is_in_order_as_it_is(attached: Connection) -> None:
    before = query(attached, "select * from relief.detector")
    query(attached, "select relief.regenerate()")
    assert query(attached, "select * from relief.detector") == before
    assert value(attached, CHECK) == "ok"
    assert query(attached, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]


def test_detector_that_can_not_be_mended_keeps_no_other_from_it(attached: Connection) -> None:
    query(attached, "create table shop.item (a integer, b integer)")
    query(attached, "select relief.create_detector('item', 'shop.item', '{a, b}')")
    query(attached, "alter table shop.item drop column b; alter table shop.orders rename column b to c")
    told: list[tuple[str, str]] = []
    attached.add_notice_handler(lambda notice: told.append((notice.message_primary, notice.message_hint)))
    query(attached, "select relief.regenerate()")
    ((message, hint),) = told
    assert message == (
        'detector "item" stays as it is: column "b" of table shop.item, which detector "item" reads, is gone'
    )
    assert hint.startswith("Make the detector again without it: select relief.drop_detector('item');")
    assert value(attached, CHECK) == "ok"


def test_renamed_key_is_followed_in_events_and_labels(attached: Connection) -> None:
    query(attached, "alter table shop.orders rename column id to number")
    inserted = f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}"
    assert query(attached, inserted) == [ANOMALY]
    found = value(attached, CHECK)
    assert found == "the trigger was made for the table as it was; select relief.regenerate('orders');"
    query(attached, advice(found))
    assert value(attached, CHECK) == "ok"
    assert query(attached, inserted) == [ANOMALY]
    assert query(attached, "select key from relief.event") == [{"number": 502}]
    assert query(attached, "select key from relief.label") == [{"number": 7}]


def test_regenerate_serves_the_owner_and_nobody_else(database: Database) -> None:
    app, other = database.role("app"), database.role("other")
    for role in (app, other):
        database.query(f"select relief.grant_admin('{role}')")
    database.query(f"create schema shop authorization {app}")
    connection = database.connect(app)
    make_orders(connection, schema=False)
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders'); select relief.attach('orders')")
    query(
        connection, "alter table shop.orders rename column b to c; alter table shop.orders alter column a type bigint"
    )
    with refused("42704", 'detector "orders" does not exist', "select name from relief.detector"):
        query(database.connect(other), "select relief.regenerate('orders')")
    query(connection, "select relief.regenerate('orders')")
    assert value(connection, CHECK) == "ok"
    assert query(connection, f"insert into shop.orders (a, c) values (-2, 1) returning {COMPANIONS}") == [ANOMALY]
    database.query("select relief.regenerate()")
    owners = "select distinct proowner::regrole::text from pg_proc where pronamespace = 'shop'::regnamespace"
    assert database.query(owners) == [app]


def test_function_of_another_role_in_the_place_of_a_lost_one_is_not_taken(database: Database) -> None:
    app, other = database.role("app"), database.role("other")
    database.query(f"select relief.grant_admin('{app}')")
    database.query(f"create schema shop authorization {app}")
    connection = database.connect(app)
    make_orders(connection, schema=False)
    query(connection, f"grant all on schema shop to {other}; drop function shop._relief_verdict_orders")
    query(
        database.connect(other),
        "create function shop._relief_verdict_orders(float8[], text[]) returns float8[] language sql as 'select $1'",
    )
    with refused(
        "42501", f'belongs to "{other}", not to the owner of table shop.orders', "alter function shop._relief"
    ):
        query(connection, "select relief.regenerate('orders')")


def test_check_gives_one_piece_of_advice_for_one_change(attached: Connection) -> None:
    query(attached, "alter table shop.orders rename column a to amount")
    assert len(value(attached, CHECK).splitlines()) == 1
    query(attached, "alter table shop.orders drop column amount cascade")
    assert "relief.regenerate" not in value(attached, CHECK)
