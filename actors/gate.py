"""Gate: lets so many through at once, where how many may change while others wait, and how many may wait is bounded.

Ingestion's page tasks pass one, so that a folder of scans leaves CPUs to the questions asked meanwhile, and each kind
of small task another, so that none takes the place of the others. An asyncio semaphore would not do: its width is fixed
when it is made, while a cluster grows and shrinks, and its queue has no end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from actors.errors import Overloaded


class Gate:
    """A semaphore whose width can be set; those who wait are let in first come, first served.

    Args:
        width: how many may be inside.
        queue: how many may wait besides; None where their number has another bound.
        what: they come for, named in the refusal, in the plural.

    Attributes:
        inside: how many are through and not back.
    """

    def __init__(self, width: int, *, queue: int | None = None, what: str = "") -> None:
        self.inside = 0
        self._width = width
        self._queue = queue
        self._what = what
        self._waiting: deque[asyncio.Future[None]] = deque()

    def widen(self, width: int) -> None:
        """Set how many may be inside; those beyond a smaller width stay until they leave."""
        self._width = width
        self._admit()

    @asynccontextmanager
    async def passed(self) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Raises:
            Overloaded: too many wait already.
        """
        if self._queue is not None and self.inside >= self._width and len(self._waiting) >= self._queue:
            raise Overloaded(f"{self._queue} {self._what} wait already, the most at once. Try again in a moment.")
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._admit()
        try:
            await place
            yield
        finally:
            # Cancelled while it waited, or let in at the very moment it was cancelled.
            if place.done() and not place.cancelled():
                self.inside -= 1
            else:
                self._waiting.remove(place)
            self._admit()

    def _admit(self) -> None:
        for place in list(self._waiting):
            if self.inside >= self._width:
                break
            if not place.done():
                self._waiting.remove(place)
                place.set_result(None)
                self.inside += 1
