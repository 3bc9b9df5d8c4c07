"""Follow a detector's events: each is handed on at least once, in the order in which they became visible.

How far a reader has come is kept in the database, as a subscription, so it outlives the reader and its machine. Without
one, what comes from now on is read, and nothing is remembered.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from psycopg import sql

from relief_trainer.connection import Connection, connect, require_moment
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query

Event = dict[str, Any]
BATCH = 100
LONGEST_PAUSE = 30.0


def watch(
    dsn: str | None,
    detector: str,
    deliver: Callable[[Event], None],
    *,
    subscription: str | None = None,
    since: str | None = None,
    every: float = 1.0,
    once: bool = False,
    warn: Callable[[str], None] = lambda _: None,
) -> None:
    """Hand a detector's events on, until interrupted.

    Parameters
    ----------
    deliver
        Takes an event, as ``relief.next_events`` tells it; it counts as delivered when this returns.
    subscription
        Under which name the reader is remembered; it is made where there is none.
    since
        The time from which on a new reader reads; by default from now on.
    every
        Seconds between looks at the events; where the detector notifies, its notifications wake the reader earlier.
    once
        Whether to end when there is no event left.
    warn
        Is told when the connection is lost and will be tried again, and when ``since`` comes too late.

    Raises
    ------
    ReliefError
        If there is no such detector, the server can't be reached at first, or another reader moves the subscription.
    Exception
        What ``deliver`` raises; the event is delivered again by the next call.
    """
    reader = _Passing(detector, since) if subscription is None else _Remembered(detector, subscription, since, warn)
    was_connected = False
    for pause in _pauses():
        try:
            with connect(dsn) as connection:
                connection.autocommit = True
                if since is not None:
                    require_moment(connection, since)
                wait = _listen(connection, detector)
                reader.begin(connection)
                was_connected = True
                while True:
                    delivered = 0
                    for event, confirm in reader.events(connection):
                        deliver(event)
                        confirm()
                        delivered += 1
                    if not delivered and once:
                        return
                    if not delivered:
                        wait(every)
        except ReliefError as error:
            if not was_connected or not isinstance(error.__cause__, psycopg.OperationalError):
                raise
            warn(f"{error}; trying again in {pause:.0f} s")
            time.sleep(pause)


class _Remembered:
    """A reader whose subscription is in the database."""

    def __init__(self, detector: str, subscription: str, since: str | None, warn: Callable[[str], None]) -> None:
        self._names = {"detector": detector, "subscription": subscription}
        self._since = since
        self._warn = warn

    def begin(self, connection: Connection) -> None:
        (is_new,) = (connection.execute(query("subscribe", **self._names, since=self._since)).fetchone() or {}).values()
        if self._since is not None and not is_new:
            self._warn(f'subscription "{self._names["subscription"]}" goes on where it was, whatever --since says')
        self._since = None

    def events(self, connection: Connection) -> Iterator[tuple[Event, Callable[[], None]]]:
        """Yield the next events, each with what confirms it."""
        for row in connection.execute(query("next_events", **self._names, count=BATCH)).fetchall():
            confirmation = query("confirm", **self._names, batch=row["batch"], event=row["event"])
            yield row["content"], functools.partial(_run, connection, confirmation)


class _Passing:
    """A reader that nothing is remembered of; it goes on where it was when the connection is made again."""

    def __init__(self, detector: str, since: str | None) -> None:
        self._detector = detector
        self._since = since
        self._seen: str | None = None

    def begin(self, connection: Connection) -> None:
        row = connection.execute(query("begin_watch", detector=self._detector, since=self._since)).fetchone() or {}
        if self._since is None and self._seen is None:
            self._seen = row["snapshot"]

    def events(self, connection: Connection) -> Iterator[tuple[Event, Callable[[], None]]]:
        """Yield the next events; none needs to be confirmed."""
        (reading,) = (connection.execute(query("snapshot")).fetchone() or {}).values()
        last = 0
        while rows := connection.execute(
            query(
                "unread",
                detector=self._detector,
                since=self._since,
                seen=self._seen,
                reading=reading,
                last=last,
                count=BATCH,
            )
        ).fetchall():
            for row in rows:
                yield row["content"], lambda: None
            last = rows[-1]["event"]
        self._seen = reading


def _run(connection: Connection, statement: sql.Composed) -> None:
    connection.execute(statement)


def _listen(connection: Connection, detector: str) -> Callable[[float], None]:
    """Listen to a detector's notifications, and return what waits for one, or for some seconds."""
    (channel,) = (connection.execute(query("channel", detector=detector)).fetchone() or {}).values()
    connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))

    def wait(seconds: float) -> None:
        for _ in connection.notifies(timeout=seconds, stop_after=1):
            pass

    return wait


def _pauses() -> Iterator[float]:
    """Yield for how long to wait before each new connection: longer each time, up to a limit."""
    for attempt in itertools.count():
        yield min(LONGEST_PAUSE, 2.0 ** min(attempt, 10))
