"""Promotion: from when a version scores, and that a row's score, flag and version always come from one."""

from __future__ import annotations

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, constant, stump
from helpers.sessions import hammer
from helpers.shop import FEATURES, make_orders
from psycopg import Connection

# Version n of the models below scores every row n/100, and flags it if n is odd.
VERSIONS = 20


@pytest.fixture
def versions(database: Database) -> Database:
    """Return a database with twenty versions of "orders", the first promoted, and "orders" attached."""
    make_orders(database.superuser, rows=50)
    for version in range(1, VERSIONS + 1):
        score = version / 100
        add_model(database.superuser, "orders", constant(FEATURES, score, score / 2 if version % 2 else 1.0))
    database.query("select relief.promote('orders', 1)")
    database.query("select relief.attach('orders')")
    return database


INSERT = "insert into shop.orders (a, b) values (1, 1) returning relief_model_version"
SELECT = "select round(shop.relief_score(o) * 100)::integer from shop.orders as o where id = 1"
BY_NAME = """select model_version from relief.detect('orders', '{"a": 1}')"""


def test_promote_takes_the_newest_version_or_a_given_one(versions: Database) -> None:
    assert versions.value("select relief.promote('orders')") == VERSIONS
    assert versions.value(INSERT) == VERSIONS
    assert versions.value("select relief.promote('orders', 3)") == 3
    assert versions.value(INSERT) == 3
    assert versions.value("select promoted_version from relief.detector") == 3


def test_open_session_scores_with_the_new_version_in_its_next_transaction(versions: Database) -> None:
    session = versions.connect()
    for version in (1, 2, 1, 5):
        versions.query("select relief.promote('orders', %s)", version)
        assert [value(session, statement) for statement in (INSERT, SELECT, BY_NAME)] == [version] * 3


def test_prepared_statements_score_with_the_new_version_in_the_next_transaction(versions: Database) -> None:
    session = versions.connect(prepare_threshold=0)
    query(session, f"prepare scored as {SELECT}")
    for version in [1] * 7 + [2] * 7 + [3]:
        versions.query("select relief.promote('orders', %s)", version)
        assert value(session, "execute scored") == version
        assert value(session, INSERT) == version
        assert value(session, BY_NAME) == version


def test_promotion_is_seen_by_its_own_transaction_and_by_no_other_before_commit(versions: Database) -> None:
    promoter, other = versions.connect(autocommit=False), versions.connect()
    query(promoter, "select relief.promote('orders', 2)")
    assert value(promoter, INSERT) == 2
    assert [value(other, statement) for statement in (INSERT, SELECT, BY_NAME)] == [1, 1, 1]
    promoter.commit()
    assert [value(other, statement) for statement in (INSERT, SELECT, BY_NAME)] == [2, 2, 2]


def test_rolled_back_promotion_was_never_visible(versions: Database) -> None:
    promoter, other = versions.connect(autocommit=False), versions.connect()
    query(promoter, "select relief.promote('orders', 2)")
    assert value(other, INSERT) == 1
    promoter.rollback()
    for session in (promoter, other, versions.connect()):
        assert [value(session, statement) for statement in (INSERT, SELECT, BY_NAME)] == [1, 1, 1]


def test_promotion_without_a_model_or_of_an_unknown_version_is_refused(orders: Connection) -> None:
    with refused("42704", 'detector "orders" has no model', "Train one: relief train orders"):
        query(orders, "select relief.promote('orders')")
    add_model(orders, "orders", stump(FEATURES))
    add_model(orders, "orders", stump(FEATURES))
    with refused("42704", 'detector "orders" has no model of version 7', "The versions are: 1, 2."):
        query(orders, "select relief.promote('orders', 7)")


def test_version_whose_document_is_gone_is_told_by_name(versions: Database) -> None:
    versions.query("delete from relief.model where version = 1")
    with refused("02000", "is not stored any more", "Promote a stored version"), versions.connect() as session:
        query(session, SELECT)
    with versions.connect() as session:
        reason = value(session, "insert into shop.orders (a, b) values (1, 1) returning relief_deviation ->> 'error'")
    assert "is not stored any more" in reason


DISAGREEING = """
    select count(*) from shop.orders
    where relief_model_version is not null
      and (abs(relief_anomaly_score - relief_model_version / 100.0) > 1e-9
           or relief_is_anomaly <> (relief_model_version % 2 = 1))
"""


@pytest.mark.parametrize("seconds", [2.5, pytest.param(60.0, marks=pytest.mark.soak)])
def test_score_flag_and_version_agree_under_promotion(versions: Database, seconds: float) -> None:
    def act(connection: Connection, number: int) -> None:
        if number % 4 == 0:
            query(connection, "select relief.promote('orders', %s)", number // 4 % VERSIONS + 1)
        elif number % 4 == 1:
            query(connection, "update shop.orders set a = (a + 1) %% 10 where id = %s", number % 50 + 1)
        else:
            query(connection, "insert into shop.orders (a, b) select n, 1 from generate_series(1, 10) as n")

    assert hammer(4, seconds, act, versions) == []
    assert versions.value(DISAGREEING) == 0
    assert versions.value("select count(*) from shop.orders where relief_deviation ? 'error'") == 0
    assert versions.value("select count(distinct relief_model_version) from shop.orders") > 3


def test_rows_written_after_promote_returned_have_at_least_that_version(versions: Database) -> None:
    promoted = [1]

    def act(connection: Connection, number: int) -> None:
        if number % 3 == 0 and promoted[0] < VERSIONS:
            query(connection, "select relief.promote('orders', %s)", promoted[0] + 1)
            promoted[0] += 1
        else:
            floor = promoted[0]
            assert value(connection, INSERT) >= floor

    assert hammer(3, 1.5, act, versions) == []
    assert promoted[0] > 1


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_sessions_that_promote_at_once_all_succeed(versions: Database, seconds: float) -> None:
    def act(connection: Connection, number: int) -> None:
        query(connection, "select relief.promote('orders', %s)", number % VERSIONS + 1)

    assert hammer(4, seconds, act, versions) == []
    assert versions.value(INSERT) == versions.value("select promoted_version from relief.detector")


def test_promotions_of_two_detectors_of_one_table_do_not_get_in_each_others_way(versions: Database) -> None:
    versions.query("select relief.create_detector('second', 'shop.orders', '{a, b}', score_function => false)")
    for version in (1, 2):
        add_model(versions.superuser, "second", constant(["a", "b"], version / 100, 1.0))

    def act(connection: Connection, number: int) -> None:
        query(connection, "select relief.promote(%s, %s)", ("orders", "second")[number % 2], number % 2 + 1)

    assert hammer(4, 1.0, act, versions) == []


def test_attaching_detaching_and_promoting_at_once_ends_in_order_or_in_clear_errors(versions: Database) -> None:
    def act(connection: Connection, number: int) -> None:
        match number % 4:
            case 0:
                query(connection, "select relief.promote('orders', %s)", number % VERSIONS + 1)
            case 1:
                query(connection, "select relief.attach('orders')")
            case 2:
                query(connection, "select relief.detach('orders')")
            case _:
                query(connection, "insert into shop.orders (a, b) values (1, 1)")

    allowed = ("is not attached", "attached to table shop.orders already")
    for refusal in hammer(4, 1.5, act, versions):
        assert any(words in str(refusal) for words in allowed), str(refusal)
    assert versions.value(DISAGREEING) == 0


def test_promotion_under_repeatable_read_succeeds_or_is_refused_clearly(versions: Database) -> None:
    def act(connection: Connection, number: int) -> None:
        with connection.transaction():
            query(connection, "set transaction isolation level repeatable read")
            query(connection, "select relief.promote('orders', %s)", number % VERSIONS + 1)

    for refusal in hammer(3, 1.0, act, versions):
        assert refusal.sqlstate == "40001", str(refusal)
    assert versions.value(INSERT) == versions.value("select promoted_version from relief.detector")
