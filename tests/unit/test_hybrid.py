"""The retrieval role with an encoder: which queries are encoded how, and what happens where one cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import FakeEncoder, FakePublishing, published
from structlog.testing import capture_logs

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Unavailable
from actors.messages import SERVING, Fitted, Found, PublishedDocument, Query
from actors.retrieval import Retriever
from actors.search import encoder as encoders
from actors.search import (
    models,
    shelf,  # noqa: F401 - loaded here, where reading files blocks nobody
)
from actors.search import queries as module
from config.settings import EncoderSettings, load

DEFAULTS = load(environ={})


def soon() -> Deadline:
    return Deadline.after(60)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr(encoders, "local", lambda settings, *, threads: fake)
    return fake


@asynccontextmanager
async def running(*documents: PublishedDocument, fast: Any = None, **settings: Any) -> AsyncIterator[Retriever]:
    update = {"writer_memory_mb": 15, **settings}
    retriever = Retriever(
        DEFAULTS.retrieval.model_copy(update=update),
        DEFAULTS.encoder,
        FakePublishing(*documents),  # type: ignore[arg-type]
    )
    await retriever.start()
    await retriever.caught_up(len(documents), deadline=soon())
    if fast is not None:
        queries = retriever._follower.built.queries
        assert queries is not None
        queries.use(fast)
    try:
        yield retriever
    finally:
        await retriever.stop()


def library(encoder: FakeEncoder) -> list[PublishedDocument]:
    return [
        published("d1", "Titan is covered with haze.", encoder=encoder, metadata={"year": 2005}),
        published("d2", "Knead the dough and heat the oven.", encoder=encoder, metadata={"year": 1999}),
        published("d3", "An aircraft in a stream of air.", encoder=encoder),
    ]


async def search(retriever: Retriever, *queries: Query) -> list[Found | GatherumError]:
    return await retriever.search_many(list(queries), deadline=soon())


async def only(retriever: Retriever, query: Query) -> Found:
    (found,) = await search(retriever, query)
    assert isinstance(found, Found), found
    return found


def best(found: Found | GatherumError) -> str:
    assert isinstance(found, Found), found
    return found.passages[0].document_id


async def test_what_shares_no_word_with_the_query_is_found_by_its_meaning(encoder: FakeEncoder) -> None:
    async with running(*library(encoder)) as retriever:
        found = await only(retriever, Query("satellite"))
        assert best(found) == "d1"
        assert found.encoder == "exact"
        assert found.degraded == ""
        assert found.passages[0].scores.keys() == {"dense"}
        by_words = await only(retriever, Query("satellite", mode="lexical"))
        assert by_words == Found()
    assert encoder.encoded == [["satellite"]]


async def test_health_says_what_queries_are_encoded_with(encoder: FakeEncoder) -> None:
    async with running(*library(encoder), fast=encoder.fast()) as retriever:
        detail = (await retriever.health(deadline=soon())).detail
    assert detail["encoder"] == "fake@1"
    assert detail["vectors"] == 3
    assert detail["fast_encoder"] == encoder.fast().version
    assert detail["encoding"] == 0


async def test_auto_is_exact_for_few_and_fast_for_many(encoder: FakeEncoder) -> None:
    async with running(*library(encoder), fast=encoder.fast(), exact_queue=2) as retriever:
        few = await search(retriever, Query("moon"), Query("bread"), Query("haze", mode="lexical"))
        many = await search(retriever, Query("moon"), Query("bread"), Query("wing"))
    assert [found.encoder for found in few if isinstance(found, Found)] == ["exact", "exact", None]
    assert [found.encoder for found in many if isinstance(found, Found)] == ["fast", "fast", "fast"]
    assert [best(found) for found in many] == ["d1", "d2", "d3"]
    assert encoder.encoded == [["moon", "bread"]]


async def test_auto_is_fast_while_the_encoder_is_busy(encoder: FakeEncoder) -> None:
    async with running(*library(encoder), fast=encoder.fast(), exact_queue=1) as retriever:
        encoder.gate = asyncio.Event()
        first = asyncio.create_task(only(retriever, Query("moon")))
        await asyncio.sleep(0)
        assert (await only(retriever, Query("wing"))).encoder == "fast"
        encoder.gate.set()
        assert (await first).encoder == "exact"
        assert (await only(retriever, Query("wing"))).encoder == "exact"


async def test_auto_is_fast_once_the_encoder_has_taken_its_share(encoder: FakeEncoder) -> None:
    async with running(*library(encoder), fast=encoder.fast()) as retriever:
        assert (await only(retriever, Query("moon"))).encoder == "exact"
        queries = retriever._follower.built.queries
        assert queries
        queries._exact_time.spend(1e6)
        assert (await only(retriever, Query("wing"))).encoder == "fast"
        assert (await only(retriever, Query("wing", encoder="exact"))).encoder == "exact"


async def test_a_query_may_choose_its_encoder(encoder: FakeEncoder) -> None:
    async with running(*library(encoder), fast=encoder.fast(), encoder="fast") as retriever:
        found = await search(retriever, Query("moon"), Query("moon", encoder="exact"), Query("moon", encoder="auto"))
    assert [one.encoder for one in found if isinstance(one, Found)] == ["fast", "exact", "exact"]


async def test_without_a_fast_encoder_all_are_exact(encoder: FakeEncoder) -> None:
    async with running(*library(encoder), encoder="fast", exact_queue=1) as retriever:
        found = await search(retriever, *(Query("moon") for _ in range(3)))
    assert [one.encoder for one in found if isinstance(one, Found)] == ["exact"] * 3


async def test_an_encoder_that_fails_leaves_the_words_and_says_so(encoder: FakeEncoder) -> None:
    encoder.down = Unavailable("The endpoint is away.")
    async with running(*library(encoder)) as retriever:
        hybrid, dense = await search(retriever, Query("haze"), Query("haze", mode="dense"))
        assert isinstance(hybrid, Found)
        assert best(hybrid) == "d1"
        assert hybrid.encoder is None
        assert hybrid.degraded == "Passages were found by their words alone: The endpoint is away."
        assert isinstance(dense, Unavailable)


async def test_an_encoder_that_fails_gives_way_to_the_fast_one(encoder: FakeEncoder) -> None:
    encoder.down = Unavailable("The endpoint is away.")
    async with running(*library(encoder), fast=encoder.fast()) as retriever:
        found = await only(retriever, Query("moon"))
    assert (found.encoder, best(found)) == ("fast", "d1")
    assert found.degraded == "The vector of the question is only approximate: The endpoint is away."


async def test_health_tells_that_the_encoder_is_away(encoder: FakeEncoder) -> None:
    async with running(*library(encoder)) as retriever:
        encoder.trouble = "The endpoint is away."
        assert (await retriever.health(deadline=soon())).detail["trouble"] == {"vectors": "The endpoint is away."}
        encoder.trouble = ""
        assert (await retriever.health(deadline=soon())).detail["trouble"] == {}


# --- another encoder ---


class TwoEncoders:
    """An encoder that serves and one that takes its place; the settings tell them apart by their path."""

    def __init__(self) -> None:
        self.old, self.new = FakeEncoder(), FakeEncoder()
        self.new.identity = "fake@2"
        self.gone: set[str] = set()

    def settings(self, path: str) -> EncoderSettings:
        return DEFAULTS.encoder.model_copy(update={"kind": "folder", "path": path})

    def serving(self, path: str) -> Fitted:
        content = self.settings(path).model_dump_json().encode()
        return Fitted(SERVING, {"/old": "fake@1", "/new": "fake@2"}[path], 0, content)

    def local(self, settings: EncoderSettings, *, threads: int) -> FakeEncoder:
        if settings.path in self.gone:
            raise Unavailable("The folder is gone.")
        if settings.sha256:
            raise Unavailable("It has another hash.")
        return {"/old": self.old, "/new": self.new}[settings.path]

    def identity(self, settings: EncoderSettings) -> str:
        return self.local(settings, threads=1).identity


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> TwoEncoders:
    both = TwoEncoders()
    monkeypatch.setattr(encoders, "local", both.local)
    monkeypatch.setattr(models, "identity", both.identity)
    return both


@asynccontextmanager
async def following(database: FakePublishing, encoder: EncoderSettings) -> AsyncIterator[Retriever]:
    settings = DEFAULTS.retrieval.model_copy(update={"writer_memory_mb": 15})
    retriever = Retriever(settings, encoder, database)  # type: ignore[arg-type]
    await retriever.start()
    try:
        yield retriever
    finally:
        await retriever.stop()


async def test_the_encoder_before_serves_until_the_store_says_otherwise(two: TwoEncoders) -> None:
    database = FakePublishing(*library(two.old))
    await database.keep(two.serving("/old"))
    async with following(database, two.settings("/new")) as retriever:
        assert best(await only(retriever, Query("satellite"))) == "d1"
        assert (two.old.encoded, two.new.encoded) == ([["satellite"]], [])
        # All are embedded anew; the one before is asked all the while.
        for document in library(two.new):
            database.documents[document.document_id] = document
        before = retriever._follower.built
        await retriever.caught_up(await database.keep(two.serving("/new")), deadline=soon())
        while retriever._follower.built is before:
            assert best(await only(retriever, Query("satellite"))) == "d1"
            await database.publish(published("d4", "The oven.", encoder=two.new))
            await retriever.caught_up(len(database.log), deadline=soon())
        two.old.encoded.clear()
        assert best(await only(retriever, Query("satellite"))) == "d1"
        assert (two.old.encoded, two.new.encoded) == ([], [["satellite"]])
        assert best(await only(retriever, Query("bread oven", mode="dense"))) in {"d2", "d4"}
        detail = (await retriever.health(deadline=soon())).detail
        assert (detail["encoder"], detail["vectors"], detail["trouble"]) == ("fake@2", 4, {})


async def test_an_encoder_before_that_is_gone_leaves_the_words_and_says_so(two: TwoEncoders) -> None:
    database = FakePublishing(*library(two.old))
    await database.keep(two.serving("/old"))
    two.gone.add("/old")
    async with following(database, two.settings("/new")) as retriever:
        found = await only(retriever, Query("haze"))
        assert best(found) == "d1"
        assert found.degraded == "Passages were found by their words alone: The folder is gone."
        assert "gone" in (await retriever.health(deadline=soon())).detail["trouble"]["vectors"]
        for document in library(two.new):
            database.documents[document.document_id] = document
        await retriever.caught_up(await database.keep(two.serving("/new")), deadline=soon())
        while retriever._follower.built.queries is None:
            await retriever.caught_up(await database.create("more"), deadline=soon())
        assert best(await only(retriever, Query("satellite"))) == "d1"
        assert (await retriever.health(deadline=soon())).detail["trouble"] == {}


async def test_a_hash_that_is_asked_for_later_holds_all_the_same(two: TwoEncoders) -> None:
    database = FakePublishing(*library(two.old))
    await database.keep(two.serving("/old"))
    held = two.settings("/old").model_copy(update={"sha256": "0" * 64})
    async with following(database, held) as retriever:
        found = await only(retriever, Query("haze"))
        assert (best(found), found.encoder) == ("d1", None)
        assert found.degraded == "Passages were found by their words alone: It has another hash."


async def test_what_has_taken_the_place_of_an_encoder_does_not_pass_for_it(two: TwoEncoders) -> None:
    database = FakePublishing(*library(two.old))
    await database.keep(two.serving("/old"))
    two.old.identity = "fake@3"
    async with following(database, two.settings("/old")) as retriever:
        found = await only(retriever, Query("haze"))
        assert "fake@1, which made the vectors, is no longer there, but fake@3" in found.degraded


async def test_an_encoder_that_serves_and_cannot_be_loaded_leaves_the_one_before(two: TwoEncoders) -> None:
    database = FakePublishing(*library(two.old))
    await database.keep(two.serving("/old"))
    async with following(database, two.settings("/old")) as retriever:
        assert best(await only(retriever, Query("satellite"))) == "d1"
        two.gone.add("/new")
        await retriever.caught_up(await database.keep(two.serving("/new")), deadline=soon())
        assert best(await only(retriever, Query("satellite"))) == "d1"
        assert (await retriever.health(deadline=soon())).detail["trouble"] == {"vectors": "The folder is gone."}


async def test_taking_up_vectors_waits_out_the_database(two: TwoEncoders, monkeypatch: pytest.MonkeyPatch) -> None:
    database = FakePublishing(*library(two.old))
    await database.keep(two.serving("/old"))
    asked = database.vectors_of
    failures = [Unavailable("The store is away."), ValueError("a defect")]

    async def failing(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return await asked(*args, **kwargs)

    monkeypatch.setattr(database, "vectors_of", failing)
    settings = DEFAULTS.retrieval.model_copy(update={"writer_memory_mb": 15})
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    retriever = Retriever(settings, two.settings("/old"), database, sleep=sleep)  # type: ignore[arg-type]
    await retriever.start()
    assert best(await only(retriever, Query("satellite"))) == "d1"
    for document in library(two.new):
        database.documents[document.document_id] = document
    before = retriever._follower.built
    with capture_logs() as lines:
        await retriever.caught_up(await database.keep(two.serving("/new")), deadline=soon())
        while retriever._follower.built is before:
            await retriever.caught_up(await database.create("more"), deadline=soon())
    assert best(await only(retriever, Query("satellite"))) == "d1"
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["encoder_not_taken"]
    assert (failures, len(pauses)) == ([], 1)
    await retriever.stop()


async def test_an_encoder_that_takes_too_long_costs_the_query_its_time(encoder: FakeEncoder) -> None:
    async with running(*library(encoder)) as retriever:
        encoder.down = DeadlineExceeded("Encoding did not finish in time.")
        with pytest.raises(DeadlineExceeded):
            await retriever.search_many([Query("moon")], deadline=Deadline.after(-1))


async def test_queries_that_wait_for_the_encoder_are_bounded(
    encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1)
    async with running(*library(encoder)) as retriever:
        encoder.gate = asyncio.Event()
        first = asyncio.create_task(only(retriever, Query("moon")))
        await asyncio.sleep(0)
        second = await only(retriever, Query("haze"))
        assert second.encoder is None
        assert "wait for the encoder" in second.degraded
        encoder.gate.set()
        assert (await first).encoder == "exact"


async def test_an_encoder_that_cannot_be_loaded_leaves_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(settings: Any, *, threads: int) -> Any:
        raise Unavailable("The file of the encoder is not the expected one.")

    monkeypatch.setattr(encoders, "local", refuse)
    with capture_logs() as lines:
        async with running(published("d1", "Titan is covered with haze.", encoder=FakeEncoder())) as retriever:
            hybrid, lexical, dense = await search(
                retriever, Query("haze"), Query("haze", mode="lexical"), Query("haze", mode="dense")
            )
            health = await retriever.health(deadline=soon())
    assert isinstance(hybrid, Found)
    assert best(hybrid) == "d1"
    assert "not the expected one" in hybrid.degraded
    assert isinstance(lexical, Found)
    assert lexical.degraded == ""
    assert isinstance(dense, Unavailable)
    assert health.ready
    assert "not the expected one" in health.detail["trouble"]["vectors"]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["no_encoder"]


@pytest.mark.parametrize("mode", ["hybrid", "lexical", "dense"])
async def test_filters_hold_in_every_mode(encoder: FakeEncoder, mode: Any) -> None:
    async with running(*library(encoder)) as retriever:
        old, none, wrong = await search(
            retriever,
            Query("moon dough", mode=mode, filters={"year": {"$lt": 2000}}),
            Query("moon dough", mode=mode, filters={"year": 1066}),
            Query("moon dough", mode=mode, filters={"yeer": 1999}),
        )
    assert isinstance(old, Found)
    assert {passage.document_id for passage in old.passages} == {"d2"}
    assert isinstance(none, Found)
    assert none.passages == ()
    assert isinstance(wrong, InvalidInput)


async def test_a_filter_without_sense_costs_only_its_own_query(encoder: FakeEncoder) -> None:
    async with running(*library(encoder)) as retriever:
        wrong, right = await search(retriever, Query("moon", filters={"$not": 1}), Query("wing"))
    assert isinstance(wrong, InvalidInput)
    assert best(right) == "d3"


async def test_vectors_of_another_encoder_are_not_mixed_in(encoder: FakeEncoder) -> None:
    other = FakeEncoder()
    other.identity = "fake@2"
    async with running(published("d1", "Titan is covered with haze.", encoder=other)) as retriever:
        assert (await only(retriever, Query("satellite"))).passages == ()
        assert best(await only(retriever, Query("haze"))) == "d1"


async def test_the_language_of_a_collection_decides_its_stems() -> None:
    words = DEFAULTS.encoder.model_copy(update={"kind": "none"})
    settings = DEFAULTS.retrieval.model_copy(update={"writer_memory_mb": 15, "languages": ("de=german",)})
    database = FakePublishing(
        published("d1", "Die Häuser am Fluss.", collection="de"), published("d2", "The houses stand.", collection="en")
    )
    retriever = Retriever(settings, words, database)  # type: ignore[arg-type]
    await retriever.start()
    found = await search(retriever, Query("Haus", ("de",)), Query("house", ("en",)))
    assert [best(one) for one in found] == ["d1", "d2"]
    await retriever.stop()


async def test_a_fast_encoder_is_taken_as_soon_as_there_is_one(encoder: FakeEncoder) -> None:
    documents = library(encoder)
    database = FakePublishing(*documents)
    settings = DEFAULTS.retrieval.model_copy(update={"writer_memory_mb": 15, "encoder": "fast"})
    retriever = Retriever(settings, DEFAULTS.encoder, database)  # type: ignore[arg-type]
    await retriever.start()
    assert (await only(retriever, Query("moon"))).encoder == "exact"
    with capture_logs() as lines:
        broken = Fitted("fast:fake@1", "0", 3, b"no encoder")
        await retriever.caught_up(await database.keep(broken), deadline=soon())
        assert (await only(retriever, Query("moon"))).encoder == "exact"
        made = encoder.fast()
        kept = Fitted("fast:fake@1", made.version, 3, made.to_bytes())
        await retriever.caught_up(await database.keep(kept), deadline=soon())
        found = await only(retriever, Query("moon"))
    assert (found.encoder, best(found)) == ("fast", "d1")
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["fast_encoder_refused"]
    await retriever.stop()
    other = Retriever(settings, DEFAULTS.encoder, database)  # type: ignore[arg-type]
    await other.start()
    assert (await only(other, Query("moon"))).encoder == "fast"
    await other.stop()
