"""Heads, feet and page numbers, from pages made here."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from actors.messages import Page, Words
from actors.reading import furniture
from actors.reading.furniture import (
    SAME_HEIGHT,
    SAMPLE_RUN,
    SAMPLE_RUNS,
    SCANNED_HEIGHT,
    SCANNED_RUNS,
    Furniture,
    margins,
    sample,
)

HEIGHT = 800.0


def page(number: int, *rows: tuple[str, float]) -> Page:
    """A page of rows, each a text and its top."""
    words, text = [], ""
    for row, top in rows:
        for position, word in enumerate(row.split()):
            start = len(text) + (position > 0)
            text = f"{text} {word}" if position else text + word
            words.append((start, len(text), 50.0 * position, top, 50.0 * position + 40, top + 10))
        text += "\n\n"
    text = text[:-2]
    return Page(number, 600, HEIGHT, text, Words.of(words))


def texts(found: Furniture, of: Page) -> list[str]:
    return [of.text[start:end] for start, end in found.spans(of)]


def collect(pages: list[Page], *, reach: float = SAME_HEIGHT) -> Furniture:
    return furniture.collect(map(margins, pages), reach=reach)


def book(count: int, first: int = 1) -> list[Page]:
    """Left and right pages with heads of their own and a number that is four less than the page."""
    return [
        page(
            number,
            ("The Moons of Saturn" if number % 2 else f"Chapter {number // 10}", 30),
            (f"Body of page {number} begins.", 200),
            (f"The page {number} ends.", 600),
            (f"{number - 4}", 770),
        )
        for number in range(first, first + count)
    ]


def test_heads_feet_and_numbers_are_found() -> None:
    found = collect(book(20))
    for at in book(30):
        number = at.number
        assert texts(found, at) == ["The Moons of Saturn" if number % 2 else f"Chapter {number // 10}", str(number - 4)]


def test_what_is_said_once_stays() -> None:
    found = collect(book(20))
    assert texts(found, page(9, ("A Title of Its Own", 30), ("17 moons", 770), ("Text", 400))) == []


def test_a_line_that_is_all_a_page_says_is_no_head() -> None:
    pages = [page(number, (f"Tenant {number} paid in full.", 30)) for number in range(1, 9)]
    assert texts(collect(pages), pages[0]) == []
    # A head that other pages show to be one is one here too.
    assert texts(collect(book(20)), page(9, ("The Moons of Saturn", 30))) == ["The Moons of Saturn"]


def test_the_same_words_in_another_place_stay() -> None:
    found = collect(book(20))
    assert texts(found, page(9, ("The Moons of Saturn", 300), ("The Moons of Saturn", 60))) == []


def test_a_head_with_its_number_in_changing_words() -> None:
    pages = [page(n, (f"{title} {n + 10}", 20), ("Text", 300)) for n, title in enumerate("ABCDE", 1)]
    found = collect(pages)
    assert texts(found, page(7, ("Rhea 17", 21), ("Text", 300))) == ["Rhea 17"]
    assert texts(found, page(7, ("Rhea 18", 21), ("Text", 300))) == []


@given(st.lists(st.integers(0, 99_999), min_size=2, max_size=20, unique=True), st.sampled_from([20.0, 770.0]))
def test_a_line_that_is_alike_but_for_its_numbers_is_of_the_body(numbers: list[int], top: float) -> None:
    pages = [
        page(at, (f"Sample {number} passed.", top), ("What was found on it.", 400)) for at, number in enumerate(numbers)
    ]
    assume(len({number - at for at, number in enumerate(numbers)}) == len(numbers))
    assert collect(pages) == Furniture()


@given(st.integers(1, 30), st.integers(0, 900), st.booleans())
def test_a_number_within_a_head_stays_or_grows(count: int, first: int, grows: bool) -> None:
    pages = [
        page(at, (f"Sheet {first + at * grows} of the survey", 20), (f"Text {at * at}", 400)) for at in range(count + 2)
    ]
    found = collect(pages)
    assert all(texts(found, at) == [f"Sheet {first + at.number * grows} of the survey"] for at in pages)


def test_a_head_of_pages_that_are_not_one_after_the_other() -> None:
    """As where some pages of a book were scanned."""
    numbers = (19, 35, 36, 53)

    def heads(head: str, numbers: tuple[int, ...] = numbers) -> list[Page]:
        return [page(at, (head.format(number), 20), ("Text", 400)) for at, number in enumerate(numbers, 1)]

    for head in ("The corset and the crinoline. {}", "{} The corset and the crinoline"):
        assert [texts(collect(heads(head)), at) for at in heads(head)] == [[head.format(number)] for number in numbers]
        assert collect(heads(head, (19, 53, 36, 35))) == Furniture()
    assert collect(heads("Exercise {}")) == Furniture()
    years = "Results for the year {}"
    assert collect(heads(years, (2013, 2016, 2019, 2021))).texts == frozenset()


def test_numbers_of_titles_and_items_are_not_those_of_pages() -> None:
    titles = ("Why moons are round", "What rings are made of", "Who found Rhea", "Where Titan's lakes lie")
    for wording in ("{}. {}", "{}) {}", "Question {}: {}"):
        pages = [page(at, (wording.format(at, title), 20), ("Text", 400)) for at, title in enumerate(titles, 1)]
        assert collect(pages) == Furniture()


@given(st.permutations(["The", "Moons", "of", "Saturn", "Volume", "Two"]), st.integers(1, 4))
def test_the_order_in_which_a_row_is_read_does_not_matter(order: list[str], at: int) -> None:
    """Of a foot below two columns the left part is read with the left column, or before both."""
    row = sorted(order)
    tops = dict(zip(row, (50.0 * index for index in range(6)), strict=True))

    def foot(number: int, said: list[str]) -> Page:
        text = " ".join(("Body", *said))
        words, start = [(0, 4, 50.0, 300.0, 90.0, 310.0)], 5
        for word in said:
            words.append((start, start + len(word), tops[word], 770.0, tops[word] + 40, 780.0))
            start += len(word) + 1
        return Page(number, 600, HEIGHT, text, Words.of(words))

    found = collect([foot(number, order if number == at else row) for number in range(1, 5)])
    assert "".join(sorted(" ".join(texts(found, foot(9, order))).split())) == "".join(row)


def test_roman_numbers_repeat() -> None:
    pages = [page(n, ("Text", 300), (roman, 770)) for n, roman in enumerate(("i", "ii", "iii", "iv"), 1)]
    assert [texts(collect(pages), at) for at in pages] == [["i"], ["ii"], ["iii"], ["iv"]]


@pytest.mark.parametrize("count", [0, 1])
def test_one_page_repeats_nothing(count: int) -> None:
    assert collect(book(count)) == Furniture()


def test_two_pages_are_evidence_for_a_document_of_two() -> None:
    pages = [page(n, ("Acme Inc.", 20), (f"Text {n * n}", 300)) for n in (1, 2)]
    assert [texts(collect(pages), at) for at in pages] == [["Acme Inc."], ["Acme Inc."]]


def test_the_parts_of_a_row_need_not_be_together_in_the_text() -> None:
    pages = []
    for number in range(1, 6):
        at = page(number, ("Moons", 30), ("Text", 300), (f"{number}", 30))
        pages.append(at)
    assert texts(collect(pages), pages[2]) == ["Moons", "3"]


def test_scanned_pages_lie_less_exactly_and_read_less_well() -> None:
    heads = [
        page(number, (f"{sign} The Moons of Saturn{sign} {1655 + number}", 30 + 4 * (number % 4)), ("Text", 300))
        for number, sign in enumerate(".,:;'.-", 1)
    ]
    scans = collect(heads, reach=SCANNED_HEIGHT)
    assert all(texts(scans, head) for head in heads)
    assert texts(scans, page(9, ("The Moons of Saturn 1664", 60), ("Text", 300))) == []
    assert not all(texts(collect(heads), head) for head in heads)


def test_signs_alone_say_nothing() -> None:
    pages = [page(number, ("* * *", 30), ("Text", 300)) for number in range(1, 9)]
    assert texts(collect(pages), pages[0]) == []


@given(st.integers(0, 5000), st.sampled_from([SAMPLE_RUNS, SCANNED_RUNS]))
def test_the_sample_is_of_the_document(pages: int, runs: int) -> None:
    chosen = sample(pages, runs)
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) == min(pages, SAMPLE_RUN * runs)
    assert not chosen or (chosen[0] == 1 and chosen[-1] == pages)


@given(st.integers(2, 40), st.integers(1, 60))
def test_spans_are_in_order_and_apart(count: int, first: int) -> None:
    pages = book(count, first)
    found = collect(pages)
    for at in pages:
        position = 0
        for start, end in found.spans(at):
            assert position <= start < end <= len(at.text)
            position = end
