"""Connect to a database, and tell what it refuses in one line and a hint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import psycopg
from psycopg import errors
from psycopg.rows import DictRow, dict_row
from relief_runtime import __version__

from relief_trainer.errors import ReliefError

Connection = psycopg.Connection[DictRow]


@contextlib.contextmanager
def connect(dsn: str | None) -> Iterator[Connection]:
    """Connect for the length of a ``with`` block; what isn't committed by then is rolled back.

    Parameters
    ----------
    dsn
        A connection string or URI; what it leaves out comes from the PG* environment variables, as with psql.

    Raises
    ------
    ReliefError
        If the server can't be reached or, within the block, refuses a statement.
    """
    with translated_errors():
        try:
            connection = psycopg.connect(dsn or "", row_factory=dict_row, application_name="relief")
        except psycopg.ProgrammingError as error:
            raise ReliefError(f"the connection string is not valid: {_first_line(error)}", _DSN_HINT) from None
        try:
            with translated_errors(connection.info.user):
                yield connection
        finally:
            connection.close()


_DSN_HINT = "Give --dsn postgresql://role@host:port/database, or set PGHOST, PGPORT, PGUSER and PGDATABASE."


@contextlib.contextmanager
def translated_errors(role: str = "<role>") -> Iterator[None]:
    """Turn what PostgreSQL says to a role into a `ReliefError`, with its hint or a better one."""
    try:
        yield
    except (errors.InvalidSchemaName, errors.UndefinedTable, errors.UndefinedFunction) as error:
        message = error.diag.message_primary or _first_line(error)
        if not re.match(r'schema "relief"|(relation|table) "relief\.|function relief\.', message):
            raise ReliefError(message, error.diag.message_hint) from error
        # Where its schema is, a function that isn't there is one of another release.
        if isinstance(error, errors.UndefinedFunction):
            raise ReliefError(
                f"Relief in this database is not {__version__}: {message}", "Upgrade it: relief upgrade --dsn …"
            ) from error
        raise ReliefError("Relief is not installed in this database", "Install it: relief install --dsn …") from error
    except errors.InsufficientPrivilege as error:
        message = error.diag.message_primary or _first_line(error)
        hint = error.diag.message_hint
        if "relief" in message:
            hint = ask_for_rights(role)
        raise ReliefError(message, hint) from error
    except psycopg.OperationalError as error:
        if error.diag.message_primary:
            raise ReliefError(error.diag.message_primary, error.diag.message_hint) from error
        raise ReliefError(f"cannot reach the server: {_first_line(error)}", _DSN_HINT) from error
    except psycopg.Error as error:
        raise ReliefError(error.diag.message_primary or _first_line(error), error.diag.message_hint) from error


def ask_for_rights(role: str) -> str:
    """Return a hint that names what a superuser does for a role that lacks the rights to use Relief."""
    literal = role.replace("'", "''")
    return f"Ask a superuser for the rights: select relief.grant_admin('{literal}');"


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0]
