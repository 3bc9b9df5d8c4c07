"""The worker's queue: procrastinate, in a schema of the worker's own.

``relief.job`` is the truth: who asked for what, how far it is, what came of it. The queue holds nothing but nudges, the
number of a job each, and decides when which worker takes which: it locks detectors, waits between attempts, finds the
nudges of dead workers. What is missing in it is put in again from ``relief.job``, so it may be lost at any time.

Each role that works has a queue of its own, since whoever may write to a queue, or owns its functions, could have them
run by whoever works on it. Nobody else needs any right on it: a request is a row of ``relief.job``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, cast

import procrastinate
import psycopg
from procrastinate import exceptions
from procrastinate.jobs import Job as Nudge
from procrastinate.schema import SchemaManager
from procrastinate.utils import utcnow
from psycopg import errors, sql

from relief_trainer.connection import Connection
from relief_trainer.detector import trusted_sql
from relief_trainer.errors import ReliefError
from relief_trainer.job import TryAgainError
from relief_trainer.queries import query

CARRY_OUT = "relief.carry_out"


def prepare(connection: Connection) -> str:
    """Make the queue of the connected role where there is none, or another release's, and return its schema.

    Raises
    ------
    ReliefError
        If the role may not make a schema, another role owns it, or workers of another release are at work.
    """
    try:
        return _prepare(connection)
    except _MADE_MEANWHILE:
        # Another worker of this role began at the same moment, and has made it by now.
        connection.rollback()
        return _prepare(connection)


_MADE_MEANWHILE = (
    errors.UniqueViolation,
    errors.DuplicateSchema,
    errors.DuplicateObject,
    errors.DuplicateTable,
    errors.DuplicateFunction,
)


def _prepare(connection: Connection) -> str:
    row = connection.execute(query("queue_schema")).fetchone() or {}
    schema = sql.Identifier(row["name"])
    digest = hashlib.sha256(SchemaManager.get_schema().encode()).hexdigest()[:12]
    comment = f"Queue of relief worker, which makes it again from relief.job at any time; procrastinate {digest}"
    if not row["exists"]:
        _create_schema(connection, schema, row["database"], row["login"])
    elif not row["is_own"]:
        raise ReliefError(
            f'schema {row["name"]} belongs to "{row["owner"]}", '
            f'whose functions would run with the rights of "{row["login"]}"',
            f"Ask its owner: drop schema {_quoted(connection, schema)} cascade;",
        )
    elif row["comment"] == comment:
        return str(row["name"])
    elif row["has_workers"]:
        workers = connection.execute(query("live_workers", schema=schema)).fetchone() or {}
        if workers["count"]:
            raise ReliefError(
                f"{workers['count']} workers with another release of procrastinate are at work on schema {row['name']}",
                "Stop them, wait a minute, and start again.",
            )
    for drop in row["drops"]:
        connection.execute(trusted_sql(drop))
    connection.execute(query("use_schema", schema=row["name"], local=True))
    connection.execute(trusted_sql(SchemaManager.get_schema()))
    connection.execute(query("comment_on_queue_schema", schema=schema, text=comment))
    connection.commit()
    return str(row["name"])


def _create_schema(connection: Connection, schema: sql.Identifier, database: str, login: str) -> None:
    try:
        with connection.transaction():
            connection.execute(query("create_queue_schema", schema=schema))
    except errors.InsufficientPrivilege as error:
        owner = _quoted(connection, sql.Identifier(login))
        raise ReliefError(
            f'role "{login}" may not create its queue in database "{database}"',
            f"As the database's owner: create schema {_quoted(connection, schema)} authorization {owner};",
        ) from error


def _quoted(connection: Connection, name: sql.Identifier) -> str:
    return name.as_string(connection)


class _Backoff(procrastinate.BaseRetryStrategy):
    """Tries again what may come right, after a time that doubles; `TryAgainError` says what may."""

    def __init__(self, first: float) -> None:
        self._first = first

    def get_retry_decision(self, *, exception: BaseException, job: Nudge) -> procrastinate.RetryDecision | None:
        if not isinstance(exception, TryAgainError):
            return None
        return procrastinate.RetryDecision(retry_in={"seconds": self._first * 2 ** min(job.attempts, 8)})


class Queue:
    """The queue in a schema, to put jobs into and to work on.

    Parameters
    ----------
    carry_out
        What is called with a job's number, in a thread.
    retry_after
        Seconds until a job is tried again for the first time.
    """

    def __init__(
        self,
        dsn: str | None,
        schema: str,
        carry_out: Callable[[int], None],
        *,
        retry_after: float,
        stalled_after: float,
    ) -> None:
        async def use_schema(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute(query("use_schema", schema=schema, local=False))
            await connection.commit()

        connector = procrastinate.PsycopgConnector(
            conninfo=dsn or "",
            kwargs={"application_name": "relief worker", "client_encoding": "utf8"},
            configure=use_schema,
            min_size=1,
            max_size=4,
            timeout=5.0,
        )
        self._app = procrastinate.App(connector=connector)
        self._stalled_after = stalled_after

        @self._app.task(name=CARRY_OUT, retry=_Backoff(retry_after))
        def carry_out_job(job: int) -> None:
            carry_out(job)

        @self._app.periodic(cron="* * * * *")
        @self._app.task(name="relief.queue_due", queueing_lock="relief.queue_due", priority=1)
        async def queue_due(timestamp: int) -> None:  # noqa: ARG001
            await self.queue_due()

    def open(self) -> Any:
        """Return an asynchronous context in which the queue can be used."""
        return self._app.open_async()

    async def queue_due(self) -> None:
        """Make jobs of what is scheduled and due: one worker a minute does."""
        await self._rows("queue_due")

    async def fill(self) -> int:
        """Put in what ``relief.job`` has and the queue hasn't, and return how many wait, dead workers' among them."""
        manager = self._app.job_manager
        for stalled in await manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_after):
            assert stalled.id is not None
            await manager.retry_job_by_id_async(stalled.id, retry_at=utcnow())
        nudges = {nudge.task_kwargs.get("job"): nudge for nudge in await manager.list_jobs_async(task=CARRY_OUT)}
        for job in await self._rows("open_jobs"):
            if job["id"] not in nudges:
                await self._put(job["id"], job["detector"])
        now = utcnow()
        waiting = await manager.list_jobs_async(task=CARRY_OUT, status="todo")
        return sum(nudge.scheduled_at is None or nudge.scheduled_at <= now for nudge in waiting)

    async def _put(self, job: int, detector: str) -> None:
        try:
            # One training of a detector at a time, and one nudge a job.
            deferrer = self._app.configure_task(CARRY_OUT, lock=f"detector {detector}", queueing_lock=f"job {job}")
            await deferrer.defer_async(job=job)
        except exceptions.AlreadyEnqueued:
            pass

    async def _rows(self, name: str) -> list[dict[str, Any]]:
        text = cast(Any, query(name).as_string(None))
        return await self._app.connector.execute_query_all_async(text)

    async def work(self, *, concurrency: int, until_empty: bool) -> None:
        """Work until cancelled, which lets running jobs end, or until the queue is empty."""
        await self._app.run_worker_async(
            name="relief",
            concurrency=concurrency,
            wait=not until_empty,
            listen_notify=not until_empty,
            delete_jobs="always",
            install_signal_handlers=False,
            update_heartbeat_interval=self._stalled_after / 3,
            stalled_worker_timeout=self._stalled_after,
        )
