"""Optical recognition: how many characters are wrong, and pages a second, beside OCRmyPDF on the same PDF.

Old books with gold text go through `Pdf.read` on two cores and through `ocrmypdf --jobs 2`, one after the other; the
set's own output of 2017 shows what the text was worth then. Both times are of a PDF in, text out; the Ray node and its
page processes are up before, as they are in a running system. Robustness: pages that lie on their side, stand on their
head, are skewed, or come in the codings that scanners use, each beside its gold text or the same page upright.

    python -m benchmarks.ocr --pages 8 --out ocr.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import ray
from rich.console import Console
from rich.table import Table

from actors.deadline import Deadline
from actors.messages import Page, PageReading
from actors.pdf import NICENESS, Pdf
from benchmarks.reading import scanned
from config.settings import load

CPUS = 2
BUDGET_S = 600.0
LIMIT_CER = 0.011
LIMIT_SPEED = 1.3
console = Console()


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement over the old books.

    Attributes:
        what: read them.
        error_rate: characters wrong, of those in the gold text; white space normalised.
        pages_per_s: None where nothing was run.
    """

    what: str
    error_rate: float
    pages_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One page of the robustness sets.

    Attributes:
        name: of the file.
        against: what its text is compared with.
        error_rate: characters wrong; white space normalised.
        missed: share of the other text's words that are not there; blind to the order of columns.
        rotation: degrees it was turned by.
        skew: degrees it was levelled by.
        confidence: as recorded.
    """

    name: str
    against: str
    error_rate: float
    missed: float
    rotation: int
    skew: float
    confidence: float


def main() -> None:
    """Run it, print tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=29, help="pages of the old books to read")
    parser.add_argument("--ocrmypdf", default="ocrmypdf", help="the program, by name or path")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    data = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "ocr"
    if not data.is_dir():
        console.print(f"Skipped: there is nothing in {data}. Say where the data is with GATHERUM_DATA.")
        return
    settings = load()
    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
            role = Pdf(settings.pdf, settings.entities, settings.encoder, settings.logs)
            rows = books(role, data / "old_books", Path(scratch), given.pages, shutil.which(given.ocrmypdf))
            trials = robustness(role, data, Path(scratch))
    finally:
        ray.shutdown()
    show(rows, trials)
    if given.out:
        figures = {"cpus": CPUS, "books": [asdict(row) for row in rows], "robustness": [asdict(t) for t in trials]}
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def books(role: Pdf, folder: Path, scratch: Path, count: int, ocrmypdf: str | None) -> list[Row]:
    """Read the old books by every means."""
    # Evenly from all five books, which differ in print and in quality.
    every = sorted((folder / "pages").glob("*.tif*"))
    images = [every[index * len(every) // count] for index in range(min(count, len(every)))]
    gold = [text(folder / "gold" / f"{image.stem}.txt") for image in images]
    pdf = scratch / "books.pdf"
    scanned(images, pdf)
    # Once before the clock runs: the page processes start and load their libraries, one for each core.
    read(role, pdf, list(range(1, min(4 * CPUS, len(images)) + 1)))
    started = time.perf_counter()
    pages = read(role, pdf, list(range(1, len(images) + 1)))
    spent = time.perf_counter() - started
    rows = [Row("Pdf.read", error_rate(gold, [page.text for page in pages]), len(images) / spent)]
    if ocrmypdf is None:
        console.print("OCRmyPDF is not installed, so there is nothing to compare the speed with: see --ocrmypdf.")
    else:
        for options in (["--force-ocr"], ["--skip-text", "--output-type", "pdf", "-O0"]):
            sidecar = scratch / "sidecar.txt"
            # At the priority of page tasks, or whatever else runs on the machine slows down only one of the two.
            command = ["nice", "-n", str(NICENESS), ocrmypdf, "--jobs", str(CPUS), "--quiet", *options]
            command += ["--sidecar", str(sidecar)]
            started = time.perf_counter()
            subprocess.run([*command, str(pdf), str(scratch / "out.pdf")], check=True, capture_output=True)
            spent = time.perf_counter() - started
            found = sidecar.read_text(encoding="utf-8").split("\f")[: len(images)]
            rows.append(Row(f"ocrmypdf {' '.join(options)}", error_rate(gold, found), len(images) / spent))
    published = [text(next((folder / "published_tesseract2017").glob(f"{image.stem}*"))) for image in images]
    return [*rows, Row("the set's own output of 2017", error_rate(gold, published))]


def robustness(role: Pdf, data: Path, scratch: Path) -> list[Trial]:
    """Read pages that are turned, skewed or oddly coded."""
    trials = []
    folder = data / "tesseract_test"
    golden = {
        "8071_093.3B.tif": "8071_093.3B.txt",
        "8087_054.3B.tif": "8087_054.3B.txt",
        "eurotext.tif": "eurotext.txt",
        "phototest.tif": "phototest.gold.txt",
        "phototest-rotated-180.png": "phototest.gold.txt",
        "phototest-rotated-L.png": "phototest.gold.txt",
        "phototest-rotated-R.png": "phototest.gold.txt",
        "phototestrot.tif": "phototest.gold.txt",
    }
    for name, gold in golden.items():
        if (folder / name).exists():
            scanned([folder / name], scratch / "one.pdf")
            trials.append(trial(name, gold, read(role, scratch / "one.pdf", [1])[0], text(folder / gold)))
    folder = data / "ocrmypdf"
    upright = folder / "linn.pdf"
    if upright.exists():
        reference = read(role, upright, [1])[0]
        pages = {name: read(role, folder / name, [1])[0] for name in ("skew.pdf", "rotated_skew.pdf", "ccitt.pdf")}
        pages |= {f"cardinal.pdf, {page.number}": page for page in read(role, folder / "cardinal.pdf", [1, 2, 3, 4])}
        trials += [trial(name, "linn.pdf", page, reference.text) for name, page in pages.items()]
        pages = {name: read(role, folder / name, [1])[0] for name in ("jbig2.pdf", "c02-22.pdf", "poster.pdf")}
        trials += [trial(name, "itself", page, page.text) for name, page in pages.items()]
    return trials


def trial(name: str, against: str, page: Page, gold: str) -> Trial:
    """A page as read beside what it should be."""
    if page.error or page.ocr is None or not page.ocr.used:
        raise RuntimeError(f"{name} was not recognised: {page.error or 'it has text of its own'}.")
    found, wanted = page.text.split(), gold.split()
    missed = sum(max(0, wanted.count(word) - found.count(word)) for word in set(wanted)) / max(1, len(wanted))
    ocr = page.ocr
    return Trial(name, against, error_rate([gold], [page.text]), missed, ocr.rotation, ocr.skew, ocr.confidence)


def read(role: Pdf, path: Path, numbers: list[int]) -> list[Page]:
    """Pages through the role, in order."""

    async def run() -> list[Page]:
        found: list[Page] = []
        async for part in role.read(str(path), numbers, enrich=False, deadline=Deadline.after(BUDGET_S)):
            readings = part.readings
            found += [reading.page for reading in readings if isinstance(reading, PageReading)]
        return sorted(found, key=lambda page: page.number)

    return asyncio.run(run())


def text(path: Path) -> str:
    """A text of the set, some of which are older than UTF-8."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def error_rate(gold: list[str], found: list[str]) -> float:
    """Edits over characters of all pages, white space normalised."""
    pairs = [(" ".join(right.split()), " ".join(ours.split())) for right, ours in zip(gold, found, strict=True)]
    return sum(distance(right, ours) for right, ours in pairs) / max(1, sum(len(right) for right, _ in pairs))


def distance(one: str, other: str) -> int:
    """Levenshtein's, a row at a time."""
    codes: npt.NDArray[np.int64] = np.array([ord(char) for char in other], dtype=np.int64)
    steps = np.arange(len(other) + 1)
    row = steps
    for number, char in enumerate(one, 1):
        below = np.minimum(row[1:] + 1, row[:-1] + (codes != ord(char)))
        # What follows from an insertion in the same row, for all places at once.
        row = np.minimum.accumulate(np.concatenate(([number], below)) - steps) + steps
    return int(row[-1])


def show(rows: list[Row], trials: list[Trial]) -> None:
    """The figures, for people."""
    shown = Table(title=f"Old books, {CPUS} cores")
    for column in ("what", "characters wrong", "pages/s", "Pdf.read is"):
        shown.add_column(column, justify="left" if column == "what" else "right")
    ours = rows[0].pages_per_s or 0.0
    for row in rows:
        speed, ratio = (f"{row.pages_per_s:.2f}", f"{ours / row.pages_per_s:.2f} x") if row.pages_per_s else ("", "")
        shown.add_row(row.what, f"{row.error_rate:.2%}", speed, ratio)
    console.print(shown)
    rivals = [row.pages_per_s for row in rows[1:] if row.pages_per_s]
    console.print(f"At most {LIMIT_CER:.1%} wrong: {'yes' if rows[0].error_rate <= LIMIT_CER else 'NO'}.")
    if rivals:
        fast = ours >= LIMIT_SPEED * max(rivals)
        console.print(f"At least {LIMIT_SPEED} x the faster OCRmyPDF: {'yes' if fast else 'NO'}.")
    shown = Table(title="Robustness")
    for column in ("page", "beside", "characters wrong", "words missed", "turned", "levelled", "confidence"):
        shown.add_column(column, justify="left" if column in ("page", "beside") else "right")
    for each in trials:
        figures = (f"{each.error_rate:.2%}", f"{each.missed:.1%}", f"{each.rotation}°", f"{each.skew:g}°")
        shown.add_row(each.name, each.against, *figures, f"{each.confidence:.0f}")
    console.print(shown)


if __name__ == "__main__":
    main()
