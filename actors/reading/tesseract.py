"""The single wrapper around the program Tesseract: bitmaps in, words with their boxes in pixels out.

It is started once for a list of bitmaps, because loading its model costs a tenth of a page, and with one thread: Ray
sets CPUs aside for a task, and a page a core gains more than OpenMP inside Tesseract. Bitmaps are handed over as plain
PGM in shared memory where the system has it, so nobody encodes, decodes or writes to a disk. Folders left behind by
killed processes are swept by the next one.
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
from typing import Final

import pytesseract
from pytesseract.pytesseract import run_tesseract

from actors.errors import ReadingFailed
from actors.reading.scans import Pixels
from actors.reading.text import clean

FOLDER_PREFIX: Final = "gatherum-ocr-"
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 -- the folder made in it is private
# Measured over 29 book pages. Trying each poor line once more with its colours exchanged: 2 % of the time for nothing;
# text on a dark ground is exchanged before it comes here. The dictionaries: with and without them the same text in
# the same time, as the network's models hardly use them, so they stay. One resolution for all, because bitmaps are
# scaled to one height of letters: left to guess it, Tesseract takes 2 % longer.
OPTIONS: Final = "--dpi 200 -c tessedit_do_invert=0 -c tessedit_create_tsv=1"
WORD_LEVEL: Final = "5"


@dataclass(frozen=True, slots=True)
class Word:
    """A word of Tesseract's table.

    Attributes:
        block: number of its block on the page.
        paragraph: in the block.
        line: in the paragraph.
        box: x0, y0, x1, y1, pixels.
        confidence: 0 to 100.
        text: not empty.
    """

    block: int
    paragraph: int
    line: int
    box: tuple[int, int, int, int]
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
        raise ReadingFailed(
            "Scanned pages cannot be read: the program tesseract is not installed (Debian: tesseract-ocr)."
        ) from None


@cache
def check_languages(languages: tuple[str, ...]) -> None:
    """Make sure that every language pack is there; Tesseract itself silently goes on with those it finds.

    Raises:
        ReadingFailed: Tesseract or a pack is missing; the message says what to install.
    """
    engine()
    # The folder names scripts as script/Latin; pytesseract lists only plain codes.
    installed = set(pytesseract.get_languages())
    missing = [language for language in languages if language not in installed]
    if missing:
        packages = " ".join(f"tesseract-ocr-{language.replace('_', '-')}" for language in missing)
        raise ReadingFailed(
            f"Scanned pages cannot be read: Tesseract has no language pack {', '.join(missing)}. "
            f"Install it (Debian: {packages}) or change pdf.ocr_languages."
        )


def recognise(bitmaps: Sequence[Pixels], languages: tuple[str, ...], timeout_s: float) -> list[list[Word]]:
    """The words of each bitmap, in reading order.

    Args:
        bitmaps: grey values, each of shape (height, width).
        languages: Tesseract codes.
        timeout_s: budget of the whole call.

    Raises:
        ReadingFailed: Tesseract crashed, or it took longer than `timeout_s`.
    """
    if not bitmaps:
        return []
    if timeout_s <= 0:
        raise ReadingFailed("Preparing the scanned pages took all the time there was.")
    with _folder() as folder:
        names = []
        for index, pixels in enumerate(bitmaps):
            name = folder / f"{index}.pgm"
            height, width = pixels.shape
            with name.open("wb") as file:
                file.write(b"P5\n%d %d\n255\n" % (width, height))
                file.write(pixels.tobytes())
            names.append(f"{name}\n")
        listing = folder / "pages.txt"
        listing.write_text("".join(names), encoding="utf-8")
        return parse(_run(listing, folder / "words", languages, timeout_s), len(bitmaps))


def _run(listing: Path, output: Path, languages: tuple[str, ...], timeout_s: float) -> str:
    """Tesseract's table of words for all bitmaps."""
    # pytesseract hands its own environment down, and has no parameter for it.
    os.environ["OMP_THREAD_LIMIT"] = "1"
    try:
        # Not image_to_data(): it runs the same command, but encodes an image and knows of no list.
        run_tesseract(str(listing), str(output), "tsv", "+".join(languages), OPTIONS, timeout=timeout_s)
        return output.with_suffix(".tsv").read_text(encoding="utf-8")
    except pytesseract.TesseractError as error:
        raise ReadingFailed(f"Tesseract failed with status {error.status}.") from None
    except RuntimeError:
        raise ReadingFailed(f"Optical recognition took longer than {timeout_s:.0f} s.") from None
    except OSError:
        raise ReadingFailed("Tesseract wrote no output.") from None


def parse(table: str, count: int) -> list[list[Word]]:
    """Tesseract's TSV as the words of each of `count` bitmaps, in reading order.

    Columns: level, page_num, block_num, par_num, line_num, word_num, left, top, width, height, conf, text. Pages of a
    list file are numbered from 1 in its order; a page without words has a row of level 1 only. The text is not quoted.
    """
    found: list[list[Word]] = [[] for _ in range(count)]
    for row in table.split("\n"):
        cells = row.split("\t")
        if cells[0] != WORD_LEVEL or len(cells) != 12:
            continue
        text = clean(cells[11]).strip()
        page, block, paragraph, line = (int(cell) for cell in cells[1:5])
        if text and 1 <= page <= count:
            left, top, width, height = (int(cell) for cell in cells[6:10])
            box = (left, top, left + width, top + height)
            found[page - 1].append(Word(block, paragraph, line, box, float(cells[10]), text))
    return found


@contextmanager
def _folder() -> Iterator[Path]:
    """A private folder, named after this process so that others can tell when it is orphaned."""
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    with tempfile.TemporaryDirectory(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=parent) as name:
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
