"""The texts of chunks, with their words, in a file that only grows: read for the few that a search shows.

In memory they would be most of what a replica takes: about 5 KB a chunk, so 5 GB for a million. The file is mapped, so
what was read lately is in the system's cache of files, and reading it again takes no call. A file that only grows is
its own snapshot: whatever is added later, the part that was there stays as it was.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from actors.messages import Chunk, ChunkKind

_HEAD: Final = struct.Struct("<qiiiBI")
"""Of a record: the document's number, page, start, end, kind, and bytes of the text; text and words follow."""

_NUMBER_BYTES: Final = 8

_KINDS: Final[tuple[ChunkKind, ...]] = ("text", "table")
_READ: Final = 1 << 22


class Kept(NamedTuple):
    """What is kept of a chunk: all but its heading and ordinal, which nobody is shown.

    A plain tuple, because making ten frozen objects a query takes as long as reading ten records.

    Attributes:
        document: its number.
        words: as `Words.data`.
    """

    document: int
    page: int
    start: int
    end: int
    text: str
    words: bytes
    kind: ChunkKind


class Contents:
    """Chunks by entry. Adding belongs to one writing thread; reading may happen in others at the same time.

    Args:
        file: where they are kept, made anew; None for a file without a name that goes with this object.
    """

    _view: mmap.mmap | None

    def __init__(self, file: Path | None = None) -> None:
        self._open(file, os.O_CREAT | os.O_TRUNC)
        # Where the record of an entry ends; it begins where the one before it ends.
        self._ends = np.zeros(1024, np.int64)
        self._count = 0
        self._size = 0
        self._checksum = 0

    @property
    def next_entry(self) -> int:
        """What the next chunk will be known by."""
        return self._count

    def add(self, document: int, chunks: Sequence[Chunk]) -> range:
        """Append the chunks of a document; the entries that they are now known by.

        Args:
            document: its number.
            chunks: in order.
        """
        count = self._count + len(chunks)
        if count > len(self._ends):
            grown = np.zeros(max(count, 2 * len(self._ends)), np.int64)
            grown[: self._count] = self._ends[: self._count]
            self._ends = grown
        records = [_record(document, chunk) for chunk in chunks]
        content = b"".join(records)
        written = 0
        while written < len(content):
            written += os.pwrite(self._fd, memoryview(content)[written:], self._size + written)
        self._ends[self._count : count] = self._size + np.cumsum([len(record) for record in records], dtype=np.int64)
        self._checksum = zlib.crc32(content, self._checksum)
        self._size += len(content)
        entries = range(self._count, count)
        self._count = count
        return entries

    def get(self, entry: int) -> Kept:
        """What is kept of a chunk."""
        view, first, end = self._found(entry)
        document, page, start, stop, kind, length = _HEAD.unpack_from(view, first)
        text_end = first + _HEAD.size + length
        text = view[first + _HEAD.size : text_end].decode("utf-8", "surrogatepass")
        return Kept(document, page, start, stop, text, view[text_end:end], _KINDS[kind])

    def document_of(self, entry: int) -> int:
        """The number of a chunk's document."""
        view, first, _ = self._found(entry)
        return int.from_bytes(view[first : first + _NUMBER_BYTES], "little", signed=True)

    def _found(self, entry: int) -> tuple[mmap.mmap, int, int]:
        """Where the record of a chunk is."""
        ends, view = self._ends, self._view
        first, end = (ends.item(entry - 1) if entry else 0), ends.item(entry)
        if view is None or end > len(view):
            # It has grown since. Whoever still reads the one before keeps it.
            view = self._view = mmap.mmap(self._fd, self._size, access=mmap.ACCESS_READ)
        return view, first, end

    def close(self) -> None:
        """Close the file, which else is closed when nothing refers to this object any more."""
        self._closing()

    def _open(self, file: Path | None, flags: int) -> None:
        self._path = file
        if file is None:
            with tempfile.TemporaryFile() as nameless:
                self._fd = os.dup(nameless.fileno())
        else:
            self._fd = os.open(file, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        self._closing = weakref.finalize(self, os.close, self._fd)
        self._view = None

    # --- snapshots ---

    def save(self, file: Path, ends: Path) -> dict[str, int]:
        """Give the file a second name, which from now on is a snapshot; write where its records end.

        Returns:
            What `load` wants to know.
        """
        if self._path is None:
            raise ValueError("a file without a name cannot be saved")
        os.fsync(self._fd)
        file.hardlink_to(self._path)
        np.save(ends, self._ends[: self._count])
        return {"size": self._size, "checksum": self._checksum}

    @classmethod
    def load(cls, snapshot: Path, ends: Path, account: dict[str, int], file: Path) -> Contents:
        """Go on from a snapshot, whose file gets another name.

        Raises:
            ValueError: it is not what was saved.
        """
        size = account["size"]
        checksum, left = 0, size
        with snapshot.open("rb") as saved:
            while left and (part := saved.read(min(left, _READ))):
                checksum = zlib.crc32(part, checksum)
                left -= len(part)
        where = np.load(ends, allow_pickle=False)
        if left or checksum != account["checksum"] or (int(where[-1]) if len(where) else 0) != size:
            raise ValueError("the texts are damaged")
        contents = cls.__new__(cls)
        file.hardlink_to(snapshot)
        contents._open(file, 0)
        # What was added after the snapshot is added again.
        os.ftruncate(contents._fd, size)
        contents._ends, contents._count = np.array(where, np.int64), len(where)
        contents._size, contents._checksum = size, checksum
        return contents


def _record(document: int, chunk: Chunk) -> bytes:
    text = chunk.text.encode("utf-8", "surrogatepass")
    head = _HEAD.pack(document, chunk.page, chunk.start, chunk.end, _KINDS.index(chunk.kind), len(text))
    return head + text + chunk.words.data
