"""Writing to an attached table, against the same table bare: single rows by many clients, and COPY."""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from relief_runtime.session import MODELS_KEPT

from relief_trainer.cluster import Cluster
from relief_trainer.flights import COLUMNS
from tests.bench.measure import medians, say, seconds
from tests.bench.result import Bar, Result
from tests.bench.server import add_kernel, connect, document, promote_copy, trained_server

# Clients, and the seconds until each of their sessions has compiled its forest, which happens after some 300 rows.
WARM_UP = {1: 2, 8: 3, 64: 12}
SECONDS = 6
REPETITIONS = 5
# Promoted in turn: fewer than a session keeps, and so many more that each promotion makes every session load its model.
KEPT_BY_SESSIONS = MODELS_KEPT // 2
NEW_TO_SESSIONS = MODELS_KEPT + 4
COPIED_ROWS = 100_000
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_wal_size": "8GB"}

_SCRIPT = r"""
\set month random(1, 12)
\set hour random(5, 23)
\set minute random(0, 59)
\set delay random(-20, 120)
\set air_time random(30, 360)
insert into {table} (year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay,
    carrier, flight, origin, dest, air_time, distance, hour, minute, time_hour)
values (2013, :month, 1, :hour * 100 + :minute, :hour * 100, :delay, :hour * 100 + 40, :hour * 100 + 45, :delay - 5,
    'UA', 1545, 'EWR', 'IAH', :air_time, :air_time * 7, :hour, :minute, '2013-01-01T10:00:00Z');
"""


def single_rows() -> list[Result]:
    """Measure the throughput of pgbench's single-row inserts, each its own durable transaction."""
    with trained_server(DURABLE) as cluster:
        make_attached_and_bare(cluster)
        results = []
        for clients, warm_up in WARM_UP.items():
            say(f"  {clients} clients, {REPETITIONS} times {warm_up} + {SECONDS} s for each table")
            attached, bare = [], []
            for _ in range(REPETITIONS):
                attached.append(transactions_per_second(cluster, "flights", clients))
                bare.append(transactions_per_second(cluster, "bare", clients))
            what = f"inserts of {clients} client{'s' if clients > 1 else ''}, attached against bare, fsync on"
            ratio = statistics.median(one / other for one, other in zip(attached, bare, strict=True))
            bar = Bar(0.60, at_least=True) if clients == 8 else None
            detail = f"{statistics.median(attached):,.0f} / {statistics.median(bare):,.0f} a second, sessions warm"
            results.append(Result(what, ratio, bar=bar, detail=detail))
    return results


def while_promoting() -> list[Result]:
    """Measure the throughput of 64 clients' inserts while a model is promoted every second, against without."""
    clients = 64
    with trained_server({**DURABLE, "max_connections": "100"}) as cluster:
        make_attached_and_bare(cluster)
        with connect(cluster) as connection:
            content = document(connection)
            for number in range(NEW_TO_SESSIONS):
                promote_copy(connection, "flights", content, number)

        def compare(scored_by: str, kinds: Mapping[str, tuple[int, Bar | None]]) -> list[Result]:
            say(f"  {clients} clients, {REPETITIONS} times {WARM_UP[clients]} + {SECONDS} s for each, by {scored_by}")
            calm: list[float] = []
            promoted: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(REPETITIONS):
                calm.append(transactions_per_second(cluster, "flights", clients))
                for kind, (versions, _bar) in kinds.items():
                    with _promotions(cluster, versions):
                        promoted[kind].append(transactions_per_second(cluster, "flights", clients))
            return [
                Result(
                    f"inserts of {clients} clients by {scored_by}, each second a model promoted that sessions {kind}, "
                    "against none",
                    statistics.median(one / other for one, other in zip(promoted[kind], calm, strict=True)),
                    bar=bar,
                    detail=f"{statistics.median(promoted[kind]):,.0f} / {statistics.median(calm):,.0f} a second",
                )
                for kind, (_versions, bar) in kinds.items()
            ]

        bar = Bar(0.8, at_least=True)
        results = compare("Python", {"have had": (KEPT_BY_SESSIONS, bar), "must load": (NEW_TO_SESSIONS, bar)})
        add_kernel(cluster)
        return results + compare("the kernel", {"must load": (NEW_TO_SESSIONS, bar)})


@contextlib.contextmanager
def _promotions(cluster: Cluster, versions: int) -> Iterator[None]:
    """Promote one version after the other, one a second, for the length of a ``with`` block."""
    stop = threading.Event()

    def promote() -> None:
        number = 0
        with connect(cluster) as connection:
            while not stop.wait(1.0):
                number += 1
                connection.execute("select relief.promote('flights', %s)", [number % versions + 1])

    thread = threading.Thread(target=promote)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def copy() -> list[Result]:
    """Measure COPY into an attached table, against the same bare."""
    columns = ", ".join(COLUMNS)
    with trained_server() as cluster, connect(cluster) as connection:
        file = cluster.directory / "rows"
        connection.execute(f"copy (select {columns} from flights limit {COPIED_ROWS}) to '{file}'")
        make_attached_and_bare(cluster)

        def into(table: str) -> float:
            connection.execute(f"truncate {table}")
            return seconds(lambda: connection.execute(f"copy {table} ({columns}) from '{file}'"))

        say(f"  {COPIED_ROWS:,} rows into each")
        taken = medians(5, {"attached": lambda: into("flights"), "bare": lambda: into("bare")})
    added = (taken["attached"] - taken["bare"]) / COPIED_ROWS * 1e6
    detail = f"{taken['attached']:.2f} s / {taken['bare']:.2f} s, {added:.1f} us a row more"
    return [
        Result(f"COPY of {COPIED_ROWS:,} rows, attached against bare", taken["attached"] / taken["bare"], detail=detail)
    ]


def make_attached_and_bare(cluster: Cluster) -> None:
    """Leave two empty tables: ``flights``, which scores its rows, and ``bare``, which doesn't."""
    with connect(cluster) as connection:
        connection.execute("create table bare (like flights including all)")
        connection.execute("truncate flights")
        connection.execute("select relief.attach('flights')")


def transactions_per_second(cluster: Cluster, table: str, clients: int) -> float:
    """Return the median of pgbench's throughput in each second after the warm-up."""
    with connect(cluster) as connection:
        connection.execute(f"truncate {table}")
        connection.execute("checkpoint")
    script = cluster.directory / f"insert_{table}.sql"
    script.write_text(_SCRIPT.format(table=table), encoding="utf-8")
    output = _pgbench(cluster, script, clients, WARM_UP[clients] + SECONDS)
    by_second = [float(tps) for tps in re.findall(r"^progress: [\d.]+ s, ([\d.]+) tps", output, re.MULTILINE)]
    return statistics.median(by_second[WARM_UP[clients] :])


def _pgbench(cluster: Cluster, script: Path, clients: int, length: int) -> str:
    """Run pgbench with prepared statements and return what it says of its progress."""
    arguments = [str(cluster.bin / "pgbench"), "-n", "-f", str(script), "-M", "prepared", "-P", "1", "-T", str(length)]
    arguments += ["-c", str(clients), "-j", str(min(clients, 2)), cluster.dsn()]
    done = subprocess.run(arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise RuntimeError(f"pgbench failed: {done.stderr.strip()}")
    return done.stderr
