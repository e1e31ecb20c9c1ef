"""Pdf: reads a document by fanning its pages out as Ray tasks.

Pages are read in tasks, not in the actor, because a PDF is hostile input: MuPDF may crash, hang or eat memory, and a
task takes only its own process down. The actor sees small reports; the pages themselves go from the task to whoever
needs them as object references. Text layers are read in long ranges first; pages that turn out to need optical
recognition, a thousand times slower, are dealt out again in short ranges so that they spread over all cores.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

import ray
import structlog
from ray.exceptions import (
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, ReadingFailed, Unavailable
from actors.messages import Box, DocumentInfo, Health, Mention, Page, PageRange, PageReading, Words
from actors.reading.ranges import Range, after_failure, split, split_scanned
from config import logs
from config.settings import EntitiesSettings, LogSettings, PdfSettings

if TYPE_CHECKING:
    from actors.reading.pages import Why

AHEAD: Final = 2  # ranges in flight for each that can run, so that no core waits for the consumer of the last one
LIGHT_TASKS: Final = 4  # inspections and renderings at once; they reserve no CPU
PAGE_NICENESS: Final = 10
OCR_SHARE: Final = 0.9  # of a range's time; the rest is for the worker to report that Tesseract took too long

# A node that went away says nothing about its pages: that is `Unavailable`, and waited out.
PROCESS_DIED = (WorkerCrashedError, OutOfMemoryError)


@dataclass(frozen=True, slots=True)
class Report:
    """What a task did, small enough to travel through the actor.

    Attributes:
        done: pages among its readings.
        scanned: pages it left, each with what is wrong with its text: they need optical recognition.
    """

    done: tuple[int, ...]
    scanned: tuple[tuple[int, Why], ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task gave nothing."""

    reason: str


# --- in the task's process ------------------------------------------------------------------------------------------
# PyMuPDF and spaCy are imported where they are used: an actor or an HTTP replica that knows the role, but never opens a
# PDF itself, stays 150 MB smaller.


@dataclass(frozen=True, slots=True)
class Setup:
    """What a task needs to know besides its pages.

    Attributes:
        settings: limits and resolutions.
        model: spaCy pipeline; None where only the pages are wanted.
        logs: level and format.
        context: values bound to every log line, such as the request's id.
    """

    settings: PdfSettings
    model: str | None
    logs: LogSettings
    context: dict[str, Any]


def read_range(path: str, part: Range, setup: Setup) -> tuple[Report, tuple[PageReading, ...]]:
    """Read some pages. Runs in a task; also the whole of it, so it can be tested without one.

    Args:
        path: of the PDF.
        part: pages; their text layer is read, unless the range says why it will not do.
        setup: see there.

    Raises:
        EncryptedPdf, ReadingFailed, UnknownPage: the range cannot be read.
    """
    from actors.reading import pages

    settings = setup.settings
    found: list[Page] = []
    scanned: list[tuple[int, Why]] = []
    with _prepared(setup), pages.opened(path) as document:
        if part.whys:
            from actors.reading import ocr

            budget = settings.page_timeout_s * len(part.pages)
            with _limit(budget):
                found = ocr.read(
                    document,
                    list(zip(part.pages, part.whys, strict=True)),
                    dpi=settings.ocr_dpi,
                    max_pixels=settings.max_pixels,
                    languages=settings.ocr_languages,
                    timeout_s=budget * OCR_SHARE,
                )
        else:
            for number in part.pages:
                with _limit(settings.page_timeout_s):
                    page, why = pages.read(document, number)
                if why:
                    scanned.append((number, why))
                else:
                    found.append(page)
        for page in found:
            if page.error:
                logs.get().warning("page_unreadable", page=page.number, error=page.error)
        readings = tuple(map(PageReading, found))
        if setup.model:
            with _limit(settings.page_timeout_s * len(part.pages)):
                readings = enrich(found, settings.chunk_chars, setup.model)
    return Report(tuple(page.number for page in found), tuple(scanned)), readings


def enrich(found: Sequence[Page], chunk_chars: int, model: str) -> tuple[PageReading, ...]:
    """Pages with their chunks and mentions."""
    from actors.reading import chunking, mentions

    named = mentions.find_mentions([page.text for page in found], model)
    return tuple(
        PageReading(
            page,
            chunking.chunk(page, chunk_chars),
            tuple(Mention(m.text, m.label, m.start, m.end, page.number) for m in names),
        )
        for page, names in zip(found, named, strict=True)
    )


def inspect_file(path: str, setup: Setup) -> DocumentInfo:
    """`pages.inspect` in a task."""
    from actors.reading import pages

    with _prepared(setup), _limit(setup.settings.page_timeout_s):
        return pages.inspect(path, setup.settings.max_pages)


def render_page(path: str, page: int, boxes: tuple[Box, ...], dpi: int, setup: Setup) -> bytes:
    """`pages.render` in a task."""
    from actors.reading import pages

    with _prepared(setup), _limit(setup.settings.page_timeout_s):
        return pages.render(path, page, boxes, dpi, setup.settings.max_pixels)


@contextmanager
def _prepared(setup: Setup) -> Iterator[None]:
    _set_up_process(setup.logs)
    with logs.bound(**setup.context):
        yield


@cache
def _set_up_process(settings: LogSettings) -> None:
    logs.configure(settings, role="pages")
    # Reading is work for the time that questions leave.
    os.nice(PAGE_NICENESS)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Let the kernel end this process if the block takes longer.

    The clock is the worker's, not the actor's, which could not tell a slow page from one that waits for a core. Nothing
    handles the alarm's signal, so it ends a loop inside MuPDF as well, where no Python code would run.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- in the actor ---------------------------------------------------------------------------------------------------


class Pdf:
    """The role that opens PDFs for everybody else."""

    ROLE: ClassVar[str] = "pdf"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset({"inspect", "render", "health"})

    def __init__(self, settings: PdfSettings, entities: EntitiesSettings, logs: LogSettings) -> None:
        self._settings = settings
        self._model = entities.model
        self._logs = logs
        self._light = asyncio.Semaphore(LIGHT_TASKS)
        self._documents = 0
        # Retries are ours: after a crash Ray would repeat the whole range, and crash again.
        calls = settings.task_max_calls
        self._read_range: Any = ray.remote(num_cpus=settings.task_cpus, num_returns=2, max_calls=calls, max_retries=0)(
            read_range
        )
        # Without a CPU of their own, so that they never queue behind optical recognition.
        light = ray.remote(num_cpus=0, max_calls=calls, max_retries=0)
        self._inspect_file: Any = light(inspect_file)
        self._render_page: Any = light(render_page)

    async def start(self) -> None:
        """Nothing to start: the tasks' processes are Ray's."""

    async def stop(self) -> None:
        """Nothing to stop: Ray ends the tasks of an actor that is gone."""

    async def health(self, *, deadline: Deadline) -> Health:
        """Ready as soon as it is there."""
        detail = {"documents": self._documents}
        return Health(self.ROLE, ready=True, pid=os.getpid(), node=socket.gethostname(), detail=detail)

    async def inspect(self, path: str, *, deadline: Deadline) -> DocumentInfo:
        """What a file says of itself, after checking that it can be read.

        Raises:
            EmptyFile, NotAPdf, TruncatedPdf, EncryptedPdf, DocumentTooLarge, ReadingFailed: it cannot.
        """
        info: DocumentInfo = await self._run_light(self._inspect_file, path, what="opening the PDF", deadline=deadline)
        return info

    async def render(self, path: str, page: int, boxes: tuple[Box, ...], dpi: int, *, deadline: Deadline) -> bytes:
        """A page as PNG with translucent highlights.

        Args:
            path: of the PDF.
            page: from 1.
            boxes: what to highlight, points, as displayed.
            dpi: resolution; lowered where the page would exceed `pdf.max_pixels`.
            deadline: of the call.

        Raises:
            UnknownPage, EncryptedPdf, ReadingFailed: there is no such page, or it cannot be drawn.
        """
        png: bytes = await self._run_light(
            self._render_page, path, page, boxes, dpi, what="drawing the page", deadline=deadline
        )
        return png

    async def read(
        self, path: str, pages: Sequence[int], *, enrich: bool, deadline: Deadline
    ) -> AsyncIterator[PageRange]:
        """Read pages, yielding them as they are finished, in no particular order.

        Every page asked for comes back exactly once; one that cannot be read has its `error` set. Closing the iterator
        ends the tasks that still run.

        Args:
            path: of the PDF.
            pages: numbers from 1.
            enrich: whether chunks and mentions are wanted too.
            deadline: of the whole reading.

        Raises:
            EncryptedPdf, ReadingFailed, UnknownPage: the document cannot be read at all.
            DeadlineExceeded: it did not finish in time.
        """
        deadline.check("reading the document")
        setup = self._setup(self._model if enrich else None)
        waiting = deque(split(pages, self._settings.range_pages))
        running: dict[asyncio.Task[tuple[Report, Any] | Failure], Range] = {}
        width = await asyncio.to_thread(self._width)
        self._documents += 1
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    part = waiting.popleft()
                    running[asyncio.create_task(self._run_range(path, part, setup))] = part
                finished, _ = await asyncio.wait(
                    running, timeout=deadline.remaining(), return_when=asyncio.FIRST_COMPLETED
                )
                if not finished:
                    raise DeadlineExceeded("Reading the document did not finish in time.")
                for task in finished:
                    part = running.pop(task)
                    outcome = task.result()
                    if isinstance(outcome, Failure):
                        again = after_failure(part)
                        waiting.extend(again)
                        for number in () if again else part.pages:
                            yield PageRange((number,), (_unreadable(number, outcome.reason),))
                        continue
                    report, readings = outcome
                    waiting.extend(split_scanned(report.scanned, self._settings.scanned_range_pages))
                    if report.done:
                        yield PageRange(report.done, readings)
        finally:
            self._documents -= 1
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _setup(self, model: str | None) -> Setup:
        return Setup(self._settings, model, self._logs, structlog.contextvars.get_contextvars())

    def _width(self) -> int:
        """Ranges of one document in flight. Asks Ray each time, for the cluster grows and shrinks."""
        cpus = ray.cluster_resources().get("CPU", 1.0)
        return AHEAD * max(1, int(cpus / self._settings.task_cpus))

    async def _run_range(self, path: str, part: Range, setup: Setup) -> tuple[Report, Any] | Failure:
        report, readings = self._read_range.remote(path, part, setup)
        try:
            return await _outcome(report), readings
        except (InvalidInput, NotFound):
            # Of the document, not of these pages.
            raise
        except ReadingFailed as error:
            return Failure(error.detail)
        except PROCESS_DIED as error:
            logs.get().warning("page_task_died", pages=part.pages, retry=part.retry, error=type(error).__name__)
            return Failure(f"The reader crashed on it or needed more than {self._settings.page_timeout_s:g} s.")

    async def _run_light(self, task: Any, path: str, *args: Any, what: str, deadline: Deadline) -> Any:
        async def run() -> Any:
            async with self._light:
                return await _outcome(task.remote(path, *args, self._setup(None)))

        try:
            return await deadline.run(run(), f"{what[0].upper()}{what[1:]}")
        except PROCESS_DIED:
            raise ReadingFailed(f"The PDF is damaged: {what} crashed or took too long.") from None


async def _outcome(ref: Any) -> Any:
    """A task's result or error, as our own type; the task is killed if nobody waits any longer."""
    try:
        return await ref
    except asyncio.CancelledError:
        ray.cancel(ref, force=True)
        raise
    except RayTaskError as error:
        if isinstance(error.cause, GatherumError):
            raise error.cause from None
        logs.get().error("page_task_failed", error=str(error))
        raise ReadingFailed("An unexpected error; the log has the details.") from None
    except PROCESS_DIED:
        raise
    except RayError as error:
        raise Unavailable("Page tasks cannot run at the moment. Try again.") from error


def _unreadable(number: int, reason: str) -> PageReading:
    return PageReading(Page(number, 0.0, 0.0, "", Words(), error=reason))
