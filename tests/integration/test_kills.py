"""Workers are killed and put to sleep at random, and nothing is lost, done twice, or done by somebody who was too late.

`GATHERUM_KILLS=200` is the whole of it: as many blows to four processes over 300 documents, which takes minutes; by
default there are 40 over 60. The history of the store, as its own transactions have recorded it, is written as JSON
lines into the test's temporary folder (pytest's `--basetemp`), and judged from there.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import history
import pytest
from crashing import LEASE_S, Log, Plan, Process, end_all, look, prepare
from harness import pdf
from servers import Kind

KILLS: Final = int(os.environ.get("GATHERUM_KILLS", "40"))
DOCUMENTS: Final = KILLS * 3 // 2
WORKERS: Final = 4
SLEEPS: Final = 0.3
"""Share of the blows that are SIGSTOP; the others are SIGKILL."""

SPREAD: Final = 0.9
"""The last blow falls when this share of the documents is done."""

NAMES: Final = ("Titan", "Europa", "Triton", "Saturn", "Jupiter", "Neptune", "Huygens", "Galilei", "Lassell", "Sirius")


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    end_all()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_kills(kind: Kind, fresh_database: Callable[[Kind], str], tmp_path: Path) -> None:
    calm, storm = (
        Plan(fresh_database(kind), tmp_path / name, name, workers=2, max_attempts=1000) for name in ("calm", "storm")
    )
    fill(calm.folder / "inbox", random.Random(0))
    shutil.copytree(calm.folder, storm.folder)
    await prepare(calm)
    await prepare(storm)
    undisturbed = Process(calm)
    assert await undisturbed.end(300) == 0, undisturbed.said()
    expected = (await look(calm)).contents
    assert len(expected["documents"]) == DOCUMENTS

    await rage(replace(storm, pace_s=0.02), random.Random(0))

    found = await look(storm)
    history.write(tmp_path / "history.jsonl", found.events)
    happened = history.read(tmp_path / "history.jsonl")
    assert replace(found, events=happened).faults(expected, Log(storm.folder).told()) == []
    assert sum(event.operation == "claim" for event in happened) > DOCUMENTS


def fill(inbox: Path, dice: random.Random) -> None:
    """Documents of one to three pages in three collections; every tenth file is in all of them."""
    content = b""
    for number in range(DOCUMENTS):
        collection = number % 3
        if collection == 0 or number % 30 > 2:
            pages = [f"Report {number}. " + " ".join(dice.choices(NAMES, k=40)) for _ in range(dice.randint(1, 3))]
            content = pdf(*pages)
        path = inbox / f"collection{collection}" / f"{number:04}.pdf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


async def rage(plan: Plan, dice: random.Random) -> None:
    """Keep some workers at work on a store, hitting one after the other, until everything is done."""
    log = Log(plan.folder)

    def start(number: int, life: int) -> Process:
        return Process(replace(plan, name=f"worker {number}.{life}", seed=life, share=(number, WORKERS)))

    async def wake(worker: Process, after_s: float) -> None:
        await asyncio.sleep(after_s)
        worker.send(signal.SIGCONT)

    workers = [start(number, 0) for number in range(WORKERS)]
    asleep: set[asyncio.Task[None]] = set()
    for blow in range(KILLS):
        await progress(log, int(DOCUMENTS * SPREAD * blow / KILLS), workers)
        await asyncio.sleep(dice.uniform(0.0, 0.1))
        number = dice.randrange(WORKERS)
        if dice.random() < SLEEPS:
            workers[number].send(signal.SIGSTOP)
            asleep.add(asyncio.create_task(wake(workers[number], dice.uniform(0.1, 2.5) * LEASE_S)))
        else:
            workers[number].send(signal.SIGKILL)
            await workers[number].end()
            workers[number] = start(number, blow + 1)
    await asyncio.gather(*asleep)
    for worker in workers:
        assert await worker.end(120) == 0, worker.said()


async def progress(log: Log, documents: int, workers: list[Process]) -> None:
    """Wait until so many documents are published."""
    while sum(line["event"]["operation"] == "publish" for line in log.lines("told")) < documents:
        for worker in workers:
            assert not worker.exit_code(), worker.said()
        await asyncio.sleep(0.02)
