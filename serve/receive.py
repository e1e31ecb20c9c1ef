"""A PDF on its way in: sent as a form, or named by a URL and fetched. Every route that takes one takes both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from actors.deadline import Deadline
from actors.errors import MalformedRequest
from actors.store.blobs import Blobs, Incoming
from config.settings import PdfSettings
from serve.fetch import Fetcher
from serve.schemas import UrlBody
from serve.upload import Upload

MB: Final = 1_000_000
MAX_JSON_BYTES: Final = 200_000
LIGHT_MARGIN_S: Final = 15.0
"""What opening or drawing may take besides the page's own time: a turn, and the start of a process."""

BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "The PDF."},
                        "metadata": {"type": "string", "description": "A JSON object kept with the document."},
                    },
                }
            },
            "application/json": {"schema": UrlBody.model_json_schema()},
        },
    }
}
"""The body of such a route, for the OpenAPI document: it is read as a stream, so FastAPI does not know it."""


@dataclass(frozen=True, slots=True)
class Received:
    """What came with the file.

    Attributes:
        filename: without any folder.
        metadata: the client's own, a flat JSON object.
    """

    filename: str
    metadata: dict[str, Any] = field(default_factory=dict)


async def receive(
    request: Request, incoming: Incoming, fetcher: Fetcher, max_bytes: int, *, deadline: Deadline
) -> Received:
    """Bring the PDF of a request into `incoming`, flushed and not committed.

    Args:
        request: its body is a form with the file, or JSON with its URL.
        incoming: an open, empty temporary file.
        fetcher: for a URL.
        max_bytes: largest file.
        deadline: of fetching; what a client may take to send is `serve.pace`'s to say.

    Raises:
        GatherumError: as `Upload.receive` and `Fetcher.fetch`.
        RequestValidationError: the JSON has other fields than it should.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        body = await _url_body(request)
        return Received(await fetcher.fetch(body.url, incoming, deadline=deadline), body.metadata)
    form = Upload(request.headers, incoming, max_bytes)
    await form.receive(request.stream())
    return Received(form.filename, form.metadata())


def light_deadline(settings: PdfSettings) -> Deadline:
    """The deadline of opening a PDF, or of drawing a page.

    Later than the page's own limit: at the same moment, chance would say whether the file is to blame or the system.
    """
    return Deadline.after(settings.page_timeout_s + LIGHT_MARGIN_S)


async def _url_body(request: Request) -> UrlBody:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_JSON_BYTES:
            raise MalformedRequest(f"The JSON is longer than {MAX_JSON_BYTES:,} bytes.")
    try:
        return UrlBody.model_validate_json(bytes(body))
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_context=False)) from None


async def _blobs(request: Request) -> Blobs:
    blobs: Blobs = request.app.state.blobs
    return blobs


Files = Annotated[Blobs, Depends(_blobs)]
"""Type of a route's parameter that is the blob store."""


async def _fetcher(request: Request) -> Fetcher:
    fetcher: Fetcher = request.app.state.fetcher
    return fetcher


Fetching = Annotated[Fetcher, Depends(_fetcher)]
"""Type of a route's parameter that is the fetcher."""
