"""What a source of rows is: names its columns, and hands over rows in batches."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from relief_trainer.errors import ReliefError
from relief_trainer.sources.reservoir import Reservoir

BATCH_ROWS = 10_000
Row = Sequence[Any]


class Drawn(NamedTuple):
    """Rows drawn at random, and how many there were to draw from, perhaps estimated."""

    rows: list[Row]
    total: int


class Source(ABC):
    """Rows to train on and to score, read in batches, so that memory doesn't grow with their number.

    A class of this kind is found by the scheme of a URI, which its package names in the entry point group
    ``relief.sources``. One that reads a folder of JSON files, one a row, in all its length::

        # pyproject.toml:  [project.entry-points."relief.sources"]
        #                  folder = "my_package:FolderSource"
        # then:            relief train orders --source folder:///var/orders

        class FolderSource(Source):
            def __init__(self, folder: Path) -> None:
                self.name = f"folder {folder}"
                self._files = sorted(folder.glob("*.json"))

            @classmethod
            def open(cls, uri: str) -> FolderSource:
                folder = Path(urlsplit(uri).path)
                if not folder.is_dir():
                    raise ReliefError(f"there is no folder {folder}", "Give folder:///an/absolute/path.")
                return cls(folder)

            def columns(self) -> list[str]:
                return ["file", *json.loads(self._files[0].read_text())] if self._files else ["file"]

            def keys(self) -> list[str]:
                return ["file"]

            def count(self) -> int:
                return len(self._files)

            def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[list[Row]]:
                for start in range(0, len(self._files), rows):
                    yield [self._read(file, columns) for file in self._files[start : start + rows]]

            def _read(self, file: Path, columns: Mapping[str, type]) -> Row:
                content = {"file": file.name, **json.loads(file.read_text())}
                return [content.get(name) for name in columns]

    Attributes
    ----------
    name
        What messages and the model's provenance call the source. No password may be in it.
    """

    name: str

    @classmethod
    @abstractmethod
    def open(cls, uri: str) -> Source:
        """Return the source that a URI names; raises `ReliefError` where there is none."""

    @abstractmethod
    def columns(self) -> list[str]:
        """Return the names of all columns."""

    @abstractmethod
    def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[Sequence[Row]]:
        """Yield all rows, once, in batches of about ``rows``.

        Parameters
        ----------
        columns
            What to read, in the order of a row's values: ``float`` marks a column that is wanted as a number, ``str``
            as a category's text, and ``object`` one that is only handed on. None is a missing value. Numbers may be any
            of Python's: `relief_trainer.sources.values` makes floats of them as the server does.
        """

    def keys(self) -> list[str]:
        """Return the columns by which a row is found again, none by default."""
        return []

    def count(self) -> int | None:
        """Return about how many rows there are, None where that isn't cheaply known."""
        return None

    def sample(self, columns: Mapping[str, type], rows: int, seed: int) -> Drawn:
        """Draw up to ``rows`` rows at random; by default, by reading all once."""
        reservoir: Reservoir[Row] = Reservoir(rows, random.Random(seed))
        for batch in self.batches(columns, BATCH_ROWS):
            reservoir.offer(batch)
        return Drawn(reservoir.kept, reservoir.seen)

    def close(self) -> None:  # noqa: B027 - many have nothing to let go of
        """Let go of connections and files."""

    def require(self, names: Sequence[str]) -> None:
        """Raise an error unless there are columns of these names."""
        columns = self.columns()
        missing = [name for name in names if name not in columns]
        if missing:
            listed = ", ".join(columns[:50]) + (", …" if len(columns) > 50 else "")
            raise ReliefError(f'{self.name} has no column "{missing[0]}"', f"The columns are: {listed}.")

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
