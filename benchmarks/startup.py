"""Seconds from `gatherum up` to ready, and what the idle system holds in memory, all its processes together.

Memory is the proportional set size: a page shared by several processes is counted once, divided among them.

    python -m benchmarks.startup --out startup.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from actors.node import Running, node_processes
from benchmarks.system import running

console = Console()


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settle", type=float, default=15.0, help="seconds of idleness before memory is read")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        data_dir = Path(scratch) / "data"
        with running(data_dir) as system:
            time.sleep(given.settle)
            before = cpu_seconds(data_dir)
            time.sleep(5)
            idle_cpu = (cpu_seconds(data_dir) - before) / 5
            memory = proportional_mb(data_dir)
    figures = {
        "cpus": os.cpu_count(),
        "ready_s": round(system.ready_s, 2),
        "idle_pss_mb": round(sum(memory.values())),
        "idle_cpu_cores": round(idle_cpu, 3),
        "pss_mb": {name: round(size) for name, size in memory.most_common()},
    }
    console.print(table(figures))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def proportional_mb(data_dir: Path) -> Counter[str]:
    """Proportional set size by kind of process, MB (10^6 bytes)."""
    sizes: Counter[str] = Counter()
    for process in processes(data_dir):
        with contextlib.suppress(psutil.Error):
            sizes[kind(process)] += process.memory_full_info().pss / 1e6  # type: ignore[assignment]
    return sizes


def cpu_seconds(data_dir: Path) -> float:
    """CPU time used so far by all processes."""
    total = 0.0
    for process in processes(data_dir):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def processes(data_dir: Path) -> list[psutil.Process]:
    """Every process of the system."""
    recorded = Running.load(data_dir)
    if recorded is None or recorded.node is None:
        raise RuntimeError("The system is not running.")
    return list(node_processes(recorded.node))


def kind(process: psutil.Process) -> str:
    """What a process is, in a few words: Ray's workers name themselves, everything else is named by its program."""
    command = process.cmdline()
    if not command:
        return process.name()
    if command[0].startswith("ray::"):
        return command[0].split(":")[2].split(".")[0]
    script = next((part for part in command[1:3] if part.endswith(".py")), "")
    return Path(script or command[0]).name


def table(figures: dict[str, Any]) -> Table:
    """The figures."""
    shown = Table(title=f"Start and idle, {figures['cpus']} CPUs", show_header=False)
    shown.add_column()
    shown.add_column(justify="right")
    shown.add_row("up to ready", f"{figures['ready_s']:.1f} s")
    shown.add_row("idle CPU", f"{figures['idle_cpu_cores']:.2f} cores")
    shown.add_row("idle memory (PSS)", f"{figures['idle_pss_mb']:,} MB", end_section=True)
    for name, size in figures["pss_mb"].items():
        shown.add_row(f"  {name}", f"{size:,} MB")
    return shown


if __name__ == "__main__":
    main()
