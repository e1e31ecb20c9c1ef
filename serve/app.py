"""create_app(): the HTTP application, from the services it is given.

Everything here is plain ASGI: no Ray, no globals. `serve/deployment.py` runs it behind Ray Serve; tests run it in
memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from functools import partial
from importlib.metadata import version

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors import metrics
from actors.errors import Overloaded
from actors.store.blobs import open_blobs
from actors.tracing import Span, Tracer
from config import logs
from config.settings import ApiSettings
from serve import problems
from serve.admission import Lane, Lanes, client_of
from serve.fetch import Fetcher
from serve.pace import Paced, Stalled
from serve.parameters import known_parameters
from serve.queries import Queries
from serve.routes import admin, ask, collections, documents, entities, extract, jobs, lookups, sources
from serve.services import Services, Turnstile
from serve.streaming import BrokenOff

BODY_LIMIT = 2_000_000
"""Largest body of a call that is no upload, bytes. Uploads have `api.max_upload_mb`."""

ALWAYS = frozenset({"/livez", "/health", "/ready", "/version", "/metrics"})
"""Paths that are answered however busy the process is."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def create_app(services: Services) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="Gatherum",
        version=version("gatherum"),
        summary="Answers over PDFs and SQL databases, every statement cited.",
        license_info={"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"},
        dependencies=[Depends(known_parameters)],
        # There are metrics and traces of our own, and to look whether anybody wants these takes 8 us of 180 a request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.services = services
    app.state.blobs = open_blobs(services.settings.blobs, services.settings.data_dir)
    app.state.fetcher = Fetcher(services.settings.egress, services.settings.api)
    app.state.extractions = Turnstile(services.settings.api.max_extractions, "extractions")
    app.state.event_streams = Turnstile(services.settings.api.max_event_streams, "event streams")
    app.state.follower = jobs.follower(services)
    app.state.queries = Queries(services.settings, services.roles)
    problems.install(app)
    # In the order of how often they are wanted: each request is compared with all routes before its own, twice.
    modules = (documents, extract, jobs, collections, entities, sources, lookups, admin)
    for router in (ask.router, sources.statements, *(module.router for module in modules)):
        app.include_router(router)
    app.state.lanes = lanes = lanes_of(services.settings.api)
    tracer = Tracer(services.settings.tracing, "api")
    app.add_middleware(_Envelope, settings=services.settings.api, lanes=lanes, tracer=tracer)
    return app


def lanes_of(settings: ApiSettings) -> Lanes:
    """The lanes of one replica."""
    return Lanes(
        questions=Lane(settings.max_concurrent_requests, "questions"),
        uploads=Lane(settings.max_uploads, "uploads"),
        statements=Lane(settings.max_statements, "statements"),
        others=Lane(settings.max_others, "requests"),
    )


_REQUESTS = metrics.PROCESS.counter("gatherum_requests_total", "HTTP requests.", "lane", "status")
_SECONDS = metrics.PROCESS.histogram("gatherum_request_seconds", "Time of HTTP requests.", "lane")
_UNDER_WAY = metrics.PROCESS.gauge("gatherum_requests_under_way", "HTTP requests under way.", "lane")
_REFUSED = metrics.PROCESS.counter("gatherum_refused_total", "HTTP requests refused at the door.", "lane")


class _Envelope:
    """What every request gets: an id, a bounded body, a bounded wait for the client, a problem document for a defect.

    What its lane has no place for is refused at once, before anything of it is looked at. Those that ask for the state
    always pass.

    Args:
        app: what answers.
        settings: the bounds.
        lanes: what is under way.
        tracer: takes the root of each trace.
    """

    def __init__(self, app: ASGIApp, settings: ApiSettings, lanes: Lanes, tracer: Tracer) -> None:
        self._app = app
        self._settings = settings
        self._lanes = lanes
        self._tracer = tracer
        for lane in lanes:
            _UNDER_WAY.of(lane.what, read=partial(getattr, lane, "inside"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Ray Serve gives a request that has no id one, and stamps the answer with it.
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["request_id"] = request_id
        status = 0
        received = 0
        lane = None if scope["path"] in ALWAYS else self._lanes.of(scope["method"], scope["path"])
        upload = lane is self._lanes.uploads
        began = time.perf_counter()
        client = Paced(receive, send, stall_s=self._settings.stall_s, body_s=self._settings.upload_timeout_s)

        async def bounded() -> Message:
            nonlocal received
            message = await client.receive()
            received += len(message.get("body", b""))
            if received > BODY_LIMIT and not upload:
                # The one exception that FastAPI lets through where it reads a body.
                raise HTTPException(413, f"The body is larger than {BODY_LIMIT / 1e6:g} MB.")
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await client.send(message)

        scope["client_name"] = name = client_of(scope["headers"], (scope.get("client") or ("",))[0])
        place = contextlib.ExitStack()
        if lane is not None:
            try:
                place.enter_context(lane.entered(name))
            except Overloaded as full:
                _REFUSED.add(lane.what)
                await problems.problem(full.http_status, full.code, full.detail, request_id)(scope, receive, send)
                return
        with place, logs.bound(request_id=request_id):
            try:
                await self._app(scope, bounded, watched)
            except ClientDisconnect as gone:
                logs.get().info("client_stalled" if isinstance(gone, Stalled) else "client_gone", path=scope["path"])
            except BrokenOff as broken:
                why = broken.error
                logs.get().warning("answer_broke_off", code=why.code, detail=why.detail, path=scope["path"])
            except Exception as error:
                # In a thread: a traceback is written with lines of source files, which are read for it.
                await asyncio.to_thread(logs.get().error, "defect", path=scope["path"], exc_info=error)
                if status:
                    raise
                detail = "Something went wrong on our side. The log has it under this request id."
                await problems.problem(500, "internal", detail, request_id)(scope, receive, watched)
            finally:
                if lane is not None:
                    took = time.perf_counter() - began
                    _REQUESTS.add(lane.what, str(status))
                    _SECONDS.observe(took, lane.what)
                    if self._tracer.wants(request_id):
                        now = time.time()
                        failed = str(status) if status >= 500 else ""
                        about = {"http.response.status_code": status}
                        shown = f"{scope['method']} {scope['path']}"
                        self._tracer.tell(Span(request_id, "", shown, now - took, now, failed=failed, about=about))
                    told = {"method": scope["method"], "path": scope["path"], "status": status}
                    logs.get().info("request", **told, ms=round(took * 1000, 1))
