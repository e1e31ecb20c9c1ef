"""Whatever goes down, and wherever: after a restart the store holds what an undisturbed run leaves, exactly.

Every point is tried on every database with processes that really die. `GATHERUM_CRASHES=10` tries each ten times, with
other seeds: which page, which statement, which commit it is. By default it is once, which is what the minutes that all
tests together may take have room for.

What is not real here: a disk is full when SQLite's file may not grow (`max_page_count`, the same error as of a full
disk), and when a trigger raises the error that PostgreSQL and MariaDB raise then, because a full file system takes
privileges to make. SQLite has no server to restart: somebody else keeps its file locked for longer than one waits.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from crashing import LEASE_S, Act, Fault, Log, Plan, Point, Process, end_all, look, prepare, until
from harness import pdf
from history import Contents, differences
from servers import KINDS, Kind, Server
from sqlalchemy import make_url

REPETITIONS: Final = int(os.environ.get("GATHERUM_CRASHES", "1"))
"""Of each point on each database."""

AT_ONCE: Final = 3

TIMES: Final[dict[Point, int]] = {
    "blob": 3,
    "accepted": 3,
    "claimed": 3,
    "page": 5,
    "publishing": 3,
    "statement": 40,
    "committing": 8,
    "committed": 8,
}
"""How often at least an undisturbed process comes to a point, with the inbox below."""

ServerOf = Callable[[Kind], Server]
FreshDatabase = Callable[[Kind], str]

SIGHTS: Final = (("Titan", "Saturn", "Huygens"), ("Europa", "Jupiter", "Galilei"), ("Triton", "Neptune", "Lassell"))
MOONS: Final = pdf(
    *(
        # Long enough for no page to fit into what an SQLite file has left over.
        " ".join(f"In {year} {who} saw {moon} beside {planet}, and wrote home about it." for year in range(1650, 1680))
        for moon, planet, who in SIGHTS
    ),
    title="Moons",
)
SUNS: Final = pdf("Sirius is bright, and Huygens knew it.", "Aldebaran is red, which Galilei saw too.")


class Trial:
    """One store, an inbox of three documents (one file is in two collections), and the processes that work on them."""

    def __init__(self, folder: Path, url: str, seed: int) -> None:
        folder.mkdir()
        for name, content in {"main/moons": MOONS, "main/suns": SUNS, "other/moons": MOONS}.items():
            path = folder / "inbox" / f"{name}.pdf"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.dice = random.Random(seed)
        self.plan = Plan(url, folder, "first", seed)
        self.second = replace(self.plan, name="second")
        self.log = Log(folder)

    def first(self, point: Point, act: Act = "die", *, times: int | None = None, **more: Any) -> Process:
        """Start the process that goes wrong, at one of the first times it comes to the point."""
        fault = Fault(point, self.dice.randint(1, times or TIMES[point]), act)
        return Process(replace(self.plan, fault=fault, **more))

    async def finish(self) -> None:
        """Start again, and see everything through."""
        second = Process(self.second)
        assert await second.end() == 0, second.said()

    async def reached(self, process: Process) -> None:
        await until(lambda: self.log.reached("first"), f"the fault of\n{process.said()}")


# --- what goes wrong -------------------------------------------------------------------------------------------------


Scenario = Callable[[Trial], Awaitable[None]]


def dies(point: Point) -> Scenario:
    """The process is gone, with all that had not come to the disk."""

    async def scenario(trial: Trial) -> None:
        first = trial.first(point)
        assert await first.end() == -signal.SIGKILL, first.said()
        assert trial.log.reached("first")
        await trial.finish()

    return scenario


async def lies_still(trial: Trial) -> None:
    """The process sleeps past its lease, wakes up when somebody else has done its work, and goes on."""
    first = trial.first(trial.dice.choice(("claimed", "page", "publishing")), "stop")
    await trial.reached(first)
    await until(first.stopped, "the process to stop")
    await trial.finish()
    first.send(signal.SIGCONT)
    assert await first.end() == 0, first.said()
    assert "job_lost" in first.said()


async def holds_locks(trial: Trial) -> None:
    """The process sleeps inside a transaction, with a job's row locked, until the server cuts it off."""
    first = trial.first("statement", "stop")
    await trial.reached(first)
    await until(first.stopped, "the process to stop")
    if trial.plan.url.startswith("sqlite"):
        # There is nobody to cut it off: others wait, and are told so, until it wakes up.
        second = Process(trial.second)
        await until(lambda: bool(trial.log.lines("error")), f"errors of\n{second.said()}")
        first.send(signal.SIGCONT)
        assert await second.end() == 0, second.said()
    else:
        await trial.finish()
        first.send(signal.SIGCONT)
    assert await first.end() == 0, first.said()


async def is_not_heard(trial: Trial) -> None:
    """Its heartbeats do not come through, and it takes longer than its lease: another one takes the job over."""
    first = trial.first("claimed", "note", deaf=True, pace_s=1.5 * LEASE_S)
    await trial.reached(first)
    await trial.finish()
    assert await first.end() == 0, first.said()
    assert "heartbeat_missed" in first.said()


SCENARIOS: Final = {
    "after the blob": dies("blob"),
    "after the enqueue": dies("accepted"),
    "after the claim": dies("claimed"),
    "mid-page": dies("page"),
    "before the commit": dies("committing"),
    "inside the transaction": dies("statement"),
    "after the commit": dies("committed"),
    "before publication": dies("publishing"),
    "asleep past the lease": lies_still,
    "asleep inside the transaction": holds_locks,
    "heartbeats failing": is_not_heard,
}


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=KINDS, scope="module")
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="module")
def urls(kind: Kind, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Stores, as many as there are repetitions, that the tests use again: on a server, making one takes a second."""
    if kind == "sqlite":
        folder = tmp_path_factory.mktemp("stores")
        return [f"sqlite:///{folder / str(number)}.db" for number in range(REPETITIONS)]
    server: Server = request.getfixturevalue({"postgresql": "postgresql_server", "mysql": "mariadb_server"}[kind])
    return [server.url(server.create_database()) for _ in range(REPETITIONS)]


@pytest.fixture
async def trials(undisturbed: Contents, urls: list[str], tmp_path: Path) -> AsyncIterator[list[Trial]]:
    """Ready to start. The undisturbed run, in one of their stores, comes before."""
    made = [Trial(tmp_path / str(seed), url, seed) for seed, url in enumerate(urls)]
    for trial in made:
        await prepare(trial.plan)
    yield made
    end_all()


_undisturbed: dict[Kind, Contents] = {}


@pytest.fixture
async def undisturbed(kind: Kind, urls: list[str], tmp_path: Path) -> Contents:
    """What is left of the inbox where nothing goes wrong."""
    if kind not in _undisturbed:
        trial = Trial(tmp_path / "undisturbed", urls[0], 0)
        await prepare(trial.plan)
        await trial.finish()
        found = await look(trial.plan)
        assert found.faults(found.contents, trial.log.told()) == []
        assert all('"done"' in job for job in found.contents["jobs"])
        _undisturbed[kind] = found.contents
    return _undisturbed[kind]


@pytest.mark.parametrize("what", SCENARIOS)
async def test_a_crash_costs_nothing(what: str, undisturbed: Contents, trials: list[Trial]) -> None:
    await all_of(SCENARIOS[what](trial) for trial in trials)
    await judged(trials, undisturbed)


async def test_a_restart_of_the_database_costs_nothing(
    kind: Kind, trials: list[Trial], undisturbed: Contents, server_of: ServerOf
) -> None:
    firsts = [trial.first("page", "hold") for trial in trials]
    for trial, first in zip(trials, firsts, strict=True):
        await trial.reached(first)
    with away(kind, trials, server_of):
        for trial, first in zip(trials, firsts, strict=True):
            first.plan.gate.unlink()
            await until(partial(trial.log.lines, "error"), f"errors of\n{first.said()}")
    for first in firsts:
        assert await first.end() == 0, first.said()
    await judged(trials, undisturbed)


async def test_a_full_disk_costs_nothing(
    kind: Kind, trials: list[Trial], undisturbed: Contents, server_of: ServerOf
) -> None:
    async def tried(trial: Trial) -> None:
        first = trial.first("page", "hold", times=3)  # the long pages
        await trial.reached(first)
        await asyncio.to_thread(fill_the_disk, kind, trial.plan, server_of)
        first.plan.gate.unlink()
        await until(lambda: len(trial.log.lines("error")) >= 2, f"errors of\n{first.said()}")
        await asyncio.to_thread(make_room, kind, trial.plan, server_of)
        assert await first.end() == 0, first.said()

    await all_of(tried(trial) for trial in trials)
    await judged(trials, undisturbed)


async def test_every_database_is_left_alike(fresh_database: FreshDatabase, tmp_path: Path) -> None:
    found = {}
    for kind in KINDS:
        trial = Trial(tmp_path / kind, fresh_database(kind), 0)
        await prepare(trial.plan)
        await trial.finish()
        found[kind] = (await look(trial.plan)).contents
    assert differences(found["sqlite"], found["postgresql"]) == []
    assert differences(found["sqlite"], found["mysql"]) == []


async def judged(trials: list[Trial], undisturbed: Contents) -> None:
    for trial in trials:
        found = await look(trial.plan)
        assert found.faults(undisturbed, trial.log.told()) == [], trial.plan.folder


async def all_of(calls: Iterable[Awaitable[None]]) -> None:
    """A few at a time: most of what they do is to wait for a lease to run out."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(call: Awaitable[None]) -> None:
        async with free:
            await call

    await asyncio.gather(*map(one, calls))


@contextmanager
def away(kind: Kind, trials: list[Trial], server_of: ServerOf) -> Iterator[None]:
    """No database: a server is killed, and started again; of SQLite's files another program has the lock."""
    if kind != "sqlite":
        server_of(kind).kill()
        yield
        server_of(kind).start()  # not in a thread: with that it would end
        return
    with ExitStack() as stack:
        for trial in trials:
            path = trial.plan.url.removeprefix("sqlite:///")
            connection = stack.enter_context(closing(sqlite3.connect(path, isolation_level=None)))
            connection.execute("BEGIN IMMEDIATE")
        yield


def fill_the_disk(kind: Kind, plan: Plan, server_of: ServerOf) -> None:
    database = make_url(plan.url).database or ""
    if kind == "sqlite":
        plan.no_room.touch()
    elif kind == "postgresql":
        raising = "RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'"
        server_of(kind).administer(
            f"CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {raising}; END$$;"
            "CREATE TRIGGER no_room BEFORE INSERT ON pages EXECUTE FUNCTION full()",
            database,
        )
    else:
        server_of(kind).administer(
            "CREATE TRIGGER no_room BEFORE INSERT ON pages FOR EACH ROW "
            "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table is full'",
            database,
        )


def make_room(kind: Kind, plan: Plan, server_of: ServerOf) -> None:
    if kind == "sqlite":
        plan.no_room.unlink()
    else:
        on = " ON pages" if kind == "postgresql" else ""
        server_of(kind).administer(f"DROP TRIGGER no_room{on}", make_url(plan.url).database or "")
