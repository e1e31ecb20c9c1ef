"""A share of a core's time, for work that is welcome as long as it is little."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

SAVED_S: Final = 1.0
"""Time that may be saved up, s of work: somebody who asks now and then never meets the limit."""


class Share:
    """How much time something may take on the average.

    What it will take is not known before, so it may begin whenever nothing is owed, and pays afterwards by waiting. So
    over any time t no more than `share * t + SAVED_S` is spent, and what the last piece of work took beyond that.

    Args:
        share: of one core, more than 0.
        clock: seconds, ever growing.
    """

    def __init__(self, share: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._saved = SAVED_S
        self._at = clock()

    @property
    def left(self) -> bool:
        """Whether something may begin."""
        self._earn()
        return self._saved > 0

    def spend(self, seconds: float) -> None:
        """Take down what it took, s."""
        self._earn()
        self._saved -= seconds

    def _earn(self) -> None:
        now = self._clock()
        self._saved = min(SAVED_S, self._saved + self._share * (now - self._at))
        self._at = now
