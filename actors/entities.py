"""Entities: finds names in questions and in text.

A question is read against everything that is known: the names of the corpus and the name-like values of the SQL
sources, which follow the store's change log (`actors/search/phrases.py`). Text is read by spaCy, in one thread of its
own, which loads the model when it is first needed. It reads questions too, for names that nobody knows yet, but only
while it has nothing else to do: a question costs it a hundred times what a look at the known names does.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
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
"""Characters linked on the loop. 64 questions take about 2 ms, whatever the number of names, and a hop to a thread and
back half of one; a batch longer than this goes to a thread."""

MAX_EXTRACTIONS: Final = 32
"""Calls of `extract` that may wait for the one thread."""

PAGE_NAMES: Final = 10_000
"""Names read from the store at a time."""

DOCUMENTS: Final = 100
"""Published documents whose names are read at a time. Of more at once, all names are read again instead."""

CHANGES: Final = 1000
"""Changes read from the log at a time."""

CALL_S: Final = 30.0
"""Budget of one read from the store."""

FIRST_LOAD_S: Final = 5.0
"""How long a question waits for a replica that has just started, before it is told to try again."""

FIRST_VALUES_S: Final = 3.0
"""How long a replica that has just started waits for slow SQL sources before it answers without their names."""

CALM_S: Final = 0.5
"""Shortest time between two readings of all names, so that many documents deleted together cost few of them."""

RELOAD_SHARE: Final = 10
"""And such a reading is followed by at least this many times its own duration without one."""

FIRST_PAUSE_S: Final = 0.1
"""Pause after the first failure to follow the store; doubles up to `poll_s`."""

QUESTION_S: Final = 0.1
"""Longest that questions wait for spaCy, s; twenty times what it takes for one."""


SOURCES = frozenset({"sources", "gap"})
"""Changes after which names of sources are read again."""


class Entities:
    """The entities role. Everything in its memory can be read again from the store.

    A document that is published brings its names. What one that was deleted, or read anew, took along cannot be told
    from the change log, because others may mention it: then the names are read as a whole, and compared. SQL sources
    are read beside that, so that a slow one does not hold the corpus back.

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
        self._phrases = Phrases(min_chars=settings.min_name_chars)
        # Held by whoever changes the phrases, in a thread.
        self._changing = asyncio.Lock()
        self._loaded = asyncio.Event()
        self._change: int | None = None
        self._awaited = 0
        self._progress = asyncio.Condition()
        self._names: dict[int, EntityName] = {}
        self._quiet_until = 0.0
        self._values: dict[str, dict[SourceValue, None]] = {}
        self._values_read = asyncio.Event()
        self._sources_changed = asyncio.Event()
        # Those that it was about; empty names stand for all.
        self._changed_sources: set[str] = set()
        # When each source is read again, monotonic: its data change without a word to us.
        self._due: dict[str, float] = {}
        self._trouble: dict[str, str] = {}
        # Sources that could not be read when last tried, and why.
        self._unread: dict[str, str] = {}
        self._followers: list[asyncio.Task[None]] = []
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spacy")
        self._extractions: set[Future[list[tuple[Mention, ...]]]] = set()
        # Whether spaCy has been asked to get ready for questions, and is.
        self._model_wanted = self._model_ready = False

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
                "names": len(self._names),
                "phrases": len(self._phrases),
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
        if sum(map(len, texts)) <= INLINE_CHARS:
            linked = _find_all(self._phrases, texts)
        else:
            linked = await deadline.run(asyncio.to_thread(_find_all, self._phrases, texts), "Linking names")
        if len(texts) > self._settings.read_questions or self._extractions:
            return linked
        return await self._with_unknown(texts, linked, deadline)

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
        return sum(entity_id in self._names for entity_id in entity_ids)

    async def contents(self, after: int, limit: int, *, deadline: Deadline) -> list[int]:
        """Up to `limit` ids, past `after`, of the entities of the corpus that the names are of now; in order.

        Raises:
            Unavailable: the replica has just started and has not read the names yet.
        """
        if not self._loaded.is_set():
            await self._first_load(deadline)
        # A copy first: the thread that changes the names may be at it.
        held = list(self._names)
        return await asyncio.to_thread(lambda: heapq.nsmallest(limit, (one for one in held if one > after)))

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
        return await deadline.run(asyncio.wrap_future(self._submit(texts)), "Extracting names")

    def _submit(self, texts: list[str]) -> Future[list[tuple[Mention, ...]]]:
        job = self._reader.submit(_extract, texts, self._settings.model)
        self._extractions.add(job)
        job.add_done_callback(self._extractions.discard)
        return job

    async def _with_unknown(
        self, texts: list[str], linked: list[tuple[LinkedEntity, ...]], deadline: Deadline
    ) -> list[tuple[LinkedEntity, ...]]:
        """What was linked, and besides the names that spaCy finds in the questions, linked to nothing."""
        if not self._model_ready:
            # Loading takes seconds, for which no question waits; it is tried once.
            if not self._model_wanted:
                self._model_wanted = True
                self._submit([]).add_done_callback(self._note_model)
            return linked
        job = self._submit(texts)
        try:
            found = await deadline.within(QUESTION_S).run(asyncio.wrap_future(job), "Reading questions")
        except GatherumError:
            # What is known is an answer; what is not known is an extra.
            return linked
        return [_joined(known, mentions) for known, mentions in zip(linked, found, strict=True)]

    def _note_model(self, job: Future[list[tuple[Mention, ...]]]) -> None:
        error = None if job.cancelled() else job.exception()
        self._model_ready = error is None and not job.cancelled()
        if error is not None:
            logs.get().warning("questions_not_read", error=str(error))

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
            self._note_sources({""})
        else:
            wait = self._settings.poll_s
            changes = await self._database.changes(self._change, wait, CHANGES, deadline=Deadline.after(wait + CALL_S))
            if not changes:
                return
            number = changes[-1].number
            kinds = {change.kind for change in changes}
            self._note_sources(
                {change.collection for change in changes if change.kind == "sources"}
                | ({""} if "gap" in kinds else set())
            )
            published = {change.document_id: None for change in changes if change.kind == "publish"}
            again = len(published) > DOCUMENTS
            if published and not again:
                names, again = await self._database.names_of(list(published), deadline=Deadline.after(CALL_S))
                await self._change_phrases(self._take_in, names)
            # What was lost in a gap is unknown, so it may have been a name.
            if not again and not kinds & {"delete", "gap"}:
                await self._reach(number)
                return
            await self._calm()
        started = time.monotonic()
        await self._read_names()
        await self._reach(number)
        self._quiet_until = time.monotonic() + max(CALM_S, RELOAD_SHARE * (time.monotonic() - started))
        if not self._loaded.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._values_read.wait(), FIRST_VALUES_S)
            self._loaded.set()

    async def _calm(self) -> None:
        """Let documents that are deleted together cost one reading of all names, unless somebody waits for it."""
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
        if self._sources_changed.is_set():
            self._sources_changed.clear()
            changed, self._changed_sources = self._changed_sources, set()
            try:
                sources = await self._database.sources(deadline=Deadline.after(CALL_S))
            except BaseException:
                self._note_sources(changed)
                raise
            now = time.monotonic()
            self._due = {
                source.name: now if changed & {"", source.name} else self._due.get(source.name, now)
                for source in sources
            }
            for name in self._values.keys() - self._due:
                await self._change_phrases(self._exchange, self._values.pop(name), {})
            self._unread = {name: why for name, why in self._unread.items() if name in self._due}
        now = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for name, due in self._due.items():
                if due <= now:
                    group.create_task(self._read_values(name))
        self._values_read.set()

    def _note_sources(self, names: set[str]) -> None:
        """Have sources of these names read soon."""
        if names:
            self._changed_sources |= names
            self._sources_changed.set()

    async def _read_names(self) -> None:
        """Read all names, page by page, and drop those that are not among them."""
        missing = set(self._names)
        after = 0
        while True:
            page = await self._database.entity_names(after, PAGE_NAMES, deadline=Deadline.after(CALL_S))
            await self._change_phrases(self._take_in, page)
            missing.difference_update(name.entity_id for name in page)
            if len(page) < PAGE_NAMES:
                break
            after = page[-1].entity_id
        await self._change_phrases(self._drop, missing)

    async def _read_values(self, source: str) -> None:
        """Read the names of one source. One that fails keeps those it had."""
        try:
            values = dict.fromkeys(await self._database.source_values(source, deadline=Deadline.after(CALL_S)))
        except GatherumError as error:
            if self._unread.get(source) != error.detail:
                # Once, and not at every try: a root that is not set stays so until the next start.
                logs.get().warning("source_values_failed", source=source, code=error.code, error=error.detail)
            self._unread[source] = error.detail
            self._due[source] = time.monotonic() + self._settings.poll_s
            return
        self._unread.pop(source, None)
        self._due[source] = time.monotonic() + self._settings.refresh_s
        await self._change_phrases(self._exchange, self._values.get(source, {}), values)
        self._values[source] = values

    async def _change_phrases(self, change: Callable[..., None], *what: object) -> None:
        # In a thread, though it holds the interpreter half of the time: the loop gets its turns in between.
        async with self._changing:
            await asyncio.to_thread(change, *what)

    def _take_in(self, names: Iterable[EntityName]) -> None:
        for name in names:
            before = self._names.get(name.entity_id)
            if before != name:
                if before is not None:
                    self._phrases.discard(before)
                self._names[name.entity_id] = name
                self._phrases.add(name)

    def _drop(self, entity_ids: Iterable[int]) -> None:
        for entity_id in entity_ids:
            self._phrases.discard(self._names.pop(entity_id))

    def _exchange(self, before: Mapping[SourceValue, None], after: Mapping[SourceValue, None]) -> None:
        for value in before:
            if value not in after:
                self._phrases.discard_value(value)
        for value in after:
            if value not in before:
                self._phrases.add_value(value)


def _find_all(phrases: Phrases, texts: list[str]) -> list[tuple[LinkedEntity, ...]]:
    return [phrases.find(text) for text in texts]


def _joined(known: tuple[LinkedEntity, ...], mentions: Iterable[Mention]) -> tuple[LinkedEntity, ...]:
    """Known names and others, in order; where they overlap the known one counts."""
    others = [
        LinkedEntity(mention.text, mention.label, mention.start, mention.end)
        for mention in mentions
        if all(mention.end <= entity.start or entity.end <= mention.start for entity in known)
    ]
    return tuple(sorted((*known, *others), key=lambda entity: entity.start)) if others else known


def _extract(texts: list[str], model: str) -> list[tuple[Mention, ...]]:
    # Imported here, in the thread, because spaCy takes seconds and a hundred megabytes.
    from actors.reading.mentions import find_mentions

    return find_mentions(texts, model)
