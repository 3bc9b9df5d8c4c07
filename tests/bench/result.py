"""A measured line of the table, the bar that it is held against, and the table itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a value should reach (``at_least``) or stay below."""

    limit: float
    at_least: bool = False
    unit: str = "x"

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g} {self.unit}"

    def holds(self, value: float) -> bool:
        """Whether a value is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclasses.dataclass(frozen=True)
class Result:
    """One line: a value held against a bar, and in ``detail`` what it was computed from, in words."""

    what: str
    value: float | None
    unit: str = "x"
    bar: Bar | None = None
    detail: str = ""

    @property
    def measured(self) -> str:
        """The value in three significant digits."""
        if self.value is None:
            return "not measured"
        return f"{self.value:,.0f} {self.unit}" if abs(self.value) >= 100 else f"{self.value:.3g} {self.unit}"

    @property
    def verdict(self) -> str:
        """``ok``, ``over`` (the wrong side of the bar), ``reported`` (no bar) or ``skipped``."""
        if self.value is None:
            return "skipped"
        if self.bar is None:
            return "reported"
        return "ok" if self.bar.holds(self.value) else "over"


def table(results: Iterable[Result]) -> str:
    """Return the results as a table for people."""
    rows = [("what", "measured", "bar", "", "of")]
    rows += [(r.what, r.measured, str(r.bar or ""), r.verdict, r.detail) for r in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths[:-1]), *lines[1:]])


def write_json(results: Iterable[Result], path: Path) -> None:
    """Write the results for programs."""
    content = [dataclasses.asdict(result) | {"verdict": result.verdict} for result in results]
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
