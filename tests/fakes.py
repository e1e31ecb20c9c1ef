"""Stand-ins for the roles, shaped like the real ones, and small values to fill them with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np

from actors.deadline import Deadline
from actors.messages import (
    Change,
    Chunk,
    Embeddings,
    Fitted,
    Job,
    Mention,
    Page,
    PageRange,
    PageReading,
    PublishedDocument,
    Words,
)
from actors.reading.allowance import Allowance
from actors.search import wordpieces
from actors.search.encoder import Vectors, unit
from actors.search.fast import FastEncoder
from actors.search.placement import WHOLE, Shard


def page_reading(
    number: int, text: str = "Titan orbits Saturn.", *, names: Sequence[str] = ("Titan", "Saturn")
) -> PageReading:
    """A page of one chunk that mentions `names`, each where it first stands in the text."""
    words = []
    start = 0
    for position, word in enumerate(text.split(" ")):
        x = 72.0 + 40 * position
        words.append((start, start + len(word), x, 72.0, x + 38, 84.0))
        start += len(word) + 1
    packed = Words.of(words)
    mentions = tuple(
        Mention(name, "LOC", text.index(name), text.index(name) + len(name), number) for name in names if name in text
    )
    return PageReading(
        Page(number, 595.0, 842.0, text, packed), (Chunk(number, 0, 0, len(text), text, packed),), mentions
    )


def unreadable(number: int, why: str = "The page's content stream is damaged.") -> PageReading:
    """A page that could not be read."""
    return PageReading(Page(number, 595.0, 842.0, "", Words(), error=why))


def job(job_id: str, **values: Any) -> Job:
    """A job of two pages that waits, but for what is given otherwise."""
    fields: dict[str, Any] = {
        "document_id": f"d-{job_id}",
        "state": "queued",
        "pages_done": 0,
        "pages_total": 2,
        "attempt": 0,
        "error": None,
        "change": None,
        "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z",
        "collection": "main",
        "filename": "moons.pdf",
        "priority": 0,
        "pages_per_s": None,
        "eta_s": None,
    }
    return Job(job_id, **{**fields, **values})


@dataclass
class FakePdf:
    """Reads every page at once, one page a range, unless told otherwise.

    Attributes:
        errors: raised in turn, one a call of `read`, before any page is given; None lets a call through.
        breaks_before: page before which the call breaks off, with the error to break off with; each happens once.
        scanned: pages that come after the others, which then come in one range.
        gate: if set, waited for before every page.
        calls: pages asked for, by call.
        chars: length of the text that had been read before, by call.
        reached: set when a page waits at the gate.
        closed: how many calls have ended, however they did.
    """

    errors: list[Exception | None] = field(default_factory=list)
    breaks_before: dict[int, Exception] = field(default_factory=dict)
    unreadable: frozenset[int] = frozenset()
    scanned: frozenset[int] = frozenset()
    gate: asyncio.Event | None = None
    calls: list[tuple[int, ...]] = field(default_factory=list)
    chars: list[int] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    closed: int = 0

    async def read(
        self,
        path: str,
        pages: Sequence[int],
        *,
        enrich: bool,
        details: bool = False,
        images: Allowance | None = None,
        chars: int = 0,
        deadline: Deadline,
    ) -> AsyncIterator[PageRange]:
        """Read `pages`."""
        self.calls.append(tuple(pages))
        self.chars.append(chars)
        try:
            if self.errors and (error := self.errors.pop(0)) is not None:
                raise error
            if self.scanned:
                ready = tuple(number for number in pages if number not in self.scanned)
                pages = [number for number in pages if number in self.scanned]
                if ready:
                    yield _range_of(tuple(map(page_reading, ready)))
            for number in pages:
                if number in self.breaks_before:
                    raise self.breaks_before.pop(number)
                if self.gate is not None:
                    self.reached.set()
                    await self.gate.wait()
                reading = unreadable(number) if number in self.unreadable else page_reading(number)
                yield _range_of((reading,))
        finally:
            self.closed += 1


def _range_of(readings: tuple[PageReading, ...]) -> PageRange:
    pages = tuple(reading.page.number for reading in readings)
    return PageRange(pages, readings, sum(len(reading.page.text) for reading in readings))


def published(
    document_id: str,
    *texts: str,
    title: str = "",
    collection: str = "default",
    page: int = 1,
    metadata: dict[str, Any] | None = None,
    encoder: FakeEncoder | None = None,
) -> PublishedDocument:
    """A published document with one chunk a text, each on a page of its own; words stand on one line.

    With an encoder, with the vectors that it makes.
    """
    chunks = []
    for number, text in enumerate(texts, start=page):
        words = page_reading(number, text, names=()).page.words
        chunks.append(Chunk(number, 0, 0, len(text), text, words))
    made = Embeddings.of(encoder.identity, encoder.vectors(texts)) if encoder else None
    return PublishedDocument(document_id, title or document_id, collection, tuple(chunks), metadata or {}, made)


class FakeEncoder:
    """Makes vectors by the subjects that a text names: one axis each, so texts are alike if they share subjects.

    Attributes:
        down: raised by `encode` while it is set.
        gate: if set, `encode` waits for it.
        encoded: texts of queries, by call.
    """

    SUBJECTS: Final = (("moon", "titan", "satellite"), ("bread", "dough", "oven"), ("wing", "flow", "aircraft"))
    identity = "fake@1"
    dimension = len(SUBJECTS)
    trouble = ""

    def __init__(self) -> None:
        self.pieces = wordpieces.default()
        self.down: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.encoded: list[list[str]] = []

    def vectors(self, texts: Sequence[str]) -> Vectors:
        return unit(
            np.array(
                [[sum(word in text.lower() for word in words) for words in self.SUBJECTS] for text in texts], np.float32
            ).reshape(len(texts), self.dimension)
        )

    async def encode(self, texts: Sequence[str], *, deadline: Deadline) -> Vectors:
        self.encoded.append(list(texts))
        if self.gate is not None:
            await self.gate.wait()
        if self.down is not None:
            raise self.down
        return self.vectors(texts)

    async def close(self) -> None:
        pass

    def fast(self) -> FastEncoder:
        """What imitates it: knows the first word of each subject alone."""
        table = np.zeros((len(self.pieces), self.dimension), np.float16)
        for axis, words in enumerate(self.SUBJECTS):
            table[self.pieces.pieces([words[0]])[0], axis] = 1
        return FastEncoder(table, np.ones(len(table), np.float32), identity=self.identity, rows=1)


class FakePublishing:
    """The part of the database that indexes follow: published documents and their change log.

    Attributes:
        down: raised by every call while it is set.
        names: collections, as `collections` tells them; the log may not know of them yet.
        calls: names of the methods called, in order.
    """

    def __init__(self, *documents: PublishedDocument) -> None:
        self.documents: dict[str, PublishedDocument] = {}
        self.log: list[Change] = []
        self.names: set[str] = set()
        self.kept: dict[str, Fitted] = {}
        self.down: Exception | None = None
        self.calls: list[str] = []
        self._news = asyncio.Condition()
        for document in documents:
            self._publish(document)

    def _publish(self, document: PublishedDocument) -> None:
        self.names.add(document.collection)
        self.documents[document.document_id] = document
        self._note("publish", document.document_id, document.collection)

    def _note(
        self, kind: Literal["publish", "delete", "collection", "encoder"], document_id: str, collection: str
    ) -> None:
        self.log.append(Change(len(self.log) + 1, kind, document_id, collection))

    async def publish(self, *documents: PublishedDocument) -> int:
        """Publish documents; all their changes appear at once."""
        for document in documents:
            self._publish(document)
        return await self._tell()

    async def delete(self, document_id: str) -> int:
        """Delete a document."""
        self._note("delete", document_id, self.documents.pop(document_id).collection)
        return await self._tell()

    async def create(self, collection: str) -> int:
        """Create a collection."""
        self.names.add(collection)
        self._note("collection", "", collection)
        return await self._tell()

    async def fail(self, error: Exception | None) -> None:
        """Go down with an error, or come back with None."""
        self.down = error
        await self._tell()

    async def _tell(self) -> int:
        async with self._news:
            self._news.notify_all()
        return len(self.log)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down is not None:
            raise self.down

    async def last_change(self, *, deadline: Deadline) -> int:
        self._called("last_change")
        return len(self.log)

    async def collections(self, *, deadline: Deadline) -> list[str]:
        self._called("collections")
        return sorted(self.names)

    async def fitted(self, name: str, *, known: str | None = None, deadline: Deadline) -> Fitted | None:
        self._called("fitted")
        kept = self.kept.get(name)
        return replace(kept, content=b"") if kept and known in (None, kept.version) else kept

    async def keep(self, fitted: Fitted) -> int:
        """Keep something fitted."""
        self.kept[fitted.name] = fitted
        self._note("encoder", "", "")
        return await self._tell()

    async def published(
        self, after: str | None, limit: int, *, encoder: str = "", shard: Shard = WHOLE, deadline: Deadline
    ) -> list[PublishedDocument]:
        self._called("published")
        ids = sorted(name for name in self.documents if (after is None or name > after) and shard.holds(name))
        return [self._of(name, encoder) for name in ids[:limit]]

    async def published_document(
        self, document_id: str, *, encoder: str = "", deadline: Deadline
    ) -> PublishedDocument | None:
        self._called("published_document")
        return self._of(document_id, encoder) if document_id in self.documents else None

    def _of(self, document_id: str, encoder: str) -> PublishedDocument:
        """As the store gives it: with the vectors of this encoder, or with none."""
        document = self.documents[document_id]
        made = document.embeddings
        return document if made is None or made.encoder == encoder else replace(document, embeddings=None)

    async def vectors_of(self, document_ids: list[str], *, encoder: str, deadline: Deadline) -> dict[str, Embeddings]:
        self._called("vectors_of")
        found = {name: self._of(name, encoder).embeddings for name in document_ids if name in self.documents}
        return {name: made for name, made in found.items() if made is not None}

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        self._called("changes")
        async with self._news:
            await self._news.wait_for(lambda: len(self.log) > after or self.down is not None or wait_s == 0)
        if self.down is not None:
            raise self.down
        return self.log[after : after + limit]
