"""What touches generated objects, by eight sessions at once: they wait for each other, or are told clearly why not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import psycopg
import pytest
from helpers.database import Database, query, refused
from helpers.forests import add_model, constant
from helpers.sessions import hammer, running
from helpers.shop import FEATURES, make_orders
from psycopg import Connection

VERSIONS = 5
DETECTORS = ("orders", "returns")


@pytest.fixture
def shop(database: Database) -> Database:
    """Return a database with two attached detectors of two tables, each of five versions that score n / 100."""
    make_orders(database.superuser, rows=100)
    database.query("create table shop.returns (like shop.orders including all)")
    database.query("insert into shop.returns (a, b) select a, b from shop.orders")
    database.query("select relief.create_detector('returns', 'shop.returns', array['a', 'ln(b) AS log_b'])")
    for detector in DETECTORS:
        for version in range(1, VERSIONS + 1):
            add_model(database.superuser, detector, constant(FEATURES, version / 100, 1.0))
        database.query("select relief.promote(%s, 1)", detector)
        database.query("select relief.attach(%s)", detector)
    return database


Act = Callable[[Connection, str], object]


def _acts(roles: list[str], chance: random.Random) -> dict[str, Act]:
    """Return what sessions do to a detector, by its name."""

    def calling(function: str, *arguments: Callable[[], object]) -> Act:
        def act(connection: Connection, detector: str) -> object:
            given = ", ".join(["%s"] * (1 + len(arguments)))
            return query(connection, f"select relief.{function}({given})", detector, *[of() for of in arguments])

        return act

    def granting(function: str) -> Act:
        return lambda connection, _: query(connection, f"select relief.{function}(%s)", chance.choice(roles))

    def key() -> str:
        return f'{{"id": {chance.randint(1, 100)}}}'

    def boolean() -> bool:
        return chance.random() < 0.5

    def on_a_version(function: str, *arguments: Callable[[], object]) -> Act:
        # As somebody read it: by now it may be dropped.
        stored = "select version from relief.model_stage where detector = %s order by random() limit 1"

        def act(connection: Connection, detector: str) -> object:
            (version,) = query(connection, stored, detector)
            return calling(function, lambda: version, *arguments)(connection, detector)

        return act

    return {
        "promote": on_a_version("promote", boolean),
        "rollback": calling("rollback"),
        "retire": on_a_version("retire"),
        "shadow": on_a_version("shadow"),
        "end shadow": calling("shadow", lambda: None),
        "vacuum": calling("vacuum"),
        "vacuum all": lambda connection, _: query(connection, "select relief.vacuum(max_rows => 10)"),
        "attach": calling("attach"),
        "detach": calling("detach", boolean),
        "set_mode": calling("set_mode", lambda: chance.choice(["flag", "notify", "quarantine"])),
        "refresh": calling("refresh_profile", boolean),
        "regenerate": calling("regenerate"),
        "regenerate all": lambda connection, _: query(connection, "select relief.regenerate()"),
        "label": calling("label", key, boolean),
        "set_tolerance": calling("set_tolerance", lambda: "a", lambda: "up", lambda: 1),
        "add_model": lambda connection, detector: add_model(connection, detector, constant(FEATURES, 0.05, 1.0)),
        "backfill": lambda connection, detector: query(connection, "call relief.backfill(%s, 30)", detector),
        "grant_usage": granting("grant_usage"),
        "grant_admin": granting("grant_admin"),
        "create": lambda connection, _: query(
            connection, "select relief.create_detector('third', 'shop.returns', '{b}', score_function => false)"
        ),
        "drop": lambda connection, _: query(connection, "select relief.drop_detector('third')"),
        "check": lambda connection, _: query(connection, "select * from relief.check()"),
        "status": lambda connection, _: query(connection, "select * from relief.status"),
        "insert": lambda connection, detector: query(
            connection, f"insert into shop.{detector} (a, b) values (1, 1), (-1, 1)"
        ),
        "score": lambda connection, detector: query(
            connection, f"select shop.relief_score(o) from shop.{detector} as o limit 5"
        ),
    }


CLEAR = {
    "42704": ("does not exist", "was dropped by another session", "has no model of version"),
    "42710": ("already exists", "attached to table", "already"),
    "55000": (
        "is not attached",
        "fails its check: it was retired",
        "has no version to go back to",
        "is promoted",
        "is the promoted one",
        "is retired already",
        "is in shadow",
        "has no version in shadow",
    ),
}


# What replaces or grants, and doesn't drop what others grant rights on.
BESIDE_GRANTS = {"promote", "refresh", "set_tolerance", "grant_admin", "grant_usage"}


def _assert_clear(refusal: psycopg.Error) -> None:
    """Assert that an error says, in Relief's words and with a hint, what another session has done."""
    said = refusal.diag.message_primary or ""
    context = refusal.diag.message_detail, refusal.diag.context
    assert any(words in said for words in CLEAR.get(refusal.sqlstate or "", ())), (refusal.sqlstate, said, *context)
    assert refusal.diag.message_hint, said


def _assert_whole(database: Database) -> None:
    """Assert that both detectors can be attached, and score with the version that is said to be promoted."""
    for detector in DETECTORS:
        if database.value(
            "select not relief._trigger_function(d) is null from relief.detector as d where name = %s", detector
        ):
            database.query("select relief.detach(%s)", detector)
        database.query("select relief.attach(%s)", detector)
        promoted = database.value("select promoted_version from relief.detector where name = %s", detector)
        inserted = f"insert into shop.{detector} (a, b) values (1, 1)"
        scored = database.query(f"{inserted} returning relief_model_version, relief_deviation ->> 'error'")
        assert scored == [(promoted, None)]
    told = dict(database.query('select "check", result from relief.check()'))
    assert {told[f"detector {detector}"] for detector in DETECTORS} == {"ok"}


def _wait_until_blocked(database: Database, connection: Connection) -> None:
    """Wait until a session waits for a lock."""
    waiting = "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'"
    while database.value(waiting, connection.info.backend_pid) == 0:
        time.sleep(0.01)


@pytest.mark.parametrize("seconds", [5.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_eight_sessions_wait_for_each_other_or_are_told_why_not(shop: Database, seconds: float) -> None:
    chance = random.Random(0)
    acts = list(_acts([shop.role("app"), shop.role("guest")], chance).values())
    for detector in DETECTORS:
        shop.query("select relief.set_retention(%s, versions => %s)", detector, VERSIONS)

    def act(connection: Connection, _: int) -> None:
        chance.choice(acts)(connection, chance.choice(DETECTORS))

    for refusal in hammer(8, seconds, act, shop):
        _assert_clear(refusal)
    _assert_whole(shop)


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_grants_of_others_on_a_function_get_in_no_functions_way(shop: Database, seconds: float) -> None:
    """PostgreSQL may refuse the GRANT of a session that meets another's; never what Relief does beside it."""
    role = shop.role("guest")
    chance = random.Random(0)
    beside = [act for name, act in _acts([role], chance).items() if name in BESIDE_GRANTS]
    functions = shop.query("select oid::regprocedure::text from pg_proc where pronamespace = 'shop'::regnamespace")
    own: list[psycopg.Error] = []

    def act(connection: Connection, number: int) -> None:
        if number % 2:
            chance.choice(beside)(connection, chance.choice(DETECTORS))
            return
        verb, end = chance.choice([("grant", "to"), ("revoke", "from")])
        try:
            query(connection, f"{verb} execute on function {chance.choice(functions)} {end} {role}")
        except psycopg.Error as refusal:
            own.append(refusal)

    assert hammer(8, seconds, act, shop) == []
    # From PostgreSQL 18 on a GRANT locks the function too, and may be the one that ends a deadlock.
    assert {refusal.diag.message_primary for refusal in own} <= {"tuple concurrently updated", "deadlock detected"}
    _assert_whole(shop)


def test_promotion_gives_way_to_a_grant_on_all_functions_and_goes_on(shop: Database) -> None:
    """Each replaces rows of the catalog that the other waits for."""
    granting, promoting = shop.connect(autocommit=False), shop.connect()
    query(granting, "set deadlock_timeout = '10s'")  # the other one finds the deadlock
    query(granting, "grant execute on function shop._relief_explanation_orders to public")

    def promote(_: object) -> None:
        query(promoting, "select relief.promote('orders', 3)")

    with running(promote):
        _wait_until_blocked(shop, promoting)
        query(granting, "grant execute on function shop._relief_verdict_orders to public")
        granting.commit()
    assert shop.value("select proacl is not null from pg_proc where proname = '_relief_verdict_orders'")
    _assert_whole(shop)


@pytest.mark.parametrize("statement", ["select relief.regenerate('orders')", "select relief.shadow('orders', null)"])
def test_what_changes_the_table_waits_for_a_refresh_that_reads_it(shop: Database, statement: str) -> None:
    """A refresh reads the table before it replaces the judgement, and these lock both: once a deadlock."""
    shop.query("select relief.shadow('orders', 2)")
    refreshing, changing = shop.connect(autocommit=False), shop.connect()
    query(refreshing, "select relief._lock_profile(id) from relief.detector where name = 'orders'")
    query(refreshing, "select count(*) from shop.orders")

    def change(_: object) -> None:
        query(changing, statement)

    with running(change):
        _wait_until_blocked(shop, changing)
        # Nobody waits behind who waits: the table isn't locked yet.
        shop.query("insert into shop.orders (a, b) values (1, 1)")
        query(refreshing, "select relief.refresh_profile('orders')")
        refreshing.commit()
    _assert_whole(shop)


def _refused(connection: Connection, statement: str, refusals: list[psycopg.Error]) -> Callable[[object], None]:
    """Return what runs a statement and keeps what the server refuses."""

    def run(_: object) -> None:
        try:
            query(connection, statement)
        except psycopg.Error as refusal:
            refusals.append(refusal)

    return run


def test_two_detectors_of_a_table_attached_at_once_are_told_apart(shop: Database) -> None:
    shop.query("select relief.detach('orders')")
    shop.query("select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    first, second = shop.connect(autocommit=False), shop.connect()
    query(first, "select relief.attach('orders')")
    refusals: list[psycopg.Error] = []
    with running(_refused(second, "select relief.attach('second')", refusals)):
        _wait_until_blocked(shop, second)
        first.commit()
    (refusal,) = refusals
    _assert_clear(refusal)
    assert refusal.diag.message_primary == "a detector is attached to table shop.orders already"


def test_detector_detached_between_two_batches_ends_the_backfill_clearly(shop: Database) -> None:
    shop.query("update shop.orders set relief_model_version = null")
    shop.query("select relief.promote('orders', 2)")
    blocker, backfilling = shop.connect(autocommit=False), shop.connect()
    query(blocker, "select relief.detach('orders', drop_columns => true)")
    refusals: list[psycopg.Error] = []
    with running(_refused(backfilling, "call relief.backfill('orders')", refusals)):
        _wait_until_blocked(shop, backfilling)
        blocker.commit()
    (refusal,) = refusals
    assert refusal.sqlstate == "55000"
    _assert_clear(refusal)


def test_detector_that_another_session_has_dropped_is_said_to_be_gone(shop: Database) -> None:
    shop.query("select relief.create_detector('third', 'shop.orders', '{a}', score_function => false)")
    dropping, late = shop.connect(autocommit=False), shop.connect()
    query(dropping, "select relief.drop_detector('third')")

    def refresh(_: object) -> None:
        with refused("42704", "was dropped by another session", "List the detectors"):
            query(late, "select relief.refresh_profile('third')")

    with running(refresh):
        _wait_until_blocked(shop, late)
        dropping.commit()


def test_attach_that_passes_rights_on_waits_for_a_grant(shop: Database) -> None:
    """Both change the rights on schema relief, whose second change at once PostgreSQL refuses."""
    owner, guest = shop.role("owner"), shop.role("guest")
    shop.query("select relief.detach('orders')")
    shop.query(f"alter table shop.orders owner to {owner}")
    granting, attaching = shop.connect(autocommit=False), shop.connect()
    query(granting, "select relief.grant_usage(%s)", guest)

    def attach(_: object) -> None:
        query(attaching, "select relief.attach('orders')")

    with running(attach):
        _wait_until_blocked(shop, attaching)
        granting.commit()
    assert shop.value("select has_table_privilege(%s, 'relief.event', 'insert')", owner)
