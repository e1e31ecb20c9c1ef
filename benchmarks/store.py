"""What the store costs on SQLite, PostgreSQL and MariaDB: a job, a thousand documents, a publication, a page.

Servers are private ones, started for this with their defaults: every commit is on the disk when it is answered, on
SQLite too. Pages are read by PyMuPDF in this process, which keeps the index too, and no names are looked for: so it is
the store that is measured.

    python -m benchmarks.store --out store.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import pymupdf
from rich.console import Console
from rich.table import Table

from actors.database import Database
from actors.deadline import Deadline
from actors.ingest import Ingest
from actors.messages import Accepted, DocumentInfo, Lease, Page, PageRange, PageReading, Query, Upload, Words
from actors.reading import chunking, pages
from actors.retrieval import Retriever
from actors.store.blobs import Folder, Incoming
from config import logs
from config.settings import load

KINDS: Final = ("sqlite", "postgresql", "mysql")
SHOWN: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}
RANGE: Final = 16  # pages committed together, as `pdf.range_pages` has it
UPLOADS: Final = 8  # at once
WORDS_A_PAGE: Final = 500
BUDGET_S: Final = 600.0
SETTINGS: Final = load(environ={"GATHERUM_LOGS__LEVEL": "ERROR"})
WORDS_ALONE: Final = SETTINGS.encoder.model_copy(update={"kind": "none"})
console = Console()


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured on one database.

    Attributes:
        claim_ms: median of claiming a job.
        commit_ms: median of storing an empty page.
        publish_ms: median of publishing a document of one page.
        accepted_per_s: documents taken in, file and row both on the disk, some at once.
        documents_per_s: documents of one page, from the first upload until the last can be found.
        latency_ms: of a long document, from its last page being stored until it can be found.
        stored_pages_per_s: pages of it, stored in ranges.
        mb: size of the store per 1,000 pages.
        text_mb: length of the text alone, per 1,000 pages.
    """

    claim_ms: float
    commit_ms: float
    publish_ms: float
    accepted_per_s: float
    documents_per_s: float
    latency_ms: float
    stored_pages_per_s: float
    mb: float
    text_mb: float


class PlainPdf:
    """Reads pages here, without tasks."""

    async def read(
        self, path: str, numbers: Sequence[int], *, enrich: bool, chars: int = 0, deadline: Deadline
    ) -> AsyncIterator[PageRange]:
        """Read pages, one a range."""
        for number in numbers:
            with pages.opened(path) as document:
                page, _ = pages.read(document, number)
            reading = PageReading(page, chunking.chunk(page, SETTINGS.pdf.chunk_tokens))
            yield PageRange((number,), (reading,), len(page.text))


def main() -> None:
    """Run it, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    count = 100 if given.quick else 1000
    logs.configure(SETTINGS.logs, role="benchmark")
    found: dict[str, Figures] = {}
    for kind in KINDS:
        with store(kind) as place:
            found[kind] = asyncio.run(measured(place, count))
    console.print(table(found, count))
    if given.out:
        figures = {"documents": count, **{kind: asdict(one) for kind, one in found.items()}}
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Place:
    """An empty store.

    Attributes:
        url: of it.
        folder: for its files.
        size: how many bytes it takes by now.
    """

    url: str
    folder: Path
    size: Callable[[], int]


@contextmanager
def store(kind: str) -> Iterator[Place]:
    """An empty store of this kind, for as long as it is needed."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from servers import SERVERS

    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as name:
        folder = Path(name)
        if kind == "sqlite":
            path = folder / "gatherum.db"
            yield Place(f"sqlite:///{path}", folder, lambda: pages_of(path))
            return
        server = SERVERS[kind]()  # type: ignore[index]
        try:
            database = server.create_database()

            def size() -> int:
                if kind == "postgresql":
                    return int(server.administer(f"SELECT pg_database_size('{database}')"))
                return sum(path.stat().st_size for path in (server.folder / "data" / database).glob("*.ibd"))

            yield Place(server.url(database), folder, size)
        finally:
            server.close()


def pages_of(path: Path) -> int:
    """Bytes of an SQLite database, whether they are in the file or still in its log."""
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        ).fetchone()[0]
    return found


def database_of(url: str, folder: Path) -> Database:
    """The role over a store, not started."""
    return Database(
        SETTINGS.database, SETTINGS.sources, SETTINGS.blobs, url=url, blobs=Folder(folder / "blobs"), max_attempts=3
    )


async def measured(place: Place, count: int) -> Figures:
    """Everything, on one database."""
    database, folder = database_of(place.url, place.folder), place.folder
    await database.start()
    retriever = Retriever(SETTINGS.retrieval, WORDS_ALONE, database)
    try:
        claim, commit, publish = await overhead(database, folder, count // 2)
        await retriever.start()
        accepted, done = await end_to_end(database, retriever, folder, count)
        before = await asyncio.to_thread(place.size)
        latency, stored, text = await long_document(database, retriever, folder, count)
        after = await asyncio.to_thread(place.size)
    finally:
        await retriever.stop()
        await database.stop()
    per_1000 = 1000 / count
    return Figures(
        claim * 1e3,
        commit * 1e3,
        publish * 1e3,
        accepted,
        done,
        latency * 1e3,
        stored,
        (after - before) * per_1000 / 1e6,
        text * per_1000 / 1e6,
    )


# --- what is measured ------------------------------------------------------------------------------------------------


async def overhead(database: Database, folder: Path, count: int) -> tuple[float, float, float]:
    """Jobs of one empty page, one after the other.

    Returns:
        Medians of a claim, of storing the page, and of publishing, s.
    """
    for number in range(count):
        await take_in(database, folder, f"empty {number}".encode(), 1)
    empty = (PageReading(Page(1, 595.0, 842.0, "", Words())),)
    times: list[tuple[float, float, float]] = []
    for _ in range(count):
        began = time.perf_counter()
        lease = await claimed(database)
        at_claim = time.perf_counter()
        await database.commit_pages(lease.job_id, lease.fence, empty, deadline=budget())
        at_commit = time.perf_counter()
        await database.publish(lease.job_id, lease.fence, deadline=budget())
        times.append((at_claim - began, at_commit - at_claim, time.perf_counter() - at_commit))
    first, second, third = (median(column) for column in zip(*times, strict=True))
    return first, second, third


async def end_to_end(database: Database, retriever: Retriever, folder: Path, count: int) -> tuple[float, float]:
    """Documents of one page: uploaded, several at once, read and made findable.

    Returns:
        Uploads a second, and documents a second over all of it.
    """
    dice = random.Random(0)
    contents = []
    for _ in range(count):
        with pymupdf.open() as document:
            document.new_page().insert_text((72, 72), " ".join(dice.choices(VOCABULARY, k=8)))
            contents.append(document.tobytes())
    ingest = Ingest(
        SETTINGS.ingest,
        database,
        PlainPdf(),  # type: ignore[arg-type]  # the part of the role that is called
        WORDS_ALONE,
        blobs=Folder(folder / "blobs"),
        document_timeout_s=BUDGET_S,
    )
    began = time.perf_counter()
    await ingest.start()
    free = asyncio.Semaphore(UPLOADS)

    async def send(content: bytes) -> Accepted:
        async with free:
            accepted = await take_in(database, folder, content, 1)
            await ingest.wake(deadline=budget())
            return accepted

    await asyncio.gather(*map(send, contents))
    uploaded = time.perf_counter() - began
    while not {"queued", "reading"}.isdisjoint(await waiting(database)):  # noqa: ASYNC110 -- as a client would
        await asyncio.sleep(0.01)
    await retriever.caught_up(await database.last_change(deadline=budget()), deadline=budget())
    done = time.perf_counter() - began
    await ingest.stop()
    return count / uploaded, count / done


async def long_document(database: Database, retriever: Retriever, folder: Path, count: int) -> tuple[float, float, int]:
    """One document of so many pages.

    Returns:
        Seconds from its last page being stored until a search finds it; pages stored a second; its text's length.
    """
    await take_in(database, folder, b"long", count)
    lease = await claimed(database)
    dice = random.Random(1)
    readings = [prose(number, dice) for number in range(1, count + 1)]
    began = time.perf_counter()
    for start in range(0, count, RANGE):
        part = tuple(readings[start : start + RANGE])
        await database.commit_pages(lease.job_id, lease.fence, part, deadline=budget())
    stored = time.perf_counter()
    change = await database.publish(lease.job_id, lease.fence, deadline=budget())
    await retriever.caught_up(change.number, deadline=budget())
    last = readings[-1].page.text.split()
    found = await retriever.search_many([Query(" ".join(last[:6]), ("bench",), limit=1)], deadline=budget())
    took = time.perf_counter() - stored
    if isinstance(found[0], Exception) or not found[0].passages:
        raise RuntimeError("The document was not found.")
    return took, count / (stored - began), sum(len(reading.page.text.encode()) for reading in readings)


# --- in small --------------------------------------------------------------------------------------------------------


VOCABULARY: Final = ["".join(random.Random(number).choices("aeilnorst", k=4 + number % 7)) for number in range(5000)]


def prose(number: int, dice: random.Random) -> PageReading:
    """A page as long as a page of a book, its words in lines, and its chunks."""
    words = dice.choices(VOCABULARY, k=WORDS_A_PAGE)
    boxes, start = [], 0
    for position, word in enumerate(words):
        x, y = 50.0 + 40 * (position % 12), 60.0 + 14 * (position // 12)
        boxes.append((start, start + len(word), x, y, x + 6 * len(word), y + 11))
        start += len(word) + 1
    page = Page(number, 595.0, 842.0, " ".join(words), Words.of(boxes))
    return PageReading(page, chunking.chunk(page, SETTINGS.pdf.chunk_tokens))


async def take_in(database: Database, folder: Path, content: bytes, count: int) -> Accepted:
    """Upload a file of so many pages."""
    async with Incoming(Folder(folder / "blobs")) as file:
        await file.write(content)
        sha256, length = await file.commit()
        upload = Upload(sha256, length, "a.pdf", "bench", DocumentInfo(count), {})
        return await database.accept(upload, deadline=budget())


async def claimed(database: Database) -> Lease:
    """The next job."""
    lease = await database.claim("bench", SETTINGS.ingest.lease_s, deadline=budget())
    if lease is None:
        raise RuntimeError("There was no job to claim.")
    return lease


async def waiting(database: Database) -> dict[str, int]:
    """Jobs that are not done, by state."""
    found: dict[str, int] = (await database.health(deadline=budget())).detail["jobs"]
    return found


def budget() -> Deadline:
    """Long enough."""
    return Deadline.after(BUDGET_S)


def table(found: dict[str, Figures], count: int) -> Table:
    """The figures, for people."""
    shown = Table(title=f"The store, {os.cpu_count()} cores, {count:,} documents and pages")
    shown.add_column("what")
    for kind in found:
        shown.add_column(SHOWN[kind], justify="right")
    for name, what in SAID.items():
        shown.add_row(what, *(f"{getattr(one, name):,.1f}" for one in found.values()))
    return shown


SAID: Final = {
    "claim_ms": "claim of a job, ms",
    "commit_ms": "commit of an empty page, ms",
    "publish_ms": "publication of it, ms",
    "accepted_per_s": "uploads/s, file and row on the disk",
    "documents_per_s": "documents of one page/s, upload to findable",
    "stored_pages_per_s": "pages/s of a long document, stored",
    "latency_ms": "its last page stored to findable, ms",
    "mb": "store per 1,000 pages, MB",
    "text_mb": "of that the text alone, MB",
}


if __name__ == "__main__":
    main()
