"""A throwaway PostgreSQL server: a private folder, a unix socket in it, gone without a trace when it stops.

The demo, the tests and the benchmarks run on it. It never touches another cluster nor the installed server: the
extension's files are put into a private copy of the server's folders, made of links.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg

from relief_trainer.errors import ReliefError

PORT = 5432
_INSTALL_HINT = "On Debian or Ubuntu: apt install postgresql postgresql-plpython3-<major version>"


def find_server() -> Path:
    """Return the bin directory of an installed PostgreSQL server that has plpython3u.

    ``RELIEF_PG_BIN`` names one; otherwise 15, the reference, comes before newer versions, and those before older ones.

    Raises
    ------
    ReliefError
        If there is none.
    """
    named = os.environ.get("RELIEF_PG_BIN")
    if named:
        candidates = [Path(named)]
    else:
        installed = Path("/usr/lib/postgresql").glob("*/bin")
        candidates = sorted(installed, key=lambda path: (path.parent.name == "15", path.parent.name), reverse=True)
    for candidate in candidates:
        if (candidate / "postgres").exists() and _has_plpython(candidate):
            return candidate
    raise ReliefError("no PostgreSQL server with plpython3u is installed", _INSTALL_HINT)


def _has_plpython(bin_directory: Path) -> bool:
    return (_library_directory(bin_directory) / "plpython3.so").exists()


def _library_directory(bin_directory: Path) -> Path:
    flat = bin_directory.parent / "lib"
    return flat if (flat / "plpgsql.so").exists() else flat / "postgresql"


def _share_directory(bin_directory: Path) -> Path:
    prefix = bin_directory.parent
    if prefix.parent == Path("/usr/lib/postgresql"):
        return Path("/usr/share/postgresql") / prefix.name
    nested = prefix / "share" / "postgresql"
    return nested if nested.exists() else prefix / "share"


class Cluster:
    """A running throwaway server.

    Parameters
    ----------
    settings
        Server settings beside the defaults, such as ``{"fsync": "on"}``.
    extension_files
        Name and content of files that CREATE EXTENSION is to find.
    lasting
        Whether the server may outlive this process; otherwise the kernel stops it should this process be killed.
    """

    def __init__(
        self,
        settings: Mapping[str, str] | None = None,
        extension_files: Mapping[str, str] | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        self._lasting = lasting
        self.bin = find_server()
        self._account = _server_account()
        self.directory = Path(tempfile.mkdtemp(prefix="relief-"))
        self._settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "log_line_prefix": "%m [%p] %d ",
            **(settings or {}),
        }
        self._server: subprocess.Popen[bytes] | None = None
        try:
            if self._account:
                shutil.chown(self.directory, self._account, pwd.getpwnam(self._account).pw_gid)
            self._initialize()
            self._postgres = self.bin / "postgres"
            if extension_files is not None:
                self._postgres = self._overlay(extension_files)
            self.start()
        except BaseException:
            self.remove()
            raise

    def dsn(self, database: str = "postgres", user: str | None = None) -> str:
        """Return a connection string for a database of this server, as its superuser unless another role is named."""
        return f"postgresql://{user or self.superuser}@/{database}?host={self.directory}"

    @property
    def superuser(self) -> str:
        """The role that owns the cluster."""
        return "postgres"

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self.directory / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        arguments = [str(self._postgres), "-D", str(self.directory / "data")]
        for name, value in self._settings.items():
            arguments += ["-c", f"{name}={value}"]
        with open(self.directory / "log", "ab") as log:
            before = None if self._lasting else die_with_parent
            self._server = self._run(subprocess.Popen, arguments, stdout=log, stderr=log, preexec_fn=before)
        self._wait_until_ready()

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT is a fast shutdown, SIGQUIT an immediate one."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait()
            self._server = None

    @property
    def process_id(self) -> int | None:
        """The server's process, None while it is stopped."""
        return self._server.pid if self._server else None

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(
        self, launch: Callable[..., subprocess.Popen[bytes]], arguments: list[str], **options: object
    ) -> subprocess.Popen[bytes]:
        if self._account:
            options |= {"user": self._account, "group": pwd.getpwnam(self._account).pw_gid, "extra_groups": []}
        # A server that was unpacked somewhere has its libraries beside it, and its binary is started from a copy.
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.bin.parent / "lib")}
        return launch(
            arguments, stdin=subprocess.DEVNULL, cwd=self.directory, env=environment, start_new_session=True, **options
        )

    def _initialize(self) -> None:
        arguments = [str(self.bin / "initdb"), "-D", str(self.directory / "data"), "-U", self.superuser]
        arguments += ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        process = self._run(subprocess.Popen, arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate()
        if process.returncode:
            raise ReliefError(f"initdb failed: {output.decode(errors='replace').strip()}")

    def _overlay(self, extension_files: Mapping[str, str]) -> Path:
        """Copy the server binary into a tree of links, where extension files can be added; return the copy.

        A PostgreSQL server finds its folders relative to where its binary lies.
        """
        root = self.directory / "server"
        copies = {}
        for source in (self.bin, _library_directory(self.bin), _share_directory(self.bin)):
            copy = copies[source] = root / source.relative_to(source.anchor)
            copy.mkdir(parents=True)
            for entry in source.iterdir():
                if entry.name not in ("postgres", "extension"):
                    (copy / entry.name).symlink_to(entry)
        extensions = copies[_share_directory(self.bin)] / "extension"
        extensions.mkdir()
        for entry in (_share_directory(self.bin) / "extension").iterdir():
            # What is written through a link would replace the installed server's own.
            if entry.name not in extension_files:
                (extensions / entry.name).symlink_to(entry)
        for name, content in extension_files.items():
            (extensions / name).write_text(content, encoding="utf-8")
        return Path(shutil.copy2(self.bin / "postgres", copies[self.bin]))

    def _wait_until_ready(self, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if self._server is None or self._server.poll() is not None:
                    raise ReliefError(f"the throwaway server did not start: {self.log.strip()[-2000:]}") from None
                if time.monotonic() > deadline:
                    raise ReliefError(f"the throwaway server did not answer: {error}") from None
                time.sleep(0.02)
            else:
                return


@contextlib.contextmanager
def throwaway_cluster(
    settings: Mapping[str, str] | None = None, extension_files: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """Run a throwaway server for the length of a ``with`` block; the parameters are those of `Cluster`."""
    cluster = Cluster(settings, extension_files)
    try:
        yield cluster
    finally:
        cluster.remove()


def _server_account() -> str | None:
    """Return whom to run the server as: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ReliefError(f'PostgreSQL does not run as "{getpass.getuser()}"', "Run this as another user.")


def die_with_parent() -> None:
    """Ask the kernel to stop the server at once should this process be killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG
