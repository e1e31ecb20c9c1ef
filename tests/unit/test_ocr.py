"""The wrapper around Tesseract, with the program itself replaced."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pymupdf
import pytesseract
import pytest
from PIL import Image

from actors.errors import ReadingFailed
from actors.messages import Page
from actors.reading import ocr, pages
from actors.reading.ocr import Scan
from actors.reading.pages import Why

HEADER = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
# Two pages: the first has two lines in one paragraph and a second block, the other is blank.
TABLE = "\n".join(
    [
        HEADER,
        "1\t1\t0\t0\t0\t0\t0\t0\t600\t400\t-1\t",
        "2\t1\t1\t0\t0\t0\t10\t20\t300\t60\t-1\t",
        "5\t1\t1\t1\t1\t1\t30\t60\t90\t30\t96.5\tTitan",
        '5\t1\t1\t1\t1\t2\t150\t60\t60\t30\t91.5\t"is"',
        "5\t1\t1\t1\t2\t1\t30\t120\t90\t30\t95.0\tbig",
        "5\t1\t2\t1\t1\t1\t30\t300\t90\t30\t97.0\tend",
        "5\t1\t2\t1\t1\t2\t130\t300\t90\t30\t20.0\t ",
        "1\t2\t0\t0\t0\t0\t0\t0\t600\t400\t-1\t",
        "",
    ]
)

Run = Callable[..., None]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Tesseract 9 with English only, and a temporary folder of our own."""
    monkeypatch.setattr(pytesseract, "get_tesseract_version", lambda: "9.0")
    monkeypatch.setattr(pytesseract, "get_languages", lambda: ["eng", "osd"])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    ocr.engine.cache_clear()
    ocr.check_languages.cache_clear()
    yield
    ocr.engine.cache_clear()
    ocr.check_languages.cache_clear()


def scan(number: int, *, dpi: int = 144, why: Why = "absent") -> Scan:
    return Scan(number, 300, 200, why, dpi, np.full((400, 600), 255, dtype=np.uint8), milliseconds=2.0)


def writes(table: str) -> Run:
    def run(listing: str, output: str, *_: object, **__: object) -> None:
        Path(f"{output}.tsv").write_text(table, encoding="utf-8")

    return run


def recognise(*scans: Scan, timeout_s: float = 60) -> list[Page]:
    return ocr.recognise(scans, languages=("eng",), timeout_s=timeout_s)


def test_words_get_exact_spans_and_boxes_in_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "run_tesseract", writes(TABLE))
    page, blank = recognise(scan(4), scan(9))
    assert page.text == 'Titan "is"\nbig\n\nend'
    assert (page.number, page.width, page.height) == (4, 300, 200)
    first = page.words.array[0]
    assert page.text[first["start"] : first["end"]] == "Titan"
    assert tuple(first)[2:] == (15, 30, 60, 45)
    assert page.ocr is not None
    assert (page.ocr.engine, page.ocr.dpi, page.ocr.confidence, page.ocr.why) == ("tesseract 9.0", 144, 95.0, "absent")
    assert page.ocr.milliseconds >= 2.0
    assert (blank.number, blank.text, len(blank.words)) == (9, "", 0)
    assert blank.ocr is not None
    assert blank.ocr.confidence == 0.0


def test_tesseract_runs_once_on_a_list_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, int], float, str, str]] = []

    def run(listing: str, output: str, extension: str, lang: str, config: str, timeout: float) -> None:
        for name in Path(listing).read_text().split():
            with Image.open(name) as image:
                seen.append((image.size, image.info["dpi"][0], lang, os.environ["OMP_THREAD_LIMIT"]))
        assert Path(listing).parent.stat().st_mode & 0o077 == 0
        assert (extension, timeout) == ("tsv", 60)
        writes(TABLE)(listing, output)

    monkeypatch.setattr(ocr, "run_tesseract", run)
    recognise(scan(1, dpi=300), scan(2, dpi=150))
    assert seen == [((600, 400), 300, "eng", "1"), ((600, 400), 150, "eng", "1")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (pytesseract.TesseractError(-11, "boom"), "status -11"),
        (RuntimeError("Tesseract process timeout"), "longer than 60 s"),
        (FileNotFoundError("no output"), "no output"),
    ],
)
def test_failures_are_ours_and_nothing_stays_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, message: str
) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ocr, "run_tesseract", run)
    with pytest.raises(ReadingFailed, match=message):
        recognise(scan(1))
    assert list(tmp_path.iterdir()) == []


def test_no_time_left_is_said_before_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "run_tesseract", writes(TABLE))
    with pytest.raises(ReadingFailed, match="all the time"):
        recognise(scan(1), timeout_s=0)


def test_a_missing_language_is_named() -> None:
    with pytest.raises(ReadingFailed, match="no language pack deu, fra"):
        ocr.check_languages(("eng", "deu", "fra"))
    ocr.check_languages(("eng",))


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise pytesseract.TesseractNotFoundError

    monkeypatch.setattr(pytesseract, "get_tesseract_version", absent)
    with pytest.raises(ReadingFailed, match="not installed"):
        ocr.engine()


def test_folders_of_dead_processes_are_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / name for name in ("gatherum-ocr-111-x", "gatherum-ocr-222-y", "gatherum-ocr-z"))
    for folder in (dead, alive, other):
        folder.mkdir()
    monkeypatch.setattr(ocr, "_alive", lambda pid: pid == 222)
    monkeypatch.setattr(ocr, "run_tesseract", writes(TABLE))
    recognise(scan(1))
    assert sorted(tmp_path.iterdir()) == [alive, other]


def test_this_process_is_alive() -> None:
    assert ocr._alive(os.getpid())
    assert not ocr._alive(2**22 + 1)


# --- whole pages ----------------------------------------------------------------------------------------------------


def stamped(path: Path) -> str:
    with pymupdf.open() as document:
        page = document.new_page(width=300, height=200)
        out = io.BytesIO()
        Image.fromarray(np.full((20, 30), 128, dtype=np.uint8)).save(out, format="PNG")
        page.insert_image(page.rect, stream=out.getvalue(), keep_proportion=False)
        page.insert_text((20, 20), "My stamp")
        document.save(path)
    return str(path)


@pytest.mark.parametrize(("found", "text"), [("one two three four", "one two three four"), ("one two", "My stamp")])
def test_a_stamp_gives_way_to_a_scan_but_not_to_a_background(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: str, text: str
) -> None:
    rows = [f"5\t1\t1\t1\t1\t{i}\t{40 * i}\t9\t30\t9\t90\t{word}" for i, word in enumerate(found.split(), 1)]
    monkeypatch.setattr(ocr, "run_tesseract", writes("\n".join([HEADER, *rows])))
    with pages.opened(stamped(tmp_path / "a.pdf")) as document:
        _, why = pages.read(document, 1)
        assert why == "hidden"
        (page,) = ocr.read(document, [(1, why)], dpi=72, max_pixels=10**6, languages=("eng",), timeout_s=60)
    assert page.text == text
    assert (page.ocr is None) == (text == "My stamp")


def test_a_page_that_cannot_be_drawn_has_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ocr, "run_tesseract", writes(TABLE))
    with pages.opened(stamped(tmp_path / "a.pdf")) as document:
        (page,) = ocr.read(document, [(1, "absent")], dpi=72, max_pixels=10, languages=("eng",), timeout_s=60)
    assert page.error is not None
    assert "too large to be drawn" in page.error
