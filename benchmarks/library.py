"""The corpus of the load: scifact, Cranfield and CACM, published once into a store that later runs use again.

Every page is read by the functions that page tasks run (text, boxes, chunks, names, vectors), and committed as
ingestion commits it; only Ray and HTTP are left out. That takes a quarter of an hour on two cores, most of it the
encoder's, so a store that has been filled is kept, and what was interrupted goes on where it stopped.

    python -m benchmarks.library DATA_DIR
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from actors.database import Database
from actors.deadline import Deadline
from actors.messages import DocumentInfo, PageReading, Upload
from actors.reading import tasks
from actors.reading.ranges import Range
from actors.store.blobs import Folder, Incoming
from benchmarks import cranfield
from config import logs
from config.settings import load

SETS: Final = ("cranfield", "cacm", "scifact")
SETTINGS: Final = load(environ={"GATHERUM_LOGS__LEVEL": "ERROR"})
BUDGET_S: Final = 600.0
LEASE_S: Final = 3600.0
DONE: Final = "library.json"
"""Written when all is in."""


def main() -> None:
    """Fill a data directory from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if not there():
        print("Skipped: the collections are not there. Say where with GATHERUM_DATA.")
        return
    fill(given.data_dir, given.processes)


def there() -> bool:
    """Whether all collections are."""
    return all(cranfield.folder(name) for name in SETS)


def questions(count: int) -> list[str]:
    """So many distinct questions, the collections taking turns."""
    each = [cranfield.questions(source, count) for name in SETS if (source := cranfield.folder(name))]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*each))
    return [text for text in dict.fromkeys(mixed) if text is not None][:count]


def fill(data_dir: Path, processes: int | None = None) -> None:
    """Bring everything into the store of a data directory that no system runs on; nothing happens if it is in."""
    if (data_dir / DONE).is_file():
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    logs.configure(SETTINGS.logs, role="benchmark")
    began = time.perf_counter()
    pages = asyncio.run(_fill(data_dir, processes or os.cpu_count() or 1))
    done = {"pages": pages, "seconds": round(time.perf_counter() - began, 1)}
    (data_dir / DONE).write_text(json.dumps(done) + "\n", encoding="utf-8")


async def _fill(data_dir: Path, processes: int) -> int:
    blobs = Folder(data_dir / "blobs")
    database = Database(
        SETTINGS.database,
        SETTINGS.sources,
        SETTINGS.blobs,
        url=SETTINGS.model_copy(update={"data_dir": data_dir}).database_url,
        blobs=blobs,
        max_attempts=1000,  # each run that is interrupted takes one
    )
    await database.start()
    total = 0
    try:
        if not await database.collections(deadline=_budget()):
            with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
                for name in SETS:
                    source = cranfield.folder(name)
                    assert source is not None  # noqa: S101 -- `there` was asked
                    for path in cranfield.write_pdfs(source, Path(scratch) / name):
                        await _accept(database, blobs, path, name)
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin) as pool:

            async def work() -> None:
                nonlocal total
                while (lease := await database.claim("library", LEASE_S, deadline=_budget())) is not None:
                    numbers = tuple(range(1, lease.pages + 1))
                    path = str(blobs.path(lease.sha256))
                    readings = await asyncio.get_running_loop().run_in_executor(pool, _read, path, numbers)
                    await database.commit_pages(lease.job_id, lease.fence, readings, deadline=_budget())
                    await database.publish(lease.job_id, lease.fence, deadline=_budget())
                    total += lease.pages
                    print(f"{lease.collection}: {total:,} pages in this run", flush=True)

            async with asyncio.TaskGroup() as group:
                for _ in range(processes):
                    group.create_task(work())
    finally:
        await database.stop()
    return total


async def _accept(database: Database, blobs: Folder, path: Path, collection: str) -> None:
    async with Incoming(blobs) as file:
        await file.write(await asyncio.to_thread(path.read_bytes))
        sha256, length = await file.commit()
    info: DocumentInfo = await asyncio.to_thread(tasks.inspect_file, str(path), _setup())
    await database.accept(Upload(sha256, length, path.name, collection, info, {}), deadline=_budget())


def _begin() -> None:
    os.nice(1)  # whatever else the machine does goes first


def _read(path: str, numbers: tuple[int, ...]) -> tuple[PageReading, ...]:
    from dataclasses import replace

    setup = replace(_setup(), model=SETTINGS.entities.model, encoder=SETTINGS.encoder)
    setup = replace(setup, survey=tasks.survey_file(path, setup))
    report, readings = tasks.read_range(path, Range(numbers), setup)
    if len(report.done) != len(numbers) or any(reading.embeddings is None for reading in readings):
        raise RuntimeError(f"{path}: not all of it was read")
    return readings


def _setup() -> tasks.Setup:
    # The limits are a running system's protection; here a hundred pages are one range.
    patient = SETTINGS.pdf.model_copy(update={"page_timeout_s": BUDGET_S})
    return tasks.Setup(patient, None, SETTINGS.logs, {})


def _budget() -> Deadline:
    return Deadline.after(BUDGET_S)


if __name__ == "__main__":
    main()
