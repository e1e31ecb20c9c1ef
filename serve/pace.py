"""How slow a client may be.

A client that stops reading, or that sends a byte now and then, would keep what its request holds: a place among the
extractions, a temporary file, tasks on the cluster. A time for each operation is no limit to one that drips, and a time
for all of an answer would cut off who is far away. So a client has a time for each 64 KB, in either direction, of which
only what we wait for it is counted; and a time for all of its body, because a body holds a place and is nobody's yet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Send

T = TypeVar("T")

PIECE: Final = 65_536
"""What a client has a time for, bytes. As much lies in the server's own buffer before a send waits at all."""


class Stalled(ClientDisconnect):
    """The client is there, but does not take what it asked for. As good as gone: nothing can be said to it."""


class Pace:
    """The time left to a client, which begins anew with each piece.

    Args:
        seconds: for each piece.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = self._left = seconds
        self._moved = 0

    async def wait(self, step: Awaitable[T], *, within: float = float("inf")) -> T:
        """Wait for the client, no longer than it has left, or `within` if that is less.

        Raises:
            TimeoutError: it takes longer.
        """
        began = time.monotonic()
        async with asyncio.timeout(max(0.0, min(self._left, within))):
            result = await step
        self._left -= time.monotonic() - began
        return result

    def moved(self, size: int) -> None:
        """Note that so many bytes came, or went."""
        self._moved += size
        if self._moved >= PIECE:
            self._moved, self._left = 0, self._seconds


class Paced:
    """An ASGI connection to a client that keeps up, or is given up.

    Args:
        receive: the server's.
        send: the server's.
        stall_s: time for each piece, s.
        body_s: time for all of the request's body, s.
    """

    def __init__(self, receive: Receive, send: Send, *, stall_s: float, body_s: float) -> None:
        self._receive = receive
        self._send = send
        self._stall_s = stall_s
        self._body_s = body_s
        self._ends: float | None = None
        self._whole = False
        self._coming = Pace(stall_s)
        self._going = Pace(stall_s)

    async def receive(self) -> Message:
        """The next message; once the body is whole, however long that takes.

        Raises:
            HTTPException: 408, the body comes too slowly.
        """
        if self._whole:
            return await self._receive()
        now = time.monotonic()
        if self._ends is None:
            self._ends = now + self._body_s
        try:
            message = await self._coming.wait(self._receive(), within=self._ends - now)
        except TimeoutError:
            detail = f"{self._stall_s:g} s for each 64 KB, {self._body_s:g} s in all"
            # Of all exceptions FastAPI lets only this one through where it reads a body.
            raise HTTPException(408, f"The body came in too slowly: it has {detail}. Send it again.") from None
        self._coming.moved(len(message.get("body", b"")))
        self._whole = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message, in pieces: the server takes a body of any size at once, and waits for the client afterwards.

        Raises:
            Stalled: the client does not take it.
        """
        body = message.get("body", b"")
        if len(body) <= PIECE:
            await self._piece(message)
            return
        for start in range(0, len(body), PIECE):
            more = start + PIECE < len(body) or message.get("more_body", False)
            await self._piece({**message, "body": body[start : start + PIECE], "more_body": more})

    async def _piece(self, message: Message) -> None:
        try:
            await self._going.wait(self._send(message))
        except TimeoutError:
            raise Stalled from None
        self._going.moved(len(message.get("body", b"")))
