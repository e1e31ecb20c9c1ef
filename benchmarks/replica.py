"""How soon a replica of the retrieval role is back after it was killed, and what it holds, over 100,000 chunks.

A store is filled with documents of synthetic words and vectors, an index follows it here until its snapshot is written,
then a system is started over both. The replica's process is killed; what is timed is from the blow until the new one
says that it is ready, Ray's own part included, and until it has answered a search.

    python -m benchmarks.replica --out replica.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import ray
from rich.console import Console

from actors import cluster
from actors.database import Database
from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.messages import (
    Chunk,
    DocumentInfo,
    Embeddings,
    Fitted,
    Health,
    Page,
    PageReading,
    Query,
    Upload,
    Words,
)
from actors.node import Running
from actors.retrieval import Retriever
from actors.search.encoder import OnnxEncoder, unit
from actors.search.fast import FastEncoder
from actors.store.blobs import Folder, Incoming
from benchmarks.store import VOCABULARY
from benchmarks.system import running
from config import logs
from config.settings import Settings, load

PAGES: Final = 50  # of a document
CHUNKS: Final = 10  # of a page
WORDS: Final = 120  # of a chunk
RANGE: Final = 16  # pages committed together
BUDGET_S: Final = 3600.0
READY_S: Final = 120.0


def main() -> None:
    """Run it, print the figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=3, help="how often the replica is killed")
    parser.add_argument("--data", type=Path, help="data directory that is kept; what is there is not filled again")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        data_dir = given.data or Path(scratch) / "data"
        settings = load({"data_dir": str(data_dir), "logs": {"level": "WARNING"}})
        logs.configure(settings.logs, role="benchmark")
        if not (data_dir / "indexes").exists():
            data_dir.mkdir(parents=True, exist_ok=True)
            asyncio.run(fill(settings, given.chunks))
        with running(data_dir):
            blows = kill(data_dir, given.times)
    figures = {"cpus": os.cpu_count(), "chunks": given.chunks, "blows": blows}
    Console().print_json(data=figures)
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# --- filling ---------------------------------------------------------------------------------------------------------


async def fill(settings: Settings, count: int) -> None:
    """Publish documents of so many chunks, and write a snapshot of the indexes over them."""
    blobs = Folder(settings.data_dir / "blobs")
    database = Database(
        settings.database, settings.sources, settings.blobs, url=settings.database_url, blobs=blobs, max_attempts=3
    )
    await database.start()
    encoder = OnnxEncoder.minilm(threads=1)
    chance = np.random.default_rng(0)
    # What the ingest role would else begin to fit at once.
    table = chance.normal(size=(len(encoder.pieces), encoder.dimension)).astype(np.float16)
    made = FastEncoder(table, np.ones(len(table), np.float32), identity=encoder.identity, rows=count)
    fitted = Fitted(f"fast:{encoder.identity}", made.version, count, made.to_bytes())
    often = settings.retrieval.model_copy(update={"snapshot_s": 1.0})
    retriever = Retriever(often, settings.encoder, database, folder=settings.data_dir / "indexes")
    try:
        await database.keep_fitted(fitted, deadline=budget())
        change = 0
        for number in range(count // (PAGES * CHUNKS)):
            change = await publish(database, blobs, number, encoder.identity, chance)
        await retriever.start()
        await retriever.caught_up(change, deadline=budget())
        while (await retriever.health(deadline=budget())).detail["snapshot"] < change:  # noqa: ASYNC110 -- as ops would
            await asyncio.sleep(1)
    finally:
        await retriever.stop()
        await database.stop()


async def publish(database: Database, blobs: Folder, number: int, encoder: str, chance: np.random.Generator) -> int:
    """Take a document in, store its pages, make it visible; the number of the change."""
    async with Incoming(blobs) as file:
        await file.write(b"%d" % number)
        sha256, length = await file.commit()
        upload = Upload(sha256, length, f"{number}.pdf", "bench", DocumentInfo(PAGES), {"number": number})
        await database.accept(upload, deadline=budget())
    lease = await database.claim("bench", BUDGET_S, deadline=budget())
    if lease is None:
        raise RuntimeError("There was no job to claim.")
    readings = await asyncio.to_thread(pages, number, encoder, chance)
    for start in range(0, PAGES, RANGE):
        part = tuple(readings[start : start + RANGE])
        await database.commit_pages(lease.job_id, lease.fence, part, deadline=budget())
    return (await database.publish(lease.job_id, lease.fence, deadline=budget())).number


def pages(document: int, encoder: str, chance: np.random.Generator) -> list[PageReading]:
    """Pages of random words with boxes, and random vectors of their chunks."""
    dice = random.Random(document)
    readings = []
    for number in range(1, PAGES + 1):
        words = dice.choices(VOCABULARY, k=WORDS * CHUNKS)
        boxes, start = [], 0
        for position, word in enumerate(words):
            x, y = 50.0 + 40 * (position % 12), 60.0 + 7 * (position // 12)
            boxes.append((start, start + len(word), x, y, x + 6 * len(word), y + 6))
            start += len(word) + 1
        text, packed = " ".join(words), Words.of(boxes)
        chunks, first = [], 0
        for ordinal in range(CHUNKS):
            end = boxes[WORDS * (ordinal + 1) - 1][1]
            chunks.append(Chunk(number, ordinal, first, end, text[first:end], packed.within(first, end)))
            first = end + 1
        vectors = unit(chance.normal(size=(CHUNKS, 384)).astype(np.float32))
        page = Page(number, 595.0, 842.0, text, packed)
        readings.append(PageReading(page, tuple(chunks), (), Embeddings.of(encoder, vectors)))
    return readings


# --- killing ---------------------------------------------------------------------------------------------------------


def kill(data_dir: Path, times: int) -> list[dict[str, Any]]:
    """Kill the replica of a running system again and again; per blow how long it was away, and what it then holds."""
    recorded = Running.load(data_dir)
    if recorded is None:
        raise RuntimeError("The system is not running.")
    cluster.join(recorded.address)
    blows: list[dict[str, Any]] = []
    try:
        before = ready(0)
        for _ in range(times):
            struck = time.perf_counter()
            os.kill(before.pid, signal.SIGKILL)
            after = ready(before.pid)
            ready_s = time.perf_counter() - struck
            role: Any = cluster.handle("retrieval")
            asked = [Query(" ".join(VOCABULARY[place : place + 6])) for place in range(32)]
            ray.get(role.search_many.remote(asked, deadline=Deadline.after(READY_S)))
            answered_s = time.perf_counter() - struck
            memory = psutil.Process(after.pid).memory_full_info()
            blows.append(
                {
                    "ready_s": round(ready_s, 2),
                    "answered_s": round(answered_s, 2),
                    "chunks": after.detail["chunks"],
                    "vectors": after.detail["vectors"],
                    "rss_mb": round(memory.rss / 1e6),
                    "uss_mb": round(memory.uss / 1e6),
                }
            )
            before = after
    finally:
        cluster.leave()
    return blows


def ready(before: int) -> Health:
    """The replica's health, as soon as it is ready and another process than before."""
    role: Any = cluster.handle("retrieval")
    end = time.perf_counter() + READY_S
    while time.perf_counter() < end:
        with contextlib.suppress(ray.exceptions.RayError, GatherumError):
            found: Any = ray.get(role.health.remote(deadline=Deadline.after(5)), timeout=5)
            if isinstance(found, Health) and found.ready and found.pid != before:
                return found
        time.sleep(0.02)
    raise RuntimeError(f"The replica was not ready within {READY_S:g} s.")


def budget() -> Deadline:
    """Long enough."""
    return Deadline.after(BUDGET_S)


if __name__ == "__main__":
    main()
