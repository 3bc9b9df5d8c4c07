"""Carry out one job: begin an attempt, do it, end it; each effect together with what the job says of it.

An attempt may be cut off anywhere. What it stores it stores in the transaction that notes it in ``relief.job``, if the
attempt still counts by then; so the next attempt goes on where this one was cut off, and nothing is done twice.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from relief_trainer import retraining
from relief_trainer.connection import Connection, connect
from relief_trainer.detector import fetch, refuse_changed_columns, refuse_foreign_superuser
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query
from relief_trainer.report import Report

if TYPE_CHECKING:
    from relief_trainer.train import Settings


@dataclass(frozen=True)
class Job:
    """An attempt at a job.

    ``version`` is what an earlier attempt has stored, and ``reason`` why.
    """

    id: int
    detector: str
    kind: str
    options: dict[str, Any]
    attempts: int
    version: int | None
    reason: str | None

    def __str__(self) -> str:
        return f"job {self.id}, {self.kind} {self.detector}"


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its state, and what there is to say about it."""

    state: str
    reason: str | None = None
    version: int | None = None
    promoted: bool | None = None

    def __str__(self) -> str:
        stored = f"version {self.version}" + (", promoted" if self.promoted else "") if self.version else None
        return ": ".join(filter(None, [self.state, stored, self.reason]))


class TryAgainError(Exception):
    """A job couldn't be done now, as the server or the connection was lost or busy; later it may be."""


def carry_out(dsn: str | None, job_id: int, report: Report) -> str | None:
    """Carry out a job, and return the state it ended in; None if it had ended, or is another session's.

    Raises
    ------
    TryAgainError
        If it is to be tried again.
    """
    job: Job | None = None
    try:
        with connect(dsn) as connection:
            _notice_lost_clients(connection)
            job = _start(connection, job_id)
            if job is None:
                return None
            report("started", f"{job}: begun", job=job.id, detector=job.detector, kind=job.kind, attempt=job.attempts)
            outcome = _KINDS[job.kind](connection, job)
    except Exception as error:
        if job is None:
            raise TryAgainError from error
        return _failed(dsn, job, error, report)
    report(
        outcome.state,
        f"{job}: {outcome}",
        job=job.id,
        detector=job.detector,
        kind=job.kind,
        version=outcome.version,
        promoted=outcome.promoted,
        reason=outcome.reason,
    )
    return outcome.state


def _notice_lost_clients(connection: Connection) -> None:
    with contextlib.suppress(psycopg.errors.DataError), connection.transaction():
        connection.execute(query("check_client"))
    connection.commit()


def _start(connection: Connection, job_id: int) -> Job | None:
    row = connection.execute(query("start_job", job=job_id)).fetchone()
    connection.commit()
    if row is None or row["id"] is None:
        return None
    return Job(**{field: row[field] for field in Job.__dataclass_fields__})


def _train(connection: Connection, job: Job) -> Outcome:
    from relief_trainer.train import train

    options = job.options
    version, reason = job.version, job.reason
    if version is None:
        if options.get("if_drifted") or options.get("max_age"):
            decision = retraining.consider(
                connection, job.detector, if_drifted=options.get("if_drifted", False), max_age=options.get("max_age")
            )
            reason = decision.reason
            if not decision.yes:
                return _finish(connection, job, Outcome("skipped", reason))

        def note(stored: int) -> None:
            connection.execute(query("note_version", job=job.id, attempt=job.attempts, version=stored, reason=reason))

        version = train(connection, job.detector, _settings(options), stored=note).version
    promoted = None
    if options.get("promote"):
        connection.execute(query("promote", detector=job.detector, version=version, force=False, reason=reason))
        promoted = True
    elif options.get("promote_if_better"):
        decision = retraining.promote_if_better(connection, job.detector, version)
        promoted = decision.yes
        reason = "; ".join(filter(None, [reason, decision.reason]))
    return _finish(connection, job, Outcome("done", reason, version, promoted))


def _refresh(connection: Connection, job: Job) -> Outcome:
    detector = fetch(connection, job.detector)
    refuse_foreign_superuser(connection, detector.relation)
    refuse_changed_columns(connection, detector)
    row = connection.execute(query("refresh", name=job.detector, full=job.options.get("full", False))).fetchone() or {}
    return _finish(connection, job, Outcome("done", f"{row['refresh_profile']:,} profiles are up to date"))


_KINDS: dict[str, Callable[[Connection, Job], Outcome]] = {"train": _train, "refresh": _refresh}


def _finish(connection: Connection, job: Job, outcome: Outcome) -> Outcome:
    """End a job in the transaction of its last effect."""
    connection.execute(
        query(
            "finish_job",
            job=job.id,
            attempt=job.attempts,
            state=outcome.state,
            reason=outcome.reason,
            promoted=outcome.promoted,
        )
    )
    connection.commit()
    return outcome


def _settings(options: dict[str, Any]) -> Settings:
    """Return how to train: numbers and texts that the server has checked, each under a name known here."""
    from relief_trainer.sample import Request
    from relief_trainer.train import Settings

    # JSON knows one kind of number, and scikit-learn two: of max_features, 1 would be a count and 1.0 is a share.
    kinds = {"trees": int, "samples": int, "max_features": float, "contamination": float}
    chosen: dict[str, Any] = {name: kind(options[name]) for name, kind in kinds.items() if name in options}
    seed = int(options.get("seed", 0))
    rows = int(options.get("sample_rows", Request.rows))
    return Settings(**chosen, seed=seed, request=Request(rows=rows, since=options.get("since"), seed=seed))


def _failed(dsn: str | None, job: Job, error: Exception, report: Report) -> str | None:
    """Note that an attempt has failed, in a session of its own, and tell it."""
    again = isinstance(error.__cause__, psycopg.OperationalError)
    hint = error.hint if isinstance(error, ReliefError) else None
    message = str(error) if isinstance(error, ReliefError) else f"{type(error).__name__}: {error}"
    state: str | None = None
    try:
        with connect(dsn) as connection:
            noted = query("fail_job", job=job.id, attempt=job.attempts, error=message, hint=hint, again=again)
            state = (connection.execute(noted).fetchone() or {}).get("state")
            connection.commit()
    except ReliefError:
        # Whoever tries again will find the job without a session that carries it out.
        again = True
    told = {None: "given up", "waiting": "to be tried again"}.get(state, state)
    trace = None if isinstance(error, ReliefError) else traceback.format_exc()
    report(
        state or "given up",
        "\n".join(filter(None, [f"{job}: {told}: {message}", hint and f"hint: {hint}", trace])),
        job=job.id,
        detector=job.detector,
        kind=job.kind,
        error=message,
        hint=hint,
        trace=trace,
    )
    if again and state != "failed":
        raise TryAgainError from error
    return state
