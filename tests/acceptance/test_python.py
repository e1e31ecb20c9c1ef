"""The Python surface, as a data scientist uses it: blocking, awaited, in a running loop as in a notebook, and raw."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from harness import System, pdf

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
[[raw]] = ray.get(g.retrieval.search_many.remote([Query("otter", ("python",))], deadline=Deadline.after(20)))
try:
    g.search("otter", collections=["no-such"])
    error = None
except UnknownCollection as caught:
    error = caught.code
frame = answer.passages.to_pandas()
print(json.dumps({
    "text": answer.text, "page": answer.sentences[0].citation.page, "same": same, "raw": raw.text, "error": error,
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


def test_connect_says_what_to_do_where_nothing_runs(tmp_path: object) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "from actors import connect; connect()"],
        env={**os.environ, "GATHERUM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert "gatherum up" in result.stderr
