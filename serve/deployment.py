"""The HTTP entry point on Ray Serve: an ingress that groups questions arriving together.

`gatherum up` deploys it; so does `serve run serve.deployment:app`, on a cluster whose nodes have Serve's flags set.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from typing import Any

import orjson
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve.deployment import Application
from ray.serve.exceptions import RayServeException

from actors import cluster, metrics
from actors.cluster import Roles
from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.messages import Health, Query, Question
from actors.search.encoding import addressed_to
from config import logs
from config.settings import Settings, load
from serve.app import create_app, lanes_of
from serve.batching import Batcher, SingleFlight, ask_together
from serve.services import Services

APPLICATION = "gatherum"

SPARE_REQUESTS = 200
"""Requests a replica takes beyond its limits, to refuse them or to tell the system's state."""

STATE_S = 1.0
"""For how long the state of the roles is believed, s."""

STATE_WAIT_S = 0.05
"""How long a newer one is waited for, s."""

STATE_BUDGET_S = 1.9
"""How long a role has to say how it is, s."""

DRAIN_SPARE_S = 5.0
"""What a replica that is taken down has beyond the budget of a question, s."""


@ray_serve.ingress()
class Api:
    """One HTTP replica.

    Questions that arrive together go to the orchestrator in one call (see `batching.py`), and those that are the same
    are one question.
    """

    def __init__(self, settings: Settings) -> None:
        # Serve puts a stream of its own in the place of standard error, and its log level swallows our lines.
        logs.configure(settings.logs, role="api", stream=sys.__stderr__)
        self._settings = settings
        self._roles = roles = Roles.of(settings)

        async def ask_json(questions: list[Question], deadline: Deadline) -> list[bytes | GatherumError]:
            return await roles.orchestrator.ask_json(questions, deadline=deadline)

        async def ask(questions: list[Question]) -> list[bytes | GatherumError]:
            return await ask_together(questions, ask_json)

        async def search(searches: list[tuple[Query, Deadline]]) -> list[bytes | GatherumError]:
            deadline = max(deadline for _, deadline in searches)
            return await roles.orchestrator.search_json([query for query, _ in searches], deadline=deadline)

        way: dict[str, Any] = {
            "size": settings.api.batch_size,
            "wait_s": settings.api.batch_wait_ms / 1000,
            "in_flight": settings.api.batches_in_flight,
        }
        self._questions: Batcher[Question, bytes] = Batcher(ask, what="questions", **way)
        self._searches: Batcher[tuple[Query, Deadline], bytes] = Batcher(search, what="searches", **way)
        self._flights = SingleFlight[bytes]()
        self._state: dict[str, Health | GatherumError] | None = None
        self._state_at = 0.0
        self._asking: asyncio.Task[None] | None = None
        # The constructor runs on the loop that answers.
        self._watching_loop = asyncio.create_task(metrics.watch_loop(), name="loop-lag")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(Services(self._settings, self._roles, self.ask, self.search, self.health, self.metrics))

    async def ask(self, question: Question, client: str) -> bytes:
        """The JSON of the answer."""
        filters = orjson.dumps(question.filters, option=orjson.OPT_SORT_KEYS)
        asked = (question.text, question.collections, question.sources, question.limit, filters)
        answer = self._flights.do(asked, question.deadline, lambda: self._questions.submit(question, client))
        return addressed_to(await question.deadline.run(answer, "The answer"), question.request_id)

    async def search(self, query: Query, deadline: Deadline, client: str) -> bytes:
        """The JSON of the passages found."""
        return await deadline.run(self._searches.submit((query, deadline), client), "The search")

    async def health(self, deadline: Deadline) -> dict[str, Health | GatherumError]:
        """The state of every replica of every role, as of a moment ago.

        Whoever asks does not wait for a role that is busy: the state is asked for beside, once at a time, and while the
        answers are out, the one before is told, which is at most three seconds old.
        """
        if self._state is None or time.monotonic() - self._state_at > STATE_S:
            if self._asking is None:
                self._asking = asyncio.create_task(self._look(), name="health")
            await asyncio.wait((self._asking,), timeout=deadline.remaining() if self._state is None else STATE_WAIT_S)
        return self._state or {}

    async def _look(self) -> None:
        try:
            self._state = await cluster.health(self._roles, deadline=Deadline.after(STATE_BUDGET_S))
            self._state_at = time.monotonic()
        finally:
            self._asking = None

    async def metrics(self, deadline: Deadline) -> dict[str, dict[str, metrics.Family]]:
        """Those of every process."""
        others = await cluster.measures(self._roles, deadline=deadline)
        return {f"api-{os.getpid()}": metrics.PROCESS.families(), **others}


def build(settings: Settings) -> Application:
    """The Serve application for these settings."""
    deployment = ray_serve.deployment(
        name="Api",
        num_replicas=settings.api.replicas,
        # The application refuses first, and says why; these are a net below it.
        max_ongoing_requests=lanes_of(settings.api).room + SPARE_REQUESTS,
        max_queued_requests=SPARE_REQUESTS,
        ray_actor_options={"num_cpus": 0},  # page tasks are what the CPUs are set aside for
        # Time for every question that was accepted, unless it brought a longer one along.
        graceful_shutdown_timeout_s=settings.orchestrator.timeout_s + DRAIN_SPARE_S,
        health_check_period_s=5,
        # The application writes a line for each request itself.
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )(Api)
    return deployment.bind(settings)


def app(args: dict[str, str]) -> Application:
    """The builder that `serve run serve.deployment:app` calls; arguments are dotted settings, e.g. `api.replicas=2`."""
    settings = load(args)
    cluster.wait_for_roles(cluster.create_roles(settings))
    return build(settings)


def deploy(settings: Settings) -> None:
    """Put the HTTP entry point up in the connected cluster; returns when its replicas run."""
    _hush()
    ray_serve.start(http_options={"host": settings.api.host, "port": settings.api.port}, proxy_location="EveryNode")
    ray_serve.run(build(settings), name=APPLICATION, route_prefix="/")


def withdraw() -> None:
    """Take it down; requests under way are finished first. Other applications of the cluster stay."""
    _hush()
    # Serve itself may be gone, for example killed; then there is nothing to take down.
    with contextlib.suppress(RayServeException):
        ray_serve.delete(APPLICATION)


def _hush() -> None:
    """Keep Serve from telling the terminal what it is doing: `up` and `down` do so themselves."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
