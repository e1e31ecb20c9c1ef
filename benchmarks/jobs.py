"""How fast jobs are claimed by 1, 4 and 16 processes on each database, and by procrastinate's on the same PostgreSQL.

Every worker is a process with a connection of its own that takes jobs until there are none left. A claim is one
transaction, on the disk when it is answered. procrastinate's is one call of a function in the database; ours, the same
on every database, is several statements, and also finds out which pages the document lacks. procrastinate is no
dependency: it is looked for in an environment of its own.

    python -m benchmarks.jobs --peer /path/to/environment/bin/python --out jobs.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.reading import PIPELINE
from actors.store import tables
from benchmarks.store import KINDS, SETTINGS, SHOWN, budget, database_of, store
from config import logs

WORKERS: Final = (1, 4, 16)
TIMEOUT_S: Final = 300.0
PEER: Final = "procrastinate"
console = Console()

PEER_SCRIPT: Final = """
import asyncio, json, multiprocessing, sys, time
import procrastinate

conninfo, count, numbers = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])

def app():
    made = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=1))
    made.task(name="read")(print)
    return made

async def prepare(first):
    async with app().open_async() as opened:
        if first:
            await opened.schema_manager.apply_schema_async()
        await opened.connector.execute_query_async("DELETE FROM procrastinate_jobs")
        await opened.tasks["read"].batch_defer_async(*({} for _ in range(count)))
        await opened.connector.execute_query_async("ANALYZE procrastinate_jobs")

async def take(barrier, queue):
    async with app().open_async() as opened:
        worker = await opened.job_manager.register_worker()
        taken = 0
        barrier.wait()
        began = time.time()
        while await opened.job_manager.fetch_job(None, worker) is not None:
            taken += 1
        queue.put((began, time.time(), taken))

def run(barrier, queue):
    asyncio.run(take(barrier, queue))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    found = {}
    for number in numbers:
        asyncio.run(prepare(number == numbers[0]))
        barrier, queue = context.Barrier(number), context.Queue()
        workers = [context.Process(target=run, args=(barrier, queue)) for _ in range(number)]
        for worker in workers: worker.start()
        runs = [queue.get() for _ in workers]
        for worker in workers: worker.join()
        assert sum(run[2] for run in runs) == count, runs
        found[number] = count / (max(run[1] for run in runs) - min(run[0] for run in runs))
    print(json.dumps(found))
"""


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs")
    parser.add_argument("--peer", type=Path, help="a Python that has procrastinate[psycopg]")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    count = 200 if given.quick else 2000
    logs.configure(SETTINGS.logs, role="benchmark")
    found: dict[str, dict[int, float]] = {}
    for kind in KINDS:
        with store(kind) as place:
            found[SHOWN[kind]] = {workers: ours(place.url, place.folder, count, workers) for workers in WORKERS}
            if kind == "postgresql" and given.peer:
                found[PEER] = theirs(given.peer, place.url, count)
    if not given.peer:
        console.print("procrastinate skipped: say with --peer which Python has it.")
    console.print(table(found, count))
    if given.out:
        given.out.write_text(json.dumps({"jobs": count, "claims_per_s": found}, indent=2) + "\n", encoding="utf-8")


def ours(url: str, folder: Path, count: int, workers: int) -> float:
    """Claims a second."""
    asyncio.run(fill(url, folder, count))
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(workers), context.Queue()
    processes = [context.Process(target=run, args=(url, folder, barrier, queue)) for _ in range(workers)]
    for process in processes:
        process.start()
    runs: list[tuple[float, float, int]] = [queue.get(timeout=TIMEOUT_S) for _ in processes]
    for process in processes:
        process.join()
    if sum(taken for _, _, taken in runs) != count:
        raise RuntimeError(f"{count} jobs were claimed {sum(taken for _, _, taken in runs)} times.")
    return count / (max(ended for _, ended, _ in runs) - min(began for began, _, _ in runs))


def run(url: str, folder: Path, barrier: Barrier, queue: Any) -> None:
    """Be a worker."""
    logs.configure(SETTINGS.logs, role="benchmark")
    queue.put(asyncio.run(take(url, folder, barrier)))


async def take(url: str, folder: Path, barrier: Barrier) -> tuple[float, float, int]:
    """Claim until nothing is left; when that began and ended, and how many there were."""
    database = database_of(url, folder)
    await database.start()
    await database.last_change(deadline=budget())
    taken = 0
    await asyncio.to_thread(barrier.wait, TIMEOUT_S)
    began = time.time()
    while await database.claim("bench", TIMEOUT_S, deadline=budget()) is not None:
        taken += 1
    ended = time.time()
    await database.stop()
    return began, ended, taken


async def fill(url: str, folder: Path, count: int) -> None:
    """Leave so many jobs of one page in the store, and nothing else."""
    database = database_of(url, folder)
    await database.start()

    async def work(connection: AsyncConnection, now: float) -> None:
        for name in (tables.jobs, tables.documents, tables.collections):
            await connection.execute(delete(name))
        await connection.execute(insert(tables.collections), {"name": "bench", "created_at": now})
        shared: dict[str, Any] = {"pipeline": None, "created_at": now, "collection": "bench"}
        documents = [
            {
                **shared,
                "id": f"{number:032}",
                "sha256": f"{number:064}",
                "size": 1,
                "title": "",
                "filename": "",
                "pages": 1,
                "metadata": {},
                "state": "queued",
            }
            for number in range(count)
        ]
        jobs = [
            {
                **shared,
                "id": f"{number:032}",
                "document_id": f"{number:032}",
                "dedup_key": str(number),
                "state": "queued",
                "pipeline": PIPELINE,
                "run_at": now,
                "attempt": 0,
                "max_attempts": 3,
                "fence": 0,
                "updated_at": now,
                "turn": number,
            }
            for number in range(count)
        ]
        await connection.execute(insert(tables.documents), documents)
        await connection.execute(insert(tables.jobs), jobs)

    await database._store.write(work)
    await database.stop()


def theirs(python: Path, url: str, count: int) -> dict[int, float]:
    """Procrastinate's claims a second, by workers."""
    script = Path(__file__).with_suffix(".peer.py")
    script.write_text(PEER_SCRIPT, encoding="utf-8")
    try:
        done = subprocess.run(
            [str(python), str(script), url, str(count), json.dumps(WORKERS)],
            check=True,
            capture_output=True,
            text=True,
            timeout=3 * TIMEOUT_S,
        )
    finally:
        script.unlink()
    return {int(workers): speed for workers, speed in json.loads(done.stdout).items()}


def table(found: dict[str, dict[int, float]], count: int) -> Table:
    """The figures, for people."""
    shown = Table(title=f"Claims/s, {count:,} jobs, {os.cpu_count()} cores")
    shown.add_column("workers")
    for name in found:
        shown.add_column(name, justify="right")
    if PEER in found:
        shown.add_column(f"PostgreSQL / {PEER}", justify="right")
    for workers in WORKERS:
        cells = [f"{speeds[workers]:,.0f}" for speeds in found.values()]
        if PEER in found:
            cells.append(f"{found[SHOWN['postgresql']][workers] / found[PEER][workers]:.2f}")
        shown.add_row(str(workers), *cells)
    return shown


if __name__ == "__main__":
    main()
