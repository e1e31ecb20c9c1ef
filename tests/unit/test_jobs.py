"""Jobs: what a claim, a failure and an expired lease lead to, and that no order of events loses or doubles one."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fakes import page_reading, unreadable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from actors.errors import Conflict, InvalidInput, ReadingFailed, StaleLease, UnknownCollection, UnknownJob
from actors.messages import DocumentInfo, JobState, Lease, Upload
from actors.store import changes, deletion, dialect, documents, jobs, lifecycle, progress, queue, readings, upkeep
from actors.store.lifecycle import (
    DIED,
    JobRow,
    backoff,
    cancelled,
    claimed,
    failed,
    finished,
    holds,
    released,
    retried,
)
from actors.store.tables import changes as changes_table
from actors.store.tables import chunks, counters, metadata, pages
from actors.store.tables import documents as documents_table
from actors.store.tables import jobs as jobs_table

LEASE_S = 30.0
QUEUED = JobRow("queued", run_at=100.0, attempt=0, max_attempts=3, lease_until=None, fence=0, error=None)
READING = replace(QUEUED, state="reading", attempt=1, lease_until=130.0, fence=1)


# --- pure ------------------------------------------------------------------------------------------------------------


def test_a_claim_counts_the_attempt_and_moves_the_fence() -> None:
    after = claimed(QUEUED, 105.0, LEASE_S)
    assert (after.state, after.attempt, after.fence, after.lease_until) == ("reading", 1, 1, 135.0)


def test_a_claim_with_no_attempt_left_ends_the_job_and_keeps_its_error() -> None:
    last = replace(READING, attempt=3, error="Page 4 took too long.")
    after = claimed(last, 200.0, LEASE_S)
    assert (after.state, after.error, after.fence) == ("failed", "Page 4 took too long.", 2)
    assert claimed(replace(last, error=None), 200.0, LEASE_S).error == DIED


def test_a_failure_is_tried_again_later_as_long_as_that_may_help() -> None:
    again = failed(READING, 110.0, "busy", 5.0)
    assert (again.state, again.run_at, again.error, again.lease_until) == ("queued", 115.0, "busy", None)
    assert failed(READING, 110.0, "not a PDF", None).state == "failed"
    assert failed(replace(READING, attempt=3), 110.0, "busy", 5.0).state == "failed"


def test_giving_back_costs_no_attempt() -> None:
    assert claimed(released(claimed(QUEUED, 100.0, LEASE_S), 101.0), 102.0, LEASE_S).attempt == 1


def test_starting_again_gives_all_attempts_back_and_locks_the_last_worker_out() -> None:
    ended = finished(replace(READING, attempt=3), "failed", "no")
    again = retried(ended, 300.0)
    assert (again.state, again.attempt, again.error, again.run_at) == ("queued", 0, None, 300.0)
    assert again.fence > ended.fence


@given(st.floats(0, 100), st.integers(1, 10_000), st.randoms(use_true_random=False))
def test_pauses_grow_but_stay_within_bounds(base: float, attempt: int, dice: random.Random) -> None:
    pause = backoff(base, attempt, dice)
    full = min(60.0, base * 2 ** min(attempt - 1, 30))
    assert full / 2 <= pause <= full


# --- over a real SQLite ----------------------------------------------------------------------------------------------


@pytest.fixture
async def engine() -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://", connect_args={"isolation_level": None})
    dialect.configure(engine.sync_engine)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield engine
    await engine.dispose()


async def empty(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            await connection.execute(delete(table))
        await connection.execute(insert(counters), {"name": changes.COUNTER, "value": 0})


@dataclass
class World:
    """The store, a clock, and what ought to be true of them."""

    engine: AsyncEngine
    max_attempts: int
    pages: int
    now: float = 1000.0
    job_of: dict[str, str] = field(default_factory=dict)  # document to job
    holder: dict[str, int | None] = field(default_factory=dict)  # job to the fence that is good
    published: dict[str, tuple[int, int]] = field(default_factory=dict)  # job to (fence, change number)
    leases: list[Lease] = field(default_factory=list)  # every lease ever given, the latest last

    async def run(self, work: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        async with self.engine.begin() as connection:
            return await work(connection, self.now, **arguments)

    async def accept(self, number: int) -> None:
        upload = Upload(f"{number:064x}", 10, f"{number}.pdf", "main", DocumentInfo(self.pages))
        accepted = await self.run(documents.accept, upload=upload, pipeline=1, max_attempts=self.max_attempts)
        self.job_of[accepted.document_id] = accepted.job_id
        self.holder[accepted.job_id] = None

    async def rows(self) -> dict[str, Any]:
        async with self.engine.connect() as connection:
            return {row.id: row for row in await connection.execute(select(jobs_table))}

    async def claim(self) -> Lease | None:
        before = await self.rows()
        lease: Lease | None = await self.run(jobs.claim, worker="w", lease_s=LEASE_S, pipeline=1)
        after = await self.rows()
        for job_id, row in after.items():
            if row.fence != before[job_id].fence:
                was = before[job_id]
                assert row.fence == was.fence + 1
                due = was.run_at if was.state == "queued" else was.lease_until
                assert was.state in ("queued", "reading")
                assert due <= self.now, "claimed before its time"
                if lease is None or job_id != lease.job_id:
                    assert (row.state, was.attempt) == ("failed", self.max_attempts)
                    self.holder[job_id] = None
        if lease is not None:
            assert 1 <= lease.attempt <= self.max_attempts
            assert after[lease.job_id].fence == lease.fence
            self.holder[lease.job_id] = lease.fence
            self.leases.append(lease)
        return lease

    async def as_holder(self, lease: Lease, work: Callable[..., Awaitable[Any]], **arguments: Any) -> Any:
        """Do it under a lease: it must work if the lease is good, and change nothing at all if it is stale."""
        good = self.holder[lease.job_id] == lease.fence
        before = None if good else await self.rows()
        try:
            result = await self.run(work, job_id=lease.job_id, fence=lease.fence, **arguments)
        except StaleLease:
            assert not good, "refused its holder"
            assert await self.rows() == before
            return None
        except Conflict:  # pages are missing
            assert good
            assert work is jobs.publish
            return None
        if not good:
            assert work is jobs.publish
            assert self.published.get(lease.job_id) == (lease.fence, result.number), "a stale commit"
        return result

    async def step(self, action: tuple[str, int, float]) -> None:
        name, which, amount = action
        if name == "clock":
            self.now += amount
            return
        if name in ("claim", "take over"):
            if name == "take over":
                self.now += LEASE_S
            await self.claim()
            return
        if not self.leases:
            return
        lease = self.leases[-1 - which % len(self.leases)]
        good = self.holder[lease.job_id] == lease.fence
        if name == "commit":
            chosen = 1 + int(abs(amount)) % self.pages
            await self.as_holder(lease, jobs.commit_pages, packed=readings.pack([page_reading(chosen)]))
        elif name == "commit all":
            await self.commit_all(lease)
        elif name == "beat":
            await self.as_holder(lease, jobs.heartbeat, lease_s=LEASE_S)
        elif name == "publish":
            await self.publish(lease)
        else:
            arguments: dict[str, Any] = {}
            if name == "fail":
                arguments = {"error": "no luck", "retry_in_s": abs(amount)}
            if name == "give up":
                arguments = {"error": "no PDF", "retry_in_s": None}
            await self.as_holder(lease, jobs.release if name == "release" else jobs.fail, **arguments)
            if good:
                self.holder[lease.job_id] = None

    async def commit_all(self, lease: Lease) -> None:
        packed = readings.pack([page_reading(number) for number in lease.missing])
        await self.as_holder(lease, jobs.commit_pages, packed=packed)

    async def publish(self, lease: Lease) -> None:
        good = self.holder[lease.job_id] == lease.fence
        change = await self.as_holder(lease, jobs.publish)
        if good and change is not None:
            assert lease.job_id not in self.published, "published twice"
            self.published[lease.job_id] = (lease.fence, change.number)
            self.holder[lease.job_id] = None


ACTIONS = ("claim", "take over", "commit", "commit all", "beat", "publish", "fail", "give up", "release", "clock")


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 2),
    page_count=st.integers(1, 3),
    max_attempts=st.integers(1, 3),
    actions=st.lists(
        st.tuples(st.sampled_from(ACTIONS), st.integers(0, 3), st.floats(-60.0, 60.0)), min_size=5, max_size=30
    ),
)
async def test_no_schedule_loses_a_job_or_publishes_one_twice_or_lets_a_stale_worker_in(
    engine: AsyncEngine, count: int, page_count: int, max_attempts: int, actions: list[tuple[str, int, float]]
) -> None:
    """A crash is a lease never heard of again; a late commit is one under a lease that another has taken over."""
    await empty(engine)
    world = World(engine, max_attempts, page_count)
    for number in range(count):
        await world.accept(number)
    for action in actions:
        await world.step(action)

    # Whatever happened, honest workers bring every job to an end.
    for _ in range(count * max_attempts + 1):
        world.now += 1000.0
        while (lease := await world.claim()) is not None:
            await world.commit_all(lease)
            await world.publish(lease)

    rows = await world.rows()
    async with engine.connect() as connection:
        log = (await connection.execute(select(changes_table).order_by(changes_table.c.number))).all()
        states = {row.id: row for row in await connection.execute(select(documents_table))}
        page_rows, chunk_rows = [
            (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in (pages, chunks)
        ]
    assert [entry.number for entry in log] == list(range(1, len(log) + 1))
    for document_id, job_id in world.job_of.items():
        job = rows[job_id]
        times = sum(entry.kind == "publish" and entry.document_id == document_id for entry in log)
        assert job.state == states[document_id].state
        if job.state == "done":
            assert times == 1
            assert states[document_id].pipeline == 1
        else:
            assert job.state == "failed"
            assert job.error
            assert times == 0
            assert states[document_id].pipeline is None
    assert page_rows == chunk_rows


async def ready(engine: AsyncEngine, *, page_count: int = 2, max_attempts: int = 3) -> tuple[World, Lease]:
    await empty(engine)
    world = World(engine, max_attempts, page_count)
    await world.accept(1)
    lease = await world.claim()
    assert lease is not None
    return world, lease


async def test_jobs_are_claimed_in_the_order_they_came_and_one_by_one(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    for number in range(3):
        await world.accept(number)
        world.now += 1
    leases = [await world.claim() for _ in range(4)]
    assert [lease and lease.job_id for lease in leases] == [*world.job_of.values(), None]


async def test_another_attempt_reads_only_what_is_missing(engine: AsyncEngine) -> None:
    world, lease = await ready(engine, page_count=4)
    packed = readings.pack([page_reading(1, "Huygens landed."), page_reading(3, "Tiefe Nächte")])
    assert await world.run(jobs.commit_pages, job_id=lease.job_id, fence=lease.fence, packed=packed) == 2
    world.now += LEASE_S
    again = await world.claim()
    assert again is not None
    assert (lease.missing, again.missing, again.attempt) == ((1, 2, 3, 4), (2, 4), 2)
    # The limit of a document's text is no attempt's own.
    assert (lease.chars, again.chars) == (0, 15 + 12)


LATE_CALLS: dict[str, tuple[Callable[..., Awaitable[Any]], dict[str, Any]]] = {
    "heartbeat": (jobs.heartbeat, {"lease_s": LEASE_S}),
    "commit_pages": (jobs.commit_pages, {"packed": readings.pack([page_reading(1)])}),
    "publish": (jobs.publish, {}),
    "fail": (jobs.fail, {"error": "late", "retry_in_s": None}),
    "release": (jobs.release, {}),
}


@pytest.mark.parametrize("call", LATE_CALLS)
@pytest.mark.parametrize("then", ["being read", "published", "failed", "queued", "deleted"])
async def test_a_worker_that_lost_its_job_can_change_nothing(engine: AsyncEngine, call: str, then: str) -> None:
    world, late = await ready(engine)
    world.now += LEASE_S
    new = await world.claim()
    assert new is not None
    held = {"job_id": new.job_id, "fence": new.fence}
    if then == "published":
        await world.commit_all(new)
        await world.run(jobs.publish, **held)
    elif then == "failed":
        await world.run(jobs.fail, error="no", retry_in_s=None, **held)
    elif then == "queued":
        await world.run(jobs.release, **held)
    elif then == "deleted":
        await world.run(remove_document, document_id=new.document_id)
    before = await world.rows()
    work, arguments = LATE_CALLS[call]
    with pytest.raises(StaleLease):
        await world.run(work, job_id=late.job_id, fence=late.fence, **arguments)
    assert await world.rows() == before
    async with engine.connect() as connection:
        assert await readings.count(connection, late.sha256, 1) == (2 if then == "published" else 0)


async def remove_document(connection: AsyncConnection, now: float, *, document_id: str) -> None:
    await jobs.remove(connection, document_id)
    await documents.remove(connection, document_id)


async def test_publishing_again_because_the_answer_was_lost_gives_the_same_change(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    await world.commit_all(lease)
    held = {"job_id": lease.job_id, "fence": lease.fence}
    assert await world.run(jobs.publish, **held) == await world.run(jobs.publish, **held)
    async with engine.connect() as connection:
        assert await changes.last(connection) == 2  # the collection, and the document once


async def test_publishing_waits_for_every_page(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    held = {"job_id": lease.job_id, "fence": lease.fence}
    await world.run(jobs.commit_pages, packed=readings.pack([page_reading(1)]), **held)
    with pytest.raises(Conflict, match="1 of 2 pages are not read yet"):
        await world.run(jobs.publish, **held)


async def test_a_heartbeat_keeps_a_job_from_being_claimed(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    world.now += LEASE_S - 1
    await world.run(jobs.heartbeat, job_id=lease.job_id, fence=lease.fence, lease_s=LEASE_S)
    world.now += LEASE_S - 1
    assert await world.claim() is None
    world.now += 1
    assert await world.claim() is not None


async def test_a_job_whose_process_died_on_the_last_attempt_fails_with_its_document(engine: AsyncEngine) -> None:
    world, lease = await ready(engine, max_attempts=1)
    world.now += LEASE_S
    assert await world.claim() is None
    job = await in_connection(engine, progress.find, lease.job_id)
    document = await in_connection(engine, documents.find, lease.document_id)
    assert (job.state, job.error, document.state) == ("failed", DIED, "failed")


async def test_a_job_whose_worker_has_gone_is_found_before_the_queue_or_after_it(engine: AsyncEngine) -> None:
    world, gone = await ready(engine)
    await queue_up(world, "other", 2, start=10)
    world.now += LEASE_S
    after = [await world.run(jobs.claim, worker="w", lease_s=9.0, pipeline=1, gone_first=False) for _ in range(3)]
    assert [lease.collection for lease in after] == ["other", "other", gone.collection]
    await queue_up(world, "other", 1, start=20)
    world.now += 9.0
    assert (await world.run(jobs.claim, worker="w", lease_s=9.0, pipeline=1)).attempt > 1


async def test_pages_that_could_not_be_read_make_the_document_partial(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    packed = readings.pack([page_reading(1), unreadable(2, "bad xref")])
    await world.run(jobs.commit_pages, job_id=lease.job_id, fence=lease.fence, packed=packed)
    await world.run(jobs.publish, job_id=lease.job_id, fence=lease.fence)
    job = await in_connection(engine, progress.find, lease.job_id)
    assert (job.state, job.error) == ("partial", "1 of 2 pages could not be read: page 2: bad xref")


async def test_a_document_without_a_readable_page_is_not_published_but_can_be_tried_again(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    packed = readings.pack([unreadable(1, "bad xref"), unreadable(2)])
    held = {"job_id": lease.job_id, "fence": lease.fence}
    await world.run(jobs.commit_pages, packed=packed, **held)
    with pytest.raises(ReadingFailed, match=r"None of the 2 pages could be read\. Page 1: bad xref"):
        await world.run(jobs.publish, **held)
    await world.run(jobs.fail, error="none", retry_in_s=None, **held)
    upload = Upload(f"{1:064x}", 10, "1.pdf", "main", DocumentInfo(2))
    accepted = await world.run(documents.accept, upload=upload, pipeline=1, max_attempts=3)
    assert (accepted.duplicate, accepted.job_id) == (True, lease.job_id)
    again = await world.claim()
    assert again is not None
    assert (again.missing, again.attempt) == ((1, 2), 1)


async def test_a_job_that_is_read_but_not_yet_visible_is_publishing(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    assert (await in_connection(engine, progress.find, lease.job_id)).state == "reading"
    await world.commit_all(lease)
    job = await in_connection(engine, progress.find, lease.job_id)
    assert (job.state, job.pages_done, job.pages_total) == ("publishing", 2, 2)


async def in_connection(engine: AsyncEngine, work: Callable[[AsyncConnection, str], Awaitable[Any]], key: str) -> Any:
    async with engine.connect() as connection:
        return await work(connection, key)


# --- owners ----------------------------------------------------------------------------------------------------------


def test_a_cancellation_locks_the_worker_out_and_is_refused_once_the_job_has_ended() -> None:
    for job in (QUEUED, READING):
        after = cancelled(job)
        assert (after.state, after.lease_until, after.fence) == ("cancelled", None, job.fence + 1)
        assert not holds(after, job.fence)
        assert cancelled(after) == after
    for state in ("done", "partial", "failed"):
        with pytest.raises(Conflict, match=f"it is {state}"):
            cancelled(finished(READING, state, None))


def test_a_retry_leaves_alone_what_is_under_way_and_refuses_what_is_done() -> None:
    assert retried(QUEUED, 300.0) == QUEUED
    assert retried(READING, 300.0) == READING
    assert retried(cancelled(READING), 300.0).state == "queued"
    with pytest.raises(Conflict, match="nothing to retry"):
        retried(finished(READING, "done", None), 300.0)


@pytest.mark.parametrize("then", ["queued", "being read"])
async def test_a_cancelled_job_is_not_read_on_and_can_be_started_again(engine: AsyncEngine, then: str) -> None:
    world, lease = await ready(engine)
    held = {"job_id": lease.job_id, "fence": lease.fence}
    await world.run(jobs.commit_pages, packed=readings.pack([page_reading(1)]), **held)
    if then == "queued":
        await world.run(jobs.release, **held)
    await world.run(jobs.cancel, job_id=lease.job_id)
    await world.run(jobs.cancel, job_id=lease.job_id)
    assert (await in_connection(engine, progress.find, lease.job_id)).state == "cancelled"
    assert (await in_connection(engine, documents.find, lease.document_id)).state == "cancelled"
    with pytest.raises(StaleLease):
        await world.run(jobs.heartbeat, lease_s=LEASE_S, **held)
    world.now += LEASE_S
    assert await world.claim() is None
    await world.run(jobs.retry, job_id=lease.job_id, pipeline=1)
    assert (await in_connection(engine, documents.find, lease.document_id)).state == "queued"
    again = await world.claim()
    assert again is not None
    assert (again.job_id, again.missing, again.attempt) == (lease.job_id, (2,), 1)


async def test_a_failed_job_keeps_its_error_until_it_is_started_again(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    await world.run(jobs.fail, job_id=lease.job_id, fence=lease.fence, error="no PDF", retry_in_s=None)
    job = await in_connection(engine, progress.find, lease.job_id)
    assert (job.state, job.error, job.attempt) == ("failed", "no PDF", 1)
    with pytest.raises(Conflict):
        await world.run(jobs.cancel, job_id=lease.job_id)
    await world.run(jobs.retry, job_id=lease.job_id, pipeline=1)
    job = await in_connection(engine, progress.find, lease.job_id)
    assert (job.state, job.error, job.attempt) == ("queued", None, 0)


@pytest.mark.parametrize("call", [jobs.cancel, jobs.retry])
async def test_what_is_not_there_cannot_be_cancelled_or_retried(engine: AsyncEngine, call: Any) -> None:
    await empty(engine)
    with pytest.raises(UnknownJob):
        await World(engine, 3, 1).run(call, job_id="no", **({"pipeline": 1} if call is jobs.retry else {}))


async def test_a_partial_document_is_mended_and_every_index_hears_of_it(engine: AsyncEngine) -> None:
    """The pages that were read stay to be seen meanwhile; another collection shows the same reading."""
    world, lease = await ready(engine)
    packed = readings.pack([page_reading(1), unreadable(2, "bad xref")])
    await world.run(jobs.commit_pages, job_id=lease.job_id, fence=lease.fence, packed=packed)
    await world.run(jobs.publish, job_id=lease.job_id, fence=lease.fence)
    upload = Upload(f"{1:064x}", 10, "1.pdf", "other", DocumentInfo(2))
    other = await world.run(documents.accept, upload=upload, pipeline=1, max_attempts=3)
    world.holder[other.job_id] = None
    shared = await world.claim()
    assert shared is not None
    assert shared.missing == ()
    await world.run(jobs.publish, job_id=shared.job_id, fence=shared.fence)

    await world.run(jobs.retry, job_id=lease.job_id, pipeline=1)
    assert (await in_connection(engine, documents.find, lease.document_id)).state == "partial"
    job = await in_connection(engine, progress.find, lease.job_id)
    assert (job.state, job.pages_done) == ("queued", 1)
    again = await world.claim()
    assert again is not None
    assert again.missing == (2,)
    async with engine.connect() as connection:
        before = await changes.last(connection)
    await world.commit_all(again)
    await world.run(jobs.publish, job_id=again.job_id, fence=again.fence)
    async with engine.connect() as connection:
        told = {change.document_id for change in await changes.after(connection, before, 10)}
    assert told == {lease.document_id, other.document_id}
    for document_id in told:
        assert (await in_connection(engine, documents.find, document_id)).state == "done"


# --- order -----------------------------------------------------------------------------------------------------------


async def queue_up(world: World, collection: str, count: int, priority: int = 0, start: int = 0) -> list[str]:
    found = []
    for number in range(start, start + count):
        sha256 = hashlib.sha256(f"{collection}{number}{priority}".encode()).hexdigest()
        upload = Upload(sha256, 10, "x.pdf", collection, DocumentInfo(1), priority=priority)
        accepted = await world.run(documents.accept, upload=upload, pipeline=1, max_attempts=3)
        world.holder[accepted.job_id] = None
        found.append(accepted.job_id)
    return found


async def order(world: World, engine: AsyncEngine, count: int) -> list[str]:
    """Collections in the order in which their jobs are claimed."""
    leases = [await world.claim() for _ in range(count)]
    return [lease.collection for lease in leases if lease]


async def test_a_long_queue_of_one_collection_does_not_hold_up_another(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    await queue_up(world, "long", 30)
    assert await order(world, engine, 10) == ["long"] * 10
    await queue_up(world, "short", 1)
    await queue_up(world, "medium", 3)
    # The head of the long queue was there first; then each has its turn.
    assert await order(world, engine, 8) == ["long", "short", "medium", "long", "medium", "long", "medium", "long"]


async def test_having_been_idle_earns_nothing_and_neither_does_coming_back(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    await queue_up(world, "long", 40)
    first = await world.claim()
    assert first is not None
    await order(world, engine, 9)
    # One that was given back has the turn of long ago no more, or the newcomers would all share it.
    await world.run(jobs.release, job_id=first.job_id, fence=first.fence)
    await queue_up(world, "late", 20)
    order_of = await order(world, engine, 20)
    assert 8 <= order_of.count("long") <= 12
    assert set(order_of[:4]) == {"long", "late"}


async def test_one_that_waits_for_its_retry_does_not_hold_up_the_queue(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    [first, second] = await queue_up(world, "main", 2)
    lease = await world.claim()
    assert lease is not None
    assert lease.job_id == first
    await world.run(jobs.fail, job_id=first, fence=lease.fence, error="busy", retry_in_s=60.0)
    lease = await world.claim()
    assert lease is not None
    assert lease.job_id == second
    await world.commit_all(lease)
    await world.publish(lease)
    assert await world.claim() is None
    world.now += 60
    lease = await world.claim()
    assert lease is not None
    assert (lease.job_id, lease.attempt) == (first, 2)


async def test_one_that_waits_for_its_retry_does_not_let_newcomers_in_before_those_that_wait(
    engine: AsyncEngine,
) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    await queue_up(world, "long", 30)
    lease = await world.claim()
    assert lease is not None
    await world.run(jobs.fail, job_id=lease.job_id, fence=lease.fence, error="busy", retry_in_s=60.0)
    assert await order(world, engine, 19) == ["long"] * 19
    await queue_up(world, "late", 15)
    assert 4 <= (await order(world, engine, 10)).count("long") <= 6


async def test_a_higher_priority_goes_first(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    for name in ("low", "normal", "high"):
        await queue_up(world, name, 2, priority=queue.priority_of(name))
    await queue_up(world, "higher", 1, priority=queue.priority_of("11"))
    assert await order(world, engine, 7) == ["higher", "high", "high", "normal", "normal", "low", "low"]


@pytest.mark.parametrize("text", ["", "urgent", "1.5", "101", "-101", "1e9", "²"])
def test_what_is_no_priority_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="low, normal, high"):
        queue.priority_of(text)


async def test_lists_name_what_was_asked_for(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    ids = await queue_up(world, "a", 3) + await queue_up(world, "b", 2)
    lease = await world.claim()
    assert lease is not None

    async def listed(*states: str, collection: str | None = None) -> list[str]:
        found: list[str] = []
        after: str | None = None
        while True:
            async with engine.connect() as connection:
                some, after = await progress.page_of(connection, states, collection, after, 2)
            found += [job.job_id for job in some]
            assert len(some) <= 2
            if after is None:
                return found

    assert await listed() == sorted(ids)
    assert await listed("reading") == [lease.job_id]
    assert await listed("queued") == sorted(set(ids) - {lease.job_id})
    assert await listed("reading", "queued", collection="b") == sorted(ids[3:])
    with pytest.raises(UnknownCollection):
        await listed(collection="none")


# --- pace ------------------------------------------------------------------------------------------------------------


def paced(state: JobState, done: int, before: int = 0, now: float = 110.0) -> lifecycle.Pace:
    job = replace(READING, state=state, run_at=100.0)
    return lifecycle.pace(job, done=done, before=before, total=100, updated_at=105.0, now=now)


def test_speed_and_time_left_are_those_of_the_attempt() -> None:
    assert paced("reading", 30, before=10) == lifecycle.Pace(2.0, 35.0)
    assert paced("reading", 10, before=10) == lifecycle.Pace(None, None)
    assert paced("reading", 100, before=0) == lifecycle.Pace(10.0, 0.0)
    assert paced("done", 100) == lifecycle.Pace(20.0, 0.0)


def test_what_waits_has_no_pace_and_a_clock_that_jumps_back_makes_none() -> None:
    for state in ("queued", "failed", "cancelled"):
        assert paced(state, 30) == lifecycle.Pace()
    assert paced("reading", 30, now=90.0) == lifecycle.Pace(None, None)


# --- a newer pipeline ------------------------------------------------------------------------------------------------


async def test_a_job_of_an_older_pipeline_is_read_with_the_newer_one_from_the_start(engine: AsyncEngine) -> None:
    world, lease = await ready(engine)
    held = {"job_id": lease.job_id, "fence": lease.fence}
    await world.run(jobs.commit_pages, packed=readings.pack([page_reading(1)]), **held)
    await world.run(jobs.release, **held)
    again = await world.run(jobs.claim, worker="new", lease_s=LEASE_S, pipeline=2)
    assert (again.job_id, again.missing) == (lease.job_id, (1, 2))
    async with engine.begin() as connection:
        assert await upkeep.prune(connection) == 1
        assert await upkeep.prune(connection) is None
        assert await readings.count(connection, lease.sha256, 1) == 0


async def test_a_job_of_a_newer_pipeline_is_left_to_newer_workers(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    upload = Upload(f"{1:064x}", 10, "1.pdf", "main", DocumentInfo(1))
    await world.run(documents.accept, upload=upload, pipeline=2, max_attempts=3)
    assert await world.run(jobs.claim, worker="old", lease_s=LEASE_S, pipeline=1) is None
    assert await world.run(jobs.claim, worker="new", lease_s=LEASE_S, pipeline=2) is not None


async def test_a_superseded_reading_stays_while_another_document_shows_it(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    receipts = []
    for collection in ("one", "other"):
        upload = Upload(f"{1:064x}", 10, "1.pdf", collection, DocumentInfo(1))
        receipts.append(await world.run(documents.accept, upload=upload, pipeline=1, max_attempts=3))
        world.holder[receipts[-1].job_id] = None
        lease = await world.claim()
        assert lease is not None
        await world.commit_all(lease)
        await world.publish(lease)

    async def read_again(document_id: str, collection: str) -> None:
        new = {"job_id": f"new {collection}", "document_id": document_id, "collection": collection}
        assert await world.run(jobs.create, pipeline=2, max_attempts=3, **new)
        lease = await world.run(jobs.claim, worker="w", lease_s=LEASE_S, pipeline=2)
        packed = readings.pack([page_reading(number) for number in lease.missing])
        await world.run(jobs.commit_pages, job_id=lease.job_id, fence=lease.fence, packed=packed)
        await world.run(jobs.publish, job_id=lease.job_id, fence=lease.fence)

    await read_again(receipts[0].document_id, "one")
    async with engine.begin() as connection:
        assert await upkeep.prune(connection) is None
        assert await readings.count(connection, f"{1:064x}", 1) == 1
    await read_again(receipts[1].document_id, "other")
    async with engine.begin() as connection:
        assert await upkeep.prune(connection) == 1
        assert await upkeep.prune(connection) is None
        assert await readings.count(connection, f"{1:064x}", 1) == 0
        assert await readings.count(connection, f"{1:064x}", 2) == 1


async def test_a_reading_that_only_a_deleted_document_showed_goes_too(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 3, 1)
    receipts = []
    for pipeline, collection in ((1, "one"), (2, "other")):
        upload = Upload(f"{1:064x}", 10, "1.pdf", collection, DocumentInfo(1))
        receipts.append(await world.run(documents.accept, upload=upload, pipeline=pipeline, max_attempts=3))
        lease = await world.run(jobs.claim, worker="w", lease_s=LEASE_S, pipeline=pipeline)
        packed = readings.pack([page_reading(1)])
        await world.run(jobs.commit_pages, job_id=lease.job_id, fence=lease.fence, packed=packed)
        await world.run(jobs.publish, job_id=lease.job_id, fence=lease.fence)
    await world.run(deletion.remove_document, document_id=receipts[0].document_id)
    async with engine.begin() as connection:
        assert await upkeep.prune(connection) == 1
        assert await upkeep.prune(connection) is None
        assert await readings.count(connection, f"{1:064x}", 1) == 0
        assert await readings.count(connection, f"{1:064x}", 2) == 1


async def test_what_could_not_be_read_again_does_not_take_the_place_of_the_next(engine: AsyncEngine) -> None:
    await empty(engine)
    world = World(engine, 1, 1)
    for number in range(2):
        await world.accept(number)
        lease = await world.claim()
        assert lease is not None
        await world.commit_all(lease)
        await world.publish(lease)
    lane = queue.lane_of(queue.BACKGROUND)
    for document_id in sorted(world.job_of):
        async with engine.begin() as connection:
            [found] = await upkeep.outdated(connection, 2, lane, 1)
        assert (found.document_id, found.collection) == (document_id, "main")
        new = {"job_id": f"new {document_id}"[:32], "document_id": document_id, "collection": "main"}
        await world.run(jobs.create, pipeline=2, max_attempts=1, priority=queue.BACKGROUND, **new)
        async with engine.begin() as connection:
            assert await upkeep.outdated(connection, 2, lane, 1) == []  # one waits: enough
        lease = await world.run(jobs.claim, worker="w", lease_s=LEASE_S, pipeline=2)
        await world.run(jobs.fail, job_id=lease.job_id, fence=lease.fence, error="no", retry_in_s=None)
