"""Shadow: a candidate scores what is inserted beside the promoted version, and nobody who inserts notices."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from helpers.database import query, refused, value
from helpers.forests import add_model, constant, stump, train
from helpers.profiles import create, refresh
from helpers.shop import COMPANIONS, FEATURES, make_orders
from helpers.world import World, told
from psycopg import Connection
from psycopg.rows import dict_row

ROWS = "insert into shop.orders (a, b) select n % 10 - 5, 1 from generate_series(1, {}) as n"


def make_shadowed(connection: Connection, on_error: str = "pass", sample: float = 1) -> None:
    """Make an attached detector whose version 1 flags a <= 0, and version 2, which flags a <= -3, its shadow."""
    make_orders(connection, rows=0, on_error=on_error, verdict="score")
    for split in (0.0, -3.0):
        add_model(connection, "orders", stump(FEATURES, split))
    query(connection, "select relief.promote('orders', 1)")
    query(connection, "select relief.attach('orders')")
    query(connection, "select relief.shadow('orders', 2, %s::float8)", sample)


@pytest.fixture
def shadowed(database) -> Connection:
    make_shadowed(database.superuser)
    return database.superuser


def scores(connection: Connection) -> list[dict[str, Any]]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute("select *, relation::text as relation from relief.shadow_score order by id").fetchall()


def keys(connection: Connection) -> list[int]:
    return [row["key"]["id"] for row in scores(connection)]


def report(connection: Connection, arguments: str = "") -> dict[str, tuple[Any, Any]]:
    found = query(connection, f"select figure, candidate, promoted from relief.shadow_report('orders'{arguments})")
    return {name: (candidate, promoted) for name, candidate, promoted in found}


def test_both_versions_judge_what_is_inserted_and_the_promoted_one_decides(shadowed: Connection) -> None:
    rows = query(shadowed, f"insert into shop.orders (a, b) values (-4, 1), (-1, 1), (3, 1) returning {COMPANIONS}")
    assert [(row[0], row[1], row[3]) for row in rows] == [(0.5, True, 1), (0.5, True, 1), (0.125, False, 1)]
    found = scores(shadowed)
    assert [(row["key"]["id"], row["score"], row["is_anomaly"]) for row in found] == [
        (1, 0.5, True),
        (2, 0.125, False),
        (3, 0.125, False),
    ]
    assert [(row["promoted_score"], row["promoted_is_anomaly"]) for row in found] == [row[:2] for row in rows]
    assert {(row["detector"], row["relation"], row["version"], row["promoted_version"]) for row in found} == {
        ("orders", "shop.orders", 2, 1)
    }


def test_a_shadow_judges_as_its_version_does_once_it_is_promoted(database) -> None:
    connection = database.superuser
    query(connection, "create table reading (id integer primary key, at timestamptz, sensor text, x float8, y float8)")
    insert = (
        "insert into reading select n, timestamptz '2024-01-01Z' + n * interval '1 hour', n %% 3, "
        "case when n %% 20 = 1 then 60 else n %% 7 end + 20 * (n %% 3), n %% 11 "
        "from generate_series(%s::integer, %s::integer) as n"
    )
    query(connection, insert, 1, 100)
    options = {"entity": ["sensor"], "season": "day_of_week", "time_column": "at", "time_zone": "UTC"}
    create(connection, "r", "reading", ["x", "y"], deviation_threshold=2, min_history=5, **options)
    for seed in (1, 2):
        train(connection, "r", seed=seed, promote=seed == 1)
    query(connection, "select relief.attach('r')")
    query(connection, "select relief.shadow('r', 2)")
    # The judgement follows the history of now.
    refresh(connection, "r")
    query(connection, insert, 101, 160)
    in_shadow = [(row["score"], row["is_anomaly"]) for row in scores(connection)]
    query(connection, "select relief.promote('r', 2)")
    afterwards = query(
        connection,
        "select t.score, t.is_anomaly from reading as o cross join relief.detect('r', to_jsonb(o)) as t "
        "where o.id > 100 order by o.id",
    )
    assert in_shadow == afterwards
    assert {flag for _, flag in in_shadow} == {True, False}


def test_only_rows_that_arrive_and_are_new_are_scored(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(3))
    query(shadowed, "update shop.orders set a = -5")
    query(shadowed, "insert into shop.orders (id, a, b) values (3, 1, 1), (4, 1, 1) on conflict do nothing")
    query(shadowed, "insert into shop.orders (id, a, b) values (3, 1, 1) on conflict (id) do update set a = 2")
    with shadowed.transaction(force_rollback=True):
        query(shadowed, "insert into shop.orders (id, a, b) values (9, 1, 1)")
        assert len(keys(shadowed)) == 5
    with shadowed.cursor().copy("copy shop.orders (id, a, b) from stdin") as copy:
        copy.write("5\t1\t1\n")
    assert keys(shadowed) == [1, 2, 3, 4, 5]


def test_rows_whose_features_fail_are_passed_over(shadowed: Connection) -> None:
    assert told(shadowed, "insert into shop.orders (a, b) values (1, -1), (1, 1), (null, null)") == []
    assert [(row["key"]["id"], row["score"]) for row in scores(shadowed)] == [(2, 0.125), (3, None)]


FAILURES = [
    "alter table relief.shadow_score add constraint never check (detector <> 'orders') not valid",
    "alter table relief.shadow_score rename to elsewhere",
    "drop function shop._relief_guarded_orders",
    "delete from relief.shadow; delete from relief.model where version = 2",
]


@pytest.mark.parametrize("on_error", ["pass", "raise"])
@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_in_shadow_never_keeps_a_row_out_and_is_told_once(database, on_error: str, failure: str) -> None:
    make_shadowed(database.superuser, on_error)
    query(database.superuser, failure)
    # A session that hasn't the model yet.
    connection = database.connect()
    messages = told(connection, ROWS.format(100))
    assert len(messages) == 1
    assert messages[0].startswith("rows were stored but not scored by version 2 in shadow: ")
    assert value(connection, "select count(*) from shop.orders where relief_anomaly_score is not null") == 100


def test_cancellation_is_not_swallowed(shadowed: Connection) -> None:
    query(shadowed, "create function shop.wait() returns trigger language plpgsql as 'begin perform pg_sleep(60); end'")
    query(shadowed, "create trigger w before insert on relief.shadow_score for each row execute function shop.wait()")
    query(shadowed, "set statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        query(shadowed, ROWS.format(1))
    query(shadowed, "reset statement_timeout")
    assert value(shadowed, "select count(*) from shop.orders") == 0


def test_a_share_of_the_rows_is_scored(database) -> None:
    make_shadowed(database.superuser, sample=0.2)
    query(database.superuser, ROWS.format(2000))
    assert 250 < len(keys(database.superuser)) < 550
    assert report(database.superuser)["alert_rate"][0] == pytest.approx(0.3, abs=0.1)


def test_a_large_statement_is_scored_in_part(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(20_000))
    assert 9_000 < len(keys(shadowed)) < 11_000
    assert report(shadowed)["alert_rate"] == (pytest.approx(0.3, abs=0.05), pytest.approx(0.6, abs=0.05))


def test_whoever_may_insert_is_scored_in_shadow_without_any_right_on_relief(world: World) -> None:
    for split in (0.0, -3.0):
        add_model(world.app, "orders", stump(FEATURES, split))
    for statement in ("promote('orders', 1)", "attach('orders')", "shadow('orders', 2)"):
        query(world.app, f"select relief.{statement}")
    assert told(world.user, "insert into shop.orders (a, b) values (-2, 1)") == []
    assert [(row["score"], row["created_by"]) for row in scores(world.app)] == [(0.125, world.app.info.user)]
    assert scores(world.mallory) == []
    for statement in ("select * from relief.shadow_score", "select relief.shadow('orders', 2)"):
        with refused("42501"):
            query(world.user, statement)
    for call in ("shadow('orders', 2)", "shadow('orders', null)", "shadow_report('orders')"):
        with refused("42704", 'detector "orders" does not exist'):
            query(world.mallory, f"select relief.{call}")
    query(world.app, "select relief.drop_detector('orders')")
    assert scores(world.database.superuser) == []


def test_an_owner_without_any_right_on_relief_has_shadows_written_in_its_name(world: World) -> None:
    database = world.database
    owner, member = database.role("owner"), database.role("member")
    database.query(f"grant {owner} to {member}")
    database.query("select relief.grant_admin(%s)", member)
    database.query(f"create schema till authorization {owner}")
    query(database.connect(owner), "create table till.sale (a integer)")
    connection = database.connect(member)
    query(connection, "select relief.create_detector('sale', 'till.sale', '{a}')")
    for _ in range(2):
        add_model(connection, "sale", stump(["a"]))
    for statement in ("promote('sale', 1)", "attach('sale')", "shadow('sale', 2)"):
        query(connection, f"select relief.{statement}")
    assert told(database.connect(owner), "insert into till.sale values (-2), (2)") == []
    assert [(row["key"], row["score"], row["created_by"]) for row in scores(connection)] == [
        (None, 0.5, owner),
        (None, 0.125, owner),
    ]


def test_the_report_tells_the_figures_of_a_backtest(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(100))
    for condition, flag in (("a = -4", True), ("a = -1 or a = 3", False)):
        query(
            shadowed,
            f"select relief.label('orders', jsonb_build_object('id', id), %s) from shop.orders where {condition}",
            flag,
        )
    backtest = query(shadowed, "select figure, candidate, promoted from relief.backtest('orders', 2)")
    reported = query(shadowed, "select figure, candidate, promoted from relief.shadow_report('orders')")
    # Nobody counts what fails in shadow.
    assert [row for row in backtest if row[0] != "failed"] == [row for row in reported if row[0] != "failed"]
    assert report(shadowed, ", k => 20")["precision_at_k"] == (0.5, 0.5)
    source = value(shadowed, "select meaning from relief.shadow_report('orders') where figure = 'rows'")
    assert source.startswith("rows inserted since 20")


def test_a_report_is_of_one_pair_of_versions_the_last(shadowed: Connection) -> None:
    add_model(shadowed, "orders", constant(FEATURES, 0.9, 0.4))
    query(shadowed, ROWS.format(10))
    query(shadowed, "select relief.shadow('orders', 3)")
    query(shadowed, ROWS.format(20))
    assert report(shadowed)["version"] == (3, 1)
    assert report(shadowed)["rows"] == (20, 20)
    assert report(shadowed, ", 2")["rows"] == (10, 10)
    query(shadowed, "select relief.promote('orders', 2)")
    query(shadowed, ROWS.format(7))
    assert (report(shadowed)["version"], report(shadowed)["rows"]) == ((3, 2), (7, 7))


def test_an_ended_shadow_scores_no_more_and_leaves_nothing_on_the_table(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(2))
    query(shadowed, "select relief.shadow('orders', null)")
    query(shadowed, ROWS.format(2))
    assert keys(shadowed) == [1, 2]
    assert report(shadowed)["version"] == (2, 1)
    assert value(shadowed, "select count(*) from pg_trigger where tgname = '~relief_shadow'") == 0
    assert query(shadowed, "select proname::text from pg_proc where proname like '%%shadow_orders'") == []
    assert query(shadowed, "select from relief.shadow") == []
    actions = "select action, version, details from relief.audit where action like '%%shadow' order by id"
    assert query(shadowed, actions) == [("shadow", 2, {"sample": 1}), ("end_shadow", 2, None)]


def test_promotion_of_the_version_in_shadow_ends_it_without_a_lock_on_the_table(shadowed: Connection, database) -> None:
    query(shadowed, ROWS.format(2))
    writer = database.connect(autocommit=False)
    query(writer, ROWS.format(1))
    query(shadowed, "set lock_timeout = '5s'")
    query(shadowed, "select relief.promote('orders', 2)")
    writer.commit()
    assert query(shadowed, "select from relief.shadow") == []
    assert told(shadowed, ROWS.format(2)) == []
    assert keys(shadowed) == [1, 2, 3]
    problem = 'no version is in shadow any more, but trigger "~relief_shadow" on table shop.orders is still there'
    mended = "select relief.shadow('orders', null);"
    result = value(shadowed, "select result from relief.check() where \"check\" = 'detector orders'")
    assert result == f"{problem}; {mended}"
    query(shadowed, mended)
    assert value(shadowed, "select result from relief.check() where \"check\" = 'detector orders'") == "ok"


def test_promotion_of_another_version_goes_on_in_shadow(shadowed: Connection) -> None:
    add_model(shadowed, "orders", constant(FEATURES, 0.9, 0.4))
    query(shadowed, "select relief.promote('orders', 3)")
    query(shadowed, ROWS.format(1))
    (row,) = scores(shadowed)
    assert (row["version"], row["promoted_version"], row["promoted_score"]) == (2, 3, pytest.approx(0.9))


def test_another_version_takes_the_shadow_without_a_lock_on_the_table(shadowed: Connection, database) -> None:
    add_model(shadowed, "orders", constant(FEATURES, 0.9, 0.4))
    writer = database.connect(autocommit=False)
    query(writer, ROWS.format(1))
    query(shadowed, "set lock_timeout = '5s'")
    query(shadowed, "select relief.shadow('orders', 3, 0.999999)")
    writer.commit()
    query(shadowed, ROWS.format(1))
    assert [row["version"] for row in scores(shadowed)] == [2, 3]


def test_a_detached_detector_has_no_shadow_until_it_is_attached_again(shadowed: Connection) -> None:
    query(shadowed, "select relief.detach('orders', true)")
    query(shadowed, ROWS.format(1))
    query(shadowed, "select relief.attach('orders')")
    query(shadowed, ROWS.format(1))
    assert keys(shadowed) == [2]
    assert value(shadowed, "select result from relief.check() where \"check\" = 'detector orders'") == "ok"


@pytest.mark.parametrize(
    "change",
    [
        "alter table shop.orders rename to sales",
        "alter table shop.orders rename b to quantity",
        "alter table shop.orders alter a type numeric",
        "create schema till; alter table shop.orders set schema till",
        'drop trigger "~relief_shadow" on shop.orders',
        "drop function shop._relief_shadow_orders() cascade",
    ],
)
def test_regenerate_follows_the_table_in_shadow_too(shadowed: Connection, change: str) -> None:
    query(shadowed, ROWS.format(1))
    query(shadowed, change)
    query(shadowed, "select relief.regenerate('orders')")
    assert value(shadowed, "select result from relief.check() where \"check\" = 'detector orders'") == "ok"
    table = value(shadowed, "select relation::text from relief.detector")
    assert told(shadowed, f"insert into {table} (a) values (-4)") == []
    assert [(row["key"]["id"], row["score"]) for row in scores(shadowed)][1:] == [(2, 0.5)]


def test_check_tells_of_a_lost_trigger(shadowed: Connection) -> None:
    query(shadowed, 'drop trigger "~relief_shadow" on shop.orders')
    result = value(shadowed, "select result from relief.check() where \"check\" = 'detector orders'")
    assert result == "trigger \"~relief_shadow\" on table shop.orders is missing; select relief.regenerate('orders');"


def test_a_dropped_detector_takes_its_shadow_along(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(1))
    query(shadowed, "select relief.drop_detector('orders', true)")
    assert scores(shadowed) == query(shadowed, "select from relief.shadow") == []
    assert query(shadowed, "select proname::text from pg_proc where pronamespace = 'shop'::regnamespace") == []
    query(shadowed, ROWS.format(1))


def test_a_detector_whose_table_is_gone_takes_its_shadow_along(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(1))
    query(shadowed, "drop table shop.orders cascade")
    query(shadowed, "select relief.drop_detector('orders')")
    assert query(shadowed, "select from relief.shadow_score") == query(shadowed, "select from relief.shadow") == []
    assert query(shadowed, "select proname::text from pg_proc where pronamespace = 'shop'::regnamespace") == []


@pytest.mark.extension
def test_inserts_go_on_where_the_extension_is_dropped(shadowed: Connection) -> None:
    query(shadowed, "drop extension relief")
    assert told(shadowed, ROWS.format(1)) == []
    assert value(shadowed, "select count(*) from pg_trigger where tgname like '~relief%%'") == 0


def test_a_version_in_shadow_is_neither_deleted_nor_retired_nor_vacuumed(shadowed: Connection) -> None:
    with refused("23503", 'violates foreign key constraint "model_is_kept"'):
        query(shadowed, "delete from relief.model where version = 2")
    with refused("55000", 'version 2 of detector "orders" is in shadow', "select relief.shadow('orders', null);"):
        query(shadowed, "select relief.retire('orders', 2)")
    for _ in range(3):
        add_model(shadowed, "orders", stump(FEATURES))
    query(shadowed, "select relief.set_retention('orders', versions => 1)")
    query(shadowed, "select relief.vacuum('orders')")
    assert query(shadowed, "select version from relief.model order by version") == [1, 2, 5]


def test_partitioned_and_generated_tables_are_scored_in_shadow(database) -> None:
    connection = database.superuser
    query(
        connection,
        """create table reading (id integer, half integer, a integer generated always as (half * 2) stored, gone text)
           partition by range (id);
           alter table reading drop column gone;
           create table low partition of reading for values from (0) to (500);
           create table high (id integer, x text, half integer, a integer generated always as (half * 2) stored);
           alter table high drop column x;
           alter table reading attach partition high for values from (500) to (5000);
           alter table reading add primary key (id)""",
    )
    create(connection, "orders", "reading", ["a"], verdict="score")
    for split in (0.0, -3.0):
        add_model(connection, "orders", stump(["a"], split))
    for statement in ("promote('orders', 1)", "attach('orders')", "shadow('orders', 2)"):
        query(connection, f"select relief.{statement}")
    assert told(connection, "insert into reading (id, half) values (1, -1), (700, -2), (2, 3)") == []
    found = [(row["relation"], row["key"]["id"], row["score"], row["promoted_score"]) for row in scores(connection)]
    assert sorted(found) == [
        ("reading", 1, 0.125, 0.5),
        ("reading", 2, 0.125, 0.125),
        ("reading", 700, 0.5, 0.5),
    ]


def test_columns_may_be_called_as_the_triggers_own_names_are(database) -> None:
    connection = database.superuser
    query(
        connection,
        "create table t (key integer primary key, share integer, numbers text, inserted text, i text, o text, r text, "
        'j text, shadow text, "it\'s 100% ""$body$""" integer)',
    )
    create(connection, 'it\'s "%s" $body$', "t", ["share", 'case when "it\'s 100% ""$body$""" > 0 then 1 end AS "%I"'])
    for split in (0.0, -3.0):
        add_model(connection, 'it\'s "%s" $body$', stump(["share", "%I"], split))
    for statement in ("promote(%s, 1)", "attach(%s)", "shadow(%s, 2)"):
        query(connection, f"select relief.{statement}", 'it\'s "%s" $body$')
    assert told(connection, "insert into t (key, share) values (5, -1)") == []
    assert [(row["key"], row["score"]) for row in scores(connection)] == [({"key": 5}, 0.125)]


def test_vacuum_keeps_the_newest_scores(shadowed: Connection) -> None:
    query(shadowed, ROWS.format(20))
    vacuum = "select relief._vacuum_shadow(d, %s::integer) from relief.detector as d"
    assert value(shadowed, vacuum, 20) == 0
    assert value(shadowed, vacuum, 5) == 15
    assert keys(shadowed) == list(range(16, 21))
    told = "select dropped, kept from relief.vacuum('orders') where what = 'shadow_scores'"
    assert query(shadowed, told) == [(0, 5)]


@pytest.mark.parametrize(
    ("arguments", "state", "message", "hint"),
    [
        ("'nope', 2", "42704", 'detector "nope" does not exist', "List the detectors"),
        ("'orders', 9", "42704", 'detector "orders" has no model of version 9', "The versions are: 1, 2."),
        ("'orders', 1", "55000", 'version 1 of detector "orders" is the promoted one', "relief train orders"),
        ("'orders', 2, 0", "22003", 'sample 0 of detector "orders" is not in (0, 1]', "such as 0.1"),
        ("'orders', 2, 1.5", "22003", 'sample 1.5 of detector "orders" is not in (0, 1]', "such as 0.1"),
        ("'orders', 2, 'NaN'", "22003", 'sample NaN of detector "orders" is not in (0, 1]', "such as 0.1"),
        ("'orders', 2, null", "22003", 'sample <NULL> of detector "orders" is not in (0, 1]', "such as 0.1"),
    ],
)
def test_what_cannot_be_in_shadow_is_refused(shadowed: Connection, arguments, state, message, hint) -> None:
    with refused(state, message, hint):
        query(shadowed, f"select relief.shadow({arguments})")


def test_a_shadow_needs_a_promoted_version_and_an_attached_detector(database) -> None:
    connection = database.superuser
    make_orders(connection)
    with refused(
        "55000", 'detector "orders" has no version in shadow', "Train another version first: relief train orders"
    ):
        query(connection, "select relief.shadow('orders', null)")
    for _ in range(2):
        add_model(connection, "orders", stump(FEATURES))
    with refused("55000", 'detector "orders" has no promoted model', "Train one"):
        query(connection, "select relief.shadow('orders', 2)")
    query(connection, "select relief.promote('orders', 1)")
    with refused("55000", 'detector "orders" is not attached', "select * from relief.backtest('orders', 2);"):
        query(connection, "select relief.shadow('orders', 2)")
    with refused("55000", 'no row of detector "orders" was scored in shadow', "select relief.shadow('orders', 2);"):
        query(connection, "select * from relief.shadow_report('orders')")
    query(connection, "select relief.attach('orders')")
    query(connection, "select relief.shadow('orders', 2)")
    with refused("55000", 'no row of detector "orders" was scored in shadow by version 2', "Wait until rows"):
        query(connection, "select * from relief.shadow_report('orders', 2)")
    with refused("55000", "was scored in shadow by version 1", "Train another version first: relief train orders"):
        query(connection, "select * from relief.shadow_report('orders', 1)")
    with refused("22003", "k is 0, not at least 1", "NULL for as many as"):
        query(connection, "select * from relief.shadow_report('orders', k => 0)")
