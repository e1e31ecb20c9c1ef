"""Pages of garbage, and blank ones, as the reader tells them apart."""

from __future__ import annotations

import random
import zlib
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Page
from actors.reading import damage, ocr, pages, tesseract
from actors.reading.tesseract import Word
from benchmarks.mutations import FONT, pdf, stream

NOISE = random.Random(5).randbytes(2000)
PROSE = b"BT /F 12 Tf 9 700 Td (Titan is the largest moon of Saturn.) Tj ET\n" * 20
PACKED = zlib.compress(PROSE)
FLATE = b"/Filter/FlateDecode"


def read(folder: Path, content: bytes) -> Page:
    path = folder / "a.pdf"
    path.write_bytes(content)
    with pages.opened(str(path)) as document:
        return pages.read(document, 1)[0]


@pytest.mark.parametrize(
    "content",
    [
        pdf(b""),
        pdf(b" \n"),
        pdf(b"q 1 0 0 1 9 9 cm Q"),
        pdf(b"q Q Q Q"),
        pdf(b"/P <</MCID 0>> BDC EMC"),
        pdf(b"/GS0 gs /Cs1 cs"),
        pdf(b"", content=stream(b"", FLATE)),
        pdf(b"", content=stream(zlib.compress(b"q Q"), FLATE)),
        pdf(b"BT /F 12 Tf ( ) Tj ET", resources=FONT),
    ],
)
def test_a_blank_page_is_no_error(tmp_path: Path, content: bytes) -> None:
    page = read(tmp_path, content)
    assert (page.text, page.error) == ("", None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pdf(NOISE), "syntax error"),
        (pdf(b"a page that was never one"), "unknown keyword: 'a'"),
        (pdf(b"never a page " * 200), "ignoring rest of page"),
        (pdf(b"/X Do"), "cannot find XObject resource 'X'"),
        (pdf(b"", content=stream(NOISE, FLATE)), "treating as end of file"),
        (pdf(b"", content=stream(PACKED[:20], FLATE), resources=FONT), "premature end"),
        (pdf(b"", content=stream(PACKED, b"/Filter/FooDecode"), resources=FONT), "unknown filter name"),
        (pdf(b"", content=b"<</A 1>>"), "not a stream"),
        (pdf(b"").replace(b"/Contents 4 0 R", b"/Contents 9 0 R"), "not a stream"),
    ],
)
def test_a_page_of_garbage_is_an_error(tmp_path: Path, content: bytes, told: str) -> None:
    page = read(tmp_path, content)
    assert page.error
    assert page.error.startswith("The page is damaged: ")
    assert told in page.error
    assert page.width == 595


def test_a_page_with_words_is_believed(tmp_path: Path) -> None:
    page = read(tmp_path, pdf(PROSE + NOISE, resources=FONT))
    assert page.error is None
    assert "largest moon" in page.text


@pytest.mark.parametrize(
    ("content", "warned"),
    [
        (pdf(PROSE, resources=FONT), False),
        (pdf(PROSE + b"no operator 1 2 Q Q Q /Cs1 cs", resources=FONT), False),
        (pdf(PROSE + b"never a page " * 200, resources=FONT), True),
        (pdf(b"", content=stream(zlib.compress(PROSE * 50)[:150], FLATE), resources=FONT), True),
    ],
)
def test_what_was_lost_beside_words_is_a_warning(tmp_path: Path, content: bytes, warned: bool) -> None:
    page = read(tmp_path, content)
    assert page.error is None
    assert "largest moon" in page.text
    assert page.warning.startswith("Part of the page was lost: ") == warned
    assert bool(page.warning) == warned


def test_what_was_said_of_one_page_is_not_held_against_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    with pymupdf.open() as document:
        for content in (PROSE + NOISE, b"q Q", NOISE):
            with pymupdf.open(stream=pdf(content, resources=FONT)) as part:
                document.insert_pdf(part)
        document.save(path)
    with pages.opened(str(path)) as document:
        found = [pages.read(document, number)[0].error for number in (1, 2, 3)]
    assert [error is None for error in found] == [True, True, False]


def test_nothing_said_is_kept_when_a_document_is_closed(tmp_path: Path) -> None:
    read(tmp_path, pdf(PROSE + NOISE, resources=FONT))
    assert pymupdf.TOOLS.mupdf_warnings() == ""


@pytest.mark.parametrize("words", [[], [Word(1, 1, 1, (10, 10, 90, 30), 95.0, "Titan")]])
@pytest.mark.parametrize("whole", [True, False])
def test_a_picture_is_lost_when_it_cannot_be_decoded_not_when_an_error_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, words: list[Word]
) -> None:
    monkeypatch.setattr(tesseract, "check_languages", lambda languages: None)
    monkeypatch.setattr(tesseract, "engine", lambda: "tesseract 5")
    monkeypatch.setattr(tesseract, "recognise", lambda bitmaps, languages, timeout_s: [words for _ in bitmaps])
    data = zlib.compress(b"\xff" * 640_000)
    shape = b"/Type/XObject/Subtype/Image/Width 800/Height 800/ColorSpace/DeviceGray/BitsPerComponent 8" + FLATE
    drawing = pdf(
        b"no operator 500 0 0 700 9 9 cm /X Do",
        resources=b"/XObject<</X 9 0 R>>",
        extra={9: stream(data if whole else NOISE, shape)},
    )
    (tmp_path / "a.pdf").write_bytes(drawing)
    with pages.opened(str(tmp_path / "a.pdf")) as document:
        assert pages.read(document, 1)[1] == "absent"
        options = {"dpi": 100, "max_pixels": 10_000_000, "languages": ("eng",), "timeout_s": 9}
        (page,) = ocr.read(document, [(1, "absent")], **options)  # type: ignore[arg-type]
    assert (page.error is None) == (whole or bool(words))
    assert page.warning.startswith("Part of the page was lost: ") == (bool(words) and not whole)
    assert bool(page.warning) == (bool(words) and not whole)
    assert page.ocr


@given(st.text())
def test_what_is_told_can_be_stored_and_shown(message: str) -> None:
    told = damage.told(message + "\udc9d\x00")
    assert told.isprintable()
    assert len(told.encode()) <= 4 * damage.MAX_CHARS
