"""What reading scans costs the questions that are asked meanwhile.

The same closed-loop load of questions over a part of Cranfield is run three times: with nothing else to do, while a
folder of scanned books is ingested as by default, and while it is ingested by page processes that do not give way.
Recognition takes all the CPU time it can get, so the tail of the latencies shows what priorities are worth.

    python -m benchmarks.priority --out priority.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from actors.reading.mupdf import pymupdf
from benchmarks import cranfield, load
from benchmarks.system import running
from serve import bulk
from serve.client import AsyncClient

DOCUMENTS = 3
"""Of a hundred pages each: enough for questions to find something, read in seconds."""

COPIES = 4
CONNECTIONS = 8
EAGER = "import os\n\nos.nice = lambda increment: os.getpriority(os.PRIO_PROCESS, 0)\n"
"""What Python runs at its start in a system whose page processes keep their priority."""

console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Row:
    """One run of the load.

    Attributes:
        what: went on beside it.
        load: as `load.Result.to_json`.
        pages_per_s: scans read beside it.
    """

    what: str
    load: dict[str, Any]
    pages_per_s: float


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="measured time of each load")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    source = cranfield.folder()
    books = source and source.parents[1] / "ocr" / "old_books" / "pages"
    if source is None or books is None or not books.is_dir():
        console.print("Skipped: Cranfield or the old books are not there. Say where with GATHERUM_DATA.")
        return
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        rows = measure(source, books, Path(scratch), given.seconds)
    console.print(table(rows))
    if given.out:
        figures = {"cpus": os.cpu_count(), "rows": [asdict(row) for row in rows]}
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(source: Path, books: Path, scratch: Path, seconds: float) -> list[Row]:
    """All the rows."""
    bodies = [json.dumps({"question": question}).encode() for question in cranfield.questions(source)]
    ask = partial(load.run, bodies=bodies, connections=CONNECTIONS, seconds=seconds)
    pdfs = cranfield.write_pdfs(source, scratch / "pdfs")[:DOCUMENTS]
    scans = write_scans(books, scratch / "scans")
    eager = scratch / "eager"
    eager.mkdir()
    (eager / "sitecustomize.py").write_text(EAGER, encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(eager), os.environ.get("PYTHONPATH"))))
    rows: list[Row] = []
    ways: tuple[tuple[str, Mapping[str, str]], ...] = (
        ("scans are read", {}),
        ("scans are read without giving way", {"PYTHONPATH": path, "GATHERUM_INGEST__CPUS": str(os.cpu_count())}),
    )
    for number, (what, settings) in enumerate(ways):
        with running(scratch / f"data{number}", settings) as system:
            asyncio.run(_ingest(system.url, pdfs))
            if not rows:
                rows.append(Row("nothing else", ask(f"{system.url}/v1/ask").to_json(), 0.0))
            jobs = asyncio.run(_upload(system.url, scans))
            # The first pages of a document are told as done together.
            while not all(before := pages_done(system.url, jobs)):
                time.sleep(0.5)
            started = time.perf_counter()
            result = ask(f"{system.url}/v1/ask").to_json()
            done, spent = pages_done(system.url, jobs), time.perf_counter() - started
            if sum(done) == COPIES * len(list(books.glob("*.tif*"))):
                raise RuntimeError("The scans were read too soon: take fewer --seconds.")
            rows.append(Row(what, result, (sum(done) - sum(before)) / spent))
    return rows


def pages_done(url: str, jobs: list[str]) -> list[int]:
    """Pages of each of some jobs that are in."""

    async def look() -> list[int]:
        async with AsyncClient(url, patience_s=60) as client:
            return [(await client.job(job))["pages_done"] for job in jobs]

    return asyncio.run(look())


async def _upload(url: str, paths: list[Path]) -> list[str]:
    async with AsyncClient(url, patience_s=60) as client:
        return [(await client.upload(path, collection="default")).job_id for path in paths]


async def _ingest(url: str, paths: list[Path]) -> None:
    async with AsyncClient(url, patience_s=60) as client:
        report = bulk.Report([bulk.Outcome(path) for path in paths])
        await bulk.ingest(client, report, collection="cranfield")
    if report.failures:
        raise RuntimeError(f"{len(report.failures)} documents failed; the first: {report.failures[0].error}")


def write_scans(images: Path, folder: Path) -> list[Path]:
    """The pages of the old books as one PDF, so many times over; each copy is another document."""
    folder.mkdir()
    written = []
    for copy in range(COPIES):
        with pymupdf.open() as document:
            for name in sorted(images.glob("*.tif*")):
                with Image.open(name) as image:
                    width, height = (side * 72 / 300 for side in image.size)
                page = document.new_page(width=width, height=height)
                page.insert_image(page.rect, filename=str(name))
            document.set_metadata({"title": f"Old books, copy {copy + 1}"})
            document.save(folder / f"books-{copy + 1}.pdf")
        written.append(folder / f"books-{copy + 1}.pdf")
    return written


def table(rows: list[Row]) -> Table:
    """The figures side by side."""
    shown = Table(title=f"POST /v1/ask, {CONNECTIONS} connections, while")
    for title in ("", "requests/s", "errors", "p50 ms", "p90 ms", "p99 ms", "scans, pages/s"):
        shown.add_column(title, justify="left" if not title else "right")
    for row in rows:
        shown.add_row(
            row.what,
            f"{row.load['requests_per_s']:.0f}",
            ", ".join(f"{count} {reason}" for reason, count in row.load["errors"].items()) or "0",
            *(f"{row.load[key]:.0f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{row.pages_per_s:.2f}",
        )
    return shown


if __name__ == "__main__":
    main()
