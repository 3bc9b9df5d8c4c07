"""Work off jobs until told to stop: listen, carry out, and when the server is lost, come back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from procrastinate.exceptions import ConnectorException

from relief_trainer import job as jobs
from relief_trainer.connection import connect, translated_errors
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query
from relief_trainer.queue import Queue, prepare
from relief_trainer.report import Report

LONGEST_WAIT = 60.0


@dataclass(frozen=True)
class Options:
    """How to work.

    Parameters
    ----------
    concurrency
        Jobs at a time.
    retry_after
        Seconds until a job whose server or connection was lost is tried again; each time twice as long.
    stalled_after
        Seconds without a sign of life after which another worker counts as dead.
    """

    concurrency: int = 1
    retry_after: float = 5.0
    stalled_after: float = 30.0


class Worker:
    """Carries out the jobs of those detectors whose tables' owners' rights the connected role has."""

    def __init__(self, dsn: str | None, options: Options, report: Report) -> None:
        self._dsn = dsn
        self._options = options
        self._report = report
        self._ended: list[str] = []

    def run_once(self) -> bool:
        """Work off what is due, and return whether none of it failed.

        Raises
        ------
        ReliefError
            If the server can't be reached, or the role can't work there.
        """
        self._quiet()
        with _translated_errors():
            asyncio.run(self._run_once(self._prepare()))
        return "failed" not in self._ended

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, which let running jobs end; a second one doesn't.

        Raises
        ------
        ReliefError
            If the server can't be reached at first, or the role can't work there.
        """
        self._quiet()
        schema = self._prepare()
        asyncio.run(self._run(schema))

    def _prepare(self) -> str:
        with connect(self._dsn) as connection:
            schema = prepare(connection)
            owners = [row["owner"] for row in connection.execute(query("owners")).fetchall()]
            login = connection.info.user
        self._report(
            "ready", f'worker "{login}" is ready for detectors of {_listed(owners)}', login=login, owners=owners
        )
        if len(owners) > 1:
            self._report(
                "warning",
                "expressions of each of these owners run with the rights of all: whoever doesn't trust the others has "
                "a worker under a role of its own",
                owners=owners,
            )
        return schema

    def _queue(self, schema: str) -> Queue:
        return Queue(
            self._dsn,
            schema,
            self._carry_out,
            retry_after=self._options.retry_after,
            stalled_after=self._options.stalled_after,
        )

    def _carry_out(self, job: int) -> None:
        state = jobs.carry_out(self._dsn, job, self._report)
        self._ended.append(state or "")

    async def _run_once(self, schema: str) -> None:
        queue = self._queue(schema)
        async with queue.open():
            await queue.queue_due()
            ended = -1
            # What waits behind a job of the same detector comes next; what another worker does is its own.
            while await queue.fill() and len(self._ended) > ended:
                ended = len(self._ended)
                await queue.work(concurrency=self._options.concurrency, until_empty=True)

    async def _run(self, schema: str) -> None:
        # What is lost with a connection is told where it is dealt with.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        wait = 1.0
        with _stopped_by_signals() as stopped:
            while not stopped.is_set():
                begun = time.monotonic()
                try:
                    with _translated_errors():
                        await self._work(self._queue(schema), stopped)
                except ReliefError as error:
                    if not isinstance(error.__cause__, psycopg.OperationalError):
                        raise
                    wait = 1.0 if time.monotonic() - begun > LONGEST_WAIT else min(2 * wait, LONGEST_WAIT)
                    self._report("lost", f"lost the server: {error}; trying again in {wait:.0f} s", error=str(error))
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(stopped.wait(), wait)
        self._report("stopped", "worker has stopped")

    async def _work(self, queue: Queue, stopped: asyncio.Event) -> None:
        """Work until stopped or the server is lost."""
        async with queue.open():
            await queue.fill()
            tasks = [
                asyncio.create_task(queue.work(concurrency=self._options.concurrency, until_empty=False)),
                asyncio.create_task(self._listen(queue)),
            ]
            stop = asyncio.create_task(stopped.wait())
            await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            if stopped.is_set():
                self._report("stopping", "worker stops as soon as what it is at has ended")
            for task in (*tasks, stop):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            if not stopped.is_set():
                errors = (error for error in ended if isinstance(error, Exception))
                raise next(errors, psycopg.OperationalError("the queue has ended"))

    async def _listen(self, queue: Queue) -> None:
        """Fill the queue whenever a job is announced, and once a minute, as a worker may have died."""
        connection = await psycopg.AsyncConnection.connect(
            self._dsn or "", autocommit=True, application_name="relief worker", client_encoding="utf8"
        )
        async with connection:
            await connection.execute(query("listen"))
            while True:
                await queue.fill()
                async for _ in connection.notifies(timeout=min(60.0, self._options.stalled_after), stop_after=1):
                    # Many requests at once are one.
                    await asyncio.sleep(0.1)

    @staticmethod
    def _quiet() -> None:
        """Keep to ourselves what libraries log: what matters is reported."""
        for name in ("procrastinate", "psycopg.pool", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Turn what PostgreSQL says, to the queue too, into a `ReliefError`."""
    with translated_errors():
        try:
            yield
        except ConnectorException as error:
            raise error.__cause__ or psycopg.OperationalError(str(error)) from None


def _listed(owners: list[str]) -> str:
    return ", ".join(f'"{owner}"' for owner in owners) or "nobody: it has the rights of no owner of a detector's table"


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[asyncio.Event]:
    """Yield what SIGTERM or SIGINT set, the first time; a second one ends the process."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    names = (signal.SIGTERM, signal.SIGINT)

    def stop() -> None:
        stopped.set()
        for name in names:
            loop.remove_signal_handler(name)

    for name in names:
        loop.add_signal_handler(name, stop)
    try:
        yield stopped
    finally:
        for name in names:
            loop.remove_signal_handler(name)
