"""Questions and searches."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from actors.deadline import Deadline
from actors.errors import InvalidInput, QuestionTooLong
from actors.messages import Query, Question
from serve.problems import documented
from serve.schemas import AskBody, AskView, PassagesView, SearchBody
from serve.services import Services, Use

router = APIRouter(prefix="/v1", tags=["ask"])

JSON = "application/json"


@router.post("/ask", response_model=AskView, responses=documented(400, 404, 408, 413, 422, 429, 503, 504))
async def ask(body: AskBody, request: Request, services: Use) -> Response:
    """Answer a question, every statement with its evidence."""
    question = Question(
        request_id=request.scope["request_id"],
        text=_checked(body.question, "question", services),
        deadline=_deadline(body.timeout_ms, services),
        collections=tuple(body.collections or ()),
        sources=None if body.sources is None else tuple(body.sources),
        limit=body.limit,
        filters=body.filters,
    )
    return Response(await services.ask(question, request.scope["client_name"]), media_type=JSON)


@router.post("/search", response_model=PassagesView, responses=documented(400, 404, 408, 413, 422, 429, 503, 504))
async def search(body: SearchBody, request: Request, services: Use) -> Response:
    """Find passages."""
    query = Query(
        text=_checked(body.query, "query", services),
        collections=tuple(body.collections or ()),
        limit=body.limit,
        mode=body.mode,
        filters=body.filters,
        encoder=body.encoder,
    )
    found = await services.search(query, _deadline(body.timeout_ms, services), request.scope["client_name"])
    return Response(found, media_type=JSON)


def _checked(text: str, what: str, services: Services) -> str:
    """The text without surrounding space, if it is one we can work with."""
    text = text.strip()
    limit = services.settings.api.max_question_chars
    if not text:
        raise InvalidInput(f"The {what} is empty. Send some words.")
    if len(text) > limit:
        raise QuestionTooLong(f"The {what} has {len(text):,} characters; at most {limit:,} are allowed.")
    return text


def _deadline(timeout_ms: int | None, services: Services) -> Deadline:
    return Deadline.after(services.settings.orchestrator.timeout_s if timeout_ms is None else timeout_ms / 1000)
