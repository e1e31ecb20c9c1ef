"""The gate that ingestion's page tasks pass."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import Overloaded
from actors.gate import Gate


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Walker:
    """Passes the gate and stays inside until told to leave."""

    def __init__(self, gate: Gate) -> None:
        self.is_in = False
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._walk(gate))

    async def _walk(self, gate: Gate) -> None:
        async with gate.passed():
            self.is_in = True
            try:
                await self._leave.wait()
            finally:
                self.is_in = False

    def leave(self) -> None:
        self._leave.set()


async def test_who_leaves_lets_the_next_one_in() -> None:
    gate = Gate(2)
    walkers = [Walker(gate) for _ in range(4)]
    await settle()
    assert [walker.is_in for walker in walkers] == [True, True, False, False]
    walkers[1].leave()
    await settle()
    assert [walker.is_in for walker in walkers] == [True, False, True, False]
    gate.widen(3)
    await settle()
    assert walkers[3].is_in
    for walker in walkers:
        walker.leave()
    await settle()
    assert gate.inside == 0


async def test_an_error_inside_gives_the_place_back() -> None:
    gate = Gate(1)
    with pytest.raises(ValueError, match="inside"):
        async with gate.passed():
            raise ValueError("inside")
    assert gate.inside == 0


async def test_only_so_many_wait() -> None:
    gate = Gate(1, queue=1, what="letters")
    first, second = Walker(gate), Walker(gate)
    await settle()
    with pytest.raises(Overloaded, match="1 letters wait already"):
        async with gate.passed():
            pass
    second.task.cancel()
    await settle()
    third = Walker(gate)
    await settle()
    first.leave()
    await settle()
    assert third.is_in
    third.leave()
    await settle()
    assert gate.inside == 0


async def test_where_nobody_may_wait_those_with_a_place_come_in() -> None:
    gate = Gate(1, queue=0)
    walker = Walker(gate)
    await settle()
    assert walker.is_in
    walker.leave()
    await settle()


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from(["come", "leave", "cancel", "widen"]), st.integers(0, 5))))
def test_never_more_inside_than_its_width_and_nobody_waits_before_a_free_place(
    width: int, steps: list[tuple[str, int]]
) -> None:
    async def run() -> None:
        gate = Gate(width)
        widest = width
        now = width
        walkers: list[Walker] = []
        for what, which in steps:
            if what == "come":
                walkers.append(Walker(gate))
            elif what == "widen":
                now = which + 1
                widest = max(widest, now)
                gate.widen(now)
            elif walkers:
                walker = walkers.pop(which % len(walkers))
                walker.leave() if what == "leave" else walker.task.cancel()
                # No pause: the next step meets it half-way.
        await settle()
        inside = sum(walker.is_in for walker in walkers)
        assert inside <= widest
        assert inside >= min(now, len(walkers))
        for walker in walkers:
            walker.task.cancel()
        await settle()
        assert gate.inside == 0

    asyncio.run(run())
