"""What happened to a store, recorded inside its own transactions, and what is wrong with it.

A worker under test writes one row into `history` in the very transaction that claims, commits or publishes: the row is
there if and only if that transaction was committed, so the history is told from the database's point of view, however
the worker ended. Of one job the rows stand in the order in which its lock was held. `violations` judges a history,
`unkept` whether what workers were told is in it, and `contents` is everything a store shows, to be compared as values.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.messages import Change, Lease
from actors.store import tables

Contents = dict[str, Counter[str]]

_history = Table(
    "history",
    MetaData(),
    Column("seq", tables.Id, primary_key=True, autoincrement=True),
    Column("operation", String(20), nullable=False),
    Column("worker", String(100), nullable=False),
    Column("job_id", String(32), nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("pages", Text, nullable=False),
    Column("change", BigInteger),
)

HOLDERS = frozenset({"commit_pages", "fail", "heartbeat", "publish", "release"})
"""Operations that only the holder of the job may carry out."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something a worker has done to a job, and that was committed.

    Attributes:
        operation: the store's function.
        worker: who called it.
        fence: the one it named; of a claim, the one it was given.
        pages: numbers of the pages it brought.
        change: number of the change it was answered with.
    """

    operation: str
    worker: str
    job_id: str
    fence: int
    pages: tuple[int, ...] = ()
    change: int | None = None


# --- recording -------------------------------------------------------------------------------------------------------


async def prepare(connection: AsyncConnection) -> None:
    """Make the table, if there is none yet, and empty the store."""
    await connection.run_sync(_history.metadata.create_all)
    for table in (_history, *reversed(tables.metadata.sorted_tables)):
        if table is not tables.counters:
            await connection.execute(delete(table))
    await connection.execute(update(tables.counters).values(value=0))


def event(operation: str, worker: str, named: dict[str, Any], answer: Any) -> Event | None:
    """What a call of a store function with these arguments and this answer means; None if it did nothing."""
    if operation == "claim":
        return Event("claim", worker, answer.job_id, answer.fence) if isinstance(answer, Lease) else None
    packed = named.get("packed")
    pages = () if packed is None else tuple(row["number"] for row in packed.pages)
    change = answer.number if isinstance(answer, Change) else None
    return Event(operation, worker, named["job_id"], named["fence"], pages, change)


async def record(connection: AsyncConnection, happened: Event) -> None:
    """Add a row, in the transaction of what has happened."""
    row = asdict(happened) | {"pages": json.dumps(happened.pages)}
    await connection.execute(insert(_history), row)


async def events(connection: AsyncConnection) -> list[Event]:
    """The history so far."""
    rows = await connection.execute(select(_history).order_by(_history.c.seq))
    return [
        Event(row.operation, row.worker, row.job_id, row.fence, tuple(json.loads(row.pages)), row.change)
        for row in rows
    ]


def write(path: Path, happened: Iterable[Event]) -> None:
    """Write a history as JSON lines."""
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in happened), encoding="utf-8")


def read(path: Path) -> list[Event]:
    """Read one back."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Event(**row | {"pages": tuple(row["pages"])}) for row in rows]


# --- judging ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Hold:
    fence: int = 0
    worker: str = ""
    held: bool = False
    change: int | None = None


def violations(happened: Iterable[Event]) -> list[str]:
    """What in a history must not be: nothing, if all is well.

    - The fences of a job strictly grow from claim to claim.
    - Pages, heartbeats, publications and failures come from the holder of the newest fence, and from nobody once the
      job has ended.
    - A job publishes once. The holder may be told the same change again; no two publications share a change.
    """
    found: list[str] = []
    jobs: dict[str, _Hold] = {}
    changes: dict[int, str] = {}
    for one in happened:
        job = jobs.setdefault(one.job_id, _Hold())
        what = f"{one.operation} of job {one.job_id} by {one.worker} with fence {one.fence}"
        if one.operation == "claim":
            if one.fence <= job.fence:
                found.append(f"{what}: the fence did not grow from {job.fence}")
            if job.change is not None:
                found.append(f"{what}: it was published before")
            job.fence, job.worker, job.held = one.fence, one.worker, True
            continue
        if one.operation not in HOLDERS:
            found.append(f"{what}: unknown")
            continue
        mine = one.fence == job.fence and one.worker == job.worker
        if one.operation == "publish" and mine and one.change == job.change:
            continue  # asked again, answered alike
        if not mine or not job.held:
            found.append(f"{what}: stale, {job.worker or 'nobody'} had fence {job.fence}")
        if one.operation == "publish":
            if job.change is not None:
                found.append(f"{what}: published twice, as {job.change} and {one.change}")
            if one.change is None or one.change in changes:
                found.append(f"{what}: its change {one.change} is that of {changes.get(one.change or 0, 'none')}")
            else:
                changes[one.change] = one.job_id
            job.change = one.change
        if one.operation in ("publish", "fail", "release"):
            job.held = False
    return found


def unkept(happened: Iterable[Event], told: Iterable[Event]) -> list[str]:
    """What workers were told is done, and the store does not know of."""
    known = set(happened)
    return [f"{one.worker} was told that {one.operation} of {one.job_id} is done" for one in told if one not in known]


# --- what a store shows ----------------------------------------------------------------------------------------------


async def contents(connection: AsyncConnection) -> Contents:
    """Everything that an undisturbed run decides, and nothing that chance does: ids, times, orders, attempts.

    Returns:
        By table, the rows as JSON, each with how often it is there.
    """
    document, job, chunk = tables.documents.c, tables.jobs.c, tables.chunks.c
    mention, entity, change = tables.mentions.c, tables.entities.c, tables.changes.c
    queries = {
        "documents": select(
            document.collection,
            document.sha256,
            document.size,
            document.title,
            document.filename,
            document.pages,
            document.metadata,
            document.state,
            document.pipeline,
        ),
        "jobs": select(document.collection, document.sha256, job.state, job.pipeline, job.error).join(
            tables.documents, document.id == job.document_id
        ),
        "pages": select(tables.pages),
        "chunks": select(*[column for column in chunk if column.name != "id"]),
        "vectors": select(tables.vectors),
        "mentions": select(
            *[column for column in mention if column.name not in ("id", "entity_id")], entity.normal, entity.label
        ).join(tables.entities, entity.id == mention.entity_id),
        "entities": select(entity.normal, entity.label),
        "contents": select(tables.contents),
        "superseded": select(tables.superseded),
        "changes": select(change.kind, change.collection, document.sha256).select_from(
            tables.changes.outerjoin(tables.documents, document.id == change.document_id)
        ),
    }
    found = {}
    for name, query in queries.items():
        found[name] = Counter(_line(row) for row in await connection.execute(query))
    numbers = list((await connection.execute(select(change.number).order_by(change.number))).scalars())
    found["numbers of changes"] = Counter(map(str, numbers))
    return found


def _line(row: Sequence[Any]) -> str:
    values = [hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value for value in row]
    return json.dumps(values, sort_keys=True, default=str)


def files(folder: Path) -> Counter[str]:
    """The files that are kept, each by what it holds; one whose name does not fit what it holds is told apart."""
    found: Counter[str] = Counter()
    for path in folder.glob("??/*"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[digest if digest == path.name else f"{path.name} holds {digest}"] += 1
    return found


def differences(expected: Contents, found: Contents) -> list[str]:
    """Rows that are missing or too many, by table; none if both are the same."""
    told = []
    for name in sorted(expected.keys() | found.keys()):
        before, after = expected.get(name, Counter()), found.get(name, Counter())
        told += [f"{name}: {count} missing: {row[:200]}" for row, count in (before - after).items()]
        told += [f"{name}: {count} too many: {row[:200]}" for row, count in (after - before).items()]
    return told
