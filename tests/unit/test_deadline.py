"""Deadline: a budget that only ever shrinks."""

from __future__ import annotations

import asyncio
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.deadline import ALIKE, Deadline, alike
from actors.errors import DeadlineExceeded

NOW = st.floats(0, 4e9)
SECONDS = st.floats(-1e6, 1e6)


@given(NOW, st.floats(0, 1e6), st.floats(0, 2e6))
def test_what_remains_is_what_was_given_less_what_has_passed(now: float, budget: float, passed: float) -> None:
    deadline = Deadline.after(budget, now=now)
    left = deadline.remaining(now=now + passed)
    assert left == pytest.approx(max(0.0, budget - passed), abs=1e-5)
    assert left >= 0


@given(NOW, SECONDS, SECONDS)
def test_a_branch_never_outlives_its_parent(now: float, budget: float, branch: float) -> None:
    parent = Deadline.after(budget, now=now)
    child = parent.within(branch, now=now)
    assert child <= parent
    assert child <= Deadline.after(branch, now=now)
    assert child in {parent, Deadline.after(branch, now=now)}


@given(NOW, SECONDS, st.floats(0, 1e6))
def test_a_reserve_is_kept_back(now: float, budget: float, reserve: float) -> None:
    parent = Deadline.after(budget, now=now)
    assert parent.reserve(reserve) <= parent
    assert parent.at - parent.reserve(reserve).at == pytest.approx(reserve, abs=1e-5)


@given(st.floats(allow_nan=False))
def test_it_crosses_a_process_border_unchanged(at: float) -> None:
    assert pickle.loads(pickle.dumps(Deadline(at))) == Deadline(at)  # noqa: S301 - our own bytes


def test_an_expired_one_refuses_to_start() -> None:
    assert Deadline.after(-1).expired
    with pytest.raises(DeadlineExceeded, match="a search"):
        Deadline.after(-1).check("a search")
    Deadline.after(60).check("a search")


async def test_run_gives_the_result() -> None:
    async def work() -> int:
        return 3

    assert await Deadline.after(60).run(work(), "work") == 3


async def test_run_cancels_what_is_late() -> None:
    ended = asyncio.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(DeadlineExceeded, match="The search did not finish"):
        await Deadline.after(0.01).run(forever(), "the search")
    assert ended.is_set()


async def test_run_does_not_rename_a_timeout_of_the_work_itself() -> None:
    async def work() -> None:
        raise TimeoutError("the database's own")

    with pytest.raises(TimeoutError, match="the database's own"):
        await Deadline.after(60).run(work(), "work")


async def test_cancelling_the_caller_is_not_a_deadline() -> None:
    started = asyncio.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Deadline.after(60).run(forever(), "work"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(st.lists(st.floats(min_value=-10, max_value=1000), max_size=30))
def test_alike_puts_each_once_where_nobody_waits_much_longer(lefts: list[float]) -> None:
    now = 1_000_000.0
    deadlines = [Deadline.after(left, now=now) for left in lefts]
    groups = alike(deadlines, now=now)
    assert sorted(position for group in groups for position in group) == list(range(len(lefts)))
    for group in groups:
        left = [deadlines[position].remaining(now=now) for position in group]
        assert max(left) <= ALIKE * min(left)


def test_alike_keeps_equal_deadlines_together() -> None:
    assert alike([Deadline(5.0)] * 3, now=0.0) == [[0, 1, 2]]
