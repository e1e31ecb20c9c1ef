"""The Database role over a real SQLite file: what goes in comes out, once, and goes away without a trace."""

from __future__ import annotations

import asyncio
import random
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import page_reading, unreadable
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import database_in, open_database, publish, soon, upload, writes_of

from actors.database import TEND_RESERVE_S, Database
from actors.deadline import Deadline
from actors.errors import (
    Conflict,
    DeadlineExceeded,
    GatherumError,
    InvalidInput,
    Refused,
    Unavailable,
    UnknownCollection,
    UnknownDocument,
    UnknownJob,
    UnknownLookup,
    UnknownPage,
    UnknownSource,
)
from actors.messages import (
    Change,
    DocumentInfo,
    Embeddings,
    EntityName,
    Evidence,
    Lookup,
    OcrRecord,
    PageReading,
    Parameter,
    PublishedDocument,
    Removed,
    Source,
    SourceValue,
    StoredLookup,
    Upload,
)
from actors.reading import PIPELINE
from actors.store import room
from actors.store.blobs import Folder
from actors.store.documents import check_name, ensure_collection, new_id, title_of
from actors.store.rows import iso
from actors.store.tables import chunks, documents, entities, jobs, mentions, pages, vectors


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """A file here; where `integration/test_store_on_servers.py` runs the same tests, a database on a server."""
    return f"sqlite:///{tmp_path / 'gatherum.db'}"


@pytest.fixture
async def database(tmp_path: Path, store_url: str) -> AsyncIterator[Database]:
    async with open_database(tmp_path, url=store_url) as database:
        yield database


# --- pure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "Main", "7", "a.b_c-d", "a" * 100])
def test_good_names(name: str) -> None:
    check_name(name, "collection")


@pytest.mark.parametrize("name", ["", ".a", "-a", "_a", "a b", "a/b", "a\n", "é", "a" * 101])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name, "collection")


@given(st.floats(0, 1e11), st.floats(0, 1e11))
def test_ids_sort_by_age(one: float, other: float) -> None:
    first, second = new_id(one), new_id(other)
    assert len(first) == 32
    assert int(one * 1000) == int(other * 1000) or (first < second) == (one < other)


@pytest.mark.parametrize(
    ("own", "filename", "title"),
    [
        ("The Moons\n of  Saturn", "x.pdf", "The Moons of Saturn"),
        (" ", "cassini.report.pdf", "cassini.report"),
        ("", "", "Untitled"),
        ("t" * 600, "x.pdf", "t" * 500),
    ],
)
def test_titles(own: str, filename: str, title: str) -> None:
    assert title_of(Upload("0" * 64, 1, filename, "main", DocumentInfo(1, own))) == title


def test_times_are_utc() -> None:
    assert iso(0.25) == "1970-01-01T00:00:00.250Z"


# --- documents -------------------------------------------------------------------------------------------------------


async def test_an_accepted_document_is_there_with_its_job(database: Database, tmp_path: Path) -> None:
    wanted = replace(
        await upload(tmp_path, filename="a/moons.pdf", metadata={"year": 2004, "author": "NASA"}),
        info=DocumentInfo(2, "Moons", {"author": "unknown", "producer": "x"}),
    )
    accepted = await database.accept(wanted, deadline=soon())
    assert not accepted.duplicate
    document = await database.document(accepted.document_id, deadline=soon())
    assert (document.title, document.filename, document.state, document.pages) == ("Moons", "moons.pdf", "queued", 2)
    assert document.metadata == {"author": "NASA", "producer": "x", "year": 2004}
    job = await database.job(accepted.job_id, deadline=soon())
    assert (job.document_id, job.state, job.pages_done, job.pages_total) == (accepted.document_id, "queued", 0, 2)
    assert await database.collections(deadline=soon()) == ["main"]


async def test_the_same_file_is_the_same_document_in_a_collection_but_not_in_another(
    database: Database, tmp_path: Path
) -> None:
    first = await database.accept(await upload(tmp_path), deadline=soon())
    again = await database.accept(await upload(tmp_path, filename="other.pdf"), deadline=soon())
    assert again == replace(first, duplicate=True)
    other = await database.accept(await upload(tmp_path, collection="other"), deadline=soon())
    assert other.document_id != first.document_id
    assert not other.duplicate


async def test_of_simultaneous_uploads_of_one_file_one_is_the_first(tmp_path: Path, store_url: str) -> None:
    """Through two stores at once, as from two processes."""
    async with open_database(tmp_path, url=store_url) as one, open_database(tmp_path, url=store_url) as two:
        wanted = await upload(tmp_path)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(role.accept(wanted, deadline=soon())) for role in (one, two) * 5]
        receipts = [task.result() for task in tasks]
        assert len({receipt.document_id for receipt in receipts}) == 1
        assert sum(not receipt.duplicate for receipt in receipts) == 1
        assert len((await one.documents(None, None, 10, deadline=soon()))[0]) == 1


async def test_a_document_whose_file_is_gone_is_not_accepted(database: Database, tmp_path: Path) -> None:
    wanted = await upload(tmp_path)
    await Folder(tmp_path / "blobs").remove(wanted.sha256)
    with pytest.raises(Unavailable, match="send it again"):
        await database.accept(wanted, deadline=soon())
    assert await database.documents(None, None, 10, deadline=soon()) == ([], None)


async def test_a_name_that_is_none_is_refused_before_anything_is_stored(database: Database, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        await database.accept(await upload(tmp_path, collection="../x"), deadline=soon())
    with pytest.raises(InvalidInput):
        await database.create_collection("", deadline=soon())
    assert await database.collections(deadline=soon()) == []


async def test_a_failed_document_is_read_again_when_it_is_sent_again(database: Database, tmp_path: Path) -> None:
    accepted = await database.accept(await upload(tmp_path), deadline=soon())
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    await database.fail(lease.job_id, lease.fence, "no luck", None, deadline=soon())
    assert (await database.document(accepted.document_id, deadline=soon())).state == "failed"
    again = await database.accept(await upload(tmp_path), deadline=soon())
    assert again == replace(accepted, duplicate=True)
    assert (await database.document(accepted.document_id, deadline=soon())).state == "queued"
    new = await database.claim("w", 30.0, deadline=soon())
    assert new is not None
    assert (new.job_id, new.attempt) == (lease.job_id, 1)


async def test_lists_are_paged_without_a_gap(database: Database, tmp_path: Path) -> None:
    for number in range(5):
        collection = "even" if number % 2 == 0 else "odd"
        await database.accept(await upload(tmp_path, b"%d" % number, collection=collection), deadline=soon())
    everything, end = await database.documents(None, None, 100, deadline=soon())
    assert (len(everything), end) == (5, None)
    seen = []
    after: str | None = None
    while True:
        some, after = await database.documents("even", after, 2, deadline=soon())
        seen += some
        if after is None:
            break
    assert seen == [document for document in everything if document.collection == "even"]
    with pytest.raises(UnknownCollection):
        await database.documents("none", None, 2, deadline=soon())
    with pytest.raises(InvalidInput):
        await database.documents(None, None, 0, deadline=soon())


async def test_what_does_not_exist_says_so(database: Database) -> None:
    with pytest.raises(UnknownDocument):
        await database.document("no", deadline=soon())
    with pytest.raises(UnknownDocument):
        await database.page("no", 1, deadline=soon())
    with pytest.raises(UnknownDocument):
        await database.delete_document("no", deadline=soon())
    with pytest.raises(UnknownJob):
        await database.job("no", deadline=soon())
    assert await database.published_document("no", deadline=soon()) is None


# --- readings --------------------------------------------------------------------------------------------------------


async def test_what_was_read_comes_back_as_it_was(database: Database, tmp_path: Path) -> None:
    ocr = OcrRecord("absent", "tesseract 5.3.0", 300, ("eng", "deu"), 91.5, 640.0)
    first = page_reading(1)
    second = replace(first, page=replace(page_reading(2).page, ocr=ocr), chunks=page_reading(2).chunks, mentions=())
    accepted, _ = await publish(database, tmp_path, [first, second, unreadable(3)])
    for reading in (first, second, unreadable(3)):
        assert await database.page(accepted.document_id, reading.page.number, deadline=soon()) == reading.page
    with pytest.raises(UnknownPage, match="no page 4"):
        await database.page(accepted.document_id, 4, deadline=soon())
    expected = PublishedDocument(accepted.document_id, "moons", "main", first.chunks + second.chunks)
    assert await database.published(None, 10, deadline=soon()) == [expected]
    assert await database.published_document(accepted.document_id, deadline=soon()) == expected
    assert (await database.document(accepted.document_id, deadline=soon())).state == "partial"


async def test_vectors_come_back_with_the_chunks_of_their_pages(database: Database, tmp_path: Path) -> None:
    def embedded(number: int, *values: float) -> PageReading:
        return replace(page_reading(number), embeddings=Embeddings.of("m@1", np.array([values], np.float32)))

    readings = [embedded(1, 0.6, 0.8), page_reading(2), embedded(3, 1, 0)]
    accepted, _ = await publish(database, tmp_path, readings, metadata={"year": 2005})
    [plain] = await database.published(None, 10, deadline=soon())
    assert plain.embeddings is None
    assert plain.metadata == {"year": 2005}
    [document] = await database.published(None, 10, encoder="m@1", deadline=soon())
    assert document.embeddings is not None
    assert document.embeddings.encoder == "m@1"
    assert document.embeddings.array == pytest.approx(np.array([[0.6, 0.8], [0, 0], [1, 0]]), abs=1e-3)
    assert await database.published_document(accepted.document_id, encoder="m@1", deadline=soon()) == document
    other = await database.published_document(accepted.document_id, encoder="m@2", deadline=soon())
    assert other is not None
    assert other.embeddings is None
    await database.delete_document(accepted.document_id, deadline=soon())
    assert (await counts(database))["vectors"] == 0


async def test_vectors_that_do_not_fit_their_page_are_as_good_as_missing(database: Database, tmp_path: Path) -> None:
    two = Embeddings.of("m@1", np.ones((2, 2), np.float32))
    one = Embeddings.of("m@1", np.array([[1, 0]], np.float32))
    await publish(
        database, tmp_path, [replace(page_reading(1), embeddings=two), replace(page_reading(2), embeddings=one)]
    )
    [document] = await database.published(None, 10, encoder="m@1", deadline=soon())
    assert document.embeddings is not None
    assert document.embeddings.array.tolist() == [[0, 0], [1, 0]]


async def test_a_document_is_invisible_until_it_is_published(database: Database, tmp_path: Path) -> None:
    accepted = await database.accept(await upload(tmp_path, pages=1), deadline=soon())
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    before = await database.last_change(deadline=soon())
    assert await database.commit_pages(lease.job_id, lease.fence, (page_reading(1),), deadline=soon()) == 1
    assert await database.published(None, 10, deadline=soon()) == []
    assert await database.published_document(accepted.document_id, deadline=soon()) is None
    assert await database.entity_names(0, 10, deadline=soon()) == []
    with pytest.raises(UnknownPage, match="not been read yet"):
        await database.page(accepted.document_id, 1, deadline=soon())
    assert await database.last_change(deadline=soon()) == before
    change = await database.publish(lease.job_id, lease.fence, deadline=soon())
    assert change == Change(before + 1, "publish", accepted.document_id, "main")
    assert len(await database.published(None, 10, deadline=soon())) == 1
    assert len(await database.entity_names(0, 10, deadline=soon())) == 2


async def test_pages_committed_twice_are_there_once(database: Database, tmp_path: Path) -> None:
    await database.accept(await upload(tmp_path, pages=3), deadline=soon())
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    first, second, third = (page_reading(number) for number in (1, 2, 3))
    changed = replace(second, chunks=second.chunks * 1, page=replace(second.page, text="Another text."))
    for readings, done in (((first, second), 2), ((changed, third), 3), ((), 3)):
        assert await database.commit_pages(lease.job_id, lease.fence, readings, deadline=soon()) == done
    await database.publish(lease.job_id, lease.fence, deadline=soon())
    [document] = await database.published(None, 10, deadline=soon())
    assert document.chunks == first.chunks + second.chunks + third.chunks
    assert (await database.page(lease.document_id, 2, deadline=soon())) == second.page


async def test_published_documents_are_paged_without_a_gap(database: Database, tmp_path: Path) -> None:
    ids = []
    for number in range(5):
        accepted, _ = await publish(database, tmp_path, [page_reading(1), page_reading(2)], b"%d" % number)
        ids.append(accepted.document_id)
        await database.accept(await upload(tmp_path, b"still queued", collection=f"c{number}"), deadline=soon())
        lease = await database.claim("w", 3000.0, deadline=soon())
        assert lease is not None
    found: list[PublishedDocument] = []
    while some := await database.published(found[-1].document_id if found else None, 2, deadline=soon()):
        found += some
    assert [document.document_id for document in found] == ids
    assert {len(document.chunks) for document in found} == {2}


async def test_a_name_is_one_entity_however_it_is_written(database: Database, tmp_path: Path) -> None:
    pages = [
        page_reading(1, "Titan orbits Saturn.", names=["Titan", "Saturn"]),
        page_reading(2, "TITAN and the Titan's.", names=["TITAN", "the Titan's"]),
    ]
    await publish(database, tmp_path, pages, b"one")
    await publish(database, tmp_path, [page_reading(1, "Titan again.", names=["Titan"])], b"two")
    names = await database.entity_names(0, 10, deadline=soon())
    assert {(name.name, name.label) for name in names} == {("Titan", "LOC"), ("Saturn", "LOC")}
    assert await database.entity_names(0, 1, deadline=soon()) == names[:1]
    assert await database.entity_names(names[0].entity_id, 10, deadline=soon()) == names[1:]


async def test_many_names_at_once(database: Database, tmp_path: Path) -> None:
    """More than fit into one IN list."""
    names = [f"Moon{number}" for number in range(1200)]
    await publish(database, tmp_path, [page_reading(1, " ".join(names), names=names)])
    stored: list[EntityName] = []
    while some := await database.entity_names(stored[-1].entity_id if stored else 0, 1100, deadline=soon()):
        stored += some
    assert sorted(name.name for name in stored) == sorted(names)


async def test_text_that_not_every_database_stores_keeps_its_places(database: Database, tmp_path: Path) -> None:
    text = "Tit\x00an \ud83d orbits \U0001f600."
    reading = page_reading(1, text, names=["Tit\x00an"])
    metadata = {"nul": ["a\x00b"], "half": {"\ud800": 1}}
    accepted, _ = await publish(database, tmp_path, [reading], filename="a\x00.pdf", title="b\ud800", metadata=metadata)
    stored = "Tit\ufffdan \ufffd orbits \U0001f600."
    assert (await database.page(accepted.document_id, 1, deadline=soon())).text == stored
    assert [name.name for name in await database.entity_names(0, 10, deadline=soon())] == ["Tit\ufffdan"]
    document = await database.document(accepted.document_id, deadline=soon())
    assert (document.title, document.filename) == ("b\ufffd", "a\ufffd.pdf")
    assert document.metadata == {"nul": ["a\ufffdb"], "half": {"\ufffd": 1}}


# --- deletion --------------------------------------------------------------------------------------------------------


async def counts(database: Database) -> dict[str, int]:
    """Rows of the tables that documents leave something in."""

    async def work(connection: AsyncConnection) -> dict[str, int]:
        tables = (documents, jobs, pages, chunks, vectors, mentions, entities)
        return {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in tables
        }

    return await database._store.read(work)


async def test_a_deleted_document_leaves_nothing_behind(database: Database, tmp_path: Path) -> None:
    kept, _ = await publish(database, tmp_path, [page_reading(1, "Titan only.", names=["Titan"])], b"kept")
    before = await counts(database)
    accepted, change = await publish(database, tmp_path, [page_reading(1), page_reading(2)], b"gone")
    removed = await database.delete_document(accepted.document_id, deadline=soon())
    assert removed == Removed(
        documents=1,
        jobs=1,
        pages=2,
        chunks=2,
        mentions=4,
        entities=1,  # the other one is mentioned by the document that stays
        blobs=1,
        bytes=len(b"gone"),
        change=change.number + 1,
    )
    assert await counts(database) == before
    assert len([path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]) == 1
    assert [name.name for name in await database.entity_names(0, 10, deadline=soon())] == ["Titan"]
    last = await database.changes(change.number, 0.0, 10, deadline=soon())
    assert last == [Change(removed.change, "delete", accepted.document_id, "main")]
    assert (await database.published(None, 10, deadline=soon()))[0].document_id == kept.document_id
    with pytest.raises(UnknownDocument):
        await database.document(accepted.document_id, deadline=soon())


async def test_what_two_documents_share_goes_with_the_second(database: Database, tmp_path: Path) -> None:
    one, _ = await publish(database, tmp_path, [page_reading(1)])
    two = await database.accept(await upload(tmp_path, pages=1, collection="other"), deadline=soon())
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    assert lease.missing == (), "the second reads nothing: the file is read"
    await database.publish(lease.job_id, lease.fence, deadline=soon())
    first = await database.delete_document(one.document_id, deadline=soon())
    assert (first.documents, first.pages, first.chunks, first.mentions, first.blobs) == (1, 0, 0, 0, 0)
    assert await database.page(two.document_id, 1, deadline=soon()) == page_reading(1).page
    second = await database.delete_document(two.document_id, deadline=soon())
    assert (second.documents, second.pages, second.chunks, second.mentions, second.blobs) == (1, 1, 1, 2, 1)
    assert set((await counts(database)).values()) == {0}


async def test_a_document_can_be_deleted_while_it_is_read_and_come_again(database: Database, tmp_path: Path) -> None:
    accepted = await database.accept(await upload(tmp_path), deadline=soon())
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    await database.commit_pages(lease.job_id, lease.fence, (page_reading(1),), deadline=soon())
    removed = await database.delete_document(accepted.document_id, deadline=soon())
    assert (removed.pages, removed.jobs) == (1, 1)
    with pytest.raises(Conflict):
        await database.commit_pages(lease.job_id, lease.fence, (page_reading(2),), deadline=soon())
    assert set((await counts(database)).values()) == {0}
    again = await database.accept(await upload(tmp_path), deadline=soon())
    assert not again.duplicate


# --- changes ---------------------------------------------------------------------------------------------------------


async def test_changes_are_numbered_without_a_gap_and_found_from_anywhere(database: Database, tmp_path: Path) -> None:
    assert await database.last_change(deadline=soon()) == 0
    accepted, _ = await publish(database, tmp_path, [page_reading(1)])
    await database.create_collection("empty", deadline=soon())
    await database.create_collection("empty", deadline=soon())
    expected = [
        Change(1, "collection", "", "main"),
        Change(2, "publish", accepted.document_id, "main"),
        Change(3, "collection", "", "empty"),
    ]
    for after in range(4):
        assert await database.changes(after, 0.0, 10, deadline=soon()) == expected[after:]
    assert await database.changes(0, 0.0, 2, deadline=soon()) == expected[:2]
    assert await database.last_change(deadline=soon()) == 3


async def test_a_follower_hears_of_a_change_when_it_happens(database: Database) -> None:
    following = asyncio.create_task(database.changes(0, 20.0, 10, deadline=soon()))
    await asyncio.sleep(0)
    await database.create_collection("news", deadline=soon())
    assert await following == [Change(1, "collection", "", "news")]


async def test_a_follower_hears_of_what_another_process_did(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.database.FOLLOW_S", 0.01)
    async with open_database(tmp_path, url=store_url) as here, open_database(tmp_path, url=store_url) as there:
        following = asyncio.create_task(here.changes(0, 20.0, 10, deadline=soon()))
        await asyncio.sleep(0)
        await there.create_collection("news", deadline=soon())
        assert await following == [Change(1, "collection", "", "news")]


async def test_a_follower_that_waited_in_vain_gets_nothing(database: Database) -> None:
    assert await database.changes(0, 0.01, 10, deadline=soon()) == []
    assert await database.changes(0, 20.0, 10, deadline=Deadline.after(0.2)) == []


# --- sources ---------------------------------------------------------------------------------------------------------


class FakeSources:
    """Stands for `actors.sql.sources.Sources` and for the `Finder` over it."""

    def __init__(self) -> None:
        self.error: GatherumError | None = None
        self.asked: list[tuple[Source, list[Any], list[str]]] = []

    async def check(self, source: Source, *rest: Any) -> None:
        if self.error is not None:
            raise self.error

    async def values(self, source: Source) -> list[SourceValue]:
        return [SourceValue(source.name, "moons", "name", "Titan")]

    async def find_many(
        self, source: Source, wanted: list[Any], stored: dict[str, StoredLookup], deadline: Deadline
    ) -> list[Evidence | GatherumError]:
        self.asked.append((source, wanted, list(stored)))
        return [Evidence() for _ in wanted]

    async def close(self) -> None:
        pass


@pytest.fixture
async def fake_sources(database: Database, monkeypatch: pytest.MonkeyPatch) -> FakeSources:
    fake = FakeSources()
    monkeypatch.setattr(database, "_sources", fake)
    monkeypatch.setattr(database, "_finder", fake)
    return fake


PLANETS = Source("planets", "sqlite", "planets.db")


async def test_sources_come_and_go(database: Database, fake_sources: FakeSources) -> None:
    await database.add_source(PLANETS, deadline=soon())
    await database.add_source(PLANETS, deadline=soon())
    assert await database.sources(deadline=soon()) == [PLANETS]
    assert await database.source_values("planets", deadline=soon()) == [
        SourceValue("planets", "moons", "name", "Titan")
    ]
    lookup = Lookup("planets", "moons", "name", "Titan")
    await database.add_lookup(StoredLookup("planets", "all", "All moons", "SELECT 1"), deadline=soon())
    assert await database.evidence_many("planets", [lookup], deadline=soon()) == [Evidence()]
    assert fake_sources.asked == [(PLANETS, [lookup], ["all"])]
    await database.remove_source("planets", deadline=soon())
    assert await database.sources(deadline=soon()) == []
    with pytest.raises(UnknownSource):
        await database.evidence_many("planets", [lookup], deadline=soon())
    changes = await database.changes(0, 0.0, 10, deadline=soon())
    assert [change.kind for change in changes] == ["sources", "lookups", "sources"]


async def test_lookups_come_and_go_and_their_statements_are_checked_first(
    database: Database, fake_sources: FakeSources
) -> None:
    lookup = StoredLookup(
        "planets", "one", "One", "SELECT :a", (Parameter("a", "number", "An a", "t.c", required=False, default=0.5),)
    )
    with pytest.raises(UnknownSource):
        await database.add_lookup(lookup, deadline=soon())
    await database.add_source(PLANETS, deadline=soon())
    fake_sources.error = Refused("It would do more than read.")
    with pytest.raises(Refused):
        await database.add_lookup(lookup, deadline=soon())
    fake_sources.error = None
    await database.add_lookup(lookup, deadline=soon())
    await database.add_lookup(lookup, deadline=soon())
    assert await database.lookups(deadline=soon()) == await database.lookups("planets", deadline=soon()) == [lookup]
    with pytest.raises(Conflict):
        await database.add_lookup(replace(lookup, sql="SELECT :a + 1"), deadline=soon())
    await database.remove_lookup("planets", "one", deadline=soon())
    for gone in (
        database.remove_lookup("planets", "one", deadline=soon()),
        database.run_lookup("planets", "one", {}, 5, deadline=soon()),
    ):
        with pytest.raises(UnknownLookup):
            await gone
    with pytest.raises(Unavailable, match="No language model"):
        await database.write_sql_many([("How many?", (), None)], deadline=soon())


async def test_a_source_that_is_wrong_is_not_registered(database: Database, fake_sources: FakeSources) -> None:
    with pytest.raises(InvalidInput):
        await database.add_source(replace(PLANETS, name="no name"), deadline=soon())
    await database.add_source(PLANETS, deadline=soon())
    with pytest.raises(Conflict):
        await database.add_source(replace(PLANETS, path="other.db"), deadline=soon())
    fake_sources.error = InvalidInput("It is no database.")
    with pytest.raises(InvalidInput):
        await database.add_source(replace(PLANETS, name="broken"), deadline=soon())
    assert await database.sources(deadline=soon()) == [PLANETS]
    with pytest.raises(UnknownSource):
        await database.remove_source("no", deadline=soon())
    with pytest.raises(UnknownSource):
        await database.source_values("no", deadline=soon())


# --- the engine ------------------------------------------------------------------------------------------------------


async def test_readers_do_not_wait_for_the_writer(database: Database, tmp_path: Path) -> None:
    async with writer_inside(database):
        assert await database.collections(deadline=soon()) == []


async def test_writers_queue_up_and_none_is_refused(tmp_path: Path, store_url: str) -> None:
    async with open_database(tmp_path, url=store_url) as one, open_database(tmp_path, url=store_url) as two:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                for role in (one, two):
                    group.create_task(role.create_collection(f"c{number}", deadline=soon()))
        assert await one.last_change(deadline=soon()) == 10


async def test_a_database_that_is_busy_is_unavailable_and_tells_nothing(tmp_path: Path) -> None:
    async with open_database(tmp_path, busy_timeout_s=0.01, retry_s=0) as database:
        blocker = sqlite3.connect(tmp_path / "gatherum.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable) as raised:
            await database.create_collection("x", deadline=soon())
        assert raised.value.detail == "The database cannot be reached or is busy; try again."
        assert raised.value.__cause__ is None
        blocker.close()
        await database.create_collection("x", deadline=soon())


async def test_a_defect_is_not_worth_a_retry_and_tells_nothing(database: Database, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "gatherum.db")
    connection.execute("DROP TABLE changes")
    connection.commit()
    connection.close()
    with pytest.raises(GatherumError) as raised:
        await database.last_change(deadline=soon())
    assert "changes" not in raised.value.detail


async def test_a_call_without_time_does_not_start_and_one_that_runs_out_of_it_leaves_nothing(
    database: Database, tmp_path: Path
) -> None:
    with pytest.raises(DeadlineExceeded):
        await database.create_collection("late", deadline=Deadline.after(-1))
    async with writer_inside(database):
        with pytest.raises(DeadlineExceeded):
            await database.create_collection("late", deadline=Deadline.after(0.02))
    assert await database.collections(deadline=soon()) == []
    await database.create_collection("later", deadline=soon())


@asynccontextmanager
async def writer_inside(database: Database) -> AsyncIterator[None]:
    """Somebody else's write transaction, open for the length of the block."""
    inside, leave = asyncio.Event(), asyncio.Event()

    async def work(connection: AsyncConnection, now: float) -> None:
        inside.set()
        await leave.wait()

    other = asyncio.create_task(database._store.write(work))
    await inside.wait()
    yield
    leave.set()
    await other


async def test_a_caller_that_goes_away_changes_nothing_and_leaves_no_lock_behind(database: Database) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def work(connection: AsyncConnection, now: float) -> None:
        await ensure_collection(connection, now, "unwanted")
        reached.set()
        await go_on.wait()

    caller = asyncio.create_task(database._store.write(work))
    await reached.wait()
    caller.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await database.collections(deadline=soon()) == []
    await database.create_collection("wanted", deadline=soon())


async def test_callers_that_go_away_at_any_moment_do_no_harm(database: Database) -> None:
    dice = random.Random(5)
    callers: list[asyncio.Task[Any]] = []
    for number in range(60):
        callers.append(asyncio.create_task(database.create_collection(f"c{number}", deadline=soon())))
        callers.append(asyncio.create_task(database.collections(deadline=soon())))
        for _ in range(dice.randrange(20)):
            await asyncio.sleep(0)
        dice.choice(callers).cancel()
    await asyncio.wait(callers)
    # The lock is free, no connection is lost, and the log tells of exactly what is there.
    names = await database.collections(deadline=soon())
    assert await database.last_change(deadline=soon()) == len(names)
    assert {f"c{n}" for n, caller in enumerate(callers[::2]) if not caller.cancelled()} <= set(names)
    assert all(await asyncio.gather(*(database._store.read(lambda c: asyncio.sleep(0, True)) for _ in range(8))))


async def test_every_connection_is_set_up(database: Database) -> None:
    await database._store.read(check_pragmas)
    await database._store.write(check_pragmas)


async def check_pragmas(connection: AsyncConnection, now: float = 0.0) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
    for pragma, value in wanted.items():
        assert (await connection.exec_driver_sql(f"PRAGMA {pragma}")).scalar_one() == value, pragma


async def test_only_writing_transactions_take_the_write_lock(database: Database) -> None:
    begun: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.startswith("BEGIN"):
            begun.append(statement)

    for engine in (database._store._readers, database._store._writers):
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    await database.collections(deadline=soon())
    await database.create_collection("x", deadline=soon())
    assert begun == ["BEGIN", "BEGIN IMMEDIATE"]


async def test_health_tells_how_the_store_is(database: Database, tmp_path: Path) -> None:
    await database.accept(await upload(tmp_path), deadline=soon())
    health = await database.health(deadline=soon())
    assert (health.role, health.ready) == ("database", True)
    assert health.detail["dialect"] == "sqlite"
    assert health.detail["revision"] == "0008"
    assert health.detail["jobs"] == {"queued": 1}
    assert health.detail["round_trip_ms"] > 0
    assert health.detail["trouble"] == {}


async def test_health_tells_that_a_disk_is_nearly_full(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LOW_BYTES", 1 << 62)
    health = await database.health(deadline=soon())
    # It can be searched as before, so it is ready.
    assert health.ready
    assert set(health.detail["trouble"]) == {"files", "the database"}
    assert re.fullmatch(r"The disk has [0-9.]+ MB left for files. Make room on it.", health.detail["trouble"]["files"])


async def test_a_database_that_has_not_started_is_not_ready(tmp_path: Path) -> None:
    database = database_in(tmp_path)
    assert not (await database.health(deadline=soon())).ready
    await database.stop()


async def test_upkeep_that_runs_out_of_time_says_what_it_has_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(connection: AsyncConnection) -> int:
        return 1

    async with open_database(tmp_path) as database:
        await publish(database, tmp_path, [page_reading(1)])
        monkeypatch.setattr("actors.database.PIPELINE", PIPELINE + 1)
        monkeypatch.setattr("actors.store.upkeep.prune", endless)
        deadline = Deadline.after(TEND_RESERVE_S + 0.3)
        done = await database.tend(10, deadline=deadline)
        assert not deadline.expired
    assert done.queued == 1
    assert done.pages > 0


def test_what_may_be_repeated_is_made_of_units_that_may_be() -> None:
    assert writes_of("accept") == [True]
    assert writes_of("remove_source") == [False]
    assert [name for name in Database.IDEMPOTENT if not all(writes_of(name))] == []
