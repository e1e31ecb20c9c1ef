"""The examples of the README, run as they stand against a system with the example library in it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.system import System, running
from examples.first_light import COLLECTION
from examples.make_library import make_library
from serve import bulk
from serve.client import AsyncClient

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
URL = "http://127.0.0.1:8000"

pytestmark = pytest.mark.ray


def example(kind: str) -> str:
    """The fenced block after `<!-- run: kind -->`."""
    found = re.search(rf"<!-- run: {kind} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no example that is marked to be run as {kind}"
    return found[1]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout") / "examples" / "library"
    make_library(folder)
    return folder


@pytest.fixture(scope="module")
def system(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running(tmp_path_factory.mktemp("data"), {"GATHERUM_SOURCES__SQLITE_ROOT": str(library)}) as system:
        report = bulk.Report([bulk.Outcome(path) for path in bulk.find_pdfs([library])])

        async def ingest() -> None:
            async with AsyncClient(system.url, patience_s=60) as client:
                await bulk.ingest(client, report, collection=COLLECTION)

        asyncio.run(ingest())
        assert report.failures == []
        yield system


def test_http_examples(system: System, library: Path) -> None:
    checkout = library.parents[1]
    script = example("http").replace(URL, system.url)
    assert system.url in script
    out = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=checkout, capture_output=True, check=True)
    decoder, text, values = json.JSONDecoder(), out.stdout.decode(), []
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    receipt, answer, found = values
    assert receipt["duplicate"] is False
    assert "Titan" in answer["answer"]["text"]
    assert answer["answer"]["sentences"][0]["citation"]
    assert 0 < len(found["passages"]) <= 3


def test_python_example(system: System) -> None:
    environment = os.environ | {"GATHERUM_DATA_DIR": str(system.data_dir)}
    out = subprocess.run(
        [sys.executable, "-c", example("python")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    answer, *citations = out.stdout.splitlines()
    assert "Titan" in answer
    assert citations
    assert "page=" in citations[0] or "table=" in citations[0]
