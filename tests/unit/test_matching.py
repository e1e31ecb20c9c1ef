"""Which lookup a question calls for, with which arguments, and that in doubt none is."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Link, LinkedEntity, LookupCall, Parameter, ParameterType, Scalar, StoredLookup
from actors.search.matching import BESIDE_THE_BEST, MOST_CALLS, THRESHOLD, Match, choose

TOTAL = StoredLookup(
    "shop",
    "customer_total",
    "Total of all invoices of a customer. How much has a customer spent.",
    "SELECT sum(total) AS total FROM invoice JOIN customer USING (customer_id) WHERE last_name = :name",
    (Parameter("name", "text", column="Customer.LastName"),),
)
SALES = StoredLookup(
    "shop",
    "sales_between",
    "Sales between two years",
    "SELECT sum(total) FROM invoice WHERE year BETWEEN :from_year AND :to_year",
    (Parameter("from_year", "integer"), Parameter("to_year", "integer")),
)
TOP = StoredLookup(
    "shop",
    "best_artists",
    "The best selling artists",
    "SELECT name FROM artist ORDER BY sales DESC LIMIT :count",
    (Parameter("count", "integer", required=False, default=3),),
)


def link(table: str, column: str, value: str, source: str = "shop") -> Link:
    return Link("value", None, source, table, column, value)


def named(text: str, name: str, *links: Link, label: str = "VALUE") -> LinkedEntity:
    return LinkedEntity(name, label, text.index(name), text.index(name) + len(name), links)


def asked(text: str, *lookups: StoredLookup, entities: tuple[LinkedEntity, ...] = ()) -> list[LookupCall]:
    return [match.call for match in choose(text, entities, lookups)]


def one(parameter_type: ParameterType, text: str, *, name: str = "value", description: str = "") -> Scalar:
    """What a parameter of this type gets from a question about sales."""
    lookup = StoredLookup("shop", "sales", "Sales", "…", (Parameter(name, parameter_type, description),))
    matches = choose(text, (), [lookup])
    return dict(matches[0].call.arguments)[name] if matches else None


GONCALVES = link("Customer", "LastName", "Gonçalves")


@pytest.mark.parametrize(
    "text",
    [
        "What is the total of the invoices of Gonçalves?",
        "Total of Gonçalves's invoices",
        "How much has Gonçalves spent?",
        "how much money has the customer Gonçalves spent",
    ],
)
def test_a_lookup_is_called_by_the_words_of_its_description_and_a_name_of_its_column(text: str) -> None:
    entity = named(text, "Gonçalves", GONCALVES)
    assert asked(text, TOTAL, SALES, TOP, entities=(entity,)) == [
        LookupCall("shop", "customer_total", (("name", "Gonçalves"),))
    ]


def test_the_value_is_as_the_source_has_it() -> None:
    text = "What is the total of the invoices of goncalves?"
    entity = named(text, "goncalves", GONCALVES)
    assert asked(text, TOTAL, entities=(entity,))[0].arguments == (("name", "Gonçalves"),)


def test_nothing_is_called_where_a_required_parameter_is_missing() -> None:
    assert asked("What is the total of all invoices of a customer?", TOTAL) == []
    assert asked("Sales between 2009 and now", SALES) == []


def test_a_name_of_another_column_or_source_is_no_argument() -> None:
    text = "What is the total of the invoices of Gonçalves?"
    for other in (link("Employee", "LastName", "Gonçalves"), link("Customer", "LastName", "Gonçalves", "films")):
        assert asked(text, TOTAL, entities=(named(text, "Gonçalves", other),)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Who is Gonçalves?",
        "Where does the customer Gonçalves live?",
        "Which invoices mention the music of Gonçalves and of whom else?",
        "Gonçalves",
    ],
)
def test_a_question_about_something_else_calls_nothing(text: str) -> None:
    assert asked(text, TOTAL, SALES, TOP, entities=(named(text, "Gonçalves", GONCALVES),)) == []


def test_numbers_fill_parameters_in_their_order() -> None:
    assert asked("Sales between 2009 and 2011?", SALES)[0].arguments == (("from_year", 2009), ("to_year", 2011))


def test_a_default_takes_the_place_of_what_is_not_said() -> None:
    assert asked("Which artists are the best selling?", TOP)[0].arguments == (("count", 3),)
    assert asked("Which five artists are the best selling?", TOP)[0].arguments == (("count", 5),)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sales over 1,234", 1234),
        ("sales over 12", 12),
        ("sales over 12.5", None),
        ("sales since -3", -3),
        ("sales of seven", 7),
        ("which one has sales?", None),
        ("sales on 2009-01-31", None),
        ("sales of 3rd", None),
    ],
)
def test_integers(text: str, value: int | None) -> None:
    assert one("integer", text) == value


def test_numbers() -> None:
    assert one("number", "sales over 1,234.50") == 1234.5
    assert one("number", "sales over twelve") == 12


def test_a_number_goes_to_the_parameter_it_stands_by() -> None:
    assert one("integer", "sales in 2009 with discount 20", name="discount") == 20
    assert one("integer", "sales of 20 in 2009", name="year") == 2009


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sales on 2009-01-31", "2009-01-31"),
        ("sales on July 20, 1969", "1969-07-20"),
        ("sales on 20 July 1969", "1969-07-20"),
        ("sales on the 1st of March 2010", "2010-03-01"),
        ("sales on 2009-02-31", None),
        ("sales in 2009", None),
    ],
)
def test_dates(text: str, value: str | None) -> None:
    assert one("date", text) == value


def test_truth_is_a_word_in_the_question() -> None:
    assert one("boolean", "online sales", name="online") is True
    assert one("boolean", "sales not online", name="online") is False
    assert one("boolean", "sales", name="online") is None


def test_without_a_column_the_name_of_the_fitting_kind_counts() -> None:
    lookup = StoredLookup("shop", "tracks", "Tracks of an artist", "…", (Parameter("artist", "text"),))
    text = "How many tracks of Queen are in Rock?"
    entities = (
        named(text, "Queen", link("Artist", "Name", "Queen")),
        named(text, "Rock", link("Genre", "Name", "Rock")),
    )
    assert asked(text, lookup, entities=entities)[0].arguments == (("artist", "Queen"),)
    assert asked(text, lookup, entities=entities[::-1])[0].arguments == (("artist", "Queen"),)


def test_one_name_fills_one_parameter() -> None:
    pair = StoredLookup(
        "shop", "both", "Duets of two artists", "…", (Parameter("first", "text"), Parameter("second", "text"))
    )
    text = "Are there duets of Queen?"
    queen = named(text, "Queen", link("Artist", "Name", "Queen"))
    assert asked(text, pair, entities=(queen,)) == []


def test_the_best_come_first_and_few() -> None:
    lookups = [StoredLookup("shop", f"sales_{n}", "Sales", "…") for n in range(5)]
    exact = StoredLookup("shop", "by_month", "Sales by month", "…")
    assert [call.name for call in asked("Sales?", *lookups)] == ["sales_0", "sales_1"]
    assert [call.name for call in asked("Sales by month?", *lookups, exact)] == ["by_month"]


SOME = "total sales of the customer Queen in 2009 by month 20 July 1969 not online, five"
WORDS = st.sampled_from(SOME.split())


@given(
    st.lists(WORDS, max_size=12).map(" ".join),
    st.lists(
        st.builds(
            StoredLookup,
            st.just("shop"),
            st.sampled_from(["a", "b", "c"]),
            st.lists(WORDS, max_size=6).map(" ".join),
            st.just("…"),
            st.lists(
                st.builds(
                    Parameter,
                    st.sampled_from(["year", "day", "online", "customer"]),
                    st.sampled_from(["text", "integer", "number", "date", "boolean"]),
                    required=st.booleans(),
                ),
                max_size=3,
                unique_by=lambda parameter: parameter.name,
            ).map(tuple),
        ),
        max_size=5,
    ),
)
def test_what_is_called_has_all_it_needs_of_the_right_type(text: str, lookups: list[StoredLookup]) -> None:
    entities = [named(text, "Queen", link("Artist", "Name", "Queen"))] if "Queen" in text else []
    matches = choose(text, entities, lookups)
    assert len(matches) <= MOST_CALLS
    assert matches == sorted(matches, key=lambda match: -match.score)
    for match in matches:
        assert THRESHOLD <= match.score <= 1
        assert match.score >= BESIDE_THE_BEST * matches[0].score
        assert any(_fits(match, lookup) for lookup in lookups)
    assert choose(text, entities, lookups[::-1]) == matches or len({(x.source, x.name) for x in lookups}) < len(lookups)


def _fits(match: Match, lookup: StoredLookup) -> bool:
    arguments = dict(match.call.arguments)
    if lookup.name != match.call.name or list(arguments) != [parameter.name for parameter in lookup.parameters]:
        return False
    return all(_typed(arguments[parameter.name], parameter) for parameter in lookup.parameters)


def _typed(value: Scalar, parameter: Parameter) -> bool:
    if value is None:
        return not parameter.required
    match parameter.type:
        case "date":
            return isinstance(value, str) and bool(datetime.date.fromisoformat(value))
        case "text":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int
        case _:
            return isinstance(value, float)
