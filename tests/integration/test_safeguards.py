"""What the tests of crashes are worth: with a safeguard taken away, the same checks find the damage.

Taken away are, one at a time, the fence, the unique keys, and the fsync that comes before the row.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import pytest
from crashing import Fault, Found, Log, Plan, Process, Safeguard, end_all, look, prepare, until
from harness import pdf
from history import Contents
from servers import Kind, Server
from sqlalchemy import make_url

Key = Literal["documents", "pages"]

KEYS: Final[dict[Kind, dict[Key, str]]] = {
    "sqlite": {
        "documents": "CREATE TABLE d AS SELECT * FROM documents; DROP TABLE documents;"
        "ALTER TABLE d RENAME TO documents",
        "pages": "CREATE TABLE p AS SELECT * FROM pages; DROP TABLE pages; ALTER TABLE p RENAME TO pages;"
        "CREATE TABLE c AS SELECT * FROM chunks; DROP TABLE chunks; ALTER TABLE c RENAME TO chunks",
    },
    "postgresql": {
        "documents": "ALTER TABLE documents DROP CONSTRAINT uq_documents_collection_sha256",
        "pages": "ALTER TABLE pages DROP CONSTRAINT pk_pages;"
        "ALTER TABLE chunks DROP CONSTRAINT uq_chunks_sha256_pipeline_page_ordinal",
    },
    "mysql": {
        # The foreign key needs an index of its own then.
        "documents": "ALTER TABLE documents ADD INDEX (collection), DROP INDEX uq_documents_collection_sha256",
        "pages": "ALTER TABLE pages DROP PRIMARY KEY;"
        "ALTER TABLE chunks DROP INDEX uq_chunks_sha256_pipeline_page_ordinal",
    },
}
"""How to take a unique key away; with that of pages goes the one of chunks, which would do in its place."""

MOONS: Final = pdf("Titan orbits Saturn.", "Europa orbits Jupiter.", "Triton orbits Neptune.")


@dataclass
class Stage:
    """A store, an inbox with the same file for two collections, and what is left of that where nothing goes wrong."""

    plan: Plan
    undisturbed: Contents

    async def faults(self) -> list[str]:
        found: Found = await look(self.plan)
        return found.faults(self.undisturbed, Log(self.plan.folder).told())


_undisturbed: dict[Kind, Contents] = {}


@pytest.fixture
async def stage(store_kind: Kind, fresh_database: Callable[[Kind], str], tmp_path: Path) -> Stage:
    if store_kind not in _undisturbed:
        calm = await prepared(Plan(fresh_database(store_kind), tmp_path / "calm", "calm"))
        await see_through(calm)
        _undisturbed[store_kind] = (await look(calm)).contents
    plan = await prepared(Plan(fresh_database(store_kind), tmp_path / "storm", "first"))
    return Stage(plan, _undisturbed[store_kind])


async def prepared(plan: Plan) -> Plan:
    for collection in ("main", "other"):
        (plan.folder / "inbox" / collection).mkdir(parents=True)
        (plan.folder / "inbox" / collection / "moons.pdf").write_bytes(MOONS)
    await prepare(plan)
    return plan


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    end_all()


@pytest.mark.parametrize("without", [None, "fence"])
async def test_the_fence(stage: Stage, without: Safeguard | None) -> None:
    """A worker sleeps past its lease and goes on."""
    plan = replace(stage.plan, without=without)
    first = Process(replace(plan, fault=Fault("page", 2, "stop")))
    await until(lambda: Log(plan.folder).reached("first") and first.stopped(), "the first to stop")
    await see_through(replace(plan, name="second"))
    first.send(signal.SIGCONT)
    assert await first.end() == 0, first.said()
    faults = await stage.faults()
    assert any("stale" in fault for fault in faults) == any("published twice" in fault for fault in faults)
    assert bool(faults) == (without is not None)


@pytest.mark.parametrize("without", [True, False])
async def test_the_key_of_pages(
    stage: Stage, without: bool, store_kind: Kind, server_of: Callable[[Kind], Server]
) -> None:
    """Two workers read the same file at the same time, for two collections."""
    if without:
        drop_key("pages", store_kind, stage.plan.url, server_of)
    log = Log(stage.plan.folder)
    first = Process(replace(stage.plan, fault=Fault("page", 1, "hold")))
    await until(lambda: log.reached("first"), "the first to read")
    second = Process(replace(stage.plan, name="second"))
    await until(lambda: any(one.operation == "publish" for one in log.told()), "the second to publish")
    stage.plan.gate.unlink()
    assert await first.end() == await second.end() == 0, first.said() + second.said()
    assert any(fault.startswith("pages: 1 too many") for fault in await stage.faults()) == without


@pytest.mark.parametrize("without", [True, False])
async def test_the_key_of_documents(
    stage: Stage, without: bool, store_kind: Kind, server_of: Callable[[Kind], Server]
) -> None:
    """A client whose upload was not answered sends it again."""
    if without:
        drop_key("documents", store_kind, stage.plan.url, server_of)
    await die_and_see_through(stage.plan, Fault("accepted"))
    assert any(fault.startswith("documents: 1 too many") for fault in await stage.faults()) == without


@pytest.mark.parametrize("store_kind", ["sqlite"], indirect=True)  # files are the same beside any database
@pytest.mark.parametrize("without", [None, "fsync of files", "fsync of folders"])
async def test_the_fsync(stage: Stage, without: Safeguard | None) -> None:
    """The power fails when uploads have been answered."""
    await die_and_see_through(replace(stage.plan, without=without), Fault("claimed"))
    assert any(fault.startswith("files: 1 missing") for fault in await stage.faults()) == (without is not None)


async def see_through(plan: Plan) -> None:
    process = Process(plan)
    assert await process.end() == 0, process.said()


async def die_and_see_through(plan: Plan, fault: Fault) -> None:
    first = Process(replace(plan, fault=fault))
    assert await first.end() == -signal.SIGKILL, first.said()
    await see_through(replace(plan, name="second"))


def drop_key(key: Key, kind: Kind, url: str, server_of: Callable[[Kind], Server]) -> None:
    database = make_url(url).database or ""
    if kind == "sqlite":
        with closing(sqlite3.connect(database)) as connection:
            connection.executescript("PRAGMA legacy_alter_table=ON;" + KEYS[kind][key])
    else:
        server_of(kind).administer(KEYS[kind][key], database)
