"""What an ingestion would cost, before anything is sent: `gatherum ingest --dry-run`.

Each file is hashed and opened here, a few of its pages are looked at, and the rest is reckoned from them. PDFs are as
hostile on this machine as on the server: they are opened in a process of their own that gives up what it does not need,
and a file that takes that process down is one line in the result.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any, Final, Self

from actors.errors import GatherumError
from config.settings import Settings

SAMPLE: Final = 8
"""Pages looked at in a file, evenly spread."""

TEXT_PAGE_S: Final = 0.030
SCANNED_PAGE_S: Final = 1.2
"""Time of one core for a page, s: with chunks and names 66 pages/s on two cores, Tesseract 1.7 (docs/benchmarks.md)."""

EMBEDDED_BYTES_PER_S: Final = 2_800
"""Text of which one core makes vectors in a second: 180 tokens of a passage, some 4 bytes each, take MiniLM 65 ms, and
each passage is embedded with its title. Another model in a folder is taken to be as large."""

VECTOR_SHARE: Final = 1.1
"""What vectors take in the store, as a multiple of the text: 768 bytes for a passage of some 700."""

SCANNED_TEXT_BYTES: Final = 2_500
"""Text that a scanned page is taken to have."""

PAGE_BYTES: Final = 6000
TEXT_SHARE: Final = 2.4
"""What a page takes in the store: a fixed part for the rows of its chunks and names, and so many times its text and
packed words, which are on the page and again on its chunks. SQLite: 27.8 kB for a page of 450 words and 30 names."""

SCANNED_BYTES: Final = 20_000
"""What a scanned page, whose text nobody knows yet, is taken to need in all."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server would refuse, and what the looking may take.

    Attributes:
        max_file_mb: MB.
        max_pages: of a document.
        page_s: budget of one page, s.
        memory_mb: allowance of the process that opens files, MB.
        embeds: whether vectors are made here, not by an endpoint elsewhere or not at all.
    """

    max_file_mb: float
    max_pages: int
    page_s: float
    memory_mb: int
    embeds: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of these settings: the server's own, if it runs with the same."""
        pdf = settings.pdf
        largest = min(settings.api.max_upload_mb, pdf.max_file_mb)
        embeds = settings.encoder.kind in ("minilm", "folder")
        return cls(largest, pdf.max_pages, pdf.page_timeout_s, pdf.worker_memory_mb, embeds)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at one file has shown.

    Attributes:
        path: of the file.
        size: bytes.
        sha256: hex; empty for a file that was refused by its size, or is not to be read here.
        pages: page count.
        sampled: pages looked at.
        scanned: of those, the ones that need optical recognition.
        text: bytes of the text of those that have any.
        stored: bytes that they will take in the store.
        code: of the error that the server would answer with; None for a file that it would take.
        error: the same for a person.
    """

    path: str
    size: int = 0
    sha256: str = ""
    pages: int = 0
    sampled: int = 0
    scanned: int = 0
    text: int = 0
    stored: int = 0
    code: str | None = None
    error: str | None = None


def look(path: str, limits: Limits) -> Look:
    """Look at one file. Runs in a process of its own, which it may take down."""
    from actors.reading import limits as process

    process.confine(limits.memory_mb, 1)
    size = 0
    try:
        size = Path(path).stat().st_size
        process.check_file(path, limits.max_file_mb)
        with Path(path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        with process.clock(limits.page_s * (SAMPLE + 1)):
            return _looked_into(path, size, sha256, limits)
    except GatherumError as error:
        return Look(path, size, code=error.code, error=error.detail)
    except OSError as error:
        return Look(path, size, code="unreadable", error=error.strerror or str(error))
    except MemoryError:
        return Look(path, size, code="reading_failed", error=f"Reading it took more than {limits.memory_mb:,} MB.")
    except Exception as error:  # noqa: BLE001 -- one file among thousands
        return Look(path, size, code="reading_failed", error=f"It could not be read: {type(error).__name__}.")


def _looked_into(path: str, size: int, sha256: str, limits: Limits) -> Look:
    from actors.reading import pages as reading

    count = reading.inspect(path, limits.max_pages).pages
    chosen = sample(count)
    scanned = text = 0
    stored = 0.0
    with reading.opened(path) as document:
        for number in chosen:
            page, why = reading.read(document, number)
            if why:
                scanned += 1
            else:
                length, words = len(page.text.encode()), zlib.compress(page.words.data, 1)
                text += length
                stored += TEXT_SHARE * (length + len(words)) + PAGE_BYTES
    return Look(path, size, sha256, count, len(chosen), scanned, text, round(stored))


def sample(count: int) -> list[int]:
    """Up to `SAMPLE` of `count` pages, the first and the last among them."""
    if count <= SAMPLE:
        return list(range(1, count + 1))
    return [1 + round(step * (count - 1) / (SAMPLE - 1)) for step in range(SAMPLE)]


async def look_at_all(paths: Sequence[Path], limits: Limits, looks: list[Look]) -> None:
    """Look at files, several at once; what is found goes to `looks` as it comes.

    Args:
        paths: of the files.
        limits: see there.
        looks: grows by one entry a file, in no particular order.
    """
    waiting = iter(paths)
    stop = Event()
    # In threads: starting a process blocks.
    many = min(len(paths), os.cpu_count() or 1)
    try:
        await asyncio.gather(*(asyncio.to_thread(_look_at_some, waiting, limits, looks, stop) for _ in range(many)))
    finally:
        stop.set()


def _look_at_some(waiting: Iterator[Path], limits: Limits, looks: list[Look], stop: Event) -> None:
    pool = _process()
    try:
        for path in waiting:
            if stop.is_set():
                return
            try:
                looks.append(pool.submit(look, str(path), limits).result())
            except BrokenProcessPool:
                pool.shutdown(wait=False)
                pool = _process()
                why = f"It took the reader down, or longer than {limits.page_s:g} s a page."
                looks.append(Look(str(path), code="reading_failed", error=why))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _process() -> ProcessPoolExecutor:
    # One process each, so that a crash is known for the file's own; spawned, so that it starts with nothing of ours.
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def summary(
    looks: Iterable[Look], known: set[str] | None, *, embeds: bool, urls: int = 0, cpus: int | None = None
) -> dict[str, Any]:
    """What all of it comes to; the JSON of `gatherum ingest --dry-run --json`.

    Args:
        looks: one a file.
        known: hashes of the files that the collection has; None if the server could not be asked.
        embeds: as in `Limits`.
        urls: how many URLs there were, which are not looked at.
        cpus: that will read; those of this machine by default.
    """
    cpus = cpus or os.cpu_count() or 1
    refused: list[dict[str, Any]] = []
    seen: set[str] = set()
    new: list[Look] = []
    files = duplicates = repeated = 0
    for each in sorted(looks, key=lambda each: each.path):
        files += 1
        if each.code:
            refused.append({"path": each.path, "code": each.code, "error": each.error})
        elif known is not None and each.sha256 in known:
            duplicates += 1
        elif each.sha256 in seen:
            repeated += 1
        else:
            seen.add(each.sha256)
            new.append(each)
    pages = sum(each.pages for each in new)
    scanned = sum(each.pages * each.scanned / each.sampled for each in new)
    stored = sum(each.pages * each.stored / each.sampled for each in new) + scanned * SCANNED_BYTES
    size = sum(each.size for each in new)
    seconds = (pages - scanned) * TEXT_PAGE_S + scanned * SCANNED_PAGE_S
    if embeds:
        text = sum(each.pages * each.text / each.sampled for each in new) + scanned * SCANNED_TEXT_BYTES
        seconds += text / EMBEDDED_BYTES_PER_S
        stored += text * VECTOR_SHARE
    return {
        "files": files,
        "new": len(new),
        "known": None if known is None else duplicates,
        "repeated": repeated,
        "refused": refused,
        "urls": urls,
        "pages": pages,
        "scanned_pages": round(scanned),
        "seconds": round(seconds / cpus, 1),
        "cpus": cpus,
        "file_bytes": size,
        "store_bytes": round(stored),
    }
