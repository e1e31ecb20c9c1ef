"""Statements taken apart as the servers would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import GatherumError, InvalidInput, Refused
from actors.sql.lexing import Dialect, read

BOTH: tuple[Dialect, ...] = ("postgresql", "mysql")


@pytest.mark.parametrize(
    ("dialect", "sql", "text", "names"),
    [
        ("postgresql", "SELECT :a, :b, :a", "SELECT $1 , $2 , $1", ("a", "b")),
        ("mysql", "SELECT :a, :b, :a", "SELECT ?, ?, ?", ("a", "b", "a")),
        ("postgresql", "SELECT 'a :a' || :a -- :b", "SELECT 'a :a' || $1", ("a",)),
        ("postgresql", 'SELECT x::int, ":a", $$:b$$, $t$ $$ :c $t$', 'SELECT x::int, ":a", $$:b$$, $t$ $$ :c $t$', ()),
        ("mysql", "SELECT `:a`, \":b\", 'it\\'s :c', @x:=1 # :d", "SELECT `:a`, \":b\", 'it\\'s :c', @x:=1", ()),
        ("postgresql", "SELECT 1 /* :a /* ; */ ; */ ;;", "SELECT 1", ()),
        ("mysql", "SELECT 1 /* :a /* ; */", "SELECT 1", ()),
        ("mysql", "SELECT 5--3", "SELECT 5--3", ()),
        ("postgresql", "SELECT 'a''b\\' , :x", "SELECT 'a''b\\' , $1", ("x",)),
        ("postgresql", "SELECT E'a\\'b' , :x", "SELECT E'a\\'b' , $1", ("x",)),
    ],
)
def test_parameters_are_found_where_the_server_would(
    dialect: Dialect, sql: str, text: str, names: tuple[str, ...]
) -> None:
    statement = read(sql, dialect)
    assert (statement.text.split(), statement.names) == (text.split(), names)


@pytest.mark.parametrize(
    ("dialect", "sql", "error"),
    [
        ("postgresql", "SELECT 1; SELECT 2", Refused),
        ("postgresql", "SELECT 'a\\'; SELECT 2 --'", Refused),
        ("mysql", "SELECT 'a''; SELECT 1'; SELECT 2", Refused),
        ("mysql", "SELECT 5 --3; SELECT 2", Refused),
        ("postgresql", "SELECT E'a'\n'\\'; SELECT 2; --'", Refused),
        ("postgresql", 'SELECT U&"\\0061"', Refused),
        ("mysql", "SELECT /*!50000 1 */", Refused),
        ("mysql", "SELECT /*M! 1 */", Refused),
        ("postgresql", "SELECT 'a", InvalidInput),
        ("postgresql", 'SELECT "a', InvalidInput),
        ("postgresql", "SELECT $a$ b $b$", InvalidInput),
        ("postgresql", "SELECT /* /* */", InvalidInput),
        ("mysql", "SELECT `a", InvalidInput),
        ("mysql", " ; -- nothing", InvalidInput),
        ("mysql", "SELECT '\0'", InvalidInput),
        ("mysql", "SELECT " + "1" * 200_000, InvalidInput),
    ],
)
def test_what_could_be_read_in_two_ways_is_not_taken(dialect: Dialect, sql: str, error: type[GatherumError]) -> None:
    with pytest.raises(error):
        read(sql, dialect)


@pytest.mark.parametrize(
    ("dialect", "sql", "first", "call"),
    [
        ("postgresql", "((SELECT Pg_Sleep (1)))", "select", "pg_sleep"),
        ("postgresql", 'SELECT pg_catalog."pg_sleep"/**/(1)', "select", "pg_sleep"),
        ("postgresql", 'SELECT "Pg_Sleep"(1)', "select", "Pg_Sleep"),
        ("mysql", "/* x */ with a as (select 1) select `SLEEP` (1)", "with", "sleep"),
    ],
)
def test_the_first_word_and_what_is_called(dialect: Dialect, sql: str, first: str, call: str) -> None:
    statement = read(sql, dialect)
    assert statement.first == first
    assert call in statement.calls


def test_values_and_places_have_to_agree() -> None:
    statement = read("SELECT :a, :b, :a", "mysql")
    assert statement.values({"a": 1, "b": 2}) == [1, 2, 1]
    with pytest.raises(InvalidInput, match="'b'"):
        statement.values({"a": 1})
    with pytest.raises(InvalidInput, match="'c'"):
        statement.values({"a": 1, "b": 2, "c": 3})


@pytest.mark.parametrize(
    ("dialect", "sql", "call"),
    [
        ("postgresql", "SELECT $€$ ' $€$, pg_read_file('/etc/passwd') --'", "pg_read_file"),
        ("postgresql", "SELECT 1 AS a€$$, lo_export(1, 'x') AS b€$$", "lo_export"),
        ("postgresql", "SELECT 1 AS a\u0300$$, lo_export(1, 'x') AS b\u0300$$", "lo_export"),
    ],
)
def test_what_is_beyond_ascii_is_a_letter_as_for_the_server(dialect: Dialect, sql: str, call: str) -> None:
    assert call in read(sql, dialect).calls


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'x' --\u00a0, f('/etc/passwd') INTO OUTFILE 'x' FROM (SELECT 1 AS `\u00a0`) t",
        "SELECT 1 --\x7f'\n INTO OUTFILE 'x' -- '",
    ],
)
def test_comments_begin_and_end_where_they_do_for_mysql(sql: str) -> None:
    assert ("into", "outfile") in read(sql, "mysql").pairs


@pytest.mark.parametrize("dialect", BOTH)
@pytest.mark.parametrize("number", ["0.5for", "1.e", "1e", "0xfg", "1..2", "1_0", "5€", "1$a"])
def test_a_number_swallows_no_word(dialect: Dialect, number: str) -> None:
    with pytest.raises(Refused, match="blank between"):
        read(f"SELECT {number} update", dialect)
    assert read("SELECT 1, 1., .5, 1.5e-3, 0xFF, t.a", dialect).first == "select"


def test_parameters_are_placed_in_one_pass_and_have_an_end() -> None:
    many = read("SELECT " + ", ".join(f":a{number}" for number in range(1000)), "postgresql")
    assert (len(many.names), many.text.split()[-1]) == (1000, "$1000")
    for dialect in BOTH:
        with pytest.raises(InvalidInput, match="1,000 parameters"):
            read("SELECT " + ", ".join(":a" for _ in range(1001)), dialect)


@given(
    st.lists(st.sampled_from(["'", '"', "`", "\\", ";", ":a", "$$", "$x$", "/*", "*/", "--", "\n", " ", "E", "a", "("]))
)
def test_nothing_that_is_read_loses_a_character_or_holds_two_statements(parts: list[str]) -> None:
    sql = "SELECT " + "".join(parts)
    for dialect in BOTH:
        try:
            statement = read(sql, dialect)
        except GatherumError:
            continue
        # Reading what was read gives the same again: no parameter, comment or end is left in it.
        again = read(statement.text, dialect)
        assert (again.text, again.first, again.calls) == (statement.text.rstrip(), statement.first, statement.calls)
        assert again.names == ()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_text_can_stand_in_a_string(text: str) -> None:
    quoted = "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    assert read(f"SELECT {quoted}, :a", "mysql").text == f"SELECT {quoted}, ?"
    quoted = "'" + text.replace("'", "''") + "'"
    assert read(f"SELECT {quoted}, :a", "postgresql").text == f"SELECT {quoted},  $1 "
