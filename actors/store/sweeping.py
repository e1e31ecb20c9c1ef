"""Sweeping: files that nothing refers to, which only a crash leaves behind.

Three kinds: temporary files of uploads that broke off, files put in their place whose rows never came, and files whose
deletion was cut short. The sweep may meet an upload at any point. It marks the row of a content that no document is
(see `files.py`) and leaves alone what was put there lately; an upload that comes too late all the same finds its file
gone, and puts it there again. The grace time only saves that work.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from functools import partial

from actors.store import files
from actors.store.blobs import PREFIXES, Blobs, Stored
from actors.store.dialect import MAX_PARAMETERS
from actors.store.engine import Store
from config import logs
from config.settings import BlobSettings

FIRST_SWEEP_S = 60.0
"""After the start, s: what a crash has left is no hurry, and those who wait for the store come first."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has removed.

    Attributes:
        uploads: temporary files.
        files: files without a document.
        bytes: of those.
    """

    uploads: int = 0
    files: int = 0
    bytes: int = 0

    def __add__(self, other: Swept) -> Swept:
        return Swept(self.uploads + other.uploads, self.files + other.files, self.bytes + other.bytes)


async def sweep(store: Store, blobs: Blobs, *, grace_s: float) -> Swept:
    """Remove all that is left behind, file by file.

    Args:
        store: with the rows.
        blobs: with the files.
        grace_s: what was put there less than so many seconds ago is left alone.

    Raises:
        Unavailable: one of the two cannot be reached; what was swept so far stays swept.
    """
    swept = Swept(uploads=await blobs.sweep_incoming(older_than_s=grace_s))
    for prefix in PREFIXES:
        unused, _ = await orphans(store, blobs, prefix, grace_s=grace_s)
        for sha256 in unused:
            gone = await drop_orphan(store, blobs, sha256, grace_s=grace_s)
            if gone is not None:
                swept += Swept(files=1, bytes=gone.size)
    return swept


async def now_and_then(store: Store, blobs: Blobs, settings: BlobSettings, stopping: asyncio.Event) -> None:
    """Sweep every `sweep_s`, until `stopping` is set."""
    pause = min(FIRST_SWEEP_S, settings.sweep_s)
    while True:
        with contextlib.suppress(TimeoutError):
            # Spread, or the replicas would all go through the files at the same moments.
            async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):  # noqa: S311 -- no secret depends on it
                await stopping.wait()
                return
        pause = settings.sweep_s
        try:
            swept = await sweep(store, blobs, grace_s=settings.grace_s)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it may be over at the next sweep
            logs.get().warning("sweep_broke_off", kind=type(error).__name__, error=str(error))
        else:
            if swept != Swept():
                logs.get().info("swept", uploads=swept.uploads, files=swept.files, bytes=swept.bytes)


async def orphans(store: Store, blobs: Blobs, prefix: str, *, grace_s: float) -> tuple[list[str], int]:
    """Addresses on one shelf of files, and of rows of files, that no document uses, in order; and its files' number."""
    before = time.time() - grace_s
    shelf = await blobs.listing(prefix)
    old = [stored.sha256 for stored in shelf if stored.modified <= before]
    found: set[str] = set()
    for start in range(0, len(old), MAX_PARAMETERS):
        found.update(await store.read(partial(files.unknown, addresses=old[start : start + MAX_PARAMETERS])))
    # Rows whose document was deleted, and whose bytes were then to go: no grace is needed.
    found.update(await store.read(partial(files.unused, prefix=prefix)))
    return sorted(found), len(shelf)


async def drop_orphan(store: Store, blobs: Blobs, sha256: str, *, grace_s: float) -> Stored | None:
    """Remove a file unless a document uses it or it was put there lately; what was removed."""
    before = time.time() - grace_s

    write = partial(store.write, repeatable=True)
    return await files.remove_unused(write, blobs, sha256=sha256, before=before)
