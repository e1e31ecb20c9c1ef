"""The lexical index: BM25 over chunks, in memory, by tantivy.

Only what ranks is kept here; texts, words and boxes stay with the caller under the same integer ids, because fetching
ids from a fast field is cheaper than fetching stored documents (12,200 against 8,500 searches/s at 50 hits).

One index serves all collections, and a search of some of them is filtered. With an index each, scores came from
different statistics and did not compare. Three collections searched together (nDCG@10, cranfield / cacm / scifact):
merged by rank 0.238 / 0.173 / 0.343, merged by score 0.338 / 0.259 / 0.705, one index 0.384 / 0.428 / 0.698.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tantivy import Document, Index, Occur, Query, SchemaBuilder

from actors.search.language import ENGLISH, content_stems, stems, well_formed

TITLE_BOOST = 0.2
"""Added weight of a match in the title, which is indexed with the text as well. Measured (nDCG@10, none / 0.2 / 0.5):
cranfield 0.363 / 0.380 / 0.383, cacm 0.430 / 0.429 / 0.423, scifact 0.701 / 0.706 / 0.696."""

_ANALYZER = "english"
_TERM_CHARS = 64
"""Characters of a query that are read per term wanted: what a term and its share of stop words takes, amply."""


class LexicalIndex:
    """A BM25 index over (title, text) pairs. See the module's docstring.

    `add`, `delete` and `commit` belong to one writing thread; `search` may run in another at the same time and sees the
    last commit.

    Args:
        writer_memory_mb: memory of the writer, MB (10^6 bytes), at least 15.
        max_query_terms: terms of a query that are looked up; the rest are ignored.
    """

    def __init__(self, *, writer_memory_mb: int, max_query_terms: int) -> None:
        self._max_terms = max_query_terms
        builder = SchemaBuilder()
        # Signed: tantivy panics when a Python int meets a fast unsigned field.
        builder.add_integer_field("id", fast=True)
        for name in ("document", "collection"):
            builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
        for name in ("title", "text"):
            builder.add_text_field(name, tokenizer_name=_ANALYZER, index_option="freq")
        self._schema = builder.build()
        self._index = Index(self._schema)
        self._index.register_tokenizer(_ANALYZER, ENGLISH)
        # Commits are small and seconds apart; more threads would only take cores from the searches.
        self._writer = self._index.writer(writer_memory_mb * 1_000_000, num_threads=1)
        self._searcher = self._index.searcher()

    def __len__(self) -> int:
        """Entries, as of the last commit."""
        return self._searcher.num_docs

    def add(self, entry: int, *, document_id: str, collection: str, title: str, text: str) -> None:
        """Add one entry. It is found after the next commit."""
        title = well_formed(title)
        self._writer.add_document(
            Document(
                id=entry,
                document=document_id,
                collection=collection,
                title=title,
                text=f"{title}\n{well_formed(text)}",
            )
        )

    def delete(self, document_id: str) -> None:
        """Delete all entries of a document that were added before this call. They are gone after the next commit."""
        self._writer.delete_documents_by_term("document", document_id)

    def commit(self) -> None:
        """Make everything since the last commit visible at once."""
        self._writer.commit()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, text: str, *, collections: Sequence[str] = (), limit: int) -> list[tuple[int, float]]:
        """The best entries for a free text, which is never parsed as query syntax.

        Args:
            text: anything; stop words are dropped unless there is nothing else.
            collections: names; empty means all.
            limit: entries wanted, at least 1.

        Returns:
            (entry, BM25 score), best first; ties in the order of adding.
        """
        terms = self._terms(text)
        searcher = self._searcher
        if not terms or not searcher.num_docs:
            return []
        query = self._ranking(terms)
        if collections:
            query = Query.boolean_query([(Occur.Must, query), (Occur.Must, self._filter(collections))])
        # tantivy reserves room for as many hits as it is asked for.
        hits = searcher.search(query, min(limit, searcher.num_docs), count=False).hits
        entries = searcher.fast_field_values("id", [address for _, address in hits])
        return [(int(entry), score) for entry, (score, _) in zip(entries, hits, strict=True) if entry is not None]

    def _terms(self, text: str) -> list[str]:
        head = text[: self._max_terms * _TERM_CHARS]
        terms: Iterable[str] = content_stems(head) or dict.fromkeys(stems(head))
        return list(terms)[: self._max_terms]

    def _ranking(self, terms: Sequence[str]) -> Query:
        in_text = [Query.term_query(self._schema, "text", term, "freq") for term in terms]
        in_title = [
            Query.boost_query(Query.term_query(self._schema, "title", term, "freq"), TITLE_BOOST) for term in terms
        ]
        return Query.boolean_query([(Occur.Should, query) for query in (*in_text, *in_title)])

    def _filter(self, collections: Sequence[str]) -> Query:
        names = [Query.term_query(self._schema, "collection", name, "basic") for name in collections]
        # A union of terms, not a term set: that one is three times slower. It filters, and adds nothing to the score.
        union = names[0] if len(names) == 1 else Query.boolean_query([(Occur.Should, name) for name in names])
        return Query.const_score_query(union, 0.0)
