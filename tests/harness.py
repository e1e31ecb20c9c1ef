"""A whole system under test: started by the command a user types, on a free port, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pymupdf

GATHERUM = str(Path(sys.executable).with_name("gatherum"))
WAIT_S = 120.0


@dataclass
class System:
    """A system under test.

    Attributes:
        data_dir: where its store lies.
        environment: settings it is started with.
        url: where it serves; changes with a restart.
    """

    data_dir: Path
    environment: dict[str, str]
    url: str = ""

    def run(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a `gatherum` command against this system's data directory."""
        environment = {**os.environ, **self.environment, "GATHERUM_DATA_DIR": str(self.data_dir)}
        result = subprocess.run([GATHERUM, *args], env=environment, capture_output=True, text=True, timeout=300)
        assert not check or result.returncode == 0, f"gatherum {args} failed:\n{result.stdout}\n{result.stderr}"
        return result

    def up(self) -> None:
        self.url = json.loads(self.run("up", "--detach", "--port", "0", "--json").stdout)["url"]

    def down(self) -> None:
        self.run("down")

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def upload(self, content: bytes, *, name: str = "a.pdf", collection: str = "default") -> dict[str, Any]:
        with self.client() as client:
            answer = client.post("/v1/documents", params={"collection": collection}, files={"file": (name, content)})
        assert answer.status_code == 202, answer.text
        receipt: dict[str, Any] = answer.json()
        return receipt

    def finished(self, job_id: str) -> dict[str, Any]:
        """Wait until a job rests."""
        job: dict[str, Any] = self.eventually(lambda: self._rested(job_id), f"job {job_id} to finish")
        return job

    def _rested(self, job_id: str) -> dict[str, Any] | None:
        with self.client() as client:
            job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").raise_for_status().json()
        return job if job["state"] in {"done", "partial", "failed", "cancelled"} else None

    def add(self, content: bytes, *, name: str = "a.pdf", collection: str = "default") -> str:
        """Upload, wait until it is published, and return the document's id."""
        receipt = self.upload(content, name=name, collection=collection)
        job = self.finished(receipt["job_id"])
        assert job["state"] == "done", job
        return str(receipt["document_id"])

    def ask(self, question: str, **options: Any) -> dict[str, Any]:
        with self.client() as client:
            answer: dict[str, Any] = (
                client.post("/v1/ask", json={"question": question, **options}).raise_for_status().json()
            )
        return answer

    def pid(self, replica: str) -> int | None:
        """Process of an actor, None while it is down."""
        with self.client() as client:
            pid: int | None = client.get("/health").json()["replicas"][replica]["pid"]
        return pid

    def ready(self) -> bool:
        with self.client() as client:
            return client.get("/ready").status_code == 200

    @staticmethod
    def eventually(probe: Callable[[], Any], what: str, *, within_s: float = WAIT_S) -> Any:
        give_up = time.monotonic() + within_s
        while True:
            try:
                if value := probe():
                    return value
            except httpx.TransportError:
                pass
            assert time.monotonic() < give_up, f"waited {within_s:g} s for {what}"
            time.sleep(0.1)


def pdf(*pages: str, title: str = "") -> bytes:
    """A PDF with these texts, one a page."""
    document = pymupdf.open()
    for text in pages:
        page = document.new_page()
        page.insert_textbox(pymupdf.Rect(72, 72, 520, 770), text, fontsize=11)
    document.set_metadata({"title": title})
    content: bytes = document.tobytes()
    return content
