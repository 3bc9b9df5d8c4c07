"""Servers beside the tests' own: a standby of one."""

from __future__ import annotations

import subprocess
import time

import psycopg

from helpers.database import value
from relief_trainer.cluster import Cluster


class Standby(Cluster):
    """A throwaway server that follows another one by streaming replication."""

    def __init__(self, primary: Cluster) -> None:
        self._primary = primary
        # Not by pg_basebackup --write-recovery-conf: a newer one writes options that an older server doesn't know.
        super().__init__({"max_connections": "60", "primary_conninfo": primary.dsn()})

    def _initialize(self) -> None:
        arguments = [str(self.bin / "pg_basebackup"), "--pgdata", str(self.directory / "data")]
        arguments += ["--checkpoint", "fast", "--no-sync", "--dbname", self._primary.dsn()]
        process = self._run(subprocess.Popen, arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate()
        assert process.returncode == 0, output.decode(errors="replace")
        (self.directory / "data" / "standby.signal").touch()

    def catch_up(self, seconds: float = 60.0) -> None:
        """Wait until all that the primary has done by now is here."""
        deadline = time.monotonic() + seconds
        with psycopg.connect(self._primary.dsn(), autocommit=True) as there, psycopg.connect(self.dsn()) as here:
            there.execute("checkpoint")
            done = value(there, "select pg_current_wal_flush_lsn()")
            while not value(here, "select pg_last_wal_replay_lsn() >= %s::pg_lsn", done):
                assert time.monotonic() < deadline, "the standby does not follow"
                time.sleep(0.02)
                here.rollback()
