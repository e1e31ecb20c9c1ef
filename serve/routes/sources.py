"""SQL sources: what there is, and statements to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from actors.messages import Source
from actors.sql.schema import Schema
from actors.store.rows import iso
from serve import rows
from serve.problems import documented
from serve.queries import Asked, Queries, plan_body
from serve.schemas import PlanView, QueryBody, RowsView, SchemaView, SourceBody, SourcesView, SourceView, TestView
from serve.services import Use, call_deadline
from serve.streaming import unless_gone


class _Statements(APIRoute):
    """The route of statements. One that has no query parameters is its body and nothing else.

    To find out that no parameter is there took FastAPI as long as to run a short statement. Whatever is not as it
    should be goes the usual way, which says so.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        usual = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if request.scope["query_string"] or request.headers.get("content-type") != rows.MEDIA_TYPES["json"]:
                return await usual(request)
            try:
                body = QueryBody.model_validate_json(await request.body())
            except ValidationError:
                return await usual(request)
            return await _answered(request, request.path_params["name"], body)

        return answer


async def _queries(request: Request) -> Queries:
    queries: Queries = request.app.state.queries
    return queries


Asking = Annotated[Queries, Depends(_queries)]
Timeout = Annotated[
    int | None, Query(ge=1, le=600_000, description="Budget, ms; at most sources.query_timeout_s.", alias="timeout_ms")
]


router = APIRouter(prefix="/v1/sources", tags=["sources"])
statements = APIRouter(prefix="/v1/sources", tags=["sources"], route_class=_Statements)


@statements.post(
    "/{name}/query",
    response_class=Response,
    responses={
        200: {
            "model": RowsView,
            "content": {kind.partition(";")[0]: {} for kind in rows.MEDIA_TYPES.values() if "json;" not in kind},
        },
        **documented(400, 403, 404, 413, 422, 429, 503, 504),
    },
)
async def query_source(
    name: str,
    body: QueryBody,
    request: Request,
    shape: Annotated[rows.Shape, Query(alias="_shape", description="Form of a row in JSON.")] = "objects",
    form: Annotated[
        rows.Form | None, Query(alias="_format", description="Form of the answer; else by `Accept`, else json.")
    ] = None,
    limit: Annotated[
        int | None,
        Query(ge=0, description="Most rows, within sources.query_rows; by default 1000 in json, all in other forms."),
    ] = None,
    timeout_ms: Timeout = None,
) -> Response:
    """Run a single SELECT. It ends with its time, and with the client."""
    return await _answered(request, name, body, shape, form, limit, timeout_ms)


@router.get("", responses=documented(503))
async def list_sources(services: Use) -> SourcesView:
    """List the registered sources."""
    sources = await services.roles.database.sources(deadline=call_deadline())
    return SourcesView(items=[_view(source) for source in sources], next=None)


@router.post("", status_code=201, responses=documented(400, 403, 404, 409, 422, 503, 504))
async def add_source(body: SourceBody, services: Use, queries: Asking) -> SourceView:
    """Register a source, after a look whether it can be read. It is only ever read."""
    source = Source(**body.model_dump(exclude={"password"}))
    if body.password:
        source = replace(source, secret=await asyncio.to_thread(queries.vault.seal, source, body.password))
    await services.roles.database.add_source(source, deadline=call_deadline())
    queries.forget()
    return _view(source)


@router.delete("/{name}", status_code=204, responses=documented(404, 503))
async def remove_source(name: str, services: Use, queries: Asking) -> Response:
    """Forget a source. The database itself is not touched."""
    await services.roles.database.remove_source(name, deadline=call_deadline())
    queries.forget()
    return Response(status_code=204)


@router.post("/{name}/test", responses=documented(403, 404, 422, 429, 503, 504))
async def test_source(name: str, queries: Asking) -> TestView:
    """Look at a source: its version, how fast it answers, and whether its user could write."""
    began = time.perf_counter()
    deadline = call_deadline()
    found = await queries.sources.test(await queries.find(name, deadline), deadline)
    took = round((time.perf_counter() - began) * 1000, 2)
    return TestView(ok=True, connect_ms=took, **asdict(found))


@router.get("/{name}/schema", responses=documented(403, 404, 422, 429, 503, 504))
async def source_schema(
    name: str,
    queries: Asking,
    refresh: Annotated[bool, Query(description="Look now, however fresh what is known may be.")] = False,
) -> SchemaView:
    """The tables of a source that its user may read."""
    deadline = call_deadline()
    schema = await queries.sources.schema(await queries.find(name, deadline), deadline, refresh=refresh)
    return await asyncio.to_thread(_schema_view, schema)


@router.post(
    "/{name}/explain",
    response_class=Response,
    responses={200: {"model": PlanView}, **documented(400, 403, 404, 422, 429, 503, 504)},
)
async def explain_query(
    request: Request, name: str, body: QueryBody, queries: Asking, timeout_ms: Timeout = None
) -> Response:
    """How a statement would be run, as the database says it and in plain words. It is not run."""
    deadline = queries.deadline(None if timeout_ms is None else timeout_ms / 1000)
    source = await queries.find(name, deadline)
    explaining = queries.sources.explain(source, body.sql, body.params, deadline)
    plan, advice = await unless_gone(request.receive, explaining)
    return Response(rows.encode(plan_body(plan, advice)), media_type=rows.MEDIA_TYPES["json"])


async def _answered(
    request: Request,
    name: str,
    body: QueryBody,
    shape: rows.Shape = "objects",
    form: rows.Form | None = None,
    limit: int | None = None,
    timeout_ms: int | None = None,
) -> Response:
    queries: Queries = request.app.state.queries
    asked = Asked(
        name,
        body.sql,
        body.params,
        rows.form_of(form, request.headers.get("accept", "")),
        shape,
        limit,
        None if timeout_ms is None else timeout_ms / 1000,
    )
    if asked.form in ("ndjson", "csv"):
        return await unless_gone(request.receive, queries.stream(asked, request.scope["request_id"]))
    return await unless_gone(request.receive, queries.whole(asked))


def _view(source: Source) -> SourceView:
    fields: dict[str, Any] = asdict(source)
    is_stored = bool(fields.pop("secret"))
    return SourceView(**fields, password="environment" if source.password_env else "stored" if is_stored else "none")


def _schema_view(schema: Schema) -> SchemaView:
    fields = asdict(schema)
    return SchemaView(tables=fields["tables"], read_at=iso(schema.at), truncated=schema.truncated)
