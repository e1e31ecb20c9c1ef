"""Memory of all page workers while 5,000 pages are read: flat, or growing until something kills them?

The PDFs of `$GATHERUM_DATA/pdf` are read again and again, as the ingest reads them, until there are enough pages. The
peak of each quarter is the largest sum over all workers, and their children, of private memory in RAM.

    python -m benchmarks.memory --pages 5000 --out memory.json
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Final

import ray

from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.pdf import Pdf
from actors.reading import pages
from benchmarks.hostile import resident_mb, workers
from config.settings import load

AT_ONCE: Final = 4  # documents, as `ingest.workers` has it
ALLOWED: Final = 1.05  # last quarter's peak over the second's


class Quarters:
    """Peaks of memory, by quarter of the pages read.

    Attributes:
        peaks: MB, of the four quarters.
        done: pages so far.
    """

    def __init__(self, pages: int) -> None:
        self.peaks = [0.0] * 4
        self.done = 0
        self._pages = pages

    async def watch(self) -> None:
        """Look several times a second until cancelled."""
        while True:
            quarter = min(3, 4 * self.done // self._pages)
            self.peaks[quarter] = max(self.peaks[quarter], await asyncio.to_thread(total_mb))
            await asyncio.sleep(0.1)


def total_mb() -> float:
    """All of them together, now."""
    return sum(map(resident_mb, workers()))


async def read(role: Pdf, documents: list[tuple[str, int]], quarters: Quarters, count: int) -> None:
    """Read documents in turn, some at once, until that many pages are done."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(path: str, last: int) -> None:
        try:
            async for part in role.read(path, range(1, last + 1), enrich=True, deadline=Deadline.after(600)):
                quarters.done += len(part.pages)
        finally:
            places.release()

    async with asyncio.TaskGroup() as group:
        for path, last in itertools.cycle(documents):
            await places.acquire()
            if quarters.done >= count:
                return
            group.create_task(one(path, last))


async def measure(documents: list[tuple[str, int]], count: int, *, vectors: bool) -> Quarters:
    """The peaks over that many pages."""
    settings = load({"logs.level": "ERROR", **({} if vectors else {"encoder.kind": "none"})})
    role = Pdf(settings.pdf, settings.entities, settings.encoder, settings.logs)
    quarters = Quarters(count)
    # Together, so that a watch that fails ends the reading instead of leaving quarters of nothing.
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(quarters.watch())
        await read(role, documents, quarters, count)
        watching.cancel()
    return quarters


def text_documents(folder: Path) -> list[tuple[str, int]]:
    """The PDFs below a folder that can be read and need no optical recognition, each with its number of pages."""
    found = []
    for path in sorted(folder.rglob("*.pdf")):
        try:
            last = pages.inspect(str(path), 2000).pages
            with pages.opened(str(path)) as document:
                if all(pages.read(document, number)[1] is None for number in range(1, last + 1)):
                    found.append((str(path), last))
        except GatherumError:
            continue
    return found


def main() -> None:
    """Run it and print the peaks; fails where memory grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=5000, help="to read; a few hundred for a trial")
    parser.add_argument("--vectors", action="store_true", help="embed chunks too, which takes ten times as long")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    data = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    documents = text_documents(data / "pdf")
    if not documents:
        print(f"Skipped: there are no PDFs in {data / 'pdf'}. Say where with GATHERUM_DATA.")
        return
    ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        quarters = asyncio.run(measure(documents, given.pages, vectors=given.vectors))
    finally:
        ray.shutdown()
    ratio = quarters.peaks[3] / quarters.peaks[1]
    peaks = ", ".join(f"{peak:,.0f}" for peak in quarters.peaks)
    print(f"{quarters.done:,} pages; peaks by quarter {peaks} MB; last over second {ratio:.3f} (at most {ALLOWED})")
    if given.out:
        figures = {"pages": quarters.done, "peaks_mb": quarters.peaks, "ratio": ratio}
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(int(ratio > ALLOWED))


if __name__ == "__main__":
    main()
