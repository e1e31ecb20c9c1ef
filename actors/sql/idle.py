"""Connections between two statements: kept for the next one to the same source, for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from actors.messages import Source

T = TypeVar("T")

KEEP_S: Final = 60.0
"""How long a connection may do nothing, s."""


class Idle(Generic[T]):
    """Idle connections by source. Those of a source that was changed are never found again, and go with their time.

    Args:
        close: ends a connection.
        keep: most for one source.
    """

    def __init__(self, close: Callable[[T], Awaitable[None]], *, keep: int) -> None:
        self._close = close
        self._keep = keep
        self._idle: dict[Source, list[tuple[float, T]]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def take(self, source: Source) -> T | None:
        """The one used last, if there is any."""
        kept = self._idle.get(source)
        return kept.pop()[1] if kept else None

    def give(self, source: Source, connection: T) -> None:
        """Keep a connection, or close it if there are enough."""
        kept = self._idle.setdefault(source, [])
        if len(kept) >= self._keep:
            self._end(connection)
            return
        kept.append((time.monotonic(), connection))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._expire)

    async def close(self) -> None:
        """Close all of them."""
        if self._timer is not None:
            self._timer.cancel()
        for kept in self._idle.values():
            for _, connection in kept:
                self._end(connection)
        self._idle.clear()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _expire(self) -> None:
        self._timer = None
        before = time.monotonic() - KEEP_S
        for source, kept in list(self._idle.items()):
            for since, connection in [each for each in kept if each[0] <= before]:
                kept.remove((since, connection))
                self._end(connection)
            if not kept:
                del self._idle[source]
        if self._idle:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S / 2, self._expire)

    def _end(self, connection: T) -> None:
        task = asyncio.ensure_future(self._close(connection))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
