"""Judged collections: documents, queries, and which documents people found relevant to which query.

They are read in the form of BEIR: `corpus.jsonl`, `queries.jsonl`, and either `qrels.tsv` or `qrels/SPLIT.tsv`. The
measures are those of `trec_eval`, as it defines them: the gain of a document is its grade, and a query counts if any
document is relevant to it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from actors.errors import InvalidInput

SPLITS: Final = ("test", "dev", "train")
"""Of several sets of judgements the first that is there is taken."""

DEPTH: Final = 100
"""Documents of a ranking that are looked at."""

TOP: Final = 10


@dataclass(frozen=True, slots=True)
class Text:
    """A document of a collection."""

    document_id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A collection with its judgements.

    Attributes:
        documents: in the order of the file.
        queries: text by id, of those that some document is relevant to.
        grades: by query, the grade of each relevant document.
        missing: how many relevant documents are not in the collection: nothing can find them.
    """

    documents: tuple[Text, ...]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]
    missing: int


@dataclass(frozen=True, slots=True)
class Quality:
    """How good rankings are, as means over the queries.

    Attributes:
        ndcg_at_10: normalised discounted cumulative gain of the first ten (Järvelin and Kekäläinen, 2002).
        recall_at_100: share of the relevant documents among the first hundred.
        mrr: reciprocal of the rank of the first relevant document, 0 beyond the hundredth.
    """

    ndcg_at_10: float
    recall_at_100: float
    mrr: float


def read(folder: Path, split: str | None = None) -> Judged:
    """Read a collection. Takes time for large ones: call it in a thread.

    Args:
        folder: with `corpus.jsonl`, `queries.jsonl`, and `qrels.tsv` or `qrels/`.
        split: which file of `qrels/`; the first of `SPLITS` that is there by default.

    Raises:
        InvalidInput: a file is missing or damaged (the detail says where), or no query has a relevant document.
    """
    if not folder.is_dir():
        raise InvalidInput(f"There is no folder {folder}.")
    documents: dict[str, Text] = {}
    for where, record in _records(folder / "corpus.jsonl"):
        document_id = _string(record, "_id", where)
        if document_id in documents:
            raise InvalidInput(f"{where}: the document {document_id!r} is there twice.")
        documents[document_id] = Text(
            document_id, _string(record, "title", where, default=""), _string(record, "text", where)
        )
    texts = {
        _string(record, "_id", where): _string(record, "text", where)
        for where, record in _records(folder / "queries.jsonl")
    }
    grades: dict[str, dict[str, int]] = {}
    missing = 0
    for query, document, grade in _judgements(_qrels(folder, split)):
        if grade > 0 and query in texts:
            missing += document not in documents
            grades.setdefault(query, {})[document] = grade
    if not grades:
        raise InvalidInput(f"No query of {folder} has a relevant document: its judgements are of other queries.")
    return Judged(tuple(documents.values()), {query: texts[query] for query in grades}, grades, missing)


def quality(rankings: Mapping[str, Sequence[str]], grades: Mapping[str, Mapping[str, int]]) -> Quality:
    """Judge rankings.

    Args:
        rankings: by query, ids of documents, best first, each once; a query without one found nothing.
        grades: by query, at least one relevant document each, with grades above 0.
    """
    ndcg = recall = mrr = 0.0
    for query, relevant in grades.items():
        ranking = rankings.get(query, ())[:DEPTH]
        gain = _discounted([relevant.get(document, 0) for document in ranking[:TOP]])
        ndcg += gain / _discounted(sorted(relevant.values(), reverse=True)[:TOP])
        hits = [rank for rank, document in enumerate(ranking, 1) if document in relevant]
        recall += len(hits) / len(relevant)
        mrr += 1 / hits[0] if hits else 0.0
    count = len(grades)
    return Quality(ndcg / count, recall / count, mrr / count)


def _discounted(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _qrels(folder: Path, split: str | None) -> Path:
    flat, beir = folder / "qrels.tsv", folder / "qrels"
    if split is None and flat.is_file():
        return flat
    found = [beir / f"{name}.tsv" for name in ([split] if split else SPLITS) if (beir / f"{name}.tsv").is_file()]
    if found:
        return found[0]
    there = ", ".join(sorted(path.stem for path in beir.glob("*.tsv"))) if beir.is_dir() else ""
    if split is not None:
        raise InvalidInput(f"{beir} has no {split}.tsv; it has {there or 'nothing'}.")
    raise InvalidInput(f"{folder} has neither qrels.tsv nor qrels/{SPLITS[0]}.tsv.")


def _judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    """Query, document and grade of each line; the head that BEIR puts over them is passed over."""
    for number, line in enumerate(_lines(path), 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) == 4:  # of TREC: its second is always 0
            del fields[1]
        if number == 1 and fields[-1] in ("score", "grade", "rel", "relevance"):
            continue
        try:
            query, document, grade = fields
            yield query, document, int(grade)
        except ValueError:
            raise InvalidInput(f"{path}, line {number}: not a query, a document and a whole number.") from None


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise InvalidInput(f"{where}: not a JSON object.")
        yield where, record


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield line.rstrip("\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8 text.") from None


def _string(record: Mapping[str, Any], key: str, where: str, *, default: str | None = None) -> str:
    value = record.get(key, default)
    if isinstance(value, int) and key == "_id":
        return str(value)
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: {key!r} is missing, or no text.")
    return value
