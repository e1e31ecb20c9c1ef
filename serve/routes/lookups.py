"""What questions find in SQL sources: stored lookups, and the names that are looked for in questions."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request
from fastapi.responses import Response

from actors.messages import Parameter, StoredLookup
from actors.search.encoding import encode_evidence
from actors.sql.lookups import json_schema
from serve.problems import documented
from serve.schemas import LookupBody, LookupRowsView, LookupRunBody, LookupsView, LookupView
from serve.services import Use, call_deadline
from serve.streaming import unless_gone

router = APIRouter(prefix="/v1/sources/{name}", tags=["sources"])


@router.get("/lookups", responses=documented(404, 503))
async def list_lookups(name: str, services: Use) -> LookupsView:
    """List the stored lookups of a source."""
    stored = await services.roles.database.lookups(name, deadline=call_deadline())
    return LookupsView(items=[_view(lookup) for lookup in stored], next=None)


@router.post("/lookups", status_code=201, responses=documented(400, 403, 404, 409, 422, 429, 503, 504))
async def add_lookup(name: str, body: LookupBody, services: Use) -> LookupView:
    """Store a lookup, after the source has prepared its statement. Questions are answered by it from then on."""
    parameters = tuple(Parameter(**parameter.model_dump()) for parameter in body.parameters)
    lookup = StoredLookup(name, body.name, body.description, body.sql, parameters)
    await services.roles.database.add_lookup(lookup, deadline=call_deadline())
    return _view(lookup)


@router.post(
    "/lookups/{lookup}",
    response_model=LookupRowsView,
    responses=documented(400, 403, 404, 422, 429, 503, 504),
)
async def run_lookup(request: Request, name: str, lookup: str, body: LookupRunBody, services: Use) -> Response:
    """Run a stored lookup. It ends with the client."""
    database = services.roles.database
    running = database.run_lookup(name, lookup, body.arguments, body.limit, deadline=call_deadline())
    found = await unless_gone(request.receive, running)
    return Response(encode_evidence(found), media_type="application/json")


@router.delete("/lookups/{lookup}", status_code=204, responses=documented(404, 503))
async def remove_lookup(name: str, lookup: str, services: Use) -> Response:
    """Forget a lookup."""
    await services.roles.database.remove_lookup(name, lookup, deadline=call_deadline())
    return Response(status_code=204)


@router.post("/refresh", status_code=202, responses=documented(404, 503))
async def refresh_source(name: str, services: Use) -> Response:
    """Have the names in a source read again, now instead of when their time comes."""
    await services.roles.database.refresh_source(name, deadline=call_deadline())
    return Response(status_code=202)


def _view(lookup: StoredLookup) -> LookupView:
    return LookupView(**asdict(lookup), arguments=json_schema(lookup))
