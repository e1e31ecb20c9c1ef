"""Statements over HTTP: requests a second beside datasette, what fences cost, and what slow statements cost others.

The same SQLite file, made here, is read by both, one process each, under the same closed loop. datasette is installed
in an environment of its own, which `--datasette` names; without it, only Gatherum is measured.

    python -m benchmarks.sql --datasette /path/to/venv/bin/datasette --out sql.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from rich.console import Console
from rich.table import Table

from actors.deadline import Deadline
from actors.messages import Source
from actors.sql.running import Limits
from actors.sql.sources import Sources
from benchmarks import load
from benchmarks.system import answers, free_port, running
from config.settings import load as load_settings

ROWS = 50_000
POINT = "SELECT id, name, price, day FROM items WHERE id = :id"
THOUSAND = "SELECT id, name, price, day FROM items LIMIT 1000"
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
SLOW_AT_ONCE = 200
SLOW_MS = 5000
console = Console(width=120)


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time of each load")
    parser.add_argument("--datasette", type=Path, help="the program")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        folder = Path(scratch)
        make(folder / "shop.db")
        figures = measure(folder, given.connections, given.seconds, given.datasette)
    console.print(table(figures["loads"]))
    console.print_json(data={key: value for key, value in figures.items() if key != "loads"})
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def make(path: Path) -> None:
    """A table that is read from."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL, day TEXT)")
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?, ?)",
        ((n, f"Item number {n}", n / 100, f"2024-01-{n % 28 + 1:02}") for n in range(1, ROWS + 1)),
    )
    connection.commit()
    connection.close()


def measure(folder: Path, connections: int, seconds: float, datasette: Path | None) -> dict[str, Any]:
    """All the figures."""
    points = [json.dumps({"sql": POINT, "params": {"id": n}}).encode() for n in range(1, ROWS, 97)]
    thousand = [json.dumps({"sql": THOUSAND}).encode()]
    figures: dict[str, Any] = {"cpus": os.cpu_count(), "fences": asyncio.run(overhead(folder))}
    loads: dict[str, Any] = {}
    with running(folder / "data", {"GATHERUM_SOURCES__SQLITE_ROOT": str(folder)}) as system:
        registered = httpx.post(
            f"{system.url}/v1/sources", json={"name": "shop", "kind": "sqlite", "path": "shop.db"}, timeout=30
        )
        registered.raise_for_status()
        url = f"{system.url}/v1/sources/shop/query"
        for name, bodies in (("point", points), ("1,000 rows", thousand)):
            loads[f"Gatherum, {name}"] = load.run(url, bodies, connections=connections, seconds=seconds).to_json()
        figures["slow"] = beside_slow(system.url, seconds)
    if datasette is not None:
        with served(datasette, folder / "shop.db") as url:
            queries = [urlencode({"sql": POINT, "id": n, "_shape": "objects"}) for n in range(1, ROWS, 97)]
            for name, wanted in (
                ("point", queries),
                ("1,000 rows", [urlencode({"sql": THOUSAND, "_shape": "objects"})]),
            ):
                loads[f"datasette, {name}"] = load.run(
                    url, [], connections=connections, seconds=seconds, queries=wanted
                ).to_json()
    return {**figures, "loads": loads}


async def overhead(folder: Path) -> dict[str, float]:
    """A point query by the driver alone, and behind all fences, one at a time, ms (median)."""
    bare = sqlite3.connect(folder / "shop.db")
    plain = []
    for n in range(1, 500):
        began = time.perf_counter()
        bare.execute(POINT, {"id": n}).fetchall()
        plain.append(time.perf_counter() - began)
    bare.close()
    settings = load_settings({"sources.sqlite_root": str(folder)}).sources
    sources = Sources(settings, store_path=None)
    source, fenced = Source("shop", "sqlite", "shop.db"), []
    for n in range(1, 500):
        began = time.perf_counter()
        async with sources.query(source, POINT, {"id": n}, Limits(1000, 10**7), Deadline.after(10)) as result:
            await result.rows()
        fenced.append(time.perf_counter() - began)
    await sources.close()
    return {
        "driver_ms": round(statistics.median(plain) * 1000, 4),
        "fenced_ms": round(statistics.median(fenced) * 1000, 4),
    }


def beside_slow(url: str, seconds: float) -> dict[str, Any]:
    """p99 of questions alone, and while so many slow statements are sent at once, again and again."""
    bodies = [json.dumps({"question": f"Which moon is number {n}?", "sources": []}).encode() for n in range(50)]
    alone = load.run(f"{url}/v1/ask", bodies, connections=8, seconds=seconds)
    stopping = threading.Event()
    statuses: dict[int, int] = {}

    async def one(client: httpx.AsyncClient) -> None:
        while not stopping.is_set():
            answer = await client.post(
                f"{url}/v1/sources/shop/query", params={"timeout_ms": SLOW_MS}, json={"sql": SLOW}, timeout=60
            )
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            await asyncio.sleep(1.0 if answer.status_code == 429 else 0)

    async def all_of_them() -> None:
        limits = httpx.Limits(max_connections=SLOW_AT_ONCE)
        async with httpx.AsyncClient(limits=limits) as client, asyncio.TaskGroup() as group:
            for _ in range(SLOW_AT_ONCE):
                group.create_task(one(client))

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    time.sleep(2)
    beside = load.run(f"{url}/v1/ask", bodies, connections=8, seconds=seconds)
    stopping.set()
    thread.join()
    return {
        "ask_alone": alone.to_json(),
        "ask_beside": beside.to_json(),
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
    }


@contextlib.contextmanager
def served(datasette: Path, file: Path) -> Iterator[str]:
    """Datasette over the file; URL of its route for statements."""
    port = free_port()
    settings = ["--setting", "max_returned_rows", "1000", "--setting", "num_sql_threads", "4"]
    process = subprocess.Popen(
        [str(datasette), str(file), "--port", str(port), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not answers(f"http://127.0.0.1:{port}/-/versions.json"):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("datasette did not come up")
            time.sleep(0.1)
        route = f"http://127.0.0.1:{port}/shop/-/query.json"
        yield route if answers(f"{route}?sql=select+1") else f"http://127.0.0.1:{port}/shop.json"
    finally:
        process.terminate()
        process.wait()


def table(loads: dict[str, dict[str, Any]]) -> Table:
    """The figures side by side."""
    shown = Table(title="one SQL statement a request, closed loop")
    for title in ("", "requests/s", "errors", "p50 ms", "p99 ms", "bytes"):
        shown.add_column(title, justify="left" if not title else "right")
    for name, figures in loads.items():
        shown.add_row(
            name,
            f"{figures['requests_per_s']:.0f}",
            ", ".join(f"{count} {reason}" for reason, count in figures["errors"].items()) or "0",
            *(f"{figures[key]:.0f}" for key in ("p50_ms", "p99_ms")),
            str(figures["body_bytes"]),
        )
    return shown


if __name__ == "__main__":
    main()
