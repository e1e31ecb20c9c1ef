"""Reads and renders pages with PyMuPDF, the only module that opens a PDF.

What is wrong with a page's text is decided by `triage`; here lies only the look at its pixels. PyMuPDF is not
thread-safe: one call at a time in a process.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from actors.errors import DocumentTooLarge, EmptyFile, EncryptedPdf, NotAPdf, ReadingFailed, TruncatedPdf, UnknownPage
from actors.messages import Box, DocumentInfo, Page, Words
from actors.reading import damage, photographs, scans, structure, textlayer, triage
from actors.reading.mupdf import pymupdf
from actors.reading.text import clean
from actors.reading.triage import Picture, Why

HEADER_BYTES: Final = 1024  # readers accept junk of this length before %PDF-
TRAILER_BYTES: Final = 4096
MAX_PAGE_CHARS: Final = 2_000_000  # a page of prose has 3,000; beyond this lies a decompression bomb
MAX_TITLE_CHARS: Final = 500
MAX_METADATA_CHARS: Final = 2000
WORDS_AHEAD: Final = 10_000  # of pages that are drafted and not finished: forty of prose, 8 MB
LOOK_DPI: Final = 100  # print of 8 points has small letters of 6 pixels then
LOOK_PIXELS: Final = 6_000_000
HIGHLIGHT: Final = (255, 224, 64)
HIGHLIGHT_MARGIN: Final = 1.0  # points
PNG_LEVEL: Final = 3  # of 9: beyond it a page gets hardly smaller and twice as slow

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


class _Document(pymupdf.Document):
    """A document that looks up its metadata and table of contents when they are asked for; most tasks never do."""

    def init_doc(self) -> None:
        # PyMuPDF calls it for every document that is opened, which takes 0.1 ms, and again before it uses either.
        if hasattr(self, "this_is_pdf"):
            super().init_doc()  # type: ignore[no-untyped-call]


@contextmanager
def opened(path: str, *, coloured: bool = False) -> Iterator[pymupdf.Document]:
    """The open document.

    Args:
        path: of the PDF.
        coloured: whether its colours are wanted as its colour profiles have them.

    Raises:
        EncryptedPdf: it needs a password.
        ReadingFailed: MuPDF cannot make sense of it at all.
    """
    # MuPDF reports every oddity of a file on the process's standard error.
    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    # MuPDF converts the colour of every letter, also where only text is wanted; with profiles that takes a quarter of
    # the time of reading and half of that of drawing.
    pymupdf.TOOLS.set_icc(coloured)
    damaged = ReadingFailed("The PDF is damaged beyond repair.")
    try:
        document = _Document(path, filetype="pdf")  # type: ignore[no-untyped-call]
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
        damage.forget()


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


def title(document: pymupdf.Document) -> str:
    """What a document calls itself; empty if it does not."""
    document.init_doc()
    return _said(document, "title", MAX_TITLE_CHARS)


def _said(document: pymupdf.Document, key: str, longest: int) -> str:
    metadata: dict[str, str | None] = document.metadata or {}
    return clean(" ".join((metadata.get(key) or "").split()))[:longest]


def _info(document: pymupdf.Document, pages: int) -> DocumentInfo:
    called = title(document)
    values = {ours: _said(document, theirs, MAX_METADATA_CHARS) for theirs, ours in _METADATA.items()}
    return DocumentInfo(
        pages,
        called,
        {name: value for name, value in values.items() if value},
        structure.outline(document),
        structure.labels(document),
    )


@dataclass(frozen=True, slots=True)
class Draft:
    """A page as MuPDF gives it, before a text is made of its words.

    Attributes:
        source: the page of the document.
        number: from 1.
        width: points, as displayed.
        height: points.
        label: what the document calls it.
        layer: its words; None if it has none.
        said: by MuPDF, of what it could not make sense of.
    """

    source: pymupdf.Page
    number: int
    width: float
    height: float
    label: str
    layer: textlayer.Layer | None
    said: tuple[str, ...]


def read(document: pymupdf.Document, number: int, *, pictures: bool = True) -> tuple[Page, Why | None]:
    """One page, and what is wrong with its text layer if it must be recognised optically instead.

    A page that MuPDF cannot read comes back with its `error` set; the others are not affected.

    Args:
        document: from `opened`.
        number: from 1.
        pictures: whether pictures beside good text are looked at: slow, and the only way to find a page `mixed`.

    Raises:
        UnknownPage: the document has no such page.
    """
    return _finished(document, _drafted(document, number), None, pictures)


def _unclocked(number: int) -> AbstractContextManager[None]:
    return nullcontext()


def read_all(
    document: pymupdf.Document,
    numbers: Iterable[int],
    clock: Callable[[int], AbstractContextManager[None]] = _unclocked,
    *,
    pictures: bool = True,
) -> Iterator[tuple[Page, Why | None]]:
    """Pages in the order wanted, each as `read` gives it, in less time; `textlayer` says why.

    Args:
        document: from `opened`.
        numbers: from 1.
        clock: of the page of a number; entered as it is drafted and as it is finished, and for what is done for many
            pages at once by the last of them.
        pictures: as for `read`.

    Raises:
        UnknownPage: the document has no such page.
    """
    drafts: list[Draft | Page] = []
    words = 0
    for number in numbers:
        with clock(number):
            draft = _drafted(document, number)
        drafts.append(draft)
        words += len(draft.layer.texts) if isinstance(draft, Draft) and draft.layer else 0
        if words >= WORDS_AHEAD:
            yield from _all_finished(document, drafts, clock, pictures)
            drafts, words = [], 0
    yield from _all_finished(document, drafts, clock, pictures)


def _all_finished(
    document: pymupdf.Document,
    drafts: Sequence[Draft | Page],
    clock: Callable[[int], AbstractContextManager[None]],
    pictures: bool,
) -> Iterator[tuple[Page, Why | None]]:
    composed = _composed([draft for draft in drafts if isinstance(draft, Draft)], clock)
    for draft in drafts:
        with clock(draft.number):
            finished = _finished(document, draft, composed.get(draft.number), pictures)
        yield finished


def _composed(
    drafts: Sequence[Draft], clock: Callable[[int], AbstractContextManager[None]]
) -> dict[int, tuple[str, Words]]:
    """Text and words of the pages that have any, by number; without those that must be looked at alone.

    What is done for many pages at once is linear in their words, which are few but on the last of them.
    """
    found: dict[int, tuple[str, Words]] = {}
    if not drafts:
        return found
    try:
        with clock(drafts[-1].number):
            upright = [(draft, draft.layer) for draft in drafts if draft.layer and not draft.source.rotation]
            if not upright:
                return found
            doubts = textlayer.doubtful([layer for _, layer in upright])
            plain = [pair for pair, doubt in zip(upright, doubts, strict=True) if not doubt]
            texts = textlayer.compose_all([layer for _, layer in plain])
            found.update((draft.number, text) for (draft, _), text in zip(plain, texts, strict=True))
    # Whichever page it is of: each is composed alone, and says it of itself.
    except Exception:  # noqa: BLE001
        found.clear()
    return found


def _drafted(document: pymupdf.Document, number: int) -> Draft | Page:
    """The draft of a page, or the page with its error where there is nothing to make of it."""
    _check(document, number)
    damage.forget()
    try:
        source = document.load_page(number - 1)
        sheet = source.rect
        label = structure.label(document, number - 1)
        layer = textlayer.extract(source)
        return Draft(source, number, float(sheet.width), float(sheet.height), label, layer, damage.said())
    # MuPDF's own errors, and those PyMuPDF raises for structures it does not expect, have no common base.
    except Exception as error:  # noqa: BLE001
        return _damaged(number, error)


def _finished(
    document: pymupdf.Document, draft: Draft | Page, composed: tuple[str, Words] | None, pictures: bool
) -> tuple[Page, Why | None]:
    """The page of a draft; `composed` of its words, or else made of them here."""
    if isinstance(draft, Page):
        return draft, None
    source = draft.source
    try:
        if composed is None:
            composed = textlayer.compose(source, draft.layer) if draft.layer else ("", Words())
        text, words = composed
        error = None
        if len(text) > MAX_PAGE_CHARS:
            text, words, error = "", Words(), f"The page has more than {MAX_PAGE_CHARS:,} characters."
        page = Page(draft.number, draft.width, draft.height, text, words, error=error, label=draft.label)
        if error:
            return page, None
        # Looked for once: each time is a pass over the page.
        placed = cache(lambda: triage.pictures(source))
        why = triage.judge(page, lambda: triage.marked(source), lambda: triage.covered(source, placed()))
        if why is None and not words and (lost := damage.lost_content(document, source, draft.said)):
            page = replace(page, error=f"The page is damaged: {lost}")
        elif words and draft.said and (lost := damage.lost(draft.said)):
            page = replace(page, warning=f"Part of the page was lost: {lost}")
        if pictures and why is None and words and any(silent_pictures(source, page, placed)):
            why = "mixed"
    except Exception as error:  # noqa: BLE001 -- as above
        return _damaged(draft.number, error), None
    else:
        return page, why


def _damaged(number: int, error: Exception) -> Page:
    return Page(number, 0.0, 0.0, "", Words(), error=f"The page is damaged: {brief(error)}")


def silent_pictures(
    source: pymupdf.Page, page: Page, placed: Callable[[], tuple[Picture, ...]] | None = None
) -> Iterator[Picture]:
    """The pictures on a page that look like text and have none of the page's own over them.

    Args:
        source: the page.
        page: what was read of it.
        placed: its pictures, where they are known.

    Text pages pay only for a look at the list of their images, unless one is large enough to be looked at.
    """
    if not triage.may_hold_text(source):
        return
    pictures = placed() if placed else triage.pictures(source)
    for picture in triage.silent(page, pictures):
        alone = sum(triage.meet(picture, other) for other in pictures) == 1
        if alone and photographs.is_photograph(picture, LOOK_DPI):
            continue
        pixels, _ = rasterise(source, LOOK_DPI, LOOK_PIXELS, grey=True, box=picture.box)
        if scans.written(pixels):
            yield picture


def cut(pixels: npt.NDArray[np.uint8], box: Box, dpi: float) -> npt.NDArray[np.uint8]:
    """The part of a drawn page that holds a box in points, to the next whole pixel."""
    scale = dpi / 72
    x0, y0, x1, y1 = box
    return pixels[max(0, int(y0 * scale)) : ceil(y1 * scale), max(0, int(x0 * scale)) : ceil(x1 * scale)]


def fit_dpi(width: float, height: float, dpi: int, max_pixels: int) -> int:
    """The resolution, lowered if a page of this size (points) would have more than `max_pixels`; at least 1."""
    inches = max(width / 72, 1e-6) * max(height / 72, 1e-6)
    return max(1, min(dpi, int((max_pixels / inches) ** 0.5)))


def rasterise(
    source: pymupdf.Page, dpi: int, max_pixels: int, *, grey: bool, box: Box | None = None
) -> tuple[npt.NDArray[np.uint8], int]:
    """A page as pixels, as displayed.

    Args:
        source: the page.
        dpi: lowered if the whole page would have more than `max_pixels`.
        max_pixels: see there.
        grey: or in colour.
        box: the part of it to draw, points; None for all of it.

    Returns:
        Shape (height, width) if grey, else (height, width, 3); and the resolution used.

    Raises:
        ReadingFailed: even the lowest resolution would be over the limit.
    """
    width, height = float(source.rect.width), float(source.rect.height)
    dpi = fit_dpi(width, height, dpi, max_pixels)
    if width * height * (dpi / 72) ** 2 > max_pixels:
        raise ReadingFailed(f"The page measures {width:,.0f} x {height:,.0f} points, too large to be drawn.")
    pixmap = source.get_pixmap(dpi=dpi, alpha=False, colorspace=pymupdf.csGRAY if grey else pymupdf.csRGB, clip=box)
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
    with opened(path, coloured=True) as document:
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
    return damage.told(str(error) or type(error).__name__)
