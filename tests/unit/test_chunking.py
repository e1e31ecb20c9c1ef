"""Sentences and chunks: spans that are exact, whatever the text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.messages import Page, Table, Words
from actors.reading import furniture
from actors.reading.chunking import Span, chunk, pack, rows, sentences, tokens

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
    packed = pack(text, most)
    check_cover(text, [(part.start, part.end) for part in packed])
    assert all(tokens(text[part.start : part.end]) <= most for part in packed)
    assert packed == pack(text, most)


@given(texts, texts)
def test_tokens_add_up_and_are_at_most_one_a_character(one: str, other: str) -> None:
    assert tokens(f"{one} {other}") == tokens(one) + tokens(other)
    assert (tokens(one) > 0) == bool(one.strip())
    assert tokens(one) <= len(one)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("moon", 1), ("atmosphere", 2), ("a, b.", 4), ("12345", 3), ("土星", 2), ("Übersicht", 2), ("x" * 15, 3)],
)
def test_tokens(text: str, count: int) -> None:
    assert tokens(text) == count


def page_of(text: str, **more: Any) -> Page:
    """A page whose words stand where their offsets say: 10 points a character, each line 20 points lower."""
    words, position = [], 0
    for word in text.split():
        position = text.index(word, position)
        x, y = 10.0 * (position - text.rfind("\n", 0, position) - 1), 20.0 * text.count("\n", 0, position)
        words.append((position, position + len(word), x, y, x + 10 * len(word), y + 10))
        position += len(word)
    return Page(7, 600, 800, text, Words.of(words), **more)


@given(texts, st.integers(5, 60), st.tuples(*[st.floats(0, 400)] * 4), st.lists(st.floats(0, 400), max_size=4))
def test_chunks_are_the_page_without_its_furniture(
    text: str, most: int, corners: tuple[float, float, float, float], rows: list[float]
) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    lines = tuple((top, top + 10) for top in sorted(rows))
    page = page_of(text, tables=(Table((x0, y0, x1, y1), (), (("a", "b"),) * len(lines), lines),))
    heads = furniture.Furniture(texts=frozenset({(False, furniture._pattern(text.split("\n")[0]), 5.0)}))
    chunks = chunk(page, most, furniture=heads)
    spans = sorted([(part.start, part.end) for part in chunks] + list(heads.spans(page)))
    check_cover(text, spans)
    assert chunks == chunk(page, most, furniture=heads)
    for number, part in enumerate(chunks):
        assert (part.page, part.ordinal, part.text) == (7, number, text[part.start : part.end])
        assert tokens(part.text) <= most
        for record in part.words.array:
            inside = x0 <= (record["x0"] + record["x1"]) / 2 <= x1 and y0 <= (record["y0"] + record["y1"]) / 2 <= y1
            assert inside == (part.kind == "table")


def test_a_table_has_chunks_of_whole_rows_under_its_header() -> None:
    text = f"{BODY}\n\nMoon Found Radius\nTitan 1655 2575\nRhea 1672 764\nDione 1684 561\n\n{BODY}"
    lines = ((60.0, 70.0), (80.0, 90.0), (100.0, 110.0))
    names = ("Moon", "Found", "Radius")
    page = page_of(text, tables=(Table((0, 30, 200, 115), names, (("", "", ""),) * 3, lines),))
    parts = chunk(page, 12, heading="Saturn")
    table = [(part.text, part.heading) for part in parts if part.kind == "table"]
    assert table == [
        ("Moon Found Radius\nTitan 1655 2575", "Saturn / Moon | Found | Radius"),
        ("Rhea 1672 764\nDione 1684 561", "Saturn / Moon | Found | Radius"),
    ]
    assert {part.heading for part in parts if part.kind == "text"} == {"Saturn"}
    assert " ".join(part.text for part in parts if part.kind == "text") == f"{BODY} {BODY}"


@given(texts)
def test_rows_cover_the_text(text: str) -> None:
    check_cover(text, rows(text, page_of(text).words))


def test_cells_that_wrap_stay_in_their_row() -> None:
    text = "Titan found by Christiaan\nHuygens in 1655 Rhea Cassini"
    # Two rows of three cells; the second cell of the first runs over two lines, and lines overlap by a tenth.
    places = [(0, 0), (1, 0), (1, 0), (1, 0), (1, 9), (2, 0), (2, 0), (0, 18), (1, 18)]
    words, position = [], 0
    for word, (column, top) in zip(text.split(), places, strict=True):
        position = text.index(word, position)
        x, y = 100.0 * column, float(top)
        words.append((position, position + len(word), x, y, x + 50, y + 10))
    found = rows(text, Words.of(words))
    assert [text[start:end] for start, end in found] == ["Titan found by Christiaan\nHuygens in 1655", "Rhea Cassini"]


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
    return [text[part.start : part.end] for part in pack(text, most)]


def test_sentences_are_packed_whole() -> None:
    text = "One is here. Two is here. Three is here. Four is here."
    assert packed(text, 8) == ["One is here. Two is here.", "Three is here. Four is here."]


def test_a_heading_begins_a_chunk() -> None:
    text = f"{BODY}\n\nThe Moons\nof Saturn\n\n{BODY}"
    assert packed(text, 900) == [BODY, f"The Moons\nof Saturn\n\n{BODY}"]
    assert [part.heading for part in pack(text, 900, heading="Before")] == ["Before", "The Moons of Saturn"]
    assert {part.heading for part in pack(text, 20)[2:]} == {"The Moons of Saturn"}


def test_headings_one_after_another_stay_together() -> None:
    text = f"Chapter One\n\nThe Moons\n\n{BODY}"
    assert packed(text, 900) == [text]
    assert pack(text, 900)[0].heading == "Chapter One / The Moons"


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
    assert packed(text, 8) == ["word word word word word word word word"] * 5


def test_a_long_word_is_cut_anywhere() -> None:
    assert packed("-" * 95, 40) == ["-" * 40, "-" * 40, "-" * 15]
