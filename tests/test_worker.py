"""The worker: what it carries out, with whose rights, and what it tells."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner, Result
from helpers.database import Database, query, value
from helpers.workers import TRAINING, Work, work_in
from psycopg.conninfo import make_conninfo

from relief_trainer.cli import main
from relief_trainer.connection import connect
from relief_trainer.errors import ReliefError
from relief_trainer.queue import prepare
from relief_trainer.worker import Options


@pytest.fixture
def work(database: Database) -> Iterator[Work]:
    with work_in(database) as work:
        yield work


def relief(work: Work, *arguments: str, dsn: str | None = None) -> Result:
    return CliRunner().invoke(main, [*arguments, "--dsn", dsn or work.database.dsn(work.role)], catch_exceptions=False)


def named(events: list[dict[str, object]], *names: str) -> list[dict[str, object]]:
    return [{key: each[key] for key in each if key != "at"} for each in events if each["event"] in names]


def test_worker_does_what_is_due_and_tells_it(work: Work) -> None:
    training = value(work.app, TRAINING)
    query(work.app, "select relief.schedule('orders', refresh => '*/15 * * * *')")
    work.database.query("update relief.schedule set next_at = now() - interval '1 hour'")
    events = work.once()
    refresh = training + 1
    assert named(events, "ready", "started", "done") == [
        {"event": "ready", "login": work.role, "owners": [work.app.info.user]},
        {"event": "started", "job": training, "detector": "orders", "kind": "train", "attempt": 1},
        {"event": "done", "job": training, "detector": "orders", "kind": "train", "version": 1, "promoted": True},
        {"event": "started", "job": refresh, "detector": "orders", "kind": "refresh", "attempt": 1},
        {
            "event": "done",
            "job": refresh,
            "detector": "orders",
            "kind": "refresh",
            "reason": "1 profiles are up to date",
        },
    ]
    assert value(work.app, "select promoted_version from relief.detector") == 1
    assert value(work.app, "select rows from relief.profile") == 20
    model = query(work.app, "select created_by, document::jsonb #> '{provenance,trees}' from relief.model")
    assert model == [(work.role, 5)]
    assert named(work.once(), "started") == []


def test_settings_of_a_request_are_those_of_the_training(work: Work) -> None:
    query(work.app, "select relief.drop_detector('orders')")
    query(work.app, "alter table shop.orders add at timestamptz default '2024-01-01'")
    query(work.app, "select relief.create_detector('orders', 'shop.orders', '{a, b}', time_column => 'at')")
    chosen = {"trees": 7, "samples": 9, "max_features": 1, "seed": 3, "contamination": 0.2, "sample_rows": 15}
    settings = json.dumps({**chosen, "since": "2023-01-01"})
    query(work.app, "select relief.request_training('orders', settings => %s)", settings)
    work.once()
    document = json.loads(value(work.app, "select document from relief.model"))
    provenance = document["provenance"]
    assert {name: provenance[name] for name in ("trees", "samples", "max_features", "seed")} == {
        name: chosen[name] for name in ("trees", "samples", "max_features", "seed")
    }
    assert (provenance["rows_asked"], provenance["since"]) == (15, "2023-01-01")
    assert document["threshold"]["contamination"] == 0.2


def test_worker_trains_only_if_asked_for_by_drift_or_age(work: Work) -> None:
    job = value(work.app, "select relief.request_training('orders', if_drifted => true, promote => true)")
    work.once()
    assert (work.state(job), work.job(job)["reason"]) == ("done", "no model is promoted")
    job = value(work.app, "select relief.request_training('orders', if_drifted => true, max_age => '30 days')")
    assert [each["event"] for each in work.once()] == ["ready", "started", "skipped"]
    skipped = work.job(job)
    assert (skipped["state"], skipped["version"]) == ("skipped", None)
    assert skipped["reason"].startswith("no feature has drifted; version 1 is of ")
    query(work.app, "insert into shop.orders (a, b) select 1000 + n, 1 from generate_series(1, 200) as n")
    job = value(work.app, "select relief.request_training('orders', if_drifted => true, promote => true)")
    work.once()
    drifted = work.job(job)
    assert (drifted["state"], drifted["version"], drifted["reason"][:12]) == ("done", 2, "drifted: a (")
    logged = query(
        work.app, "select action, version, role, reason from relief.audit where action <> 'create' order by id"
    )
    assert logged == [
        ("consider", None, work.role, "no model is promoted"),
        ("train", 1, work.role, None),
        ("promote", 1, work.role, "no model is promoted"),
        ("consider", 1, work.role, skipped["reason"]),
        ("consider", 1, work.role, drifted["reason"]),
        ("train", 2, work.role, None),
        ("promote", 2, work.role, drifted["reason"]),
    ]


def test_candidate_takes_the_promoted_ones_place_only_if_it_is_better(work: Work) -> None:
    request = "select relief.request_training('orders', promote_if_better => true, settings => %s)"
    job = value(work.app, request, '{"contamination": 0.05, "seed": 1}')
    work.once()
    first = work.job(job)
    assert (first["version"], first["promoted"], "no version" in first["reason"]) == (1, True, True)
    job = value(work.app, request, '{"contamination": 0.5}')
    work.once()
    other = work.job(job)
    assert (other["state"], other["version"], other["promoted"]) == ("done", 2, False)
    assert value(work.app, "select promoted_version from relief.detector") == 1
    logged = query(work.app, "select version, details -> 'better', reason from relief.audit where action = 'compare'")
    assert logged == [(1, True, first["reason"]), (2, False, other["reason"])]
    told = relief(work, "train", "orders", "--promote-if-better", "--contamination", "0.5")
    assert "\nnot promoted: version" in told.stdout
    assert told.stdout.endswith("promote it: relief promote orders 3\n")
    same = json.loads(relief(work, "train", "orders", "--promote-if-better", "--seed", "1", "--json").stdout)
    assert (same["version"], same["promoted"]) == (4, True)


def test_failed_job_tells_why_and_the_others_go_on(work: Work) -> None:
    query(work.app, "create table shop.empty (a float8)")
    query(work.app, "select relief.create_detector('empty', 'shop.empty', '{a}')")
    failing = value(work.app, "select relief.request_training('empty')")
    training = value(work.app, TRAINING)
    result = relief(work, "worker", "--once")
    assert result.exit_code == 1
    message = 'detector "empty" has 0 rows to train on in table shop.empty, fewer than 10'
    assert f"job {failing}, train empty: failed: {message}\nhint: Wait for more rows" in result.stdout
    assert "Traceback" not in result.output
    failed = work.job(failing)
    assert (failed["state"], failed["error"], failed["attempts"]) == ("failed", message, 1)
    assert failed["hint"].startswith("Wait for more rows")
    assert work.state(training) == "done"
    assert relief(work, "worker", "--once").exit_code == 0


def test_superuser_does_not_work_on_another_roles_table(work: Work) -> None:
    job = value(work.app, TRAINING)
    query(work.app, "select relief.schedule('orders', refresh => '0 * * * *')")
    work.database.query("update relief.schedule set next_at = now()")
    work.once(work.database.dsn())
    jobs = query(work.app, "select kind, state, error, hint from relief.job order by id")
    message = f'is a superuser, and table shop.orders belongs to "{work.app.info.user}"'
    for _, state, error, hint in jobs:
        assert (state, message in error) == ("failed", True)
        assert hint == f'Connect as a role that has the rights of "{work.app.info.user}".'
    assert [kind for kind, *_ in jobs] == ["train", "refresh"]
    assert work.job(job)["version"] is None
    assert query(work.app, "select * from relief.profile") == []


def test_worker_sees_the_jobs_of_those_owners_alone_whose_rights_it_has(work: Work) -> None:
    mallory = work.world.mallory
    query(mallory, "create table mal.t as select n as a from generate_series(1, 50) as n")
    query(mallory, "select relief.create_detector('mal', 'mal.t', '{a}')")
    query(mallory, "select relief.request_training('mal')")
    assert named(work.once(), "started") == []
    query(work.database.superuser, f"grant {mallory.info.user} to {work.role}")
    events = work.once()
    assert [each["detector"] for each in named(events, "started")] == ["mal"]
    (warning,) = named(events, "warning")
    assert warning["owners"] == sorted([work.app.info.user, mallory.info.user])


def test_job_that_meets_a_busy_table_is_tried_again(work: Work) -> None:
    job = value(work.app, TRAINING)
    work.database.query(f"alter role {work.role} set lock_timeout = '100ms'")
    busy = work.database.connect(work.app.info.user, autocommit=False)
    query(busy, "lock table shop.orders")
    work.once(options=Options(retry_after=3600))
    assert (work.state(job), work.job(job)["attempts"]) == ("waiting", 1)
    assert work.job(job)["error"] == "canceling statement due to lock timeout"
    assert work.once()[1:] == []
    busy.rollback()
    # The hour has passed.
    work.database.query(f"set search_path = relief_queue_{work.role}")
    work.database.query("update procrastinate_jobs set scheduled_at = now() where task_name = 'relief.carry_out'")
    work.once()
    assert (work.state(job), work.job(job)["attempts"], work.job(job)["error"]) == ("done", 2, None)


def test_queue_that_is_lost_is_made_again_from_the_jobs(work: Work) -> None:
    work.once()
    job = value(work.app, TRAINING)
    work.database.query(f"drop schema relief_queue_{work.role} cascade")
    work.once()
    assert work.state(job) == "done"
    # As another release of procrastinate left it.
    work.database.query(f"comment on schema relief_queue_{work.role} is 'another'")
    work.database.query(f"drop function relief_queue_{work.role}.procrastinate_fetch_job_v2 cascade")
    work.database.query(f"delete from relief_queue_{work.role}.procrastinate_workers")
    job = value(work.app, TRAINING)
    work.once()
    assert work.state(job) == "done"


def refusal(work: Work) -> tuple[str, str | None]:
    with pytest.raises(ReliefError) as refused:
        work.once()
    return str(refused.value), refused.value.hint


def test_role_that_cannot_have_a_queue_is_told_what_to_do(work: Work) -> None:
    queue = f"relief_queue_{work.role}"
    work.database.query(f"revoke create on database {work.database.name} from {work.role}")
    message, hint = refusal(work)
    assert message == f'role "{work.role}" may not create its queue in database "{work.database.name}"'
    assert hint == f'As the database\'s owner: create schema "{queue}" authorization "{work.role}";'
    work.database.query(hint.split(": ", 1)[1])
    job = value(work.app, TRAINING)
    work.once()
    assert work.state(job) == "done"
    work.database.query(f"alter schema {queue} owner to {work.world.mallory.info.user}")
    message, hint = refusal(work)
    owner = work.world.mallory.info.user
    assert message == f'schema {queue} belongs to "{owner}", whose functions would run with the rights of "{work.role}"'
    assert hint == f'Ask its owner: drop schema "{queue}" cascade;'


def test_workers_that_begin_at_once_share_a_queue(work: Work) -> None:
    together = threading.Barrier(4)

    def make(_: int) -> str:
        with connect(work.database.dsn(work.role)) as connection:
            together.wait(timeout=60)
            return prepare(connection)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(make, range(4))) == {f"relief_queue_{work.role}"}
    tables = "select count(*) from pg_class where relname = 'procrastinate_jobs' and relkind = 'r'"
    assert work.database.value(tables) == 1


def test_workers_of_two_releases_of_procrastinate_do_not_share_a_queue(work: Work) -> None:
    work.once()
    work.database.query(f"comment on schema relief_queue_{work.role} is 'another'")
    work.database.query(f"insert into relief_queue_{work.role}.procrastinate_workers default values")
    message, hint = refusal(work)
    assert message.startswith("1 workers with another release of procrastinate are at work on schema relief_queue_")
    assert hint == "Stop them, wait a minute, and start again."


def test_worker_that_reaches_no_server_ends_with_one_line_and_a_hint(work: Work) -> None:
    for options in ([], ["--once"]):
        result = relief(work, "worker", *options, dsn=make_conninfo(work.database.dsn(work.role), dbname="nowhere"))
        assert result.exit_code == 1
        assert "error: cannot reach the server: connection" in result.stderr
        assert "Traceback" not in result.output


def test_worker_without_its_package_says_what_to_install(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "procrastinate", None)
    for name in ("relief_trainer.worker", "relief_trainer.queue"):
        monkeypatch.delitem(sys.modules, name)
    result = relief(work, "worker", "--once")
    assert result.exit_code == 1
    assert result.stderr == "error: the package procrastinate is not installed\nhint: pip install '.[worker]'\n"


def test_jobs_are_listed_newest_first(work: Work) -> None:
    assert relief(work, "jobs").stdout.startswith("no jobs; ask for one: select relief.request_training(")
    assert "ask for one: select relief.request_training('orders');" in relief(work, "jobs", "orders").stdout
    job = value(work.app, TRAINING)
    work.once()
    later = value(work.app, "select relief.request_training('orders', if_drifted => true)")
    lines = relief(work, "jobs", "orders").stdout.splitlines()
    assert lines[0].split()[:4] == ["id", "detector", "kind", "state"]
    assert [line.split()[:4] for line in lines[1:]] == [
        [str(later), "orders", "train", "queued"],
        [str(job), "orders", "train", "done"],
    ]
    told = json.loads(relief(work, "jobs", "--json", "--rows", "1").stdout)
    assert [(each["id"], each["options"]) for each in told] == [(later, {"if_drifted": True})]
    assert 'detector "order" does not exist' in relief(work, "jobs", "order").stderr


def test_train_of_the_command_line_decides_by_drift_and_age_too(work: Work) -> None:
    trained = relief(work, "train", "orders", "--trees", "5", "--if-drifted", "--promote")
    assert "version 1 trained" in trained.stdout
    skipped = relief(work, "train", "orders", "--if-drifted", "--max-age", "30d")
    assert skipped.exit_code == 0
    assert skipped.stdout.startswith("orders: not trained: no feature has drifted; version 1 is of ")
    told = json.loads(relief(work, "train", "orders", "--max-age", "1 day", "--json").stdout)
    assert (told["version"], "not older than 1 day" in told["reason"]) == (None, True)
    interval = "Give an interval as PostgreSQL reads it: --max-age 30d, --max-age '6 hours'."
    for arguments, message, hint in (
        (["--max-age", "5parsecs"], '--max-age: invalid input syntax for type interval: "5parsecs"', interval),
        (["--max-age", ""], '--max-age: invalid input syntax for type interval: ""', interval),
        (["--max-age", "-1 day"], 'max_age -1 days of detector "orders" is not positive', "such as '30 days'."),
        (["--promote", "--promote-if-better"], "--promote and --promote-if-better are two things", "Give one"),
        (["--jobs", "0"], "0 processes grow no trees", "Give --jobs 1, or --jobs -1 for one a core."),
        (
            ["--source", "x.csv", "--features", "a", "--out", "y", "--if-drifted"],
            "--if-drifted and --max-age are for a detector in the database",
            "Leave them out.",
        ),
    ):
        result = relief(work, "train", "orders", *arguments)
        assert result.exit_code == 1
        error, advice = result.stderr.splitlines()
        assert error == f"error: {message}"
        assert hint in advice
    decided = query(work.app, "select details -> 'train' from relief.audit where action = 'consider' order by id")
    assert decided == [True, False, False]


def test_uninstalling_tells_of_the_queue_that_stays_and_how_to_drop_it(work: Work) -> None:
    work.once()
    done = relief(work, "uninstall", "--yes", dsn=work.database.dsn())
    assert (done.exit_code, done.stdout) == (0, "Relief is uninstalled\n")
    schema = f"relief_queue_{work.role}"
    assert done.stderr.splitlines() == [
        f'warning: schema "{schema}" is left, the queue of relief worker as "{work.role}"',
        f"hint: Stop that worker, and: drop schema {schema} cascade;",
    ]
    work.database.query(done.stderr.split("and: ")[1])
    assert work.database.query("select nspname from pg_namespace where nspname ~ '^relief'") == []
