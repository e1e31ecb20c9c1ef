"""Files under their content address: an upload is hashed while it streams in and put in its place when it is safe.

A file's name is the SHA-256 of its bytes, so the same file is kept once, whoever uploads it. Where the files lie, in a
folder or in a bucket, is behind one small interface. Who may remove a file is not decided here: see `files.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from actors.errors import InvalidInput, ReadingFailed, Unavailable
from config.settings import BlobSettings

INCOMING: Final = "incoming"
BUFFER_BYTES: Final = 1 << 20
"""Gathered before a hop to a thread: servers hand bodies over in pieces of 64 KB."""

PREFIXES: Final = tuple(f"{number:02x}" for number in range(256))
"""What addresses begin with: the shelves that a listing goes through one by one."""

ADDRESS: Final = re.compile(r"[0-9a-f]{64}")
LOST: Final = (
    "The file of the document is missing from the blob store. Upload it again; `gatherum doctor` lists others."
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file in the store.

    Attributes:
        size: bytes.
        modified: when it was put there, seconds since the epoch.
    """

    sha256: str
    size: int
    modified: float


class Blobs(ABC):
    """Where the files are kept. It can be pickled, holds nothing open, and any number of processes may use one place.

    Attributes:
        incoming: local folder for uploads on their way. Page tasks look into them there.
    """

    incoming: Path

    @abstractmethod
    async def prepare(self) -> None:
        """Make what is missing.

        Raises:
            InvalidInput: the place named in the settings does not exist.
            Unavailable: it cannot be reached. The same goes for all calls.
        """

    @abstractmethod
    async def stat(self, sha256: str) -> Stored | None:
        """What there is at an address; None for nothing."""

    @abstractmethod
    async def remove(self, sha256: str) -> bool:
        """Remove a file; whether there was one."""

    @abstractmethod
    async def listing(self, prefix: str) -> list[Stored]:
        """The files on one of the `PREFIXES`, in order."""

    @abstractmethod
    def local(self, sha256: str) -> AbstractAsyncContextManager[Path]:
        """The file as a path on this machine, that stays while the context lasts. It is not to be written to.

        Raises:
            ReadingFailed: there is no such file, or it is damaged.
        """

    @abstractmethod
    def keep(self, path: Path, sha256: str) -> None:
        """Put a synced file of `incoming` at its address, at once and for good; it may be gone from `path` then.

        Blocking: called in a thread. A file that is there already is replaced by the same bytes, which also heals a
        damaged one.
        """

    async def stale_uploads(self, *, older_than_s: float) -> list[Path]:
        """What uploads that never ended have left: files in `incoming` not written to for `older_than_s`."""
        return await asyncio.to_thread(_older, self.incoming, time.time() - older_than_s)

    async def sweep_incoming(self, *, older_than_s: float) -> int:
        """Remove them; how many there were."""
        return sum(
            [await asyncio.to_thread(_remove, path) for path in await self.stale_uploads(older_than_s=older_than_s)]
        )

    async def hash(self, sha256: str) -> str:
        """The hash of what really lies at an address: equal to it, unless the file is damaged.

        Raises:
            ReadingFailed: there is no such file.
        """
        async with self.local(sha256) as path:
            return await asyncio.to_thread(_hash, path)


class Folder(Blobs):
    """Files in a folder: on this machine's disk, or on a share that every node has mounted at the same place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming = folder / INCOMING

    def __reduce__(self) -> tuple[type[Folder], tuple[Path]]:
        return Folder, (self.folder,)

    def path(self, sha256: str) -> Path:
        """Where the file of this hash lies. The first two digits make a folder, so that no folder grows too large."""
        return self.folder / sha256[:2] / sha256

    async def prepare(self) -> None:
        """See `Blobs`."""
        with _told():
            await asyncio.to_thread(make_folder, self.incoming)

    async def stat(self, sha256: str) -> Stored | None:
        """See `Blobs`."""
        with _told():
            return await asyncio.to_thread(_stat, self.path(sha256))

    async def remove(self, sha256: str) -> bool:
        """See `Blobs`."""
        with _told():
            return await asyncio.to_thread(_remove, self.path(sha256))

    async def listing(self, prefix: str) -> list[Stored]:
        """See `Blobs`."""
        with _told():
            return await asyncio.to_thread(_listing, self.folder / prefix)

    @contextlib.asynccontextmanager
    async def local(self, sha256: str) -> AsyncIterator[Path]:
        """See `Blobs`."""
        if await self.stat(sha256) is None:
            raise ReadingFailed(LOST)
        yield self.path(sha256)

    def keep(self, path: Path, sha256: str) -> None:
        """See `Blobs`."""
        target = self.path(sha256)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
        # The rename is an entry in one folder, and that folder may be a new entry in the other.
        sync_folder(target.parent)
        sync_folder(self.folder)


def open_blobs(settings: BlobSettings, data_dir: Path) -> Blobs:
    """The place that the settings name; nothing is touched yet.

    Raises:
        InvalidInput: `blobs.url` names no place that files can be kept in.
    """
    if not settings.url:
        return Folder(data_dir / "blobs")
    url = urlsplit(settings.url)
    if url.scheme == "file" and not url.netloc and url.path.startswith("/"):
        return Folder(Path(unquote(url.path)))
    if url.scheme == "s3" and url.netloc and "@" not in url.netloc:
        # Only where it is wanted: the packages behind it are an extra, and take 60 MB of every process.
        from actors.store.bucket import Bucket

        return Bucket(
            f"{url.netloc}{url.path}".rstrip("/"),
            endpoint=settings.endpoint,
            incoming=data_dir / "blobs" / INCOMING,
            cache=data_dir / "cache",
            cache_mb=settings.cache_mb,
        )
    raise InvalidInput(
        "blobs.url is empty for the data directory, file:///folder for a share, or s3://bucket/prefix. Credentials do "
        "not belong in it: they are taken from the environment."
    )


class Incoming:
    """An upload on its way to the store.

        async with Incoming(blobs) as file:
            async for piece in request.stream():
                await file.write(piece)
            await file.flush()      # now `file.path` can be looked into
            sha256, size = await file.commit()

    Left without a commit, the temporary file is removed.

    Attributes:
        path: the temporary file, until the commit.
        size: bytes written so far.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
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
            with _told():
                await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on: wait for it, or its file would be left behind. If it failed, there is none.
            await asyncio.wait((opening,))
            if opening.exception() is None:
                await asyncio.to_thread(self._abandon)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self._abandon))

    async def write(self, piece: bytes) -> None:
        """Append bytes.

        Raises:
            Unavailable: the disk is full.
        """
        self._buffer += piece
        self.size += len(piece)
        if len(self._buffer) >= BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Hand everything written so far to the operating system, so that `path` can be read."""
        if self._buffer:
            piece, self._buffer = self._buffer, bytearray()
            with _told():
                await asyncio.to_thread(self._append, piece)

    async def hash(self) -> str:
        """SHA-256 of everything written so far, in hex."""
        await self.flush()
        return self._hash.hexdigest()

    async def commit(self) -> tuple[str, int]:
        """Make the file last, under its content address. Called again, it puts back what was removed meanwhile.

        Returns:
            SHA-256 in hex, and the size in bytes. When this returns, the file survives a power failure.
        """
        await self.flush()
        with _told():
            await asyncio.to_thread(self._settle)
        return self._hash.hexdigest(), self.size

    def _open(self) -> None:
        make_folder(self._blobs.incoming)
        self._fd, name = tempfile.mkstemp(dir=self._blobs.incoming)
        self.path = Path(name)

    def _append(self, piece: bytearray) -> None:
        with self._files:
            if self._fd >= 0:  # else abandoned meanwhile
                self._hash.update(piece)
                _write(self._fd, piece)

    def _settle(self) -> None:
        with self._files:
            if self._fd < 0:
                raise Unavailable("The upload was given up. Send it again.")
            if not self.path.exists():
                self._write_again()
            os.fsync(self._fd)
            self._blobs.keep(self.path, self._hash.hexdigest())

    def _write_again(self) -> None:
        """Another temporary file with what the first one held, which has its place and may be gone from there."""
        before, (self._fd, name) = self._fd, tempfile.mkstemp(dir=self._blobs.incoming)
        self.path = Path(name)
        try:
            at = 0
            while piece := os.pread(before, BUFFER_BYTES, at):
                _write(self._fd, piece)
                at += len(piece)
        finally:
            os.close(before)

    def _abandon(self) -> None:
        with self._files:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
                self.path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, with those above it, to stay: each new one is an entry of another that has to reach the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder survive a power failure."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A disk that is full, or gone, is no defect: it can be put right, and then the call can be repeated."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("The disk that files are kept on is full.") from error
        raise Unavailable(f"The place that files are kept in cannot be used: {error.strerror}.") from error


def _write(fd: int, piece: bytes | bytearray) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stat(path: Path) -> Stored | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return Stored(path.name, found.st_size, found.st_mtime)


def _listing(folder: Path) -> list[Stored]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except FileNotFoundError:
        return []
    # None: removed since.
    return [found for name in names if ADDRESS.fullmatch(name) and (found := _stat(folder / name)) is not None]


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _older(folder: Path, before: float) -> list[Path]:
    # None: another replica sweeps too, or the upload has just ended.
    return [path for path in folder.glob("*") if (found := _stat(path)) is not None and found.modified < before]
