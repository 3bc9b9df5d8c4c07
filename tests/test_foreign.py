"""Foreign data inside PostgreSQL: a table of MariaDB, through mysql_fdw."""

from __future__ import annotations

import psycopg
import pytest
from helpers.database import Database, refused
from helpers.sources import ROWS, Places
from helpers.stores import MariaDB

from relief_trainer.connection import connect
from relief_trainer.sample import Request
from relief_trainer.train import Settings, train

pytestmark = pytest.mark.mysql_fdw


@pytest.fixture
def shop(database: Database, mariadb: MariaDB, tmp_path, request: pytest.FixtureRequest) -> Database:
    """Return a database with the orders of MariaDB in the foreign table shop.orders, and a detector on it."""
    Places(tmp_path, request.getfixturevalue).fill("mariadb")
    database.query("create extension mysql_fdw")
    database.query(
        f"create server maria foreign data wrapper mysql_fdw options (host '127.0.0.1', port '{mariadb.port}')"
    )
    database.query(
        f"create user mapping for current_user server maria options (username 'app', password '{mariadb.password}')"
    )
    database.query("create schema shop")
    database.query("import foreign schema shop limit to (orders) from server maria into shop")
    database.query("select relief.create_detector('orders', 'shop.orders', array['a', 'ln(c + 1) AS log_c'], 0.05)")
    return database


def trained(database: Database, rows: int = 100_000):
    with connect(database.dsn()) as connection:
        return train(connection, "orders", Settings(trees=20, request=Request(rows=rows)), promote=True)


def test_a_foreign_table_is_trained_on_and_scored_in_a_query(shop: Database) -> None:
    assert trained(shop).rows == len(ROWS)
    shop.query("create table shop.copy as select * from shop.orders")
    shop.query("select relief.create_detector('copy', 'shop.copy', array['a', 'ln(c + 1) AS log_c'], 0.05)")
    shop.query(
        "select relief.add_model('copy', document, checksum) from relief.model as m "
        "join relief.detector as d on d.id = m.detector_id where d.name = 'orders'"
    )
    shop.query("select relief.promote('copy')")
    scores = "select id, shop.relief_score(o) from shop.{} as o order by id"
    assert shop.query(scores.format("orders")) == shop.query(scores.format("copy"))
    assert shop.value("select count(*) from shop.orders as o where shop.relief_score(o) >= 0.5") > 0


def test_what_mariadb_writes_is_scored_by_the_next_query(shop: Database, mariadb: MariaDB) -> None:
    trained(shop)
    mariadb.run("insert into orders values (1000, 1e9, 0, 1e11, 'strange', null)")
    score = shop.value("select shop.relief_score(o) from shop.orders as o where id = 1000")
    assert score == shop.value("select relief.score('orders', '{\"a\": 1e9, \"c\": 1e11}')")
    # As the README has it: mysql_fdw 2.8 would send the expression of an order with a limit to MariaDB.
    scored = "select o.id, shop.relief_score(o) as score from shop.orders as o offset 0"
    assert shop.value(f"select score from ({scored}) as t order by score desc limit 1") >= score


def test_a_sample_of_a_foreign_table_is_drawn_however_large_it_was_when_analyzed(shop: Database) -> None:
    shop.query("update pg_class set reltuples = 1000000, relpages = 10000 where oid = 'shop.orders'::regclass")
    result = trained(shop, rows=50)
    assert result.rows == 50


def test_attach_to_a_foreign_table_is_refused_with_the_reason(shop: Database) -> None:
    trained(shop)
    with refused("42809", "shop.orders is a foreign table", "relief_score(o)"):
        shop.query("select relief.attach('orders')")


def test_a_server_that_does_not_answer_is_told_by_training(shop: Database) -> None:
    shop.query("alter server maria options (set port '1')")
    with pytest.raises(Exception, match="failed to connect to MySQL") as caught:
        trained(shop)
    assert not isinstance(caught.value, psycopg.Error)
