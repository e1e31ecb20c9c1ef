"""What PostgreSQL's catalogue says: the tables a role may read, and what it could write."""

from __future__ import annotations

import time
from typing import Final

from actors.sql.guard import identifier
from actors.sql.schema import MAX_TABLES, ColumnInfo, Draft, Fetch, Schema, Tested, finish

_OURS: Final = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"

TABLES: Final = f"""
SELECT c.oid, c.relname::text, n.nspname::text,
       CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END,
       CASE WHEN c.reltuples >= 0 AND c.relkind IN ('r', 'p', 'm', 'f') THEN c.reltuples::bigint END,
       coalesce(obj_description(c.oid, 'pg_class'), '')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND {_OURS}
  AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
ORDER BY n.nspname, c.relname LIMIT {MAX_TABLES + 1}
"""  # noqa: S608 - of constants
COLUMNS: Final = f"""
SELECT a.attrelid, a.attname::text, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       coalesce(col_description(a.attrelid, a.attnum), ''), a.attnum
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND {_OURS}
  AND has_column_privilege(c.oid, a.attnum, 'SELECT')
ORDER BY a.attrelid, a.attnum
"""  # noqa: S608
KEYS: Final = f"""
SELECT k.conrelid, k.conname::text, k.contype::text, k.conkey, fn.nspname::text, f.relname::text,
       (SELECT array_agg(a.attname::text ORDER BY u.at) FROM unnest(k.confkey) WITH ORDINALITY u(num, at)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num)
FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
LEFT JOIN pg_catalog.pg_class f ON f.oid = k.confrelid LEFT JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
WHERE k.contype IN ('p', 'f') AND {_OURS} ORDER BY k.conname
"""  # noqa: S608
INDEXES: Final = f"""
SELECT i.indrelid, c.relname::text, i.indisunique, i.indkey::smallint[]
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND {_OURS}
"""  # noqa: S608
WRITABLE: Final = f"""
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'f') AND {_OURS}
  AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE') ORDER BY 1 LIMIT 20
"""  # noqa: S608
ROLE: Final = """
SELECT version(), r.rolsuper, r.rolcreatedb OR r.rolcreaterole OR r.rolreplication,
       has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP'),
       (SELECT array_agg(m.rolname::text) FROM pg_catalog.pg_roles m WHERE m.rolname IN
        ('pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
         'pg_signal_backend') AND pg_has_role(m.oid, 'USAGE'))
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
"""


async def schema(fetch: Fetch, *, samples: int) -> Schema:
    """The tables, with up to `samples` values of each column."""
    drafts: dict[int, Draft] = {}
    names: dict[int, dict[int, str]] = {}
    for oid, name, namespace, kind, rows, comment in await fetch(TABLES):
        drafts[oid] = Draft(name, namespace, kind, rows, comment)
    for oid, name, declared, nullable, comment, number in await fetch(COLUMNS):
        if oid in drafts:
            drafts[oid].columns.append(ColumnInfo(name, declared, nullable, comment))
            names.setdefault(oid, {})[number] = name
    for oid, name, kind, of, namespace, table, references in await fetch(KEYS):
        # A column that the role may not see has no name here, and a key with such a one is of no use to it.
        if oid not in drafts or not names.get(oid, {}).keys() >= set(of):
            continue
        columns = [names[oid][number] for number in of]
        if kind == "p":
            drafts[oid].key = columns
        else:
            drafts[oid].foreign[name] = (columns, (namespace, table), list(references or ()))
    for oid, name, unique, of in await fetch(INDEXES):
        if oid in drafts:
            drafts[oid].indexes[name] = ([names.get(oid, {}).get(number, "") for number in of], unique)
    if samples:
        for draft in drafts.values():
            # A view may be anything, and take any time.
            if draft.kind == "view":
                continue
            draft.samples = await fetch(sample(draft, samples))
    return finish(drafts)


def sample(draft: Draft, count: int) -> str:
    """The statement that gives some rows of a table, its long values cut on the server."""
    cells = ", ".join(f"left({identifier(column.name)}::text, 100)" for column in draft.columns)
    return f"SELECT {cells} FROM {identifier(draft.namespace)}.{identifier(draft.name)} LIMIT {count:d}"  # noqa: S608


async def test(fetch: Fetch) -> Tested:
    """What the role is and could do."""
    ((version, is_super, makes, creates, temporary, roles),) = await fetch(ROLE)
    began = time.perf_counter()
    await fetch("SELECT 1")
    latency = (time.perf_counter() - began) * 1000
    writable = tuple(name for (name,) in await fetch(WRITABLE))
    warnings = []
    if is_super:
        warnings.append("The role is a superuser: it may do anything, files and programs of the server included.")
    if makes:
        warnings.append("The role may create databases or roles, or replicate.")
    if roles:
        warnings.append(f"The role is a member of {', '.join(roles)}.")
    if writable:
        warnings.append(f"The role can write, to {writable[0]} for one. Use one that has SELECT only.")
    if creates:
        warnings.append("The role can create schemas in this database.")
    if temporary:
        warnings.append("The role can create temporary tables: REVOKE TEMPORARY ON DATABASE … FROM PUBLIC.")
    return Tested(str(version).partition(" on ")[0], writable, tuple(warnings), round(latency, 2))
