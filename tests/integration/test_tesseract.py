"""Optical recognition by the real Tesseract, without Ray."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pymupdf
import pytest

from actors.errors import ReadingFailed
from actors.messages import Page
from actors.reading import ocr, pages
from actors.reading.ocr import Scan

TEXT = ["Titan is the largest moon of Saturn.", "Christiaan Huygens found it in 1655."]


def scanned(path: Path, *texts: list[str], rotation: int = 0) -> str:
    """A PDF whose pages are images of text."""
    with pymupdf.open() as source, pymupdf.open() as document:
        for lines in texts:
            page = source.new_page(width=400, height=200)
            for number, line in enumerate(lines):
                page.insert_text((40, 60 + 60 * number), line, fontsize=14)
            target = document.new_page(width=400, height=200)
            target.insert_image(target.rect, pixmap=page.get_pixmap(dpi=200))
            target.set_rotation(rotation)
        document.save(path)
    return str(path)


def read(path: str, *, dpi: int = 200, languages: tuple[str, ...] = ("eng",), timeout_s: float = 60) -> list[Page]:
    with pages.opened(path) as document:
        wanted = [(n + 1, why) for n in range(document.page_count) if (why := pages.read(document, n + 1)[1])]
        return ocr.read(document, wanted, dpi=dpi, max_pixels=40_000_000, languages=languages, timeout_s=timeout_s)


def test_words_have_their_boxes_on_the_page(tmp_path: Path) -> None:
    first, last = read(scanned(tmp_path / "a.pdf", TEXT, ["Another page."]))
    assert first.text == "\n\n".join(TEXT)
    assert last.text == "Another page."
    assert (first.number, last.number, first.width, first.height) == (1, 2, 400, 200)
    start = first.text.index("Huygens")
    ((x0, y0, x1, y1),) = first.words.boxes(start, start + len("Huygens"))
    # "Christiaan " is 69 points wide in 14-point Helvetica, "Huygens" 56.
    assert (x0, x1) == pytest.approx((40 + 72, 40 + 72 + 53), abs=6)
    assert 105 < y0 < 115 < 120 < y1 < 127
    assert first.ocr is not None
    assert first.ocr.confidence > 80
    assert first.ocr.dpi == 200
    assert re.fullmatch(r"tesseract \d+\.\d+.*", first.ocr.engine)


def test_text_without_ink_is_empty_and_does_not_shift_the_others(tmp_path: Path) -> None:
    first, blank, last = read(scanned(tmp_path / "a.pdf", TEXT, [], ["The end."]))
    assert first.text.startswith("Titan")
    assert (blank.number, blank.text) == (2, "")
    assert (last.number, last.text) == (3, "The end.")


def test_a_page_is_read_as_it_is_displayed(tmp_path: Path) -> None:
    path = scanned(tmp_path / "a.pdf", TEXT)
    with pymupdf.open(path) as document, pymupdf.open() as turned:
        # Drawn upside down and turned back by the page's own rotation.
        page = turned.new_page(width=400, height=200)
        page.show_pdf_page(page.rect, document, 0, rotate=180)
        page.set_rotation(180)
        turned.save(tmp_path / "b.pdf")
    (page_read,) = read(str(tmp_path / "b.pdf"))
    (upright,) = read(path)
    assert page_read.text == upright.text
    assert page_read.words.boxes(0, 5)[0] == pytest.approx(upright.words.boxes(0, 5)[0], abs=2)


def test_a_missing_language_pack_is_an_error_not_english(tmp_path: Path) -> None:
    with pytest.raises(ReadingFailed, match="no language pack xyz"):
        read(scanned(tmp_path / "a.pdf", TEXT), languages=("eng", "xyz"))


def test_too_little_time_is_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (3000, 3000), dtype=np.uint8)
    with pytest.raises(ReadingFailed, match="took longer"):
        ocr.recognise([Scan(1, 720, 720, "absent", 300, noise)], languages=("eng",), timeout_s=0.2)
