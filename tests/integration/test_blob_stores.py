"""Files and rows together: whatever crosses, no document is without its file and no file stays behind for ever.

The same is asked of a folder and of a bucket (a server that speaks S3 over HTTP), and of every database.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pickle
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from fakes import page_reading
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem
from servers import Kind
from sqlalchemy import delete, insert, update
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import DEFAULTS, soon

from actors.database import Database
from actors.errors import Conflict, FileGone, InvalidInput, NotFound, ReadingFailed, StaleLease, Unavailable
from actors.messages import Accepted, DocumentInfo, Upload
from actors.reading.limits import kept_variables
from actors.store import documents, files, readings, tables
from actors.store.blobs import PREFIXES, Blobs, Folder, Incoming, open_blobs
from actors.store.bucket import Bucket
from actors.store.dialect import parse_url
from actors.store.doctor import CHECKS
from actors.store.engine import Store
from actors.store.sweeping import Swept, drop_orphan, orphans, sweep
from config.settings import BlobSettings

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tests",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """URL of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(service: str, monkeypatch: pytest.MonkeyPatch) -> S3FileSystem:
    """A client of it, with an empty bucket `shelf`."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    files = S3FileSystem(endpoint_url=service, use_listings_cache=False, skip_instance_cache=True)
    if files.exists("shelf"):
        files.rm("shelf", recursive=True)
    files.mkdir("shelf")
    return files


def bucket_settings(service: str, **more: object) -> BlobSettings:
    return DEFAULTS.blobs.model_copy(update={"url": "s3://shelf/some/prefix", "endpoint": service, **more})


@pytest.fixture
def bucket(service: str, s3: S3FileSystem, tmp_path: Path) -> Bucket:
    return cast("Bucket", open_blobs(bucket_settings(service, cache_mb=1), tmp_path / "data"))


@pytest.fixture(params=["folder", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "bucket":
        return cast("Blobs", request.getfixturevalue("bucket"))
    return Folder(tmp_path / "blobs")


async def kept(blobs: Blobs, content: bytes) -> str:
    async with Incoming(blobs) as file:
        await file.write(content)
        sha256, size = await file.commit()
    assert size == len(content)
    return sha256


async def everything(blobs: Blobs) -> set[str]:
    return {stored.sha256 for prefix in PREFIXES for stored in await blobs.listing(prefix)}


# --- one place of files ---------------------------------------------------------------------------------------------


async def test_a_file_comes_back_as_it_went_and_goes_when_it_is_removed(blobs: Blobs) -> None:
    await blobs.prepare()
    content = os.urandom(3_000_000)
    sha256 = await kept(blobs, content)
    assert sha256 == hashlib.sha256(content).hexdigest()
    blobs = pickle.loads(pickle.dumps(blobs))  # noqa: S301 -- as it gets to another process
    stored = await blobs.stat(sha256)
    assert stored is not None
    assert (stored.sha256, stored.size) == (sha256, len(content))
    assert abs(stored.modified - time.time()) < 60
    async with blobs.local(sha256) as path:
        assert path.read_bytes() == content
    assert await blobs.hash(sha256) == sha256
    assert [stored.sha256 for stored in await blobs.listing(sha256[:2])] == [sha256]
    assert [await blobs.remove(sha256), await blobs.remove(sha256)] == [True, False]
    assert await blobs.stat(sha256) is None
    assert list(blobs.incoming.iterdir()) == []


async def test_pages_are_read_from_copies_and_more_than_fit_are_not_kept(
    bucket: Bucket, s3: S3FileSystem, tmp_path: Path
) -> None:
    content = [bytes([number]) * 400_000 for number in range(4)]
    addresses = [await kept(bucket, one) for one in content]
    for sha256, expected in zip(addresses, content, strict=True):
        async with bucket.local(sha256) as path:
            assert path.is_relative_to(tmp_path / "data" / "cache")
            assert path.read_bytes() == expected
    assert len(list((tmp_path / "data" / "cache").glob("??/*"))) == 2, "of 1 MB"
    # What is in the cache needs no bucket.
    s3.rm("shelf", recursive=True)
    async with bucket.local(addresses[3]) as path:
        assert path.read_bytes() == content[3]
    with pytest.raises(ReadingFailed, match="Upload it again"):
        async with bucket.local(addresses[0]):
            pass


async def test_a_copy_is_checked_before_it_is_read(bucket: Bucket, s3: S3FileSystem, tmp_path: Path) -> None:
    sha256 = await kept(bucket, b"right")
    s3.pipe(f"shelf/some/prefix/{sha256[:2]}/{sha256}", b"wrong")
    with pytest.raises(ReadingFailed, match="damaged"):
        async with bucket.local(sha256):
            pass
    assert not list((tmp_path / "data" / "cache").glob("??/*"))
    assert await bucket.hash(sha256) != sha256
    assert await kept(bucket, b"right") == sha256
    async with bucket.local(sha256) as path:
        assert path.read_bytes() == b"right"


async def test_a_bucket_that_is_not_there_is_said_to_be(service: str, s3: S3FileSystem, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="There is no bucket 'nowhere'"):
        await open_blobs(bucket_settings(service, url="s3://nowhere/x"), tmp_path).prepare()
    away = open_blobs(bucket_settings("http://127.0.0.1:9"), tmp_path)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await away.stat("0" * 64)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await kept(away, b"x")
    assert list(away.incoming.iterdir()) == []


def test_page_tasks_have_no_credentials_of_the_bucket() -> None:
    environment = {**CREDENTIALS, "AWS_SESSION_TOKEN": "x", "AWS_ENDPOINT_URL": "http://x", "PATH": "/bin"}
    assert kept_variables(environment) == {"PATH"}


# --- with a database ------------------------------------------------------------------------------------------------


class Bench:
    """A store with its files, and a client that behaves like the upload route."""

    def __init__(self, url: str, blobs: Blobs) -> None:
        self.blobs = blobs
        self.database = Database(
            DEFAULTS.database, DEFAULTS.sources, DEFAULTS.blobs, url=url, blobs=blobs, max_attempts=3
        )
        self.store = Store(parse_url(url), DEFAULTS.database)

    async def send(self, content: bytes, collection: str = "main") -> Accepted:
        async with Incoming(self.blobs) as file:
            await file.write(content)
            for _ in range(50):
                sha256, size = await file.commit()
                # Others get their turn between the file and its rows.
                await asyncio.sleep(random.uniform(0, 0.01))
                try:
                    upload = Upload(sha256, size, "a.pdf", collection, DocumentInfo(1))
                    return await self.database.accept(upload, deadline=soon())
                except FileGone:
                    continue
        raise AssertionError("deletions kept coming in between")

    async def delete(self, document_id: str) -> int:
        return (await self.database.delete_document(document_id, deadline=soon())).blobs

    async def ids(self) -> list[str]:
        found, _ = await self.database.documents(None, None, 1000, deadline=soon())
        return [document.document_id for document in found]

    async def sweep(self, grace_s: float = 0.0) -> Swept:
        return await sweep(self.store, self.blobs, grace_s=grace_s)


@pytest.fixture
async def bench(store_url: str, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(store_url, Folder(tmp_path / "blobs"))
    await bench.database.start()
    yield bench
    await bench.store.close()
    await bench.database.stop()


async def read(bench: Bench) -> None:
    """Read the one page of the next document, and publish it."""
    lease = await bench.database.claim("test", 30.0, deadline=soon())
    assert lease is not None
    if lease.missing:
        await bench.database.commit_pages(lease.job_id, lease.fence, (page_reading(1),), deadline=soon())
    await bench.database.publish(lease.job_id, lease.fence, deadline=soon())


async def test_uploads_deletions_and_sweeps_of_one_content_may_cross_as_they_like(bench: Bench) -> None:
    """At every moment each document has its file; at the end, no file is left that no document is."""
    contents = [b"%PDF one", b"%PDF two"]
    until = time.monotonic() + 5.0
    sent = deleted = swept = 0

    async def uploads(number: int) -> None:
        nonlocal sent
        while time.monotonic() < until:
            accepted = await bench.send(random.choice(contents), f"c{number}")
            sent += 1
            async with bench.blobs.local(
                (await bench.database.document(accepted.document_id, deadline=soon())).sha256
            ) as path:
                assert path.exists()

    async def uploads_and_deletes(number: int) -> None:
        nonlocal sent, deleted
        while time.monotonic() < until:
            accepted = await bench.send(random.choice(contents), f"d{number}")
            sent += 1
            await bench.delete(accepted.document_id)
            deleted += 1

    async def sweeps() -> None:
        nonlocal swept
        while time.monotonic() < until:
            # Without any grace; but for temporary files, which are those of the uploads.
            for prefix in {hashlib.sha256(content).hexdigest()[:2] for content in contents}:
                unused, _ = await orphans(bench.store, bench.blobs, prefix, grace_s=-60)
                for sha256 in unused:
                    swept += await drop_orphan(bench.store, bench.blobs, sha256, grace_s=-60) is not None

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(uploads_and_deletes(number))
        group.create_task(sweeps())
    assert await everything(bench.blobs) == set()
    until = time.monotonic() + 3.0
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            group.create_task(uploads_and_deletes(number))
            group.create_task(uploads(number))
        group.create_task(sweeps())
    assert sent > deleted > 10
    ids = await bench.ids()
    hashes = {(await bench.database.document(one, deadline=soon())).sha256 for one in ids}
    assert await everything(bench.blobs) == hashes == {hashlib.sha256(content).hexdigest() for content in contents}
    for one in ids:
        await bench.delete(one)
    assert await everything(bench.blobs) == set()
    assert await bench.sweep() == Swept()


async def test_a_document_published_while_its_twin_is_deleted_keeps_its_pages(bench: Bench) -> None:
    for _ in range(15):
        first = await bench.send(b"%PDF twin", "one")
        await read(bench)
        second, _ = await asyncio.gather(bench.send(b"%PDF twin", "two"), bench.delete(first.document_id))
        await read(bench)
        page = await bench.database.page(second.document_id, 1, deadline=soon())
        assert page.text == page_reading(1).page.text
        assert [size for _, size in await bench.database.sizes("", 10, deadline=soon())] == [1]
        assert await bench.delete(second.document_id) == 1
        assert await bench.database.entity_names(0, 10, deadline=soon()) == []


async def test_a_deletion_wins_over_the_worker_that_reads(bench: Bench) -> None:
    for _ in range(10):
        accepted = await bench.send(b"%PDF read")
        lease = await bench.database.claim("test", 30.0, deadline=soon())
        assert lease is not None

        async def work(job_id: str = lease.job_id, fence: int = lease.fence) -> None:
            await bench.database.commit_pages(job_id, fence, (page_reading(1),), deadline=soon())
            await asyncio.sleep(random.uniform(0, 0.01))
            await bench.database.publish(job_id, fence, deadline=soon())

        async def away(document_id: str = accepted.document_id) -> int:
            await asyncio.sleep(random.uniform(0, 0.02))
            return await bench.delete(document_id)

        worked, removed = await asyncio.gather(work(), away(), return_exceptions=True)
        assert removed == 1
        assert worked is None or isinstance(worked, StaleLease)
        assert await bench.ids() == []
        assert await bench.database.sizes("", 10, deadline=soon()) == []
        assert await everything(bench.blobs) == set()
        with pytest.raises(NotFound):
            await bench.delete(accepted.document_id)


async def test_names_removed_with_one_document_while_another_mentions_them(bench: Bench) -> None:
    """Deleting takes a name that nothing mentions; reading is about to mention it. Neither fails, and none is lost."""

    async def cycle(number: int) -> None:
        for turn in range(12):
            await bench.send(f"%PDF {number} {turn}".encode(), f"c{number}")
            while (lease := await bench.database.claim("test", 30.0, deadline=soon())) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await bench.database.commit_pages(lease.job_id, lease.fence, (page_reading(1),), deadline=soon())
            await bench.database.publish(lease.job_id, lease.fence, deadline=soon())
            published.append(lease.document_id)
            names = {name.name for name in await bench.database.entity_names(0, 10, deadline=soon())}
            assert names <= {"Titan", "Saturn"}
            if len(published) > 2:
                await bench.delete(published.pop(0))

    published: list[str] = []
    await asyncio.gather(*(cycle(number) for number in range(3)))
    assert {name.name for name in await bench.database.entity_names(0, 10, deadline=soon())} == {"Titan", "Saturn"}
    for document_id in await bench.ids():
        await bench.delete(document_id)
    assert await bench.database.entity_names(0, 10, deadline=soon()) == []


async def test_what_crashes_have_left_is_swept_when_it_is_old_and_not_before(bench: Bench, tmp_path: Path) -> None:
    used = await bench.send(b"%PDF used")
    orphan = await kept(bench.blobs, b"%PDF its rows never came")
    (bench.blobs.incoming / "broken").write_bytes(b"half an upl")
    assert await bench.sweep(grace_s=3600) == Swept()
    assert await bench.sweep() == Swept(uploads=1, files=1, bytes=24)
    remaining = await everything(bench.blobs)
    assert orphan not in remaining
    assert remaining == {(await bench.database.document(used.document_id, deadline=soon())).sha256}


async def test_a_deletion_that_was_cut_short_is_finished_by_the_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = await bench.send(b"%PDF half deleted")

    async def away(self: Folder, sha256: str) -> bool:
        raise Unavailable("The disk is gone.")

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", away)
        with pytest.raises(Unavailable, match="its file could not be removed yet"):
            await bench.delete(accepted.document_id)
    assert len(await everything(bench.blobs)) == 1
    assert await bench.sweep() == Swept(), "the call may still be under way"

    async def long_ago(connection: AsyncConnection, now: float) -> None:
        await connection.execute(update(tables.contents).values(removing=now - files.REMOVAL_S))

    await bench.store.write(long_ago)
    assert await bench.sweep() == Swept(files=1, bytes=17)
    assert await everything(bench.blobs) == set()


async def test_the_database_role_sweeps_by_itself(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "blobs")
    orphan = await kept(folder, b"%PDF orphan")
    os.utime(folder.path(orphan), (0, 0))
    database = Database(
        DEFAULTS.database,
        DEFAULTS.sources,
        DEFAULTS.blobs.model_copy(update={"sweep_s": 0.01}),
        url=f"sqlite:///{tmp_path / 'gatherum.db'}",
        blobs=folder,
        max_attempts=3,
    )
    await database.start()
    try:
        async with asyncio.timeout(20):
            while await folder.stat(orphan) is not None:  # noqa: ASYNC110 -- nothing tells of it
                await asyncio.sleep(0.01)
    finally:
        await database.stop()


async def test_documents_in_a_bucket_come_and_go_like_others(
    bucket: Bucket, s3: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(f"sqlite:///{tmp_path / 'gatherum.db'}", bucket)
    await bench.database.start()
    try:
        accepted = await bench.send(b"%PDF one")
        orphan = await kept(bucket, b"%PDF orphan")
        await read(bench)
        monkeypatch.setattr("actors.store.sweeping.PREFIXES", (orphan[:2],))  # one listing costs 30 ms here
        assert await bench.sweep(grace_s=3600) == Swept()
        assert await bench.sweep(grace_s=-60) == Swept(files=1, bytes=11), "clocks of two machines differ"
        assert await bucket.stat(orphan) is None
        assert await bench.delete(accepted.document_id) == 1
        assert s3.find("shelf") == []
    finally:
        await bench.store.close()
        await bench.database.stop()


async def test_a_collection_goes_only_when_it_is_empty_and_an_upload_makes_it_anew(bench: Bench) -> None:
    accepted = await bench.send(b"%PDF one", "gone")
    with pytest.raises(Exception, match="Documents were added"):
        await bench.database.delete_collection("gone", deadline=soon())
    await bench.delete(accepted.document_id)
    for _ in range(10):
        results = await asyncio.gather(
            bench.send(b"%PDF two", "gone"),
            bench.database.delete_collection("gone", deadline=soon()),
            return_exceptions=True,
        )
        assert isinstance(results[0], Accepted), results
        assert await bench.database.collections(deadline=soon()) == ["gone"]
        await bench.delete(results[0].document_id)
    change = (await bench.database.delete_collection("gone", deadline=soon())).change
    last = await bench.database.changes(change - 1, 0.0, 10, deadline=soon())
    assert [(entry.kind, entry.collection) for entry in last] == [("drop", "gone")]
    with pytest.raises(NotFound):
        await bench.database.delete_collection("gone", deadline=soon())


async def test_the_doctor_finds_and_repairs_on_every_database(bench: Bench) -> None:
    async def examined(*, repair: bool) -> list[str]:
        found: list[str] = []
        for check in CHECKS:
            after: str | None = ""
            while after is not None:
                step = await bench.database.examine(check, after, deep=True, repair=repair, deadline=soon())
                found += [finding.check for finding in step.findings]
                assert all(finding.repaired is repair for finding in step.findings), step.findings
                after = step.next
        return found

    async def harm(connection: AsyncConnection, now: float) -> None:
        await connection.execute(delete(tables.chunks))
        await connection.execute(delete(tables.contents))
        await connection.execute(delete(tables.changes).where(tables.changes.c.number == 1))
        await connection.execute(insert(tables.entities).values(name="Io", normal="io", label="LOC"))
        stray = {"sha256": "0" * 64, "pipeline": 1, "number": 1, "width": 1.0, "height": 1.0, "text": "", "words": b""}
        await connection.execute(insert(tables.pages).values(stray))
        lost = {"id": "j", "document_id": "d", "dedup_key": "d:1", "state": "queued", "pipeline": 1, "run_at": now}
        counters = {"attempt": 0, "max_attempts": 3, "fence": 0, "created_at": now, "updated_at": now}
        await connection.execute(insert(tables.jobs).values(lost | counters))

    await bench.send(b"%PDF one")
    await read(bench)
    assert await examined(repair=False) == []
    await bench.store.write(harm)
    wrong = ["changes", "readings", "jobs", "documents", "documents", "entities"]
    assert await examined(repair=False) == wrong
    assert await examined(repair=True) == wrong
    await read(bench)
    assert await examined(repair=True) == []
    assert [size for _, size in await bench.database.sizes("", 10, deadline=soon())] == [1]


# --- step by step, where writers do not wait for one another as a whole ---------------------------------------------


@pytest.fixture(params=["postgresql", "mysql"])
async def served(
    request: pytest.FixtureRequest, fresh_database: Callable[[Kind], str], tmp_path: Path
) -> AsyncIterator[Bench]:
    bench = Bench(fresh_database(request.param), Folder(tmp_path / "blobs"))
    await bench.database.start()
    yield bench
    await bench.store.close()
    await bench.database.stop()


async def test_a_name_that_is_about_to_be_mentioned_is_not_removed(served: Bench) -> None:
    accepted = await served.send(b"%PDF one")
    await read(served)
    found, deleted = asyncio.Event(), asyncio.Event()

    async def mention(connection: AsyncConnection, now: float) -> None:
        ids = await readings._entity_ids(connection, {("titan", "LOC"): "Titan"})
        found.set()
        await deleted.wait()
        row = {"sha256": "0" * 64, "pipeline": 1, "page": 1, "start": 0, "end": 5, "text": "Titan"}
        await connection.execute(insert(tables.mentions), {**row, "entity_id": ids["titan", "LOC"]})

    mentioning = asyncio.create_task(served.store.write(mention))
    await found.wait()
    removed = await served.database.delete_document(accepted.document_id, deadline=soon())
    assert removed.entities == 1, "Saturn"
    deleted.set()
    await mentioning


async def test_a_collection_that_is_being_added_to_is_not_deleted(served: Bench) -> None:
    await served.database.create_collection("main", deadline=soon())
    sha256 = await kept(served.blobs, b"%PDF one")
    upload = Upload(sha256, 8, "a.pdf", "main", DocumentInfo(1))
    seen, go_on = asyncio.Event(), asyncio.Event()

    async def add(connection: AsyncConnection, now: float) -> None:
        assert await documents.ensure_collection(connection, now, "main") is None
        seen.set()
        await go_on.wait()
        await documents.accept(connection, now, upload, pipeline=1, max_attempts=3)

    adding = asyncio.create_task(served.store.write(add))
    await seen.wait()
    deleting = asyncio.create_task(served.database.delete_collection("main", deadline=soon()))
    await asyncio.wait((deleting,), timeout=0.3)
    assert not deleting.done()
    go_on.set()
    await adding
    with pytest.raises(Conflict, match="Documents were added"):
        await deleting
    assert len(await served.ids()) == 1
