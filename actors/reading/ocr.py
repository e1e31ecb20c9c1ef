"""The single wrapper around Tesseract: page images in, pages with word boxes out.

Tesseract is started once for a list of pages, because loading its model costs as much as a third of a page. It runs
with one thread: Ray sets CPUs aside for a task, and a page a core gains more than OpenMP inside Tesseract. Its files
live in a private folder; folders left behind by killed processes are swept by the next one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pytesseract
from PIL import Image
from pytesseract.pytesseract import run_tesseract

from actors.errors import ReadingFailed
from actors.messages import OcrRecord, Page, Words
from actors.reading import pages
from actors.reading.pages import Why

if TYPE_CHECKING:
    import pymupdf

FOLDER_PREFIX: Final = "gatherum-ocr-"
TABLE: Final = "-c tessedit_create_tsv=1"
WORD_LEVEL: Final = "5"
HIDDEN_GAIN: Final = 2  # a covering image must hold this many times the words of the text over it to replace them


@dataclass(frozen=True, slots=True)
class Scan:
    """One page to recognise.

    Attributes:
        number: from 1.
        width: points, as displayed.
        height: points, as displayed.
        why: what is wrong with the page's own text.
        dpi: resolution of the pixels.
        pixels: grey values, shape (height, width).
        milliseconds: spent on drawing it.
    """

    number: int
    width: float
    height: float
    why: Why
    dpi: int
    pixels: npt.NDArray[np.uint8]
    milliseconds: float = 0.0


class _Word(NamedTuple):
    """A word of Tesseract's table: where it belongs, its box in pixels, its confidence from 0 to 100."""

    block: int
    line: tuple[int, int]
    left: int
    top: int
    width: int
    height: int
    confidence: float
    text: str


@cache
def engine() -> str:
    """Program and version, e.g. `tesseract 5.3.0`.

    Raises:
        ReadingFailed: Tesseract is not installed.
    """
    try:
        return f"tesseract {pytesseract.get_tesseract_version()}"
    # pytesseract exits the process over a version it does not understand.
    except (pytesseract.TesseractNotFoundError, SystemExit):
        raise ReadingFailed("Scanned pages cannot be read: the program tesseract is not installed.") from None


@cache
def check_languages(languages: tuple[str, ...]) -> None:
    """Make sure that every language pack is there; Tesseract itself silently goes on with those it finds.

    Raises:
        ReadingFailed: one is missing.
    """
    engine()
    # The folder names scripts as script/Latin; pytesseract lists only plain codes.
    installed = set(pytesseract.get_languages())
    missing = [language for language in languages if language not in installed]
    if missing:
        raise ReadingFailed(
            f"Scanned pages cannot be read: Tesseract has no language pack {', '.join(missing)}. "
            "Install it or change pdf.ocr_languages."
        )


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
        dpi: resolution; lowered for a page that would exceed `max_pixels`.
        max_pixels: largest rendering.
        languages: Tesseract codes.
        timeout_s: budget of the whole call.

    Returns:
        One page for each wanted, in their order. A page that cannot be drawn has its `error` set.

    Raises:
        ReadingFailed: Tesseract or a language pack is missing, it crashed, or it took too long.
    """
    started = perf_counter()
    check_languages(languages)
    done: dict[int, Page] = {}
    scans: list[Scan] = []
    for number, why in wanted:
        drawn = _draw(document, number, why, dpi, max_pixels)
        if isinstance(drawn, Page):
            done[number] = drawn
        else:
            scans.append(drawn)
    left = timeout_s - (perf_counter() - started)
    for page in recognise(scans, languages=languages, timeout_s=left):
        done[page.number] = page
    for number, why in wanted:
        if why == "hidden":
            # The image under a few words may be a scan under a stamp, or the background of a slide.
            own, _ = pages.read(document, number)
            if len(done[number].words) < HIDDEN_GAIN * len(own.words):
                done[number] = own
    return [done[number] for number, _ in wanted]


def _draw(document: pymupdf.Document, number: int, why: Why, dpi: int, max_pixels: int) -> Scan | Page:
    started = perf_counter()
    try:
        source = document[number - 1]
        width, height = float(source.rect.width), float(source.rect.height)
        pixels, dpi = pages.rasterise(source, dpi, max_pixels, grey=True)
    except pages.DAMAGE as error:
        return Page(number, 0.0, 0.0, "", Words(), error=f"The page cannot be drawn: {pages.brief(error)}")
    return Scan(number, width, height, why, dpi, pixels, (perf_counter() - started) * 1000)


def recognise(scans: Sequence[Scan], *, languages: tuple[str, ...], timeout_s: float) -> list[Page]:
    """Run Tesseract once over several pages.

    Raises:
        ReadingFailed: it crashed, or it took longer than `timeout_s`.
    """
    if not scans:
        return []
    if timeout_s <= 0:
        raise ReadingFailed("Drawing the scanned pages took all the time there was.")
    started = perf_counter()
    with _folder() as folder:
        table = _run(folder, scans, languages, timeout_s)
    spent = (perf_counter() - started) * 1000 / len(scans)
    found = parse(table, len(scans))
    return [_page(scan, words, languages, spent) for scan, words in zip(scans, found, strict=True)]


def _run(folder: Path, scans: Sequence[Scan], languages: tuple[str, ...], timeout_s: float) -> str:
    """Tesseract's table of words for all scans."""
    names = []
    for index, scan in enumerate(scans):
        name = folder / f"{index}.tif"
        # Uncompressed TIFF: Tesseract reads the resolution from it, and neither side spends time on compression.
        Image.fromarray(scan.pixels).save(name, dpi=(scan.dpi, scan.dpi))
        names.append(f"{name}\n")
    listing = folder / "pages.txt"
    listing.write_text("".join(names), encoding="utf-8")
    # pytesseract hands its own environment down, and has no parameter for it.
    os.environ["OMP_THREAD_LIMIT"] = "1"
    output = folder / "words"
    try:
        # Not image_to_data(): it runs the same command, but leaves its output in the shared temporary folder.
        run_tesseract(str(listing), str(output), "tsv", "+".join(languages), TABLE, timeout=timeout_s)
        return output.with_suffix(".tsv").read_text(encoding="utf-8")
    except pytesseract.TesseractError as error:
        raise ReadingFailed(f"Tesseract failed with status {error.status}.") from None
    except RuntimeError:
        raise ReadingFailed(f"Optical recognition took longer than {timeout_s:.0f} s.") from None
    except OSError:
        raise ReadingFailed("Tesseract wrote no output.") from None


def parse(table: str, count: int) -> list[list[_Word]]:
    """Tesseract's TSV as the words of each of `count` pages, in reading order.

    Columns: level, page_num, block_num, par_num, line_num, word_num, left, top, width, height, conf, text. Pages of a
    list file are numbered from 1 in its order; a page without words has a row of level 1 only. The text is not quoted.
    """
    found: list[list[_Word]] = [[] for _ in range(count)]
    for row in table.split("\n"):
        cells = row.split("\t")
        if cells[0] != WORD_LEVEL or len(cells) != 12:
            continue
        text = pages.clean(cells[11]).strip()
        page, block, paragraph, line = (int(cell) for cell in cells[1:5])
        if text and 1 <= page <= count:
            left, top, width, height = (int(cell) for cell in cells[6:10])
            found[page - 1].append(_Word(block, (paragraph, line), left, top, width, height, float(cells[10]), text))
    return found


def _page(scan: Scan, found: Sequence[_Word], languages: tuple[str, ...], milliseconds: float) -> Page:
    lines: dict[Any, int] = {}
    # A paragraph is what a block is in a text layer: the thing set off by blank lines.
    blocks = np.array([lines.setdefault((word.block, word.line[0]), len(lines)) for word in found], dtype=np.int64)
    line = np.array([word.line[1] for word in found], dtype=np.int64)
    scale = 72 / scan.dpi
    boxes = np.array([(w.left, w.top, w.left + w.width, w.top + w.height) for w in found], dtype=np.float32).reshape(
        -1, 4
    ).T * np.float32(scale)
    text, words = pages.assemble([word.text for word in found], blocks, line, boxes)
    confidence = sum(word.confidence for word in found) / len(found) if found else 0.0
    record = OcrRecord(
        scan.why, engine(), scan.dpi, languages, round(confidence, 1), round(scan.milliseconds + milliseconds, 1)
    )
    return Page(scan.number, scan.width, scan.height, text, words, ocr=record)


@contextmanager
def _folder() -> Iterator[Path]:
    """A private folder, named after this process so that others can tell when it is orphaned."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-") as name:
        yield Path(name)


def _sweep(parent: Path) -> None:
    """Remove the folders of processes that were killed before they could tidy up."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
