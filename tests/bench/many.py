"""Two hundred detectors, each on a table of its own, used in turn by one session."""

from __future__ import annotations

import statistics

from relief_runtime.session import MODELS_KEPT

from tests.bench.measure import private_megabytes, say, seconds
from tests.bench.result import Result
from tests.bench.server import connect, create_detector, document, promote_copy, trained_server

DETECTORS = 200
ROUNDS = 3


def detectors() -> list[Result]:
    """Measure a session that scores a row with each of 200 detectors in turn, which is more than it keeps models of."""
    with trained_server() as cluster, connect(cluster) as connection:
        content = document(connection)
        say(f"  creating {DETECTORS} detectors")
        tables = [f"flights_{number}" for number in range(DETECTORS)]
        created = []
        for table in tables:
            connection.execute(f"create table {table} (like flights including all)")
            connection.execute(f"insert into {table} overriding system value select * from flights where id = 1000")
            created.append(seconds(lambda t=table: create_detector(connection, t)))
            promote_copy(connection, table, content, 1)
        say(f"  {ROUNDS} rounds over {DETECTORS} detectors in one session, then over {MODELS_KEPT}")
        with connect(cluster) as session:
            pid = session.info.backend_pid

            def score(table: str) -> float:
                return seconds(lambda: session.execute(f"select relief_score(f) from {table} as f")) * 1e3

            rounds = []
            for _ in range(ROUNDS):
                rounds.append([score(table) for table in tables])
                megabytes = private_megabytes(pid)
            kept = [[score(table) for table in tables[:MODELS_KEPT]] for _ in range(ROUNDS)]
    first, later, known = (statistics.median(of) for of in (rounds[0], rounds[-1], kept[-1]))
    return [
        Result(f"one score of {DETECTORS} detectors used in turn", later, "ms", None, f"the first time {first:.1f} ms"),
        Result(
            f"one score of {MODELS_KEPT} detectors used in turn",
            known,
            "ms",
            None,
            f"a session keeps {MODELS_KEPT} models",
        ),
        Result(f"backend memory after {DETECTORS} detectors", megabytes, "MB", None, f"{ROUNDS} rounds"),
        Result("create_detector, the median of 200", statistics.median(created) * 1e3, "ms"),
    ]
