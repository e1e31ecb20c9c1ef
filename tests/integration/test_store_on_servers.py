"""What unit tests ask of the store on SQLite, asked of PostgreSQL and MariaDB: the same tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from servers import Kind, Server
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import emptied_database, open_database, soon, upload
from unit import test_entity_rows as entities_on_sqlite
from unit import test_store as on_sqlite
from unit import test_vectors as vectors_on_sqlite

from actors.database import Database
from actors.store.tables import idempotency_keys

ONLY_SQLITE = {
    "test_health_tells_that_a_disk_is_nearly_full",  # of a server it cannot be known
    "test_a_call_without_time_does_not_start_and_one_that_runs_out_of_it_leaves_nothing",  # one writer at a time
    "test_a_database_that_is_busy_is_unavailable_and_tells_nothing",
    "test_a_defect_is_not_worth_a_retry_and_tells_nothing",
    "test_every_connection_is_set_up",
    "test_only_writing_transactions_take_the_write_lock",
    "test_health_tells_how_the_store_is",
}

TESTS = {
    name: test
    for module in (on_sqlite, entities_on_sqlite, vectors_on_sqlite)
    for name, test in vars(module).items()
    if name.startswith("test_")
    and name not in ONLY_SQLITE
    and {"database", "library", "store_url"} & set(test.__code__.co_varnames[: test.__code__.co_argcount])
}
globals().update(TESTS)

fake_sources = on_sqlite.fake_sources
library = entities_on_sqlite.library


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest, server_of: Callable[[Kind], Server]) -> Server:
    return server_of(request.param)


@pytest.fixture
async def store_url(server: Server, tmp_path: Path) -> str:
    url = server.url(server.reused_database())
    async with emptied_database(tmp_path, url):
        return url


@pytest.fixture
async def database(tmp_path: Path, store_url: str) -> AsyncIterator[Database]:
    async with open_database(tmp_path, url=store_url) as database:
        yield database


def test_there_are_tests_to_run() -> None:
    assert len(TESTS) > 25


async def test_health_names_the_database_and_how_fast_it_answers(database: Database) -> None:
    health = await database.health(deadline=soon())
    assert health.ready
    assert health.detail["dialect"] in ("postgresql", "mysql")
    assert 0 < health.detail["round_trip_ms"] < 5000


async def test_a_document_that_was_sent_under_any_number_of_keys_can_be_deleted(
    database: Database, tmp_path: Path
) -> None:
    """Servers take 32,767 parameters in one statement."""
    accepted = await database.accept(await upload(tmp_path), deadline=soon())
    row = {"fingerprint": "", "document_id": accepted.document_id, "job_id": "", "duplicate": True, "created_at": 1e10}

    async def send(connection: AsyncConnection, now: float) -> None:
        await connection.execute(insert(idempotency_keys), [{"name": str(number), **row} for number in range(33_000)])

    await database._store.write(send)
    removed = await database.delete_document(accepted.document_id, deadline=soon())
    assert removed.idempotency_keys == 33_000
