"""Pdf: reads a document by fanning its pages out as Ray tasks.

Pages are read in tasks, not in the actor, because a PDF is hostile input: MuPDF may crash, hang or eat memory, and a
task takes only its own process down. The actor sees small reports; the pages themselves go from the task to whoever
needs them as object references. Text layers are read in long ranges first; pages that turn out to need optical
recognition, a thousand times slower, are dealt out again in short ranges so that they spread over all cores. Where
chunks are wanted of a document that is scanned, a dozen of its pages come before all others, and are cut into chunks
when all of them are in: only together do they show what is a running head.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import ray
import structlog
from ray.exceptions import (
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.deadline import Deadline
from actors.errors import (
    DeadlineExceeded,
    DocumentTooLarge,
    GatherumError,
    InvalidInput,
    NotFound,
    ReadingFailed,
    Unavailable,
)
from actors.gate import Gate
from actors.messages import Box, DocumentInfo, Health, Mention, Page, PageRange, PageReading, Words
from actors.reading import limits
from actors.reading.ranges import Range, after_failure, ingest_width, quick_size, split, split_scanned
from config import logs
from config.settings import EntitiesSettings, LogSettings, PdfSettings

if TYPE_CHECKING:
    import pymupdf

    from actors.reading.furniture import Margins
    from actors.reading.survey import Survey
    from actors.reading.triage import Why

T = TypeVar("T")
Task = TypeVar("Task", bound=Callable[..., Any])

AHEAD: Final = 2  # ranges in flight for each that can run, so that no core waits for the consumer of the last one
LIGHT_TASKS: Final = 4  # inspections and renderings at once; they reserve no CPU
PIXEL_BYTES: Final = 4  # at most, in a file that holds a rendering
NICENESS: Final = 10  # of page tasks: a question's process gets nine times the CPU time of one, if both want it
OCR_SHARE: Final = 0.9  # of a range's time; the rest is for the worker to report that Tesseract took too long

# A node that went away says nothing about its pages: that is `Unavailable`, and waited out.
PROCESS_DIED = (WorkerCrashedError, OutOfMemoryError)


@dataclass(frozen=True, slots=True)
class Report:
    """What a task did, small enough to travel through the actor.

    Attributes:
        done: pages among its readings.
        scanned: pages it left, each with what is wrong with its text: they need optical recognition.
        chars: length of the text read.
        margins: of the pages that were recognised: what they tell of heads and feet.
    """

    done: tuple[int, ...]
    scanned: tuple[tuple[int, Why], ...] = ()
    chars: int = 0
    margins: tuple[Margins, ...] = ()


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
        details: whether links, images and tables are wanted.
        images: whether the bytes of images are wanted too.
        survey: what the chunks of a page need to know of the rest of the document; None where that is unknown.
    """

    settings: PdfSettings
    model: str | None
    logs: LogSettings
    context: dict[str, Any]
    details: bool = False
    images: bool = False
    survey: Survey | None = None


def confined(work: Task) -> Task:
    """The function as a task runs it: in a process that has given up what it does not need, and is given up when full.

    Args:
        work: takes a `Setup` as its last argument.
    """

    @functools.wraps(work)
    def run(*args: Any) -> Any:
        setup: Setup = args[-1]
        settings = setup.settings
        _set_up_process(setup.logs)
        limits.confine(settings.worker_memory_mb, PIXEL_BYTES * settings.max_pixels // limits.MB + 1)
        try:
            with logs.bound(**setup.context):
                return work(*args)
        finally:
            if limits.resident_memory() > settings.worker_max_rss_mb * limits.MB:
                _retire(settings.task_max_calls)

    return run  # type: ignore[return-value]  # the same signature


def _retire(max_calls: int) -> None:
    """Have Ray replace this process after the task, as it does after `max_calls` of them.

    Ray counts only calls, so the count is brought to its last. To exit here would lose what the task returns.
    """
    counts = ray._private.worker.global_worker.function_actor_manager._num_task_executions
    counts.update(dict.fromkeys(counts, max_calls - 1))


def read_range(path: str, part: Range, setup: Setup) -> tuple[Report, tuple[PageReading, ...]]:
    """Read some pages. Runs in a task; also the whole of it, so it can be tested without one.

    Args:
        path: of the PDF.
        part: pages; their text layer is read, unless the range says why it will not do.
        setup: see there.

    Raises:
        EncryptedPdf, DocumentTooLarge, ReadingFailed, UnknownPage: the range cannot be read.
    """
    from actors.reading import furniture, pages

    settings = setup.settings
    found: list[Page] = []
    scanned: list[tuple[int, Why]] = []
    with _opened(path, setup) as document:
        if part.whys:
            from actors.reading import ocr

            budget = settings.page_timeout_s * len(part.pages)
            with limits.clock(budget):
                found = ocr.read(
                    document,
                    list(zip(part.pages, part.whys, strict=True)),
                    dpi=settings.ocr_dpi,
                    max_pixels=settings.max_pixels,
                    languages=settings.ocr_languages,
                    timeout_s=budget * OCR_SHARE,
                )
        else:
            clock = functools.partial(limits.clock, settings.page_timeout_s)
            for page, why in pages.read_all(document, part.pages, clock):
                if why:
                    scanned.append((page.number, why))
                else:
                    found.append(page)
        for page in found:
            if page.error:
                logs.get().warning("page_unreadable", page=page.number, error=page.error)
        if setup.details or setup.model:
            from actors.reading import structure, tables

            for index, page in enumerate(found):
                with limits.clock(settings.page_timeout_s):
                    page = tables.with_tables(document, page)
                    found[index] = structure.detailed(document, page) if setup.details else page
        if setup.images:
            from actors.reading import images
            from actors.reading.allowance import Allowance

            allowance = Allowance(int(settings.max_images_mb * limits.MB))
            for index, page in enumerate(found):
                with limits.clock(settings.page_timeout_s):
                    found[index] = images.with_bytes(document, page, allowance, settings.max_pixels)
        readings = tuple(map(PageReading, found))
        if setup.model:
            with limits.clock(settings.page_timeout_s * len(part.pages)):
                readings = enrich(found, settings.chunk_tokens, setup.model, setup.survey)
    chars = sum(len(page.text) for page in found)
    margins = tuple(map(furniture.margins, found)) if part.whys else ()
    return Report(tuple(page.number for page in found), tuple(scanned), chars, margins), readings


def enrich_range(
    readings: Sequence[PageReading], pages: tuple[int, ...], setup: Setup
) -> tuple[Report, tuple[PageReading, ...]]:
    """Add chunks and mentions to pages that were read without; in a task of its own, as `read_range`.

    Args:
        readings: of some pages.
        pages: those of them that are wanted.
        setup: with a model.
    """
    settings = setup.settings
    with limits.clock(settings.page_timeout_s * len(pages)):
        found = [reading.page for reading in readings if reading.page.number in pages]
        return Report(pages), enrich(found, settings.chunk_tokens, setup.model or "", setup.survey)


def enrich(
    found: Sequence[Page], chunk_tokens: int, model: str, known: Survey | None = None
) -> tuple[PageReading, ...]:
    """Pages with their chunks and mentions."""
    from actors.reading import chunking, mentions
    from actors.reading.survey import Survey

    survey = known or Survey()
    named = mentions.find_mentions([page.text for page in found], model)
    return tuple(
        PageReading(
            page,
            chunking.chunk(
                page, chunk_tokens, furniture=survey.furniture_of(page), heading=survey.heading(page.number)
            ),
            tuple(Mention(m.text, m.label, m.start, m.end, page.number) for m in names),
        )
        for page, names in zip(found, named, strict=True)
    )


def survey_file(path: str, setup: Setup) -> Survey:
    """`survey.survey` in a task."""
    from actors.reading.survey import survey

    with _opened(path, setup) as document:
        return survey(document, setup.settings.page_timeout_s)


def check_ocr(languages: tuple[str, ...]) -> None:
    """`tesseract.check_languages`; what that needs is imported only here."""
    from actors.reading import tesseract

    tesseract.check_languages(languages)


def inspect_file(path: str, setup: Setup) -> DocumentInfo:
    """`pages.inspect` in a task."""
    from actors.reading import pages

    limits.check_file(path, setup.settings.max_file_mb)
    with limits.clock(setup.settings.page_timeout_s):
        return pages.inspect(path, setup.settings.max_pages)


def render_page(path: str, page: int, boxes: tuple[Box, ...], dpi: int, setup: Setup) -> bytes:
    """`pages.render` in a task."""
    from actors.reading import pages

    limits.check_file(path, setup.settings.max_file_mb)
    with limits.clock(setup.settings.page_timeout_s):
        return pages.render(path, page, boxes, dpi, setup.settings.max_pixels)


@contextmanager
def _opened(path: str, setup: Setup) -> Iterator[pymupdf.Document]:
    """The open document, if it is within the limits. Opening a damaged one searches it, so that has its clock too."""
    from actors.reading import pages

    settings = setup.settings
    limits.check_file(path, settings.max_file_mb)
    with ExitStack() as stack:
        with limits.clock(settings.page_timeout_s):
            document = stack.enter_context(pages.opened(path, coloured=setup.images))
            count = document.page_count
        if count > settings.max_pages:
            raise DocumentTooLarge(f"The PDF has {count:,} pages; the limit is {settings.max_pages:,}.")
        yield document


@cache
def _set_up_process(settings: LogSettings) -> None:
    logs.configure(settings, role="pages")
    # Reading is work for the time that questions leave. Once a process: `nice` adds up.
    os.nice(NICENESS)


# --- in the actor ---------------------------------------------------------------------------------------------------


class Pdf:
    """The role that opens PDFs for everybody else."""

    ROLE: ClassVar[str] = "pdf"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset({"inspect", "render", "health"})

    def __init__(
        self, settings: PdfSettings, entities: EntitiesSettings, logs: LogSettings, *, ingest_cpus: float = 0
    ) -> None:
        self._settings = settings
        self._ingest_cpus = ingest_cpus
        self._ingesting = Gate(1)
        self._model = entities.model
        self._logs = logs
        self._light = asyncio.Semaphore(LIGHT_TASKS)
        self._documents = 0
        # Retries are ours: after a crash Ray would repeat the whole range, and crash again.
        calls = settings.task_max_calls
        heavy = ray.remote(num_cpus=settings.task_cpus, num_returns=2, max_calls=calls, max_retries=0)
        self._read_range: Any = heavy(confined(read_range))
        self._enrich_range: Any = heavy(confined(enrich_range))
        # Without a CPU of their own, so that they never queue behind optical recognition.
        light = ray.remote(num_cpus=0, max_calls=calls, max_retries=0)
        self._inspect_file: Any = light(confined(inspect_file))
        self._survey_file: Any = light(confined(survey_file))
        self._render_page: Any = light(confined(render_page))

    async def start(self) -> None:
        """Check that this node can read scanned pages. The tasks' processes are Ray's.

        Raises:
            ReadingFailed: Tesseract or a language pack is missing.
        """
        # Now, and not when the first scan comes along, which may be page 800 of an upload.
        await asyncio.to_thread(check_ocr, self._settings.ocr_languages)

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
        self,
        path: str,
        pages: Sequence[int],
        *,
        enrich: bool,
        details: bool = False,
        images: bool = False,
        deadline: Deadline,
    ) -> AsyncIterator[PageRange]:
        """Read pages, yielding them as they are finished, in no particular order.

        Every page asked for comes back exactly once; one that cannot be read has its `error` set. Closing the iterator
        ends the tasks that still run.

        Args:
            path: of the PDF.
            pages: numbers from 1.
            enrich: whether chunks and mentions are wanted too.
            details: whether the links, images and tables of pages are wanted too.
            images: whether the bytes of those images are, up to `pdf.max_images_mb` of each task.
            deadline: of the whole reading; `pdf.document_timeout_s` is its limit in any case.

        Raises:
            EncryptedPdf, DocumentTooLarge, ReadingFailed, UnknownPage: the document cannot be read at all.
            DeadlineExceeded: it did not finish in time.
        """
        deadline = deadline.within(self._settings.document_timeout_s)
        deadline.check("reading the document")
        setup = replace(self._setup(self._model if enrich else None), details=details, images=images)
        known = await self._survey(path, deadline) if enrich else None
        gate = self._ingesting if enrich else None
        wanted = set(pages)
        chars = 0
        self._documents += 1
        try:
            if known and known.scanned:
                # What repeats in their margins must be known before any is cut into chunks.
                first = split_scanned(known.scanned, self._settings.scanned_range_pages)
                async with aclosing(self._ranges(path, first, replace(setup, model=None), gate, deadline)) as found:
                    held = [each async for each in found]
                chars = sum(report.chars for report, _ in held)
                known = known.with_scans(page for report, _ in held for page in report.margins)
                async with aclosing(
                    self._enriched(held, wanted, replace(setup, survey=known), gate, deadline)
                ) as found:
                    async for report, readings in found:
                        yield PageRange(report.done, readings)
                        wanted.difference_update(report.done)
            size = self._settings.range_pages
            if not (enrich or details or images):
                size = quick_size(len(wanted), size, self._ahead(await asyncio.to_thread(_cluster_cpus)))
            waiting = split(wanted, size)
            async with aclosing(self._ranges(path, waiting, replace(setup, survey=known), gate, deadline)) as found:
                async for report, readings in found:
                    chars += report.chars
                    limits.check_text(chars, self._settings.max_text_mb)
                    if report.done:
                        yield PageRange(report.done, readings)
        finally:
            self._documents -= 1

    async def _ranges(
        self, path: str, ranges: Sequence[Range], setup: Setup, gate: Gate | None, deadline: Deadline
    ) -> AsyncGenerator[tuple[Report, Any]]:
        """Read ranges, and what follows from them: pages that need recognition, and second chances."""
        waiting = deque(ranges)
        running: dict[asyncio.Task[tuple[Report, Any] | Failure], Range] = {}
        cpus = await asyncio.to_thread(_cluster_cpus)
        width = self._ahead(cpus)
        if gate:
            gate.widen(ingest_width(cpus, self._ingest_cpus, self._settings.task_cpus, self._settings.replicas))
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    part = waiting.popleft()
                    running[asyncio.create_task(self._run_range(path, part, setup, gate))] = part
                for task in await _some(running, deadline):
                    part = running.pop(task)
                    outcome = task.result()
                    if isinstance(outcome, Failure):
                        again = after_failure(part)
                        waiting.extend(again)
                        for number in () if again else part.pages:
                            yield Report((number,)), (_unreadable(number, outcome.reason),)
                        continue
                    report, readings = outcome
                    waiting.extend(split_scanned(report.scanned, self._settings.scanned_range_pages))
                    yield report, readings
        finally:
            await _end(running)

    async def _enriched(
        self,
        held: Sequence[tuple[Report, Any]],
        wanted: Collection[int],
        setup: Setup,
        gate: Gate | None,
        deadline: Deadline,
    ) -> AsyncGenerator[tuple[Report, Any]]:
        """Pages that were read, with chunks and mentions. Where that fails they are not given: they are read again."""
        parts = [(tuple(page for page in report.done if page in wanted), readings) for report, readings in held]
        running = {
            asyncio.create_task(self._attempt(self._enrich_range, readings, pages, setup, pages=pages, gate=gate))
            for pages, readings in parts
            if pages
        }
        try:
            while running:
                for task in await _some(running, deadline):
                    running.remove(task)
                    if not isinstance(outcome := task.result(), Failure):
                        yield outcome
        finally:
            await _end(running)

    def _ahead(self, cpus: float) -> int:
        """Ranges in flight at once."""
        return AHEAD * max(1, int(cpus / self._settings.task_cpus))

    def _setup(self, model: str | None) -> Setup:
        return Setup(self._settings, model, self._logs, structlog.contextvars.get_contextvars())

    async def _survey(self, path: str, deadline: Deadline) -> Survey | None:
        """What ranges share; None where looking the document over crashes or takes too long, whichever the range."""
        try:
            survey: Survey = await self._run_light(
                self._survey_file, path, what="looking the document over", deadline=deadline
            )
        except ReadingFailed as error:
            # One bad page among those looked at must not cost the others: without it, heads and feet stay in chunks.
            logs.get().warning("no_survey", error=error.detail)
            return None
        return survey

    async def _run_range(self, path: str, part: Range, setup: Setup, gate: Gate | None) -> tuple[Report, Any] | Failure:
        return await self._attempt(self._read_range, path, part, setup, pages=part.pages, gate=gate)

    async def _attempt(
        self, work: Any, *args: Any, pages: tuple[int, ...], gate: Gate | None
    ) -> tuple[Report, Any] | Failure:
        """Run a task of two results for some pages: what it did, and a reference to their readings."""
        try:
            async with gate.passed() if gate else nullcontext():
                report, readings = work.remote(*args)
                return await _outcome(report), readings
        except (InvalidInput, NotFound):
            # Of the document, not of these pages.
            raise
        except ReadingFailed as error:
            return Failure(error.detail)
        except PROCESS_DIED as error:
            logs.get().warning("page_task_died", pages=pages, error=type(error).__name__)
            return Failure(f"The reader crashed on it or needed more than {self._settings.page_timeout_s:g} s.")

    async def _run_light(self, task: Any, path: str, *args: Any, what: str, deadline: Deadline) -> Any:
        async def run() -> Any:
            async with self._light:
                return await _outcome(task.remote(path, *args, self._setup(None)))

        try:
            return await deadline.run(run(), f"{what[0].upper()}{what[1:]}")
        except PROCESS_DIED:
            raise ReadingFailed(f"The PDF is damaged: {what} crashed or took too long.") from None


def _cluster_cpus() -> float:
    """Asks Ray each time, for the cluster grows and shrinks."""
    return float(ray.cluster_resources().get("CPU", 1.0))


async def _some(running: Collection[asyncio.Task[T]], deadline: Deadline) -> set[asyncio.Task[T]]:
    """Those that are done first.

    Raises:
        DeadlineExceeded: none is in time.
    """
    finished, _ = await asyncio.wait(running, timeout=deadline.remaining(), return_when=asyncio.FIRST_COMPLETED)
    if not finished:
        raise DeadlineExceeded("Reading the document did not finish in time.")
    return finished


async def _end(running: Collection[asyncio.Task[Any]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


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
