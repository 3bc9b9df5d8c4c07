"""A database of its own for a test, with the roles that the test makes."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

_numbers = itertools.count(1)
_PASSWORD = "not a secret"


class Database:
    """A database cloned from a template; what is made through it is dropped with it."""

    def __init__(self, server_dsn: str, template: str | None = None) -> None:
        self._server_dsn = server_dsn
        self._roles: list[str] = []
        self._open: list[psycopg.Connection] = []
        self.name = f"relief_test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(server_dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {}").format(
                    sql.Identifier(self.name), sql.Identifier(template or "template0")
                )
            )
        self.superuser = self.connect()

    def dsn(self, user: str | None = None) -> str:
        """Return the connection string of a role made by `role`, or of the superuser."""
        if user is None:
            return make_conninfo(self._server_dsn, dbname=self.name)
        return make_conninfo(self._server_dsn, dbname=self.name, user=user, password=_PASSWORD)

    def connect(self, user: str | None = None, **options: Any) -> psycopg.Connection:
        """Open a connection, in autocommit mode, that is closed with the database."""
        connection = psycopg.connect(self.dsn(user), **{"autocommit": True, **options})
        self._open.append(connection)
        return connection

    def role(self, name: str) -> str:
        """Make a role that can log in, with a name that no other test uses, and return the name."""
        unique = f"{name}_{os.getpid()}_{next(_numbers)}"
        self.superuser.execute(
            sql.SQL("create role {} login password {}").format(sql.Identifier(unique), sql.Literal(_PASSWORD))
        )
        self._roles.append(unique)
        return unique

    def query(self, statement: str, *parameters: object) -> list[Any]:
        """Run a statement as the superuser; see `query`."""
        return query(self.superuser, statement, *parameters)

    def value(self, statement: str, *parameters: object) -> Any:
        """Run a statement as the superuser and return the one value that it gives."""
        return value(self.superuser, statement, *parameters)

    def wait_until_blocked(self, session: psycopg.Connection) -> None:
        """Return when what a session runs waits for another session."""
        while not self.value("select cardinality(pg_blocking_pids(%s)) > 0", session.info.backend_pid):
            time.sleep(0.01)

    def drop(self) -> None:
        """Drop the database and its roles."""
        for connection in self._open:
            connection.close()
        with psycopg.connect(self._server_dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(self.name)))
            for role in self._roles:
                connection.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))


def query(connection: psycopg.Connection, statement: str, *parameters: object) -> list[Any]:
    """Run a statement and return its rows; of one column, its values."""
    cursor = connection.execute(cast(LiteralString, statement), parameters or None)
    if cursor.description is None:
        return []
    rows = cursor.fetchall()
    return [row[0] for row in rows] if len(cursor.description) == 1 else rows


def value(connection: psycopg.Connection, statement: str, *parameters: object) -> Any:
    """Run a statement and return the one value that it gives."""
    (only,) = query(connection, statement, *parameters)
    return only


@contextlib.contextmanager
def refused(sqlstate: str | None = None, message: str | None = None, hint: str | None = None):
    """Assert that the server refuses what the block does: with this SQLSTATE, and these parts of message and hint."""
    try:
        yield
    except psycopg.Error as error:
        if sqlstate is not None:
            assert error.sqlstate == sqlstate, (error.sqlstate, str(error))
        assert (message or "") in (error.diag.message_primary or ""), str(error)
        assert (hint or "") in (error.diag.message_hint or ""), error.diag.message_hint
    else:
        raise AssertionError("the server did not refuse it")
