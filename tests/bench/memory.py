"""What models cost a session's backend in memory: several in use, and one detector promoted again and again."""

from __future__ import annotations

from relief_runtime.session import MODELS_KEPT

from tests.bench.measure import private_megabytes, say
from tests.bench.result import Bar, Result
from tests.bench.server import Connection, connect, copy_table, create_detector, document, promote_copy, trained_server

# A session keeps no more.
MODELS = MODELS_KEPT - 1
PROMOTIONS = 200
# Enough that a session has compiled the whole forest, its largest state.
ROWS = 1_000


def models() -> list[Result]:
    """Measure how much a backend grows with each further model that it uses."""
    with trained_server() as cluster, connect(cluster) as connection:
        content = document(connection)
        tables = [f"flights_{number}" for number in range(MODELS)]
        for table in tables:
            copy_table(connection, table)
            create_detector(connection, table)
            promote_copy(connection, table, content, 1)
        say(f"  {MODELS} models in one session")
        with connect(cluster) as session:
            pid = session.info.backend_pid
            _score(session, "flights")
            first = private_megabytes(pid)
            for table in tables:
                _score(session, table)
            last = private_megabytes(pid)
    what = "backend memory per model used in a session"
    detail = f"{first:.1f} MB with one model, {last:.1f} MB with {MODELS + 1}"
    return [Result(what, (last - first) / MODELS, "MB", Bar(10, unit="MB"), detail)]


def promotions() -> list[Result]:
    """Measure how a backend grows while another session promotes 200 times."""
    with trained_server() as cluster, connect(cluster) as connection, connect(cluster) as session:
        content = document(connection)
        pid = session.info.backend_pid
        megabytes = []
        say(f"  {PROMOTIONS} promotions")
        for number in range(PROMOTIONS):
            promote_copy(connection, "flights", content, number)
            _score(session, "flights")
            megabytes.append(private_megabytes(pid))
    quarter = PROMOTIONS // 4
    growth = (megabytes[-1] - megabytes[quarter - 1]) / (PROMOTIONS - quarter)
    shown = ", ".join(f"{megabytes[n - 1]:.0f} MB after {n}" for n in (1, quarter, 2 * quarter, PROMOTIONS))
    what = f"backend memory per promotion, over the last {PROMOTIONS - quarter} of {PROMOTIONS}"
    return [Result(what, growth, "MB", Bar(0.05, unit="MB"), shown)]


def _score(session: Connection, table: str) -> None:
    session.execute(f"select max(relief_score(f)) from {table} as f where id <= {ROWS}")
