"""Throwaway servers of other kinds, each in a private folder: MariaDB and Redis."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from relief_trainer.cluster import die_with_parent

DATABASE = "shop"
USER = "app"


@dataclass(frozen=True)
class MariaDB:
    """A running server with the database "shop", on a socket and, for those that can't use one, on loopback."""

    socket: str
    port: int
    password: str

    def uri(self, table: str) -> str:
        return f"mysql://{USER}:{self.password}@localhost/{DATABASE}?unix_socket={self.socket}&table={table}"

    def run(self, *statements: str) -> None:
        """Run statements as the user of the database."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            connection.commit()

    def connect(self) -> pymysql.Connection:
        return pymysql.connect(
            unix_socket=self.socket, user=USER, password=self.password, database=DATABASE, charset="utf8mb4"
        )


@contextlib.contextmanager
def running_mariadb() -> Iterator[MariaDB]:
    """Run a MariaDB server for the length of a ``with`` block."""
    server, install = program("mariadbd", "mariadb-server-core"), program("mariadb-install-db", "mariadb-server-core")
    with tempfile.TemporaryDirectory(prefix="relief-mariadb-", ignore_cleanup_errors=True) as folder:
        data, listening, port = f"{folder}/data", f"{folder}/socket", free_port()
        user = ["--user=nobody"] if os.geteuid() == 0 else []
        if user:
            shutil.chown(folder, "nobody")
        common = [f"--datadir={data}", *user, "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M"]
        made = [install, "--no-defaults", *common, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        password = secrets.token_hex(8)
        # What runs before the server listens: nobody ever meets a root without password.
        first = Path(folder, "first.sql")
        first.write_text(
            f"create database {DATABASE};\n"
            f"create user {USER}@localhost identified by '{password}';\n"
            f"create user {USER}@'127.0.0.1' identified by '{password}';\n"
            f"grant all on {DATABASE}.* to {USER}@localhost;\n"
            f"grant all on {DATABASE}.* to {USER}@'127.0.0.1';\n"
            f"set password for root@localhost = password('{secrets.token_hex(16)}');\n"
        )
        first.chmod(0o644)
        run = [server, "--no-defaults", *common, f"--socket={listening}", f"--port={port}", "--bind-address=127.0.0.1"]
        run += [f"--init-file={first}", "--innodb-flush-log-at-trx-commit=0", "--skip-name-resolve"]
        with _process(run, folder, listening):
            yield MariaDB(listening, port, password)


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    """Run a Redis server for the length of a ``with`` block and yield its socket."""
    # Debian's redis-server is a link to this program, which looks at the name it is called by.
    server = shutil.which("redis-server") or program("redis-check-rdb", "redis-tools")
    with tempfile.TemporaryDirectory(prefix="relief-redis-") as folder:
        listening = f"{folder}/socket"
        run = ["redis-server", "--port", "0", "--unixsocket", listening, "--save", "", "--dir", folder]
        with _process(run, folder, listening, executable=server):
            yield listening


@contextlib.contextmanager
def _process(command: list[str], folder: str, listening: str, executable: str | None = None) -> Iterator[None]:
    """Run a server for the length of a ``with`` block, from when it takes connections on its socket."""
    with open(f"{folder}/log", "ab") as log:
        process = subprocess.Popen(
            command,
            executable=executable,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(listening)
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(Path(folder, "log").read_text(errors="replace")[-2000:]) from error
                time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


def program(name: str, package: str) -> str:
    """Return a program's path; where it can't be installed either, say so and skip the test."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found:
        return found
    message = f"{name} is not installed: make setup, or apt install {package}"
    if os.geteuid() == 0:
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
