"""Backups and copies between every two kinds of database: equal to the row, refused where something would be lost."""

from __future__ import annotations

import asyncio
import json
import resource
import secrets
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fakes import page_reading
from servers import Kind
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import DEFAULTS, open_database, publish, soon, upload

from actors.database import Database
from actors.errors import Conflict, GatherumError, InvalidInput, Unavailable
from actors.messages import Source
from actors.store import backup, dialect, migrations, transfer
from actors.store.blobs import Folder, Stored
from actors.store.tables import metadata

SETTINGS = DEFAULTS.database
Fresh = Callable[[Kind], str]


async def filled(url: str, folder: Path) -> list[str]:
    """A store with something in most of its tables; ids of its documents."""
    async with open_database(folder, url=url) as database:
        odd = page_reading(2, "Ä 日本 😀 'quoted' \\back\\ \"twice\"\nTitan", names=["Titan"])
        one, _ = await publish(database, folder, [page_reading(1), odd], b"one", title="Moons é")
        two = await database.accept(
            await upload(folder, b"two", pages=3, metadata={"b": [1, 2.5, None], "a": "é"}, idempotency_key="k"),
            deadline=soon(),
        )
        lease = await database.claim("w", 30.0, deadline=soon())
        assert lease is not None
        await database.commit_pages(lease.job_id, lease.fence, (page_reading(2),), deadline=soon())
        await database.fail(lease.job_id, lease.fence, "torn", 1000.0, deadline=soon())

        async def register(connection: AsyncConnection, now: float) -> None:
            from actors.store import sources

            await sources.add(connection, now, Source("planets", "sqlite", "planets.db"))

        await database._store.write(register)
        return [one.document_id, two.document_id]


async def works(url: str, folder: Path, ids: list[str]) -> None:
    """Whether a moved store can be worked with: it reads, and takes in, with ids that are not taken."""
    async with open_database(folder, url=url) as database:
        found, _ = await database.documents(None, None, 10, deadline=soon())
        assert [document.document_id for document in found] == ids
        assert (await database.page(ids[0], 2, deadline=soon())).text.startswith("Ä 日本 😀")
        assert (await database.document(ids[1], deadline=soon())).metadata == {"a": "é", "b": [1, 2.5, None]}
        last = await database.last_change(deadline=soon())
        new = page_reading(1, "Another Rhea.", names=["Rhea"])
        _, change = await _published(database, folder, new)
        assert change.number == last + 1


async def _published(database: Database, folder: Path, reading: Any) -> Any:
    return await publish(database, folder, [reading], b"three")


@pytest.mark.parametrize("source", ["sqlite", "postgresql", "mysql"])
@pytest.mark.parametrize("target", ["sqlite", "postgresql", "mysql"])
async def test_a_store_moves_from_any_database_to_any_other(
    fresh_database: Fresh, tmp_path: Path, source: Kind, target: Kind
) -> None:
    old, new = fresh_database(source), fresh_database(target)
    ids = await filled(old, tmp_path)
    account = await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS)
    assert set(account.tables) == set(metadata.tables)
    assert account.tables["pages"].rows == 3
    assert account.tables["documents"].rows == 2
    assert await counted(new) == await counted(old) == account
    await works(new, tmp_path, ids)


async def counted(url: str) -> transfer.Account:
    async def look(snapshot: transfer.Snapshot) -> transfer.Account:
        await snapshot.count_all(lambda table, rows: None)
        return snapshot.account

    account: transfer.Account = await transfer.take(dialect.parse_url(url), SETTINGS, look)
    return account


async def test_an_account_notices_one_changed_letter(fresh_database: Fresh, tmp_path: Path) -> None:
    url = fresh_database("sqlite")
    await filled(url, tmp_path)
    before = await counted(url)
    await run(url, "UPDATE pages SET text = 'Titan orbits Saturn!' WHERE number = 1")
    assert (await counted(url)).differing(before) == ["pages"]


async def run(url: str, sql: str) -> None:
    engine = dialect.create_engine(dialect.parse_url(url), SETTINGS, write=True, connections=1)
    async with engine.begin() as connection:
        await connection.execute(text(sql))
    await engine.dispose()


async def test_a_store_of_an_earlier_revision_moves_and_is_upgraded(fresh_database: Fresh, tmp_path: Path) -> None:
    old, new = fresh_database("sqlite"), fresh_database("postgresql")
    known = await asyncio.to_thread(migrations.known)
    await asyncio.to_thread(migrations.upgrade, dialect.parse_url(old), SETTINGS, to=known[0])
    await run(old, "INSERT INTO collections (name, created_at) VALUES ('main', 1.5)")
    account = await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS)
    assert account.revision == known[0]
    found = await asyncio.to_thread(migrations.current, dialect.parse_url(new), SETTINGS)
    assert found.found == found.head == known[-1]
    assert (await counted(new)).tables["collections"] == account.tables["collections"]


async def test_a_store_that_is_not_empty_is_kept(fresh_database: Fresh, tmp_path: Path, store_kind: Kind) -> None:
    old, new = fresh_database("sqlite"), fresh_database(store_kind)
    ids = await filled(old, tmp_path / "old")
    await filled(new, tmp_path / "new")
    before = await counted(new)
    with pytest.raises(Conflict, match=r"not empty.*--force"):
        await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS)
    assert await counted(new) == before
    await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS, force=True)
    await works(new, tmp_path / "old", ids)


async def test_what_is_written_meanwhile_is_told(fresh_database: Fresh, tmp_path: Path) -> None:
    old, new = fresh_database("sqlite"), fresh_database("sqlite")
    await filled(old, tmp_path)
    written: list[str] = []

    async with open_database(tmp_path, url=old) as database:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[Any]] = []

        def write(table: str, rows: int) -> None:
            if table == "pages" and not written:
                written.append(table)
                tasks.append(loop.create_task(database.create_collection("late", deadline=soon())))

        with pytest.raises(Conflict, match="written to the source while it was copied"):
            await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS, tell=write)


async def test_a_copy_that_breaks_off_leaves_the_target_empty(
    fresh_database: Fresh, tmp_path: Path, store_kind: Kind
) -> None:
    old, new = fresh_database("sqlite"), fresh_database(store_kind)
    await filled(old, tmp_path)

    def stop(table: str, rows: int) -> None:
        if table == "mentions":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS, tell=stop)
    found = await asyncio.to_thread(migrations.current, dialect.parse_url(new), SETTINGS)
    assert found.found is None or not await transfer.holds_something(dialect.parse_url(new), SETTINGS)
    await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS)
    assert await counted(new) == await counted(old)


async def test_a_backup_is_restored_to_any_database_with_its_files(
    fresh_database: Fresh, tmp_path: Path, store_kind: Kind
) -> None:
    old = fresh_database(store_kind)
    ids = await filled(old, tmp_path / "old")
    file = tmp_path / "store.zip"
    made = await backup.save(dialect.parse_url(old), SETTINGS, Folder(tmp_path / "old" / "blobs"), file)
    assert (made.files, made.left_out) == (2, ())
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["tables"]["documents"]["rows"] == 2
    target: Kind = "postgresql" if store_kind == "sqlite" else "sqlite"
    new = fresh_database(target)
    with pytest.raises(Conflict, match="exists"):
        await backup.save(dialect.parse_url(old), SETTINGS, None, file)
    again = await backup.restore(file, dialect.parse_url(new), SETTINGS, Folder(tmp_path / "new" / "blobs"))
    assert again.account == made.account
    assert await counted(new) == await counted(old)
    with pytest.raises(Conflict, match="not empty"):
        await backup.restore(file, dialect.parse_url(new), SETTINGS, None)
    await works(new, tmp_path / "new", ids)
    assert list(tmp_path.glob("*.partial")) == []


async def test_a_backup_of_the_rows_alone_names_the_files(fresh_database: Fresh, tmp_path: Path) -> None:
    url = fresh_database("sqlite")
    await filled(url, tmp_path)
    made = await backup.save(dialect.parse_url(url), SETTINGS, None, tmp_path / "rows.zip")
    assert (made.files, len(made.left_out)) == (0, 2)


async def test_a_file_that_went_meanwhile_is_left_out_and_named(fresh_database: Fresh, tmp_path: Path) -> None:
    url, blobs = fresh_database("sqlite"), Folder(tmp_path / "blobs")
    await filled(url, tmp_path)
    gone = next(path.name for path in sorted((tmp_path / "blobs").rglob("*")) if path.is_file())
    await blobs.remove(gone)
    made = await backup.save(dialect.parse_url(url), SETTINGS, blobs, tmp_path / "b.zip")
    assert (made.files, made.left_out) == (1, (gone,))


async def of_an_earlier_revision(url: str) -> None:
    """A store as an earlier version of the code has left it."""
    known = await asyncio.to_thread(migrations.known)
    await asyncio.to_thread(migrations.upgrade, dialect.parse_url(url), SETTINGS, to=known[-2])
    await run(url, "INSERT INTO collections (name, created_at) VALUES ('main', 1.5)")


async def test_a_copy_over_another_revision_that_breaks_off_changes_nothing_where_tables_are_made_in_a_transaction(
    fresh_database: Fresh, tmp_path: Path, store_kind: Kind
) -> None:
    old, new = fresh_database("sqlite"), fresh_database(store_kind)
    await of_an_earlier_revision(old)
    ids = await filled(new, tmp_path)
    before = await counted(new)

    def stop(table: str, rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await transfer.copy(dialect.parse_url(old), dialect.parse_url(new), SETTINGS, force=True, tell=stop)
    if store_kind == "mysql":
        assert not await transfer.holds_something(dialect.parse_url(new), SETTINGS)
    else:
        assert await counted(new) == before
        await works(new, tmp_path, ids)


Edit = Callable[[bytes], bytes]


def changed(good: Path, name: str, edit: Edit, *, renamed: str = "") -> Path:
    """A sound archive whose entry of that name is not what was saved."""
    bad = good.with_name("bad.zip")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for each in source.namelist():
            content, is_it = source.read(each), each.startswith(name)
            target.writestr(renamed if renamed and is_it else each, edit(content) if is_it else content)
    return bad


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


DAMAGE: dict[str, tuple[str, Edit]] = {
    "a letter": ("tables/pages", lambda content: content.replace(b"Titan orbits", b"Titan orbit!")),
    "a row": ("tables/pages", lambda content: content[: content.rindex(b"\n", 0, -1) + 1]),
    "columns": ("tables/documents", lambda content: b"[1]\n"),
    "no JSON": ("tables/mentions", lambda content: b"no line\n"),
    "no manifest": ("manifest", lambda content: b"{}"),
}


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_backup_with_damaged_rows_changes_nothing(
    fresh_database: Fresh, tmp_path: Path, store_kind: Kind, earlier: bool
) -> None:
    old, new, good, blobs = (
        fresh_database("sqlite"),
        fresh_database(store_kind),
        tmp_path / "good.zip",
        tmp_path / "new",
    )
    if earlier:
        await of_an_earlier_revision(old)
    else:
        await filled(old, tmp_path)
    await backup.save(dialect.parse_url(old), SETTINGS, Folder(tmp_path / "blobs"), good)
    async with open_database(tmp_path / "new", url=new) as database:
        await publish(database, tmp_path / "new", [page_reading(1)], b"of the target")
    rows, content = await counted(new), files(blobs)
    other: dict[str, tuple[str, Edit]] = {"a name": ("tables/collections", lambda row: row.replace(b"main", b"mail"))}
    bad: list[Callable[[], Path]] = [partial(_cut, good), partial(_overwritten, good)]
    bad += [partial(changed, good, *damage) for damage in (other if earlier else DAMAGE).values()]
    for make in bad:
        with pytest.raises(InvalidInput):
            await backup.restore(make(), dialect.parse_url(new), SETTINGS, Folder(blobs / "blobs"), force=True)
    assert await counted(new) == rows
    assert files(blobs) == content


async def test_a_damaged_file_keeps_nothing_else_from_coming_back_and_is_named(
    fresh_database: Fresh, tmp_path: Path
) -> None:
    old, new, good = fresh_database("sqlite"), fresh_database("sqlite"), tmp_path / "good.zip"
    ids = await filled(old, tmp_path)
    await backup.save(dialect.parse_url(old), SETTINGS, Folder(tmp_path / "blobs"), good)
    with zipfile.ZipFile(good) as archive:
        one, two = sorted(name for name in archive.namelist() if name.startswith("blobs/"))
    whole = files(tmp_path / "blobs")[two.removeprefix("blobs/")]
    for bad in (
        changed(good, one, lambda content: content + b"!"),
        changed(good, one, lambda content: whole),
        changed(good, one, lambda content: content, renamed="blobs/" + "0" * 64),
    ):
        blobs = Folder(tmp_path / "new" / "blobs")
        made = await backup.restore(bad, dialect.parse_url(new), SETTINGS, blobs, force=True)
        assert (made.files, made.left_out) == (1, (one.removeprefix("blobs/"),))
        assert list(files(blobs.folder).values()) == [whole]
    await works(new, tmp_path / "new", ids)


async def test_a_restore_that_is_refused_touches_no_file(fresh_database: Fresh, tmp_path: Path) -> None:
    url, good = fresh_database("sqlite"), tmp_path / "good.zip"
    await filled(url, tmp_path)
    blobs = Folder(tmp_path / "blobs")
    await backup.save(dialect.parse_url(url), SETTINGS, blobs, good)
    gone = min(files(blobs.folder))
    await blobs.remove(gone)
    before = files(blobs.folder)
    kept = next(iter(before.values()))
    for archive in (good, changed(good, f"blobs/{gone}", lambda content: kept)):
        with pytest.raises(Conflict, match="not empty"):
            await backup.restore(archive, dialect.parse_url(url), SETTINGS, blobs)
        assert files(blobs.folder) == before


async def test_a_file_that_is_damaged_where_it_lies_is_left_out_and_named(
    fresh_database: Fresh, tmp_path: Path
) -> None:
    url, blobs, file = fresh_database("sqlite"), Folder(tmp_path / "blobs"), tmp_path / "b.zip"
    ids = await filled(url, tmp_path)
    rotten, whole = sorted(files(blobs.folder))
    blobs.path(rotten).write_bytes(b"rotten")
    made = await backup.save(dialect.parse_url(url), SETTINGS, blobs, file)
    assert (made.files, made.left_out) == (1, (rotten,))
    new = fresh_database("sqlite")
    again = await backup.restore(file, dialect.parse_url(new), SETTINGS, Folder(tmp_path / "new" / "blobs"))
    assert (again.files, again.left_out) == (1, (rotten,))
    assert list(files(tmp_path / "new")) == [whole]
    await works(new, tmp_path / "new", ids)


async def test_backups_to_one_place_at_once_leave_one_that_is_whole(fresh_database: Fresh, tmp_path: Path) -> None:
    url, blobs = dialect.parse_url(fresh_database("sqlite")), Folder(tmp_path / "blobs")
    await filled(str(url), tmp_path)
    file = tmp_path / "b.zip"
    (tmp_path / "b.zip.partial").write_bytes(b"of one that was killed")
    met = asyncio.Barrier(2)

    class Meeting(Folder):
        async def stat(self, sha256: str) -> Stored | None:
            await met.wait()
            return await super().stat(sha256)

    found = await asyncio.gather(
        *(backup.save(url, SETTINGS, Meeting(blobs.folder), file) for _ in range(2)), return_exceptions=True
    )
    refused = [each for each in found if isinstance(each, Conflict)]
    assert len(refused) == 1, found
    assert "exists" in refused[0].detail
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert len(json.loads(archive.read("manifest.json"))["tables"]) == len(metadata.tables)
    assert [path.name for path in tmp_path.glob("*.partial")] == ["b.zip.partial"]


async def test_a_disk_with_no_room_for_a_backup_is_not_called_a_database_that_is_away(
    fresh_database: Fresh, tmp_path: Path
) -> None:
    url, file = fresh_database("sqlite"), tmp_path / "b.zip"
    async with open_database(tmp_path, url=url) as database:
        await publish(database, tmp_path, [page_reading(number, secrets.token_hex(1 << 20)) for number in (1, 2)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # as with a full disk, a write fails half-way
    try:
        with pytest.raises(Unavailable, match=r"^The backup cannot be written: File too large\.$"):
            await backup.save(dialect.parse_url(url), SETTINGS, Folder(tmp_path / "blobs"), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.glob("b.zip*")) == []


def _cut(good: Path) -> Path:
    bad = good.with_name("bad.zip")
    bad.write_bytes(good.read_bytes()[:-100])
    return bad


def _overwritten(good: Path) -> Path:
    bad = good.with_name("bad.zip")
    content = bytearray(good.read_bytes())
    content[60:90] = bytes(30)  # of the first table, whose compression makes no sense then
    bad.write_bytes(content)
    return bad


async def test_what_is_no_store_is_refused(fresh_database: Fresh, tmp_path: Path) -> None:
    url = dialect.parse_url(fresh_database("sqlite"))
    with pytest.raises(InvalidInput, match="no store of Gatherum"):
        await backup.save(url, SETTINGS, None, tmp_path / "b.zip")
    with pytest.raises(InvalidInput, match="same one"):
        await transfer.copy(url, url, SETTINGS)
    with pytest.raises(InvalidInput, match="There is no file"):
        await backup.restore(tmp_path / "nothing.zip", url, SETTINGS, None)
    with pytest.raises(GatherumError, match="no folder"):
        await backup.save(url, SETTINGS, None, tmp_path / "nowhere" / "b.zip")
