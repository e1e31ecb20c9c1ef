"""The rows of files: who may remove the bytes.

Bytes and rows cannot change in one transaction, and whoever has bytes removed cannot take that back: the call goes on
when its transaction has been cut off. So no transaction waits for a file. Its row says what is under way:

- A deletion, or the sweep, marks the row of a content that no document is, and commits. Only then it removes the bytes,
  and only when the call has ended it removes the row, and counts one removal. A call that failed leaves its mark.
- An upload reads the number of removals, looks whether its file is there, and takes the document in if the row is not
  marked and the number still the same: no bytes were removed since it looked, and none will be, because now a document
  is this file. Else it waits, or looks again.

So a document without bytes cannot come about. Bytes without a document can, by a crash, and the sweep finds them. A
mark that is older than `REMOVAL_S` is nobody's any more: no call takes so long.

The row is held first of all in a transaction that needs it, before documents, jobs and the change number: those who
wait for each other in one order never deadlock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from sqlalchemy import delete, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Unavailable
from actors.store.blobs import Blobs, Stored
from actors.store.dialect import clock, insert_new
from actors.store.tables import contents, counters, documents
from config import logs

REMOVAL_S: Final = 600.0
"""After this time the removal of a file has ended, well or not, s. A bucket's slowest call takes half of it."""

COUNTER: Final = "removals"

_REMOVALS = select(counters.c.value).where(counters.c.name == COUNTER)
_USED = select(literal(1)).where(documents.c.sha256 == contents.c.sha256).exists()

_ending: set[asyncio.Task[Any]] = set()
"""Removals under way, which end even where nobody waits for them any more."""


class Write(Protocol):
    """Runs a repeatable unit in a transaction of its own."""

    def __call__(self, work: Callable[[AsyncConnection, float], Awaitable[Any]], /) -> Awaitable[Any]:
        """Run it; its answer."""
        ...


@dataclass(frozen=True, slots=True)
class Looked:
    """How things stood before an upload looked for its file.

    Attributes:
        removals: files removed until then, by their number.
        removing: whether this one was being removed.
    """

    removals: int
    removing: bool


async def hold(connection: AsyncConnection, sha256: str) -> None:
    """Keep everybody else from the content until the transaction ends, whether or not it has a row yet."""
    row = select(contents.c.sha256).where(contents.c.sha256 == sha256).with_for_update()
    while (await connection.execute(row)).first() is None:
        if await insert_new(connection, contents, {"sha256": sha256}):
            return


async def hold_used(connection: AsyncConnection, sha256: str) -> bool:
    """The same for a content that must be a document's; whether it is one."""
    await hold(connection, sha256)
    if await in_use(connection, sha256):
        return True
    await forget(connection, sha256)
    return False


async def forget(connection: AsyncConnection, sha256: str) -> None:
    """Remove the row of a content, unless its bytes are being removed."""
    await connection.execute(delete(contents).where(contents.c.sha256 == sha256, contents.c.removing.is_(None)))


async def in_use(connection: AsyncConnection, sha256: str) -> bool:
    """Whether a document is this file."""
    found = await connection.execute(select(documents.c.id).where(documents.c.sha256 == sha256).limit(1))
    return found.first() is not None


# --- an upload -------------------------------------------------------------------------------------------------------


async def look(connection: AsyncConnection, *, sha256: str) -> Looked:
    """How things stand before the file is looked for."""
    since = contents.c.removing > clock() - REMOVAL_S
    being_removed = await connection.execute(select(contents.c.sha256).where(contents.c.sha256 == sha256, since))
    removals = (await connection.execute(_REMOVALS)).scalar_one_or_none()
    return Looked(removals or 0, being_removed.first() is not None)


async def is_there_still(connection: AsyncConnection, now: float, sha256: str, before: Looked) -> bool:
    """Whether a file that was found after the look `before` is there, and stays. The row must be held."""
    row = select(contents.c.removing, _REMOVALS.scalar_subquery()).where(contents.c.sha256 == sha256)
    removing, removals = (await connection.execute(row)).one()
    if before.removing or (removals or 0) != before.removals:
        return False
    if removing is not None and now - removing < REMOVAL_S:
        return False
    if removing is not None:
        await connection.execute(update(contents).where(contents.c.sha256 == sha256).values(removing=None))
    return True


# --- a removal -------------------------------------------------------------------------------------------------------


async def remove_unused(write: Write, blobs: Blobs, *, sha256: str, before: float | None = None) -> Stored | None:
    """Remove a file that no document is, with its row; takes and gives what `remove` does."""
    mark: float | None = None

    async def work(connection: AsyncConnection, now: float) -> float | None:
        nonlocal mark
        mark = await mark_unused(connection, now, sha256=sha256, own=mark)
        return mark

    mark = await write(work)
    return None if mark is None else await remove(write, blobs, sha256=sha256, mark=mark, before=before)


async def mark_unused(
    connection: AsyncConnection, now: float, *, sha256: str, own: float | None = None
) -> float | None:
    """Say that the bytes of a content are being removed, for `remove`.

    Args:
        connection: in a transaction that writes.
        now: the database's clock.
        sha256: of the content.
        own: a mark that this very call may have committed before.

    Returns:
        The mark; None where a document is this file, or somebody is removing it already.
    """
    await hold(connection, sha256)
    if await in_use(connection, sha256):
        return None
    row = select(contents.c.removing).where(contents.c.sha256 == sha256)
    removing: float | None = (await connection.execute(row)).scalar_one()
    if removing is not None and removing == own:
        return own
    if removing is not None and now - removing < REMOVAL_S:
        return None
    await connection.execute(update(contents).where(contents.c.sha256 == sha256).values(removing=now))
    return now


async def remove(write: Write, blobs: Blobs, *, sha256: str, mark: float, before: float | None = None) -> Stored | None:
    """Remove the bytes of a content that was marked, then its row. It goes on when the caller is cancelled.

    Args:
        write: for the row.
        blobs: where the file is.
        sha256: of the content.
        mark: from `mark_unused`, committed.
        before: a file that was put there later is left alone, s since the epoch: it may be that of an upload under way.

    Returns:
        What was removed; None if there was nothing to remove.

    Raises:
        Unavailable: the file may be there still. The mark stays, and the sweep goes on when it is old.
    """
    task = asyncio.create_task(_remove(write, blobs, sha256, mark, before), name="removal")
    _ending.add(task)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


async def _remove(write: Write, blobs: Blobs, sha256: str, mark: float, before: float | None) -> Stored | None:
    began = time.monotonic()
    stored = await blobs.stat(sha256)
    if stored is not None and before is not None and stored.modified > before:
        stored = None
    elif stored is not None:
        if time.monotonic() - began > REMOVAL_S / 2:
            raise Unavailable("The place that files are kept in takes too long.")
        await blobs.remove(sha256)
    await write(partial(_unmark, sha256=sha256, mark=mark))
    return stored


async def _unmark(connection: AsyncConnection, now: float, *, sha256: str, mark: float) -> None:
    ours = (contents.c.sha256 == sha256, contents.c.removing == mark)
    if (await connection.execute(delete(contents).where(*ours))).rowcount:
        await insert_new(connection, counters, {"name": COUNTER, "value": 0})
        one_more = update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value + 1)
        await connection.execute(one_more)


def _ended(task: asyncio.Task[Any]) -> None:
    _ending.discard(task)
    error = None if task.cancelled() else task.exception()
    if error is not None:
        logs.get().warning("file_not_removed", kind=type(error).__name__)


# --- the sweep -------------------------------------------------------------------------------------------------------


async def unused(connection: AsyncConnection, prefix: str) -> list[str]:
    """Contents on one shelf that have a row and no document: their deletion was cut short."""
    shelf = contents.c.sha256.between(prefix, f"{prefix}g")
    left = or_(contents.c.removing.is_(None), contents.c.removing <= clock() - REMOVAL_S)
    return list((await connection.execute(select(contents.c.sha256).where(shelf, left, ~_USED))).scalars())


async def unknown(connection: AsyncConnection, addresses: Sequence[str]) -> list[str]:
    """Those of up to 500 addresses that are no document's."""
    rows = await connection.execute(select(documents.c.sha256).where(documents.c.sha256.in_(addresses)))
    known = set(rows.scalars())
    return [sha256 for sha256 in addresses if sha256 not in known]
