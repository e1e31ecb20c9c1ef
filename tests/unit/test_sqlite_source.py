from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Refused, Unavailable
from actors.messages import Evidence, Lookup, Row, Source, SourceValue
from actors.sql import guard, links
from actors.sql import sqlite as reader
from actors.sql.access import Own
from actors.sql.evidence import Finder
from actors.sql.running import Limits
from actors.sql.sources import Sources
from actors.sql.sqlite_process import _Child

PLANETS = Source("planets", "sqlite", "planets.db")

SCHEMA = """
CREATE TABLE moons (id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT, radius_km REAL, note TEXT, picture BLOB);
INSERT INTO moons (name, kind, radius_km, note, picture) VALUES
    ('Titan', 'icy', 2574.7, 'It has seas of methane. it has a dense atmosphere.', NULL),
    ('Io', 'rocky', 1821.6, 'Its volcanoes are driven by tides. they were seen by Voyager 1 first.', NULL),
    ('Rhea', 'icy', 763.8, 'It is made mostly of ice. its surface is heavily cratered.', NULL),
    ('Ariel', 'icy', 578.9, NULL, NULL), ('Dione', 'icy', 561.4, NULL, NULL), ('Puck', 'icy', 81.0, NULL, NULL);
CREATE TABLE "odd ""table" (name TEXT, "a""b" TEXT);
INSERT INTO "odd ""table" VALUES ('Vesta', 'x'), ('Vesta', 'y'), ('Ceres', 'z');
CREATE TABLE visits (mission TEXT, moon TEXT, day TEXT, home TEXT, note TEXT, PRIMARY KEY (moon, mission))
    WITHOUT ROWID;
INSERT INTO visits VALUES
    ('Cassini', 'Titan', '2004-10-26', 'https://example.org/a', '12 km'),
    ('Cassini', 'Rhea', '2005-11-26', 'a@b.org', '3 km'),
    ('Galileo', 'Io', '1995-12-07', 'www.example.org', '900');
CREATE VIEW large AS SELECT * FROM moons WHERE radius_km > 1000;
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    make(root / PLANETS.path, SCHEMA)
    return root


def make(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def sources(root: Path | None, *, store: Path | None = None, **changes: Any) -> Sources:
    settings = DEFAULTS.sources.model_copy(update={"sqlite_root": str(root or ""), "max_values": 100, **changes})
    _made.append(Sources(settings, own=Own(store)))
    return _made[-1]


_made: list[Sources] = []


@pytest.fixture(autouse=True)
async def _closed() -> AsyncIterator[None]:
    yield
    while _made:
        await _made.pop().close()


async def ask(of: Sources, *lookups: Lookup, source: Source = PLANETS) -> list[Evidence | GatherumError]:
    return await Finder(of._settings, of).find_many(source, lookups, {}, Deadline.after(5))


async def rows(of: Sources, table: str, column: str, value: str) -> list[Row]:
    (found,) = await ask(of, Lookup("planets", table, column, value))
    assert isinstance(found, Evidence), found
    return list(found.rows)


# --- which files may be read ----------------------------------------------------------------------------------------


async def test_a_sqlite_file_under_the_root_is_accepted(root: Path) -> None:
    await sources(root).check(PLANETS)
    await sources(root).check(Source("planets", "sqlite", str(root / PLANETS.path)))


async def test_without_a_root_the_setting_is_named(root: Path) -> None:
    with pytest.raises(Refused, match="GATHERUM_SOURCES__SQLITE_ROOT"):
        await sources(None).check(PLANETS)


@pytest.mark.parametrize("path", ["../outside.db", "/etc/passwd", "link.db", "folder/outside.db", "../missing.db"])
async def test_nothing_outside_the_root_is_read_nor_told_to_exist(root: Path, path: str) -> None:
    make(root.parent / "outside.db", SCHEMA)
    (root / "link.db").symlink_to(root.parent / "outside.db")
    (root / "folder").symlink_to(root.parent)
    with pytest.raises(Refused, match="outside"):
        await sources(root).check(Source("s", "sqlite", path))


async def test_a_link_that_stays_inside_is_fine(root: Path) -> None:
    (root / "link.db").symlink_to(root / PLANETS.path)
    await sources(root).check(Source("s", "sqlite", "link.db"))


async def test_a_file_replaced_by_a_link_after_its_check_is_not_read(root: Path) -> None:
    of = sources(root)
    await of.check(PLANETS)
    make(root.parent / "outside.db", SCHEMA)
    (root / PLANETS.path).unlink()
    (root / PLANETS.path).symlink_to(root.parent / "outside.db")
    (found,) = await ask(of, Lookup("planets", "moons", "name", "Titan"))
    assert isinstance(found, Refused)


@pytest.mark.parametrize("how", ["itself", "symlink", "hard link"])
async def test_the_store_is_never_a_source(root: Path, how: str) -> None:
    store = root / "gatherum.db"
    make(store, SCHEMA)
    path = store if how == "itself" else root / "innocent.db"
    if how == "symlink":
        path.symlink_to(store)
    elif how == "hard link":
        path.hardlink_to(store)
    with pytest.raises(Refused, match="own store"):
        await sources(root, store=store).check(Source("s", "sqlite", path.name))


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("missing.db", NotFound, "does not exist"),
        ("planets.db/x", NotFound, "does not exist"),
        (".", InvalidInput, "not an SQLite database"),
        ("empty.db", InvalidInput, "not an SQLite database"),
        ("text.db", InvalidInput, "not an SQLite database"),
        ("pipe.db", InvalidInput, "not an SQLite database"),
        ("forged.db", InvalidInput, "not an SQLite database|damaged"),
        ("a\0b", InvalidInput, "not valid"),
        ("x" * 5000, InvalidInput, "not valid"),
        ("loop.db", InvalidInput, "not valid"),
    ],
)
async def test_what_is_no_database_is_told_apart(root: Path, path: str, error: type[GatherumError], says: str) -> None:
    (root / "empty.db").touch()
    (root / "text.db").write_text("SQLite it is not, but a text about it.")
    (root / "forged.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    (root / "loop.db").symlink_to(root / "loop.db")
    os.mkfifo(root / "pipe.db")
    with pytest.raises(error, match=says) as raised:
        await sources(root).check(Source("s", "sqlite", path))
    assert str(root) not in raised.value.detail


# --- look-ups -------------------------------------------------------------------------------------------------------


async def test_a_row_comes_with_its_key_and_the_statement_that_finds_it(root: Path) -> None:
    (row,) = await rows(sources(root), "moons", "name", "Titan")
    assert row.key == {"id": 1}
    assert row.columns["radius_km"] == 2574.7
    assert row.sql == 'SELECT * FROM "moons" WHERE "id" = 1'


@pytest.mark.parametrize(
    ("table", "column", "value", "key"),
    [
        ("moons", "kind", "icy", {"id": 4}),
        ('odd "table', "name", "Vesta", {"rowid": 2}),
        ("visits", "mission", "Cassini", {"moon": "Titan", "mission": "Cassini"}),
    ],
)
async def test_each_of_several_rows_has_a_statement_of_its_own(
    root: Path, table: str, column: str, value: str, key: dict[str, Any]
) -> None:
    found = await rows(sources(root), table, column, value)
    assert len(found) > 1
    assert key in [row.key for row in found]
    connection = sqlite3.connect(root / PLANETS.path)
    connection.row_factory = sqlite3.Row
    for row in found:
        (again,) = connection.execute(row.sql).fetchall()
        assert again[column] == value
        assert again.keys() == list(row.columns)
    connection.close()


async def test_large_cells_are_cut_and_blobs_only_described(root: Path) -> None:
    make(
        root / "planets.db", "UPDATE moons SET note = printf('%.5000c', 'x'), picture = zeroblob(20000000) WHERE id = 1"
    )
    (row,) = await rows(sources(root), "moons", "name", "Titan")
    assert row.columns["note"] == "x" * links.MAX_CELL_CHARS
    assert row.columns["picture"] == "(20000000 bytes)"


async def test_at_most_max_rows(root: Path) -> None:
    assert len(await rows(sources(root, max_rows=2), "moons", "kind", "icy")) == 2


async def test_an_unknown_name_fails_alone_and_is_never_run(root: Path) -> None:
    found = await ask(
        sources(root),
        Lookup("planets", "moons", "name", "Io"),
        Lookup("planets", 'moons"; DROP TABLE moons; --', "name", "Io"),
        Lookup("planets", "moons", 'name" OR 1=1 --', "Io"),
        Lookup("planets", "large", "name", "Io"),
        Lookup("planets", "sqlite_master", "name", "moons"),
        Lookup("planets", "moons", "name", "' OR 1=1 --"),
        Lookup("planets", "moons", "name", "\ud800"),
        Lookup("planets", "moons", "name", "Io"),
    )
    assert found[0] == found[7]
    assert isinstance(found[0], Evidence)
    assert [type(part) for part in found[1:7]] == [NotFound] * 4 + [Evidence, InvalidInput]
    assert found[5] == Evidence()


async def test_text_that_is_no_utf8_is_still_shown(root: Path) -> None:
    make(root / "planets.db", "UPDATE moons SET note = CAST(X'41FF42' AS TEXT) WHERE name = 'Io'")
    (row,) = await rows(sources(root), "moons", "name", "Io")
    assert row.columns["note"] == "A\N{REPLACEMENT CHARACTER}B"


# --- limits ---------------------------------------------------------------------------------------------------------

ENDLESS = """
CREATE TABLE slow (name TEXT, n INTEGER);
INSERT INTO slow WITH RECURSIVE count(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM count WHERE n < 200000)
    SELECT 'x', n FROM count;
"""


async def test_a_look_up_ends_with_its_budget_and_those_behind_it_too(root: Path) -> None:
    make(root / "planets.db", ENDLESS)
    slow = [Lookup("planets", "slow", "name", f"y{n}") for n in range(200)]
    of = sources(root, timeout_s=0.2)
    found = await ask(of, *slow, Lookup("planets", "moons", "name", "Io"))
    # Told by the clock, or by the breaker once it was late three times.
    assert {type(part) for part in found[-2:]} <= {DeadlineExceeded, Unavailable}
    await of.close()


async def test_a_source_that_hangs_holds_up_no_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root / "other.db", SCHEMA)
    other = Source("other", "sqlite", "other.db")
    release = threading.Event()
    first_bytes = reader._first_bytes

    def hang(path: Path) -> bytes:
        if path.name == "other.db":
            release.wait(5)
        return first_bytes(path)

    monkeypatch.setattr(reader, "_first_bytes", hang)
    of = sources(root)
    held = asyncio.create_task(ask(of, Lookup("other", "moons", "name", "Io"), source=other))
    assert len(await rows(of, "moons", "name", "Io")) == 1
    assert not held.done()
    release.set()
    (found,) = await held
    assert isinstance(found, Evidence)
    assert [row.source for row in found.rows] == ["other"]


async def test_a_file_locked_by_a_writer_is_unavailable_for_now(root: Path) -> None:
    # In another process: here, the look at the file's first bytes would end the lock by closing it.
    script = (
        f"import sqlite3, sys; c = sqlite3.connect({str(root / PLANETS.path)!r}, isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"
    )
    pipe = asyncio.subprocess.PIPE
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=pipe, stdout=pipe)
    assert writer.stdout is not None
    await writer.stdout.readline()
    (found,) = await ask(sources(root), Lookup("planets", "moons", "name", "Io"))
    await writer.communicate(b"")
    assert isinstance(found, Unavailable)


# --- names ----------------------------------------------------------------------------------------------------------


async def values(of: Sources) -> list[SourceValue]:
    return await Finder(of._settings, of).values(PLANETS)


async def test_values_are_the_names_and_nothing_else(root: Path) -> None:
    found = await values(sources(root))
    assert {(value.table, value.column) for value in found} == {
        ("moons", "name"),
        ('odd "table', "name"),
        ("visits", "mission"),
        ("visits", "moon"),
    }
    assert SourceValue("planets", "moons", "name", "Titan", 1) in found
    assert {value.value for value in found if value.table != "moons"} == {
        "Vesta",
        "Ceres",
        "Cassini",
        "Galileo",
        "Titan",
        "Rhea",
        "Io",
    }


async def test_values_of_a_column_are_bounded_and_can_be_switched_off(root: Path) -> None:
    few = await values(sources(root, max_values=2))
    assert len([value for value in few if value.table == "moons"]) == 2
    assert await values(sources(root, max_values=0)) == []


async def test_virtual_tables_are_left_alone(root: Path) -> None:
    make(root / "planets.db", "CREATE VIRTUAL TABLE texts USING fts5(name); INSERT INTO texts VALUES ('Pandora')")
    assert "Pandora" not in {value.value for value in await values(sources(root))}


async def test_a_computed_column_can_be_read(root: Path) -> None:
    make(root / "planets.db", "CREATE TABLE g (name TEXT, low TEXT AS (lower(name))); INSERT INTO g VALUES ('Pan')")
    (row,) = await rows(sources(root), "g", "name", "Pan")
    assert row.columns == {"name": "Pan", "low": "pan"}


@pytest.mark.parametrize(
    "value",
    [
        "Titan",
        "Io",
        "Cassini\N{EN DASH}Huygens",
        "Voyager 2",
        "S/2004 S 3",
        "Acme Corp.",
        "AB-1234",
        "Der Herr der Ringe",
        "67P/Churyumov",
    ],
)
def test_is_a_name(value: str) -> None:
    assert guard.is_name(value)


@pytest.mark.parametrize(
    "value",
    [
        "", "x", "12", "3.14", "1e5", "-7 %", "2,574.7 km", "9.81 m/s", "1969-07-20", "1969-07-20T20:17:40Z",
        "20.07.1969", "20 July 1969", "Jul 20, 1969", "July 1969", "https://example.org", "www.example.org",
        "a@example.org", "true", "N/A",
        "d41d8cd98f00b204e9800998ecf8427e", "123e4567-e89b-12d3-a456-426614174000", "a" * 81, "x" * 50, "two\nlines",
        "It is large. it is cold", "This is a whole sentence about it.", "one two three four five six seven eight nine",
    ],
)  # fmt: skip
def test_is_no_name(value: str) -> None:
    assert not guard.is_name(value)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (["Titan", "Io", "Rhea"], True),
        (["Titan", "Io", "12", "13", "14"], False),
        (["icy", "rocky"] * 3, False),
        (["Titan"], True),
        ([], False),
    ],
)
def test_a_column_of_names_is_told_from_categories(sample: list[str], expected: bool) -> None:
    assert guard.is_name_column(sample) is expected


# --- quoting --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"))
VALUES = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.binary() | TEXT


@given(VALUES)
def test_a_literal_is_read_back_as_the_value(value: Any) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        assert connection.execute(f"SELECT {guard.literal(value)}").fetchone() == (value,)
    finally:
        connection.close()


def test_a_nul_cannot_be_quoted() -> None:
    with pytest.raises(ValueError, match="NUL"):
        guard.identifier("a\0b")


async def test_a_child_that_is_left_while_nobody_reads_from_it_is_ended(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[_Child] = []
    start = _Child.start

    async def noted(*, confined: bool) -> _Child:
        started.append(await start(confined=confined))
        return started[-1]

    monkeypatch.setattr(_Child, "start", noted)
    of = sources(root)
    rows = "SELECT printf('%.*c', 1000000, 'x') FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8))"
    async with asyncio.timeout(5):
        async with of.query(PLANETS, rows, {}, Limits(100, 50_000_000), Deadline.after(60)):
            while not started[0]._answers._paused:  # type: ignore[attr-defined]
                await asyncio.to_thread(lambda: None)
        assert not started[0].alive
    assert started[0].killed_for == signal.SIGKILL
    await of.close()
