"""A real store in a temporary folder, and shortcuts for what tests do to it over and over."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.database import Database
from actors.deadline import Deadline
from actors.messages import Accepted, Change, DocumentInfo, PageReading, Upload
from actors.store import changes
from actors.store.blobs import Folder, Incoming
from actors.store.tables import counters, metadata
from config.settings import load

DEFAULTS = load(environ={})
"""Read at import, because reading files blocks and most tests run in an event loop."""

WORDS_ALONE = DEFAULTS.encoder.model_copy(update={"kind": "none"})
"""No encoder."""


def soon() -> Deadline:
    """Long enough for anything a test does."""
    return Deadline.after(30.0)


def database_in(
    folder: Path, *, url: str | None = None, max_attempts: int = 3, sqlite_root: Path | None = None, **settings: Any
) -> Database:
    """A Database over an SQLite file in the folder, not started; the same folder again is the same store.

    With a URL, over that database, and with the folder for its files.
    """
    return Database(
        DEFAULTS.database.model_copy(update=settings),
        DEFAULTS.sources.model_copy(update={"sqlite_root": str(sqlite_root or "")}),
        DEFAULTS.blobs,
        url=url or f"sqlite:///{folder / 'gatherum.db'}",
        blobs=Folder(folder / "blobs"),
        max_attempts=max_attempts,
    )


@asynccontextmanager
async def open_database(
    folder: Path, *, url: str | None = None, max_attempts: int = 3, sqlite_root: Path | None = None, **settings: Any
) -> AsyncIterator[Database]:
    """The same, started, and stopped at the end."""
    database = database_in(folder, url=url, max_attempts=max_attempts, sqlite_root=sqlite_root, **settings)
    await database.start()
    try:
        yield database
    finally:
        await database.stop()


@asynccontextmanager
async def emptied_database(folder: Path, url: str, **settings: Any) -> AsyncIterator[Database]:
    """The same over a database that is emptied first: faster than a new one, which has to be made and migrated."""

    async def empty(connection: AsyncConnection, now: float) -> None:
        for table in reversed(metadata.sorted_tables):
            await connection.execute(delete(table))
        await connection.execute(insert(counters), {"name": changes.COUNTER, "value": 0})

    async with open_database(folder, url=url, **settings) as database:
        await database._store.write(empty)
        yield database


async def upload(
    folder: Path,
    content: bytes = b"%PDF-1.7 one",
    *,
    filename: str = "moons.pdf",
    collection: str = "main",
    pages: int = 2,
    title: str = "",
    metadata: dict[str, Any] | None = None,
    priority: int = 0,
    idempotency_key: str = "",
) -> Upload:
    """Put a file where uploads lie."""
    async with Incoming(Folder(folder / "blobs")) as file:
        await file.write(content)
        sha256, size = await file.commit()
    info = DocumentInfo(pages, title)
    return Upload(sha256, size, filename, collection, info, metadata or {}, priority, idempotency_key)


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


def writes_of(call: str) -> list[bool]:
    """Of each unit of work that a call of the Database writes in, whether it may be run again."""
    code = ast.parse(textwrap.dedent(inspect.getsource(getattr(Database, call))))
    return [
        any(keyword.arg == "repeatable" and ast.literal_eval(keyword.value) for keyword in node.keywords)
        for node in ast.walk(code)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_write"
    ]
