"""Value links: the statements that are made, run in a real SQLite database, and their form for the other two."""

from __future__ import annotations

import datetime
import decimal
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Lookup, Row
from actors.sql import links
from actors.sql.links import Kind, Table
from actors.sql.schema import ColumnInfo, ForeignKey, Schema, TableInfo

PLANETS = Table("planets", {"id": "INTEGER", "name": "TEXT", "radius": "REAL"}, ("id",))
MOONS = Table(
    "moons",
    {"id": "INTEGER", "name": "TEXT", "planet_id": "INTEGER", "api_token": "TEXT", "picture": "BLOB"},
    ("id",),
    (ForeignKey(("planet_id",), "planets", ("id",)),),
)
VISITS = Table(
    "visits",
    {"moon_id": "INTEGER", "day": "TEXT", "craft": "TEXT"},
    ("moon_id", "day"),
    (ForeignKey(("moon_id",), "moons", ("id",)), ForeignKey(("gone",), "nowhere", ("id",))),
)
SCHEMA = {table.name: table for table in (PLANETS, MOONS, VISITS)}

SCRIPT = """
CREATE TABLE planets (id INTEGER PRIMARY KEY, name TEXT, radius REAL);
CREATE TABLE moons (id INTEGER PRIMARY KEY, name TEXT, planet_id INTEGER, api_token TEXT, picture BLOB);
CREATE TABLE visits (moon_id INTEGER, day TEXT, craft TEXT, gone INTEGER, PRIMARY KEY (moon_id, day));
INSERT INTO planets VALUES (6, 'Saturn', 58232), (7, 'Uranus', 25362);
INSERT INTO moons VALUES (1, 'Titan', 6, 'hush', x'0102'), (2, 'Rhea', 6, 'hush', NULL), (3, 'Puck', 7, 'hush', NULL),
    (4, 'Puck', 6, 'hush', NULL);
INSERT INTO visits VALUES (1, '2005-01-14', 'Huygens', 0), (1, '2004-10-26', 'Cassini', 0);
"""


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(SCRIPT)
    yield connection
    connection.close()


def found(connection: sqlite3.Connection, statement: links.Statement, *exclude: str) -> list[Row]:
    rows = connection.execute(statement.sql, dict(statement.params)).fetchall()
    return links.rows("sqlite", "sky", statement, rows, exclude)


def lookup(value: str, table: str = "moons", key: int | None = None) -> Lookup:
    return Lookup("sky", table, "name", value, key)


def test_a_row_is_found_by_its_value_with_what_may_be_shown(connection: sqlite3.Connection) -> None:
    hidden = ("*.*token*",)
    [row] = found(connection, links.direct("sqlite", MOONS, lookup("Titan"), hidden, 9), *hidden)
    assert row == Row(
        "sky",
        "moons",
        {"id": 1},
        {"id": 1, "name": "Titan", "planet_id": 6, "picture": "(2 bytes)"},
        'SELECT * FROM "moons" WHERE "id" = 1',
    )
    assert connection.execute(row.sql).fetchone()[1] == "Titan"


def test_the_key_is_used_where_it_is_known_and_the_value_compared_all_the_same(connection: sqlite3.Connection) -> None:
    statement = links.direct("sqlite", MOONS, lookup("Puck", key=3), (), 9)
    assert [row.key for row in found(connection, statement)] == [{"id": 3}]
    plan = connection.execute(f"EXPLAIN QUERY PLAN {statement.sql}", dict(statement.params)).fetchall()
    assert "INTEGER PRIMARY KEY" in plan[0][-1]
    assert found(connection, links.direct("sqlite", MOONS, lookup("Titan", key=3), (), 9)) == []
    assert len(found(connection, links.direct("sqlite", MOONS, lookup("Puck"), (), 9))) == 2
    assert len(found(connection, links.direct("sqlite", MOONS, lookup("Puck"), (), 1))) == 1


def test_foreign_keys_are_followed_one_step_both_ways(connection: sqlite3.Connection) -> None:
    out, into = links.followed("sqlite", SCHEMA, MOONS, lookup("Titan"), ())
    [saturn] = found(connection, out)
    assert (saturn.table, saturn.columns["name"], saturn.via) == ("planets", "Saturn", "moons.planet_id")
    visits = found(connection, into)
    assert {row.columns["craft"] for row in visits} == {"Huygens", "Cassini"}
    assert {row.via for row in visits} == {"visits.moon_id"}
    assert visits[0].key.keys() == {"moon_id", "day"}
    # What refers to a planet is its moons; the visits would be a step further.
    [moons] = links.followed("sqlite", SCHEMA, PLANETS, lookup("Saturn", "planets"), ())
    assert {row.columns["name"] for row in found(connection, moons)} == {"Titan", "Rhea", "Puck"}


def test_steps_and_rows_are_bounded(connection: sqlite3.Connection) -> None:
    many = {
        f"t{n}": Table(f"t{n}", {"planet": "INTEGER"}, (), (ForeignKey(("planet",), "planets", ("id",)),))
        for n in range(20)
    }
    assert len(links.followed("sqlite", {**SCHEMA, **many}, PLANETS, lookup("Saturn", "planets"), ())) == links.STEPS
    connection.executemany("INSERT INTO visits VALUES (2, ?, 'Cassini', 0)", [(str(day),) for day in range(50)])
    _, into = links.followed("sqlite", SCHEMA, MOONS, lookup("Rhea"), ())
    assert len(found(connection, into)) == links.REFERRING


def test_a_table_that_refers_to_itself_leads_up_and_down() -> None:
    staff = Table(
        "staff", {"id": "int", "name": "text", "boss": "int"}, ("id",), (ForeignKey(("boss",), "staff", ("id",)),)
    )
    connection = sqlite3.connect(":memory:")
    connection.executescript(
        "CREATE TABLE staff (id INTEGER PRIMARY KEY, name TEXT, boss INT);"
        "INSERT INTO staff VALUES (1, 'Ann', NULL), (2, 'Bob', 1), (3, 'Cy', 2)"
    )
    up, down = links.followed("sqlite", {"staff": staff}, staff, lookup("Bob", "staff"), ())
    assert [row.columns["name"] for row in found(connection, up)] == ["Ann"]
    assert [row.columns["name"] for row in found(connection, down)] == ["Cy"]
    connection.close()


def test_names_come_with_the_key_of_the_one_row_that_has_them(connection: sqlite3.Connection) -> None:
    rows = connection.execute(links.names("sqlite", MOONS, "name", 10)).fetchall()
    assert sorted(links.named(rows)) == [("Puck", None), ("Rhea", 2), ("Titan", 1)]
    keyless = Table("moons", MOONS.columns)
    assert {
        key for _, key in links.named(connection.execute(links.names("sqlite", keyless, "name", 10)).fetchall())
    } == {None}
    assert len(connection.execute(links.names("sqlite", MOONS, "name", 2)).fetchall()) == 2
    assert len(connection.execute(links.sample("sqlite", MOONS, "name")).fetchall()) == 4


@pytest.mark.parametrize(
    ("kind", "type_", "may"),
    [
        ("sqlite", "", True),
        ("sqlite", "NVARCHAR(160)", True),
        ("sqlite", "DATETIME", False),
        ("postgresql", "text", True),
        ("postgresql", "character varying(120)", True),
        ("postgresql", "citext", True),
        ("postgresql", "text[]", False),
        ("postgresql", "bytea", False),
        ("postgresql", "timestamp without time zone", False),
        ("mysql", "varchar(40)", True),
        ("mysql", "longtext", True),
        ("mysql", "int(11)", False),
        ("mysql", "enum('a','b')", False),
    ],
)
def test_columns_that_may_hold_names(kind: Kind, type_: str, may: bool) -> None:
    assert (links.text_columns(kind, Table("t", {"c": type_}), ()) == ["c"]) is may


def test_columns_are_left_out_by_pattern() -> None:
    assert links.text_columns("sqlite", MOONS, ()) == ["name", "api_token"]
    assert links.text_columns("sqlite", MOONS, ("MOONS.API_*",)) == ["name"]
    assert links.text_columns("sqlite", MOONS, ("moons.*",)) == []
    assert links.text_columns("sqlite", MOONS, ("planets.*", "name")) == ["name", "api_token"]


def test_statements_for_the_other_databases() -> None:
    table = Table(
        'odd`"table', {"id": "uuid", "a b": "text", "data": "jsonb", "raw": "bytea", "n": "numeric(5,2)"}, ("id",)
    )
    of = Lookup("s", table.name, "a b", "x")
    assert links.direct("postgresql", table, of, (), 5).sql == (
        'SELECT t."id", t."id", left(CAST(t."a b" AS text), 2000), left(CAST(t."data" AS text), 2000),'
        " '(' || octet_length(t.\"raw\") || ' bytes)', t.\"n\""
        ' FROM "odd`""table" AS t WHERE t."a b" = :value LIMIT 5'
    )
    mysql = Table("odd`table", {"id": "int(11)", "name": "varchar(9)", "raw": "longblob"}, ("id",))
    assert links.direct("mysql", mysql, Lookup("s", mysql.name, "name", "x", 7), (), 5).sql == (
        "SELECT t.`id`, t.`id`, left(CAST(t.`name` AS char), 2000), concat('(', octet_length(t.`raw`), ' bytes)')"
        " FROM `odd``table` AS t WHERE t.`id` = :key AND t.`name` = :value LIMIT 5"
    )
    assert links.names("mysql", mysql, "name", 5) == (
        "SELECT `name`, min(`id`), count(*) FROM `odd``table` WHERE `name` IS NOT NULL AND char_length(`name`) <= 80"
        " GROUP BY `name` LIMIT 5"
    )
    # There is no least uuid in most versions of PostgreSQL.
    assert "NULL, count(*)" in links.names("postgresql", table, "a b", 5)


def test_tables_of_a_schema_are_called_by_their_namespace_where_it_is_not_the_usual_one() -> None:
    column = ColumnInfo("id", "integer", False)
    up = (ForeignKey(("id",), "bands", ("id",)),)
    schema = Schema(
        (
            TableInfo("bands", "public", "table", (column,), ("id",)),
            TableInfo("bands", "music", "table", (column,), ("id",)),
            TableInfo("songs", "music", "table", (column,), ("id",), up),
            TableInfo("hits", "public", "view", (column,)),
        )
    )
    found = links.tables("postgresql", schema)
    assert list(found) == ["bands", "music.bands", "music.songs"]
    assert found["music.songs"].foreign[0].table == "music.bands"
    songs = links.direct("postgresql", found["music.songs"], Lookup("s", "music.songs", "id", "x"), (), 5)
    assert 'FROM "music"."songs" AS t' in songs.sql
    assert list(links.tables("mysql", Schema((TableInfo("bands", "shop", "table", (column,)),)))) == ["bands"]


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        ("postgresql", uuid.UUID(int=1), "'00000000-0000-0000-0000-000000000001'"),
        ("postgresql", datetime.date(2005, 1, 14), "'2005-01-14'"),
        ("mysql", decimal.Decimal("1.50"), "1.50"),
        ("mysql", "a\\'b", "'a\\\\''b'"),
        ("postgresql", b"\x01\xff", "'\\x01ff'"),
        ("mysql", b"\x01\xff", "X'01ff'"),
        ("sqlite", True, "1"),
    ],
)
def test_keys_of_any_type_can_be_shown(kind: Kind, value: Any, written: str) -> None:
    assert links.again(kind, Table("t", {}), {"k": value}).endswith(f"= {written}")


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: not name.lower().startswith("sqlite_") and name.lower() not in {"id", "rowid", "oid", "_rowid_"}
)


@given(NAMES, NAMES, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12))
def test_whatever_it_is_called_a_row_is_found_and_found_again(table: str, column: str, value: str) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        name, cell = links.quoted("sqlite", table), links.quoted("sqlite", column)
        connection.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, {cell} TEXT)")
        connection.execute(f"INSERT INTO {name} VALUES (5, ?), (6, 'another')", [value])  # noqa: S608
        shape = Table(table, {"id": "INTEGER", column: "TEXT"}, ("id",))
        statement = links.direct("sqlite", shape, Lookup("sky", table, column, value), (), 9)
        row = found(connection, statement)[0]
        assert row.columns == {"id": 5, column: value}
        assert connection.execute(row.sql).fetchall() == [(5, value)]
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("kind", "namespaces", "leads_to"),
    [
        ("postgresql", ("public", ""), "bands"),
        ("postgresql", ("public", "music"), "music.bands"),
        ("postgresql", ("music", "public"), "bands"),
        ("postgresql", ("music", ""), "music.bands"),
        ("mysql", ("shop", ""), "bands"),
        ("mysql", ("shop", "music"), "music.bands"),
    ],
)
def test_a_foreign_key_leads_into_the_namespace_that_it_names(
    kind: Kind, namespaces: tuple[str, str], leads_to: str
) -> None:
    own, there = namespaces
    info = TableInfo("albums", own, "table", (), foreign_keys=(ForeignKey(("band",), "bands", ("id",), there),))
    [table] = links.tables(kind, Schema((info,))).values()
    assert [key.table for key in table.foreign] == [leads_to]
