"""Install Relief in a database through a connection alone, without the server's file system."""

from __future__ import annotations

from relief_sql.assemble import install_script

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
    state = connection.execute(query("installation")).fetchone() or {}
    if state["installed"]:
        hint = "See how it is: select * from relief.check();" if state["may_use"] else ask_for_rights(state["login"])
        raise ReliefError("Relief is installed in this database already", hint)
    if not state["plpython_available"]:
        raise ReliefError(
            "the server has no plpython3u", f"On Debian or Ubuntu: apt install postgresql-plpython3-{state['major']}"
        )
    if not state["is_superuser"]:
        raise ReliefError(
            f'role "{state["login"]}" is not a superuser, who alone may install a language such as plpython3u',
            "Connect as a superuser: relief install --dsn postgresql://postgres@…",
        )
    connection.rollback()
    connection.execute(trusted_sql(install_script()))
    connection.commit()
    return [(row["check"], row["result"]) for row in connection.execute(query("check")).fetchall()]
