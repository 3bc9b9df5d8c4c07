"""Measure time and memory: medians of interleaved repetitions, so that a busy moment hits every side alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def say(text: str) -> None:
    """Tell on standard error what is being measured."""
    print(text, file=sys.stderr, flush=True)


def seconds(action: Callable[[], object]) -> float:
    """Return how long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def medians(repetitions: int, actions: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Call each action in turn, as often as there are repetitions, and return the median of each one's values."""
    values: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repetitions):
        for name, action in actions.items():
            values[name].append(action())
    return {name: statistics.median(of) for name, of in values.items()}


def private_megabytes(pid: int) -> float:
    """Return the memory that a process shares with no file and no other process."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no RssAnon")
