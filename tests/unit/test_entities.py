from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from actors import entities
from actors.deadline import Deadline
from actors.entities import Entities
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Overloaded, ReadingFailed, Unavailable
from actors.messages import Change, EntityName, LinkedEntity, Mention, Source, SourceValue
from config.settings import EntitiesSettings

if TYPE_CHECKING:
    from actors.database import Database

MODEL = "actors.reading.mentions"
SETTINGS = EntitiesSettings(replicas=1, model="model", min_name_chars=2, read_questions=0, poll_s=10, refresh_s=300)


def soon() -> Deadline:
    return Deadline.after(10)


class Names:
    """What Entities asks of the database: names, sources with their values, and a change log."""

    def __init__(self) -> None:
        self.names: list[EntityName] = []
        self.values: dict[str, list[SourceValue] | GatherumError] = {}
        self.log: list[Change] = []
        self.outage: GatherumError | None = None
        self.reads = 0
        self.of: dict[str, list[EntityName]] = {}
        self.asked: list[list[str]] = []
        self.looks = 0
        self._news = asyncio.Condition()

    async def publish(self, document_id: str, *names: EntityName) -> None:
        """A document appears, with the names that it brings."""
        self.of[document_id] = list(names)
        self.names = sorted({*self.names, *names}, key=lambda name: name.entity_id)
        await self.change("publish", document_id)

    async def change(self, kind: Any, document_id: str = "", collection: str = "") -> None:
        self.log.append(Change(len(self.log) + 1, kind, document_id, collection))
        async with self._news:
            self._news.notify_all()

    async def last_change(self, *, deadline: Deadline) -> int:
        self._check()
        return len(self.log)

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        self._check()
        async with self._news:
            await self._news.wait_for(lambda: len(self.log) > after or self.outage)
        self._check()
        return self.log[after : after + limit]

    async def entity_names(self, after: int, limit: int, *, deadline: Deadline) -> list[EntityName]:
        self._check()
        self.reads += 1
        return [name for name in self.names if name.entity_id > after][:limit]

    async def names_of(self, document_ids: list[str], *, deadline: Deadline) -> tuple[list[EntityName], bool]:
        self._check()
        self.asked.append(document_ids)
        published = [change.document_id for change in self.log if change.kind == "publish"]
        found = [name for one in document_ids for name in self.of.get(one, [])]
        return found, any(published.count(one) > 1 for one in document_ids)

    async def sources(self, *, deadline: Deadline) -> list[Source]:
        self._check()
        return [Source(name, "sqlite", f"{name}.db") for name in self.values]

    async def source_values(self, name: str, *, deadline: Deadline) -> list[SourceValue]:
        self.looks += 1
        values = self.values[name]
        if isinstance(values, GatherumError):
            raise values
        return values

    async def fail(self, error: GatherumError | None) -> None:
        self.outage = error
        async with self._news:
            self._news.notify_all()

    def _check(self) -> None:
        if self.outage is not None:
            raise self.outage


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in ("CALM_S", "RELOAD_SHARE", "FIRST_PAUSE_S"):
        monkeypatch.setattr(entities, pause, 0)


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
async def role(names: Names) -> AsyncIterator[Entities]:
    role = Entities(SETTINGS, cast("Database", names))
    yield role
    await role.stop()


async def linked(role: Entities, text: str) -> list[str]:
    (found,) = await role.link_many([text], deadline=soon())
    return [entity.text for entity in found]


async def until(condition: Callable[[], Any]) -> None:
    """Let the role's tasks and its builder thread run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.to_thread(lambda: None)


async def followed(role: Entities, change: int) -> None:
    async with asyncio.timeout(5):
        while (await role.health(deadline=soon())).detail["change"] != change:
            await asyncio.to_thread(lambda: None)


async def test_links_names_of_the_corpus_and_values_of_the_sources(role: Entities, names: Names) -> None:
    names.names = [EntityName(4, "Titan", "LOC")]
    names.values = {"planets": [SourceValue("planets", "moons", "name", "Titan")]}
    await role.start()
    first, second = await role.link_many(["Is Titan wet?", "Is Io?"], deadline=soon())
    assert [(link.kind, link.entity_id, link.table) for link in first[0].links] == [
        ("entity", 4, None),
        ("value", None, "moons"),
    ]
    assert second == ()
    health = await role.health(deadline=soon())
    assert health.ready
    assert health.detail["names"] == 1
    assert health.detail["values"] == {"planets": 1}


async def test_reads_all_names_page_by_page(role: Entities, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entities, "PAGE_NAMES", 2)
    names.names = [EntityName(number, f"Moon {number}", "LOC") for number in (1, 5, 6, 9)]
    await role.start()
    assert await linked(role, "Moon 1, Moon 5, Moon 6 and Moon 9") == ["Moon 1", "Moon 5", "Moon 6", "Moon 9"]
    assert names.reads == 3


async def test_a_published_document_brings_its_names_and_no_other_is_read(role: Entities, names: Names) -> None:
    names.names = [EntityName(6, "Titan", "LOC")]
    await role.start()
    assert await linked(role, "Titan or Io") == ["Titan"]
    await names.publish("d", EntityName(5, "Io", "LOC"))
    await followed(role, 1)
    assert await linked(role, "Titan or Io") == ["Titan", "Io"]
    assert names.asked == [["d"]]
    assert names.reads == 1


async def test_a_document_that_is_read_anew_loses_the_names_it_no_longer_has(role: Entities, names: Names) -> None:
    await role.start()
    await linked(role, "Titan")
    await names.publish("d", EntityName(1, "Titan", "LOC"))
    await followed(role, 1)
    assert await linked(role, "Titan or Io") == ["Titan"]
    names.names = []
    await names.publish("d", EntityName(2, "Io", "LOC"))
    await followed(role, 2)
    assert await linked(role, "Titan or Io") == ["Io"]
    assert await role.known([1, 2, 3], deadline=soon()) == 1
    assert await role.contents(0, 10, deadline=soon()) == [2]


async def test_of_many_documents_at_once_all_names_are_read_instead(
    role: Entities, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entities, "DOCUMENTS", 1)
    await role.start()
    await linked(role, "Titan")
    names.log.append(Change(1, "publish", "c"))
    await names.publish("d", EntityName(1, "Titan", "LOC"))
    await followed(role, 2)
    assert await linked(role, "Titan") == ["Titan"]
    assert names.asked == []


async def test_an_entity_whose_name_was_corrected_goes_by_the_new_one(role: Entities, names: Names) -> None:
    names.names = [EntityName(1, "Tltan", "LOC")]
    await role.start()
    assert await linked(role, "Tltan or Titan") == ["Tltan"]
    names.names = [EntityName(1, "Titan", "LOC")]
    await names.change("gap")
    await followed(role, 1)
    assert await linked(role, "Tltan or Titan") == ["Titan"]


async def test_a_deleted_document_takes_its_names_along(role: Entities, names: Names) -> None:
    names.names = [EntityName(6, "Titan", "LOC")]
    await role.start()
    assert await linked(role, "Titan") == ["Titan"]
    names.names = []
    await names.change("delete")
    await followed(role, 1)
    assert await linked(role, "Titan") == []


async def test_a_new_collection_is_no_reason_to_read_names(role: Entities, names: Names) -> None:
    await role.start()
    await linked(role, "Titan")
    await names.change("collection")
    await followed(role, 1)
    assert names.reads == 1


async def test_sources_come_and_go(role: Entities, names: Names) -> None:
    await role.start()
    assert await linked(role, "Titan") == []
    names.values = {"planets": [SourceValue("planets", "moons", "name", "Titan")]}
    await names.change("sources")
    await until(lambda: len(role._phrases) == 1)
    assert await linked(role, "Titan") == ["Titan"]
    names.values = {}
    await names.change("sources")
    await until(lambda: len(role._phrases) == 0)
    assert await linked(role, "Titan") == []


async def test_of_many_sources_only_the_one_that_changed_is_read_again(role: Entities, names: Names) -> None:
    names.values = {name: [SourceValue(name, "moons", "name", name.title())] for name in ("titan", "rhea", "io")}
    await role.start()
    await until(lambda: len(role._phrases) == 3)
    looks = names.looks
    names.values["rhea"] = [SourceValue("rhea", "moons", "name", "Tethys")]
    names.values["io"] = [SourceValue("io", "moons", "name", "Callisto")]
    await names.change("sources", collection="rhea")
    async with asyncio.timeout(5):
        # The builder puts it in some time after it was read.
        while await linked(role, "Tethys and Io and Callisto") != ["Tethys", "Io"]:
            await asyncio.to_thread(lambda: None)
    assert names.looks == looks + 1
    await names.change("gap")
    await until(lambda: names.looks == looks + 4)


async def test_a_source_that_fails_keeps_its_names_and_no_other_suffers(role: Entities, names: Names) -> None:
    names.values = {"planets": [SourceValue("planets", "moons", "name", "Titan")]}
    await role.start()
    assert await linked(role, "Titan and Rhea") == ["Titan"]
    names.values = {
        "planets": InvalidInput("damaged"),
        "others": [SourceValue("others", "moons", "name", "Rhea")],
    }
    await names.change("sources")
    await until(lambda: len(role._phrases) == 2)
    assert await linked(role, "Titan and Rhea") == ["Titan", "Rhea"]


async def test_a_source_that_stays_unreadable_is_warned_of_once_and_told_to_whoever_asks(names: Names) -> None:
    eager = SETTINGS.model_copy(update={"poll_s": 1e-6, "refresh_s": 1e-6})
    role = Entities(eager, cast("Database", names))
    names.values = {"planets": InvalidInput("sources.sqlite_root is not set.")}
    with capture_logs() as logged:
        await role.start()
        try:
            await until(lambda: names.looks > 3)
            told = (await role.health(deadline=soon())).detail["trouble"]
            names.values = {"planets": []}
            await until(lambda: not role._unread)
        finally:
            await role.stop()
    assert told == {"source planets": "sources.sqlite_root is not set."}
    assert [entry["event"] for entry in logged] == ["source_values_failed"]


async def test_a_source_is_read_again_after_a_while(names: Names) -> None:
    eager = SETTINGS.model_copy(update={"refresh_s": 1e-6})
    role = Entities(eager, cast("Database", names))
    names.values = {"planets": []}
    await role.start()
    try:
        assert await linked(role, "Titan") == []
        names.values = {"planets": [SourceValue("planets", "moons", "name", "Titan")]}
        await until(lambda: len(role._phrases) == 1)
    finally:
        await role.stop()


async def test_an_outage_costs_freshness_but_no_answers(role: Entities, names: Names) -> None:
    names.names = [EntityName(1, "Titan", "LOC")]
    await role.start()
    assert await linked(role, "Titan and Io") == ["Titan"]
    await names.fail(Unavailable("The database is restarting."))
    await until(lambda: role._trouble)
    assert await linked(role, "Titan and Io") == ["Titan"]
    assert (await role.health(deadline=soon())).detail["trouble"] == {"names": "The database is restarting."}
    await names.publish("d", EntityName(2, "Io", "LOC"))
    await names.fail(None)
    await followed(role, 1)
    assert await linked(role, "Titan and Io") == ["Titan", "Io"]
    assert (await role.health(deadline=soon())).detail["trouble"] == {}


async def test_starts_while_the_database_is_down(role: Entities, names: Names) -> None:
    names.names = [EntityName(1, "Titan", "LOC")]
    names.outage = Unavailable("not up yet")
    await role.start()
    await until(lambda: role._trouble)
    assert not (await role.health(deadline=soon())).ready
    question = asyncio.create_task(linked(role, "Titan"))
    await names.fail(None)
    assert await question == ["Titan"]


async def test_a_replica_without_names_says_so_rather_than_finding_none(
    role: Entities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entities, "FIRST_LOAD_S", 0)
    with pytest.raises(Unavailable):
        await linked(role, "Titan")


async def test_a_long_batch_is_linked_off_the_loop(
    role: Entities, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.names = [EntityName(1, "Titan", "LOC")]
    await role.start()
    await linked(role, "Titan")
    here = threading.get_ident()
    threads: set[int] = set()
    find = role._phrases.find

    def watched(text: str) -> tuple[LinkedEntity, ...]:
        threads.add(threading.get_ident())
        return find(text)

    monkeypatch.setattr(role._phrases, "find", watched)
    assert await linked(role, "Is Titan wet?") == ["Titan"]
    assert threads == {here}
    assert await linked(role, "Is Titan wet? " * entities.INLINE_CHARS) == ["Titan"] * entities.INLINE_CHARS
    assert len(threads) == 2


class Model:
    """Stands for `actors.reading.mentions`: capitalised words are mentions; waits while it is held."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.threads: set[int] = set()

    def find_mentions(self, texts: Sequence[str], model: str) -> list[tuple[Mention, ...]]:
        self.threads.add(threading.get_ident())
        self.free.wait(5)
        return [
            tuple(
                Mention(word, model, text.index(word), text.index(word) + len(word))
                for word in text.split()
                if word.istitle()
            )
            for text in texts
        ]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    module = ModuleType(MODEL)
    module.find_mentions = model.find_mentions  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODEL, module)
    return model


async def test_extracts_in_one_thread_off_the_loop(role: Entities, model: Model) -> None:
    batches = await asyncio.gather(*(role.extract(["is Titan wet", "no"], deadline=soon()) for _ in range(4)))
    mention = Mention("Titan", SETTINGS.model, 3, 8)
    assert batches == [[(mention,), ()]] * 4
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


async def test_an_extraction_ends_by_its_deadline_and_leaves_no_trace(role: Entities, model: Model) -> None:
    model.free.clear()
    slow = asyncio.create_task(role.extract(["Titan"], deadline=soon()))
    await until(lambda: model.threads)
    with pytest.raises(DeadlineExceeded):
        await role.extract(["Rhea"], deadline=Deadline.after(0.01))
    assert len(role._extractions) == 1
    model.free.set()
    await slow
    assert not role._extractions


async def test_extractions_that_wait_are_bounded(role: Entities, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entities, "MAX_EXTRACTIONS", 2)
    model.free.clear()
    waiting = [asyncio.create_task(role.extract(["Titan"], deadline=soon())) for _ in range(2)]
    await until(lambda: len(role._extractions) == 2)
    with pytest.raises(Overloaded):
        await role.extract(["Rhea"], deadline=soon())
    model.free.set()
    await asyncio.gather(*waiting)


async def test_a_spent_deadline_starts_nothing(role: Entities, model: Model) -> None:
    with pytest.raises(DeadlineExceeded):
        await role.extract(["Titan"], deadline=replace(soon(), at=0.0))
    assert not model.threads


READING = SETTINGS.model_copy(update={"read_questions": 2})


@pytest.fixture
async def reader(names: Names, model: Model) -> AsyncIterator[Entities]:
    """A role that reads questions, with the model loaded."""
    names.names = [EntityName(1, "Titan", "LOC")]
    role = Entities(READING, cast("Database", names))
    await role.start()
    # The first question is not kept waiting for the model.
    assert await linked(role, "is Titan or Rhea wet") == ["Titan"]
    await until(lambda: role._model_ready)
    yield role
    model.free.set()
    await role.stop()


async def test_questions_are_read_for_names_that_nobody_knows(reader: Entities) -> None:
    (found,) = await reader.link_many(["is Titan or Rhea wet"], deadline=soon())
    assert [(entity.text, entity.label, bool(entity.links)) for entity in found] == [
        ("Titan", "LOC", True),
        ("Rhea", SETTINGS.model, False),
    ]


async def test_questions_are_not_read_while_there_is_something_else_to_do(reader: Entities, model: Model) -> None:
    await linked(reader, "Rhea")
    many = await reader.link_many(["Rhea"] * 3, deadline=soon())
    assert many == [(), (), ()]
    model.free.clear()
    pages = asyncio.create_task(reader.extract(["page"], deadline=soon()))
    await until(lambda: reader._extractions)
    assert await linked(reader, "is Titan or Rhea wet") == ["Titan"]
    model.free.set()
    await pages


async def test_a_question_does_not_wait_long_to_be_read(
    reader: Entities, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entities, "QUESTION_S", 0.01)
    model.free.clear()
    assert await linked(reader, "is Titan or Rhea wet") == ["Titan"]


async def test_a_model_that_is_not_there_costs_no_answer(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []
    module = ModuleType(MODEL)

    def missing(texts: Sequence[str], model: str) -> list[tuple[Mention, ...]]:
        tries.append(texts)
        raise ReadingFailed("The model is not installed.")

    module.find_mentions = missing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODEL, module)
    names.names = [EntityName(1, "Titan", "LOC")]
    role = Entities(READING, cast("Database", names))
    await role.start()
    try:
        for _ in range(3):
            assert await linked(role, "Titan or Rhea") == ["Titan"]
            await until(lambda: not role._extractions)
        assert tries == [[]]
    finally:
        await role.stop()
