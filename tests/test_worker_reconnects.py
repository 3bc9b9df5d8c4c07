"""A worker whose server is restarted comes back with it, on a server of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from helpers.database import query, value
from helpers.shop import make_orders
from helpers.workers import AS_OPTIONS, TRAINING, wait_until
from psycopg import Connection
from relief_sql.assemble import artefacts

from relief_trainer.cluster import Cluster, throwaway_cluster

pytestmark = pytest.mark.own_cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Return a server with Relief, and a role "app" with shop.orders and its detector."""
    with throwaway_cluster(extension_files=artefacts()) as running:
        with connect(running) as superuser:
            query(superuser, "create extension relief cascade")
            query(superuser, "create role app login")
            query(superuser, "grant create on database postgres to app")
            query(superuser, "select relief.grant_admin('app')")
        with connect(running, "app") as app:
            make_orders(app, rows=50)
        yield running


def connect(cluster: Cluster, role: str | None = None) -> Connection:
    return psycopg.connect(cluster.dsn(user=role), autocommit=True)


def test_worker_comes_back_with_the_server_and_goes_on(cluster: Cluster) -> None:
    script = Path(sys.executable).with_name("relief")
    worker = subprocess.Popen(
        [str(script), "worker", "--dsn", cluster.dsn(user="app"), "--json", *AS_OPTIONS],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert json.loads(worker.stdout.readline())["event"] == "ready"
        for how in (signal.SIGINT, signal.SIGQUIT):
            cluster.stop(how)
            lost = next(event for event in map(json.loads, worker.stdout) if event["event"] == "lost")
            assert lost["error"]
            cluster.start()
            with connect(cluster, "app") as app:
                job = value(app, TRAINING)
                state = "select state from relief.job where id = %s"
                wait_until(lambda app=app, job=job, state=state: value(app, state, job) == "done")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
