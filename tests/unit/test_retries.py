"""The retry budget: what is done twice is a small part of what is done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.retries import A_SECOND, AT_ONCE, SHARE, RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_what_one_death_costs_is_there_from_the_start_and_no_more() -> None:
    budget = RetryBudget(Clock())
    assert [budget.withdraw() for _ in range(AT_ONCE + 3)] == [True] * AT_ONCE + [False] * 3
    assert budget.refused == 3


def test_ten_calls_pay_for_one_repetition() -> None:
    budget = RetryBudget(Clock())
    while budget.withdraw():
        pass
    for _ in range(11):
        budget.deposit()
    assert budget.withdraw()
    assert not budget.withdraw()


def test_where_there_is_little_traffic_time_pays() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    while budget.withdraw():
        pass
    clock.now += 1 / A_SECOND
    assert budget.withdraw()
    assert not budget.withdraw()


@given(st.lists(st.one_of(st.just("call"), st.just("again"), st.floats(0, 5)), max_size=300))
def test_repetitions_stay_within_a_tenth_of_the_calls_and_the_floor(history: list[str | float]) -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    calls = again = 0
    for what in history:
        if what == "call":
            calls += 1
            budget.deposit()
        elif what == "again":
            again += budget.withdraw()
        else:
            clock.now += float(what)
        assert again <= AT_ONCE + SHARE * calls + A_SECOND * (clock.now - 50.0) + 1e-6
