"""POST /v1/extract over a Pdf that is faked: forms, pages, order, bounds, and the end of it all."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import structlog.testing
from fakes import FakePdf, page_reading
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, DocumentTooLarge, EncryptedPdf, InvalidInput, ReadingFailed, Unavailable
from actors.messages import DocumentInfo, OutlineItem, Page, PageImage, PageLink, PageRange, Table, Words
from actors.pdf import Pdf
from actors.reading import limits
from actors.reading.allowance import Allowance
from config.settings import load
from serve.app import BODY_LIMIT, create_app
from serve.extraction import Selection, encode, markdown, page_value, pipes
from serve.routes import extract
from serve.services import Roles, Services

BODY = b"%PDF-1.7 whatever"
FORM = {"content-type": "multipart/form-data; boundary=frontier"}


@dataclass
class Reader(FakePdf):
    """A FakePdf that can also be inspected."""

    info: DocumentInfo = DocumentInfo(3, "Moons", {"author": "Ann"})  # noqa: RUF009 - frozen
    refusal: Exception | None = None
    path: str = ""
    deadline: Deadline | None = None
    images: tuple[PageImage, ...] = ()
    allowed: list[Allowance | None] = field(default_factory=list)

    async def read(self, path: str, pages: Sequence[int], **how: Any) -> AsyncIterator[PageRange]:
        self.allowed.append(how["images"])
        async for part in super().read(path, pages, **how):
            readings = (replace(each, page=replace(each.page, images=self.images)) for each in part.readings)
            yield replace(part, readings=tuple(readings))

    async def inspect(self, path: str, *, deadline: Deadline) -> DocumentInfo:
        self.path, self.deadline = path, deadline
        assert (await asyncio.to_thread(Path(path).read_bytes)).startswith(b"%PDF-")
        if self.refusal:
            raise self.refusal
        return self.info


@pytest.fixture
def reader() -> Reader:
    return Reader()


async def application(reader: Reader, folder: Path, **settings: Any) -> FastAPI:
    unused = cast("Any", None)
    roles = cast("Roles", SimpleNamespace(pdf=reader))
    # As at the start of a replica: reading files is no call's business.
    loaded = await asyncio.to_thread(load, {"data_dir": folder, **settings})
    return await asyncio.to_thread(create_app, Services(loaded, roles, unused, unused, unused))


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def post(app: FastAPI, *, accept: str = "*/*", content: bytes = BODY, **params: Any) -> httpx.Response:
    async with client(app) as http:
        files = {"file": ("a.pdf", content)}
        return await http.post("/v1/extract", params=params, files=files, headers={"accept": accept})


def left(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- forms ----------------------------------------------------------------------------------------------------------


async def test_json_has_the_document_and_every_page(reader: Reader, tmp_path: Path) -> None:
    answer = await post(await application(reader, tmp_path))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    value = answer.json()
    assert value["document"]["pages"] == 3
    assert (value["document"]["title"], value["document"]["metadata"]) == ("Moons", {"author": "Ann"})
    assert [page["number"] for page in value["pages"]] == [1, 2, 3]
    first = value["pages"][0]
    assert (first["width"], first["height"], first["text"]) == (595.0, 842.0, "Titan orbits Saturn.")
    assert first["words"][0] == {"text": "Titan", "start": 0, "end": 5, "box": [72.0, 72.0, 110.0, 84.0]}
    assert first["ocr"] is None
    assert left(tmp_path) == []
    assert not Path(reader.path).exists()


async def test_text_is_pages_ended_by_form_feeds(reader: Reader, tmp_path: Path) -> None:
    answer = await post(await application(reader, tmp_path), format="text", pages="2-3")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == "Titan orbits Saturn.\n\f" * 2
    assert reader.calls == [(2, 3)]


async def test_a_page_that_cannot_be_read_is_told_in_every_form(reader: Reader, tmp_path: Path) -> None:
    reader.unreadable = frozenset({2})
    app = await application(reader, tmp_path)
    value = (await post(app)).json()
    assert value["unread"] == [2]
    assert value["pages"][1]["error"]
    for form in ("text", "markdown"):
        assert (await post(app, format=form)).headers["x-unread-pages"] == "2"
    assert "not read" in (await post(app, format="markdown")).text
    assert lines_of(await post(app, stream=True))[-1] == {"end": {"pages": 3, "unread": [2]}}


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.content.endswith(b"\n")
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("how", [{"accept": "application/x-ndjson"}, {"stream": True}])
async def test_lines_are_the_document_its_pages_and_the_end(
    reader: Reader, tmp_path: Path, how: dict[str, Any]
) -> None:
    reader.scanned = frozenset({1})
    document, *pages, end = lines_of(await post(await application(reader, tmp_path), **how))
    assert document["document"]["title"] == "Moons"
    assert [line["page"]["number"] for line in pages] == [1, 2, 3]
    assert end == {"end": {"pages": 3, "unread": []}}
    assert left(tmp_path) == []


async def test_lines_hold_the_form_that_was_asked_for(reader: Reader, tmp_path: Path) -> None:
    lines = lines_of(await post(await application(reader, tmp_path), stream=True, format="markdown", pages="3"))
    assert lines[1] == {"page": {"number": 3, "markdown": "<!-- page 3 -->\n\nTitan orbits Saturn.\n\n", "error": None}}


PICTURE = PageImage((0, 0, 9, 9), 3, 2, "image/png", b"PNG", "abc")


async def test_images_have_their_bytes_only_where_these_are_asked_for(reader: Reader, tmp_path: Path) -> None:
    reader.images = (PICTURE, replace(PICTURE, data=b"PNG!", sha256="def"))
    app = await application(reader, tmp_path, **{"pdf.max_images_mb": 7e-6})
    place = {"box": [0, 0, 9, 9], "width": 3, "height": 2}
    value = (await post(app)).json()
    assert value["pages"][0]["images"] == [place, place]
    assert "truncated" not in value
    value = (await post(app, images=True, pages="1-2")).json()
    first, second = value["pages"]
    assert first["images"] == [
        {**place, "media_type": "image/png", "sha256": "abc", "data": "UE5H", "omitted": None},
        {**place, "media_type": "image/png", "sha256": "def", "data": "UE5HIQ==", "omitted": None},
    ]
    # All of the seven bytes are spent.
    assert [(image["data"], image["omitted"]) for image in second["images"]] == [(None, "size")] * 2
    assert value["truncated"] is True
    *_, last, end = lines_of(await post(app, images=True, pages="2", stream=True))
    assert [image["data"] for image in last["page"]["images"]] == ["UE5H", "UE5HIQ=="]
    assert end == {"end": {"pages": 1, "unread": [], "truncated": False}}


async def test_a_window_is_allowed_what_those_before_it_left(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "WINDOW", 1)
    reader.images = (PICTURE,)
    app = await application(reader, tmp_path, **{"pdf.max_images_mb": 7e-6})
    await post(app, images=True)
    assert reader.allowed == [Allowance(7), Allowance(4, {"abc"}), Allowance(4, {"abc"})]


async def test_text_has_no_place_for_images(reader: Reader, tmp_path: Path) -> None:
    answer = await post(await application(reader, tmp_path), images=True, format="text")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert reader.calls == []


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"stream": True}])
async def test_an_error_before_the_first_line_is_a_status(reader: Reader, tmp_path: Path, how: dict[str, Any]) -> None:
    reader.refusal = EncryptedPdf("The PDF needs a password.")
    answer = await post(await application(reader, tmp_path), **how)
    assert (answer.status_code, answer.json()["code"]) == (422, "encrypted_pdf")
    assert left(tmp_path) == []


async def test_an_error_on_the_way_is_a_status_or_the_last_line(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path)
    reader.breaks_before = {2: ReadingFailed("The file is damaged.")}
    assert (await post(app)).json()["code"] == "reading_failed"
    reader.breaks_before = {2: ReadingFailed("The file is damaged.")}
    *_, page, last = lines_of(answer := await post(app, stream=True))
    assert page["page"]["number"] == 1
    problem = last["problem"]
    assert (problem["status"], problem["code"], problem["detail"]) == (422, "reading_failed", "The file is damaged.")
    assert answer.status_code == 200
    assert problem["request_id"]
    assert left(tmp_path) == []


async def test_a_defect_on_the_way_says_nothing_of_itself(reader: Reader, tmp_path: Path) -> None:
    reader.breaks_before = {2: ZeroDivisionError("secret")}
    with structlog.testing.capture_logs() as logged:
        answer = await post(await application(reader, tmp_path), stream=True)
    assert lines_of(answer)[-1]["problem"]["code"] == "internal"
    assert "secret" not in answer.text
    assert [entry["event"] for entry in logged] == ["defect", "request"]


@pytest.mark.parametrize("pages", ["0", "x", "4-", "3-1", "2,,3", "4", "1-4", "9999999999", "1.5", "-1", "1 2", "٣"])
async def test_bad_pages_are_422(reader: Reader, tmp_path: Path, pages: str) -> None:
    answer = await post(await application(reader, tmp_path), pages=pages)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "pages" in answer.json()["detail"]
    assert reader.calls == []
    assert left(tmp_path) == []


async def test_other_parameters_are_checked(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path)
    for params in ({"format": "docx"}, {"timeout_ms": 0}, {"timeout_ms": 10**400}, {"pages": "1," * 600}):
        assert (await post(app, **params)).status_code == 422


async def test_the_deadline_is_the_clients_within_the_systems(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path, **{"pdf.document_timeout_s": 20})
    await post(app, timeout_ms=5000)
    assert reader.deadline
    assert reader.deadline.remaining() <= 5
    await post(app, timeout_ms=500_000)
    assert 5 < reader.deadline.remaining() <= 20


async def test_the_time_of_the_upload_is_not_the_readings(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("actors.deadline.time.time", lambda: now)

    async def slow() -> AsyncIterator[bytes]:
        nonlocal now
        body = form()
        for start in range(0, len(body), 50):
            # The last pieces may hold nothing but what closes the form, and come when the file has been taken.
            now += 10 if start < len(body) - 200 else 0
            yield body[start : start + 50]

    async with client(await application(reader, tmp_path)) as http:
        answer = await http.post("/v1/extract", params={"timeout_ms": 5000}, content=slow(), headers=FORM)
    assert answer.status_code == 200, answer.text
    assert reader.deadline == Deadline(now + 5)


async def test_an_inspection_may_take_longer_than_a_page(reader: Reader, tmp_path: Path) -> None:
    # At the same moment, chance would say whether the file is to blame or the system.
    app = await application(reader, tmp_path, **{"pdf.page_timeout_s": 100})
    await post(app)
    assert reader.deadline
    assert 105 < reader.deadline.remaining() < 200


async def test_an_upload_may_be_larger_than_other_bodies(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path, **{"api.max_upload_mb": 3})
    assert (await post(app, content=BODY + bytes(BODY_LIMIT))).status_code == 200
    answer = await post(app, content=BODY + bytes(3_000_000))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert left(tmp_path) == []


async def test_an_answer_over_its_limit_asks_to_be_streamed(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path, **{"api.max_extract_mb": 0.0005})
    answer = await post(app)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert len(lines_of(await post(app, stream=True))) == 5


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"url": "http://127.0.0.1/a.pdf"}, 403),
        ({"url": "http://user@example.org/"}, 403),
        ({"url": "nonsense"}, 403),
        ({"url": "http://"}, 422),
        ({"url": 7}, 422),
        ({}, 422),
        ({"url": "http://127.0.0.1/", "colour": "red"}, 422),
        ([], 422),
    ],
)
@pytest.mark.parametrize("path", ["/v1/extract", "/v1/documents"])
async def test_a_url_is_vetted_on_both_ways_in(
    reader: Reader, tmp_path: Path, path: str, body: Any, status: int
) -> None:
    async with client(await application(reader, tmp_path)) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert left(tmp_path) == []


async def test_json_that_is_none_or_endless_is_400(reader: Reader, tmp_path: Path) -> None:
    async with client(await application(reader, tmp_path)) as http:
        for content in (b"{", b"[" * 300_000):
            answer = await http.post("/v1/extract", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text


# --- bounds ---------------------------------------------------------------------------------------------------------


async def test_more_than_the_bound_are_turned_away_before_their_body_is_read(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path, **{"api.max_extractions": 1})
    reader.gate = asyncio.Event()
    first = asyncio.create_task(post(app, stream=True))
    await reader.reached.wait()
    refused = await post(app)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert refused.headers["retry-after"]
    reader.gate.set()
    assert len(lines_of(await first)) == 5
    assert (await post(app)).status_code == 200


class Shuffled:
    """Gives ranges in an order of its own, and counts what it has given."""

    def __init__(self, parts: Sequence[tuple[int, ...]]) -> None:
        self.parts = parts
        self.given = 0
        self.asked: list[tuple[int, ...]] = []
        self.closed = 0

    async def read(
        self,
        path: str,
        pages: Sequence[int],
        *,
        enrich: bool,
        details: bool,
        images: Allowance | None = None,
        deadline: Deadline,
    ) -> AsyncIterator[PageRange]:
        assert (enrich, details) == (False, True)
        self.asked.append(tuple(pages))
        try:
            for part in self.parts:
                if wanted := tuple(page for page in part if page in pages):
                    self.given += 1
                    yield PageRange(wanted, tuple(map(page_reading, wanted)))
        finally:
            self.closed += 1


def in_order(pdf: Shuffled, pages: Sequence[int], *, max_text_mb: float = 1) -> Any:
    deadline = Deadline.after(60)
    return extract.in_order(cast("Pdf", pdf), "a.pdf", pages, details=True, max_text_mb=max_text_mb, deadline=deadline)


@given(data=st.data(), pages=st.sets(st.integers(1, 600), min_size=1, max_size=60))
async def test_pages_come_in_order_each_once_however_they_are_read(data: st.DataObject, pages: set[int]) -> None:
    cuts: dict[int, list[int]] = {}
    for page in sorted(pages):
        cuts.setdefault(data.draw(st.integers(0, 8)), []).append(page)
    parts = data.draw(st.permutations([tuple(part) for part in cuts.values()]))
    pdf = Shuffled(parts)
    assert [page.number async for page in in_order(pdf, sorted(pages))] == sorted(pages)
    assert pdf.closed == len(pdf.asked)


async def test_a_window_is_read_when_the_one_before_has_been_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "WINDOW", 4)
    pdf = Shuffled([(page,) for page in range(1, 13)])
    pages = in_order(pdf, range(1, 13))
    for _ in range(4):
        await anext(pages)
    assert (pdf.asked, pdf.given) == ([(1, 2, 3, 4)], 4)
    await anext(pages)
    assert (len(pdf.asked), pdf.given) == (2, 5)
    await pages.aclose()
    assert pdf.closed == 2


async def test_a_page_that_never_comes_is_no_quiet_end() -> None:
    pages = in_order(Shuffled([(1, 2), (4, 5)]), range(1, 6))
    assert [(await anext(pages)).number for _ in range(2)] == [1, 2]
    with pytest.raises(Unavailable, match="lost on their way"):
        await anext(pages)


def test_a_message_that_quotes_the_file_cannot_end_the_comment() -> None:
    page = Page(1, 0, 0, "", Words(), error="bad name x---><script>alert(1)</script>")
    told = markdown(page, DocumentInfo(1, ""))
    assert told.count("-->") == 1
    assert told.endswith(" -->\n\n")


async def test_the_text_is_limited_over_all_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "WINDOW", 2)
    length = len(page_reading(1).page.text)
    pdf = Shuffled([(page,) for page in range(1, 10)])
    pages = in_order(pdf, range(1, 10), max_text_mb=5 * length / limits.MB)
    for _ in range(5):
        await anext(pages)
    with pytest.raises(DocumentTooLarge, match="The text of the PDF is longer"):
        await anext(pages)
    assert pdf.closed == 3


# --- clients that go away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [b"stream=true", b"format=json"])
async def test_when_the_client_goes_the_reading_ends_and_nothing_is_left(
    reader: Reader, tmp_path: Path, query: bytes
) -> None:
    reader.gate = asyncio.Event()  # never set: the next page is long in coming
    app = await application(reader, tmp_path)
    request = httpx.Request("POST", "http://test/v1/extract", files={"file": ("a.pdf", BODY)})
    messages = [{"type": "http.request", "body": request.read(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await reader.reached.wait()
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/extract",
        "raw_path": b"/v1/extract",
        "query_string": query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
    }
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    assert (reader.calls, reader.closed) == ([(1, 2, 3)], 1)
    assert not any(message.get("more_body") is False for message in sent)
    assert left(tmp_path) == []
    assert app.state.extractions.inside == 0


async def test_a_cancelled_request_ends_the_reading(reader: Reader, tmp_path: Path) -> None:
    # Ray Serve does that when a client goes away.
    reader.gate = asyncio.Event()
    app = await application(reader, tmp_path)
    request = asyncio.create_task(post(app))
    await reader.reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert reader.closed == 1
    assert left(tmp_path) == []


class Client:
    """A connection of which each step can be held up.

    Attributes:
        body: pieces of the request; after them nothing comes.
        takes: messages of the answer that are taken before no more are.
        sent: what was taken.
    """

    def __init__(self, body: Sequence[bytes], *, takes: int = 10**6, ends: bool = True) -> None:
        self.body = deque(body)
        self.takes = takes
        self.sent: list[Any] = []
        self._ends = ends

    async def receive(self) -> dict[str, Any]:
        if self.body:
            piece = self.body.popleft()
            return {"type": "http.request", "body": piece, "more_body": bool(self.body) or not self._ends}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Any) -> None:
        if len(self.sent) >= self.takes:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def post(
        self, app: FastAPI, query: bytes = b"", *, path: str = "/v1/extract", kind: str = FORM["content-type"]
    ) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "headers": [(b"content-type", kind.encode())],
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http",
        }
        async with asyncio.timeout(10):
            await app(scope, self.receive, self.send)


def form(content: bytes = BODY) -> bytes:
    return httpx.Request("POST", "http://test", files={"file": ("a.pdf", content)}, headers=FORM).read()


@pytest.mark.parametrize(("query", "takes"), [(b"stream=true", 2), (b"format=json", 1)])
async def test_a_client_that_stops_reading_loses_its_place(
    reader: Reader, tmp_path: Path, query: bytes, takes: int
) -> None:
    app = await application(reader, tmp_path, **{"api.stall_s": 0.05})
    stalled = Client([form()], takes=takes)
    with structlog.testing.capture_logs() as logged:
        await stalled.post(app, query)
    assert len(stalled.sent) == takes
    assert "client_stalled" in [entry["event"] for entry in logged]
    assert (reader.closed, app.state.extractions.inside) == (1, 0)
    assert left(tmp_path) == []


@pytest.mark.parametrize("path", ["/v1/extract", "/v1/documents"])
@pytest.mark.parametrize("setting", ["api.stall_s", "api.upload_timeout_s"])
async def test_an_upload_that_does_not_go_on_is_408(reader: Reader, tmp_path: Path, path: str, setting: str) -> None:
    app = await application(reader, tmp_path, **{setting: 0.05})
    slow = Client([form()[:-20]], ends=False)
    await slow.post(app, path=path)
    start, body = slow.sent
    assert start["status"] == 408
    # Or the server would go on taking in what is left of it.
    assert (b"connection", b"close") in start["headers"]
    problem = json.loads(body["body"])
    assert (problem["code"], problem["status"]) == ("request_timeout", 408)
    assert "too slowly" in problem["detail"]
    assert (reader.calls, app.state.extractions.inside) == ([], 0)
    assert left(tmp_path) == []


async def test_a_url_that_does_not_go_on_is_408(reader: Reader, tmp_path: Path) -> None:
    app = await application(reader, tmp_path, **{"api.stall_s": 0.05})
    slow = Client([b'{"url": '], ends=False)
    await slow.post(app, kind="application/json")
    assert slow.sent[0]["status"] == 408


async def test_a_late_reading_is_the_last_line(reader: Reader, tmp_path: Path) -> None:
    reader.breaks_before = {3: DeadlineExceeded("Reading the document did not finish in time.")}
    assert lines_of(await post(await application(reader, tmp_path), stream=True))[-1]["problem"]["status"] == 504


# --- pure parts -----------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20) | st.none()), min_size=1, max_size=8), st.booleans())
def test_a_selection_is_what_is_written(parts: list[tuple[int, int | None]], spaced: bool) -> None:
    written = (", " if spaced else ",").join(
        f"{first}-" if more is None else f"{first}" if more == 0 else f"{first}-{first + more}" for first, more in parts
    )
    expected: set[int] = set()
    for first, more in parts:
        expected.update(range(first, 101) if more is None else range(first, first + more + 1))
    selection = Selection.parse(written)
    assert selection.of(100) == tuple(sorted(expected))
    highest = max(first + (more or 0) for first, more in parts)
    if highest > 1:
        with pytest.raises(InvalidInput):
            selection.of(highest - 1)


@given(st.text(alphabet="0123456789-, x", max_size=12))
def test_any_text_is_a_selection_or_an_error(text: str) -> None:
    try:
        pages = Selection.parse(text).of(30)
    except InvalidInput:
        return
    assert list(pages) == sorted(set(pages))
    assert set(pages) <= set(range(1, 31))
    assert pages


TABLE = Table((0, 100, 200, 130), ("Moon", "Radius"), (("Titan", "2575"), ("Rhea|x", "")), ((110, 120), (120, 130)))


def laid_out(*lines: tuple[str, float]) -> Page:
    """A page of lines of one word, each at its height."""
    text = "\n".join(line for line, _ in lines)
    records, start = [], 0
    for line, top in lines:
        if line:
            records.append((start, start + len(line), 10.0, top, 60.0, top + 8))
        start += len(line) + 1
    return Page(1, 595, 842, text, Words.of(records))


def test_markdown_has_headings_from_the_outline_and_tables_where_they_stand() -> None:
    page = laid_out(
        ("Moons", 10), ("", 0), ("Before", 50), ("Moon", 101), ("Titan", 111), ("After", 200), ("#tag", 220)
    )
    info = DocumentInfo(1, outline=(OutlineItem(2, "MOONS", 1), OutlineItem(1, "After", 2)))
    assert markdown(replace(page, tables=(TABLE,)), info) == (
        "<!-- page 1 -->\n\n## Moons\n\nBefore\n\n"
        "| Moon | Radius |\n| --- | --- |\n| Titan | 2575 |\n| Rhea\\|x |  |\n\n"
        "After\n\\#tag\n\n"
    )


def test_markup_in_the_text_stays_text() -> None:
    page = laid_out(("*a*", 10), ("", 0), ("1.", 20), ("", 0), ("<b>", 30))
    assert markdown(page, DocumentInfo(1)) == "<!-- page 1 -->\n\n\\*a\\*\n\n1.\n\n\\<b>\n\n"
    lists = laid_out(("2000. The last keeper left.", 10), ("1) One", 20), ("1.5 m", 30), ("- and", 40), ("# no", 50))
    # CommonMark escapes punctuation only: a backslash before the number itself would be printed.
    assert markdown(lists, DocumentInfo(1)) == (
        "<!-- page 1 -->\n\n2000\\. The last keeper left.\n1\\) One\n1.5 m\n\\- and\n\\# no\n\n"
    )
    broken = replace(page, error="a --> b")
    assert markdown(broken, DocumentInfo(1)).count("-->") == 1


def test_a_table_without_words_or_header_is_not_lost() -> None:
    headless = replace(TABLE, header=(), rows=(("a",), ("b", "c")))
    assert pipes(headless) == "|  |  |\n| --- | --- |\n| a |  |\n| b | c |"
    assert markdown(replace(laid_out(("x", 10)), tables=(headless,)), DocumentInfo(1)).endswith("| b | c |\n\n")


def test_every_field_of_a_page_comes_through() -> None:
    page = replace(
        laid_out(("Moons", 10)),
        links=(PageLink((0, 0, 1, 1), url="http://a"),),
        images=(PageImage((0, 0, 1, 1), 8, 8),),
        tables=(TABLE,),
        label="iv",
    )
    value = json.loads(encode(page_value(page, "json", DocumentInfo(1))))
    assert set(value) == set(Page.__slots__)
    assert value["links"][0]["url"] == "http://a"
    assert value["tables"][0]["rows"][0] == ["Titan", "2575"]
    assert value["label"] == "iv"
