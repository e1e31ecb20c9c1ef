"""Orchestrator: takes questions in batches, fans them out, and joins what comes back.

Names are linked and passages are searched for at once; SQL sources are asked as soon as the names are known, each by a
call of its own, without waiting for the passages. A branch that fails or is late costs its part of the answer, not the
answer. Which stored lookups there are is known here, by following the store, so that a question which calls for nothing
costs the sources nothing.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, cast

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded, Unavailable
from actors.messages import (
    Answer,
    Evidence,
    Found,
    Health,
    LinkedEntity,
    LookupCall,
    Query,
    Question,
    Source,
    StoredLookup,
)
from actors.search.branches import Batch, Call, Wanted, merge, plan
from actors.search.encoding import encode_answer, encode_found
from config import logs
from config.settings import OrchestratorSettings

if TYPE_CHECKING:
    # Here they are pools; importing spaCy and SQLAlchemy would cost this process its memory for nothing.
    from actors.database import Database
    from actors.entities import Entities
    from actors.retrieval import Retriever

T = TypeVar("T")
R = TypeVar("R")

FOLLOW_S: Final = 10.0
"""Longest wait for news of stored lookups, s."""

CALL_S: Final = 30.0
"""Budget of one read from the store, s."""

RETRY_S: Final = 1.0
"""About how long after a failure the store is asked again, s."""


class Orchestrator:
    """Answers questions. See the module's docstring.

    Args:
        settings: see `config/settings.py`.
        retrieval: searches passages.
        entities: finds names in questions.
        database: looks up rows.
        text_to_sql: whether a language model is asked for a statement where nothing else asks the sources.
    """

    ROLE: ClassVar[str] = "orchestrator"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset({"ask_many", "ask_json", "search_json", "health"})

    def __init__(
        self,
        settings: OrchestratorSettings,
        *,
        retrieval: Retriever,
        entities: Entities,
        database: Database,
        text_to_sql: bool = False,
    ) -> None:
        self._settings = settings
        self._retrieval = retrieval
        self._entities = entities
        self._database = database
        self._text_to_sql = text_to_sql
        self._stored: tuple[StoredLookup, ...] = ()
        self._follower: asyncio.Task[None] | None = None
        self._in_flight = 0
        # One thread: choosing and encoding hold the interpreter anyway, they must only not hold the loop.
        self._joining = ThreadPoolExecutor(1, thread_name_prefix="join")
        # The loop keeps only weak references to tasks, and these are not waited for.
        self._abandoned: set[asyncio.Task[None]] = set()
        self._log = logs.get()

    async def start(self) -> None:
        """Begin to follow the stored lookups; the other roles are called as they come up."""
        self._follower = asyncio.create_task(self._follow(), name="orchestrator-lookups")

    async def stop(self) -> None:
        """Questions under way finish being joined."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait((self._follower,))
        await asyncio.to_thread(self._joining.shutdown)

    async def health(self, *, deadline: Deadline) -> Health:
        """Always ready: without the other roles it says so in every answer."""
        return Health(
            role=self.ROLE,
            ready=True,
            pid=os.getpid(),
            node=socket.gethostname(),
            detail={"in_flight": self._in_flight, "lookups": len(self._stored)},
        )

    async def ask_many(self, questions: list[Question], *, deadline: Deadline) -> list[Answer | GatherumError]:
        """Answer a batch of questions.

        Each has its own deadline, and its answer holds what was there by then; the list comes back when the last of
        them is done with.

        Returns:
            Per question an answer, partial where a branch failed or was late, or an error: `DeadlineExceeded` or
            `Unavailable` where all branches did, `UnknownCollection`, `UnknownSource` or `InvalidInput` where the
            question is at fault, `Overloaded` beyond `max_in_flight`.
        """
        return await self._ask(questions, deadline, _itself)

    async def ask_json(self, questions: list[Question], *, deadline: Deadline) -> list[bytes | GatherumError]:
        """As `ask_many`, each answer as its JSON form."""
        return await self._ask(questions, deadline, encode_answer)

    async def search_json(self, queries: list[Query], *, deadline: Deadline) -> list[bytes | GatherumError]:
        """Search for each query.

        Returns:
            Per query `{"passages": […], …}`, or an error as in `Retriever.search_many`, or `Overloaded`.

        Raises:
            GatherumError: the search failed as a whole.
        """
        accepted = queries[: self._room()]
        self._in_flight += len(accepted)
        try:
            found = await self._retrieval.search_many(accepted, deadline=deadline) if accepted else []
            encoded = await self._in_thread(
                lambda: [result if isinstance(result, GatherumError) else encode_found(result) for result in found]
            )
        finally:
            self._in_flight -= len(accepted)
        return [*encoded, *(self._overloaded() for _ in queries[len(accepted) :])]

    # --- stored lookups ---

    async def _follow(self) -> None:
        """Know the stored lookups, from the start on and whenever they change; without the store, those of before."""
        number: int | None = None
        while True:
            try:
                number = await self._next_lookups(number)
            except GatherumError as error:
                self._log.warning("lookups_behind", error=error.detail)
                await asyncio.sleep(random.uniform(RETRY_S / 2, RETRY_S))  # noqa: S311 - no secret depends on it

    async def _next_lookups(self, number: int | None) -> int:
        """One step: wait for changes past a number (None to begin), and read the lookups if it concerns them."""
        if number is None:
            # Drawn before they are read: what changes meanwhile is then news.
            number = await self._database.last_change(deadline=Deadline.after(CALL_S))
        else:
            deadline = Deadline.after(FOLLOW_S + CALL_S)
            changes = await self._database.changes(number, FOLLOW_S, 1000, deadline=deadline)
            number = changes[-1].number if changes else number
            if not {change.kind for change in changes} & {"lookups", "sources", "gap"}:
                return number
        self._stored = tuple(await self._database.lookups(deadline=Deadline.after(CALL_S)))
        return number

    # --- admission ---

    async def _ask(
        self, questions: Sequence[Question], deadline: Deadline, form: Callable[[Answer], R]
    ) -> list[R | GatherumError]:
        took = time.time()
        reserve = self._settings.reserve_ms / 1000
        refusals: list[GatherumError | None] = []
        accepted: list[tuple[Question, Deadline]] = []
        for question in questions:
            until = min(question.deadline, deadline).reserve(reserve)
            refusal = self._refusal(question, until, took, len(accepted))
            refusals.append(refusal)
            if refusal is None:
                accepted.append((question, until))
        self._in_flight += len(accepted)
        try:
            answers = iter(await self._answer(accepted, took, form) if accepted else [])
        finally:
            self._in_flight -= len(accepted)
        return [next(answers) if refusal is None else refusal for refusal in refusals]

    def _refusal(self, question: Question, until: Deadline, now: float, before: int) -> GatherumError | None:
        if before >= self._room():
            return self._overloaded()
        if until.remaining(now=now) <= 0:
            return DeadlineExceeded("The question arrived when its time was up.")
        if not question.text.strip():
            return InvalidInput("The question is empty.")
        try:
            question.text.encode()
        except UnicodeEncodeError:
            return InvalidInput("The question is not valid Unicode text.")
        return None

    def _room(self) -> int:
        return max(0, self._settings.max_in_flight - self._in_flight)

    def _overloaded(self) -> Overloaded:
        return Overloaded(f"{self._settings.max_in_flight} questions are under way already. Try again later.")

    # --- fork and join ---

    async def _answer(
        self, accepted: Sequence[tuple[Question, Deadline]], took: float, form: Callable[[Answer], R]
    ) -> list[R | GatherumError]:
        fan = _FanOut(
            accepted,
            took,
            retrieval=self._retrieval,
            entities=self._entities,
            database=self._database,
            stored=self._stored,
            text_to_sql=self._text_to_sql,
        )
        tasks = [asyncio.create_task(branch) for branch in fan.branches()]
        try:
            # Waiting does not hand a cancellation on to what is waited for: whoever is left is cancelled below.
            await asyncio.wait(tasks, timeout=fan.last.remaining())
        finally:
            for task in tasks:
                if task.cancel():
                    self._abandoned.add(task)
                    task.add_done_callback(self._abandoned.discard)
        batch = fan.batch()
        return await self._in_thread(
            lambda: [
                self._join(question, index, until, batch, form) for index, (question, until) in enumerate(accepted)
            ]
        )

    def _join(
        self, question: Question, index: int, until: Deadline, batch: Batch, form: Callable[[Answer], R]
    ) -> R | GatherumError:
        """Runs in the joining thread."""
        log = self._log.bind(request_id=question.request_id)
        try:
            answer = merge(question, index, batch, until=until.at, now=time.time(), sentences=self._settings.sentences)
            if isinstance(answer, GatherumError):
                log.debug("question_failed", code=answer.code, error=answer.detail)
                return answer
            log.debug("question_answered", elapsed_ms=answer.elapsed_ms, sentences=len(answer.sentences))
            if answer.degraded:
                log.warning("answer_degraded", degraded=answer.degraded, elapsed_ms=answer.elapsed_ms)
            return form(answer)
        except Exception:
            # One odd passage or row must not cost the batch its answers.
            log.exception("answer_not_joined")
            return GatherumError("The answer could not be put together.")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._joining, work)


class _FanOut:
    """The calls that a batch of questions is answered from, each made once for all of them.

    Args:
        accepted: the questions, each with the time its branches have.
        took: when the questions were taken, seconds since the epoch.
        retrieval, entities, database: the roles.
        stored: the stored lookups.
        text_to_sql: see `Orchestrator`.
    """

    def __init__(
        self,
        accepted: Sequence[tuple[Question, Deadline]],
        took: float,
        *,
        retrieval: Retriever,
        entities: Entities,
        database: Database,
        stored: Sequence[StoredLookup],
        text_to_sql: bool,
    ) -> None:
        self._accepted = accepted
        self._took = took
        self._roles = (retrieval, entities, database)
        self._search: Call[Found] = Call()
        self._names: Call[tuple[LinkedEntity, ...]] = Call()
        self._stored = stored
        self._text_to_sql = text_to_sql
        self._sources: Call[Source] = Call()
        self._wanted: list[list[Wanted]] = []
        self._by_source: dict[str, list[Wanted]] = {}
        self._places: dict[Wanted, int] = {}
        self._rows: dict[str, Call[Evidence]] = {}
        self._models: dict[int, Call[Evidence]] = {}
        # The calls go on for as long as one question can use what they bring.
        self.last = max(until for _, until in accepted)

    def branches(self) -> list[Coroutine[None, None, None]]:
        """What runs at the same time."""
        named = any(question.sources for question, _ in self._accepted)
        return [self._link_and_ask(), self._find(), *([self._list_sources()] if named else [])]

    def batch(self) -> Batch:
        """What has come back by now."""
        listed = self._sources.ended <= self.last.at and self._sources.error is None
        return Batch(
            took=self._took,
            retrieval=self._search,
            entities=self._names,
            rows=self._rows,
            wanted=self._wanted,
            places=self._places,
            models=self._models,
            sources=frozenset(source.name for source in self._sources.values if isinstance(source, Source))
            if listed
            else None,
        )

    async def _find(self) -> None:
        retrieval, _, _ = self._roles
        queries = [
            Query(question.text, question.collections, question.limit, filters=question.filters)
            for question, _ in self._accepted
        ]
        await _make(self._search, "retrieval", retrieval.search_many(queries, deadline=self.last), len(queries))

    async def _link_and_ask(self) -> None:
        _, entities, _ = self._roles
        texts = [question.text for question, _ in self._accepted]
        await _make(self._names, "entities", entities.link_many(texts, deadline=self.last), len(texts))
        if self._names.error is not None:
            return
        now = time.time()
        for index, (question, until) in enumerate(self._accepted):
            names = self._names.values[index]
            if isinstance(names, GatherumError) or until.remaining(now=now) <= 0:
                self._wanted.append([])
                continue
            wanted = plan(question, names, self._stored)
            self._wanted.append(wanted)
            if self._text_to_sql and question.sources != () and not any(isinstance(one, LookupCall) for one in wanted):
                self._models[index] = Call()
        for wanted in self._wanted:
            for one in wanted:
                if one not in self._places:
                    of = self._by_source.setdefault(one.source, [])
                    self._places[one] = len(of)
                    of.append(one)
        self._rows = {source: Call() for source in self._by_source}
        async with asyncio.TaskGroup() as group:
            for source in self._by_source:
                group.create_task(self._ask_source(source))
            for index in self._models:
                group.create_task(self._ask_model(index))

    async def _ask_source(self, source: str) -> None:
        _, _, database = self._roles
        wanted = self._by_source[source]
        call = database.evidence_many(source, wanted, deadline=self.last)
        await _make(self._rows[source], f"sql:{source}", call, len(wanted))

    async def _ask_model(self, index: int) -> None:
        _, _, database = self._roles
        question, until = self._accepted[index]
        names = cast("tuple[LinkedEntity, ...]", self._names.values[index])
        call = database.write_sql_many([(question.text, names, question.sources)], deadline=until)
        await _make(self._models[index], "model", call, 1)

    async def _list_sources(self) -> None:
        _, _, database = self._roles
        await _make(self._sources, "sources", database.sources(deadline=self.last), None)


async def _make(call: Call[T], name: str, awaitable: Awaitable[Sequence[T | GatherumError]], items: int | None) -> None:
    """Make a call and note what became of it; only a cancellation comes through."""
    call.started = time.time()
    try:
        values = await awaitable
    except GatherumError as error:
        call.error = error
    except Exception:  # noqa: BLE001 - a fault in one role degrades an answer, it must not take it away
        logs.get().exception("branch_failed", branch=name)
        call.error = Unavailable(f"The {name} branch failed. Try again.")
    else:
        if items is None or len(values) == items:
            call.values = values
        else:
            logs.get().error("branch_miscounted", branch=name, items=items, values=len(values))
            call.error = Unavailable(f"The {name} branch failed. Try again.")
    call.ended = time.time()


def _itself(answer: Answer) -> Answer:
    return answer
