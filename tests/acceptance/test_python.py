"""The Python surface, as a data scientist uses it: blocking, awaited, in a running loop as in a notebook, and raw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from harness import System, pdf

from actors.node import Running, node_processes

SCRIPT = """
import asyncio, json, ray
from actors import Deadline, Query, connect
from actors.errors import UnknownCollection

g = connect()
answer = g.ask("Where does the otter sleep?", collections=["python"])

async def notebook():
    blocking = g.ask("Where does the otter sleep?", collections=["python"])  # a loop is running already
    awaited = await g.aask("Where does the otter sleep?", collections=["python"])
    return blocking.text == awaited.text

same = asyncio.run(notebook())
[found] = ray.get(g.retrieval.search_many.remote([Query("otter", ("python",))], deadline=Deadline.after(20)))
try:
    g.search("otter", collections=["no-such"])
    error = None
except UnknownCollection as caught:
    error = caught.code
frame = answer.passages.to_pandas()
print(json.dumps({
    "text": answer.text, "page": answer.sentences[0].citation.page, "same": same, "error": error,
    "raw": found.passages[0].text,
    "columns": sorted(frame.columns), "rows": len(frame), "found": [passage.page for passage in g.search("otter")],
}))
g.close()
"""


def test_connect_blocking_awaited_and_raw(system: System) -> None:
    text = "The otter sleeps afloat, wrapped in kelp."
    system.add(pdf(text), collection="python")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "GATHERUM_DATA_DIR": str(system.data_dir)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    got = json.loads(result.stdout)
    assert got["text"] == text
    assert (got["page"], got["raw"], got["same"], got["error"]) == (1, text, True, "unknown_collection")
    assert got["rows"] == 1
    assert {"document_id", "page", "text", "boxes", "score"} <= set(got["columns"])
    assert 1 in got["found"]


def test_connect_says_what_to_do_where_nothing_runs(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from actors import connect; connect()"],
        env={**os.environ, "GATHERUM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "gatherum up" in result.stderr


def test_start_without_http_is_stopped_by_down(tmp_path: Path) -> None:
    """There is no Serve to take down then, which must not keep `down` from stopping the node."""
    system = System(tmp_path, {})
    started = subprocess.run(
        [sys.executable, "-c", "from actors import start; g = start(); print(g.ask('Anything?').text); g.close()"],
        env={**os.environ, "GATHERUM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    try:
        assert started.returncode == 0, started.stderr
        assert "No answer was found" in started.stdout
        status = json.loads(system.run("status", "--json").stdout)
        assert (status["running"], status["url"], status["not_ready"]) == (True, "", [])
        running = Running.load(tmp_path)
        assert running is not None
        assert running.node is not None
    finally:
        stopped = system.run("down")
    assert stopped.stdout.strip() == "Gatherum is stopped."
    assert "Traceback" not in stopped.stderr
    assert list(node_processes(running.node)) == []
    assert Running.load(tmp_path) is None
