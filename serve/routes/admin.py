"""The state of the system, for load balancers, operators and scripts."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.messages import Health
from actors.metrics import render
from actors.reading import PIPELINE
from serve.schemas import HealthView, ReplicaView, VersionView
from serve.services import Services, Use

router = APIRouter(tags=["admin"])

HEALTH_TIMEOUT_S = 2.0
METRICS_TIMEOUT_S = 5.0


@router.get("/livez")
async def livez() -> Response:
    """Whether this process answers."""
    return Response("ok", media_type="text/plain")


@router.get("/health")
async def health(services: Use) -> HealthView:
    """The state of every actor. Always 200: what is asked is the state, not readiness."""
    return await _state(services)


@router.get("/ready", responses={503: {"model": HealthView, "description": "Something is not ready; it is named."}})
async def ready(services: Use) -> Response:
    """200 when every actor can do its work, else 503 and the names of those that cannot."""
    state = await _state(services)
    return JSONResponse(state.model_dump(), status_code=503 if state.not_ready else 200)


@router.get("/version")
async def get_version() -> VersionView:
    """Versions of the program and of its reading pipeline."""
    return VersionView(version=version("gatherum"), pipeline=PIPELINE)


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(services: Use) -> Response:
    """What every process counts and measures of itself, for Prometheus; see docs/operations.md."""
    found = await services.metrics(Deadline.after(METRICS_TIMEOUT_S))
    return Response(render(found), media_type="text/plain; version=0.0.4")


async def _state(services: Services) -> HealthView:
    answers = await services.health(Deadline.after(HEALTH_TIMEOUT_S))
    replicas = {name: _view(answer) for name, answer in answers.items()}
    not_ready = [name for name, view in replicas.items() if not view.ready]
    trouble = [
        f"{name}: {subject}: {what}"
        for name, view in replicas.items()
        for subject, what in view.detail.get("trouble", {}).items()
    ]
    status: Literal["ok", "degraded"] = "degraded" if not_ready or trouble else "ok"
    return HealthView(status=status, not_ready=not_ready, trouble=trouble, replicas=replicas)


def _view(answer: Health | GatherumError) -> ReplicaView:
    if isinstance(answer, GatherumError):
        return ReplicaView(ready=False, error=answer.detail)
    return ReplicaView(ready=answer.ready, pid=answer.pid, node=answer.node, detail=answer.detail)
