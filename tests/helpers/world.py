"""Roles around a table: its owner with the rights of an admin, and others that have fewer."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import Connection

from helpers.database import Database, query
from helpers.shop import make_orders


@dataclass
class World:
    """A database with a table of "app", which has the rights of an admin, and roles that have fewer."""

    database: Database
    app: Connection
    user: Connection
    scorer: Connection
    mallory: Connection


def make_world(database: Database) -> World:
    """Make the roles, and shop.orders with its detector, of "app"; "mallory" is admin of a schema of her own."""
    roles = {name: database.role(name) for name in ("app", "user", "scorer", "mallory")}
    superuser = database.superuser
    query(superuser, f"create schema shop authorization {roles['app']}")
    query(superuser, f"grant usage on schema shop to {roles['user']}, {roles['scorer']}, {roles['mallory']}")
    query(superuser, f"create schema mal authorization {roles['mallory']}")
    query(superuser, f"grant usage on schema mal to {roles['user']}")
    query(superuser, "select relief.grant_admin(%s)", roles["app"])
    query(superuser, "select relief.grant_admin(%s)", roles["mallory"])
    query(superuser, "select relief.grant_usage(%s)", roles["scorer"])
    made = World(database, **{name: database.connect(role) for name, role in roles.items()})
    make_orders(made.app, rows=20, schema=False)
    query(made.app, f"grant insert (a, b), select on shop.orders to {roles['user']}")
    return made


def told(connection: Connection, statement: str, *parameters: object) -> list[str]:
    """Run a statement and return the messages beside its result."""
    messages: list[str] = []

    def note(notice: object) -> None:
        messages.append(notice.message_primary)

    connection.add_notice_handler(note)
    query(connection, statement, *parameters)
    connection.remove_notice_handler(note)
    return messages
