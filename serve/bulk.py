"""Sending a folder of PDFs: a few uploads at once, each followed until it has been read, one failure never another's.

The server keeps what it has accepted, and recognises what it has already, so a run that is cut short leaves nothing
half done: the same command again sends what is missing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from serve.client import ApiError, AsyncClient, Unreachable

UPLOADS = 4
"""Files on their way at once."""

IN_FLIGHT = 16
"""Documents sent and not yet read at once: enough to keep the server busy, few enough to follow by polling."""

State = Literal["unsent", "accepted", "refused", "done", "partial", "failed", "cancelled"]


@dataclass(slots=True)
class Outcome:
    """What has become of one file so far.

    Attributes:
        path: of a file here; the text of a URL that the server fetches.
        state: `unsent`; `accepted` while the server reads it; `refused` by it, or unreadable here; else the job's.
        pages_before: pages that had been read before this run, of a duplicate.
    """

    path: Path | str
    state: State = "unsent"
    document_id: str | None = None
    job_id: str | None = None
    duplicate: bool = False
    pages_done: int = 0
    pages_total: int = 0
    pages_before: int = 0
    code: str | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the file will not be found by a question."""
        return self.state in {"refused", "failed", "cancelled"}

    def to_json(self) -> dict[str, Any]:
        """The form of `gatherum ingest --json`."""
        return {
            "path": str(self.path),
            "state": self.state,
            "document_id": self.document_id,
            "job_id": self.job_id,
            "duplicate": self.duplicate,
            "pages_done": self.pages_done,
            "pages_total": self.pages_total,
            "code": self.code,
            "error": self.error,
        }


@dataclass(slots=True)
class Report:
    """The whole run, readable at any moment of it."""

    outcomes: list[Outcome]
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """Duration so far."""
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    @property
    def pages(self) -> int:
        """Pages read in this run."""
        return sum(outcome.pages_done - outcome.pages_before for outcome in self.outcomes)

    @property
    def pages_per_s(self) -> float:
        """Mean speed of this run."""
        return self.pages / self.seconds if self.seconds > 0 else 0.0

    @property
    def finished(self) -> int:
        """Files that have come to rest."""
        return sum(outcome.state not in {"unsent", "accepted"} for outcome in self.outcomes)

    @property
    def share(self) -> float:
        """How much of the work is done, in files, counting the read part of one that is being read."""
        open_files = (outcome for outcome in self.outcomes if outcome.state == "accepted" and outcome.pages_total)
        return self.finished + sum(outcome.pages_done / outcome.pages_total for outcome in open_files)

    def having(self, *states: State) -> list[Outcome]:
        """The files in these states, in their order."""
        return [outcome for outcome in self.outcomes if outcome.state in states]

    @property
    def failures(self) -> list[Outcome]:
        """The files that failed, in their order."""
        return [outcome for outcome in self.outcomes if outcome.failed]

    def to_json(self) -> dict[str, Any]:
        """The form of `gatherum ingest --json`."""
        return {
            "documents": [outcome.to_json() for outcome in self.outcomes],
            "files": len(self.outcomes),
            "failed": len(self.failures),
            "unfinished": len(self.having("unsent", "accepted")),
            "pages": self.pages,
            "seconds": round(self.seconds, 3),
            "pages_per_s": round(self.pages_per_s, 2),
        }


def is_url(text: str) -> bool:
    """Whether the server is to fetch it."""
    return text.lower().startswith(("http://", "https://"))


def find_pdfs(names: Iterable[Path | str]) -> list[Path | str]:
    """The PDFs below the folders, by name, and every file and URL named outright, each once.

    Raises:
        FileNotFoundError: a path does not exist; the message names it.
    """
    found: dict[Path | str, Path | str] = {}
    for name in names:
        if isinstance(name, str) and is_url(name):
            found.setdefault(name, name)
            continue
        path = Path(name)
        if not path.exists():
            raise FileNotFoundError(f"There is no file or folder {path}.")
        for file in _walk(path) if path.is_dir() else (path,):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    # os.walk follows no links to folders, so a loop of links ends.
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.lower().endswith(".pdf"):
                yield Path(parent, name)


async def ingest(client: AsyncClient, report: Report, *, collection: str, priority: str = "normal") -> None:
    """Send every file of the report and follow it until it has been read.

    The report is kept up to date throughout, so it is right also when this is cancelled or raises.

    Raises:
        Unreachable: the server went away for longer than the client's patience.
    """
    unsent = iter(report.outcomes)
    uploads = asyncio.Semaphore(UPLOADS)

    async def work() -> None:
        for outcome in unsent:
            await _take(client, outcome, uploads, {"collection": collection, "priority": priority})

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT, len(report.outcomes))):
                group.create_task(work())
    except* Unreachable as errors:
        raise errors.exceptions[0] from None
    finally:
        report.ended = time.monotonic()


async def _take(client: AsyncClient, outcome: Outcome, uploads: asyncio.Semaphore, how: dict[str, str]) -> None:
    try:
        async with uploads:
            if isinstance(outcome.path, Path):
                receipt = await client.upload(outcome.path, **how)
            else:
                receipt = await client.upload_url(outcome.path, **how)
        outcome.state = "accepted"
        outcome.document_id, outcome.job_id, outcome.duplicate = receipt.document_id, receipt.job_id, receipt.duplicate
        first = True
        async for job in client.wait(receipt.job_id):
            outcome.pages_done, outcome.pages_total = job["pages_done"], job["pages_total"]
            if first and receipt.duplicate:
                outcome.pages_before = job["pages_done"]
            first = False
        outcome.state, outcome.error = job["state"], job["error"]
        outcome.code = job["state"] if job["error"] else None
    except ApiError as error:
        outcome.state = "refused" if outcome.job_id is None else "failed"
        outcome.code, outcome.error = error.code, error.detail
    except OSError as error:
        outcome.state, outcome.code, outcome.error = "refused", "unreadable", error.strerror or str(error)
