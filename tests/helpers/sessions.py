"""Several sessions at once: threads that each hold a connection and act until time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import Connection

from helpers.database import Database


@contextmanager
def running(*targets: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Run functions in threads until the block ends; what they raise is raised here."""
    stop, failures = threading.Event(), []

    def guarded(target: Callable[[threading.Event], None]) -> None:
        try:
            target(stop)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def hammer(
    sessions: int, seconds: float, act: Callable[[Connection, int], object], database: Database
) -> list[psycopg.Error]:
    """Call act(connection, round) in several sessions until the time is over, and return what the server refused."""
    deadline = time.monotonic() + seconds
    refusals: list[psycopg.Error] = []

    def run(connection: Connection, number: int) -> None:
        rounds = 0
        while time.monotonic() < deadline:
            try:
                act(connection, rounds * sessions + number)
            except psycopg.Error as refusal:
                refusals.append(refusal)
            rounds += 1

    def session(number: int) -> Callable[[threading.Event], None]:
        connection = database.connect()
        return lambda _: run(connection, number)

    with running(*[session(number) for number in range(sessions)]):
        pass
    return refusals
