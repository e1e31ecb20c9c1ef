"""Deadline: the absolute budget that travels with every call.

A timeout restarts at every hop; a deadline does not, so a question that waited in a queue has that much less time left.
It is a wall-clock instant, not a monotonic one, because it crosses processes and nodes and must go on counting while a
call waits in an actor's queue. Nodes are therefore expected to keep their clocks by NTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from actors.errors import DeadlineExceeded

T = TypeVar("T")


ALIKE = 2.0
"""Deadlines are alike if the later one leaves at most this many times the time of the earlier one."""


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """An instant after which the answer is of no use to the caller.

    Attributes:
        at: seconds since the epoch.
    """

    at: float

    @classmethod
    def after(cls, seconds: float, *, now: float | None = None) -> Deadline:
        """The deadline `seconds` from now."""
        return cls((time.time() if now is None else now) + seconds)

    def remaining(self, *, now: float | None = None) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - (time.time() if now is None else now))

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self.remaining() <= 0.0

    def within(self, seconds: float, *, now: float | None = None) -> Deadline:
        """The earlier of this deadline and `seconds` from now: a branch never outlives its parent."""
        return min(self, Deadline.after(seconds, now=now))

    def reserve(self, seconds: float) -> Deadline:
        """This deadline less a reserve: the time the caller keeps to merge what comes back."""
        return Deadline(self.at - seconds)

    def check(self, what: str) -> None:
        """Raise `DeadlineExceeded` if no time is left; call it before starting work."""
        if self.expired:
            raise DeadlineExceeded(f"No time was left to start {what}.")

    async def run(self, awaitable: Awaitable[T], what: str) -> T:
        """Await within the deadline.

        Args:
            awaitable: the work.
            what: it is, in words for whoever made the call.

        Raises:
            DeadlineExceeded: the time ran out; the awaitable has been cancelled.
        """
        try:
            async with asyncio.timeout(self.remaining()) as scope:
                return await awaitable
        except TimeoutError:
            # A TimeoutError of the awaitable itself is not ours to rename.
            if scope.expired():
                raise DeadlineExceeded(f"{what[0].upper()}{what[1:]} did not finish in time.") from None
            raise


def alike(deadlines: Sequence[Deadline], *, now: float | None = None) -> list[list[int]]:
    """Group deadlines so that within a group nobody waits for somebody much more patient.

    Returns:
        Positions in `deadlines`, each in exactly one group; in a group the longest time left is at most `ALIKE` times
        the shortest.
    """
    left = [deadline.remaining(now=now) for deadline in deadlines]
    groups: list[list[int]] = []
    for position in sorted(range(len(left)), key=left.__getitem__):
        if groups and left[position] <= ALIKE * left[groups[-1][0]]:
            groups[-1].append(position)
        else:
            groups.append([position])
    return groups
