"""A real store in a temporary folder, and shortcuts for what tests do to it over and over."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from actors.database import Database
from actors.deadline import Deadline
from actors.messages import Accepted, Change, DocumentInfo, PageReading, Upload
from actors.store.blobs import Incoming
from config.settings import load

DEFAULTS = load(environ={})
"""Read at import, because reading files blocks and most tests run in an event loop."""


def soon() -> Deadline:
    """Long enough for anything a test does."""
    return Deadline.after(30.0)


def database_in(folder: Path, *, max_attempts: int = 3, **settings: Any) -> Database:
    """A Database over an SQLite file in the folder, not started; the same folder again is the same store."""
    return Database(
        DEFAULTS.database.model_copy(update=settings),
        DEFAULTS.sources,
        url=f"sqlite:///{folder / 'gatherum.db'}",
        blob_dir=folder / "blobs",
        max_attempts=max_attempts,
    )


@asynccontextmanager
async def open_database(folder: Path, *, max_attempts: int = 3, **settings: Any) -> AsyncIterator[Database]:
    """The same, started, and stopped at the end."""
    database = database_in(folder, max_attempts=max_attempts, **settings)
    await database.start()
    try:
        yield database
    finally:
        await database.stop()


async def upload(
    folder: Path,
    content: bytes = b"%PDF-1.7 one",
    *,
    filename: str = "moons.pdf",
    collection: str = "main",
    pages: int = 2,
    title: str = "",
    metadata: dict[str, Any] | None = None,
) -> Upload:
    """Put a file where uploads lie."""
    async with Incoming(folder / "blobs") as file:
        await file.write(content)
        sha256, size = await file.commit()
    return Upload(sha256, size, filename, collection, DocumentInfo(pages, title), metadata or {})


async def publish(
    database: Database,
    folder: Path,
    readings: Sequence[PageReading],
    content: bytes = b"%PDF-1.7 one",
    **upload_as: Any,
) -> tuple[Accepted, Change]:
    """Take a document in and bring it all the way through, with these pages."""
    accepted = await database.accept(await upload(folder, content, pages=len(readings), **upload_as), deadline=soon())
    lease = await database.claim("test", 30.0, deadline=soon())
    assert lease is not None
    assert lease.job_id == accepted.job_id
    await database.commit_pages(lease.job_id, lease.fence, tuple(readings), deadline=soon())
    return accepted, await database.publish(lease.job_id, lease.fence, deadline=soon())
