"""Every function, procedure, table, view and generated object × every kind of role: what each may do, by doing it.

What there is comes from the catalog, what is expected from `helpers.rights`: an object that isn't there fails a test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
from helpers.database import Database, query, value
from helpers.forests import add_model, proven, stump
from helpers.rights import (
    FILLED,
    FORBIDDEN,
    FUNCTIONS,
    GENERATED,
    OF_ADMINS,
    OF_USERS,
    OPEN_TO_ALL,
    OPEN_TO_MONITORS,
    OPEN_TO_USERS,
    REFUSALS,
    RELATIONS,
    ROLES,
    WORKS,
    who,
)
from helpers.shop import FEATURES
from helpers.world import make_world
from psycopg import Connection
from relief_runtime.document import checksum

from relief_trainer.document import serialize

PROFILE = {name: {**told, "edges": [0.0], "shares": [0.5, 0.5]} for name, told in stump(FEATURES)["profile"].items()}
DOCUMENT = serialize(proven(stump(FEATURES, profile=PROFILE)))
Roles = dict[str, Connection]

# Of a schema's functions: the signature, the name, whether it is overloaded, and a call with a NULL for each argument.
# None is a constant: a strict function of a constant NULL isn't called at all, and no right is asked for.
FUNCTIONS_OF = """
select p.oid::regprocedure::text, p.proname::text, count(*) over (partition by p.proname) > 1,
       format('select %%s(%%s)', p.oid::regproc,
              (select string_agg(format('(select null::%%s)', t::regtype), ', ' order by n)
               from unnest(p.proargtypes) with ordinality as a (t, n)))
from pg_proc as p where p.pronamespace = %s::regnamespace
order by 1
"""
RELATIONS_OF = """
select c.relname::text from pg_class as c
where c.relnamespace = 'relief'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')
order by 1
"""
CANNOT_BE_DONE_TO_A_VIEW = ("55000", "42809")


@pytest.fixture(scope="module")
def roles(server: str, template: str) -> Iterator[Roles]:
    """Return a connection of each role, to a database where shop.orders has an attached detector and a history."""
    database = Database(server, template)
    world = make_world(database)
    add_model(world.app, "orders", DOCUMENT)
    query(world.app, "select relief.promote('orders')")
    query(world.app, "select relief.attach('orders')")
    for statement in FILLED:
        query(world.app, statement)
    stranger, monitor = database.role("stranger"), database.role("monitor")
    query(database.superuser, f"grant pg_monitor to {monitor}")
    query(database.superuser, "select relief.grant_monitor(%s)", monitor)
    others = (database.connect(stranger), database.connect(monitor))
    yield dict(
        zip(ROLES, (database.superuser, world.app, world.mallory, world.scorer, world.user, *others), strict=True)
    )
    database.drop()


def _refusal(connection: Connection, statement: str, parameters: dict[str, str] | None = None) -> psycopg.Error | None:
    """Run a statement and undo it, unless it calls a procedure, which commits; return how the server refused it."""
    undone = not statement.startswith("call ")
    if undone:
        connection.execute("begin")
    try:
        connection.execute(statement.encode(), parameters)
    except psycopg.Error as refusal:
        return refusal
    finally:
        if undone:
            connection.execute("rollback")
    return None


def _outcome(refusal: psycopg.Error | None) -> str:
    """Return the name of what a role was told, or what it was if that has none."""
    if refusal is None:
        return WORKS
    for outcome, (sqlstate, part) in REFUSALS.items():
        if refusal.sqlstate == sqlstate and part in (refusal.diag.message_primary or ""):
            return outcome
    return f"{refusal.sqlstate}: {refusal}"


def _outcome_with_nulls(refusal: psycopg.Error | None, name: str) -> str:
    """Return whether a function was reached, whatever it made of NULLs, but for internal errors."""
    if refusal is None:
        return WORKS
    assert refusal.sqlstate != "XX000", f"{name}: {refusal}"
    forbidden = {f"permission denied for {what}" for what in (f"function {name}", "schema relief", "schema shop")}
    return FORBIDDEN if refusal.diag.message_primary in forbidden else WORKS


def test_public_functions_and_procedures_work_for_whom_they_are_meant(roles: Roles) -> None:
    found = [
        signature.removeprefix("relief.") if overloaded else name
        for signature, name, overloaded, _ in query(roles["superuser"], FUNCTIONS_OF, "relief")
        if not name.startswith("_")
    ]
    assert sorted(found) == sorted(FUNCTIONS)
    values = {"document": DOCUMENT, "checksum": checksum(DOCUMENT), "role": roles["stranger"].info.user}
    for name, (statement, expected) in FUNCTIONS.items():
        outcomes = {role: _outcome(_refusal(connection, statement, values)) for role, connection in roles.items()}
        assert outcomes == expected, name


def test_private_functions_are_reached_by_admins_alone_but_for_those_that_others_cause_to_be_called(
    roles: Roles,
) -> None:
    found = query(roles["superuser"], FUNCTIONS_OF, "relief")
    expected = dict.fromkeys((signature for signature, name, _, _ in found if name.startswith("_")), OF_ADMINS)
    assert {*OPEN_TO_ALL, *OPEN_TO_USERS, *OPEN_TO_MONITORS} <= set(expected)
    expected |= {signature: {**OF_USERS, "monitor": WORKS} for signature in OPEN_TO_ALL}
    expected |= dict.fromkeys(OPEN_TO_USERS, OF_USERS)
    expected |= {signature: {**OF_ADMINS, "monitor": WORKS} for signature in OPEN_TO_MONITORS}
    for signature, name, _, call in found:
        if signature in expected:
            outcomes = {role: _outcome_with_nulls(_refusal(each, call), name) for role, each in roles.items()}
            assert outcomes == expected[signature], signature


def test_generated_functions_are_for_whoever_may_use_the_tables_schema_but_the_triggers(roles: Roles) -> None:
    found = query(roles["superuser"], FUNCTIONS_OF, "shop")
    assert sorted(name for _, name, _, _ in found) == sorted(GENERATED)
    for _, name, _, call in found:
        outcomes = {role: _outcome_with_nulls(_refusal(each, call), name) for role, each in roles.items()}
        assert outcomes == GENERATED[name], name


def test_tables_and_views_show_the_rows_of_own_detectors_to_admins_and_nothing_to_others(roles: Roles) -> None:
    found = query(roles["superuser"], RELATIONS_OF)
    assert found == sorted(RELATIONS)
    for relation in found:
        seen: dict[str, object] = {}
        for role, connection in roles.items():
            statement = f"select count(*) from relief.{relation}"
            refusal = _refusal(connection, statement)
            seen[role] = value(connection, statement) if refusal is None else _outcome(refusal)
        assert seen["superuser"] != 0, f"{relation} has no row to be hidden: helpers.rights.FILLED"
        everything = seen["superuser"]
        expected = who(everything, everything, 0)
        assert seen == ({**expected, "monitor": everything} if relation == "metrics" else expected), relation


def test_tables_and_views_are_written_by_admins_alone_and_only_where_functions_must(roles: Roles) -> None:
    superuser = roles["superuser"]
    for relation, expected in RELATIONS.items():
        columns = [
            each.name for each in superuser.execute(f"select * from relief.{relation} limit 0".encode()).description
        ]
        for role in ROLES[1:]:
            writes = _writes(roles[role], relation, columns)
            assert writes == (expected if role in ("owner", "admin") else ""), (relation, role)


def _writes(connection: Connection, relation: str, columns: list[str]) -> str:
    """Return what a role may do to a table, as it does it to no row; in parentheses the columns, if not to all."""
    statements = {
        **{f"insert {each}": f"insert into relief.{relation} ({each}) values (default)" for each in columns},
        **{f"update {each}": f"update relief.{relation} set {each} = default where false" for each in columns},
        "delete": f"delete from relief.{relation} where false",
        "truncate": f"truncate relief.{relation} cascade",
        "trigger": f"create trigger t before insert on relief.{relation} execute function relief._check_model()",
    }
    may = [name for name, statement in statements.items() if _may(connection, statement)]
    for verb in ("insert", "update"):
        given = [each for each in columns if f"{verb} {each}" in may]
        if given:
            may.insert(may.index(f"{verb} {given[0]}"), verb if given == columns else f"{verb} ({', '.join(given)})")
    return ", ".join(name for name in may if name.split()[-1] not in columns)


def _may(connection: Connection, statement: str) -> bool:
    """Return whether a role has the right to a statement, though it may fail: as a constraint asks for values."""
    refusal = _refusal(connection, statement)
    return refusal is None or not (_outcome(refusal) == FORBIDDEN or refusal.sqlstate in CANNOT_BE_DONE_TO_A_VIEW)


def test_sequences_are_for_superusers_alone(roles: Roles) -> None:
    sequences = query(
        roles["superuser"],
        "select oid::regclass::text from pg_class where relnamespace = 'relief'::regnamespace and relkind = 'S'",
    )
    assert sequences
    for sequence in sequences:
        for statement in (f"table {sequence}", f"select nextval('{sequence}')", f"select setval('{sequence}', 1)"):
            outcomes = {role: _outcome(_refusal(each, statement)) for role, each in roles.items()}
            assert outcomes == who(WORKS), statement


# The private functions, called with the row of another's detector and its model, and plausible values for other types.
FORGED_CALLS = """
select format('select %%s(%%s)', p.oid::regproc,
              (select string_agg(format('%%s::%%s', coalesce(f.value, 'null'), t::regtype), ', ' order by n)
               from unnest(p.proargtypes) with ordinality as a (t, n)
               left join (values ('relief.detector', %s), ('relief.model', %s), ('text', $$'orders'$$),
                                 ('name', $$'a'$$), ('regclass', $$'shop.orders'$$), ('integer', '1'),
                                 ('oid', $$'shop.orders'::regclass$$), ('boolean', 'true'), ('text[]', $$'{a}'$$),
                                 ('name[]', $$'{a}'$$), ('date', 'now()'))
                 as f (type, value) on to_regtype(f.type) = t))
from pg_proc as p
where p.pronamespace = 'relief'::regnamespace and starts_with(p.proname, '_') and p.prorettype <> 'trigger'::regtype
order by p.proname
"""
# All that there is of the table and of what was made for it, rights included.
STATE = """
select p::text from pg_proc as p where pronamespace = 'shop'::regnamespace
union all select c::text from pg_class as c where relnamespace = 'shop'::regnamespace
union all select a::text from pg_attribute as a where attrelid = 'shop.orders'::regclass
union all select t::text from pg_trigger as t
union all select o::text from shop.orders as o
"""


def _state(superuser: Connection) -> list[str]:
    tables = [relation for relation, writes in RELATIONS.items() if writes]
    kept = (query(superuser, f"select r::text from relief.{table} as r") for table in tables)
    return [sorted(rows) for rows in (query(superuser, STATE), *kept)]


def test_admin_with_the_forged_row_of_anothers_detector_changes_nothing(roles: Roles) -> None:
    superuser, admin = roles["superuser"], roles["admin"].info.user
    rows = (
        value(superuser, f"select quote_literal({table}::text) from relief.{table} where {own}")
        for table, own in (("detector", "name = 'orders'"), ("model", "version = 1"))
    )
    calls = query(superuser, FORGED_CALLS, *rows)
    before = _state(superuser)
    ran = 0
    with superuser.transaction(force_rollback=True):
        superuser.execute(f"set local session authorization {admin}".encode())
        for call in calls:
            with contextlib.suppress(psycopg.Error), superuser.transaction():
                superuser.execute(call.encode())
                ran += 1
        superuser.execute("reset session authorization")
        assert _state(superuser) == before
    # Most do run: what is refused by accident proves nothing.
    assert ran > len(calls) / 2
