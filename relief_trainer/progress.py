"""Tell how far long work is: a bar on a terminal, plain lines where the output is piped."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """Steps of a piece of work, shown as they begin and end, on standard error."""

    def __init__(self, console: Console | None, total: int | None = None) -> None:
        self._console = console
        self._total = total
        self._bar: Bar | None = None

    @classmethod
    def silent(cls) -> Progress:
        """Return a progress that shows nothing."""
        return cls(None)

    @classmethod
    @contextlib.contextmanager
    def shown(cls, total: int | None = None) -> Iterator[Progress]:
        """Show ``total`` steps, or rows being counted, for the length of a ``with`` block."""
        progress = cls(Console(file=sys.stderr), total)
        assert progress._console is not None
        if not progress._console.is_terminal:
            yield progress
            return
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Bar(*columns, console=progress._console, transient=True) as bar:
            bar.add_task("", total=total)
            progress._bar = bar
            yield progress

    @contextlib.contextmanager
    def counting(self, description: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show rows being counted for the length of a ``with`` block, which gets what counts further ones."""
        begun = time.monotonic()
        rows = 0

        def advance(further: int) -> None:
            nonlocal rows
            rows += further
            if self._bar is not None:
                shown = f"{description}: {rows:,} rows" + (f" of about {total:,}" if total else "")
                self._bar.update(self._bar.task_ids[0], total=total, completed=rows, description=shown)

        advance(0)
        yield advance
        if self._bar is None and self._console is not None:
            print(f"{description}: {rows:,} rows, {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, description: str) -> Iterator[None]:
        """Show one step for the length of a ``with`` block."""
        begun = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=description)
        yield
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0])
        elif self._console is not None:
            print(f"{description}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
