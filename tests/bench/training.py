"""The command ``relief train`` as the table grows: it reads a sample, so time and memory should stay."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from relief_trainer import flights
from relief_trainer.cluster import Cluster
from tests.bench.measure import say
from tests.bench.result import Bar, Result
from tests.bench.server import connect, create_detector, server

COPIES = 10
REPETITIONS = 5


def train() -> list[Result]:
    """Measure relief train on all flights, and on ten times as many rows."""
    taken: dict[str, list[tuple[float, float]]] = {"flights": [], "many_flights": []}
    with server() as cluster:
        with connect(cluster) as connection:
            say(f"  loading {COPIES * flights.ROWS:,} rows")
            flights.load(connection, "many_flights", COPIES)
            for table in taken:
                create_detector(connection, table)
        for _ in range(REPETITIONS):
            for table, runs in taken.items():
                runs.append(_run(cluster, table))
    say("  " + str(taken))
    few, many = ([statistics.median(column) for column in zip(*runs, strict=True)] for runs in taken.values())
    what = f"relief train on {COPIES * flights.ROWS:,} rows, against {flights.ROWS:,}"
    return [
        Result(f"{what}: time", many[0] / few[0], bar=Bar(1.2), detail=f"{many[0]:.2f} s / {few[0]:.2f} s"),
        Result(f"{what}: peak memory", many[1] / few[1], bar=Bar(1.2), detail=f"{many[1]:.0f} MB / {few[1]:.0f} MB"),
    ]


def _run(cluster: Cluster, detector: str) -> tuple[float, float]:
    """Return the seconds and the peak megabytes of one run of the command."""
    command = Path(sys.executable).parent / "relief"
    start = time.perf_counter()
    process = subprocess.Popen(
        [command, "train", detector, "--dsn", cluster.dsn()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"relief train {detector} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024
