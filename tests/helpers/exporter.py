"""Debian's exporter for Prometheus, run against the tests' server on a loopback port."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from helpers.stores import free_port, program
from relief_trainer.cluster import die_with_parent

_SAMPLE = re.compile(
    r'^(?P<name>\w+)\{detector="(?P<detector>(?:[^"\\]|\\.)*)",server="[^"]*"\} (?P<value>\S+)$', re.MULTILINE
)


@contextlib.contextmanager
def running_exporter(dsn: str, queries: Path) -> Iterator[str]:
    """Run the exporter for the length of a ``with`` block and yield the address of its metrics.

    It takes no connection string with a space in a value.
    """
    port = free_port()
    command = [
        program("prometheus-postgres-exporter", "prometheus-postgres-exporter"),
        f"--extend.query-path={queries}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--disable-default-metrics",
        "--disable-settings-metrics",
        "--no-collector.database",
        "--no-collector.bgwriter",
    ]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env={"DATA_SOURCE_NAME": dsn, "PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            address = f"http://127.0.0.1:{port}/metrics"
            deadline = time.monotonic() + 60
            while True:
                try:
                    scrape(address)
                    break
                except urllib.error.URLError as error:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError(log.read().decode(errors="replace")[-2000:]) from error
                    time.sleep(0.05)
            yield address
        finally:
            process.kill()
            process.wait()


def scrape(address: str) -> dict[str, dict[str, float]]:
    """Return Relief's metrics: name -> detector -> value."""
    with urllib.request.urlopen(address, timeout=60) as response:
        text = response.read().decode()
    found: dict[str, dict[str, float]] = {}
    for sample in _SAMPLE.finditer(text):
        detector = re.sub(r"\\(.)", r"\1", sample["detector"])
        found.setdefault(sample["name"], {})[detector] = float(sample["value"])
    return found
