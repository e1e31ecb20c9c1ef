"""Copies on a node's disk: whole or not at all, no more than fit, and none taken away from under its user."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from actors.store.cache import LEFT_BEHIND_S, PARTIAL, Cache


class Source:
    """What copies are made of: a kilobyte each, by the address."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def of(self, sha256: str) -> Callable[[Path], None]:
        def fetch(path: Path) -> None:
            self.fetched.append(sha256)
            path.write_bytes(sha256[:1].encode() * 1000)

        return fetch


def address(number: int) -> str:
    return f"{number:064x}"[::-1]


def copies(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("??/*")}


async def used(cache: Cache, source: Source, number: int) -> None:
    async with cache.lease(address(number), source.of(address(number))):
        pass


async def test_a_file_is_fetched_once_whoever_asks(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path, 10**6)
    async with AsyncExitStack() as stack:
        leases = [cache.lease(address(1), source.of(address(1))) for _ in range(8)]
        paths = await asyncio.gather(*map(stack.enter_async_context, leases))
        assert {path.read_bytes() for path in paths} == {b"1" * 1000}
    await used(Cache(tmp_path, 10**6), source, 1)
    assert source.fetched == [address(1)]
    assert list((tmp_path / PARTIAL).iterdir()) == []


async def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path, 3000)
    for number in (1, 2, 3):
        await used(cache, source, number)
        path = next(tmp_path.glob(f"??/{address(number)}"))
        os.utime(path, (number, number))
    await used(cache, source, 1)
    await used(cache, source, 4)
    assert copies(tmp_path) == {address(1), address(3), address(4)}


async def test_a_copy_in_use_stays_even_if_another_process_needs_the_room(tmp_path: Path) -> None:
    source = Source()
    async with Cache(tmp_path, 1000).lease(address(1), source.of(address(1))) as path:
        # Locks belong to the open file, so another cache of this process is as good as one of another process.
        other = Cache(tmp_path, 1000)
        await used(other, source, 2)
        await used(other, source, 3)
        assert path.read_bytes() == b"1" * 1000
    await used(other, source, 4)
    assert address(1) not in copies(tmp_path)
    assert len(copies(tmp_path)) == 1


async def test_a_fetch_that_fails_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path, 1000)

    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        async with cache.lease(address(1), broken):
            pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    await used(cache, source, 1)
    assert copies(tmp_path) == {address(1)}


async def test_two_that_fetch_at_once_end_with_one_copy_that_both_hold(tmp_path: Path) -> None:
    source = Source()
    inner: list[Path] = []

    def slow(path: Path) -> None:
        # While this one fetches, another process does so too, and is faster.
        asyncio.run(used(Cache(tmp_path, 10**6), source, 1))
        inner.extend(tmp_path.glob("??/*"))
        path.write_bytes(b"1" * 1000)

    async with Cache(tmp_path, 10**6).lease(address(1), slow) as path:
        assert [path] == inner
        await used(Cache(tmp_path, 0), source, 2)
        assert path.exists(), "it holds the copy that is there, not the one it made"


async def test_what_a_killed_fetch_has_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).mkdir()
    old, new = (tmp_path / PARTIAL / name for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    await used(Cache(tmp_path, 10**6), Source(), 1)
    assert [path.name for path in (tmp_path / PARTIAL).iterdir()] == ["new"]
    assert LEFT_BEHIND_S > 600


async def test_a_caller_that_goes_away_while_it_is_fetched_holds_nothing(tmp_path: Path) -> None:
    source, cache = Source(), Cache(tmp_path, 0)
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(path: Path) -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        path.write_bytes(b"1" * 1000)

    async def ask() -> None:
        async with cache.lease(address(1), slow):
            pass

    asking = asyncio.create_task(ask())
    await began.wait()
    asking.cancel()
    await asyncio.wait((asking,))
    go_on.set()
    while not copies(tmp_path):  # noqa: ASYNC110 -- nobody is told of it any more
        await asyncio.sleep(0)
    while copies(tmp_path) >= {address(1)}:
        await used(cache, source, 2)
