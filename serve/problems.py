"""Errors on their way out: every one becomes RFC 9457 problem details, and nothing internal goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from actors.errors import DocumentTooLarge, GatherumError, MalformedRequest
from config import logs
from serve.schemas import Problem

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1

Responses = dict[int | str, dict[str, Any]]


def documented(*statuses: int) -> Responses:
    """The `responses` of a route, for the OpenAPI document."""
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
        for status in statuses
    }


_SCHEMA = {"$ref": f"#/components/schemas/{Problem.__name__}"}


def problem(status: int, code: str, detail: str, request_id: str) -> Response:
    """The HTTP answer of an error."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    headers = {}
    if status in (429, 503):
        headers["retry-after"] = str(RETRY_AFTER_S)
    if status in (408, 413):
        # Without it the server would go on taking in, and throwing away, the rest of the body.
        headers["connection"] = "close"
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """The one place where errors are translated."""

    @app.exception_handler(GatherumError)
    async def ours(request: Request, error: GatherumError) -> Response:
        if error.http_status >= 500:
            logs.get().warning("request_failed", code=error.code, detail=error.detail, path=request.url.path)
        return problem(error.http_status, error.code, error.detail, request.scope["request_id"])

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        if any(item["type"] == "json_invalid" for item in problems):
            return problem(
                MalformedRequest.http_status,
                "malformed_json",
                "The body is not valid JSON.",
                request.scope["request_id"],
            )
        return problem(422, "invalid_input", _explain(problems), request.scope["request_id"])

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = {
            404: "There is nothing at this path. /docs lists what there is.",
            405: "This path does not take that method. /docs lists what it takes.",
        }.get(error.status_code, str(error.detail))
        named = {400: MalformedRequest.code, 413: DocumentTooLarge.code}
        code = named.get(error.status_code) or HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        answer = problem(error.status_code, code, detail, request.scope["request_id"])
        answer.headers.update(error.headers or {})
        return answer


def _explain(problems: Sequence[dict[str, Any]]) -> str:
    lines = []
    for item in problems[:5]:
        if item["type"] == "model_attributes_type":
            return "The body is not a JSON object. Send one, with content-type: application/json."
        place = ".".join(str(part) for part in item["loc"] if part not in ("body", "query", "path"))
        lines.append(f"{place or 'body'}: {item['msg']}")
    return "; ".join(lines) + "."
