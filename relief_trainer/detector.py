"""A detector as the trainer sees it."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import sql

from relief_trainer.connection import Connection
from relief_trainer.document import Feature
from relief_trainer.errors import ReliefError
from relief_trainer.queries import query


@dataclass(frozen=True)
class Detector:
    """A named configuration: one table, its features, how many anomalies to expect.

    ``relation`` and what ends in ``_call`` or ``_text`` is quoted by the server, to stand in SQL for a row called o.
    """

    id: int
    name: str
    relation: str
    schema_name: str
    table_name: str
    time_column: str | None
    contamination: float | None
    threshold: float | None
    on_error: str
    promoted_version: int | None
    attached: bool
    features_call: str
    guarded_call: str
    categories_call: str
    guarded_categories_call: str
    entity_text: str
    season_text: str
    has_levels: bool
    features: list[Feature]


def fetch(connection: Connection, name: str) -> Detector:
    """Return a detector by its name.

    Raises
    ------
    ReliefError
        If there is none of that name on a table whose owner's rights the connected role has.
    """
    row = connection.execute(query("detector", name=name)).fetchone()
    if row is None:
        raise ReliefError(f'detector "{name}" does not exist', "List the detectors: relief list")
    if not row.pop("is_whole"):
        raise ReliefError(
            f'table {row["schema_name"]}.{row["table_name"]} of detector "{name}" is gone, or its functions are',
            "See what is wrong: select * from relief.check();",
        )
    features = connection.execute(query("features", detector_id=row["id"])).fetchall()
    return Detector(**row, features=[Feature(**feature) for feature in features])


def refuse_changed_columns(connection: Connection, detector: Detector) -> None:
    """Raise an error if a column that the detector reads was dropped or renamed since."""
    row = connection.execute(query("changed_column", detector_id=detector.id)).fetchone()
    if row is not None:
        change = "is gone" if row["name_now"] is None else f'is called "{row["name_now"]}" by now'
        raise ReliefError(
            f'column "{row["name"]}" of table {detector.relation}, which detector "{detector.name}" reads, {change}',
            "See what mends it: select * from relief.check();",
        )


def refuse_foreign_superuser(connection: Connection, relation: str) -> None:
    """Raise an error for a superuser's login on another role's table, whose expressions would run with all rights.

    Parameters
    ----------
    relation
        The table's name, quoted by the server.
    """
    row = connection.execute(query("owner_and_login", relation=relation)).fetchone()
    if row is not None and row["login_is_superuser"] and not row["owner_is_superuser"]:
        raise ReliefError(
            f'role "{row["login"]}" is a superuser, and table {relation} belongs to "{row["owner"]}", '
            "whose expressions would run with a superuser's rights",
            f'Connect as a role that has the rights of "{row["owner"]}".',
        )


def trusted_sql(text: str) -> sql.SQL:
    """Return text that the server has quoted, or that the user wrote to be run with his own rights, as SQL."""
    return sql.SQL(text)
