"""The system under load: 1,000 connections, a given rate, four times too much, and processes killed meanwhile.

One corpus (`benchmarks/library.py`), distinct questions, generator and system on the same machine. Each part is one
load; `constant`, `unbatched` and `sequential` are what the first is held against.

    python -m benchmarks.overload LIBRARY --seconds 60 --out overload.json
    python -m benchmarks.overload LIBRARY --only closed,constant
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import library, load
from benchmarks.ask import PARTIAL, constant, served
from benchmarks.system import System, running

PARTS: Final = ("closed", "open", "overload", "kills", "constant", "unbatched", "sequential")
CONNECTIONS: Final = 1000
QUESTIONS: Final = 3000
LAG_S: Final = 0.02
KILL_EVERY_S: Final = 10.0
KILLED: Final = ("orchestrator-0", "retrieval-0", "api")
console = Console(width=150)


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="data directory that benchmarks.library has filled")
    parser.add_argument("--seconds", type=float, default=60.0, help="measured time of each load")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second of the open loop")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--set", action="append", default=[], help="environment of the system, NAME=VALUE")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    if not library.there() or not (given.library / library.DONE).is_file():
        console.print("Skipped: the collections are not there, or benchmarks.library has not filled the directory.")
        return
    wanted = given.only.split(",")
    settings = dict(one.split("=", 1) for one in given.set)
    figures = measure(given.library, wanted, given.seconds, given.rate, settings)
    console.print(table(figures))
    if given.out:
        given.out.write_text(json.dumps({"cpus": os.cpu_count(), "parts": figures}, indent=2) + "\n", encoding="utf-8")


def measure(
    data_dir: Path, wanted: list[str], seconds: float, rate: float, settings: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """The figures of each part."""
    bodies = [json.dumps({"question": text}).encode() for text in library.questions(QUESTIONS)]
    ask = partial(load.run, bodies=bodies, seconds=seconds, mark=PARTIAL)
    found: dict[str, dict[str, Any]] = {}
    size = 7000
    if set(wanted) & {"closed", "open", "overload", "kills"}:
        with running(data_dir, settings) as system:
            warm(system)
            url = f"{system.url}/v1/ask"
            if "closed" in wanted:
                found["closed"] = watched(system, lambda: ask(url, connections=CONNECTIONS, warm_up_s=5.0))
                size = found["closed"]["body_bytes"]
            if "open" in wanted:
                found["open"] = watched(system, lambda: ask(url, connections=CONNECTIONS, rate=rate))
            if "overload" in wanted:
                reached = found.get("closed", {}).get("requests_per_s", 600.0)
                # More connections than there are places, or a closed loop's own patience would be what limits it.
                found["overload"] = watched(system, lambda: ask(url, connections=3000, rate=4 * reached))
                found["recovery"] = recovery(url, bodies)
            if "kills" in wanted:
                with killing(system) as killed:
                    found["kills"] = watched(system, lambda: ask(url, connections=CONNECTIONS, rate=rate))
                found["kills"]["killed"] = killed
    if "unbatched" in wanted:
        with running(data_dir, {**settings, "GATHERUM_API__BATCH_SIZE": "1"}) as system:
            warm(system)
            found["unbatched"] = watched(system, lambda: ask(f"{system.url}/v1/ask", connections=CONNECTIONS))
    if "sequential" in wanted:
        environment = {"GATHERUM_DATA_DIR": str(data_dir), "GATHERUM_LOGS__LEVEL": "ERROR"}
        with served("benchmarks.sequential:app", environment) as url:
            found["sequential"] = ask(f"{url}/v1/ask", connections=CONNECTIONS, warm_up_s=5.0).to_json()
            found["sequential open"] = ask(f"{url}/v1/ask", connections=CONNECTIONS, rate=rate).to_json()
    if "constant" in wanted:
        with constant(size) as plain:
            found["constant"] = ask(f"{plain}/v1/ask", connections=CONNECTIONS).to_json()
    return found


def warm(system: System) -> None:
    """Wait for the fast encoder, without which every new question waits for the exact one."""
    give_up = time.monotonic() + 300
    while not state(system)["retrieval-0"]["detail"].get("fast_encoder"):
        if time.monotonic() > give_up:
            raise RuntimeError("There is no fast encoder.")
        time.sleep(1)


def state(system: System) -> dict[str, Any]:
    """What `/health` says of each replica."""
    with urllib.request.urlopen(f"{system.url}/health", timeout=10) as answer:  # noqa: S310 - our own address
        found: dict[str, Any] = json.load(answer)["replicas"]
    return found


def watched(system: System, run: Callable[[], load.Result]) -> dict[str, Any]:
    """The figures of a load, with what the system told meanwhile: health, event loops, memory."""
    health: list[float] = []
    resident: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            began = time.perf_counter()
            try:
                state(system)
            except (OSError, ValueError):
                health.append(float("inf"))
                continue
            health.append(1000 * (time.perf_counter() - began))
            resident.append(sum(rss(process) for process in processes(system)) / 1e6)

    before = lags(system)
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        figures = run().to_json()
    finally:
        over.set()
        watcher.join()
    health.sort()
    quarter = len(resident) // 4
    return figures | {
        "health_p50_ms": round(health[len(health) // 2], 1) if health else None,
        "health_max_ms": round(health[-1], 1) if health else None,
        "late_loops": {name: share for name, share in late(before, lags(system)).items() if share > 0.0},
        "resident_mb": round(resident[-1]) if resident else None,
        "resident_growth": round(sum(resident[-quarter:]) / sum(resident[-2 * quarter : -quarter]), 3)
        if quarter
        else None,
    }


def lags(system: System) -> dict[str, tuple[float, float]]:
    """Of each process how often its loop was asked, and how often it was late by no more than `LAG_S`."""
    with urllib.request.urlopen(f"{system.url}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
        lines = answer.read().decode().splitlines()
    found: dict[str, tuple[float, float]] = {}
    for line in lines:
        if line.startswith("gatherum_loop_lag_seconds_bucket"):
            labels, _, value = line.partition("} ")
            name = labels.split('replica="')[1].split('"')[0]
            asked, fine = found.get(name, (0.0, 0.0))
            if f'le="{LAG_S:g}"' in labels:
                fine = float(value)
            if 'le="+Inf"' in labels:
                asked = float(value)
            found[name] = (asked, fine)
    return found


def late(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Share of looks at which a loop was late by more than `LAG_S`, of the processes that lived through all of it."""
    shares = {}
    for name, (asked, fine) in after.items():
        asked_before, fine_before = before.get(name, (0.0, 0.0))
        if asked > asked_before:
            shares[name] = round(1 - (fine - fine_before) / (asked - asked_before), 4)
    return shares


def recovery(url: str, bodies: list[bytes]) -> dict[str, Any]:
    """A light load right after a heavy one, in parts of a second."""
    return load.run(url, bodies, connections=32, seconds=5.0, warm_up_s=5.0, rate=100.0, mark=PARTIAL).to_json()


def processes(system: System) -> list[psutil.Process]:
    """The processes of the system: those that name its roles or serve it."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if title.startswith("ray::"):
            found.append(process)
    return found


def rss(process: psutil.Process) -> int:
    """Resident memory, bytes; 0 of one that is gone."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


@contextmanager
def killing(system: System) -> Iterator[list[str]]:
    """While it lasts, every ten seconds one process is killed, the kinds in turn; the names of those that were."""
    over = threading.Event()
    killed: list[str] = []

    def go() -> None:
        turn = 0
        while not over.wait(KILL_EVERY_S):
            what = KILLED[turn % len(KILLED)]
            turn += 1
            victims = (
                [process.pid for process in processes(system) if "ServeReplica" in " ".join(process.cmdline())]
                if what == "api"
                else [state(system).get(what, {}).get("pid")]
            )
            victims = [pid for pid in victims if pid]
            if victims:
                os.kill(random.choice(victims), signal.SIGKILL)
                killed.append(what)

    killer = threading.Thread(target=go)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def table(parts: dict[str, dict[str, Any]]) -> Table:
    """The figures side by side."""
    shown = Table(title="POST /v1/ask")
    columns = (
        "",
        "answers/s",
        "errors",
        "partial",
        "mean",
        "p50 ms",
        "p99 ms",
        "refused p99",
        "connections",
        "health max",
    )
    for title in columns:
        shown.add_column(title, justify="left" if not title else "right")
    for name, figures in parts.items():
        spread = figures["per_connection"]
        shown.add_row(
            name,
            f"{figures['requests_per_s']:.0f}",
            ", ".join(f"{count} {reason}" for reason, count in figures["errors"].items()) or "0",
            str(figures["marked"]),
            *(f"{figures[key]:.0f}" for key in ("mean_ms", "p50_ms", "p99_ms", "refused_p99_ms")),
            f"{spread['min']} / {spread['median']:.0f} / {spread['max']}",
            str(figures.get("health_max_ms", "")),
        )
    return shown


if __name__ == "__main__":
    main()
