"""Statements over HTTP: requests a second beside datasette, what fences cost, and what slow statements cost others.

The same SQLite file, made here, is read by both, one process each, under the same closed loop. datasette is installed
in an environment of its own, which `--datasette` names; without it, only Gatherum is measured. `--trouble` has a
PostgreSQL server, which is stopped, held, and killed in the middle of statements, while others ask other things.

    python -m benchmarks.sql --datasette /path/to/venv/bin/datasette --out sql.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiomysql
import asyncpg
import httpx
import psutil
from rich.console import Console
from rich.table import Table

from actors.deadline import Deadline
from actors.messages import Source
from actors.sql.access import Own
from actors.sql.running import Limits
from actors.sql.sources import Sources
from actors.sql.vault import Vault
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
    parser.add_argument("--trouble", action="store_true", help="what a source in trouble costs others, instead")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        folder = Path(scratch)
        make(folder / "shop.db")
        figures: dict[str, Any]
        if given.trouble:
            figures = {"cpus": os.cpu_count(), "loads": in_trouble(folder, given.seconds)}
        else:
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


def servers() -> Any:
    """The module of private servers that the tests have."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    return importlib.import_module("servers")


async def overhead(folder: Path) -> dict[str, dict[str, float]]:
    """A point query by the driver alone, and behind all fences, one at a time, ms (median), on each engine."""
    bare = sqlite3.connect(folder / "shop.db")

    async def plain(n: int) -> None:
        bare.execute(POINT, {"id": n}).fetchall()

    figures = {"sqlite": await _against(folder, Source("shop", "sqlite", "shop.db"), plain)}
    bare.close()
    for kind, driver in (("postgresql", _asyncpg), ("mysql", _aiomysql)):
        if servers().SERVERS[kind].missing():
            continue
        server = servers().SERVERS[kind]()
        try:
            source = filled(server)
            async with driver(source) as ask:
                figures[kind] = await _against(folder, source, ask)
        finally:
            server.close()
    return figures


async def _against(folder: Path, source: Source, plain: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    allowed = {"sources.sqlite_root": str(folder), "sources.allow_hosts": [f"127.0.0.1:{source.port}"]}
    settings = load_settings(allowed if source.port else {"sources.sqlite_root": str(folder)}).sources
    vault = Vault(folder / "key", variables=settings.password_variables, environ={"SOURCE_BENCH": servers().PASSWORD})
    sources = Sources(settings, own=Own(), vault=vault)

    async def fenced(n: int) -> None:
        async with sources.query(source, POINT, {"id": n}, Limits(1000, 10**7), Deadline.after(10)) as result:
            await result.rows()

    figures = {}
    for name, ask in (("driver_ms", plain), ("fenced_ms", fenced)):
        took = []
        for n in range(1, 500):
            began = time.perf_counter()
            await ask(n)
            took.append(time.perf_counter() - began)
        figures[name] = round(statistics.median(took) * 1000, 3)
    await sources.close()
    return figures


@contextlib.asynccontextmanager
async def _asyncpg(source: Source) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    connection = await asyncpg.connect(**_place(source), database=source.database)

    async def ask(n: int) -> None:
        await connection.fetch(POINT.replace(":id", "$1"), n)

    yield ask
    await connection.close()


@contextlib.asynccontextmanager
async def _aiomysql(source: Source) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    async with aiomysql.connect(**_place(source), db=source.database) as connection, connection.cursor() as cursor:

        async def ask(n: int) -> None:
            await cursor.execute(POINT.replace(":id", "%s"), (n,))
            await cursor.fetchall()

        yield ask


def _place(source: Source) -> dict[str, Any]:
    return {"host": source.host, "port": source.port, "user": source.user, "password": servers().PASSWORD}


def filled(server: Any) -> Source:
    """A started server's database with the table that is read from."""
    database = server.create_database()
    server.administer(
        "CREATE TABLE items (id INTEGER PRIMARY KEY, name VARCHAR(100), price DOUBLE PRECISION, day VARCHAR(10));"  # noqa: S608
        + "INSERT INTO items VALUES "
        + ", ".join(f"({n}, 'Article number {n}', {n / 100}, '2024-01-{n % 28 + 1:02}')" for n in range(1, 2001)),
        database,
    )
    user = servers().USER
    if server.kind == "postgresql":
        server.administer(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}", database)
    return Source(
        "remote",
        server.kind,
        host="127.0.0.1",
        port=server.port,
        database=database,
        user=user,
        password_env="SOURCE_BENCH",  # noqa: S106 - the name of a variable
    )


def in_trouble(folder: Path, seconds: float) -> dict[str, Any]:
    """What others see while a PostgreSQL source is well, away, silent, and killed in the middle of statements.

    Meanwhile six clients go on asking that source: four send statements, two questions that name a value in it.
    """
    server = servers().SERVERS["postgresql"]()
    loads: dict[str, Any] = {}
    environment = {
        "GATHERUM_SOURCES__SQLITE_ROOT": str(folder),
        "GATHERUM_SOURCES__ALLOW_HOSTS": f'["127.0.0.1:{server.port}"]',
        "SOURCE_BENCH": servers().PASSWORD,
    }
    try:
        remote = filled(server)
        # What it takes to answer is not to be counted as what others are kept waiting for.
        for process in _processes(server.port):
            process.nice(19)
        with running(folder / "data", environment) as system:
            fields = ("name", "kind", "host", "port", "database", "user", "password_env")
            for body in (
                {"name": "shop", "kind": "sqlite", "path": "shop.db"},
                {field: getattr(remote, field) for field in fields},
            ):
                httpx.post(f"{system.url}/v1/sources", json=body, timeout=30).raise_for_status()
            _until_known(system.url, "Article number 7")
            for state in ("asked by nobody", "well", "away", "silent", "killed"):
                with _asked(system.url, nobody=state == "asked by nobody") as statuses, _as(server, state):
                    time.sleep(1)
                    for name, load_of in _others(system.url, seconds).items():
                        loads[f"{state}: {name}"] = load_of().to_json()
                loads[f"{state}: {name}"]["statuses_of_the_source"] = dict(statuses)
    finally:
        server.close()
    return loads


def _others(url: str, seconds: float) -> dict[str, Callable[[], load.Result]]:
    points = [json.dumps({"sql": POINT, "params": {"id": n}}).encode() for n in range(1, ROWS, 97)]
    questions = [json.dumps({"question": f"What is the price of item number {n}?"}).encode() for n in range(50)]
    return {
        "ask": lambda: load.run(f"{url}/v1/ask", questions, connections=4, seconds=seconds),
        "point": lambda: load.run(f"{url}/v1/sources/shop/query", points, connections=4, seconds=seconds),
    }


def _until_known(url: str, name: str) -> None:
    """Wait until questions know the names of the source."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        answer = httpx.post(f"{url}/v1/ask", json={"question": f"What is the price of {name}?"}, timeout=30).json()
        if any(row["source"] == "remote" for row in answer["rows"]):
            return
        time.sleep(0.2)
    raise RuntimeError("The names of the source were not read.")


@contextlib.contextmanager
def _asked(url: str, *, nobody: bool) -> Iterator[dict[str, int]]:
    """Six clients that ask the source in trouble; what they got, by status."""
    stopping = threading.Event()
    statuses: dict[str, int] = {}
    slow = {"sql": "SELECT count(*) FROM items a, items b WHERE a.price < b.price AND a.id < 500"}
    question = {"question": "What is the price of Article number 7?"}

    def one(path: str, body: dict[str, str]) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not stopping.wait(0.05):
                answer = client.post(path, json=body)
                what = str(answer.status_code)
                if answer.json().get("partial"):
                    what += " partial"
                statuses[what] = statuses.get(what, 0) + 1

    calls = [("/v1/sources/remote/query?timeout_ms=2000", slow)] * 4 + [("/v1/ask", question)] * 2
    threads = [] if nobody else [threading.Thread(target=one, args=call) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def _as(server: Any, state: str) -> Iterator[None]:
    """The server in a state; well afterwards."""
    stopping = threading.Event()

    def kill_and_start() -> None:
        while not stopping.wait(1):
            server.kill()
            _start(server)

    if state == "away":
        server.stop()
    held = _processes(server.port) if state == "silent" else []
    for process in held:
        process.suspend()
    thread = threading.Thread(target=kill_and_start)
    if state == "killed":
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for process in held:
            process.resume()
        if state == "killed":
            thread.join()
        if state == "away":
            _start(server)


def _start(server: Any) -> None:
    """Start a server, once what is left of the one before has gone, behind everything else on this machine."""
    until = time.monotonic() + 30
    while True:
        try:
            server.start()
        except RuntimeError:
            if time.monotonic() > until:
                raise
            continue
        break
    for process in _processes(server.port):
        process.nice(19)


def _processes(port: int) -> list[psutil.Process]:
    """The processes of the server that listens at a port."""
    listening = (each for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN)
    process = psutil.Process(next(each.pid for each in listening if each.laddr[1:] == (port,)))
    return [process, *process.children(recursive=True)]


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
