"""Workers: in the test's own process, to work off what is due, or in one of their own, to be killed."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import Connection, sql

from helpers.database import Database, query, value
from helpers.world import World, make_world
from relief_trainer.report import Report
from relief_trainer.worker import Options, Worker

# A worker without a sign of life for so long is dead; what failed is tried again soon.
SOON = Options(retry_after=0.2, stalled_after=1.0)
AS_OPTIONS = ["--retry-after", str(SOON.retry_after), "--stalled-after", str(SOON.stalled_after)]
TRAINING = """select relief.request_training('orders', promote => true, settings => '{"trees": 5}')"""


@dataclass
class Work:
    """A world, and a role that works for its app: member of it, and allowed to make its queue."""

    world: World
    database: Database
    app: Connection
    role: str
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def queue(self) -> sql.Identifier:
        """The schema of the role's queue."""
        return sql.Identifier(f"relief_queue_{self.role}")

    def once(self, dsn: str | None = None, options: Options = SOON) -> list[dict[str, Any]]:
        """Work off what is due, in this process, and return the events that were told."""
        told = io.StringIO()
        Worker(dsn or self.database.dsn(self.role), options, Report(told, as_json=True)).run_once()
        return [json.loads(line) for line in told.getvalue().splitlines()]

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start a worker in a process of its own."""
        script = Path(sys.executable).with_name("relief")
        process = subprocess.Popen(
            [str(script), "worker", "--dsn", self.database.dsn(self.role), "--json", *AS_OPTIONS, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def job(self, job: int) -> dict[str, Any]:
        """Return a job."""
        return value(self.app, "select to_jsonb(j) from relief.job as j where id = %s", job)

    def state(self, job: int) -> str:
        """Return a job's state."""
        return self.job(job)["state"]

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
            process.stdout.close()


@contextlib.contextmanager
def work_in(database: Database) -> Iterator[Work]:
    """Yield a database's world with a role that works for it."""
    world = make_world(database)
    role = database.role("worker")
    query(database.superuser, f"grant {world.app.info.user} to {role}")
    query(database.superuser, f"grant create on database {database.name} to {role}")
    work = Work(world, database, world.app, role)
    try:
        yield work
    finally:
        work.close()


def wait_until(condition: Callable[[], object], what: object = "", seconds: float = 120.0) -> None:
    """Wait for something that comes; what doesn't come in time is an error that tells ``what``, called if it can be."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.02)
