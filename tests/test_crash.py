"""kill -9: of the server and of one backend, in the middle of all that Relief does, with writers beside it.

What was committed is there, what wasn't is gone as a whole, and everything can be done again.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from helpers.crash import Victim, running_victim
from helpers.database import query, value
from helpers.forests import train as train_forest
from helpers.sessions import running

from relief_trainer import connection as trainer_connection
from relief_trainer.errors import ReliefError
from relief_trainer.train import Settings, train

pytestmark = [pytest.mark.own_cluster, pytest.mark.server]

ROWS = 5_000
WRITERS = 2

# The version that a row names must give the row's score, and the flag follow from it.
WRONG = """
    select count(*) from shop.orders as o join relief.model as m on m.version = o.relief_model_version
    cross join lateral (
      select relief._score(m.forest_checksum,
                           coalesce(relief._have(m.forest_checksum), relief._fetch(m.forest_checksum)),
                           array[o.a, ln(o.b)], null)) as s (score)
    where o.relief_anomaly_score is distinct from s.score or o.relief_is_anomaly is distinct from s.score >= m.threshold
"""
# A row that was written after the table was attached has a score or a reason.
UNTOLD = """
    select count(*) from shop.orders
    where n is not null and relief_model_version is null and relief_deviation ->> 'error' is null
       or relief_model_version is null and relief_anomaly_score is not null
       or b <= 0 and relief_deviation ->> 'error' is distinct from 'cannot take logarithm of a negative number'
"""
PROFILE = """
    select entity, season, rows, count, minimum, maximum, array(select round(m::numeric, 6) from unnest(mean) as m)
    from relief.profile order by entity, season
"""


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    """Return a durable server with shop.orders, two versions of the detector "orders", attached."""
    with running_victim() as made:
        made.query("create schema shop")
        made.query(
            "create table shop.orders (id bigint generated always as identity primary key, at timestamptz not null "
            "default now(), customer integer not null, a float8, b float8, writer integer, n integer)"
        )
        made.query(
            "insert into shop.orders (at, customer, a, b) select now() - n * interval '1 minute', n %% 20, "
            "random() * 10, 1 + random() from generate_series(1, %s) as n",
            ROWS,
        )
        made.query(
            "select relief.create_detector('orders', 'shop.orders', array['a', 'ln(b) AS log_b'], verdict => 'score', "
            "time_column => 'at', entity => '{customer}')"
        )
        with made.connect() as connection:
            for seed in (1, 2):
                train_forest(connection, "orders", seed=seed, trees=40)
        made.query("select relief.attach('orders')")
        yield made


class _Writer:
    """A session that inserts rows one by one, and knows which of them were acknowledged."""

    def __init__(self, victim: Victim, number: int) -> None:
        self._victim = victim
        self.number = number
        self.sent = self.acknowledged = victim.value(
            "select coalesce(max(n), 0) from shop.orders where writer = %s", number
        )
        self._chance = random.Random(number)

    def write(self, stop: threading.Event) -> None:
        with contextlib.suppress(psycopg.OperationalError), self._victim.connect() as connection:
            while not stop.is_set():
                self.sent += 1
                b = -1 if self._chance.random() < 0.1 else self._chance.uniform(1, 2)
                query(
                    connection,
                    "insert into shop.orders (customer, a, b, writer, n) values (%s, %s, %s, %s, %s)",
                    self._chance.randrange(20),
                    self._chance.uniform(0, 12),
                    b,
                    self.number,
                    self.sent,
                )
                self.acknowledged = self.sent

    def assert_nothing_is_lost(self) -> None:
        stored = self._victim.query("select n from shop.orders where writer = %s order by n", self.number)
        assert stored in (list(range(1, self.acknowledged + 1)), list(range(1, self.sent + 1)))
        self.sent = self.acknowledged = len(stored)


def _promote(victim: Victim, connection: psycopg.Connection) -> None:
    query(connection, "select relief.promote('orders', 1 + (random() < 0.5)::integer)")


def _refresh(victim: Victim, connection: psycopg.Connection) -> None:
    query(connection, "select relief.refresh_profile('orders', random() < 0.5)")


def _backfill(victim: Victim, connection: psycopg.Connection) -> None:
    query(connection, "call relief.backfill('orders', 500)")
    _promote(victim, connection)


def _train(victim: Victim, connection: psycopg.Connection) -> None:
    with trainer_connection.connect(victim.dsn) as training:
        train(training, "orders", Settings(trees=30), promote=True)


KILLED = [_train, _promote, _backfill, _refresh]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("verb", KILLED, ids=lambda verb: verb.__name__.strip("_"))
def test_killed_server_loses_nothing_and_leaves_nothing_half_done(
    victim: Victim, verb: Callable[[Victim, psycopg.Connection], None], kills: int
) -> None:
    chance = random.Random(0)
    told: list[Exception] = []

    def act(stop: threading.Event) -> None:
        try:
            with victim.connect() as connection:
                while not stop.is_set():
                    verb(victim, connection)
        except (psycopg.OperationalError, ReliefError) as error:
            told.append(error)

    for kill in range(kills):
        writers = [_Writer(victim, number) for number in range(WRITERS)]
        versions = victim.query("select version from relief.model")
        with running(act, *[writer.write for writer in writers]):
            time.sleep(chance.uniform(0.3, 1.0))
            if (kill + KILLED.index(verb)) % 2:
                victim.kill_backend(_busiest(victim))
            else:
                victim.kill_server()
        assert len(told) == kill + 1
        for writer in writers:
            writer.assert_nothing_is_lost()
        _assert_whole(victim, versions)
    _assert_all_can_be_done_again(victim)


def _busiest(victim: Victim) -> int:
    """Return the process of the session that runs what isn't an insert."""
    return victim.query(
        "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid() "
        "order by query like 'insert%' limit 1"
    )[0]


def _assert_whole(victim: Victim, versions_before: list[int]) -> None:
    """Assert that versions, scores and what is promoted agree with each other."""
    assert {result for _, result in victim.query("select * from relief.check()")} == {"ok"}
    assert victim.value(UNTOLD) == 0
    assert victim.value(WRONG) == 0
    # A model is there as a whole or not at all.
    versions = victim.query("select version from relief.model order by version")
    assert versions == list(range(1, len(versions) + 1))
    assert len(versions) >= len(versions_before)
    damaged = "select count(*) from relief.model where checksum <> encode(sha256(convert_to(document, 'UTF8')), 'hex')"
    assert victim.value(damaged) == 0
    promoted = victim.value("select promoted_version from relief.detector")
    logged = "select version from relief.audit where action = 'promote' order by id desc limit 1"
    assert victim.value(logged) == promoted
    with victim.connect() as connection, connection.transaction(force_rollback=True):
        inserted = "insert into shop.orders (customer, a, b, n) values (1, 1, 1, 0) returning relief_model_version"
        assert value(connection, inserted) == promoted


def _assert_all_can_be_done_again(victim: Victim) -> None:
    """Assert that what was cut off is made up for: histories and scores are those of all rows."""
    victim.query("call relief.backfill('orders')")
    scored = "relief_anomaly_score is not distinct from shop.relief_score(o)"
    assert victim.value(f"select count(*) from shop.orders as o where b > 0 and not {scored}") == 0
    victim.query("select relief.refresh_profile('orders', \"full\" => true)")
    victim.query("insert into shop.orders (customer, a, b, n) values (1, 1, 1.5, 0)")
    victim.query("select relief.refresh_profile('orders')")
    refreshed = victim.query(PROFILE)
    victim.query("select relief.refresh_profile('orders', \"full\" => true)")
    assert victim.query(PROFILE) == refreshed
    counted = "select rows from relief.profile where entity = '' and season = -1"
    assert victim.value(counted) == victim.value("select count(*) from shop.orders where relief_is_anomaly is not true")
    versions = victim.value("select max(version) from relief.model")
    with trainer_connection.connect(victim.dsn) as connection:
        assert train(connection, "orders", Settings(trees=10)).version == versions + 1
