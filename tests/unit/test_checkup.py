"""The checkup compares indexes with rows, and deletion waits for them: with the real roles, as plain objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fakes import page_reading
from stores import DEFAULTS, open_database, publish, soon, upload

from actors.database import Database
from actors.entities import Entities
from actors.errors import Conflict, NotFound, Unavailable, UnknownCollection, UnknownDocument
from actors.messages import Accepted, Document, Finding, Found, Query
from actors.retrieval import Retriever
from serve import checkup, deletion
from serve.services import Roles


class Bench:
    """A store with one replica of each index."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.database = database
        self.retrieval = Retriever(DEFAULTS.retrieval, DEFAULTS.encoder.model_copy(update={"kind": "none"}), database)
        # Known names alone: spaCy finds others in questions, if another test has loaded it.
        self.entities = Entities(DEFAULTS.entities.model_copy(update={"read_questions": 0}), database)

    @property
    def roles(self) -> Roles:
        return cast("Roles", SimpleNamespace(**vars(self)))

    async def add(self, text: str, *names: str, collection: str = "main") -> Accepted:
        """Publish a document of one page."""
        accepted, change = await publish(
            self.database,
            self.folder,
            [page_reading(1, text, names=names)],
            text.encode(),
            collection=collection,
        )
        await deletion.followed(self.roles, change.number, deadline=soon())
        return accepted

    async def found(self, text: str) -> list[str]:
        (found,) = await self.retrieval.search_many([Query(text)], deadline=soon())
        assert isinstance(found, Found)
        return [passage.document_id for passage in found.passages]

    async def linked(self, text: str) -> list[str]:
        (links,) = await self.entities.link_many([text], deadline=soon())
        return [link.text for link in links]

    async def wrong(self, *, repair: bool = False) -> list[Finding]:
        return (await checkup.examine(self.roles, deep=True, repair=repair)).findings


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_database(tmp_path) as database:
        bench = Bench(tmp_path, database)
        await bench.retrieval.start()
        await bench.entities.start()
        yield bench
        await bench.retrieval.stop()
        await bench.entities.stop()


# --- deletion --------------------------------------------------------------------------------------------------------


async def test_when_a_deletion_answers_no_index_holds_the_document_or_a_name_of_it_alone(bench: Bench) -> None:
    gone = await bench.add("Titan and Huygens are here.", "Titan", "Huygens")
    kept = await bench.add("Titan is far.", "Titan")
    for _ in range(2):  # the second time, the calm after the reload of the first is still on
        assert set(await bench.found("Titan")) == {gone.document_id, kept.document_id}
        deleted = await deletion.delete_documents(bench.roles, [gone.document_id], deadline=soon())
        assert await bench.found("Titan Huygens") == [kept.document_id]
        assert await bench.linked("Did Huygens land on Titan?") == ["Titan"]
        assert deleted.indexes == {"retrieval-0": 1, "entities-0": 1}
        assert (deleted.removed.documents, deleted.removed.chunks, deleted.removed.entities) == (1, 1, 1)
        gone = await bench.add("Titan and Huygens are here.", "Titan", "Huygens")
    with pytest.raises(UnknownDocument):
        await deletion.delete_documents(bench.roles, ["0" * 32], deadline=soon())


async def test_a_replica_that_is_down_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The retrieval role is not running.")

    gone = await bench.add("Titan is far.", "Titan")
    for name in ("chunks_of", "caught_up"):
        monkeypatch.setattr(bench.retrieval, name, away)
    deleted = await deletion.delete_documents(bench.roles, [gone.document_id], deadline=soon())
    assert deleted.indexes == {"retrieval-0": None, "entities-0": 1}


async def test_a_collection_goes_with_all_its_documents(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BATCH", 2)
    kept = await bench.add("Titan in another collection.", "Titan")
    for number in range(5):
        await bench.add(f"Titan number {number}.", "Titan", collection="gone")
    deleted = await deletion.delete_collection(bench.roles, "gone")
    assert (deleted.removed.documents, deleted.removed.blobs, deleted.removed.entities) == (5, 5, 0)
    assert deleted.indexes == {"retrieval-0": 5, "entities-0": 0}
    assert await bench.found("Titan number") == [kept.document_id]
    assert await bench.database.collections(deadline=soon()) == ["main"]
    (refused,) = await bench.retrieval.search_many([Query("Titan", ("gone",))], deadline=soon())
    assert isinstance(refused, UnknownCollection)
    with pytest.raises(UnknownCollection):
        await deletion.delete_collection(bench.roles, "gone")


async def test_an_upload_into_a_collection_that_is_being_deleted_is_not_swept_away(bench: Bench) -> None:
    await bench.add("Titan is far.", "Titan", collection="gone")
    database = bench.database

    class Busy:
        """Between the last document and the collection itself, another one comes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(database, name)

        async def documents(self, *args: Any, **options: Any) -> tuple[list[Document], str | None]:
            found = await database.documents(*args, **options)
            await database.accept(await upload(bench.folder, b"new", collection="gone"), deadline=soon())
            return found

    roles = cast("Roles", SimpleNamespace(**vars(bench) | {"database": Busy()}))
    with pytest.raises(Conflict, match="Documents were added"):
        await deletion.delete_collection(roles, "gone")
    documents, _ = await database.documents("gone", None, 10, deadline=soon())
    assert len(documents) == 1


# --- checkup ---------------------------------------------------------------------------------------------------------


async def test_indexes_that_follow_are_well(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "PAGE", 2)
    for number in range(5):
        await bench.add(f"Moon number {number}.", "Moon")
    found = await checkup.examine(bench.roles, deep=False, repair=False)
    assert (found.findings, found.left, found.running) == ([], 0, True)
    assert (found.looked_at["indexes"], found.looked_at["names"], found.looked_at["documents"]) == (5, 1, 5)
    assert found.looked_at["files"] == 5


async def test_an_index_that_lost_or_kept_what_it_should_not_reads_it_again(bench: Bench) -> None:
    lost = await bench.add("Titan is far.", "Titan")
    await bench.add("Europa is icy.", "Europa")
    shelf = bench.retrieval._follower.built.shelf
    stray = (await bench.database.published_document(lost.document_id, deadline=soon())) or pytest.fail("published")
    shelf.remove(lost.document_id)
    shelf.put(type(stray)("f" * 32, "Stray", "main", stray.chunks))
    shelf.commit()
    findings = await bench.wrong()
    assert sorted(finding.subject for finding in findings) == sorted([lost.document_id, "f" * 32])
    assert all("retrieval-0 has" in finding.what for finding in findings)
    repaired = await bench.wrong(repair=True)
    assert len(repaired) == 2
    assert all(finding.repaired for finding in repaired)
    assert await bench.found("Titan") == [lost.document_id]
    assert await bench.wrong() == []


async def test_names_that_are_not_those_of_the_store_are_read_again(bench: Bench) -> None:
    await bench.add("Titan and Europa.", "Titan", "Europa")
    bench.entities._drop([min(bench.entities._names)])
    (found,) = await bench.wrong()
    assert (found.subject, found.repaired) == ("entities-0", False)
    assert "lacks 1 names and has 0" in found.what
    assert [finding.repaired for finding in await bench.wrong(repair=True)] == [True]
    assert await bench.linked("Titan and Europa") == ["Titan", "Europa"]
    assert await bench.wrong() == []


async def test_a_replica_that_does_not_answer_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise Unavailable("The entities role is not running.")

    monkeypatch.setattr(bench.entities, "contents", away)
    for repair in (False, True):
        (found,) = await bench.wrong(repair=repair)
        assert (found.subject, found.repaired) == ("entities-0", False)
        assert "not running" in found.what


async def test_a_system_that_is_down_is_examined_all_the_same(tmp_path: Path) -> None:
    settings = DEFAULTS.model_copy(update={"data_dir": tmp_path})
    async with open_database(tmp_path) as database:
        accepted, _ = await publish(database, tmp_path, [page_reading(1)])
        await database.create_collection("another", deadline=soon())
    before = await checkup._while_down(settings, deep=True, repair=False)
    assert (before.findings, before.running) == ([], False)
    for path in (tmp_path / "blobs").glob("??/*"):
        path.unlink()
    after = await checkup._while_down(settings, deep=True, repair=True)
    assert [finding.subject for finding in after.findings] == [accepted.document_id]
    assert after.left == 1
    assert after.to_json()["findings"][0]["repair"] == ""
    with pytest.raises(NotFound):
        async with checkup._opened(settings) as database:
            await database.document("0" * 32, deadline=soon())
