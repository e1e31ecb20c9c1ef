"""Reads and renders pages with PyMuPDF, the only module that opens a PDF.

What is wrong with a page's text is decided by `triage`; here lies only the look at its pixels. PyMuPDF is not
thread-safe: one call at a time in a process.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from actors.errors import DocumentTooLarge, EmptyFile, EncryptedPdf, NotAPdf, ReadingFailed, TruncatedPdf, UnknownPage
from actors.messages import Box, DocumentInfo, Page, Words
from actors.reading import scans, structure, triage
from actors.reading.layout import arrange
from actors.reading.mupdf import pymupdf
from actors.reading.text import assemble, clean
from actors.reading.triage import Picture, Why

HEADER_BYTES: Final = 1024  # readers accept junk of this length before %PDF-
TRAILER_BYTES: Final = 4096
MAX_PAGE_CHARS: Final = 2_000_000  # a page of prose has 3,000; beyond this lies a decompression bomb
MAX_TITLE_CHARS: Final = 500
MAX_METADATA_CHARS: Final = 2000
LOOK_DPI: Final = 100  # print of 8 points has small letters of 6 pixels then
LOOK_PIXELS: Final = 6_000_000
HIGHLIGHT: Final = (255, 224, 64)
HIGHLIGHT_MARGIN: Final = 1.0  # points
PNG_LEVEL: Final = 3  # of 9: beyond it a page gets hardly smaller and twice as slow

# Without the flag for ligatures MuPDF expands those it knows; without the one for CIDs it writes U+FFFD for a glyph of
# unknown meaning instead of an arbitrary character, which is what tells garbage from text.
TEXT_FLAGS: Final = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP


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
    try:
        with document:
            if document.needs_pass:
                raise EncryptedPdf("The PDF is protected by a password. Remove the protection and upload it again.")
            try:
                # Raises for a broken page tree, and everything that follows begins with it.
                _ = document.page_count
            except DAMAGE:
                raise damaged from None
            yield document
    finally:
        # MuPDF keeps the fonts and images of documents that are closed, up to 256 MB of them. Over 4,000 pages a
        # process grew from 115 to 158 MB; emptied each time it stays at 117 MB, and all that costs 20 ms.
        pymupdf.TOOLS.store_shrink(100)


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
            return _info(document, pages)
    except ReadingFailed:
        if has_end:
            raise
        raise truncated from None


def _info(document: pymupdf.Document, pages: int) -> DocumentInfo:
    metadata: dict[str, str | None] = document.metadata or {}

    def value(key: str, longest: int) -> str:
        return clean(" ".join((metadata.get(key) or "").split()))[:longest]

    values = {ours: value(theirs, MAX_METADATA_CHARS) for theirs, ours in _METADATA.items()}
    return DocumentInfo(
        pages,
        value("title", MAX_TITLE_CHARS),
        {name: value for name, value in values.items() if value},
        structure.outline(document),
        structure.labels(document),
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
        page = _read(document, source, number)
        if page.error:
            return page, None
        why = triage.judge(page, lambda: triage.marks(source))
        if why is None and page.words and silent_pictures(source, page):
            why = "mixed"
    # MuPDF's own errors, and those PyMuPDF raises for structures it does not expect, have no common base.
    except Exception as error:  # noqa: BLE001
        return Page(number, 0.0, 0.0, "", Words(), error=f"The page is damaged: {brief(error)}"), None
    else:
        return page, why


def text_of(document: pymupdf.Document, number: int) -> Page:
    """One page as its text layer has it, good or not; with its `error` set where it is damaged. As `read` otherwise."""
    _check(document, number)
    try:
        return _read(document, document[number - 1], number)
    except Exception as error:  # noqa: BLE001 -- as in `read`
        return Page(number, 0.0, 0.0, "", Words(), error=f"The page is damaged: {brief(error)}")


def _read(document: pymupdf.Document, source: pymupdf.Page, number: int) -> Page:
    sheet = source.rect
    width, height = float(sheet.width), float(sheet.height)
    label = structure.label(document, source)
    found: list[tuple[float, float, float, float, str, int, int, int]] = source.get_text("words", flags=TEXT_FLAGS)
    if not found:
        return Page(number, width, height, "", Words(), label=label)
    x0, y0, x1, y1, texts, blocks, lines, _ = zip(*found, strict=True)
    boxes = np.array((x0, y0, x1, y1), dtype=np.float32)
    if source.rotation:
        boxes = _turned(boxes, source.rotation_matrix)
    place = np.array((blocks, lines), dtype=np.int64)
    joined = "\n".join(texts)
    if not joined.isascii():
        # A soft hyphen is seen at the end of a line only, and some fonts have it for every hyphen.
        joined = joined.replace("\u00ad\n", "-\n")
        # All at once: word by word costs a tenth of the reading. Normalisation does not reach across a newline.
        cleaned = clean(joined)
        if cleaned != "\n".join(texts):
            texts = tuple(map(str.strip, cleaned.split("\n")))
        if "" in texts:
            kept = np.array([text != "" for text in texts])
            boxes, place = boxes[:, kept], place[:, kept]
            texts = tuple(filter(None, texts))
            if not texts:
                return Page(number, width, height, "", Words(), label=label)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    arranged = arrange(boxes, place[0], place[1], lengths)
    if arranged.order is not None:
        texts = tuple(texts[index] for index in arranged.order.tolist())
        boxes = boxes[:, arranged.order]
    text, words = assemble(texts, arranged.blocks, arranged.lines, boxes)
    if len(text) > MAX_PAGE_CHARS:
        return Page(number, width, height, "", Words(), error=f"The page has more than {MAX_PAGE_CHARS:,} characters.")
    return Page(number, width, height, text, words, label=label)


def _turned(boxes: npt.NDArray[np.float32], matrix: Any) -> npt.NDArray[np.float32]:
    """Boxes moved from the unrotated page, where MuPDF finds text, to the page as displayed."""
    x = boxes[0::2] * matrix.a + boxes[1::2] * matrix.c + matrix.e
    y = boxes[0::2] * matrix.b + boxes[1::2] * matrix.d + matrix.f
    return np.stack((x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0))).astype(np.float32)


def silent_pictures(source: pymupdf.Page, page: Page) -> tuple[Picture, ...]:
    """The pictures on a page that look like text and have none of the page's own over them.

    Text pages pay only for a look at the list of their images, unless one is large enough to be looked at.
    """
    if not triage.may_hold_text(source):
        return ()
    candidates = triage.silent(page, triage.pictures(source))
    if not candidates:
        return ()
    pixels, dpi = rasterise(source, LOOK_DPI, LOOK_PIXELS, grey=True)
    return tuple(picture for picture in candidates if scans.written(cut(pixels, picture.box, dpi)))


def cut(pixels: npt.NDArray[np.uint8], box: Box, dpi: float) -> npt.NDArray[np.uint8]:
    """The part of a drawn page that holds a box in points, to the next whole pixel."""
    scale = dpi / 72
    x0, y0, x1, y1 = box
    return pixels[max(0, int(y0 * scale)) : ceil(y1 * scale), max(0, int(x0 * scale)) : ceil(x1 * scale)]


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
