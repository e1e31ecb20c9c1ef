"""Sentences and chunks: spans that are exact, whatever the text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.messages import Page, Words
from actors.reading.chunking import Span, chunk, pack, sentences

BODY = "Titan is the largest moon of Saturn and has a dense atmosphere of nitrogen. It was found in 1655 by Huygens."


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


# Pieces that sentences are made of and that tempt a splitter.
texts = st.lists(
    st.one_of(
        st.sampled_from(
            [" ", "\n", "\n\n", "\n \n", ". ", "? ", "...", "Dr. ", "U.S. ", "3.5", "1. ", "J. ", "。", '."', "The "]
        ),
        st.text(st.characters(codec="utf-8"), max_size=6),
        st.text("abcXYZ .\n", max_size=30),
    ),
    max_size=40,
).map("".join)


def check_cover(text: str, spans: list[Span]) -> None:
    """Spans are in order, do not overlap, have no white space at their ends, and hold every other character."""
    position = 0
    for start, end in spans:
        assert position <= start < end <= len(text)
        assert not text[position:start].strip()
        assert text[start:end].strip() == text[start:end]
        position = end
    assert not text[position:].strip()


@given(texts)
@example("a.\n\n\x1c\n\nb")
def test_sentences_cover_the_text(text: str) -> None:
    check_cover(text, sentences(text))


@given(texts, st.integers(1, 60))
def test_chunks_cover_the_text_and_keep_their_length(text: str, most: int) -> None:
    spans = pack(text, most)
    check_cover(text, spans)
    assert all(end - start <= most for start, end in spans)
    assert spans == pack(text, most)


@given(texts, st.integers(20, 200))
def test_chunks_are_the_page(text: str, most: int) -> None:
    words, position = [], 0
    for word in text.split():
        position = text.index(word, position)
        words.append((position, position + len(word), float(position), 0.0, float(position + len(word)), 10.0))
        position += len(word)
    page = Page(7, 600, 800, text, Words.of(words))
    for number, part in enumerate(chunk(page, most)):
        assert (part.page, part.ordinal) == (7, number)
        assert part.text == text[part.start : part.end]
        for record in part.words.array:
            # Only a word longer than a chunk is cut.
            if record["end"] - record["start"] <= most:
                whole = text[part.start + record["start"] : part.start + record["end"]]
                assert part.text[record["start"] : record["end"]] == whole
                assert int(record["x0"]) == part.start + record["start"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rains. It pours.", ["It rains.", "It pours."]),
        ("Is it? Yes! No…", ["Is it?", "Yes!", "No…"]),
        ("Dr. J. R. Smith met Mrs. Jones. They spoke.", ["Dr. J. R. Smith met Mrs. Jones.", "They spoke."]),
        ("It is 3.5 km, i.e. small. See Fig. 3 and p. 4.", ["It is 3.5 km, i.e. small.", "See Fig. 3 and p. 4."]),
        ("The U.S. Navy left the U.S. The crew stayed.", ["The U.S. Navy left the U.S.", "The crew stayed."]),
        ("Ice etc. was found. So was dust, etc. The end.", ["Ice etc. was found.", "So was dust, etc.", "The end."]),
        ("Smith et al. 2004 agree. Acme Inc. Ltd. was sold.", ["Smith et al. 2004 agree.", "Acme Inc. Ltd. was sold."]),
        ('He said "Go." Then he went. (He ran.) We saw.', ['He said "Go."', "Then he went.", "(He ran.)", "We saw."]),
        ("Wait... what? Well.", ["Wait... what?", "Well."]),
        ("1. Introduction to moons. 2. Titan.", ["1. Introduction to moons.", "2. Titan."]),
        ("Found in 1655. 12 more followed.", ["Found in 1655.", "12 more followed."]),
        ("土星の衛星。大きい！", ["土星の衛星。", "大きい！"]),
        ("A Heading\n\nThe body follows.", ["A Heading", "The body follows."]),
        ("A sentence over\n\nthe gap of blocks. New one.", ["A sentence over\n\nthe gap of blocks.", "New one."]),
        ("It broke\nover a line. And\nagain.", ["It broke\nover a line.", "And\nagain."]),
        ("", []),
        (" \n\n ", []),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def packed(text: str, most: int) -> list[str]:
    return [text[start:end] for start, end in pack(text, most)]


def test_sentences_are_packed_whole() -> None:
    text = "One is here. Two is here. Three is here. Four is here."
    assert packed(text, 30) == ["One is here. Two is here.", "Three is here. Four is here."]


def test_a_heading_begins_a_chunk() -> None:
    text = f"{BODY}\n\nThe Moons\nof Saturn\n\n{BODY}"
    assert packed(text, 900) == [BODY, f"The Moons\nof Saturn\n\n{BODY}"]


def test_headings_one_after_another_stay_together() -> None:
    text = f"Chapter One\n\nThe Moons\n\n{BODY}"
    assert packed(text, 900) == [text]


@pytest.mark.parametrize(
    "block",
    ["a line in lower case", "An end mark.", "A long line " + "with many words " * 6, "12 345", "One\nTwo\nThree"],
)
def test_what_is_no_heading_does_not_cut(block: str) -> None:
    text = f"{BODY}\n\n{block}\n\n{BODY}"
    assert packed(text, 900) == [text]


def test_cells_of_a_table_are_no_headings() -> None:
    text = f"{BODY}\n\nTitan\n\n5,149 km\n\nRhea\n\n1,527 km"
    assert packed(text, 900) == [text]


def test_a_long_sentence_is_cut_between_words() -> None:
    text = "word " * 40
    assert packed(text, 42) == ["word word word word word word word word"] * 5


def test_a_long_word_is_cut_anywhere() -> None:
    assert packed("x" * 95, 40) == ["x" * 40, "x" * 40, "x" * 15]
