"""Score the rows that were there before, over several connections at once; ``relief.backfill`` does it over one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from relief_trainer.connection import Connection, connect
from relief_trainer.progress import Progress
from relief_trainer.queries import query


@dataclass(frozen=True)
class Backfilled:
    """What a backfill did."""

    detector: str
    rows: int
    failed: int  # rows that could not be scored
    jobs: int


@dataclass(frozen=True)
class _Batch:
    """Blocks of a table, whose rows are scored in one transaction."""

    relation: int
    first_block: int
    end_block: int


def backfill(dsn: str | None, name: str, *, jobs: int, batch_rows: int, progress: Progress) -> Backfilled:
    """Score the rows of an attached detector's table that the promoted version hasn't scored.

    Stopped at any moment, it goes on where it was when called again. What fails once isn't tried again by the others.

    Parameters
    ----------
    jobs
        Connections, each of which scores a batch at a time.
    batch_rows
        About how many rows are scored in each transaction.

    Raises
    ------
    ReliefError
        If the detector isn't attached, has no promoted model, or isn't the caller's to act on.
    """
    with connect(dsn) as connection:
        connection.autocommit = True
        run = _Run(connection, name, batch_rows)
        with progress.counting(f"scoring {name}", run.expected) as advance:
            rows = 0
            with ThreadPoolExecutor(jobs) as pool:
                futures = [pool.submit(run.score_batches, dsn, advance) for _ in range(jobs)]
                try:
                    rows += sum(future.result() for future in futures)
                finally:
                    # What one couldn't do, or an interrupt, ends all, each with the batch that it has.
                    run.stopped.set()
            rows += run.score_remainder(connection, advance)
        connection.execute(query("backfill_end", name=name))
    return Backfilled(name, rows, run.failed, jobs)


class _Run:
    """The batches of one backfill, which threads take from each other's hands."""

    def __init__(self, connection: Connection, name: str, batch_rows: int) -> None:
        self._name = name
        self._advancing = threading.Lock()
        self.failed = 0
        self._batches: SimpleQueue[_Batch] = SimpleQueue()
        self.stopped = threading.Event()
        self._started = (connection.execute(query("backfill_start")).fetchone() or {})["started"]
        tables = connection.execute(query("backfill_tables", name=name, batch_rows=batch_rows)).fetchall()
        self._relations = [table["relation"] for table in tables]
        self.expected: int = sum(table["rows"] for table in tables)
        for table in tables:
            for first in range(0, table["blocks"], table["batch"]):
                self._batches.put(_Batch(table["relation"], first, first + table["batch"]))

    def score_batches(self, dsn: str | None, advance: Callable[[int], None]) -> int:
        """Score batches over a connection of its own until there are no more, and return how many rows were scored."""
        rows = 0
        with connect(dsn) as connection:
            connection.autocommit = True
            while not self.stopped.is_set():
                try:
                    batch = self._batches.get_nowait()
                except Empty:
                    break
                scored, _ = self._score(
                    connection, batch.relation, "all that are free", batch.first_block, batch.end_block
                )
                rows += scored
                with self._advancing:
                    advance(scored)
        return rows

    def score_remainder(self, connection: Connection, advance: Callable[[int], None]) -> int:
        """Score what others had locked, or have moved meanwhile, and return how many rows that were."""
        rows = 0
        for relation in self._relations:
            settled = 1
            while settled:
                scored, settled = self._score(connection, relation, "some that are free")
                if not settled:
                    further, settled = self._score(connection, relation, "one, waiting for it")
                    scored += further
                rows += scored
                advance(scored)
        return rows

    def _score(
        self, connection: Connection, relation: int, how: str, first: int | None = None, end: int | None = None
    ) -> tuple[int, int]:
        """Return how many rows were scored, and how many were scored or failed for good."""
        statement = query(
            "backfill_rows", name=self._name, relation=relation, started=self._started, how=how, first=first, end=end
        )
        row = connection.execute(statement).fetchone() or {}
        with self._advancing:
            self.failed += row["settled"] - row["scored"]
        return row["scored"], row["settled"]
