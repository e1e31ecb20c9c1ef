"""A whole system of its own for a benchmark: fresh data directory, free port, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

READY_TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class System:
    """A running system.

    Attributes:
        url: where it serves.
        data_dir: its data directory.
        ready_s: from the start of `gatherum up` until `/ready` said yes, s.
    """

    url: str
    data_dir: Path
    ready_s: float


@contextlib.contextmanager
def running(data_dir: Path, settings: Mapping[str, str] | None = None) -> Iterator[System]:
    """Run a system over a data directory.

    Args:
        data_dir: made if it is not there.
        settings: environment variables, e.g. `{"GATHERUM_API__BATCH_SIZE": "1"}`.
    """
    port = free_port()
    environment = os.environ | {"GATHERUM_DATA_DIR": str(data_dir)} | dict(settings or {})
    gatherum = [sys.executable, "-m", "serve.cli"]
    data_dir.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    started = time.perf_counter()
    with (data_dir / "up.log").open("ab") as log:
        process = subprocess.Popen(
            [*gatherum, "up", "--detach", "--port", str(port)], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while not answers(f"{url}/ready"):
                if process.poll() or time.perf_counter() - started > READY_TIMEOUT_S:
                    raise RuntimeError(f"Gatherum did not come up:\n{(data_dir / 'up.log').read_text()[-2000:]}")
                time.sleep(0.05)
            ready_s = time.perf_counter() - started
            process.wait(READY_TIMEOUT_S)
            yield System(url, data_dir, ready_s)
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(READY_TIMEOUT_S)
            subprocess.run([*gatherum, "down"], env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own address
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
