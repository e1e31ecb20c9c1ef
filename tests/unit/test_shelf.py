"""The shelf: what hybrid search gives, and that modes, collections, filters and phrases hold for both indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.errors import InvalidInput
from actors.messages import Chunk, Embeddings, Mode, Passage, PublishedDocument, Query, Words
from actors.search import shelf as module
from actors.search.dense import DenseIndex
from actors.search.encoder import Vectors, unit
from actors.search.filters import parse
from actors.search.shelf import CANDIDATES, Shelf, Wanted

SUBJECTS = ("moon", "bread", "wing")
TEXTS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "m1": ("space", "The probe landed on the moon.", "moon", {"year": 2005}),
    "m2": ("space", "A satellite of Jupiter, covered with ice.", "moon", {"year": 1979}),
    "b1": ("kitchen", "Bake the bread for an hour.", "bread", {"year": 2005, "lang": "en"}),
    "w1": ("flight", "The wing of the probe was swept.", "wing", {}),
}


def about(*subjects: str) -> Vectors:
    return unit(np.array([[subject == name for name in SUBJECTS] for subject in subjects], np.float32))


def document(
    name: str, collection: str, *texts: str, vectors: Vectors | None = None, metadata: dict[str, Any] | None = None
) -> PublishedDocument:
    chunks = tuple(Chunk(page, 0, 0, len(text), text, Words()) for page, text in enumerate(texts, start=1))
    made = None if vectors is None else Embeddings.of("m", vectors)
    return PublishedDocument(name, "", collection, chunks, metadata or {}, made)


@pytest.fixture
def shelf() -> Shelf:
    held = Shelf(writer_memory_mb=15, max_query_terms=8, dense=DenseIndex(len(SUBJECTS), "m"))
    for name, (collection, text, subject, metadata) in TEXTS.items():
        held.put(document(name, collection, text, vectors=about(subject), metadata=metadata))
    held.commit()
    return held


def passages(
    shelf: Shelf, text: str, subject: str, *collections: str, mode: Mode = "hybrid", where: Any = None, limit: int = 10
) -> list[Passage]:
    query = Query(text, collections=collections, mode=mode, limit=limit)
    wanted = Wanted(query, None if where is None else parse(where))
    (found,) = shelf.search_many([wanted], about(subject))
    if isinstance(found, InvalidInput):
        raise found
    return found


def names(found: list[Passage]) -> list[str]:
    return [passage.document_id for passage in found]


def near(found: list[Passage]) -> list[str]:
    """Those that the vectors speak for: the others come last, with a score of 0."""
    return [passage.document_id for passage in found if passage.score > 0]


def test_hybrid_finds_by_words_and_by_meaning(shelf: Shelf) -> None:
    found = passages(shelf, "probe", "moon")
    assert near(found) == ["m1", "m2", "w1"]
    assert found[0].scores["lexical"] > 0
    assert found[0].scores["dense"] == pytest.approx(1)
    assert found[1].scores.keys() == {"dense"}
    assert found[2].scores["dense"] == 0


def test_modes_ask_one_index_alone(shelf: Shelf) -> None:
    assert sorted(names(passages(shelf, "probe", "moon", mode="lexical"))) == ["m1", "w1"]
    assert sorted(near(passages(shelf, "probe", "moon", mode="dense"))) == ["m1", "m2"]


def test_the_weight_of_the_cosine_decides(shelf: Shelf) -> None:
    orders = []
    for weight in (0.5, 2.0):
        (found,) = shelf.search_many([Wanted(Query("swept wing"), dense_weight=weight)], about("bread"))
        assert isinstance(found, list)
        orders.append(names(found)[:2])
    assert orders == [["w1", "b1"], ["b1", "w1"]]


def test_without_vectors_words_decide(shelf: Shelf) -> None:
    (found,) = shelf.search_many([Wanted(Query("ice"))])
    assert isinstance(found, list)
    assert names(found) == names(shelf.search(Query("ice"))) == ["m2"]


def test_a_batch_is_its_queries_one_by_one(shelf: Shelf) -> None:
    wanted = [
        Wanted(Query("probe")),
        Wanted(Query("ice", collections=("space",))),
        Wanted(Query("bread", mode="dense")),
        Wanted(Query('"swept"', limit=1)),
        Wanted(Query("hour", mode="lexical")),
        Wanted(Query("probe"), parse({"year": 2005})),
    ]
    vectors = about("moon", "moon", "bread", "wing", "moon", "moon")
    batch = shelf.search_many(wanted, vectors)
    assert batch == [shelf.search_many([item], vectors[place : place + 1])[0] for place, item in enumerate(wanted)]


def test_collections_hold_for_both_indexes(shelf: Shelf) -> None:
    assert names(passages(shelf, "probe", "moon", "flight")) == ["w1"]
    assert names(passages(shelf, "bread", "moon", "space")) == ["m1", "m2"]
    assert names(passages(shelf, "probe", "moon", "none")) == []
    assert near(passages(shelf, "probe", "moon", "space", "flight", "kitchen")) == ["m1", "m2", "w1"]


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "dense"])
def test_filters_hold_for_both_indexes(shelf: Shelf, mode: Mode) -> None:
    def held(where: Any, *collections: str) -> set[str]:
        return set(names(passages(shelf, "probe bread", "moon", *collections, mode=mode, where=where)))

    assert held({"year": 2005}) == {"m1", "b1"}
    assert held({"year": 2005}, "space") == {"m1"}
    assert held({"year": {"$lt": 1900}}) == set()
    assert held({"lang": "en"}, "space") == set()


def test_a_filter_that_makes_no_sense_is_refused_alone(shelf: Shelf) -> None:
    wanted = [Wanted(Query("probe"), parse({"yeer": 1})), Wanted(Query("probe"))]
    refused, found = shelf.search_many(wanted, about("moon", "moon"))
    assert isinstance(refused, InvalidInput)
    assert isinstance(found, list)
    assert near(found) == ["m1", "m2", "w1"]


def test_phrases_hold_for_both_indexes(shelf: Shelf) -> None:
    assert names(passages(shelf, '"covered with ice"', "bread")) == ["m2"]
    assert names(passages(shelf, '"with covered ice"', "moon")) == []
    assert names(passages(shelf, '"probe"', "moon", "flight")) == ["w1"]


def test_near_repetitions_give_way_to_what_is_new(shelf: Shelf) -> None:
    again = "The probe landed on the moon."
    for name in ("c1", "c2"):
        shelf.put(document(name, "space", again, vectors=about("moon")))
    shelf.commit()
    found = passages(shelf, "probe landed", "moon", limit=3)
    assert [passage.text for passage in found].count(again) == 1
    assert names(found) == ["m1", "m2", "w1"]


def test_a_document_that_is_put_again_or_goes_leaves_nothing(shelf: Shelf) -> None:
    texts = ("Knead the dough.", "Let it rest.")
    shelf.put(document("m1", "kitchen", *texts, vectors=about("bread", "bread"), metadata={"n": 1}))
    shelf.remove("b1")
    assert near(passages(shelf, "probe", "moon"))[0] == "m1"
    shelf.commit()
    assert near(passages(shelf, "nothing", "bread")) == ["m1", "m1"]
    assert names(passages(shelf, "dough", "moon", "space")) == ["m2"]
    assert names(passages(shelf, "dough", "bread", where={"n": 1})) == ["m1", "m1"]
    with pytest.raises(InvalidInput):
        passages(shelf, "bread", "bread", where={"lang": "en"})


def test_a_document_without_chunks_is_held_and_never_found(shelf: Shelf) -> None:
    shelf.put(document("empty", "space", vectors=np.zeros((0, 3), np.float32), metadata={"year": 1}))
    shelf.put(document("next", "space", "A comet.", vectors=about("moon")))
    shelf.commit()
    assert (shelf.documents, shelf.chunks_of("empty")) == (6, 0)
    shelf.remove("empty")
    shelf.commit()
    assert "next" in names(passages(shelf, "comet", "moon"))


def test_chunks_without_vectors_are_found_by_their_words(shelf: Shelf) -> None:
    shelf.put(document("bare", "space", "A comet with a tail."))
    shelf.commit()
    assert "bare" in near(passages(shelf, "comet", "bread"))


def test_how_rare_a_word_is_is_counted_in_the_collections_that_are_searched() -> None:
    alone, beside = (Shelf(writer_memory_mb=15, max_query_terms=8) for _ in range(2))
    for held in (alone, beside):
        held.put(document("m1", "space", "The moon is icy.", "A moon of the far planet."))
        held.put(document("m2", "space", "Haze over the planet."))
    for number in range(5):
        beside.put(document(f"x{number}", "other", "An icy planet.", "Haze and ice."))
    for held in (alone, beside):
        held.commit()
    for text in ("icy moon", "haze planet", '"icy moon" planet'):
        hits = [held.search(Query(text, ("space",))) for held in (alone, beside)]
        order = [[(hit.document_id, hit.page) for hit in found] for found in hits]
        assert order[0] == order[1]
    own, among = (held._lexical.statistics("icy moon planet", collections=("space",)) for held in (alone, beside))
    assert (own.chunks, own.holding) == (among.chunks, among.holding)


def test_a_collection_is_gone_with_its_last_document(shelf: Shelf) -> None:
    assert "kitchen" in shelf._collections
    shelf.remove("b1")
    shelf.commit()
    assert "kitchen" not in shelf._collections
    assert passages(shelf, "bread", "bread", "kitchen") == []


def test_another_k1_goes_through_a_snapshot(tmp_path: Path) -> None:
    options: dict[str, Any] = {"writer_memory_mb": 15, "max_query_terms": 8, "k1": 0.5, "b": 0.3}
    for name in ("work", "again", "snapshot"):
        (tmp_path / name).mkdir()
    shelf = Shelf(**options, folder=tmp_path / "work")
    shelf.put(document("gone", "space", "moon moon moon"))
    for name, (collection, text, _, _) in TEXTS.items():
        shelf.put(document(name, collection, text))
    shelf.commit()
    shelf.remove("gone")
    shelf.commit()
    account = shelf.save(tmp_path / "snapshot")
    again = Shelf.load(
        tmp_path / "snapshot", account, **options, dense=None, languages=("english",), folder=tmp_path / "again"
    )
    found = shelf.search(Query("moon probe wing"))
    assert len(found) == 2
    assert again.search(Query("moon probe wing")) == found
    plain = Shelf(writer_memory_mb=15, max_query_terms=8)
    for name, (collection, text, _, _) in TEXTS.items():
        plain.put(document(name, collection, text))
    plain.commit()
    assert [hit.score for hit in plain.search(Query("moon probe wing"))] != [hit.score for hit in found]
    assert [hit.scores for hit in plain.search(Query("moon probe wing"))] != [hit.scores for hit in found]


def test_a_part_has_the_closest_and_what_words_found_whatever_else_is_asked() -> None:
    held = Shelf(writer_memory_mb=15, max_query_terms=8, dense=DenseIndex(len(SUBJECTS), "m"), shared=True)
    count = CANDIDATES + 20
    held.put(document("m", "space", *["A moon."] * count, vectors=about(*["moon"] * count)))
    held.put(document("b", "kitchen", "Some bread.", vectors=about("bread")))
    held.commit()
    queries = [Query("bread", limit=5), Query("bread", limit=count)]
    wanted = [Wanted(query, statistics=held.survey(query).statistics) for query in queries]
    alone = held.parts(wanted[:1], about("moon"))[0]
    beside, more = held.parts(wanted, about("moon", "moon"))
    assert alone.near.sum() == beside.near.sum() == CANDIDATES
    assert more.near.sum() == count
    assert alone.chunks == beside.chunks
    by_words = alone.chunks.index(("b", 0))
    assert not alone.near[by_words]
    assert alone.cosines[by_words] == pytest.approx(0.0, abs=1e-3)
    assert np.flatnonzero(~np.isnan(alone.lexical)).tolist() == [by_words]


def test_what_one_index_gives_the_other_scores_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 1)
    query = Query("the wing of a probe", limit=1)
    (part,) = shelf.parts([Wanted(query, statistics=shelf.survey(query).statistics)], about("moon"))
    assert part.chunks == (("m1", 0), ("w1", 0))
    assert part.near.tolist() == [True, False]
    assert part.worded.tolist() == [False, True]
    of_both, of_words = part.lexical.tolist()
    assert 0 < of_both < of_words
    assert part.cosines.tolist() == pytest.approx([1, 0], abs=1e-3)
