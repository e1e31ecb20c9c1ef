"""SQL sources."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import Response

from actors.messages import Source
from serve.problems import documented
from serve.schemas import SourceBody, SourcesView, SourceView
from serve.services import Use, call_deadline

router = APIRouter(prefix="/v1/sources", tags=["sources"])


@router.get("", responses=documented(503))
async def list_sources(services: Use) -> SourcesView:
    """List the registered sources."""
    sources = await services.roles.database.sources(deadline=call_deadline())
    return SourcesView(items=[SourceView(**asdict(source)) for source in sources], next=None)


@router.post("", status_code=201, responses=documented(400, 403, 404, 409, 422, 503))
async def add_source(body: SourceBody, services: Use) -> SourceView:
    """Register a source. Its rows answer questions from then on; it is only ever read."""
    source = Source(name=body.name, kind=body.kind, path=body.path)
    await services.roles.database.add_source(source, deadline=call_deadline())
    return SourceView(**asdict(source))


@router.delete("/{name}", status_code=204, responses=documented(404, 503))
async def remove_source(name: str, services: Use) -> Response:
    """Forget a source. The database itself is not touched."""
    await services.roles.database.remove_source(name, deadline=call_deadline())
    return Response(status_code=204)
