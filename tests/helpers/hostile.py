"""What tells that a hostile statement, name or document has done nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from psycopg import Connection

from helpers.database import query

# What an injected statement would change: roles, tables, rows, functions, settings.
FINGERPRINT = """
select (select string_agg(r::text, ',' order by oid) from pg_roles as r),
       (select string_agg(c.oid || relname, ',' order by c.oid) from pg_class as c
        where relnamespace >= 16384 and relkind in ('r', 'v')),
       (select string_agg(p.oid || proname || proowner || coalesce(proacl::text, ''), ',' order by p.oid)
        from pg_proc as p where p.oid >= 16384),
       (select count(*) from public.victim),
       current_setting('search_path'), current_setting('role'), current_setting('session_replication_role')
"""


@contextlib.contextmanager
def nothing_changes(connection: Connection) -> Iterator[None]:
    """Assert that what the block does leaves the fingerprint as it is; there is a table public.victim."""
    before = query(connection, FINGERPRINT)
    yield
    assert query(connection, FINGERPRINT) == before
