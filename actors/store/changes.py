"""The change log: gap-free numbers that indexes follow.

A number is drawn from a counter's row inside the transaction it belongs to. The row stays locked until that commits, so
whoever has seen number n has seen everything up to n; numbers from a sequence could become visible out of order.
"""

from __future__ import annotations

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.messages import Change
from actors.store.tables import changes, counters

COUNTER = "change"


async def draw(connection: AsyncConnection, now: float, change: Change) -> Change:
    """Append what happened to the log; returns it with its number (the one it came with is ignored)."""
    await connection.execute(update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value + 1))
    number = (await connection.execute(select(counters.c.value).where(counters.c.name == COUNTER))).scalar_one()
    entry = {
        "number": number,
        "kind": change.kind,
        "document_id": change.document_id,
        "collection": change.collection,
    }
    await connection.execute(insert(changes).values(created_at=now, **entry))
    return Change(**entry)


async def after(connection: AsyncConnection, number: int, limit: int) -> list[Change]:
    """Up to `limit` changes past `number`, in order."""
    columns = (changes.c.number, changes.c.kind, changes.c.document_id, changes.c.collection)
    rows = await connection.execute(
        select(*columns).where(changes.c.number > number).order_by(changes.c.number).limit(limit)
    )
    return [Change(*row) for row in rows]


async def last(connection: AsyncConnection) -> int:
    """The newest number; 0 before the first change."""
    number: int = (await connection.execute(select(func.coalesce(func.max(changes.c.number), 0)))).scalar_one()
    return number


async def holds(connection: AsyncConnection, change: Change) -> bool:
    """Whether this very change is in the log."""
    found = await after(connection, change.number - 1, 1)
    return found == [change]


async def publication(connection: AsyncConnection, document_id: str) -> Change | None:
    """The change that last published a document."""
    columns = (changes.c.number, changes.c.kind, changes.c.document_id, changes.c.collection)
    found = await connection.execute(
        select(*columns)
        .where(changes.c.document_id == document_id, changes.c.kind == "publish")
        .order_by(changes.c.number.desc())
        .limit(1)
    )
    row = found.first()
    return None if row is None else Change(*row)
