"""Extraction: a PDF in, its reading out, nothing kept.

The file lies in a temporary one while it is read. Pages are read in windows, several ranges at once, and given out in
the order of the document; what is held is at most a window, wherever the client is. When the client goes away, the
reading ends with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from actors.deadline import Deadline
from actors.errors import DocumentTooLarge, GatherumError, InvalidInput, Unavailable
from actors.messages import DocumentInfo, Page
from actors.pdf import Pdf
from actors.reading import limits
from actors.reading.allowance import Allowance
from actors.store.blobs import Incoming
from config import logs
from serve.extraction import MEDIA_TYPES, Format, Selection, encode, markdown, page_value, plain_text
from serve.problems import documented, problem
from serve.receive import BODY, MB, Fetching, Files, light_deadline, receive
from serve.services import Turnstile, Use
from serve.streaming import Stream, generator, unless_gone

PATH: Final = "/v1/extract"
NDJSON: Final = "application/x-ndjson"
WINDOW: Final = 256
"""Pages asked for together: enough two-page ranges of scans for 64 cores, 13 MB of text that may wait here."""

router = APIRouter(tags=["documents"])


async def _place(request: Request) -> AsyncIterator[None]:
    turnstile: Turnstile = request.app.state.extractions
    with turnstile.entered():
        yield


async def _incoming(blobs: Files) -> AsyncIterator[Incoming]:
    # FastAPI leaves it after the answer has been sent, or has broken off: until then pages are read from the file.
    async with Incoming(blobs) as incoming:
        yield incoming


@router.post(
    PATH,
    response_class=Response,
    dependencies=[Depends(_place)],
    responses={
        200: {"content": {kind.partition(";")[0]: {} for kind in (*MEDIA_TYPES.values(), NDJSON)}},
        **documented(400, 403, 408, 413, 415, 422, 429, 503, 504),
    },
    openapi_extra=BODY,
)
async def extract(
    request: Request,
    services: Use,
    fetcher: Fetching,
    incoming: Annotated[Incoming, Depends(_incoming)],
    format: Annotated[Format, Query(description="Form of the pages.")] = "json",  # noqa: A002 - the parameter's name
    pages: Annotated[str, Query(max_length=1000, description="Such as `1-3,7` or `5-`; all by default.")] = "",
    stream: Annotated[
        bool, Query(description="One JSON line a page, as it is read; also by `Accept: application/x-ndjson`.")
    ] = False,
    images: Annotated[
        bool, Query(description="With the bytes of images, base64; up to pdf.max_images_mb. Only in JSON.")
    ] = False,
    timeout_ms: Annotated[
        int | None,
        Query(ge=1, le=86_400_000, description="Budget of the reading, ms; at most pdf.document_timeout_s."),
    ] = None,
) -> Response:
    """Read a PDF without storing it."""
    settings = services.settings
    if images and format != "json":
        raise InvalidInput(f"images: {format} has no place for them. Ask for format=json.")
    selection = Selection.parse(pages)
    fetched_by = Deadline.after(settings.egress.timeout_s)
    await receive(request, incoming, fetcher, int(settings.api.max_upload_mb * MB), deadline=fetched_by)
    # From here on: how long the file takes to come depends on the client's line, not on what it asks for.
    deadline = Deadline.after(settings.pdf.document_timeout_s)
    if timeout_ms is not None:
        deadline = deadline.within(timeout_ms / 1000)
    path = str(incoming.path)
    info = await services.roles.pdf.inspect(path, deadline=min(deadline, light_deadline(settings.pdf)))
    chosen = selection.of(info.pages)

    reading = Reading(info, format, Allowance(int(settings.pdf.max_images_mb * MB)) if images else None)

    def read() -> AsyncIterator[Page]:
        return in_order(
            services.roles.pdf,
            path,
            chosen,
            details=format != "text",
            images=reading.allowance,
            max_text_mb=settings.pdf.max_text_mb,
            deadline=deadline,
        )

    if stream or NDJSON in request.headers.get("accept", ""):
        return Stream(_lines(read, reading, request.scope["request_id"]), media_type=NDJSON)
    return await unless_gone(request.receive, _whole(read, reading, settings.api.max_extract_mb))


@dataclass(slots=True)
class Reading:
    """What is told of a document, besides its pages.

    Attributes:
        info: what it says of itself.
        form: of its pages.
        allowance: of bytes of images; None where they are not wanted.
        pages: how many were told.
        unread: numbers of those that could not be read.
        truncated: whether images had to be left out because they are too large together.
    """

    info: DocumentInfo
    form: Format
    allowance: Allowance | None = None
    pages: int = 0
    unread: list[int] = field(default_factory=list)
    truncated: bool = False

    def counted(self, page: Page) -> Page:
        """The page as it goes out."""
        self.pages += 1
        if page.error:
            self.unread.append(page.number)
        if self.allowance is None:
            return page
        images = tuple(map(self.allowance.admit, page.images))
        self.truncated = self.truncated or any(image.omitted == "size" for image in images)
        return replace(page, images=images)

    def value(self, page: Page) -> dict[str, Any]:
        """The page, to be encoded."""
        return page_value(page, self.form, self.info, images=self.allowance is not None)

    def outcome(self) -> dict[str, Any]:
        """What can be said at the end."""
        return {"unread": self.unread} | ({} if self.allowance is None else {"truncated": self.truncated})


async def in_order(
    pdf: Pdf,
    path: str,
    pages: Sequence[int],
    *,
    details: bool,
    images: Allowance | None = None,
    max_text_mb: float,
    deadline: Deadline,
) -> AsyncIterator[Page]:
    """Read pages and give them in their order. Closing the iterator ends the reading.

    Args:
        pdf: the role.
        path: of the PDF.
        pages: numbers, ascending.
        details: whether their links, images and tables are wanted.
        images: what the bytes of the images may come to, less what was given out when a window begins; or None.
        max_text_mb: longest text of them all, millions of characters; the role sees only one window at a time.
        deadline: of the whole reading.

    Raises:
        DocumentTooLarge: the text is longer.
    """
    chars = 0
    for first in range(0, len(pages), WINDOW):
        due = deque(pages[first : first + WINDOW])
        read: dict[int, Page] = {}
        # A copy, because without Ray the role would see what is given out meanwhile.
        left = images and Allowance(images.left, set(images.sent))
        window = pdf.read(path, tuple(due), enrich=False, details=details, images=left, deadline=deadline)
        async with aclosing(generator(window)) as found:
            async for part in found:
                read.update((reading.page.number, reading.page) for reading in part.readings)
                while due and due[0] in read:
                    page = read.pop(due.popleft())
                    chars += len(page.text)
                    limits.check_text(chars, max_text_mb)
                    yield page
        if due:
            # An answer with an end is complete.
            raise Unavailable(f"{len(due)} pages were lost on their way. Try again.")


async def _lines(read: Callable[[], AsyncIterator[Page]], reading: Reading, request_id: str) -> AsyncIterator[bytes]:
    """The document, each page, and `end`, or `problem` if it breaks off: one JSON object a line, named by its key."""
    try:
        yield encode({"document": reading.info}) + b"\n"
        async with aclosing(generator(read())) as pages:
            async for page in pages:
                yield await asyncio.to_thread(_line, reading, reading.counted(page))
        yield encode({"end": {"pages": reading.pages, **reading.outcome()}}) + b"\n"
    except GatherumError as error:
        yield _problem_line(error.http_status, error.code, error.detail, request_id)
    except Exception:  # noqa: BLE001 - the status is sent: this line is all that can still be said
        logs.get().exception("defect", path=PATH)
        yield _problem_line(500, "internal", "Something went wrong on our side.", request_id)


def _line(reading: Reading, page: Page) -> bytes:
    return encode({"page": reading.value(page)}) + b"\n"


def _problem_line(status: int, code: str, detail: str, request_id: str) -> bytes:
    body = orjson.Fragment(bytes(problem(status, code, detail, request_id).body))
    return orjson.dumps({"problem": body}) + b"\n"


async def _whole(read: Callable[[], AsyncIterator[Page]], reading: Reading, limit_mb: float) -> Response:
    """All pages in one answer, so that an error on the way still is a status."""
    parts: list[bytes] = []
    size = 0
    async with aclosing(generator(read())) as pages:
        async for page in pages:
            parts.append(await asyncio.to_thread(_part, reading, reading.counted(page)))
            size += len(parts[-1])
            if size > limit_mb * MB:
                raise DocumentTooLarge(
                    f"The answer is longer than {limit_mb:g} MB. Ask for fewer pages, or let them be streamed."
                )
    if reading.form == "json":
        head = encode({"document": reading.info, **reading.outcome()})
        body = head[:-1] + b',"pages":[' + b",".join(parts) + b"]}"
    else:
        body = b"".join(parts)
    # In JSON each such page says why; in the other forms this is the only place to say that any is missing.
    headers = {"x-unread-pages": ",".join(map(str, reading.unread))} if reading.unread else None
    return Response(body, media_type=MEDIA_TYPES[reading.form], headers=headers)


def _part(reading: Reading, page: Page) -> bytes:
    if reading.form == "json":
        return encode(reading.value(page))
    return (plain_text(page) if reading.form == "text" else markdown(page, reading.info)).encode()
