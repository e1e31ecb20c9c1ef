"""Answers that are sent piece by piece, and end with the client.

Starlette's own leaves the iterator behind, to be closed when it is collected; until then, whatever makes the pieces
would go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from actors.deadline import Deadline
from actors.errors import GatherumError
from serve.pace import Stalled

T = TypeVar("T")

WATCH_S: Final = 0.05
"""Time after which it is looked whether the client is still there, s."""

GRACE_S: Final = 1.0
"""After its deadline, what a stream has to say that it broke off, s."""


class BrokenOff(Exception):
    """An answer that has begun cannot go on. The connection is cut, so that nobody takes it for whole.

    Args:
        error: why.
    """

    def __init__(self, error: GatherumError) -> None:
        super().__init__(error.detail)
        self.error = error


class Stream(Response):
    """A stream of pieces that ends when the client goes away, even while the next piece is long in coming.

    Args:
        pieces: an async generator; it is closed in any case.
        media_type: of the whole.
        headers: further ones.
        deadline: by then, and a short while after, all of it has been taken; else the connection is cut.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        *,
        media_type: str,
        headers: dict[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._pieces = pieces
        self._deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces, each when the client has taken the one before.

        Raises:
            Stalled: the client has not taken all of them in time.
            BrokenOff: an error kept the rest back.
        """

        async def stream() -> None:
            async with aclosing(generator(self._pieces)) as pieces:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        within = None if self._deadline is None else self._deadline.remaining() + GRACE_S
        try:
            # What makes the pieces looks at its deadline only when the next is asked for, so a client that takes them
            # slowly would hold it for as long as it likes.
            async with asyncio.timeout(within) as timed:
                await unless_gone(receive, stream())
        except GatherumError as error:
            raise BrokenOff(error) from None
        except TimeoutError:
            if timed.expired():
                raise Stalled from None
            raise


def generator(iterator: AsyncIterator[T]) -> Any:
    """The same, typed as what it is: an async generator, which can be closed."""
    return iterator


async def unless_gone(receive: Callable[[], Awaitable[Message]], work: Awaitable[T]) -> T:
    """Do something for a client, and cancel it when the client goes away.

    Work that is done within `WATCH_S` is never looked after: a task more for each request is a fifth of what a short
    statement costs this process.

    Raises:
        ClientDisconnect: it did.
    """
    loop = asyncio.get_running_loop()
    watching: asyncio.Task[None] | None = None
    is_over = False

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    def watch() -> None:
        nonlocal watching
        watching = loop.create_task(gone())
        watching.add_done_callback(end)

    def end(watched: asyncio.Task[None]) -> None:
        # Whatever ended it: from a client that cannot be watched nothing is to be expected any more.
        if not watched.cancelled() and (watched.exception() or True) and not is_over:
            scope.reschedule(loop.time())

    timer = loop.call_later(WATCH_S, watch)
    try:
        async with asyncio.timeout(None) as scope:
            try:
                return await work
            finally:
                is_over = True
    except TimeoutError:
        if scope.expired():
            raise ClientDisconnect from None
        raise
    finally:
        timer.cancel()
        if watching is not None:
            watching.cancel()
            await asyncio.wait((watching,))
