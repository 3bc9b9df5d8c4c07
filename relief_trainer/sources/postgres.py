"""A table, view or foreign table of a PostgreSQL database: ``postgresql://role@host/database?table=schema.table``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from psycopg import sql
from psycopg.rows import tuple_row

from relief_trainer.connection import Connection, connect, translated_errors
from relief_trainer.detector import refuse_foreign_superuser, trusted_sql
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query
from relief_trainer.sources import uris
from relief_trainer.sources.source import Drawn, Row, Source

MARGIN = 1.1


class PostgresSource(Source):
    """A relation that the role may read; its numbers are converted by PostgreSQL itself.

    Parameters
    ----------
    relation
        The name, as in SQL.
    """

    def __init__(self, connection: Connection, relation: str, name: str) -> None:
        self.name = name
        self._connection = connection
        self._held = contextlib.ExitStack()
        found = connection.execute(query("source_relation", relation=relation)).fetchone()
        if found is None:
            raise ReliefError(
                f"{name} does not exist, or its database doesn't show it", "Name it as in SQL: ?table=schema.table"
            )
        self._relation = trusted_sql(found["relation"])
        self._can_be_sampled: bool = found["can_be_sampled"]
        self._keys: list[str] = found["keys"]
        # A row's values are computed by its owner's views, types and policies.
        refuse_foreign_superuser(connection, found["relation"])
        self._columns = {
            column["name"]: column for column in connection.execute(query("source_columns", relation=found["relation"]))
        }
        self._rows = int(found["rows"]) if found["rows"] >= 0 else None

    @classmethod
    def open(cls, uri: str) -> PostgresSource:
        """Connect; what the URI leaves out comes from the PG* environment variables."""
        dsn, relation = uris.take_parameter(uri, "table", "?table=schema.table")
        # SQLAlchemy's URLs name a driver too.
        dsn = dsn.replace(uris.scheme(dsn), "postgresql", 1)
        with contextlib.ExitStack() as held:
            connection = held.enter_context(connect(dsn, "Check host, port, user and database of the source."))
            source = cls(connection, relation, f"table {relation} of {uris.without_secrets(uri)}")
            source._held = held.pop_all()
        return source

    def columns(self) -> list[str]:
        """Return the columns' names."""
        return list(self._columns)

    def keys(self) -> list[str]:
        """Return the primary key."""
        return self._keys

    def count(self) -> int | None:
        """Return what the last ANALYZE counted."""
        return self._rows

    def batches(self, columns: Mapping[str, type], rows: int) -> Iterator[Sequence[Row]]:
        """Yield all rows as of one moment, through a cursor on the server."""
        with translated_errors(), self._connection.cursor("relief_source", row_factory=tuple_row) as cursor:
            cursor.execute(query("source_rows", columns=self._selected(columns), relation=self._relation))
            while batch := cursor.fetchmany(rows):
                yield batch

    def sample(self, columns: Mapping[str, type], rows: int, seed: int) -> Drawn:
        """Draw rows in the server: with TABLESAMPLE where the relation is one that can be, else by reading it once."""
        estimate = self._rows or 0
        percent = 100.0 * MARGIN * rows / estimate if self._can_be_sampled and estimate else 100.0
        clause: sql.Composable = sql.SQL("")
        if percent < 100.0:
            clause = sql.SQL("tablesample system ({}) repeatable ({})").format(percent, seed)
        with translated_errors(), self._connection.cursor(row_factory=tuple_row) as cursor:
            # Workers would hand over their rows in any order, and the same seed would draw other rows.
            cursor.execute("set max_parallel_workers_per_gather = 0")
            cursor.execute(query("seed", fraction=(seed % 2**31) / 2**31))
            cursor.execute(
                query(
                    "source_sample",
                    columns=self._selected(columns),
                    relation=self._relation,
                    tablesample=clause,
                    rows=rows,
                )
            )
            drawn: list[Row] = list(cursor)
        return Drawn(drawn, estimate if percent < 100.0 or len(drawn) == rows else len(drawn))

    def close(self) -> None:
        """Close the connection."""
        self._held.close()

    def _selected(self, columns: Mapping[str, type]) -> sql.Composed:
        return sql.SQL(", ").join(self._expression(name, kind) for name, kind in columns.items())

    def _expression(self, name: str, kind: type) -> sql.Composable:
        column = sql.Identifier(name)
        if kind is str:
            return sql.SQL("o.{}::text").format(column)
        conversion: str | None = self._columns[name]["conversion"]
        if kind is float and conversion:
            return trusted_sql(conversion).format(sql.SQL("o.{}").format(column))
        return sql.SQL("o.{}").format(column)
