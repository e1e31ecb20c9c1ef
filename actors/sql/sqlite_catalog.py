"""What an SQLite file says of itself: its tables, as far as they are ordinary ones."""

from __future__ import annotations

import time
from typing import Final

from actors.errors import InvalidInput
from actors.sql.guard import identifier
from actors.sql.schema import MAX_TABLES, ColumnInfo, Draft, Fetch, Schema, Tested, finish

TABLES: Final = "SELECT name, type, sql FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"


async def schema(fetch: Fetch, *, samples: int) -> Schema:
    """The tables, with up to `samples` values of each column."""
    made = await fetch(TABLES)
    virtual = tuple(f"{name}_" for name, _, sql in made if str(sql).upper().startswith("CREATE VIRTUAL"))
    drafts: dict[str, Draft] = {}
    for name, kind, _ in made[: MAX_TABLES + 1]:
        # Virtual tables run a module's code, and the tables behind them repeat what is elsewhere.
        if f"{name}_" in virtual or name.startswith(("sqlite_", *virtual)):
            continue
        draft = Draft(name, "", kind)
        try:
            await _describe(fetch, draft, samples)
        except InvalidInput:
            # A view over what is gone; the file has it all the same.
            continue
        drafts[name] = draft
    for draft in drafts.values():
        for of, (_, table), to in draft.foreign.values():
            # A foreign key that names no columns points at the primary key.
            if not any(to) and table in drafts:
                to[:] = drafts[table].key[: len(of)]
    return finish(drafts)


async def _describe(fetch: Fetch, draft: Draft, samples: int) -> None:
    quoted = identifier(draft.name)
    keys: list[tuple[int, str]] = []
    for _, name, declared, not_null, _, part, hidden in await fetch(f"PRAGMA table_xinfo({quoted})"):
        if hidden == 1:
            continue
        draft.columns.append(ColumnInfo(name, declared, not (not_null or part)))
        if part:
            keys.append((part, name))
    draft.key = [name for _, name in sorted(keys)]
    if draft.kind == "table":
        for number, _, table, column, to, *_ in sorted(await fetch(f"PRAGMA foreign_key_list({quoted})")):
            of, _, targets = draft.foreign.setdefault(str(number), ([], ("", table), []))
            of.append(column)
            targets.append(to or "")
        for _, name, unique, *_ in await fetch(f"PRAGMA index_list({quoted})"):
            parts = await fetch(f"PRAGMA index_xinfo({identifier(name)})")
            draft.indexes[name] = ([column or "" for _, _, column, _, _, is_key in parts if is_key], bool(unique))
        try:
            # The largest row id is found at once, and is the number of rows where none was deleted.
            ((draft.rows,),) = await fetch(f"SELECT coalesce(max(rowid), 0) FROM {quoted}")  # noqa: S608 - quoted
        except InvalidInput:
            draft.rows = None  # it has no row ids
    # A view may be anything, and take any time.
    if samples and draft.columns and draft.kind == "table":
        cells = ", ".join(f"substr({identifier(column.name)}, 1, 100)" for column in draft.columns)
        draft.samples = await fetch(f"SELECT {cells} FROM {quoted} LIMIT {samples:d}")  # noqa: S608 - quoted


async def test(fetch: Fetch, *, writable: bool) -> Tested:
    """What the library is. A file that could be written to is opened read-only all the same."""
    await fetch(TABLES)
    began = time.perf_counter()
    ((version,),) = await fetch("SELECT sqlite_version()")
    latency = (time.perf_counter() - began) * 1000
    warning = "The user that Gatherum runs as may write to the file. It is opened read-only, in a process that cannot."
    return Tested(
        f"SQLite {version}", ("the file",) if writable else (), (warning,) if writable else (), round(latency, 2)
    )
