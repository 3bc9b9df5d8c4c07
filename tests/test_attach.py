"""Attaching and detaching: what they change about a table, and what they refuse."""

from __future__ import annotations

import psycopg
import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.shop import COMPANIONS, FEATURES
from psycopg import Connection
from relief_runtime import __version__

OUR_COLUMNS = (
    "select attname::text, format_type(atttypid, atttypmod), attnotnull, col_description(attrelid, attnum) "
    "from pg_attribute where attrelid = %s::regclass and attname like 'relief%%' and not attisdropped order by attnum"
)
TRIGGERS = "select tgname::text from pg_trigger where tgrelid = 'shop.orders'::regclass and not tgisinternal"
GENERATED = "select proname::text from pg_proc where pronamespace = 'shop'::regnamespace order by 1"


@pytest.fixture
def promoted(orders: Connection) -> Connection:
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    return orders


def _messages(connection: Connection, statement: str) -> list[tuple[str, str, str]]:
    """Run a statement and return severity, message and hint of what the server told beside."""
    told: list[tuple[str, str, str]] = []

    def note(notice: object) -> None:
        told.append((notice.severity, notice.message_primary, notice.message_hint or ""))

    connection.add_notice_handler(note)
    query(connection, statement)
    connection.remove_notice_handler(note)
    return told


def test_attach_adds_the_four_columns_with_comments(promoted: Connection) -> None:
    assert _messages(promoted, "select relief.attach('orders')") == []
    columns = query(promoted, OUR_COLUMNS, "shop.orders")
    assert [column[:3] for column in columns] == [
        ("relief_anomaly_score", "double precision", False),
        ("relief_is_anomaly", "boolean", False),
        ("relief_deviation", "jsonb", False),
        ("relief_model_version", "integer", False),
    ]
    assert all(column[3].startswith("Relief: ") for column in columns)


def test_attach_rewrites_nothing(promoted: Connection) -> None:
    place = "select pg_relation_filenode('shop.orders'), pg_relation_size('shop.orders')"
    before = query(promoted, place)
    query(promoted, "select relief.attach('orders')")
    assert query(promoted, place) == before
    assert value(promoted, "select count(*) from shop.orders where relief_model_version is not null") == 0


def test_attach_says_that_no_model_is_promoted(orders: Connection) -> None:
    assert _messages(orders, "select relief.attach('orders')") == [
        (
            "NOTICE",
            'detector "orders" has no promoted model yet: rows get a NULL score until it has',
            "Train one: relief train orders --promote",
        )
    ]


def test_attach_warns_of_publications(promoted: Connection) -> None:
    query(promoted, "create publication everything for all tables")
    query(promoted, 'create publication "just orders" for table shop.orders')
    ((severity, message, hint),) = _messages(promoted, "select relief.attach('orders')")
    assert severity == "WARNING"
    assert message.startswith('table shop.orders is published by everything, "just orders": replication stops')
    assert "add column relief_deviation jsonb" in hint


def test_second_attach_is_refused(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    with refused("42710", "a detector is attached to table shop.orders already", "select relief.detach('orders');"):
        query(promoted, "select relief.attach('orders')")
    query(promoted, "select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    with refused("42710", "a detector is attached to table shop.orders already", "select relief.detach('orders');"):
        query(promoted, "select relief.attach('second')")


def test_foreign_trigger_of_the_same_name_is_left_alone(promoted: Connection) -> None:
    query(promoted, "create function shop.f() returns trigger language plpgsql as 'begin return new; end'")
    query(promoted, 'create trigger "~relief" before insert on shop.orders for each row execute function shop.f()')
    with refused("42710", "attached to table shop.orders already", 'drop trigger "~relief" on shop.orders;'):
        query(promoted, "select relief.attach('orders')")
    assert query(promoted, OUR_COLUMNS, "shop.orders") == []


@pytest.mark.parametrize(
    ("definition", "kind"),
    [
        ("view shop.v as select * from shop.orders", "view"),
        ("materialized view shop.v as select * from shop.orders", "materialized view"),
    ],
)
def test_views_can_be_scored_in_queries_but_not_attached(promoted: Connection, definition: str, kind: str) -> None:
    query(promoted, f"create {definition}")
    query(promoted, "select relief.create_detector('v', 'shop.v', '{a, ln(b) AS log_b}')")
    add_model(promoted, "v", stump(FEATURES))
    query(promoted, "select relief.promote('v')")
    assert value(promoted, "select count(shop.relief_score(v)) from shop.v as v") == 500
    with refused(
        "42809", f'detector "v" cannot be attached: shop.v is a {kind}', "select shop.relief_score(o) from shop.v as o;"
    ):
        query(promoted, "select relief.attach('v')")
    query(promoted, "select relief.create_detector('w', 'shop.v', '{a}', score_function => false)")
    with refused("42809", hint="queries: select relief.score('w', to_jsonb(o)) from shop.v as o;"):
        query(promoted, "select relief.attach('w')")


def test_partition_is_told_of_its_parent_as_it_is(promoted: Connection) -> None:
    query(promoted, "create table shop.sale (a integer, b float8) partition by range (a)")
    query(promoted, "create table shop.sale_1 partition of shop.sale for values from (0) to (9)")
    for name in ("sale", "sale_1"):
        query(promoted, f"select relief.create_detector('{name}', 'shop.{name}', '{{a, b}}')")
    hint = "select shop.relief_score(o) from shop.sale_1 as o; Or make a detector of shop.sale."
    told = []
    for _ in range(2):
        with pytest.raises(psycopg.Error) as failure:
            query(promoted, "select relief.attach('sale_1')")
        assert failure.value.sqlstate == "42809"
        assert hint in (failure.value.diag.message_hint or "")
        told.append(failure.value.diag.message_primary)
        query(promoted, "select relief.attach('sale')" if len(told) == 1 else "select 1")
    cause = 'detector "sale_1" cannot be attached: shop.sale_1 is a partition of shop.sale'
    assert told == [cause, f"{cause}, which has the columns"]


def test_column_of_the_same_name_and_another_type_is_refused(promoted: Connection) -> None:
    query(promoted, "alter table shop.orders add column relief_is_anomaly text")
    message = 'column "relief_is_anomaly" of table shop.orders is of type text, not boolean'
    with refused("42701", message, "rename yours"):
        query(promoted, "select relief.attach('orders')")
    assert query(promoted, TRIGGERS) == []


@pytest.mark.parametrize("definition", ["boolean not null default false", "boolean generated always as (a > 0) stored"])
def test_column_that_could_not_take_a_null_is_refused(promoted: Connection, definition: str) -> None:
    query(promoted, f"alter table shop.orders add column relief_is_anomaly {definition}")
    kind = definition.split()[1].replace("not", "not null")
    with refused("42P16", f'column "relief_is_anomaly" of table shop.orders is {kind}', "rename yours, or alter it"):
        query(promoted, "select relief.attach('orders')")


def test_detach_keeps_columns_and_what_is_in_them(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, "insert into shop.orders (a, b) values (-2, 1)")
    query(promoted, "select relief.detach('orders')")
    query(promoted, "insert into shop.orders (a, b) values (-2, 1)")
    assert query(promoted, "select relief_anomaly_score from shop.orders where id > 500 order by id") == [0.5, None]
    assert query(promoted, TRIGGERS) == []
    assert "_relief_trigger_orders" not in query(promoted, GENERATED)


def test_table_that_was_renamed_and_moved_is_detached_and_dropped_wholly(promoted: Connection) -> None:
    for verb in ("detach", "drop_detector"):
        query(promoted, "select relief.attach('orders')")
        query(promoted, "create schema if not exists other")
        query(promoted, "alter table shop.orders rename to sales")
        inserted = "insert into {} (a, b) values (-2, 1) returning relief_is_anomaly"
        assert value(promoted, inserted.format("shop.sales")) is True
        recorded = "select relation::text from relief.event order by id desc limit 1"
        assert value(promoted, recorded) == "shop.sales"
        query(promoted, "alter table shop.sales set schema other")
        query(promoted, f"select relief.{verb}('orders')")
        assert query(promoted, TRIGGERS.replace("shop.orders", "other.sales")) == []
        query(promoted, inserted.format("other.sales"))
        left = set(query(promoted, GENERATED))
        assert not left & {"_relief_trigger_orders", "_relief_event_orders"}
        query(promoted, "alter table other.sales set schema shop; alter table shop.sales rename to orders")
    assert left == set()


def test_detach_drops_columns_when_told(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, "select relief.detach('orders', drop_columns => true)")
    assert query(promoted, OUR_COLUMNS, "shop.orders") == []
    assert value(promoted, "select count(shop.relief_score(o)) from shop.orders as o") == 500


def test_attach_after_detach_finds_the_columns(promoted: Connection) -> None:
    for _ in range(2):
        query(promoted, "select relief.attach('orders')")
        query(promoted, "insert into shop.orders (a, b) values (-2, 1)")
        query(promoted, "select relief.detach('orders')")
    assert query(promoted, "select relief_anomaly_score from shop.orders where id > 500") == [0.5, 0.5]
    query(promoted, "alter table shop.orders drop column relief_deviation")
    query(promoted, "select relief.attach('orders')")
    assert value(promoted, f"insert into shop.orders (a, b) values (-2, 1) returning ({COMPANIONS})::text").startswith(
        "(0.5,t,"
    )


def test_attaching_again_is_refused_with_the_way_to_another_mode(promoted: Connection) -> None:
    query(promoted, "select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    query(promoted, "select relief.attach('orders')")
    already = "a detector is attached to table shop.orders already"
    mode, detach = "select relief.set_mode('orders', 'notify');", "etach it first: select relief.detach('orders');"
    with refused("42710", already, f"For another mode alone: {mode} else d{detach}"):
        query(promoted, "select relief.attach('orders', mode => 'notify')")
    with refused("42710", already, f"D{detach}"):
        query(promoted, "select relief.attach('second')")
    query(promoted, mode)


def test_detach_of_what_is_not_attached_is_refused(promoted: Connection) -> None:
    with refused("55000", 'detector "orders" is not attached', "select relief.attach('orders');"):
        query(promoted, "select relief.detach('orders')")


def test_detector_of_a_shared_table_leaves_the_other_ones_columns(promoted: Connection) -> None:
    query(promoted, "select relief.create_detector('second', 'shop.orders', '{a}', score_function => false)")
    query(promoted, "select relief.attach('orders')")
    query(promoted, "select relief.drop_detector('second', drop_columns => true)")
    assert len(query(promoted, OUR_COLUMNS, "shop.orders")) == 4


def test_drop_detector_leaves_nothing_but_the_columns(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, "select relief.drop_detector('orders')")
    assert query(promoted, GENERATED) == []
    assert query(promoted, TRIGGERS) == []
    assert len(query(promoted, OUR_COLUMNS, "shop.orders")) == 4
    for table in ("detector", "feature", "model", "profile"):
        assert value(promoted, f"select count(*) from relief.{table}") == 0
    query(promoted, "insert into shop.orders (a, b) values (-2, -1)")


def test_drop_detector_drops_the_columns_when_told(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, "select relief.drop_detector('orders', drop_columns => true)")
    assert query(promoted, OUR_COLUMNS, "shop.orders") == []


def test_detector_of_a_dropped_table_can_be_dropped(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, "drop table shop.orders cascade")
    for verb in ("promote", "attach", "detach"):
        with refused("42P01", 'of detector "orders" does not exist any more', "select relief.drop_detector('orders');"):
            query(promoted, f"select relief.{verb}('orders')")
    assert "is gone; select relief.drop_detector('orders');" in value(
        promoted, "select result from relief.check() where \"check\" = 'detector orders'"
    )
    query(promoted, "select relief.drop_detector('orders')")
    assert query(promoted, GENERATED) == []


def test_detector_of_a_table_moved_to_another_schema_can_be_made_again(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, "create schema depot")
    query(promoted, "alter table shop.orders set schema depot")
    assert value(promoted, "insert into depot.orders (a, b) values (-2, 1) returning relief_anomaly_score") == 0.5
    message = 'function depot._relief_features_orders of detector "orders" does not exist any more'
    with refused("42883", message, "select relief.regenerate('orders');"):
        query(promoted, "select relief.promote('orders')")
    query(promoted, "select relief.drop_detector('orders')")
    assert query(promoted, GENERATED) == []
    query(promoted, "insert into depot.orders (a, b) values (-2, 1)")
    query(promoted, "select relief.create_detector('orders', 'depot.orders', '{a}')")


def test_renamed_table_goes_on_as_before(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, 'alter table shop.orders rename to "old ""orders"""')
    add_model(promoted, "orders", stump(FEATURES, split=-3.0))
    query(promoted, "select relief.promote('orders')")
    inserted = (
        'insert into shop."old ""orders""" (a, b) values (-2, 1) returning relief_anomaly_score, relief_model_version'
    )
    assert query(promoted, inserted) == [(0.125, 2)]
    query(promoted, "select relief.detach('orders', true)")
    query(promoted, "select relief.drop_detector('orders')")
    assert query(promoted, GENERATED) == []


def test_check_finds_an_installation_and_a_detector_in_order(promoted: Connection) -> None:
    query(promoted, "select relief.attach('orders')")
    assert {result for _, result in query(promoted, "select * from relief.check()")} == {"ok"}


@pytest.mark.parametrize(
    ("damage", "advice"),
    [
        ('alter table shop.orders disable trigger "~relief"', 'alter table shop.orders enable trigger "~relief";'),
        ('drop trigger "~relief" on shop.orders', "select relief.detach('orders'); select relief.attach('orders');"),
        ("drop function shop._relief_verdict_orders", "function shop._relief_verdict_orders is gone"),
        ("drop function shop.relief_score(shop.orders)", "function relief_score(shop.orders) is gone"),
        ("alter table shop.orders drop column b", "column b of table shop.orders is gone"),
        (
            "alter table shop.orders alter a type float8",
            "column a of table shop.orders is of type double precision, not integer",
        ),
        (
            "alter schema shop rename to shop2",
            "table shop2.orders was in schema shop when the detector was made; select relief.regenerate('orders');",
        ),
        (
            "alter table shop.orders drop column relief_is_anomaly cascade",
            "add column relief_is_anomaly boolean;\n"
            """trigger "~relief_event" on table shop.orders is missing; select relief.detach('orders');""",
        ),
        ('drop trigger "~relief_event" on shop.orders', 'trigger "~relief_event" on table shop.orders is missing'),
        ("drop function shop.relief_explain", "function relief_explain(shop.orders) is gone"),
        ("drop function shop._relief_judgement_orders", "function shop._relief_judgement_orders is gone"),
        (
            'create trigger "~~" before insert on shop.orders for each row '
            "execute function shop._relief_trigger_orders()",
            'trigger "~~" on table shop.orders fires after "~relief"',
        ),
    ],
)
def test_check_tells_what_is_damaged_and_what_to_do(promoted: Connection, damage: str, advice: str) -> None:
    query(promoted, "select relief.attach('orders')")
    query(promoted, damage)
    assert advice in value(promoted, "select result from relief.check() where \"check\" = 'detector orders'")


def test_check_of_a_new_installation_is_all_ok(database: Database) -> None:
    checks = dict(database.query("select * from relief.check()"))
    assert checks == {
        "PostgreSQL 14 or later": "ok",
        "plpython3u is installed": "ok",
        "PL/Python scores as it should": "ok",
        "no other Python shares the server": "ok",
        f"Relief {__version__}": "ok",
    }
