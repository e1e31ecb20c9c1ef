"""Hyphens at line ends: divided words are joined, compounds keep theirs, and both parts keep their boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Words
from actors.reading.text import assemble, gaps


def set_lines(text: str) -> tuple[str, Words]:
    """A page's text from lines, and blocks set off by a blank one; a word is 10 points high and its line 20."""
    texts, blocks, lines, boxes = [], [], [], []
    for block, part in enumerate(text.split("\n\n")):
        for line, row in enumerate(part.split("\n")):
            for position, word in enumerate(row.split(" ")):
                texts.append(word)
                blocks.append(block)
                lines.append(line)
                y = 200.0 * block + 20 * line
                boxes.append((50.0 * position, y, 50.0 * position + 40, y + 10))
    return assemble(texts, gaps(np.array(blocks), np.array(lines)), np.array(boxes, dtype=np.float32).T)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("The atmos-\nphere is thick.", "The atmosphere\nis thick."),
        ("The atmos\u2010\nphere, it", "The atmosphere,\nit"),
        ("Mond-\nKrater", "Mond-\nKrater"),
        ("pages 3-\n4 and", "pages 3-\n4 and"),
        ("pre- and post-\nwar", "pre- and postwar"),
        ("pre-\nand post-war", "pre-\nand post-war"),
        ("a well-\nknown moon", "a well-known\nmoon"),
        ("for ex-\nample", "for example"),
        ("state-of-the-\nart moon", "state-of-the-art\nmoon"),
        ("an e-\nmail came", "an e-mail\ncame"),
        ("ice-rich and ice-\nrich rock", "ice-rich and ice-rich\nrock"),
        ("icerich, ice-rich, ice-\nrich", "icerich, ice-rich, icerich"),
        ("time is bound, time-\nbound is bound", "time is bound, time-bound\nis bound"),
        ("a naviga-\ntion of naviga-\ntion", "a navigation\nof navigation"),
        (
            "a time-\nbound or time-\nbound thing is bound in time",
            "a time-bound\nor time-bound\nthing is bound in time",
        ),
        ("in the atmos-\n\nphere of Titan", "in the atmosphere\nof Titan"),
        ("a mul-\nti-\nlingual text", "a multilingual\ntext"),
        ("a dash -\nand more", "a dash -\nand more"),
        ("ends in a hy-", "ends in a hy-"),
    ],
)
def test_line_ends(lines: str, text: str) -> None:
    assert set_lines(lines)[0] == text


def test_a_joined_word_has_the_boxes_of_both_lines() -> None:
    text, words = set_lines("The atmos-\nphere is thick.")
    start = text.index("atmosphere")
    assert words.boxes(start, start + len("atmosphere")) == ((50, 0, 90, 10), (0, 20, 40, 30))
    spans = [text[word["start"] : word["end"]] for word in words.array]
    assert spans == ["The", "atmos", "phere", "is", "thick."]
    assert words.boxes(text.index("phere"), text.index("phere") + 1) == ((0, 20, 40, 30),)


parts = st.text("aeioncmt-\u2010.\u00e4TZ1", min_size=1, max_size=6)


@given(st.lists(st.tuples(parts, st.sampled_from([" ", "\n", "\n\n"])), min_size=1, max_size=30))
def test_nothing_but_hyphens_is_lost(drawn: list[tuple[str, str]]) -> None:
    given_text = "".join(word + gap for word, gap in drawn[:-1]) + drawn[-1][0]
    text, words = set_lines(given_text)
    bare = ["".join(part.split()).replace("-", "").replace("\u2010", "") for part in (given_text, text)]
    assert bare[0] == bare[1]
    assert len(words) == len(drawn)
    position = 0
    for word, (original, _) in zip(words.array, drawn, strict=True):
        assert word["start"] >= position
        position = word["end"]
        assert text[word["start"] : position] in (original, original[:-1])
