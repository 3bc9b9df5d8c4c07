"""The Debian package: what it needs, and that each file is where Debian's PostgreSQL looks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.kernel import ROOT
from relief_runtime import __version__

from relief_trainer.cluster import find_server


@pytest.mark.kernel
@pytest.mark.debian
def test_package_holds_extension_and_kernel_for_one_version_of_postgresql(tmp_path: Path) -> None:
    pg_config = find_server() / "pg_config"
    library, share = (
        subprocess.run([pg_config, option], check=True, capture_output=True, text=True).stdout.strip()
        for option in ("--pkglibdir", "--sharedir")
    )
    command = ["sh", "kernel/deb.sh", __version__, pg_config, tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (package,) = tmp_path.iterdir()
    major = package.name.split("-")[1]
    fields = subprocess.run(["dpkg-deb", "-f", package], check=True, capture_output=True, text=True).stdout
    assert f"Package: postgresql-{major}-relief\nVersion: {__version__}\n" in fields
    release = subprocess.run([pg_config, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    assert release.split(".")[0] == major
    assert f"Depends: postgresql-{major} (>= {release}), postgresql-plpython3-{major}, libc6 (>= 2." in fields
    listed = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True).stdout
    owners = {line.split()[1] for line in listed.splitlines()}
    files = {line.split()[5] for line in listed.splitlines() if line.startswith("-")}
    assert owners == {"root/root"}
    assert files >= {
        f".{library}/relief_kernel.so",
        f".{share}/extension/relief.control",
        f".{share}/extension/relief--{__version__}.sql",
        f"./usr/share/doc/postgresql-{major}-relief/README.md",
    }


@pytest.mark.debian
def test_package_for_no_version_is_refused() -> None:
    environment = {name: text for name, text in os.environ.items() if name != "PG_CONFIG"}
    command = ["make", "deb", "HEADERS=/none", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "Install: postgresql-server-dev-<version>" in done.stderr
