"""Ten thousand schedules: the life of jobs played through, with everything going wrong that can, and checked.

The store of these tests is a dictionary that applies the very functions the real one does, a transaction at a time.
Workers read, die, stall past their leases and go on as if nothing had happened; messages and answers get lost or come
late; the database's clock jumps; owners upload, cancel and retry. Who may commit is judged by a witness that knows
nothing of fences: it remembers whom the store gave each job last. So a check that cannot fail would show: take the
fence or the unique key of pages out of the store, and it does.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import Conflict
from actors.store import lifecycle
from actors.store.lifecycle import JobRow

SCHEDULES = 10_000
STEPS = 40
WORKERS = 3
LEASE_S = 30.0
NEW = JobRow("queued", run_at=0.0, attempt=0, max_attempts=3, lease_until=None, fence=0, error=None)


class Stale(Exception):
    """The store refuses a worker."""


@dataclass
class Task:
    """What a worker knows of a job it was given."""

    job: int
    fence: int
    claim: int
    missing: list[int]


@dataclass
class Store:
    """Jobs, pages and publications in memory. Every method is one transaction.

    Attributes:
        unique: whether pages have a unique key.
        owner: the witness's view: by job, the number of the claim that is good; None while nobody has the job.
        wrong: what ought not to have happened.
    """

    unique: bool = True
    now: float = 1000.0
    jobs: list[JobRow] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    pages: list[tuple[int, int]] = field(default_factory=list)
    published: list[tuple[int, int]] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)
    owner: dict[int, int | None] = field(default_factory=dict)
    claims: int = 0
    wrong: list[str] = field(default_factory=list)

    def accept(self, size: int) -> None:
        self.owner[len(self.jobs)] = None
        self.jobs.append(NEW)
        self.sizes.append(size)

    def missing(self, job: int) -> list[int]:
        have = {page for of, page in self.pages if of == job}
        return [page for page in range(self.sizes[job]) if page not in have]

    def claim(self, dice: random.Random) -> Task | None:
        while ready := [number for number, row in enumerate(self.jobs) if lifecycle.claimable(row, self.now)]:
            job = dice.choice(ready)
            was = self.jobs[job]
            if was.state == "reading" and was.lease_until is not None and was.lease_until > self.now:
                self.wrong.append("claimed under a lease that runs")
            self.jobs[job] = row = lifecycle.claimed(was, self.now, LEASE_S)
            if row.state == "failed":
                self.owner[job] = None
                continue
            if row.attempt > row.max_attempts:
                self.wrong.append("more attempts than allowed")
            self.claims += 1
            self.owner[job] = self.claims
            return Task(job, row.fence, self.claims, self.missing(job))
        return None

    def held(self, task: Task, what: str) -> JobRow:
        row = self.jobs[task.job]
        if not lifecycle.holds(row, task.fence):
            raise Stale
        if self.owner[task.job] != task.claim:
            self.wrong.append(f"a stale {what}")
        return row

    def commit(self, task: Task, page: int) -> None:
        self.held(task, "commit")
        if not self.unique or (task.job, page) not in self.pages:
            self.pages.append((task.job, page))

    def publish(self, task: Task) -> None:
        row = self.jobs[task.job]
        if row.state == "done" and row.fence == task.fence:
            return  # the answer was lost, and it is given again
        row = self.held(task, "publication")
        if self.missing(task.job):
            raise Conflict("pages are missing")
        self.jobs[task.job] = lifecycle.finished(row, "done", None)
        self.published.append((task.job, task.claim))
        self.owner[task.job] = None

    def beat(self, task: Task) -> None:
        self.jobs[task.job] = lifecycle.prolonged(self.held(task, "heartbeat"), self.now, LEASE_S)

    def fail(self, task: Task, retry_in_s: float | None) -> None:
        self.jobs[task.job] = lifecycle.failed(self.held(task, "failure"), self.now, "no luck", retry_in_s)
        self.owner[task.job] = None

    def release(self, task: Task) -> None:
        self.jobs[task.job] = lifecycle.released(self.held(task, "release"), self.now)
        self.owner[task.job] = None

    def cancel(self, job: int) -> None:
        self.jobs[job] = lifecycle.cancelled(self.jobs[job])
        self.owner[job] = None

    def retry(self, job: int) -> None:
        was = self.jobs[job]
        self.jobs[job] = lifecycle.retried(was, self.now)
        if self.jobs[job] != was:
            self.owner[job] = None


@dataclass
class Worker:
    """Does one thing a step. A message that it has sent may be on its way for long, and its answer may get lost."""

    task: Task | None = None
    stalled: int = 0
    late: list[Callable[[], None]] = field(default_factory=list)

    def step(self, store: Store, dice: random.Random) -> None:
        if self.stalled:
            self.stalled -= 1
            return
        if self.task is None:
            self.task = store.claim(dice)
            return
        chance = dice.random()
        if chance < 0.08:
            self.task = None  # the process died; nobody is told
        elif chance < 0.16:
            self.stalled = dice.randrange(1, 8)  # stopped, or cut off; it does not know
        elif chance < 0.22:
            self._send(store, dice, store.fail, dice.choice([None, 0.0, 5.0, 60.0]), ends=True)
        elif chance < 0.26:
            self._send(store, dice, store.release, ends=True)
        elif chance < 0.36:
            self._send(store, dice, store.beat)
        elif self.task.missing:
            self._send(store, dice, store.commit, self.task.missing[0], page=True)
        else:
            self._send(store, dice, store.publish, ends=True)

    def _send(
        self,
        store: Store,
        dice: random.Random,
        call: Callable[..., None],
        *values: Any,
        ends: bool = False,
        page: bool = False,
    ) -> None:
        task, fate = self.task, dice.random()
        assert task is not None
        if fate < 0.1:
            return  # lost on the way: the worker will try again
        if fate < 0.2:
            # It was sent, given up, and arrives when the worker has long gone on.
            self.late.append(lambda: call(task, *values))
            self.task = None if dice.random() < 0.5 else task
            return
        try:
            call(task, *values)
        except (Stale, Conflict):
            self.task = None
            return
        if fate < 0.3:
            return  # the answer was lost: the worker repeats what has been done
        if page:
            task.missing.pop(0)
        if ends:
            self.task = None


def play(dice: random.Random, *, unique: bool = True) -> list[str]:
    """One schedule, then honest workers until all is at rest; what was wrong with it."""
    store = Store(unique=unique)
    workers = [Worker() for _ in range(WORKERS)]
    for _ in range(dice.randrange(1, 4)):
        store.accept(dice.randrange(1, 4))
    for _ in range(STEPS):
        chance = dice.random()
        if chance < 0.72:
            dice.choice(workers).step(store, dice)
        elif chance < 0.80:
            worker = dice.choice(workers)
            if worker.late:
                with contextlib.suppress(Stale, Conflict):
                    worker.late.pop(dice.randrange(len(worker.late)))()
        elif chance < 0.92:
            store.now += dice.choice([0.1, 1.0, 10.0, LEASE_S, 2 * LEASE_S, 3600.0, -5.0, -LEASE_S])
        elif chance < 0.95:
            store.accept(dice.randrange(1, 4))
        else:
            job = dice.randrange(len(store.jobs))
            with contextlib.suppress(Conflict):
                dice.choice([store.cancel, store.retry])(job)
    finish(store, dice)
    return store.wrong + verdict(store)


def finish(store: Store, dice: random.Random) -> None:
    """Nothing goes wrong any more, and the clock goes on until nothing is left to do."""
    for _ in range(5 * len(store.jobs)):
        store.now += 7200.0
        while (task := store.claim(dice)) is not None:
            for page in task.missing:
                store.commit(task, page)
            store.publish(task)


def verdict(store: Store) -> list[str]:
    """Whether each job has come to the end that it may have, and all of it is there once."""
    wrong = [f"page {key} is there {times} times" for key, times in Counter(store.pages).items() if times > 1]
    times = Counter(job for job, _ in store.published)
    for job, row in enumerate(store.jobs):
        if row.state == "done":
            if store.missing(job):
                wrong.append(f"job {job} is done and lacks pages")
            if times[job] != 1:
                wrong.append(f"job {job} was published {times[job]} times")
        elif row.state in ("failed", "cancelled"):
            if times[job]:
                wrong.append(f"job {job} is {row.state} and was published")
            if row.state == "failed" and not row.error:
                wrong.append(f"job {job} failed and nobody knows why")
        else:
            wrong.append(f"job {job} is lost: it stays {row.state}")
    return wrong


def first_wrong(schedules: int, **how: Any) -> tuple[int, list[str]] | None:
    """Number of the first schedule in which something is wrong, and what."""
    for seed in range(schedules):
        if wrong := play(random.Random(seed), **how):
            return seed, wrong
    return None


def test_ten_thousand_schedules_lose_nothing_double_nothing_and_let_no_stale_worker_in() -> None:
    assert first_wrong(SCHEDULES) is None


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_no_schedule_that_is_searched_for_does_either(dice: random.Random) -> None:
    assert play(dice) == []


def test_schedules_come_to_every_kind_of_end() -> None:
    """Or the checks above would be about nothing."""
    ends: Counter[str] = Counter()
    late = 0
    for seed in range(300):
        dice = random.Random(seed)
        store = Store()
        worker = Worker()
        store.accept(2)
        for _ in range(STEPS):
            worker.step(store, dice)
            store.now += dice.choice([1.0, LEASE_S])
        late += len(worker.late)
        ends[store.jobs[0].state] += 1
    assert {"done", "failed"} <= set(ends)
    assert late > 100


# --- the checker is honest -------------------------------------------------------------------------------------------


def test_without_the_fence_the_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "holds", lambda job, fence: job.state == "reading")
    found = first_wrong(SCHEDULES)
    assert found is not None
    assert any("stale" in what for what in found[1])


def test_without_a_fence_that_grows_the_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = lifecycle.claimed

    def claimed_in_place(job: JobRow, now: float, lease_s: float) -> JobRow:
        after = claimed(job, now, lease_s)
        return JobRow(after.state, after.run_at, after.attempt, after.max_attempts, after.lease_until, 1, after.error)

    monkeypatch.setattr(lifecycle, "claimed", claimed_in_place)
    found = first_wrong(SCHEDULES)
    assert found is not None
    assert any("stale" in what for what in found[1])


def test_without_the_unique_key_of_pages_the_check_fails() -> None:
    found = first_wrong(SCHEDULES, unique=False)
    assert found is not None
    assert any(what.startswith("page") for what in found[1])


def test_a_document_that_kills_its_reader_every_time_is_given_up() -> None:
    store = Store()
    store.accept(1)
    for _ in range(10):
        store.now += LEASE_S
        store.claim(random.Random(0))
    assert (store.claims, store.jobs[0].state, store.jobs[0].error) == (3, "failed", lifecycle.DIED)
