"""Reads pages optically: draws them, sets them upright, has Tesseract recognise them, and puts the words in place.

Where a page has text of its own that can be used, what is recognised only adds to it. Which way is up is not asked of
every page, for Tesseract's own answer takes as long as half a page: lines that run up and down show in the pixels, and
a page that stands on its head shows in the result, so only a poor one is turned and tried again, a quarter of it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np

from actors.errors import ReadingFailed
from actors.messages import OcrRecord, Page, Words
from actors.reading import damage, merging, pages, scans, tesseract, triage
from actors.reading.scans import Bitmap, Placement
from actors.reading.tesseract import Word
from actors.reading.text import assemble, gaps
from actors.reading.triage import COVERING_SHARE, Why

if TYPE_CHECKING:
    import pymupdf

POOR: Final = 70.0  # mean confidence; pages on their head have 30 to 55, upright ones that can be read 80 to 96
SURE: Final = 70.0  # confidence of a word that counts for the way a page is turned
BETTER: Final = 1.5  # times as many sure letters as in the likelier way, or that one stands
WORTH_ADDING: Final = 60.0  # confidence of a word that is put among a page's own text
MIN_DPI: Final = 72
LEAST_DPI: Final = 24
"""Below this, print of 12 points is 4 pixels high, and what is found is noise. The largest page that PDF programs make
(14,400 points square) is drawn at 31 dpi by default, and its large letters can be read."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What is to be recognised: a page, or a picture on one.

    Attributes:
        number: of the page, from 1.
        width: of the page, points, as displayed.
        height: of the page, points, as displayed.
        why: what is wrong with the page's own text.
        dpi: resolution of the bitmap.
        bitmap: as drawn.
        milliseconds: spent on drawing it.
    """

    number: int
    width: float
    height: float
    why: Why
    dpi: int
    bitmap: Bitmap
    milliseconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Recognised:
    """A scan, read.

    Attributes:
        scan: as drawn.
        bitmap: as recognised.
        words: in reading order; their boxes are in the bitmap's pixels.
    """

    scan: Scan
    bitmap: Bitmap
    words: Sequence[Word]

    @property
    def dpi(self) -> int:
        """Resolution of the bitmap."""
        where = self.bitmap.placement
        return max(1, round(72 / float(np.hypot(where.a, where.b))))


def read(
    document: pymupdf.Document,
    wanted: Sequence[tuple[int, Why]],
    *,
    dpi: int,
    max_pixels: int,
    languages: tuple[str, ...],
    timeout_s: float,
) -> list[Page]:
    """Read pages optically.

    Args:
        document: an open document.
        wanted: page numbers from 1, each with what is wrong with its text layer.
        dpi: highest resolution; a scan that is coarser is drawn as fine as it is, and a page that would exceed
            `max_pixels` is drawn coarser.
        max_pixels: largest rendering.
        languages: Tesseract codes.
        timeout_s: budget of the whole call.

    Returns:
        One page for each wanted, in their order. A page that cannot be drawn, or only too coarsely to be recognised, or
        not whole and without a word on what was, has its `error` set; one that is not whole and has words, its
        `warning`.

    Raises:
        ReadingFailed: Tesseract or a language pack is missing, it crashed, or it took too long.
    """
    started = perf_counter()
    tesseract.check_languages(languages)
    done: dict[int, Page] = {}
    own: dict[int, Page] = {}
    lost: dict[int, str] = {}
    scanned: list[Scan] = []
    for number, why in wanted:
        try:
            own[number], _ = pages.read(document, number, pictures=False)
            drawn = _draw(document[number - 1], own[number], why, dpi, max_pixels)
            lost[number] = damage.lost(damage.said())
        except pages.DAMAGE as error:
            said = f"The page cannot be drawn: {pages.brief(error)}"
            done[number] = Page(number, 0.0, 0.0, "", Words(), ocr=_record(why, (), languages), error=said)
        else:
            scanned += drawn
    left = timeout_s - (perf_counter() - started)
    before = perf_counter()
    found = recognise(scanned, languages=languages, timeout_s=left)
    spent = (perf_counter() - before) * 1000 / max(1, len(found))
    for number, why in wanted:
        parts = [part for part in found if part.scan.number == number]
        if number not in done:
            page = _joined(own[number], why, parts, _record(why, parts, languages, spent))
            # A picture that cannot be decoded is drawn black, and nothing is found on it.
            if lost[number] and not page.words:
                page = replace(page, error=f"The page is damaged: {lost[number]}")
            elif lost[number]:
                page = replace(page, warning=f"Part of the page was lost: {lost[number]}")
            done[number] = page
    return [done[number] for number, _ in wanted]


def _draw(source: pymupdf.Page, own: Page, why: Why, dpi: int, max_pixels: int) -> list[Scan]:
    """The page, or its pictures if only they lack text, as finely as their own pixels lie and no finer than `dpi`.

    Raises:
        ReadingFailed: the page is too large to be drawn, or to be drawn so that it can be recognised.
    """
    started = perf_counter()
    width, height = float(source.rect.width), float(source.rect.height)
    finest = dpi
    if why == "mixed":
        found = tuple(pages.silent_pictures(source, own))
    else:
        found = tuple(
            picture for picture in triage.pictures(source) if _area(picture.box) >= COVERING_SHARE * width * height
        )
    if found:
        # Drawn at the resolution of the image a page costs 4 to 7 ms, and is right for masks, flips, and all that the
        # image alone does not say; only more pixels than it has would cost.
        finest = round(max(picture.dpi for picture in found))
        dpi = max(MIN_DPI, min(dpi, finest))
    possible = pages.fit_dpi(width, height, dpi, max_pixels)
    if possible < min(LEAST_DPI, finest):
        if own.words and why in ("garbage", "mixed"):
            return []
        raise ReadingFailed(
            f"The page measures {width:,.0f} x {height:,.0f} points, too large to be drawn finer than {possible} dpi; "
            f"text can be recognised from {LEAST_DPI} dpi on."
        )
    pixels, dpi = pages.rasterise(source, dpi, max_pixels, grey=True)
    boxes = [picture.box for picture in found] if why == "mixed" else [(0.0, 0.0, width, height)]
    scale = 72 / dpi
    parts = []
    for box in boxes:
        part = np.ascontiguousarray(pages.cut(pixels, box, dpi))
        left, top = int(box[0] / scale), int(box[1] / scale)
        place = Placement(scale, 0, 0, scale, left * scale, top * scale)
        if part.size:
            parts.append(Scan(own.number, width, height, why, dpi, Bitmap(scans.dark_on_light(part), place)))
    milliseconds = (perf_counter() - started) * 1000 / max(1, len(parts))
    return [replace(part, milliseconds=milliseconds) for part in parts]


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def recognise(scanned: Sequence[Scan], *, languages: tuple[str, ...], timeout_s: float) -> list[Recognised]:
    """Recognise scans together, whichever way they are turned.

    Raises:
        ReadingFailed: Tesseract crashed, or all of it took longer than `timeout_s`.
    """
    ends = perf_counter() + timeout_s

    def run(bitmaps: Iterable[Bitmap]) -> list[list[Word]]:
        return tesseract.recognise([bitmap.pixels for bitmap in bitmaps], languages, ends - perf_counter())

    def turn(index: int, ways: Sequence[int], bonus: float) -> Bitmap:
        """A scan in the way that gives most sure letters; the first way has so many times as many as it gives."""
        tries = [fit(index, way) for way in ways]
        sure = [_sure_letters(words) for words in run(map(scans.excerpt, tries))]
        return tries[int(np.argmax([sure[0] * bonus, *sure[1:]]))]

    def fit(index: int, way: int) -> Bitmap:
        scan = scanned[index]
        return scans.fitted(scans.turned(scan.bitmap, way), scan.dpi)

    fitted = [
        # Tesseract reads some columns of lines that run up or down by itself, but not all of them.
        turn(index, (0, 90, 270), 1 / BETTER) if _lies(scan) else fit(index, 0)
        for index, scan in enumerate(scanned)
    ]
    words = run(fitted)
    again = []
    for index, found in enumerate(words):
        if found and _confidence(found) < POOR:
            way = fitted[index].rotation
            fitted[index] = turn(index, (way, way + 180), BETTER)
            if fitted[index].rotation != way:
                again.append(index)
    for index, found in zip(again, run(fitted[index] for index in again), strict=True):
        words[index] = found
    return [Recognised(*each) for each in zip(scanned, fitted, words, strict=True)]


def _lies(scan: Scan) -> bool:
    return scans.sideways(scans.ink(scans.small(scan.bitmap.pixels)))


def _sure_letters(words: Sequence[Word]) -> int:
    return sum(len(word.text) for word in words if word.confidence >= SURE)


def _confidence(words: Sequence[Word]) -> float:
    return sum(word.confidence for word in words) / len(words) if words else 0.0


def _record(why: Why, parts: Sequence[Recognised], languages: tuple[str, ...], milliseconds: float = 0.0) -> OcrRecord:
    """What was done about a page, nothing of which is used so far.

    Args:
        why: what is wrong with its own text.
        parts: of it that were recognised.
        languages: Tesseract codes.
        milliseconds: spent on recognising each part.
    """
    words = [word for part in parts for word in part.words]
    return OcrRecord(
        why,
        tesseract.engine(),
        parts[0].dpi if parts else 0,
        languages,
        round(_confidence(words), 1),
        round(sum(part.scan.milliseconds + milliseconds for part in parts), 1),
        parts[0].bitmap.rotation if parts else 0,
        parts[0].bitmap.skew if parts else 0.0,
        used=False,
    )


def _joined(own: Page, why: Why, parts: Sequence[Recognised], record: OcrRecord) -> Page:
    """The page from what was recognised on it and, where that is of use, its own text."""
    adding = why in ("hidden", "mixed")
    blocks: list[merging.Block] = []
    for part in parts:
        blocks += _blocks(part, own, least=WORTH_ADDING if adding else 0.0, beside=own.words if adding else Words())
    if not blocks or (why == "garbage" and not _reads_better(own, blocks, record.confidence)):
        return replace(own, ocr=record)
    text, words = merging.join(merging.merge(merging.blocks(own.text, own.words) if adding else [], blocks))
    return replace(own, text=text, words=words, ocr=replace(record, used=True))


def _reads_better(own: Page, blocks: Sequence[merging.Block], confidence: float) -> bool:
    """Whether what was recognised is to be believed more than text that seemed garbage."""
    text, _ = merging.join(blocks)
    ours, theirs = triage.familiarity(own.text) or 0.0, triage.familiarity(text)
    # Text that was never language, such as a key in base64, is not to be replaced by a guess at it.
    return confidence >= POOR and (theirs is None or theirs > ours) and triage.plausible(text)


def _blocks(part: Recognised, page: Page, *, least: float, beside: Words) -> list[merging.Block]:
    """What was recognised, by paragraphs, without words that are unsure or lie over words that are there already."""
    words = [word for word in part.words if word.confidence >= least]
    if not words:
        return []
    pixels = np.array([word.box for word in words], dtype=np.float64).T
    boxes = part.bitmap.placement.boxes(pixels)
    # A levelled page is larger than what was drawn, and a box may reach past the edge by a rounding.
    boxes = np.clip(boxes, 0.0, np.array([page.width, page.height, page.width, page.height])[:, None])
    if beside:
        kept = ~merging.covered(beside, boxes)
        words, boxes = [word for word, keep in zip(words, kept, strict=True) if keep], boxes[:, kept]
        if not words:
            return []
    # A paragraph is what a block is in a text layer: the thing set off by blank lines.
    numbers: dict[tuple[int, int], int] = {}
    places = [numbers.setdefault((word.block, word.paragraph), len(numbers)) for word in words]
    lines = np.array([word.line for word in words], dtype=np.int64)
    text, packed = assemble([w.text for w in words], gaps(np.array(places), lines), boxes.astype(np.float32))
    return merging.blocks(text, packed)
