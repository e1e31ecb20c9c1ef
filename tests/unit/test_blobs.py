"""Files under their content address: whole or not at all, and nothing left behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.store import blobs
from actors.store.blobs import BUFFER_BYTES, Incoming, blob_path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.binary(max_size=100), max_size=8), repeat=st.sampled_from([1, BUFFER_BYTES // 90]))
async def test_whatever_the_pieces_the_file_is_their_sum_under_its_hash(
    tmp_path: Path, pieces: list[bytes], repeat: int
) -> None:
    async with Incoming(tmp_path) as file:
        for piece in pieces:
            await file.write(piece * repeat)
        sha256, size = await file.commit()
    content = b"".join(piece * repeat for piece in pieces)
    assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert blob_path(tmp_path, sha256).read_bytes() == content
    assert files(tmp_path / "incoming") == []


async def test_a_write_that_outlives_its_upload_touches_no_other_file(tmp_path: Path) -> None:
    """The thread of a cancelled write goes on; by then its descriptor may belong to the next upload."""
    first = Incoming(tmp_path)
    await first.__aenter__()
    number = first._fd
    await first.__aexit__(None, None, None)
    async with Incoming(tmp_path) as second:
        assert second._fd == number, "the next upload gets the number of the one that was closed"
        await second.write(b"mine")
        await asyncio.to_thread(first._append, bytearray(b"theirs"))
        sha256, _ = await second.commit()
    assert blob_path(tmp_path, sha256).read_bytes() == b"mine"


async def test_a_file_is_found_by_two_levels_of_its_hash(tmp_path: Path) -> None:
    async with Incoming(tmp_path) as file:
        await file.write(b"x")
        sha256, _ = await file.commit()
    assert files(tmp_path) == [f"{sha256[:2]}/{sha256}"]
    assert await blobs.exists(tmp_path, sha256)


@pytest.mark.parametrize("error", [RuntimeError("client went away"), asyncio.CancelledError()])
async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    async def broken() -> None:
        async with Incoming(tmp_path) as file:
            await file.write(b"x" * BUFFER_BYTES)
            assert len(files(tmp_path)) == 1
            raise error

    with pytest.raises(type(error)):
        await broken()
    assert files(tmp_path) == []


async def test_flushed_bytes_can_be_read_before_the_commit(tmp_path: Path) -> None:
    async with Incoming(tmp_path) as file:
        await file.write(b"%PDF-1.7")
        await file.flush()
        assert file.path.read_bytes() == b"%PDF-1.7"


async def test_the_same_file_again_heals_a_damaged_one(tmp_path: Path) -> None:
    for _ in range(2):
        async with Incoming(tmp_path) as file:
            await file.write(b"right")
            sha256, _ = await file.commit()
        assert blob_path(tmp_path, sha256).read_bytes() == b"right"
        blob_path(tmp_path, sha256).write_bytes(b"wrong")


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
    (tmp_path / "blobs").mkdir()
    async with Incoming(tmp_path / "blobs") as file:
        await file.write(b"x")
        await file.commit()
        name = file.path.name
    folder = hashlib.sha256(b"x").hexdigest()[:2]
    assert events == [f"sync blobs/incoming/{name}", "rename", f"sync blobs/{folder}", "sync blobs"]


async def test_removing_says_whether_there_was_a_file(tmp_path: Path) -> None:
    async with Incoming(tmp_path) as file:
        await file.write(b"x")
        sha256, _ = await file.commit()
    assert await blobs.remove(tmp_path, sha256) is True
    assert await blobs.remove(tmp_path, sha256) is False
    assert await blobs.exists(tmp_path, sha256) is False


async def test_only_uploads_that_nobody_writes_to_any_more_are_swept(tmp_path: Path) -> None:
    await blobs.prepare(tmp_path)
    old, new = (tmp_path / "incoming" / name for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    assert await blobs.sweep(tmp_path, older_than_s=3600) == 1
    assert files(tmp_path) == ["incoming/new"]
