"""The checker of histories finds what it is there to find, and nothing in a good one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from history import Event, unkept, violations

CLAIM = Event("claim", "a", "job", 1)
COMMIT = Event("commit_pages", "a", "job", 1, (1,))
PUBLISH = Event("publish", "a", "job", 1, change=1)
GOOD = (CLAIM, COMMIT, PUBLISH)


@pytest.mark.parametrize(
    "happened",
    [
        GOOD,
        (*GOOD, PUBLISH),  # asked again
        (CLAIM, Event("claim", "b", "job", 2), Event("publish", "b", "job", 2, change=1)),
        (CLAIM, Event("release", "a", "job", 1), Event("claim", "b", "job", 2), Event("heartbeat", "b", "job", 2)),
    ],
)
def test_nothing_is_wrong_with_a_good_history(happened: tuple[Event, ...]) -> None:
    assert violations(happened) == []


@pytest.mark.parametrize(
    ("happened", "what"),
    [
        ((COMMIT,), "stale, nobody"),
        ((CLAIM, CLAIM), "did not grow"),
        ((CLAIM, Event("claim", "b", "job", 2), COMMIT), "stale, b had fence 2"),
        ((CLAIM, Event("commit_pages", "b", "job", 1)), "stale, a had fence 1"),
        ((*GOOD, COMMIT), "stale"),
        ((*GOOD, Event("claim", "b", "job", 2)), "published before"),
        ((*GOOD, replace(PUBLISH, change=2)), "published twice, as 1 and 2"),
        ((*GOOD, replace(CLAIM, job_id="other"), replace(PUBLISH, job_id="other")), "its change 1 is that of job"),
        ((CLAIM, Event("fail", "a", "job", 1), PUBLISH), "stale"),
        ((CLAIM, Event("rewrite", "a", "job", 1)), "unknown"),
    ],
)
def test_what_must_not_be_is_found(happened: tuple[Event, ...], what: str) -> None:
    assert any(what in violation for violation in violations(happened))


def test_a_promise_that_the_store_does_not_know_of() -> None:
    assert unkept(GOOD, [CLAIM, PUBLISH]) == []
    assert unkept(GOOD[:2], [CLAIM, PUBLISH]) == ["a was told that publish of job is done"]
