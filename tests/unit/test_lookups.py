"""Stored lookups: what is refused at creation, what arguments become, and what is shown."""

from __future__ import annotations

import datetime
import sqlite3
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidInput
from actors.messages import LookupCall, Parameter, ParameterType, StoredLookup
from actors.sql import lookups
from actors.sql.lexing import Dialect

TOTAL = StoredLookup(
    "shop",
    "customer_total",
    "Total of the invoices of a customer",
    "SELECT sum(total) FROM invoice WHERE name = :name AND day >= :since",
    (
        Parameter("name", "text", "Last name", column="customer.last_name"),
        Parameter("since", "date", required=False, default="2009-01-01"),
    ),
)


def test_a_sound_lookup_is_taken() -> None:
    lookups.check(TOTAL, "sqlite")
    lookups.check(StoredLookup("shop", "all", "All of it", "SELECT 1"), "sqlite")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "a b"}, "name is a letter"),
        ({"name": ""}, "name is a letter"),
        ({"name": "x" * 65}, "up to 63 more"),
        ({"description": " 7 "}, "needs a description"),
        ({"description": "words " * 500}, "longer than"),
        ({"sql": "  "}, "statement has between"),
        ({"sql": "SELECT :name, :since, :more"}, "has :more, which is none"),
        ({"sql": "SELECT :name"}, "does not use the parameter :since"),
        ({"parameters": TOTAL.parameters[:1] * 2}, "same name"),
        ({"parameters": (Parameter("a-b", "text"),)}, "name is a letter"),
        ({"parameters": (Parameter("name", "text", column="last_name"),)}, "table.column"),
        ({"parameters": (Parameter("name", "text", default="x"),)}, "cannot be required"),
        ({"parameters": (Parameter("since", "date", required=False, default="soon"),)}, "type date"),
        ({"parameters": tuple(Parameter(f"p{n}", "text") for n in range(21))}, "at most 20"),
    ],
)
def test_what_is_wrong_with_a_lookup_is_said(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        lookups.check(replace(TOTAL, **change), "sqlite")


def test_a_call_has_all_parameters_in_their_order_with_defaults() -> None:
    assert lookups.call(TOTAL, {"name": "Gonçalves"}) == LookupCall(
        "shop", "customer_total", (("name", "Gonçalves"), ("since", "2009-01-01"))
    )
    assert lookups.call(TOTAL, {"since": "2010-02-03", "name": "x"}).arguments[1] == ("since", "2010-02-03")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "needs the parameter 'name'"),
        ({"name": None}, "needs the parameter 'name'"),
        ({"name": "x", "nme": "y"}, "no parameter 'nme'; its parameters are name, since"),
        ({"name": 7}, "'name' must be of type text"),
        ({"name": "x", "since": "yesterday"}, r"'since' must be of type date \(year-month-day\)"),
    ],
)
def test_what_is_wrong_with_arguments_is_said(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        lookups.call(TOTAL, arguments)


@pytest.mark.parametrize(
    ("kind", "given", "becomes"),
    [
        ("integer", 7, 7),
        ("integer", 7.0, 7),
        ("integer", "7", 7),
        ("integer", 2**53 + 1, 2**53 + 1),
        ("integer", str(2**63 - 1), 2**63 - 1),
        ("integer", 7.5, None),
        ("integer", True, None),
        ("integer", "seven", None),
        ("integer", float("inf"), None),
        ("number", "7.5", 7.5),
        ("number", 7, 7.0),
        ("number", False, None),
        ("number", float("nan"), None),
        ("number", [], None),
        ("boolean", True, True),
        ("boolean", 1, None),
        ("boolean", "false", False),
        ("boolean", "yes", None),
        ("date", "2009-01-31", "2009-01-31"),
        ("date", "2009-02-31", None),
        ("date", 20090131, None),
        ("text", "", ""),
        ("text", None, None),
    ],
)
def test_values_become_those_of_the_type_or_are_refused(kind: ParameterType, given: Any, becomes: Any) -> None:
    parameter = Parameter("value", kind)
    if becomes is None:
        with pytest.raises(InvalidInput, match="'value' must be of type"):
            lookups.typed(parameter, given)
    else:
        found = lookups.typed(parameter, given)
        assert (found, type(found)) == (becomes, type(becomes))


def test_the_schema_is_that_of_a_tool() -> None:
    assert lookups.json_schema(TOTAL) == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Last name"},
            "since": {"type": "string", "format": "date", "default": "2009-01-01"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("kind", "sql", "names"),
    [
        ("sqlite", "SELECT :a, :b + :a", ["a", "b", "a"]),
        ("sqlite", "SELECT ':a', \":b\", `:c`, [:d], 'it''s :e'", []),
        ("sqlite", "SELECT 1 -- :a\n, :b /* :c \n */", ["b"]),
        ("sqlite", r"SELECT 'a\', :a, '", None),
        ("mysql", r"SELECT 'a\', :a, '", []),
        ("mysql", "SELECT 1 # :a\n, :b", ["b"]),
        ("postgresql", "SELECT x::date, y::text, :a::date", ["a"]),
        ("postgresql", "SELECT $$ :a $$, $q$ :b $$ :c $q$, :d", ["d"]),
        ("postgresql", "SELECT '12:30', :1, /* /* :a */ :b */ :c", ["c"]),
        ("sqlite", "SELECT ':a", None),
        ("sqlite", "SELECT /* :a", None),
    ],
)
def test_parameters_are_told_from_what_only_looks_like_one(kind: Dialect, sql: str, names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(InvalidInput, match="is not closed"):
            list(lookups.placeholders(sql, kind))
    else:
        assert list(lookups.placeholders(sql, kind)) == names


def test_a_statement_is_shown_with_its_arguments() -> None:
    arguments = {"name": "O'Brien", "since": "2009-01-01"}
    assert lookups.shown(TOTAL.sql, "sqlite", arguments) == (
        "SELECT sum(total) FROM invoice WHERE name = 'O''Brien' AND day >= '2009-01-01'"
    )
    assert lookups.shown("SELECT ':name', :name", "mysql", {"name": None}) == "SELECT ':name', NULL"


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.dates().map(datetime.date.isoformat),
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, min_size=1))
def test_what_is_shown_is_what_was_run(arguments: dict[str, Any]) -> None:
    sql = f"SELECT {', '.join(f':{name}' for name in arguments)}, ':a' -- :b"
    connection = sqlite3.connect(":memory:")
    try:
        shown = connection.execute(lookups.shown(sql, "sqlite", arguments)).fetchone()
        assert shown == connection.execute(sql, arguments).fetchone()
    finally:
        connection.close()
