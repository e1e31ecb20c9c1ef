"""From a page to what is recognised on it and back, with Tesseract replaced by one that answers from the pixels."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pymupdf
import pytest
from PIL import Image

from actors.errors import ReadingFailed
from actors.messages import Page
from actors.reading import ocr, pages, scans, tesseract
from actors.reading.ocr import Scan
from actors.reading.scans import Bitmap, Pixels, Placement
from actors.reading.tesseract import Word
from actors.reading.triage import Picture, Why

Answer = Callable[[Pixels], list[Word]]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tesseract, "engine", lambda: "tesseract 9.0")
    monkeypatch.setattr(tesseract, "check_languages", lambda languages: None)


def answers(monkeypatch: pytest.MonkeyPatch, *of_run: Answer) -> list[int]:
    """Have the n-th run answer by the n-th function, the last one for ever. Returns the number of bitmaps a run."""
    runs: list[int] = []

    def recognise(bitmaps: Sequence[Pixels], languages: tuple[str, ...], timeout_s: float) -> list[list[Word]]:
        if not bitmaps:
            return []
        if timeout_s <= 0:
            raise ReadingFailed("no time")
        runs.append(len(bitmaps))
        answer = of_run[min(len(runs), len(of_run)) - 1]
        return [answer(pixels) for pixels in bitmaps]

    monkeypatch.setattr(tesseract, "recognise", recognise)
    return runs


def says(*texts: str, confidence: float = 90.0, height: int = 10) -> Answer:
    """The texts side by side."""
    words = [Word(1, 1, 1, (40 * i, 5, 40 * i + 30, 5 + height), confidence, text) for i, text in enumerate(texts)]
    return lambda pixels: words


def black_corner(pixels: Pixels) -> list[Word]:
    """Good words if the black corner is on top at the left, poor ones otherwise."""
    upright = pixels[:10, :10].mean() < 100
    return says("upright", "words", confidence=95.0 if upright else 40.0)(pixels)


def marked(way: int) -> Scan:
    """A bitmap with a black corner, turned."""
    pixels = np.full((200, 200), 255, dtype=np.uint8)
    pixels[:60, :200] = 250
    pixels[:40, :40] = 0
    lying = scans.turned(Bitmap(pixels, Placement(1, 0, 0, 1, 0, 0)), way)
    return Scan(1, 100, 100, "absent", 144, Bitmap(lying.pixels, Placement(0.5, 0, 0, 0.5, 0, 0)))


def test_words_get_exact_spans_and_boxes_in_points(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, says("Titan", "is"))
    with pages.opened(scan(tmp_path / "a.pdf")) as document:
        (page,) = read(document, [(1, "absent")], dpi=144)
    assert page.text == "Titan is"
    assert (page.number, page.width, page.height) == (1, 300, 200)
    first = page.words.array[0]
    assert page.text[first["start"] : first["end"]] == "Titan"
    assert page.ocr is not None
    # The picture has 30 x 20 pixels, so nothing is gained by drawing more of them than the least.
    assert tuple(first)[2:] == pytest.approx((0, 5, 30, 15), abs=0.01)
    assert (page.ocr.engine, page.ocr.dpi, page.ocr.confidence, page.ocr.why) == ("tesseract 9.0", 72, 90.0, "absent")
    assert (page.ocr.rotation, page.ocr.skew) == (0, 0)


def test_a_page_on_its_head_is_turned_because_its_result_is_poor(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = answers(monkeypatch, black_corner)
    upright, turned = ocr.recognise([marked(0), marked(180)], languages=("eng",), timeout_s=60)
    assert (upright.bitmap.rotation, turned.bitmap.rotation) == (0, 180)
    assert [word.confidence for word in turned.words] == [95, 95]
    # Both pages, two ways for an excerpt of the poor one, the poor one again.
    assert runs == [2, 2, 1]


def test_a_poor_page_that_no_turn_improves_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = answers(monkeypatch, says("smudge", confidence=40))
    (found,) = ocr.recognise([marked(0)], languages=("eng",), timeout_s=60)
    assert (found.bitmap.rotation, len(found.words)) == (0, 1)
    assert runs == [1, 2]


def test_blank_pages_are_not_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = answers(monkeypatch, lambda pixels: [])
    (found,) = ocr.recognise([marked(0)], languages=("eng",), timeout_s=60)
    assert (list(found.words), runs) == ([], [1])


@pytest.mark.parametrize("way", [90, 270])
def test_a_page_on_its_side_is_turned_before_it_is_read(monkeypatch: pytest.MonkeyPatch, way: int) -> None:
    monkeypatch.setattr(scans, "sideways", lambda seen: True)
    runs = answers(monkeypatch, black_corner)
    (found,) = ocr.recognise([marked(way)], languages=("eng",), timeout_s=60)
    assert found.bitmap.rotation == (360 - way) % 360
    assert runs == [3, 1]


def test_time_is_shared_by_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, black_corner)
    with pytest.raises(ReadingFailed, match="no time"):
        ocr.recognise([marked(0)], languages=("eng",), timeout_s=0)


# --- whole pages ----------------------------------------------------------------------------------------------------


def picture() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((20, 30), 128, dtype=np.uint8)).save(out, format="PNG")
    return out.getvalue()


def scan(path: Path, *, stamp: str = "") -> str:
    with pymupdf.open() as document:
        page = document.new_page(width=300, height=200)
        page.insert_image(page.rect, stream=picture(), keep_proportion=False)
        if stamp:
            page.insert_text((20, 100), stamp)
        document.save(path)
    return str(path)


def read(
    document: pymupdf.Document, wanted: list[tuple[int, Why]], *, dpi: int = 72, max_pixels: int = 10**6
) -> list[Page]:
    return ocr.read(document, wanted, dpi=dpi, max_pixels=max_pixels, languages=("eng",), timeout_s=60)


def test_a_stamp_and_the_scan_under_it_are_both_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, says("one", "two"))
    with pages.opened(scan(tmp_path / "a.pdf", stamp="My stamp")) as document:
        own, why = pages.read(document, 1)
        assert why == "hidden"
        (page,) = read(document, [(1, why)])
    assert page.text == "one two\n\nMy stamp"
    start = page.text.index("stamp")
    assert page.words.boxes(start, start + 5) == own.words.boxes(own.text.index("stamp"), len(own.text))


def test_what_is_recognised_over_the_pages_own_words_or_unsure_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = [
        Word(1, 1, 1, (20, 88, 38, 102), 90.0, "My"),
        Word(1, 1, 1, (100, 20, 140, 40), 30.0, "cloud"),
        Word(1, 1, 1, (150, 20, 190, 40), 90.0, "sky"),
    ]
    answers(monkeypatch, lambda pixels: words)
    with pages.opened(scan(tmp_path / "a.pdf", stamp="My stamp")) as document:
        (page,) = read(document, [(1, "hidden")])
    assert page.text == "sky\n\nMy stamp"


@pytest.mark.parametrize(("confidence", "kept"), [(92.0, False), (40.0, True)])
def test_garbage_gives_way_only_to_something_better(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, confidence: float, kept: bool
) -> None:
    answers(monkeypatch, says("readable", "words", confidence=confidence))
    with pages.opened(scan(tmp_path / "a.pdf", stamp="Xqzj vkwx")) as document:
        (page,) = read(document, [(1, "garbage")])
    assert page.text == ("Xqzj vkwx" if kept else "readable words")
    assert page.ocr is not None
    assert (page.ocr.why, page.ocr.confidence, page.ocr.used) == ("garbage", confidence, not kept)


def test_text_that_was_never_language_is_not_replaced_by_a_guess(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers(monkeypatch, says(*["kfzQxWvbJqGhPzTxLcRwVnMkYdXs"] * 20, confidence=92.0))
    with pages.opened(scan(tmp_path / "a.pdf", stamp="Xqzj vkwx")) as document:
        (page,) = read(document, [(1, "garbage")])
    assert page.text == "Xqzj vkwx"
    assert page.ocr is not None
    assert not page.ocr.used


def illustrated(path: Path) -> str:
    """A page of text around a picture of text."""
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=300)
        page.insert_text((50, 20), "Above.", fontsize=12)
        with pymupdf.open() as source:
            inner = source.new_page(width=200, height=200)
            for y in range(15, 200, 14):
                inner.insert_text((8, y), "Rhea and Dione and Tethys", fontsize=10)
            page.insert_image(pymupdf.Rect(100, 50, 300, 250), pixmap=inner.get_pixmap(dpi=144))
        page.insert_text((50, 280), "Below.", fontsize=12)
        document.save(path)
    return str(path)


def test_only_the_picture_of_a_mixed_page_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    def see(pixels: Pixels) -> list[Word]:
        shapes.append(pixels.shape)
        return [Word(1, 1, 1, (0, 0, pixels.shape[1], pixels.shape[0]), 90.0, "figure")]

    answers(monkeypatch, see)
    looks: list[Page] = []
    look = pages.silent_pictures

    def noted(source: pymupdf.Page, page: Page, placed: object = None) -> Iterator[Picture]:
        looks.append(page)
        return look(source, page)

    monkeypatch.setattr(pages, "silent_pictures", noted)
    with pages.opened(illustrated(tmp_path / "a.pdf")) as document:
        (found,) = read(document, [(1, "mixed")], dpi=300)
    assert len(looks) == 1
    assert len(shapes) == 1
    assert found.text == "Above.\n\nfigure\n\nBelow."
    (box,) = found.words.boxes(8, 14)
    assert box == pytest.approx((100, 50, 300, 250), abs=1)
    assert found.ocr is not None
    assert (found.ocr.why, found.ocr.used) == ("mixed", True)


def test_a_picture_that_says_nothing_leaves_the_page_as_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, says("smudge", confidence=30.0))
    with pages.opened(illustrated(tmp_path / "a.pdf")) as document:
        own, _ = pages.read(document, 1)
        (found,) = read(document, [(1, "mixed")], dpi=300)
    assert (found.text, found.words) == (own.text, own.words)
    assert found.ocr is not None
    assert (found.ocr.why, found.ocr.confidence, found.ocr.used) == ("mixed", 30.0, False)


def test_a_page_that_cannot_be_drawn_has_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, says("word"))
    with pages.opened(scan(tmp_path / "a.pdf")) as document:
        (page,) = read(document, [(1, "absent")], max_pixels=10)
    assert page.error is not None
    assert "too large to be drawn" in page.error
    assert page.ocr is not None
    assert (page.ocr.why, page.ocr.dpi, page.ocr.used) == ("absent", 0, False)


def test_a_scan_lost_on_a_huge_page_is_an_error_and_no_empty_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = answers(monkeypatch, says("noise"))
    with pymupdf.open() as made:
        page = made.new_page(width=50_000, height=50_000)
        page.insert_image((0, 0, 600, 800), stream=picture(), keep_proportion=False)
        page.insert_text((2_000, 2_000), "Legible text of its own")
        # A dot in 24 inches is all that this picture has: drawn at 12 dpi, nothing of it is lost.
        page = made.new_page(width=50_000, height=50_000)
        page.insert_image(page.rect, stream=picture(), keep_proportion=False)
        made.save(tmp_path / "a.pdf")
    with pages.opened(str(tmp_path / "a.pdf")) as document:
        lost, kept, whole = (
            read(document, [each], dpi=300, max_pixels=70_000_000)[0]
            for each in ((1, "hidden"), (1, "garbage"), (2, "absent"))
        )
    assert (lost.number, lost.text) == (1, "")
    assert lost.error is not None
    assert "50,000 x 50,000 points" in lost.error
    assert "12 dpi" in lost.error
    assert (kept.error, kept.text.strip()) == (None, "Legible text of its own")
    assert kept.ocr is not None
    assert (kept.ocr.why, kept.ocr.dpi, kept.ocr.used) == ("garbage", 0, False)
    assert (whole.error, whole.text) == (None, "noise")
    assert len(runs) == 1
