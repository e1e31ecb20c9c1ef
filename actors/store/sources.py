"""The rows of registered SQL sources. What a source holds is none of the store's business; see `actors/sql/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Conflict, UnknownSource
from actors.messages import Change, Source
from actors.store import changes
from actors.store.dialect import insert_new
from actors.store.tables import lookups, sources


async def add(connection: AsyncConnection, now: float, source: Source) -> Change | None:
    """Register a source; None if the very same one is registered already.

    Raises:
        Conflict: the name is taken by another one.
    """
    spec = asdict(source)
    name, kind = spec.pop("name"), spec.pop("kind")
    row = {"name": name, "kind": kind, "spec": spec, "created_at": now}
    if await insert_new(connection, sources, row):
        return await changes.draw(connection, now, Change(0, "sources", collection=source.name))
    if await find(connection, name) != source:
        raise Conflict("Another source has this name; remove that one first, or choose another name.")
    return None


async def every(connection: AsyncConnection) -> list[Source]:
    """All of them, by name."""
    rows = await connection.execute(select(sources.c.name, sources.c.kind, sources.c.spec).order_by(sources.c.name))
    return [_source(name, kind, spec) for name, kind, spec in rows]


async def find(connection: AsyncConnection, name: str) -> Source:
    """One by its name.

    Raises:
        UnknownSource: there is none of this name.
    """
    found = await connection.execute(select(sources.c.kind, sources.c.spec).where(sources.c.name == name))
    row = found.first()
    if row is None:
        raise UnknownSource("There is no source of this name.")
    return _source(name, row.kind, row.spec)


async def remove(connection: AsyncConnection, now: float, name: str) -> Change:
    """Forget a source, and its lookups with it; its database is not touched.

    Raises:
        UnknownSource: there is none of this name.
    """
    await connection.execute(delete(lookups).where(lookups.c.source == name))
    if (await connection.execute(delete(sources).where(sources.c.name == name))).rowcount != 1:
        raise UnknownSource("There is no source of this name.")
    return await changes.draw(connection, now, Change(0, "sources", collection=name))


def _source(name: str, kind: Any, spec: Mapping[str, Any]) -> Source:
    # JSON knows no tuples.
    return Source(name=name, kind=kind, **{**spec, "exclude": tuple(spec.get("exclude", ()))})
