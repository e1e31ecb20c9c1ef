"""Pages a second of `Pdf.read` on two cores, beside the libraries it stands on, alone in one process.

Text PDFs are read as they are, several at once as the ingest reads them, and put together as one long document;
scanned pages as one document. Each figure has its ratio to PyMuPDF's or Tesseract's own, measured in the same run.

Text is also read by one task at a time and by two, in turn on the same cluster, for what the second core adds. Other
programs lower that ratio, so it is given by CPU time as well, which they hardly touch: a single task is kept up by
nothing, as the processes that hand its pages over have the other core; two tasks share both cores with them. That is
what an idle machine of two cores can give at most.

    python -m benchmarks.reading --parts text tasks --out reading.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pymupdf
import ray
from PIL import Image
from rich.console import Console
from rich.table import Table

from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.pdf import Pdf
from actors.reading import pages
from config.settings import EncoderSettings, Settings, load

CPUS = 2
AT_ONCE = 4  # documents, as `ingest.workers` has it
BUDGET_S = 600.0
PARTS = ("text", "vectors", "scans", "tasks")
console = Console()

Document = tuple[str, int]
"""Path and number of pages."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        what: was done.
        pages: read.
        seconds: taken.
        ratio: of its speed to that of the baseline of its group.
    """

    what: str
    pages: int
    seconds: float
    ratio: float = 1.0

    @property
    def speed(self) -> float:
        """Pages a second."""
        return self.pages / self.seconds


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=16, help="scanned pages to read")
    parser.add_argument("--repeat", type=int, default=3, help="times that text is read; the best counts")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    data = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    groups: dict[str, list[Row]] = {}
    settings = load()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch, cluster():
        role = Pdf(settings.pdf, settings.entities, no_encoder(settings), settings.logs)
        documents = text_documents(data / "pdf")
        images = sorted((data / "ocr" / "old_books" / "pages").glob("*.tif*"))[: given.scans]
        if not documents:
            console.print(f"Text skipped: there are no PDFs in {data / 'pdf'}. Say where with GATHERUM_DATA.")
        if not images:
            console.print(f"Scans skipped: there are none in {data / 'ocr'}. Say where with GATHERUM_DATA.")
        if documents and "text" in given.parts:
            groups["text"] = text(role, documents, Path(scratch), given.repeat)
        if documents and "vectors" in given.parts:
            groups["text, with vectors"] = vectors(settings, documents)
        if images and "scans" in given.parts:
            groups["scans"] = scans(role, images, Path(scratch), settings)
        if documents and "tasks" in given.parts:
            groups["text, by tasks at a time"] = scaling(documents, Path(scratch), settings, given.repeat)
    for name, rows in groups.items():
        console.print(table(name, rows))
    if given.out:
        figures = {"cpus": CPUS, **{name: [as_json(row) for row in rows] for name, rows in groups.items()}}
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def text_documents(folder: Path) -> list[Document]:
    """The PDFs below a folder that can be read and need no optical recognition."""
    found: list[Document] = []
    for path in sorted(folder.rglob("*.pdf")):
        try:
            count = pages.inspect(str(path), 2000).pages
            with pages.opened(str(path)) as document:
                if all(pages.read(document, number)[1] is None for number in range(1, count + 1)):
                    found.append((str(path), count))
        except GatherumError:
            continue
    return found


def text(role: Pdf, documents: list[Document], scratch: Path, repeat: int) -> list[Row]:
    """PyMuPDF alone, then the role over the same pages."""
    long = [merged(documents, scratch / "long.pdf")]
    count = long[0][1]

    def alone(what: str, those: list[Document]) -> Row:
        return measured(f"PyMuPDF get_text(), one process, {what}", count, lambda: extract(those), repeat)

    def ours(what: str, those: list[Document], baseline: Row, *, enrich: bool) -> Row:
        return measured(what, count, lambda: asyncio.run(read(role, those, enrich=enrich)), repeat, baseline)

    # Once before the clock runs: processes start, libraries and the model are loaded.
    asyncio.run(read(role, documents, enrich=True))
    files, whole = alone("the files", documents), alone("one document", long)
    return [
        files,
        ours("Pdf.read, the files, text and boxes", documents, files, enrich=False),
        ours("Pdf.read, the files, also chunks and names", documents, files, enrich=True),
        whole,
        ours("Pdf.read, one document, text and boxes", long, whole, enrich=False),
        ours("Pdf.read, one document, also chunks and names", long, whole, enrich=True),
    ]


def vectors(settings: Settings, documents: list[Document]) -> list[Row]:
    """The files as they are ingested, vectors and all; once, since the encoder takes nearly all the time."""
    role = Pdf(settings.pdf, settings.entities, settings.encoder, settings.logs)
    count = sum(pages for _, pages in documents)
    alone = measured("PyMuPDF get_text(), one process, the files", count, lambda: extract(documents), 1)
    asyncio.run(read(role, documents[:CPUS], enrich=True))
    whole = measured(
        "Pdf.read, the files, also vectors", count, lambda: asyncio.run(read(role, documents, enrich=True)), 1, alone
    )
    return [alone, whole]


def no_encoder(settings: Settings) -> EncoderSettings:
    """No encoder: it takes nearly all the time of a page, and what is measured here is the reading."""
    return settings.encoder.model_copy(update={"kind": "none"})


def scaling(documents: list[Document], scratch: Path, settings: Settings, repeat: int) -> list[Row]:
    """The role over the files and over a document of 1,200 pages or so, by one task at a time and by two."""
    long = [merged(documents * 4, scratch / "longer.pdf")]
    rows: list[Row] = []
    roles = {
        tasks: Pdf(
            # A process is replaced after so many tasks, and would take the time it has used with it.
            settings.pdf.model_copy(update={"task_cpus": CPUS / tasks, "task_max_calls": 1_000_000}),
            settings.entities,
            no_encoder(settings),
            settings.logs,
        )
        for tasks in (1, CPUS)
    }
    for what, those in (("the files, four times", documents * 4), ("one document", long)):
        count = sum(pages for _, pages in those)
        best: dict[int, Run] = {}
        for number in range(repeat + 1):
            # In turn, so that a slow moment of the machine meets both.
            for tasks, role in roles.items():
                run = timed(partial(_read_text, role, those))
                if number:  # processes start in the first
                    best[tasks] = min(run, best.get(tasks, run))
        one, two = best[1], best[CPUS]
        rows += [
            Row(f"{what}, a task at a time", count, one.seconds),
            Row(f"{what}, tasks at a time: {CPUS}", count, two.seconds, one.seconds / two.seconds),
            Row(f"{what}, tasks at a time: {CPUS}, by CPU time", count, two.cpu / CPUS, CPUS * one.reading / two.cpu),
        ]
    return rows


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """What a run took.

    Attributes:
        seconds: on the clock.
        cpu: seconds of CPU time of this process, of Ray's and of the tasks.
        reading: of those, the tasks'.
    """

    seconds: float
    cpu: float
    reading: float


def timed(run: Callable[[], object]) -> Run:
    """How long something takes, and how long the processors work for it; no process that does may end meanwhile."""
    before, started = cpu_seconds(), time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    spent = {known: total - before.get(known, 0.0) for known, total in cpu_seconds().items()}
    return Run(seconds, sum(spent.values()), sum(cpu for (_, worker), cpu in spent.items() if worker))


def cpu_seconds() -> dict[tuple[int, bool], float]:
    """CPU seconds of this process and of all it has started, by process id and whether it is one of Ray's workers."""
    this = psutil.Process()
    found: dict[tuple[int, bool], float] = {}
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid, "ray::" in " ".join(process.cmdline())] = times.user + times.system
    return found


@contextmanager
def cluster() -> Iterator[None]:
    """A cluster of this machine alone, which keeps its processes.

    Ray ends a process that has been idle for a second and finds no CPU unreserved, as while one task at a time has them
    all; to start it anew takes a second of CPU time, which the next run would be charged with.
    """
    ray.init(
        address="local",
        num_cpus=CPUS,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _system_config={"idle_worker_killing_time_threshold_ms": round(1000 * BUDGET_S)},
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def scans(role: Pdf, images: list[Path], scratch: Path, settings: Settings) -> list[Row]:
    """Tesseract alone, once for all pages and once for each, then the role over a PDF of the same images."""
    listing = scratch / "images.txt"
    listing.write_text("".join(f"{image.resolve()}\n" for image in images), encoding="utf-8")
    count = len(images)
    once = measured("Tesseract, one process", count, lambda: tesseract(listing, scratch / "once"), 1)

    def one_by_one() -> None:
        for image in images:
            tesseract(image, scratch / "each")

    each = measured("Tesseract, a process a page", count, one_by_one, 1, once)
    document = [scanned(images, scratch / "scans.pdf")]
    asyncio.run(read(role, [(document[0][0], 1)], enrich=False))
    ours = measured("Pdf.read", count, lambda: asyncio.run(read(role, document, enrich=False)), 1, once)
    return [once, each, ours]


def measured(what: str, count: int, run: Callable[[], object], repeat: int, baseline: Row | None = None) -> Row:
    """The best of some runs."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    row = Row(what, count, min(times))
    return Row(what, count, row.seconds, row.speed / baseline.speed) if baseline else row


async def read(role: Pdf, documents: list[Document], *, enrich: bool) -> None:
    """Read documents, some at once, and fetch every page, as the store does."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(path: str, count: int) -> None:
        async with free:
            done = 0
            wanted = range(1, count + 1)
            async for part in role.read(path, wanted, enrich=enrich, deadline=Deadline.after(BUDGET_S)):
                done += len(part.readings)
            if done != count:
                raise RuntimeError(f"{done} of {count} pages came back from {path}.")

    async with asyncio.TaskGroup() as group:
        for path, count in documents:
            group.create_task(one(path, count))


def _read_text(role: Pdf, documents: list[Document]) -> None:
    asyncio.run(read(role, documents, enrich=False))


def extract(documents: list[Document]) -> None:
    """PyMuPDF's own plain text of every page, with the colour profiles that `pages.opened` sets aside."""
    pymupdf.TOOLS.set_icc(True)
    for path, _ in documents:
        with pymupdf.open(path) as document:
            for page in document:
                page.get_text()


def tesseract(source: Path, output: Path) -> None:
    """Tesseract on an image or a list of them, one thread."""
    subprocess.run(
        ["tesseract", str(source), str(output), "-l", "eng", "tsv"],
        check=True,
        capture_output=True,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )


def merged(documents: list[Document], path: Path) -> Document:
    """All documents as one."""
    with pymupdf.open() as whole:
        for name, _ in documents:
            with pymupdf.open(name) as part:
                whole.insert_pdf(part)
        whole.save(path)
        return str(path), whole.page_count


def scanned(images: list[Path], path: Path) -> Document:
    """A PDF with an image a page, at 300 dpi."""
    with pymupdf.open() as document:
        for name in images:
            with Image.open(name) as image:
                width, height = (side * 72 / 300 for side in image.size)
            page = document.new_page(width=width, height=height)
            page.insert_image(page.rect, filename=str(name))
        document.save(path)
        return str(path), document.page_count


def as_json(row: Row) -> dict[str, Any]:
    """A row's figures."""
    return {
        "what": row.what,
        "pages": row.pages,
        "seconds": round(row.seconds, 3),
        "pages_per_s": round(row.speed, 2),
        "ratio": round(row.ratio, 3),
    }


def table(name: str, rows: list[Row]) -> Table:
    """The rows of a group, for people."""
    shown = Table(title=f"Reading {name}, {CPUS} cores")
    shown.add_column("what")
    for column in ("pages", "pages/s", "ratio"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(row.what, str(row.pages), f"{row.speed:,.2f}", f"{row.ratio:.2f}")
    return shown


if __name__ == "__main__":
    main()
