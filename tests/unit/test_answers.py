"""Kept answers: bounded, and never older than what they were made of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.answers import AnswerCache
from actors.messages import Change

COLLECTIONS = st.lists(st.sampled_from("abc"), unique=True, max_size=2).map(tuple)


def publish(number: int, collection: str) -> Change:
    return Change(number, "publish", "d", collection)


def test_a_new_document_of_its_collections_ends_an_answer() -> None:
    cache = AnswerCache(1000)
    cache.follow([publish(5, "a")])
    cache.put("q", ("a",), 5, b"answer")
    cache.put("all", (), 5, b"answer")
    cache.follow([publish(6, "b")])
    assert cache.get("q") == b"answer"
    assert cache.get("all") is None
    cache.follow([publish(7, "a")])
    assert cache.get("q") is None
    assert len(cache) == 0


def test_an_index_that_is_behind_keeps_nothing_and_one_that_is_ahead_stays_good() -> None:
    cache = AnswerCache(1000)
    cache.follow([publish(5, "a")])
    cache.put("behind", ("a",), 4, b"answer")
    assert cache.get("behind") is None
    cache.put("ahead", ("a",), 6, b"answer")
    cache.follow([publish(6, "a")])
    assert cache.get("ahead") == b"answer"


def test_the_least_recently_asked_for_goes_first() -> None:
    cache = AnswerCache(10)
    for key in "xyz":
        cache.put(key, (), 1, b"1234")
        cache.get("x")
    assert [key for key in "xyz" if cache.get(key)] == ["x", "z"]
    cache.put("large", (), 1, b"12345678901")
    assert cache.get("large") is None
    assert not AnswerCache(0).on


STEP = st.one_of(
    st.tuples(st.just("change"), st.sampled_from(["a", "b", "c", ""])),
    st.tuples(st.just("put"), COLLECTIONS, st.integers(0, 3), st.integers(0, 40), st.sampled_from("xyz")),
    st.tuples(st.just("get"), st.sampled_from("xyz")),
)


@given(st.lists(STEP, max_size=80))
def test_what_it_gives_is_what_nothing_has_changed_since(steps: list[tuple[object, ...]]) -> None:
    cache = AnswerCache(100)
    log: list[str] = []
    model: dict[object, tuple[tuple[str, ...], int, bytes]] = {}
    for step in steps:
        if step[0] == "change":
            log.append(str(step[1]))
            cache.follow([Change(len(log), "publish", "d", log[-1])])
        elif step[0] == "put":
            _, collections, behind, size, key = step
            assert isinstance(collections, tuple)
            at = max(0, len(log) - int(str(behind)))
            body = b"x" * int(str(size))
            cache.put(key, collections, at, body)
            if not any(not collections or not name or name in collections for name in log[at:]):
                model[key] = (collections, at, body)
        else:
            got = cache.get(step[1])
            if got is not None:
                collections, at, body = model[step[1]]
                assert got == body
                assert not any(not collections or not name or name in collections for name in log[at:])
