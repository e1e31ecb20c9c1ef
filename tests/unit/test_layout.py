"""Reading order on pages that are set here, line by line, and drawn in any order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Box
from actors.reading import layout
from actors.reading.layout import arrange, is_page_number, reading_order

PITCH, HEIGHT = 14.0, 11.0
Line = tuple[str, float, float, float]
"""Name, left, right, top."""


def column(name: str, left: float, right: float, top: float, count: int) -> list[Line]:
    return [(f"{name}{index}", left, right - 7 * (index % 3), top + PITCH * index) for index in range(count)]


def two_columns(top: float = 100.0, count: int = 12) -> tuple[list[Line], list[Line]]:
    return column("L", 50, 290, top, count), column("R", 310, 550, top, count)


def by_rows(*columns: Sequence[Line]) -> list[Line]:
    return [line for row in zip(*columns, strict=True) for line in row]


def read(lines: Sequence[Line], *, chars: int = 45, short: int = 45, tables: Sequence[Box] = ()) -> list[str]:
    """The names of lines in reading order."""
    boxes = np.array([(left, top, right, top + HEIGHT) for _, left, right, top in lines], dtype=np.float32).T
    lengths = np.array([short if name[0] in "NST" else chars for name, *_ in lines])
    order = reading_order(boxes, lengths, lambda line: lines[line][0].startswith("N"), tables)
    return [lines[index][0] for index in (range(len(lines)) if order is None else order)]


def names(*parts: Sequence[Line]) -> list[str]:
    return [line[0] for part in parts for line in part]


def test_two_columns_drawn_by_rows() -> None:
    left, right = two_columns()
    assert read(by_rows(left, right)) == names(left, right)


def test_columns_drawn_from_right_to_left() -> None:
    left, right = two_columns()
    assert read([*right, *left]) == names(left, right)


def test_a_full_width_title_is_read_first_even_if_drawn_last() -> None:
    left, right = two_columns()
    title = [("T", 120.0, 480.0, 60.0)]
    assert read([*by_rows(left, right), *title]) == names(title, left, right)


def test_an_abstract_over_the_columns_and_a_foot_under_them() -> None:
    abstract = column("A", 80, 520, 40, 6)
    left, right = two_columns(top=140)
    foot = [("F", 250.0, 350.0, 700.0)]
    assert read([*foot, *left, *right, *abstract]) == names(abstract, left, right, foot)


@given(st.floats(50, 280) | st.floats(310, 530), st.sampled_from([60.0, 300.0]), st.integers(0, 24), st.booleans())
def test_a_page_number_is_read_before_or_behind_the_columns(x: float, top: float, place: int, rows: bool) -> None:
    left, right = two_columns()
    number = [("N", x, x + 12, top)]
    lines = by_rows(left, right) if rows else [*left, *right]
    lines.insert(place, *number)
    if not rows and place == (0 if top > left[0][3] else -1):
        # As drawn it parts nothing.
        assert read(lines, short=2) == names(lines)
    elif top < left[0][3]:
        assert read(lines, short=2) == names(number, left, right)
    else:
        assert read(lines, short=2) == names(left, right, number)


def test_a_last_line_of_the_left_column_is_no_page_number() -> None:
    left, right = two_columns()
    last = [("S", 50.0, 80.0, left[-1][3] + PITCH)]
    assert read(by_rows(left, right) + last, short=4) == names(left, last, right)
    far = [("L", 50.0, 280.0, left[-1][3] + 4 * PITCH)]
    assert read(by_rows(left, right) + far) == names(left, far, right)


@given(st.sampled_from([100.0 - PITCH, 100.0 - 2 * PITCH, 60.0]), st.booleans())
def test_a_short_heading_atop_the_right_column_stays_there(top: float, rows: bool) -> None:
    left, right = two_columns()
    heading = [("H", 310.0, 360.0, top)]
    drawn = [left[0], *heading, right[0], *by_rows(left[1:], right[1:])] if rows else [*left, *heading, *right]
    boxes = np.array([(a, y, b, y + HEIGHT) for _, a, b, y in drawn], dtype=np.float32).T
    chars = np.array([10 if name == "H" else 45 for name, *_ in drawn])
    order = reading_order(boxes, chars, lambda line: False)
    assert [drawn[index][0] for index in (range(25) if order is None else order)] == names(left, heading, right)


def test_a_short_last_line_apart_from_the_left_column_stays_in_it() -> None:
    left, right = two_columns()
    last = [("S", 50.0, 80.0, left[-1][3] + 3 * PITCH)]
    assert read([*left, *last, *right], short=8) == names(left, last, right)
    assert read(by_rows(left, right) + last, short=8) == names(left, last, right)


def test_a_short_title_is_read_first_even_if_drawn_last() -> None:
    left, right = two_columns()
    title = [("T", 260.0, 340.0, 60.0)]
    assert read([*left, *right, *title], short=8) == names(title, left, right)


@pytest.mark.parametrize("text", ["12", "- 12 -", "[3]", "xiv", "Page 12", "p. 7", "Seite 3"])
def test_what_is_a_page_number(text: str) -> None:
    assert is_page_number(text)


@pytest.mark.parametrize("text", ["3 Methods", "References", "3 Data", "Table 3", "the end.", "1.2", "1, 2", "", "-"])
def test_what_is_no_page_number(text: str) -> None:
    assert not is_page_number(text)


def test_a_heading_is_told_from_a_number_by_its_words() -> None:
    left, right = two_columns()
    for text, behind in (("3 Data", left), ("12", [])):
        drawn = [*left, ("H", 310.0, 350.0, 60.0), *right]
        boxes = np.array([(a, y, b, y + HEIGHT) for _, a, b, y in drawn], dtype=np.float32).T
        texts = [text if name == "H" else "x" * 45 for name, *_ in drawn]
        lengths = np.array([len(each) for each in texts])
        order = arrange(boxes, texts, lengths, np.arange(25), np.zeros(25, np.int64)).order
        found = [drawn[index][0] for index in (range(25) if order is None else order)]
        assert found.index("H") == len(behind)


def test_a_figure_across_the_page_parts_the_columns() -> None:
    upper, lower = two_columns(top=60, count=6), two_columns(top=400, count=6)
    caption = [("C0", 60.0, 540.0, 300.0), ("C1", 60.0, 500.0, 314.0)]
    drawn = [*upper[0], *lower[0], *upper[1], *lower[1], *caption]
    assert read(drawn) == names(*upper, caption, *lower)


def test_a_table_that_is_known_parts_columns_only_where_their_gutter_runs_through_it() -> None:
    upper, lower = two_columns(top=60, count=6), two_columns(top=400, count=6)
    cells = [
        (f"C{row}{place}", left, left + 60, 200.0 + 30 * row)
        for row in range(3)
        for place, left in enumerate((60.0, 320.0, 450.0))
    ]
    drawn = [*upper[0], *lower[0], *upper[1], *lower[1], *cells]
    assert read(drawn, tables=[(50, 190, 560, 290)]) == names(*upper, cells, *lower)
    inside = [(50.0, 190.0, 140.0, 290.0)]
    assert read(drawn, tables=inside) == read(drawn)


def test_a_caption_in_a_column_stays_in_it() -> None:
    left, right = two_columns(count=8)
    caption = [("C0", 310.0, 480.0, 260.0), ("C1", 310.0, 400.0, 274.0)]
    more = column("M", 50, 290, 212, 8)
    assert read([*by_rows(left, right), *more, *caption]) == names(left, more, right, caption)


def test_three_columns() -> None:
    columns = [column(name, left, left + 150, 80, 10) for name, left in (("a", 50), ("b", 220), ("c", 390))]
    assert read(by_rows(*columns)) == names(*columns)


def test_a_line_that_reaches_over_the_gutter_stays_in_its_column() -> None:
    left, right = two_columns()
    left[4] = ("long", 50, 315, left[4][3])
    right[4] = ("short", 330, 550, right[4][3])
    assert read(by_rows(left, right)) == names(left, right)


@pytest.mark.parametrize("chars", [4, 8])
def test_a_table_is_read_by_rows(chars: int) -> None:
    drawn = by_rows(*two_columns())
    assert read(drawn, chars=chars) == names(drawn)


def test_what_is_drawn_well_is_left_alone() -> None:
    left, right = two_columns()
    boxes = np.array([(a, top, b, top + HEIGHT) for _, a, b, top in [*left, *right]], dtype=np.float32).T
    assert reading_order(boxes, np.full(24, 40), lambda line: False) is None


def test_a_single_column_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: object) -> None:
        raise AssertionError("a single column was cut")

    monkeypatch.setattr(layout, "reading_order", never)
    lines = np.array([(50, 20 * i, 550, 20 * i + 11) for i in range(40)], dtype=np.float32).T
    arranged = arrange(lines, ["x"] * 40, np.full(40, 60), np.arange(40), np.zeros(40, dtype=np.int64))
    assert arranged.order is None
    assert arranged.gaps.tolist() == [1] * 39


boxes_ = st.lists(
    st.tuples(st.floats(0, 500), st.floats(0, 700), st.floats(1, 300), st.floats(4, 20), st.integers(1, 60)),
    min_size=1,
    max_size=60,
)


@given(boxes_, st.integers(0, 5))
def test_order_is_a_permutation_and_settled(lines: list[tuple[float, float, float, float, int]], words: int) -> None:
    array = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in lines], dtype=np.float32).T
    chars = np.array([count for *_, count in lines])
    order = reading_order(array, chars, lambda line: chars[line] < 5)
    if order is not None:
        assert sorted(order.tolist()) == list(range(len(lines)))
    # Each line is a number of words.
    repeats = np.arange(len(lines)) % (words + 1) + 1
    arranged = arrange(
        np.repeat(array, repeats, axis=1),
        ["12"] * int(repeats.sum()),
        np.repeat(chars, repeats),
        np.cumsum(repeats) - repeats,
        np.arange(len(lines)) // 3,
    )
    count = int(repeats.sum())
    given_order = np.arange(count) if arranged.order is None else arranged.order
    assert sorted(given_order.tolist()) == list(range(count))
    assert len(arranged.gaps) == count - 1
    assert set(arranged.gaps.tolist()) <= {0, 1, 2}
    # The words of a line stay together.
    line = np.repeat(np.arange(len(lines)), repeats)[given_order]
    assert not arranged.gaps[line[1:] == line[:-1]].any()


@given(st.permutations(range(24)))
def test_any_drawing_order_of_the_columns_keeps_them_apart(drawn: list[int]) -> None:
    lines = [line for part in two_columns() for line in part]
    found = read([lines[index] for index in drawn])
    assert [name[0] for name in found] == ["L"] * 12 + ["R"] * 12


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60)), min_size=1, max_size=12), st.integers(1, 20))
def test_the_gutter_is_the_middle_of_the_widest_strip_that_fewest_lines_cross(
    spans: list[tuple[int, int]], height: int
) -> None:
    x0 = np.array([left for left, _ in spans], dtype=np.float32)
    x1 = np.array([left + width for left, width in spans], dtype=np.float32)
    found = layout._gutter(x0, x1, np.full(len(spans), float(height)))
    low, high = int(x0.min()), int(x1.max())
    margin = int((high - low + 1) * layout.MIN_SIDE)
    points = range(low + margin, high + 1 - margin)
    over = [sum(left <= point < left + width for left, width in spans) for point in points]
    strips = [list(run) for _, run in groupby(points, key=lambda point: over[point - points.start] == min(over))]
    widest = max((run for run in strips if over[run[0] - points.start] == min(over)), key=len)
    if min(over) > layout.MAX_CROSSING * len(spans) or len(widest) < layout.MIN_GUTTER * height:
        assert found is None
    else:
        assert found == (widest[0] + widest[-1] + 1) / 2


def words_of(rows: Sequence[Sequence[float]]) -> layout.Floats:
    """Rows of words 20 points wide, each at the given left edges."""
    return np.array([(x, 20.0 * y, x + 20, 20.0 * y + 10) for y, row in enumerate(rows) for x in row], np.float32).T


def test_the_cells_of_a_row_are_one_line() -> None:
    boxes = words_of([(0, 100, 200), (0, 100, 200)])
    arranged = arrange(boxes, ["abc"] * 6, np.full(6, 3), np.arange(6), np.array([0, 0, 1, 2, 2, 3]))
    assert arranged.gaps.tolist() == [0, 0, 2, 0, 0]


def test_text_that_runs_up_the_page_is_no_row() -> None:
    boxes = np.array([(10, 0, 20, 300), (30, 0, 40, 300)], dtype=np.float32).T
    arranged = arrange(boxes, ["x" * 30] * 2, np.array([30, 30]), np.array([0, 1]), np.array([0, 0]))
    assert arranged.gaps.tolist() == [1]
