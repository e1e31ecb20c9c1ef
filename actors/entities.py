"""Entities: finds names in questions and in text.

A question is read against everything that is known: the names of the corpus and the name-like values of the SQL
sources, in automata that follow the store's change log (`actors/search/phrases.py`). Text is read by spaCy, in one
thread of its own, which loads the model when it is first needed: a replica that only links questions never holds it.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, ClassVar, Final

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, Overloaded, Unavailable
from actors.messages import EntityName, Health, LinkedEntity, Mention, SourceValue
from actors.search.phrases import Phrases
from config import logs
from config.settings import EntitiesSettings

if TYPE_CHECKING:
    from actors.database import Database

INLINE_CHARS: Final = 32_000
"""Characters linked on the loop. 64 questions take 0.3 ms (0.6 ms with 100,000 names), about as long as a hop to a
thread and back; a batch longer than this would take several ms, and goes to a thread."""

MAX_EXTRACTIONS: Final = 32
"""Calls of `extract` that may wait for the one thread."""

PAGE_NAMES: Final = 10_000
"""Names read from the store at a time."""

CHANGES: Final = 1000
"""Changes read from the log at a time."""

CALL_S: Final = 30.0
"""Budget of one read from the store."""

FIRST_LOAD_S: Final = 5.0
"""How long a question waits for a replica that has just started, before it is told to try again."""

FIRST_VALUES_S: Final = 3.0
"""How long a replica that has just started waits for slow SQL sources before it answers without their names."""

CALM_S: Final = 0.5
"""Shortest time between two reloads, so that many documents published together cost few of them."""

RELOAD_SHARE: Final = 10
"""And a reload is followed by at least this many times its own duration without one."""

FIRST_PAUSE_S: Final = 0.1
"""Pause after the first failure to follow the store; doubles up to `poll_s`."""


class Entities:
    """The entities role. Everything in its memory can be read again from the store.

    The names are read as a whole on each change. Reading only those with a higher id than the last would miss some: an
    entity gets its id when its page is read, but becomes visible when its document is published, perhaps long after
    entities with higher ids. SQL sources are read beside that, so that a slow one does not hold the corpus back.

    Args:
        settings: model, shortest name, pace.
        database: the store and the SQL sources.
    """

    ROLE: ClassVar[str] = "entities"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset(
        {"caught_up", "contents", "known", "link_many", "extract", "health"}
    )

    def __init__(self, settings: EntitiesSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._phrases = Phrases((), (), min_chars=settings.min_name_chars)
        self._building = asyncio.Lock()
        self._loaded = asyncio.Event()
        self._change: int | None = None
        self._awaited = 0
        self._progress = asyncio.Condition()
        self._names: list[EntityName] = []
        self._quiet_until = 0.0
        self._values: dict[str, list[SourceValue]] = {}
        self._values_read = asyncio.Event()
        self._sources_changed = asyncio.Event()
        # When each source is read again, monotonic: its data change without a word to us.
        self._due: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        # Sources that could not be read when last tried, and why.
        self._unread: dict[str, str] = {}
        self._followers: list[asyncio.Task[None]] = []
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spacy")
        self._extractions: set[Future[list[tuple[Mention, ...]]]] = set()

    async def start(self) -> None:
        """Begin to follow the store."""
        self._followers = [
            asyncio.create_task(self._forever(self._follow_names, "names"), name="entities-names"),
            asyncio.create_task(self._forever(self._follow_sources, "sources"), name="entities-sources"),
        ]

    async def stop(self) -> None:
        """Stop following, and drop extractions that have not begun."""
        for follower in self._followers:
            follower.cancel()
        if self._followers:
            await asyncio.wait(self._followers)
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def health(self, *, deadline: Deadline) -> Health:
        """Ready once the names have been read for the first time; says how far the change log was followed."""
        return Health(
            self.ROLE,
            ready=self._loaded.is_set(),
            pid=os.getpid(),
            node=socket.gethostname(),
            detail={
                "names": len(self._phrases),
                "change": self._change or 0,
                "values": {name: len(values) for name, values in self._values.items()},
                "extractions": len(self._extractions),
                "trouble": {**self._trouble, **{f"source {name}": why for name, why in self._unread.items()}},
            },
        )

    async def link_many(self, texts: list[str], *, deadline: Deadline) -> list[tuple[LinkedEntity, ...]]:
        """Find the known names in questions.

        Args:
            texts: questions.
            deadline: of the batch.

        Returns:
            For each question its names in order, not overlapping, each with where it is known from.

        Raises:
            Unavailable: the replica has just started and has not read the names yet.
        """
        if not self._loaded.is_set():
            await self._first_load(deadline)
        phrases = self._phrases
        if sum(map(len, texts)) <= INLINE_CHARS:
            return [phrases.find(text) for text in texts]
        return await deadline.run(asyncio.to_thread(_find_all, phrases, texts), "Linking names")

    async def caught_up(self, change: int, *, deadline: Deadline) -> None:
        """Wait until the names are those of the change log at a number, or later.

        Raises:
            DeadlineExceeded: they are not, in time.
        """
        async with self._progress:
            self._awaited = max(self._awaited, change)
            # Somebody waits: the calm between two reloads is cut short.
            self._progress.notify_all()
            reached = self._progress.wait_for(lambda: self._change is not None and self._change >= change)
            await deadline.run(reached, "Following the change log")

    async def known(self, entity_ids: list[int], *, deadline: Deadline) -> int:
        """How many of these entities of the corpus the names are of now."""
        names = self._names
        places = (bisect_left(names, one, key=_entity_id) for one in entity_ids)
        return sum(
            place < len(names) and names[place].entity_id == one for place, one in zip(places, entity_ids, strict=True)
        )

    async def contents(self, after: int, limit: int, *, deadline: Deadline) -> list[int]:
        """Up to `limit` ids, past `after`, of the entities of the corpus that the names are of now; in order.

        Raises:
            Unavailable: the replica has just started and has not read the names yet.
        """
        if not self._loaded.is_set():
            await self._first_load(deadline)
        names = self._names
        start = bisect_right(names, after, key=_entity_id)
        return [name.entity_id for name in names[start : start + limit]]

    async def extract(self, texts: list[str], *, deadline: Deadline) -> list[tuple[Mention, ...]]:
        """Find names in text that need not be known, by the language model.

        Args:
            texts: pages or questions.
            deadline: of the batch; a batch that has begun is finished, but nobody waits for it.

        Returns:
            For each text its mentions in order, with `page` 0.

        Raises:
            Overloaded: too many calls are waiting for the model.
            DeadlineExceeded: the batch was not finished in time.
        """
        deadline.check("extracting names")
        if len(self._extractions) >= MAX_EXTRACTIONS:
            raise Overloaded("Too many texts are waiting for their names to be extracted. Try again later.")
        job = self._reader.submit(_extract, texts, self._settings.model)
        self._extractions.add(job)
        job.add_done_callback(self._extractions.discard)
        return await deadline.run(asyncio.wrap_future(job), "Extracting names")

    async def _first_load(self, deadline: Deadline) -> None:
        try:
            await deadline.within(FIRST_LOAD_S).run(self._loaded.wait(), "Reading the names")
        except DeadlineExceeded:
            raise Unavailable("The names of the corpus are still being read. Try again in a few seconds.") from None

    async def _forever(self, follow: Callable[[], Awaitable[None]], what: str) -> None:
        """Repeat a step of following the store; an outage costs freshness, not answers."""
        failures = 0
        while True:
            try:
                await follow()
                failures = 0
                self._trouble.pop(what, None)
            except Exception as error:  # noqa: BLE001 - whatever it is, a follower that ends would go unnoticed
                failures += 1
                told = error.detail if isinstance(error, GatherumError) else "An internal error; the log says which."
                self._trouble[what] = told
                expected = isinstance(error, Unavailable | DeadlineExceeded)
                logs.get().warning(
                    "entities_behind", what=what, failures=failures, error=str(error), exc_info=not expected
                )
                longest = min(self._settings.poll_s, FIRST_PAUSE_S * 2 ** min(failures, 10))
                await asyncio.sleep(random.uniform(longest / 2, longest))  # noqa: S311 - no secret depends on it

    async def _follow_names(self) -> None:
        """Wait for news from the change log, and read the names again if it concerns them."""
        if self._change is None:
            # Drawn before anything is read: what changes meanwhile is then news.
            number = await self._database.last_change(deadline=Deadline.after(CALL_S))
            self._sources_changed.set()
        else:
            wait = self._settings.poll_s
            changes = await self._database.changes(self._change, wait, CHANGES, deadline=Deadline.after(wait + CALL_S))
            if not changes:
                return
            number = changes[-1].number
            kinds = {change.kind for change in changes}
            if "sources" in kinds:
                self._sources_changed.set()
            # What was lost in a gap is unknown, so it may have been a name.
            if not kinds & {"publish", "delete", "gap"}:
                await self._reach(number)
                return
            await self._calm()
        started = time.monotonic()
        self._names = await self._read_names()
        await self._rebuild()
        await self._reach(number)
        self._quiet_until = time.monotonic() + max(CALM_S, RELOAD_SHARE * (time.monotonic() - started))
        if not self._loaded.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._values_read.wait(), FIRST_VALUES_S)
            self._loaded.set()

    async def _calm(self) -> None:
        """Let documents that are published together cost one reload, unless somebody waits for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._quiet_until - time.monotonic())), self._progress:
                await self._progress.wait_for(lambda: self._awaited > (self._change or 0))

    async def _reach(self, number: int) -> None:
        async with self._progress:
            self._change = number
            self._progress.notify_all()

    async def _follow_sources(self) -> None:
        """Wait until the sources have changed or it is time to look, and read the names of those that are due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(min(self._due.values()) - time.monotonic() if self._due else None):
                await self._sources_changed.wait()
        changed = self._sources_changed.is_set()
        if changed:
            self._sources_changed.clear()
            try:
                sources = await self._database.sources(deadline=Deadline.after(CALL_S))
            except BaseException:
                self._sources_changed.set()
                raise
            self._due = {source.name: time.monotonic() for source in sources}
            self._values = {name: values for name, values in self._values.items() if name in self._due}
            self._unread = {name: why for name, why in self._unread.items() if name in self._due}
        now = time.monotonic()
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(self._read_values(name)) for name, due in self._due.items() if due <= now]
        if changed or any(read.result() for read in reads):
            await self._rebuild()
        self._values_read.set()

    async def _read_names(self) -> list[EntityName]:
        names: list[EntityName] = []
        while True:
            page = await self._database.entity_names(
                names[-1].entity_id if names else 0, PAGE_NAMES, deadline=Deadline.after(CALL_S)
            )
            names += page
            if len(page) < PAGE_NAMES:
                return names

    async def _read_values(self, source: str) -> bool:
        """Read the names of one source; whether they are other than before. One that fails keeps those it had."""
        try:
            values = await self._database.source_values(source, deadline=Deadline.after(CALL_S))
        except GatherumError as error:
            if self._unread.get(source) != error.detail:
                # Once, and not at every try: a root that is not set stays so until the next start.
                logs.get().warning("source_values_failed", source=source, code=error.code, error=error.detail)
            self._unread[source] = error.detail
            self._due[source] = time.monotonic() + self._settings.poll_s
            return False
        self._unread.pop(source, None)
        self._due[source] = time.monotonic() + self._settings.refresh_s
        changed = values != self._values.get(source)
        self._values[source] = values
        return changed

    async def _rebuild(self) -> None:
        """Build new automata in a thread and swap them in."""
        async with self._building:
            await asyncio.to_thread(self._swap, self._names, list(chain.from_iterable(self._values.values())))

    def _swap(self, names: Iterable[EntityName], values: Iterable[SourceValue]) -> None:
        # One assignment, seen whole or not at all; made in this thread so that the old automata are freed in it too.
        self._phrases = Phrases(names, values, min_chars=self._settings.min_name_chars)


def _entity_id(name: EntityName) -> int:
    return name.entity_id


def _find_all(phrases: Phrases, texts: list[str]) -> list[tuple[LinkedEntity, ...]]:
    return [phrases.find(text) for text in texts]


def _extract(texts: list[str], model: str) -> list[tuple[Mention, ...]]:
    # Imported here, in the thread, because spaCy takes seconds and a hundred megabytes.
    from actors.reading.mentions import find_mentions

    return find_mentions(texts, model)
