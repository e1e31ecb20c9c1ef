"""Following jobs: everybody hears of every change, however many follow, through one look at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from fakes import job

from actors.errors import Unavailable, UnknownJob
from actors.messages import Job
from serve.following import LOOK_AT, Follower, version


class Jobs:
    """Jobs that a test moves on; each look waits for the test."""

    def __init__(self, *jobs: Job) -> None:
        self.jobs = {job.job_id: job for job in jobs}
        self.looks: list[list[str]] = []
        self.turn = asyncio.Semaphore(0)
        self.looked = asyncio.Condition()
        self.down = False
        self.follower = Follower(self._look, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        await self.turn.acquire()

    async def _look(self, ids: Sequence[str]) -> list[Job]:
        self.looks.append(list(ids))
        async with self.looked:
            self.looked.notify_all()
        if self.down:
            raise Unavailable("The role is restarting.")
        return [self.jobs[name] for name in ids if name in self.jobs]

    async def look(self) -> None:
        async with self.looked:
            self.turn.release()
            await self.looked.wait()


async def test_a_follower_hears_of_a_change_and_of_nothing_else() -> None:
    jobs = Jobs(job("a", state="reading"))
    async with jobs.follower.following(jobs.jobs["a"]) as followed:
        seen = await followed.changed_since("")
        waiting = asyncio.create_task(followed.changed_since(version(seen)))
        await jobs.look()
        jobs.jobs["a"] = replace(seen, updated_at="later", eta_s=1.0)
        await jobs.look()
        assert not waiting.done()
        jobs.jobs["a"] = replace(seen, pages_done=seen.pages_done + 1)
        await jobs.look()
        assert (await waiting).pages_done == seen.pages_done + 1


async def test_all_that_follow_share_a_look_and_it_ends_with_the_last() -> None:
    jobs = Jobs(job("a"), job("b"))
    following = jobs.follower.following
    async with following(jobs.jobs["a"]) as one, following(jobs.jobs["a"]) as two, following(jobs.jobs["b"]):
        assert one is two
        await jobs.look()
        assert jobs.looks == [["a", "b"]]
        jobs.jobs["a"] = replace(jobs.jobs["a"], state="done")
        await jobs.look()
        assert [(await each.changed_since("queued.0.0")).state for each in (one, two)] == ["done", "done"]
    looking = [task for task in asyncio.all_tasks() if task.get_name() == "job follower"]
    assert all(task.cancelling() for task in looking)
    async with following(jobs.jobs["b"]):
        await jobs.look()
    assert jobs.looks[2:] == [["b"]]


async def test_a_job_that_was_deleted_is_said_to_be_gone() -> None:
    jobs = Jobs(job("a"))
    async with jobs.follower.following(jobs.jobs["a"]) as followed:
        del jobs.jobs["a"]
        await jobs.look()
        with pytest.raises(UnknownJob):
            await followed.changed_since(version(job("a")))


async def test_an_outage_is_outlived() -> None:
    jobs = Jobs(job("a"))
    async with jobs.follower.following(jobs.jobs["a"]) as followed:
        jobs.down = True
        await jobs.look()
        jobs.down = False
        jobs.jobs["a"] = replace(jobs.jobs["a"], state="done")
        await jobs.look()
        assert (await followed.changed_since("queued.0.0")).state == "done"


async def test_many_jobs_are_asked_for_in_parts() -> None:
    many = [job(str(number)) for number in range(LOOK_AT + 1)]
    jobs = Jobs(*many)
    contexts = [jobs.follower.following(each) for each in many]
    for context in contexts:
        await context.__aenter__()
    await jobs.look()
    async with asyncio.timeout(10):
        while len(jobs.looks) < 2:  # noqa: ASYNC110 - a list has no event for its length
            await asyncio.sleep(0)
    assert [len(look) for look in jobs.looks] == [LOOK_AT, 1]
    for context in contexts:
        await context.__aexit__(None, None, None)
