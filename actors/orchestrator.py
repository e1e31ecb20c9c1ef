"""Orchestrator: takes questions in batches, fans them out, and joins what comes back.

Names are linked and passages are searched for at once; SQL sources are asked as soon as the names are known, each by a
call of its own, without waiting for the passages. A branch that fails or is late costs its part of the answer, not the
answer. Which stored lookups there are is known here, by following the store, so that a question which calls for nothing
costs the sources nothing.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import socket
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import orjson

from actors import metrics
from actors.answers import AnswerCache
from actors.breaker import Breaker
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded
from actors.messages import (
    Answer,
    Change,
    Evidence,
    Found,
    Health,
    LookupCall,
    Query,
    Question,
    Source,
    StoredLookup,
)
from actors.messages import Branch as Report
from actors.plan import Branch, Call, Calls, Plan, branch, efficiency, fork_join, pipeline, run, scatter_gather
from actors.search.branches import Batch, Wanted, merge, wanted_of
from actors.search.encoding import addressed_to, encode_answer, encode_found
from actors.tracing import UNTRACED, Span, Tracer
from config import logs
from config.settings import OrchestratorSettings, TracingSettings

if TYPE_CHECKING:
    # Here they are pools; importing spaCy and SQLAlchemy would cost this process its memory for nothing.
    from actors.database import Database
    from actors.entities import Entities
    from actors.retrieval import Retriever

T = TypeVar("T")
R = TypeVar("R")

CALM_S: Final = 10.0
"""How long nothing must have changed for an answer to be kept, s."""

FOLLOW_S: Final = 10.0
"""Longest wait for news of stored lookups, s."""

_BRANCHES = metrics.PROCESS.histogram(
    "gatherum_branch_seconds", "Time of the calls that answers are made of, by what became of them.", "branch", "status"
)
_EFFICIENCY = metrics.PROCESS.histogram(
    "gatherum_parallel_efficiency",
    "Time of all branches of a batch together, in times of what the batch took.",
    bounds=metrics.TIMES,
)
_ANSWERS = metrics.PROCESS.counter("gatherum_answers_total", "Questions, by what became of them.", "outcome")
_DEGRADED = metrics.PROCESS.counter("gatherum_degraded_total", "Answers that lack a branch.", "branch")
_KEPT = metrics.PROCESS.counter("gatherum_cache_total", "Questions, by whether their answer was kept.", "answer")
_SECONDS = metrics.PROCESS.histogram("gatherum_answer_seconds", "Time of an answer in the orchestrator.")
_OPEN = metrics.PROCESS.gauge("gatherum_breaker_open", "Whether a target of branches is left alone.", "target")
_IN_FLIGHT = metrics.PROCESS.gauge("gatherum_questions_in_flight", "Questions in the orchestrator.")

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
        tracing: where traces go.
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
        tracing: TracingSettings = UNTRACED,
    ) -> None:
        self._settings = settings
        self._retrieval = retrieval
        self._entities = entities
        self._database = database
        self._text_to_sql = text_to_sql
        self._tracer = Tracer(tracing, self.ROLE)
        self._stored: tuple[StoredLookup, ...] = ()
        self._follower: asyncio.Task[None] | None = None
        self._in_flight = 0
        self._breakers = {"entities": Breaker("The search for names"), "retrieval": Breaker("The search")}
        self._cache = AnswerCache(int(settings.cache_mb * 1e6))
        self._changed_at = time.monotonic()
        for name, breaker in self._breakers.items():
            _OPEN.of(name, read=partial(_is_open, breaker))
        _IN_FLIGHT.of(read=lambda: self._in_flight)
        # One thread: choosing and encoding hold the interpreter anyway, they must only not hold the loop.
        self._joining = ThreadPoolExecutor(1, thread_name_prefix="join")
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
            detail={
                "in_flight": self._in_flight,
                "lookups": len(self._stored),
                "open_breakers": [name for name, breaker in self._breakers.items() if breaker.open],
            },
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
        """As `ask_many`, each answer as its JSON form; one that is kept from before if that is still good."""
        if not self._cache.on:
            return await self._ask(questions, deadline, encode_answer)
        kept = [self._cache.get(_key(question)) for question in questions]
        asked = [question for question, body in zip(questions, kept, strict=True) if body is None]
        _KEPT.add("kept", by=len(questions) - len(asked))
        _KEPT.add("made", by=len(asked))
        made = iter(await self._ask(asked, deadline, encode_answer))
        return [
            next(made) if body is None else addressed_to(body, question.request_id)
            for question, body in zip(questions, kept, strict=True)
        ]

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
            self._cache.follow([Change(number, "gap")])
        else:
            deadline = Deadline.after(FOLLOW_S + CALL_S)
            changes = await self._database.changes(number, FOLLOW_S, 1000, deadline=deadline)
            if changes:
                self._cache.follow(changes)
                self._changed_at = time.monotonic()
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
        asked = _Asked(
            accepted,
            took,
            retrieval=self._retrieval,
            entities=self._entities,
            database=self._database,
            stored=self._stored,
            text_to_sql=self._text_to_sql,
            breakers=self._breakers,
        )
        calls = await run(asked.plan(), asked.last, clock=time.time)
        _note(calls, took, time.time())
        batch = asked.batch(calls)
        answers = await self._in_thread(
            lambda: [
                self._join(question, index, until, batch, form) for index, (question, until) in enumerate(accepted)
            ]
        )
        traced = [question for question, _ in accepted if self._tracer.wants(question.request_id)]
        if traced:
            now = time.time()
            for question in traced:
                self._tracer.tell(*_spans(question.request_id, calls, len(accepted), took, now))
        return answers

    def _join(
        self, question: Question, index: int, until: Deadline, batch: Batch, form: Callable[[Answer], R]
    ) -> R | GatherumError:
        """Runs in the joining thread."""
        log = self._log.bind(request_id=question.request_id)
        try:
            answer = merge(question, index, batch, until=until.at, now=time.time(), sentences=self._settings.sentences)
            if isinstance(answer, GatherumError):
                log.debug("question_failed", code=answer.code, error=answer.detail)
                _ANSWERS.add(answer.code)
                return answer
            log.debug("question_answered", elapsed_ms=answer.elapsed_ms, sentences=len(answer.sentences))
            _ANSWERS.add("partial" if answer.partial else "whole")
            _SECONDS.observe(answer.elapsed_ms / 1000)
            for branch in answer.branches:
                if branch.status not in ("ok", "skipped"):
                    _DEGRADED.add(_kind(branch.name))
            if answer.elapsed_ms >= self._settings.slow_ms:
                log.warning("slow_question", elapsed_ms=answer.elapsed_ms, timeline=timeline(answer.branches))
            if answer.degraded:
                log.warning("answer_degraded", degraded=answer.degraded, elapsed_ms=answer.elapsed_ms)
            formed = form(answer)
            if isinstance(formed, bytes) and self._cache.on:
                self._keep(question, answer, batch.retrieval.values[index] if batch.retrieval.brought else None, formed)
        except Exception:
            # One odd passage or row must not cost the batch its answers.
            log.exception("answer_not_joined")
            return GatherumError("The answer could not be put together.")
        return formed

    def _keep(self, question: Question, answer: Answer, found: Found | GatherumError | None, body: bytes) -> None:
        """Keep an answer that depends on nothing but the documents. Runs in the joining thread."""
        whole = not answer.partial and not answer.degraded and all(b.status == "ok" for b in answer.branches[:2])
        alone = all(b.status == "skipped" for b in answer.branches[2:])
        # The names that are known follow the store by themselves, a little later than the index.
        calm = time.monotonic() - self._changed_at >= CALM_S
        if whole and alone and calm and isinstance(found, Found) and found.change:
            self._cache.put(_key(question), question.collections, found.change, body)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._joining, work)


class _Asked:
    """A batch of questions, and the plan that it is answered by: each call is made once for all of them.

    Args:
        accepted: the questions, each with the time its branches have.
        took: when the questions were taken, seconds since the epoch.
        retrieval, entities, database: the roles.
        stored: the stored lookups.
        text_to_sql: see `Orchestrator`.
        breakers: of the roles that every question asks; SQL sources and the model have theirs where they are asked.
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
        breakers: Mapping[str, Breaker],
    ) -> None:
        self._accepted = accepted
        self._took = took
        self._roles = (retrieval, entities, database)
        self._stored = stored
        self._text_to_sql = text_to_sql
        self._breakers = breakers
        self._wanted: list[list[Wanted]] = []
        self._places: dict[Wanted, int] = {}
        # The calls go on for as long as one question can use what they bring.
        self.last = max(until for _, until in accepted)

    def plan(self) -> Plan:
        """Names and passages at once; the sources as soon as the names are known."""
        retrieval, entities, database = self._roles
        questions = [question for question, _ in self._accepted]
        texts = [question.text for question in questions]
        queries = [
            Query(question.text, question.collections, question.limit, filters=question.filters)
            for question in questions
        ]
        parts: list[Plan] = [
            pipeline(
                branch(
                    "entities",
                    lambda until: entities.link_many(texts, deadline=until),
                    items=len(texts),
                    breaker=self._breakers["entities"],
                ),
                scatter_gather("the sources that the names lead to", self._sources),
            ),
            branch(
                "retrieval",
                lambda until: retrieval.search_many(queries, deadline=until),
                items=len(queries),
                breaker=self._breakers["retrieval"],
            ),
        ]
        if any(question.sources for question in questions):
            parts.append(branch("sources", lambda until: database.sources(deadline=until)))
        return fork_join(*parts)

    def batch(self, calls: Calls) -> Batch:
        """What a run has brought."""
        listed = calls.get("sources", Call[Source]())
        return Batch(
            took=self._took,
            retrieval=calls.get("retrieval", Call()),
            entities=calls.get("entities", Call()),
            rows={source: calls.get(f"sql:{source}", Call()) for source in {one.source for one in self._places}},
            wanted=self._wanted,
            places=self._places,
            models={at: calls[f"model:{at}"] for at in range(len(self._accepted)) if f"model:{at}" in calls},
            sources=frozenset(source.name for source in listed.values if isinstance(source, Source))
            if listed.brought
            else None,
        )

    def _sources(self, calls: Calls) -> list[Branch]:
        """A call for each source, with what all questions want of it; and for the model where nothing else asks."""
        _, _, database = self._roles
        named = calls["entities"].values
        by_source: dict[str, list[Wanted]] = {}
        models: list[Branch] = []
        now = time.time()
        self._wanted, self._places = [], {}
        for at, (question, until) in enumerate(self._accepted):
            names = named[at]
            if isinstance(names, GatherumError) or until.remaining(now=now) <= 0:
                self._wanted.append([])
                continue
            wanted = wanted_of(question, names, self._stored)
            self._wanted.append(wanted)
            if self._text_to_sql and question.sources != () and not any(isinstance(one, LookupCall) for one in wanted):
                asked = [(question.text, names, question.sources)]
                models.append(branch(f"model:{at}", partial(_write_sql, database, asked), items=1, until=until))
            for one in wanted:
                if one not in self._places:
                    of = by_source.setdefault(one.source, [])
                    self._places[one] = len(of)
                    of.append(one)
        sources = [
            branch(f"sql:{source}", partial(_evidence, database, source, wanted), items=len(wanted))
            for source, wanted in by_source.items()
        ]
        return [*sources, *models]


async def _evidence(
    database: Database, source: str, wanted: list[Wanted], deadline: Deadline
) -> Sequence[Evidence | GatherumError]:
    return await database.evidence_many(source, wanted, deadline=deadline)


async def _write_sql(database: Database, asked: list[Any], deadline: Deadline) -> Sequence[Evidence | GatherumError]:
    return await database.write_sql_many(asked, deadline=deadline)


def _note(calls: Calls, took: float, now: float) -> None:
    for name, call in calls.items():
        if call.started is not None:
            status = "late" if call.ended == math.inf else call.error.code if call.error else "ok"
            _BRANCHES.observe(min(call.ended, now) - call.started, _kind(name), status)
    _EFFICIENCY.observe(efficiency(calls, took, now))


def _spans(request_id: str, calls: Calls, questions: int, took: float, now: float) -> list[Span]:
    """What was done for a question: the batch it was in, and the calls of that."""
    made = [Span(request_id, "batch", "orchestrator batch", took, now, "", about={"gatherum.questions": questions})]
    for name, call in calls.items():
        if call.started is not None:
            failed = "late" if call.ended == math.inf else call.error.code if call.error else ""
            made.append(Span(request_id, name, name, call.started, min(call.ended, now), "batch", failed))
    return made


def _kind(branch: str) -> str:
    """Of a branch, without the name of a source or the place of a question: labels must be few."""
    return branch.partition(":")[0]


def _is_open(breaker: Breaker) -> float:
    return float(breaker.open)


def timeline(branches: Sequence[Report]) -> list[str]:
    """When each branch ran, for a log: `retrieval 0-41 ms ok`."""
    return [
        f"{each.name} {each.started_ms:.0f}-{each.started_ms + each.elapsed_ms:.0f} ms {each.status}"
        for each in branches
    ]


def _key(question: Question) -> Hashable:
    """Equal for questions that have the same answer."""
    filters = orjson.dumps(question.filters, option=orjson.OPT_SORT_KEYS)
    return question.text, question.collections, question.sources, question.limit, filters


def _itself(answer: Answer) -> Answer:
    return answer
