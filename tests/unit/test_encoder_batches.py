"""Which sequences an encoder computes together."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.search.encoder import BATCH, BATCH_TOKENS, batches


@given(st.lists(st.integers(1, 600), max_size=200))
def test_every_sequence_is_in_one_batch_that_is_small_enough_beside_those_of_its_length(lengths: list[int]) -> None:
    found = batches(lengths)
    order = [lengths[index] for batch in found for index in batch]
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert order == sorted(lengths)
    for batch in found:
        longest = lengths[batch[-1]]
        assert 1 <= len(batch) <= BATCH
        assert len(batch) == 1 or len(batch) * longest <= BATCH_TOKENS


@given(st.lists(st.integers(1, 600), min_size=1, max_size=200))
def test_no_batch_has_room_for_the_next_sequence(lengths: list[int]) -> None:
    found = batches(lengths)
    for batch, after in itertools.pairwise(found):
        assert len(batch) == BATCH or (len(batch) + 1) * lengths[after[0]] > BATCH_TOKENS
