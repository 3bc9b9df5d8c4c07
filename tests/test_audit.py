"""The audit log: what was done to a detector, by whom, when and why; appended to, never changed."""

from __future__ import annotations

import pytest
from helpers.database import query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import FEATURES
from helpers.world import World
from psycopg import sql

ENTRIES = "select action, version, reason, details from relief.audit where detector = 'orders' order by id"


def test_every_step_of_a_detector_s_life_is_logged(world: World) -> None:
    app = world.app
    checksums = [
        value(app, "select checksum from relief.model where version = %s", add_model(app, "orders", stump(FEATURES)))
        for _ in range(2)
    ]
    for statement in (
        "select relief.promote('orders', 1)",
        "select relief.promote('orders')",
        "select relief.attach('orders', on_replica => true)",
        "select relief.regenerate('orders')",
        "select relief.detach('orders')",
        "select relief.drop_detector('orders', true)",
    ):
        query(app, statement)
    assert query(app, ENTRIES) == [
        ("create", None, None, {"features": ["a", "ln(b) AS log_b"]}),
        ("train", 1, None, {"checksum": checksums[0]}),
        ("train", 2, None, {"checksum": checksums[1]}),
        ("promote", 1, None, {"previous": None}),
        ("promote", 2, None, {"previous": 1}),
        ("attach", None, None, {"on_replica": True, "mode": "flag"}),
        ("detach", None, None, {"drop_columns": False}),
        ("drop", None, None, {"drop_columns": True}),
    ]


def test_an_entry_tells_the_role_that_acted_its_login_and_the_time(world: World) -> None:
    app, database = world.app, world.database
    member = database.role("member")
    database.query(f"grant {app.info.user} to {member}")
    session = database.connect(member)
    query(session, sql.SQL("set role {}").format(sql.Identifier(app.info.user)).as_string())
    before = database.value("select clock_timestamp()")
    add_model(session, "orders", stump(FEATURES))
    role, login, happened_at = query(app, "select role, login, happened_at from relief.audit where action = 'train'")[0]
    assert (role, login) == (app.info.user, member)
    assert before <= happened_at <= database.value("select clock_timestamp()")


def test_what_was_rolled_back_is_not_logged(world: World) -> None:
    entries = query(world.app, ENTRIES)
    with world.app.transaction(force_rollback=True):
        add_model(world.app, "orders", stump(FEATURES))
        assert len(query(world.app, ENTRIES)) == len(entries) + 1
    assert query(world.app, ENTRIES) == entries


@pytest.mark.parametrize("statement", ["update relief.audit set reason = 'none'", "truncate relief.audit"])
def test_entries_are_never_changed(world: World, statement: str) -> None:
    entries = query(world.app, ENTRIES)
    with refused("42501", "permission denied for table audit"):
        query(world.app, statement)
    with refused("42501", "entries of relief.audit cannot be changed or deleted"):
        world.database.query(statement)
    assert query(world.app, ENTRIES) == entries


def test_nobody_writes_in_another_s_name_or_at_another_time(world: World) -> None:
    for column, given in (("role", "'postgres'"), ("login", "'postgres'"), ("happened_at", "now()")):
        statement = f"insert into relief.audit (detector, relation, created_by, action, {column}) "
        with refused("42501", "permission denied for table audit"):
            query(world.app, statement + f"select name, relation, created_by, 'x', {given} from relief.detector")


def test_entries_show_themselves_to_whoever_may_act_on_the_detector(world: World) -> None:
    assert query(world.app, "select distinct detector from relief.audit") == ["orders"]
    assert query(world.mallory, "select * from relief.audit") == []
    for role in (world.user, world.scorer):
        with refused("42501"):
            query(role, "select * from relief.audit")


def test_nobody_writes_of_another_s_detector(world: World) -> None:
    given = world.database.query("select name, relation::text, created_by from relief.detector")[0]
    insert = "insert into relief.audit (detector, relation, created_by, action) values (%s, %s, %s, 'x')"
    policy = "new row violates row-level security policy"
    with refused("42501", policy):
        query(world.mallory, insert, *given)
    query(world.mallory, "create table mal.own (x integer)")
    query(world.mallory, "select relief.create_detector('own', 'mal.own', '{x}')")
    for detector, relation, maker in (
        ("orders", "mal.own", world.mallory.info.user),
        ("own", "shop.orders", world.mallory.info.user),
        ("own", "mal.own", world.app.info.user),
        ("gone", "mal.own", world.mallory.info.user),
    ):
        with refused("42501", policy):
            query(world.mallory, insert, detector, relation, maker)


def test_entries_outlive_the_table_and_stay_with_who_made_the_detector(world: World) -> None:
    query(world.app, "drop table shop.orders cascade")
    query(world.app, "select relief.drop_detector('orders')")
    assert query(world.app, "select action from relief.audit where detector = 'orders' order by id") == [
        "create",
        "drop",
    ]
    assert query(world.mallory, "select * from relief.audit") == []


def test_a_detector_of_the_same_name_on_another_s_table_shows_its_own_entries_alone(world: World) -> None:
    query(world.app, "select relief.drop_detector('orders')")
    query(world.mallory, "create table mal.orders (x integer)")
    query(world.mallory, "select relief.create_detector('orders', 'mal.orders', '{x}')")
    assert query(world.mallory, ENTRIES) == [("create", None, None, {"features": ["x"]})]
    assert [entry[0] for entry in query(world.app, ENTRIES)] == ["create", "drop"]
    assert len(world.database.query(ENTRIES)) == 3
