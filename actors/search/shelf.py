"""The published chunks with the indexes over them: what a replica of the retrieval role holds.

A chunk is known by a small integer that every index shares, so that rankings can be fused before any text is touched.
A document that is put in again gets new integers: a search that began before sees its old chunks or its new ones, never
a mix.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from actors.errors import InvalidInput
from actors.messages import Passage, PublishedDocument, Query, Words
from actors.search.bags import Counted
from actors.search.bm25 import K1, B, Statistics
from actors.search.contents import Contents
from actors.search.dense import Cosines, DenseIndex, Entries
from actors.search.encoder import Vectors
from actors.search.filters import Attributes, Filter
from actors.search.fusion import Scores, alike, distinct, fuse
from actors.search.lexical import Asked, LexicalIndex, linked
from actors.search.parts import ChunkName, Excerpt, Part, Survey

CANDIDATES: Final = 40
"""Entries that each index gives for fusion, at least; all of them are then scored by both. Measured (nDCG@10, hybrid
fast, 30, 40 or 70): cranfield 0.411, cacm 0.533, scifact 0.725. Scored by the words where these found them alone, 70
gave 0.411 / 0.532 / 0.725 and 40 0.411 / 0.528 / 0.725."""

LEXICAL, BAGS, DENSE = "lexical", "bags", "dense"
CONTENTS, ENDS, DOCUMENTS = "contents.bin", "ends.npy", "documents.json"
"""Names in a folder, of a snapshot or of one at work."""

_ENTRY_BITS: Final = 40
"""Of a number that is an entry and, above it, its query."""

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
        statistics: what words are scored by; None for those of the collections that are searched, as they are here.
            Where they are given, that the filter makes sense was found out for all shards together.
    """

    query: Query
    filter: Filter | None = None
    lexical_weight: float = 1.0
    dense_weight: float = 1.0
    statistics: Statistics | None = None


@dataclass(frozen=True, slots=True)
class _Document:
    """What is known of a document besides its chunks, and the entries that these are known by."""

    document_id: str
    title: str
    collection: str
    metadata: Mapping[str, Any]
    entries: range


@dataclass(frozen=True, slots=True)
class _Held:
    """Where what a query is held to leaves it: entries ascending, and documents if they are not all; None means all.

    Queries that are held to the same thing share it.
    """

    entries: Entries | None = None
    documents: tuple[str, ...] | None = None


class _Candidates(NamedTuple):
    """What the indexes gave for a batch of queries, each query's entries together and ascending.

    Attributes:
        of: per candidate its query, ascending.
        entries: which.
        lexical: per candidate its score by the words; NaN where it has none of them, or they were not asked for.
        dense: per candidate its cosine; NaN where the query has no vector.
        worded: whether it is among the best by the words.
        near: whether it is among the closest.
        told: per query whether `lexical` has the scores of those too that are not among the best by the words.
    """

    of: Entries
    entries: Entries
    lexical: Scores
    dense: Scores
    worded: npt.NDArray[np.bool_]
    near: npt.NDArray[np.bool_]
    told: npt.NDArray[np.bool_]

    def bounds(self, queries: int) -> list[int]:
        """Where each query's candidates begin, and at last where those of the last one end."""
        bounds: list[int] = np.searchsorted(self.of, np.arange(queries + 1)).tolist()
        return bounds


class Shelf:
    """Chunks by integer id, and their indexes.

    `put`, `remove` and `commit` belong to one writing thread; the rest may run in others at the same time.

    Args:
        writer_memory_mb: memory of the index writer, MB.
        max_query_terms: terms of a query that are looked up.
        dense: the dense index, empty; None where there is none: all searches are lexical.
        languages: of the collections, by their names in `config.settings.LANGUAGES`.
        folder: an empty one for the lexical index and the texts; None keeps the first in memory and the second in a
            file without a name.
        k1: of BM25.
        b: likewise.
        shared: this is one of several shards, which are searched by the statistics of all.
    """

    def __init__(
        self,
        *,
        writer_memory_mb: int,
        max_query_terms: int,
        dense: DenseIndex | None = None,
        languages: Sequence[str] = ("english",),
        folder: Path | None = None,
        k1: float = K1,
        b: float = B,
        shared: bool = False,
    ) -> None:
        self._lexical = LexicalIndex(
            writer_memory_mb=writer_memory_mb,
            max_query_terms=max_query_terms,
            languages=languages,
            folder=folder / LEXICAL if folder else None,
            k1=k1,
            b=b,
            shared=shared,
        )
        self._dense = dense
        self._attributes = Attributes()
        self._contents = Contents(folder / CONTENTS if folder else None)
        self._documents: dict[str, _Document] = {}
        self._numbers: dict[int, _Document] = {}  # by their first entry, which is their number
        self._collections: dict[str, set[int]] = {}
        self._inside: dict[tuple[str, ...], Entries] = {}  # what some collections hold, until the next commit
        self._whole: dict[tuple[str, ...], bool] = {}  # whether that is everything
        self._leaving: list[_Document] = []

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
        document = self._documents.get(document_id)
        return len(document.entries) if document else 0

    def contents(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Up to `limit` documents past the id `after`, in order, each with its number of chunks."""
        # A copy first: the writing thread may change it meanwhile.
        held = [(name, len(each.entries)) for name, each in self._documents.copy().items() if name > after]
        return heapq.nsmallest(limit, held)

    def entries(self) -> dict[str, range]:
        """The entries of each document that has any. May be called from any thread."""
        return {name: each.entries for name, each in self._documents.copy().items() if each.entries}

    def with_dense(self, dense: DenseIndex) -> Shelf:
        """The same shelf over another dense index, to be written to from now on in place of this one.

        Searches under way in this one finish with the index before, whose vectors they were encoded for.
        """
        other = copy.copy(self)
        other._dense = dense
        return other

    def put(self, document: PublishedDocument, *, language: str = "english") -> None:
        """Take a document in, in place of its former self. Searches see it after the next commit.

        Args:
            document: with its chunks; without their vectors, or with those of another encoder than the dense index is
                for, it is found by its words alone.
            language: of its text, one of those that the shelf was made for.
        """
        self.remove(document.document_id)
        number = self._contents.next_entry
        entries = self._contents.add(number, document.chunks)
        noted = _Document(document.document_id, document.title, document.collection, document.metadata, entries)
        # Before it is indexed: if that fails half-way, putting it in again removes the half.
        self._note(noted)
        for entry, chunk in zip(entries, document.chunks, strict=True):
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
            self._dense.add(entries, made.array)

    def _note(self, document: _Document) -> None:
        self._documents[document.document_id] = document
        if document.entries:
            number = document.entries.start
            self._numbers[number] = document
            self._collections.setdefault(document.collection, set()).add(number)
            self._attributes.put(number, document.metadata)

    def remove(self, document_id: str) -> None:
        """Drop a document, if it is held. Searches miss it after the next commit."""
        document = self._documents.pop(document_id, None)
        if document and document.entries:
            self._lexical.delete(document_id, document.entries)
            if self._dense is not None:
                self._dense.remove(document.entries)
            # Searches find it until the commit, and need to know what it is.
            self._leaving.append(document)

    def commit_vectors(self) -> None:
        """Take up the vectors that were put in since the last commit, while there is no search that could see them."""
        if self._dense is not None:
            self._dense.commit()

    def commit(self) -> None:
        """Make everything since the last commit visible at once."""
        self._lexical.commit()
        if self._dense is not None:
            self._dense.commit()
        for document in self._leaving:
            number = document.entries.start
            del self._numbers[number]
            held = self._collections[document.collection]
            held.discard(number)
            if not held:
                del self._collections[document.collection]
            self._attributes.remove(number)
        self._leaving.clear()
        self._inside, self._whole = {}, {}

    def close(self) -> None:
        """Let go of the files."""
        self._contents.close()

    # --- snapshots ---

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what was last committed into an empty folder; nothing may have been put in since.

        Returns:
            What `load` wants to know.
        """
        self._lexical.save(folder / LEXICAL, folder / BAGS)
        if self._dense is not None:
            self._dense.save(folder / DENSE)
        account = self._contents.save(folder / CONTENTS, folder / ENDS)
        rows = [
            (each.document_id, each.title, each.collection, each.metadata, each.entries.start, each.entries.stop)
            for each in self._documents.values()
        ]
        (folder / DOCUMENTS).write_bytes(orjson.dumps(rows))
        return {"contents": account, "fields": self._lexical.fields}

    @classmethod
    def load(
        cls,
        snapshot: Path,
        account: Mapping[str, Any],
        *,
        writer_memory_mb: int,
        max_query_terms: int,
        dense: DenseIndex | None,
        languages: Sequence[str],
        folder: Path,
        k1: float = K1,
        b: float = B,
        shared: bool = False,
    ) -> Shelf:
        """Go on from a snapshot, whose folder stays as it is.

        Args:
            snapshot: its folder.
            account: what `save` returned.
            writer_memory_mb: as for a new one.
            max_query_terms: likewise.
            dense: the dense index, loaded.
            languages: as for a new one.
            folder: likewise.
            k1: likewise.
            b: likewise.
            shared: likewise.

        Raises:
            ValueError, OSError, KeyError: it is not what was saved.
        """
        linked(snapshot / LEXICAL, folder / LEXICAL)
        contents = Contents.load(snapshot / CONTENTS, snapshot / ENDS, account["contents"], folder / CONTENTS)
        shelf = cls.__new__(cls)
        shelf._lexical = LexicalIndex(
            writer_memory_mb=writer_memory_mb,
            max_query_terms=max_query_terms,
            languages=languages,
            folder=folder / LEXICAL,
            fields=account["fields"],
            k1=k1,
            b=b,
            shared=shared,
            bags=snapshot / BAGS,
        )
        shelf._dense = dense
        shelf._attributes = Attributes()
        shelf._contents = contents
        shelf._documents, shelf._numbers, shelf._collections = {}, {}, {}
        shelf._inside, shelf._whole, shelf._leaving = {}, {}, []
        held = 0
        for name, title, collection, metadata, start, stop in orjson.loads((snapshot / DOCUMENTS).read_bytes()):
            shelf._note(_Document(name, title, collection, metadata, range(start, stop)))
            held += stop - start
        if held != len(shelf._lexical):
            raise ValueError("the lexical index and the documents do not agree")
        return shelf

    # --- searching ---

    def search(self, query: Query) -> list[Passage]:
        """The passages for a query by its words alone, best first. Collections that are not held give nothing."""
        (found,) = self.search_many([Wanted(replace(query, mode="lexical"))])
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
        found: list[list[Passage] | InvalidInput] = [[] for _ in wanted]
        candidates, refused = self._ask(wanted, vectors)
        for place, error in refused.items():
            found[place] = error
        weights = [[item.lexical_weight for item in wanted], [item.dense_weight for item in wanted]]
        lexical_weights, dense_weights = np.array(weights).reshape(2, len(wanted))
        signals = [(lexical_weights, candidates.lexical), (dense_weights, candidates.dense)]
        totals = fuse(candidates.of, signals)
        order = np.lexsort((candidates.entries, -totals, candidates.of))
        bounds = candidates.bounds(len(wanted))
        heads = {
            place: order[bounds[place] : min(bounds[place] + item.query.limit + SPARE, bounds[place + 1])]
            for place, item in enumerate(wanted)
            if place not in refused
        }
        for place, head in self._distinct(candidates.entries, heads, wanted).items():
            found[place] = self._passages(candidates, totals, head, wanted[place].query.limit)
        return found

    def _ask(self, wanted: Sequence[Wanted], vectors: Vectors | None) -> tuple[_Candidates, dict[int, InvalidInput]]:
        """What the indexes give, and which queries have filters that make no sense, by their places."""
        vectors = None if self._dense is None else vectors
        refused: dict[int, InvalidInput] = {}
        held: dict[int, _Held] = {}
        known: dict[Any, _Held] = {}
        for place, item in enumerate(wanted):
            try:
                held[place] = self._hold(item, known, dense=vectors is not None and bool(vectors[place].any()))
            except InvalidInput as error:
                refused[place] = error
        return self._candidates(wanted, vectors, held), refused

    def _statistics(self, query: Query) -> Statistics | None:
        """What a query's words are scored by, where tantivy's own will not do."""
        if not self._lexical.rescores and self._is_all(query.collections):
            return None
        return self._lexical.statistics(query.text, collections=query.collections)

    def _is_all(self, collections: tuple[str, ...]) -> bool:
        """Whether these collections, or all for none, are all that is held."""
        if not collections:
            return True
        whole = self._whole
        if collections not in whole:
            whole[collections] = self._collections.keys() <= set(collections)
        return whole[collections]

    # --- as one shard of several ---

    def survey(self, query: Query) -> Survey:
        """What must be known of every shard before any can answer a query."""
        kinds = self._attributes.kinds() if query.filters is not None else {}
        if query.mode == "dense":
            return Survey(Statistics(), kinds)
        return Survey(self._lexical.statistics(query.text, collections=query.collections), kinds)

    def parts(self, wanted: Sequence[Wanted], vectors: Vectors | None) -> list[Part]:
        """This shard's part of the answer to each query, which has statistics."""
        given, _ = self._ask(wanted, vectors)
        bounds = given.bounds(len(wanted))
        return [
            self._part(given, start, end, told)
            for (start, end), told in zip(itertools.pairwise(bounds), given.told.tolist(), strict=True)
        ]

    def _part(self, given: _Candidates, start: int, end: int, told: bool) -> Part:
        named = [(at, self._name(entry)) for at, entry in enumerate(given.entries[start:end].tolist(), start)]
        held = [(at, name) for at, name in named if name is not None]
        chosen = np.array([at for at, _ in held], np.int64)
        names = tuple(name for _, name in held)
        scores = (given.lexical[chosen], given.dense[chosen])
        return Part(names, *scores, given.worded[chosen], given.near[chosen], told)

    def _name(self, entry: int) -> ChunkName | None:
        # A commit between the search and here may have taken the document away.
        document = self._numbers.get(self._contents.document_of(entry))
        return (document.document_id, entry - document.entries.start) if document else None

    def excerpts(self, names: Sequence[ChunkName]) -> list[Excerpt | None]:
        """What is shown of chunks; None for one that is not here any more."""
        entries = []
        for document_id, number in names:
            document = self._documents.get(document_id)
            held = document is not None and number < len(document.entries)
            entries.append(document.entries[number] if document and held else -1)
        vectors = self._dense.vectors(np.array(entries, np.int64)) if self._dense is not None else None
        found: list[Excerpt | None] = []
        for place, entry in enumerate(entries):
            shown = self._passage(entry, 0.0, {}) if entry >= 0 else None
            found.append(Excerpt(shown, None if vectors is None else vectors[place]) if shown else None)
        return found

    def _hold(self, item: Wanted, known: dict[Any, _Held], *, dense: bool) -> _Held:
        """What a query is held to, as entries and documents."""
        query = item.query
        quoted = '"' in query.text or "“" in query.text
        dense = dense and query.mode != "lexical"
        key = (query.collections, repr(item.filter), dense)  # in a filter, 1 equals true
        if key not in known:
            checked = item.statistics is not None
            known[key] = self._held_to(query.collections, item.filter, checked=checked, dense=dense)
        held = known[key]
        if quoted and dense:
            phrased = self._lexical.holding(query.text, limit=max(1, len(self._lexical)))
            if phrased is not None:
                entries = np.array(sorted(phrased), np.int64)
                if held.entries is not None:
                    entries = np.intersect1d(held.entries, entries, assume_unique=True)
                return _Held(entries, held.documents)
        return held

    def _held_to(self, collections: tuple[str, ...], wanted: Filter | None, *, checked: bool, dense: bool) -> _Held:
        documents: tuple[str, ...] | None = None
        entries: Entries | None = None
        if wanted is not None:
            kept = self._attributes.holding(wanted) if checked else self._attributes.matching(wanted)
            matching = [self._numbers.get(number) for number in kept]
            chosen = [document for document in matching if document is not None]
            documents = tuple(document.document_id for document in chosen)
            if dense:
                inside = [each.entries for each in chosen if not collections or each.collection in collections]
                entries = _entries(inside)
        elif dense and collections:
            entries = self._inside.get(collections)
            if entries is None:
                numbers = set[int]().union(*(self._collections.get(name, set()).copy() for name in collections))
                if len(numbers) == len(self._numbers):
                    return _Held()
                found = (self._numbers.get(number) for number in numbers)
                entries = self._inside[collections] = _entries([each.entries for each in found if each is not None])
        return _Held(entries, documents)

    def _candidates(self, wanted: Sequence[Wanted], vectors: Vectors | None, held: Mapping[int, _Held]) -> _Candidates:
        """What the indexes give, put together by query and entry."""
        places: list[int] = []
        wordings: list[Asked] = []
        for place, hold in held.items():
            query = wanted[place].query
            if query.mode != "dense" or vectors is None:
                statistics = wanted[place].statistics or self._statistics(query)
                limit = max(query.limit, CANDIDATES)
                wordings.append(Asked(query.text, limit, query.collections, hold.documents, statistics))
                places.append(place)
        hits = self._lexical.search_many(wordings)
        sizes = [len(found.entries) for found in hits]
        by_words = np.repeat(np.array(places, np.int64) << _ENTRY_BITS, sizes)
        by_words |= np.concatenate([np.empty(0, np.int64), *(found.entries for found in hits)])
        scores = np.concatenate([np.empty(0), *(found.scores for found in hits)])
        asked, by_vectors, cosines = self._ask_dense(wanted, vectors, held)
        keys, at = np.unique(np.concatenate([by_words, by_vectors]), return_inverse=True)
        of, which = keys >> _ENTRY_BITS, keys & ((1 << _ENTRY_BITS) - 1)
        lexical, dense = np.full(len(keys), np.nan), np.full(len(keys), np.nan)
        lexical[at[: len(by_words)]] = scores
        dense[at[len(by_words) :]] = cosines
        worded, near = ~np.isnan(lexical), ~np.isnan(dense)
        # Of those that one index found the other's score too, or they would count as unlike.
        words: list[Sequence[Counted] | None] = [None] * len(wanted)
        for place, found in zip(places, hits, strict=True):
            words[place] = found.words
        told = np.array([one is not None for one in words], np.bool_)
        other = np.flatnonzero(~worded & told[of])
        told_by = self._lexical.scores_many(of[other], which[other], [one or () for one in words])
        lexical[other] = np.where(told_by > 0, told_by, np.nan)
        if self._dense is not None and vectors is not None:
            other = np.flatnonzero(np.isnan(dense) & asked[of])
            dense[other] = self._dense.cosines(vectors, of[other], which[other])
        return _Candidates(of, which, lexical, dense, worded, near, told)

    def _ask_dense(
        self, wanted: Sequence[Wanted], vectors: Vectors | None, held: Mapping[int, _Held]
    ) -> tuple[npt.NDArray[np.bool_], Entries, Scores]:
        """Per query whether it was asked; then per hit its query and entry in one number, and its cosine."""
        asked = np.zeros(len(wanted), np.bool_)
        keys: list[Entries] = [np.empty(0, np.int64)]
        cosines: list[Cosines] = [np.empty(0, np.float32)]
        if self._dense is not None and vectors is not None:
            # Those that are held to the same go together: one product of matrices for all of them.
            groups: dict[int, list[int]] = {}
            for place in held:
                if wanted[place].query.mode != "lexical" and vectors[place].any():
                    groups.setdefault(id(held[place].entries), []).append(place)
            for group in groups.values():
                limit = max(CANDIDATES, *(wanted[place].query.limit for place in group))
                hits = self._dense.search(vectors[group], limit=limit, allowed=held[group[0]].entries)
                for place, (entries, near) in zip(group, hits, strict=True):
                    # Not as many as another of the batch wants: what a query finds must not depend on its company.
                    own = max(CANDIDATES, wanted[place].query.limit)
                    keys.append(place << _ENTRY_BITS | entries[:own])
                    cosines.append(near[:own])
                asked[group] = True
        return asked, np.concatenate(keys), np.concatenate(cosines).astype(np.float64)

    def _distinct(self, entries: Entries, heads: Mapping[int, Entries], wanted: Sequence[Wanted]) -> dict[int, Entries]:
        """Per query its best candidates without near repetitions of one before, some more than are wanted."""
        dense = self._dense
        if dense is None:
            return dict(heads)
        firsts = {place: head[: wanted[place].query.limit] for place, head in heads.items()}
        vectors = dense.vectors(entries[np.concatenate([np.empty(0, np.int64), *firsts.values()])])
        chosen, start = {}, 0
        for place, first in firsts.items():
            head, own = heads[place], vectors[start : start + len(first)]
            start += len(first)
            # What comes after those that are wanted takes the place of those that repeat another.
            if alike(own):
                own = dense.vectors(entries[head])
                head = head[distinct(own, self._text_of(entries[head]), limit=len(head))]
            chosen[place] = head
        return chosen

    def _passages(self, given: _Candidates, totals: Scores, head: Entries, limit: int) -> list[Passage]:
        passages: list[Passage] = []
        # Most often the first ones are all there still.
        for part in (head[:limit], head[limit:]):
            if len(passages) == limit or not len(part):
                break
            columns = (given.entries[part], totals[part], given.lexical[part], given.dense[part])
            for entry, score, lexical, dense in zip(*(column.tolist() for column in columns), strict=True):
                scores = {}
                if lexical == lexical:  # not NaN
                    scores["lexical"] = lexical
                if dense == dense:
                    scores["dense"] = dense
                passage = self._passage(entry, score, scores)
                if passage is not None:
                    passages.append(passage)
        return passages[:limit]

    def _passage(self, entry: int, score: float, scores: dict[str, float]) -> Passage | None:
        number, page, start, end, text, words, kind = self._contents.get(entry)
        # A commit between the search and here may have taken the document away.
        document = self._numbers.get(number)
        if document is None:
            return None
        return Passage(
            document.document_id,
            document.title,
            document.collection,
            page,
            start,
            end,
            text,
            Words(words),
            score,
            scores,
            kind,
        )

    def _text_of(self, entries: Entries) -> Callable[[int], str]:
        return lambda place: self._contents.get(int(entries[place])).text


def _entries(ranges: Sequence[range]) -> Entries:
    spans = [np.arange(ids.start, ids.stop, dtype=np.int64) for ids in ranges]
    return np.sort(np.concatenate(spans)) if spans else np.empty(0, np.int64)
