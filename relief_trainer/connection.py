"""Connect to a database, and tell what it refuses in one line and a hint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import psycopg
from psycopg import errors, sql
from psycopg.rows import DictRow, dict_row
from relief_runtime import __version__

from relief_trainer.errors import ReliefError
from relief_trainer.queries import query

Connection = psycopg.Connection[DictRow]

_ADDRESS_HINT = "Give --dsn postgresql://role@host:port/database, or set PGHOST, PGPORT, PGUSER and PGDATABASE."


@contextlib.contextmanager
def connect(dsn: str | None, address_hint: str = _ADDRESS_HINT) -> Iterator[Connection]:
    """Connect for the length of a ``with`` block; what isn't committed by then is rolled back.

    Parameters
    ----------
    dsn
        A connection string or URI; what it leaves out comes from the PG* environment variables, as with psql.
    address_hint
        What to do if the server can't be reached.

    Raises
    ------
    ReliefError
        If the server can't be reached or, within the block, refuses a statement.
    """
    with translated_errors(address_hint=address_hint):
        try:
            connection = psycopg.connect(
                dsn or "", row_factory=dict_row, application_name="relief", client_encoding="utf8"
            )
        except psycopg.ProgrammingError as error:
            raise ReliefError(f"the connection string is not valid: {_first_line(error)}", address_hint) from None
        try:
            with translated_errors(connection.info.user, address_hint):
                yield connection
        finally:
            connection.close()


_TIMESTAMPTZ = sql.SQL("timestamptz")


def require_moment(connection: Connection, since: str, kind: sql.SQL = _TIMESTAMPTZ) -> None:
    """Raise an error unless PostgreSQL reads what ``--since`` was given as a time of a type."""
    _require_value(
        connection,
        "--since",
        since,
        kind,
        "Give a time as PostgreSQL reads it: 2013-06-01, '2013-06-01 12:00+02', yesterday.",
    )


def require_age(connection: Connection, max_age: str) -> None:
    """Raise an error unless PostgreSQL reads what ``--max-age`` was given as an interval."""
    _require_value(
        connection,
        "--max-age",
        max_age,
        sql.SQL("interval"),
        "Give an interval as PostgreSQL reads it: --max-age 30d, --max-age '6 hours'.",
    )


def _require_value(connection: Connection, option: str, value: str, kind: sql.SQL, hint: str) -> None:
    try:
        with connection.transaction():
            connection.execute(query("value", value=value, type=kind))
    except errors.DataError as error:
        raise ReliefError(f"{option}: {error.diag.message_primary}", hint) from None


_READ_ONLY = (
    "Connect to the primary server: a standby takes no changes. If this is the primary server, "
    "turn default_transaction_read_only off."
)


@contextlib.contextmanager
def translated_errors(role: str = "<role>", address_hint: str = _ADDRESS_HINT) -> Iterator[None]:
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
        if "relief" in message or (hint is None and _names_ours(message)):
            hint = ask_for_rights(role)
        raise ReliefError(message, hint) from error
    except errors.ReadOnlySqlTransaction as error:
        raise ReliefError(
            error.diag.message_primary or _first_line(error), error.diag.message_hint or _READ_ONLY
        ) from error
    except psycopg.OperationalError as error:
        if error.diag.message_primary:
            raise ReliefError(error.diag.message_primary, error.diag.message_hint) from error
        raise ReliefError(f"cannot reach the server: {_first_line(error)}", address_hint) from error
    except psycopg.Error as error:
        raise ReliefError(error.diag.message_primary or _first_line(error), error.diag.message_hint) from error


def _names_ours(message: str) -> bool:
    """Return whether a refusal is of one of Relief's own objects, which PostgreSQL names without their schema."""
    from relief_sql.assemble import install_script

    named = re.fullmatch(r"permission denied for (?:table|view|function|procedure) (\w+)", message)
    return named is not None and re.search(rf"\brelief\.{named[1]}\b", install_script()) is not None


def ask_for_rights(role: str) -> str:
    """Return a hint that names what a superuser does for a role that lacks the rights to use Relief."""
    literal = role.replace("'", "''")
    return f"Ask a superuser for the rights: select relief.grant_admin('{literal}');"


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0]
