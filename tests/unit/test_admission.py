"""Admission: bounded whatever comes, and never closed to a client that has nothing yet."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import Overloaded
from serve.admission import SHARE, Lane, Lanes, client_of


class Held:
    """Requests that stay in a lane until they are let go."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.by: dict[str, list[ExitStack]] = {}

    def enter(self, client: str) -> bool:
        place = ExitStack()
        try:
            place.enter_context(self.lane.entered(client))
        except Overloaded:
            return False
        self.by.setdefault(client, []).append(place)
        return True

    def leave(self, client: str) -> None:
        if self.by.get(client):
            self.by[client].pop().close()

    def count(self, client: str) -> int:
        return len(self.by.get(client, []))


@pytest.mark.parametrize("limit", [1, 2, 7, 8, 9, 100, 1000])
def test_a_client_alone_gets_the_limit_and_a_second_one_still_gets_in(limit: int) -> None:
    held = Held(Lane(limit, "questions"))
    while held.enter("greedy"):
        assert held.count("greedy") <= limit
    assert held.count("greedy") == limit
    assert held.enter("late")


def test_the_refusal_says_how_it_stands() -> None:
    lane = Lane(1, "questions")
    says = pytest.raises(Overloaded, match="1 questions are under way already, 1 of them yours")
    with lane.entered("a"), says, lane.entered("a"):
        pytest.fail("It was let in.")
    assert lane.inside == 0


@given(st.integers(1, 200), st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=600))
def test_it_is_bounded_and_open_to_newcomers(limit: int, history: list[tuple[str, bool]]) -> None:
    held = Held(Lane(limit, "questions"))
    for client, comes in history:
        if not comes:
            held.leave(client)
            continue
        before = held.count(client)
        entered = held.enter(client)
        assert entered or before > 0 or held.lane.inside >= limit
        # What somebody has is bounded by what was free.
        if entered and before:
            assert before < SHARE * (limit * (1 + 1 / SHARE) - held.lane.inside + 1)
    assert held.lane.inside == sum(map(held.count, "abcdef")) <= limit + limit / SHARE + 1
    for client in "abcdef":
        while held.count(client):
            held.leave(client)
    assert held.lane.inside == 0
    assert held.lane._held == {}


@pytest.mark.parametrize("clients", [2, 3, 10])
def test_greedy_clients_share_alike(clients: int) -> None:
    held = Held(Lane(1000, "questions"))
    names = [f"client {number}" for number in range(clients)]
    # The first has taken all before the others come; then all take what they get while requests end in turn.
    while held.enter(names[0]):
        pass
    for turn in range(20_000):
        name = names[turn % clients]
        held.enter(name)
        held.leave(names[(turn // clients) % clients])
        held.enter(name)
    counts = [held.count(name) for name in names]
    assert max(counts) <= 2 * min(counts)


def test_requests_go_to_their_lane() -> None:
    lanes = Lanes(Lane(1, "q"), Lane(1, "u"), Lane(1, "s"), Lane(1, "o"))
    assert lanes.of("POST", "/v1/ask") is lanes.of("POST", "/v1/search") is lanes.questions
    assert lanes.of("POST", "/v1/documents") is lanes.of("POST", "/v1/extract") is lanes.uploads
    assert lanes.of("POST", "/v1/sources/shop/query") is lanes.statements
    assert lanes.of("GET", "/v1/documents") is lanes.of("GET", "/v1/sources") is lanes.others
    assert [lane.what for lane in lanes] == ["q", "u", "s", "o"]


def test_clients_are_told_apart_by_key_then_by_address_and_keys_are_not_kept() -> None:
    key = [(b"authorization", b"Bearer secret"), (b"x-forwarded-for", b"1.1.1.1")]
    assert client_of(key, "127.0.0.1") == client_of(key[:1], "127.0.0.2")
    assert "secret" not in client_of(key, "127.0.0.1")
    assert client_of([(b"x-forwarded-for", b"6.6.6.6, 1.1.1.1")], "127.0.0.1") == "1.1.1.1"
    assert client_of([(b"accept", b"*/*")], "127.0.0.1") == "127.0.0.1"
