"""Install, upgrade and uninstall Relief through a connection alone, without the server's file system."""

from __future__ import annotations

from psycopg.rows import DictRow
from relief_runtime import __version__
from relief_sql.assemble import install_script, uninstall_script, upgrade_script

from relief_trainer.connection import Connection, ask_for_rights
from relief_trainer.detector import trusted_sql
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query


def install(connection: Connection) -> list[tuple[str, str]]:
    """Run the install script and return what `relief.check()` says: pairs of a check and ``ok`` or what to do.

    Raises
    ------
    ReliefError
        If Relief is there already, or plpython3u or the right to create it isn't.
    """
    state = connection.execute(query("installation", version=__version__)).fetchone() or {}
    if state["installed"]:
        hint = "See how it is: select * from relief.check();" if state["may_use"] else ask_for_rights(state["login"])
        raise ReliefError("Relief is installed in this database already", hint)
    if not state["plpython_available"]:
        raise ReliefError(
            "the server has no plpython3u", f"On Debian or Ubuntu: apt install postgresql-plpython3-{state['major']}"
        )
    _require_superuser(state, "install a language such as plpython3u", "install")
    connection.rollback()
    connection.execute(trusted_sql(install_script()))
    connection.commit()
    return [(row["check"], row["result"]) for row in connection.execute(query("check")).fetchall()]


def upgrade(connection: Connection) -> list[tuple[str, str]]:
    """Upgrade what the release before installed, make what it generated anew, and return what `relief.check()` says.

    Raises
    ------
    ReliefError
        If there is nothing to upgrade, not that release, or the right to do it is missing.
    """
    state = _installed_state(connection)
    _require_superuser(state, "replace functions of plpython3u", "upgrade")
    if state["extension_version"] is None:
        connection.rollback()
        connection.execute(trusted_sql(upgrade_script()))
    else:
        if not state["has_extension_files"]:
            version = state["extension_version"]
            raise ReliefError(
                f"extension relief {version} can't be upgraded: the server lacks the files of {__version__}",
                "Put them there, in a clone on the server: make install",
            )
        connection.execute(trusted_sql(f"alter extension relief update to '{__version__}'"))
    connection.execute(query("regenerate"))
    connection.commit()
    return [(row["check"], row["result"]) for row in connection.execute(query("check")).fetchall()]


def uninstall(connection: Connection, drop_columns: bool) -> None:
    """Take Relief out of a database, with the columns that it filled only if these are to be dropped.

    The server warns of the queue of a worker, which stays.

    Raises
    ------
    ReliefError
        If Relief isn't there, something else depends on it, or the right to do it is missing.
    """
    require_removable(connection)
    connection.execute("select set_config('relief.drop_columns', %s, false)", [str(drop_columns)])
    connection.commit()
    # The script has a transaction of its own.
    connection.autocommit = True
    connection.execute(trusted_sql(uninstall_script()))
    connection.autocommit = False


def require_removable(connection: Connection) -> None:
    """Raise an error unless Relief is there and the role may take it out."""
    _require_superuser(_installed_state(connection), "drop what a superuser installed", "uninstall")
    connection.rollback()


def _installed_state(connection: Connection) -> DictRow:
    state = connection.execute(query("installation", version=__version__)).fetchone() or {}
    if not state["installed"]:
        raise ReliefError("Relief is not installed in this database", "Install it: relief install --dsn …")
    return state


def _require_superuser(state: DictRow, deed: str, command: str) -> None:
    if not state["is_superuser"]:
        raise ReliefError(
            f'role "{state["login"]}" is not a superuser, who alone may {deed}',
            f"Connect as a superuser: relief {command} --dsn postgresql://postgres@…",
        )
