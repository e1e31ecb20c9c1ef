"""Restart: seconds until a replica of the retrieval role that was killed is ready again, from its snapshot.

A store on SQLite is filled with pages of made-up words whose chunks have vectors, a system runs over it until the
replica has all of them and has written its snapshot; then its process is killed, several times. Counted is from the
kill until `/health` shows another process that is ready, and that a search is answered is seen. With `--empty` the
snapshot is removed before, so that the indexes are filled from the store.

    python -m benchmarks.restart --chunks 100000 --out restart.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from rich.console import Console

from actors.database import Database
from actors.messages import Embeddings, PageReading
from actors.search.encoder import unit
from actors.search.models import MINILM
from actors.store.blobs import Folder
from benchmarks.store import RANGE, SETTINGS, budget, claimed, prose, take_in
from benchmarks.system import System, running

DIMENSION: Final = 384
SUBJECTS: Final = 2_000
"""Directions that vectors lie around, so that they have neighbours as real ones do."""

PAGES: Final = 500  # of a document
REPLICA: Final = "retrieval-0"
SNAPSHOT_S: Final = 5.0
FILLED_S: Final = 1_200.0
AGAIN_S: Final = 120.0
PAUSE_S: Final = 0.02


def main() -> None:
    """Run it, print it, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--empty", action="store_true", help="without a snapshot, once")
    parser.add_argument("--keep", type=Path, help="folder that keeps the filled store between runs")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        data_dir = (given.keep or Path(scratch)) / f"restart-{given.chunks}"
        if not data_dir.exists():
            data_dir.mkdir(parents=True)
            asyncio.run(fill(data_dir, given.chunks))
        with running(data_dir, {"GATHERUM_RETRIEVAL__SNAPSHOT_S": str(SNAPSHOT_S)}) as system:
            figures = measured(system, given.chunks, 1 if given.empty else given.kills, empty=given.empty)
    Console(width=120).print(figures)
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


async def fill(data_dir: Path, chunks: int) -> None:
    """Publish documents until there are so many chunks at least."""
    database = Database(
        SETTINGS.database,
        SETTINGS.sources,
        SETTINGS.blobs,
        url=f"sqlite+aiosqlite:///{data_dir / 'gatherum.db'}",
        blobs=Folder(data_dir / "blobs"),
        max_attempts=3,
    )
    await database.start()
    dice, chance, identity = random.Random(0), np.random.default_rng(0), MINILM.read()[1]
    subjects = chance.normal(size=(SUBJECTS, DIMENSION)).astype(np.float32)
    held = 0
    while held < chunks:
        await take_in(database, data_dir, f"{held}".encode(), PAGES)
        lease = await claimed(database)
        for start in range(0, PAGES, RANGE):
            readings: list[PageReading] = []
            for number in range(start + 1, min(start + RANGE, PAGES) + 1):
                reading = prose(number, dice)
                size = len(reading.chunks)
                noise = chance.normal(size=(size, DIMENSION)).astype(np.float32)
                made = unit(subjects[chance.integers(0, SUBJECTS, size)] + noise)
                readings.append(replace(reading, embeddings=Embeddings.of(identity, made)))
                held += size
            await database.commit_pages(lease.job_id, lease.fence, tuple(readings), deadline=budget())
        await database.publish(lease.job_id, lease.fence, deadline=budget())
    await database.stop()


def measured(system: System, chunks: int, kills: int, *, empty: bool) -> dict[str, Any]:
    """Seconds of each restart, and what the replica held."""
    filled = until(system, lambda now: now["ready"] and now["detail"]["snapshot"] >= now["detail"]["change"], FILLED_S)
    took, pids = [], [filled["pid"]]
    for _ in range(kills):
        if empty:
            shutil.rmtree(system.data_dir / "indexes")
        began = time.perf_counter()
        os.kill(pids[-1], signal.SIGKILL)
        again = until(system, lambda now: now["ready"] and now["pid"] != pids[-1], FILLED_S if empty else AGAIN_S)
        took.append(time.perf_counter() - began)
        search(system)
        if again["detail"]["chunks"] < chunks:
            raise RuntimeError(f"Only {again['detail']['chunks']} chunks are there after the restart.")
        pids.append(again["pid"])
    return {
        "chunks": filled["detail"]["chunks"],
        "vectors": filled["detail"]["vectors"],
        "from": "the store" if empty else "the snapshot",
        "restart_s": [round(each, 2) for each in took],
        "median_s": round(statistics.median(took), 2),
        "most_s": round(max(took), 2),
        "mb": round(psutil.Process(pids[-1]).memory_full_info().uss / 1e6),
    }


def until(system: System, reached: Any, most_s: float) -> dict[str, Any]:
    """The replica as `/health` shows it, once something holds for it."""
    ends = time.perf_counter() + most_s
    while time.perf_counter() < ends:
        try:
            with urllib.request.urlopen(f"{system.url}/health", timeout=10) as response:  # noqa: S310 - our own address
                now: dict[str, Any] = json.load(response)["replicas"][REPLICA]
        except urllib.error.HTTPError:
            now = {}
        if now.get("pid") and now["detail"].get("vectors") and reached(now):
            return now
        time.sleep(PAUSE_S)
    raise RuntimeError(f"The replica did not get there in {most_s:.0f} s.")


def search(system: System) -> None:
    """See that it answers.

    Raises:
        RuntimeError: it finds nothing.
    """
    body = json.dumps({"query": " ".join(prose(1, random.Random(0)).page.text.split()[:6]), "limit": 3}).encode()
    asked = urllib.request.Request(  # noqa: S310 - our own address
        f"{system.url}/v1/search", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=30) as response:  # noqa: S310
        if not json.load(response)["passages"]:
            raise RuntimeError("A search found nothing.")


if __name__ == "__main__":
    main()
