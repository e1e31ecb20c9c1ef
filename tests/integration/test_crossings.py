"""What two processes do to one document at the same moment, on every database: each pair is made to cross.

A gate holds the one in the middle of its transaction, at the place where it has looked and not yet acted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import page_reading, unreadable
from sqlalchemy import Table, delete, event, func, insert, select, update
from stores import open_database, publish, soon, upload

from actors.database import Database
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, FileGone, Unavailable
from actors.messages import Embeddings, PageChunks
from actors.store import jobs, readings, tables, upkeep, vectors
from actors.store.blobs import Folder, Stored

ENCODER = "m@1"
MADE = Embeddings.of(ENCODER, np.ones((1, 4), np.float16))


@dataclass
class Gate:
    """Stands before, or behind, a function of a module; everybody after the first goes through."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gate]:
    """Put a gate before a function of a module, or behind it."""

    def put(module: Any, name: str, *, behind: bool = False) -> Gate:
        made, original = Gate(), getattr(module, name)

        async def gated(*arguments: Any, **more: Any) -> Any:
            if behind:
                answer = await original(*arguments, **more)
                await made.wait()
                return answer
            await made.wait()
            return await original(*arguments, **more)

        monkeypatch.setattr(module, name, gated)
        return made

    return put


@pytest.fixture
async def both(store_url: str, tmp_path: Path) -> AsyncIterator[tuple[Database, Database]]:
    """Two processes on one store, as good as: each has connections of its own."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(open_database(tmp_path, url=store_url))
        yield one, await stack.enter_async_context(open_database(tmp_path, url=store_url))


@asynccontextmanager
async def in_between(held: Gate, work: Coroutine[Any, Any, Any], other: Coroutine[Any, Any, Any]) -> AsyncIterator[Any]:
    """Run `work` up to the gate, then `other` as far as it comes; the gate is opened then, and both end."""
    first = asyncio.create_task(work)
    reached = asyncio.create_task(held.reached.wait())
    await asyncio.wait((first, reached), return_when=asyncio.FIRST_COMPLETED)
    assert held.reached.is_set(), first
    second = asyncio.create_task(other)
    # What it does not do in this time it waits for; a longer one would only make the test slower.
    await asyncio.wait((second,), timeout=0.5)
    held.opened.set()
    yield await asyncio.gather(first, second, return_exceptions=True)


async def count(database: Database, *of: Table) -> list[int]:
    async def work(connection: Any) -> list[int]:
        return [(await connection.execute(select(func.count()).select_from(table))).scalar_one() for table in of]

    return await database._store.read(work)


async def embedded(database: Database) -> list[PageChunks]:
    return [replace(page, embeddings=MADE) for page in await database.unembedded(ENCODER, 16, deadline=soon())]


@pytest.mark.parametrize("deletion_first", [False, True])
async def test_a_deletion_takes_the_vectors_that_are_just_being_stored(
    both: tuple[Database, Database], gate: Callable[..., Gate], tmp_path: Path, deletion_first: bool
) -> None:
    one, other = both
    accepted, _ = await publish(one, tmp_path, [page_reading(1), page_reading(2)])
    adding = one.add_vectors(await embedded(one), deadline=soon())
    deleting = other.delete_document(accepted.document_id, deadline=soon())
    if deletion_first:
        crossing = in_between(gate(readings, "remove"), deleting, adding)
    else:
        crossing = in_between(gate(vectors, "_is_complete"), adding, deleting)
    async with crossing as (first, second):
        assert not isinstance(first, BaseException), first
        assert not isinstance(second, BaseException), second
    assert await count(one, tables.pages, tables.chunks, tables.vectors, tables.contents) == [0, 0, 0, 0]


async def test_a_page_is_stored_whatever_vectors_were_left_behind(
    both: tuple[Database, Database], tmp_path: Path
) -> None:
    one, _ = both
    accepted = await one.accept(await upload(tmp_path, pages=1), deadline=soon())
    lease = await one.claim("w", 30.0, deadline=soon())
    assert lease is not None

    async def leave(connection: Any, now: float) -> None:
        row = {"sha256": lease.sha256, "pipeline": pipeline, "page": 1, "encoder": ENCODER}
        await connection.execute(insert(tables.vectors).values(**row, dimension=1, data=b"\0\0"))

    async def version(connection: Any) -> int:
        number: int = (await connection.execute(select(tables.jobs.c.pipeline))).scalar_one()
        return number

    pipeline = await one._store.read(version)
    await one._store.write(leave)
    read = replace(page_reading(1), embeddings=MADE)
    assert await one.commit_pages(lease.job_id, lease.fence, (read,), deadline=soon()) == 1
    await one.publish(lease.job_id, lease.fence, deadline=soon())
    found = await one.vectors_of([accepted.document_id], encoder=ENCODER, deadline=soon())
    assert found[accepted.document_id].data == MADE.data


async def read_by_an_older_pipeline(database: Database) -> None:
    async def work(connection: Any, now: float) -> None:
        await connection.execute(update(tables.documents).values(pipeline=1))
        await connection.execute(delete(tables.jobs))

    await database._store.write(work)


@pytest.mark.parametrize("module", [upkeep, jobs])
async def test_what_is_deleted_is_not_queued_to_be_read_again(
    both: tuple[Database, Database], gate: Callable[..., Gate], tmp_path: Path, module: Any
) -> None:
    """Whether the deletion comes after the look or after the first of the jobs."""
    one, other = both
    ids = [(await publish(one, tmp_path, [page_reading(1)], bytes([n])))[0].document_id for n in range(3)]
    await read_by_an_older_pipeline(one)
    held = gate(upkeep, "outdated", behind=True) if module is upkeep else gate(jobs, "create", behind=True)
    tending = one.tend(10, deadline=soon())
    async with in_between(held, tending, other.delete_document(ids[1], deadline=soon())) as (tended, removed):
        assert not isinstance(tended, BaseException), tended
        assert not isinstance(removed, BaseException), removed
    assert await count(one, tables.documents, tables.jobs) == [2, 2]
    leases = [await one.claim("w", 30.0, deadline=soon()) for _ in range(3)]
    assert [lease and lease.document_id for lease in leases] == [ids[0], ids[2], None]


async def test_a_job_without_a_document_is_not_in_the_way_of_others(
    both: tuple[Database, Database], tmp_path: Path
) -> None:
    one, _ = both
    lost = await one.accept(await upload(tmp_path, b"one", priority=10), deadline=soon())
    accepted = await one.accept(await upload(tmp_path, b"two"), deadline=soon())

    async def lose(connection: Any, now: float) -> None:
        await connection.execute(delete(tables.documents).where(tables.documents.c.id == lost.document_id))

    await one._store.write(lose)
    lease = await one.claim("w", 30.0, deadline=soon())
    assert lease is not None
    assert lease.job_id == accepted.job_id
    assert await count(one, tables.jobs) == [1]


@pytest.mark.parametrize("pruning_first", [True, False])
async def test_a_reading_is_published_or_removed_and_never_half_of_each(
    both: tuple[Database, Database], gate: Callable[..., Gate], tmp_path: Path, pruning_first: bool
) -> None:
    """It is to be removed, because its job was cancelled and its twin deleted; then the job is started again."""
    one, other = both
    accepted = await one.accept(await upload(tmp_path), deadline=soon())
    lease = await one.claim("w", 30.0, deadline=soon())
    assert lease is not None
    await one.commit_pages(lease.job_id, lease.fence, (page_reading(1), page_reading(2)), deadline=soon())
    await one.cancel_job(lease.job_id, deadline=soon())
    twin = await one.accept(await upload(tmp_path, collection="twin"), deadline=soon())
    await one.delete_document(twin.document_id, deadline=soon())
    assert await count(one, tables.superseded, tables.pages) == [1, 2]

    async def published() -> None:
        await other.retry_job(accepted.job_id, deadline=soon())
        again = await other.claim("w", 30.0, deadline=soon())
        assert again is not None
        if again.missing:
            missing = tuple(page_reading(number) for number in again.missing)
            await other.commit_pages(again.job_id, again.fence, missing, deadline=soon())
        await other.publish(again.job_id, again.fence, deadline=soon())

    pruned = one.tend(10, deadline=soon())
    if pruning_first:
        crossing = in_between(gate(readings, "remove_pages"), pruned, published())
    else:
        crossing = in_between(gate(jobs, "_sharers"), published(), pruned)
    async with crossing as (first, second):
        assert not isinstance(first, BaseException), first
        assert not isinstance(second, BaseException), second
    assert (await one.document(accepted.document_id, deadline=soon())).state == "done"
    assert await count(one, tables.pages, tables.chunks) == [2, 2]


async def test_publishing_for_those_that_share_a_reading_waits_for_nobody_who_waits_for_it(
    both: tuple[Database, Database], gate: Callable[..., Gate], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deletion that holds one of them meets a publication that is through with the one before it."""
    one, other = both
    sharers = []
    for name in ("a", "b"):
        accepted = await one.accept(await upload(tmp_path, collection=name), deadline=soon())
        lease = await one.claim("w", 30.0, deadline=soon())
        assert lease is not None
        if lease.missing:
            read = (page_reading(1), unreadable(2))
            await one.commit_pages(lease.job_id, lease.fence, read, deadline=soon())
        await one.publish(lease.job_id, lease.fence, deadline=soon())
        sharers.append(accepted)
    await one.accept(await upload(tmp_path, collection="c"), deadline=soon())
    lease = await one.claim("w", 30.0, deadline=soon())
    assert lease is not None
    deleting = other.delete_document(sharers[1].document_id, deadline=soon())
    publishing = one.publish(lease.job_id, lease.fence, deadline=soon())
    async with in_between(gate(upkeep, "supersede"), deleting, publishing) as (removed, change):
        assert not isinstance(removed, BaseException), removed
        assert not isinstance(change, BaseException), change
    assert "store_retries" not in capsys.readouterr().out


async def test_a_deletion_of_many_names_takes_few_statements_and_waits_for_no_other_name(
    both: tuple[Database, Database], gate: Callable[..., Gate], tmp_path: Path
) -> None:
    """With one statement a name, the deletion of a large document took longer than a transaction may."""
    one, other = both
    names = [f"Moon {number}" for number in range(600)]
    accepted, _ = await publish(one, tmp_path, [page_reading(1, " ".join(names), names=names)])
    await one.accept(await upload(tmp_path, b"two", pages=1), deadline=soon())
    lease = await one.claim("w", 30.0, deadline=soon())
    assert lease is not None
    sent: list[int] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if statement.startswith("DELETE") and "entities" in statement:
            sent.append(len(parameters) if many else 1)

    event.listen(other._store._writers.sync_engine, "before_cursor_execute", note)
    # Its names are new, and held.
    committing = one.commit_pages(lease.job_id, lease.fence, (page_reading(1),), deadline=soon())
    held = gate(readings, "count")
    deleting = other.delete_document(accepted.document_id, deadline=soon())
    async with in_between(held, committing, deleting) as (_, removed):
        assert removed.entities == 600
        assert sum(sent) == 2
    assert {name.name for name in await one.entity_names(0, 10, deadline=soon())} == set()


class Slow(Folder):
    """A folder that takes as long as it likes: each call is a thread that nobody can stop."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.called, self.answers = asyncio.Event(), threading.Event()

    async def remove(self, sha256: str) -> bool:
        self.called.set()
        await asyncio.to_thread(self.answers.wait, 20)
        return await super().remove(sha256)


class Deaf(Slow):
    """One that does not even say what is there."""

    async def stat(self, sha256: str) -> Stored | None:
        self.called.set()
        await asyncio.to_thread(self.answers.wait, 20)
        return await super().stat(sha256)


async def test_a_file_whose_removal_outlives_the_call_is_not_taken_from_the_next_document(
    both: tuple[Database, Database], tmp_path: Path
) -> None:
    one, other = both
    accepted = await one.accept(await upload(tmp_path), deadline=soon())
    slow = one._blobs = Slow(tmp_path / "blobs")
    with pytest.raises(Unavailable, match="its file could not be removed yet"):
        await one.delete_document(accepted.document_id, deadline=Deadline.after(0.5))
    sent = await upload(tmp_path)
    with pytest.raises(Unavailable, match="Send it again"):
        await other.accept(sent, deadline=Deadline.after(1.0))
    assert await count(other, tables.documents) == [0]
    waiting = asyncio.create_task(other.accept(sent, deadline=soon()))
    await asyncio.sleep(0.1)
    slow.answers.set()
    with pytest.raises(FileGone):
        await waiting
    await other.accept(await upload(tmp_path), deadline=soon())
    assert await slow.stat(sent.sha256) is not None
    assert await count(other, tables.documents, tables.contents) == [1, 1]


async def test_nobody_waits_for_the_files_of_another(both: tuple[Database, Database], tmp_path: Path) -> None:
    one, _ = both
    sent = await upload(tmp_path)
    slow = one._blobs = Deaf(tmp_path / "blobs")
    with pytest.raises(DeadlineExceeded):
        await one.accept(sent, deadline=Deadline.after(0.2))
    accepting = asyncio.create_task(one.accept(sent, deadline=soon()))
    await slow.called.wait()
    await asyncio.sleep(0.1)
    await one.create_collection("other", deadline=Deadline.after(5.0))
    assert not accepting.done()
    slow.answers.set()
    await accepting


async def test_a_file_that_went_after_it_was_looked_for_is_looked_for_again(
    both: tuple[Database, Database], gate: Callable[..., Gate], tmp_path: Path
) -> None:
    one, other = both
    accepted = await one.accept(await upload(tmp_path), deadline=soon())
    again = one.accept(await upload(tmp_path, collection="twin"), deadline=soon())
    held = gate(Folder, "stat", behind=True)
    deleting = other.delete_document(accepted.document_id, deadline=soon())
    async with in_between(held, again, deleting) as (lost, removed):
        assert isinstance(lost, FileGone), lost
        assert removed.blobs == 1
    assert await count(one, tables.documents, tables.contents) == [0, 0]
