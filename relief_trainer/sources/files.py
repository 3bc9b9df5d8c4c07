"""Parquet, CSV and JSON lines files, or folders of them, through pyarrow: ``orders.parquet``, ``file:///data/orders.csv``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import csv, types

from relief_trainer.errors import ReliefError
from relief_trainer.sources import uris
from relief_trainer.sources.source import Row, Source
from relief_trainer.sources.values import not_a_number

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "json",
    ".jsonl.gz": "json",
    ".ndjson": "json",
}

# As COPY reads it: what is missing is empty, and neither NA, which is Namibia, nor a quoted nothing.
CSV = ds.CsvFileFormat(
    convert_options=csv.ConvertOptions(null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False)
)


class FileSource(Source):
    """A file, or a folder of files of one format, read in the order of their names."""

    def __init__(self, path: Path, file_format: str) -> None:
        self.name = f"file {path}" if path.is_file() else f"folder {path}"
        self._path = path
        self._kind = file_format
        self._format: str | ds.FileFormat = CSV if file_format == "csv" else file_format
        with self._translated_errors():
            self._schema: pa.Schema = ds.dataset(path, format=self._format).schema

    @classmethod
    def open(cls, uri: str) -> FileSource:
        """Open a path; its ending tells the format."""
        path = Path(unquote(urlsplit(uri).path) if uris.scheme(uri) == "file" and "://" in uri else uri)
        if path.suffix and not path.is_dir() and _format_of(path) is None:
            raise _unknown_format(path)
        if not path.exists():
            raise ReliefError(f"there is no file {path}", "Give a path, or a URI such as postgresql://…?table=orders.")
        named = path
        if path.is_dir():
            named = next((entry for entry in sorted(path.iterdir()) if _format_of(entry)), path)
        file_format = _format_of(named)
        if file_format is None:
            raise _unknown_format(path)
        return cls(path, file_format)

    def columns(self) -> list[str]:
        """Return the columns' names; those of JSON lines are the keys in the first megabyte."""
        return list(self._schema.names)

    def count(self) -> int | None:
        """Return the number of rows that Parquet files tell."""
        if self._kind != "parquet":
            return None
        with self._translated_errors():
            return int(ds.dataset(self._path, format=self._format).count_rows())

    def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[Sequence[Row]]:
        """Yield all rows in the order of the file."""
        schema = pa.schema([self._field(name, kind) for name, kind in columns.items()])
        with self._translated_errors():
            # A few blocks are read ahead, not the whole file.
            dataset = ds.dataset(self._path, format=self._format, schema=schema)
            batches = dataset.to_batches(batch_size=rows, batch_readahead=2, fragment_readahead=1)
            for batch in batches:
                if batch.num_rows:
                    yield _Rows([_as_numbers(column) for column in batch.columns])

    def _field(self, name: str, kind: type) -> pa.Field:
        """Return how to read a column: text files as what it is wanted for, whatever their first rows look like."""
        field = self._schema.field(name)
        if kind is float and not _is_number(field.type):
            value = "" if types.is_null(field.type) else field.type
            if value:
                raise not_a_number(self._first_value(name), name, self.name)
        if self._kind == "parquet" or types.is_boolean(field.type):
            return field
        if kind is float:
            return pa.field(name, pa.float64())
        return pa.field(name, pa.string()) if kind is str or types.is_null(field.type) else field

    def _first_value(self, name: str) -> Any:
        dataset = ds.dataset(self._path, format=self._format)
        batches = dataset.to_batches(columns=[name], filter=ds.field(name).is_valid(), batch_readahead=1)
        return next((batch.column(0)[0].as_py() for batch in batches if batch.num_rows), None)

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            # Arrow begins with what it was doing, at length.
            said = (getattr(error, "strerror", None) or str(error)).strip().splitlines()[0].rpartition("Invalid: ")[2]
            raise ReliefError(f"{self.name} cannot be read: {said}", self._hint()) from None

    def _hint(self) -> str:
        return {
            "parquet": "It must be a whole Parquet file.",
            "csv": "It must be UTF-8, with commas and a first line of names; numbers, or nothing where one is missing.",
            "json": "It must be UTF-8, one JSON object a line, every value of a feature a number.",
        }[self._kind]


class _Rows(Sequence[Row]):
    """Rows of columns, made when they are asked for: a sample asks for few."""

    def __init__(self, columns: list[pa.Array]) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    @overload
    def __getitem__(self, position: int) -> Row: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Row]: ...
    def __getitem__(self, position: int | slice) -> Row | Sequence[Row]:
        if isinstance(position, slice):
            return _Rows([column[position] for column in self._columns])
        return [column[position].as_py() for column in self._columns]

    def __iter__(self) -> Iterator[Row]:
        return zip(*(column.to_pylist() for column in self._columns), strict=True)


def _unknown_format(path: Path) -> ReliefError:
    return ReliefError(f"{path} is of no format that can be read", f"Files end in {', '.join(FORMATS)}.")


def _format_of(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for ending, kind in FORMATS.items() if name.endswith(ending)), None)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_boolean(kind)
        or types.is_duration(kind)
        or types.is_time(kind)
    )


def _as_numbers(column: pa.Array) -> pa.Array:
    """Return half and single floats as the doubles that they are."""
    return column.cast(pa.float64()) if types.is_floating(column.type) else column
