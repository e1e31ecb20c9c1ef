"""What the routes work with: the roles, the settings, and how a question gets to the orchestrator.

Routes take it from the application's state, so the application can be built, and tested, without Ray.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.errors import GatherumError, Overloaded
from actors.ingest import Ingest
from actors.messages import Health, Query, Question
from actors.metrics import PROCESS, Family
from actors.orchestrator import Orchestrator
from actors.pdf import Pdf
from actors.retrieval import Retriever
from config.settings import Settings

CALL_TIMEOUT_S = 10.0
"""Budget of a call that is no question: a look-up or a change in the store."""


class Roles(Protocol):
    """The roles, as pools or as plain objects."""

    @property
    def database(self) -> Database:
        """See `actors.database`."""

    @property
    def retrieval(self) -> Retriever:
        """See `actors.retrieval`."""

    @property
    def entities(self) -> Entities:
        """See `actors.entities`."""

    @property
    def pdf(self) -> Pdf:
        """See `actors.pdf`."""

    @property
    def ingest(self) -> Ingest:
        """See `actors.ingest`."""

    @property
    def orchestrator(self) -> Orchestrator:
        """See `actors.orchestrator`."""


async def own_metrics(deadline: Deadline) -> dict[str, dict[str, Family]]:
    """Those of this process."""
    return {"api": PROCESS.families()}


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a route may need.

    Attributes:
        ask: a question, and whose it is (see `admission.client_of`), to the JSON of its answer; questions that arrive
            together travel together.
        search: a query to the JSON of its passages, likewise.
        health: the state of every replica, by actor name.
        metrics: those of every process, by its name; of this one alone where there are no others.
    """

    settings: Settings
    roles: Roles
    ask: Callable[[Question, str], Awaitable[bytes]]
    search: Callable[[Query, Deadline, str], Awaitable[bytes]]
    health: Callable[[Deadline], Awaitable[dict[str, Health | GatherumError]]]
    metrics: Callable[[Deadline], Awaitable[dict[str, dict[str, Family]]]] = own_metrics


class Turnstile:
    """Lets so many in at once, and turns the others away instead of letting them queue.

    Args:
        places: most inside.
        what: named in the refusal, in the plural.
    """

    def __init__(self, places: int, what: str) -> None:
        self._places = places
        self._what = what
        self.inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside while the block runs.

        Raises:
            Overloaded: it is full.
        """
        if self.inside >= self._places:
            raise Overloaded(f"{self._places} {self._what} are under way, the most at once. Try again later.")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


async def _services(request: Request) -> Services:
    # Async although it awaits nothing: FastAPI runs a plain function in a thread, which took two thirds of the time of
    # a request in this process.
    services: Services = request.app.state.services
    return services


def call_deadline() -> Deadline:
    """The deadline of a call that is no question."""
    return Deadline.after(CALL_TIMEOUT_S)


async def wake_ingest(services: Services) -> None:
    """Have the job table looked at now. It only saves the wait until the next look, so it may fail."""
    with suppress(GatherumError):
        await services.roles.ingest.wake(deadline=Deadline.after(1.0))


Use = Annotated[Services, Depends(_services)]
"""Type of a route's parameter that is the services."""
