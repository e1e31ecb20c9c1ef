"""Files under their content address: whole or not at all, and nothing left behind."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import pickle
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.errors import InvalidInput, ReadingFailed, Unavailable
from actors.store import blobs
from actors.store.blobs import BUFFER_BYTES, PREFIXES, Folder, Incoming, Stored, open_blobs
from config.settings import load


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


async def kept(folder: Path, content: bytes) -> str:
    async with Incoming(Folder(folder)) as file:
        await file.write(content)
        sha256, _ = await file.commit()
    return sha256


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=100), max_size=8), repeat=st.sampled_from([1, BUFFER_BYTES // 90]))
async def test_whatever_the_pieces_the_file_is_their_sum_under_its_hash(
    tmp_path: Path, pieces: list[bytes], repeat: int
) -> None:
    async with Incoming(Folder(tmp_path)) as file:
        for piece in pieces:
            await file.write(piece * repeat)
        sha256, size = await file.commit()
    content = b"".join(piece * repeat for piece in pieces)
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert Folder(tmp_path).path(sha256).read_bytes() == content
    assert files(tmp_path / "incoming") == []


async def test_a_write_that_outlives_its_upload_touches_no_other_file(tmp_path: Path) -> None:
    """The thread of a cancelled write goes on; by then its descriptor may belong to the next upload."""
    first = Incoming(Folder(tmp_path))
    await first.__aenter__()
    number = first._fd
    await first.__aexit__(None, None, None)
    async with Incoming(Folder(tmp_path)) as second:
        assert second._fd == number, "the next upload gets the number of the one that was closed"
        await second.write(b"mine")
        await asyncio.to_thread(first._append, bytearray(b"theirs"))
        sha256, _ = await second.commit()
    assert Folder(tmp_path).path(sha256).read_bytes() == b"mine"


@pytest.mark.parametrize("fails", [False, True])
async def test_an_upload_that_is_cancelled_while_it_opens_is_cancelled_whatever_comes_of_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    opening, go_on, original = asyncio.Event(), threading.Event(), tempfile.mkstemp
    loop = asyncio.get_running_loop()

    def slowly(**where: Path) -> tuple[int, str]:
        loop.call_soon_threadsafe(opening.set)
        go_on.wait(20)
        if fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(**where)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(tempfile, "mkstemp", slowly)
    entering = asyncio.create_task(Incoming(Folder(tmp_path)).__aenter__())
    await asyncio.wait_for(opening.wait(), 20)
    entering.cancel()
    await asyncio.sleep(0)  # it has been told, and waits for the thread
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert files(tmp_path) == []


async def test_a_file_is_found_by_two_levels_of_its_hash(tmp_path: Path) -> None:
    sha256 = await kept(tmp_path, b"x")
    assert files(tmp_path) == [f"{sha256[:2]}/{sha256}"]
    stored = await Folder(tmp_path).stat(sha256)
    assert stored is not None
    assert (stored.sha256, stored.size) == (sha256, 1)
    async with Folder(tmp_path).local(sha256) as path:
        assert path.read_bytes() == b"x"


async def test_a_listing_goes_shelf_by_shelf_and_knows_addresses_from_other_files(tmp_path: Path) -> None:
    addresses = sorted([await kept(tmp_path, bytes([number])) for number in range(20)])
    (tmp_path / addresses[0][:2] / "notes.txt").write_bytes(b"x")
    listed: list[Stored] = []
    for prefix in PREFIXES:
        some = await Folder(tmp_path).listing(prefix)
        assert all(stored.sha256.startswith(prefix) for stored in some)
        listed += some
    assert [stored.sha256 for stored in listed] == addresses


async def test_a_file_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert await folder.stat("0" * 64) is None
    with pytest.raises(ReadingFailed, match="Upload it again"):
        await folder.hash("0" * 64)


async def test_what_really_lies_at_an_address_is_hashed(tmp_path: Path) -> None:
    sha256 = await kept(tmp_path, b"right")
    assert await Folder(tmp_path).hash(sha256) == sha256
    Folder(tmp_path).path(sha256).write_bytes(b"wrong")
    assert await Folder(tmp_path).hash(sha256) == hashlib.sha256(b"wrong").hexdigest()


async def test_a_commit_can_be_repeated_when_the_file_was_removed_in_between(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    content = b"x" * (2 * BUFFER_BYTES + 7)
    async with Incoming(folder) as file:
        await file.write(content)
        first = await file.commit()
        for _ in range(2):
            assert await folder.remove(first[0])
            assert await file.commit() == first
            assert folder.path(first[0]).read_bytes() == content
    assert files(tmp_path) == [f"{first[0][:2]}/{first[0]}"]


STEPS = {
    "the temporary file": (tempfile, "mkstemp"),
    "the bytes": (os, "write"),
    "forcing them to the disk": (os, "fsync"),
    "the shelf": (Path, "mkdir"),
    "the name": (Path, "replace"),
}


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "is full"), (errno.EIO, "cannot be used")])
@pytest.mark.parametrize("step", STEPS)
async def test_a_disk_that_fails_is_no_defect_of_ours_leaves_nothing_and_can_be_put_right(
    tmp_path: Path, step: str, number: int, said: str
) -> None:
    def fails(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    async def send() -> tuple[str, int]:
        async with Incoming(Folder(tmp_path)) as file:
            await file.write(b"x" * 2 * BUFFER_BYTES)
            return await file.commit()

    await Folder(tmp_path).prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*STEPS[step], fails)
        with pytest.raises(Unavailable, match=said):
            await send()
    assert files(tmp_path) == []
    sha256, _ = await send()
    assert files(tmp_path) == [f"{sha256[:2]}/{sha256}"]


def test_the_settings_say_where_files_are(tmp_path: Path) -> None:
    settings = load(environ={"GATHERUM_CONFIG": "/dev/null"}).blobs

    def at(url: str) -> blobs.Blobs:
        return open_blobs(settings.model_copy(update={"url": url}), tmp_path)

    for url, folder in {"": tmp_path / "blobs", "file:///mnt/a%20share": Path("/mnt/a share")}.items():
        place = at(url)
        assert isinstance(place, Folder)
        assert (place.folder, pickle.loads(pickle.dumps(place)).folder) == (folder, folder)  # noqa: S301 -- ours
    for url in ("blobs", "file://host/share", "ftp://x/y", "s3://", "s3://key:secret@bucket"):
        with pytest.raises(InvalidInput, match=r"^blobs\.url is"):
            at(url)


@pytest.mark.parametrize("error", [RuntimeError("client went away"), asyncio.CancelledError()])
async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    async def broken() -> None:
        async with Incoming(Folder(tmp_path)) as file:
            await file.write(b"x" * BUFFER_BYTES)
            assert len(files(tmp_path)) == 1
            raise error

    with pytest.raises(type(error)):
        await broken()
    assert files(tmp_path) == []


async def test_flushed_bytes_can_be_read_before_the_commit(tmp_path: Path) -> None:
    async with Incoming(Folder(tmp_path)) as file:
        await file.write(b"%PDF-1.7")
        await file.flush()
        assert file.path.read_bytes() == b"%PDF-1.7"


async def test_the_same_file_again_heals_a_damaged_one(tmp_path: Path) -> None:
    for _ in range(2):
        async with Incoming(Folder(tmp_path)) as file:
            await file.write(b"right")
            sha256, _ = await file.commit()
        assert Folder(tmp_path).path(sha256).read_bytes() == b"right"
        Folder(tmp_path).path(sha256).write_bytes(b"wrong")


async def test_a_commit_reaches_the_disk_before_the_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(fd: int) -> None:
        events.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().relative_to(tmp_path)}")
        fsync(fd)

    def watched_replace(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    await Folder(tmp_path / "data" / "blobs").prepare()
    assert events == ["sync .", "sync data", "sync data/blobs"], "each new folder is an entry of another"
    events.clear()
    async with Incoming(Folder(tmp_path / "data" / "blobs")) as file:
        await file.write(b"x")
        await file.commit()
        name = file.path.name
    folder = f"data/blobs/{hashlib.sha256(b'x').hexdigest()[:2]}"
    assert events == [f"sync data/blobs/incoming/{name}", "rename", f"sync {folder}", "sync data/blobs"]


async def test_removing_says_whether_there_was_a_file(tmp_path: Path) -> None:
    sha256 = await kept(tmp_path, b"x")
    assert await Folder(tmp_path).remove(sha256) is True
    assert await Folder(tmp_path).remove(sha256) is False
    assert await Folder(tmp_path).stat(sha256) is None


async def test_only_uploads_that_nobody_writes_to_any_more_are_swept(tmp_path: Path) -> None:
    await Folder(tmp_path).prepare()
    old, new = (tmp_path / "incoming" / name for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert await Folder(tmp_path).sweep_incoming(older_than_s=3600) == 1
    assert files(tmp_path) == ["incoming/new"]
