"""Rights: who may do what, and as whom an owner's expressions run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import COMPANIONS, FEATURES, make_orders
from psycopg import Connection

# A function that tells as whom it runs.
WITNESS = """
create function shop.witness(integer) returns integer language plpgsql stable as $$
begin
  raise notice 'ran as %', current_user;
  return $1;
end
$$
"""


@dataclass
class World:
    """A database with a table of "app", which has the rights of an admin, and roles that have fewer."""

    database: Database
    app: Connection
    user: Connection
    scorer: Connection
    mallory: Connection


@pytest.fixture
def world(database: Database) -> World:
    roles = {name: database.role(name) for name in ("app", "user", "scorer", "mallory")}
    superuser = database.superuser
    query(superuser, f"create schema shop authorization {roles['app']}")
    query(superuser, f"grant usage on schema shop to {roles['user']}, {roles['scorer']}, {roles['mallory']}")
    query(superuser, f"create schema mal authorization {roles['mallory']}")
    query(superuser, f"grant usage on schema mal to {roles['user']}")
    query(superuser, "select relief.grant_admin(%s)", roles["app"])
    query(superuser, "select relief.grant_admin(%s)", roles["mallory"])
    query(superuser, "select relief.grant_usage(%s)", roles["scorer"])
    made = World(database, **{name: database.connect(role) for name, role in roles.items()})
    make_orders(made.app, rows=20, schema=False)
    query(made.app, f"grant insert (a, b), select on shop.orders to {roles['user']}")
    return made


@pytest.fixture
def attached(world: World) -> World:
    add_model(world.app, "orders", stump(FEATURES))
    query(world.app, "select relief.promote('orders')")
    query(world.app, "select relief.attach('orders')")
    return world


def _told(connection: Connection, statement: str, *parameters: object) -> list[str]:
    """Run a statement and return the messages beside its result."""
    told: list[str] = []

    def note(notice: object) -> None:
        told.append(notice.message_primary)

    connection.add_notice_handler(note)
    query(connection, statement, *parameters)
    connection.remove_notice_handler(note)
    return told


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


def test_user_with_insert_on_the_table_alone_is_scored(attached: World) -> None:
    inserted = "insert into shop.orders (a, b) values (-2, 1), (2, -6) returning id, " + COMPANIONS
    rows = query(attached.user, inserted)
    assert [row[1:3] for row in rows] == [(0.5, True), (None, None)]
    assert value(attached.user, "select shop.relief_score(o) from shop.orders as o where id = %s", rows[0][0]) == 0.5


def test_user_of_a_table_has_no_right_on_relief(attached: World) -> None:
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
            query(attached.user, statement)


def test_role_with_usage_scores_by_name_and_no_more(attached: World) -> None:
    assert value(attached.scorer, """select relief.score('orders', '{"a": -1, "b": 1}')""") == 0.5
    assert value(attached.scorer, """select is_anomaly from relief.detect('orders', '{"a": -1, "b": 1}')""") is True
    explained = query(attached.scorer, """select feature, value from relief.explain('orders', '{"a": -1, "b": 1}')""")
    assert sorted(explained) == [("a", -1.0), ("log_b", 0.0)]
    with refused("42703", 'column "zz" of table shop.orders does not exist'):
        query(attached.scorer, """select relief.score('orders', '{"zz": 1}')""")
    with refused("42704", 'detector "order" does not exist'):
        query(attached.scorer, "select relief.score('order', '{}')")
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
            query(attached.scorer, statement)


def test_admin_of_other_tables_can_do_nothing_to_a_detector(attached: World) -> None:
    mallory = attached.mallory
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


def test_tables_show_and_take_rows_of_own_detectors_alone(attached: World) -> None:
    mallory = attached.mallory
    query(attached.app, "insert into shop.orders (a, b) values (-2, 1)")
    query(attached.app, "select relief.refresh_profile('orders')")
    query(attached.app, "select relief.set_tolerance('orders', 'a')")
    query(attached.app, """select relief.label('orders', '{"id": 1}', true)""")
    for table in TABLES:
        assert value(attached.app, f"select count(*) > 0 from relief.{table}") is True, table
        assert value(mallory, f"select count(*) from relief.{table}") == 0, table
    assert query(mallory, "select * from relief.status") == []
    assert query(attached.app, "select detector, attached from relief.status") == [("orders", True)]
    detector = attached.database.value("select id from relief.detector")
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
            attached.app.execute("select document from relief.model").fetchone()[0],
        )
    before = {table: attached.database.query(f"select t::text from relief.{table} as t order by 1") for table in TABLES}
    for table in ("model", "detector", "profile", "bucket", "refresh", "stale_day", "label", "tolerance"):
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
    after = {table: attached.database.query(f"select t::text from relief.{table} as t order by 1") for table in TABLES}
    assert after == before
    assert attached.database.query("select promoted_version from relief.detector") == [1]
    for statement in (
        "update relief.detector set name = 'x'",
        "update relief.model set document = ''",
        "update relief.feature set expression = 'x'",
        "update relief.event set sentence = ''",
        "delete from relief.event",
        "delete from relief.feature",
        "truncate relief.detector cascade",
        "alter table relief.model disable trigger all",
        "create function relief.evil() returns integer language sql as 'select 1'",
    ):
        with refused("42501"):
            query(attached.app, statement)


def test_model_is_checked_even_if_it_is_inserted_directly(attached: World) -> None:
    detector = attached.database.value("select id from relief.detector")
    insert = (
        "insert into relief.model (detector_id, version, document, checksum, threshold, threshold_origin, features) "
        "values (%s, 9, %s, %s, 0.99, 'magic', '{forged}')"
    )
    with refused("22023", "model document has checksum"):
        query(attached.app, insert, detector, "{}", "0")
    with refused("22023", "is not JSON"):
        text = "__import__('os').system('true')"
        query(
            attached.app, insert, detector, text, value(attached.app, "select encode(sha256(%s::bytea), 'hex')", text)
        )
    document, checksum = query(attached.app, "select document, checksum from relief.model")[0]
    query(attached.app, insert, detector, document, checksum)
    forged = query(attached.app, "select threshold, threshold_origin, features from relief.model where version = 9")
    assert forged == [(0.4, "fixed", FEATURES)]


def test_expression_runs_as_the_owner_in_the_trigger_and_as_the_querying_user_in_a_query(world: World) -> None:
    database, mallory = world.database, world.mallory
    query(mallory, WITNESS.replace("shop.", "mal."))
    query(mallory, "create table mal.t (a integer)")
    owner, superuser = mallory.info.user, database.superuser.info.user
    for caller, run in ((mallory, owner), (database.superuser, superuser)):
        told = _told(caller, "select relief.create_detector('t', 'mal.t', '{mal.witness(a) AS w}')")
        assert {message for message in told if message.startswith("ran as")} <= {f"ran as {run}"}
        query(caller, "select relief.drop_detector('t')")
    query(mallory, "select relief.create_detector('t', 'mal.t', '{mal.witness(a) AS w}')")
    add_model(mallory, "t", stump(["w"]))
    assert _told(database.superuser, "select relief.promote('t')") == []
    assert _told(database.superuser, "select relief.attach('t')") == []
    query(mallory, f"grant select, insert on mal.t to {world.user.info.user}")
    for caller in (mallory, world.user, database.superuser):
        assert _told(caller, "insert into mal.t values (1)") == [f"ran as {owner}"]
    assert _told(database.superuser, "call relief.backfill('t')") == ['backfill of detector "t": 0 rows scored']
    query(mallory, 'alter table mal.t disable trigger "~relief"')
    query(mallory, "insert into mal.t values (2)")
    query(mallory, 'alter table mal.t enable trigger "~relief"')
    assert _told(database.superuser, "call relief.backfill('t')")[0] == f"ran as {owner}"
    query(mallory, "delete from mal.t where a = 2")
    for caller in (world.user, database.superuser):
        told = _told(caller, "select mal.relief_score(t) from mal.t as t limit 1")
        assert set(told) == {f"ran as {caller.info.user}"}
    told = _told(database.superuser, """select relief.score('t', '{"a": 1}')""")
    assert set(told) == {f"ran as {superuser}"}
    assert not value(mallory, "select rolsuper from pg_roles where rolname = current_user")


def test_overloads_of_generated_functions_are_never_called(attached: World) -> None:
    """Whoever may create functions in the table's schema can't slip one in between trigger and verdict."""
    query(attached.app, f"grant create on schema shop to {attached.mallory.info.user}")
    body = "language plpgsql as $$begin raise exception 'hijacked as %', current_user; end$$"
    for signature in (
        "shop._relief_verdict_orders(float8[], text) returns float8[]",
        "shop._relief_verdict_orders(float8[], jsonb) returns float8[]",
        "shop._relief_verdict_orders(integer) returns float8[]",
        *(
            f"shop._relief_{kind}_orders({arguments}) returns jsonb"
            for kind in ("judgement", "explanation")
            for arguments in (
                "float8, float8, float8[], text, text, smallint",
                "float8, float8, float8[], jsonb, text, integer",
                "anyelement, anyelement, anyarray, anyarray, anyelement, anyelement",
                "float8, float8, float8[], text[], text",
            )
        ),
        "shop._relief_contributions_orders(float8[], text) returns float8[]",
        "shop._relief_contributions_orders(anyarray, anyarray) returns float8[]",
        "shop._relief_guarded_orders(a text, b text) returns float8[]",
        "shop._relief_guarded_orders(a float8, b float8) returns float8[]",
        "shop._relief_event_orders(text) returns text",
        "shop.relief_explain(jsonb) returns text",
        "shop._relief_features_orders(a text, b text) returns float8[]",
        "shop._relief_features_orders(a float8, b float8) returns float8[]",
        "shop._relief_trigger_orders(text) returns text",
        "shop._relief_trigger_other(text) returns text",
        "shop._relief_verdict_other(float8[], text) returns float8[]",
    ):
        query(attached.mallory, f"create function {signature} {body}")
    theirs = "select oid, proowner, proacl, proconfig from pg_proc where proowner = %s::regrole order by oid"
    before = attached.database.query(theirs, attached.mallory.info.user)
    for caller in (attached.app, attached.database.superuser):
        inserted = query(caller, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}")
        assert inserted[0][:2] == (0.5, True)
        assert value(caller, """select relief.score('orders', '{"a": -1, "b": 1}')""") == 0.5
        query(caller, "select relief.promote('orders')")
        query(caller, "select relief.detach('orders')")
        query(caller, "select relief.attach('orders')")
        query(caller, "select relief.create_detector('other', 'shop.orders', '{a}', score_function => false)")
        query(caller, "select relief.drop_detector('other')")
    query(attached.app, "select relief.drop_detector('orders')")
    assert attached.database.query(theirs, attached.mallory.info.user) == before


def test_name_that_is_taken_already_is_never_replaced(world: World) -> None:
    query(world.app, "select relief.drop_detector('orders')")
    query(world.app, f"grant create on schema shop to {world.mallory.info.user}")
    signature = "shop._relief_verdict_orders(float8[], text[]) returns float8[]"
    query(world.mallory, f"create function {signature} language sql as 'select null::float8[]'")
    for caller in (world.app, world.database.superuser):
        with refused("42723", "_relief_verdict_orders"):
            query(caller, "select relief.create_detector('orders', 'shop.orders', '{a}')")
    assert world.database.value("select count(*) from relief.detector") == 0


def test_what_superuser_and_members_make_belongs_to_the_tables_owner(world: World) -> None:
    database = world.database
    member = database.role("member")
    database.query(f"grant {world.app.info.user} to {member}")
    database.query("select relief.grant_admin(%s)", member)
    owners = (
        "select distinct proowner::regrole::text from pg_proc where pronamespace = 'shop'::regnamespace "
        "and proname like '%%relief%%'"
    )
    for caller in (database.superuser, database.connect(member)):
        query(caller, "select relief.drop_detector('orders')")
        query(caller, "select relief.create_detector('orders', 'shop.orders', '{a, ln(b) AS log_b}')")
        add_model(caller, "orders", stump(FEATURES))
        query(caller, "select relief.promote('orders')")
        query(caller, "select relief.attach('orders')")
        assert database.query(owners.replace("%%", "%")) == [world.app.info.user]
        assert value(world.user, "insert into shop.orders (a, b) values (-1, 1) returning relief_is_anomaly") is True
        assert value(world.app, "select relief.promote('orders')") == 1


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
    assert _told(connection, "select relief.attach('sale')") == []
    database.query(f"grant usage on schema till to {world.user.info.user}")
    database.query(f"grant insert on till.sale to {world.user.info.user}")
    assert _told(world.user, "insert into till.sale values (-2), (2)") == []
    assert query(connection, "select detector, relation::text, score from relief.event") == [("sale", "till.sale", 0.5)]
    assert query(world.mallory, "select * from relief.event") == []


def test_search_path_of_the_caller_changes_nothing(attached: World) -> None:
    """Functions and operators of the same names, earlier in the path, are not called."""
    body = "language plpgsql as 'begin raise exception $$hijacked$$; end'"
    for signature in (
        "now() returns text",
        "format(text, text) returns text",
        "to_jsonb(anyelement) returns jsonb",
        "count(anyelement) returns bigint",
        "clock_timestamp() returns timestamptz",
        "ln(float8) returns float8",
        "compare(bigint, bigint) returns boolean",
    ):
        query(attached.mallory, f"create function mal.{signature} {body}")
    for operator in ("=", "<", "+", ">="):
        arguments = "leftarg = bigint, rightarg = bigint, procedure = mal.compare"
        query(attached.mallory, f"create operator mal.{operator} ({arguments})")
    attached.database.query("set search_path = mal, shop, pg_catalog, relief")
    database = attached.database
    assert database.value("insert into shop.orders (a, b) values (-2, 1) returning relief_anomaly_score") == 0.5
    assert database.value("select shop.relief_score(o) from shop.orders as o limit 1") in (0.5, 0.125)
    database.query("call relief.backfill('orders')")
    database.query("select relief.promote('orders')")
    database.query("select relief.detach('orders')")
    database.query("select relief.attach('orders')")
    assert {result for _, result in database.query("select * from relief.check()")} == {"ok"}
    database.query("select relief.drop_detector('orders')")


def test_dropped_role_and_table_leave_a_detector_that_its_maker_sees(attached: World) -> None:
    query(attached.app, "drop table shop.orders cascade")
    assert value(attached.app, "select count(*) from relief.detector") == 1
    assert value(attached.mallory, "select count(*) from relief.detector") == 0
    query(attached.app, "select relief.drop_detector('orders')")
