"""The trigger of an attached detector: what an INSERT, UPDATE or COPY finds in the companion columns."""

from __future__ import annotations

from decimal import Decimal

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump, told, train
from helpers.shop import COMPANIONS, FEATURES, make_orders
from psycopg import Connection

# By the stump with threshold 0.4: a <= 0 is an anomaly of score 0.5, a > 0 is none with 0.125; mean 0, deviation 2.
ANOMALY = (0.5, True, {"a": told(-1.0), "log_b": told(0.0)}, 1)
ORDINARY = (0.125, False, {"a": told(1.0), "log_b": told(0.0)}, 1)
LOGARITHM = {"error": "cannot take logarithm of a negative number"}
UNSCORED = (None, None, None, None)


@pytest.fixture
def attached(orders: Connection) -> Connection:
    """Return a connection to a database where "orders" is attached to shop.orders, with a stump promoted."""
    add_model(orders, "orders", stump(FEATURES))
    query(orders, "select relief.promote('orders')")
    query(orders, "select relief.attach('orders')")
    return orders


@pytest.fixture
def strict(database: Database) -> Connection:
    """Return the same under policy raise."""
    connection = database.superuser
    make_orders(connection, on_error="raise")
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders')")
    query(connection, "select relief.attach('orders')")
    return connection


def _insert(connection: Connection, values: str) -> list[tuple[object, ...]]:
    return query(connection, f"insert into shop.orders (a, b) values {values} returning {COMPANIONS}")


def test_rows_are_scored_as_they_are_inserted(attached: Connection) -> None:
    assert _insert(attached, "(-2, 1), (2, 1)") == [ANOMALY, ORDINARY]


def test_inserted_row_has_the_score_that_a_query_gives(orders: Connection) -> None:
    train(orders, "orders")
    query(orders, "select relief.attach('orders')")
    query(orders, "insert into shop.orders (a, b) select a, b from shop.orders")
    differing = "select count(*) from shop.orders as o where id > 500 and relief_anomaly_score <> shop.relief_score(o)"
    assert value(orders, differing) == 0
    assert value(orders, "select count(relief_anomaly_score) from shop.orders") == 500
    assert 0 < value(orders, "select count(*) from shop.orders where relief_is_anomaly") < 100


def test_copied_rows_are_scored(attached: Connection) -> None:
    with attached.cursor().copy("copy shop.orders (a, b) from stdin") as copy:
        copy.write_row((-2, 1))
        copy.write_row((2, 1))
    assert query(attached, f"select {COMPANIONS} from shop.orders where id > 500 order by id") == [ANOMALY, ORDINARY]


def test_row_with_a_missing_feature_is_scored(attached: Connection) -> None:
    assert _insert(attached, "(null, 1)") == [(0.5, True, {"a": None, "log_b": told(0.0)}, 1)]


def test_row_whose_features_are_all_missing_has_a_version_but_no_score(attached: Connection) -> None:
    assert _insert(attached, "(null, null)") == [(None, None, {"a": None, "log_b": None}, 1)]


def test_insert_survives_a_failing_expression(attached: Connection) -> None:
    assert _insert(attached, "(2, -6), (2, 1)") == [(None, None, LOGARITHM, None), ORDINARY]


def test_insert_is_refused_for_a_failing_expression_under_policy_raise(strict: Connection) -> None:
    assert _insert(strict, "(2, 1)") == [ORDINARY]
    with refused("2201E", "cannot take logarithm of a negative number"):
        _insert(strict, "(2, 1), (2, -6)")
    assert value(strict, "select count(*) from shop.orders where id > 500") == 1


def test_insert_survives_without_a_promoted_model(orders: Connection) -> None:
    query(orders, "select relief.attach('orders')")
    reason = {"error": 'detector "orders" has no promoted model'}
    assert _insert(orders, "(2, 1)") == [(None, None, reason, None)]


def test_insert_is_refused_without_a_promoted_model_under_policy_raise(database: Database) -> None:
    make_orders(database.superuser, on_error="raise")
    database.query("select relief.attach('orders')")
    with refused("55000", 'detector "orders" has no promoted model'):
        _insert(database.superuser, "(2, 1)")


def test_forged_companion_values_are_overwritten(attached: Connection) -> None:
    forged = (
        f"insert into shop.orders (a, b, {COMPANIONS}) values (-2, 1, 0.01, false, '{{}}', 99) returning {COMPANIONS}"
    )
    assert query(attached, forged) == [ANOMALY]
    assert query(
        attached, f"update shop.orders set relief_is_anomaly = false where id = 501 returning {COMPANIONS}"
    ) == [ANOMALY]
    forged = f"update shop.orders set a = 2, relief_anomaly_score = 1 where id = 501 returning {COMPANIONS}"
    assert query(attached, forged) == [(0.125, False, {"a": told(1.0), "log_b": told(0.0)}, 1)]


def test_forged_companion_values_of_a_failing_row_are_cleared(attached: Connection) -> None:
    forged = (
        f"insert into shop.orders (a, b, {COMPANIONS}) values (2, -6, 0.01, false, null, 99) returning {COMPANIONS}"
    )
    assert query(attached, forged) == [(None, None, LOGARITHM, None)]


def test_changed_feature_is_rescored_and_another_column_is_not(attached: Connection) -> None:
    _insert(attached, "(2, 1)")
    add_model(attached, "orders", stump(FEATURES, split=9.0))
    query(attached, "select relief.promote('orders')")
    unchanged = f"update shop.orders set note = 'x', a = a where id = 501 returning {COMPANIONS}"
    assert query(attached, unchanged) == [ORDINARY]
    changed = "update shop.orders set b = 1.0000001 where id = 501 returning relief_anomaly_score, relief_model_version"
    assert query(attached, changed) == [(0.5, 2)]


def test_row_that_fails_is_scored_once_it_is_mended(attached: Connection) -> None:
    _insert(attached, "(2, -6)")
    assert query(attached, f"update shop.orders set b = 1 where id = 501 returning {COMPANIONS}") == [ORDINARY]
    assert query(attached, f"update shop.orders set b = -1 where id = 501 returning {COMPANIONS}") == [
        (None, None, LOGARITHM, None)
    ]


def test_upsert_scores_what_is_stored_in_the_end(attached: Connection) -> None:
    upsert = (
        "insert into shop.orders (id, a, b) values (7, -2, 1) on conflict (id) do update set a = excluded.a + 4, b = 1 "
        f"returning {COMPANIONS}"
    )
    assert query(attached, upsert) == [ORDINARY]
    query(attached, "insert into shop.orders (id, a, b) values (8, 1, 1) on conflict do nothing")
    assert query(attached, f"select {COMPANIONS} from shop.orders where id = 8") == [UNSCORED]


def test_change_by_an_earlier_trigger_is_what_is_scored(attached: Connection) -> None:
    query(
        attached,
        "create function shop.negate() returns trigger language plpgsql as 'begin new.a := -new.a; return new; end'",
    )
    query(
        attached,
        "create trigger negate before insert or update on shop.orders for each row execute function shop.negate()",
    )
    assert _insert(attached, "(2, 1)") == [ANOMALY]
    assert query(attached, f"update shop.orders set note = 'x' where id = 501 returning {COMPANIONS}") == [ORDINARY]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("alter table shop.orders drop column b", 'record "new" has no field "b"'),
        ("alter table shop.orders rename column b to c", 'record "new" has no field "b"'),
        (
            "alter table shop.orders alter column a type float8",
            "function shop._relief_features_orders(double precision, double precision) does not exist",
        ),
        (
            "alter table shop.orders alter column a type text",
            "function shop._relief_features_orders(text, double precision)",
        ),
        (
            "drop function shop._relief_judgement_orders",
            "function shop._relief_judgement_orders(double precision[], text[], text, smallint, boolean)",
        ),
        (
            "drop function shop._relief_features_orders",
            "function shop._relief_features_orders(integer, double precision)",
        ),
        ("alter schema shop rename to shop2", 'schema "shop" does not exist'),
    ],
)
def test_insert_survives_a_changed_table_and_tells_why(
    database: Database, attached: Connection, change: str, reason: str
) -> None:
    _insert(attached, "(2, 1)")
    query(attached, change)
    table = "shop2.orders" if "shop2" in change else "shop.orders"
    insert = f"insert into {table} (a) values ('2') returning {COMPANIONS}"
    score, flag, told, version = query(database.connect(), insert)[0]
    assert (score, flag, version) == (None, None, None)
    assert reason in told["error"]
    # A session that was open before may tell another reason: PL/pgSQL keeps the types of what it planned.
    score, flag, told, version = query(attached, insert)[0]
    assert (score, flag, version) == (None, None, None)
    assert "error" in told
    assert value(attached, "select result from relief.check() where \"check\" = 'detector orders'") != "ok"


def test_row_that_can_not_be_judged_is_refused_under_policy_raise(strict: Connection) -> None:
    query(strict, "drop function shop._relief_judgement_orders")
    with refused(
        "42883", "function shop._relief_judgement_orders(double precision[], text[], text, smallint, boolean)"
    ):
        _insert(strict, "(-2, 1)")


def test_companion_column_of_another_type_is_filled_where_the_value_fits(attached: Connection) -> None:
    query(attached, "alter table shop.orders alter relief_anomaly_score type numeric(4, 3)")
    assert _insert(attached, "(-2, 1)")[0][0] == Decimal("0.500")
    query(attached, "alter table shop.orders alter relief_model_version type date using null")
    assert _insert(attached, "(-2, 1)")[0][0] is None


@pytest.mark.parametrize("column", COMPANIONS.split(", "))
def test_insert_survives_a_dropped_companion_column(database: Database, attached: Connection, column: str) -> None:
    _insert(attached, "(2, 1)")
    if column == "relief_is_anomaly":
        with refused("2BP01", "cannot drop column relief_is_anomaly of table shop.orders"):
            query(attached, f"alter table shop.orders drop column {column}")
    query(attached, f"alter table shop.orders drop column {column} cascade")
    for session in (attached, database.connect()):
        query(session, "insert into shop.orders (a, b) values (2, 1)")
        query(session, "update shop.orders set a = 3 where id = 501")
    assert f"companion column {column} is missing" in value(
        attached, "select result from relief.check() where \"check\" = 'detector orders'"
    )


def test_added_column_and_retyped_other_column_change_nothing(attached: Connection) -> None:
    query(
        attached,
        "alter table shop.orders add column extra integer not null default 5, alter column note type varchar(9)",
    )
    assert _insert(attached, "(-2, 1)") == [ANOMALY]
    assert value(attached, "select shop.relief_score(o) from shop.orders as o where id = 501") == 0.5


def test_retyped_column_that_widens_to_the_old_type_is_still_scored(attached: Connection) -> None:
    query(attached, "alter table shop.orders alter column a type smallint")
    assert _insert(attached, "(-2, 1)") == [ANOMALY]
    assert value(attached, "select shop.relief_score(o) from shop.orders as o where id = 501") == 0.5


def test_statement_timeout_while_scoring_cancels_the_insert(database: Database) -> None:
    connection = database.superuser
    make_orders(connection)
    query(connection, "select relief.drop_detector('orders')")
    query(
        connection,
        "create function shop.slow(integer) returns integer language plpgsql stable as "
        "'begin if $1 = 13 then perform pg_sleep(60); end if; return $1; end'",
    )
    query(connection, "select relief.create_detector('orders', 'shop.orders', '{shop.slow(a) AS a, ln(b) AS log_b}')")
    add_model(connection, "orders", stump(FEATURES))
    query(connection, "select relief.promote('orders')")
    query(connection, "select relief.attach('orders')")
    query(connection, "set statement_timeout = '200ms'")
    with refused("57014", "canceling statement due to statement timeout"):
        _insert(connection, "(13, 1)")
    assert _insert(connection, "(12, 1)")[0][0] == 0.125
    assert value(connection, "select count(*) from shop.orders where a = 13") == 0


def _transactions(connection: Connection, *statements: str) -> int:
    """Return how many numbers of transactions statements take in one: the least of three times, as others take some."""
    taken = []
    for _ in range(3):
        with connection.transaction():
            before = value(connection, "select txid_current()")
            for statement in statements:
                query(connection, statement)
        taken.append(value(connection, "select txid_current()") - before)
    return min(taken)


def test_scoring_takes_no_subtransaction_and_writes_nothing_but_an_event(attached: Connection) -> None:
    inserted = "insert into shop.orders (a, b) values "
    _insert(attached, "(1, 1)")
    ordinary = f"{inserted} (2, 1), (3, 1)"
    updates = ("update shop.orders set a = a - 1 where id = 501", "update shop.orders set b = -6 where id = 502")
    assert _transactions(attached, ordinary, *updates) == 1
    assert value(attached, "select count(*) from relief.event") == 0
    assert _transactions(attached, f"{inserted} (2, 1), (-2, 1)") == 2
    assert value(attached, "select count(*) from relief.event") == 3
    assert _transactions(attached, f"{inserted} (2, 1), (2, -6)") == 2
    assert value(attached, "select count(*) from relief.event") == 6


def test_table_with_hidden_columns_and_partitions_is_scored(database: Database) -> None:
    connection = database.superuser
    query(connection, "create table public.part (day integer, a integer, b float8) partition by range (day)")
    query(connection, "create table public.part_1 partition of public.part for values from (0) to (10)")
    # A partition whose columns lie in another order, with a hole.
    query(connection, "create table public.part_2 (b float8, gone text, a integer, day integer)")
    query(connection, "alter table public.part_2 drop column gone")
    query(connection, "alter table public.part attach partition public.part_2 for values from (10) to (20)")
    query(connection, "select relief.create_detector('part', 'public.part', '{a, ln(b) AS log_b}')")
    add_model(connection, "part", stump(FEATURES))
    query(connection, "select relief.promote('part')")
    query(connection, "select relief.attach('part')")
    query(connection, "create table public.part_3 partition of public.part for values from (20) to (30)")
    inserted = query(
        connection, f"insert into public.part values (1, -2, 1), (11, 2, 1), (21, -2, 1) returning {COMPANIONS}"
    )
    assert inserted == [ANOMALY, ORDINARY, ANOMALY]
    moved = query(connection, f"update public.part set day = 12, a = 2 where day = 1 returning {COMPANIONS}")
    assert moved == [ORDINARY]
    assert query(connection, "select distinct public.relief_score(p) from public.part as p order by 1") == [0.125, 0.5]
