"""As whom an owner's expressions run, whose the generated functions are, and that nobody slips in others."""

from __future__ import annotations

from helpers.database import query, refused, value
from helpers.forests import add_model, stump
from helpers.profiles import train_small
from helpers.shop import COMPANIONS, FEATURES
from helpers.world import World, told
from psycopg import Connection

# What reads the table of the detector "t".
READING = ("select relief.refresh_profile('t')", "select * from relief.drift('t')")

WITNESS = """
create function shop.witness(integer) returns integer language plpgsql stable as $$
begin
  raise notice 'ran as %', current_user;
  return $1;
end
$$
"""


def test_expression_runs_as_the_owner_in_the_trigger_and_as_the_querying_user_in_a_query(world: World) -> None:
    database, mallory = world.database, world.mallory
    query(mallory, WITNESS.replace("shop.", "mal."))
    query(mallory, "create table mal.t (a integer)")
    owner, superuser = mallory.info.user, database.superuser.info.user
    for caller, run in ((mallory, owner), (database.superuser, superuser)):
        messages = told(caller, "select relief.create_detector('t', 'mal.t', '{mal.witness(a) AS w}')")
        assert {message for message in messages if message.startswith("ran as")} <= {f"ran as {run}"}
        query(caller, "select relief.drop_detector('t')")
    query(mallory, "select relief.create_detector('t', 'mal.t', '{mal.witness(a) AS w}')")
    add_model(mallory, "t", stump(["w"]))
    assert told(database.superuser, "select relief.promote('t')") == []
    assert told(database.superuser, "select relief.attach('t')") == []
    query(mallory, f"grant select, insert on mal.t to {world.user.info.user}")
    for caller in (mallory, world.user, database.superuser):
        assert told(caller, "insert into mal.t values (1)") == [f"ran as {owner}"]
    assert told(database.superuser, "call relief.backfill('t')") == ['backfill of detector "t": 0 rows scored']
    query(mallory, 'alter table mal.t disable trigger "~relief"')
    query(mallory, "insert into mal.t values (2)")
    query(mallory, 'alter table mal.t enable trigger "~relief"')
    assert told(database.superuser, "call relief.backfill('t')")[0] == f"ran as {owner}"
    query(mallory, "delete from mal.t where a = 2")
    for caller in (world.user, database.superuser):
        messages = told(caller, "select mal.relief_score(t) from mal.t as t limit 1")
        assert set(messages) == {f"ran as {caller.info.user}"}
    messages = told(database.superuser, """select relief.score('t', '{"a": 1}')""")
    assert set(messages) == {f"ran as {superuser}"}
    assert not value(mallory, "select rolsuper from pg_roles where rolname = current_user")


def test_what_is_expected_of_an_entity_can_be_kept_from_all_but_the_owner(attached_world: World) -> None:
    asked = "select shop._relief_judgement_orders('{-2, 0}', null, '[1]', -1::int2, true) -> 'relief_deviation' -> 'a'"
    assert "expected" in value(attached_world.user, asked)
    revoked = "revoke execute on function shop._relief_judgement_orders, shop._relief_explanation_orders from public"
    query(attached_world.app, revoked)
    inserted = f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}"
    # Promotion and refresh replace the functions, and leave the rights on them.
    for replaced in ("promote", "refresh_profile"):
        query(attached_world.app, f"select relief.{replaced}('orders')")
        for connection, statement in (
            (attached_world.user, asked),
            (attached_world.user, "select e.* from shop.orders as o, shop.relief_explain(o) as e limit 1"),
            (attached_world.scorer, """select relief.detect('orders', '{"a": -2}')"""),
            (attached_world.scorer, """select * from relief.explain('orders', '{"a": -2}')"""),
        ):
            with refused("42501", "permission denied for function _relief_"):
                query(connection, statement)
        (row,) = query(attached_world.user, inserted)
        assert (row[1], row[3], "error" in row[2]) == (True, 1, False)
    assert attached_world.database.value("select count(*) from relief.event") == 2


def test_superuser_is_not_made_to_run_another_roles_expressions_by_functions_that_read_the_table(world: World) -> None:
    database, mallory = world.database, world.mallory
    query(mallory, WITNESS.replace("shop.", "mal."))
    query(mallory, "create table mal.t (a integer)")
    query(mallory, "insert into mal.t select generate_series(1, 100)")
    query(mallory, "select relief.create_detector('t', 'mal.t', '{mal.witness(a) AS w}')")
    superuser, owner = database.superuser.info.user, mallory.info.user
    train_small(database.dsn(owner), "t")
    disguised = database.connect()
    query(disguised, f"set role {owner}")
    risen = database.connect(owner)
    database.query(f"grant {superuser} to {owner}")
    query(risen, f"set role {superuser}")
    for connection in (database.superuser, disguised, risen):
        for statement in READING:
            with refused(
                "42501",
                f'role "{superuser}" is a superuser, and table mal.t belongs to "{owner}"',
                f'Connect as a role that has the rights of "{owner}".',
            ):
                query(connection, statement)
    database.query(f"revoke {superuser} from {owner}")
    for statement in READING:
        assert set(told(mallory, statement)) == {f"ran as {owner}"}


def test_superuser_is_not_stopped_on_a_superusers_table(orders: Connection) -> None:
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    for statement in READING:
        query(orders, statement.replace("'t'", "'orders'"))


def test_overloads_of_generated_functions_are_never_called(attached_world: World) -> None:
    """Whoever may create functions in the table's schema can't slip one in between trigger and verdict."""
    query(attached_world.app, f"grant create on schema shop to {attached_world.mallory.info.user}")
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
        query(attached_world.mallory, f"create function {signature} {body}")
    theirs = "select oid, proowner, proacl, proconfig from pg_proc where proowner = %s::regrole order by oid"
    before = attached_world.database.query(theirs, attached_world.mallory.info.user)
    for caller in (attached_world.app, attached_world.database.superuser):
        inserted = query(caller, f"insert into shop.orders (a, b) values (-2, 1) returning {COMPANIONS}")
        assert inserted[0][:2] == (0.5, True)
        assert value(caller, """select relief.score('orders', '{"a": -1, "b": 1}')""") == 0.5
        query(caller, "select relief.promote('orders')")
        query(caller, "select relief.detach('orders')")
        query(caller, "select relief.attach('orders')")
        query(caller, "select relief.create_detector('other', 'shop.orders', '{a}', score_function => false)")
        query(caller, "select relief.drop_detector('other')")
    query(attached_world.app, "select relief.drop_detector('orders')")
    assert attached_world.database.query(theirs, attached_world.mallory.info.user) == before


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


def test_search_path_of_the_caller_changes_nothing(attached_world: World) -> None:
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
        query(attached_world.mallory, f"create function mal.{signature} {body}")
    for operator in ("=", "<", "+", ">="):
        arguments = "leftarg = bigint, rightarg = bigint, procedure = mal.compare"
        query(attached_world.mallory, f"create operator mal.{operator} ({arguments})")
    attached_world.database.query("set search_path = mal, shop, pg_catalog, relief")
    database = attached_world.database
    assert database.value("insert into shop.orders (a, b) values (-2, 1) returning relief_anomaly_score") == 0.5
    assert database.value("select shop.relief_score(o) from shop.orders as o limit 1") in (0.5, 0.125)
    database.query("call relief.backfill('orders')")
    database.query("select relief.promote('orders')")
    database.query("select relief.detach('orders')")
    database.query("select relief.attach('orders')")
    assert {result for _, result in database.query("select * from relief.check()")} == {"ok"}
    database.query("select relief.drop_detector('orders')")
