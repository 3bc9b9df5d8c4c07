"""A table or view of any SQL database, through SQLAlchemy: ``mysql://user@host/database?table=orders``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Double, Float, Numeric, cast, func, select, type_coerce
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, NoSuchTableError, SQLAlchemyError

from relief_trainer.errors import ReliefError
from relief_trainer.sources import uris
from relief_trainer.sources.source import Drawn, Row, Source

# Where SQLAlchemy's own choice needs a compiler, the driver in pure Python.
DRIVERS = {"mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}


class DatabaseSource(Source):
    """A table, read in one transaction."""

    def __init__(self, engine: sqlalchemy.Engine, table: str, name: str) -> None:
        self.name = name
        self._engine = engine
        schema, _, plain = table.rpartition(".")
        try:
            self._table = sqlalchemy.Table(plain, sqlalchemy.MetaData(), schema=schema or None, autoload_with=engine)
        except NoSuchTableError:
            raise ReliefError(f"{name} does not exist", self._hint(schema or None)) from None

    @classmethod
    def open(cls, uri: str) -> DatabaseSource:
        """Connect; the dialects, drivers and parameters are SQLAlchemy's."""
        rest, table = uris.take_parameter(uri, "table", "?table=orders")
        scheme = uris.scheme(rest)
        rest = DRIVERS.get(scheme, scheme) + rest[len(scheme) :]
        name = f"table {table} of {uris.without_secrets(uri)}"
        try:
            url = sqlalchemy.make_url(rest)
            _refuse_missing_file(url, name)
            engine = sqlalchemy.create_engine(url)
        except (ArgumentError, NoSuchModuleError, ValueError) as error:
            message = f"{uris.without_secrets(uri)} is not a database's URL: {_line(error)}"
            raise ReliefError(message, _URL_HINT) from None
        with _translated_errors(name):
            return cls(engine, table, name)

    def columns(self) -> list[str]:
        """Return the columns' names."""
        return list(self._table.columns.keys())

    def keys(self) -> list[str]:
        """Return the primary key."""
        return list(self._table.primary_key.columns.keys())

    def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[Sequence[Row]]:
        """Yield all rows of one statement, which the server hands over bit by bit where its driver can."""
        return self._fetch(select(*self._selected(columns)), rows)

    def sample(self, columns: Mapping[str, type], rows: int, seed: int) -> Drawn:
        """Draw rows in the server where that has a seeded order, as MySQL and MariaDB; else by reading all once."""
        if self._engine.dialect.name not in ("mysql", "mariadb"):
            return super().sample(columns, rows, seed)
        with _translated_errors(self.name), self._engine.connect() as connection:
            total = connection.execute(select(func.count()).select_from(self._table)).scalar_one()
        statement = select(*self._selected(columns)).order_by(func.rand(seed)).limit(rows)
        return Drawn([row for batch in self._fetch(statement, rows) for row in batch], total)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _fetch(self, statement: sqlalchemy.Select[Any], rows: int) -> Iterator[Sequence[Row]]:
        with _translated_errors(self.name), self._engine.connect() as connection:
            result = connection.execution_options(stream_results=True, max_row_buffer=rows).execute(statement)
            for batch in result.partitions(rows):
                yield [tuple(row) for row in batch]

    def _selected(self, columns: Mapping[str, type]) -> list[Any]:
        return [self._expression(self._table.columns[name], kind) for name, kind in columns.items()]

    def _expression(self, column: sqlalchemy.Column[Any], kind: type) -> Any:
        # MySQL writes a FLOAT with six digits, of which no double makes the number that is stored.
        if kind is float and type(column.type) is mysql.FLOAT:
            return cast(column, Double)
        # Of doubles, SQLAlchemy makes Decimals of ten digits for some dialects.
        if kind is float and isinstance(column.type, (Float, Numeric)):
            return type_coerce(column, Float(asdecimal=False))
        return column

    def _hint(self, schema: str | None) -> str:
        inspector = sqlalchemy.inspect(self._engine)
        names = sorted([*inspector.get_table_names(schema), *inspector.get_view_names(schema)])
        return f"There are: {', '.join(names[:50]) or 'no tables'}."


_URL_HINT = "For example: sqlite:///shop.db?table=orders or mysql://user@host/shop?table=orders"


def _refuse_missing_file(url: sqlalchemy.URL, name: str) -> None:
    """Refuse a SQLite file that isn't there: SQLite would make it."""
    path = url.database or ""
    if url.get_backend_name() == "sqlite" and not path.startswith((":", "file:")) and not Path(path).is_file():
        raise ReliefError(f"{name} cannot be read: there is no file {path}", "Four slashes begin a full path.")


@contextlib.contextmanager
def _translated_errors(name: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        message = f"{name} cannot be read: {_line(error)}"
        raise ReliefError(message, "Check host, port, user, password and rights.") from None


def _line(error: Exception) -> str:
    """Return what the driver says, in one line and without the statement."""
    said = getattr(error, "orig", None) or error
    parts = [part for part in getattr(said, "args", ()) if isinstance(part, str)]
    return (parts[-1] if parts else str(said)).strip().splitlines()[0]
