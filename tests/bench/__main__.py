"""``python -m tests.bench``: measure, and print one table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from relief_trainer.errors import ReliefError
from tests.bench import backfill, insert, kernel, many, memory, profile, quality, select, session, training
from tests.bench.measure import say
from tests.bench.result import Result, table, write_json

MEASUREMENTS: dict[str, Callable[[], list[Result]]] = {
    "select": select.per_row,
    "parallel": select.parallel,
    "first": session.first_score,
    "insert": insert.single_rows,
    "promoting": insert.while_promoting,
    "copy": insert.copy,
    "backfill": backfill.backfill,
    "kernel-select": kernel.per_row,
    "kernel-update": kernel.update,
    "kernel-trigger": kernel.trigger,
    "kernel-insert": kernel.single_rows,
    "kernel-first": kernel.first_score,
    "kernel-parallel": kernel.parallel,
    "train": training.train,
    "models": memory.models,
    "promotions": memory.promotions,
    "detectors": many.detectors,
    "entities": profile.entities,
    "refresh": profile.refresh,
    "explain": profile.explain,
    "contextual": quality.contextual,
    "machine": quality.machine,
    "explanations": quality.explanations,
}


def main() -> int:
    """Measure what was asked for; print the table even if one measurement fails."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="measure this alone; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    arguments = parser.parse_args()
    results: list[Result] = []
    failed = False
    for name in arguments.only or MEASUREMENTS:
        say(f"{name}: {(MEASUREMENTS[name].__doc__ or '').strip().splitlines()[0]}")
        try:
            results += MEASUREMENTS[name]()
        except (ReliefError, RuntimeError, OSError) as error:
            failed = True
            results.append(Result(name, None, detail=f"failed: {error}"))
    print(table(results))
    if arguments.json:
        write_json(results, arguments.json)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
