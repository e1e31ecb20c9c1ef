"""The rows of stored lookups. Whether a statement may run is none of the store's business; see `actors/sql/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Conflict, UnknownLookup
from actors.messages import Change, Parameter, StoredLookup
from actors.store import changes
from actors.store.dialect import insert_new
from actors.store.sources import find as find_source
from actors.store.tables import lookups


async def add(connection: AsyncConnection, now: float, lookup: StoredLookup) -> Change | None:
    """Store a lookup; None if the very same one is stored already.

    Raises:
        UnknownSource: its source is not registered.
        Conflict: the name is taken by another one of the source.
    """
    await find_source(connection, lookup.source)
    row = asdict(lookup) | {"parameters": [asdict(parameter) for parameter in lookup.parameters], "created_at": now}
    if await insert_new(connection, lookups, row):
        return await changes.draw(connection, now, Change(0, "lookups"))
    if await find(connection, lookup.source, lookup.name) != lookup:
        raise Conflict("Another lookup of this source has the name; remove that one first, or choose another name.")
    return None


async def every(connection: AsyncConnection) -> list[StoredLookup]:
    """All of them, by source and name."""
    return [_lookup(row) for row in (await connection.execute(_all())).mappings()]


async def of(connection: AsyncConnection, source: str) -> list[StoredLookup]:
    """Those of a source, by name.

    Raises:
        UnknownSource: there is none of this name.
    """
    await find_source(connection, source)
    rows = await connection.execute(_all().where(lookups.c.source == source))
    return [_lookup(row) for row in rows.mappings()]


async def find(connection: AsyncConnection, source: str, name: str) -> StoredLookup:
    """One by its name.

    Raises:
        UnknownLookup: the source has none of this name, or there is no such source.
    """
    rows = await connection.execute(_all().where(lookups.c.source == source, lookups.c.name == name))
    row = rows.mappings().first()
    if row is None:
        raise UnknownLookup("The source has no lookup of this name.")
    return _lookup(row)


async def remove(connection: AsyncConnection, now: float, source: str, name: str) -> Change:
    """Forget a lookup.

    Raises:
        UnknownLookup: see `find`.
    """
    gone = delete(lookups).where(lookups.c.source == source, lookups.c.name == name)
    if (await connection.execute(gone)).rowcount != 1:
        raise UnknownLookup("The source has no lookup of this name.")
    return await changes.draw(connection, now, Change(0, "lookups"))


def _all() -> Select[Any]:
    columns = (lookups.c.source, lookups.c.name, lookups.c.description, lookups.c.sql, lookups.c.parameters)
    return select(*columns).order_by(lookups.c.source, lookups.c.name)


def _lookup(row: Mapping[str, Any]) -> StoredLookup:
    values = dict(row)
    parameters = tuple(Parameter(**parameter) for parameter in values.pop("parameters"))
    return StoredLookup(**values, parameters=parameters)
