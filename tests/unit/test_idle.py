"""Connections between two statements."""

from __future__ import annotations

import asyncio

import pytest

from actors.messages import Source
from actors.sql import idle
from actors.sql.idle import Idle

A, B = Source("a", "sqlite", "a.db"), Source("b", "sqlite", "b.db")


@pytest.fixture
def closed() -> list[str]:
    return []


@pytest.fixture
def kept(closed: list[str]) -> Idle[str]:
    async def close(connection: str) -> None:
        closed.append(connection)

    return Idle(close, keep=2)


async def test_the_one_used_last_is_taken_first_and_only_by_its_source(kept: Idle[str]) -> None:
    kept.give(A, "one")
    kept.give(A, "two")
    assert kept.take(B) is None
    assert [kept.take(A), kept.take(A), kept.take(A)] == ["two", "one", None]
    await kept.close()


async def test_more_than_are_kept_are_closed(kept: Idle[str], closed: list[str]) -> None:
    for connection in ("one", "two", "three"):
        kept.give(A, connection)
    await asyncio.sleep(0)
    assert closed == ["three"]
    await kept.close()
    assert sorted(closed) == ["one", "three", "two"]


async def test_one_that_nobody_wants_goes_with_its_time(
    kept: Idle[str], closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idle, "KEEP_S", 0.0)
    kept.give(A, "one")
    async with asyncio.timeout(5):
        while not closed:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
    assert kept.take(A) is None
    await kept.close()
