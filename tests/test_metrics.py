"""Metrics: each detector in numbers, true ones, for its owner and for who monitors."""

from __future__ import annotations

import time
from typing import Any

import pytest
from helpers.database import Database, query, refused, value
from helpers.forests import add_model, stump
from helpers.profiles import train_small
from helpers.shop import FEATURES
from helpers.world import World
from psycopg import Connection


def metrics(connection: Connection, detector: str = "orders") -> dict[str, Any] | None:
    """Return the row of a detector in relief.metrics, by column."""
    cursor = connection.execute("select * from relief.metrics where detector = %s", [detector])
    names = [column.name for column in cursor.description or ()]
    rows = cursor.fetchall()
    return dict(zip(names, rows[0], strict=True)) if rows else None


@pytest.fixture
def monitor(world: World) -> Connection:
    """Return a connection of a role that monitors."""
    role = world.database.role("monitor")
    world.database.query(f"grant pg_monitor to {role}")
    world.database.query("select relief.grant_monitor(%s)", role)
    return world.database.connect(role)


def test_metrics_follow_the_life_of_a_detector(world: World) -> None:
    app = world.app
    before = metrics(app)
    assert before["attached"] is False
    assert before["broken"] is False
    for name in ("promoted_version", "model_age_seconds", "profile_age_seconds", "drift_psi", "drift_age_seconds"):
        assert before[name] is None, name
    assert before["anomalies_last_hour"] == before["anomalies_last_day"] == 0
    add_model(app, "orders", stump(FEATURES))
    query(app, "select relief.promote('orders')")
    query(app, "select relief.attach('orders')")
    query(app, "select relief.refresh_profile('orders')")
    query(app, "insert into shop.orders (a, b) values (-2, 1), (-3, 1), (2, 1)")
    query(world.database.superuser, "update relief.model set created_at = created_at - interval '2 days'")
    query(world.database.superuser, "update relief.refresh set refreshed_at = refreshed_at - interval '2 hours'")
    after = metrics(app)
    assert after["attached"] is True
    assert after["promoted_version"] == 1
    assert 172_800 < after["model_age_seconds"] < 172_800 + 600
    assert 7_200 < after["profile_age_seconds"] < 7_200 + 600
    assert after["anomalies_last_hour"] == after["anomalies_last_day"] == 2
    query(world.database.superuser, "update relief.event set happened_at = happened_at - interval '2 hours'")
    assert (metrics(app)["anomalies_last_hour"], metrics(app)["anomalies_last_day"]) == (0, 2)
    query(world.database.superuser, "update relief.event set happened_at = happened_at - interval '2 days'")
    assert metrics(app)["anomalies_last_day"] == 0
    query(app, "alter table shop.orders rename b to c")
    assert metrics(app)["broken"] is True
    query(app, "select relief.regenerate('orders')")
    assert metrics(app)["broken"] is False
    query(app, "drop table shop.orders cascade")
    assert metrics(app)["broken"] is True


def test_failures_and_latency_come_from_events(attached_world: World) -> None:
    app = attached_world.app
    before = metrics(app)
    assert before["failures_last_hour"] == before["failures_last_day"] == 0
    assert before["scoring_ms_p50"] is None
    query(app, "insert into shop.orders (a, b) values (-2, 1), (-3, 1), (-4, 1), (2, 1), (2, -6)")
    after = metrics(app)
    assert (after["anomalies_last_hour"], after["failures_last_hour"], after["failures_last_day"]) == (3, 1, 1)
    measured = query(app, "select scoring_ms from relief.event where scoring_ms is not null")
    assert (
        0
        < min(measured)
        <= after["scoring_ms_p50"]
        <= after["scoring_ms_p95"]
        <= after["scoring_ms_p99"]
        <= max(measured)
    )


def test_rows_held_in_quarantine_and_jobs_are_counted(world: World) -> None:
    app = world.app
    add_model(app, "orders", stump(FEATURES))
    query(app, "select relief.promote('orders')")
    query(app, "select relief.attach('orders', mode => 'quarantine')")
    query(app, "insert into shop.orders (a, b) values (-2, 1), (2, 1)")
    query(app, "select relief.request_training('orders')")
    found = metrics(app)
    assert (found["held_rows"], found["jobs_open"], found["jobs_failed_last_day"]) == (1, 1, 0)
    query(app, "update relief.job set state = 'failed', finished_at = now()")
    query(app, "delete from relief.quarantine")
    found = metrics(app)
    assert (found["held_rows"], found["jobs_open"], found["jobs_failed_last_day"]) == (0, 0, 1)
    query(app, "update relief.job set finished_at = now() - interval '25 hours'")
    assert metrics(app)["jobs_failed_last_day"] == 0


def test_rows_written_are_those_that_the_server_counts(database: Database) -> None:
    database.query("create table public.part (a integer, b float8) partition by list (a)")
    database.query("create table public.part_1 partition of public.part for values in (1)")
    database.query("create table public.part_2 partition of public.part default")
    database.query("select relief.create_detector('part', 'public.part', '{a, b}')")
    with database.connect() as writer:
        query(writer, "insert into public.part select n % 3, n from generate_series(1, 90) as n")
        query(writer, "update public.part set b = b + 1 where b <= 20")
    deadline = time.monotonic() + 60
    while metrics(database.superuser, "part")["rows_updated"] < 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    found = metrics(database.superuser, "part")
    assert (found["rows_inserted"], found["rows_updated"]) == (90, 20)


def test_shares_of_rows_flagged_and_unscored_are_what_analyze_found(attached_world: World) -> None:
    app = attached_world.app
    assert (metrics(app)["flagged_share"], metrics(app)["unscored_share"]) == (None, None)
    query(
        app,
        "insert into shop.orders (a, b) select case when n <= 8 then -2 else 2 end, 1 from generate_series(1, 80) as n",
    )
    query(app, "analyze shop.orders")
    found = metrics(app)
    # 20 rows were there before the trigger.
    assert found["flagged_share"] == pytest.approx(0.08, abs=1e-6)
    assert found["unscored_share"] == pytest.approx(0.2, abs=1e-6)


def test_drift_is_told_as_it_was_measured_last_for_the_promoted_version(world: World) -> None:
    app = world.app
    train_small(world.database.dsn(app.info.user), "orders")
    drifted = query(
        app, "select feature, psi, ks, null_rate_then, null_rate_now, rows, verdict from relief.drift('orders')"
    )
    assert len(drifted) == 2
    columns = "feature, psi, ks, null_rate_then, null_rate_now, rows, verdict"
    assert query(app, f"select {columns} from relief.measure_drift('orders')") == drifted
    assert query(app, f"select {columns} from relief.measured_drift") == drifted
    found = metrics(app)
    assert (found["drift_psi"], found["drifted_features"]) == (max(row[1] for row in drifted), 0)
    assert 0 <= found["drift_age_seconds"] < 600
    query(app, "update shop.orders set a = a + 100")
    assert metrics(app)["drifted_features"] == 0
    query(app, "select relief.measure_drift('orders')")
    assert metrics(app)["drifted_features"] == 1
    assert metrics(app)["drift_psi"] > 1
    train_small(world.database.dsn(app.info.user), "orders")
    assert (metrics(app)["drift_psi"], metrics(app)["drifted_features"]) == (None, None)
    with refused("22003", "max_rows is 0, not at least 1"):
        query(app, "select relief.measure_drift('orders', max_rows => 0)")


def test_who_monitors_sees_the_numbers_of_all_and_nothing_else(attached_world: World, monitor: Connection) -> None:
    world = attached_world
    query(world.mallory, "create table mal.t (a integer)")
    query(world.mallory, "select relief.create_detector('t', 'mal.t', '{a}')")
    assert query(world.app, "select detector from relief.metrics") == ["orders"]
    assert query(world.mallory, "select detector from relief.metrics") == ["t"]
    assert query(monitor, "select detector from relief.metrics order by 1") == ["orders", "t"]
    seen = metrics(monitor)
    mine = metrics(world.app)
    assert {name for name in mine if mine[name] != seen[name]} <= {"model_age_seconds"}
    types = query(
        monitor,
        "select distinct atttypid::regtype::text from pg_attribute "
        "where attrelid = 'relief.metrics'::regclass and attname <> 'detector'",
    )
    assert set(types) <= {"boolean", "integer", "bigint", "double precision", "real"}
    for statement in (
        "select * from relief.detector",
        "select * from relief.status",
        "select * from relief.event",
        "select * from relief.measured_drift",
        "select * from shop.orders",
        "select relief.score('orders', '{}')",
        "select relief.promote('orders')",
        "select relief.measure_drift('orders')",
    ):
        with refused("42501", "permission denied"):
            query(monitor, statement)


def test_what_leaks_through_a_function_in_a_condition_is_the_rows_of_own_detectors(attached_world: World) -> None:
    world = attached_world
    query(
        world.mallory,
        "create function mal.spy(text) returns boolean language plpgsql cost 0.0001 as "
        "$$begin raise exception 'seen %', $1; end$$",
    )
    assert query(world.mallory, "select * from relief.metrics where mal.spy(detector)") == []


def test_monitoring_is_granted_to_those_who_may_read_all_statistics(world: World) -> None:
    role = world.database.role("nobody")
    with refused(
        "0LP01", f'role "{role}" may not read the statistics of all tables', f"First: grant pg_monitor to {role};"
    ):
        world.database.query("select relief.grant_monitor(%s)", role)
    world.database.query(f"grant usage on schema relief to {role}")
    with refused("42501", "permission denied for view metrics"):
        query(world.database.connect(role), "select * from relief.metrics")
    assert value(world.app, "select count(*) from relief.metrics") == 1
