"""A worker is killed at every step: a job is done once in effect, and its state tells the truth."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from helpers.database import Database, query, value
from helpers.workers import TRAINING, Work, wait_until, work_in

from relief_trainer.connection import connect
from relief_trainer.queue import prepare

# Where the worker is held, and killed: at a statement that a trigger lets wait. Then how many attempts the job takes,
# and the state that it shows meanwhile.
STEPS = {
    "before it begins": ("relief.job", "update", "new.state = 'running'", 1, "queued"),
    "with a model that is not stored": ("relief.model", "insert", "true", 2, "running"),
    "as it notes what it stores": (
        "relief.job",
        "update",
        "new.version is not null and old.version is null",
        2,
        "running",
    ),
    "between storing and promoting": (
        "relief.detector",
        "update",
        "new.promoted_version is not null and old.promoted_version is null",
        2,
        "running",
    ),
    "as it ends the job": ("relief.job", "update", "new.state = 'done'", 2, "running"),
    "before its queue knows": ("queue.procrastinate_jobs", "delete", "old.task_name = 'relief.carry_out'", 1, "done"),
}
HOLD = 1


@pytest.fixture
def work(database: Database) -> Iterator[Work]:
    with work_in(database) as work:
        yield work


def hold(work: Work, table: str, event: str, condition: str) -> None:
    """Let the next statement of a worker that fulfils the condition wait until `release`."""
    with connect(work.database.dsn(work.role)) as connection:
        prepare(connection)
    table = table.replace("queue.", f"relief_queue_{work.role}.")
    work.database.query(
        "create function public.hold() returns trigger language plpgsql as "
        f"$$ begin perform pg_advisory_xact_lock_shared({HOLD}); return coalesce(new, old); end $$"
    )
    when = f"for each row when ({condition})"
    work.database.query(f"create trigger a_hold before {event} on {table} {when} execute function public.hold()")
    work.database.query("select pg_advisory_lock(%s)", HOLD)


def is_held(work: Work) -> bool:
    return work.database.value(
        "select exists (select from pg_locks where locktype = 'advisory' and not granted and database = "
        "(select oid from pg_database where datname = current_database()))"
    )


def release(work: Work) -> None:
    work.database.query("select pg_advisory_unlock(%s)", HOLD)


def work_until_done(work: Work, job: int) -> None:
    """Let another worker work off what is due until the job has ended."""
    wait_until(lambda: bool(work.once()) and work.job(job)["finished_at"], lambda: work.job(job))


@pytest.mark.parametrize("step", STEPS)
def test_training_is_done_once_in_effect_though_the_worker_is_killed(work: Work, step: str) -> None:
    table, event, condition, attempts, meanwhile = STEPS[step]
    job = value(work.app, TRAINING)
    hold(work, table, event, condition)
    killed = work.start()
    wait_until(lambda: is_held(work), lambda: killed.poll() is not None and killed.communicate()[0])
    assert work.state(job) == meanwhile
    killed.kill()
    killed.wait()
    # The server still has its session, so nobody else begins.
    work.once()
    assert work.state(job) == meanwhile
    release(work)
    work_until_done(work, job)
    ended = work.job(job)
    assert (ended["state"], ended["version"], ended["promoted"], ended["attempts"]) == ("done", 1, True, attempts)
    assert query(work.app, "select version from relief.model") == [1]
    assert value(work.app, "select promoted_version from relief.detector") == 1
    assert query(work.app, "select action from relief.audit where action <> 'create' order by id") == [
        "train",
        "promote",
    ]
    # What the dead worker had in its queue is gone once it counts as dead.
    nudges = f"select count(*) from relief_queue_{work.role}.procrastinate_jobs where task_name = 'relief.carry_out'"
    wait_until(lambda: bool(work.once()) and work.database.value(nudges) == 0)
    assert query(work.app, "select version from relief.model") == [1]


def test_job_whose_worker_is_lost_each_time_fails_at_last(work: Work) -> None:
    job = value(work.app, TRAINING)
    lost = "update relief.job set state = 'running', attempts = 5, worker = %s, backend = 1 where id = %s"
    work.database.query(lost, work.role, job)
    work.once()
    ended = work.job(job)
    assert (ended["state"], ended["error"]) == ("failed", "the worker was lost each time")
    assert query(work.app, "select version from relief.model") == []


def test_what_an_attempt_stores_late_is_refused_and_undone(work: Work) -> None:
    job = value(work.app, TRAINING)
    hold(work, "relief.model", "insert", "true")
    work.start()
    wait_until(lambda: is_held(work))
    query(work.app, "select relief.cancel_job(%s)", job)
    release(work)
    again = value(work.app, TRAINING)
    wait_until(lambda: work.job(again)["finished_at"], lambda: work.job(again))
    assert (work.state(job), work.state(again)) == ("cancelled", "done")
    assert query(work.app, "select version from relief.model") == [1]


def test_sigterm_lets_the_running_job_end(work: Work) -> None:
    job = value(work.app, TRAINING)
    hold(work, "relief.model", "insert", "true")
    stopping = work.start()
    wait_until(lambda: is_held(work))
    stopping.send_signal(signal.SIGTERM)
    assert any('"stopping"' in line for line in stopping.stdout)
    later = value(work.app, "select relief.request_training('orders')")
    assert work.state(job) == "running"
    release(work)
    assert stopping.wait(timeout=60) == 0
    assert (work.state(job), work.state(later)) == ("done", "queued")


def test_two_workers_whose_sessions_are_ended_again_and_again_do_each_job_once(work: Work) -> None:
    for name in ("second", "third"):
        query(work.app, f"select relief.create_detector('{name}', 'shop.orders', '{{a}}', score_function => false)")
    for process in [work.start(), work.start()]:
        assert '"ready"' in process.stdout.readline()
    jobs = [
        value(work.app, "select relief.request_training(%s, settings => jsonb_build_object('trees', %s))", name, trees)
        for trees in (20, 21)
        for name in ("orders", "second", "third")
    ]
    for attempts in (1, 2, 3):
        enough = "select bool_or(state = 'running') and sum(attempts) >= %s from relief.job"
        wait_until(lambda enough=enough, attempts=attempts: value(work.app, enough, attempts))
        work.database.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", work.role)
    done = "select bool_and(state = 'done') and sum(attempts) > count(*) from relief.job"
    wait_until(lambda: value(work.app, done), lambda: [work.job(job) for job in jobs])
    stored = query(work.app, "select detector, version from relief.job")
    assert sorted(stored) == [(name, version) for name in ("orders", "second", "third") for version in (1, 2)]
    assert value(work.app, "select count(*) from relief.model") == len(jobs)
    for process in work.processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(timeout=60) for process in work.processes] == [0, 0]
