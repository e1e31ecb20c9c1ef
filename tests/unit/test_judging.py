"""Judged collections: read in every form they come in, refused where they are damaged, and judged as trec_eval does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidInput
from actors.search.judging import Text, quality, read

CORPUS: list[dict[str, Any]] = [
    {"_id": "a", "title": "Titan", "text": "Titan orbits Saturn."},
    {"_id": "b", "text": "Io orbits Jupiter.", "metadata": {}},
]
QUERIES: list[dict[str, Any]] = [{"_id": "1", "text": "Titan"}, {"_id": 2, "text": "Io"}, {"_id": "3", "text": "none"}]


def write(folder: Path, qrels: str, name: str = "qrels.tsv", **lines: list[dict[str, Any]]) -> Path:
    for file, records in {"corpus": CORPUS, "queries": QUERIES, **lines}.items():
        (folder / f"{file}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(qrels, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "qrels"),
    [
        ("qrels.tsv", "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\tb\t1\n9\ta\t1\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n1\ta\t2\n2\tb\t1\n"),
        ("qrels/train.tsv", "1\ta\t2\n2\tb\t1"),
        ("qrels.tsv", "1 0 a 2\n2 0 b 1\n"),
    ],
)
def test_reads_a_collection(tmp_path: Path, name: str, qrels: str) -> None:
    judged = read(write(tmp_path, qrels, name))
    assert judged.documents == (Text("a", "Titan", "Titan orbits Saturn."), Text("b", "", "Io orbits Jupiter."))
    assert judged.queries == {"1": "Titan", "2": "Io"}
    assert judged.grades == {"1": {"a": 2}, "2": {"b": 1}}
    assert judged.missing == 0


def test_one_of_several_sets_of_judgements_is_taken(tmp_path: Path) -> None:
    write(tmp_path, "1\ta\t1\n", "qrels/train.tsv")
    write(tmp_path, "2\tb\t1\n", "qrels/test.tsv")
    assert set(read(tmp_path).queries) == {"2"}
    assert set(read(tmp_path, "train").queries) == {"1"}
    with pytest.raises(InvalidInput, match=r"has no dev\.tsv; it has test, train\."):
        read(tmp_path, "dev")


def test_what_is_judged_and_missing_is_counted(tmp_path: Path) -> None:
    judged = read(write(tmp_path, "1\ta\t1\n1\tz\t1\n"))
    assert (judged.missing, judged.grades) == (1, {"1": {"a": 1, "z": 1}})


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("corpus.jsonl", None, "cannot be read"),
        ("queries.jsonl", None, "cannot be read"),
        ("qrels.tsv", None, r"neither qrels\.tsv nor qrels/test\.tsv"),
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"_id"', r"corpus\.jsonl, line 2: not a JSON object"),
        ("corpus.jsonl", "[]", "line 1: not a JSON object"),
        ("corpus.jsonl", '{"_id": "a"}', "'text' is missing"),
        ("corpus.jsonl", '{"text": "a"}', "'_id' is missing"),
        ("corpus.jsonl", '{"_id": "a", "text": 7}', "'text' is missing, or no text"),
        (
            "corpus.jsonl",
            '{"_id": "a", "text": "x"}\n\n{"_id": "a", "text": "x"}',
            "line 3: the document 'a' is there twice",
        ),
        ("corpus.jsonl", b"\xff\xfe", "not UTF-8"),
        ("qrels.tsv", "1\ta\n", r"qrels\.tsv, line 1: not a query"),
        ("qrels.tsv", "1\ta\tgood\n", "line 1"),
        ("qrels.tsv", "1\ta\t0\n", "No query"),
        ("qrels.tsv", "", "No query"),
    ],
)
def test_what_is_damaged_is_refused_and_the_place_is_named(
    tmp_path: Path, file: str, content: str | bytes | None, words: str
) -> None:
    write(tmp_path, "1\ta\t1\n")
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidInput, match=words):
        read(tmp_path)


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no folder"):
        read(tmp_path / "nothing")


def test_the_measures_are_those_of_the_literature() -> None:
    judged = quality({"q": ["x", "a", "b"]}, {"q": {"a": 3, "b": 1, "c": 2}, "lost": {"d": 1}})
    gain = 3 / math.log2(3) + 1 / math.log2(4)
    ideal = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert judged.ndcg_at_10 == pytest.approx(gain / ideal / 2)
    assert judged.recall_at_100 == pytest.approx(2 / 3 / 2)
    assert judged.mrr == pytest.approx(1 / 2 / 2)


def test_ten_count_for_gain_and_a_hundred_for_recall() -> None:
    noise = [f"n{number}" for number in range(200)]
    assert quality({"q": [*noise[:9], "a"]}, {"q": {"a": 1}}).ndcg_at_10 > 0
    assert quality({"q": [*noise[:10], "a"]}, {"q": {"a": 1}}).ndcg_at_10 == 0
    assert quality({"q": [*noise[:99], "a"]}, {"q": {"a": 1}}).recall_at_100 == 1
    assert quality({"q": [*noise[:100], "a"]}, {"q": {"a": 1}}).recall_at_100 == 0


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 3), min_size=1), st.permutations("abcdefgh"))
def test_no_ranking_is_better_than_by_grade(grades: dict[str, int], ranking: list[str]) -> None:
    best = quality({"q": sorted(grades, key=lambda document: -grades[document])}, {"q": grades})
    assert best.ndcg_at_10 == pytest.approx(1)
    assert (best.recall_at_100, best.mrr) == (1, 1)
    some = quality({"q": ranking}, {"q": grades})
    assert 0 < some.ndcg_at_10 <= best.ndcg_at_10 + 1e-9
    assert some.recall_at_100 == 1
