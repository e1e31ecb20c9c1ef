"""The doctor: each way in which a store can be broken is found, and repaired or said to be beyond repair.

Things are broken here from outside, by statements on the database and by files.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fakes import page_reading, unreadable
from stores import open_database, publish, soon, upload

from actors.database import Database
from actors.errors import InvalidInput
from actors.messages import Accepted, Finding
from actors.store.blobs import Folder, Incoming
from actors.store.doctor import CHECKS, DOCUMENTS, _gaps


class Patient:
    """A store that is broken and examined.

    Attributes:
        document: a published one, of two pages.
        sha256: of its file.
    """

    def __init__(self, database: Database, folder: Path, document: Accepted, sha256: str) -> None:
        self.database = database
        self.folder = folder
        self.document = document
        self.sha256 = sha256

    @property
    def blob(self) -> Path:
        return Folder(self.folder / "blobs").path(self.sha256)

    def run(self, *statements: str) -> None:
        with sqlite3.connect(self.folder / "gatherum.db") as connection:
            for statement in statements:
                assert connection.execute(statement).rowcount > 0, statement
        connection.close()

    def count(self, query: str) -> int:
        with sqlite3.connect(self.folder / "gatherum.db") as connection:
            found: int = connection.execute(query).fetchone()[0]
        connection.close()
        return found

    async def examined(self, *, deep: bool = False, repair: bool = False) -> list[Finding]:
        findings: list[Finding] = []
        for check in CHECKS:
            after: str | None = ""
            while after is not None:
                step = await self.database.examine(check, after, deep=deep, repair=repair, deadline=soon())
                findings += step.findings
                after = step.next
        return findings

    async def repaired(self, check: str, what: str, *, left: int = 0) -> Finding:
        """The one thing that is found, which a repair has put right; `left` findings stay until pages are read."""
        (found,) = await self.examined()
        assert found.check == check
        assert what in found.what
        assert found.repair
        assert not found.repaired
        (done,) = await self.examined(repair=True)
        assert done.repaired
        assert len(await self.examined()) == left
        return found

    async def read_again(self) -> tuple[int, ...]:
        """Do what the job that a repair has queued is for; the pages that were read."""
        lease = await self.database.claim("test", 30.0, deadline=soon())
        assert lease is not None
        assert lease.document_id == self.document.document_id
        again = tuple(page_reading(number) for number in lease.missing)
        if again:
            await self.database.commit_pages(lease.job_id, lease.fence, again, deadline=soon())
        await self.database.publish(lease.job_id, lease.fence, deadline=soon())
        return lease.missing


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Patient]:
    async with open_database(tmp_path) as database:
        document, _ = await publish(database, tmp_path, [page_reading(1), page_reading(2)])
        row = await database.document(document.document_id, deadline=soon())
        yield Patient(database, tmp_path, document, row.sha256)


async def test_nothing_is_found_in_a_store_that_is_well(patient: Patient) -> None:
    await patient.database.accept(await upload(patient.folder, b"waits"), deadline=soon())
    reading = await patient.database.accept(await upload(patient.folder, b"is read"), deadline=soon())
    assert await patient.database.claim("test", 30.0, deadline=soon()) is not None
    await publish_partial(patient)
    assert await patient.examined(deep=True) == []
    await patient.database.delete_document(reading.document_id, deadline=soon())
    assert await patient.examined(deep=True, repair=True) == []


async def publish_partial(patient: Patient) -> None:
    lease = await patient.database.claim("test", 30.0, deadline=soon())
    assert lease is not None
    readings = (page_reading(1), unreadable(2))
    await patient.database.commit_pages(lease.job_id, lease.fence, readings, deadline=soon())
    await patient.database.publish(lease.job_id, lease.fence, deadline=soon())


async def test_there_are_no_other_checks(patient: Patient) -> None:
    with pytest.raises(InvalidInput, match="there are uploads, files"):
        await patient.database.examine("all", "", deep=False, repair=False, deadline=soon())


# --- files -----------------------------------------------------------------------------------------------------------


def missing(blob: Path) -> None:
    blob.unlink()


def shortened(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1])


def altered(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("harm", "said", "deep"),
    [(missing, "missing", False), (shortened, "11 bytes and should have 12", False), (altered, "damaged", True)],
)
async def test_a_harmed_file_needs_the_one_who_has_it(
    patient: Patient, harm: Callable[[Path], None], said: str, deep: bool
) -> None:
    harm(patient.blob)
    assert (await patient.examined() == []) is deep
    for repair in (False, True):
        (found,) = await patient.examined(deep=deep, repair=repair)
        assert (found.check, found.subject) == ("documents", patient.document.document_id)
        assert said in found.what
        assert "Upload it again" in found.what
        assert (found.repair, found.repaired) == ("", False)
    again = await patient.database.accept(await upload(patient.folder), deadline=soon())
    assert again.duplicate
    assert await patient.examined(deep=True) == []


async def test_a_file_that_is_no_documents_is_removed_once_it_is_old(patient: Patient) -> None:
    async with Incoming(Folder(patient.folder / "blobs")) as file:
        await file.write(b"its rows never came")
        sha256, _ = await file.commit()
    assert await patient.examined(repair=True) == []
    path = Folder(patient.folder / "blobs").path(sha256)
    os.utime(path, (0, 0))
    assert (await patient.repaired("files", "No document is this file")).subject == sha256
    assert not path.exists()
    assert patient.blob.exists()


async def test_temporary_files_of_uploads_that_broke_off_are_removed_once_they_are_old(patient: Patient) -> None:
    path = patient.folder / "blobs" / "incoming" / "tmp"
    path.write_bytes(b"half")
    assert await patient.examined() == []
    os.utime(path, (0, 0))
    await patient.repaired("uploads", "1 uploads broke off")
    assert not path.exists()


async def test_a_row_that_a_deletion_has_left_is_removed(patient: Patient) -> None:
    patient.run(f"INSERT INTO contents (sha256) VALUES ('{'0' * 64}')")  # noqa: S608
    await patient.repaired("files", "No document is this file")


async def test_a_document_whose_file_is_not_guarded_is_guarded_again(patient: Patient) -> None:
    patient.run("DELETE FROM contents")
    await patient.repaired("documents", "not among those that are guarded")
    assert patient.count("SELECT count(*) FROM contents") == 1


# --- what was read ---------------------------------------------------------------------------------------------------


async def test_a_lost_page_is_read_again(patient: Patient) -> None:
    patient.run(
        "DELETE FROM pages WHERE number = 2", "DELETE FROM chunks WHERE page = 2", "DELETE FROM mentions WHERE page = 2"
    )
    found = await patient.repaired("documents", "lacks page 2")
    assert found.subject == patient.document.document_id
    assert await patient.read_again() == (2,)
    assert await patient.examined() == []
    assert (await patient.database.page(patient.document.document_id, 2, deadline=soon())).text


@pytest.mark.parametrize("table", ["chunks", "mentions"])
async def test_a_page_that_has_lost_a_row_is_read_again(patient: Patient, table: str) -> None:
    before = patient.count(f"SELECT count(*) FROM {table}")  # noqa: S608 -- one of two names
    patient.run(f"DELETE FROM {table} WHERE id = (SELECT max(id) FROM {table})")  # noqa: S608
    await patient.repaired("documents", "Chunks or mentions of page 2 are not those that were read")
    change = await patient.database.last_change(deadline=soon())
    assert await patient.read_again() == (2,)
    assert await patient.examined() == []
    assert patient.count(f"SELECT count(*) FROM {table}") == before  # noqa: S608
    news = await patient.database.changes(change, 0.0, 10, deadline=soon())
    assert [(entry.kind, entry.document_id) for entry in news] == [("publish", patient.document.document_id)]


async def test_pages_read_before_it_was_counted_are_taken_as_they_are(patient: Patient) -> None:
    patient.run("UPDATE pages SET chunks = NULL, mentions = NULL", "DELETE FROM chunks WHERE page = 2")
    assert await patient.examined() == []


async def test_chunks_of_a_page_that_is_gone_are_removed_before_it_is_read_again(patient: Patient) -> None:
    """Otherwise they would be in the way of the new ones."""
    patient.run("DELETE FROM pages WHERE number = 1")
    checks = [finding.check for finding in await patient.examined()]
    assert checks == ["readings", "documents"]
    assert all(finding.repaired for finding in await patient.examined(repair=True))
    assert await patient.read_again() == (1,)
    assert await patient.examined() == []


async def test_what_was_read_from_a_file_that_is_no_documents_is_removed(patient: Patient) -> None:
    patient.run("DELETE FROM documents", "DELETE FROM jobs", "DELETE FROM contents")
    await patient.repaired("readings", "no document")
    for table in ("pages", "chunks", "mentions", "entities"):
        assert patient.count(f"SELECT count(*) FROM {table}") == 0  # noqa: S608 -- of our own list


async def test_names_that_nothing_mentions_are_removed(patient: Patient) -> None:
    patient.run("INSERT INTO entities (name, normal, label) VALUES ('Io', 'io', 'LOC')")
    await patient.repaired("entities", "1 names are mentioned nowhere")


async def test_a_name_that_is_not_kept_as_names_are_compared_is_put_right(patient: Patient) -> None:
    patient.run("UPDATE entities SET normal = 'TITAN!' WHERE normal = 'titan'")
    await patient.repaired("entities", "kept as 'TITAN!'")
    assert patient.count("SELECT count(*) FROM entities WHERE normal = 'titan'") == 1


async def test_two_names_that_are_one_are_made_one(patient: Patient) -> None:
    mentioned = patient.count("SELECT count(*) FROM mentions")
    patient.run(
        "INSERT INTO entities (name, normal, label) VALUES ('TITAN', 'TITAN', 'LOC')",
        "UPDATE mentions SET entity_id = (SELECT id FROM entities WHERE normal = 'TITAN') "
        "WHERE id = (SELECT min(id) FROM mentions WHERE entity_id = (SELECT id FROM entities WHERE normal = 'titan'))",
    )
    await patient.repaired("entities", "kept as 'TITAN'")
    assert patient.count("SELECT count(*) FROM entities WHERE label = 'LOC' AND lower(normal) = 'titan'") == 1
    assert patient.count("SELECT count(*) FROM mentions JOIN entities ON entity_id = entities.id") == mentioned


async def test_a_mention_of_a_name_that_is_gone_has_its_page_read_again(patient: Patient) -> None:
    patient.run("DELETE FROM entities WHERE normal = 'titan'")
    await patient.repaired("documents", "Chunks or mentions of")
    assert await patient.read_again()
    assert await patient.examined() == []
    assert patient.count("SELECT count(*) FROM entities WHERE normal = 'titan'") == 1
    names = await patient.database.entity_names(0, 10, deadline=soon())
    assert {name.name for name in names} == {"Titan", "Saturn"}


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_document_that_no_job_will_read_is_queued(patient: Patient) -> None:
    waiting = await patient.database.accept(await upload(patient.folder, b"waits", pages=1), deadline=soon())
    patient.run(f"DELETE FROM jobs WHERE id = '{waiting.job_id}'")  # noqa: S608
    found = await patient.repaired("documents", "no job will do it")
    assert found.subject == waiting.document_id
    patient.document = waiting
    assert await patient.read_again() == (1,)
    assert await patient.examined() == []


async def test_a_job_that_ended_without_its_document_is_queued_again(patient: Patient) -> None:
    patient.run("UPDATE documents SET state = 'queued', pipeline = NULL")
    await patient.repaired("documents", "no job will do it")
    assert await patient.read_again() == ()
    assert (await patient.database.document(patient.document.document_id, deadline=soon())).state == "done"


async def test_a_job_without_a_document_is_removed(patient: Patient) -> None:
    lost = await patient.database.accept(await upload(patient.folder, b"lost"), deadline=soon())
    patient.run(f"DELETE FROM documents WHERE id = '{lost.document_id}'")  # noqa: S608
    for path in (patient.folder / "blobs").glob("??/*"):
        if path != patient.blob:
            path.unlink()
    checks = sorted(finding.check for finding in await patient.examined(repair=True))
    assert checks == ["files", "jobs"]
    assert await patient.examined() == []
    assert patient.count("SELECT count(*) FROM jobs") == 1


async def test_a_job_whose_worker_fell_silent_long_ago_is_freed_and_the_worker_refused(patient: Patient) -> None:
    await patient.database.accept(await upload(patient.folder, b"stuck", pages=1), deadline=soon())
    lease = await patient.database.claim("gone", 30.0, deadline=soon())
    assert lease is not None
    patient.run("UPDATE jobs SET lease_until = lease_until - 3600 WHERE state = 'reading'")
    assert (await patient.repaired("jobs", "silent for more than 10 minutes")).subject == lease.job_id
    again = await patient.database.claim("new", 30.0, deadline=soon())
    assert again is not None
    assert again.fence > lease.fence + 1
    assert again.attempt == 2, "an attempt it was"


async def test_a_published_document_is_called_so(patient: Patient) -> None:
    patient.run("UPDATE documents SET state = 'failed'")
    await patient.repaired("documents", "its state is failed")
    assert (await patient.database.document(patient.document.document_id, deadline=soon())).state == "done"


# --- the change log --------------------------------------------------------------------------------------------------


async def test_a_hole_in_the_change_log_is_marked(patient: Patient) -> None:
    await patient.database.create_collection("another", deadline=soon())
    patient.run("DELETE FROM changes WHERE number = 1")
    assert (await patient.repaired("changes", "lost this entry")).subject == "1"
    kinds = [change.kind for change in await patient.database.changes(0, 0.0, 10, deadline=soon())]
    assert kinds == ["gap", "publish", "collection"]


async def test_a_lost_publication_is_announced_anew(patient: Patient) -> None:
    patient.run("DELETE FROM changes WHERE kind = 'publish'")
    findings = await patient.examined(repair=True)
    assert [finding.check for finding in findings] == ["changes", "documents"]
    assert all(finding.repaired for finding in findings)
    assert await patient.examined() == []
    last = (await patient.database.changes(0, 0.0, 10, deadline=soon()))[-1]
    assert (last.kind, last.document_id) == ("publish", patient.document.document_id)


async def test_a_counter_that_fell_behind_is_put_forward(patient: Patient) -> None:
    patient.run("UPDATE counters SET value = 1")
    await patient.repaired("changes", "the next change would fail")
    await patient.database.create_collection("another", deadline=soon())
    assert await patient.database.last_change(deadline=soon()) == 3


@pytest.mark.parametrize(
    ("there", "last", "expected"),
    [
        ([], 0, []),
        ([], 2, [1, 2]),
        ([1, 2, 3], 3, []),
        ([2, 3, 6, 7, 9], 11, [1, 4, 5, 8, 10, 11]),
        ([5], 5, [1, 2, 3, 4]),
    ],
)
async def test_which_numbers_the_log_lacks(patient: Patient, there: list[int], last: int, expected: list[int]) -> None:
    patient.run("DELETE FROM changes")
    if there:
        rows = ", ".join(f"({number}, 'gap', '', '', 0.0)" for number in there)
        patient.run(f"INSERT INTO changes (number, kind, document_id, collection, created_at) VALUES {rows}")  # noqa: S608
    assert await patient.database._store.read(lambda connection: _gaps(connection, last)) == expected


async def test_a_large_store_is_looked_at_a_page_at_a_time(patient: Patient) -> None:
    for number in range(DOCUMENTS + 2):
        await patient.database.accept(await upload(patient.folder, f"{number}".encode()), deadline=soon())
    steps = []
    after: str | None = ""
    while after is not None:
        step = await patient.database.examine("documents", after, deep=False, repair=False, deadline=soon())
        steps.append(step.looked_at)
        after = step.next
    assert steps == [DOCUMENTS, 3]
