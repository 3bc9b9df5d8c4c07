"""A durable server of a test's own, to be killed: by SIGKILL, with all its processes or one backend alone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from relief_sql.assemble import artefacts

from helpers.database import query, value
from relief_trainer.cluster import Cluster

DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "max_connections": "100"}


class Victim:
    """A throwaway server whose commits survive a crash, with Relief in its database."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.cluster = Cluster({**DURABLE, **(settings or {})}, artefacts())
        self.query("create extension relief cascade")

    def connect(self, **options: Any) -> psycopg.Connection:
        """Open a connection, in autocommit mode, once the server has recovered."""
        give_up = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(self.dsn, **{"autocommit": True, **options})
            except psycopg.OperationalError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.05)

    @property
    def dsn(self) -> str:
        """The connection string of the superuser."""
        return self.cluster.dsn()

    def query(self, statement: str, *parameters: object) -> list[Any]:
        """Run a statement in a session of its own; see `helpers.database.query`."""
        with self.connect() as connection:
            return query(connection, statement, *parameters)

    def value(self, statement: str, *parameters: object) -> Any:
        """Run a statement in a session of its own and return the one value that it gives."""
        with self.connect() as connection:
            return value(connection, statement, *parameters)

    def kill_server(self) -> None:
        """Kill the postmaster and all its processes at once, and start it again."""
        postmaster = self.cluster.process_id
        assert postmaster is not None
        os.kill(postmaster, signal.SIGSTOP)  # it shall have no further children
        children = _children(postmaster)
        for process in (postmaster, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.cluster.stop(signal.SIGKILL)
        while any(_is_running(child) for child in children):
            time.sleep(0.01)
        self.cluster.start()

    def kill_backend(self, process: int) -> None:
        """Kill one backend; the postmaster then ends all others, recovers, and goes on."""
        os.kill(process, signal.SIGKILL)
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                if self.value("select pg_postmaster_start_time() < now()") and not _is_running(process):
                    return
            time.sleep(0.05)


@contextlib.contextmanager
def running_victim(settings: Mapping[str, str] | None = None) -> Iterator[Victim]:
    """Run a server for the length of a ``with`` block."""
    victim = Victim(settings)
    try:
        yield victim
    finally:
        victim.cluster.remove()


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # pid (command) state parent …, where a command may hold anything
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
