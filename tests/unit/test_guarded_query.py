"""The one way to run a guarded statement, with SQLite behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Refused
from actors.messages import Source
from actors.sql.access import Own
from actors.sql.running import Column, Limits
from actors.sql.sources import Sources
from actors.sql.sqlite_child import LOWEST

NUMBERS = Source("numbers", "sqlite", "numbers.db")
MANY = Limits(rows=100_000, bytes=50_000_000)
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    connection = sqlite3.connect(tmp_path / "numbers.db")
    connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY, name TEXT, half REAL, data BLOB)")
    connection.executemany(
        "INSERT INTO numbers VALUES (?, ?, ?, ?)", [(n, f"number {n}", n / 2, bytes([n % 256])) for n in range(2000)]
    )
    connection.commit()
    connection.close()
    settings = DEFAULTS.sources.model_copy(update={"sqlite_root": str(tmp_path), "max_concurrent": 2})
    made = Sources(settings, own=Own())
    yield made
    await made.close()


async def ask(
    sources: Sources, sql: str, limits: Limits = MANY, seconds: float = 10, **params: Any
) -> tuple[list[tuple[Any, ...]], bool]:
    async with sources.query(NUMBERS, sql, params, limits, Deadline.after(seconds)) as result:
        rows = await result.rows()
        return rows, result.truncated


async def test_rows_come_in_batches_with_the_names_of_their_columns(sources: Sources) -> None:
    async with sources.query(NUMBERS, "SELECT n, name AS x FROM numbers", {}, MANY, Deadline.after(10)) as result:
        assert result.columns == (Column("n"), Column("x"))
        batches = [batch async for batch in result.batches]
    assert len(batches) > 2
    assert [row for batch in batches for row in batch] == [(n, f"number {n}") for n in range(2000)]
    assert not result.truncated


async def test_values_of_every_kind_survive_both_ways(sources: Sources) -> None:
    params: dict[str, Any] = {"a": 2**62, "b": 0.1, "c": "T\u00e9thys", "d": b"\x00\xff", "e": None, "f": True}
    rows, _ = await ask(sources, "SELECT :a, :b, :c, :d, :e, :f, 9e999, -9e999", **params)
    assert rows == [(2**62, 0.1, "T\u00e9thys", b"\x00\xff", None, 1, float("inf"), float("-inf"))]


@pytest.mark.parametrize(
    ("limits", "rows", "truncated"),
    [
        (Limits(2000, 10**9), 2000, False),
        (Limits(1999, 10**9), 1999, True),
        (Limits(0, 10**9), 0, True),
        (Limits(10**6, 1), 4, True),
    ],
)
async def test_what_is_over_the_limits_is_told(sources: Sources, limits: Limits, rows: int, truncated: bool) -> None:
    found, cut = await ask(sources, "SELECT * FROM numbers", limits)
    assert (len(found), cut) == (rows, truncated)


@pytest.mark.parametrize(
    ("sql", "error", "says"),
    [
        ("SELECT", InvalidInput, "incomplete"),
        ("SELECT absent FROM numbers", InvalidInput, "no such column: absent"),
        ("SELECT :missing", InvalidInput, "missing"),
        ("SELECT 1; SELECT 2", InvalidInput, "one statement"),
        ("-- nothing", InvalidInput, "no rows"),
        ("DELETE FROM numbers", Refused, "only read"),
        ("PRAGMA table_xinfo(numbers)", Refused, "only read"),
    ],
)
async def test_what_cannot_be_asked_is_told(sources: Sources, sql: str, error: type[GatherumError], says: str) -> None:
    with pytest.raises(error, match=says):
        await ask(sources, sql)
    assert await ask(sources, "SELECT count(*) FROM numbers") == ([(2000,)], False)


async def test_a_statement_ends_with_its_deadline(sources: Sources) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="numbers"):
        await ask(sources, ENDLESS, seconds=0.1)
    assert time.monotonic() - began < 1


async def test_what_no_handler_interrupts_dies_with_its_process(sources: Sources) -> None:
    began = time.monotonic()
    with pytest.raises((DeadlineExceeded, Refused)):
        await ask(sources, "SELECT replace(hex(zeroblob(7000000)), '0', printf('%.*c', 1000000, 'x'))", seconds=0.3)
    assert time.monotonic() - began < 2
    assert await ask(sources, "SELECT 1") == ([(1,)], False)


async def test_a_statement_that_is_left_ends_its_process(sources: Sources) -> None:
    waiting = asyncio.create_task(ask(sources, ENDLESS))
    while not (children := _children()):
        await asyncio.to_thread(os.sched_yield)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(2):
        while children & _children():
            await asyncio.to_thread(os.sched_yield)


async def test_a_statement_that_takes_long_lets_others_go_first(sources: Sources) -> None:
    waiting = asyncio.create_task(ask(sources, ENDLESS, seconds=2))
    while not (children := _children()):
        await asyncio.to_thread(os.sched_yield)
    (child,) = children
    assert os.getpriority(os.PRIO_PROCESS, child) == os.getpriority(os.PRIO_PROCESS, 0)
    async with asyncio.timeout(3):
        while os.getpriority(os.PRIO_PROCESS, child) != LOWEST:
            await asyncio.to_thread(os.sched_yield)
    with pytest.raises(DeadlineExceeded):
        await waiting
    assert await ask(sources, "SELECT 1") == ([(1,)], False)
    # It goes on where it may take its priority back, and is replaced where it may not.
    assert [os.getpriority(os.PRIO_PROCESS, each) for each in _children()] == [os.getpriority(os.PRIO_PROCESS, 0)]


async def test_places_of_a_source_are_bounded(sources: Sources) -> None:
    holding = [asyncio.create_task(ask(sources, ENDLESS, seconds=30)) for _ in range(2)]
    while len(_children()) < 2:
        await asyncio.to_thread(os.sched_yield)
    with pytest.raises(DeadlineExceeded, match="Waiting for the source"):
        await ask(sources, "SELECT 1", seconds=0.1)
    for each in holding:
        each.cancel()
    await asyncio.wait(holding)
    assert await ask(sources, "SELECT 1") == ([(1,)], False)


def _children() -> set[int]:
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("sqlite_child" in part for part in child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
    return found


async def test_tables_that_are_known_wait_for_no_look_and_those_that_are_not_no_longer_than_they_may(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await sources.schema(NUMBERS, Deadline.after(10))
    looking = asyncio.Event()

    async def never(*_: Any, **__: Any) -> Any:
        looking.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(sources._engines["sqlite"], "schema", never)
    refreshing = asyncio.create_task(sources.schema(NUMBERS, Deadline.after(60), refresh=True))
    await looking.wait()
    async with asyncio.timeout(2):
        assert await sources.schema(NUMBERS, Deadline.after(10)) is known
        with pytest.raises(DeadlineExceeded, match="tables of the source 'numbers'"):
            await sources.schema(NUMBERS, Deadline.after(0.05), refresh=True)
    refreshing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await refreshing
    monkeypatch.undo()
    assert (await sources.schema(NUMBERS, Deadline.after(10), refresh=True)).tables == known.tables


async def test_a_file_that_takes_the_place_of_another_is_read_at_once(sources: Sources, tmp_path: Path) -> None:
    assert (await ask(sources, "SELECT count(*) FROM numbers"))[0] == [(2000,)]
    connection = sqlite3.connect(tmp_path / "new.db")
    connection.executescript("CREATE TABLE numbers (n INTEGER); INSERT INTO numbers VALUES (1)")
    connection.close()
    (tmp_path / "new.db").replace(tmp_path / "numbers.db")
    assert (await ask(sources, "SELECT count(*) FROM numbers"))[0] == [(1,)]
    (tmp_path / "numbers.db").unlink()
    with pytest.raises(NotFound):
        await ask(sources, "SELECT count(*) FROM numbers")


async def test_a_link_out_of_the_folder_that_takes_the_place_of_a_file_is_not_read(
    sources: Sources, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert (await ask(sources, "SELECT count(*) FROM numbers"))[0] == [(2000,)]
    outside = tmp_path_factory.mktemp("outside") / "secret.db"
    sqlite3.connect(outside).executescript("CREATE TABLE numbers (n INTEGER)").connection.close()
    (tmp_path / "numbers.db").unlink()
    (tmp_path / "numbers.db").symlink_to(outside)
    with pytest.raises(Refused):
        await ask(sources, "SELECT count(*) FROM numbers")
