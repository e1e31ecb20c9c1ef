"""Reads bad files through the real role on real Ray, and says what became of each.

Mutations made from a seed, and the files of `$GATHERUM_DATA/hostile` where they are. A good document is read between
them, again and again, and must come out whole each time.

    python -m benchmarks.hostile --count 1000 --seed 1 --out hostile.json
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil
import ray

from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.pdf import Pdf
from actors.reading import limits
from actors.reading.mupdf import pymupdf
from benchmarks.mutations import Mutation, mutations
from config.settings import Settings, load

AT_ONCE: Final = 3
GOOD_EVERY: Final = 20
PAGES_READ: Final = 20
"""Of a file that has more: a thousand good pages say nothing about a bad one."""
SLACK_S: Final = 2.0
GOOD: Final = "Titan is the largest moon of Saturn."
LIMITS: Final = {
    "pdf.page_timeout_s": 4,
    "pdf.document_timeout_s": 20,
    "pdf.worker_memory_mb": 800,
    "pdf.max_pixels": 10_000_000,
    "pdf.range_pages": 4,
    "logs.level": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file.

    Attributes:
        name: of the file.
        state: `read`, `partial`, `refused` (with an error of ours), or `broken`: anything else.
        detail: the error's code, or the first page's error.
        seconds: until that was known, from its turn on.
        limit_s: within which it had to be.
    """

    name: str
    state: str
    detail: str
    seconds: float
    limit_s: float

    @property
    def late(self) -> bool:
        """Whether it took longer than allowed."""
        return self.seconds > self.limit_s + SLACK_S


@dataclass(frozen=True, slots=True)
class Result:
    """What became of them all.

    Attributes:
        seed: of the mutations.
        outcomes: one a file.
        good: readings of the good document, and how many of them were whole.
        peak_mb: most private memory that one worker, or a child of one, had in RAM at any moment it was looked at.
    """

    seed: int
    outcomes: list[Outcome]
    good: tuple[int, int]
    peak_mb: float

    @property
    def states(self) -> Counter[str]:
        """How often each state came."""
        return Counter(outcome.state for outcome in self.outcomes)

    @property
    def slowest(self) -> Outcome:
        """The file that took longest."""
        return max(self.outcomes, key=lambda outcome: outcome.seconds)


def originals(library: Path | None = None) -> list[bytes]:
    """Good PDFs to make bad ones of: some made here, and those of a folder."""
    made = []
    for pages in (1, 5):
        with pymupdf.open() as document:
            for number in range(pages):
                page = document.new_page()
                page.insert_text((50, 80), f"Page {number}. {GOOD}")
                page.insert_image((50, 100, 90, 140), pixmap=pymupdf.Pixmap(pymupdf.csRGB, (0, 0, 40, 40)))
                link = {"kind": pymupdf.LINK_URI, "from": pymupdf.Rect(0, 0, 9, 9), "uri": "http://a.example/"}
                page.insert_link(link)
            document.set_toc([[1, "Moons", 1]])
            made += [document.tobytes(), document.tobytes(deflate=True, use_objstms=1)]
    return made + [path.read_bytes() for path in sorted(library.glob("*.pdf"))] if library else made


def collected(folder: Path) -> list[Mutation]:
    """The bad files of a folder."""
    return [Mutation(path.name, path.read_bytes()) for path in sorted(folder.glob("*.pdf"))]


async def run(files: Iterable[Mutation], scratch: Path, seed: int) -> Result:
    """Read them, some at once, on the Ray node this process is connected to."""
    settings = load(LIMITS)
    role = Pdf(settings.pdf, settings.entities, settings.encoder, settings.logs)
    outcomes: list[Outcome] = []
    good: list[bool] = []
    places = asyncio.Semaphore(AT_ONCE)
    whole = scratch / "good.pdf"
    whole.write_bytes(originals()[2])
    peak = Peak()

    async def one(number: int, file: Mutation) -> None:
        try:
            path = scratch / f"{number}.pdf"
            await asyncio.to_thread(path.write_bytes, file.content)
            outcomes.append(await attempt(role, settings, file.name, path))
            await asyncio.to_thread(path.unlink)
            if number % GOOD_EVERY == 0:
                good.append((await attempt(role, settings, "good", whole)).state == "read")
        finally:
            places.release()

    # Together, so that a watch that fails ends the run instead of leaving a peak of nothing.
    async with asyncio.TaskGroup() as watched:
        watching = watched.create_task(peak.watch())
        async with asyncio.TaskGroup() as group:
            for number, file in enumerate(files):
                await places.acquire()
                group.create_task(one(number, file))
        watching.cancel()
    return Result(seed, outcomes, (len(good), sum(good)), peak.mb)


async def attempt(role: Pdf, settings: Settings, name: str, path: Path) -> Outcome:
    """Inspect and read one file."""
    started = time.monotonic()
    limit = settings.pdf.document_timeout_s
    try:
        deadline = Deadline.after(limit)
        info = await role.inspect(str(path), deadline=deadline)
        wanted = range(1, min(info.pages, PAGES_READ) + 1)
        missing, errors = set(wanted), []
        async for part in role.read(str(path), wanted, enrich=False, deadline=deadline):
            readings = part.readings
            missing.difference_update(reading.page.number for reading in readings)
            errors += [reading.page.error for reading in readings if reading.page.error]
        if missing:
            state, detail = "broken", f"pages {sorted(missing)} never came"
        else:
            state, detail = ("partial", errors[0]) if errors else ("read", "")
    except GatherumError as error:
        state, detail = "refused", error.code
    except Exception as error:  # noqa: BLE001 -- that there is none is what is measured
        state, detail = "broken", repr(error)
    return Outcome(name, state, detail, time.monotonic() - started, limit)


class Peak:
    """The largest a page worker or its child has been."""

    def __init__(self) -> None:
        self.mb = 0.0

    async def watch(self) -> None:
        """Look several times a second until cancelled."""
        while True:
            self.mb = max(self.mb, await asyncio.to_thread(largest_mb))
            await asyncio.sleep(0.2)


def workers() -> list[psutil.Process]:
    """Ray's workers below this process, and what they started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::"):
                found += [process, *process.children(recursive=True)]
        except psutil.Error:
            continue
    return found


def resident_mb(process: psutil.Process) -> float:
    """Private memory in RAM, MB; 0 for a process that is gone."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0
    return float(memory.rss - memory.shared) / limits.MB


def largest_mb() -> float:
    """The largest of them now."""
    return max(map(resident_mb, workers()), default=0.0)


def report(result: Result) -> str:
    """The counts, for people."""
    count, whole = result.good
    kinds: dict[str, Counter[str]] = {}
    for outcome in result.outcomes:
        kinds.setdefault(outcome.name.rpartition("-")[0] if "__" not in outcome.name else "collected", Counter())[
            outcome.state
        ] += 1
    lines = [
        f"seed {result.seed}: {len(result.outcomes)} files, {dict(result.states)}, slowest {result.slowest.name} "
        f"{result.slowest.seconds:.1f} s, late {sum(outcome.late for outcome in result.outcomes)}",
        f"good documents whole: {whole} of {count}; largest worker {result.peak_mb:,.0f} MB",
        *(f"  {kind}: {dict(states)}" for kind, states in sorted(kinds.items())),
    ]
    return "\n".join(lines)


def main() -> None:
    """Run it, print the counts, and write every outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="mutations")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--out", type=Path, help="write the outcomes here, as JSON")
    given = parser.parse_args()
    root = Path(__file__).parents[1]
    data = Path(os.environ.get("GATHERUM_DATA", root.parent / "shared" / "data"))
    library = root / "examples" / "library"
    ray.init(address="local", num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    try:
        with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
            files = collected(data / "hostile" / "files")
            if not files:
                print(f"Collected files skipped: there are none in {data / 'hostile'}. Say where with GATHERUM_DATA.")
            made = mutations(originals(library), given.count, given.seed)
            result = asyncio.run(run(itertools.chain(files, made), Path(scratch), given.seed))
    finally:
        ray.shutdown()
    print(report(result))
    if given.out:
        figures = {**asdict(result), "states": dict(result.states)}
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(int(bool(result.states["broken"] or any(outcome.late for outcome in result.outcomes))))


if __name__ == "__main__":
    main()
