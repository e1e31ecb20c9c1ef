"""Optical recognition by the real Tesseract, without Ray."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from actors.errors import ReadingFailed
from actors.messages import Page
from actors.reading import ocr, pages, tesseract
from actors.reading.scans import Bitmap, Placement, levelled

TEXT = ["Titan is the largest moon of Saturn.", "Christiaan Huygens found it in 1655."]
PROSE = (
    "The engineers had measured the river for thirty years before anybody asked them what the water meant to those who "
    "lived beside it. By then the answer had been lost with the old maps and with the people who once drew them. "
)


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
    assert first.text.split() == " ".join(TEXT).split()
    assert last.text == "Another page."
    assert (first.number, last.number, first.width, first.height) == (1, 2, 400, 200)
    start = first.text.index("Huygens")
    ((x0, y0, x1, y1),) = first.words.boxes(start, start + len("Huygens"))
    # "Christiaan " is 69 points wide in 14-point Helvetica, "Huygens" 56.
    assert (x0, x1) == pytest.approx((40 + 72, 40 + 72 + 53), abs=6)
    assert 105 < y0 < 115 < 120 < y1 < 127
    assert first.ocr is not None
    assert first.ocr.confidence > 80
    assert first.ocr.dpi <= 200
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


def test_too_little_time_is_said() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (3000, 3000), dtype=np.uint8)
    with pytest.raises(ReadingFailed, match="took longer"):
        tesseract.recognise([noise], ("eng",), 0.2)


# --- turned and skewed ----------------------------------------------------------------------------------------------


def prose(dpi: int) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.uint8]], list[tuple[str, np.ndarray]]]:
    """A printed page, and for each word the corners of its box in pixels, shape (2, 4)."""
    with pymupdf.open() as document:
        page = document.new_page(width=420, height=500)
        assert page.insert_textbox((40, 50, 380, 480), PROSE * 6, fontsize=11) >= 0
        pixmap = page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY)
        rows = np.frombuffer(pixmap.samples, dtype=np.uint8).reshape(pixmap.height, pixmap.stride)
        words = [
            (word, np.array([(x0, x1, x1, x0), (y0, y0, y1, y1)]) * dpi / 72)
            for x0, y0, x1, y1, word, *_ in page.get_text("words")
        ]
        return rows[:, : pixmap.width].copy(), words


@pytest.mark.parametrize(
    ("rotation", "skew"), [(0, 0.0), (90, 0.0), (180, 0.0), (270, 0.0), (0, 2.5), (0, -6.0), (90, 3.0), (180, -2.0)]
)
def test_boxes_lie_on_the_words_of_a_turned_and_skewed_scan(tmp_path: Path, rotation: int, skew: float) -> None:
    dpi = 200
    pixels, words = prose(dpi)
    # As on a glass plate: sloping by `skew`, and then turned so that `rotation` sets it upright again.
    sloping = levelled(Bitmap(pixels, Placement(1, 0, 0, 1, 0, 0)), -skew)
    place, quarters = sloping.placement, rotation // 90
    height, width = sloping.pixels.shape
    image = Image.fromarray(np.ascontiguousarray(np.rot90(sloping.pixels, quarters)))
    there = np.linalg.inv(np.array([[place.a, place.c, place.e], [place.b, place.d, place.f], [0, 0, 1]]))
    with pymupdf.open() as document:
        image.save(tmp_path / "scan.png")
        page = document.new_page(width=image.width * 72 / dpi, height=image.height * 72 / dpi)
        page.insert_image(page.rect, filename=tmp_path / "scan.png")
        document.save(tmp_path / "a.pdf")
    (found,) = read(str(tmp_path / "a.pdf"))
    assert found.ocr is not None
    assert found.ocr.rotation == rotation
    assert found.ocr.skew == pytest.approx(skew, abs=0.3)
    assert found.text.split()[:12] == PROSE.split()[:12]
    texts = [found.text[w["start"] : w["end"]] for w in found.words.array]
    assert len(texts) == len(words)
    right = 0
    for (word, corners), text, box in zip(words, texts, found.words.array, strict=True):
        x, y = (there @ np.vstack((corners, np.ones(4))))[:2]
        for _ in range(quarters):  # anticlockwise, as numpy turns
            x, y, (height, width) = y, width - x, (width, height)
        height, width = sloping.pixels.shape
        centre = np.array([x.mean(), y.mean()]) * 72 / dpi
        inside = box["x0"] <= centre[0] <= box["x1"] and box["y0"] - 1 <= centre[1] <= box["y1"] + 1
        assert inside, f"{word} at {centre} is not in {box}"
        right += word == text
    assert right >= 0.97 * len(words)


def test_a_picture_of_text_is_read_and_stands_where_it_is(tmp_path: Path) -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        page.insert_text((70, 80), "What follows is a picture.", fontsize=12)
        pixels, _ = prose(200)
        Image.fromarray(pixels).save(tmp_path / "picture.png")
        page.insert_image(pymupdf.Rect(80, 120, 500, 620), filename=tmp_path / "picture.png")
        page.insert_text((70, 700), "That was a picture.", fontsize=12)
        document.save(tmp_path / "a.pdf")
    (found,) = read(str(tmp_path / "a.pdf"), dpi=300)
    assert found.ocr is not None
    assert found.ocr.why == "mixed"
    assert found.text.startswith("What follows is a picture.\n\nThe engineers had measured")
    assert found.text.endswith("That was a picture.")
    assert found.text.count("picture") == 2
