"""What a client is told of replicas that are away: what was not done, and nothing of roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError, RaySystemError, TaskCancelledError
from structlog.testing import capture_logs

from actors import pool as module
from actors.deadline import Deadline
from actors.errors import Unavailable
from actors.pool import WORK, Pool


class Handle:
    """An actor whose calls all end in one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.read = self.write = self

    def options(self, **options: Any) -> Handle:
        return self

    def remote(self, *args: Any, deadline: Deadline) -> Any:
        return self


class Single(Handle):
    def remote(self, *args: Any, deadline: Deadline) -> Any:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_exception(self.error)
        return future


class Stream(Handle):
    async def __anext__(self) -> Any:
        raise self.error


def pool(role: str, handle: Handle | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A pool of one replica; None for one that does not run."""
    made = Pool(role, frozenset(), frozenset({"read"}), (f"{role}-0",))

    async def find(replica: Any) -> Any:
        if handle is None:
            raise ValueError("no actor of that name")
        return handle

    async def look(replica: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(made, "_find", find)
    monkeypatch.setattr(made, "_await_return", look)
    monkeypatch.setattr(module, "_cancel", lambda ref: None)
    return made


async def consume(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


def soon() -> Deadline:
    return Deadline.after(module.FIRST_PAUSE_S * 0.9)


@pytest.mark.parametrize("role", sorted(WORK))
@pytest.mark.parametrize(
    ("error", "part"),
    [
        (None, "is not possible at the moment"),
        (RayActorError(), "broke off"),
        (ActorUnavailableError("away", None), "broke off"),
        (TaskCancelledError(), "was cancelled"),
        (RaySystemError("lost"), "was lost on its way"),
    ],
)
async def test_a_client_is_told_what_was_not_done(
    monkeypatch: pytest.MonkeyPatch, role: str, error: Exception | None, part: str
) -> None:
    held = pool(role, None if error is None else Single(error), monkeypatch)
    with capture_logs() as lines, pytest.raises(Unavailable) as refusal:
        await held.write(deadline=soon())
    said = refusal.value.detail
    assert said[1:].startswith(f"{WORK[role][1:]} {part}")
    assert " role" not in said
    assert [(line["event"], line["role"]) for line in lines] == [("replica_away", role)]


@pytest.mark.parametrize(("error", "part"), [(None, "is not possible at the moment"), (RayActorError(), "broke off")])
async def test_a_stream_tells_the_same(monkeypatch: pytest.MonkeyPatch, error: Exception | None, part: str) -> None:
    held = pool("pdf", None if error is None else Stream(error), monkeypatch)
    with capture_logs() as lines, pytest.raises(Unavailable, match=f"^The reading of the PDF {part}"):
        await consume(held.read(deadline=soon()))
    assert [line["role"] for line in lines] == ["pdf"]
