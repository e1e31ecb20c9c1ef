"""BM25's k1 and b: what others than tantivy's give on the judged collections, alone and fused, and what they cost.

python -m benchmarks.bm25 --cache vectors/
"""

from __future__ import annotations

import argparse
import os
import time
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.messages import Chunk, Embeddings, PublishedDocument, Query, Words
from actors.search.bm25 import K1, B
from actors.search.dense import DenseIndex
from actors.search.encoder import OnnxEncoder, Vectors
from actors.search.shelf import Shelf, Wanted
from benchmarks.retrieval import BATCH, DEPTH, SETS, SETTINGS, Collection, _keeper, _read, _score

TRIED = ((K1, B), (0.9, 0.4), (0.9, 0.6), (0.9, 0.75), (1.5, 0.75), (2.0, 0.6))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder that keeps the vectors of documents between runs")
    options = parser.parse_args()
    root = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "retrieval"
    if not all((root / name / "corpus.jsonl").is_file() for name in SETS):
        print(f"skipped: no collections below {root}; name their folder with GATHERUM_DATA")
        return
    encoder = OnnxEncoder.minilm(threads=1)
    keep = _keeper(options.cache)
    table = Table("collection", "k1", "b", "lexical", "hybrid, exact", "ms of CPU a lexical query")
    for name in SETS:
        collection = _read(root, name)
        pairs = zip(collection.titles, collection.texts, strict=True)
        whole = [f"{title}\n{text}".strip() for title, text in pairs]
        documents = keep(f"{name}.documents", partial(encoder.vectors, whole))
        queries = keep(f"{name}.queries", partial(encoder.vectors, collection.queries))
        for k1, b in TRIED:
            shelf = _filled(collection, documents, encoder, k1, b)
            lexical, milliseconds = _ndcg(shelf, collection, None)
            hybrid, _ = _ndcg(shelf, collection, queries)
            table.add_row(name, f"{k1}", f"{b}", f"{lexical:.4f}", f"{hybrid:.4f}", f"{milliseconds:.2f}")
    Console().print(table)


def _filled(collection: Collection, documents: Vectors, encoder: OnnxEncoder, k1: float, b: float) -> Shelf:
    dense = DenseIndex(encoder.dimension, encoder.identity)
    shelf = Shelf(writer_memory_mb=100, max_query_terms=64, dense=dense, k1=k1, b=b)
    for place, (title, text) in enumerate(zip(collection.titles, collection.texts, strict=True)):
        made = Embeddings.of(encoder.identity, documents[place : place + 1])
        chunk = Chunk(1, 0, 0, len(text), text, Words())
        shelf.put(PublishedDocument(str(place), title, "all", (chunk,), {}, made))
    shelf.commit()
    return shelf


def _ndcg(shelf: Shelf, collection: Collection, vectors: Vectors | None) -> tuple[float, float]:
    """nDCG@10, and ms of CPU a query."""
    rankings: list[list[int]] = []
    started = time.process_time()
    for first in range(0, len(collection.queries), BATCH):
        part = slice(first, first + BATCH)
        wanted = [
            Wanted(Query(text, limit=DEPTH, mode="hybrid"), dense_weight=SETTINGS.dense_weight)
            for text in collection.queries[part]
        ]
        found = shelf.search_many(wanted, None if vectors is None else vectors[part])
        rankings += [[int(hit.document_id) for hit in hits] for hits in found if isinstance(hits, list)]
    return _score(rankings, collection.judged)[0], (time.process_time() - started) / len(collection.queries) * 1000


if __name__ == "__main__":
    main()
