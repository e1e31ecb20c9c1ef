"""The published chunks in memory, with the indexes over them: what a replica of the retrieval role holds.

A chunk is known by a small integer that every index shares, so that rankings can be fused before any text is touched.
A document that is put in again gets new integers: a search that began before sees its old chunks or its new ones, never
a mix.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from actors.errors import InvalidInput
from actors.messages import Chunk, Passage, PublishedDocument, Query
from actors.search.dense import DenseIndex, Entries
from actors.search.encoder import Vectors
from actors.search.filters import Attributes, Filter
from actors.search.fusion import Hit, distinct, fuse
from actors.search.lexical import LexicalIndex

CANDIDATES: Final = 70
"""Entries that each index gives for fusion, at least. Measured (nDCG@10, hybrid fast, 30 / 70 / 200): cranfield 0.411 /
0.412 / 0.412, cacm 0.527 / 0.532 / 0.533, scifact 0.725 / 0.725 / 0.725."""

SPARE: Final = 20
"""Candidates beyond those wanted that near repetitions are replaced from."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A query as the indexes take it.

    Attributes:
        query: what is searched for.
        filter: what must hold for a document's metadata; None holds for all.
        lexical_weight: of the words in the fusion, more than 0.
        dense_weight: of the cosine there; less where the vector is not the encoder's own, and so less often right.
    """

    query: Query
    filter: Filter | None = None
    lexical_weight: float = 1.0
    dense_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class _Placed:
    """A chunk and the document it belongs to."""

    document: PublishedDocument
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class _Held:
    """Where what a query is held to leaves it: entries ascending, and documents if they are not all; None means all."""

    entries: Entries | None = None
    documents: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Lists:
    """What the indexes gave for a query: score by entry."""

    lexical: dict[int, float] = field(default_factory=dict)
    dense: dict[int, float] = field(default_factory=dict)


class Shelf:
    """Chunks by integer id, and their indexes.

    `put`, `remove` and `commit` belong to one writing thread; the rest may run in others at the same time.

    Args:
        writer_memory_mb: memory of the index writer, MB.
        max_query_terms: terms of a query that are looked up.
        dense: the dense index, empty; None where there is none: all searches are lexical.
        languages: of the collections, by their names in `config.settings.LANGUAGES`.
    """

    def __init__(
        self,
        *,
        writer_memory_mb: int,
        max_query_terms: int,
        dense: DenseIndex | None = None,
        languages: Sequence[str] = ("english",),
    ) -> None:
        self._lexical = LexicalIndex(
            writer_memory_mb=writer_memory_mb, max_query_terms=max_query_terms, languages=languages
        )
        self._dense = dense
        self._attributes = Attributes()
        self._chunks: dict[int, _Placed] = {}
        self._documents: dict[str, range] = {}
        self._names: dict[int, str] = {}  # documents by their first entry, which is their number
        self._collections: dict[str, set[int]] = {}
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

    @property
    def vectors(self) -> int:
        """Chunks that searches find by their vectors."""
        return 0 if self._dense is None else len(self._dense)

    def chunks_of(self, document_id: str) -> int:
        """Chunks of one document; 0 where it is not held."""
        return len(self._documents.get(document_id, range(0)))

    def contents(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` documents past the id `after`, in order, each with its number of chunks."""
        # A copy first: the writing thread may change it meanwhile.
        held = [(name, len(ids)) for name, ids in self._documents.copy().items() if name > after]
        return heapq.nsmallest(limit, held)

    def put(self, document: PublishedDocument, *, language: str = "english") -> None:
        """Take a document in, in place of its former self. Searches see it after the next commit.

        Args:
            document: with its chunks; without their vectors, or with those of another encoder than the dense index is
                for, it is found by its words alone.
            language: of its text, one of those that the shelf was made for.
        """
        self.remove(document.document_id)
        bare = PublishedDocument(document.document_id, document.title, document.collection, ())
        ids = range(self._next, self._next + len(document.chunks))
        self._next = ids.stop
        # Noted first: if adding fails half-way, putting it in again removes the half.
        self._documents[document.document_id] = ids
        if not ids:
            return
        self._names[ids.start] = document.document_id
        self._collections.setdefault(document.collection, set()).add(ids.start)
        self._attributes.put(ids.start, document.metadata)
        for entry, chunk in zip(ids, document.chunks, strict=True):
            self._chunks[entry] = _Placed(bare, chunk)
            self._lexical.add(
                entry,
                document_id=document.document_id,
                collection=document.collection,
                title=document.title,
                heading=chunk.heading,
                text=chunk.text,
                tongue=language,
            )
        made = document.embeddings
        if self._dense is not None and made is not None and made.encoder == self._dense.identity:
            self._dense.add(ids, made.array)

    def remove(self, document_id: str) -> None:
        """Drop a document, if it is held. Searches miss it after the next commit."""
        ids = self._documents.pop(document_id, None)
        if ids:
            self._lexical.delete(document_id)
            if self._dense is not None:
                self._dense.remove(ids)
            # Searches find these until the commit, and need their texts.
            self._leaving.append(ids)

    def commit(self) -> None:
        """Make everything since the last commit visible at once."""
        self._lexical.commit()
        if self._dense is not None:
            self._dense.commit()
        for ids in self._leaving:
            del self._names[ids.start]
            self._collections[self._chunks[ids.start].document.collection].discard(ids.start)
            self._attributes.remove(ids.start)
            for entry in ids:
                self._chunks.pop(entry, None)
        self._leaving.clear()

    def search(self, query: Query) -> list[Passage]:
        """The passages for a query by its words alone, best first. Collections that are not held give nothing."""
        (found,) = self.search_many([Wanted(dataclasses.replace(query, mode="lexical"))])
        if isinstance(found, InvalidInput):
            raise found
        return found

    def search_many(
        self, wanted: Sequence[Wanted], vectors: Vectors | None = None
    ) -> list[list[Passage] | InvalidInput]:
        """The passages for each query, best first, none of them a near repetition of one before it.

        Args:
            wanted: collections that are not held give nothing.
            vectors: of the queries, zeros for one without; without any all are searched for by their words alone.

        Returns:
            Per query its passages, or why its filter makes no sense.
        """
        vectors = None if self._dense is None else vectors
        found: list[list[Passage] | InvalidInput] = [[] for _ in wanted]
        held: dict[int, _Held] = {}
        for place, item in enumerate(wanted):
            try:
                held[place] = self._hold(item, dense=vectors is not None)
            except InvalidInput as error:
                found[place] = error
        lists = {place: _Lists() for place in held}
        for place, hold in held.items():
            query = wanted[place].query
            if query.mode != "dense" or vectors is None:
                hits = self._lexical.search(
                    query.text,
                    collections=query.collections,
                    documents=hold.documents,
                    limit=max(query.limit, CANDIDATES),
                )
                lists[place].lexical = dict(hits)
        if vectors is not None:
            self._ask_dense(wanted, vectors, held, lists)
        for place, given in lists.items():
            item = wanted[place]
            ranked = fuse([(item.lexical_weight, given.lexical), (item.dense_weight, given.dense)])
            found[place] = self._passages(ranked, given, item.query.limit)
        return found

    def _hold(self, item: Wanted, *, dense: bool) -> _Held:
        """What a query is held to, as entries and documents."""
        query = item.query
        documents: tuple[str, ...] | None = None
        numbers: set[int] | frozenset[int] | None = None
        if item.filter is not None:
            numbers = self._attributes.matching(item.filter)
            documents = tuple(name for name in (self._names.get(number) for number in numbers) if name is not None)
        if not dense or query.mode == "lexical":
            return _Held(None, documents)
        if query.collections:
            inside = set[int]().union(*(self._collections.get(name, set()).copy() for name in query.collections))
            if len(inside) < len(self._names) or numbers is not None:
                numbers = inside if numbers is None else inside & numbers
        entries = None if numbers is None else self._entries(numbers)
        if '"' in query.text or "“" in query.text:
            phrased = self._lexical.holding(query.text, limit=max(1, len(self._lexical)))
            if phrased is not None:
                with_phrase = np.array(sorted(phrased), np.int64)
                entries = with_phrase if entries is None else np.intersect1d(entries, with_phrase, assume_unique=True)
        return _Held(entries, documents)

    def _entries(self, numbers: set[int] | frozenset[int]) -> Entries:
        names = (self._names.get(number) for number in sorted(numbers))
        ranges = (self._documents.get(name) for name in names if name is not None)
        spans = [np.arange(ids.start, ids.stop, dtype=np.int64) for ids in ranges if ids]
        return np.sort(np.concatenate(spans)) if spans else np.empty(0, np.int64)

    def _ask_dense(
        self, wanted: Sequence[Wanted], vectors: Vectors, held: Mapping[int, _Held], lists: Mapping[int, _Lists]
    ) -> None:
        dense = self._dense
        if dense is None:
            return
        asking = [place for place in held if wanted[place].query.mode != "lexical"]
        # Those that are held to nothing go together: one product of matrices for all of them.
        groups = [[place for place in asking if held[place].entries is None]]
        groups += [[place] for place in asking if held[place].entries is not None]
        for group in filter(None, groups):
            limit = max(CANDIDATES, *(wanted[place].query.limit for place in group))
            hits = dense.search(vectors[group], limit=limit, allowed=held[group[0]].entries)
            for place, (entries, near) in zip(group, hits, strict=True):
                given = lists[place]
                given.dense = dict(zip(entries.tolist(), near.tolist(), strict=True))
                # Found by their words alone: their cosines too, or they would count as unlike.
                others = [entry for entry in given.lexical if entry not in given.dense]
                if others:
                    cosines = dense.cosines(vectors[place], np.array(others, np.int64))
                    given.dense.update(zip(others, cosines.tolist(), strict=True))

    def _passages(self, ranked: Sequence[Hit], given: _Lists, limit: int) -> list[Passage]:
        hits = []
        for entry, score in ranked[: limit + SPARE]:
            # A commit between the search and here may have taken the chunk away.
            placed = self._chunks.get(entry)
            if placed is not None:
                hits.append((entry, score, placed))
        if self._dense is not None and len(hits) > 1:
            vectors = self._dense.vectors(np.array([entry for entry, _, _ in hits], np.int64))
            places = distinct(vectors, [placed.chunk.text for _, _, placed in hits], limit=limit)
            hits = [hits[place] for place in places]
        passages = []
        for entry, score, placed in hits[:limit]:
            signals = (("lexical", given.lexical), ("dense", given.dense))
            passages.append(_passage(placed, score, {name: by[entry] for name, by in signals if entry in by}))
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
