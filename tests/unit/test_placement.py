"""Where documents go: evenly, always to the same shard, and as few as possible elsewhere when there is another one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from actors.search.placement import WHOLE, Shard, shard_of


@given(st.text(max_size=40), st.integers(1, 12))
def test_a_new_shard_takes_documents_and_moves_no_others(document_id: str, shards: int) -> None:
    before, after = shard_of(document_id, shards), shard_of(document_id, shards + 1)
    assert after in (before, shards)


@given(st.text(max_size=40), st.integers(1, 12))
def test_each_document_is_in_one_shard(document_id: str, shards: int) -> None:
    assert [Shard(number, shards).holds(document_id) for number in range(shards)].count(True) == 1
    assert WHOLE.holds(document_id)


def test_shards_have_about_as_many_documents() -> None:
    held = Counter(shard_of(f"{number:032x}", 4) for number in range(4000))
    assert min(held.values()) > 900


def test_where_a_document_is_does_not_change_with_the_version() -> None:
    # Another answer would have every index built anew.
    assert [shard_of(f"{number:032x}", 3) for number in range(12)] == [0, 1, 1, 2, 1, 1, 1, 1, 0, 1, 0, 0]
