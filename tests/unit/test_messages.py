"""Messages: frozen, picklable, and words that stay with their boxes through every cut."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from actors import messages
from actors.deadline import Deadline
from actors.messages import Found, Link, LinkedEntity, Passage, Query, Question, Words

Record = tuple[int, int, float, float, float, float]
ADVANCE, HEIGHT, LEADING = 6.0, 10.0, 14.0


@st.composite
def lines_of_words(draw: st.DrawFn) -> tuple[list[Record], list[int]]:
    """Words set in lines, each 6 points a character and 10 high, and the number of each one's line."""
    records: list[Record] = []
    numbers: list[int] = []
    offset = 0
    for line in range(draw(st.integers(0, 5))):
        x = 72.0
        for length in draw(st.lists(st.integers(1, 12), min_size=1, max_size=8)):
            y = 72.0 + line * LEADING
            records.append((offset, offset + length, x, y, x + length * ADVANCE, y + HEIGHT))
            numbers.append(line)
            offset += length + 1
            x += (length + 1) * ADVANCE
    return records, numbers


SPANS = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda span: (min(span), max(span)))


@given(lines_of_words(), SPANS)
def test_boxes_are_one_a_line_and_cover_exactly_the_words_of_the_span(
    drawn: tuple[list[Record], list[int]], span: tuple[int, int]
) -> None:
    records, numbers = drawn
    start, end = span
    inside = [
        (number, record)
        for number, record in zip(numbers, records, strict=True)
        if record[0] < end and record[1] > start
    ]
    expected = []
    for line in sorted({number for number, _ in inside}):
        boxes = [record[2:] for number, record in inside if number == line]
        expected.append((min(b[0] for b in boxes), boxes[0][1], max(b[2] for b in boxes), boxes[0][3]))
    assert Words.of(records).boxes(start, end) == tuple(expected)


@given(lines_of_words(), SPANS, st.integers(0, 300), st.integers(0, 300))
def test_a_cut_has_the_boxes_of_the_whole(
    drawn: tuple[list[Record], list[int]], span: tuple[int, int], a: int, b: int
) -> None:
    words = Words.of(drawn[0])
    start, end = span
    first, last = sorted((min(a, end - start), min(b, end - start)))
    assert words.within(start, end).boxes(first, last) == words.boxes(start + first, start + last)


@given(lines_of_words())
def test_packing_loses_nothing(drawn: tuple[list[Record], list[int]]) -> None:
    records, _ = drawn
    words = Words.of(records)
    assert len(words) == len(records)
    assert [tuple(word) for word in words.array.tolist()] == records


def test_words_cannot_be_written_to() -> None:
    assert not Words.of([(0, 1, 0, 0, 1, 1)]).array.flags.writeable


def test_the_second_column_starts_a_new_box_even_at_the_same_height() -> None:
    words = Words.of([(0, 4, 300, 72, 340, 82), (5, 9, 72, 72, 112, 82)])
    assert words.boxes(0, 9) == ((300, 72, 340, 82), (72, 72, 112, 82))


def test_a_passage_has_the_boxes_of_its_whole_text() -> None:
    words = Words.of([(0, 5, 72, 72, 102, 82), (6, 11, 72, 86, 102, 96)])
    passage = Passage("d", "t", "c", 1, 100, 111, "Titan orbit", words, 1.0, {})
    assert passage.boxes == ((72, 72, 102, 82), (72, 86, 102, 96))


def test_every_message_is_frozen_slotted_and_documented() -> None:
    classes = [
        value
        for value in vars(messages).values()
        if isinstance(value, type) and value.__module__ == messages.__name__ and dataclasses.is_dataclass(value)
    ]
    assert len(classes) > 20
    for cls in classes:
        assert cls.__dataclass_params__.frozen, cls  # type: ignore[attr-defined]
        assert "__slots__" in vars(cls), cls
        assert cls.__doc__
        assert not cls.__doc__.startswith(f"{cls.__name__}("), cls


def test_words_pickle_small() -> None:
    words = Words.of([(i * 6, i * 6 + 5, 1.0, 2.0, 3.0, 4.0) for i in range(500)])
    packed = pickle.dumps(words)
    assert len(packed) < 500 * 24 + 200
    assert pickle.loads(packed) == words  # noqa: S301 - our own bytes
    assert np.array_equal(words.array, words.within(0, 3000).array)


def test_messages_pickled_by_position_come_back_equal() -> None:
    words = Words.of([(0, 5, 72.0, 72.0, 100.0, 84.0)])
    passage = Passage("d", "Title", "c", 1, 0, 5, "Titan", words, 0.5, {"lexical": 1.0}, "table")
    link = Link("value", 7, "planets", "moons", "name", "Titan")
    for message in (
        words,
        passage,
        Found((passage,), "fast", "why", partial=True),
        link,
        LinkedEntity("titan", "VALUE", 0, 5, (link,)),
        Query("q", ("c",), 3),
        Question("r", "q", Deadline(1.0), ("c",), None, 2, {"a": 1}),
    ):
        assert pickle.loads(pickle.dumps(message)) == message  # noqa: S301 - our own
        assert copy.deepcopy(message) == message
        assert dataclasses.replace(message) == message


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 3), st.integers(-1, 3)), min_size=0, max_size=30
    )
)
def test_boxes_are_those_that_one_word_after_the_other_makes(places: list[tuple[int, int, int, int]]) -> None:
    """Against the definition, on words that overlap, go back, and have no height."""
    records = [
        (5 * at, 5 * at + 4, 10.0 * x, 4.0 * y, 10.0 * x + 3.0 * width, 4.0 * y + 3.0 * height)
        for at, (x, y, width, height) in enumerate(places)
    ]
    lines: list[list[float]] = []
    for _, _, x0, y0, x1, y1 in records:
        if lines:
            left, top, right, bottom = lines[-1]
            overlap = min(bottom, y1) - max(top, y0)
            if x0 >= left and overlap > 0.5 * min(bottom - top, y1 - y0):
                lines[-1] = [left, min(top, y0), max(right, x1), max(bottom, y1)]
                continue
        lines.append([x0, y0, x1, y1])
    assert [list(box) for box in Words.of(records).boxes(0, 1000)] == lines
