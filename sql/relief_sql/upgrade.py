"""Upgrades: what leads from the catalog of one release to that of the next.

An upgrade is the step written by hand, ``migrations/<from>--<to>.sql``, and what follows from ``schema/*.sql``:

- functions, views and triggers are replaced, and made where there are none;
- tables and types that the release before didn't have are made, with all that belongs to them;
- functions and views that it had, by ``migrations/<from>.txt``, and that are gone, are dropped;
- PUBLIC gets the rights that it is to have.

The step holds what can't be told from that: changes of tables and types that were there, and drops of what PostgreSQL
can't replace, such as a function whose result has another type. `tests/test_upgrade.py` tells what it lacks.

What generated functions call, which PUBLIC may execute, can't be dropped where a detector is: it keeps its signatures,
and gets others beside them.
"""

from __future__ import annotations

from collections.abc import Iterable

from relief_sql.statements import Statement, classify, signatures, split


def objects(script: str) -> list[str]:
    """Return the objects that a script makes, such as ``table relief.model``: the lines of a release's list."""
    return sorted({named for statement in _statements(script) if (named := _object(statement))})


def upgrade(schema: str, step: str, before: Iterable[str]) -> str:
    """Return the script that upgrades a database in which ``before`` is, a release's objects.

    Parameters
    ----------
    schema
        The script that makes the objects of today.
    step
        The step written by hand.
    """
    before = set(before)
    statements = _statements(schema)
    today = {_object(statement) for statement in statements}
    gone = sorted(before - today)
    parts = [step.rstrip()]
    for kind in ("view", "routine"):
        names = [name.partition(" ")[2] for name in gone if name.startswith(f"{kind} ")]
        if names:
            parts.append(f"drop {kind}" + ",".join(f"\n  {name}" for name in names) + ";")
    parts += [f"{made};" for statement in statements if (made := _made_anew(statement, before))]
    open_to_all = [
        name for statement in statements if statement.kind == "grant" for name in signatures(statement.about)
    ]
    parts.append(_RIGHTS % ",\n".join(f"    '{name}'" for name in open_to_all))
    return "\n\n".join([*parts, ""])


def _statements(script: str) -> list[Statement]:
    return [classify(text) for text in split(script)]


def _object(statement: Statement) -> str | None:
    """Return the object that a statement makes; of functions, the one that it comments: there the signature is."""
    if statement.kind in ("table", "type", "view"):
        return f"{statement.kind} {statement.about}"
    return f"routine {statement.about}" if statement.kind == "comment" and statement.about else None


def _made_anew(statement: Statement, before: set[str]) -> str | None:
    """Return what an upgrade does in a statement's place, None where that is left to the step or to the rights."""
    if statement.kind in ("function", "view", "trigger"):
        return statement.text[: -len(statement.bare)] + statement.bare.replace("create ", "create or replace ", 1)
    if statement.kind in ("grant", "revoke"):
        return None
    if statement.kind == "comment":
        return statement.text
    known = {f"{kind} {statement.about}" for kind in ("table", "type", "view")}
    return None if known & before else statement.text


_RIGHTS = """\
-- PUBLIC may execute what generated functions call, and nothing else. What has these rights already isn't touched: a
-- GRANT in an extension's script makes all rights on its object the extension's own, and pg_dump leaves out a DBA's.
do $upgrade$
declare
  open_to_all constant regprocedure[] := array[
%s
  ];
  f record;
begin
  for f in
    select p.oid::regprocedure as signature, p.oid = any (open_to_all) as is_open
    from pg_catalog.pg_proc as p
    where p.pronamespace = 'relief'::regnamespace
      and (pg_catalog.has_function_privilege('public', p.oid, 'execute') <> (p.oid = any (open_to_all))
           -- Just made: PUBLIC has the right by default, and in an installation by a grant.
           or p.proacl is null)
  loop
    execute pg_catalog.format(case when f.is_open then 'grant execute on routine %%s to public'
                                   else 'revoke execute on routine %%s from public' end, f.signature);
  end loop;
end
$upgrade$;"""
