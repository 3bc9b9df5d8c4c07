"""Under load: models promoted every moment beside many writers, and a session that scores for long."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.crash import Victim, running_victim
from helpers.database import query, value
from helpers.forests import train
from psycopg import Connection

pytestmark = [pytest.mark.own_cluster, pytest.mark.server]

VERSIONS = 4
ROWS = 2_000

_INSERT = """
\\set customer random(0, 19)
\\set a random(0, 12)
\\set b random(1, 20)
insert into shop.orders (customer, a, b) values (:customer, :a, :b / 10.0);
"""
# As in test_crash: what a row says must come from the version that it names.
_WRONG = """
    select count(*) from shop.orders as o left join relief.model as m on m.version = o.relief_model_version
    left join lateral (
      select relief._score(m.forest_checksum,
                           coalesce(relief._have(m.forest_checksum), relief._fetch(m.forest_checksum)),
                           array[o.a, ln(o.b)], null)) as s (score) on true
    where m.version is null or o.relief_anomaly_score is distinct from s.score
       or o.relief_is_anomaly is distinct from s.score >= m.threshold
"""
# A version was the promoted one from when promote was called until the next call had returned, at the longest.
_UNTIMELY = """
    select count(*) from shop.orders as o
    where not exists (
      select from public.promotion as p
      where p.version = o.relief_model_version and p.called_at <= o.written_at
        and o.started_at <= coalesce((select min(q.returned_at) from public.promotion as q where q.id > p.id),
                                     'infinity'))
"""


@pytest.fixture
def busy() -> Iterator[Victim]:
    """Return a durable server whose rows of shop.orders say when their transaction began and when they were written."""
    with running_victim() as victim:
        victim.query("create schema shop")
        victim.query(
            "create table shop.orders (id bigint generated always as identity primary key, customer integer, a float8, "
            "b float8, started_at timestamptz default now(), written_at timestamptz)"
        )
        victim.query(
            "insert into shop.orders (customer, a, b) "
            "select n %% 20, random() * 10, 1 + random() from generate_series(1, %s) as n",
            ROWS,
        )
        victim.query(
            "create function shop.note() returns trigger language plpgsql as "
            "'begin new.written_at := clock_timestamp(); return new; end'"
        )
        victim.query(
            "select relief.create_detector('orders', 'shop.orders', array['a', 'ln(b) AS log_b'], verdict => 'score')"
        )
        with victim.connect() as connection:
            for seed in range(VERSIONS):
                train(connection, "orders", seed=seed, trees=50)
        victim.query("truncate shop.orders")
        victim.query("select relief.attach('orders')")
        # It fires after the trigger that scores.
        victim.query('create trigger "~z" before insert on shop.orders for each row execute function shop.note()')
        victim.query(
            "create table public.promotion (id integer generated always as identity primary key, version integer, "
            "called_at timestamptz, returned_at timestamptz)"
        )
        yield victim


def _promote(connection: Connection, version: int) -> None:
    called_at = value(connection, "select clock_timestamp()")
    query(connection, "select relief.promote('orders', %s)", version)
    query(
        connection,
        "insert into public.promotion (version, called_at, returned_at) values (%s, %s, clock_timestamp())",
        version,
        called_at,
    )


def _pgbench(victim: Victim) -> str:
    beside = victim.cluster.bin / "pgbench"
    found = str(beside) if beside.exists() else shutil.which("pgbench")
    assert found, "Install: pgbench, which Debian has in postgresql-<version>"
    return found


@pytest.mark.parametrize(("clients", "seconds"), [(8, 5), pytest.param(64, 60, marks=pytest.mark.soak)])
def test_rows_come_from_a_version_that_was_promoted_while_they_were_written(
    busy: Victim, tmp_path: Path, clients: int, seconds: int
) -> None:
    script = tmp_path / "insert.sql"
    script.write_text(_INSERT)
    arguments = [_pgbench(busy), "-n", "-f", str(script), "-M", "prepared", "-T", str(seconds)]
    arguments += ["-c", str(clients), "-j", "2", busy.dsn]
    with busy.connect() as connection:
        _promote(connection, 1)
        load = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        promotions = 0
        while load.poll() is None:
            promotions += 1
            _promote(connection, promotions % VERSIONS + 1)
            time.sleep(seconds / 60)
    output, _ = load.communicate()
    assert load.returncode == 0, output
    assert "number of failed transactions: 0 (" in output, output
    acknowledged = int(output.partition("number of transactions actually processed: ")[2].split()[0])
    # A transaction may have been committed that pgbench, its time over, didn't wait for.
    assert acknowledged <= busy.value("select count(*) from shop.orders") <= acknowledged + clients
    assert busy.value(_WRONG) == 0
    assert busy.value(_UNTIMELY) == 0
    assert busy.value("select count(distinct relief_model_version) from shop.orders") == VERSIONS


@pytest.mark.soak
def test_memory_of_a_session_is_flat_over_a_million_scores_and_200_promotions(busy: Victim) -> None:
    """It may grow while forests are loaded and compiled, which the first tenth does for every version."""
    busy.query('drop trigger "~z" on shop.orders')
    busy.query(
        "insert into shop.orders (customer, a, b) select n % 20, n % 12, 1 + n % 7 from generate_series(1, 5000) as n"
    )
    resident = []
    with busy.connect() as session, busy.connect() as connection:
        for round_number in range(200):
            query(connection, "select relief.promote('orders', %s)", round_number % VERSIONS + 1)
            query(session, "select sum(shop.relief_score(o)) from shop.orders as o")
            query(session, "update shop.orders set a = a + 1 where id % 50 = 0")
            resident.append(_private_kilobytes(session.info.backend_pid))
    # As tests/bench says: 50 kB a promotion at most.
    assert resident[-1] <= resident[20] + 50 * (len(resident) - 20), resident[::10]


def _private_kilobytes(process: int) -> int:
    """Return the memory that a process shares with no file and no other process."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("/proc has no RssAnon")
