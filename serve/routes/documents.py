"""Documents: upload, list, look at a page, delete."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, UnknownPage
from actors.messages import Accepted, Box, Upload
from actors.pool import on_each
from actors.store.blobs import Incoming, blob_path
from actors.store.documents import check_name
from serve.problems import documented
from serve.receive import BODY, INSPECT_TIMEOUT_S, MB, Fetching, receive
from serve.schemas import AcceptedView, DocumentsView, DocumentView, RemovedView
from serve.services import Services, Use, call_deadline

UPLOAD_PATH = "/v1/documents"
DEFAULT_COLLECTION = "default"
MAX_BOXES = 200

router = APIRouter(prefix=UPLOAD_PATH, tags=["documents"])

PageNumber = Annotated[int, Path(ge=1, le=1_000_000)]


@router.post("", status_code=202, responses=documented(400, 403, 413, 415, 422, 429, 503, 504), openapi_extra=BODY)
async def add_document(
    request: Request,
    services: Use,
    fetcher: Fetching,
    collection: Annotated[str, Query(max_length=100)] = DEFAULT_COLLECTION,
) -> AcceptedView:
    """Accept a PDF, or fetch it. When this answers, it is safe and will be read, whatever happens to the system."""
    check_name(collection, "collection")
    settings = services.settings
    async with Incoming(settings.blob_dir) as incoming:
        deadline = Deadline.after(settings.egress.timeout_s)
        received = await receive(request, incoming, fetcher, int(settings.api.max_upload_mb * MB), deadline=deadline)
        info = await services.roles.pdf.inspect(str(incoming.path), deadline=Deadline.after(INSPECT_TIMEOUT_S))

        async def accept() -> Accepted:
            sha256, size = await incoming.commit()
            upload = Upload(sha256, size, received.filename, collection, info, received.metadata)
            return await services.roles.database.accept(upload, deadline=call_deadline())

        # A client that goes away between the file and its rows must not leave one without the other.
        accepted = await _to_its_end(accept())
    await _wake(services)
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


@router.get(
    "/{document_id}/pages/{number}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **documented(404, 422, 503, 504)},
)
async def page_image(
    document_id: str,
    number: PageNumber,
    services: Use,
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
    path = str(blob_path(services.settings.blob_dir, document.sha256))
    image = await services.roles.pdf.render(path, number, boxes, dpi, deadline=Deadline.after(INSPECT_TIMEOUT_S))
    return Response(image, media_type="image/png")


@router.delete("/{document_id}", responses=documented(404, 503))
async def delete_document(document_id: str, services: Use) -> RemovedView:
    """Delete a document from every store. When this answers, no search finds it any more."""
    deadline = call_deadline()
    retrieval = services.roles.retrieval
    indexed = await on_each(retrieval, lambda replica: replica.chunks_of(document_id, deadline=deadline))
    removed = await services.roles.database.delete_document(document_id, deadline=deadline)
    # A replica that is down fills its index from the store when it comes back: only those that answer must follow.
    followed = await on_each(retrieval, lambda replica: replica.caught_up(removed.change, deadline=deadline))
    if any(isinstance(outcome, DeadlineExceeded) for outcome in followed):
        raise DeadlineExceeded("The document is deleted, but an index has not followed yet; it will.")
    counts = asdict(removed) | {"indexed_chunks": sum(count for count in indexed if isinstance(count, int))}
    return RemovedView(**counts)


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


async def _wake(services: Services) -> None:
    # Only saves the wait until the next look at the job table.
    with contextlib.suppress(GatherumError):
        await services.roles.ingest.wake(deadline=Deadline.after(1.0))
