"""Recognised text among a page's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Box, Words
from actors.reading import merging
from actors.reading.merging import Block


def block(text: str, box: Box) -> Block:
    """Words side by side in a box."""
    words, position = [], 0
    parts = text.split()
    step = (box[2] - box[0]) / len(parts)
    for index, part in enumerate(parts):
        position = text.index(part, position)
        words.append(
            (position, position + len(part), box[0] + index * step, box[1], box[0] + (index + 1) * step, box[3])
        )
        position += len(part)
    return Block(text, Words.of(words))


TITLE = block("A title", (50, 50, 500, 70))
LEFT = block("left column", (50, 100, 250, 400))
RIGHT = block("right column", (300, 100, 500, 400))
LEFT_AGAIN = block("left goes on", (50, 600, 250, 700))
texts = st.lists(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4), max_size=6)


@given(texts, st.integers(0, 5))
def test_joining_keeps_every_word_at_its_span(parts: list[list[str]], breaks: int) -> None:
    joined = ["\n".join(words) if breaks % 2 else " ".join(words) for words in parts]
    text, words = merging.join([block(part, (0, 0, 10, 10)) for part in joined])
    assert [text[w["start"] : w["end"]] for w in words.array] == [word for part in parts for word in part]
    assert [part.text for part in merging.blocks(text, words)] == joined
    assert merging.join(merging.blocks(text, words)) == (text, words)


def test_a_picture_in_a_column_stands_between_its_neighbours() -> None:
    figure = block("a figure", (50, 420, 250, 580))
    merged = merging.merge([TITLE, LEFT, LEFT_AGAIN, RIGHT], [figure])
    assert [part.text for part in merged] == ["A title", "left column", "a figure", "left goes on", "right column"]


def test_a_picture_below_a_column_stands_behind_it() -> None:
    figure = block("a figure", (300, 420, 500, 580))
    merged = merging.merge([TITLE, RIGHT, block("footer", (60, 800, 100, 810))], [figure])
    assert [part.text for part in merged] == ["A title", "right column", "a figure", "footer"]


def test_recognised_blocks_keep_their_order() -> None:
    above, below = block("one", (50, 10, 60, 20)), block("two", (50, 22, 60, 30))
    assert [part.text for part in merging.merge([TITLE], [above, below])] == ["one", "two", "A title"]
    assert merging.merge([], [above, below]) == [above, below]


def test_a_word_over_a_word_is_covered() -> None:
    own = Words.of([(0, 4, 10, 10, 40, 20)])
    boxes = np.array([[11, 9, 42, 21], [10, 19, 40, 30], [100, 10, 130, 20]], dtype=np.float64).T
    assert merging.covered(own, boxes).tolist() == [True, False, False]
