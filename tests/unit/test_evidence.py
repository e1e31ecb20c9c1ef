"""Evidence from real SQLite files: names, rows with what foreign keys lead to, stored lookups, and what may fail."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Refused, Unavailable, UnknownLookup
from actors.messages import (
    Evidence,
    Link,
    LinkedEntity,
    Lookup,
    LookupCall,
    Parameter,
    Row,
    Source,
    SourceValue,
    StoredLookup,
)
from actors.sql import evidence, lookups
from actors.sql.access import Own
from actors.sql.evidence import Finder, few_at_once
from actors.sql.model import Model
from actors.sql.sources import Sources
from config.settings import SourcesSettings

SKY = Source("sky", "sqlite", "sky.db")

SCRIPT = """
CREATE TABLE planets (id INTEGER PRIMARY KEY, name TEXT NOT NULL, gravity REAL);
CREATE TABLE moons (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, planet_id INTEGER REFERENCES planets (id),
    radius REAL, found INTEGER, owner_secret TEXT, note TEXT, picture BLOB);
INSERT INTO planets VALUES (5, 'Jupiter', 24.8), (6, 'Saturn', 10.4);
INSERT INTO moons VALUES
    (1, 'Titan', 'icy', 6, 2574.7, 1655, 'Walnut', 'It has seas of methane. it has a dense atmosphere.', x'00'),
    (2, 'Rhea', 'icy', 6, 763.8, 1672, 'Pecan', NULL, NULL), (3, 'Io', 'icy', 5, 1821.6, 1610, 'Hazel', NULL, NULL),
    (4, 'Dione', 'icy', 6, 561.4, 1684, 'Almond', NULL, NULL);
"""

COUNT = StoredLookup(
    "sky",
    "moons_since",
    "Number of moons of a planet found since a year",
    "SELECT count(*) AS moons, max(radius) AS largest, max(found) AS largest FROM moons"
    " JOIN planets ON planets.id = planet_id WHERE planets.name = :planet AND found >= :year",
    (Parameter("planet", "text", column="planets.name"), Parameter("year", "integer", required=False, default=0)),
)

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path / SKY.path, SCRIPT)
    return tmp_path


def make(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def settings(root: Path, **changes: Any) -> SourcesSettings:
    return DEFAULTS.sources.model_copy(update={"sqlite_root": str(root), "timeout_s": 10, **changes})


@pytest.fixture
async def finder(root: Path) -> AsyncIterator[Finder]:
    async for made in opened(settings(root)):
        yield made


async def opened(of: SourcesSettings) -> AsyncIterator[Finder]:
    sources = Sources(of, own=Own())
    yield Finder(of, sources)
    await sources.close()


async def find(finder: Finder, *wanted: Lookup | LookupCall, source: Source = SKY) -> list[Evidence | GatherumError]:
    return await finder.find_many(source, wanted, {COUNT.name: COUNT}, Deadline.after(20))


def rows_of(evidence: Evidence | GatherumError) -> tuple[Row, ...]:
    assert isinstance(evidence, Evidence), evidence
    assert evidence.error is None
    return evidence.rows


def moon(name: str, key: int | None = None) -> Lookup:
    return Lookup("sky", "moons", "name", name, key)


# --- names -----------------------------------------------------------------------------------------------------------


async def test_names_are_found_with_table_column_and_key(finder: Finder) -> None:
    moons = [("Dione", 4), ("Io", 3), ("Rhea", 2), ("Titan", 1)]
    assert await finder.values(SKY) == [
        *(SourceValue("sky", "moons", "name", name, key) for name, key in moons),
        *(SourceValue("sky", "planets", "name", name, key) for name, key in [("Jupiter", 5), ("Saturn", 6)]),
    ]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"exclude": ("*.name",)}, {"Walnut", "Pecan", "Hazel", "Almond"}),
        ({"exclude": ("moons.*",)}, {"Jupiter", "Saturn"}),
        ({"max_values": 1, "exclude": ("*secret",)}, {"Jupiter", "Dione"}),
        ({"max_names": 3, "exclude": ("*secret",)}, {"Dione", "Io", "Rhea"}),
        ({"max_values": 0}, set()),
    ],
)
async def test_names_are_bounded_and_columns_can_be_left_out(
    root: Path, changes: dict[str, Any], names: set[str]
) -> None:
    async for finder in opened(settings(root, **changes)):
        assert {value.value for value in await finder.values(SKY)} == names


async def test_a_registration_leaves_out_columns_of_its_own(finder: Finder) -> None:
    source = Source("sky", "sqlite", "sky.db", exclude=("planets.*",))
    assert {value.table for value in await finder.values(source)} == {"moons"}
    # What is left out of names is left out of evidence too.
    (found,) = await find(finder, moon("Titan"), source=source)
    titan, saturn = rows_of(found)
    assert "owner_secret" not in titan.columns
    assert saturn.columns == {}


# --- rows ------------------------------------------------------------------------------------------------------------


async def test_rows_come_with_what_their_foreign_keys_lead_to(finder: Finder) -> None:
    titan, saturn = rows_of((await find(finder, moon("Titan", 1)))[0])
    assert titan.columns == {
        **{"id": 1, "name": "Titan", "kind": "icy", "planet_id": 6, "radius": 2574.7, "found": 1655},
        **{"note": "It has seas of methane. it has a dense atmosphere.", "picture": "(1 bytes)"},
    }
    assert (titan.key, titan.sql, titan.via) == ({"id": 1}, 'SELECT * FROM "moons" WHERE "id" = 1', "")
    assert (saturn.table, saturn.columns["gravity"], saturn.via) == ("planets", 10.4, "moons.planet_id")
    planet, *moons = rows_of((await find(finder, Lookup("sky", "planets", "name", "Saturn")))[0])
    assert planet.key == {"id": 6}
    assert {row.columns["name"] for row in moons} == {"Titan", "Rhea", "Dione"}


async def test_a_row_that_has_got_another_key_is_found_by_its_value(finder: Finder) -> None:
    titan, _ = rows_of((await find(finder, moon("Titan", 99)))[0])
    assert titan.key == {"id": 1}
    assert rows_of((await find(finder, moon("Nix", 1)))[0]) == ()


async def test_a_source_that_has_changed_breaks_nothing(
    finder: Finder, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "FRESH_S", 0.0)
    await finder.values(SKY)
    assert rows_of((await find(finder, moon("Titan")))[0])
    make(root / SKY.path, "ALTER TABLE moons RENAME COLUMN name TO title; ALTER TABLE planets RENAME TO worlds;")
    renamed, gone = await find(finder, moon("Titan"), Lookup("sky", "planets", "name", "Saturn"))
    assert isinstance(renamed, NotFound)
    assert isinstance(gone, NotFound)
    titan, saturn = rows_of((await find(finder, Lookup("sky", "moons", "title", "Titan")))[0])
    assert (titan.columns["title"], saturn.table) == ("Titan", "worlds")


async def test_what_fails_costs_only_itself(finder: Finder) -> None:
    found = await find(
        finder, moon("Titan"), Lookup("sky", "stars", "name", "Sirius"), LookupCall("sky", "no"), moon("Io")
    )
    assert [type(one) for one in found] == [Evidence, NotFound, UnknownLookup, Evidence]


async def test_a_slow_source_is_given_up_and_then_left_alone(root: Path) -> None:
    slow = StoredLookup("sky", "slow", "Slow", SLOW)
    async for finder in opened(settings(root, timeout_s=0.3)):
        for _ in range(3):
            [late] = await finder.find_many(SKY, [LookupCall("sky", "slow")], {"slow": slow}, Deadline.after(20))
            assert isinstance(late, DeadlineExceeded)
        before = time.monotonic()
        [left] = await find(finder, moon("Titan"))
        assert isinstance(left, Unavailable)
        assert "has failed 3 times in a row" in left.detail
        assert time.monotonic() - before < 0.2
        # Another source does not notice.
        make(root / "other.db", SCRIPT)
        assert rows_of((await find(finder, moon("Titan"), source=Source("other", "sqlite", "other.db")))[0])


async def test_rows_found_before_a_foreign_key_took_too_long_are_kept(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finder._evidence

    async def slow(source: Source, asked: Any, exclude: Sequence[str], deadline: Deadline) -> list[Row]:
        if asked.via:
            raise DeadlineExceeded("The source 'sky' did not answer in time.")
        return await whole(source, asked, exclude, deadline)

    monkeypatch.setattr(finder, "_evidence", slow)
    [found] = await find(finder, moon("Titan"))
    assert isinstance(found, Evidence)
    assert [row.table for row in found.rows] == ["moons"]
    assert isinstance(found.error, DeadlineExceeded)


# --- lookups ---------------------------------------------------------------------------------------------------------


async def test_a_lookup_is_run_and_its_rows_say_with_what(finder: Finder) -> None:
    await finder.check(SKY, COUNT, Deadline.after(10))
    call = lookups.call(COUNT, {"planet": "Saturn", "year": 1660})
    [row] = rows_of((await find(finder, call))[0])
    assert row == Row(
        "sky",
        "moons_since",
        {"planet": "Saturn", "year": 1660, "row": 1},
        {"moons": 2, "largest": 763.8, "largest (2)": 1684},
        COUNT.sql.replace(":planet", "'Saturn'").replace(":year", "1660"),
        "lookup",
    )


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("SELECT nothing FROM moons", InvalidInput),
        ("SELEC 1", InvalidInput),
        ("SELECT 1; SELECT 2", InvalidInput),
        ("DELETE FROM moons", GatherumError),
        ("ATTACH 'x.db' AS x", GatherumError),
        ("SELECT load_extension('x')", Refused),
    ],
)
async def test_a_lookup_that_the_source_does_not_take_is_refused_at_its_creation(
    finder: Finder, sql: str, error: type[GatherumError]
) -> None:
    with pytest.raises(error):
        await finder.check(SKY, StoredLookup("sky", "bad", "Bad one", sql), Deadline.after(10))


# --- text-to-SQL -----------------------------------------------------------------------------------------------------


class Writer:
    """Stands for `Model`: writes what it is given.

    Attributes:
        told: what it was told, by call.
    """

    def __init__(self, reply: str) -> None:
        self._reply = reply
        self.told: list[Any] = []

    async def reply(self, told: Any, deadline: Deadline) -> str:
        self.told.append(told)
        return self._reply


async def written(finder: Finder, reply: str, text: str = "How many moons are icy?") -> Evidence:
    titan = LinkedEntity("Titan", "VALUE", 0, 5, (Link("value", None, "sky", "moons", "name", "Titan"),))
    return await finder.write(cast("Model", Writer(reply)), text, (titan,), [SKY], Deadline.after(10))


async def test_a_statement_of_a_model_is_run_and_shown(finder: Finder) -> None:
    sql = "SELECT count(*) AS icy_moons FROM moons WHERE kind = 'icy'"
    assert await written(finder, f"```sql\n{sql};\n```") == Evidence(
        (Row("sky", "", {"row": 1}, {"icy_moons": 4}, sql, "model"),)
    )


@pytest.mark.parametrize("reply", ["NONE", "I do not know.", "DROP TABLE moons"])
async def test_where_it_writes_none_there_are_no_rows(finder: Finder, reply: str) -> None:
    assert await written(finder, reply) == Evidence()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; DELETE FROM moons",
        "WITH x AS (SELECT 1) DELETE FROM moons",
        "SELECT writefile('x', name) FROM moons",
        "SELECT no_such_column FROM moons",
    ],
)
async def test_what_is_refused_is_told_with_the_statement(finder: Finder, root: Path, sql: str) -> None:
    with pytest.raises(GatherumError) as raised:
        await written(finder, sql)
    assert f"The language model wrote: {sql}" in raised.value.detail
    assert str(root) not in raised.value.detail
    assert rows_of((await find(finder, moon("Titan")))[0])


async def test_a_question_about_none_of_the_tables_is_not_put_to_the_model(finder: Finder) -> None:
    writer = Writer("SELECT 1")
    found = await finder.write(cast("Model", writer), "Who composed Fidelio?", (), [SKY], Deadline.after(10))
    assert (found, writer.told) == (Evidence(), [])


async def test_the_tables_of_sources_are_read_side_by_side(finder: Finder, monkeypatch: pytest.MonkeyPatch) -> None:
    read, begun = finder._sources.schema, 0
    all_begun = asyncio.Event()

    async def together(source: Source, deadline: Deadline, *, refresh: bool = False) -> Any:
        nonlocal begun
        begun += 1
        if begun == 2:
            all_begun.set()
        async with asyncio.timeout(2):
            await all_begun.wait()
        return await read(source, deadline, refresh=refresh)

    monkeypatch.setattr(finder._sources, "schema", together)
    writer = Writer("SELECT count(*) AS n FROM moons")
    sources = [Source("gone", "sqlite", "gone.db"), SKY]
    found = await finder.write(cast("Model", writer), "How many moons are icy?", (), sources, Deadline.after(10))
    assert [row.columns for row in found.rows] == [{"n": 4}]


async def test_no_more_than_so_many_are_worked_on_at_once() -> None:
    under_way: list[int] = []
    most = 0

    async def work(item: int) -> int:
        nonlocal most
        under_way.append(item)
        most = max(most, len(under_way))
        for _ in range(item % 3):
            await asyncio.sleep(0)
        under_way.remove(item)
        return -item

    assert await few_at_once(work, range(20), 4) == [-item for item in range(20)]
    assert most == 4
    assert await few_at_once(work, [], 4) == []


async def test_one_failure_ends_the_others() -> None:
    async def work(item: int) -> None:
        if item == 2:
            raise NotFound("gone")
        await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup):
        await few_at_once(work, range(3), 3)
