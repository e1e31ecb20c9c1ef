"""The job queue on every database: claims, keys and change numbers under real concurrency, and plans that scale."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import page_reading, unreadable
from servers import Kind
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import open_database, soon, upload

from actors.database import Database
from actors.errors import Conflict, KeyReused, StaleLease
from actors.messages import Accepted, Change, Lease
from actors.reading import PIPELINE
from actors.store import changes, queue
from actors.store import jobs as job_rows
from actors.store.tables import documents, jobs

QUEUED = 20_000
INDEXES = {
    "due": "ix_jobs_state_lane_turn_run_at",
    "expired": "ix_jobs_",  # few are being read: any of those that begin with the state will do as well
    "last": "ix_jobs_collection_state_lane_turn",
    "served": "ix_jobs_state_lane_turn_run_at",
}


@pytest.fixture
async def two(tmp_path: Path, store_url: str) -> AsyncIterator[tuple[Database, Database]]:
    """Two roles over one store, as on two nodes."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(open_database(tmp_path, url=store_url))
        other = await stack.enter_async_context(open_database(tmp_path, url=store_url))
        yield one, other


async def claimed(database: Database, worker: str = "w") -> Lease:
    lease = await database.claim(worker, 30.0, deadline=soon())
    assert lease is not None
    return lease


async def test_of_many_that_claim_at_once_each_gets_another_job(two: tuple[Database, Database], tmp_path: Path) -> None:
    for number in range(24):
        await two[0].accept(await upload(tmp_path, b"%d" % number, pages=1), deadline=soon())
    leases: list[Lease] = []

    async def work(database: Database, name: str) -> None:
        misses = 0
        while misses < 3:
            lease = await database.claim(name, 300.0, deadline=soon())
            if lease is None:
                misses += 1
                continue
            leases.append(lease)
            await database.commit_pages(lease.job_id, lease.fence, (page_reading(1),), deadline=soon())
            await database.publish(lease.job_id, lease.fence, deadline=soon())

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(work(two[number % 2], f"w{number}"))
    assert Counter(lease.job_id for lease in leases).most_common(1)[0][1] == 1
    assert len(leases) == 24
    log = await two[0].changes(0, 0.0, 100, deadline=soon())
    assert [change.number for change in log] == list(range(1, 26))


async def test_uploads_under_one_key_get_one_answer_even_at_the_same_moment(
    two: tuple[Database, Database], tmp_path: Path
) -> None:
    wanted = await upload(tmp_path, idempotency_key="k1")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(database.accept(wanted, deadline=soon())) for database in two * 4]
    receipts = {task.result() for task in tasks}
    assert len(receipts) == 1
    [receipt] = receipts
    assert not receipt.duplicate
    # Under no key, or another one, it is a duplicate; under this one it is what it was.
    assert (await two[0].accept(await upload(tmp_path), deadline=soon())).duplicate
    assert (await two[0].accept(await upload(tmp_path, idempotency_key="k2"), deadline=soon())).duplicate
    assert await two[1].accept(wanted, deadline=soon()) == receipt
    for other in (
        await upload(tmp_path, b"%PDF-1.7 other", idempotency_key="k1"),
        await upload(tmp_path, collection="other", idempotency_key="k1"),
        await upload(tmp_path, metadata={"year": 2004}, idempotency_key="k1"),
    ):
        with pytest.raises(KeyReused, match="24 hours"):
            await two[0].accept(other, deadline=soon())
    assert len((await two[0].documents(None, None, 10, deadline=soon()))[0]) == 1


async def test_a_late_transaction_is_not_overtaken(two: tuple[Database, Database], store_kind: Kind) -> None:
    """A number is seen only when all before it are: the second writer waits for the first, however late that is."""
    late, early = two
    drawn, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(connection: AsyncConnection, now: float) -> Change:
        change = await changes.draw(connection, now, Change(0, "publish", document_id="late"))
        drawn.set()
        await go_on.wait()
        return change

    async def at_once(connection: AsyncConnection, now: float) -> Change:
        return await changes.draw(connection, now, Change(0, "publish", document_id="early"))

    first = asyncio.create_task(late._store.write(slowly))
    await drawn.wait()
    second = asyncio.create_task(early._store.write(at_once))
    seen: list[list[int]] = []
    for _ in range(5):
        await asyncio.sleep(0.05)
        seen.append([change.number for change in await early.changes(0, 0.0, 10, deadline=soon())])
    assert not second.done()
    assert seen == [[]] * 5
    go_on.set()
    assert [(await first).number, (await second).number] == [1, 2]
    log = await early.changes(0, 0.0, 10, deadline=soon())
    assert [(change.number, change.document_id) for change in log] == [(1, "late"), (2, "early")]


async def test_a_transaction_that_is_undone_leaves_no_gap(two: tuple[Database, Database]) -> None:
    class Undone(Exception):
        pass

    async def broken_off(connection: AsyncConnection, now: float) -> None:
        await changes.draw(connection, now, Change(0, "publish", document_id="undone"))
        raise Undone

    for _ in range(3):
        with pytest.raises(Undone):
            await two[0]._store.write(broken_off)
    await two[1].create_collection("a", deadline=soon())
    assert [change.number for change in await two[0].changes(0, 0.0, 10, deadline=soon())] == [1]


async def test_a_job_through_all_that_may_happen_to_it(
    two: tuple[Database, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, other = two
    accepted = await database.accept(await upload(tmp_path, pages=3, priority=5), deadline=soon())
    lease = await claimed(database)
    held = (lease.job_id, lease.fence)
    text = "Tiefe Nächte auf Titan"
    assert await database.commit_pages(*held, (page_reading(1, text),), deadline=soon()) == 1
    assert await database.commit_pages(*held, (page_reading(1, text),), deadline=soon()) == 1
    job = await other.cancel_job(accepted.job_id, deadline=soon())
    assert (job.state, job.priority, job.pages_done, job.collection) == ("cancelled", 5, 1, "main")
    with pytest.raises(StaleLease):
        await database.commit_pages(*held, (page_reading(2),), deadline=soon())

    await other.retry_job(accepted.job_id, deadline=soon())
    lease = await claimed(other)
    # Characters, which some databases count as bytes unless they are asked otherwise.
    assert (lease.missing, lease.chars) == ((2, 3), len(text))
    held = (lease.job_id, lease.fence)
    await other.commit_pages(*held, (page_reading(2), unreadable(3)), deadline=soon())
    change = await other.publish(*held, deadline=soon())
    assert await other.publish(*held, deadline=soon()) == change
    job = await database.job(accepted.job_id, deadline=soon())
    assert (job.state, job.change, job.pages_done) == ("partial", change.number, 3)
    with pytest.raises(Conflict):
        await database.cancel_job(accepted.job_id, deadline=soon())

    await database.retry_job(accepted.job_id, deadline=soon())
    lease = await claimed(database)
    assert lease.missing == (3,)
    held = (lease.job_id, lease.fence)
    await database.commit_pages(*held, (page_reading(3),), deadline=soon())
    await database.publish(*held, deadline=soon())
    old = await database.published(None, 10, deadline=soon())
    assert len(old[0].chunks) == 3

    monkeypatch.setattr("actors.database.PIPELINE", PIPELINE + 1)
    assert (await database.tend(10, deadline=soon())).queued == 1
    assert (await other.tend(10, deadline=soon())).queued == 0
    lease = await claimed(other)
    assert lease.missing == (1, 2, 3)
    held = (lease.job_id, lease.fence)
    for number in (1, 2, 3):
        assert await database.published(None, 10, deadline=soon()) == old
        await other.commit_pages(*held, (page_reading(number, "Rhea orbits Saturn.", names=["Rhea"]),), deadline=soon())
    await other.publish(*held, deadline=soon())
    [new] = await database.published(None, 10, deadline=soon())
    assert [chunk.text for chunk in new.chunks] == ["Rhea orbits Saturn."] * 3
    assert (await database.tend(10, deadline=soon())).pages == 3
    assert [name.name for name in await database.entity_names(0, 10, deadline=soon())] == ["Rhea"]
    listed, end = await database.jobs(("done",), "main", None, 10, deadline=soon())
    assert (len(listed), end) == (2, None)


# --- at scale --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def crowded(folder: Path, url: str, count: int) -> AsyncIterator[Database]:
    """A store with so many queued jobs of two collections, one of which has nearly all."""
    async with open_database(folder, url=url) as database:
        for name in ("long", "short"):
            await database.create_collection(name, deadline=soon())

        async def fill(connection: AsyncConnection, now: float) -> None:
            many_documents, many_jobs = [], []
            for number in range(count):
                name = "long" if number else "short"
                key = f"{number:032x}"
                content = hashlib.sha256(key.encode()).hexdigest()
                many_documents.append(
                    {"id": key, "collection": name, "sha256": content, "size": 1, "title": "t", "filename": "f"}
                    | {"pages": 1, "metadata": {}, "state": "queued", "pipeline": None, "created_at": now}
                )
                many_jobs.append(
                    {"id": key, "document_id": key, "dedup_key": key, "state": "queued", "pipeline": PIPELINE}
                    | {"run_at": now, "attempt": 0, "max_attempts": 3, "fence": 0, "created_at": now}
                    | {"updated_at": now, "collection": name, "turn": number, "lane": 0, "read_before": 0}
                )
            for start in range(0, count, 2000):
                await connection.execute(insert(documents), many_documents[start : start + 2000])
                await connection.execute(insert(jobs), many_jobs[start : start + 2000])

        await database._store.write(fill)
        yield database


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_claim_is_the_first_entry_of_an_index_however_long_the_queue(
    kind: Kind, fresh_database: Any, tmp_path: Path
) -> None:
    explain = "EXPLAIN QUERY PLAN " if kind == "sqlite" else "EXPLAIN "
    async with crowded(tmp_path, fresh_database(kind), QUEUED) as database:

        async def plans(connection: AsyncConnection, now: float) -> dict[str, str]:
            await connection.execute(text("ANALYZE"))
            found = {}
            statements = {
                "due": job_rows._DUE.params(now=now, pipeline=PIPELINE),
                "expired": job_rows._GONE.params(now=now, pipeline=PIPELINE),
                "last": queue._last_turn("long", 0),
                "served": queue._first_turn(now, 0),
            }
            for name, statement in statements.items():
                sql = statement.compile(connection.sync_engine, compile_kwargs={"literal_binds": True})
                rows = await connection.execute(text(explain + str(sql).replace(":", r"\:")))
                found[name] = "\n".join(str(tuple(row)) for row in rows)
            return found

        found = await database._store.write(plans)
    for name, plan in found.items():
        assert INDEXES[name] in plan, (name, plan)
        for slow in ("Seq Scan on jobs", "SCAN jobs", *(("Sort", "TEMP B-TREE") if name != "expired" else ())):
            assert slow not in plan, (name, plan)


async def test_a_newcomer_does_not_wait_for_a_long_queue(tmp_path: Path, store_url: str) -> None:
    async with crowded(tmp_path, store_url, 2_000) as database:
        await database.accept(await upload(tmp_path, collection="new", pages=1), deadline=soon())
        served = [(await claimed(database)).collection for _ in range(3)]
    assert "new" in served


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """What is written meanwhile."""
    seen: list[str] = []
    engine = database._store._writers.sync_engine

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


async def test_a_claim_takes_few_statements_however_many_jobs_wait(tmp_path: Path) -> None:
    async with crowded(tmp_path, f"sqlite:///{tmp_path / 'gatherum.db'}", 20) as database:
        await claimed(database)
        with statements_of(database) as seen:
            for _ in range(10):
                await claimed(database)
    # To begin, the clock, the look, the change; and a look for jobs whose worker has gone if this took a second.
    assert len(seen) in (40, 41)


async def test_publishing_takes_as_many_statements_for_many_pages_as_for_few(tmp_path: Path) -> None:
    counts = []
    async with open_database(tmp_path) as database:
        for pages in (2, 200):
            content = b"%d" % pages
            accepted: Accepted = await database.accept(await upload(tmp_path, content, pages=pages), deadline=soon())
            lease = await claimed(database)
            assert lease.job_id == accepted.job_id
            readings = tuple(page_reading(number) for number in range(1, pages + 1))
            await database.commit_pages(lease.job_id, lease.fence, readings, deadline=soon())
            with statements_of(database) as seen:
                await database.publish(lease.job_id, lease.fence, deadline=soon())
            counts.append(len(seen))
    assert counts[0] == counts[1] < 16
