"""Text pages a second on one core, likeness to gold texts, and whether boxes hold their words.

Speed is CPU time, of each file in the fastest of some passes, beside PyMuPDF's own plain text, its own words with boxes
and both from one look at each page, in the same process. `pages.read_all` gives both, in reading order, and says which
pages need OCR; no citation can do without boxes, so the ratio to words is the one that counts. Likeness is the
normalised Indel similarity after white space is collapsed. A random word's box is drawn, read by Tesseract, and must
give that word again. Libraries that are compared with (the extra `bench`) and `pdftotext` are left out where they are
missing.

    python -m benchmarks.text --out text.json
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import os
import random
import re
import shutil
import subprocess
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from actors.errors import GatherumError
from actors.reading import pages, survey, tables
from actors.reading.chunking import chunk
from actors.reading.mupdf import pymupdf

MAX_PAGES: Final = 2000
WORD_PIXELS: Final = 48  # height that a word's box is drawn at: what Tesseract reads best
WORD_MARGIN: Final = 10  # pixels of paper around it
MIN_TYPE: Final = 7.0  # points: smaller print says more of Tesseract than of the box
SEED: Final = 20261124

PLAIN: Final = "PyMuPDF get_text()"
WORDS: Final = 'PyMuPDF get_text("words")'
BOTH: Final = "PyMuPDF, text and words of one TextPage"

Extract = Callable[[str], list[Any]]
"""Path to the text of each page, or its words."""

GOLD: Final = {
    "pypdf_resources/resources/crazyones.pdf": "pypdf_resources/resources/crazyones.txt",
    "pypdf_resources/resources/toy.pdf": "pypdf_resources/resources/toy.layout.txt",
    "pypdf_resources/resources/pdflatex-forms.pdf": "pypdf_resources/resources/010-pdflatex-forms.txt",
    "pdfplumber/tests/pdfs/scotus-transcript-p1.pdf": "pdfplumber/tests/comparisons/scotus-transcript-p1.txt",
}
"""PDF to gold text. Those of other tools' layout modes keep their tool's line breaks, which collapse here."""

console = Console()


def main() -> None:
    """Run it, print tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="passes over the PDFs; the fastest counts")
    parser.add_argument("--words", type=int, default=500, help="words whose boxes are read back")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    data = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pdf"
    paths = readable(data)
    if not paths:
        console.print(f"Skipped: there are no PDFs in {data}. Say where with GATHERUM_DATA.")
        return
    figures: dict[str, Any] = {"speed": speed(paths, given.repeat)}
    if importlib.util.find_spec("rapidfuzz"):
        figures["likeness"] = likeness(data)
    else:
        console.print("Likeness skipped: rapidfuzz is missing. Install the extra `bench`.")
    if shutil.which("tesseract"):
        figures["boxes"] = boxes(paths, given.words)
    else:
        console.print("Boxes skipped: the program tesseract is missing.")
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def readable(folder: Path) -> list[str]:
    """The PDFs below a folder that open without a password, and of which every page has good text or none."""
    found = []
    for path in sorted(folder.rglob("*.pdf")):
        try:
            count = pages.inspect(str(path), MAX_PAGES).pages
            with pages.opened(str(path)) as document:
                if all(pages.read(document, number)[1] is None for number in range(1, count + 1)):
                    found.append(str(path))
        except GatherumError:
            continue
    return found


# --- speed ----------------------------------------------------------------------------------------------------------


def speed(paths: list[str], repeat: int) -> dict[str, dict[str, float]]:
    """Pages a second of CPU time, and the ratios to PyMuPDF's own plain text and words."""
    ways: dict[str, Extract] = {
        PLAIN: plain,
        WORDS: words,
        BOTH: both,
        "pages.read_all": lambda path: [page.text for page in ours(path)],
        "also survey, tables and chunks": chunked,
    }
    slow = others()
    best: dict[tuple[str, str], float] = {}
    # Each pass takes the ways in turn, so that a slow moment of the machine meets all of them; each takes all files in
    # a row, since PyMuPDF keeps what `pages.opened` empties.
    for number in range(repeat):
        for name, extract in (ways if number else ways | slow).items():  # ten times as slow; once will do
            count = 0
            for path in paths:
                started = time.process_time()
                count += len(extract(path))
                best[name, path] = min(best.get((name, path), float("inf")), time.process_time() - started)
    seconds = {name: sum(best[name, path] for path in paths) for name in ways | slow}
    shown = Table(title=f"Reading {len(paths)} PDFs of {count} pages, one core")
    for column in ("way", "pages/s", "to words", "to get_text()"):
        shown.add_column(column, justify="left" if column == "way" else "right")
    figures = {
        name: {
            "pages_per_s": round(count / spent, 1),
            "ratio": round(seconds[PLAIN] / spent, 3),
            "ratio_to_words": round(seconds[WORDS] / spent, 3),
        }
        for name, spent in seconds.items()
    }
    for name, row in figures.items():
        shown.add_row(name, f"{row['pages_per_s']:,.0f}", f"{row['ratio_to_words']:.2f}", f"{row['ratio']:.2f}")
    console.print(shown)
    return figures


def plain(path: str) -> list[str]:
    """PyMuPDF's own text, as whoever calls it gets it: `pages.opened` sets colour profiles aside."""
    pymupdf.TOOLS.set_icc(True)
    with pymupdf.open(path) as document:
        return [document[index].get_text() for index in range(document.page_count)]


def words(path: str) -> list[Any]:
    """PyMuPDF's own words with boxes."""
    pymupdf.TOOLS.set_icc(True)
    with pymupdf.open(path) as document:
        return [document[index].get_text("words") for index in range(document.page_count)]


def both(path: str) -> list[Any]:
    """PyMuPDF's own text and words, the page interpreted once."""
    pymupdf.TOOLS.set_icc(True)
    with pymupdf.open(path) as document:
        found = []
        for index in range(document.page_count):
            content = document[index].get_textpage(flags=pymupdf.TEXTFLAGS_WORDS)
            found.append((content.extractTEXT(), content.extractWORDS()))
        return found


def ours(path: str) -> Iterator[Any]:
    """Pages as a task reads them."""
    with pages.opened(path) as document:
        yield from (page for page, _ in pages.read_all(document, range(1, document.page_count + 1)))


def chunked(path: str) -> list[str]:
    """Pages with their chunks, without names."""
    with pages.opened(path) as document:
        known = survey.survey(document, 30.0)
        found = []
        for number in range(1, document.page_count + 1):
            page = tables.with_tables(document, pages.read(document, number)[0])
            chunk(page, 220, furniture=known.furniture_of(page), heading=known.heading(number))
            found.append(page.text)
        return found


def others() -> dict[str, Extract]:
    """The libraries that are installed."""
    known: dict[str, Extract] = {"pypdfium2": with_pypdfium2, "pypdf": with_pypdf, "pdfplumber": with_pdfplumber}
    return {name: extract for name, extract in known.items() if importlib.util.find_spec(name)}


def with_pypdfium2(path: str) -> list[str]:
    """PDFium's text."""
    pypdfium2: Any = importlib.import_module("pypdfium2")
    document = pypdfium2.PdfDocument(path)
    try:
        return [document[index].get_textpage().get_text_bounded() for index in range(len(document))]
    except pypdfium2.PdfiumError:
        return []
    finally:
        document.close()


def with_pypdf(path: str) -> list[str]:
    """Text by pypdf; a page that it cannot read is empty."""
    pypdf: Any = importlib.import_module("pypdf")
    found = []
    for page in pypdf.PdfReader(path).pages:
        try:
            found.append(page.extract_text())
        except Exception:  # noqa: BLE001 -- it raises whatever it meets in a damaged file
            found.append("")
    return found


def with_pdfplumber(path: str) -> list[str]:
    """Text by pdfplumber; a page that it cannot read is empty."""
    pdfplumber: Any = importlib.import_module("pdfplumber")
    found = []
    with pdfplumber.open(path) as document:
        for page in document.pages:
            try:
                found.append(page.extract_text())
            except Exception:  # noqa: BLE001 -- as above
                found.append("")
    return found


# --- likeness -------------------------------------------------------------------------------------------------------


def likeness(data: Path) -> dict[str, dict[str, float]]:
    """Normalised Indel similarity to each gold text, in percent."""
    indel: Any = importlib.import_module("rapidfuzz.distance.Indel")
    ways: dict[str, Extract] = {"Gatherum": lambda path: [page.text for page in ours(path)], "PyMuPDF": plain}
    if importlib.util.find_spec("pypdfium2"):
        ways["pypdfium2"] = with_pypdfium2
    if shutil.which("pdftotext"):
        ways["pdftotext"] = with_pdftotext
    found: dict[str, dict[str, float]] = {}
    shown = Table("gold text", *ways, title="Indel similarity, percent")
    for pdf, gold in GOLD.items():
        if not ((data / pdf).exists() and (data / gold).exists()):
            continue
        wanted = collapsed((data / gold).read_text(encoding="utf-8"))
        scores = {
            name: round(100 * indel.normalized_similarity(wanted, collapsed("\n".join(extract(str(data / pdf))))), 2)
            for name, extract in ways.items()
        }
        found[Path(pdf).name] = scores
        shown.add_row(Path(pdf).name, *(f"{score:.2f}" for score in scores.values()))
    means = {name: round(sum(scores[name] for scores in found.values()) / max(1, len(found)), 2) for name in ways}
    shown.add_row("mean", *(f"{mean:.2f}" for mean in means.values()))
    console.print(shown)
    return {**found, "mean": means}


def with_pdftotext(path: str) -> list[str]:
    """Poppler's text."""
    run = subprocess.run(["pdftotext", path, "-"], check=True, capture_output=True)
    return [run.stdout.decode("utf-8", "replace")]


def collapsed(text: str) -> str:
    """A text with its white space collapsed, and divided words joined, whoever left them divided."""
    text = unicodedata.normalize("NFKC", text)
    return " ".join(re.sub(r"(?<=[^\W\d_])[-\u00ad\u2010]\s*\n\s*(?=[a-z])", "", text).split())


# --- boxes ----------------------------------------------------------------------------------------------------------


def boxes(paths: list[str], count: int) -> dict[str, Any]:
    """How many of `count` random words are read again from their boxes."""
    dice = random.Random(SEED)
    words: list[tuple[str, int, str, tuple[float, float, float, float]]] = []
    for path in paths:
        for page in ours(path):
            if not upright(path, page.number):
                continue
            for start, end, x0, y0, x1, y1 in page.words.array.tolist():
                text = page.text[start:end]
                if len(text) > 2 and text.isascii() and text.isalpha() and y1 - y0 >= MIN_TYPE:
                    words.append((path, page.number, text, (x0, y0, x1, y1)))
    chosen = sorted(dice.sample(words, min(count, len(words))))
    pictures = [picture(path, page, box) for path, page, _, box in chosen]
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(recognised, pictures))
    wrong = [
        {"file": Path(path).name, "page": page, "word": text, "read": found}
        for (path, page, text, _), found in zip(chosen, read, strict=True)
        if folded(text) != folded(found)
    ]
    share = 1 - len(wrong) / max(1, len(chosen))
    console.print(f"Boxes: {share:.1%} of {len(chosen)} random words are read again (seed {SEED}). Not read: {wrong}")
    return {"words": len(chosen), "share": round(share, 4), "seed": SEED, "wrong": wrong}


def upright(path: str, number: int) -> bool:
    """Whether all lines of a page run from left to right as displayed: no engine reads a mirrored or hanging word."""
    with pages.opened(path) as document:
        page = document[number - 1]
        matrix = page.rotation_matrix
        found = [line["dir"] for block in page.get_text("dict")["blocks"] for line in block.get("lines", ())]
    return all(x * matrix.a + y * matrix.c > 0.99 for x, y in found)


def picture(path: str, number: int, box: tuple[float, float, float, float]) -> bytes:
    """What stands in a box, as PNG, dark on light and with a margin of its own paper."""
    scale = WORD_PIXELS / (box[3] - box[1])
    clip = pymupdf.Rect(box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
    with pages.opened(path) as document:
        matrix = pymupdf.Matrix(scale, scale)
        pixmap = document[number - 1].get_pixmap(matrix=matrix, clip=clip, alpha=False, colorspace=pymupdf.csGRAY)
    part = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples)
    counts = part.histogram()
    paper = counts.index(max(counts))
    if paper < 128:
        part, paper = ImageOps.invert(part), 255 - paper
    out = io.BytesIO()
    ImageOps.expand(part, WORD_MARGIN, paper).save(out, format="PNG", dpi=(300, 300))
    return out.getvalue()


def recognised(png: bytes) -> str:
    """Tesseract's reading of a picture of one word."""
    run = subprocess.run(
        ["tesseract", "stdin", "stdout", "-l", "eng", "--psm", "7"],
        input=png,
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )
    return run.stdout.decode("utf-8", "replace").strip()


def folded(text: str) -> str:
    """A word without case and signs, and with the letters that look alike made one."""
    return re.sub(r"[^a-z0-9]", "", text.casefold()).translate(str.maketrans("i1|0", "lllo"))


if __name__ == "__main__":
    main()
