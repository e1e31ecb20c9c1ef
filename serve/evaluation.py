"""Evaluation: how good the search is on a judged collection, and what a query costs.

The collection goes through the retrieval role itself, as it runs in an actor, with the settings in force: documents are
cut into chunks as pages are, followed from a change log, indexed and searched in batches. Only the store and the
processes are left out, so nothing is written, no running system is disturbed, and CPU time can be told.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from actors.database import Database
from actors.deadline import Deadline
from actors.errors import GatherumError, InvalidInput
from actors.messages import Change, Chunk, Fitted, PageChunks, Passage, PublishedDocument, Query, Words
from actors.reading import embedding
from actors.reading.chunking import pack
from actors.retrieval import Retriever
from actors.search import judging
from actors.search.judging import DEPTH, TOP, Judged, Text
from actors.search.placement import Shard
from actors.search.remote import RemoteEncoder
from config.settings import EncoderSettings, Settings

COLLECTION: Final = "evaluation"
BATCH: Final = 32
"""Queries that are searched for together."""

TIMED_S: Final = 2.0
"""Shortest time that costs are measured over, s."""

MOST_CHUNKS: Final = 10
"""Chunks that each document of a ranking may have in it before the last documents of it are lost."""

FILL_S: Final = 3600.0
BATCH_S: Final = 60.0

Tell = Callable[[str], None]
"""Called with a sentence when something is begun."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to search.

    Attributes:
        name: for people.
        query: arguments of `Query` that choose it.
    """

    name: str
    query: Mapping[str, Any] = field(default_factory=dict)

    def needs(self, encoder: str) -> bool:
        """Whether its queries are made vectors of by this encoder, `exact` or `fast`."""
        return self.query.get("encoder") == encoder


MODES: Final = (
    Mode("lexical", {"mode": "lexical"}),
    Mode("dense-fast", {"mode": "dense", "encoder": "fast"}),
    Mode("hybrid-fast", {"mode": "hybrid", "encoder": "fast"}),
    Mode("dense-exact", {"mode": "dense", "encoder": "exact"}),
    Mode("hybrid-exact", {"mode": "hybrid", "encoder": "exact"}),
)
"""All that there are, the cheapest first."""


class Published:
    """What an index follows of the store: documents that were all published before anybody looked.

    Args:
        documents: in any order.
        fast: the fast encoder that was fitted to them; None for none.
    """

    def __init__(self, documents: Sequence[PublishedDocument], fast: Fitted | None = None) -> None:
        self._documents = sorted(documents, key=lambda document: document.document_id)
        self._fast = fast

    async def last_change(self, *, deadline: Deadline) -> int:
        """As if each had been a change."""
        return len(self._documents)

    async def collections(self, *, deadline: Deadline) -> list[str]:
        """One holds them all."""
        return [COLLECTION]

    async def published(
        self, after: str | None, limit: int, *, encoder: str, shard: Shard, deadline: Deadline
    ) -> list[PublishedDocument]:
        """Up to `limit` of them past an id."""
        start = 0 if after is None else _past(self._documents, after)
        return self._documents[start : start + limit]

    async def published_document(
        self, document_id: str, *, encoder: str, deadline: Deadline
    ) -> PublishedDocument | None:
        """None changes, so none is asked for."""
        return None

    async def fitted(self, name: str, *, known: str | None = None, deadline: Deadline) -> Fitted | None:
        """The fast encoder; a store that has it gives it to every index."""
        return self._fast if name.startswith("fast:") else None

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        """Nothing ever happens."""
        await asyncio.sleep(wait_s)
        return []


def modes(names: Sequence[str]) -> tuple[Mode, ...]:
    """The modes of these names, all for none.

    Raises:
        InvalidInput: there is none of a name.
    """
    known = {mode.name: mode for mode in MODES}
    for name in names:
        if name not in known:
            raise InvalidInput(f"There is no mode {name!r}; there are {', '.join(known)}.")
    return tuple(known[name] for name in names) or MODES


async def evaluate(
    settings: Settings, folder: Path, *, split: str | None, chosen: Sequence[Mode], tell: Tell
) -> dict[str, Any]:
    """Judge each mode on a collection.

    Returns:
        The collection's sizes, and per mode its name, quality, queries a second and CPU seconds per 1,000 queries.

    Raises:
        InvalidInput: the folder is no judged collection.
    """
    tell(f"Reading {folder}.")
    judged = await asyncio.to_thread(judging.read, folder, split)
    documents = await asyncio.to_thread(_published, judged.documents, settings.pdf.chunk_tokens)
    chunks = sum(len(document.chunks) for document in documents)
    fast = None
    embedded_s = 0.0
    if any(mode.needs("exact") or mode.needs("fast") for mode in chosen):
        if settings.encoder.kind == "none":
            raise InvalidInput("Without an encoder (encoder.kind) there is only the mode lexical: --mode lexical.")
        tell(f"Embedding {chunks:,} chunks.")
        began = time.perf_counter()
        documents = await _embedded(documents, settings)
        embedded_s = time.perf_counter() - began
    if any(mode.needs("fast") for mode in chosen):
        tell("Fitting the fast encoder to them, which takes half a minute at least.")
        fast = await asyncio.to_thread(_fitted, documents, settings.encoder)
    tell(f"Indexing {len(documents):,} documents in {chunks:,} chunks.")
    began = time.perf_counter()
    retriever = Retriever(
        settings.retrieval, settings.encoder, cast("Database", Published(documents, fast)), egress=settings.egress
    )
    await retriever.start()
    try:
        await retriever.caught_up(len(documents), deadline=Deadline.after(FILL_S))
        indexed_s = time.perf_counter() - began
        found = []
        for mode in chosen:
            tell(f"Searching for {len(judged.queries):,} queries, {mode.name}.")
            found.append(await _judge(retriever, judged, mode, depth=_depth(documents)))
    finally:
        await retriever.stop()
    return {
        "folder": str(folder),
        "documents": len(documents),
        "chunks": chunks,
        "queries": len(judged.queries),
        "judged_but_missing": judged.missing,
        "embedded_s": round(embedded_s, 2),
        "indexed_s": round(indexed_s, 2),
        "modes": found,
    }


async def _judge(retriever: Retriever, judged: Judged, mode: Mode, *, depth: int) -> dict[str, Any]:
    texts = list(judged.queries.values())
    found: list[list[str]] = []
    for batch in _batches(texts):
        found += [_documents(passages) for passages in await _search(retriever, batch, mode, depth)]
    quality = judging.quality(dict(zip(judged.queries, found, strict=True)), judged.grades)
    # As often as it takes for a figure that means something; the search for quality has warmed it all up.
    number, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < TIMED_S:
        for batch in _batches(texts):
            await _search(retriever, batch, mode, TOP)
            number += len(batch)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "mode": mode.name,
        **{name: round(value, 4) for name, value in asdict(quality).items()},
        "queries_per_s": round(number / wall, 1),
        "cpu_s_per_1000": round(1000 * cpu / number, 3),
    }


async def _search(retriever: Retriever, texts: Sequence[str], mode: Mode, limit: int) -> list[tuple[Passage, ...]]:
    queries = [Query(text, limit=limit, **mode.query) for text in texts]
    passages = []
    for found in await retriever.search_many(queries, deadline=Deadline.after(BATCH_S)):
        if isinstance(found, GatherumError):
            raise found
        if found.degraded:
            raise InvalidInput(found.degraded)
        passages.append(found.passages)
    return passages


def _published(texts: Sequence[Text], budget: int) -> list[PublishedDocument]:
    """The documents, cut into chunks as pages are."""
    documents = []
    for one in texts:
        # A document that has only a title is found by it all the same.
        text = one.text if one.text.strip() else one.title or "-"
        chunks = tuple(
            Chunk(1, ordinal, part.start, part.end, text[part.start : part.end], Words(), part.heading, part.kind)
            for ordinal, part in enumerate(pack(text, budget))
        )
        documents.append(PublishedDocument(one.document_id, one.title, COLLECTION, chunks))
    return documents


async def _embedded(documents: Sequence[PublishedDocument], settings: Settings) -> list[PublishedDocument]:
    """The documents with the vectors of their chunks, as page tasks, or for an endpoint the Pdf role, make them."""
    pages, titles = [document.chunks for document in documents], [document.title for document in documents]
    if settings.encoder.kind == "remote":
        endpoint = await asyncio.to_thread(
            RemoteEncoder.at, settings.encoder, settings.egress, timeout_s=settings.encoder.timeout_s
        )
        try:
            vectors = await endpoint.encode(embedding.wordings(pages, titles), deadline=Deadline.after(FILL_S))
        finally:
            await endpoint.close()
        made = embedding.dealt(endpoint.identity, pages, vectors)
    else:
        made = await asyncio.to_thread(embedding.embed, pages, titles, settings.encoder)
    return [replace(document, embeddings=each) for document, each in zip(documents, made, strict=True)]


def _fitted(documents: Sequence[PublishedDocument], settings: EncoderSettings) -> Fitted:
    pages = [PageChunks(each.document_id, 0, 1, each.chunks, each.embeddings, each.title) for each in documents]
    version, content, _ = embedding.fit(pages, settings, b"")
    return Fitted("fast", version, sum(len(page.chunks) for page in pages), content)


def _depth(documents: Sequence[PublishedDocument]) -> int:
    """Passages to look for, so that a hundred documents are among them though some come with several."""
    return DEPTH * min(MOST_CHUNKS, max(len(document.chunks) for document in documents))


def _documents(passages: Sequence[Passage]) -> list[str]:
    """Each document where its best chunk stands."""
    return list(dict.fromkeys(passage.document_id for passage in passages))[:DEPTH]


def _past(documents: Sequence[PublishedDocument], document_id: str) -> int:
    return bisect_right(documents, document_id, key=lambda document: document.document_id)


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), BATCH):
        yield texts[start : start + BATCH]
