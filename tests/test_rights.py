"""Rights: who may do what, and see what."""

from __future__ import annotations

from helpers.database import query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import COMPANIONS, FEATURES
from helpers.world import World, told


def test_admin_without_superuser_does_the_whole_life_cycle(world: World) -> None:
    app = world.app
    for statement in (
        "select relief.drop_detector('orders')",
        "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}', 0.02)",
    ):
        query(app, statement)
    add_model(app, "orders", stump(FEATURES))
    query(app, "select relief.promote('orders')")
    query(app, "select relief.attach('orders')")
    assert value(app, "insert into shop.orders (a, b) values (-2, 1) returning relief_anomaly_score") == 0.5
    query(app, "call relief.backfill('orders')")
    assert value(app, "select count(*) from shop.orders where relief_model_version is null") == 0
    add_model(app, "orders", stump(FEATURES))
    assert value(app, "select relief.promote('orders')") == 2
    assert value(app, "select relief.refresh_profile('orders')") == 1
    query(app, """select relief.label('orders', '{"id": 1}', true)""")
    assert value(app, "select relief.refresh_profile('orders')") == 1
    query(app, "select relief.set_tolerance('orders', 'a', 'up')")
    assert value(app, "select count(*) from relief.event") == 1
    assert value(app, "select state from relief.status") in ("ready", "warming up")
    query(app, "select * from relief.drift('orders')")
    assert len(query(app, "select (shop.relief_explain(o)).feature from shop.orders as o where id = 1")) == 2
    assert {result for _, result in query(app, "select * from relief.check()")} == {"ok"}
    assert value(app, """select relief.score('orders', '{"a": -1}')""") == 0.5
    query(app, "select relief.detach('orders', true)")
    query(app, "select relief.drop_detector('orders')")


def test_user_with_insert_on_the_table_alone_is_scored(attached_world: World) -> None:
    inserted = "insert into shop.orders (a, b) values (-2, 1), (2, -6) returning id, " + COMPANIONS
    rows = query(attached_world.user, inserted)
    assert [row[1:3] for row in rows] == [(0.5, True), (None, None)]
    assert (
        value(attached_world.user, "select shop.relief_score(o) from shop.orders as o where id = %s", rows[0][0]) == 0.5
    )


def test_user_of_a_table_has_no_right_on_relief(attached_world: World) -> None:
    for statement in (
        "select relief.score('orders', '{}')",
        "select relief.promote('orders')",
        "select * from relief.detector",
        "select relief._document('x')",
        "select relief._levels(1, '', '-1')",
        "select * from relief.explain('orders', '{}')",
        "select * from relief.profile",
        "select * from relief.event",
        "select * from relief.status",
        "select * from relief.check()",
    ):
        with refused("42501", "permission denied for schema relief"):
            query(attached_world.user, statement)


def test_role_with_usage_scores_by_name_and_no_more(attached_world: World) -> None:
    assert value(attached_world.scorer, """select relief.score('orders', '{"a": -1, "b": 1}')""") == 0.5
    assert (
        value(attached_world.scorer, """select is_anomaly from relief.detect('orders', '{"a": -1, "b": 1}')""") is True
    )
    explained = query(
        attached_world.scorer, """select feature, value from relief.explain('orders', '{"a": -1, "b": 1}')"""
    )
    assert sorted(explained) == [("a", -1.0), ("log_b", 0.0)]
    with refused("42703", 'column "zz" of table shop.orders does not exist'):
        query(attached_world.scorer, """select relief.score('orders', '{"zz": 1}')""")
    with refused("42704", 'detector "order" does not exist'):
        query(attached_world.scorer, "select relief.score('order', '{}')")
    for statement in (
        "select relief.promote('orders')",
        "select relief.attach('orders')",
        "select relief.create_detector('x', 'shop.orders', '{a}')",
        "select relief.add_model('orders', '', '')",
        "call relief.backfill('orders')",
        "select relief.drop_detector('orders')",
        "select relief.refresh_profile('orders')",
        """select relief.label('orders', '{"id": 1}', true)""",
        "select relief.set_tolerance('orders', 'a')",
        "select * from relief.drift('orders')",
        "select * from relief.profile",
        "select * from relief.bucket",
        "select * from relief.event",
        "select * from relief.status",
        "select * from relief.detector",
        "select * from relief.model",
        "insert into relief.model (detector_id, version) values (1, 1)",
        "select * from relief.check()",
        "select relief.grant_admin(current_user::regrole)",
        "select * from shop.orders",
    ):
        with refused("42501"):
            query(attached_world.scorer, statement)


def test_admin_of_other_tables_can_do_nothing_to_a_detector(attached_world: World) -> None:
    mallory = attached_world.mallory
    for statement in (
        "select relief.promote('orders')",
        "select relief.attach('orders')",
        "select relief.detach('orders')",
        "select relief.drop_detector('orders')",
        "select relief.add_model('orders', '{}', 'x')",
        "call relief.backfill('orders')",
        "select relief.refresh_profile('orders')",
        """select relief.label('orders', '{"id": 1}', true)""",
        "select relief.set_tolerance('orders', 'a')",
        "select * from relief.drift('orders')",
        "select relief.schedule_refresh('orders')",
    ):
        with refused("42704", 'detector "orders" does not exist', "detectors of tables that you own"):
            query(mallory, statement)
    with refused("42501", "must be owner of table shop.orders", "Connect as a role that has the rights of"):
        query(mallory, "select relief.create_detector('evil', 'shop.orders', '{a}')")
    with refused("42710", 'detector "orders" already exists'):
        query(mallory, "create table mal.orders (a integer)")
        query(mallory, "select relief.create_detector('orders', 'mal.orders', '{a}')")
    with refused("42501"):
        query(mallory, "select relief.grant_usage(current_user::regrole)")


TABLES = (
    "detector", "feature", "model", "profile", "bucket", "refresh", "stale_day", "label", "tolerance", "event",
)  # fmt: skip


def test_tables_show_and_take_rows_of_own_detectors_alone(attached_world: World) -> None:
    mallory = attached_world.mallory
    query(attached_world.app, "insert into shop.orders (a, b) values (-2, 1)")
    query(attached_world.app, "select relief.refresh_profile('orders')")
    query(attached_world.app, "select relief.set_tolerance('orders', 'a')")
    query(attached_world.app, """select relief.label('orders', '{"id": 1}', true)""")
    for table in TABLES:
        assert value(attached_world.app, f"select count(*) > 0 from relief.{table}") is True, table
        assert value(mallory, f"select count(*) from relief.{table}") == 0, table
    assert query(mallory, "select * from relief.status") == []
    assert query(attached_world.app, "select detector, attached from relief.status") == [("orders", True)]
    detector = attached_world.database.value("select id from relief.detector")
    for statement, parameters in (
        ("insert into relief.feature values (%s, 9, 'x', 'x')", [detector]),
        (
            "insert into relief.profile select %s, '', 9, 1, true, n, n, n, n, n, n, n, n, n, n, n "
            "from (values ('{1}'::float8[])) as f (n)",
            [detector],
        ),
        (
            "insert into relief.bucket (detector_id, entity, season, day, position, rows, count, bins, bin_counts) "
            "values (%s, '', -1, now(), 1, 1, 1, '{}', '{}')",
            [detector],
        ),
        ("insert into relief.refresh values (%s)", [detector]),
        ("insert into relief.stale_day values (%s, now())", [detector]),
        ("insert into relief.label values (%s, '{}', true)", [detector]),
        ("insert into relief.tolerance values (%s, 'a', 'x', 'up', 0, 0)", [detector]),
        (
            "insert into relief.event (detector, relation, verdict) values ('orders', 'shop.orders', 'score')",
            [],
        ),
        (
            "insert into relief.detector "
            "(name, relation, schema_name, table_name, columns, threshold, on_error, score_function, time_zone, "
            "entity, verdict, deviation_threshold, min_history, refresh_lag) values "
            "('evil', 'shop.orders', 'shop', 'orders', '{a}', 0.5, 'pass', false, 'UTC', '{}', 'score', 6, 30, 1)",
            [],
        ),
    ):
        with refused("42501", "new row violates row-level security policy"):
            query(mallory, statement, *parameters)
    with refused("42501", "new row violates row-level security policy"):
        query(
            mallory,
            "insert into relief.model (detector_id, version, document, checksum) "
            "select %s, 9, d, encode(sha256(d::bytea), 'hex') from (select %s) as f (d)",
            detector,
            attached_world.app.execute("select document from relief.model").fetchone()[0],
        )
    before = {
        table: attached_world.database.query(f"select t::text from relief.{table} as t order by 1") for table in TABLES
    }
    for table in ("model", "detector", "profile", "bucket", "refresh", "stale_day", "label", "tolerance", "event"):
        query(mallory, f"delete from relief.{table}")
    for change in (
        "detector set promoted_version = 9",
        "feature set unit = 9",
        "profile set mean = '{}'",
        "bucket set mean = 9",
        "refresh set newest_day = now()",
        "stale_day set day = now()",
        "label set is_anomaly = false",
        "tolerance set min_absolute = 9",
    ):
        query(mallory, f"update relief.{change}")
    after = {
        table: attached_world.database.query(f"select t::text from relief.{table} as t order by 1") for table in TABLES
    }
    assert after == before
    assert attached_world.database.query("select promoted_version from relief.detector") == [1]
    for statement in (
        "update relief.detector set name = 'x'",
        "update relief.model set document = ''",
        "update relief.feature set expression = 'x'",
        "update relief.event set sentence = ''",
        "delete from relief.feature",
        "truncate relief.detector cascade",
        "alter table relief.model disable trigger all",
        "create function relief.evil() returns integer language sql as 'select 1'",
    ):
        with refused("42501"):
            query(attached_world.app, statement)


def test_model_is_checked_even_if_it_is_inserted_directly(attached_world: World) -> None:
    detector = attached_world.database.value("select id from relief.detector")
    insert = (
        "insert into relief.model (detector_id, version, document, checksum, threshold, threshold_origin, features) "
        "values (%s, 9, %s, %s, 0.99, 'magic', '{forged}')"
    )
    with refused("22023", "model document has checksum"):
        query(attached_world.app, insert, detector, "{}", "0")
    with refused("22023", "is not JSON"):
        text = "__import__('os').system('true')"
        query(
            attached_world.app,
            insert,
            detector,
            text,
            value(attached_world.app, "select encode(sha256(%s::bytea), 'hex')", text),
        )
    document, checksum = query(attached_world.app, "select document, checksum from relief.model")[0]
    query(attached_world.app, insert, detector, document, checksum)
    forged = query(
        attached_world.app, "select threshold, threshold_origin, features from relief.model where version = 9"
    )
    assert forged == [(0.4, "fixed", FEATURES)]


def test_anomalies_are_recorded_for_an_owner_without_any_right_on_relief(world: World) -> None:
    database = world.database
    owner, member = database.role("owner"), database.role("member")
    database.query(f"grant {owner} to {member}")
    database.query("select relief.grant_admin(%s)", member)
    database.query(f"create schema till authorization {owner}")
    query(database.connect(owner), "create table till.sale (a integer)")
    connection = database.connect(member)
    query(connection, "select relief.create_detector('sale', 'till.sale', '{a}')")
    add_model(connection, "sale", stump(["a"]))
    query(connection, "select relief.promote('sale')")
    assert told(connection, "select relief.attach('sale')") == []
    database.query(f"grant usage on schema till to {world.user.info.user}")
    database.query(f"grant insert on till.sale to {world.user.info.user}")
    assert told(world.user, "insert into till.sale values (-2), (2)") == []
    assert query(connection, "select detector, relation::text, score from relief.event") == [("sale", "till.sale", 0.5)]
    assert query(world.mallory, "select * from relief.event") == []


def test_events_outlive_their_detector_until_the_owner_deletes_them(attached_world: World) -> None:
    app, mallory = attached_world.app, attached_world.mallory
    query(app, "insert into shop.orders (a, b) values (-2, 1)")
    query(app, """select relief.label('orders', '{"id": 1}', true)""")
    query(app, "select relief.drop_detector('orders', true)")
    assert query(app, "select detector, relation::text from relief.event") == [("orders", "shop.orders")]
    query(mallory, "delete from relief.event")
    assert value(app, "select count(*) from relief.event") == 1
    query(app, "delete from relief.event where detector = 'orders'")
    for table in TABLES:
        assert attached_world.database.value(f"select count(*) from relief.{table}") == 0, table


def test_dropped_role_and_table_leave_a_detector_that_its_maker_sees(attached_world: World) -> None:
    query(attached_world.app, "drop table shop.orders cascade")
    assert value(attached_world.app, "select count(*) from relief.detector") == 1
    assert value(attached_world.mallory, "select count(*) from relief.detector") == 0
    query(attached_world.app, "select relief.drop_detector('orders')")
