"""Retries: how much of a role's work may be done twice.

When a replica dies, the calls in flight on it are made again elsewhere. If it is not the replica that is at fault but
the calls, or all replicas go, then repeating everything would double the load at the worst moment. So repetitions are
paid for out of a budget that calls fill (as in Finagle's `RetryBudget`): a tenth of the traffic, and a few where there
is little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SHARE: Final = 0.1
"""Repetitions that one call pays for."""

AT_ONCE: Final = 100
"""Most that are saved up: what the death of one replica may cost, where calls do not travel in batches."""

A_SECOND: Final = 1.0
"""Repetitions that are allowed a second whatever the traffic is."""


class RetryBudget:
    """Of one pool.

    Args:
        clock: monotonic, s.

    Attributes:
        refused: repetitions that there was nothing left for.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._saved = float(AT_ONCE)
        self._at = clock()
        self.refused = 0

    def deposit(self) -> None:
        """A call is made for the first time."""
        self._saved = min(AT_ONCE, self._saved + SHARE)

    def withdraw(self) -> bool:
        """Whether a call may be made once more."""
        now = self._clock()
        self._saved = min(AT_ONCE, self._saved + A_SECOND * max(0.0, now - self._at))
        self._at = now
        if self._saved < 1.0:
            self.refused += 1
            return False
        self._saved -= 1.0
        return True
