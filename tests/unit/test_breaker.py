"""The breaker: opens after failures in a row, lets one trial through at a time, closes when one succeeds."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded, Unavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def broken() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker("The source 'shop'", clock=clock)
    for _ in range(FAILURES):
        fail(breaker)
    return breaker, clock


def fail(breaker: Breaker, error: GatherumError | None = None, *, fair: bool = True) -> None:
    with pytest.raises(GatherumError), breaker.watching(fair=fair):
        raise error or Unavailable("It refuses connections.")


def lets_through(breaker: Breaker) -> bool:
    try:
        with breaker.watching():
            cancel()  # so that looking changes nothing
    except asyncio.CancelledError:
        return True
    except Unavailable:
        return False
    return pytest.fail("Cancelling was swallowed.")


def cancel() -> None:
    raise asyncio.CancelledError


def test_failures_in_a_row_open_it_and_it_says_why() -> None:
    clock = Clock()
    breaker = Breaker("The source 'shop'", clock=clock)
    for _ in range(FAILURES - 1):
        fail(breaker)
    assert lets_through(breaker)
    fail(breaker)
    says = r"'shop' has failed 3 times in a row .* in 1 s. It refuses connections."
    with pytest.raises(Unavailable, match=says), breaker.watching():
        pytest.fail("The call was made.")


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker("The source 'shop'", clock=Clock())
    for _ in range(5 * FAILURES):
        fail(breaker)
        with breaker.watching():
            pass
    assert lets_through(breaker)


@pytest.mark.parametrize(("error", "fair"), [(InvalidInput("No SELECT."), True), (DeadlineExceeded("Late."), False)])
def test_what_is_not_the_sources_fault_does_not_count(error: GatherumError, fair: bool) -> None:
    breaker = Breaker("The source 'shop'", clock=Clock())
    for _ in range(2 * FAILURES):
        fail(breaker, error, fair=fair)
    fail(breaker, Overloaded("Too many statements."))
    assert lets_through(breaker)


def test_after_the_pause_one_trial_is_let_through_at_a_time() -> None:
    breaker, clock = broken()
    clock.now += FIRST_PAUSE_S
    with breaker.watching():
        assert not lets_through(breaker)
    assert lets_through(breaker)


def test_a_cancelled_trial_leaves_room_for_the_next() -> None:
    breaker, clock = broken()
    clock.now += FIRST_PAUSE_S
    assert lets_through(breaker)
    assert lets_through(breaker)


def test_pauses_grow_with_trials_that_fail_and_start_anew_after_a_success() -> None:
    breaker, clock = broken()
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S):
        clock.now += pause - 0.01
        assert not lets_through(breaker)
        clock.now += 0.01
        fail(breaker)
    clock.now += LONGEST_PAUSE_S
    with breaker.watching():
        pass
    for _ in range(FAILURES):
        fail(breaker)
    clock.now += FIRST_PAUSE_S
    assert lets_through(breaker)


@given(st.lists(st.tuples(st.sampled_from(["ok", "down", "wrong"]), st.floats(0, 40)), max_size=60))
def test_whatever_happened_it_lets_somebody_through_within_the_longest_pause(history: list[tuple[str, float]]) -> None:
    clock = Clock()
    breaker = Breaker("The source 'shop'", clock=clock)
    for what, later in history:
        clock.now += later
        try:
            with breaker.watching():
                if what != "ok":
                    raise Unavailable("Down.") if what == "down" else InvalidInput("Wrong.")
        except GatherumError:
            pass
    clock.now += LONGEST_PAUSE_S
    assert lets_through(breaker)
