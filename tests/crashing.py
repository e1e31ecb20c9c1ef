"""A process that takes documents in and works through them, and that goes wrong where a test tells it to.

It is the real Database and the real Ingest over a real store. Only what reads pages is a stand-in: PyMuPDF in the same
process instead of Ray's tasks, so that a process starts in a fraction of a second. Faults happen at named points that
are reached by wrapping these classes and by listening to the database's engine; the code under test knows nothing of
them. A process ends by itself once all documents in its inbox are taken in and no job is left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import multiprocessing
import os
import random
import re
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any, Final, Literal
from unittest import mock

import history
import numpy as np
import psutil
from history import Contents, Event
from power import PowerLoss
from sqlalchemy import Engine, Pool, make_url
from sqlalchemy import event as listening
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import DEFAULTS, WORDS_ALONE, soon

from actors.database import Database
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, Unavailable
from actors.ingest import Ingest
from actors.messages import Accepted, Change, Embeddings, Lease, Mention, PageRange, PageReading, Upload
from actors.reading import chunking, pages
from actors.store import blobs, dialect, doctor, jobs, lifecycle
from config import logs

LEASE_S: Final = 0.5
BEATS: Final = 4  # a lease
BUSY_S: Final = 1.0
STATEMENT_S: Final = 3.0
LAST_CHARS: Final = 5000
DATABASE: Final = DEFAULTS.database.model_copy(
    update={"busy_timeout_s": BUSY_S, "retry_s": BUSY_S, "statement_timeout_s": STATEMENT_S}
)
INGEST: Final = DEFAULTS.ingest.model_copy(
    update={"lease_s": LEASE_S, "heartbeat_s": LEASE_S / BEATS, "poll_s": 0.1, "retry_base_s": 0.05}
)
NAME: Final = re.compile(r"\b[A-Z][a-z]{3,}\b")
CHUNK_TOKENS: Final = 30  # several chunks a page

Act = Literal["die", "stop", "hold", "note"]
Safeguard = Literal["fence", "fsync of files", "fsync of folders"]
Point = Literal["blob", "accepted", "claimed", "page", "statement", "committing", "committed", "publishing"]
"""Where a fault may happen.

- blob: the file is in its place, the document not yet taken in.
- accepted: it is taken in, nobody was told.
- claimed: a job was claimed.
- page: between two pages, one of them read and not yet stored.
- statement: inside the transaction that stores pages or publishes.
- committing: before the COMMIT of it.
- committed: after that, before the worker hears of it.
- publishing: everything is stored, before publication.
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and when.

    Attributes:
        point: where.
        at: the how-manieth time the process comes there.
        act: `die` takes the process away, and with it all that the disk did not have yet; `stop` is SIGSTOP; `hold`
            shuts the gate, see `Plan`; `note` does nothing, but the test sees it in the log.
    """

    point: Point
    at: int = 1
    act: Act = "die"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process is to do.

    Attributes:
        url: of the store.
        folder: with `inbox/COLLECTION/*.pdf`; blobs and the log come into it.
        name: of the process.
        seed: of its dice.
        fault: what goes wrong.
        deaf: whether its heartbeats fail.
        without: the safeguard it does without; see `_go_without`.
        share: which part of the inbox is its to take in, and of how many.
        pace_s: pause at every page.
        workers: jobs at once.
        max_attempts: of a job.
    """

    url: str
    folder: Path
    name: str
    seed: int = 0
    fault: Fault | None = None
    deaf: bool = False
    without: Safeguard | None = None
    share: tuple[int, int] = (0, 1)
    pace_s: float = 0.0
    workers: int = 1
    max_attempts: int = 5

    @property
    def data(self) -> Path:
        """What a power failure strikes."""
        return self.folder / "data"

    @property
    def blobs(self) -> blobs.Folder:
        return blobs.Folder(self.data / "blobs")

    @property
    def no_room(self) -> Path:
        """As long as this file is there, an SQLite store cannot grow."""
        return self.folder / "no-room"

    @property
    def gate(self) -> Path:
        """As long as this file is there, the process does not get on with its pages; its heart beats."""
        return self.folder / f"{self.name}.gate"

    def inbox(self) -> list[str]:
        """What there is to take in, as COLLECTION/FILE."""
        inbox = self.folder / "inbox"
        return sorted(str(path.relative_to(inbox)) for path in inbox.glob("*/*.pdf"))

    def database(self) -> dict[str, Any]:
        """What the Database role is made from."""
        return {
            "settings": DATABASE,
            "sources": DEFAULTS.sources,
            "blob_settings": DEFAULTS.blobs,
            "url": self.url,
            "blobs": self.blobs,
            "max_attempts": self.max_attempts,
        }


class Log:
    """What the processes of a folder were told and where they went wrong, a JSON line each, whoever writes it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.jsonl"

    def write(self, kind: Literal["answered", "error", "reached", "told"], name: str, **more: Any) -> None:
        line = json.dumps({"kind": kind, "name": name, **more}) + "\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, line.encode())  # one call, so that lines do not mix
        finally:
            os.close(fd)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        found = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in found if line["kind"] == kind]

    def told(self) -> list[Event]:
        """What workers were told is done."""
        return [Event(**line["event"] | {"pages": tuple(line["event"]["pages"])}) for line in self.lines("told")]

    def reached(self, name: str) -> bool:
        """Whether the fault of that process has happened."""
        return any(line["name"] == name for line in self.lines("reached"))


# --- in the process --------------------------------------------------------------------------------------------------

_unit: ContextVar[str] = ContextVar("_unit", default="")
"""The store function whose transaction is open, if faults may happen in it."""


class Trigger:
    """Makes the fault of a plan happen."""

    def __init__(self, plan: Plan, log: Log, power: PowerLoss) -> None:
        self._plan, self._log, self._power = plan, log, power
        self._times: Counter[str] = Counter()

    def reach(self, point: Point) -> None:
        """The process is at this point."""
        fault = self._plan.fault
        self._times[point] += 1
        if fault is None or point != fault.point or self._times[point] != fault.at:
            return
        if fault.act == "die":
            self._power.strike()
        if fault.act == "hold":
            self._plan.gate.touch()
        self._log.write("reached", self._plan.name, point=point)
        if fault.act in ("die", "stop"):
            os.kill(os.getpid(), signal.SIGKILL if fault.act == "die" else signal.SIGSTOP)

    def listen(self) -> None:
        """Come to the points that lie inside transactions."""

        @listening.listens_for(Engine, "after_cursor_execute")
        def _executed(*_: Any) -> None:
            if _unit.get():
                self.reach("statement")

        @listening.listens_for(Engine, "commit")
        def _committing(_: Any) -> None:
            if _unit.get():
                self.reach("committing")


class WatchedDatabase(Database):
    """The role, which comes to points of faults, and writes into the log what it answered."""

    def __init__(self, plan: Plan, log: Log, trigger: Trigger) -> None:
        super().__init__(**plan.database())
        self._plan, self._log, self._trigger = plan, log, trigger

    async def accept(self, upload: Upload, *, deadline: Deadline) -> Accepted:
        accepted = await super().accept(upload, deadline=deadline)
        self._trigger.reach("accepted")
        return accepted

    async def claim(self, worker: str, lease_s: float, *, deadline: Deadline) -> Lease | None:
        lease = await super().claim(self._plan.name, lease_s, deadline=deadline)
        if lease is not None:
            self._told("claim", lease.job_id, lease.fence)
            self._trigger.reach("claimed")
        return lease

    async def commit_pages(
        self, job_id: str, fence: int, readings: tuple[PageReading, ...], *, deadline: Deadline
    ) -> int:
        with _within("commit_pages"):
            done = await super().commit_pages(job_id, fence, readings, deadline=deadline)
        self._trigger.reach("committed")
        self._told("commit_pages", job_id, fence, pages=tuple(reading.page.number for reading in readings))
        return done

    async def publish(self, job_id: str, fence: int, *, deadline: Deadline) -> Change:
        self._trigger.reach("publishing")
        with _within("publish"):
            change = await super().publish(job_id, fence, deadline=deadline)
        self._trigger.reach("committed")
        self._told("publish", job_id, fence, change=change.number)
        return change

    async def heartbeat(self, job_id: str, fence: int, lease_s: float, *, deadline: Deadline) -> None:
        if self._plan.deaf:
            raise Unavailable("The heartbeat does not come through.")
        await super().heartbeat(job_id, fence, lease_s, deadline=deadline)

    def _told(self, operation: str, job_id: str, fence: int, **more: Any) -> None:
        self._log.write("told", self._plan.name, event=asdict(Event(operation, self._plan.name, job_id, fence, **more)))


class PlainPdf:
    """Reads pages in this process, one a range."""

    def __init__(self, plan: Plan, trigger: Trigger) -> None:
        self._plan, self._trigger = plan, trigger

    async def read(
        self, path: str, numbers: Sequence[int], *, enrich: bool, chars: int = 0, deadline: Deadline
    ) -> AsyncIterator[PageRange]:
        """Read pages."""
        for number in numbers:
            reading = read_page(path, number)
            self._trigger.reach("page")
            await asyncio.sleep(self._plan.pace_s)
            while self._plan.gate.exists():  # noqa: ASYNC110 -- the test decides it
                await asyncio.sleep(0.02)
            yield PageRange((number,), (reading,), len(reading.page.text))


def read_page(path: str, number: int) -> PageReading:
    """A page, its chunks with vectors, and its capitalised words as mentions: the same whenever it is read."""
    with pages.opened(path) as document:
        page, _ = pages.read(document, number)
    names = tuple(Mention(m[0], "NAME", m.start(), m.end(), number) for m in NAME.finditer(page.text))
    chunks = chunking.chunk(page, CHUNK_TOKENS)
    vectors = np.array([[len(chunk.text), chunk.start, number, 1] for chunk in chunks], np.float64).reshape(-1, 4)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return PageReading(page, chunks, names, embeddings=Embeddings.of("crashing", vectors))


def run(plan: Plan) -> None:
    """What the process does."""
    _redirect(plan.folder / f"{plan.name}.txt")
    logs.configure(DEFAULTS.logs, role=plan.name)
    asyncio.run(_run(plan))


async def _run(plan: Plan) -> None:
    log = Log(plan.folder)
    trigger = Trigger(plan, log, PowerLoss(plan.data))
    _go_without(plan.without)
    _record(plan.name)
    _meet_errors(plan, log)
    database = WatchedDatabase(plan, log, trigger)
    await _until_it_works(database.start)
    trigger.listen()
    ingest = Ingest(
        INGEST.model_copy(update={"workers": plan.workers}),
        database,
        PlainPdf(plan, trigger),  # type: ignore[arg-type]  # the part of the role that is called
        WORDS_ALONE,
        blobs=plan.blobs,
        document_timeout_s=60.0,
        dice=random.Random(plan.seed),
    )
    await _take_in(plan, database, log, trigger)
    await ingest.start()
    while not await _at_rest(plan, database, ingest, log):  # noqa: ASYNC110 -- other processes decide it
        await asyncio.sleep(0.03)
    await ingest.stop()
    await database.stop()


async def _take_in(plan: Plan, database: Database, log: Log, trigger: Trigger) -> None:
    """Be the client: send every file until it is answered, as somebody does who was told to try again."""
    answered = {line["file"] for line in log.lines("answered")}
    mine, of = plan.share
    for name in plan.inbox()[mine::of]:
        if name in answered:
            continue
        path = plan.folder / "inbox" / name

        async def send(path: Path = path) -> Accepted:
            async with blobs.Incoming(plan.blobs) as file:
                await file.write(path.read_bytes())
                sha256, size = await file.commit()
            trigger.reach("blob")
            info = pages.inspect(str(path), 100)
            upload = Upload(sha256, size, path.name, path.parent.name, info, {"from": "inbox"})
            return await database.accept(upload, deadline=soon())

        accepted = await _until_it_works(send)
        log.write("answered", plan.name, file=name, document_id=accepted.document_id)


async def _until_it_works(call: Callable[[], Awaitable[Any]]) -> Any:
    give_up = time.monotonic() + 30.0
    while True:
        try:
            return await call()
        except (DeadlineExceeded, Unavailable):
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.05)


async def _at_rest(plan: Plan, database: Database, ingest: Ingest, log: Log) -> bool:
    """Whether nothing is left to do, for anybody; a job that others have done meanwhile may still be in hand here."""
    waiting = (await database.health(deadline=soon())).detail.get("jobs")
    in_hand = (await ingest.health(deadline=soon())).detail["reading"]
    if waiting is None or waiting.get("queued") or waiting.get("reading") or in_hand:
        return False
    return {line["file"] for line in log.lines("answered")} >= set(plan.inbox())


def _go_without(safeguard: Safeguard | None) -> None:
    """Take a safeguard away from this process, so that a test can show that it would be missed."""
    if safeguard == "fence":
        lifecycle.holds = lambda job, fence: True
    elif safeguard == "fsync of files":
        sync = os.fsync

        def only_folders(fd: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                sync(fd)

        os.fsync = only_folders  # type: ignore[assignment]  # all there is to call it in the store
    elif safeguard == "fsync of folders":
        blobs.sync_folder = lambda folder: None


def _record(name: str) -> None:
    """Have the store's functions write the history in their own transactions."""
    for operation in ("claim", *sorted(history.HOLDERS)):
        original = getattr(jobs, operation)

        @functools.wraps(original)
        async def recorded(
            connection: AsyncConnection,
            now: float,
            *args: Any,
            _call: Any = original,
            _as: str = operation,
            **named: Any,
        ) -> Any:
            answer = await _call(connection, now, *args, **named)
            if happened := history.event(_as, name, named, answer):
                await history.record(connection, happened)
            return answer

        setattr(jobs, operation, recorded)


def _meet_errors(plan: Plan, log: Log) -> None:
    """Let SQLite's file grow only while `no_room` is not there; write every error of the database into the log."""

    @listening.listens_for(Pool, "checkout")
    def _limit(connection: Any, *_: Any) -> None:
        if plan.url.startswith("sqlite"):
            cursor = connection.cursor()
            # Raised to the size that the file has by now.
            cursor.execute(f"PRAGMA max_page_count={1 if plan.no_room.exists() else 1 << 30}")
            cursor.close()

    @listening.listens_for(Engine, "handle_error")
    def _failed(context: Any) -> None:
        log.write("error", plan.name, what=str(context.original_exception)[:200])


@contextlib.contextmanager
def _within(unit: str) -> Iterator[None]:
    token = _unit.set(unit)
    try:
        yield
    finally:
        _unit.reset(token)


def _redirect(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(fd, 1)
    os.dup2(fd, 2)


# --- in the test -----------------------------------------------------------------------------------------------------


@functools.cache
def _processes() -> ForkServerContext:
    """Processes forked from one that has everything imported and nothing open: 20 ms each instead of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crashing", "actors.store.migrations"])
    # Python 3.11 hands its own path to the processes only, not to the one that they are forked from.
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


_started: list[Process] = []


def end_all() -> None:
    """Kill whatever a test has left behind, stopped or not."""
    while _started:
        _started.pop().send(signal.SIGKILL)


class Process:
    """One of them, started."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        _started.append(self)
        self._process: ForkServerProcess = _processes().Process(target=run, args=(plan,), daemon=True)
        self._process.start()

    def send(self, how: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self._process.is_alive() and self._process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # ended since the look
                os.kill(self._process.pid, how)

    def stopped(self) -> bool:
        """Whether it lies still after a SIGSTOP."""
        return psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.exitcode

    async def end(self, within_s: float = 120.0) -> int:
        """Wait for its end."""
        await until(lambda: self.exit_code() is not None, f"{self.plan.name} to end", within_s)
        return self._process.exitcode or 0

    def said(self) -> str:
        """What it wrote last."""
        path = self.plan.folder / f"{self.plan.name}.txt"
        return path.read_text()[-LAST_CHARS:] if path.exists() else ""


async def until(probe: Callable[[], object], what: str, within_s: float = 30.0) -> None:
    """Wait for something."""
    give_up = time.monotonic() + within_s
    while not probe():
        assert time.monotonic() < give_up, f"waited {within_s:g} s for {what}"
        await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Found:
    """What a store holds, and how it came to that."""

    contents: Contents
    events: list[Event]
    findings: list[str]  # what `gatherum doctor` says of it

    def faults(self, expected: Contents, told: Sequence[Event]) -> list[str]:
        """What is wrong with it: nothing, if all is well.

        Args:
            expected: what an undisturbed run leaves.
            told: what workers were told is done.
        """
        return [
            *history.differences(expected, self.contents),
            *history.violations(self.events),
            *history.unkept(self.events, told),
            *self.findings,
        ]


async def prepare(plan: Plan) -> None:
    """Make the store and its history, or empty those that are there, before the first process."""
    plan.data.mkdir()
    if (file := dialect.file_of(make_url(plan.url))) is not None:
        for path in file.parent.glob(f"{file.name}*"):
            path.unlink()  # emptied, it would have room to spare
    async with _opened(plan) as database:
        await database._store.write(lambda connection, _: history.prepare(connection))


async def look(plan: Plan) -> Found:
    """Look at the store, after the last."""
    async with _opened(plan) as database:
        found = await database._store.read(history.contents)
        happened = await database._store.read(history.events)
        findings = [line async for line in _examined(database)]
    return Found(found | {"files": history.files(plan.blobs.folder)}, happened, findings)


async def _examined(database: Database) -> AsyncIterator[str]:
    for check in doctor.CHECKS:
        after: str | None = ""
        while after is not None:
            step = await database.examine(check, after, deep=True, repair=False, deadline=soon())
            for finding in step.findings:
                yield f"doctor: {finding.check} {finding.subject}: {finding.what}"
            after = step.next


@contextlib.asynccontextmanager
async def _opened(plan: Plan) -> AsyncIterator[Database]:
    database = Database(**plan.database())
    await database.start()
    try:
        yield database
    finally:
        await database.stop()
