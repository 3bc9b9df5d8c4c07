"""Quarantine: an anomaly is kept out of its table, whole, until somebody releases or discards it."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import attach_orders
from helpers.world import World, told
from psycopg import Connection
from psycopg.rows import dict_row

LOW = "insert into shop.orders (a, b) values (-2, 1)"
NEW = "select id, a, b, relief_is_anomaly from shop.orders where id > 500 order by id"
RELEASE = "select relief.release(%s, 'checked')"


@pytest.fixture
def orders(database: Database) -> Connection:
    """Return a connection to a database where anomalies are kept out of shop.orders: a <= 0."""
    attach_orders(database.superuser, ", mode => 'quarantine'")
    return database.superuser


def _held(connection: Connection) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute("select * from relief.quarantine order by id").fetchall()


def test_an_anomaly_is_kept_out_and_an_ordinary_row_goes_in(orders: Connection) -> None:
    cursor = orders.execute("insert into shop.orders (a, b) values (-2, 1), (2, 1) returning a")
    assert (cursor.fetchall(), cursor.statusmessage) == ([(2,)], "INSERT 0 1")
    assert query(orders, NEW) == [(502, 2, 1, False)]
    (held,) = _held(orders)
    assert held["row_values"] == {"id": "501", "a": "-2", "b": "1", "note": None}
    assert (held["detector"], held["key"], held["state"], held["score"]) == ("orders", {"id": 501}, "held", 0.5)
    assert held["inserted_by"] == value(orders, "select session_user")
    assert held["sentence"].startswith("a -2 is 1 deviations below the mean")
    anomalies = query(orders, "select key, quarantine_id, quarantine, sentence from relief.anomaly")
    assert anomalies == [({"id": 501}, held["id"], "held", held["sentence"])]
    assert value(orders, "select held_rows from relief.status") == 1


def test_a_row_that_can_not_be_scored_goes_in(orders: Connection) -> None:
    query(orders, "insert into shop.orders (a, b) values (-2, -6)")
    assert query(orders, NEW) == [(501, -2, -6, None)]
    assert _held(orders) == []


def test_a_released_row_is_as_it_was_to_be_and_labelled_as_ordinary(orders: Connection) -> None:
    query(orders, "insert into shop.orders (a, b, note) values (-2, 1, %s)", """it's "\\ 1%s""")
    query(orders, RELEASE, _held(orders)[0]["id"])
    assert query(orders, "select id, a, b, note, relief_is_anomaly from shop.orders where id > 500") == [
        (501, -2, 1, """it's "\\ 1%s""", True)
    ]
    (held,) = _held(orders)
    assert (held["state"], held["reason"], held["resolved_by"], held["releasing_in"]) == (
        "released",
        "checked",
        value(orders, "select current_user"),
        None,
    )
    assert query(orders, "select key, is_anomaly, note from relief.label") == [({"id": 501}, False, "checked")]
    assert query(orders, "select quarantine, is_anomaly, note from relief.anomaly") == [("released", False, "checked")]
    assert query(orders, "select action, reason, details from relief.audit order by id desc limit 1") == [
        ("release", "checked", {"quarantine": held["id"], "key": {"id": 501}})
    ]
    # What was released lets nothing else pass.
    query(orders, LOW)
    assert [row["state"] for row in _held(orders)] == ["released", "held"]


def test_a_release_may_say_that_the_row_is_an_anomaly_or_nothing(orders: Connection) -> None:
    query(orders, "insert into shop.orders (a, b) values (-2, 1), (-3, 1)")
    for held, is_anomaly in zip(_held(orders), (True, None), strict=True):
        query(orders, "select relief.release(%s, is_anomaly => %s)", held["id"], is_anomaly)
    assert query(orders, "select key, is_anomaly from relief.label") == [({"id": 501}, True)]


def test_a_discarded_row_stays_out_and_what_it_was_is_kept(orders: Connection) -> None:
    query(orders, LOW)
    held = _held(orders)[0]["id"]
    query(orders, "select relief.discard(%s, 'a typing error')", held)
    assert query(orders, NEW) == []
    assert query(orders, "select state, reason, row_values ->> 'a' from relief.quarantine") == [
        ("discarded", "a typing error", "-2")
    ]
    assert value(orders, "select action from relief.audit order by id desc limit 1") == "discard"
    for verb in ("release", "discard"):
        with refused("55000", f'row {held} was discarded by "', f"select * from relief.quarantine where id = {held};"):
            query(orders, f"select relief.{verb}(%s)", held)


@pytest.mark.parametrize("verb", ["release", "discard"])
def test_a_row_that_is_not_there_can_not_be_resolved(orders: Connection, verb: str) -> None:
    for number in (12345, None):
        with refused("P0002", f"row {number or 'NULL'} is not in quarantine", "where state = 'held';"):
            query(orders, f"select relief.{verb}(%s)", number)


def test_a_row_with_a_key_that_is_there_is_treated_as_the_statement_says(orders: Connection) -> None:
    query(orders, "insert into shop.orders (a, b) values (2, 1)")
    insert = "insert into shop.orders (id, a, b) values (501, -2, 1)"
    with refused("23505", "orders_pkey"):
        query(orders, insert)
    query(orders, insert + " on conflict do nothing")
    assert query(orders, NEW) == [(501, 2, 1, False)]
    query(orders, insert + " on conflict (id) do update set a = excluded.a")
    assert query(orders, NEW) == [(501, -2, 1, True)]
    assert _held(orders) == []
    query(orders, "insert into shop.orders (id, a, b) values (502, -2, 1) on conflict (id) do update set a = 5")
    assert len(_held(orders)) == 1


def test_an_update_to_an_anomaly_is_flagged(orders: Connection) -> None:
    query(orders, "insert into shop.orders (a, b) values (2, 1)")
    query(orders, "update shop.orders set a = -2 where id = 501")
    assert query(orders, NEW) == [(501, -2, 1, True)]
    assert _held(orders) == []


def test_a_row_whose_key_was_taken_meanwhile_stays_in_quarantine(orders: Connection) -> None:
    query(orders, LOW)
    query(orders, "insert into shop.orders (id, a, b) values (501, 2, 1)")
    held = _held(orders)[0]["id"]
    with refused("23505", "orders_pkey"):
        query(orders, RELEASE, held)
    assert _held(orders)[0]["state"] == "held"


def test_a_trigger_that_keeps_a_released_row_out_is_told(orders: Connection) -> None:
    query(orders, LOW)
    query(orders, "create function shop.never() returns trigger language plpgsql as 'begin return null; end'")
    query(orders, "create trigger never before insert on shop.orders for each row execute function shop.never()")
    held = _held(orders)[0]["id"]
    with refused("09000", f"row {held} was not taken by table shop.orders", f"select relief.discard({held});"):
        query(orders, RELEASE, held)
    assert _held(orders)[0]["state"] == "held"


def test_copied_anomalies_are_kept_out(orders: Connection) -> None:
    with orders.cursor().copy("copy shop.orders (a, b) from stdin") as copy:
        for a in (-2, 2, -3):
            copy.write_row((a, 1))
    assert query(orders, "select a from shop.orders where id > 500") == [2]
    assert [held["row_values"]["a"] for held in _held(orders)] == ["-2", "-3"]


TYPES = {
    "real": "'1.1'",
    "float8": "'0.1'",
    "numeric": "'1.500'",
    "numeric(8, 3)": "'NaN'",
    "money": "'-1234.56'",
    "text": r"E'\\ '' \" , {} \n'",
    "varchar(5)": "'x   '",
    "char(5)": "'x'",
    "bytea": r"'\x00ff5c'",
    "json": """'{"b": 1,   "a": 2, "a": 3}'""",
    "jsonb": """'{"a": [1, null, "x"]}'""",
    "jsonb ": "'\"text\"'",
    "date": "'infinity'",
    "timestamptz": "'1900-02-03 04:05:06.789+11'",
    "timestamp": "'0044-03-15 BC'",
    "interval": "'-1 year +2 days -03:04:05.6'",
    "integer[]": "'[2:4]={1,NULL,3}'",
    "text[]": """'{"a,b",NULL,"NULL",""}'""",
    "int4range": "'[1,5)'",
    "xml": "'<a>  x</a>'",
    "uuid": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
    "inet": "'10.1.2.3/8'",
    "bit varying": "B'0101'",
    "shop.mood": "'so \"so\"'",
    "shop.pair": "row(null, 'x, \"y')",
    "shop.small": "7",
}


SESSIONS = (
    "set datestyle = default",
    "set datestyle = 'SQL, DMY'; set intervalstyle = 'sql_standard'; set extra_float_digits = 0; "
    "set bytea_output = 'escape'; set timezone = 'Asia/Kolkata'",
)


@pytest.mark.parametrize("preferences", SESSIONS)
def test_every_type_is_released_as_it_was_whatever_the_session_prefers(database: Database, preferences: str) -> None:
    connection = database.superuser
    query(connection, "create schema shop; create type shop.mood as enum ('so \"so\"')")
    query(connection, "create type shop.pair as (one integer, two text)")
    query(connection, "create domain shop.small as integer check (value < 10)")
    columns = ", ".join(f"c{n} {name}" for n, name in enumerate(TYPES))
    query(
        connection,
        f"create table shop.orders (id integer generated always as identity primary key, a integer, {columns}, "
        "twice integer generated always as (a * 2) stored)",
    )
    query(connection, "select relief.create_detector('orders', 'shop.orders', '{a}')")
    add_model(connection, "orders", stump(["a"]))
    query(connection, "select relief.promote('orders')")
    query(connection, "select relief.attach('orders', mode => 'quarantine')")
    row = "insert into shop.orders (a, {}) values (-2, {})".format(
        ", ".join(f"c{n}" for n in range(len(TYPES))), ", ".join(TYPES.values())
    )
    session = database.connect()
    query(session, preferences)
    query(session, row.replace("%", "%%"))
    query(session, row.replace("%", "%%"))
    query(connection, "select relief.release(id) from relief.quarantine")
    query(connection, 'alter table shop.orders disable trigger "~relief_gate"')
    query(connection, row.replace("%", "%%"))
    everything = "a, twice, " + ", ".join(f"c{n}::text" for n in range(len(TYPES)))
    one, other, direct = query(connection, f"select {everything} from shop.orders order by id")
    assert one == other == direct
    assert query(connection, "select id from shop.orders order by id") == [1, 2, 3]


def test_what_becomes_of_the_table_meanwhile_is_followed(orders: Connection) -> None:
    query(orders, "alter table shop.orders add column given text, add column gone text")
    query(
        orders,
        "insert into shop.orders (a, b, note, given, gone) values (-2, 1, 'n', 'g', 'x'), (-3, 1, 'n', 'g', 'x')",
    )
    query(orders, "alter table shop.orders add column extra integer not null default 5, drop column gone")
    query(orders, "alter table shop.orders rename note to remark")
    query(orders, "alter table shop.orders alter b type numeric")
    query(orders, "alter table shop.orders rename to sales; alter table shop.sales rename id to number")
    one, other = (held["id"] for held in _held(orders))
    assert told(orders, RELEASE, one) == [
        f"row {one} is released without its values of gone, which table shop.sales has no more"
    ]
    query(orders, "select relief.regenerate('orders')")
    query(orders, RELEASE, other)
    released = query(orders, "select number, a, remark, given, extra from shop.sales where number > 500 order by 1")
    assert released == [(501, -2, "n", "g", 5), (502, -3, "n", "g", 5)]
    assert query(orders, "select key from relief.label order by key") == [{"number": 501}, {"number": 502}]


def test_a_row_whose_table_is_made_anew_is_released_into_that(orders: Connection) -> None:
    query(orders, LOW)
    query(orders, "create table shop.other (like shop.orders including all)")
    query(orders, "drop table shop.orders cascade")
    held = _held(orders)[0]["id"]
    with refused("42P01", 'of detector "orders" does not exist any more'):
        query(orders, RELEASE, held)
    query(orders, "alter table shop.other rename to orders")
    query(orders, "select relief.regenerate('orders')")
    query(orders, RELEASE, held)
    assert query(orders, NEW) == [(501, -2, 1, True)]


def test_partitions_keep_anomalies_out_whichever_is_written_to(database: Database) -> None:
    connection = database.superuser
    query(connection, "create table sale (id integer, a integer, primary key (id)) partition by range (id)")
    query(connection, "create table low partition of sale for values from (0) to (500)")
    query(connection, "create table high (gone text, a integer, id integer not null)")
    query(connection, "alter table high drop column gone")
    query(connection, "alter table sale attach partition high for values from (500) to (1000)")
    query(connection, "select relief.create_detector('sale', 'sale', '{a}')")
    add_model(connection, "sale", stump(["a"]))
    query(connection, "select relief.promote('sale')")
    query(connection, "select relief.attach('sale', mode => 'quarantine')")
    query(connection, "insert into sale values (1, -2), (501, -2), (2, 2), (502, 2)")
    query(connection, "insert into high (id, a) values (503, -2)")
    assert query(connection, "select id from sale order by id") == [2, 502]
    assert query(connection, "select distinct relation::text from relief.quarantine") == ["sale"]
    query(connection, "select relief.release(id) from relief.quarantine")
    assert query(connection, "select tableoid::regclass::text, id from sale order by id") == [
        ("low", 1),
        ("low", 2),
        ("high", 501),
        ("high", 502),
        ("high", 503),
    ]


def test_a_row_without_a_key_is_released_without_a_label(database: Database) -> None:
    connection = database.superuser
    query(connection, "create table plain (a integer)")
    query(connection, "select relief.create_detector('plain', 'plain', '{a}')")
    add_model(connection, "plain", stump(["a"]))
    query(connection, "select relief.promote('plain')")
    query(connection, "select relief.attach('plain', mode => 'quarantine')")
    query(connection, "insert into plain values (-2), (-2)")
    query(connection, "select relief.release(id) from relief.quarantine")
    assert query(connection, "select a from plain") == [-2, -2]
    assert query(connection, "select * from relief.label") == []


def test_what_fails_in_holding_back_lets_the_row_in_under_policy_pass(orders: Connection) -> None:
    query(orders, "alter table relief.quarantine add constraint never check (detector <> 'orders') not valid")
    messages = told(orders, LOW)
    assert len(messages) == 1
    assert messages[0].startswith("anomaly was stored, not held in quarantine: ")
    assert query(orders, NEW) == [(501, -2, 1, True)]
    assert query(orders, "select key, quarantine_id from relief.anomaly") == [({"id": 501}, None)]


def test_what_fails_in_holding_back_refuses_the_row_under_policy_raise(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", mode => 'quarantine'", on_error="raise")
    query(connection, "alter table relief.quarantine add constraint never check (detector <> 'orders') not valid")
    with refused("23514", "never"):
        query(connection, LOW)


def test_a_detector_that_holds_rows_is_not_dropped_and_says_so_when_detached(orders: Connection) -> None:
    query(orders, LOW)
    with refused(
        "55006", 'detector "orders" holds 1 rows in quarantine', "select relief.discard(id) from relief.quarantine"
    ):
        query(orders, "select relief.drop_detector('orders')")
    assert told(orders, "select relief.set_mode('orders', 'flag')") == ['detector "orders" holds 1 rows in quarantine']
    assert told(orders, "select relief.detach('orders')") == ['detector "orders" holds 1 rows in quarantine']
    query(orders, "select relief.release(id) from relief.quarantine")
    assert [row[:3] for row in query(orders, NEW)] == [(501, -2, 1)]
    query(orders, "select relief.drop_detector('orders')")


def test_released_rows_pass_where_anomalies_are_refused_by_now(orders: Connection) -> None:
    query(orders, LOW)
    query(orders, "select relief.set_mode('orders', 'reject')")
    query(orders, "select relief.release(id) from relief.quarantine")
    assert [row[:3] for row in query(orders, NEW)] == [(501, -2, 1)]


@pytest.mark.parametrize("verb", ["release", "discard"])
def test_of_two_sessions_that_resolve_a_row_at_once_one_is_told(
    database: Database, orders: Connection, verb: str
) -> None:
    query(orders, LOW)
    held = _held(orders)[0]["id"]
    other, outcome = database.connect(), []

    def resolve() -> None:
        try:
            query(other, f"select relief.{verb}(%s)", held)
        except psycopg.Error as error:
            outcome.append(error.sqlstate)

    with orders.transaction():
        query(orders, RELEASE, held)
        waiting = threading.Thread(target=resolve)
        waiting.start()
        while not database.value("select exists (select from pg_locks where not granted)"):
            pass
    waiting.join()
    assert outcome == ["55000"]
    assert [row[:3] for row in query(orders, NEW)] == [(501, -2, 1)]


def test_users_without_rights_on_relief_are_held_back_and_can_not_pass(world: World) -> None:
    add_model(world.app, "orders", stump(["a", "log_b"]))
    query(world.app, "select relief.promote('orders')")
    query(world.app, "select relief.attach('orders', mode => 'quarantine')")
    query(world.user, LOW)
    (held,) = _held(world.app)
    assert (held["inserted_by"], held["created_by"]) == (world.user.info.user, world.app.info.user)
    for statement in (
        "select relief.release(1)",
        "select * from relief.quarantine",
        "insert into relief.quarantine (detector, releasing_in) values ('orders', pg_current_xact_id())",
        "update relief.quarantine set releasing_in = pg_current_xact_id()",
    ):
        with refused("42501", "permission denied for schema relief"):
            query(world.user, statement)
    # Whoever may act on detectors of his own sees nothing of this one.
    assert _held(world.mallory) == []
    with refused("P0002", f"row {held['id']} is not in quarantine"):
        query(world.mallory, RELEASE, held["id"])
    superuser = world.database.superuser
    with refused("42501", "is a superuser, and table shop.orders belongs to"):
        query(superuser, RELEASE, held["id"])
    query(world.app, RELEASE, held["id"])
    assert value(world.app, "select count(*) from shop.orders where a = -2 and b = 1") == 1


def test_owner_who_is_no_admin_has_rows_held_back_in_his_name(database: Database) -> None:
    """A role that is granted the owner's, and is admin, attaches for an owner who has no right on Relief."""
    owner, admin = database.role("owner"), database.role("admin")
    database.query(f"grant {owner} to {admin}")
    database.query("select relief.grant_admin(%s)", admin)
    database.query(f"create schema shop authorization {owner}")
    as_owner, as_admin = database.connect(owner), database.connect(admin)
    query(as_owner, "create table shop.orders (id integer primary key, a integer)")
    query(as_admin, "select relief.create_detector('orders', 'shop.orders', '{a}')")
    add_model(as_admin, "orders", stump(["a"]))
    query(as_admin, "select relief.promote('orders')")
    for mode in ("notify", "quarantine", "reject", "quarantine"):
        query(as_admin, f"select relief.{'detach' if mode != 'notify' else 'promote'}('orders')")
        query(as_admin, "select relief.attach('orders', mode => %s)", mode)
        if mode == "quarantine":
            assert told(as_owner, "insert into shop.orders values (5, -2)") == []
        if mode == "notify":
            assert told(as_owner, "insert into shop.orders values (1, -2)") == []
    assert value(as_admin, "select count(*) from relief.quarantine") == 2
    query(as_admin, "select relief.release(min(id)) from relief.quarantine")
    assert query(as_owner, "select id from shop.orders order by id") == [1, 5]
