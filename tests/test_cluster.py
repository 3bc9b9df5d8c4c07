"""The throwaway server: what is installed beside it stays as it is."""

from __future__ import annotations

from pathlib import Path

from relief_trainer.cluster import Cluster


def test_extension_files_do_not_replace_those_of_the_installed_server(tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    for name in ("bin/postgres", "lib/plpgsql.so", "share/extension/relief.control", "share/extension/other.control"):
        (installed / name).parent.mkdir(parents=True, exist_ok=True)
        (installed / name).write_text("installed")
    server = object.__new__(Cluster)
    server.bin = installed / "bin"
    server.directory = tmp_path / "private"
    binary = server._overlay({"relief.control": "throwaway"})
    extensions = binary.parent.parent / "share" / "extension"
    assert (extensions / "relief.control").read_text() == "throwaway"
    assert (extensions / "other.control").read_text() == "installed"
    assert (installed / "share/extension/relief.control").read_text() == "installed"
