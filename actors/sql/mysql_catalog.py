"""What the information schema of MySQL and MariaDB says: the tables a user may read, and what it could write."""

from __future__ import annotations

import re
import time
from typing import Any, Final

from actors.sql.schema import MAX_TABLES, ColumnInfo, Draft, Fetch, Schema, Tested, finish

TABLES: Final = f"""
SELECT table_name, table_schema, IF(table_type LIKE '%VIEW%', 'view', 'table'), table_rows, table_comment
FROM information_schema.tables WHERE table_schema = DATABASE() ORDER BY table_name LIMIT {MAX_TABLES + 1}
"""  # noqa: S608 - of constants
COLUMNS: Final = """
SELECT table_name, column_name, column_type, is_nullable = 'YES', column_comment
FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position
"""
KEYS: Final = """
SELECT table_name, constraint_name, column_name, referenced_table_schema, referenced_table_name, referenced_column_name
FROM information_schema.key_column_usage
WHERE table_schema = DATABASE() AND (constraint_name = 'PRIMARY' OR referenced_table_name IS NOT NULL)
ORDER BY table_name, constraint_name, ordinal_position
"""
INDEXES: Final = """
SELECT table_name, index_name, NOT non_unique, coalesce(column_name, '')
FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index
"""

_READING: Final = frozenset({"USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES", "EXECUTE"})
_GRANT: Final = re.compile(r"GRANT (.+?) ON (.+?) TO ", re.DOTALL)


async def schema(fetch: Fetch, *, samples: int) -> Schema:
    """The tables of the source's database, with up to `samples` values of each column."""
    drafts: dict[str, Draft] = {}
    for name, namespace, kind, rows, comment in await fetch(TABLES):
        # A view's comment is the word itself.
        drafts[name] = Draft(name, namespace, kind, rows, "" if kind == "view" else comment)
    for table, name, declared, nullable, comment in await fetch(COLUMNS):
        if table in drafts:
            drafts[table].columns.append(ColumnInfo(name, _text(declared), bool(nullable), comment))
    for table, name, column, namespace, references, to in await fetch(KEYS):
        if table not in drafts:
            continue
        if references is None:
            drafts[table].key.append(column)
        else:
            of, _, targets = drafts[table].foreign.setdefault(name, ([], (namespace, references), []))
            of.append(column)
            targets.append(to)
    for table, name, unique, column in await fetch(INDEXES):
        if table in drafts:
            drafts[table].indexes.setdefault(name, ([], bool(unique)))[0].append(column)
    if samples:
        for draft in drafts.values():
            # A view may be anything, and take any time.
            if draft.kind == "view":
                continue
            draft.samples = await fetch(sample(draft, samples))
    return finish(drafts)


def sample(draft: Draft, count: int) -> str:
    """The statement that gives some rows of a table, its long values cut on the server."""
    cells = ", ".join(f"LEFT({quoted(column.name)}, 100)" for column in draft.columns)
    return f"SELECT {cells} FROM {quoted(draft.name)} LIMIT {count:d}"  # noqa: S608 - quoted


def quoted(name: str) -> str:
    """A table or column name, quoted as MySQL has it."""
    return "`" + name.replace("`", "``") + "`"


async def test(fetch: Fetch) -> Tested:
    """What the user is and could do."""
    ((version,),) = await fetch("SELECT version()")
    began = time.perf_counter()
    await fetch("SELECT 1")
    latency = (time.perf_counter() - began) * 1000
    writable, warnings = [], []
    for (grant,) in await fetch("SHOW GRANTS"):
        found = _GRANT.match(grant)
        if found is None or found[1].startswith("PROXY"):
            continue
        # Columns in brackets belong to the privilege before them.
        rights = {right.strip() for right in re.sub(r"\([^)]*\)", "", found[1]).split(",")}
        if "EXECUTE" in rights:
            warnings.append(f"The user may run the procedures and functions of {found[2].replace('`', '')}.")
        if more := sorted(rights - _READING):
            writable.append(found[2].replace("`", ""))
            warnings.append(
                f"The user has {', '.join(more[:5])} on {found[2].replace('`', '')}. Use one that has SELECT only."
            )
    return Tested(str(version), tuple(writable), tuple(warnings), round(latency, 2))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
