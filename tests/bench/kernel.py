"""The compiled kernel: per row, over whole tables, in triggers, in a new session; against Python and scikit-learn."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from sklearn.ensemble import IsolationForest

from relief_trainer import connection as trainer_connection
from relief_trainer import train
from relief_trainer.cluster import Cluster
from tests.bench import insert, peers, session
from tests.bench.measure import medians, say, seconds
from tests.bench.result import Bar, Result
from tests.bench.server import Connection, add_kernel, connect, server, trained_server

ROWS = 200_000
MANY_ROWS = 2_000_000
WIDTHS = {8: 0.7, 30: 1.0}
REPETITIONS = 5


@contextlib.contextmanager
def _flights_server(settings: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    with trained_server(settings) as cluster:
        add_kernel(cluster)
        yield cluster


@contextlib.contextmanager
def _numbers_server(width: int, rows: int = ROWS, settings: Mapping[str, str] | None = None) -> Iterator[Connection]:
    """Run a server with a table ``numbers`` of so many columns, x1 and so on, and a detector with a promoted model."""
    names = [f"x{number}" for number in range(1, width + 1)]
    with server(settings) as cluster, connect(cluster) as connection:
        values = ", ".join(f"random() as {name}" for name in names)
        connection.execute(f"create table numbers as select {values} from generate_series(1, {rows})")
        connection.execute("vacuum analyze numbers")
        connection.execute("select relief.create_detector('numbers', 'numbers', %s, contamination => 0.01)", [names])
        with trainer_connection.connect(cluster.dsn()) as trainer:
            train.train(trainer, "numbers", train.Settings(), promote=True)
        add_kernel(cluster)
        connection.execute("set max_parallel_workers_per_gather = 0")
        yield connection


def per_row() -> list[Result]:
    """Measure what scoring a row in a SELECT costs above the bare scan, against Python and other programs."""
    results = []
    for width, bar in WIDTHS.items():
        with _numbers_server(width) as connection:
            rows = np.array(connection.execute("select * from numbers").fetchall())
            forest = IsolationForest(max_samples=256, random_state=0).fit(rows[:100_000])

            def scan(value: str, connection: Connection = connection) -> float:
                return seconds(lambda: connection.execute(f"select max({value}) from numbers as n"))

            def by_python(connection: Connection = connection, scan=scan) -> float:  # type: ignore[no-untyped-def]
                connection.execute("select relief.use_kernel(false)")
                taken = float(scan("relief_score(n)"))
                connection.execute("select relief.use_kernel()")
                return taken

            outside = {
                name: partial(seconds, partial(score, rows))
                for name, score in peers.scorers(forest, rows[:100_000]).items()
            }
            say(f"  {ROWS:,} rows of {width} features")
            scan("relief_score(n)")
            taken = medians(
                REPETITIONS,
                {
                    "bare": lambda scan=scan: scan("n.x1"),
                    "kernel": lambda scan=scan: scan("relief_score(n)"),
                    **outside,
                },
            )
            python = (by_python() - taken["bare"]) / ROWS * 1e6
        kernel = (taken["kernel"] - taken["bare"]) / ROWS * 1e6
        what = f"kernel: relief_score(row) of {width} features in a SELECT"
        results.append(Result(f"{what}, absolute", kernel, "us", Bar(bar, unit="us"), f"{ROWS:,} rows, serial"))
        results.append(Result(f"Python, against {what}", python / kernel, detail=f"{python:.1f} us a row"))
        for name in outside:
            peer = taken[name] / ROWS * 1e6
            least = Bar(3, at_least=True) if name.startswith("scikit-learn") else None
            results.append(Result(f"{name}, against {what}", peer / kernel, bar=least, detail=f"{peer:.1f} us a row"))
    return results


def update() -> list[Result]:
    """Measure an UPDATE that scores a table, against one that sets a constant, Python, and a client's round trip."""
    with _numbers_server(8, settings=insert.DURABLE) as connection:
        rows = np.array(connection.execute("select * from numbers").fetchall())
        forest = IsolationForest(max_samples=256, random_state=0).fit(rows[:100_000])
        connection.execute("create table pristine as select row_number() over () as id, n.* from numbers as n")

        def set_to(value: str) -> float:
            _again(connection)
            return seconds(lambda: connection.execute(f"update numbers as n set score = {value}"))

        def round_trip() -> float:
            _again(connection)
            return seconds(lambda: _score_outside(connection, forest))

        def by_python() -> float:
            connection.execute("select relief.use_kernel(false)")
            try:
                return set_to("relief_score(n)")
            finally:
                connection.execute("select relief.use_kernel()")

        connection.execute("truncate numbers")
        connection.execute("alter table numbers add column id bigint primary key, add column score float8")
        say(f"  {ROWS:,} rows, {REPETITIONS} times each")
        taken = medians(
            REPETITIONS,
            {
                "constant": lambda: set_to("0.5"),
                "kernel": lambda: set_to("relief_score(n)"),
                "outside": round_trip,
            },
        )
        python = by_python()
    what = f"UPDATE of {ROWS:,} rows by the kernel"
    detail = ", ".join(f"{name} {time:.2f} s" for name, time in {**taken, "Python": python}.items())
    return [
        Result(f"{what}, against one that sets a constant", taken["kernel"] / taken["constant"], bar=Bar(1.25)),
        Result(
            f"fetch, scikit-learn, write back, against {what}",
            taken["outside"] / taken["kernel"],
            bar=Bar(2.5, at_least=True),
            detail=detail,
        ),
    ]


def _again(connection: Connection) -> None:
    connection.execute("truncate numbers")
    connection.execute(
        "insert into numbers select p.x1, p.x2, p.x3, p.x4, p.x5, p.x6, p.x7, p.x8, p.id from pristine as p"
    )
    connection.execute("vacuum analyze numbers")
    connection.execute("checkpoint")


def _score_outside(connection: Connection, forest: IsolationForest) -> None:
    rows = np.array(connection.execute("select * from numbers").fetchall(), dtype=np.float64)
    scores = -forest.score_samples(rows[:, :8])
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("create temporary table scores (id bigint, score float8) on commit drop")
        with cursor.copy("copy scores from stdin") as copy:
            for row in zip(rows[:, 8].astype(int).tolist(), scores.tolist(), strict=True):
                copy.write_row(row)
        cursor.execute("analyze scores")
        cursor.execute("update numbers as n set score = s.score from scores as s where s.id = n.id")


_TRIGGER = """
create table {name} (like numbers);
alter table {name} add column score float8;
create function {name}() returns trigger language plpgsql as 'begin new.score := {value}; return new; end';
create trigger score before insert on {name} for each row execute function {name}();
"""


def trigger() -> list[Result]:
    """Measure a bulk insert through a trigger that scores by the kernel, against one that sets a constant."""
    with _numbers_server(8) as connection:
        call = "(_relief_verdict_numbers(_relief_features_numbers({}), null))[1]".format(
            ", ".join(f"new.x{number}" for number in range(1, 9))
        )
        connection.execute(_TRIGGER.format(name="constant", value="0.5"))
        connection.execute(_TRIGGER.format(name="scored", value=call))

        def into(table: str) -> float:
            connection.execute(f"truncate {table}")
            return seconds(lambda: connection.execute(f"insert into {table} select * from numbers"))

        say(f"  {ROWS:,} rows into each")
        taken = medians(REPETITIONS, {"scored": lambda: into("scored"), "constant": lambda: into("constant")})
    more = (taken["scored"] - taken["constant"]) / ROWS * 1e6
    detail = f"{taken['scored'] / ROWS * 1e6:.1f} / {taken['constant'] / ROWS * 1e6:.1f} us a row"
    what = "bulk insert, a trigger that scores by the kernel, beyond one that sets a constant"
    return [Result(what, more, "us", Bar(0.6, unit="us"), detail)]


_CONSTANTS = """
do $do$
begin
  create table constants (like flights including all);
  execute format($create$
    create function constants() returns trigger language plpgsql as %L
    $create$, (
    select format('begin new.relief_anomaly_score := %s; new.relief_is_anomaly := false; '
                  'new.relief_model_version := 1; new.relief_deviation := %L; return new; end',
                  f.relief_anomaly_score, f.relief_deviation)
    from flights as f
    where not f.relief_is_anomaly
    limit 1));
  create trigger constants before insert on constants for each row execute function constants();
end
$do$
"""


def single_rows() -> list[Result]:
    """Measure the throughput of single-row inserts by 8 clients into an attached table with the kernel."""
    with _flights_server(insert.DURABLE) as cluster:
        insert.make_attached_and_bare(cluster)
        insert.transactions_per_second(cluster, "flights", 8)
        with connect(cluster) as connection:
            connection.execute(_CONSTANTS)
        say(f"  8 clients, {REPETITIONS} times")
        rates: dict[str, list[float]] = {"flights": [], "constants": [], "bare": []}
        for _ in range(REPETITIONS):
            for table, measured in rates.items():
                measured.append(insert.transactions_per_second(cluster, table, 8))

    def against_bare(table: str, what: str, bar: Bar | None = None) -> Result:
        ratio = statistics.median(one / bare for one, bare in zip(rates[table], rates["bare"], strict=True))
        detail = f"{statistics.median(rates[table]):,.0f} / {statistics.median(rates['bare']):,.0f} a second"
        return Result(f"inserts of 8 clients, {what} against bare, fsync on", ratio, bar=bar, detail=detail)

    return [
        against_bare("flights", "attached with the kernel", Bar(0.90, at_least=True)),
        # What is left to scoring: the same columns of the same size, written by a trigger that computes nothing.
        against_bare("constants", "a trigger that sets the companion columns to constants"),
    ]


def first_score() -> list[Result]:
    """Measure the first score of a session by the kernel."""
    taken = []
    with _flights_server() as cluster:
        for _ in range(session.SESSIONS):
            with connect(cluster) as connection:
                connection.execute("select 1")
                taken.append(seconds(lambda c=connection: c.execute(session.STATEMENTS["score"])))
    what = "first score of a session by the kernel"
    return [Result(what, statistics.median(taken) * 1e3, "ms", Bar(3, unit="ms"))]


def parallel() -> list[Result]:
    """Measure what two parallel workers gain over none, scoring by the kernel."""
    with _numbers_server(8, MANY_ROWS) as connection:

        def with_workers(number: int) -> float:
            connection.execute(f"set max_parallel_workers_per_gather = {number}")
            return seconds(lambda: connection.execute("select max(relief_score(n)) from numbers as n"))

        with_workers(2)
        taken = medians(REPETITIONS, {"none": lambda: with_workers(0), "two": lambda: with_workers(2)})
    detail = f"{taken['none']:.2f} s / {taken['two']:.2f} s"
    what = f"two parallel workers with the kernel, against none, {MANY_ROWS:,} rows"
    return [Result(what, taken["none"] / taken["two"], bar=Bar(1.7, at_least=True), detail=detail)]
