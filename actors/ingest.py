"""Ingest: the role that gets accepted documents read, whatever goes down meanwhile.

Each of its workers leases a job from the store, has the Pdf role read the pages that are missing, commits every
finished range of them and, when all are in, publishes the document. It keeps nothing: killed at any point, another one
repeats at most the ranges that were under way, and the fence of the lease keeps what comes late from counting twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from actors.deadline import Deadline
from actors.embedder import Embedder
from actors.errors import (
    DeadlineExceeded,
    GatherumError,
    InvalidInput,
    NotFound,
    ReadingFailed,
    Refused,
    StaleLease,
    Unavailable,
)
from actors.messages import Health, Lease, Page, PageReading, Words
from actors.store.blobs import Blobs
from actors.store.lifecycle import backoff
from config import logs
from config.settings import EncoderSettings, IngestSettings

if TYPE_CHECKING:
    from actors.database import Database
    from actors.pdf import Pdf

FINAL = (InvalidInput, NotFound, ReadingFailed, Refused)
"""What another attempt would only meet again. A deadline is not among them: the pages read so far are kept."""

STALLED_TRIES = 5
"""Times in a row that an attempt waits for a role to come back without a page of progress before it is given up."""

CALL_S = 30.0
"""Budget of a call to the store, s."""

FAREWELL_S = 5.0
"""Budget for giving a job back when stopping, s."""

JOBS = "waiting jobs"

CLOCK_SLACK_S = 1.0
"""By which another process may find a deadline past before this one does, s."""

REREADS = 100
"""Readings with a newer pipeline that are queued at once: enough to keep every worker busy until the next look."""


class Ingest:
    """Works through the jobs of the store.

    Args:
        settings: its section.
        database: the Database role.
        pdf: the Pdf role.
        encoder: what chunks are embedded by.
        blobs: the files.
        document_timeout_s: budget of one attempt at a document, s.
        dice: decides the jitter of pauses.
        sleep: waits for so many seconds.
    """

    ROLE: ClassVar[str] = "ingest"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset({"drain", "health", "wake"})

    def __init__(
        self,
        settings: IngestSettings,
        database: Database,
        pdf: Pdf,
        encoder: EncoderSettings,
        *,
        blobs: Blobs,
        document_timeout_s: float,
        dice: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._database = database
        self._pdf = pdf
        self._blobs = blobs
        self._document_timeout_s = document_timeout_s
        self._dice = dice or random.Random()  # noqa: S311 -- no secret depends on it
        self._sleep = sleep
        # Why jobs wait that could be read, by what waits; empty when nothing does.
        self._trouble: dict[str, str] = {}
        self._work = asyncio.Event()
        self._looking = asyncio.Lock()
        self._loops: list[asyncio.Task[None]] = []
        self._tending: list[asyncio.Task[None]] = []
        self._embedder = None
        if encoder.kind != "none":
            self._embedder = Embedder(database, pdf, encoder, pause_s=settings.upkeep_s, sleep=sleep)
        self._busy: dict[str, str] = {}

    async def start(self) -> None:
        """Start the workers, and the upkeep of the store."""
        # The store keeps it with the job, for whoever asks which process has it.
        names = [f"{socket.gethostname()}:{os.getpid()}:{number}" for number in range(self._settings.workers)]
        self._loops = [asyncio.create_task(self._loop(name), name=f"ingest {name}") for name in names]
        self._tending = [asyncio.create_task(self._tend(), name="ingest upkeep")]
        if self._embedder is not None:
            self._tending.append(asyncio.create_task(self._embedder.run(), name="ingest embedder"))

    async def stop(self) -> None:
        """Stop the workers; jobs under way are given back, with the pages committed so far."""
        tasks, self._loops, self._tending = self._loops + self._tending, [], []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def drain(self, *, deadline: Deadline) -> None:
        """`stop` for a caller elsewhere, who waits only so long."""
        await deadline.run(self.stop(), "Giving jobs back")

    async def health(self, *, deadline: Deadline) -> Health:
        """How many workers run, what is being read, and what is waited for."""
        running = sum(not loop.done() for loop in self._loops)
        trouble = dict(self._trouble)
        if self._embedder is not None and self._embedder.trouble:
            trouble["embedding"] = self._embedder.trouble
        detail = {"workers": running, "reading": sorted(self._busy.values()), "trouble": trouble}
        return Health(self.ROLE, running > 0, os.getpid(), socket.gethostname(), detail)

    async def wake(self, *, deadline: Deadline) -> None:
        """Look for work now instead of at the next poll."""
        self._work.set()

    # --- a worker ----------------------------------------------------------------------------------------------------

    async def _loop(self, worker: str) -> None:
        """Take jobs and see them through, for ever. Only being cancelled ends it."""
        while True:
            lease = await self._next(worker)
            with logs.bound(job_id=lease.job_id, document_id=lease.document_id):
                try:
                    await self._attend(worker, lease)
                except Exception as error:  # noqa: BLE001 -- a defect met with one document must not stop the others
                    await _log_defect("worker_failed", error)

    async def _next(self, worker: str) -> Lease:
        """Wait for a job. One idle worker looks for work at a time; the others queue behind it and take its place."""
        troubles = 0
        async with self._looking:
            while True:
                self._work.clear()  # before the look, so that a wake during it is not lost
                try:
                    lease = await self._claim(worker)
                except Exception as error:  # noqa: BLE001 -- whatever it is, the store may be back later
                    troubles += 1
                    pause = backoff(self._settings.poll_s, troubles, self._dice)
                    logs.get().warning("ingest_waits", pause_s=round(pause, 2), **_described(error))
                    self._trouble[JOBS] = _told(error)
                    await self._sleep(pause)
                    continue
                self._trouble.pop(JOBS, None)
                if lease is not None:
                    return lease
                troubles = 0
                with contextlib.suppress(TimeoutError):
                    # Spread, or the replicas would all ask at the same moments.
                    async with asyncio.timeout(self._settings.poll_s * self._dice.uniform(0.5, 1.0)):
                        await self._work.wait()

    async def _claim(self, worker: str) -> Lease | None:
        """Take the next job.

        A lease that comes when the worker is being stopped is given back, or nobody would have it until it has run out.
        """
        call = self._database.claim(worker, self._settings.lease_s, deadline=Deadline.after(CALL_S))
        claiming = asyncio.ensure_future(call)
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # At its COMMIT the store cannot call it back: what came of it is known when it has ended.
            await asyncio.wait((claiming,), timeout=FAREWELL_S)
            if not claiming.done():
                claiming.cancel()
            elif not claiming.cancelled() and claiming.exception() is None and (late := claiming.result()) is not None:
                await self._give_back(late)
            raise

    async def _tend(self) -> None:
        """See to what nobody asks for, for ever; see `Database.tend`."""
        while True:
            pause = self._settings.upkeep_s
            try:
                done = await self._database.tend(REREADS, deadline=Deadline.after(CALL_S))
            except Exception as error:  # noqa: BLE001 -- whatever it is, it can wait
                logs.get().warning("upkeep_waits", **_described(error))
            else:
                if done.queued or done.pages or done.keys:
                    logs.get().info("store_tended", rereads=done.queued, pages=done.pages, keys=done.keys)
                if done.queued:
                    self._work.set()
                    # There may be more of them than are queued at once: they are to follow as these are read.
                    pause = min(pause, self._settings.poll_s)
            await self._sleep(pause)

    async def _attend(self, worker: str, lease: Lease) -> None:
        """See one lease through: read, and whatever comes of it, say so to the store."""
        log = logs.get()
        log.info("job_claimed", attempt=lease.attempt, pages=lease.pages, missing=len(lease.missing))
        self._busy[worker] = lease.document_id
        began = time.monotonic()
        try:
            change = await self._read_while_beating(lease)
        except asyncio.CancelledError:
            await self._give_back(lease)
            raise
        except StaleLease:
            log.warning("job_lost", attempt=lease.attempt)
        except Unavailable as error:
            # A role that is away says nothing about the document, which therefore loses no attempt by it.
            log.warning("job_waits", **_described(error))
            await self._give_back(lease)
        except Exception as error:  # noqa: BLE001 -- it is reported as the document's
            await self._fail(lease, error)
        else:
            took, pages = time.monotonic() - began, len(lease.missing)
            speed = round(pages / took, 1) if took else None
            log.info("job_finished", change=change, pages=pages, seconds=round(took, 3), pages_per_s=speed)
        finally:
            del self._busy[worker]
            self._trouble.pop(_reading(lease), None)

    async def _read_while_beating(self, lease: Lease) -> int:
        """Read under a lease that is kept alive; when it is lost, stop reading at once.

        Returns:
            The number of the change that published the document.

        Raises:
            StaleLease: another worker has the job, or it was deleted.
        """
        reading = asyncio.create_task(self._read(lease))
        beating = asyncio.create_task(self._beat(lease))
        try:
            await asyncio.wait((reading, beating), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                beating.result()  # it only ever ends by an error
            return await reading
        finally:
            for task in (reading, beating):
                task.cancel()
            # Both have let go of what they hold when this returns; what they failed with has been dealt with.
            await asyncio.gather(reading, beating, return_exceptions=True)

    async def _read(self, lease: Lease) -> int:
        """Read what is missing, range by range, and publish. A role that is away is waited for; see `STALLED_TRIES`."""
        deadline = Deadline.after(self._document_timeout_s)
        progress = _Progress(set(lease.missing), lease.chars)
        stalled = 0
        while True:
            left = len(progress.missing)
            try:
                if progress.missing:
                    await self._read_pages(lease, progress, deadline)
                change = await self._database.publish(lease.job_id, lease.fence, deadline=Deadline.after(CALL_S))
            except Unavailable as error:
                stalled = 1 if len(progress.missing) < left else stalled + 1
                if stalled >= STALLED_TRIES or deadline.expired:
                    raise
                pause = backoff(self._settings.retry_base_s, stalled, self._dice)
                logs.get().warning("reading_waits", pause_s=round(pause, 2), **_described(error))
                self._trouble[_reading(lease)] = _told(error)
                await self._sleep(pause)
            else:
                return change.number

    async def _read_pages(self, lease: Lease, progress: _Progress, deadline: Deadline) -> None:
        """Read and commit pages, and note those that are in.

        When the time of the last attempt is used up, the pages that are left are marked as unread, so that the others
        can be published. Not if there are no others: that document has failed.
        """
        missing = progress.missing
        try:
            async with (
                self._blobs.local(lease.sha256) as path,
                _closing(
                    self._pdf.read(str(path), sorted(missing), enrich=True, chars=progress.chars, deadline=deadline)
                ) as ranges,
            ):
                async for part in ranges:
                    await self._database.commit_pages(
                        lease.job_id, lease.fence, part.readings, deadline=deadline.within(CALL_S)
                    )
                    self._trouble.pop(_reading(lease), None)
                    missing.difference_update(part.pages)
                    progress.chars += part.chars
        except DeadlineExceeded:
            if deadline.remaining() > CLOCK_SLACK_S:
                raise  # one slow call to the store
            limit = f"within the time limit of a document, {self._document_timeout_s:g} s an attempt."
            if not lease.last or len(missing) == lease.pages:
                raise DeadlineExceeded(f"{len(missing)} of {lease.pages} pages were not read {limit}") from None
            logs.get().warning("pages_given_up", pages=len(missing), attempt=lease.attempt)
            unread = tuple(
                PageReading(Page(number, 0.0, 0.0, "", Words(), error=f"It was not read {limit}"))
                for number in sorted(missing)
            )
            await self._database.commit_pages(lease.job_id, lease.fence, unread, deadline=Deadline.after(CALL_S))
            missing.clear()

    async def _beat(self, lease: Lease) -> None:
        """Keep the lease alive until it is lost."""
        pause, lease_s = self._settings.heartbeat_s, self._settings.lease_s
        while True:
            await self._sleep(pause)
            try:
                await self._database.heartbeat(lease.job_id, lease.fence, lease_s, deadline=Deadline.after(pause))
            except StaleLease:
                raise
            except Exception as error:  # noqa: BLE001 -- one missed beat is no reason to stop; the fence guards the rest
                logs.get().warning("heartbeat_missed", **_described(error))

    async def _fail(self, lease: Lease, error: Exception) -> None:
        """Tell the store that the attempt failed. If it cannot be told, the lease runs out, with the same effect."""
        final = isinstance(error, FINAL)
        retry_in_s = None if final else backoff(self._settings.retry_base_s, lease.attempt, self._dice)
        if not isinstance(error, GatherumError):
            await _log_defect("reading_broke", error)
        logs.get().warning("job_failed", attempt=lease.attempt, final=final, **_described(error))
        why = error.detail if isinstance(error, GatherumError) else "The document could not be read: an internal error."
        try:
            await self._database.fail(lease.job_id, lease.fence, why, retry_in_s, deadline=Deadline.after(CALL_S))
        except GatherumError as unheard:
            logs.get().warning("failure_not_stored", **_described(unheard))

    async def _give_back(self, lease: Lease) -> None:
        """Release a lease, promptly; if the store does not answer, the lease runs out by itself."""
        try:
            await self._database.release(lease.job_id, lease.fence, deadline=Deadline.after(FAREWELL_S))
        except GatherumError as error:
            logs.get().warning("job_not_released", **_described(error))
        else:
            logs.get().info("job_released")


@dataclass(slots=True)
class _Progress:
    """How far the reading of a document is, over all attempts.

    Attributes:
        missing: pages that are not in.
        chars: length of the text of those that are.
    """

    missing: set[int]
    chars: int


@contextlib.asynccontextmanager
async def _closing(stream: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """Close a generator that was left early now, so that what it has under way is cancelled now."""
    try:
        yield stream
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _reading(lease: Lease) -> str:
    return f"job {lease.job_id}"


def _told(error: Exception) -> str:
    """What an operator is told of it: nothing of what is inside."""
    return error.detail if isinstance(error, GatherumError) else "An internal error; the log says which."


def _described(error: Exception) -> dict[str, Any]:
    return {"error": getattr(error, "code", type(error).__name__), "detail": str(error)}


async def _log_defect(event: str, error: Exception) -> None:
    """Log an error that nobody foresaw with its traceback: in a thread, because that reads source files."""
    await asyncio.to_thread(logs.get().error, event, exc_info=error)
