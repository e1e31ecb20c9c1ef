"""The retrieval role in shards: the same answers as from one, and what happens when some of them are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import FakeEncoder, FakePublishing, published

from actors import shards as module
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Unavailable, UnknownCollection
from actors.messages import Found, PublishedDocument, Query
from actors.pool import names_of, pool_of
from actors.retrieval import Retriever
from actors.search import encoder as encoders
from actors.search import shelf
from actors.search.placement import WHOLE, Shard, shard_of
from actors.shards import CANDIDATES, SPARE, Shards, search_many, shards_of
from config.settings import load

DEFAULTS = load(environ={})
WORDS = ("titan", "moon", "dough", "oven", "wing", "flow", "haze", "icy", "lander", "crust")


def soon() -> Deadline:
    return Deadline.after(60)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr(encoders, "local", lambda settings, *, threads: fake)
    return fake


def library(encoder: FakeEncoder, count: int = 60) -> list[PublishedDocument]:
    """Documents of one to three passages, each of some words in an order of its own, of three collections."""
    made = []
    for number in range(count):
        texts = []
        for page in range(1 + number % 3):
            words = [WORDS[(number * (at + 1) + 3 * at + page) % len(WORDS)] for at in range(4 + number % 7)]
            texts.append(f"{' '.join(words)} n{number} p{page}")
        made.append(
            published(
                f"{number:04x}",
                *texts,
                title=WORDS[number % len(WORDS)],
                collection=("a", "b", "c")[number % 3],
                encoder=encoder,
                metadata={"year": 2000 + number % 5, **({"only": True} if number == 7 else {})},
            )
        )
    return made


@asynccontextmanager
async def running(database: FakePublishing, count: int, **settings: Any) -> AsyncIterator[list[Retriever]]:
    update = {"writer_memory_mb": 15, "encoder": "exact", "shards": count, **settings}
    retrievers = [
        Retriever(
            DEFAULTS.retrieval.model_copy(update=update),
            DEFAULTS.encoder,
            database,  # type: ignore[arg-type]
            shard=Shard(number, count),
        )
        for number in range(count)
    ]
    for retriever in retrievers:
        await retriever.start()
        await retriever.caught_up(len(database.log), deadline=soon())
    try:
        yield retrievers
    finally:
        for retriever in retrievers:
            await retriever.stop()


QUERIES = [
    Query("titan haze"),
    Query("icy crust of a moon", limit=3),
    Query("wing flow", ("a", "b")),
    Query("dough", ("c",), mode="lexical"),
    Query("satellite", mode="dense"),
    Query("moon titan", filters={"year": {"$gte": 2003}}),
    Query("icy", filters={"only": True}),
    Query("icy", filters={"only": {"$exists": False}}, limit=100),
    Query('"moon titan" haze'),
    Query("la* cr*"),
    Query("nothing of the kind"),
]


def shape(found: Found | GatherumError) -> Any:
    """What must be equal: the passages, their order, and what made the vector."""
    assert isinstance(found, Found), found
    hits = [(hit.document_id, hit.page, hit.text, hit.words, hit.collection, hit.title) for hit in found.passages]
    return hits, found.encoder, found.degraded, found.partial


@pytest.mark.parametrize("count", [2, 3])
async def test_shards_give_what_one_index_gives(encoder: FakeEncoder, count: int) -> None:
    database = FakePublishing(*library(encoder))
    async with running(database, 1) as [whole], running(database, count) as parts:
        held = [await part.contents("", 1000, deadline=soon()) for part in parts]
        assert all(held)
        assert sorted(pair for pairs in held for pair in pairs) == await whole.contents("", 1000, deadline=soon())
        one = await whole.search_many(QUERIES, deadline=soon())
        several = await search_many(parts, QUERIES, deadline=soon())
    for query, expected, found in zip(QUERIES, one, several, strict=True):
        assert shape(found) == shape(expected), query
        assert isinstance(found, Found)
        assert isinstance(expected, Found)
        for ours, theirs in zip(found.passages, expected.passages, strict=True):
            assert ours.score == pytest.approx(theirs.score, rel=1e-5)
            assert ours.scores == pytest.approx(theirs.scores, rel=1e-5)
    assert any(isinstance(found, Found) and found.passages for found in several)


async def test_each_vector_is_made_once(encoder: FakeEncoder) -> None:
    async with running(FakePublishing(*library(encoder)), 3) as parts:
        await search_many(parts, [Query("moon"), Query("wing")], deadline=soon())
    assert encoder.encoded == [["moon", "wing"]]


async def test_shards_follow_their_own_documents(encoder: FakeEncoder) -> None:
    database = FakePublishing()
    async with running(database, 2) as parts:
        change = await database.publish(*library(encoder, 10))
        change = await database.delete("0003")
        for part in parts:
            await part.caught_up(change, deadline=soon())
        held = [dict(await part.contents("", 100, deadline=soon())) for part in parts]
        details = [(await part.health(deadline=soon())).detail["shard"] for part in parts]
    assert [[shard_of(name, 2) for name in names] for names in held] == [
        [number] * len(held[number]) for number in (0, 1)
    ]
    assert sum(map(len, held)) == 9
    assert details == ["shard 0 of 2", "shard 1 of 2"]


async def test_what_is_wrong_with_a_query_is_said_as_by_one(encoder: FakeEncoder) -> None:
    queries = [
        Query("moon", filters={"yeer": 1}),
        Query("moon", filters={"year": "2000"}),
        Query("moon", filters={"$not": 1}),
        Query("moon", ("unheard",)),
        Query("moon", limit=0),
    ]
    database = FakePublishing(*library(encoder))
    async with running(database, 1) as [whole], running(database, 2) as parts:
        one = await whole.search_many(queries, deadline=soon())
        several = await search_many(parts, [*queries, Query("moon")], deadline=soon())
    assert [(type(error), str(error)) for error in several[:-1]] == [(type(error), str(error)) for error in one]
    assert [type(error) for error in one] == [InvalidInput, InvalidInput, InvalidInput, UnknownCollection, InvalidInput]
    assert isinstance(several[-1], Found)


async def test_a_shard_that_is_away_costs_its_documents_and_is_named(
    encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(FakePublishing(*library(encoder)), 2) as parts:

        async def away(*_: Any, deadline: Deadline) -> Any:
            raise Unavailable("The retrieval role is not running.")

        for step in ("survey_many", "parts_many", "excerpts_of"):
            with monkeypatch.context() as patch:
                patch.setattr(parts[1], step, away)
                # Nobody knows whether the other one would have had the vectors made.
                patch.setattr(parts[1], "encode_many", away)
                [found] = await search_many(parts, [Query("titan haze")], deadline=soon())
            assert isinstance(found, Found)
            assert found.partial, step
            assert found.degraded == (
                "Shard 1 of 2 is away, and its documents are left out: The retrieval role is not running."
            )
            assert found.passages
            assert {shard_of(passage.document_id, 2) for passage in found.passages} == {0}
            assert found.encoder == "exact"
        monkeypatch.setattr(parts[0], "survey_many", away)
        monkeypatch.setattr(parts[1], "survey_many", away)
        with pytest.raises(Unavailable, match="not running"):
            await search_many(parts, [Query("titan haze")], deadline=soon())


async def test_a_shard_that_says_nothing_is_not_waited_for_longer_than_it_is_worth(
    encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.01)
    async with running(FakePublishing(*library(encoder)), 2) as parts:
        cancelled = []

        async def silent(*_: Any, deadline: Deadline) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

        monkeypatch.setattr(parts[0], "survey_many", silent)
        monkeypatch.setattr(parts[0], "encode_many", silent)
        [found] = await search_many(parts, [Query("titan haze")], deadline=soon())
        assert isinstance(found, Found)
        assert "Shard 0 of 2 is away" in found.degraded
        assert cancelled
        monkeypatch.setattr(parts[1], "survey_many", silent)
        with pytest.raises(DeadlineExceeded):
            await search_many(parts, [Query("titan haze")], deadline=Deadline.after(0.05))


async def test_giving_up_a_search_gives_up_its_calls(encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(FakePublishing(*library(encoder)), 2) as parts:
        begun, ended = asyncio.Semaphore(0), []

        async def silent(*_: Any, deadline: Deadline) -> Any:
            begun.release()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(1)

        for part in parts:
            monkeypatch.setattr(part, "survey_many", silent)
        search = asyncio.create_task(search_many(parts, [Query("titan")], deadline=soon()))
        await begun.acquire()
        await begun.acquire()
        search.cancel()
        with pytest.raises(asyncio.CancelledError):
            await search
        await asyncio.sleep(0)
        assert len(ended) == 2


async def test_without_vectors_all_shards_go_by_words_and_say_so(encoder: FakeEncoder) -> None:
    encoder.down = Unavailable("The endpoint is away.")
    async with running(FakePublishing(*library(encoder)), 2) as parts:
        hybrid, dense = await search_many(parts, [Query("titan haze"), Query("titan", mode="dense")], deadline=soon())
    assert isinstance(hybrid, Found)
    assert hybrid.passages
    assert (hybrid.encoder, hybrid.partial) == (None, False)
    assert hybrid.degraded == "Passages were found by their words alone: The endpoint is away."
    assert isinstance(dense, Unavailable)


async def test_a_snapshot_is_of_one_shard(encoder: FakeEncoder, tmp_path: Any) -> None:
    database = FakePublishing(*library(encoder))
    settings = DEFAULTS.retrieval.model_copy(
        update={"writer_memory_mb": 15, "shards": 2, "snapshot_s": 0.001, "encoder": "exact"}
    )

    def role(number: int) -> Retriever:
        shard = Shard(number, 2)
        return Retriever(settings, DEFAULTS.encoder, database, folder=tmp_path, shard=shard)  # type: ignore[arg-type]

    found: list[list[Found | GatherumError]] = []
    filled = []
    for _ in range(2):
        pair = [role(0), role(1)]
        for retriever in pair:
            await retriever.start()
            await retriever.caught_up(len(database.log), deadline=soon())
        # Each of them saves when it has followed another change.
        change = await database.create(f"c{len(found)}")
        for retriever in pair:
            while (await retriever.health(deadline=soon())).detail["snapshot"] < change:  # noqa: ASYNC110
                await asyncio.sleep(0)
        found.append(await search_many(pair, QUERIES, deadline=soon()))
        filled.append(database.calls.count("published"))
        for retriever in pair:
            await retriever.stop()
    assert [shape(one) for one in found[0]] == [shape(one) for one in found[1]]
    # Nothing is read from the store again.
    assert filled[0] == filled[1] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shard-0-of-2", "shard-1-of-2"]


def test_the_pool_of_all_shards_knows_its_replicas() -> None:
    pool = Shards([pool_of(Retriever, (0, 1), shard=number) for number in range(2)])  # type: ignore[misc]
    again = pool.__reduce__()[0](*pool.__reduce__()[1])
    for each in (pool, again):
        assert names_of(each) == ("retrieval.0-0", "retrieval.0-1", "retrieval.1-0", "retrieval.1-1")
        assert shards_of(each) == (Shard(0, 2), Shard(0, 2), Shard(1, 2), Shard(1, 2))
    assert shards_of(pool_of(Retriever, (0, 1))) == (WHOLE, WHOLE)


def test_what_is_repeated_here_is_the_same_there() -> None:
    assert (CANDIDATES, SPARE) == (shelf.CANDIDATES, shelf.SPARE)
