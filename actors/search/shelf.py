"""The published chunks in memory, with the indexes over them: what a replica of the retrieval role holds.

A chunk is known by a small integer that every index shares, so that rankings can be fused before any text is touched.
A document that is put in again gets new integers: a search that began before sees its old chunks or its new ones, never
a mix.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from actors.messages import Chunk, Passage, PublishedDocument, Query
from actors.search.fusion import fuse
from actors.search.lexical import LexicalIndex


@dataclass(frozen=True, slots=True)
class _Placed:
    """A chunk and the document it belongs to."""

    document: PublishedDocument
    chunk: Chunk


class Shelf:
    """Chunks by integer id, and their indexes.

    `put`, `remove` and `commit` belong to one writing thread; the rest may run in others at the same time.

    Args:
        writer_memory_mb: memory of the index writer, MB.
        max_query_terms: terms of a query that are looked up.
    """

    def __init__(self, *, writer_memory_mb: int, max_query_terms: int) -> None:
        self._lexical = LexicalIndex(writer_memory_mb=writer_memory_mb, max_query_terms=max_query_terms)
        self._chunks: dict[int, _Placed] = {}
        self._documents: dict[str, range] = {}
        self._leaving: list[range] = []
        self._next = 0

    @property
    def documents(self) -> int:
        """Documents held."""
        return len(self._documents)

    @property
    def chunks(self) -> int:
        """Chunks that searches see."""
        return len(self._lexical)

    def chunks_of(self, document_id: str) -> int:
        """Chunks of one document; 0 where it is not held."""
        return len(self._documents.get(document_id, range(0)))

    def contents(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` documents past the id `after`, in order, each with its number of chunks."""
        # A copy first: the writing thread may change it meanwhile.
        held = [(name, len(ids)) for name, ids in self._documents.copy().items() if name > after]
        return heapq.nsmallest(limit, held)

    def put(self, document: PublishedDocument) -> None:
        """Take a document in, in place of its former self. Searches see it after the next commit."""
        self.remove(document.document_id)
        bare = PublishedDocument(document.document_id, document.title, document.collection, ())
        ids = range(self._next, self._next + len(document.chunks))
        self._next = ids.stop
        # Noted first: if adding fails half-way, putting it in again removes the half.
        self._documents[document.document_id] = ids
        for entry, chunk in zip(ids, document.chunks, strict=True):
            self._chunks[entry] = _Placed(bare, chunk)
            self._lexical.add(
                entry,
                document_id=document.document_id,
                collection=document.collection,
                title=document.title,
                text=chunk.text,
            )

    def remove(self, document_id: str) -> None:
        """Drop a document, if it is held. Searches miss it after the next commit."""
        ids = self._documents.pop(document_id, None)
        if ids is not None:
            self._lexical.delete(document_id)
            # Searches find these until the commit, and need their texts.
            self._leaving.append(ids)

    def commit(self) -> None:
        """Make everything since the last commit visible at once."""
        self._lexical.commit()
        for ids in self._leaving:
            for entry in ids:
                self._chunks.pop(entry, None)
        self._leaving.clear()

    def search(self, query: Query) -> list[Passage]:
        """The passages for a query, best first. Collections that are not held give nothing; `mode` is not looked at."""
        found = dict(self._lexical.search(query.text, collections=query.collections, limit=query.limit))
        passages = []
        for entry, score in fuse([(1.0, list(found))]):
            # A commit between the search and here may have taken the chunk away.
            placed = self._chunks.get(entry)
            if placed is not None:
                passages.append(_passage(placed, score, {"lexical": found[entry]}))
        return passages


def _passage(placed: _Placed, score: float, scores: dict[str, float]) -> Passage:
    document, chunk = placed.document, placed.chunk
    return Passage(
        document_id=document.document_id,
        title=document.title,
        collection=document.collection,
        page=chunk.page,
        start=chunk.start,
        end=chunk.end,
        text=chunk.text,
        words=chunk.words,
        score=score,
        scores=scores,
        kind=chunk.kind,
    )
