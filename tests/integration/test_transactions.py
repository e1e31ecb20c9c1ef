"""Units of work on real servers: connections that are cut at the COMMIT, killed sessions, deadlocks, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import page_reading
from proxy import Cut, Proxy
from servers import Kind, Server
from sqlalchemy import event, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import DEFAULTS, emptied_database, open_database, publish, soon, upload, writes_of

from actors.database import Database
from actors.errors import Unavailable
from actors.messages import Accepted, Embeddings, Fitted, Lease, Source, StoredLookup, Tended
from actors.reading import PIPELINE
from actors.store import dialect
from actors.store.engine import Store
from actors.store.tables import counters, idempotency_keys, metadata

SERVERS: tuple[Kind, ...] = ("postgresql", "mysql")


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def server(kind: Kind, server_of: Callable[[Kind], Server]) -> Server:
    return server_of(kind)


@pytest.fixture
def reused_database(server: Server) -> str:
    return server.reused_database()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with Proxy(server.port).open() as proxy:
        yield proxy


@pytest.fixture
async def database(server: Server, reused_database: str, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Database]:
    url = server.url(reused_database, port=proxy.port)
    async with emptied_database(tmp_path, url, sqlite_root=tmp_path) as database:
        yield database


async def accepted(database: Database, folder: Path) -> Accepted:
    return await database.accept(await upload(folder, pages=2), deadline=soon())


async def claimed(database: Database, folder: Path) -> Lease:
    await accepted(database, folder)
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    return lease


async def read(database: Database, folder: Path) -> Lease:
    lease = await claimed(database, folder)
    await database.commit_pages(lease.job_id, lease.fence, (page_reading(1), page_reading(2)), deadline=soon())
    return lease


async def published(database: Database, folder: Path) -> Lease:
    lease = await read(database, folder)
    await database.publish(lease.job_id, lease.fence, deadline=soon())
    return lease


async def failed(database: Database, folder: Path) -> Lease:
    lease = await claimed(database, folder)
    await database.fail(lease.job_id, lease.fence, "no", None, deadline=soon())
    return lease


async def embedded(database: Database, folder: Path) -> None:
    await published(database, folder)
    await _embed(database)


async def _embed(database: Database) -> None:
    pages = await database.unembedded("e", 10, deadline=soon())
    made = [replace(page, embeddings=Embeddings.of("e", np.ones((len(page.chunks), 2)))) for page in pages]
    await database.add_vectors(made, deadline=soon())


async def neglected(database: Database, folder: Path) -> None:
    """A reading that was superseded, a document that is to be read again, and a key that is too old."""
    await published(database, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.database.PIPELINE", PIPELINE + 1)
        await database.tend(10, deadline=soon())
        lease = await database.claim("w", 30.0, deadline=soon())
        assert lease is not None
        await database.commit_pages(lease.job_id, lease.fence, (page_reading(1), page_reading(2)), deadline=soon())
        await database.publish(lease.job_id, lease.fence, deadline=soon())
    await publish(database, folder, [page_reading(1)], b"two", idempotency_key="k")
    await database._store.write(
        lambda connection, now: connection.execute(update(idempotency_keys).values(created_at=1.0))
    )


async def _tend(database: Database) -> Tended:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.database.PIPELINE", PIPELINE + 1)
        return await database.tend(10, deadline=soon())


LOOKUP = StoredLookup("shop", "all", "All things", "SELECT name FROM things")


async def _add_source(database: Database, folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "shop.db")) as shop:
        shop.execute("CREATE TABLE IF NOT EXISTS things (name TEXT)")
    await database.add_source(Source("shop", "sqlite", "shop.db"), deadline=soon())


async def _add_source_first(database: Database, folder: Path) -> None:
    await _add_source(database, folder)


async def nothing(database: Database, folder: Path) -> None:
    return None


# What was done before, the call under test, and what of its answer does not differ from run to run.
CALLS: dict[str, tuple[Any, Callable[[Database, Any, Path], Awaitable[Any]], Callable[[Any], Any]]] = {
    "accept": (nothing, lambda db, _, folder: accepted(db, folder), lambda answer: answer.duplicate),
    "accept under a key": (
        nothing,
        lambda db, _, folder: _accept_under_a_key(db, folder),
        lambda answer: answer.duplicate,
    ),
    "claim": (
        accepted,
        lambda db, _, folder: db.claim("w", 30.0, deadline=soon()),
        lambda lease: (lease.fence, lease.attempt, lease.missing),
    ),
    "heartbeat": (claimed, lambda db, got, _: db.heartbeat(got.job_id, got.fence, 30.0, deadline=soon()), bool),
    "commit_pages": (
        claimed,
        lambda db, got, _: db.commit_pages(got.job_id, got.fence, (page_reading(1), page_reading(2)), deadline=soon()),
        int,
    ),
    "publish": (
        read,
        lambda db, got, _: db.publish(got.job_id, got.fence, deadline=soon()),
        lambda change: (change.number, change.kind),
    ),
    "fail": (claimed, lambda db, got, _: db.fail(got.job_id, got.fence, "no", None, deadline=soon()), bool),
    "fail, to be tried again": (
        claimed,
        lambda db, got, _: db.fail(got.job_id, got.fence, "no", 60.0, deadline=soon()),
        bool,
    ),
    "release": (claimed, lambda db, got, _: db.release(got.job_id, got.fence, deadline=soon()), bool),
    "cancel_job": (claimed, lambda db, got, _: db.cancel_job(got.job_id, deadline=soon()), lambda job: job.state),
    "delete_document": (
        published,
        lambda db, got, _: db.delete_document(got.document_id, deadline=soon()),
        lambda removed: removed,
    ),
    "create_collection": (nothing, lambda db, *_: db.create_collection("new", deadline=soon()), bool),
    "retry_job": (failed, lambda db, got, _: db.retry_job(got.job_id, deadline=soon()), lambda job: job.state),
    "tend, what is read again": (neglected, lambda db, *_: _tend(db), lambda done: done),
    "tend, keys": (neglected, lambda db, *_: _tend(db), lambda done: done),
    "tend, what was superseded": (neglected, lambda db, *_: _tend(db), lambda done: done),
    "forget_vectors": (embedded, lambda db, *_: db.forget_vectors("another", deadline=soon()), int),
    "add_source": (nothing, lambda db, _, folder: _add_source(db, folder), bool),
    "add_lookup": (_add_source_first, lambda db, *_: db.add_lookup(LOOKUP, deadline=soon()), bool),
}
PASSING = {"tend, keys": 1, "tend, what was superseded": 2}
"""COMMITs of a call before the one that is cut; none of the others."""

# Calls that make their announcement again, which those who follow do not mind: what was before, and the call.
AGAIN: dict[str, tuple[Any, Callable[[Database, Any], Awaitable[Any]], str]] = {
    "announce": (published, lambda db, got: db.announce([got.document_id], deadline=soon()), "gap"),
    "add_vectors": (published, lambda db, _: _embed(db), "publish"),
    "keep_fitted": (
        nothing,
        lambda db, _: db.keep_fitted(Fitted("fast:e", "1", 3, b"abc"), deadline=soon()),
        "encoder",
    ),
    "refresh_source": (_add_source_first, lambda db, _: db.refresh_source("shop", deadline=soon()), "sources"),
}


async def _accept_under_a_key(database: Database, folder: Path) -> Accepted:
    return await database.accept(await upload(folder, pages=2, idempotency_key="k"), deadline=soon())


async def rows(database: Database) -> dict[str, int]:
    async def work(connection: AsyncConnection) -> dict[str, int]:
        found = {}
        for table in metadata.sorted_tables:
            found[table.name] = (await connection.execute(select(func.count()).select_from(table))).scalar_one()
        found["fence"] = (await connection.execute(text("SELECT coalesce(sum(fence), 0) FROM jobs"))).scalar_one()
        found["attempts"] = (await connection.execute(text("SELECT coalesce(sum(attempt), 0) FROM jobs"))).scalar_one()
        return found

    return await database._store.read(work)


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("what", CALLS)
async def test_a_commit_of_unknown_outcome_happens_once_and_answers_as_if_nothing_had_been(
    database: Database, proxy: Proxy, tmp_path: Path, what: str, cut: Cut
) -> None:
    before, call, comparable = CALLS[what]
    async with open_database(tmp_path / "calm", sqlite_root=tmp_path / "calm") as calm:
        wanted = comparable(await call(calm, await before(calm, tmp_path / "calm"), tmp_path / "calm"))
        wanted_rows = await rows(calm)
    prepared = await before(database, tmp_path)
    proxy.arm(cut, passing=PASSING.get(what, 0))
    answer = await call(database, prepared, tmp_path)
    assert not proxy.armed, "the cut has happened"
    assert comparable(answer) == wanted
    assert await rows(database) == wanted_rows


@pytest.mark.parametrize("cut", Cut)
@pytest.mark.parametrize("what", AGAIN)
async def test_an_announcement_of_unknown_outcome_is_made_again(
    database: Database, proxy: Proxy, tmp_path: Path, what: str, cut: Cut
) -> None:
    before, call, kind = AGAIN[what]
    async with open_database(tmp_path / "calm", sqlite_root=tmp_path / "calm") as calm:
        await call(calm, await before(calm, tmp_path / "calm"))
        wanted = await rows(calm)
    prepared = await before(database, tmp_path)
    known = await database.last_change(deadline=soon())
    proxy.arm(cut)
    await call(database, prepared)
    assert not proxy.armed
    seen = await database.changes(0, 0.0, 100, deadline=soon())
    assert [change.number for change in seen] == list(range(1, len(seen) + 1))
    assert kind in {change.kind for change in seen[known:]}
    assert {**await rows(database), "changes": wanted["changes"]} == wanted


def test_what_is_run_again_is_tested_so() -> None:
    calls = [name for name, _ in inspect.getmembers(Database, inspect.isfunction) if any(writes_of(name))]
    assert {name.split()[0].rstrip(",") for name in (*CALLS, *AGAIN)} == set(calls)


@pytest.mark.parametrize("cut", Cut)
async def test_who_is_not_repeatable_hears_that_the_outcome_is_unknown(
    database: Database, proxy: Proxy, cut: Cut
) -> None:
    runs = 0

    async def work(connection: AsyncConnection, now: float) -> None:
        nonlocal runs
        runs += 1
        await connection.execute(update(counters).values(value=counters.c.value + 1))

    proxy.arm(cut)
    with pytest.raises(Unavailable, match="whether it was made is unknown"):
        await database._store.write(work)
    assert runs == 1
    value = await database._store.read(lambda connection: connection.scalar(select(counters.c.value)))
    assert value == (1 if cut is Cut.AFTER else 0)


async def test_a_connection_lost_before_the_commit_costs_nothing(
    database: Database, server: Server, kind: Kind
) -> None:
    runs = 0

    async def work(connection: AsyncConnection, now: float) -> int:
        nonlocal runs
        runs += 1
        await connection.execute(update(counters).values(value=counters.c.value + 1))
        if runs == 1:
            own = "pg_backend_pid()" if kind == "postgresql" else "CONNECTION_ID()"
            session = (await connection.execute(text(f"SELECT {own}"))).scalar_one()
            kill = f"SELECT pg_terminate_backend({session})" if kind == "postgresql" else f"KILL {session}"
            await asyncio.to_thread(server.administer, kill)
        value: int = (await connection.execute(select(counters.c.value))).scalar_one()
        return value

    assert await database._store.write(work) == 1
    assert runs == 2


@pytest.mark.parametrize(("idle_s", "failures"), [(0.0, 0), (math.inf, 1)])
async def test_a_connection_that_broke_while_idle_is_replaced_before_use_and_a_busy_one_after_it_failed(
    database: Database, server: Server, kind: Kind, monkeypatch: pytest.MonkeyPatch, idle_s: float, failures: int
) -> None:
    own = "pg_backend_pid()" if kind == "postgresql" else "CONNECTION_ID()"
    failed: list[str] = []
    event.listen(database._store._writers.sync_engine, "handle_error", lambda context: failed.append(context.statement))

    async def session(connection: AsyncConnection, now: float) -> int:
        number: int = (await connection.execute(text(f"SELECT {own}"))).scalar_one()
        return number

    first = await database._store.write(session)
    kill = f"SELECT pg_terminate_backend({first})" if kind == "postgresql" else f"KILL {first}"
    await asyncio.to_thread(server.administer, kill)
    monkeypatch.setattr(dialect, "IDLE_S", idle_s)
    assert await database._store.write(session) != first
    assert len(failed) == failures


async def test_of_two_in_a_deadlock_both_come_through(database: Database) -> None:
    await database._store.write(
        lambda connection, now: connection.execute(counters.insert(), {"name": "x", "value": 0})
    )
    met = asyncio.Barrier(2)
    runs = 0

    def in_order(*names: str) -> Callable[[AsyncConnection, float], Awaitable[None]]:
        first = True

        async def work(connection: AsyncConnection, now: float) -> None:
            nonlocal first, runs
            runs += 1
            for name in names:
                await connection.execute(
                    update(counters).where(counters.c.name == name).values(value=counters.c.value + 1)
                )
                if first:
                    first = False
                    await met.wait()

        return work

    async with asyncio.TaskGroup() as group:
        group.create_task(database._store.write(in_order("x", "change")))
        group.create_task(database._store.write(in_order("change", "x")))
    assert runs == 3
    values = await database._store.read(
        lambda connection: connection.execute(select(counters.c.name, counters.c.value))
    )
    assert dict(tuple(row) for row in values) == {"x": 2, "change": 2}


async def test_readers_see_one_state_and_cannot_write(database: Database, kind: Kind) -> None:
    async def work(connection: AsyncConnection) -> tuple[int, int]:
        first = (await connection.execute(select(counters.c.value))).scalar_one()
        await database.create_collection("meanwhile", deadline=soon())
        return first, (await connection.execute(select(counters.c.value))).scalar_one()

    assert await database._store.read(work) == (0, 0)


async def test_a_lock_is_waited_for_only_so_long(server: Server, reused_database: str, tmp_path: Path) -> None:
    url = server.url(reused_database)
    async with (
        emptied_database(tmp_path, url) as holder,
        open_database(tmp_path, url=url, busy_timeout_s=1, retry_s=0) as waiter,
    ):
        inside, leave = asyncio.Event(), asyncio.Event()

        async def work(connection: AsyncConnection, now: float) -> None:
            await connection.execute(update(counters).values(value=7))
            inside.set()
            await leave.wait()

        holding = asyncio.create_task(holder._store.write(work))
        await inside.wait()
        with pytest.raises(Unavailable, match="busy"):
            await waiter.create_collection("x", deadline=soon())
        leave.set()
        await holding
        await waiter.create_collection("x", deadline=soon())
        assert await waiter.last_change(deadline=soon()) == 8


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    kind: Kind, server: Server, reused_database: str
) -> None:
    settings = DEFAULTS.database.model_copy(update={"statement_timeout_s": 0.5})
    store = await asyncio.to_thread(Store, dialect.parse_url(server.url(reused_database)), settings)
    # MySQL's own SLEEP is cut short without an error.
    names = ", ".join(f"information_schema.columns AS {name}" for name in "abcd")
    slow = "SELECT pg_sleep(20)" if kind == "postgresql" else f"SELECT COUNT(*) FROM {names}"  # noqa: S608 -- ours
    with pytest.raises(Exception, match="did not finish in time"):
        await store.read(lambda connection: connection.execute(text(slow)))
    await store.close()


async def test_a_restart_of_the_server_is_waited_out(database: Database, server: Server) -> None:
    await database.create_collection("before", deadline=soon())
    await asyncio.to_thread(server.stop)
    waiting = asyncio.create_task(database.create_collection("during", deadline=soon()))
    health = await database.health(deadline=soon())
    assert not health.ready
    assert "cannot be reached" in health.detail["error"]
    await asyncio.to_thread(server.start)
    await waiting
    assert await database.collections(deadline=soon()) == ["before", "during"]
    assert (await database.health(deadline=soon())).detail["round_trip_ms"] < 1000


async def test_text_of_any_kind_comes_back(database: Database) -> None:
    names = ["a", "A", "ä", "a.", "日本", "😀"]

    async def work(connection: AsyncConnection, now: float) -> None:
        for name in names:
            assert await dialect.insert_new(connection, counters, {"name": name, "value": 0})
            assert not await dialect.insert_new(connection, counters, {"name": name, "value": 1})

    await database._store.write(work)
    found = await database._store.read(lambda connection: connection.execute(select(counters.c.name)))
    assert set(found.scalars()) == {*names, "change"}
