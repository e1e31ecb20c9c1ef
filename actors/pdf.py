"""Pdf: reads a document by fanning its pages out as Ray tasks.

Pages are read in tasks, not in the actor, because a PDF is hostile input: MuPDF may crash, hang or eat memory, and a
task takes only its own process down. The actor plans by small reports; the pages themselves stay in the object store
until it gives them out. Text layers are read in long ranges first; pages that turn out to need optical recognition, a
thousand times slower, are dealt out again in short ranges so that they spread over all cores. Where
chunks are wanted of a document that is scanned, a dozen of its pages come before all others, and are cut into chunks
when all of them are in: only together do they show what is a running head.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
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
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, ReadingFailed, Unavailable
from actors.gate import Gate
from actors.messages import (
    Box,
    Chunk,
    DocumentInfo,
    Embeddings,
    Health,
    Page,
    PageChunks,
    PageRange,
    PageReading,
    Words,
)
from actors.pool import value_of
from actors.reading import limits, tasks
from actors.reading.allowance import Allowance, Ledger
from actors.reading.ranges import Range, after_failure, ingest_width, quick_size, split, split_scanned
from actors.reading.tasks import Report, Setup
from config import logs
from config.settings import EgressSettings, EncoderSettings, EntitiesSettings, LogSettings, PdfSettings

if TYPE_CHECKING:
    from actors.reading.survey import Survey
    from actors.search.encoder import Encoder

T = TypeVar("T")
Task = TypeVar("Task", bound=Callable[..., Any])

AHEAD: Final = 2  # ranges in flight for each that can run, so that no core waits for the consumer of the last one
# Small tasks at once; they reserve no CPU. Apart from each other: of one number for all three, four hostile files that
# were being looked at held up every page image for as long as a page may take.
INSPECTIONS: Final = 4
RENDERINGS: Final = 4
SURVEYS: Final = 2
CPUS_S: Final = (
    1.0  # that the cluster's CPUs are taken for known: to ask takes a tenth of the time of reading a small file
)
QUEUE: Final = 250  # of each kind: at 10 to 100 ms each the last one's turn comes before its time is up
PIXEL_BYTES: Final = 4  # at most, in a file that holds a rendering
NICENESS: Final = 10  # of page tasks: a question's process gets nine times the CPU time of one, if both want it

# A node that went away says nothing about its pages: that is `Unavailable`, and waited out.
PROCESS_DIED = (WorkerCrashedError, OutOfMemoryError)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task gave nothing.

    Attributes:
        reason: for people.
        slow: whether it took as long as a page may take.
    """

    reason: str
    slow: bool


# --- in the task's process --------------------------------------------------------------------------------------------


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


@cache
def _set_up_process(settings: LogSettings) -> None:
    logs.configure(settings, role="pages")
    # Reading is work for the time that questions leave. Once a process: `nice` adds up.
    os.nice(NICENESS)


# --- in the actor ---------------------------------------------------------------------------------------------------


class Pdf:
    """The role that opens PDFs for everybody else."""

    ROLE: ClassVar[str] = "pdf"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset(
        {"embed", "encoder_identity", "fit_encoder", "inspect", "render", "health"}
    )

    def __init__(
        self,
        settings: PdfSettings,
        entities: EntitiesSettings,
        encoder: EncoderSettings,
        logs: LogSettings,
        *,
        egress: EgressSettings | None = None,
        ingest_cpus: float = 0,
    ) -> None:
        self._settings = settings
        self._ingest_cpus = ingest_cpus
        self._ingesting = Gate(1)
        self._cpus = (0.0, -math.inf)  # of the cluster, and when that was asked
        self._model = entities.model
        self._encoder = encoder
        self._egress = egress
        # Where it is an endpoint, this process asks it.
        self._endpoint: Encoder | None = None
        self._identity = ""
        self._encoder_trouble = ""
        self._logs = logs
        self._inspecting = Gate(INSPECTIONS, queue=QUEUE, what="files to be opened")
        self._rendering = Gate(RENDERINGS, queue=QUEUE, what="pages to be drawn")
        self._surveying = Gate(SURVEYS, queue=QUEUE, what="documents to be looked over")
        self._documents = 0
        # Retries are ours: after a crash Ray would repeat the whole range, and crash again.
        calls = settings.task_max_calls
        heavy = ray.remote(num_cpus=settings.task_cpus, num_returns=2, max_calls=calls, max_retries=0)
        self._read_range: Any = heavy(confined(tasks.read_range))
        self._enrich_range: Any = heavy(confined(tasks.enrich_range))
        single = ray.remote(num_cpus=settings.task_cpus, max_calls=calls, max_retries=0)
        self._embed_chunks: Any = single(confined(tasks.embed_chunks))
        self._fit_encoder: Any = single(confined(tasks.fit_encoder))
        # Without a CPU of their own, so that they never queue behind optical recognition.
        light = ray.remote(num_cpus=0, max_calls=calls, max_retries=0)
        self._inspect_file: Any = light(confined(tasks.inspect_file))
        self._survey_file: Any = light(confined(tasks.survey_file))
        self._render_page: Any = light(confined(tasks.render_page))

    async def start(self) -> None:
        """Check that this node can read scanned pages. The tasks' processes are Ray's.

        Raises:
            ReadingFailed: Tesseract or a language pack is missing.
        """
        # Now, and not when the first scan comes along, which may be page 800 of an upload.
        await asyncio.to_thread(tasks.check_ocr, self._settings.ocr_languages)
        if self._encoder.kind != "none":
            try:
                await self._open_encoder()
            except Unavailable as error:
                logs.get().warning("no_encoder", error=error.detail)

    async def stop(self) -> None:
        """Let go of an endpoint; Ray ends the tasks of an actor that is gone."""
        if self._endpoint is not None:
            await self._endpoint.close()

    async def health(self, *, deadline: Deadline) -> Health:
        """Ready as soon as it is there."""
        why = self._encoder_trouble or (self._endpoint.trouble if self._endpoint else "")
        detail = {"documents": self._documents, "trouble": {"vectors of documents": why} if why else {}}
        return Health(self.ROLE, ready=True, pid=os.getpid(), node=socket.gethostname(), detail=detail)

    async def inspect(self, path: str, *, deadline: Deadline) -> DocumentInfo:
        """What a file says of itself, after checking that it can be read.

        Raises:
            EmptyFile, NotAPdf, TruncatedPdf, EncryptedPdf, DocumentTooLarge, ReadingFailed: it cannot.
            Overloaded: too many files wait for it.
        """
        info: DocumentInfo = await self._run_light(
            self._inspecting, self._inspect_file, path, what="opening the PDF", deadline=deadline
        )
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
            Overloaded: too many pages wait for it.
        """
        png: bytes = await self._run_light(
            self._rendering, self._render_page, path, page, boxes, dpi, what="drawing the page", deadline=deadline
        )
        return png

    async def encoder_identity(self, *, deadline: Deadline) -> str:
        """Of the encoder that chunks are embedded by.

        Raises:
            Unavailable: there is none, or its files are not what they should be.
        """
        if not self._identity:
            await deadline.run(self._open_encoder(), "Looking at the encoder")
        return self._identity

    async def embed(self, pages: list[tuple[Chunk, ...]], titles: list[str], *, deadline: Deadline) -> list[Embeddings]:
        """The vectors of the chunks of each page; `titles` are those of their documents, empty for none.

        Raises:
            Unavailable: there is no encoder, it cannot be loaded, or an endpoint does not answer.
        """
        if self._encoder.kind == "remote":
            return await self._ask_endpoint(await self._reach(), pages, titles, deadline)
        made: list[Embeddings] = await self._run_single(
            self._embed_chunks, pages, titles, what="Embedding chunks", deadline=deadline
        )
        return made

    async def fit_encoder(
        self, pages: list[PageChunks], prior: bytes, *, deadline: Deadline
    ) -> tuple[str, bytes, bytes]:
        """Fit a fast encoder; see `embedding.fit`.

        Raises:
            Unavailable: there is no encoder, or it cannot be loaded.
        """
        made: tuple[str, bytes, bytes] = await self._run_single(
            self._fit_encoder, pages, prior, what="Fitting an encoder", deadline=deadline
        )
        return made

    async def read(
        self,
        path: str,
        pages: Sequence[int],
        *,
        enrich: bool,
        details: bool = False,
        images: Allowance | None = None,
        chars: int = 0,
        deadline: Deadline,
    ) -> AsyncIterator[PageRange]:
        """Read pages, yielding them as they are finished, in no particular order.

        Every page asked for comes back exactly once; one that cannot be read has its `error` set. Closing the iterator
        ends the tasks that still run.

        Args:
            path: of the PDF.
            pages: numbers from 1.
            enrich: whether chunks, their vectors, and mentions are wanted too.
            details: whether the links, images and tables of pages are wanted too.
            images: what the bytes of those images may come to, in the order of the document; None where they are not
                wanted. Pages that are read at the same time do not know of each other: what comes back may be more,
                by as much for each of their ranges, and is to be held to it by the same rule.
            chars: length of the text of the document's other pages, of which `pdf.max_text_mb` is the limit with these.
            deadline: of the whole reading; `pdf.document_timeout_s` is its limit in any case.

        Raises:
            EncryptedPdf, DocumentTooLarge, ReadingFailed, UnknownPage: the document cannot be read at all.
            DeadlineExceeded: it did not finish in time.
        """
        deadline = deadline.within(self._settings.document_timeout_s)
        deadline.check("reading the document")
        setup = replace(self._setup(path, self._model if enrich else None), details=details, images=images)
        known = await self._survey(path, deadline) if enrich else None
        gate = self._ingesting if enrich else None
        wanted = set(pages)
        self._documents += 1
        try:
            if known and known.scanned:
                # What repeats in their margins must be known before any is cut into chunks.
                first = split_scanned(known.scanned, self._settings.scanned_range_pages)
                async with aclosing(self._ranges(path, first, replace(setup, model=None), gate, deadline)) as found:
                    held = [each async for each in found]
                known = known.with_scans(page for report, _ in held for page in report.margins)
                async with aclosing(
                    self._enriched(held, wanted, replace(setup, survey=known), gate, deadline)
                ) as found:
                    async for report, readings in found:
                        chars += report.chars
                        limits.check_text(chars, self._settings.max_text_mb)
                        yield await self._given(report, readings, replace(setup, survey=known), deadline)
                        wanted.difference_update(report.done)
            size = self._settings.range_pages
            if not (enrich or details or images):
                size = quick_size(len(wanted), size, self._ahead(await self._cluster_cpus()))
            waiting = split(wanted, size)
            async with aclosing(self._ranges(path, waiting, replace(setup, survey=known), gate, deadline)) as found:
                async for report, readings in found:
                    chars += report.chars
                    limits.check_text(chars, self._settings.max_text_mb)
                    if report.done:
                        yield await self._given(report, readings, replace(setup, survey=known), deadline)
        finally:
            self._documents -= 1

    async def _ranges(
        self, path: str, ranges: Sequence[Range], setup: Setup, gate: Gate | None, deadline: Deadline
    ) -> AsyncGenerator[tuple[Report, Any]]:
        """Read ranges, and what follows from them: pages that need recognition, and second chances."""
        waiting = deque(ranges)
        running: dict[asyncio.Task[tuple[Report, Any] | Failure], Range] = {}
        cpus = await self._cluster_cpus()
        width = self._ahead(cpus)
        ledger = Ledger(setup.images) if setup.images else None
        if gate:
            gate.widen(ingest_width(cpus, self._ingest_cpus, self._settings.task_cpus, self._settings.replicas))
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    part = waiting.popleft()
                    given = replace(setup, images=ledger.before(part.pages[0])) if ledger else setup
                    running[asyncio.create_task(self._run_range(path, part, given, gate))] = part
                for task in await _some(running, deadline):
                    part = running.pop(task)
                    outcome = task.result()
                    if isinstance(outcome, Failure):
                        again = after_failure(part, slow=outcome.slow)
                        waiting.extend(again)
                        for number in () if again else part.pages:
                            yield Report((number,)), (_unreadable(number, outcome.reason),)
                        continue
                    report, readings = outcome
                    if ledger:
                        ledger.note(report.images)
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

    async def _cluster_cpus(self) -> float:
        """Asked of Ray again and again, for the cluster grows and shrinks."""
        cpus, asked = self._cpus
        if time.monotonic() - asked >= CPUS_S:
            cpus = float((await asyncio.to_thread(ray.cluster_resources)).get("CPU", 1.0))
            self._cpus = cpus, time.monotonic()
        return cpus

    def _ahead(self, cpus: float) -> int:
        """Ranges in flight at once."""
        return AHEAD * max(1, int(cpus / self._settings.task_cpus))

    async def _given(self, report: Report, readings: Any, setup: Setup, deadline: Deadline) -> PageRange:
        """What a task read, as it goes out: the pages, and not a reference to them.

        Ray 2.60 forgets who holds a reference inside an item of a stream that waits to be taken: where the consumer
        paused for half a second, the pages of every such item were gone, if they were more than the 100 KB that travel
        inline.
        """
        given: tuple[PageReading, ...] = await value_of(readings, deadline=deadline)
        if self._endpoint is not None and setup.model is not None:
            try:
                pages = [reading.chunks for reading in given]
                titles = [setup.survey.title if setup.survey else ""] * len(pages)
                made = await self._ask_endpoint(self._endpoint, pages, titles, deadline)
            except (Unavailable, DeadlineExceeded) as error:
                # They are read, found by their words, and embedded when it is back.
                logs.get().warning("chunks_not_embedded", kind=type(error).__name__, error=error.detail)
            else:
                given = tuple(replace(reading, embeddings=each) for reading, each in zip(given, made, strict=True))
        return PageRange(report.done, given, report.chars)

    # --- the encoder ---

    async def _open_encoder(self) -> None:
        """Find out which it is, and reach for it if it is an endpoint."""
        from actors.search import models

        if self._encoder.kind == "none":
            raise Unavailable("There is no encoder.")
        try:
            if self._encoder.kind == "remote":
                await self._reach()
            self._identity = await asyncio.to_thread(models.identity, self._encoder)
        except Unavailable as error:
            self._encoder_trouble = error.detail
            raise
        self._encoder_trouble = ""

    async def _reach(self) -> Encoder:
        """The endpoint that is the encoder."""
        if self._endpoint is None:
            # Brings libraries along that nothing else in this process needs, 100 MB.
            from actors.search import remote

            timeout_s = self._encoder.timeout_s
            egress = self._egress
            self._endpoint = await asyncio.to_thread(
                remote.opened, self._encoder, egress, threads=1, timeout_s=timeout_s
            )
        return self._endpoint

    async def _ask_endpoint(
        self, endpoint: Encoder, pages: Sequence[Sequence[Chunk]], titles: Sequence[str], deadline: Deadline
    ) -> list[Embeddings]:
        from actors.reading import embedding

        texts = embedding.wordings(pages, titles)
        return embedding.dealt(endpoint.identity, pages, await endpoint.encode(texts, deadline=deadline))

    def _setup(self, path: str, model: str | None) -> Setup:
        # A stored file is named by its hash, which the list of documents has; of a path no more is anybody's business.
        context = {**structlog.contextvars.get_contextvars(), "file": Path(path).name}
        # A process that opens PDFs has no key of an endpoint, nor a connection to it.
        encoder = self._encoder if self._encoder.kind in ("minilm", "folder") else None
        return Setup(self._settings, model, self._logs, context, encoder=encoder, identity=self._identity)

    async def _survey(self, path: str, deadline: Deadline) -> Survey | None:
        """What ranges share; None where looking the document over crashes or takes too long, whichever the range."""
        try:
            survey: Survey = await self._run_light(
                self._surveying, self._survey_file, path, what="looking the document over", deadline=deadline
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
        limit = self._settings.page_timeout_s
        began = time.monotonic()
        try:
            async with gate.passed() if gate else nullcontext():
                # With the time it waits for a core; what is taken for slow by mistake only costs more tasks.
                began = time.monotonic()
                report, readings = work.remote(*args)
                return await _outcome(report), readings
        except (InvalidInput, NotFound):
            # Of the document, not of these pages.
            raise
        except ReadingFailed as error:
            return Failure(error.detail, time.monotonic() - began >= limit)
        except PROCESS_DIED as error:
            seconds = time.monotonic() - began
            what = {"pages": pages, "seconds": round(seconds, 1), "error": type(error).__name__}
            logs.get().warning("page_task_died", **args[-1].context, **what)
            return Failure(f"The reader crashed on it or needed more than {limit:g} s.", seconds >= limit)

    async def _run_single(self, task: Any, *args: Any, what: str, deadline: Deadline) -> Any:
        """Run a task that has one result, and a core of its own, in turn with those that read."""
        context = structlog.contextvars.get_contextvars()
        encoder = None if self._encoder.kind == "none" else self._encoder
        setup = Setup(self._settings, None, self._logs, context, encoder=encoder, identity=self._identity)

        async def run() -> Any:
            async with self._ingesting.passed():
                return await _outcome(task.remote(*args, setup))

        try:
            return await deadline.run(run(), what)
        except PROCESS_DIED:
            raise Unavailable(f"{what} crashed or took too long.") from None

    async def _run_light(self, gate: Gate, task: Any, path: str, *args: Any, what: str, deadline: Deadline) -> Any:
        setup = self._setup(path, None)

        async def run() -> Any:
            async with gate.passed():
                return await _outcome(task.remote(path, *args, setup))

        # Like a page, a file is given a second chance: a process may be killed for what another one did.
        for last in (False, True):
            began = time.monotonic()
            try:
                return await deadline.run(run(), what)
            except PROCESS_DIED as error:
                logs.get().warning("page_task_died", **setup.context, what=what, error=type(error).__name__)
                if last or time.monotonic() - began >= self._settings.page_timeout_s:
                    break
        raise ReadingFailed(f"The PDF is damaged: {what} crashed or took too long.")


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
