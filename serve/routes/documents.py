"""Documents: upload, list, look at a page, delete."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from actors.deadline import Deadline
from actors.errors import FileGone, GatherumError, InvalidInput, UnknownPage
from actors.messages import Accepted, Box, Upload
from actors.store.blobs import Incoming
from actors.store.documents import check_name
from actors.store.entities import Wanted
from actors.store.queue import priority_of
from serve.deletion import delete_documents
from serve.extraction import encode, stored_page
from serve.problems import documented
from serve.receive import BODY, MB, Fetching, Files, light_deadline, receive
from serve.schemas import AcceptedView, DocumentsView, DocumentView, EntitiesView, PageView, RemovedView
from serve.services import Use, call_deadline, wake_ingest

UPLOAD_PATH = "/v1/documents"
DEFAULT_COLLECTION = "default"
MAX_BOXES = 200

TRIES = 3
"""Times that an upload puts its file in its place, when deletions of the same content keep coming in between."""

router = APIRouter(prefix=UPLOAD_PATH, tags=["documents"])

PageNumber = Annotated[int, Path(ge=1, le=1_000_000)]


@router.post("", status_code=202, responses=documented(400, 403, 408, 413, 415, 422, 429, 503, 504), openapi_extra=BODY)
async def add_document(
    request: Request,
    services: Use,
    fetcher: Fetching,
    blobs: Files,
    collection: Annotated[str, Query(max_length=100)] = DEFAULT_COLLECTION,
    priority: Annotated[
        str, Query(max_length=10, description="`low`, `normal`, `high`, or -100 to 100: higher is read first.")
    ] = "normal",
    idempotency_key: Annotated[
        str,
        Header(
            max_length=200,
            pattern=r"^[\x21-\x7e]*$",
            description="A name for this upload, kept for 24 hours: the same upload under it gets the same answer.",
        ),
    ] = "",
) -> AcceptedView:
    """Accept a PDF, or fetch it. When this answers, it is safe and will be read, whatever happens to the system."""
    check_name(collection, "collection")
    urgency = priority_of(priority)
    settings = services.settings
    async with Incoming(blobs) as incoming:
        deadline = Deadline.after(settings.egress.timeout_s)
        received = await receive(request, incoming, fetcher, int(settings.api.max_upload_mb * MB), deadline=deadline)
        info = await services.roles.pdf.inspect(str(incoming.path), deadline=light_deadline(settings.pdf))

        async def accept() -> Accepted:
            for tries_left in reversed(range(TRIES)):
                sha256, size = await incoming.commit()
                upload = Upload(
                    sha256, size, received.filename, collection, info, received.metadata, urgency, idempotency_key
                )
                try:
                    return await services.roles.database.accept(upload, deadline=call_deadline())
                except FileGone:
                    # Another document of this content was deleted in between: put the file there again.
                    if not tries_left:
                        raise
            raise AssertionError

        # A client that goes away between the file and its rows must not leave one without the other.
        accepted = await _to_its_end(accept())
    await wake_ingest(services)
    return AcceptedView(**asdict(accepted))


@router.get("", responses=documented(422, 503))
async def list_documents(
    services: Use,
    collection: Annotated[str | None, Query(max_length=100)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DocumentsView:
    """List documents."""
    items, following = await services.roles.database.documents(collection, after, limit, deadline=call_deadline())
    return DocumentsView(items=[DocumentView(**asdict(item)) for item in items], next=following)


@router.get("/{document_id}", responses=documented(404, 503))
async def get_document(document_id: str, services: Use) -> DocumentView:
    """Show a document."""
    return DocumentView(**asdict(await services.roles.database.document(document_id, deadline=call_deadline())))


@router.get("/{document_id}/entities", responses=documented(404, 422, 503))
async def list_document_entities(
    document_id: str,
    services: Use,
    label: Annotated[str | None, Query(max_length=20, description="Of this type only, such as `PERSON`.")] = None,
    after: Annotated[str | None, Query(max_length=2000)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> EntitiesView:
    """The names that a document mentions; counts are of this document."""
    wanted = Wanted(label=label, document_id=document_id)
    found, following = await services.roles.database.entities(wanted, after, limit, deadline=call_deadline())
    return EntitiesView.model_validate({"items": [asdict(item) for item in found], "next": following})


@router.get(
    "/{document_id}/pages/{number}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **documented(404, 422, 429, 503, 504)},
)
async def page_image(
    document_id: str,
    number: PageNumber,
    services: Use,
    blobs: Files,
    highlight: Annotated[
        list[str] | None, Query(description="Boxes to mark, `x0,y0,x1,y1` in points, repeatable or joined by `;`.")
    ] = None,
    dpi: Annotated[int, Query(ge=36, le=300)] = 110,
) -> Response:
    """A page as a picture, with boxes marked."""
    boxes = _boxes(highlight or [])
    document = await services.roles.database.document(document_id, deadline=call_deadline())
    if number > document.pages:
        raise UnknownPage(f"The document has {document.pages} pages; there is no page {number}.")
    deadline = light_deadline(services.settings.pdf)
    async with blobs.local(document.sha256) as path:
        image = await services.roles.pdf.render(str(path), number, boxes, dpi, deadline=deadline)
    return Response(image, media_type="image/png")


# After the picture, whose path would match this one.
@router.get("/{document_id}/pages/{number}", response_model=PageView, responses=documented(404, 422, 503))
async def get_page(document_id: str, number: PageNumber, services: Use) -> Response:
    """A page as it was read: its text, its words with their boxes, and how it was recognised."""
    page = await services.roles.database.page(document_id, number, deadline=call_deadline())
    # Not through the model: that would look at every word of what is our own. In a thread: a page may have thousands.
    body = await asyncio.to_thread(lambda: encode(stored_page(page)))
    return Response(body, media_type="application/json")


@router.delete("/{document_id}", responses=documented(404, 503))
async def delete_document(document_id: str, services: Use) -> RemovedView:
    """Delete a document from every store. When this answers, nothing finds it any more, nor a name of it alone."""
    deleted = await delete_documents(services.roles, [document_id], deadline=call_deadline())
    return RemovedView(document_id=document_id, **asdict(deleted.removed), indexes=deleted.indexes)


def _boxes(values: list[str]) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for value in (part for joined in values for part in joined.split(";") if part):
        try:
            x0, y0, x1, y1 = (float(number) for number in value.split(","))
        except ValueError:
            raise InvalidInput("A highlight is four numbers: x0,y0,x1,y1, in points from the top left.") from None
        boxes.append((x0, y0, x1, y1))
    if len(boxes) > MAX_BOXES:
        raise InvalidInput(f"At most {MAX_BOXES} boxes can be marked.")
    return tuple(boxes)


async def _to_its_end(work: Coroutine[Any, Any, Accepted]) -> Accepted:
    """Run to the end even if the caller is cancelled meanwhile; the cancellation comes through afterwards."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(GatherumError):
            await task
        raise
