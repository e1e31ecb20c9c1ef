"""Cache: copies of files of a bucket on a node's own disk, since MuPDF opens files and not URLs.

It is bounded, and what is used least recently goes first; what is in use stays. Whether a copy is in use, the kernel
knows: its user holds a shared lock on it (`flock`), which goes with the process however that ends, so nothing that is
killed leaves a mark behind. Any number of processes of the node share one cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T", int, int | None)

PARTIAL: Final = "partial"
LEFT_BEHIND_S: Final = 3600.0
"""Age from which an unfinished copy is taken to be left behind, s."""


class Cache:
    """Copies by content address.

    Args:
        folder: for this alone.
        max_bytes: bound; copies in use may exceed it.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        # In this process a copy is fetched once, however many want it; among processes the first to finish wins.
        self._fetching: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def lease(self, sha256: str, fetch: Callable[[Path], None]) -> AsyncIterator[Path]:
        """A copy, that stays while the context lasts.

        Args:
            sha256: of the content.
            fetch: called in a thread to fill a new file where there is no copy yet; raises if that cannot be had.
        """
        path = self._folder / sha256[:2] / sha256
        fd = await _in_thread(_hold, path)
        if fd is None:
            lock = self._fetching.setdefault(sha256, asyncio.Lock())
            try:
                async with lock:
                    fd = await _in_thread(self._fetch, path, fetch)
            finally:
                if not lock.locked():
                    self._fetching.pop(sha256, None)
        try:
            yield path
        finally:
            os.close(fd)

    def _fetch(self, path: Path, fetch: Callable[[Path], None]) -> int:
        """A descriptor of the copy, with its lock."""
        (self._folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        while (held := _hold(path)) is None:
            fd, name = tempfile.mkstemp(dir=self._folder / PARTIAL)
            os.close(fd)
            partial = Path(name)
            try:
                fetch(partial)
                # Held before it has its name, so that there is no moment at which it could be taken for unused; and
                # linked, not renamed, since that would take the place of a copy which others hold.
                held = _open_held(partial)
                try:
                    os.link(partial, path)
                except FileExistsError:
                    os.close(held)
                else:
                    self._evict()
                    return held
            finally:
                partial.unlink(missing_ok=True)
        return held

    def _evict(self) -> None:
        """Remove the copies used longest ago until the rest is within the bound."""
        copies = sorted((found.st_mtime, found.st_size, path) for path, found in _files(self._folder, "??/*"))
        total = sum(size for _, size, _ in copies)
        for _, size, path in copies:
            if total <= self._max_bytes:
                break
            if _remove_unused(path):
                total -= size
        for path, found in _files(self._folder / PARTIAL, "*"):
            if found.st_mtime < time.time() - LEFT_BEHIND_S:
                path.unlink(missing_ok=True)


async def _in_thread(work: Callable[..., T], *args: object) -> T:
    """Run `work` in a thread; the descriptor that comes of it is closed if the caller has gone by then."""
    opening = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: asyncio.Future[int | None] | asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None and (fd := opening.result()) is not None:
        os.close(fd)


def _open_held(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _hold(path: Path) -> int | None:
    """A descriptor that holds a copy; None if there is none."""
    try:
        fd = _open_held(path)
    except FileNotFoundError:
        return None
    if not os.fstat(fd).st_nlink:  # removed between the two
        os.close(fd)
        return None
    os.utime(fd)
    return fd


def _remove_unused(path: Path) -> bool:
    """Remove a copy that nobody holds; whether it has gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _files(folder: Path, pattern: str) -> Iterator[tuple[Path, os.stat_result]]:
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()
