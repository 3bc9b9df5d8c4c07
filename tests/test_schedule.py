"""Refreshing on a schedule: by a real pg_cron, in a server of its own, as it must be loaded when the server starts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from helpers.database import query, refused, value
from helpers.profiles import create, profile, refresh
from helpers.workers import wait_until
from psycopg import Connection
from relief_sql.assemble import artefacts, uninstall_script

from relief_trainer.cluster import Cluster, throwaway_cluster

pytestmark = pytest.mark.pg_cron

SETTINGS = {
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": "postgres",
    # Jobs run in the server itself: they need no login.
    "cron.use_background_workers": "on",
}
JOBS = "select jobname, schedule, command, username, active from cron.job"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a server with pg_cron and Relief, and a role "app" that may use both."""
    with throwaway_cluster(SETTINGS, artefacts()) as running:
        with connect(running) as superuser:
            query(superuser, "create extension pg_cron")
            query(superuser, "create extension relief cascade")
            for role in ("app", "stranger"):
                query(superuser, f"create role {role} login")
                query(superuser, "select relief.grant_admin(%s)", role)
                query(superuser, f"create schema {role} authorization {role}")
            query(superuser, "grant usage on schema cron to app")
        yield running


@pytest.fixture
def app(cluster: Cluster) -> Iterator[Connection]:
    """Return a connection of "app", whose table app.reading has 40 rows and a detector with a profile."""
    with connect(cluster, "app") as connection:
        query(connection, "create table app.reading (at timestamptz default now(), x float8)")
        query(connection, "insert into app.reading (x) select n from generate_series(1, 40) as n")
        create(connection, "it's r", "app.reading", ["x"], time_column="at")
        refresh(connection, "it's r")
    with connect(cluster, "app") as connection:
        yield connection
    with connect(cluster) as superuser:
        query(superuser, "drop table app.reading cascade")
        query(superuser, "select relief.drop_detector(name) from relief.detector")
        assert query(superuser, JOBS) == []


def connect(cluster: Cluster, role: str | None = None) -> Connection:
    return psycopg.connect(cluster.dsn(user=role), autocommit=True)


def rows_in_profile(connection: Connection) -> int:
    found = profile(connection, "it's r")
    assert found is not None
    return found["rows"]


def wait_for_rows(connection: Connection, rows: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while rows_in_profile(connection) != rows:
        assert time.monotonic() < deadline, query(connection, "select status, return_message from cron.job_run_details")
        time.sleep(0.05)


def test_job_refreshes_the_profile_as_the_role_that_scheduled_it(cluster: Cluster, app: Connection) -> None:
    query(app, "select relief.schedule_refresh('it''s r', '@reboot')")
    query(app, "insert into app.reading (x) values (50)")
    assert rows_in_profile(app) == 40
    app.close()
    cluster.stop()
    cluster.start()
    with connect(cluster, "app") as again:
        wait_for_rows(again, 41, seconds=30)
        # pg_cron says so a moment after the job has committed.
        runs = "select username, status from cron.job_run_details"
        wait_until(lambda: query(again, runs) == [("app", "succeeded")], lambda: query(again, runs))


@pytest.mark.soak
def test_job_runs_every_minute(app: Connection) -> None:
    query(app, "select relief.schedule_refresh('it''s r', '* * * * *')")
    for rows in (41, 42):
        query(app, "insert into app.reading (x) values (50)")
        wait_for_rows(app, rows, seconds=90)


def test_detector_has_one_job_every_quarter_of_an_hour_unless_told_otherwise(app: Connection) -> None:
    query(app, "select relief.schedule_refresh('it''s r')")
    job = ("relief refresh it's r", "*/15 * * * *", "select relief.refresh_profile('it''s r')", "app", True)
    assert query(app, JOBS) == [job]
    query(app, "select relief.schedule_refresh('it''s r', '0 3 * * *')")
    assert query(app, JOBS) == [(job[0], "0 3 * * *", *job[2:])]


@pytest.mark.parametrize("who", ["app", None])
def test_job_ends_with_the_detector(cluster: Cluster, app: Connection, who: str | None) -> None:
    query(app, "select cron.schedule('of app''s own', '0 3 * * *', 'select 1')")
    query(app, "select relief.schedule_refresh('it''s r')")
    with connect(cluster, who) as connection:
        query(connection, "select relief.drop_detector('it''s r')")
    assert query(app, "select jobname from cron.job") == ["of app's own"]
    query(app, "select cron.unschedule('of app''s own')")


def test_jobs_end_with_relief(cluster: Cluster, app: Connection) -> None:
    query(app, "select relief.schedule_refresh('it''s r')")
    with connect(cluster) as superuser, superuser.transaction(force_rollback=True):
        query(superuser, uninstall_script().replace("begin;", "", 1).replace("commit;", ""))
        assert query(superuser, JOBS) == []
        assert query(superuser, "select to_regnamespace('relief')") == [None]


def test_pg_cron_and_the_worker_do_not_both_refresh(app: Connection) -> None:
    query(app, "select relief.schedule_refresh('it''s r')")
    hint = "Leave refresh out, or first: select cron.unschedule('relief refresh it''s r');"
    with refused("55000", 'pg_cron refreshes detector "it\'s r" already', hint):
        query(app, "select relief.schedule('it''s r', refresh => '*/15 * * * *')")
    query(app, "select relief.schedule('it''s r', train => '0 3 * * *')")
    query(app, hint.split(": ", 1)[1])
    query(app, "select relief.schedule('it''s r', refresh => '*/15 * * * *')")
    with refused("55000", 'relief worker refreshes detector "it\'s r" already', "select relief.schedule('it''s r');"):
        query(app, "select relief.schedule_refresh('it''s r')")


def test_job_of_a_superuser_would_run_the_owners_expressions_and_is_refused(cluster: Cluster, app: Connection) -> None:
    with (
        connect(cluster) as superuser,
        refused("42501", 'role "postgres" is a superuser', 'Connect as a role that has the rights of "app".'),
    ):
        query(superuser, "select relief.schedule_refresh('it''s r')")
    assert query(app, JOBS) == []


def test_role_that_may_not_use_pg_cron_is_told_whom_to_ask(cluster: Cluster, app: Connection) -> None:
    with connect(cluster, "stranger") as stranger:
        query(stranger, "create table stranger.t (x float8)")
        create(stranger, "t", "stranger.t", ["x"])
        with refused("42501", "permission denied for schema cron", "grant usage on schema cron to stranger;"):
            query(stranger, "select relief.schedule_refresh('t')")
        query(stranger, "select relief.drop_detector('t')")


def test_schedule_that_pg_cron_cannot_read_is_refused(app: Connection) -> None:
    for schedule in ("now and then", "61 * * * *", "", None):
        told = "NULL" if schedule is None else schedule
        with refused(
            "22023", f'schedule "{told}" of detector "it\'s r" is not valid', "as in a crontab: '*/15 * * * *'"
        ):
            query(app, "select relief.schedule_refresh('it''s r', %s)", schedule)
    assert value(app, "select count(*) from cron.job") == 0
