"""Files under their content address: an upload is hashed while it streams in and renamed into place when it is safe.

A file's name is the SHA-256 of its bytes, so the same file is kept once, whoever uploads it. Every call that touches
the disk runs in a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from actors.errors import Unavailable

INCOMING = "incoming"
BUFFER_BYTES = 1 << 20
"""Gathered before a hop to a thread: servers hand bodies over in pieces of 64 KB."""


def blob_path(blob_dir: Path, sha256: str) -> Path:
    """Where the file of this hash lies. The first two digits make a folder, so that no folder grows too large."""
    return blob_dir / sha256[:2] / sha256


async def exists(blob_dir: Path, sha256: str) -> bool:
    """Whether the file is there."""
    return await asyncio.to_thread(blob_path(blob_dir, sha256).is_file)


async def remove(blob_dir: Path, sha256: str) -> bool:
    """Remove the file; whether there was one."""
    return await asyncio.to_thread(_remove, blob_path(blob_dir, sha256))


async def prepare(blob_dir: Path) -> None:
    """Make the folders."""
    await asyncio.to_thread((blob_dir / INCOMING).mkdir, parents=True, exist_ok=True)


async def sweep(blob_dir: Path, *, older_than_s: float) -> int:
    """Remove what uploads that never ended have left: temporary files not written to for `older_than_s`.

    Returns:
        How many were removed.
    """
    return await asyncio.to_thread(_sweep, blob_dir / INCOMING, time.time() - older_than_s)


class Incoming:
    """An upload on its way to disk.

        async with Incoming(blob_dir) as file:
            async for piece in request.stream():
                await file.write(piece)
            await file.flush()      # now `file.path` can be looked into
            sha256, size = await file.commit()

    Left without a commit, the temporary file is removed.

    Attributes:
        path: the temporary file.
        size: bytes written so far.
    """

    def __init__(self, blob_dir: Path) -> None:
        self._blob_dir = blob_dir
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._fd = -1
        # The thread of a cancelled call goes on: it must not write to a descriptor that is by then another file's.
        self._files = threading.Lock()
        self.path = Path()
        self.size = 0

    async def __aenter__(self) -> Self:
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on: wait for it, or its file would be left behind.
            await opening
            await asyncio.to_thread(self._abandon)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self._abandon))

    async def write(self, piece: bytes) -> None:
        """Append bytes."""
        self._buffer += piece
        self.size += len(piece)
        if len(self._buffer) >= BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Hand everything written so far to the operating system, so that `path` can be read."""
        if self._buffer:
            piece, self._buffer = self._buffer, bytearray()
            await asyncio.to_thread(self._append, piece)

    async def commit(self) -> tuple[str, int]:
        """Make the file last, under its content address.

        Returns:
            SHA-256 in hex, and the size in bytes. When this returns, the file survives a power failure.
        """
        await self.flush()
        await asyncio.to_thread(self._settle)
        return self._hash.hexdigest(), self.size

    def _open(self) -> None:
        folder = self._blob_dir / INCOMING
        folder.mkdir(parents=True, exist_ok=True)
        self._fd, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)

    def _append(self, piece: bytearray) -> None:
        with self._files:
            if self._fd < 0:
                return  # abandoned meanwhile
            self._hash.update(piece)
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def _settle(self) -> None:
        with self._files:
            if self._fd < 0:
                raise Unavailable("The upload was given up. Send it again.")
            target = blob_path(self._blob_dir, self._hash.hexdigest())
            os.fsync(self._fd)
            target.parent.mkdir(exist_ok=True)
            # A file already there is replaced by the same bytes, which also heals a damaged one.
            self.path.replace(target)
            # The rename is an entry in one folder, and that folder may be a new entry in the other.
            _sync_folder(target.parent)
            _sync_folder(self._blob_dir)

    def _abandon(self) -> None:
        with self._files:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
                self.path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _sweep(folder: Path, before: float) -> int:
    removed = 0
    for path in folder.glob("*"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # another replica sweeps too, or the upload has just ended
            continue
    return removed
