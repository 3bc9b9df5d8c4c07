"""Files of scores: CSV, JSON lines or Parquet by the ending of their name."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from relief_trainer.errors import ReliefError
from relief_trainer.sources.packages import told_missing_packages

Line = Sequence[Any]


class _Format(Protocol):
    def write(self, lines: Sequence[Line]) -> None: ...
    def close(self) -> None: ...


class ScoreFile:
    """A file that is there, whole, once a ``with`` block ends well, and isn't touched if it doesn't.

    Parameters
    ----------
    path
        Where to; what is there is replaced. Ends in .csv, .jsonl or .parquet.
    header
        The columns' names: of those to keep, then of the score and the flag.

    Raises
    ------
    ReliefError
        If the ending is another one, or the file can't be written.
    """

    def __init__(self, path: str, header: Sequence[str]) -> None:
        self._path = Path(path)
        self._header = header
        if self._path.suffix not in _FORMATS:
            raise ReliefError(f"cannot tell the format of {path}", f"Let it end in {', '.join(_FORMATS)}.")
        if self._path.suffix == ".parquet":
            # Told before hours of scoring.
            with told_missing_packages("Parquet files"):
                import pyarrow  # noqa: F401

    def __enter__(self) -> ScoreFile:
        try:
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        except OSError as error:
            raise self._cannot_write(error) from None
        self._partial = Path(name)
        self._file = os.fdopen(descriptor, "wb")
        self._format = _FORMATS[self._path.suffix](self._file, self._header)
        return self

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines of values in the order of the header."""
        try:
            self._format.write(lines)
        except OSError as error:
            raise self._cannot_write(error) from None

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            if failed is None:
                self._format.close()
                self._file.close()
                self._partial.chmod(0o666 & ~_umask())
                self._partial.replace(self._path)
        except OSError as error:
            raise self._cannot_write(error) from None
        finally:
            if failed is not None:
                with contextlib.suppress(OSError):
                    self._format.close()
            self._file.close()
            self._partial.unlink(missing_ok=True)

    def _cannot_write(self, error: OSError) -> ReliefError:
        return ReliefError(f"cannot write {self._path}: {error.strerror or error}", "Give --out another place.")


class _Csv:
    def __init__(self, file: IO[bytes], header: Sequence[str]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(header)

    def write(self, lines: Sequence[Line]) -> None:
        self._writer.writerows([_csv(value) for value in line] for line in lines)

    def close(self) -> None:
        self._text.flush()


class _JsonLines:
    def __init__(self, file: IO[bytes], header: Sequence[str]) -> None:
        self._file = file
        self._header = header

    def write(self, lines: Sequence[Line]) -> None:
        objects = (dict(zip(self._header, map(_json, line), strict=True)) for line in lines)
        text = "".join(json.dumps(content, ensure_ascii=False, default=str) + "\n" for content in objects)
        self._file.write(text.encode("utf-8"))

    def close(self) -> None:
        self._file.flush()


class _Parquet:
    """Columns have the types of the first batch; one that holds nothing there is of text."""

    def __init__(self, file: IO[bytes], header: Sequence[str]) -> None:
        import pyarrow as pa

        self._file = file
        self._header = header
        self._own = [pa.float64(), pa.bool_()]
        self._schema: Any = None
        self._writer: Any = None

    def write(self, lines: Sequence[Line]) -> None:
        import pyarrow as pa

        columns = list(zip(*lines, strict=True)) or [() for _ in self._header]
        if self._schema is None:
            self._open(columns)
        arrays = []
        for column, field in zip(columns, self._schema, strict=True):
            is_text = pa.types.is_string(field.type)
            values = [None if value is None else str(value) for value in column] if is_text else column
            try:
                arrays.append(pa.array(values, field.type))
            except (pa.ArrowException, OverflowError):
                raise ReliefError(
                    f'column "{field.name}" holds values of several types', "Write a .csv or .jsonl file instead."
                ) from None
        self._writer.write_table(pa.table(arrays, schema=self._schema))

    def close(self) -> None:
        if self._schema is None:
            self.write([])
        self._writer.close()

    def _open(self, columns: Sequence[Sequence[Any]]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        kept = len(self._header) - len(self._own)
        fields = list(zip(self._header[kept:], self._own, strict=True))
        fields[:0] = [(name, _arrow_type(column)) for name, column in zip(self._header[:kept], columns, strict=False)]
        self._schema = pa.schema(fields)
        self._writer = parquet.ParquetWriter(self._file, self._schema)


_FORMATS: dict[str, Callable[[IO[bytes], Sequence[str]], _Format]] = {
    ".csv": _Csv,
    ".jsonl": _JsonLines,
    ".parquet": _Parquet,
}


def _csv(value: Any) -> Any:
    return ("true" if value else "false") if isinstance(value, bool) else value


def _json(value: Any) -> Any:
    """Return a value that JSON can hold: it has neither NaN nor infinities."""
    return str(value) if isinstance(value, float) and value - value != 0 else value


def _arrow_type(column: Sequence[Any]) -> Any:
    import pyarrow as pa

    try:
        inferred = pa.array(column).type
    except (pa.ArrowException, OverflowError):
        return pa.string()
    return pa.string() if pa.types.is_null(inferred) else inferred


def _umask() -> int:
    """Return the mask that new files get; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
