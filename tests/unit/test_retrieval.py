"""The retrieval role: filling, following, outages, and what a batch of queries gets back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import FakePublishing, published
from structlog.testing import capture_logs

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded, Unavailable, UnknownCollection
from actors.follower import FILL_DOCUMENTS
from actors.messages import Found, Passage, Query
from actors.retrieval import WAITING_BATCHES, Retriever
from actors.search import shelf  # noqa: F401 - loaded here, where reading files blocks nobody
from config.settings import EncoderSettings, load

DEFAULTS = load(environ={})
SETTINGS = DEFAULTS.retrieval.model_copy(update={"writer_memory_mb": 15})
WORDS_ALONE = DEFAULTS.encoder.model_copy(update={"kind": "none"})
SOON = Deadline.after(7200)  # from import on: longer than any run of the tests
PAST = Deadline(0.0)


class Pauses:
    """Stands in for sleeping: notes each pause, and lets it end when told."""

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self.begun = asyncio.Semaphore(0)
        self.end = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.lengths.append(seconds)
        self.begun.release()
        await self.end.acquire()


def role(
    database: Any,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    *,
    encoder: EncoderSettings = WORDS_ALONE,
    **settings: Any,
) -> Retriever:
    return Retriever(SETTINGS.model_copy(update=settings), encoder, database, sleep=sleep)


@asynccontextmanager
async def running(
    database: Any,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    *,
    encoder: EncoderSettings = WORDS_ALONE,
    **settings: Any,
) -> AsyncIterator[Retriever]:
    retriever = role(database, sleep, encoder=encoder, **settings)
    await retriever.start()
    try:
        yield retriever
    finally:
        await retriever.stop()


async def find(retriever: Retriever, text: str, *collections: str) -> list[str]:
    [found] = await retriever.search_many([Query(text, collections)], deadline=SOON)
    return names(found)


def names(found: Found | GatherumError) -> list[str]:
    assert isinstance(found, Found), found
    return [passage.document_id for passage in found.passages]


async def test_fills_from_what_is_published_over_several_pages() -> None:
    many = [published(f"d{number:03}", f"Moon number{number} is icy.") for number in range(FILL_DOCUMENTS + 3)]
    database = FakePublishing(*many)
    async with running(database) as retriever:
        for number in (0, FILL_DOCUMENTS - 1, FILL_DOCUMENTS, FILL_DOCUMENTS + 2):
            assert await find(retriever, f"number{number}") == [f"d{number:03}"]
        health = await retriever.health(deadline=SOON)
    assert health.ready
    assert health.detail == {
        "change": len(many),
        "chunks": len(many),
        "documents": len(many),
        "collections": 1,
        "outage": None,
        "behind_s": 0.0,
        "snapshot": 0,
        "encoder": "",
        "trouble": {},
    }


async def test_a_passage_is_whole() -> None:
    database = FakePublishing(published("d1", "First page.", "Huygens landed on Titan.", title="Moons", page=4))
    async with running(database) as retriever:
        [found] = await retriever.search_many([Query("landing")], deadline=SOON)
    assert isinstance(found, Found)
    [passage] = found.passages
    chunk = database.documents["d1"].chunks[1]
    assert passage == Passage(
        "d1", "Moons", "default", 5, 0, len(chunk.text), chunk.text, chunk.words, 1.0, passage.scores
    )
    assert list(passage.scores) == ["lexical"]
    assert passage.boxes == chunk.words.boxes(0, len(chunk.text))


async def test_each_query_of_a_batch_gets_its_own_result() -> None:
    database = FakePublishing(
        published("d1", "Titan is icy.", collection="moons"), published("d2", "Mars is red.", collection="planets")
    )
    async with running(database) as retriever:
        titan, unknown, nothing, dense, limit, both = await retriever.search_many(
            [
                Query("icy", ("moons",)),
                Query("icy", ("moons", "comets")),
                Query("icy", ("planets",)),
                Query("icy", mode="dense"),
                Query("icy", limit=0),
                Query("icy red", limit=1),
            ],
            deadline=SOON,
        )
    assert names(titan) == ["d1"]
    assert isinstance(unknown, UnknownCollection)
    assert "'comets'" in unknown.detail
    assert nothing == Found()
    assert isinstance(dense, InvalidInput)
    assert isinstance(limit, InvalidInput)
    assert len(names(both)) == 1


async def test_follows_publications_and_deletions() -> None:
    database = FakePublishing(published("d1", "Titan is icy."))
    async with running(database) as retriever:
        assert await find(retriever, "icy") == ["d1"]
        change = await database.publish(published("d2", "Europa is icy.", "Europa is bright."))
        await retriever.caught_up(change, deadline=SOON)
        assert set(await find(retriever, "icy")) == {"d1", "d2"}
        assert await retriever.chunks_of(["d2"], deadline=SOON) == 2
        change = await database.delete("d1")
        await retriever.caught_up(change, deadline=SOON)
        assert await find(retriever, "icy") == ["d2"]
        assert await retriever.chunks_of(["d1"], deadline=SOON) == 0


async def test_publishing_again_replaces() -> None:
    database = FakePublishing(published("d1", "Titan is icy.", "Titan is far."))
    async with running(database) as retriever:
        assert await find(retriever, "Titan") == ["d1", "d1"]
        change = await database.publish(published("d1", "Titan is orange."))
        await retriever.caught_up(change, deadline=SOON)
        assert await find(retriever, "Titan") == ["d1"]
        assert await find(retriever, "icy far") == []
        # Nothing of the old one is left to take a place among the hits.
        assert (await retriever.health(deadline=SOON)).detail["chunks"] == 1


async def test_many_changes_of_a_document_at_once_come_to_the_last() -> None:
    database = FakePublishing()
    async with running(database) as retriever:
        assert await find(retriever, "icy") == []
        await database.publish(published("d1", "Titan is icy."), published("d2", "Rhea is icy."))
        change = await database.delete("d2")
        await retriever.caught_up(change, deadline=SOON)
        assert await find(retriever, "icy") == ["d1"]


async def test_a_change_during_the_filling_is_not_missed() -> None:
    database = FakePublishing(published("d1", "Titan is icy."), published("d5", "Rhea is icy."))
    original = database.published
    done = False

    async def meddle(after: str | None, limit: int, *, deadline: Deadline, **others: Any) -> Any:
        nonlocal done
        page = await original(after, limit, deadline=deadline)
        if not done:
            done = True
            # Behind the page that was just read, and in it.
            await database.publish(published("d0", "Europa is icy."))
            await database.delete("d5")
        return page

    database.published = meddle  # type: ignore[method-assign]
    async with running(database) as retriever:
        await retriever.caught_up(4, deadline=SOON)
        assert sorted(await find(retriever, "icy")) == ["d0", "d1"]


async def test_a_collection_is_known_by_its_change_or_by_asking() -> None:
    database = FakePublishing()
    async with running(database) as retriever:
        change = await database.create("empty")
        await retriever.caught_up(change, deadline=SOON)
        asked = database.calls.count("collections")
        assert await find(retriever, "icy", "empty") == []
        assert database.calls.count("collections") == asked
        database.names.add("new")
        assert await find(retriever, "icy", "new") == []
        assert database.calls.count("collections") == asked + 1


async def test_a_collection_that_cannot_be_checked_is_not_called_unknown() -> None:
    database = FakePublishing(published("d1", "Titan is icy."))
    async with running(database) as retriever:
        assert await find(retriever, "icy") == ["d1"]
        database.down = Unavailable("The store is away.")
        known, unknown = await retriever.search_many([Query("icy"), Query("icy", ("new",))], deadline=SOON)
    assert names(known) == ["d1"]
    assert isinstance(unknown, Unavailable)


async def test_calls_wait_for_the_filling_but_not_beyond_their_deadline() -> None:
    retriever = role(FakePublishing(published("d1", "Titan is icy.")))
    with pytest.raises(Unavailable):
        await retriever.search_many([Query("icy")], deadline=PAST)
    assert not (await retriever.health(deadline=SOON)).ready
    waiting = asyncio.create_task(find(retriever, "icy"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await retriever.start()
    assert await waiting == ["d1"]
    await retriever.stop()
    assert not (await retriever.health(deadline=SOON)).ready


async def test_caught_up_ends_with_its_deadline() -> None:
    async with running(FakePublishing()) as retriever:
        await retriever.caught_up(0, deadline=SOON)
        with pytest.raises(DeadlineExceeded):
            await retriever.caught_up(1, deadline=Deadline.after(0.001))


async def test_survives_an_outage_while_filling_and_while_following() -> None:
    database = FakePublishing(published("d1", "Titan is icy."))
    database.down = Unavailable("The store is away.")
    pauses = Pauses()
    with capture_logs() as lines:
        async with running(database, pauses) as retriever:
            await pauses.begun.acquire()
            database.down = None
            pauses.end.release()
            assert await find(retriever, "icy") == ["d1"]

            await database.fail(Unavailable("The store is away."))
            for _ in range(8):
                await pauses.begun.acquire()
                pauses.end.release()
            assert (await retriever.health(deadline=SOON)).detail["outage"] == "The store is away."
            assert await find(retriever, "icy") == ["d1"]
            await database.fail(None)
            change = await database.publish(published("d2", "Rhea is icy."))
            for _ in range(3):
                pauses.end.release()
            await retriever.caught_up(change, deadline=SOON)
            assert set(await find(retriever, "icy")) == {"d1", "d2"}
            assert (await retriever.health(deadline=SOON)).detail["outage"] is None
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [line["event"] for line in warnings] == ["index_cannot_follow"] * 2
    assert all(0 <= length <= 5 for length in pauses.lengths)


async def test_a_fault_of_its_own_does_not_stop_it_following() -> None:
    database = FakePublishing()
    pauses = Pauses()
    async with running(database, pauses) as retriever:
        assert await find(retriever, "icy") == []
        broken = published("d1", "Titan is icy.", "Rhea is icy.")
        object.__setattr__(broken.chunks[1], "text", None)
        change = await database.publish(broken)
        with capture_logs() as lines:
            await pauses.begun.acquire()
            database.documents["d1"] = published("d1", "Titan is icy.", "Rhea is icy.")
            pauses.end.release()
            await retriever.caught_up(change, deadline=SOON)
        assert [line["event"] for line in lines if line["log_level"] == "info"] == ["index_follows_again"]
        assert await find(retriever, "icy") == ["d1", "d1"]


async def test_searches_run_beside_the_loop_and_waiting_ones_are_bounded() -> None:
    async with running(FakePublishing(published("d1", "Titan is icy."))) as retriever:
        assert await find(retriever, "icy") == ["d1"]
        gate = threading.Event()
        busy = asyncio.get_running_loop().run_in_executor(retriever._searching, gate.wait)
        waiting = [asyncio.create_task(find(retriever, "icy")) for _ in range(WAITING_BATCHES)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await retriever.search_many([Query("icy")], deadline=SOON)
        gate.set()
        await busy
        assert await asyncio.gather(*waiting) == [["d1"]] * WAITING_BATCHES
        assert await find(retriever, "icy") == ["d1"]


async def test_a_search_that_waited_too_long_is_not_run() -> None:
    async with running(FakePublishing(published("d1", "Titan is icy."))) as retriever:
        assert await find(retriever, "icy") == ["d1"]
        with pytest.raises(DeadlineExceeded):
            await retriever.search_many([Query("icy")], deadline=PAST)
        with pytest.raises(DeadlineExceeded, match="No time was left"):
            retriever._search(retriever._follower.built, [Query("icy")], None, PAST)
