"""Questions a second over HTTP, beside what this machine could do at best, and beside the same code without batching.

In one run: a plain uvicorn route that returns a constant of the same size, the system, and the system with
`api.batch_size` 1; each under the same closed-loop load of 300 distinct questions over the Cranfield collection.

    python -m benchmarks.ask --out ask.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import cranfield, load
from benchmarks.system import answers, free_port, running
from serve import bulk, render
from serve.client import AsyncClient

PARTIAL = b'"partial":true'
console = Console(width=120)


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=30.0, help="measured time of each load")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    source = cranfield.folder()
    if source is None:
        console.print("Skipped: the Cranfield collection is not there. Say where with GATHERUM_DATA.")
        return
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        figures = measure(source, Path(scratch), given.connections, given.seconds)
    console.print(table(figures["loads"]))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(source: Path, scratch: Path, connections: int, seconds: float) -> dict[str, Any]:
    """All the figures."""
    bodies = [json.dumps({"question": question}).encode() for question in cranfield.questions(source)]
    loaded = partial(load.run, bodies=bodies, connections=connections, seconds=seconds, mark=PARTIAL)
    pdfs = cranfield.write_pdfs(source, scratch / "pdfs")
    data_dir = scratch / "data"
    with running(data_dir) as system:
        report = bulk.Report([bulk.Outcome(path) for path in pdfs])
        asyncio.run(_ingest(system.url, report))
        console.print(render.summary(report))
        if report.failures:
            raise RuntimeError(f"{len(report.failures)} documents failed; the first: {report.failures[0].error}")
        batched = loaded(f"{system.url}/v1/ask")
    with running(data_dir, {"GATHERUM_API__BATCH_SIZE": "1"}) as system:
        unbatched = loaded(f"{system.url}/v1/ask")
    with constant(max(2, round(batched.bytes_mean))) as url:
        plain = loaded(f"{url}/v1/ask")
    return {
        "questions": len(bodies),
        "cpus": os.cpu_count(),
        "ingest": {"pages": report.pages, "pages_per_s": round(report.pages_per_s, 1)},
        "loads": {
            "Gatherum": batched.to_json(),
            "Gatherum, batching off": unbatched.to_json(),
            "plain uvicorn, a constant": plain.to_json(),
        },
    }


async def _ingest(url: str, report: bulk.Report) -> None:
    async with AsyncClient(url, patience_s=60) as client:
        await bulk.ingest(client, report, collection="cranfield")


def constant(size: int) -> contextlib.AbstractContextManager[str]:
    """A plain uvicorn that answers so many bytes."""
    return served("benchmarks.constant:app", {"CONSTANT_BYTES": str(size)})


@contextlib.contextmanager
def served(app: str, environment: Mapping[str, str]) -> Iterator[str]:
    """A plain uvicorn with an application; gives its URL once `/ready` says yes."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning"]
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        while not answers(f"http://127.0.0.1:{port}/ready"):
            if process.poll() is not None:
                raise RuntimeError("uvicorn did not come up")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def table(loads: dict[str, dict[str, Any]]) -> Table:
    """The figures side by side."""
    shown = Table(title="POST /v1/ask, closed loop")
    for title in ("", "requests/s", "errors", "partial", "p50 ms", "p90 ms", "p99 ms", "per connection", "bytes"):
        shown.add_column(title, justify="left" if not title else "right")
    for name, figures in loads.items():
        spread = figures["per_connection"]
        shown.add_row(
            name,
            f"{figures['requests_per_s']:.0f}",
            ", ".join(f"{count} {reason}" for reason, count in figures["errors"].items()) or "0",
            str(figures["marked"]),
            *(f"{figures[key]:.0f}" for key in ("p50_ms", "p90_ms", "p99_ms")),
            f"{spread['min']} / {spread['median']:.0f} / {spread['max']}",
            str(figures["body_bytes"]),
        )
    return shown


if __name__ == "__main__":
    main()
