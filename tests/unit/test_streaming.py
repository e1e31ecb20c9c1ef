"""Work for a client ends with the client, and an error of the work is its own."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from actors.errors import NotFound
from serve import streaming
from serve.streaming import unless_gone


@pytest.fixture(autouse=True)
def _watched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WATCH_S", 0)


class Client:
    """A client that stays until it is told to go; `asked` is set once it was looked after."""

    def __init__(self) -> None:
        self.went = asyncio.Event()
        self.asked = asyncio.Event()
        self.left_alone = asyncio.Event()

    async def receive(self) -> Message:
        self.asked.set()
        try:
            await self.went.wait()
        except asyncio.CancelledError:
            self.left_alone.set()
            raise
        return {"type": "http.disconnect"}


async def test_what_is_done_at_once_is_not_watched() -> None:
    client = Client()

    async def work() -> int:
        return 7

    assert await unless_gone(client.receive, work()) == 7
    assert not client.asked.is_set()


async def test_a_client_that_goes_takes_the_work_along() -> None:
    client, ended = Client(), asyncio.Event()

    async def work() -> None:
        try:
            client.went.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(5):
        with pytest.raises(ClientDisconnect):
            await unless_gone(client.receive, work())
    assert ended.is_set()


@pytest.mark.parametrize("error", [NotFound("gone"), TimeoutError("its own")])
async def test_an_error_of_the_work_comes_through_and_nobody_is_watched_any_more(error: Exception) -> None:
    client = Client()

    async def work() -> None:
        await client.asked.wait()
        raise error

    with pytest.raises(type(error)):
        await unless_gone(client.receive, work())
    assert client.left_alone.is_set()


async def test_a_caller_that_is_cancelled_is_no_client_that_has_gone() -> None:
    client = Client()
    waiting = asyncio.create_task(unless_gone(client.receive, asyncio.Event().wait()))
    await client.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert client.left_alone.is_set()
