"""A share of time: never more than it says, and nothing refused to who takes less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.search.share import SAVED_S, Share

steps = st.lists(st.tuples(st.floats(0, 5), st.floats(0.001, 3)), min_size=1, max_size=60)


@given(steps, st.floats(0.01, 1))
def test_no_more_is_spent_than_the_share_and_what_was_saved(steps: list[tuple[float, float]], share: float) -> None:
    now = spent = 0.0
    time = Share(share, clock=lambda: now)
    for pause, work in steps:
        now += pause
        if time.left:
            assert spent <= share * now + SAVED_S + 1e-9
            spent += work
            now += work
            time.spend(work)


@given(st.floats(0.05, 1), st.floats(0.001, 0.5), st.integers(1, 200))
def test_who_takes_less_is_never_refused(share: float, work: float, times: int) -> None:
    now = 0.0
    time = Share(share, clock=lambda: now)
    for _ in range(times):
        now += work / share * 1.001
        assert time.left
        time.spend(work)


def test_what_is_owed_is_waited_for() -> None:
    now = 0.0
    time = Share(0.25, clock=lambda: now)
    time.spend(2.0)
    now = 3.9
    assert not time.left
    now = 4.1
    assert time.left
