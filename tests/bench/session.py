"""The first score of a new session."""

from __future__ import annotations

import statistics

from tests.bench.measure import say, seconds
from tests.bench.result import Bar, Result
from tests.bench.server import connect, trained_server

SESSIONS = 25
STATEMENTS = {
    "scan": "select distance from flights where id = 1000",
    "empty": "select empty()",
    "score": "select relief_score(f) from flights as f where id = 1000",
}


def first_score() -> list[Result]:
    """Measure the first score of a session against the first call of an empty PL/Python function: Python's start."""
    taken: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    with trained_server() as cluster:
        with connect(cluster) as connection:
            connection.execute("create function empty() returns integer language plpython3u as 'return 0'")
        say(f"  {SESSIONS} new sessions for each statement")
        for _ in range(SESSIONS):
            for name, statement in STATEMENTS.items():
                with connect(cluster) as connection:
                    connection.execute("select 1")
                    taken[name].append(seconds(lambda s=statement, c=connection: c.execute(s)))
    scan, empty, score = (statistics.median(taken[name]) * 1e3 for name in STATEMENTS)
    what = "first score of a session, against an empty PL/Python function"
    detail = f"{score:.1f} ms / {empty:.1f} ms; the row alone {scan:.1f} ms"
    return [Result(what, score / empty, bar=Bar(2.5), detail=detail)]
