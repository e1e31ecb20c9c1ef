"""The Pdf role over tasks that are faked: what it submits, what it yields, and what it does about failures."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pymupdf
import pytest
import structlog.testing
from fakes import FakeEncoder
from ray.exceptions import OutOfMemoryError, RaySystemError, RayTaskError, WorkerCrashedError
from structlog.testing import capture_logs

from actors import pdf as module
from actors.deadline import Deadline
from actors.errors import (
    DeadlineExceeded,
    DocumentTooLarge,
    EmptyFile,
    EncryptedPdf,
    Overloaded,
    ReadingFailed,
    Unavailable,
)
from actors.messages import DocumentInfo, Mention, Page, PageReading, Words
from actors.pdf import Pdf
from actors.reading import limits, mentions, ocr, tasks
from actors.reading.allowance import Allowance, Taken
from actors.reading.furniture import Margins, Row
from actors.reading.ranges import Range
from actors.reading.survey import Survey
from actors.reading.tasks import Report, Setup, read_range
from actors.reading.triage import Why
from actors.search import encoder as encoders
from config.settings import Settings, load

Act = Callable[[Range], Any]


class FakeTask:
    """A remote function whose calls end as `act` says: a value, an exception, or a future to wait for."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self.act = act
        self.calls: list[tuple[Any, ...]] = []
        self.refs: list[asyncio.Future[Any]] = []

    def _submit(self, *args: Any) -> asyncio.Future[Any]:
        self.calls.append(args)
        outcome = self.act(*args)
        if not isinstance(outcome, asyncio.Future):
            ref: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            if isinstance(outcome, Exception):
                ref.set_exception(outcome)
            else:
                ref.set_result(outcome)
            outcome = ref
        self.refs.append(outcome)
        return outcome

    remote = _submit


class FakeReading(FakeTask):
    """The task of page ranges: two references, of which the second is the readings."""

    def __init__(self, act: Act) -> None:
        super().__init__(lambda path, part, setup: act(part))

    def remote(self, *args: Any) -> Any:
        return self._submit(*args), f"ref of {args[1].pages}"

    @property
    def ranges(self) -> list[Range]:
        return [args[1] for args in self.calls]


def in_ray(error: Exception) -> RayTaskError:
    """An error as it comes back from a task."""
    wrapped: RayTaskError = RayTaskError("read_range", "Traceback …", error).as_instanceof_cause()
    return wrapped


@pytest.fixture
def settings() -> Settings:
    return load({"pdf.range_pages": 4, "pdf.scanned_range_pages": 2, "pdf.page_timeout_s": 7})


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """References that were cancelled by force."""
    refs: list[Any] = []

    def cancel(ref: Any, *, force: bool) -> None:
        assert force
        refs.append(ref)

    monkeypatch.setattr("ray.cancel", cancel)
    return refs


@pytest.fixture
def role(settings: Settings, monkeypatch: pytest.MonkeyPatch, cancelled: list[Any]) -> Pdf:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    return Pdf(settings.pdf, settings.entities, settings.encoder, settings.logs)


def reads(part: Range) -> Report:
    return Report(part.pages)


Found = tuple[tuple[int, ...], Any]


async def run(role: Pdf, act: Act, last: int, *, seconds: float = 60) -> tuple[FakeReading, list[Found]]:
    task = FakeReading(act)
    role._read_range = task
    stream = role.read("/folder/a.pdf", range(1, last + 1), enrich=False, deadline=Deadline.after(seconds))
    return task, [(found.pages, found.readings) async for found in stream]


def errors(found: list[Found]) -> dict[int, str]:
    return {numbers[0]: readings[0].page.error for numbers, readings in found if isinstance(readings, tuple)}


async def test_ranges_are_read_and_their_references_passed_on(role: Pdf) -> None:
    task, found = await run(role, reads, 10)
    assert task.ranges == [Range((1, 2, 3, 4)), Range((5, 6, 7, 8)), Range((9, 10))]
    assert sorted(found) == [(part, f"ref of {part}") for part in ((1, 2, 3, 4), (5, 6, 7, 8), (9, 10))]


async def test_no_pages_need_no_task(role: Pdf) -> None:
    task, found = await run(role, reads, 0)
    assert (task.calls, found) == ([], [])


async def test_scanned_pages_are_dealt_out_again(role: Pdf) -> None:
    def act(part: Range) -> Report:
        if part.whys:
            return Report(part.pages)
        scanned = tuple((page, "absent") for page in part.pages if page > 1)
        return Report(tuple(page for page in part.pages if page == 1), scanned)  # type: ignore[arg-type]

    task, found = await run(role, act, 4)
    assert task.ranges[1:] == [Range((2, 3), ("absent", "absent")), Range((4,), ("absent",))]
    assert sorted(found) == [((1,), "ref of (1, 2, 3, 4)"), ((2, 3), "ref of (2, 3)"), ((4,), "ref of (4,)")]


@pytest.mark.parametrize("death", [WorkerCrashedError(), OutOfMemoryError("killed"), in_ray(ReadingFailed("no"))])
async def test_one_bad_page_costs_only_itself(role: Pdf, death: Exception) -> None:
    task, found = await run(role, lambda part: death if 3 in part.pages else reads(part), 6)
    halves = [Range(pages, retry=True) for pages in ((1, 2), (3, 4), (3,), (4,))]
    assert task.ranges == [Range((1, 2, 3, 4)), Range((5, 6)), *halves]
    assert sorted(numbers for numbers, _ in found) == [(1, 2), (3,), (4,), (5, 6)]
    message = "no" if isinstance(death, RayTaskError) else "The reader crashed on it or needed more than 7 s."
    assert errors(found) == {3: message}


async def test_the_log_says_whose_task_died(role: Pdf) -> None:
    role._inspect_file = FakeTask(lambda path, setup: WorkerCrashedError())
    with structlog.testing.capture_logs() as logged:
        await run(role, lambda part: WorkerCrashedError(), 1)
        with pytest.raises(ReadingFailed):
            await role.inspect("/folder/a.pdf", deadline=Deadline.after(60))
    assert [(entry["event"], entry["file"]) for entry in logged] == [("page_task_died", "a.pdf")] * 4
    assert [entry.get("pages") or entry["what"] for entry in logged] == [(1,)] * 2 + ["opening the PDF"] * 2


async def test_after_a_time_limit_each_page_is_tried_alone(role: Pdf, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("actors.pdf.time.monotonic", lambda: now)

    def act(part: Range) -> Any:
        nonlocal now
        if 3 not in part.pages:
            return reads(part)
        now += 7
        return WorkerCrashedError()

    task, found = await run(role, act, 4)
    assert task.ranges == [Range((1, 2, 3, 4))] + [Range((page,), retry=True) for page in (1, 2, 3, 4)]
    assert list(errors(found)) == [3]


async def test_a_worker_killed_from_outside_costs_nothing(role: Pdf) -> None:
    deaths = iter([WorkerCrashedError()])
    _, found = await run(role, lambda part: next(deaths, None) or reads(part), 1)
    assert found == [((1,), "ref of (1,)")]


async def test_an_unexpected_error_is_logged_and_costs_the_page(role: Pdf) -> None:
    _, found = await run(role, lambda part: in_ray(ZeroDivisionError("secret")), 1)
    assert errors(found) == {1: "An unexpected error; the log has the details."}


async def test_an_error_of_the_document_ends_the_reading(role: Pdf) -> None:
    with pytest.raises(EncryptedPdf, match="locked") as caught:
        await run(role, lambda part: in_ray(EncryptedPdf("locked")), 1)
    assert type(caught.value) is EncryptedPdf


async def test_a_text_without_end_ends_the_reading(role: Pdf, cancelled: list[Any]) -> None:
    task = FakeReading(lambda part: Report(part.pages, chars=8_000_000))
    role._read_range = task
    stream: Any = role.read("a.pdf", range(1, 101), enrich=False, deadline=Deadline.after(60))
    await anext(stream)
    await anext(stream)
    with pytest.raises(DocumentTooLarge, match="20 million characters"):
        await anext(stream)


async def test_what_was_read_before_counts_too(role: Pdf, cancelled: list[Any]) -> None:
    role._read_range = FakeReading(lambda part: Report(part.pages, chars=8_000_000))
    stream: Any = role.read("a.pdf", range(1, 101), enrich=False, chars=10_000_000, deadline=Deadline.after(60))
    assert (await anext(stream)).chars == 8_000_000
    with pytest.raises(DocumentTooLarge, match="20 million characters"):
        await anext(stream)


async def test_a_range_is_allowed_the_images_that_those_before_it_left(role: Pdf, cancelled: list[Any]) -> None:
    allowed: dict[int, Allowance] = {}

    def act(path: str, part: Range, setup: Setup) -> Report:
        assert setup.images
        allowed[part.pages[0]] = setup.images
        first = part.pages[0]
        return Report(part.pages, images=(Taken(first, f"{first}", 30), Taken(first, "on each", 5)))

    task = FakeReading(reads)
    task.act = act
    role._read_range = task
    most = Allowance(100, {"before"})
    stream = role.read("a.pdf", range(1, 25), enrich=False, details=True, images=most, deadline=Deadline.after(60))
    assert len([found async for found in stream]) == 6
    # Four were under way before anything was known; then an image counts once, and nothing is left at last.
    assert [allowed[page] for page in (1, 5, 9, 13)] == [most] * 4
    assert [allowed[page].left for page in (17, 21)] == [0, 0]
    assert allowed[17].sent == {"before", "on each", "1", "5", "9", "13"}
    assert most == Allowance(100, {"before"})


async def test_a_document_has_its_limit_whatever_the_deadline(role: Pdf, cancelled: list[Any]) -> None:
    role._settings = role._settings.model_copy(update={"document_timeout_s": 0.01})
    with pytest.raises(DeadlineExceeded):
        await run(role, lambda part: asyncio.get_running_loop().create_future(), 4)
    assert len(cancelled) == 1


async def test_trouble_of_the_cluster_may_be_tried_again(role: Pdf) -> None:
    with pytest.raises(Unavailable):
        await run(role, lambda part: RaySystemError("gone"), 1)


# --- scans with heads and feet ---


class Library(FakeReading):
    """Tasks over a document whose pages are all scanned; each page has its number 60 points from the bottom."""

    def __init__(self, role: Pdf, pages: int, *, bad: int = 0, broken: bool = False) -> None:
        super().__init__(self.read)
        self.bad, self.broken = bad, broken
        self.enriched: list[tuple[str, tuple[int, ...]]] = []
        self.surveys: list[Survey | None] = []
        scanned: list[tuple[int, Why]] = [(page, "absent") for page in range(1, pages + 1)]
        known = Survey(scanned=tuple(scanned[:4]))
        role._survey_file = FakeTask(lambda path, setup: known)
        role._read_range = self
        enrich = FakeTask(self.enrich)
        role._enrich_range = SimpleNamespace(
            remote=lambda readings, pages, setup: (enrich.remote(readings, pages, setup), f"chunks of {pages}")
        )

    def read(self, part: Range) -> Any:
        if not part.whys:
            return Report((), tuple((page, "absent") for page in part.pages))
        if self.bad in part.pages:
            return WorkerCrashedError()
        margins = (Margins(page, (Row(((0, 1),), True, 60.0, f"{page}"),)) for page in part.pages)
        return Report(part.pages, margins=tuple(margins))

    def enrich(self, readings: str, pages: tuple[int, ...], setup: Setup) -> Any:
        self.enriched.append((readings, pages))
        self.surveys.append(setup.survey)
        return WorkerCrashedError() if self.broken else Report(pages)

    async def run(self, role: Pdf, pages: Sequence[int]) -> list[Found]:
        stream = role.read("a.pdf", pages, enrich=True, deadline=Deadline.after(60))
        return sorted([(found.pages, found.readings) async for found in stream])


async def test_scans_are_cut_into_chunks_when_their_margins_are_known(role: Pdf) -> None:
    library = Library(role, 6)
    found = await library.run(role, range(1, 7))
    assert found == [((1, 2), "chunks of (1, 2)"), ((3, 4), "chunks of (3, 4)"), ((5, 6), "ref of (5, 6)")]
    assert sorted(library.enriched) == [("ref of (1, 2)", (1, 2)), ("ref of (3, 4)", (3, 4))]
    # Those that show what repeats are read without chunks, the others with what those showed.
    models = {part.pages: (setup.model, setup.survey) for _, part, setup in library.calls if part.whys}
    assert [models[pages][0] is None for pages in ((1, 2), (3, 4), (5, 6))] == [True, True, False]
    known = models[5, 6][1]
    assert known
    assert known.scanned_furniture.numbers == {(True, 0, 60.0)}
    assert library.surveys == [known, known]


async def test_pages_that_are_there_already_are_only_looked_at(role: Pdf) -> None:
    library = Library(role, 6)
    found = await library.run(role, [2, 6])
    assert [pages for pages, _ in found] == [(2,), (6,)]
    assert library.enriched == [("ref of (1, 2)", (2,))]


async def test_a_page_that_cannot_be_looked_at_is_an_error_once(role: Pdf) -> None:
    library = Library(role, 4, bad=2)
    found = await library.run(role, range(1, 5))
    assert sorted(page for pages, _ in found for page in pages) == [1, 2, 3, 4]
    assert len([1 for part in library.ranges if 2 in part.pages]) == 2


async def test_where_cutting_into_chunks_fails_the_pages_are_read_again(role: Pdf) -> None:
    library = Library(role, 4, broken=True)
    assert [pages for pages, _ in await library.run(role, range(1, 5))] == [(1, 2), (3, 4)]
    assert all(setup.model for _, part, setup in library.calls[-2:])


async def test_the_number_in_flight_is_bounded(role: Pdf) -> None:
    started = asyncio.Event()
    flying: list[asyncio.Future[Any]] = []

    def act(part: Range) -> asyncio.Future[Any]:
        flying.append(asyncio.get_running_loop().create_future())
        if len(flying) == 4:
            started.set()
        return flying[-1]

    reading = asyncio.create_task(run(role, act, 100))
    await started.wait()
    await asyncio.sleep(0)
    assert len(flying) == 4  # twice the CPUs
    flying[0].set_result(Report((1,)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(flying) == 5
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_closing_the_iterator_kills_what_still_runs(role: Pdf, cancelled: list[Any]) -> None:
    def act(part: Range) -> Any:
        return reads(part) if 1 in part.pages else asyncio.get_running_loop().create_future()

    task = FakeReading(act)
    role._read_range = task
    stream: Any = role.read("a.pdf", range(1, 13), enrich=False, deadline=Deadline.after(60))
    assert (await anext(stream)).pages[0] == 1
    assert (await role.health(deadline=Deadline.after(1))).detail["documents"] == 1
    await stream.aclose()
    assert cancelled == task.refs[1:]
    assert (await role.health(deadline=Deadline.after(1))).detail["documents"] == 0


async def test_the_deadline_kills_what_still_runs(role: Pdf, cancelled: list[Any]) -> None:
    with pytest.raises(DeadlineExceeded):
        await run(role, lambda part: asyncio.get_running_loop().create_future(), 4, seconds=0.01)
    assert len(cancelled) == 1


async def test_an_expired_deadline_starts_nothing(role: Pdf) -> None:
    with pytest.raises(DeadlineExceeded):
        await run(role, reads, 4, seconds=-1)


async def test_inspect_and_render_return_what_their_tasks_do(role: Pdf) -> None:
    role._inspect_file = FakeTask(lambda path, setup: DocumentInfo(3))
    role._render_page = FakeTask(lambda *args: b"png")
    assert await role.inspect("a.pdf", deadline=Deadline.after(60)) == DocumentInfo(3)
    assert await role.render("a.pdf", 2, ((1, 2, 3, 4),), 72, deadline=Deadline.after(60)) == b"png"
    assert role._render_page.calls[0][:4] == ("a.pdf", 2, ((1, 2, 3, 4),), 72)


async def test_errors_of_light_tasks_have_our_types(role: Pdf) -> None:
    role._inspect_file = FakeTask(lambda path, setup: in_ray(EmptyFile("empty")))
    with pytest.raises(EmptyFile) as caught:
        await role.inspect("a.pdf", deadline=Deadline.after(60))
    assert type(caught.value) is EmptyFile
    role._inspect_file = FakeTask(lambda path, setup: WorkerCrashedError())
    with pytest.raises(ReadingFailed, match="opening the PDF crashed"):
        await role.inspect("a.pdf", deadline=Deadline.after(60))


async def test_a_process_killed_from_outside_while_it_opens_a_file_costs_nothing(role: Pdf) -> None:
    deaths = iter([WorkerCrashedError()])
    role._inspect_file = FakeTask(lambda path, setup: next(deaths, None) or DocumentInfo(3))
    assert await role.inspect("a.pdf", deadline=Deadline.after(60)) == DocumentInfo(3)


async def test_a_file_that_hangs_while_it_is_opened_is_tried_once(role: Pdf, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("actors.pdf.time.monotonic", lambda: now)

    def hang(path: str, setup: Setup) -> Exception:
        nonlocal now
        now += 7
        return WorkerCrashedError()

    role._inspect_file = FakeTask(hang)
    with pytest.raises(ReadingFailed, match="opening the PDF crashed"):
        await role.inspect("a.pdf", deadline=Deadline.after(60))
    assert len(role._inspect_file.calls) == 1


async def test_light_tasks_are_bounded_and_killed_when_late(role: Pdf, cancelled: list[Any]) -> None:
    role._inspect_file = FakeTask(lambda path, setup: asyncio.get_running_loop().create_future())
    calls = [asyncio.create_task(role.inspect("a.pdf", deadline=Deadline.after(0.2))) for _ in range(9)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(role._inspect_file.calls) == module.INSPECTIONS
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 9
    # Those that ended together may have let another begin just before its own time was up.
    assert len(role._inspect_file.calls) == len(cancelled)


async def test_one_kind_of_light_task_does_not_hold_up_another(role: Pdf, cancelled: list[Any]) -> None:
    role._inspect_file = FakeTask(lambda path, setup: asyncio.get_running_loop().create_future())
    role._render_page = FakeTask(lambda *args: b"png")
    role._survey_file = FakeTask(lambda path, setup: Survey())
    hostile = [asyncio.create_task(role.inspect("a.pdf", deadline=Deadline.after(60))) for _ in range(9)]
    for _ in range(50):
        await asyncio.sleep(0)
    assert await role.render("a.pdf", 1, (), 72, deadline=Deadline.after(5)) == b"png"
    assert await role._survey("a.pdf", Deadline.after(5)) == Survey()
    for call in hostile:
        call.cancel()
    await asyncio.gather(*hostile, return_exceptions=True)


async def test_more_light_tasks_than_may_wait_are_refused(
    role: Pdf, cancelled: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    role._inspect_file = FakeTask(lambda path, setup: asyncio.get_running_loop().create_future())
    calls = [
        asyncio.create_task(role.inspect("a.pdf", deadline=Deadline.after(60)))
        for _ in range(module.INSPECTIONS + module.QUEUE)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(call.done() for call in calls)
    with pytest.raises(Overloaded, match="files to be opened wait already"):
        await role.inspect("a.pdf", deadline=Deadline.after(60))
    role._inspect_file.refs[0].set_result(DocumentInfo(1))
    assert await calls[0] == DocumentInfo(1)
    again = asyncio.create_task(role.inspect("a.pdf", deadline=Deadline.after(60)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not again.done()
    for call in (*calls, again):
        call.cancel()
    await asyncio.gather(*calls, again, return_exceptions=True)


# --- what a task does -----------------------------------------------------------------------------------------------


def setup(settings: Settings, *, model: str | None = None) -> Setup:
    return Setup(settings.pdf, model, settings.logs, {"request_id": "r1"})


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of three pages, the second without a text layer; logs of the task are not set up in this process."""
    monkeypatch.setattr(module, "_set_up_process", lambda logs: None)
    monkeypatch.setattr(tasks, "check_ocr", lambda languages: None)
    with pymupdf.open() as document:
        document.new_page().insert_text((50, 50), "Titan is a moon of Saturn.")
        document.new_page().draw_circle((100, 100), 50)
        document.new_page().insert_text((50, 50), "Rhea is another.")
        document.save(tmp_path / "a.pdf")
    return str(tmp_path / "a.pdf")


def test_a_node_without_a_language_pack_reads_text_and_no_scans(mixed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(languages: tuple[str, ...]) -> None:
        raise ReadingFailed(f"Tesseract has no language pack {languages[0]}.")

    monkeypatch.setattr(tasks, "check_ocr", missing)
    report, _ = read_range(mixed, Range((1, 2)), setup(load({})))
    assert (report.done, report.scanned) == ((1,), ((2, "absent"),))
    with capture_logs() as lines, pytest.raises(Unavailable, match="not set up for scanned ones") as refusal:
        read_range(mixed, Range((2,), ("absent",)), setup(load({})))
    assert [(line["event"], line["error"]) for line in lines] == [
        ("node_cannot_recognise", "Tesseract has no language pack eng.")
    ]
    assert "eng" not in refusal.value.detail


def test_a_text_range_leaves_scanned_pages(mixed: str, settings: Settings) -> None:
    report, readings = read_range(mixed, Range((1, 2, 3)), setup(settings))
    assert report == Report((1, 3), ((2, "absent"),), chars=42)
    assert [reading.page.text for reading in readings] == ["Titan is a moon of Saturn.", "Rhea is another."]
    assert all(reading.chunks == () for reading in readings)


def test_a_scanned_range_is_recognised(mixed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def read(document: Any, wanted: Any, **options: Any) -> list[Page]:
        seen.update(options, wanted=wanted)
        return [Page(2, 1, 1, "seen", Words())]

    monkeypatch.setattr(ocr, "read", read)
    report, readings = read_range(mixed, Range((2,), ("absent",)), setup(settings))
    assert readings == (PageReading(Page(2, 1, 1, "seen", Words())),)
    assert report == Report((2,), chars=4, margins=(Margins(2, ()),))
    assert seen["wanted"] == [(2, "absent")]
    assert seen["languages"] == ("eng",)
    assert seen["timeout_s"] < 7


def test_enriching_adds_chunks_and_mentions(mixed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(Mention("Titan", "LOC", 0, 5),), ()]
    monkeypatch.setattr(mentions, "find_mentions", lambda texts, model: found)
    monkeypatch.setattr(mentions, "load", lambda model: None)
    _, (first, last) = read_range(mixed, Range((1, 3)), setup(settings, model="rules"))
    assert [chunk.text for chunk in first.chunks] == ["Titan is a moon of Saturn."]
    assert [(mention.text, mention.page) for mention in first.mentions] == [("Titan", 1)]
    assert last.mentions == ()


@pytest.fixture
def enriching(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setattr(mentions, "find_mentions", lambda texts, model: [() for _ in texts])
    monkeypatch.setattr(mentions, "load", lambda model: None)
    return replace(setup(settings, model="rules"), encoder=settings.encoder)


def test_enriching_embeds_all_chunks_of_a_range_at_once(
    mixed: str, enriching: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FakeEncoder()
    monkeypatch.setattr(encoders, "local", lambda settings, *, threads: encoder)
    _, readings = read_range(mixed, Range((1, 3)), enriching)
    for reading in readings:
        assert reading.embeddings is not None
        assert reading.embeddings.encoder == "fake@1"
        assert reading.embeddings.array == pytest.approx(encoder.vectors([chunk.text for chunk in reading.chunks]))
    first, _ = readings
    assert len(first.chunks) == 1


def test_what_cannot_be_embedded_is_read_all_the_same(
    mixed: str, enriching: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(settings: Any, *, threads: int) -> Any:
        raise Unavailable("The file of the encoder is not the expected one.")

    monkeypatch.setattr(encoders, "local", refuse)
    with capture_logs() as lines:
        _, (first, _) = read_range(mixed, Range((1, 3)), enriching)
    assert len(first.chunks) == 1
    assert first.embeddings is None
    assert [line["event"] for line in lines] == ["chunks_not_embedded"]


def test_the_watchdog_guards_each_page(mixed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    armed: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: armed.append(seconds))
    read_range(mixed, Range((1, 2, 3)), setup(settings))
    # For opening the file, for both parts of the work on each page, and for what is done of all pages at once.
    assert (armed[1::2], armed[0]) == ([0] * 8, 7)
    assert all(6 < seconds <= 7 for seconds in armed[2::2])


def test_all_that_is_done_about_a_page_shares_its_time(
    mixed: str, enriching: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    armed: list[float] = []

    @contextmanager
    def clock(seconds: float) -> Iterator[None]:
        armed.append(seconds)
        yield
        now[0] += 1

    monkeypatch.setattr(limits, "clock", clock)
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    wanted = replace(enriching, details=True, images=Allowance(1000), encoder=None)
    read_range(mixed, Range((1, 3)), wanted)
    # Models; opening; both extracted, composed together in the last one's time, finished, searched for tables, for
    # images; enriched by what they left together.
    assert armed == [7, 7, 7, 7, 6, 6, 5, 5, 4, 4, 3, 5]

    monkeypatch.setattr(ocr, "read", lambda *_, **__: [Page(number, 1, 1, "", Words()) for number in (2, 3)])
    armed.clear()
    read_range(mixed, Range((2, 3), ("absent", "absent")), wanted)
    # Besides, to see what Tesseract has.
    assert armed == [7, 7, 7, 14, 13, 12, 11, 10, 9]


def test_models_are_loaded_in_time_of_their_own_and_slow_pages_leave_some_for_their_chunks(
    mixed: str, enriching: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[float] = []
    loaded: list[tuple[str, float]] = []
    now = [0.0]

    @contextmanager
    def clock(seconds: float) -> Iterator[None]:
        running.append(seconds)
        yield
        now[0] += 4

    def model(name: str) -> None:
        loaded.append((name, running[-1]))

    def encoder(settings: Any, *, threads: int) -> FakeEncoder:
        loaded.append(("encoder", running[-1]))
        return FakeEncoder()

    monkeypatch.setattr(limits, "clock", clock)
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(mentions, "load", model)
    monkeypatch.setattr(encoders, "local", encoder)
    _, (first, _) = read_range(mixed, Range((1, 3)), enriching)
    assert first.embeddings
    assert loaded[:2] == [("rules", 7), ("encoder", 7)]
    # Both pages took longer than they may, in several steps.
    assert running[-1] == 3.5
    loaded.clear()
    tasks.enrich_range([PageReading(first.page)], (1,), enriching)
    assert loaded[:2] == [("rules", 7), ("encoder", 7)]


def test_limits_are_checked_before_work(mixed: str) -> None:
    small = load({"pdf.max_file_mb": 0.0001})
    with pytest.raises(DocumentTooLarge, match=r"limit is 0.0001 MB"):
        read_range(mixed, Range((1,)), setup(small))
    with pytest.raises(DocumentTooLarge, match=r"limit is 0.0001 MB"):
        tasks.inspect_file(mixed, setup(small))
    with pytest.raises(DocumentTooLarge, match=r"limit is 0.0001 MB"):
        tasks.render_page(mixed, 1, (), 72, setup(small))
    with pytest.raises(DocumentTooLarge, match="3 pages; the limit is 2"):
        read_range(mixed, Range((1,)), setup(load({"pdf.max_pages": 2})))


@pytest.mark.parametrize(("resident", "retired"), [(599, False), (601, True)])
def test_a_process_that_grew_is_retired_after_its_task(
    mixed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, resident: int, retired: bool
) -> None:
    calls: list[int] = []
    confined: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "_retire", calls.append)
    monkeypatch.setattr(limits, "confine", lambda *mb: confined.append(mb))
    monkeypatch.setattr(limits, "resident_memory", lambda: resident * limits.MB)
    report, _ = module.confined(read_range)(mixed, Range((1,)), setup(settings))
    assert report.done == (1,)
    assert calls == ([settings.pdf.task_max_calls] if retired else [])
    assert confined == [(1500, 161)]


# --- beside questions -----------------------------------------------------------------------------------------------


async def test_a_missing_language_pack_is_an_error_at_start(role: Pdf, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(languages: tuple[str, ...]) -> None:
        assert languages == ("eng",)
        raise ReadingFailed("Tesseract has no language pack eng.")

    monkeypatch.setattr(tasks, "check_ocr", missing)
    with pytest.raises(ReadingFailed, match="no language pack eng"):
        await role.start()


async def test_ingestion_is_bounded_over_all_documents(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, cancelled: list[Any]
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    role = Pdf(settings.pdf, settings.entities, settings.encoder, settings.logs, ingest_cpus=2)
    most = 0

    async def survey(path: str, deadline: Deadline) -> None:
        return None

    async def outcome(report: Any) -> Report:
        nonlocal most
        most = max(most, role._ingesting.inside)
        await asyncio.sleep(0)
        return Report(report.pages)

    monkeypatch.setattr(role, "_survey", survey)
    monkeypatch.setattr(module, "_outcome", outcome)

    class Task:
        def remote(self, path: str, part: Range, setup: Setup) -> tuple[Range, tuple[()]]:
            return part, ()

    role._read_range = Task()

    async def ingest() -> int:
        stream = role.read("a.pdf", range(1, 41), enrich=True, deadline=Deadline.after(60))
        return sum([len(found.pages) async for found in stream])

    assert list(await asyncio.gather(ingest(), ingest(), ingest())) == [40, 40, 40]
    assert most == 2
    assert role._ingesting.inside == 0
