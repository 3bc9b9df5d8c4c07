"""Tables of every kind that PostgreSQL has, each with a detector on a and ln(b), and a stump promoted."""

from __future__ import annotations

from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from helpers.database import query, value
from helpers.forests import add_model, stump
from helpers.shop import FEATURES

NEVER = 1_000_000
PLAIN = "k integer primary key, a integer, b float8, note text"


@dataclass(frozen=True)
class Kind:
    """A kind of table: how it is made, what its columns are called, and what can't be done with it.

    ``refused`` is what attach says: SQLSTATE, message, hint. ``cannot`` holds what PostgreSQL itself refuses: statement
    -> SQLSTATE; MERGE it takes from version ``merge_since`` on. ``table`` and the columns are quoted. ``computed`` is
    the column that the first feature reads, where ``a``, which is written, is another one.
    """

    name: str
    made_by: str
    schema: str = "shop"
    table: str = "shop.orders"
    k: str = "k"
    a: str = "a"
    b: str = "b"
    note: str = "note"
    computed: str | None = None
    unique: bool = True
    refused: tuple[str, str, str] | None = None
    cannot: dict[str, str] = field(default_factory=dict)
    merge_since: int = 150000

    def __str__(self) -> str:
        return self.name

    @property
    def columns(self) -> str:
        """The columns that statements write."""
        return f"{self.k}, {self.a}, {self.b}"

    @property
    def anomaly(self) -> int:
        """What is written into the first feature's column of an anomaly; its opposite makes an ordinary row."""
        return -1 if self.computed else -2

    def make(self, connection: psycopg.Connection, dsn: str) -> None:
        """Make table, detector and model, and attach where that is possible."""
        query(connection, "create schema shop")
        query(connection, self.made_by.replace("{loopback}", _loopback(connection, dsn)))
        query(
            connection,
            "select relief.create_detector('orders', %s, array[%s, %s])",
            self.table,
            f"{self.computed or self.a} AS a",
            f"ln({self.b}) AS log_b",
        )
        add_model(connection, "orders", stump(FEATURES))
        query(connection, "select relief.promote('orders')")
        if self.refused is None:
            query(connection, "select relief.attach('orders')")


def _loopback(connection: psycopg.Connection, dsn: str) -> str:
    """Return the options by which the server reaches itself."""
    options = {
        "host": value(connection, "show unix_socket_directories").split(",")[0].strip(),
        "port": value(connection, "show port"),
        "dbname": connection.info.dbname,
    }
    mapping = {name: part for name, part in conninfo_to_dict(dsn).items() if name in ("user", "password") and part}

    def listed(pairs: dict[str, str]) -> str:
        return ", ".join(f"{name} {sql.Literal(part).as_string(connection)}" for name, part in pairs.items())

    return (
        f"create server loopback foreign data wrapper postgres_fdw options ({listed(options)});"
        f"create user mapping for current_user server loopback options ({listed(mapping)});"
    )


ATTACHED = [
    Kind("plain", f"create table shop.orders ({PLAIN})"),
    Kind("without_key", "create table shop.orders (k integer, a integer, b float8, note text)", unique=False),
    Kind("unlogged", f"create unlogged table shop.orders ({PLAIN})"),
    Kind("temporary", f"create temporary table orders ({PLAIN})", schema="pg_temp", table="pg_temp.orders"),
    Kind(
        "strange_names",
        """create schema "Läden & ""Co"" %s";
           create table "Läden & ""Co"" %s"."select ünïcode 'x'; --" (
             "primary" integer primary key, "user" integer, "Größe "" in %" float8, "new" text, "numbers" text)""",
        schema='"Läden & ""Co"" %s"',
        table="""\"Läden & ""Co"" %s"."select ünïcode 'x'; --\"""",
        k='"primary"',
        a='"user"',
        b='"Größe "" in %"',
        note='"new"',
    ),
    Kind(
        "identity",
        "create table shop.orders (k integer primary key, a integer, b float8, note text, "
        "n bigint generated always as identity, s serial)",
    ),
    Kind(
        "generated",
        "create table shop.orders (k integer primary key, half integer, "
        "a numeric(10, 1) generated always as (half * 2) stored, b float8, note text)",
        a="half",
        computed="a",
    ),
    Kind(
        "row_security",
        f"create table shop.orders ({PLAIN}); alter table shop.orders enable row level security, "
        "force row level security; create policy all_rows on shop.orders using (true)",
    ),
    Kind(
        "partitioned",
        """create table shop.orders (k integer primary key, a integer, b float8, note text) partition by range (k);
           create table shop.orders_low partition of shop.orders for values from (0) to (1002);
           create table shop.orders_odd (note text, gone text, b float8, a integer, k integer not null);
           alter table shop.orders_odd drop column gone;
           alter table shop.orders attach partition shop.orders_odd for values from (1002) to (1003);
           create table shop.orders_deep partition of shop.orders for values from (1003) to (1100)
             partition by hash (k);
           create table shop.orders_deep_0 partition of shop.orders_deep for values with (modulus 1, remainder 0);
           create table shop.orders_rest partition of shop.orders default""",
    ),
    Kind(
        "child",
        "create table shop.parent (k integer, a integer, b float8); "
        "create table shop.orders (note text, primary key (k)) inherits (shop.parent)",
    ),
    Kind(
        "domains",
        "create domain shop.whole as integer check (value > -1000); create domain shop.real as float8; "
        "create table shop.orders (k integer primary key, a shop.whole, b shop.real, note text)",
    ),
]

_QUERIES = "Score it in queries: select shop.relief_score(o) from shop.orders as o;"
_BASE = f"create table shop.base ({PLAIN}); "

REFUSED = [
    Kind(
        "view",
        _BASE + "create view shop.orders as select * from shop.base",
        refused=("42809", "shop.orders is a view", _QUERIES),
        cannot={"copy": "42809", "other_trigger": "42809"},
        merge_since=170000,
    ),
    Kind(
        "materialized_view",
        _BASE + "create materialized view shop.orders as select * from shop.base",
        refused=("42809", "shop.orders is a materialized view", _QUERIES),
        cannot=dict.fromkeys(
            ("insert", "insert_rows", "insert_select", "copy", "upsert", "update", "merge", "other_trigger"), "42809"
        ),
    ),
    Kind(
        "foreign",
        _BASE + "create extension postgres_fdw; {loopback}"
        "create foreign table shop.orders (k integer, a integer, b float8, note text) server loopback "
        "options (schema_name 'shop', table_name 'base')",
        refused=("42809", "shop.orders is a foreign table", _QUERIES),
        unique=False,
        merge_since=NEVER,
    ),
    Kind(
        "typed",
        "create type shop.line as (k integer, a integer, b float8, note text); "
        "create table shop.orders of shop.line (primary key (k))",
        refused=(
            "42809",
            "shop.orders is a typed table, which takes no columns but those of type shop.line",
            f"{_QUERIES} Or loosen it from its type: alter table shop.orders not of;",
        ),
    ),
    Kind(
        "parent",
        f"create table shop.orders ({PLAIN}); create table shop.child () inherits (shop.orders)",
        refused=(
            "42809",
            "shop.orders has rows in child tables, such as shop.child, which a trigger on it doesn't see",
            f"{_QUERIES} Or make detectors of the child tables.",
        ),
    ),
    Kind(
        "partition",
        f"create table shop.all_orders ({PLAIN}) partition by range (k); "
        "create table shop.orders partition of shop.all_orders default",
        refused=(
            "42809",
            "shop.orders is a partition of shop.all_orders",
            f"{_QUERIES} Or make a detector of shop.all_orders.",
        ),
    ),
    Kind(
        "foreign_partition",
        _BASE + "create extension postgres_fdw; {loopback} "
        "create table shop.orders (k integer, a integer, b float8, note text) partition by range (k); "
        "create foreign table shop.far partition of shop.orders default server loopback "
        "options (schema_name 'shop', table_name 'base')",
        refused=("42809", "shop.orders has the foreign table shop.far for a partition", _QUERIES),
        unique=False,
        merge_since=NEVER,
    ),
]
