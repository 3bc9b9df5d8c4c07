"""Profiles: what a history of many entities costs a row, a refresh against making all again, and explaining."""

from __future__ import annotations

from typing import Any

from relief_trainer import flights
from tests.bench.measure import medians, say, seconds
from tests.bench.result import Bar, Result
from tests.bench.server import Connection, add_kernel, connect, server, trained_server

# Of each table, how many entities its rows are of, and how many of these have a history.
MANY = 1_000_000
ENTITIES = {"many": (MANY, MANY), "few": (1_000, 1_000), "none": (MANY, 0), "one": (0, 0)}
INSERTED_ROWS = 20_000
COPIES = 9
NEW_ROWS = 10_000
EXPLAINED_ROWS = 5_000


def entities() -> list[Result]:
    """Measure bulk inserts judged by a million histories of entities, by a thousand, by none, and without entities."""
    with server() as cluster, connect(cluster) as connection:
        for table, (count, histories) in ENTITIES.items():
            connection.execute(f"create table {table} (like flights including all)")  # type: ignore[arg-type]
            connection.execute(f"alter table {table} alter id restart with 1000000")  # type: ignore[arg-type]
            connection.execute(
                f"insert into {table} overriding system value select * from flights limit 20000"  # type: ignore[arg-type]
            )
            connection.execute(
                "select relief.create_detector(%s, %s, '{dep_delay, arr_delay, air_time, distance}', entity => %s)",
                [table, table, "{flight}" if count else "{}"],
            )
            _train(cluster.dsn(), table)
            connection.execute("select relief.attach(%s)", [table])
            say(f"  {count:,} entities, {histories:,} with a history")
            connection.execute(
                "insert into relief.profile select d.id, jsonb_build_array(n)::text, g.season, g.rows, true, g.count,"
                " g.mean, g.stddev, g.median, g.spread, g.spread_floor, g.p01, g.p99, g.minimum, g.maximum, g.null_rate"
                " from relief.detector as d join relief.profile as g on g.detector_id = d.id and g.entity = '',"
                " generate_series(100000, %s) as n where d.name = %s",
                [100_000 + histories - 1, table],
            )
        # As autovacuum leaves it: without, each first look at a row would write its page.
        connection.execute("vacuum analyze relief.profile")

        def into(table: str) -> float:
            statement: Any = (
                f"insert into {table} (year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin, dest,"
                " hour, minute, time_hour, dep_delay, arr_delay, air_time, distance)"
                " select year, month, day, sched_dep_time, sched_arr_time, carrier,"
                f" 100000 + floor(random() * {ENTITIES[table][0]})::integer, origin, dest, hour, minute, time_hour,"
                f" dep_delay, arr_delay, air_time, distance from flights limit {INSERTED_ROWS}"
            )
            return seconds(lambda: connection.execute(statement))

        def compare(scored_by: str, bar: Bar | None) -> list[Result]:
            taken = medians(5, {table: lambda t=table: into(t) for table in ENTITIES})
            us = {table: seconds / INSERTED_ROWS * 1e6 for table, seconds in taken.items()}
            what = f"insert judged by {scored_by}, by one of {MANY:,} histories"
            return [
                Result(
                    f"{what}, against {words}",
                    us["many"] / us[table],
                    bar=bar if table == "one" else None,
                    detail=f"{us['many']:.1f} / {us[table]:.1f} us a row",
                )
                for table, words in (
                    ("one", "the one of all rows"),
                    ("few", "one of 1,000"),
                    ("none", "that of all rows, as no entity has one"),
                )
            ]

        results = compare("Python", Bar(1.5))
        add_kernel(cluster)
        return results + compare("the kernel", Bar(1.5))


def refresh() -> list[Result]:
    """Measure a refresh after new rows on a large table, against making the whole profile again."""
    with server() as cluster, connect(cluster) as connection:
        connection.execute("drop table flights cascade")
        flights.load(connection, copies=COPIES)
        connection.execute("create index on flights (time_hour)")
        connection.execute(
            "select relief.create_detector('flights', 'flights', '{dep_delay, distance}', time_column => 'time_hour',"
            " entity => '{carrier}')"
        )
        say(f"  the whole profile of {flights.ROWS * COPIES:,} rows")
        full = seconds(lambda: connection.execute("select relief.refresh_profile('flights')"))
        taken = []
        for day in range(3):
            connection.execute(
                "insert into flights (year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin, dest,"
                " hour, minute, time_hour, dep_delay, distance)"
                " select year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin, dest, hour, minute,"
                " timestamptz '2014-02-01' + %s * interval '3 days' + random() * interval '1 day', dep_delay, distance"
                " from flights limit %s",
                [day, NEW_ROWS],
            )
            taken.append(seconds(lambda: connection.execute("select relief.refresh_profile('flights')")))
    median = sorted(taken)[1]
    what = f"whole profile of {flights.ROWS * COPIES:,} rows, against a refresh after {NEW_ROWS:,} new ones"
    return [Result(what, full / median, bar=Bar(20, at_least=True), detail=f"{full:.1f} s / {median:.2f} s")]


def explain() -> list[Result]:
    """Measure relief_explain on rows, against relief.detect's judgement of them, and relief_score."""
    with trained_server() as cluster, connect(cluster) as connection:
        connection.execute("set max_parallel_workers_per_gather = 0")
        rows = f"(select * from flights limit {EXPLAINED_ROWS}) as f"

        def run(statement: str) -> float:
            return seconds(lambda: connection.execute(statement))  # type: ignore[arg-type]

        _warm(connection)
        taken = medians(
            5,
            {
                "explain": lambda: run(f"select count(*) from {rows}, relief_explain(f)"),
                "contribute": lambda: run(
                    "select count(_relief_contributions_flights(_relief_features_flights("
                    f"{_columns(connection)}), null)) from {rows}"
                ),
                "score": lambda: run(f"select count(relief_score(f)) from {rows}"),
            },
        )
    us = {name: value / EXPLAINED_ROWS * 1e6 for name, value in taken.items()}
    return [
        Result(
            "contributions of a row's features, against its score",
            taken["contribute"] / taken["score"],
            bar=Bar(4),
            detail=f"{us['contribute']:.1f} / {us['score']:.1f} us; all of relief_explain {us['explain']:.0f} us",
        )
    ]


def _columns(connection: Connection) -> str:
    row = connection.execute("select columns from relief.detector where name = 'flights'").fetchone()
    assert row is not None
    return ", ".join(f"f.{column}" for column in row[0])


def _warm(connection: Connection) -> None:
    connection.execute("select count(*) from (select * from flights limit 1000) as f, relief_explain(f)")


def _train(dsn: str, name: str) -> None:
    from relief_trainer import connection as trainer_connection
    from relief_trainer.train import Settings, train

    with trainer_connection.connect(dsn) as connection:
        train(connection, name, Settings(), promote=True)
