"""The corpus of the load: scifact, Cranfield and CACM, published once into a store that later runs use again.

An abstract is a page, and one passage. Pages are read, and names found in them, by the functions that page tasks run,
and committed as ingestion commits them; only Ray and HTTP are left out. The passages' vectors are those that
`benchmarks.retrieval --cache` keeps, or are made here, which takes half an hour of CPU time.

    python -m benchmarks.library DATA_DIR --vectors CACHE
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from actors.database import Database
from actors.deadline import Deadline
from actors.messages import Chunk, DocumentInfo, Embeddings, PageReading, Upload
from actors.reading import tasks
from actors.reading.ranges import Range
from actors.search.encoder import OnnxEncoder, Vectors
from actors.store.blobs import Folder, Incoming
from benchmarks import cranfield
from config import logs
from config.settings import load

SETS: Final = ("cranfield", "cacm", "scifact")
SETTINGS: Final = load(environ={"GATHERUM_LOGS__LEVEL": "ERROR"})
BUDGET_S: Final = 600.0
DONE: Final = "library.json"
"""Written when all is in."""


def main() -> None:
    """Fill a data directory from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("--vectors", type=Path, help="folder of NAME.documents.npy")
    given = parser.parse_args()
    if not there():
        print("Skipped: the collections are not there. Say where with GATHERUM_DATA.")
        return
    fill(given.data_dir, given.vectors)


def there() -> bool:
    """Whether all collections are."""
    return all(cranfield.folder(name) for name in SETS)


def questions(count: int) -> list[str]:
    """So many distinct questions, the collections taking turns."""
    each = [cranfield.questions(source, count) for name in SETS if (source := cranfield.folder(name))]
    mixed = itertools.chain.from_iterable(itertools.zip_longest(*each))
    return [text for text in dict.fromkeys(mixed) if text is not None][:count]


def fill(data_dir: Path, vectors: Path | None) -> None:
    """Bring everything into the store of a data directory that no system runs on; nothing happens if it is in."""
    if (data_dir / DONE).is_file():
        return
    shutil.rmtree(data_dir, ignore_errors=True)
    data_dir.mkdir(parents=True)
    logs.configure(SETTINGS.logs, role="benchmark")
    began = time.perf_counter()
    pages = asyncio.run(_fill(data_dir, vectors))
    done = {"pages": pages, "seconds": round(time.perf_counter() - began, 1)}
    (data_dir / DONE).write_text(json.dumps(done) + "\n", encoding="utf-8")


async def _fill(data_dir: Path, vectors: Path | None) -> int:
    blobs = Folder(data_dir / "blobs")
    url = SETTINGS.model_copy(update={"data_dir": data_dir}).database_url
    database = Database(SETTINGS.database, SETTINGS.sources, SETTINGS.blobs, url=url, blobs=blobs, max_attempts=1)
    await database.start()
    total = 0
    try:
        with (
            tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch,
            ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
        ):
            made: dict[str, Vectors] = {}
            for name in SETS:
                source = cranfield.folder(name)
                assert source is not None  # noqa: S101 -- `there` was asked
                of_all = await asyncio.to_thread(_vectors, source, vectors)
                first = 0
                for path in cranfield.write_pdfs(source, Path(scratch) / name):
                    sha256, pages = await _accept(database, blobs, path, name)
                    made[sha256] = of_all[first : first + pages]
                    first += pages

            async def work() -> None:
                nonlocal total
                while (lease := await database.claim("library", BUDGET_S, deadline=_budget())) is not None:
                    path = str(blobs.path(lease.sha256))
                    loop = asyncio.get_running_loop()
                    readings = await loop.run_in_executor(pool, _read, path, lease.pages, made[lease.sha256])
                    await database.commit_pages(lease.job_id, lease.fence, readings, deadline=_budget())
                    await database.publish(lease.job_id, lease.fence, deadline=_budget())
                    total += lease.pages
                    print(f"{lease.collection}: {total:,} pages", flush=True)

            async with asyncio.TaskGroup() as group:
                for _ in range(os.cpu_count() or 1):
                    group.create_task(work())
    finally:
        await database.stop()
    return total


def _vectors(source: Path, kept: Path | None) -> Vectors:
    """Of all documents of a collection, in their order, normalised; shape (documents, dimension)."""
    file = kept / f"{source.name}.documents.npy" if kept else None
    if file and file.is_file():
        return np.asarray(np.load(file), np.float32)
    records: list[dict[str, Any]] = cranfield.records(source / "corpus.jsonl")
    made = _encoder().vectors([f"{record['title']}\n{record['text']}".strip() for record in records])
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, made)
    return made


def _encoder() -> OnnxEncoder:
    return OnnxEncoder.minilm(threads=os.cpu_count() or 1)


async def _accept(database: Database, blobs: Folder, path: Path, collection: str) -> tuple[str, int]:
    async with Incoming(blobs) as file:
        await file.write(await asyncio.to_thread(path.read_bytes))
        sha256, length = await file.commit()
    info: DocumentInfo = await asyncio.to_thread(tasks.inspect_file, str(path), _setup())
    await database.accept(Upload(sha256, length, path.name, collection, info, {}), deadline=_budget())
    return sha256, info.pages


def _read(path: str, count: int, vectors: Vectors) -> tuple[PageReading, ...]:
    report, readings = tasks.read_range(path, Range(tuple(range(1, count + 1))), _setup(SETTINGS.entities.model))
    if len(report.done) != count:
        raise RuntimeError(f"{path}: not all of it was read")
    identity = _encoder().identity
    whole = []
    for reading, vector in zip(readings, vectors, strict=True):
        page = reading.page
        chunk = Chunk(page.number, 0, 0, len(page.text), page.text, page.words)
        whole.append(replace(reading, chunks=(chunk,), embeddings=Embeddings.of(identity, vector[np.newaxis])))
    return tuple(whole)


def _setup(model: str | None = None) -> tasks.Setup:
    # The limits are a running system's protection; here a hundred pages are one range.
    patient = SETTINGS.pdf.model_copy(update={"page_timeout_s": BUDGET_S})
    return tasks.Setup(patient, model, SETTINGS.logs, {})


def _budget() -> Deadline:
    return Deadline.after(BUDGET_S)


if __name__ == "__main__":
    main()
