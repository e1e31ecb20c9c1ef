"""Following jobs for many clients with one look at the store at a time.

A hundred event streams that each asked the store twice a second would keep it busy with nothing else. Here they share a
look: while anybody follows anything, one task asks for all followed jobs together, and each stream hears of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from actors.errors import GatherumError, UnknownJob
from actors.messages import Job
from config import logs

LOOK_S = 0.5
"""Between two looks at the store, s."""

LOOK_AT = 500
"""Jobs asked for in one call."""


@dataclass(slots=True)
class Followed:
    """A job that somebody follows.

    Attributes:
        job: as of the last look; None once it was deleted.
        followers: how many there are.
    """

    job: Job | None
    followers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def changed_since(self, seen: str) -> Job:
        """The job as soon as its `version` is another than `seen`.

        Raises:
            UnknownJob: it was deleted.
        """
        while self.job is not None and version(self.job) == seen:
            await self.news.wait()
        if self.job is None:
            raise UnknownJob("The job is gone: its document was deleted.")
        return self.job

    def tell(self, job: Job | None) -> None:
        """What a look has shown."""
        self.job = job
        news, self.news = self.news, asyncio.Event()
        news.set()


def version(job: Job) -> str:
    """What a client knows of a job, as the id of an event: the same from every replica."""
    return f"{job.state}.{job.attempt}.{job.pages_done}"


class Follower:
    """Follows jobs.

    Args:
        look: the jobs of these ids that there are.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        look: Callable[[Sequence[str]], Awaitable[list[Job]]],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._look = look
        self._sleep = sleep
        self._followed: dict[str, Followed] = {}
        self._looking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def following(self, job: Job) -> AsyncIterator[Followed]:
        """Inside, the job is looked at regularly.

        Args:
            job: as the caller has just found it.
        """
        followed = self._followed.setdefault(job.job_id, Followed(job))
        followed.followers += 1
        if self._looking is None:
            self._looking = asyncio.create_task(self._run(), name="job follower")
        try:
            yield followed
        finally:
            followed.followers -= 1
            if not followed.followers:
                del self._followed[job.job_id]
            if not self._followed and self._looking is not None:
                self._looking.cancel()
                self._looking = None

    async def _run(self) -> None:
        while True:
            await self._sleep(LOOK_S)
            try:
                await self._look_at_all()
            except GatherumError as error:
                # Streams go on without news: the store, or the role, will be back.
                logs.get().warning("jobs_not_followed", error=error.code, detail=error.detail)

    async def _look_at_all(self) -> None:
        ids = list(self._followed)
        for start in range(0, len(ids), LOOK_AT):
            some = ids[start : start + LOOK_AT]
            found = {job.job_id: job for job in await self._look(some)}
            for job_id in some:
                if job_id in self._followed:
                    self._followed[job_id].tell(found.get(job_id))
