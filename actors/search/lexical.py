"""The lexical index: BM25 over chunks, in memory, by tantivy.

Only what ranks is kept here; texts, words and boxes stay with the caller under the same integer ids, because fetching
ids from a fast field is cheaper than fetching stored documents (12,200 against 8,500 searches/s at 50 hits).

One index serves all collections, and a search of some of them is filtered; how rare a word is, is counted in these
alone (`statistics`). So one collection costs nothing while it is empty, is gone with its last document, and knows
nothing of the others. With an index each, scores came from different statistics and did not compare. Three collections
searched together (nDCG@10, cranfield / cacm / scifact): merged by rank 0.238 / 0.173 / 0.343, merged by score 0.338 /
0.259 / 0.705, one index 0.384 / 0.428 / 0.698.

Of a query's text two things are syntax. The end of a word may be left open with an asterisk (`aero*`). And "words in
quotes" are a phrase: if there is nothing else, it must stand so in what is found; beside other words it is preferred.
People quote in questions without wanting to exclude: held to every phrase, cacm, where seven of 52 questions have
quotes, fell from 0.486 to 0.420.

tantivy fixes BM25's k1 at 1.2 and b at 0.75. With others, and where the documents are divided among shards, what it
finds is scored again (`bm25.py`) from each entry's words, which are counted (`bags.py`). Where tantivy's own scores do
and common words are in many entries, the rare words of a query find entries and all of its words rank these by the same
counts.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from tantivy import Document, Index, Occur, Query, SchemaBuilder

from actors.search.bags import Bags, Counted, Entries, Scores, key
from actors.search.bm25 import K1, MAX_EXPANSIONS, B, Curve, Statistics, Term, idf
from actors.search.language import language, well_formed
from actors.search.wording import Known, Word, Wording, counted, parse, parted

TITLE_BOOST: Final = 0.2
"""Added weight of a match in the title, which is indexed with the text as well. Measured (nDCG@10, none / 0.2 / 0.5):
cranfield 0.364 / 0.379 / 0.379, cacm 0.481 / 0.481 / 0.469, scifact 0.700 / 0.702 / 0.693."""

HEADING_BOOST: Final = 0.2
"""The same for the heading over a chunk. Not measured: no public set with judgements has headings."""

ENOUGH: Final = 50
"""Entries, as a multiple of those wanted, with the rarer words of a query, from which no others need be looked at."""

CHEAP: Final = 14_000
"""Postings that are read in any case, as long as whole words fit: 0.1 ms. Of the first ten that hybrid fast finds among
100,000 chunks, 97.7 % are those that all words give (96.8 % with 10,000)."""

REMEMBERED: Final = 1 << 15
"""Words that are kept: their frequency until the next commit, and how they are looked up. Some 10 MB."""

SHORTEST_PREFIX: Final = 2

SPARE: Final = 16
"""Entries beyond those wanted that are scored again at first; if they do not suffice, twice as many, and so on."""

MOST_SCORED: Final = 1_000
"""Entries that are scored again at most, or four times as many as are wanted. Where more score alike, which of them are
given is a matter of chance, as it is with equal scores."""

_FIELDS: Final = ("title", "heading", "text")


@dataclass(frozen=True, slots=True)
class _View:
    """What a search sees: a commit, and what was found out about it.

    Attributes:
        searcher: of the commit.
        known: a word, by field and stem.
        words: of all entries, by field.
        holding: chunks of some collections that hold a term.
        own: by field, the chunks that tantivy counts, which are more than there are while it has some that were
            deleted, and the average length.
    """

    searcher: Any
    known: Callable[[str, str], Known]
    words: Mapping[str, int]
    holding: dict[tuple[tuple[str, ...], Term], int] = field(default_factory=dict)
    own: dict[str, tuple[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """A text to search for.

    Attributes:
        text: anything; stop words are dropped unless there is nothing else, and a repeated word counts more.
        limit: entries wanted, at least 1.
        collections: names; empty means all.
        documents: ids of those that may be found; None means all.
        statistics: what is scored by, as `LexicalIndex.statistics` gives it here and elsewhere; by default all that is
            here, and then k1 and b are tantivy's.
    """

    text: str
    limit: int
    collections: Sequence[str] = ()
    documents: Iterable[str] | None = None
    statistics: Statistics | None = None


class Hits(NamedTuple):
    """What was found for a text.

    Attributes:
        entries: best first.
        scores: BM25 of each.
        words: what the scores of other entries are told by; None where only tantivy can, for phrases.
    """

    entries: Entries
    scores: Scores
    words: Sequence[Counted] | None = ()


NOTHING: Final = Hits(np.empty(0, np.int64), np.empty(0))

_Address = tuple[float, Any]
"""A score of tantivy's, and where the entry is."""


class _Told(NamedTuple):
    """What tantivy gave for a text.

    Attributes:
        place: of the text.
        words: of the text; None where there are phrases beside them.
        left: those that it was not asked for.
        hits: best first.
    """

    place: int
    words: Sequence[Word] | None
    left: Sequence[Word]
    hits: Sequence[_Address]


class LexicalIndex:
    """A BM25 index over (title, heading, text). See the module's docstring.

    `add`, `delete` and `commit` belong to one writing thread; the searches may run in others at the same time and see
    the last commit.

    Args:
        writer_memory_mb: memory of the writer, MB (10^6 bytes), at least 15.
        max_query_terms: terms of a query that are looked up; the rest are ignored.
        languages: of the collections, by their names in `config.settings.LANGUAGES`.
        title_boost: added weight of a match in the title.
        heading_boost: added weight of a match in the heading.
        folder: where the index is; made if it is not there. None keeps it in memory.
        fields: of an index that is there, `fields` as it was when it was saved.
        k1: of BM25.
        b: likewise.
        shared: this is one of several, and its scores have to be those that one index of everything would give.
        bags: of an index that is there, the folder of its bags.
    """

    def __init__(
        self,
        *,
        writer_memory_mb: int,
        max_query_terms: int,
        languages: Sequence[str] = ("english",),
        title_boost: float = TITLE_BOOST,
        heading_boost: float = HEADING_BOOST,
        folder: Path | None = None,
        fields: Sequence[Sequence[str]] = (),
        k1: float = K1,
        b: float = B,
        shared: bool = False,
        bags: Path | None = None,
    ) -> None:
        self._k1, self._b = k1, b
        self._rescores = shared or (k1, b) != (K1, B)
        self._max_terms = max_query_terms
        self._boosts = {"title": title_boost, "heading": heading_boost, "text": 1.0}
        self._languages = {name: language(name) for name in languages}
        builder = SchemaBuilder()
        # Signed: tantivy panics when a Python int meets a fast unsigned field.
        builder.add_integer_field("id", fast=True)
        for name in ("document", "collection"):
            builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
        for tongue in self._languages:
            for name in _FIELDS:
                option = "position" if name == "text" else "freq"
                builder.add_text_field(_field(name, tongue), tokenizer_name=tongue, index_option=option)
        self._schema = builder.build()
        if folder:
            folder.mkdir(exist_ok=True)
        self._folder = folder
        self._index = Index(self._schema, path=str(folder) if folder else None)
        for tongue, words in self._languages.items():
            self._index.register_tokenizer(tongue, words.analyzer)
        # Commits are small and seconds apart; more threads would only take cores from the searches.
        self._writer = self._index.writer(writer_memory_mb * 1_000_000, num_threads=1)
        names = [_field(name, tongue) for tongue in self._languages for name in _FIELDS]
        self._bags = Bags.load(bags, names) if bags else Bags(names)
        self._view = self._current()
        # To make one costs as much as to look it up.
        self._clause = functools.lru_cache(REMEMBERED)(self._new_clause)
        # Fields that hold anything: the others would only cost time.
        self._used: set[tuple[str, str]] = {(name, tongue) for name, tongue in fields}

    def __len__(self) -> int:
        """Entries, as of the last commit."""
        return int(self._view.searcher.num_docs)

    @property
    def rescores(self) -> bool:
        """Whether tantivy's own scores will never do, so that every search needs statistics."""
        return self._rescores

    def add(
        self,
        entry: int,
        *,
        document_id: str,
        collection: str,
        title: str,
        text: str,
        heading: str = "",
        tongue: str = "english",
    ) -> None:
        """Add one entry, greater than all before. It is found after the next commit."""
        title, heading = well_formed(title), well_formed(heading)
        whole = "\n".join(part for part in (title, heading, well_formed(text)) if part)
        content = {"title": title, "heading": heading, "text": whole}
        filled = {_field(name, tongue): part for name, part in content.items() if part}
        self._writer.add_document(Document(id=entry, document=document_id, collection=collection, **filled))
        self._used.update((name, tongue) for name, part in content.items() if part)
        words = self._languages[tongue]
        self._bags.add(entry, {name: words.stems(part) for name, part in filled.items()})

    def delete(self, document_id: str, entries: range) -> None:
        """Delete all entries of a document that were added before this call. They are gone after the next commit.

        Args:
            document_id: its id.
            entries: these.
        """
        self._writer.delete_documents_by_term("document", document_id)
        self._bags.remove(entries)

    def commit(self) -> None:
        """Make everything since the last commit visible at once."""
        self._bags.settle()
        self._writer.commit()
        self._index.reload()
        self._view = self._current()

    def _current(self) -> _View:
        searcher, words = self._index.searcher(), self._bags.words()
        number, total = self._bags.field, int(searcher.num_docs)

        # All of it together costs as much as looking the word up.
        @functools.lru_cache(REMEMBERED)
        def known(name: str, stem: str) -> Known:
            frequency = int(searcher.doc_freq(name, stem))
            average = max(words.get(name, 0) / max(total, 1), 1e-9)
            return Known(frequency, name, stem, key(name, stem), number(name), idf(frequency, total), average)

        return _View(searcher, known, words)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Those that hold anything, with their languages."""
        return sorted(self._used)

    def save(self, folder: Path, bags: Path) -> None:
        """Give the files of the last commit second names in a folder that is not there yet, and write the bags.

        tantivy never changes a file, but merges some into others whenever it likes, and then removes them: so it is
        tried again until none was removed meanwhile.
        """
        if self._folder is None:
            raise ValueError("an index in memory cannot be saved")
        self._bags.save(bags)
        for _ in range(SAVE_TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            before = (self._folder / _META).read_bytes()
            try:
                linked(self._folder, folder)
            except FileNotFoundError:
                continue
            if (self._folder / _META).read_bytes() == before == (folder / _META).read_bytes():
                return
        raise OSError("The lexical index did not hold still.")

    def search(
        self,
        text: str,
        *,
        collections: Sequence[str] = (),
        documents: Iterable[str] | None = None,
        limit: int,
        statistics: Statistics | None = None,
    ) -> list[tuple[int, float]]:
        """The best entries for a text; see `search_many`.

        Returns:
            (entry, BM25 score), best first; ties in the order of adding.
        """
        (hits,) = self.search_many([Asked(text, limit, collections, documents, statistics)])
        return list(zip(hits.entries.tolist(), hits.scores.tolist(), strict=True))

    def search_many(self, asked: Sequence[Asked]) -> list[Hits]:
        """The best entries for each text, best first; ties in the order of adding."""
        view = self._view
        if not view.searcher.num_docs:
            return [NOTHING for _ in asked]
        found = [NOTHING for _ in asked]
        told: list[_Told] = []
        for place, item in enumerate(asked):
            wanted = self._wanted(item.text)
            needs = self._needs(wanted, item.collections, item.documents)
            if item.statistics is not None:
                found[place] = self._search_by(item.statistics, view, wanted, needs, item.limit)
                continue
            words = [word for tongue, parsed in wanted for word in self._words(view, parsed, tongue)]
            phrases = [phrase for tongue, parsed in wanted for phrase in self._phrases(parsed.spoken, tongue)]
            if not words and not phrases:
                continue
            # How often an entry has a phrase only tantivy knows.
            least = math.inf if phrases else self._enough(view, item)
            rare, left = parted(words, least=least, most=CHEAP)
            hits = _best_of(view, self._any(rare, phrases, needs), item.limit)
            told.append(_Told(place, None if phrases else words, left, hits))
        self._fill(view, asked, told, found)
        return found

    def _fill(self, view: _View, asked: Sequence[Asked], told: Sequence[_Told], found: list[Hits]) -> None:
        """Put into `found` what tantivy gave, with the scores of the words that it was not asked for."""
        sizes = [len(one.hits) for one in told]
        of = np.repeat(np.arange(len(told)), sizes)
        entries, scores, _ = _taken(view, [hit for one in told for hit in one.hits])
        scores += self._bags.scores(entries, of, [counted(one.left) for one in told], k1=K1, b=B)
        # What tantivy was asked for whole is in order, ties in that of adding.
        end = 0
        for one, size in zip(told, sizes, strict=True):
            part = slice(end, end := end + size)
            words = None if one.words is None else counted(one.words)
            hits = Hits(entries[part], scores[part], words)
            found[one.place] = _best(hits, asked[one.place].limit) if one.left else hits

    def scores_many(self, of: Entries, entries: Entries, queries: Sequence[Sequence[Counted]]) -> Scores:
        """What entries score that were not found.

        Args:
            of: per entry the place of its query, ascending.
            entries: any that were committed.
            queries: the words of each, as `Hits` has them.
        """
        return self._bags.scores(entries, of, queries, k1=self._k1, b=self._b)

    def statistics(self, text: str, *, collections: Sequence[str] = ()) -> Statistics:
        """What a search for a text in some collections, or in all, is to be scored by.

        Counted are the chunks that are there, not those that tantivy has not yet cleared away. It costs 30 us for a
        term, and nothing until the next commit where it was asked for before.
        """
        view = self._view
        named = tuple(sorted(set(collections)))
        within = self._any_of("collection", named) if named else None
        chunks = _count(view.searcher, [within]) if within else view.searcher.num_docs
        opened: dict[Term, tuple[str, ...]] = {}
        holding: dict[Term, int] = {}
        for tongue, parsed in self._wanted(text):
            opened.update(
                ((name, prefix), tuple(self._open(view.searcher, name, prefix)))
                for name in self._used_fields(tongue)
                for prefix in parsed.prefixes
            )
            terms = dict.fromkeys(self._weights(parsed, tongue, lambda name, prefix: opened.get((name, prefix), ())))
            for phrase in parsed.spoken:
                terms.update(dict.fromkeys((_field("text", tongue), stem) for stem in phrase))
            for term in terms:
                holding[term] = self._holding(view, term, named, within)
        return Statistics(chunks, holding, opened, int(view.searcher.num_docs), view.words)

    def holding(self, text: str, *, limit: int) -> list[int] | None:
        """The entries that a query of phrases alone is held to, at most `limit`; None if it is of another kind."""
        wanted = self._wanted(text)
        if not any(parsed.only for _, parsed in wanted):
            return None
        if not self._view.searcher.num_docs:
            return []
        needs = [(Occur.Must, need) for need in self._needs(wanted, (), None)]
        held: list[int] = self._hits(self._view, Query.boolean_query(needs), limit).entries.tolist()
        return held

    def _search_by(
        self,
        statistics: Statistics,
        view: _View,
        wanted: Sequence[tuple[str, Wording]],
        needs: Sequence[Query],
        limit: int,
    ) -> Hits:
        weights: dict[Term, float] = {}
        phrases: list[tuple[str, list[str]]] = []
        for tongue, parsed in wanted:
            given = self._weights(parsed, tongue, lambda name, prefix: statistics.open.get((name, prefix), ()))
            weights.update((term, weight) for term, weight in given.items() if view.known(*term).frequency)
            phrases += [(_field("text", tongue), phrase) for phrase in parsed.spoken]
        own = {name: self._own(view, name, stem) for name, stem in weights}
        rarity = {term: weight * statistics.rarity(term) for term, weight in weights.items()}
        rankings = [
            Query.boost_query(
                Query.term_query(self._schema, *term, "freq"),
                rarity[term] / idf(view.known(*term).frequency, own[term[0]][0]),
            )
            for term in weights
        ]
        told = [self._told(statistics, view, name, phrase, needs, limit) for name, phrase in phrases if name in own]
        rankings += [ranking for ranking, _ in told]
        if not rankings:
            return NOTHING
        query = _held(rankings, needs)
        terms = counted([Word(view.known(*term), weights[term]) for term in sorted(weights)], statistics)
        words = None if told else terms
        if not self._rescores:
            return self._hits(view, query, limit)._replace(words=words)
        curves = {name: Curve(self._k1, self._b, statistics.average(name)) for name in own}
        longest = self._bags.longest()
        most = max(curves[name].most(Curve(K1, B, average), longest) for name, (_, average) in own.items())
        asked = limit + max(SPARE, limit // 4)
        enough = max(MOST_SCORED, 4 * limit)
        while True:
            entries, theirs, _ = self._hits(view, query, asked)
            scores = self._bags.scores(entries, np.zeros_like(entries), [terms], k1=self._k1, b=self._b)
            for _, parts in told:
                scores += [parts(entry, curves) for entry in entries.tolist()]
            best = _best(Hits(entries, scores, words), limit)
            # tantivy counts in floats of 32 bits.
            beyond = theirs[-1] * max(most, 1.0) * 1.0001 if len(theirs) == asked else 0.0
            if not beyond or best.scores[-1] > beyond or asked >= enough:
                return best
            asked *= 2

    def _told(
        self, statistics: Statistics, view: _View, name: str, phrase: list[str], needs: Sequence[Query], limit: int
    ) -> tuple[Query, Callable[[int, Mapping[str, Curve]], float]]:
        """A phrase as a ranking by the given statistics, and its part in the score of an entry."""
        chunks, average = self._own(view, name, phrase[0])
        rarity = sum(statistics.rarity((name, stem)) for stem in phrase)
        local = sum(idf(view.known(name, stem).frequency, chunks) for stem in phrase)
        query = Query.phrase_query(self._schema, name, list[Any](phrase))
        found: dict[int, float] = {}
        if self._rescores:
            hits = self._hits(view, _held([query], needs), max(MOST_SCORED, 4 * limit))
            found = dict(zip(hits.entries.tolist(), hits.scores.tolist(), strict=True))
        # How often it occurs is told by its score alone.
        times = Curve(K1, B, average)

        def part(entry: int, curves: Mapping[str, Curve]) -> float:
            if entry not in found:
                return 0.0
            length = self._bags.length(entry, self._bags.field(name))
            return rarity * float(curves[name].part(times.frequency(found[entry] / local, length), length))

        return Query.boost_query(query, rarity / local if local else 1.0), part

    def _holding(self, view: _View, term: Term, named: tuple[str, ...], within: Query | None) -> int:
        known = view.holding.get((named, term))
        if known is None:
            if len(view.holding) >= REMEMBERED:
                view.holding.clear()
            wanted = [Query.term_query(self._schema, *term, "basic"), *([within] if within else [])]
            known = view.holding[named, term] = _count(view.searcher, wanted)
        return known

    def _own(self, view: _View, name: str, stem: str) -> tuple[int, float]:
        """What tantivy scores a field by, which it says in explanations alone."""
        if name not in view.own:
            query = Query.term_query(self._schema, name, stem, "freq")
            hits = view.searcher.search(query, 1, count=False).hits
            if not hits:
                return max(1, view.searcher.num_docs), 1.0
            told = dict(_explained(json.loads(query.explain(view.searcher, hits[0][1]).to_json())))
            view.own[name] = int(told["N"]), told["avgdl"]
        return view.own[name]

    @staticmethod
    def _hits(view: _View, query: Query, limit: int) -> Hits:
        return _taken(view, _best_of(view, query, limit))

    def _tongues(self) -> list[str]:
        used = self._used.copy()
        return [tongue for tongue in self._languages if ("text", tongue) in used]

    def _wanted(self, text: str) -> list[tuple[str, Wording]]:
        return [(tongue, parse(text, self._languages[tongue], max_terms=self._max_terms)) for tongue in self._tongues()]

    def _words(self, view: _View, parsed: Wording, tongue: str) -> list[Word]:
        """The words of a query that any entry holds."""
        weights = self._weights(parsed, tongue, lambda name, prefix: self._open(view.searcher, name, prefix))
        words = [Word(view.known(*term), weight) for term, weight in weights.items()]
        return [word for word in words if word.known.frequency]

    @staticmethod
    def _enough(view: _View, asked: Asked) -> float:
        """Entries with rarer words from which those without any need not be looked at; all of them where few count."""
        if asked.documents is not None:
            return math.inf
        if not asked.collections:
            return ENOUGH * asked.limit
        inside = sum(view.searcher.doc_freq("collection", name) for name in asked.collections)
        return ENOUGH * asked.limit * view.searcher.num_docs / inside if inside else math.inf

    def _any(self, words: Iterable[Word], phrases: Iterable[Query], needs: Sequence[Query]) -> Query:
        """What any of the words or phrases is in, and all that is needed holds for."""
        return _held([*phrases, *(self._clause(known.field, known.stem, weight) for known, weight in words)], needs)

    def _new_clause(self, name: str, stem: str, weight: float) -> Query:
        query = Query.term_query(self._schema, name, stem, "freq")
        return query if weight == 1.0 else Query.boost_query(query, weight)

    def _weights(self, parsed: Wording, tongue: str, opened: Callable[[str, str], Iterable[str]]) -> dict[Term, float]:
        """What each term counts; `opened` gives those that an open end in a field stands for."""
        weights: dict[Term, float] = {}
        for name, boost in self._used_fields(tongue).items():
            weights.update(((name, term), boost * count) for term, count in parsed.terms.items())
            for prefix in parsed.prefixes:
                for term in opened(name, prefix):
                    weights.setdefault((name, term), boost)
        return weights

    def _used_fields(self, tongue: str) -> dict[str, float]:
        """Fields that hold anything, with their boosts."""
        used = self._used.copy()
        return {
            _field(name, tongue): self._boosts[name]
            for name in _FIELDS
            if self._boosts[name] > 0 and (name, tongue) in used
        }

    @staticmethod
    def _open(searcher: Any, name: str, prefix: str) -> Iterable[str]:
        if len(prefix) < SHORTEST_PREFIX:
            return ()
        return (term for term, _ in searcher.terms_with_prefix(name, prefix, limit=MAX_EXPANSIONS))

    def _needs(
        self, wanted: Sequence[tuple[str, Wording]], collections: Sequence[str], documents: Iterable[str] | None
    ) -> list[Query]:
        """What must hold for everything found. It filters, and adds nothing to the score."""
        needs = []
        if collections:
            needs.append(self._any_of("collection", collections))
        if documents is not None:
            needs.append(self._any_of("document", documents))
        spoken = [(tongue, parsed.phrases) for tongue, parsed in wanted if parsed.only]
        if spoken:
            in_any = [[(Occur.Must, phrase) for phrase in self._phrases(phrases, tongue)] for tongue, phrases in spoken]
            needs.append(Query.boolean_query([(Occur.Should, Query.boolean_query(phrases)) for phrases in in_any]))
        return [Query.const_score_query(need, 0.0) for need in needs]

    def _phrases(self, phrases: Sequence[list[str]], tongue: str) -> list[Query]:
        field = _field("text", tongue)
        return [
            Query.phrase_query(self._schema, field, list[Any](phrase))
            if len(phrase) > 1
            else Query.term_query(self._schema, field, phrase[0], "freq")
            for phrase in phrases
        ]

    def _any_of(self, field: str, values: Iterable[str]) -> Query:
        values = list(values)
        if len(values) > _MANY:
            return Query.term_set_query(self._schema, field, values)
        # A union of few terms, not a term set: that one is three times slower.
        names = [Query.term_query(self._schema, field, value, "basic") for value in values]
        return Query.boolean_query([(Occur.Should, name) for name in names]) if names else Query.empty_query()


def _best_of(view: _View, query: Query, limit: int) -> Sequence[_Address]:
    # tantivy reserves room for as many hits as it is asked for.
    hits: Sequence[_Address] = view.searcher.search(query, min(limit, view.searcher.num_docs), count=False).hits
    return hits


def _taken(view: _View, hits: Sequence[_Address]) -> Hits:
    """The entries at places of the index. For all texts at once: each call costs 20 us, however few they are."""
    scores, addresses = zip(*hits, strict=True) if hits else ((), ())
    entries = view.searcher.fast_field_values("id", list(addresses))
    return Hits(np.array(entries, np.int64), np.array(scores, np.float64))


def _best(hits: Hits, limit: int) -> Hits:
    order = np.lexsort((hits.entries, -hits.scores))[:limit]
    return Hits(hits.entries[order], hits.scores[order], hits.words)


def _held(rankings: Sequence[Query], needs: Sequence[Query]) -> Query:
    """What is ranked by any of the one and fulfils all of the other."""
    query = Query.boolean_query([(Occur.Should, ranking) for ranking in rankings])
    return Query.boolean_query([(Occur.Must, query), *((Occur.Must, need) for need in needs)]) if needs else query


def _count(searcher: Any, wanted: Sequence[Query]) -> int:
    return int(searcher.search(Query.boolean_query([(Occur.Must, each) for each in wanted]), 1, count=True).count)


def _explained(details: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of an explanation by their symbols."""
    yield details["description"].partition(",")[0], details["value"]
    for each in details.get("details", ()):
        yield from _explained(each)


def linked(folder: Path, other: Path) -> None:
    """Give all files of a folder second names in another one, which is made; locks are left out."""
    other.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".lock":
            (other / file.name).hardlink_to(file)


_META: Final = "meta.json"
SAVE_TRIES: Final = 10

_MANY: Final = 64
"""Values from which a set is the cheaper query."""


def _field(name: str, tongue: str) -> str:
    return f"{name}_{tongue}"
