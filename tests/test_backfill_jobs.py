"""``relief backfill``: several connections at once score what one would, whatever happens beside them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner, Result
from helpers.database import Database, value
from helpers.forests import add_model, stump
from helpers.shop import FEATURES, attach_orders

from relief_trainer import backfill as library
from relief_trainer.cli import main
from relief_trainer.progress import Progress

ROWS = 20_000
STALE = "select count(*) from shop.orders where relief_model_version is distinct from %s"


@pytest.fixture
def attached(database: Database) -> Database:
    """Return a database where "orders" is attached to shop.orders, with 20,000 rows that aren't scored."""
    attach_orders(database.superuser, rows=ROWS)
    database.query("analyze shop.orders")
    return database


class Interrupted(Progress):
    """Progress that ends after some rows, as by Ctrl-C."""

    @contextmanager
    def counting(self, *_: object) -> Iterator[Callable[[int], None]]:
        rows = 0

        def advance(further: int) -> None:
            nonlocal rows
            rows += further
            if rows > 1000:
                raise InterruptedError

        yield advance


def _run(database: Database, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["backfill", *arguments, "--dsn", database.dsn()])


def test_every_row_is_scored_once_by_one_of_the_connections(attached: Database) -> None:
    done = _run(attached, "orders", "--jobs", "3", "--batch-rows", "500", "--json")
    assert json.loads(done.stdout) == {"detector": "orders", "rows": ROWS, "failed": 0, "jobs": 3}
    assert "scoring orders: 20,000 rows" in done.stderr
    assert attached.value(STALE, 1) == 0
    wrong = "select count(*) from shop.orders as o where relief_anomaly_score is distinct from shop.relief_score(o)"
    assert attached.value(wrong) == 0
    assert attached.value("select count(distinct xmin::text) from shop.orders") >= ROWS / 500 / 2
    assert _run(attached, "orders").stdout == "orders: 0 rows scored\n"


def test_partitions_are_scored_and_noted(database: Database) -> None:
    connection = database.superuser
    database.query("create schema shop")
    database.query("create table shop.part (id integer, a integer, b float8) partition by range (id)")
    for number in range(3):
        database.query(
            f"create table shop.part_{number} partition of shop.part for values from ({number}000) to ({number + 1}000)"
        )
    database.query("insert into shop.part select n, n % 7 - 3, 1 + n from generate_series(0, 2999) as n")
    database.query("select relief.create_detector('part', 'shop.part', '{a, ln(b) AS log_b}', 0.05)")
    add_model(connection, "part", stump(FEATURES))
    database.query("select relief.promote('part')")
    database.query("select relief.attach('part')")
    assert _run(database, "part", "--jobs", "2").stdout == "part: 3,000 rows scored\n"
    assert database.value("select count(*) from shop.part where relief_model_version = 1") == 3000
    assert {result for _, result in database.query("select * from relief.check()")} == {"ok"}


def test_rows_that_fail_are_tried_once_and_the_others_scored(attached: Database) -> None:
    attached.query("alter table shop.orders disable trigger user")
    attached.query("update shop.orders set b = -1 where id % 100 = 0")
    attached.query("alter table shop.orders enable trigger user")
    done = _run(attached, "orders", "--jobs", "2")
    assert done.stdout == f"orders: {ROWS * 99 // 100:,} rows scored\n"
    assert "warning: 200 rows could not be scored; their relief_deviation says why" in done.stderr
    assert attached.value(STALE, 1) == ROWS // 100


def test_rows_that_others_have_locked_are_scored_in_the_end(attached: Database) -> None:
    holder = attached.connect(autocommit=False)
    holder.execute("update shop.orders set a = -4 where id <= 300")
    runs: list[Result] = []
    thread = threading.Thread(target=lambda: runs.append(_run(attached, "orders", "--jobs", "2")))
    thread.start()
    while attached.value(STALE, 1) > 300:
        time.sleep(0.01)
    holder.commit()
    thread.join()
    assert runs[0].exit_code == 0, runs[0].output
    assert attached.value(STALE, 1) == 0


def test_backfill_that_is_stopped_is_resumed(attached: Database) -> None:
    with pytest.raises(InterruptedError):
        library.backfill(attached.dsn(), "orders", jobs=2, batch_rows=100, progress=Interrupted.silent())
    left = attached.value(STALE, 1)
    assert 0 < left < ROWS
    assert _run(attached, "orders").stdout == f"orders: {left:,} rows scored\n"
    assert value(attached.superuser, STALE, 1) == 0


def test_what_cannot_be_scored_is_refused_as_by_the_procedure(attached: Database) -> None:
    attached.query("select relief.detach('orders')")
    done = _run(attached, "orders")
    assert done.exit_code == 1
    assert 'error: detector "orders" is not attached, or its trigger is disabled' in done.stderr
    assert "hint: Attach it: select relief.attach('orders');" in done.stderr
    assert 'detector "nothing" does not exist' in _run(attached, "nothing").stderr
