"""What becomes of an inserted anomaly by the mode: it is notified of, or refused; and how the mode is changed."""

from __future__ import annotations

import json

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import FEATURES, attach_orders, make_orders
from psycopg import Connection, errors

TRIGGERS = "select tgname::text from pg_trigger where tgrelid = 'shop.orders'::regclass order by 1"
MODE = "select mode from relief.status"
COUNT = "select count(*) from shop.orders where id > 500"
LOW = "insert into shop.orders (a, b) values (-2, 1)"
HIGH = "insert into shop.orders (a, b) values (2, 1)"


def _heard(listener: Connection) -> list[dict[str, object]]:
    return [json.loads(notice.payload) for notice in listener.notifies(timeout=0)]


def _listen(database: Database, detector: str = "orders") -> Connection:
    listener = database.connect()
    channel = value(listener, "select quote_ident(relief.channel(%s))", detector)
    query(listener, f"listen {channel}")
    return listener


def test_flag_is_the_default_and_notifies_nobody(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection)
    listener = _listen(database)
    query(connection, LOW)
    assert value(connection, MODE) == "flag"
    assert query(connection, TRIGGERS) == ["~relief", "~relief_event"]
    query(listener, "select 1")
    assert _heard(listener) == []


def test_an_anomaly_is_notified_of_with_its_key_and_an_ordinary_row_is_not(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", mode => 'notify'")
    listener = _listen(database)
    query(connection, HIGH)
    query(connection, "insert into shop.orders (a, b) values (2, -6)")
    query(connection, LOW)
    query(listener, "select 1")
    (told,) = _heard(listener)
    (event,) = query(connection, "select to_jsonb(a) from relief.anomaly as a")
    assert told == {
        "event": event["event"],
        "detector": "orders",
        **{part: event[part] for part in ("key", "score", "severity", "verdict", "sentence")},
    }
    assert told["key"] == {"id": 503}


def test_nothing_is_notified_of_what_is_rolled_back(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", mode => 'notify'")
    listener = _listen(database)
    with connection.transaction(force_rollback=True):
        query(connection, LOW)
    query(listener, "select 1")
    assert _heard(listener) == []


def test_chosen_columns_are_told_with_what_the_database_makes_of_them(database: Database) -> None:
    connection = database.superuser
    make_orders(connection)
    query(connection, 'alter table shop.orders add "us""er" text, add twice integer generated always as (a * 2) stored')
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders')")
    query(
        connection,
        "select relief.attach('orders', mode => 'notify', notify_columns => array['note', 'us\"er', 'twice'])",
    )
    listener = _listen(database)
    query(connection, """insert into shop.orders (a, b, note, "us""er") values (-2, 1, 'x', 'y')""")
    query(listener, "select 1")
    assert [told["columns"] for told in _heard(listener)] == [{"note": "x", 'us"er': "y", "twice": -4}]
    query(connection, 'alter table shop.orders rename "us""er" to who')
    query(connection, "select relief.regenerate('orders')")
    query(connection, "insert into shop.orders (a, b, who) values (-2, 1, 'z')")
    query(listener, "select 1")
    assert [told["columns"] for told in _heard(listener)] == [{"note": None, "who": "z", "twice": -4}]
    query(connection, "alter table shop.orders drop column twice")
    query(connection, "select relief.regenerate('orders')")
    query(connection, LOW)
    query(listener, "select 1")
    assert [told["columns"] for told in _heard(listener)] == [{"note": None, "who": None}]


@pytest.mark.parametrize(
    ("note", "key", "cut"),
    [("x", "k", None), ("x" * 9000, "k", ["columns"]), ("ö" * 3700, "k", None), ("ö" * 4000, "k", ["columns"]),
     ("x", "k" * 9000, ["columns", "sentence", "key"])],
)  # fmt: skip
def test_a_notification_that_is_too_long_is_cut_and_says_so(
    database: Database, note: str, key: str, cut: list[str] | None
) -> None:
    connection = database.superuser
    query(connection, "create table long (key text, a integer, note text)")
    query(connection, "create unique index long_key on long (md5(key))")
    query(connection, "alter table long add primary key (key)")
    query(connection, "select relief.create_detector('long', 'long', '{a}')")
    add_model(connection, "long", stump(["a"]))
    query(connection, "select relief.promote('long')")
    query(connection, "select relief.attach('long', mode => 'notify', notify_columns => '{note}')")
    listener = _listen(database, "long")
    query(connection, "insert into long values (%s, -2, %s)", key, note)
    query(listener, "select 1")
    (told,) = _heard(listener)
    assert told.get("cut") == cut
    assert told["event"] == value(connection, "select event from relief.anomaly")
    assert ("columns" in told) == (cut is None)
    assert ("key" in told) == (cut is None or "key" not in cut)


@pytest.mark.parametrize("detector", ["orders", 'Läden & "Co" %s', "ö" * 28, "ö" * 29, "x" * 63])
def test_the_channel_is_a_name_of_63_bytes_for_any_detector(database: Database, detector: str) -> None:
    channel = value(database.superuser, "select relief.channel(%s)", detector)
    assert len(channel.encode()) <= 63
    assert (channel == f"relief_{detector}") == (len(detector.encode()) <= 56)
    listener = _listen(database, detector)
    query(listener, "select pg_notify(relief.channel(%s), '{}')", detector)
    assert _heard(listener) == [{}]


def test_an_anomaly_is_refused_with_what_is_strange(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", mode => 'reject'")
    query(connection, HIGH)
    with pytest.raises(errors.CheckViolation) as failure:
        query(connection, "insert into shop.orders (a, b) values (3, 1), (-2, 1)")
    told = failure.value.diag
    assert told.message_primary.startswith(
        'anomaly is refused by detector "orders": a -2 is 1 deviations below the mean'
    )
    assert told.message_detail == "The score is 0.5, the threshold 0.4, the severity 0.5, by version 1."
    assert told.message_hint.endswith("select relief.set_mode('orders', 'flag');")
    assert (told.schema_name, told.table_name, told.constraint_name) == ("shop", "orders", "~relief_gate")
    assert value(connection, COUNT) == 1
    with refused("23514"), connection.cursor().copy("copy shop.orders (a, b) from stdin") as copy:
        copy.write_row((-2, 1))


def test_policy_pass_lets_rows_in_that_can_not_be_scored_where_anomalies_are_refused(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", mode => 'reject'")
    query(connection, "insert into shop.orders (a, b) values (-2, -6)")
    assert query(connection, "select reason from relief.failure") == ["cannot take logarithm of a negative number"]
    # Nor does it matter whether the anomaly can be explained.
    query(connection, "drop function shop._relief_explanation_orders")
    with refused("23514", 'anomaly is refused by detector "orders": it can\'t be explained'):
        query(connection, LOW)


def test_an_update_is_refused_only_where_it_makes_the_row_strange(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection)
    query(connection, LOW)
    query(connection, "select relief.set_mode('orders', 'reject')")
    query(connection, "update shop.orders set note = 'x' where id = 501")
    query(connection, "update shop.orders set relief_model_version = null where id = 501")
    query(connection, "call relief.backfill('orders')")
    for statement in ("update shop.orders set a = -3 where id = 501", "update shop.orders set a = -3 where a = 1"):
        with refused("23514", "a -3 is"):
            query(connection, statement)
    upsert = "insert into shop.orders (id, a, b) values (501, %s, 1) on conflict (id) do "
    with refused("23514", "a -4 is"):
        query(connection, upsert + "update set a = excluded.a", -4)
    query(connection, upsert + "nothing", -4)
    query(connection, upsert + "update set note = 'y'", -4)
    assert query(connection, "select a, note from shop.orders where id = 501") == [(-2, "y")]


def test_modes_are_changed_and_kept_when_made_anew(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", events_per_second => 7")
    for mode, triggers in (
        ("reject", ["~relief", "~relief_event", "~relief_gate"]),
        ("notify", ["~relief", "~relief_event"]),
        ("quarantine", ["~relief", "~relief_event", "~relief_gate"]),
        ("flag", ["~relief", "~relief_event"]),
    ):
        query(connection, "select relief.set_mode('orders', %s)", mode)
        for _ in range(2):
            assert value(connection, MODE) == mode
            assert query(connection, TRIGGERS) == triggers
            assert query(connection, "select distinct result from relief.check()") == ["ok"]
            query(connection, "select relief.regenerate('orders')")
    assert value(connection, "select events_per_second from relief.detector") == 7
    assert query(connection, "select details ->> 'mode' from relief.audit where action = 'set_mode' order by id") == [
        "reject",
        "notify",
        "quarantine",
        "flag",
    ]
    query(connection, "select relief.set_mode('orders', 'reject')")
    query(connection, "select relief.detach('orders')")
    assert query(connection, TRIGGERS) == []
    query(connection, "select relief.attach('orders')")
    assert value(connection, MODE) == "flag"
    query(connection, "select relief.set_mode('orders', 'reject')")
    query(connection, "select relief.drop_detector('orders')")
    assert query(connection, "select proname from pg_proc where pronamespace = 'shop'::regnamespace") == []


def test_check_finds_a_gate_that_is_gone_disabled_or_of_another_table(database: Database) -> None:
    connection = database.superuser
    attach_orders(connection, ", mode => 'quarantine'")
    result = "select result from relief.check() where \"check\" = 'detector orders'"
    query(connection, 'alter table shop.orders disable trigger "~relief_gate"')
    assert 'trigger "~relief_gate" is disabled; alter table shop.orders enable' in value(connection, result)
    query(connection, 'drop trigger "~relief_gate" on shop.orders')
    assert (
        value(connection, result)
        == "trigger \"~relief_gate\" on table shop.orders is missing; select relief.regenerate('orders');"
    )
    query(connection, "select relief.regenerate('orders')")
    assert value(connection, result) == "ok"
    query(connection, "alter table shop.orders drop constraint orders_pkey")
    assert value(connection, result).startswith("the trigger was made for the table as it was")


@pytest.mark.parametrize(
    ("options", "sqlstate", "message", "hint"),
    [
        (
            "mode => 'warn'",
            "22023",
            'mode of detector "orders" is "warn"',
            "one of flag, notify, quarantine and reject.",
        ),
        ("mode => null", "22023", 'mode of detector "orders" is "NULL"', "one of flag, notify, quarantine and reject."),
        (
            "notify_columns => '{a}'",
            "22023",
            'notify_columns of detector "orders" are {a}, and its mode is "flag"',
            "Take mode => 'notify', or leave them out.",
        ),
        (
            "mode => 'notify', notify_columns => null",
            "22023",
            'notify_columns of detector "orders" are NULL, and its mode is "notify"',
            "or leave them out.",
        ),
        (
            "mode => 'notify', notify_columns => '{a, nope}'",
            "42703",
            'notify column "nope" of detector "orders" is not a column of table shop.orders',
            "The columns are: id, a, b, note",
        ),
        (
            "mode => 'notify', notify_columns => '{null}'",
            "42703",
            'notify column "NULL" of detector "orders"',
            "id, a, b",
        ),
        (
            "events_per_second => 0",
            "22003",
            'events_per_second of detector "orders" is 0, not between 1 and 10000',
            "100 is the default.",
        ),
        ("events_per_second => 10001", "22003", "is 10001, not between 1 and 10000", "100 is the default."),
        ("events_per_second => null", "22003", "is NULL, not between 1 and 10000", "100 is the default."),
        (
            "on_replica => true, mode => 'reject'",
            "0A000",
            'detector "orders" cannot reject what a subscription applies',
            "take mode flag or notify, or attach without on_replica.",
        ),
        (
            "on_replica => true, mode => 'quarantine'",
            "0A000",
            'detector "orders" cannot hold back what a subscription applies',
            "take mode flag or notify, or attach without on_replica.",
        ),
    ],
)
def test_modes_that_can_not_be_are_refused(
    orders: Connection, options: str, sqlstate: str, message: str, hint: str
) -> None:
    with refused(sqlstate, message, hint):
        query(orders, f"select relief.attach('orders', {options})")
    assert query(orders, TRIGGERS) == []


def test_the_mode_of_what_is_not_attached_can_not_be_changed(orders: Connection) -> None:
    with refused("55000", 'detector "orders" is not attached', "select relief.attach('orders', mode => 'reject');"):
        query(orders, "select relief.set_mode('orders', 'reject')")
    with refused("55000", hint="select relief.attach('orders', mode => 'flag');"):
        query(orders, "select relief.set_mode('orders', 'block')")


def test_what_is_attached_on_a_replica_can_not_be_told_to_hold_back(orders: Connection) -> None:
    query(orders, "select relief.attach('orders', on_replica => true)")
    with refused("0A000", "cannot hold back what a subscription applies", "attach without on_replica."):
        query(orders, "select relief.set_mode('orders', 'quarantine')")
    query(orders, "select relief.set_mode('orders', 'notify')")
    enabled = "select tgenabled::text from pg_trigger where tgrelid = 'shop.orders'::regclass"
    assert query(orders, enabled) == ["A", "A"]
