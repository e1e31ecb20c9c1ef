"""Outline, labels, links, images, tables and the survey of PDFs that are made here."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pymupdf
import pytest
from PIL import Image

from actors.messages import Box, OutlineItem, Page, PageLink
from actors.reading import pages, structure, tables
from actors.reading.chunking import chunk
from actors.reading.survey import Survey, survey
from actors.reading.triage import Why

ROWS = [
    ("Moon", "Found", "Radius"),
    ("Titan", "1655", "2575 km"),
    ("Rhea", "1672", "764 km"),
    ("Dione", "1684", "561 km"),
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.pdf")


def grid(page: pymupdf.Page, rows: Sequence[tuple[str, ...]], top: float = 100.0) -> None:
    """Draw a ruled table, cells of 100 by 20 points."""
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            box = pymupdf.Rect(50 + 100 * x, top + 20 * y, 150 + 100 * x, top + 20 + 20 * y)
            page.draw_rect(box)
            page.insert_text((box.x0 + 5, box.y1 - 6), cell, fontsize=10)


def test_inspect_tells_outline_and_labels(path: str) -> None:
    with pymupdf.open() as document:
        for _ in range(4):
            document.new_page()
        document.set_toc([[1, "One \ufb01rst", 1], [2, " ", 1], [2, "One\nB", 2], [1, "Two", 4]])
        document.set_page_labels([{"startpage": 0, "style": "r"}, {"startpage": 2, "style": "D", "prefix": "A-"}])
        document.save(path)
    info = pages.inspect(path, 10)
    assert info.outline == (OutlineItem(1, "One first", 1), OutlineItem(2, "One B", 2), OutlineItem(1, "Two", 4))
    assert info.labels == ("i", "ii", "A-1", "A-2")
    with pages.opened(path) as document:
        assert pages.read(document, 4)[0].label == "A-2"


def test_a_document_may_have_none_of_it(path: str) -> None:
    with pymupdf.open() as document:
        document.new_page().insert_text((50, 50), "Titan")
        document.save(path)
    info = pages.inspect(path, 10)
    assert (info.outline, info.labels) == ((), ())
    with pages.opened(path) as document:
        page, _ = pages.read(document, 1)
        assert structure.detailed(document, page) == page == tables.with_tables(document, page)
        assert page.label == ""


@pytest.mark.parametrize("rotation", [0, 90])
def test_links_lead_out_and_within(path: str, rotation: int) -> None:
    with pymupdf.open() as document:
        document.new_page(width=400, height=300)
        document.new_page()
        first = document[0]
        first.insert_text((50, 60), "Titan and Rhea")
        box = pymupdf.Rect(50, 50, 90, 65)
        first.insert_link({"kind": pymupdf.LINK_URI, "from": box, "uri": "https://example.org/titan"})
        first.insert_link(
            {"kind": pymupdf.LINK_GOTO, "from": pymupdf.Rect(50, 150, 90, 165), "page": 1, "to": pymupdf.Point(0, 0)}
        )
        elsewhere = {"kind": pymupdf.LINK_GOTOR, "file": "other.pdf", "page": 1, "to": pymupdf.Point(0, 0)}
        first.insert_link({**elsewhere, "from": pymupdf.Rect(150, 50, 190, 65)})
        first.insert_link({"kind": pymupdf.LINK_LAUNCH, "file": "calc.exe", "from": pymupdf.Rect(150, 150, 190, 165)})
        first.set_rotation(rotation)
        document.save(path)
    with pages.opened(path) as document:
        page = structure.detailed(document, pages.read(document, 1)[0])
    out, within = page.links  # and no page of this document for those that lead to other files
    expected = {0: (50, 50, 90, 65), 90: (235, 50, 250, 90)}[rotation]
    assert out == PageLink(pytest.approx(expected), url="https://example.org/titan")  # type: ignore[arg-type]
    assert (within.page, within.url) == (2, "")


@pytest.mark.parametrize(
    ("rotation", "boxes"),
    [(0, [(50, 50, 130, 110), (200, 50, 280, 110)]), (90, [(190, 50, 250, 130), (190, 200, 250, 280)])],
)
def test_images_have_boxes_and_pixels(path: str, rotation: int, boxes: list[Box]) -> None:
    pixels = np.random.default_rng(7).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=300)
        for left in (50, 200):
            page.insert_image(pymupdf.Rect(left, 50, left + 80, 110), stream=out.getvalue())
        page.set_rotation(rotation)
        document.save(path)
    with pages.opened(path) as document:
        page = structure.detailed(document, pages.read(document, 1)[0])
        assert [(image.box, image.width, image.height) for image in page.images] == [(box, 40, 30) for box in boxes]


def test_a_ruled_table_has_rows_and_a_header(path: str) -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_text((50, 60), "Moons differ much in size, as the table shows.")
        grid(page, ROWS)
        document.save(path)
    with pages.opened(path) as document:
        read = tables.with_tables(document, pages.read(document, 1)[0])
    (table,) = read.tables
    assert (table.header, list(table.rows)) == (ROWS[0], ROWS[1:])
    assert table.box == pytest.approx((50, 100, 350, 180), abs=1)
    assert len(table.lines) == len(table.rows)
    prose, rows = chunk(read, 200)
    assert (prose.kind, prose.text) == ("text", "Moons differ much in size, as the table shows.")
    assert (rows.kind, rows.heading) == ("table", "Moon | Found | Radius")
    assert rows.text.split() == " ".join(" ".join(row) for row in ROWS).split()


def test_a_table_across_two_columns_parts_them_and_is_read_whole(path: str) -> None:
    def column(name: str, half: str) -> list[str]:
        return [f"{name} {half}, line {number} of running text" for number in range(8)]

    with pymupdf.open() as document:
        page = document.new_page()
        for half, top in (("upper", 60.0), ("lower", 320.0)):
            for name, left in (("Left", 40.0), ("Right", 310.0)):
                for number, line in enumerate(column(name, half)):
                    page.insert_text((left, top + 14 * number), line)
        for number, row in enumerate(ROWS):
            for left, cell in zip((50, 230, 410), row, strict=True):
                page.insert_text((left, 216 + 20 * number), cell)
        for level in range(len(ROWS) + 1):
            page.draw_line((45, 202 + 20 * level), (550, 202 + 20 * level))
        for upright in (45, 225, 405, 550):
            page.draw_line((upright, 202), (upright, 202 + 20 * len(ROWS)))
        document.save(path)
    with pages.opened(path) as document:
        plain = pages.read(document, 1)[0]
        read = tables.with_tables(document, plain)
    (table,) = read.tables
    assert (table.header, list(table.rows)) == (ROWS[0], ROWS[1:])
    order = [*column("Left", "upper"), *column("Right", "upper"), *(" ".join(row) for row in ROWS)]
    assert read.text.replace("\n\n", "\n").split("\n") == order + column("Left", "lower") + column("Right", "lower")
    array = read.words.array
    assert [read.text[start:end] for start, end in zip(array["start"], array["end"], strict=True)] == read.text.split()
    # The cells of each row are taken for lines of the columns where the table is not known.
    assert sorted(plain.text.split()) == sorted(read.text.split())
    assert plain.text != read.text
    assert [each.kind for each in chunk(read, 200)] == ["text", "table", "text"]


def test_a_table_that_lies_on_its_side_is_left_to_its_text(path: str) -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        grid(page, ROWS)
        page.set_rotation(90)
        document.save(path)
    with pages.opened(path) as document:
        read = pages.read(document, 1)[0]
        assert tables.suspected(document[0])
        assert tables.with_tables(document, read).tables == ()


def test_numbers_are_no_header() -> None:
    assert tables._names(("Moon", "Found", ""))
    assert not tables._names(("Titan", "1655", "2575 km"))
    assert not tables._names(("Moon", "", ""))


def test_a_frame_around_text_is_no_table(path: str) -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        page.draw_rect(pymupdf.Rect(40, 40, 500, 120))
        page.draw_rect(pymupdf.Rect(42, 42, 498, 118))
        page.insert_text((50, 60), "Titan is a moon of Saturn.\nRhea is another.")
        document.save(path)
    with pages.opened(path) as document:
        assert tables.suspected(document[0])
        assert tables.with_tables(document, pages.read(document, 1)[0]).tables == ()


@pytest.mark.parametrize(
    ("levels", "uprights", "sides", "suspected"),
    [
        ((100, 120, 140), (50, 150, 250), (50, 250), True),
        ((100, 140), (100, 150, 200), (50, 250), True),  # no lines at its sides
        ((100, 101, 102), (50, 51, 52), (50, 250), False),  # one corner of thick lines
        ((100, 140), (50,), (50, 250), False),
        ((100, 200), (300, 350, 400), (50, 250), False),  # beside each other
    ],
)
def test_a_table_has_lines_that_cross(
    path: str, levels: tuple[int, ...], uprights: tuple[int, ...], sides: tuple[int, int], suspected: bool
) -> None:
    with pymupdf.open() as document:
        shape = document.new_page().new_shape()
        for y in levels:
            shape.draw_line((sides[0], y), (sides[1], y))
        for x in uprights:
            shape.draw_line((x, levels[0]), (x, levels[-1]))
        shape.finish()  # one path, as many programs draw a grid
        shape.commit()
        document.save(path)
    with pages.opened(path) as document:
        assert tables.suspected(document[0]) is suspected


def test_boxes_side_by_side_are_a_table(path: str) -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        for x in (50, 150):
            for y in (100, 130):
                page.draw_rect(pymupdf.Rect(x, y, x + 100, y + 30))
        document.save(path)
    with pages.opened(path) as document:
        assert tables.suspected(document[0])


def test_a_page_without_lines_is_not_searched_for_tables(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(source: object) -> None:
        raise AssertionError("the slow search ran")

    monkeypatch.setattr(tables, "find", never)
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_text((50, 60), "Titan is a moon.")
        page.draw_line((50, 65), (150, 65))
        document.save(path)
    with pages.opened(path) as document:
        assert not tables.suspected(document[0])
        tables.with_tables(document, pages.read(document, 1)[0])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b" ".join(b"%d %d 9 9 re" % (x, y) for x in range(100) for y in range(110)) + b" S", id="strokes"),
        pytest.param(b"q Q " * 1_100_000 + b"0 0 m 9 9 l S", id="bytes"),
    ],
)
def test_a_map_is_not_searched_for_tables(path: str, content: bytes) -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_text((50, 60), "Titan")
        xref = document.get_new_xref()
        document.update_object(xref, "<<>>")
        document.update_stream(xref, content)
        page.set_contents(xref)
        document.save(path, deflate=True)
    with pages.opened(path) as document:
        assert not tables.suspected(document[0])


def test_a_survey_finds_heads_and_sections(path: str) -> None:
    with pymupdf.open() as document:
        for number in range(1, 6):
            page = document.new_page()
            page.insert_text((50, 40), "The Moons of Saturn")
            page.insert_text((50, 300), f"What stands on this page is told {'again ' * number}.")
            page.insert_text((280, 820), str(number))
        document.set_toc([[1, "Titan", 2], [1, "Rhea", 4], [2, "Ice", 4]])
        document.set_metadata({"title": " Moons\n of Saturn "})
        document.save(path)
    with pages.opened(path) as document:
        found = survey(document, 30.0)
        page, _ = pages.read(document, 3)
    assert [found.heading(number) for number in range(1, 6)] == ["", "", "Titan", "Titan", "Ice"]
    (part,) = chunk(page, 200, furniture=found.furniture, heading=found.heading(3))
    assert part.text == "What stands on this page is told again again again ."
    assert "The Moons of Saturn" in page.text
    assert part.heading == "Titan"
    assert found.title == "Moons of Saturn"
    assert Survey().heading(3) == ""


def test_a_survey_of_slow_pages_ends_and_keeps_what_it_saw(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pymupdf.open() as document:
        for number in range(1, 11):
            page = document.new_page()
            page.insert_text((50, 40), "The Moons of Saturn")
            page.insert_text((50, 300), f"What stands on this page is told {'again ' * number}.")
        document.save(path)
    now = [0.0]
    looked: list[int] = []
    read = pages.read

    def slow(document: pymupdf.Document, number: int, *, pictures: bool) -> tuple[Page, Why | None]:
        now[0] += 20.0
        looked.append(number)
        return read(document, number, pictures=pictures)

    monkeypatch.setattr("actors.reading.survey.time", SimpleNamespace(process_time=lambda: now[0]))
    monkeypatch.setattr(pages, "read", slow)
    with pages.opened(path) as document:
        found = survey(document, 75.0)
        assert looked == [1, 2, 3, 4]
        assert len(found.furniture.texts) == 1
        looked.clear()
        # Two pages of ten are no evidence, as they would be of two.
        assert survey(document, 35.0).furniture.texts == frozenset()
        assert looked == [1, 2]
