"""Breaker: what has stopped answering is left alone for a while, and not waited for by every question.

Questions travel in batches, and a batch is answered when its last branch is; so a database that is away would slow down
those too that ask nothing of it. After a few failures in a row the others are told so at once, and only now and then
does one question find out whether it is back. Every target of a branch has one: the roles that are asked, each SQL
source, the language model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from actors.errors import DeadlineExceeded, Overloaded, Unavailable

FAILURES: Final = 3
"""Failures in a row after which a target is left alone."""

FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
"""For so long at first, and at most; it doubles with each trial that fails."""


class Breaker:
    """Of one target.

    Args:
        what: it is, at the beginning of a sentence.
        clock: monotonic, s.
    """

    def __init__(self, what: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._failures = 0
        self._why = ""
        self._pause = FIRST_PAUSE_S
        self._open_until = 0.0
        self._trying = False

    @contextmanager
    def watching(self, *, fair: bool = True) -> Iterator[None]:
        """Around a call of the target. What it raises comes through, and counts if it says that the target is away.

        Args:
            fair: whether the call has the time that a target is given; if not, its being late is not held against it.

        Raises:
            Unavailable: the target is left alone; the call must not be made.
        """
        trial = self._failures >= FAILURES
        if trial:
            left = self._open_until - self._clock()
            if left > 0 or self._trying:
                raise Unavailable(
                    f"{self._what} has failed {self._failures} times in a row and is tried again"
                    f"{f' in {left:.0f} s' if left >= 1 else ' soon'}. {self._why}"
                )
            self._trying = True
        try:
            yield
        except Overloaded:
            raise
        except (Unavailable, DeadlineExceeded) as error:
            if fair or isinstance(error, Unavailable):
                self._fail(error.detail)
            raise
        except Exception:
            # It has answered, if only that the question is wrong.
            self._failures = 0
            self._pause = FIRST_PAUSE_S
            raise
        else:
            self._failures = 0
            self._pause = FIRST_PAUSE_S
        finally:
            # A cancelled trial is none: the next caller makes another.
            if trial:
                self._trying = False

    @property
    def open(self) -> bool:
        """Whether calls are refused, but for one now and then."""
        return self._failures >= FAILURES

    def late(self) -> None:
        """A call was given up because its time had passed; for one that is cancelled then, within `watching`."""
        self._fail("It did not answer in time.")

    def _fail(self, why: str) -> None:
        self._failures += 1
        self._why = why
        if self._failures >= FAILURES:
            self._open_until = self._clock() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
