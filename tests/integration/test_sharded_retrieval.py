"""Shards as real actors over a real store: two of them beside one index, over the same documents."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fakes import page_reading
from stores import open_database, publish, soon

from actors.cluster import Roles, create_roles, health, stop_roles, wait_for_roles
from actors.errors import GatherumError
from actors.messages import Answer, Found, Health, Query, Question
from actors.pool import names_of, on_each
from actors.retrieval import Retriever
from actors.search.placement import shard_of
from config.settings import Settings, load
from serve.checkup import examine
from serve.deletion import delete_documents

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_node")]

WORDS = ("titan", "moon", "dough", "oven", "wing", "flow", "haze", "icy", "lander", "crust")
DOCUMENTS = 24
QUERIES = [
    Query("titan haze"),
    Query("icy crust of a moon", limit=3),
    Query("wing flow", ("even",)),
    Query("dough", mode="lexical", limit=50),
    Query("la* cr*"),
    Query('"moon titan" haze'),
    Query("moon", filters={"number": {"$lt": 12}}),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    chosen = {"encoder.kind": "none", "entities.read_questions": 0, "retrieval.writer_memory_mb": 15}
    return load({"data_dir": str(tmp_path), "retrieval.shards": 2, **chosen}, environ={})


@pytest.fixture
async def documents(tmp_path: Path) -> list[str]:
    """Published documents of two pages, each with an order of words of its own."""
    made = []
    async with open_database(tmp_path) as database:
        for number in range(DOCUMENTS):
            words = [
                [WORDS[(number * (at + 1) + 3 * at + page) % len(WORDS)] for at in range(4 + number % 7)]
                for page in (1, 2)
            ]
            readings = [
                page_reading(page, f"{' '.join(words[page - 1])} n{number} p{page}", names=()) for page in (1, 2)
            ]
            accepted, _ = await publish(
                database,
                tmp_path,
                readings,
                f"%PDF-1.7 {number}".encode(),
                collection=("even", "odd")[number % 2],
                metadata={"number": number},
            )
            made.append(accepted.document_id)
    return made


@pytest.fixture
async def roles(settings: Settings, documents: list[str]) -> AsyncIterator[Roles]:
    """A system with two shards; afterwards nothing of it runs."""
    assert len(documents) == DOCUMENTS
    try:
        await asyncio.to_thread(lambda: wait_for_roles(create_roles(settings)))
        yield Roles.running()
    finally:
        await asyncio.to_thread(stop_roles)


@pytest.fixture
async def whole(settings: Settings, documents: list[str], tmp_path: Path) -> AsyncIterator[Retriever]:
    """One index of everything, in this process."""
    async with open_database(tmp_path) as database:
        retriever = Retriever(settings.retrieval, settings.encoder, database)
        await retriever.start()
        yield retriever
        await retriever.stop()


def shape(found: Found | GatherumError) -> list[Any]:
    assert isinstance(found, Found), found
    assert not found.partial
    return [(hit.document_id, hit.page, hit.text, pytest.approx(hit.score, rel=1e-4)) for hit in found.passages]


async def test_two_shards_are_as_good_as_one_and_one_is_better_than_none(
    roles: Roles, whole: Retriever, documents: list[str]
) -> None:
    assert names_of(roles.retrieval) == ("retrieval.0-0", "retrieval.1-0")
    held = await on_each(roles.retrieval, lambda replica: replica.contents("", 1000, deadline=soon()))
    for number, pairs in enumerate(held):
        assert not isinstance(pairs, GatherumError)
        assert [name for name, _ in pairs] == [name for name in sorted(documents) if shard_of(name, 2) == number]

    one = await whole.search_many(QUERIES, deadline=soon())
    several = await roles.retrieval.search_many(QUERIES, deadline=soon())
    for query, expected, found in zip(QUERIES, one, several, strict=True):
        assert shape(expected), query
        assert shape(found) == shape(expected), query

    # What is deleted is gone from the shard that had it, and the checkup finds every document where it belongs.
    deleted = await delete_documents(roles, [documents[0]], deadline=soon())
    gone = {f"retrieval.{number}-0": 2 * (shard_of(documents[0], 2) == number) for number in range(2)}
    assert {name: deleted.indexes[name] for name in gone} == gone
    assert (await examine(roles, deep=False, repair=False)).findings == []

    # One of them stands still: the answer comes, without its documents, and says so.
    states = await health(roles, deadline=soon())
    stopped = states["retrieval.1-0"]
    assert isinstance(stopped, Health)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        [found] = await roles.retrieval.search_many([Query("moon", limit=50)], deadline=soon())
        [answer] = await roles.orchestrator.ask_many([Question("r", "Which moon?", soon())], deadline=soon())
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert isinstance(found, Found)
    assert found.partial
    assert found.passages
    assert {shard_of(passage.document_id, 2) for passage in found.passages} == {0}
    assert isinstance(answer, Answer)
    assert answer.partial
    assert "Shard 1 of 2 is away" in " ".join(answer.degraded)

    [again] = await roles.retrieval.search_many([Query("moon", limit=50)], deadline=soon())
    assert {shard_of(passage.document_id, 2) for passage in found.passages} == {0}
    assert shape(again)
    assert isinstance(again, Found)
    assert {shard_of(passage.document_id, 2) for passage in again.passages} == {0, 1}
