"""Plans: what is called for an answer, and in which order, as a value that can be printed, tested and run.

A plan is composed of four pieces. A `branch` is one call; `fork_join` runs plans beside one another; `scatter_gather`
makes branches of what is known by then, one for each collection, source or shard; a `pipeline` runs plans one after the
other, each with what those before it have brought. Whatever is not in one pipeline does not wait for one another.

`run` is the only place that starts, times, ends and cancels calls. Nothing in a plan raises: every call leaves a
record, from which answers are joined however many of them failed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

from actors.breaker import Breaker
from actors.deadline import Deadline
from actors.errors import GatherumError, Unavailable
from config import logs

T = TypeVar("T")
Clock = Callable[[], float]

FAIR_S: Final = 2.0
"""Time that a call must have had for its being late to count against what it called, s."""


@dataclass(slots=True)
class Call(Generic[T]):
    """What became of one branch. Times are seconds since the epoch, as in `Deadline`.

    Attributes:
        started: None until it is made, and where no time was left for it.
        ended: infinity while it has not come back.
        values: one per item asked for, unless `error`.
        error: why the call failed as a whole.
    """

    started: float | None = None
    ended: float = math.inf
    values: Sequence[T | GatherumError] = ()
    error: GatherumError | None = None

    @property
    def brought(self) -> bool:
        """Whether it has come back with something."""
        return self.ended < math.inf and self.error is None


Calls = Mapping[str, Call[Any]]
"""The record of a run: every branch that was reached, by its name."""

Make = Callable[[Deadline], Awaitable[Sequence[Any]]]
"""Makes a call that ends by the deadline."""


@dataclass(frozen=True, slots=True)
class Branch:
    """See `branch`."""

    name: str
    make: Make
    items: int | None
    until: Deadline | None
    breaker: Breaker | None


@dataclass(frozen=True, slots=True)
class Fork:
    """See `fork_join`."""

    parts: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class Scatter:
    """See `scatter_gather`."""

    name: str
    branches: Callable[[Calls], Sequence[Branch]]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """See `pipeline`."""

    stages: tuple[Plan, ...]


Plan = Branch | Fork | Scatter | Pipeline


def branch(
    name: str, make: Make, *, items: int | None = None, until: Deadline | None = None, breaker: Breaker | None = None
) -> Branch:
    """One call.

    Args:
        name: unlike all others of the plan.
        make: the call.
        items: how many values it must bring; None for any number.
        until: a deadline of its own, if it has less time than the plan.
        breaker: of what is called; while it is open the call is not made.
    """
    return Branch(name, make, items, until, breaker)


def fork_join(*parts: Plan) -> Fork:
    """Plans that do not need one another: all begin at once, and it ends with the last."""
    return Fork(parts)


def scatter_gather(name: str, branches: Callable[[Calls], Sequence[Branch]]) -> Scatter:
    """Branches that run beside one another, one for each of the places that are known only when it begins.

    Args:
        name: of the places, for the reader of a plan.
        branches: makes them from what has been brought by then.
    """
    return Scatter(name, branches)


def pipeline(*stages: Plan) -> Pipeline:
    """Stages one after the other. One that brought nothing at all ends it."""
    return Pipeline(stages)


# --- printing -------------------------------------------------------------------------------------------------------


def tree(plan: Plan, calls: Calls | None = None) -> str:
    """The plan for people, a line for each piece.

    Args:
        plan: any.
        calls: of a run; then each branch says what became of it, and a scatter names the branches it came to.
    """
    return "\n".join(_lines(plan, calls))


def _lines(plan: Plan, calls: Calls | None) -> list[str]:
    inner: tuple[Plan, ...] = ()
    if isinstance(plan, Branch):
        head = plan.name + ("" if calls is None else f": {_became(calls.get(plan.name))}")
    elif isinstance(plan, Scatter):
        head = f"scatter_gather over {plan.name}"
        inner = () if calls is None else tuple(plan.branches(calls))
    else:
        fork = isinstance(plan, Fork)
        head = "fork_join" if fork else "pipeline"
        inner = cast("Fork", plan).parts if fork else cast("Pipeline", plan).stages
    lines = [head]
    for place, part in enumerate(inner):
        last = place == len(inner) - 1
        first, *rest = _lines(part, calls)
        lines.append(f"{'└── ' if last else '├── '}{first}")
        lines += [f"{'    ' if last else '│   '}{line}" for line in rest]
    return lines


def _became(call: Call[Any] | None) -> str:
    if call is None:
        return "not reached"
    if call.started is None:
        return "no time was left"
    if call.ended == math.inf:
        return "not back in time"
    return f"{1000 * (call.ended - call.started):.0f} ms" + (f", {call.error.code}" if call.error else "")


def efficiency(calls: Calls, took: float, ended: float) -> float:
    """How much ran beside one another: the sum of the times of all calls, over the time from first to last.

    Args:
        calls: of a run.
        took: when the run began, seconds since the epoch.
        ended: when it ended; a call that is not back counts until then.

    Returns:
        1 for calls one after the other, n for n that all took as long as the whole; 0 without calls.
    """
    spent = sum(max(0.0, min(call.ended, ended) - call.started) for call in calls.values() if call.started is not None)
    return spent / (ended - took) if ended > took else 0.0


# --- running --------------------------------------------------------------------------------------------------------


async def run(plan: Plan, deadline: Deadline, *, clock: Clock = time.time) -> dict[str, Call[Any]]:
    """Run a plan until it has come to its end or the deadline has passed; then whatever is left is cancelled.

    Args:
        plan: what to call.
        deadline: of all of it; each call gets it, or its own if that is earlier.
        clock: seconds since the epoch.

    Returns:
        The record. Only a cancellation comes through, and it takes along every call that is under way.
    """
    running = _Run(deadline, clock)
    work = asyncio.create_task(running.go(plan))
    try:
        # Waiting does not hand a cancellation on to what is waited for: that is done below.
        await asyncio.wait((work,), timeout=deadline.remaining(now=clock()))
    finally:
        if work.cancel():
            # Not waited for: what does not let itself be cancelled must not hold up the answer. The loop keeps only
            # weak references to tasks.
            _ABANDONED.add(work)
            work.add_done_callback(_ABANDONED.discard)
    if work.done() and not work.cancelled() and (defect := work.exception()) is not None:
        raise defect
    # What comes in later is of no use: the record is closed.
    return {name: Call(call.started, call.ended, call.values, call.error) for name, call in running.calls.items()}


_ABANDONED: set[asyncio.Task[bool]] = set()


class _Run:
    def __init__(self, deadline: Deadline, clock: Clock) -> None:
        self.calls: dict[str, Call[Any]] = {}
        self._deadline = deadline
        self._clock = clock

    async def go(self, plan: Plan) -> bool:
        """Whether it has brought something, or there was nothing to bring."""
        if isinstance(plan, Branch):
            return await self._call(plan)
        if isinstance(plan, Pipeline):
            for stage in plan.stages:
                if not await self.go(stage):
                    return False
            return True
        parts = plan.parts if isinstance(plan, Fork) else plan.branches(self.calls)
        if len(parts) == 1:
            return await self.go(parts[0])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.go(part)) for part in parts]
        return not tasks or any(task.result() for task in tasks)

    async def _call(self, branch: Branch) -> bool:
        if branch.name in self.calls:
            raise ValueError(f"two branches are named {branch.name!r}")
        call = self.calls[branch.name] = Call[Any]()
        deadline = self._deadline if branch.until is None else min(self._deadline, branch.until)
        now = self._clock()
        if deadline.remaining(now=now) <= 0:
            return False
        call.started = now
        values: Sequence[Any] = ()
        error: GatherumError | None = None
        try:
            values = await self._guarded(branch, deadline)
        except GatherumError as failed:
            error = failed
        except Exception as defect:  # noqa: BLE001 - a fault in one role degrades an answer, it must not take it away
            # In a thread: a traceback is written with lines of source files, which are read for it.
            await asyncio.to_thread(logs.get().error, "branch_failed", branch=branch.name, exc_info=defect)
            error = Unavailable(f"The {branch.name} branch failed. Try again.")
        if error is None and branch.items is not None and len(values) != branch.items:
            logs.get().error("branch_miscounted", branch=branch.name, items=branch.items, values=len(values))
            error = Unavailable(f"The {branch.name} branch failed. Try again.")
        call.values, call.error, call.ended = () if error else values, error, self._clock()
        return call.brought

    async def _guarded(self, branch: Branch, deadline: Deadline) -> Sequence[Any]:
        if branch.breaker is None:
            return await branch.make(deadline)
        fair = deadline.remaining(now=self._clock()) >= FAIR_S
        with branch.breaker.watching(fair=fair):
            try:
                return await branch.make(deadline)
            except asyncio.CancelledError:
                # Not the client has gone, but the time.
                if fair and deadline.remaining(now=self._clock()) <= 0:
                    branch.breaker.late()
                raise
