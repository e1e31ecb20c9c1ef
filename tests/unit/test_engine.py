"""Units of work: which are run again after which errors, how often, and how long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncTransaction
from stores import DEFAULTS

from actors.errors import Conflict, GatherumError, Unavailable
from actors.store import dialect, engine
from actors.store.engine import Store


class Naps:
    """Stands for `asyncio.sleep`, and moves its own clock on.

    Attributes:
        taken: s.
    """

    def __init__(self) -> None:
        self.taken: list[float] = []

    def clock(self) -> float:
        return sum(self.taken)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
async def store(tmp_path: Path, naps: Naps) -> AsyncIterator[Store]:
    url = dialect.parse_url(f"sqlite:///{tmp_path / 'x.db'}")
    store = await asyncio.to_thread(Store, url, DEFAULTS.database, sleep=naps, clock=naps.clock)
    await store.write(lambda connection, now: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    yield store
    await store.close()


def lost() -> DBAPIError:
    return DBAPIError("x", {}, Exception("x"), connection_invalidated=True)


class Unit:
    """Inserts a row, and fails the first times.

    Attributes:
        runs: so far.
    """

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.runs = 0

    async def __call__(self, connection: AsyncConnection, now: float) -> int:
        self.runs += 1
        await connection.execute(text("INSERT INTO t VALUES (1)"))
        if self.errors:
            raise self.errors.pop(0)
        return self.runs


async def rows(store: Store) -> int:
    found = await store.read(lambda connection: connection.scalar(text("SELECT count(*) FROM t")))
    assert isinstance(found, int)
    return found


@pytest.mark.parametrize("repeatable", [True, False])
async def test_what_has_not_been_committed_is_run_again(store: Store, naps: Naps, repeatable: bool) -> None:
    unit = Unit(lost(), ConnectionResetError("gone"), lost())
    assert await store.write(unit, repeatable=repeatable) == 4
    assert await rows(store) == 1
    assert len(naps.taken) == 3


async def test_pauses_grow_and_end_with_the_budget(store: Store, naps: Naps) -> None:
    unit = Unit(*[lost() for _ in range(1000)])
    with pytest.raises(Unavailable):
        await store.write(unit)
    assert unit.runs == len(naps.taken) + 1
    for number, nap in enumerate(naps.taken):
        full = min(engine.LONGEST_PAUSE_S, engine.PAUSE_S * 2**number)
        assert full / 2 <= nap <= full
    assert DEFAULTS.database.retry_s - engine.LONGEST_PAUSE_S <= sum(naps.taken) < DEFAULTS.database.retry_s
    assert await rows(store) == 0


@pytest.mark.parametrize("error", [Conflict("no"), ValueError("no"), DBAPIError("x", {}, Exception("a defect"))])
async def test_what_would_fail_again_is_not_tried_again(store: Store, error: Exception) -> None:
    unit = Unit(error)
    with pytest.raises((GatherumError, ValueError)):
        await store.write(unit)
    assert unit.runs == 1
    assert await rows(store) == 0


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("came_through", [True, False])
async def test_after_a_commit_of_unknown_outcome_only_the_repeatable_are_run_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, repeatable: bool, came_through: bool
) -> None:
    commit = AsyncTransaction.commit
    lose = [lost()]

    async def losing(transaction: AsyncTransaction) -> None:
        if came_through or not lose:
            await commit(transaction)
        if lose:
            raise lose.pop()

    monkeypatch.setattr(AsyncTransaction, "commit", losing)
    unit = Unit()
    if repeatable:
        assert await store.write(unit, repeatable=True) == 2
    else:
        with pytest.raises(Unavailable, match="whether it was made is unknown"):
            await store.write(unit)
    assert await rows(store) == int(came_through) + int(repeatable)


async def test_while_one_waits_for_its_next_try_others_get_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    resting, wake = asyncio.Event(), asyncio.Event()

    async def nap(seconds: float) -> None:
        resting.set()
        await wake.wait()

    monkeypatch.setattr(store, "_sleep", nap)
    unlucky = asyncio.create_task(store.write(Unit(lost())))
    await resting.wait()
    assert await store.write(Unit()) == 1
    wake.set()
    assert await unlucky == 2


async def test_one_that_waits_for_its_next_try_can_be_cancelled(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    resting = asyncio.Event()

    async def nap(seconds: float) -> None:
        resting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "_sleep", nap)
    unit = Unit(lost())
    caller = asyncio.create_task(store.write(unit))
    await resting.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert unit.runs == 1


async def test_a_ping_is_tried_once(store: Store, naps: Naps, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await store.ping() >= 0

    async def away(connection: AsyncConnection) -> float:
        raise lost()

    monkeypatch.setattr(engine, "now", away)
    with pytest.raises(Unavailable):
        await store.ping()
    assert naps.taken == []
