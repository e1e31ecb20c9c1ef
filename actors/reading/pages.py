"""Reads and renders pages with PyMuPDF, the only module that opens a PDF.

Offsets are made exact by construction: a page's text is joined from its cleaned words, so every word's span is known
when the text is. Whether a page needs OCR is decided here too, because only the open document can tell a blank page
from a scan. PyMuPDF is not thread-safe: one call at a time in a process.
"""

from __future__ import annotations

import io
import itertools
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from actors.errors import DocumentTooLarge, EmptyFile, EncryptedPdf, NotAPdf, ReadingFailed, TruncatedPdf, UnknownPage
from actors.messages import WORD, Box, DocumentInfo, Page, Words

# PyMuPDF 2.0 imports its companions for page layout where they are installed, and it installs them: an inference
# runtime with models, 76 MB and up to a second more in every process, and nothing of it is used here. What is None in
# `sys.modules` cannot be imported.
_UNUSED = [name for name in ("pymupdf.layout", "pymupdf4llm") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_UNUSED))  # type: ignore[arg-type]
import pymupdf  # noqa: E402

for _name in _UNUSED:
    del sys.modules[_name]

Why = Literal["absent", "garbage", "hidden"]
"""What is wrong with a text layer; see `needs_ocr`."""

HEADER_BYTES: Final = 1024  # readers accept junk of this length before %PDF-
TRAILER_BYTES: Final = 4096
MAX_PAGE_CHARS: Final = 2_000_000  # a page of prose has 3,000; beyond this lies a decompression bomb
MAX_TITLE_CHARS: Final = 500
MAX_METADATA_CHARS: Final = 2000
GARBAGE_SHARE: Final = 0.3
STAMP_WORDS: Final = 25
COVERING_SHARE: Final = 0.8
HIGHLIGHT: Final = (255, 224, 64)
HIGHLIGHT_MARGIN: Final = 1.0  # points
PNG_LEVEL: Final = 3  # of 9: beyond it a page gets hardly smaller and twice as slow

# Without the flag for ligatures MuPDF expands those it knows; without the one for CIDs it writes U+FFFD for a glyph of
# unknown meaning instead of an arbitrary character, which is what tells garbage from text.
TEXT_FLAGS: Final = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP

_CLEAN: Final = str.maketrans(
    {
        "\ufb00": "ff",
        "\ufb01": "fi",
        "\ufb02": "fl",
        "\ufb03": "ffi",
        "\ufb04": "ffl",
        "\ufb05": "st",
        "\ufb06": "st",
        "\u00ad": "",  # soft hyphen
        "\u200b": "",  # zero-width space
        "\ufeff": "",  # byte order mark
        **dict.fromkeys("\u1680\u2028\u2029\u202f\u205f\u3000\x85\xa0", " "),
        **dict.fromkeys(map(chr, range(0x2000, 0x200B)), " "),
        # PostgreSQL stores no NUL, and no control character is text.
        **dict.fromkeys((chr(code) for code in range(0x20) if code != ord("\n")), ""),
    }
)
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
_UNREADABLE: Final = re.compile("[\ufffd\x7f-\x9f\ue000-\uf8ff\U000f0000-\U0010ffff]")

_METADATA: Final = {
    "author": "author",
    "subject": "subject",
    "keywords": "keywords",
    "creator": "creator",
    "producer": "producer",
    "creationDate": "created",
    "modDate": "modified",
}


DAMAGE: Final = (RuntimeError, ValueError, pymupdf.mupdf.FzErrorBase, ReadingFailed)
"""What drawing a page raises when its content is broken."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What stands on a page beside its text.

    Attributes:
        any: there are images or drawings.
        image_share: part of the page that images cover, 0 to 1.
    """

    any: bool
    image_share: float


@contextmanager
def opened(path: str) -> Iterator[pymupdf.Document]:
    """The open document.

    Raises:
        EncryptedPdf: it needs a password.
        ReadingFailed: MuPDF cannot make sense of it at all.
    """
    # MuPDF reports every oddity of a file on the process's standard error.
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    damaged = ReadingFailed("The PDF is damaged beyond repair.")
    try:
        document = pymupdf.open(path, filetype="pdf")
    except pymupdf.FileDataError:
        raise damaged from None
    with document:
        if document.needs_pass:
            raise EncryptedPdf("The PDF is protected by a password. Remove the protection and upload it again.")
        try:
            # Raises for a broken page tree, and everything that follows begins with it.
            _ = document.page_count
        except DAMAGE:
            raise damaged from None
        yield document


def inspect(path: str, max_pages: int) -> DocumentInfo:
    """What the file says of itself, after checking that it can be read.

    Raises:
        EmptyFile, NotAPdf, TruncatedPdf, EncryptedPdf, DocumentTooLarge, ReadingFailed: it cannot.
    """
    size = Path(path).stat().st_size
    if size == 0:
        raise EmptyFile("The file is empty.")
    with Path(path).open("rb") as file:
        header = file.read(HEADER_BYTES)
        file.seek(max(0, size - TRAILER_BYTES))
        trailer = file.read()
    # Some programs leave out %%EOF; a file that got as far as its startxref lost nothing.
    has_end = b"%%EOF" in trailer or b"startxref" in trailer
    if b"%PDF-" not in header:
        raise NotAPdf("The file is not a PDF: it does not start with %PDF-.")
    truncated = TruncatedPdf("The PDF ends too early, as after an interrupted download. Upload the complete file.")
    try:
        with opened(path) as document:
            pages = document.page_count
            if pages == 0 or (document.is_repaired and not has_end):
                raise truncated
            if pages > max_pages:
                raise DocumentTooLarge(f"The PDF has {pages:,} pages; the limit is {max_pages:,}.")
            return _info(pages, document.metadata or {})
    except ReadingFailed:
        if has_end:
            raise
        raise truncated from None


def _info(pages: int, metadata: dict[str, str | None]) -> DocumentInfo:
    def value(key: str, longest: int) -> str:
        return clean(" ".join((metadata.get(key) or "").split()))[:longest]

    values = {ours: value(theirs, MAX_METADATA_CHARS) for theirs, ours in _METADATA.items()}
    return DocumentInfo(
        pages, value("title", MAX_TITLE_CHARS), {name: value for name, value in values.items() if value}
    )


def read(document: pymupdf.Document, number: int) -> tuple[Page, Why | None]:
    """One page, and what is wrong with its text layer if it must be recognised optically instead.

    A page that MuPDF cannot read comes back with its `error` set; the others are not affected.

    Args:
        document: from `opened`.
        number: from 1.

    Raises:
        UnknownPage: the document has no such page.
    """
    _check(document, number)
    try:
        source = document[number - 1]
        page = _read(source, number)
        return page, None if page.error else needs_ocr(page, lambda: marks(source))
    # MuPDF's own errors, and those PyMuPDF raises for structures it does not expect, have no common base.
    except Exception as error:  # noqa: BLE001
        return Page(number, 0.0, 0.0, "", Words(), error=f"The page is damaged: {brief(error)}"), None


def _read(source: pymupdf.Page, number: int) -> Page:
    width, height = float(source.rect.width), float(source.rect.height)
    found: list[tuple[float, float, float, float, str, int, int, int]] = source.get_text("words", flags=TEXT_FLAGS)
    if not found:
        return Page(number, width, height, "", Words())
    x0, y0, x1, y1, texts, blocks, lines, _ = zip(*found, strict=True)
    boxes = np.array((x0, y0, x1, y1), dtype=np.float32)
    if source.rotation:
        boxes = _turned(boxes, source.rotation_matrix)
    place = np.array((blocks, lines), dtype=np.int64)
    joined = "\n".join(texts)
    if not joined.isascii():
        # All at once: word by word costs a tenth of the reading. Normalisation does not reach across a newline.
        texts = tuple(map(str.strip, clean(joined).split("\n")))
        if "" in texts:
            kept = np.array([text != "" for text in texts])
            boxes, place = boxes[:, kept], place[:, kept]
            texts = tuple(filter(None, texts))
    text, words = assemble(texts, place[0], place[1], boxes)
    if len(text) > MAX_PAGE_CHARS:
        return Page(number, width, height, "", Words(), error=f"The page has more than {MAX_PAGE_CHARS:,} characters.")
    return Page(number, width, height, text, words)


def assemble(
    texts: Sequence[str], blocks: npt.NDArray[np.int64], lines: npt.NDArray[np.int64], boxes: npt.NDArray[np.float32]
) -> tuple[str, Words]:
    """Join words into a page's text and note where each one went.

    Args:
        texts: the words in reading order, none empty.
        blocks: block number of each word, shape (words,).
        lines: line number of each word, unique within its block, shape (words,).
        boxes: x0, y0, x1, y1 of each word, shape (4, words), points.

    Returns:
        The text (a space between words, a newline between lines, a blank line between blocks) and the words.
    """
    if not texts:
        return "", Words()
    new_block = np.diff(blocks) != 0
    # 0: same line, 1: next line, 2: next block.
    gaps = np.where(new_block, 2, (np.diff(lines) != 0).astype(np.int64))
    between = [(" ", "\n", "\n\n")[gap] for gap in gaps.tolist()]
    text = "".join(itertools.chain.from_iterable(zip(texts, [*between, ""], strict=True)))
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    steps = lengths[:-1] + np.where(gaps == 2, 2, 1)
    records = np.empty(len(texts), dtype=WORD)
    records["start"] = np.concatenate(([0], np.cumsum(steps)))
    records["end"] = records["start"] + lengths
    records["x0"], records["y0"], records["x1"], records["y1"] = boxes
    return text, Words(records.tobytes())


def clean(text: str) -> str:
    """NFC without ligatures, odd spaces, invisible characters, and what no database or encoder takes."""
    return unicodedata.normalize("NFC", _SURROGATES.sub("\ufffd", text.translate(_CLEAN)))


def _turned(boxes: npt.NDArray[np.float32], matrix: Any) -> npt.NDArray[np.float32]:
    """Boxes moved from the unrotated page, where MuPDF finds text, to the page as displayed."""
    x = boxes[0::2] * matrix.a + boxes[1::2] * matrix.c + matrix.e
    y = boxes[0::2] * matrix.b + boxes[1::2] * matrix.d + matrix.f
    return np.stack((x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0))).astype(np.float32)


def marks(source: pymupdf.Page) -> Marks:
    """Look at what is drawn on a page; costs a pass over its content."""
    entries = [(kind, pymupdf.Rect(box)) for kind, box in source.get_bboxlog() if not kind.endswith("-text")]
    sheet = source.rect * source.derotation_matrix
    covered = sum((box & sheet).get_area() for kind, box in entries if "-im" in kind and not (box & sheet).is_empty)
    return Marks(bool(entries), min(1.0, covered / max(1.0, sheet.get_area())))


def needs_ocr(page: Page, marks: Callable[[], Marks]) -> Why | None:
    """Whether a page must be recognised optically, and why.

    Args:
        page: with its text layer.
        marks: called only for pages with little text, so that text pages do not pay for a second pass.

    Returns:
        `absent`: no text, though something is drawn. `garbage`: glyphs without a known meaning. `hidden`: an image
        covers the page and the few words over it are likely a stamp. None: the text will do, or the page is blank.
    """
    if not page.words:
        return "absent" if marks().any else None
    if not page.text.isascii():
        unreadable = len(_UNREADABLE.findall(page.text))
        if unreadable > GARBAGE_SHARE * (len(page.text) - len(page.words) + 1):
            return "garbage"
    if len(page.words) < STAMP_WORDS and marks().image_share >= COVERING_SHARE:
        return "hidden"
    return None


def fit_dpi(width: float, height: float, dpi: int, max_pixels: int) -> int:
    """The resolution, lowered if a page of this size (points) would have more than `max_pixels`; at least 1."""
    inches = max(width / 72, 1e-6) * max(height / 72, 1e-6)
    return max(1, min(dpi, int((max_pixels / inches) ** 0.5)))


def rasterise(source: pymupdf.Page, dpi: int, max_pixels: int, *, grey: bool) -> tuple[npt.NDArray[np.uint8], int]:
    """A page as pixels, as displayed.

    Returns:
        Shape (height, width) if grey, else (height, width, 3); and the resolution used.

    Raises:
        ReadingFailed: even the lowest resolution would be over the limit.
    """
    width, height = float(source.rect.width), float(source.rect.height)
    dpi = fit_dpi(width, height, dpi, max_pixels)
    if width * height * (dpi / 72) ** 2 > max_pixels:
        raise ReadingFailed(f"The page measures {width:,.0f} x {height:,.0f} points, too large to be drawn.")
    pixmap = source.get_pixmap(dpi=dpi, alpha=False, colorspace=pymupdf.csGRAY if grey else pymupdf.csRGB)
    rows = np.frombuffer(pixmap.samples, dtype=np.uint8).reshape(pixmap.height, pixmap.stride)
    channels = 1 if grey else 3
    pixels = rows[:, : pixmap.width * channels]
    return (pixels if grey else pixels.reshape(pixmap.height, pixmap.width, 3)), dpi


def render(path: str, number: int, boxes: Sequence[Box], dpi: int, max_pixels: int) -> bytes:
    """A page as PNG, with translucent highlights.

    Args:
        path: of the PDF.
        number: from 1.
        boxes: what to highlight, points, as displayed.
        dpi: lowered where the page would have more than `max_pixels`.
        max_pixels: bound on the size, checked before drawing.

    Raises:
        UnknownPage, EncryptedPdf, ReadingFailed: there is no such page, or it cannot be drawn.
    """
    with opened(path) as document:
        _check(document, number)
        try:
            pixels, dpi = rasterise(document[number - 1], dpi, max_pixels, grey=False)
        except DAMAGE as error:
            raise ReadingFailed(f"The page is damaged: {brief(error)}") from None
    pixels = pixels.copy()
    scale = dpi / 72
    height, width = pixels.shape[:2]
    for x0, y0, x1, y1 in boxes:
        left, top = (max(0, int((low - HIGHLIGHT_MARGIN) * scale)) for low in (x0, y0))
        right = min(width, int((x1 + HIGHLIGHT_MARGIN) * scale) + 1)
        bottom = min(height, int((y1 + HIGHLIGHT_MARGIN) * scale) + 1)
        area = pixels[top:bottom, left:right]
        # Multiplied like a felt pen's ink: paper takes the colour, print stays as dark as it was.
        np.copyto(area, (area.astype(np.uint16) * np.array(HIGHLIGHT, dtype=np.uint16) // 255).astype(np.uint8))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", compress_level=PNG_LEVEL)
    return out.getvalue()


def _check(document: pymupdf.Document, number: int) -> None:
    if not 1 <= number <= document.page_count:
        raise UnknownPage(f"The document has {document.page_count} pages; there is no page {number}.")


def brief(error: Exception) -> str:
    """The first line of MuPDF's own words: they say what is wrong with the file and hold no paths."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
