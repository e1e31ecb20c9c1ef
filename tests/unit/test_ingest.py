"""Ingest over a real store and a pretended Pdf role: every document is read once, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest
from fakes import FakePdf, page_reading
from stores import DEFAULTS, WORDS_ALONE, open_database, soon, upload

from actors.database import Database
from actors.deadline import Deadline
from actors.errors import Conflict, DeadlineExceeded, NotAPdf, StaleLease, Unavailable, UnknownJob, UnknownPage
from actors.ingest import CLOCK_SLACK_S, STALLED_TRIES, Ingest
from actors.messages import Accepted, Change, Job, Lease, PageReading, Tended
from actors.pdf import Pdf
from actors.reading import PIPELINE
from actors.store.blobs import Folder
from config import logs
from config.settings import LogSettings


class Clock:
    """Pauses that pass at once, except before heartbeats and upkeep, which come when the test says so."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.beats = asyncio.Semaphore(0)
        self.upkeep = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        if seconds == SETTINGS.heartbeat_s:
            await self.beats.acquire()
        elif seconds == SETTINGS.upkeep_s:
            await self.upkeep.acquire()
        else:
            self.pauses.append(seconds)
            await asyncio.sleep(0)


# Polls so rare that a test which needs one hangs: work must be found by waking.
SETTINGS = DEFAULTS.ingest.model_copy(update={"workers": 2, "poll_s": 600.0, "retry_base_s": 0.0})


class Store:
    """The real Database, with calls that can be made to fail, and a note of when a job ends."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.errors: dict[str, list[Exception]] = {}
        self.claims = 0
        # Set when a job has been claimed; the answer comes when the test says so.
        self.claimed, self.answers = asyncio.Event(), cast("asyncio.Event | None", None)
        self.tended: list[Tended] = []
        self.ended = asyncio.Condition()

    def _trip(self, call: str) -> None:
        if self.errors.get(call):
            raise self.errors[call].pop(0)

    async def claim(self, worker: str, lease_s: float, *, deadline: Deadline) -> Lease | None:
        self.claims += 1
        self._trip("claim")
        lease = await self.database.claim(worker, lease_s, deadline=deadline)
        if self.answers is not None:
            self.claimed.set()
            await self.answers.wait()
        return lease

    async def heartbeat(self, job_id: str, fence: int, lease_s: float, *, deadline: Deadline) -> None:
        try:
            self._trip("heartbeat")
            await self.database.heartbeat(job_id, fence, lease_s, deadline=deadline)
        finally:
            await self._tell()

    async def commit_pages(
        self, job_id: str, fence: int, readings: tuple[PageReading, ...], *, deadline: Deadline
    ) -> int:
        self._trip("commit_pages")
        return await self.database.commit_pages(job_id, fence, readings, deadline=deadline)

    async def publish(self, job_id: str, fence: int, *, deadline: Deadline) -> Change:
        self._trip("publish")
        change = await self.database.publish(job_id, fence, deadline=deadline)
        await self._tell()
        return change

    async def fail(self, job_id: str, fence: int, error: str, retry_in_s: float | None, *, deadline: Deadline) -> None:
        self._trip("fail")
        await self.database.fail(job_id, fence, error, retry_in_s, deadline=deadline)
        await self._tell()

    async def release(self, job_id: str, fence: int, *, deadline: Deadline) -> None:
        self._trip("release")
        await self.database.release(job_id, fence, deadline=deadline)
        await self._tell()

    async def tend(self, limit: int, *, deadline: Deadline) -> Tended:
        self._trip("tend")
        done = await self.database.tend(limit, deadline=deadline)
        self.tended.append(done)
        await self._tell()
        return done

    async def _tell(self) -> None:
        async with self.ended:
            self.ended.notify_all()


class Bench:
    """An Ingest, all it works with, and what tests ask of it."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.pdf = FakePdf()
        self.store = Store(database)
        self.clock = Clock()
        self.wakes = 0
        self.ingest = Ingest(
            SETTINGS,
            cast("Database", self.store),
            cast("Pdf", self.pdf),
            WORDS_ALONE,
            blobs=Folder(folder / "blobs"),
            document_timeout_s=30.0,
            dice=random.Random(1),
            sleep=self.clock.sleep,
        )

    async def send(self, content: bytes = b"one", *, pages: int = 3) -> Accepted:
        accepted = await self.store.database.accept(await upload(self.folder, content, pages=pages), deadline=soon())
        await self.wake()
        return accepted

    async def wake(self) -> None:
        self.wakes += 1
        await self.ingest.wake(deadline=soon())

    async def job(self, accepted: Accepted) -> Job:
        return await self.store.database.job(accepted.job_id, deadline=soon())

    async def until(self, accepted: Accepted, *states: str) -> Job:
        """Wait for a job to come into a state; retries that are due are taken up meanwhile."""
        async with asyncio.timeout(20), self.store.ended:
            while (job := await self.job(accepted)).state not in states:
                await self.wake()
                await self.store.ended.wait()
        return job


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_database(tmp_path) as database:
        yield Bench(tmp_path, database)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    await bench.ingest.start()
    try:
        yield bench
    finally:
        await bench.ingest.stop()


async def test_a_document_is_read_page_by_page_and_published(bench: Bench) -> None:
    async with running(bench):
        accepted = await bench.send()
        job = await bench.until(accepted, "done")
    assert (job.pages_done, job.attempt, job.error) == (3, 1, None)
    assert bench.pdf.calls == [(1, 2, 3)]
    published = await bench.store.database.published_document(accepted.document_id, deadline=soon())
    assert published is not None
    assert [chunk.page for chunk in published.chunks] == [1, 2, 3]


async def test_work_that_was_there_before_is_found_without_waking(bench: Bench) -> None:
    accepted = await bench.send()
    async with running(bench):
        await bench.until(accepted, "done")


async def test_the_pdf_role_is_given_the_blob_and_asked_for_everything(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []
    read = bench.pdf.read

    def watched(path: str, pages: Any, *, enrich: bool, chars: int, deadline: Deadline) -> Any:
        seen.append((path, enrich, 0 < deadline.remaining() <= 30))
        return read(path, pages, enrich=enrich, chars=chars, deadline=deadline)

    monkeypatch.setattr(bench.pdf, "read", watched)
    async with running(bench):
        accepted = await bench.send()
        await bench.until(accepted, "done")
    document = await bench.store.database.document(accepted.document_id, deadline=soon())
    assert seen == [(str(Folder(bench.folder / "blobs").path(document.sha256)), True, True)]


async def test_as_many_documents_are_read_at_once_as_there_are_workers(bench: Bench) -> None:
    bench.pdf.gate = asyncio.Event()
    async with running(bench):
        sent = [await bench.send(b"%d" % number) for number in range(3)]
        while len(bench.pdf.calls) < 2:
            await asyncio.wait_for(bench.pdf.reached.wait(), 20)
            bench.pdf.reached.clear()
        health = await bench.ingest.health(deadline=soon())
        assert health.ready
        reading = sorted(accepted.document_id for accepted in sent[:2])
        assert health.detail == {"workers": 2, "reading": reading, "trouble": {}}
        bench.pdf.gate.set()
        for accepted in sent:
            await bench.until(accepted, "done")
    assert not (await bench.ingest.health(deadline=soon())).ready


async def test_a_page_that_cannot_be_read_makes_the_document_partial(bench: Bench) -> None:
    bench.pdf.unreadable = frozenset({2})
    async with running(bench):
        job = await bench.until(await bench.send(), "done", "partial", "failed")
    assert job.state == "partial"


async def test_a_document_without_a_readable_page_fails_at_once(bench: Bench) -> None:
    bench.pdf.unreadable = frozenset({1, 2, 3})
    async with running(bench):
        job = await bench.until(await bench.send(), "done", "partial", "failed")
    assert (job.state, job.attempt) == ("failed", 1)
    assert job.error == "None of the 3 pages could be read. Page 1: The page's content stream is damaged."


async def test_what_no_retry_can_help_is_not_retried_and_does_not_stop_the_others(bench: Bench) -> None:
    bench.pdf.errors = [NotAPdf("This is no PDF.")]
    async with running(bench):
        bad = await bench.until(await bench.send(b"bad"), "failed")
        await bench.until(await bench.send(b"good"), "done")
    assert (bad.error, bad.attempt) == ("This is no PDF.", 1)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("secret"), "The document could not be read: an internal error."),
        (DeadlineExceeded("Reading did not finish in time."), "Reading did not finish in time."),
    ],
)
async def test_what_a_retry_may_help_is_tried_until_no_attempt_is_left(
    bench: Bench, error: Exception, told: str
) -> None:
    bench.pdf.errors = [error] * 3
    async with running(bench):
        job = await bench.until(await bench.send(), "failed", "done")
    assert (job.state, job.attempt, job.error) == ("failed", 3, told)
    assert bench.pdf.calls == [(1, 2, 3)] * 3


async def test_what_was_read_in_the_time_of_the_last_attempt_is_published(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.ingest, "_document_timeout_s", 0.9 * CLOCK_SLACK_S)
    late = DeadlineExceeded("Reading the document did not finish in time.")
    bench.pdf.errors = [None, late, late]
    bench.pdf.breaks_before = {2: late}
    async with running(bench):
        accepted = await bench.send()
        job = await bench.until(accepted, "failed", "done", "partial")
    assert bench.pdf.calls == [(1, 2, 3), (2, 3), (2, 3)]
    assert bench.pdf.chars == [0] + [len(page_reading(1).page.text)] * 2
    assert (job.state, job.attempt, job.pages_done) == ("partial", 3, 3)
    why = "It was not read within the time limit of a document, 0.9 s an attempt."
    assert job.error == f"2 of 3 pages could not be read: page 2: {why}; page 3: {why}"
    published = await bench.store.database.published_document(accepted.document_id, deadline=soon())
    assert published is not None
    assert [chunk.page for chunk in published.chunks] == [1]


async def test_a_document_of_which_nothing_was_read_in_time_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.ingest, "_document_timeout_s", 0.9 * CLOCK_SLACK_S)
    bench.pdf.errors = [DeadlineExceeded("Reading the document did not finish in time.")] * 3
    async with running(bench):
        job = await bench.until(await bench.send(), "failed", "done", "partial")
    why = "3 of 3 pages were not read within the time limit of a document, 0.9 s an attempt."
    assert (job.state, job.pages_done, job.error) == ("failed", 0, why)


async def test_a_slow_store_gives_no_page_up(bench: Bench) -> None:
    slow = DeadlineExceeded("The store did not answer in time.")
    bench.pdf.errors = [slow, slow, None]
    bench.pdf.breaks_before = {2: slow}
    async with running(bench):
        job = await bench.until(await bench.send(), "failed", "done", "partial")
    assert (job.state, job.pages_done) == ("failed", 1)


async def test_a_role_that_went_away_is_waited_for_and_only_what_is_missing_is_read_again(bench: Bench) -> None:
    gone = Unavailable("The pdf role went away during a call.")
    bench.pdf.breaks_before = {1: gone, 3: gone}
    async with running(bench):
        job = await bench.until(await bench.send(), "done")
    assert (job.attempt, job.error) == (1, None)
    assert bench.pdf.calls == [(1, 2, 3), (1, 2, 3), (3,)]
    # The limit of a document's text counts what was read before.
    assert bench.pdf.chars == [0, 0, 2 * len(page_reading(1).page.text)]
    assert len(bench.clock.pauses) == 2


async def test_a_scanned_page_between_others_is_not_taken_for_read(bench: Bench) -> None:
    bench.pdf.scanned = frozenset({2})
    bench.pdf.breaks_before = {2: Unavailable("The pdf role went away during a call.")}
    async with running(bench):
        job = await bench.until(await bench.send(), "done")
    assert (job.pages_done, job.attempt) == (3, 1)
    assert bench.pdf.calls == [(1, 2, 3), (2,)]


async def test_a_role_that_stays_away_costs_no_attempt(bench: Bench) -> None:
    bench.pdf.errors = [Unavailable("gone") for _ in range(4 * STALLED_TRIES)]
    async with running(bench):
        job = await bench.until(await bench.send(), "done")
    assert (job.attempt, job.error) == (1, None)
    assert len(bench.pdf.calls) == STALLED_TRIES * 4 + 1


@pytest.mark.parametrize("call", ["commit_pages", "publish"])
async def test_a_store_that_went_away_is_waited_for(bench: Bench, call: str) -> None:
    bench.store.errors = {call: [Unavailable("gone")]}
    async with running(bench):
        job = await bench.until(await bench.send(), "done")
    assert (job.attempt, job.error) == (1, None)


@pytest.mark.parametrize("call", ["claim", "commit_pages"])
async def test_what_jobs_wait_for_is_told_until_they_go_on(bench: Bench, call: str) -> None:
    bench.store.errors = {call: [Unavailable("The disk is full.")]}
    told: list[dict[str, str]] = []

    async def sleep(seconds: float) -> None:
        told.append((await bench.ingest.health(deadline=soon())).detail["trouble"])
        await bench.clock.sleep(seconds)

    bench.ingest._sleep = sleep
    async with running(bench):
        accepted = await bench.send()
        await bench.until(accepted, "done")
        after = (await bench.ingest.health(deadline=soon())).detail["trouble"]
    assert {"waiting jobs" if call == "claim" else f"job {accepted.job_id}": "The disk is full."} in told
    assert after == {}


async def test_a_worker_outlives_a_store_that_is_not_there(bench: Bench) -> None:
    bench.store.errors = {"claim": [Unavailable("gone"), RuntimeError("a defect"), DeadlineExceeded("late")]}
    async with running(bench):
        await bench.until(await bench.send(), "done")
    assert len(bench.clock.pauses) == 3


async def test_a_failure_that_cannot_be_told_does_not_end_the_worker(bench: Bench) -> None:
    bench.pdf.errors = [NotAPdf("no")]
    bench.store.errors = {"fail": [Unavailable("gone")]}
    async with running(bench):
        untold = await bench.send(b"bad")
        await bench.until(await bench.send(b"good"), "done")
        assert (await bench.job(untold)).state == "reading"  # until its lease runs out


async def test_idle_workers_do_not_all_poll(bench: Bench) -> None:
    async with running(bench):
        await bench.until(await bench.send(), "done")
    # One look for each time there may be news, one when a worker is free again, and the first.
    assert bench.store.claims <= bench.wakes + 2


# --- leases ----------------------------------------------------------------------------------------------------------


async def test_heartbeats_go_on_while_a_page_takes_its_time_even_if_one_is_missed(bench: Bench) -> None:
    bench.pdf.gate = asyncio.Event()
    bench.store.errors = {"heartbeat": [Unavailable("gone")]}
    beaten: list[str] = []
    async with running(bench):
        accepted = await bench.send()
        await asyncio.wait_for(bench.pdf.reached.wait(), 20)
        for _ in range(2):
            began = time.time_ns() // 1_000_000
            async with bench.store.ended:
                bench.clock.beats.release()
                await asyncio.wait_for(bench.store.ended.wait(), 20)
            beaten.append((await bench.job(accepted)).updated_at)
            # Times are told to the millisecond.
            while time.time_ns() // 1_000_000 == began:
                pass
        bench.pdf.gate.set()
        await bench.until(accepted, "done")
    assert beaten[0] < beaten[1]


async def test_a_lost_lease_stops_the_reading_at_once_and_leaves_the_job_alone(bench: Bench) -> None:
    bench.pdf.gate = asyncio.Event()
    bench.store.errors = {"heartbeat": [StaleLease("lost")]}
    async with running(bench):
        accepted = await bench.send()
        await asyncio.wait_for(bench.pdf.reached.wait(), 20)
        bench.clock.beats.release()
        bench.pdf.gate = None
        await bench.until(await bench.send(b"another"), "done")
        # Nothing was committed, failed or given back; to the store the lease simply runs out.
        assert (await bench.job(accepted)).state == "reading"
        assert bench.pdf.closed == 2


async def test_a_document_that_is_deleted_while_it_is_read_is_let_go(bench: Bench) -> None:
    bench.pdf.gate = asyncio.Event()
    async with running(bench):
        accepted = await bench.send()
        await asyncio.wait_for(bench.pdf.reached.wait(), 20)
        await bench.store.database.delete_document(accepted.document_id, deadline=soon())
        bench.pdf.gate.set()
        another = await bench.send(b"another")
        await bench.until(another, "done")
        documents, _ = await bench.store.database.documents(None, None, 10, deadline=soon())
        assert [document.document_id for document in documents] == [another.document_id]
    with pytest.raises(UnknownJob):
        await bench.job(accepted)


async def test_stopping_gives_jobs_back_with_their_attempt_and_pages(bench: Bench) -> None:
    bench.pdf.gate = asyncio.Event()
    await bench.ingest.start()
    accepted = await bench.send()
    await asyncio.wait_for(bench.pdf.reached.wait(), 20)
    await bench.ingest.drain(deadline=soon())
    job = await bench.job(accepted)
    assert (job.state, job.attempt) == ("queued", 0)
    assert bench.pdf.closed == 1
    bench.pdf.gate = None
    async with running(bench):
        assert (await bench.until(accepted, "done")).attempt == 1


async def test_a_lease_that_comes_while_stopping_is_given_back(bench: Bench) -> None:
    bench.store.answers = asyncio.Event()
    accepted = await bench.send()
    await bench.ingest.start()
    await asyncio.wait_for(bench.store.claimed.wait(), 20)
    stopping = asyncio.create_task(bench.ingest.stop())
    await asyncio.sleep(0)  # the workers have been told
    bench.store.answers.set()
    await stopping
    job = await bench.job(accepted)
    assert (job.state, job.attempt) == ("queued", 0)
    assert bench.pdf.calls == []


async def test_stopping_does_not_wait_for_a_store_that_does_not_answer_a_claim(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.ingest.FAREWELL_S", 0.01)
    bench.store.answers = asyncio.Event()
    await bench.send()
    await bench.ingest.start()
    await asyncio.wait_for(bench.store.claimed.wait(), 20)
    await asyncio.wait_for(bench.ingest.stop(), 20)


async def test_stopping_does_not_wait_for_a_store_that_is_gone(bench: Bench) -> None:
    bench.pdf.gate = asyncio.Event()
    bench.store.errors = {"release": [Unavailable("gone")]}
    await bench.ingest.start()
    await bench.send()
    await asyncio.wait_for(bench.pdf.reached.wait(), 20)
    await bench.ingest.stop()
    assert not (await bench.ingest.health(deadline=soon())).ready


async def test_every_job_can_be_followed_in_the_log(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(level="INFO", format="json"), role="ingest")
    bench.pdf.errors = [None, NotAPdf("no")]
    async with running(bench):
        good = await bench.send(b"good")
        await bench.until(good, "done")
        bad = await bench.send(b"bad")
        await bench.until(bad, "failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = {(line["event"], line.get("job_id")): line for line in lines}
    finished = told["job_finished", good.job_id]
    assert finished["document_id"] == good.document_id
    assert finished["pages"] == 3
    assert finished["pages_per_s"] > 0
    assert told["job_claimed", good.job_id]["attempt"] == 1
    assert told["job_failed", bad.job_id]["final"] is True


# --- cancelling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("notices_at", ["a commit", "a heartbeat"])
async def test_a_cancelled_document_is_let_go_and_its_tasks_end(bench: Bench, notices_at: str) -> None:
    bench.pdf.gate = asyncio.Event()
    async with running(bench):
        accepted = await bench.send()
        await asyncio.wait_for(bench.pdf.reached.wait(), 20)
        await bench.store.database.cancel_job(accepted.job_id, deadline=soon())
        if notices_at == "a commit":
            bench.pdf.gate.set()
        else:
            bench.clock.beats.release()
            bench.pdf.gate = None
        await bench.until(await bench.send(b"another"), "done")
        assert bench.pdf.closed == 2
        job = await bench.job(accepted)
        assert (job.state, job.pages_done, job.error) == ("cancelled", 0, None)
        bench.pdf.gate = None
        await bench.store.database.retry_job(accepted.job_id, deadline=soon())
        await bench.ingest.wake(deadline=soon())
        await bench.until(accepted, "done")


async def test_a_partial_document_is_read_again_where_it_could_not_be(bench: Bench) -> None:
    bench.pdf.unreadable = frozenset({2})
    async with running(bench):
        accepted = await bench.send()
        await bench.until(accepted, "partial")
        with pytest.raises(UnknownPage, match="no page 4"):
            await bench.store.database.page(accepted.document_id, 4, deadline=soon())
        bench.pdf.unreadable = frozenset()
        await bench.store.database.retry_job(accepted.job_id, deadline=soon())
        with pytest.raises(UnknownPage, match="started again"):
            await bench.store.database.page(accepted.document_id, 2, deadline=soon())
        assert (await bench.store.database.page(accepted.document_id, 1, deadline=soon())).text
        await bench.ingest.wake(deadline=soon())
        job = await bench.until(accepted, "done")
    assert job.error is None
    assert bench.pdf.calls == [(1, 2, 3), (2,)]
    with pytest.raises(Conflict, match="nothing to retry"):
        await bench.store.database.retry_job(accepted.job_id, deadline=soon())


# --- a newer pipeline ------------------------------------------------------------------------------------------------


async def tended(bench: Bench) -> Tended:
    """Let the upkeep have its turn."""
    async with bench.store.ended:
        times = len(bench.store.tended)
        bench.clock.upkeep.release()
        await asyncio.wait_for(bench.store.ended.wait_for(lambda: len(bench.store.tended) > times), 20)
    return bench.store.tended[-1]


async def pipelines(bench: Bench) -> dict[str, list[int]]:
    """Pipelines that each table holds pages of."""
    connection = sqlite3.connect(bench.folder / "gatherum.db")
    found = {
        table: [row[0] for row in connection.execute(f"SELECT DISTINCT pipeline FROM {table} ORDER BY 1")]  # noqa: S608
        for table in ("documents", "pages", "chunks", "mentions", "superseded")
    }
    connection.close()
    return found


async def test_a_newer_pipeline_reads_again_in_the_background_and_swaps_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = bench.store.database
    async with running(bench):
        accepted = await bench.send()
        elsewhere = await database.accept(
            await upload(bench.folder, b"one", collection="other", pages=3), deadline=soon()
        )
        await bench.ingest.wake(deadline=soon())
        await bench.until(accepted, "done")
        await bench.until(elsewhere, "done")
        assert await tended(bench) == Tended(0, 0, 0)

        monkeypatch.setattr("actors.database.PIPELINE", PIPELINE + 1)
        bench.pdf.gate = asyncio.Event()
        bench.pdf.reached.clear()
        before = await database.last_change(deadline=soon())
        old = await database.published(None, 10, deadline=soon())
        assert (await tended(bench)).queued == 2
        await asyncio.wait_for(bench.pdf.reached.wait(), 20)
        jobs, _ = await database.jobs(("queued", "reading"), None, None, 10, deadline=soon())
        assert {job.priority for job in jobs} == {-10}
        # What was read before goes on to be shown, and the job that read it stays done.
        assert await database.published(None, 10, deadline=soon()) == old
        assert await database.last_change(deadline=soon()) == before
        assert (await database.document(accepted.document_id, deadline=soon())).state == "done"
        assert (await bench.job(accepted)).state == "done"
        assert (await database.page(accepted.document_id, 1, deadline=soon())).text
        assert (await tended(bench)).queued == 0
        bench.pdf.gate.set()
        for job in jobs:
            await bench.until(Accepted("", job.job_id, duplicate=False), "done")
        changes = await database.changes(before, 0.0, 10, deadline=soon())
        assert sorted(change.document_id for change in changes) == sorted(each.document_id for each in old)
        assert (await tended(bench)).pages == 3
    assert await pipelines(bench) == {
        "documents": [PIPELINE + 1],
        "pages": [PIPELINE + 1],
        "chunks": [PIPELINE + 1],
        "mentions": [PIPELINE + 1],
        "superseded": [],
    }


async def test_the_earlier_reading_stays_where_the_newer_pipeline_cannot_read_as_much(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = bench.store.database
    async with running(bench):
        accepted = await bench.send()
        await bench.until(accepted, "done")
        old = await database.published(None, 10, deadline=soon())
        monkeypatch.setattr("actors.database.PIPELINE", PIPELINE + 1)
        bench.pdf.unreadable = frozenset({3})
        await tended(bench)
        found, _ = await database.jobs((), None, None, 10, deadline=soon())
        again = next(job for job in found if job.job_id != accepted.job_id)
        job = await bench.until(Accepted("", again.job_id, duplicate=False), "failed")
        assert job.error == "The newer pipeline could not read 1 more pages: the earlier reading stays."
        assert await database.published(None, 10, deadline=soon()) == old
        assert (await database.document(accepted.document_id, deadline=soon())).state == "done"
        # What failed once is not tried for ever.
        assert (await tended(bench)).queued == 0


async def test_upkeep_outlives_a_store_that_is_away(bench: Bench) -> None:
    bench.store.errors = {"tend": [Unavailable("gone"), RuntimeError("a defect")]}
    async with running(bench):
        bench.clock.upkeep.release()
        assert await tended(bench) == Tended(0, 0, 0)


async def test_while_there_is_more_to_read_again_than_waits_at_once_upkeep_comes_back_soon(bench: Bench) -> None:
    pauses = asyncio.Queue[float]()

    async def sleep(seconds: float) -> None:
        pauses.put_nowait(seconds)
        await bench.clock.upkeep.acquire()

    answers = [Tended(100, 0, 0), Tended(0, 3, 0), Tended(0, 0, 0)]
    bench.store.database.tend = AsyncMock(side_effect=[*answers, Tended(0, 0, 0)])  # type: ignore[method-assign]
    settings = SETTINGS.model_copy(update={"poll_s": 1.0, "upkeep_s": 300.0, "workers": 0})
    bench.ingest._settings, bench.ingest._sleep = settings, sleep
    async with running(bench):
        found = []
        for _ in answers:
            found.append(await pauses.get())
            bench.clock.upkeep.release()
    assert found == [1.0, 300.0, 300.0]
