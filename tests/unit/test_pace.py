"""How slow a client may be: time for each piece, whatever its size, and for the body as a whole."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from serve.pace import PIECE, Pace, Paced, Stalled


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    async def passes(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_a_drip_is_no_pace(clock: Clock) -> None:
    pace = Pace(60)
    for _ in range(60):
        await pace.wait(clock.passes(1))
        pace.moved(1)
    with pytest.raises(TimeoutError):
        await pace.wait(clock.passes(1))


async def test_each_piece_has_its_own_time(clock: Clock) -> None:
    pace = Pace(60)
    for _ in range(100):
        for _ in range(2):
            await pace.wait(clock.passes(29))
            pace.moved(PIECE // 2)


async def test_only_waiting_counts(clock: Clock) -> None:
    pace = Pace(60)
    clock.now += 1000
    await pace.wait(clock.passes(59))


class Peer:
    """The server's side of a connection.

    Attributes:
        sent: what was sent.
        coming: messages to be received.
    """

    def __init__(self, *coming: dict[str, Any]) -> None:
        self.sent: list[Any] = []
        self.coming = list(coming)

    async def receive(self) -> Any:
        if not self.coming:
            await asyncio.Event().wait()
        return self.coming.pop(0)

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    def paced(self, *, stall_s: float = 60, body_s: float = 60) -> Paced:
        return Paced(self.receive, self.send, stall_s=stall_s, body_s=body_s)


@given(st.integers(0, 4 * PIECE + 1), st.booleans())
async def test_an_answer_goes_out_whole_in_pieces(size: int, more: bool) -> None:
    peer = Peer()
    body = bytes(range(256)) * (size // 256 + 1)
    await peer.paced().send({"type": "http.response.body", "body": body[:size], "more_body": more})
    assert b"".join(message["body"] for message in peer.sent) == body[:size]
    assert all(len(message["body"]) <= PIECE for message in peer.sent)
    assert [message["more_body"] for message in peer.sent] == [True] * (len(peer.sent) - 1) + [more]


async def test_a_message_without_a_body_is_left_alone() -> None:
    peer = Peer()
    start = {"type": "http.response.start", "status": 200, "headers": []}
    await peer.paced().send(start)
    assert peer.sent == [start]


async def test_the_body_has_its_time_however_fast_each_piece_is(clock: Clock) -> None:
    piece = {"type": "http.request", "body": bytes(PIECE), "more_body": True}
    connection = Peer(*[piece] * 3).paced(body_s=10)
    await connection.receive()
    clock.now += 9
    await connection.receive()
    clock.now += 2
    # Bytes that lie there already are taken; what is waited for is late.
    await connection.receive()
    with pytest.raises(HTTPException) as late:
        await connection.receive()
    assert late.value.status_code == 408


async def test_after_the_body_the_client_may_be_silent() -> None:
    peer = Peer({"type": "http.request", "body": b"x", "more_body": False})
    connection = peer.paced(stall_s=0.01, body_s=0.01)
    await connection.receive()
    silent = asyncio.create_task(connection.receive())
    done, _ = await asyncio.wait({silent}, timeout=0.05)
    assert not done
    peer.coming.append({"type": "http.disconnect"})
    silent.cancel()
    assert (await connection.receive())["type"] == "http.disconnect"


async def test_who_does_not_take_the_answer_has_stalled() -> None:
    async def never(message: Any) -> None:
        await asyncio.Event().wait()

    connection = Paced(Peer().receive, never, stall_s=0.01, body_s=60)
    with pytest.raises(Stalled):
        await connection.send({"type": "http.response.body", "body": b"x", "more_body": True})
