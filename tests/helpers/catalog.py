"""What an installation consists of, and how two of them differ."""

from __future__ import annotations

from typing import Any

from helpers.database import Database

# One query a kind of object: its name, and facts about it. Nothing may depend on object ids, or on the order of grants.
_RIGHTS = "(select array_agg(a::text order by a::text) from unnest({}) as a)"
_OURS = "where {} = 'relief'::regnamespace"
CATALOG = {
    "function": f"""
        select p.oid::regprocedure::text as name, pg_get_functiondef(p.oid) as definition, p.provolatile, p.proparallel,
               p.prosecdef, p.procost, p.proowner::regrole::text as owner, {_RIGHTS.format("p.proacl")} as rights,
               p.proconfig, obj_description(p.oid, 'pg_proc') as comment
        from pg_proc as p {_OURS.format("p.pronamespace")}""",
    "relation": f"""
        select c.relname::text as name, c.relkind, c.relowner::regrole::text as owner,
               {_RIGHTS.format("c.relacl")} as rights, c.relrowsecurity, c.relforcerowsecurity,
               c.reloptions, obj_description(c.oid, 'pg_class') as comment,
               pg_get_viewdef(c.oid) as definition
        from pg_class as c {_OURS.format("c.relnamespace")}""",
    "column": f"""
        select format('%s.%s', a.attrelid::regclass, a.attname) as name, a.attnum as position,
               format_type(a.atttypid, a.atttypmod) as type, a.attnotnull, a.attidentity, a.attgenerated,
               a.attstorage, {_RIGHTS.format("a.attacl")} as rights,
               pg_get_expr(d.adbin, d.adrelid) as default, col_description(a.attrelid, a.attnum) as comment
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        {_OURS.format("c.relnamespace")} and a.attnum > 0 and not a.attisdropped""",
    "constraint": f"""
        select format('%s.%s', conrelid::regclass, conname) as name, pg_get_constraintdef(oid) as definition,
               convalidated
        from pg_constraint {_OURS.format("connamespace")}""",
    "index": f"""
        select indexrelid::regclass::text as name, pg_get_indexdef(indexrelid) as definition
        from pg_index as i join pg_class as c on c.oid = i.indrelid {_OURS.format("c.relnamespace")}""",
    "policy": """
        select format('%s.%s', p.polrelid::regclass, p.polname) as name, p.polcmd, p.polpermissive,
               p.polroles::regrole[]::text as roles,
               pg_get_expr(p.polqual, p.polrelid) as using, pg_get_expr(p.polwithcheck, p.polrelid) as check,
               obj_description(p.oid, 'pg_policy') as comment
        from pg_policy as p""",
    "trigger": f"""
        select format('%s.%s', tgrelid::regclass, tgname) as name, pg_get_triggerdef(t.oid) as definition, tgenabled,
               obj_description(t.oid, 'pg_trigger') as comment
        from pg_trigger as t join pg_class as c on c.oid = tgrelid
        {_OURS.format("c.relnamespace")} and not tgisinternal""",
    "type": f"""
        select t.oid::regtype::text as name, t.typtype, t.typowner::regrole::text as owner,
               {_RIGHTS.format("t.typacl")} as rights, obj_description(t.oid, 'pg_type') as comment
        from pg_type as t {_OURS.format("t.typnamespace")}""",
    "schema": f"""
        select nspname::text as name, nspowner::regrole::text as owner, {_RIGHTS.format("nspacl")} as rights,
               obj_description(oid, 'pg_namespace') as comment
        from pg_namespace where nspname = 'relief'""",
}

# What only an extension has: its members, what of it is dumped, and which rights pg_dump takes for its own.
EXTENSION = {
    "member": """
        select pg_describe_object(classid, objid, objsubid) as name
        from pg_depend where deptype = 'e' and refobjid = (select oid from pg_extension where extname = 'relief')""",
    "dumped table": """
        select t.id::regclass::text as name, t.condition
        from pg_extension, unnest(extconfig, extcondition) as t (id, condition) where extname = 'relief'""",
    "rights from the start": f"""
        select pg_describe_object(i.classoid, i.objoid, i.objsubid) as name, {_RIGHTS.format("i.initprivs")} as rights
        from pg_init_privs as i
        join pg_depend as d on d.classid = i.classoid and d.objid = i.objoid and d.deptype = 'e'
        where d.refobjid = (select oid from pg_extension where extname = 'relief')""",
}


def catalog(database: Database, kinds: dict[str, str] = CATALOG) -> dict[str, dict[str, Any]]:
    """Return what Relief consists of in a database: kind and name of each object -> facts about it."""
    objects = {}
    for kind, statement in kinds.items():
        for facts in database.query(f"select to_jsonb(facts) from ({statement}) as facts"):
            objects[f"{kind} {facts.pop('name')}"] = facts
    return objects


def differences(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]], names: tuple[str, str]) -> list[str]:
    """Return a line for each object that only one of two installations has, or has otherwise."""
    lines = [
        f"only {name}: {thing}"
        for name, these, those in ((names[0], one, other), (names[1], other, one))
        for thing in these.keys() - those.keys()
    ]
    for thing in one.keys() & other.keys():
        for fact in one[thing]:
            if one[thing][fact] != other[thing][fact]:
                lines.append(f"{thing}, {fact}: {names[0]} {one[thing][fact]!r}, {names[1]} {other[thing][fact]!r}")
    return sorted(lines)
