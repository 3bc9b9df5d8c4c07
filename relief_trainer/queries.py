"""The named queries of ``queries.sql``, with their values and identifiers quoted by psycopg."""

from __future__ import annotations

import functools
import importlib.resources
import re
from typing import Any

from psycopg import sql


def query(name: str, /, **parts: Any) -> sql.Composed:
    """Return a named query with its braces filled in.

    Parameters
    ----------
    parts
        A `psycopg.sql.Composable` stands as it is; any other value becomes a quoted literal.
    """
    filled = {key: part if isinstance(part, sql.Composable) else sql.Literal(part) for key, part in parts.items()}
    return sql.SQL(_queries()[name]).format(**filled)


@functools.cache
def _queries() -> dict[str, str]:
    text = importlib.resources.files("relief_trainer").joinpath("queries.sql").read_text(encoding="utf-8")
    named = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(named[1::2], named[2::2], strict=True)}
