"""Search: how good the rankings are on public collections, and what a query costs; then how fast many chunks answer.

Every figure of one table comes from one run: this project's modes beside tantivy's plain BM25, bm25s where it is
installed, MiniLM's plain cosines, and reciprocal rank fusion (k = 60) of plain BM25 and cosines. A document is one
chunk. Quality is of the first 100, costs are of a search for 10: CPU time of the whole process, in batches of 32.

    python -m benchmarks.retrieval --cache vectors/ --out retrieval.json
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.retrieval --cache vectors/ --chunks 100000 --chunks 1000000
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tantivy
from rich.console import Console
from rich.table import Table

from actors.messages import WORD, Chunk, Embeddings, PublishedDocument, Query, Words
from actors.search import fast
from actors.search.dense import DenseIndex
from actors.search.encoder import OnnxEncoder, Vectors, unit
from actors.search.language import stems
from actors.search.shelf import DENSE, Shelf, Wanted
from actors.search.wordpieces import default as default_pieces
from config.settings import load

SETS = ("cranfield", "cacm", "scifact")
SETTINGS = load(environ={}).retrieval
BATCH = 32
DEPTH = 100
LIMIT = 10
TIMED_BATCHES = 8
BATCHES = 150
NOISE = 0.4
"""Length of the noise on a repeated vector: its cosine with the original is 0.93."""

OPTIONS: dict[str, Any] = {"writer_memory_mb": 500, "max_query_terms": 64, "languages": ("english",)}
"""Of the shelf whose speed is measured."""

BUILT, FAST = "built.json", "fast.npz"

Ranking = list[int]
Searching = Callable[[Sequence[str], int], list[Ranking]]


@dataclass(frozen=True, slots=True)
class Collection:
    """A judged collection; documents and queries by their place."""

    name: str
    titles: list[str]
    texts: list[str]
    queries: list[str]
    judged: list[dict[int, int]]


@dataclass(frozen=True, slots=True)
class Score:
    """One line of the table."""

    collection: str
    mode: str
    ndcg10: float
    recall100: float
    mrr: float
    cpu_s_per_1000: float


def main() -> None:
    """Measure, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder that keeps the vectors of documents between runs")
    parser.add_argument("--chunks", type=int, action="append", default=[], help="measure speed over so many instead")
    parser.add_argument("--indexes", type=Path, help="folder that keeps the indexes over them between runs")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    root = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data")) / "retrieval"
    if not all((root / name / "corpus.jsonl").is_file() for name in SETS):
        print(f"skipped: no collections below {root}; name their folder with GATHERUM_DATA")
        return
    encoder = OnnxEncoder.minilm(threads=1)
    collections = [_read(root, name) for name in SETS]
    keep = _keeper(options.cache)
    report: dict[str, Any]
    if options.chunks:
        report = {"speed": [_speed(collections, encoder, keep, count, options.indexes) for count in options.chunks]}
    else:
        scores: list[Score] = []
        for collection in collections:
            measured = _quality(collection, encoder, keep)
            _show(measured)
            scores += measured
        report = {"quality": [{name: getattr(score, name) for name in Score.__slots__} for score in scores]}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


def _read(root: Path, name: str) -> Collection:
    records = [json.loads(line) for line in (root / name / "corpus.jsonl").read_text("utf-8").splitlines() if line]
    asked = [json.loads(line) for line in (root / name / "queries.jsonl").read_text("utf-8").splitlines() if line]
    places = {record["_id"]: place for place, record in enumerate(records)}
    judged: dict[str, dict[int, int]] = {}
    for line in (root / name / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if document in places and int(grade) > 0:
            judged.setdefault(query, {})[places[document]] = int(grade)
    asked = [record for record in asked if record["_id"] in judged]
    return Collection(
        name,
        [record["title"] for record in records],
        [record["text"] for record in records],
        [record["text"] for record in asked],
        [judged[record["_id"]] for record in asked],
    )


def _keeper(cache: Path | None) -> Callable[[str, Callable[[], Vectors]], Vectors]:
    def keep(name: str, make: Callable[[], Vectors]) -> Vectors:
        file = cache / f"{name}.npy" if cache else None
        if file and file.is_file():
            return np.asarray(np.load(file), np.float32)
        made = make()
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, made)
        return made

    return keep


# --- quality ---


def _quality(collection: Collection, encoder: OnnxEncoder, keep: Any) -> list[Score]:
    name, queries = collection.name, collection.queries
    whole = [f"{title}\n{text}".strip() for title, text in zip(collection.titles, collection.texts, strict=True)]
    vectors = keep(f"{name}.documents", lambda: encoder.vectors(whole))
    pieces = default_pieces()
    started = time.process_time()
    quick = _fit(whole, vectors, encoder, keep)
    print(f"{name}: fast encoder fitted in {time.process_time() - started:.1f} s of CPU", flush=True)
    shelf = _shelf(collection, vectors, encoder)
    plain = _plain_bm25(whole)
    lines: list[Score] = []

    def measure(mode: str, run: Searching) -> None:
        batches = [queries[first : first + BATCH] for first in range(0, len(queries), BATCH)]
        found = [ranking for batch in batches for ranking in run(batch, DEPTH)]
        started = time.process_time()
        for batch in batches[:TIMED_BATCHES]:
            run(batch, LIMIT)
        cpu = (time.process_time() - started) / sum(map(len, batches[:TIMED_BATCHES])) * 1000
        lines.append(Score(name, mode, *_score(found, collection.judged), cpu))

    def search(texts: Sequence[str], limit: int, mode: Any, made: Vectors | None, weight: float) -> list[Ranking]:
        wanted = [Wanted(Query(text, limit=limit, mode=mode), dense_weight=weight) for text in texts]
        found = shelf.search_many(wanted, made)
        return [[int(passage.document_id) for passage in passages] for passages in found if isinstance(passages, list)]

    def cosines(texts: Sequence[str], limit: int) -> list[Ranking]:
        near = encoder.vectors(texts) @ vectors.T
        return [row.tolist() for row in np.argsort(-near, axis=1, kind="stable")[:, :limit]]

    def fused(texts: Sequence[str], limit: int) -> list[Ranking]:
        pairs = zip(plain(texts, DEPTH), cosines(texts, DEPTH), strict=True)
        return [_reciprocal(pair)[:limit] for pair in pairs]

    measure("plain tantivy BM25", plain)
    if importlib.util.find_spec("bm25s"):
        for k1, b in ((1.2, 0.75), (0.9, 0.4), (0.9, 0.6)):
            measure(f"bm25s k1={k1} b={b}", _bm25s(whole, k1, b))
    measure("plain MiniLM", cosines)
    measure("plain BM25 + MiniLM, RRF", fused)
    measure("lexical", lambda texts, limit: search(texts, limit, "lexical", None, 1.0))
    measure("dense exact", lambda texts, limit: search(texts, limit, "dense", encoder.vectors(texts), 1.0))
    measure("dense fast", lambda texts, limit: search(texts, limit, "dense", quick.encode(pieces.pieces(texts)), 1.0))
    measure(
        "hybrid exact",
        lambda texts, limit: search(texts, limit, "hybrid", encoder.vectors(texts), SETTINGS.dense_weight),
    )
    measure(
        "hybrid fast",
        lambda texts, limit: search(texts, limit, "hybrid", quick.encode(pieces.pieces(texts)), SETTINGS.fast_weight),
    )
    return lines


def _fit(whole: Sequence[str], vectors: Vectors, encoder: OnnxEncoder, keep: Any) -> fast.FastEncoder:
    pieces = default_pieces()
    start = keep("pieces", lambda: fast.prior(encoder, pieces))
    return fast.fit(pieces.pieces(whole), vectors, start, identity=encoder.identity)


def _shelf(collection: Collection, vectors: Vectors, encoder: OnnxEncoder) -> Shelf:
    dense = DenseIndex(encoder.dimension, encoder.identity)
    shelf = Shelf(writer_memory_mb=100, max_query_terms=64, dense=dense)
    for place, (title, text) in enumerate(zip(collection.titles, collection.texts, strict=True)):
        chunk = Chunk(1, 0, 0, len(text), text, Words())
        made = Embeddings.of(encoder.identity, vectors[place : place + 1])
        shelf.put(PublishedDocument(str(place), title, "all", (chunk,), {}, made))
    shelf.commit()
    return shelf


def _plain_bm25(whole: Sequence[str]) -> Searching:
    """Plain tantivy as it comes: one field, `en_stem`, every word looked up as often as it occurs."""
    builder = tantivy.SchemaBuilder()
    builder.add_integer_field("id", fast=True)
    builder.add_text_field("text", tokenizer_name="en_stem", index_option="freq")
    schema = builder.build()
    index = tantivy.Index(schema)
    writer = index.writer(50_000_000, num_threads=1)
    for place, text in enumerate(whole):
        writer.add_document(tantivy.Document(id=place, text=text))
    writer.commit()
    index.reload()
    searcher = index.searcher()

    def search(texts: Sequence[str], limit: int) -> list[Ranking]:
        found = []
        for text in texts:
            terms = [tantivy.Query.term_query(schema, "text", stem, "freq") for stem in stems(text)]
            query = tantivy.Query.boolean_query([(tantivy.Occur.Should, term) for term in terms])
            hits = searcher.search(query, limit, count=False).hits
            places: list[Any] = searcher.fast_field_values("id", [at for _, at in hits])
            found.append([int(place) for place in places])
        return found

    return search


def _bm25s(whole: Sequence[str], k1: float, b: float) -> Searching:
    bm25s: Any = importlib.import_module("bm25s")
    index = bm25s.BM25(k1=k1, b=b)
    index.index([stems(text) for text in whole], show_progress=False)

    def search(texts: Sequence[str], limit: int) -> list[Ranking]:
        asked = [stems(text) for text in texts]
        found, _ = index.retrieve(asked, k=limit, show_progress=False, n_threads=0)
        return [[int(place) for place in row] for row in found]

    return search


def _reciprocal(rankings: Sequence[Ranking], k: float = 60) -> Ranking:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking, start=1):
            scores[place] = scores.get(place, 0.0) + 1 / (k + rank)
    return sorted(scores, key=lambda place: (-scores[place], place))


def _score(found: Sequence[Ranking], judged: Sequence[Mapping[int, int]]) -> tuple[float, float, float]:
    """Means of nDCG@10 (gain is the grade, as in trec_eval), Recall@100, and the reciprocal rank of the first hit."""
    gains, recalls, firsts = [], [], []
    for ranking, grades in zip(found, judged, strict=True):
        gain = sum(grades.get(place, 0) / math.log2(rank + 2) for rank, place in enumerate(ranking[:10]))
        best = sum(grade / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades.values())[:-11:-1]))
        gains.append(gain / best)
        recalls.append(len(grades.keys() & set(ranking[:100])) / len(grades))
        firsts.append(next((1 / rank for rank, place in enumerate(ranking, start=1) if place in grades), 0.0))
    return float(np.mean(gains)), float(np.mean(recalls)), float(np.mean(firsts))


def _show(scores: Sequence[Score]) -> None:
    table = Table(*("collection", "mode", "nDCG@10", "Recall@100", "MRR", "CPU s / 1,000 queries"))
    for score in scores:
        figures = (f"{score.ndcg10:.4f}", f"{score.recall100:.4f}", f"{score.mrr:.4f}", f"{score.cpu_s_per_1000:.2f}")
        table.add_row(score.collection, score.mode, *figures)
    Console(width=120).print(table)


# --- speed ---


def _speed(
    collections: Sequence[Collection], encoder: OnnxEncoder, keep: Any, count: int, kept: Path | None
) -> dict[str, Any]:
    """Hybrid fast over so many chunks: the three collections, again and again, the vectors with noise."""
    asked = [text for one in collections for text in one.queries]
    with tempfile.TemporaryDirectory() as scratch:
        folder = kept / str(count) if kept else Path(scratch) / "built"
        if not (folder / BUILT).is_file():
            wholes = [
                f"{title}\n{text}".strip()
                for one in collections
                for title, text in zip(one.titles, one.texts, strict=True)
            ]
            vectors = np.concatenate(
                [keep(f"{one.name}.documents", lambda: np.empty((0, 0), np.float32)) for one in collections]
            )
            if len(vectors) != len(wholes):
                raise SystemExit("Measure the quality first, with --cache: speed is measured over its vectors.")
            _build(folder, wholes, vectors, _fit(wholes, vectors, encoder, keep), count)
        # A snapshot and what is made of it share their files, so they are on one disk.
        with tempfile.TemporaryDirectory(dir=folder) as work:
            return _speed_in(folder, Path(work), asked, count)


def _build(folder: Path, wholes: Sequence[str], vectors: Vectors, quick: fast.FastEncoder, count: int) -> None:
    """Write a snapshot of indexes over so many chunks, and what else is known of them."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "first").mkdir(parents=True)
    shelf = Shelf(dense=DenseIndex(quick.dimension, quick.identity), folder=folder / "first", **OPTIONS)
    chance = np.random.default_rng(0)
    started, cpu = time.perf_counter(), time.process_time()
    for first in range(0, count, len(wholes)):
        size = min(len(wholes), count - first)
        noise = chance.normal(0, NOISE / math.sqrt(quick.dimension), (size, quick.dimension)).astype(np.float32)
        noisy = unit(vectors[:size] + noise if first else vectors[:size])
        for place in range(size):
            # Some words are cut off, so that no two are the same to BM25.
            text = wholes[place][: len(wholes[place]) - int(chance.integers(0, 1 + len(wholes[place]) // 2))]
            chunk = Chunk(1, 0, 0, len(text), text, Words(bytes(WORD.itemsize * len(text.split()))))
            one = Embeddings.of(quick.identity, noisy[place : place + 1])
            shelf.put(PublishedDocument(f"{first + place}", "", "all", (chunk,), {}, one))
    shelf.commit()
    built_s, built_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    built = time.perf_counter()
    (folder / "snapshot").mkdir()
    account = shelf.save(folder / "snapshot")
    saved_s = time.perf_counter() - built
    shelf.close()
    shutil.rmtree(folder / "first")
    (folder / FAST).write_bytes(quick.to_bytes())
    about = {"build_s": built_s, "build_cpu_s": built_cpu_s, "snapshot_s": saved_s}
    (folder / BUILT).write_text(json.dumps({"account": account, "about": about}), encoding="utf-8")


def _speed_in(folder: Path, work: Path, asked: Sequence[str], count: int) -> dict[str, Any]:
    built = json.loads((folder / BUILT).read_text(encoding="utf-8"))
    quick = fast.FastEncoder.from_bytes((folder / FAST).read_bytes())
    chance = np.random.default_rng(1)
    loading = time.perf_counter()
    dense = DenseIndex.load(folder / "snapshot" / DENSE, quick.dimension, quick.identity)
    shelf = Shelf.load(folder / "snapshot", built["account"], dense=dense, folder=work, **OPTIONS)
    loaded_s = time.perf_counter() - loading
    pieces = default_pieces()
    times, costs, parts = [], [], dict.fromkeys(("encode", "search"), 0.0)
    for batch in range(BATCHES + 5):
        texts = [asked[int(place)] for place in chance.integers(0, len(asked), BATCH)]
        wall, spent = time.perf_counter(), time.process_time()
        made = quick.encode(pieces.pieces(texts))
        encoded = time.process_time()
        wanted = [Wanted(Query(text, limit=LIMIT), dense_weight=SETTINGS.fast_weight) for text in texts]
        shelf.search_many(wanted, made)
        done = time.process_time()
        if batch >= 5:
            times.append(time.perf_counter() - wall)
            costs.append(done - spent)
            parts["encode"] += encoded - spent
            parts["search"] += done - encoded
    report = {
        "chunks": count,
        **built["about"],
        "load_s": loaded_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "queries_per_cpu_s": BATCH / float(np.mean(costs)),
        "queries_per_s": BATCH / float(np.mean(times)),
        "batch_cpu_p50_ms": float(np.percentile(costs, 50)) * 1000,
        "batch_cpu_p99_ms": float(np.percentile(costs, 99)) * 1000,
        "batch_p50_ms": float(np.percentile(times, 50)) * 1000,
        "batch_p99_ms": float(np.percentile(times, 99)) * 1000,
        "us_per_query": {name: total / BATCHES / BATCH * 1e6 for name, total in parts.items()},
    }
    print(json.dumps(report), flush=True)
    return report


if __name__ == "__main__":
    main()
