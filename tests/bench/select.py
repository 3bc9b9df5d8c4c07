"""Scoring in a SELECT: what a row costs, against a pickled scikit-learn forest, and what parallel workers gain."""

from __future__ import annotations

import contextlib
import os
import pickle
import sysconfig
from collections.abc import Iterator

import numpy as np
from sklearn.ensemble import IsolationForest

from relief_trainer.flights import ROWS
from tests.bench.measure import medians, say, seconds
from tests.bench.result import Bar, Result
from tests.bench.server import FEATURES, Connection, connect, trained_server

PICKLED_ROWS = 300
_COLUMNS = ", ".join(f"f.{name}" for name in FEATURES)

# What one would write without Relief: the forest unpickled once a session, one row a call.
_PICKLED_FUNCTION = """
create function pickled_score(numbers double precision[]) returns double precision language plpython3u as $$
    forest = GD.get("forest")
    if forest is None:
        import pickle
        forest = GD["forest"] = pickle.loads(plpy.execute("select forest from pickled")[0]["forest"])
    return float(-forest.score_samples([numbers])[0])
$$;
create function missing_scikit() returns text language plpython3u as $$
    try:
        import sklearn.ensemble
    except Exception as error:
        return str(error).strip().splitlines()[0]
$$;
"""


def per_row() -> list[Result]:
    """Measure what scoring one row costs, above a bare scan, and how much more a pickled forest does."""
    with _trainer_packages_in_server(), trained_server() as cluster, connect(cluster) as connection:
        connection.execute("set max_parallel_workers_per_gather = 0")
        relief = _microseconds(connection, "relief_score(f)", ROWS, 5)
        results = [
            Result(
                "relief_score(row) in a SELECT, absolute", relief, "us", Bar(20, unit="us"), f"{ROWS:,} rows, serial"
            )
        ]
        what = "pickled scikit-learn in PL/Python, against relief_score"
        bar = Bar(250, at_least=True)
        connection.execute(_PICKLED_FUNCTION)
        missing = connection.execute("select missing_scikit()").fetchone()
        assert missing is not None
        if missing[0] is not None:
            return [Result(what, None, bar=bar, detail=f"the server's Python says: {missing[0]}"), *results]
        _store_pickle(connection)
        pickled = _microseconds(connection, f"pickled_score(array[{_COLUMNS}])", PICKLED_ROWS, 5)
        return [Result(what, pickled / relief, bar=bar, detail=f"{pickled:,.0f} us / {relief:.1f} us a row"), *results]


def parallel() -> list[Result]:
    """Measure what two parallel workers gain over none."""
    with trained_server() as cluster, connect(cluster) as connection:
        query = "select max(relief_score(f)) from flights as f"

        def with_workers(number: int) -> float:
            connection.execute(f"set max_parallel_workers_per_gather = {number}")
            return seconds(lambda: connection.execute(query))

        with_workers(2)
        plan = "\n".join(line for (line,) in connection.execute(f"explain {query}"))
        if "Workers Planned: 2" not in plan:
            raise RuntimeError(f"no two workers are planned:\n{plan}")
        say("  serial and parallel scans")
        taken = medians(5, {"none": lambda: with_workers(0), "two": lambda: with_workers(2)})
    detail = f"{taken['none']:.2f} s / {taken['two']:.2f} s, {os.cpu_count()} cores"
    what = "two parallel workers, against none"
    return [Result(what, taken["none"] / taken["two"], bar=Bar(1.6, at_least=True), detail=detail)]


def _microseconds(connection: Connection, expression: str, rows: int, repetitions: int) -> float:
    say(f"  {expression} of {rows:,} rows")
    source = f"(select * from flights limit {rows}) as f" if rows < ROWS else "flights as f"

    def scan(value: str) -> float:
        return seconds(lambda: connection.execute(f"select max({value}) from {source}"))

    scan(expression)
    taken = medians(repetitions, {"scored": lambda: scan(expression), "bare": lambda: scan("f.distance")})
    return (taken["scored"] - taken["bare"]) / rows * 1e6


def _store_pickle(connection: Connection) -> None:
    rows = connection.execute(f"select {_COLUMNS} from flights as f limit 100000").fetchall()
    forest = IsolationForest(max_samples=256, random_state=0).fit(np.array(rows, dtype=np.float64))
    connection.execute("create table pickled (forest bytea)")
    connection.execute("insert into pickled values (%s)", [pickle.dumps(forest)])


@contextlib.contextmanager
def _trainer_packages_in_server() -> Iterator[None]:
    """Let a server that starts meanwhile import what the trainer imports."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = sysconfig.get_path("platlib")
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
