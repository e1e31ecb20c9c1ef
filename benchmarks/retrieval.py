"""Search: how good the rankings are on public collections, and what a query costs; then how fast many chunks answer.

Every figure of one table comes from one run: this project's modes beside tantivy's plain BM25, bm25s where it is
installed, MiniLM's plain cosines, and reciprocal rank fusion (k = 60) of plain BM25 and cosines. A document is one
chunk. Quality is of the first 100, costs are of a search for 10: CPU time of the whole process, in batches of 32.

    python -m benchmarks.retrieval --cache vectors/ --out retrieval.json
    OPENBLAS_NUM_THREADS=1 python -m benchmarks.retrieval --cache vectors/ --chunks 100000 --chunks 1000000
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import math
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import tantivy
from rich.console import Console
from rich.table import Table

from actors.database import Database
from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.messages import WORD, Change, Chunk, Embeddings, Fitted, PublishedDocument, Query, Words
from actors.retrieval import Retriever
from actors.search import fast
from actors.search.dense import DenseIndex
from actors.search.encoder import OnnxEncoder, Vectors, unit
from actors.search.language import stems
from actors.search.placement import Shard
from actors.search.shelf import Shelf, Wanted
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

WARM: Final = 20
"""Batches before that are counted: words and their pieces are remembered."""

FILL_S: Final = 7200.0
FAST: Final = "fast.npz"

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
        speeds = [asyncio.run(_speed(collections, encoder, keep, count, options.indexes)) for count in options.chunks]
        report = {"speed": speeds}
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


class Many:
    """What the role follows of the store: so many documents of one chunk, the collections' again and again.

    Repeated ones have noise on their vectors and lack some words at the end, so that no two are the same to an index.

    Args:
        wholes: the texts.
        vectors: of these.
        quick: the fast encoder.
        count: documents.
    """

    def __init__(self, wholes: Sequence[str], vectors: Vectors, quick: fast.FastEncoder, count: int) -> None:
        self._wholes = wholes
        self._vectors = vectors
        self._quick = quick
        self._count = count

    async def last_change(self, *, deadline: Deadline) -> int:
        """One, in which all were published."""
        return 1

    async def collections(self, *, deadline: Deadline) -> list[str]:
        """One holds them all."""
        return ["all"]

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        """Nothing happens any more."""
        if after < 1:
            return [Change(1, "collection", collection="all")]
        await asyncio.sleep(wait_s)
        return []

    async def fitted(self, name: str, *, known: str | None = None, deadline: Deadline) -> Fitted | None:
        """The fast encoder."""
        if not name.startswith("fast:"):
            return None
        return Fitted(name, self._quick.version, self._quick.rows, self._quick.to_bytes())

    async def published(
        self, after: str | None, limit: int, *, encoder: str, shard: Shard, deadline: Deadline
    ) -> list[PublishedDocument]:
        """Up to `limit` of them past an id, each made when it is asked for."""
        first = 0 if after is None else int(after) + 1
        return [self._made(number) for number in range(first, min(first + limit, self._count))]

    def _made(self, number: int) -> PublishedDocument:
        place = number % len(self._wholes)
        chance = np.random.default_rng(number)
        text, vector = self._wholes[place], self._vectors[place : place + 1]
        if number >= len(self._wholes):
            text = text[: len(text) - int(chance.integers(0, 1 + len(text) // 2))]
            noise = chance.normal(0, NOISE / math.sqrt(vector.shape[1]), vector.shape)
            vector = unit(vector + noise.astype(np.float32))
        chunk = Chunk(1, 0, 0, len(text), text, Words(bytes(WORD.itemsize * len(text.split()))))
        return PublishedDocument(f"{number:09}", "", "all", (chunk,), {}, Embeddings.of(self._quick.identity, vector))


async def _speed(
    collections: Sequence[Collection], encoder: OnnxEncoder, keep: Any, count: int, kept: Path | None
) -> dict[str, Any]:
    """Hybrid fast over so many chunks, through the role, in this process."""
    wholes = [
        f"{title}\n{text}".strip() for one in collections for title, text in zip(one.titles, one.texts, strict=True)
    ]
    made = [keep(f"{one.name}.documents", lambda: np.empty((0, 0), np.float32)) for one in collections]
    if sum(map(len, made)) != len(wholes):
        raise SystemExit("Measure the quality first, with --cache: speed is measured over its vectors.")
    vectors = np.concatenate(made)
    file = kept / FAST if kept else None
    if file and file.is_file():
        quick = fast.FastEncoder.from_bytes(file.read_bytes())
    else:
        quick = _fit(wholes, vectors, encoder, keep)
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(quick.to_bytes())
    store = Many(wholes, vectors, quick, count)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (kept or Path(scratch)) / str(count)
        if not (folder / "0" / "snapshot").exists():
            async with _role(store, folder) as (role, filled_s):
                print(f"{count:,} chunks indexed in {filled_s:.0f} s", flush=True)
                while not (await role.health(deadline=Deadline.after(60))).detail["snapshot"]:  # noqa: ASYNC110
                    await asyncio.sleep(1)
        async with _role(store, folder) as (role, loaded_s):
            return await _timed(role, [text for one in collections for text in one.queries], count, loaded_s)


@contextlib.asynccontextmanager
async def _role(store: Many, folder: Path) -> AsyncIterator[tuple[Retriever, float]]:
    """The role, and the seconds until it was ready."""
    settings = load({"retrieval.encoder": "fast", "retrieval.snapshot_s": 1.0, "logs.level": "ERROR"})
    role = Retriever(settings.retrieval, settings.encoder, cast("Database", store), folder=folder)
    began = time.perf_counter()
    await role.start()
    try:
        await role.caught_up(1, deadline=Deadline.after(FILL_S))
        yield role, time.perf_counter() - began
    finally:
        await role.stop()


async def _timed(role: Retriever, asked: Sequence[str], count: int, loaded_s: float) -> dict[str, Any]:
    chance = np.random.default_rng(1)
    times, costs = [], []
    for batch in range(BATCHES + WARM):
        queries = [Query(asked[int(place)], limit=LIMIT) for place in chance.integers(0, len(asked), BATCH)]
        wall, spent = time.perf_counter(), time.process_time()
        found = await role.search_many(queries, deadline=Deadline.after(60))
        if batch >= WARM:
            times.append(time.perf_counter() - wall)
            costs.append(time.process_time() - spent)
        if any(isinstance(each, GatherumError) or each.encoder != "fast" for each in found):
            raise RuntimeError("A search was not answered, or not by the fast encoder.")
    report = {
        "chunks": count,
        "loaded_s": loaded_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "queries_per_cpu_s": BATCH / float(np.mean(costs)),
        "queries_per_s": BATCH / float(np.mean(times)),
        "batch_cpu_p50_ms": float(np.percentile(costs, 50)) * 1000,
        "batch_cpu_p99_ms": float(np.percentile(costs, 99)) * 1000,
        "batch_p50_ms": float(np.percentile(times, 50)) * 1000,
        "batch_p99_ms": float(np.percentile(times, 99)) * 1000,
    }
    print(json.dumps(report), flush=True)
    return report


if __name__ == "__main__":
    main()
