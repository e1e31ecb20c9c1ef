"""The orchestrator: fork, join, and every way in which a branch can fail without taking the answer with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import orjson
import pytest
from structlog.testing import capture_logs

from actors.deadline import Deadline
from actors.errors import (
    DeadlineExceeded,
    GatherumError,
    InvalidInput,
    Overloaded,
    Refused,
    Unavailable,
    UnknownCollection,
    UnknownSource,
)
from actors.messages import (
    Answer,
    Change,
    Evidence,
    Found,
    Link,
    LinkedEntity,
    Lookup,
    LookupCall,
    Parameter,
    Passage,
    Query,
    Question,
    Row,
    RowCitation,
    Source,
    StoredLookup,
    Words,
)
from actors.orchestrator import Orchestrator
from actors.search.answer import NOTHING_FOUND
from actors.search.branches import NOT_SEARCHED, Wanted
from config.settings import OrchestratorSettings

T = TypeVar("T")

SETTINGS = OrchestratorSettings(
    replicas=1, timeout_s=30, reserve_ms=0, max_in_flight=4, sentences=3, cache_mb=0, slow_ms=2000
)
SOON = Deadline.after(7200)  # from import on: longer than any run of the tests
PAST = Deadline(0.0)

PASSAGE = Passage("d1", "Titan", "default", 1, 0, 34, "Huygens landed on Titan in 2005.", Words(), 0.016, {})
FOUND = Found((PASSAGE,), "fast")
ROW = Row("planets", "moons", {"id": 6}, {"id": 6, "name": "Titan", "radius_km": 2574.7}, "SELECT 1")
VISITS = StoredLookup(
    "planets", "visits", "Missions that visited a moon", "…", (Parameter("moon", "text", column="moons.name"),)
)
TOTAL = Row("planets", "visits", {"moon": "Titan", "row": 1}, {"mission": "Huygens"}, "SELECT 2", "lookup")


@dataclass
class Branch:
    """What the fakes share: a gate to wait at, an error to raise, and a note of what was asked.

    Attributes:
        gate: waited for before answering, if set.
        reached: set when a call has come in.
        cancelled: calls cancelled at the gate.
    """

    gate: asyncio.Event | None = None
    error: Exception | None = None
    asked: list[Any] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0

    async def answer(self, asked: Any, values: Sequence[T]) -> list[T]:
        self.asked.append(asked)
        self.reached.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return list(values)


class FakeRetrieval(Branch):
    """Finds `PASSAGE` for every query, except in the collection `none`."""

    async def search_many(self, queries: list[Query], *, deadline: Deadline) -> list[Any]:
        found = [UnknownCollection("none") if "none" in query.collections else FOUND for query in queries]
        return await self.answer(queries, found)


class FakeEntities(Branch):
    """Knows Titan, as a value of two sources."""

    async def link_many(self, texts: list[str], *, deadline: Deadline) -> list[tuple[LinkedEntity, ...]]:
        links = (Link("entity", 7), Link("value", None, "planets", "moons", "name", "Titan"))
        more = Link("value", None, "films", "films", "title", None)
        known = LinkedEntity("titan", "VALUE", 0, 5, (*links, more))
        return await self.answer(texts, [(known,) if "titan" in text.lower() else () for text in texts])


class FakeDatabase(Branch):
    """Finds `ROW` in the source `planets`; `films` is broken.

    Attributes:
        stored: the stored lookups.
        slow: sources that do not answer.
        written: what a language model was asked to write statements for.
        model: what comes of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[StoredLookup] = []
        self.slow: set[str] = set()
        self.written: list[Any] = []
        self.model: Evidence | GatherumError = Evidence()
        self.log: list[Change] = []
        self.news = asyncio.Event()
        self.followed = asyncio.Event()

    async def evidence_many(self, source: str, wanted: list[Wanted], *, deadline: Deadline) -> list[Any]:
        if source in self.slow:
            await asyncio.Event().wait()
        found = [
            Unavailable("No films.") if source == "films" else Evidence((TOTAL if isinstance(w, LookupCall) else ROW,))
            for w in wanted
        ]
        return await self.answer((source, wanted), found)

    async def write_sql_many(self, asked: list[Any], *, deadline: Deadline) -> list[Any]:
        self.written += asked
        return [self.model for _ in asked]

    async def last_change(self, *, deadline: Deadline) -> int:
        return len(self.log)

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        if len(self.log) <= after:
            self.followed.set()
            await self.news.wait()
        self.news.clear()
        return self.log[after:]

    async def lookups(self, source: str | None = None, *, deadline: Deadline) -> list[StoredLookup]:
        return list(self.stored)

    def store(self, *lookups: StoredLookup) -> None:
        self.stored = list(lookups)
        self.log.append(Change(len(self.log) + 1, "lookups"))
        self.followed.clear()
        self.news.set()

    async def sources(self, *, deadline: Deadline) -> list[Source]:
        return [Source("planets", "sqlite", "planets.db")]


@dataclass
class Roles:
    """The three roles and the orchestrator over them."""

    settings: OrchestratorSettings = SETTINGS
    retrieval: FakeRetrieval = field(default_factory=FakeRetrieval)
    entities: FakeEntities = field(default_factory=FakeEntities)
    database: FakeDatabase = field(default_factory=FakeDatabase)
    text_to_sql: bool = False

    def __post_init__(self) -> None:
        self.orchestrator = Orchestrator(
            self.settings,
            retrieval=cast("Any", self.retrieval),
            entities=cast("Any", self.entities),
            database=cast("Any", self.database),
            text_to_sql=self.text_to_sql,
        )

    async def ask(self, *questions: Question, deadline: Deadline = SOON) -> list[Answer | GatherumError]:
        return await self.orchestrator.ask_many(list(questions), deadline=deadline)

    async def ask_one(self, text: str = "What is the radius of Titan?", **more: Any) -> Answer:
        [answer] = await self.ask(question(text, **more))
        assert isinstance(answer, Answer), answer
        return answer


def question(text: str = "What is the radius of Titan?", deadline: Deadline = SOON, **more: Any) -> Question:
    return Question("r1", text, deadline, **{"sources": ("planets",), **more})


def statuses(answer: Answer) -> dict[str, str]:
    return {branch.name: branch.status for branch in answer.branches}


@pytest.fixture
def roles() -> Roles:
    return Roles()


async def test_joins_passages_names_and_rows(roles: Roles) -> None:
    answer = await roles.ask_one()
    assert (answer.request_id, answer.question, answer.mode) == ("r1", "What is the radius of Titan?", "extractive")
    assert answer.passages == (PASSAGE,)
    assert answer.rows == (ROW,)
    assert [entity.text for entity in answer.entities] == ["titan"]
    assert answer.sentences[0].citation == RowCitation("planets", "moons", {"id": 6})
    assert answer.text.startswith("moons · Titan: radius_km 2574.7")
    assert statuses(answer) == {"entities": "ok", "retrieval": "ok", "sql:planets": "ok"}
    assert not answer.partial
    assert answer.degraded == ()


async def test_a_batch_makes_each_call_once_and_looks_nothing_up_twice(roles: Roles) -> None:
    answers = await roles.ask(
        question("Titan?"), question("How far is titan?", limit=2, collections=("c",)), question("Rhea?")
    )
    assert [isinstance(answer, Answer) for answer in answers] == [True] * 3
    assert roles.retrieval.asked == [
        [Query("Titan?", (), 5), Query("How far is titan?", ("c",), 2), Query("Rhea?", (), 5)]
    ]
    assert roles.entities.asked == [["Titan?", "How far is titan?", "Rhea?"]]
    # As stored, not as written in the question.
    assert roles.database.asked == [("planets", [Lookup("planets", "moons", "name", "Titan")])]


async def test_sources_are_those_of_the_question(roles: Roles) -> None:
    every, none, named = await roles.ask(
        question(sources=None), question(sources=()), question(sources=("planets", "nowhere"))
    )
    assert isinstance(every, Answer)
    assert statuses(every)["sql:films"] == "error"
    assert every.rows == (ROW,)
    assert every.degraded == ("sql:films: unavailable: No films.",)
    assert ("films", [Lookup("films", "films", "title", "titan")]) in roles.database.asked
    assert isinstance(none, Answer)
    assert statuses(none)["sql"] == "skipped"
    assert none.rows == ()
    assert not none.partial
    assert isinstance(named, UnknownSource)


async def test_a_source_that_does_not_answer_costs_its_own_rows_alone(roles: Roles) -> None:
    roles.database.slow = {"films"}
    answer = await roles.ask_one(sources=None, deadline=Deadline.after(0.1))
    assert statuses(answer) == {"entities": "ok", "retrieval": "ok", "sql:planets": "ok", "sql:films": "timeout"}
    assert answer.partial
    assert answer.rows == (ROW,)


async def test_rows_that_are_not_all_count_and_what_lacks_is_told(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def evidence_many(source: str, wanted: list[Wanted], *, deadline: Deadline) -> list[Any]:
        return [Evidence((ROW,), DeadlineExceeded("The source 'planets' did not answer in time."))]

    monkeypatch.setattr(roles.database, "evidence_many", evidence_many)
    answer = await roles.ask_one()
    assert answer.rows == (ROW,)
    assert statuses(answer)["sql:planets"] == "timeout"
    assert answer.degraded == ("sql:planets: deadline_exceeded: The source 'planets' did not answer in time.",)


async def test_a_row_that_a_name_finds_too_is_none_that_a_foreign_key_led_to(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    planet = Row("planets", "planets", {"id": 6}, {"id": 6, "name": "Saturn"}, "", via="moons.planet_id")

    async def evidence_many(source: str, wanted: list[Wanted], *, deadline: Deadline) -> list[Any]:
        return [Evidence((ROW, planet, replace(planet, via="")))]

    monkeypatch.setattr(roles.database, "evidence_many", evidence_many)
    assert (await roles.ask_one()).rows == (ROW, replace(planet, via=""))


async def test_stored_lookups_are_called_for_as_soon_as_they_are_stored(roles: Roles) -> None:
    await roles.orchestrator.start()
    asked = "Which missions visited Titan?"
    await roles.database.followed.wait()
    before = await roles.ask_one(asked)
    assert before.rows == (ROW,)
    roles.database.store(VISITS)
    await roles.database.followed.wait()
    answer, elsewhere = await roles.ask(question(asked), question(asked, sources=()))
    assert isinstance(answer, Answer)
    assert answer.rows == (ROW, TOTAL)
    assert answer.text.startswith("visits · Titan: mission Huygens.")
    assert answer.sentences[0].citation == RowCitation("planets", "visits", TOTAL.key, "lookup")
    assert LookupCall("planets", "visits", (("moon", "Titan"),)) in roles.database.asked[-1][1]
    assert statuses(answer) == {"entities": "ok", "retrieval": "ok", "sql:planets": "ok"}
    assert isinstance(elsewhere, Answer)
    assert elsewhere.rows == ()
    await roles.orchestrator.stop()


async def test_a_model_is_asked_only_where_that_is_on_and_no_lookup_is_called() -> None:
    roles = Roles(text_to_sql=True)
    row = Row("planets", "", {"row": 1}, {"count": 3}, "SELECT count(*)", "model")
    roles.database.model = Evidence((row,))
    answer = await roles.ask_one("How many moons are there?")
    assert statuses(answer) == {"entities": "ok", "retrieval": "ok", "model": "ok"}
    assert answer.rows == (row,)
    assert answer.text.startswith("planets: count 3.")
    assert roles.database.written == [("How many moons are there?", (), ("planets",))]
    assert statuses(await roles.ask_one("How many?", sources=()))["sql"] == "skipped"
    await roles.orchestrator.start()
    roles.database.store(VISITS)
    await roles.database.followed.wait()
    assert "model" not in statuses(await roles.ask_one("Which missions visited Titan?"))
    await roles.orchestrator.stop()
    off = Roles()
    assert "model" not in statuses(await off.ask_one("How many moons are there?"))
    assert off.database.written == []


async def test_a_model_that_fails_degrades_the_answer() -> None:
    roles = Roles(text_to_sql=True)
    roles.database.model = Refused("It would do more than read.")
    answer = await roles.ask_one("Where did Huygens land?")
    assert answer.text == "Huygens landed on Titan in 2005."
    assert answer.degraded == ("model: refused: It would do more than read.",)


async def test_rows_are_looked_up_while_passages_are_still_searched_for(roles: Roles) -> None:
    roles.retrieval.gate = asyncio.Event()
    asking = asyncio.create_task(roles.ask_one())
    await roles.database.reached.wait()
    assert not asking.done()
    roles.retrieval.gate.set()
    assert (await asking).rows == (ROW,)


async def test_without_a_known_name_nothing_is_looked_up(roles: Roles) -> None:
    answer = await roles.ask_one("Where did Huygens land?")
    assert statuses(answer) == {"entities": "ok", "retrieval": "ok", "sql": "skipped"}
    assert answer.text == "Huygens landed on Titan in 2005."
    assert roles.database.asked == []
    assert not answer.partial


async def test_nothing_found_is_said_plainly(roles: Roles) -> None:
    answer = await roles.ask_one("Who composed Fidelio?")
    assert answer.text == NOTHING_FOUND
    assert answer.sentences == ()
    assert not answer.partial


async def test_failed_passages_leave_the_rows(roles: Roles) -> None:
    roles.retrieval.error = Unavailable("Still being filled.")
    with capture_logs() as lines:
        answer = await roles.ask_one()
    assert answer.partial
    assert answer.degraded == ("retrieval: unavailable: Still being filled.",)
    assert answer.rows == (ROW,)
    assert statuses(answer)["retrieval"] == "error"
    [warning] = [line for line in lines if line["log_level"] == "warning"]
    assert (warning["event"], warning["request_id"]) == ("answer_degraded", "r1")


async def test_failed_passages_are_not_reported_as_nothing_found(roles: Roles) -> None:
    roles.retrieval.error = Unavailable("Still being filled.")
    answer = await roles.ask_one("Where did Huygens land?")
    assert answer.text == NOT_SEARCHED


async def test_failed_names_leave_the_passages(roles: Roles) -> None:
    roles.entities.error = RuntimeError("a fault")
    with capture_logs() as lines:
        answer = await roles.ask_one("Where did Huygens land?")
    assert answer.partial
    assert answer.passages == (PASSAGE,)
    assert statuses(answer) == {"entities": "error", "retrieval": "ok", "sql": "skipped"}
    assert answer.degraded == ("entities: unavailable: The entities branch failed. Try again.",)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["branch_failed"]


async def test_a_branch_that_miscounts_is_a_failed_branch(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    async def link_many(texts: list[str], *, deadline: Deadline) -> list[tuple[LinkedEntity, ...]]:
        return []

    monkeypatch.setattr(roles.entities, "link_many", link_many)
    assert statuses(await roles.ask_one())["entities"] == "error"


async def test_if_all_branches_fail_the_question_fails(roles: Roles) -> None:
    roles.retrieval.error = Unavailable("Restarting.")
    roles.entities.error = DeadlineExceeded("Late.")
    [mixed] = await roles.ask(question())
    assert isinstance(mixed, Unavailable)
    assert "retrieval: unavailable: Restarting." in mixed.detail
    roles.retrieval.error = DeadlineExceeded("Late.")
    [late] = await roles.ask(question())
    assert isinstance(late, DeadlineExceeded)


async def test_the_question_is_told_what_is_wrong_with_it(roles: Roles) -> None:
    unknown, fine, empty, surrogate = await roles.ask(
        question(collections=("none",)), question(), question("  \n"), question("\ud800")
    )
    assert isinstance(unknown, UnknownCollection)
    assert isinstance(fine, Answer)
    assert isinstance(empty, InvalidInput)
    assert isinstance(surrogate, InvalidInput)
    assert roles.entities.asked == [[question().text] * 2]


async def test_a_question_past_its_deadline_is_not_begun(roles: Roles) -> None:
    [late] = await roles.ask(question(deadline=PAST))
    assert isinstance(late, DeadlineExceeded)
    [all_late] = await roles.ask(question(), deadline=PAST)
    assert isinstance(all_late, DeadlineExceeded)
    assert roles.entities.asked == []


async def test_a_shared_call_goes_on_for_those_who_still_wait(roles: Roles, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("actors.orchestrator.time.time", lambda: now)
    roles.retrieval.gate = asyncio.Event()
    asking = asyncio.create_task(
        roles.ask(question(deadline=Deadline(1001.0)), question(deadline=Deadline(1010.0)), deadline=Deadline(1010.0))
    )
    await roles.database.reached.wait()
    now = 1002.0
    roles.retrieval.gate.set()
    short, long = await asking
    assert isinstance(short, Answer)
    assert short.partial
    assert statuses(short) == {"entities": "ok", "retrieval": "timeout", "sql:planets": "ok"}
    [late] = [branch for branch in short.branches if branch.name == "retrieval"]
    assert (late.started_ms, late.elapsed_ms) == (0.0, 1000.0)
    assert short.passages == ()
    assert isinstance(long, Answer)
    assert not long.partial
    assert long.passages == (PASSAGE,)
    assert roles.retrieval.cancelled == 0


async def test_a_call_that_nobody_waits_for_any_more_is_cancelled(roles: Roles) -> None:
    roles.retrieval.gate = asyncio.Event()
    [answer] = await roles.ask(question(deadline=Deadline.after(0.05)))
    assert isinstance(answer, Answer)
    assert statuses(answer)["retrieval"] == "timeout"
    assert answer.degraded == ("retrieval: deadline_exceeded: retrieval did not answer in time.",)
    await asyncio.sleep(0)
    assert roles.retrieval.cancelled == 1


async def test_the_reserve_is_kept_back_from_the_branches() -> None:
    roles = Roles(settings=SETTINGS.model_copy(update={"reserve_ms": 60_000_000}))
    [late] = await roles.ask(question())
    assert isinstance(late, DeadlineExceeded)


async def test_cancelling_a_batch_cancels_its_calls(roles: Roles) -> None:
    roles.retrieval.gate = roles.entities.gate = asyncio.Event()
    asking = asyncio.create_task(roles.ask_one())
    await roles.retrieval.reached.wait()
    await roles.entities.reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert (roles.retrieval.cancelled, roles.entities.cancelled) == (1, 1)
    assert (await roles.orchestrator.health(deadline=SOON)).detail["in_flight"] == 0


async def test_questions_in_flight_are_bounded(roles: Roles) -> None:
    roles.retrieval.gate = asyncio.Event()
    first = asyncio.create_task(roles.ask(question(), question(), question()))
    await roles.retrieval.reached.wait()
    second = asyncio.create_task(roles.ask(question(), question()))
    await asyncio.sleep(0)
    assert (await roles.orchestrator.health(deadline=SOON)).detail["in_flight"] == 4
    [refused] = await roles.ask(question())
    assert isinstance(refused, Overloaded)
    [also_refused] = await roles.orchestrator.search_json([Query("Titan")], deadline=SOON)
    assert isinstance(also_refused, Overloaded)
    roles.retrieval.gate.set()
    assert all(isinstance(answer, Answer) for answer in await first)
    taken, surplus = await second
    assert isinstance(taken, Answer)
    assert isinstance(surplus, Overloaded)
    assert isinstance((await roles.ask(question()))[0], Answer)


async def test_json_is_the_same_answer(roles: Roles) -> None:
    encoded, error = await roles.orchestrator.ask_json([question(), question(collections=("none",))], deadline=SOON)
    assert isinstance(encoded, bytes)
    decoded = orjson.loads(encoded)
    answer = await roles.ask_one()
    assert decoded["answer"]["text"] == answer.text
    assert decoded["rows"][0]["columns"] == ROW.columns
    assert isinstance(error, UnknownCollection)


async def test_search_json_encodes_passages_and_keeps_errors(roles: Roles) -> None:
    found, error = await roles.orchestrator.search_json([Query("Titan"), Query("Titan", ("none",))], deadline=SOON)
    assert isinstance(found, bytes)
    assert orjson.loads(found)["passages"][0]["document_id"] == "d1"
    assert isinstance(error, UnknownCollection)
    roles.retrieval.error = Unavailable("Restarting.")
    with pytest.raises(Unavailable):
        await roles.orchestrator.search_json([Query("Titan")], deadline=SOON)
    assert (await roles.orchestrator.health(deadline=SOON)).detail["in_flight"] == 0


async def test_one_answer_that_cannot_be_put_together_costs_no_other(roles: Roles) -> None:
    with capture_logs() as lines:
        broken, fine = await roles.orchestrator.ask_json(
            [Question(cast("Any", "\ud800"), "Titan?", SOON), question()], deadline=SOON
        )
    assert isinstance(broken, GatherumError)
    assert broken.code == "internal"
    assert isinstance(fine, bytes)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["answer_not_joined"]


async def test_an_empty_batch_is_answered_with_nothing(roles: Roles) -> None:
    assert await roles.ask() == []
    assert await roles.orchestrator.search_json([], deadline=SOON) == []
    await roles.orchestrator.stop()


async def test_a_kept_answer_is_given_again_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.orchestrator.CALM_S", 0.0)
    monkeypatch.setitem(globals(), "FOUND", replace(FOUND, change=7))
    roles = Roles(settings=SETTINGS.model_copy(update={"cache_mb": 1}))

    async def ask(request_id: str, **more: Any) -> dict[str, Any]:
        asked = Question(request_id, "Who landed?", SOON, sources=(), **more)
        [body] = await roles.orchestrator.ask_json([asked], deadline=SOON)
        assert isinstance(body, bytes)
        found: dict[str, Any] = orjson.loads(body)
        return found

    first, second = await ask("one"), await ask("two")
    assert second == {**first, "request_id": "two"}
    assert len(roles.retrieval.asked) == 1
    await ask("other", limit=2)
    assert len(roles.retrieval.asked) == 2
    roles.orchestrator._cache.follow([Change(8, "publish", "d", "default")])
    await ask("three")
    assert len(roles.retrieval.asked) == 3


async def test_partial_answers_and_those_with_rows_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.orchestrator.CALM_S", 0.0)
    monkeypatch.setitem(globals(), "FOUND", replace(FOUND, change=7))
    roles = Roles(settings=SETTINGS.model_copy(update={"cache_mb": 1}))
    await roles.orchestrator.ask_json([question()], deadline=SOON)
    roles.entities.error = Unavailable("Down.")
    await roles.orchestrator.ask_json([question("Who landed?", sources=())], deadline=SOON)
    assert len(roles.orchestrator._cache) == 0
