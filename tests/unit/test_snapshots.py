"""Snapshots of a replica: it goes on from one, and what is damaged or foreign is built from the store."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEncoder, FakePublishing, published
from structlog.testing import capture_logs

from actors.deadline import Deadline
from actors.errors import Unavailable
from actors.follower import CHANGES
from actors.messages import Found, Query
from actors.retrieval import Retriever
from actors.search import encoder as encoders
from actors.search import queries, shelf, snapshots  # noqa: F401 - loaded here, where reading files blocks nobody
from actors.search.dense import CorruptSnapshot
from config.settings import load

DEFAULTS = load(environ={})


def soon() -> Deadline:
    return Deadline.after(60)


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr(encoders, "local", lambda settings, *, threads: fake)
    return fake


@pytest.fixture
def database(encoder: FakeEncoder) -> FakePublishing:
    return FakePublishing(
        published("d1", "Titan is covered with haze.", encoder=encoder, metadata={"year": 2005}),
        published("d2", "Knead the dough.", "Heat the oven.", encoder=encoder, collection="kitchen"),
    )


@asynccontextmanager
async def running(database: FakePublishing, folder: Path, **options: Any) -> AsyncIterator[Retriever]:
    settings = DEFAULTS.retrieval.model_copy(
        update={"writer_memory_mb": 15, "snapshot_s": 1e-9, **options.pop("settings", {})}
    )
    retriever = Retriever(settings, DEFAULTS.encoder, database, folder=folder, **options)  # type: ignore[arg-type]
    await retriever.start()
    await retriever.caught_up(len(database.log), deadline=soon())
    try:
        yield retriever
    finally:
        await retriever.stop()


async def found(retriever: Retriever, text: str, *collections: str, **options: Any) -> list[str]:
    (result,) = await retriever.search_many([Query(text, collections, **options)], deadline=soon())
    assert isinstance(result, Found), result
    return [passage.document_id for passage in result.passages if passage.score > 0]


async def saved(database: FakePublishing, folder: Path) -> None:
    """Run a replica until it has written a snapshot."""
    async with running(database, folder):
        await database.create("news")
        while not (folder / "0" / "snapshot").exists():
            await _no_pause(0)


async def detail(retriever: Retriever) -> dict[str, Any]:
    return (await retriever.health(deadline=soon())).detail


async def test_a_replica_goes_on_from_its_snapshot(
    database: FakePublishing, encoder: FakeEncoder, tmp_path: Path
) -> None:
    await saved(database, tmp_path)
    database.calls.clear()
    async with running(database, tmp_path) as retriever:
        assert "published" not in database.calls
        assert await found(retriever, "haze") == ["d1"]
        assert await found(retriever, "satellite", mode="dense") == ["d1"]
        assert set(await found(retriever, "bread", "kitchen")) == {"d2"}
        assert await found(retriever, "haze dough", filters={"year": 2005}) == ["d1"]
        change = await database.publish(published("d1", "The wing bends.", encoder=encoder))
        await database.delete("d2")
        await retriever.caught_up(change + 1, deadline=soon())
        assert await found(retriever, "haze dough oven") == []
        assert await found(retriever, "aircraft") == ["d1"]
        assert (await detail(retriever))["chunks"] == (await detail(retriever))["vectors"] == 1


async def test_what_happened_while_a_replica_was_away_is_followed(database: FakePublishing, tmp_path: Path) -> None:
    await saved(database, tmp_path)
    await database.delete("d2")
    async with running(database, tmp_path) as retriever:
        assert await found(retriever, "dough haze") == ["d1"]


async def test_damage_to_any_file_has_the_index_built_anew_with_a_warning(
    database: FakePublishing, tmp_path: Path
) -> None:
    await saved(database, tmp_path)
    snapshot = tmp_path / "0" / "snapshot"
    whole = snapshot.rename(tmp_path / "whole")
    names = sorted(file.relative_to(whole) for file in whole.rglob("*") if file.is_file())
    assert len(names) > 8
    for name in names:
        shutil.rmtree(snapshot, ignore_errors=True)
        shutil.copytree(whole, snapshot)
        content = bytearray((snapshot / name).read_bytes())
        content[len(content) // 2] ^= 255
        (snapshot / name).write_bytes(content)
        database.calls.clear()
        with capture_logs() as lines:
            async with running(database, tmp_path) as retriever:
                assert "published" in database.calls, name
                assert await found(retriever, "haze") == ["d1"]
                assert await found(retriever, "satellite", mode="dense") == ["d1"]
        assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["snapshot_discarded"], name


@pytest.mark.parametrize("lost", [0, 1])
async def test_a_snapshot_of_another_store_is_discarded(database: FakePublishing, tmp_path: Path, lost: int) -> None:
    await saved(database, tmp_path)
    other = FakePublishing(published("x1", "Europa is icy."))
    while len(other.log) < len(database.log) - lost:
        await other.create("filler")
    with capture_logs() as lines:
        async with running(other, tmp_path) as retriever:
            assert await found(retriever, "haze icy") == ["x1"]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["snapshot_discarded"]


async def test_a_snapshot_of_another_encoder_is_discarded(
    database: FakePublishing, encoder: FakeEncoder, tmp_path: Path
) -> None:
    await saved(database, tmp_path)
    encoder.identity = "fake@2"
    with capture_logs() as lines:
        async with running(database, tmp_path) as retriever:
            assert await found(retriever, "haze") == ["d1"]
    assert "snapshot_discarded" in [line["event"] for line in lines]


async def test_replicas_on_one_machine_have_places_of_their_own(database: FakePublishing, tmp_path: Path) -> None:
    async with running(database, tmp_path) as one, running(database, tmp_path) as other:
        assert await found(one, "haze") == await found(other, "haze") == ["d1"]
        assert sorted(place.name for place in tmp_path.iterdir()) == ["0", "1"]
    async with running(database, tmp_path):
        assert sorted(place.name for place in tmp_path.iterdir()) == ["0", "1"]


async def test_a_disk_that_cannot_be_written_costs_only_the_snapshots(database: FakePublishing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with capture_logs() as lines:
        async with running(database, tmp_path / "file") as retriever:
            assert await found(retriever, "haze") == ["d1"]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["no_snapshots"]


async def test_a_replica_that_falls_behind_is_not_ready(database: FakePublishing, tmp_path: Path) -> None:
    now = 100.0
    async with running(database, tmp_path, clock=lambda: now, sleep=_no_pause) as retriever:
        assert (await retriever.health(deadline=soon())).ready
        await database.fail(Unavailable("The store is away."))
        while (await detail(retriever))["outage"] is None:
            await _no_pause(0)
        now += DEFAULTS.retrieval.lag_s
        assert (await retriever.health(deadline=soon())).ready
        now += 1
        health = await retriever.health(deadline=soon())
        assert not health.ready
        assert health.detail["behind_s"] == DEFAULTS.retrieval.lag_s + 1
        assert await found(retriever, "haze") == ["d1"]
        await database.fail(None)
        change = await database.create("news")
        await retriever.caught_up(change, deadline=soon())
        while (await detail(retriever))["behind_s"]:
            await _no_pause(0)
        assert (await retriever.health(deadline=soon())).ready


async def test_more_changes_than_are_taken_at_once_leave_it_behind(database: FakePublishing, tmp_path: Path) -> None:
    async with running(database, tmp_path) as retriever:
        for _ in range(CHANGES + 1):
            database.log.append(replace(database.log[-1], number=len(database.log) + 1))
        change = await database.create("news")
        await retriever.caught_up(change, deadline=soon())
        while (await detail(retriever))["behind_s"]:
            await _no_pause(0)
        assert await found(retriever, "haze") == ["d1"]


async def _no_pause(seconds: float) -> None:
    await asyncio.sleep(0)


def test_the_manifest_is_readable(tmp_path: Path) -> None:
    place = snapshots.Snapshots(tmp_path)
    assert place.newest({}) is None
    (tmp_path / "0" / "snapshot").mkdir()
    for content in ("", "[]", json.dumps({"format": 1}), json.dumps({"format": 1, "fingerprint": {}, "files": []})):
        (tmp_path / "0" / "snapshot" / "snapshot.json").write_text(content)
        with pytest.raises(CorruptSnapshot):
            place.newest({})
    place.close()
