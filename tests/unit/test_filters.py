"""Filters: what they match, checked against a naive reading; what is refused; that nothing never means everything."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import InvalidInput
from actors.search.filters import MAX_CONDITIONS, MAX_DEPTH, Attributes, Condition, Every, Filter, Some, kind, parse

DOCUMENTS: dict[int, dict[str, Any]] = {
    1: {"year": 1990, "lang": "en", "draft": True, "tags": ["moon", "ice"]},
    2: {"year": 2005.5, "lang": "de", "draft": False},
    3: {"lang": "en", "year": None, "nested": {"a": 1}},
    4: {"year": 1, "tags": "moon"},
}


@pytest.fixture
def attributes() -> Attributes:
    held = Attributes()
    for number, metadata in DOCUMENTS.items():
        held.put(number, metadata)
    return held


@pytest.mark.parametrize(
    ("expression", "numbers"),
    [
        ({}, {1, 2, 3, 4}),
        ({"lang": "en"}, {1, 3}),
        ({"lang": {"$eq": "en"}, "year": 1990}, {1}),
        ({"lang": {"$ne": "en"}}, {2, 4}),
        ({"lang": {"$in": ["de", "fr"]}}, {2}),
        ({"lang": {"$in": []}}, set()),
        ({"year": {"$gt": 1, "$lte": 2005.5}}, {1, 2}),
        ({"year": {"$gte": 1, "$lt": 1990}}, {4}),
        ({"lang": {"$gt": "de"}}, {1, 3}),
        ({"year": {"$exists": True}}, {1, 2, 4}),
        ({"year": {"$exists": False}}, {3}),
        ({"draft": True}, {1}),
        ({"draft": {"$ne": True}}, {2, 3, 4}),
        ({"tags": "moon"}, {1, 4}),
        ({"tags": "ice"}, {1}),
        ({"year": 1.0}, {4}),
        ({"$or": [{"lang": "de"}, {"year": 1}]}, {2, 4}),
        ({"$and": [{"lang": "en"}, {"$or": [{"year": 1990}, {"year": 1}]}]}, {1}),
        ({"lang": "en", "$or": [{"draft": True}, {"draft": False}]}, {1}),
        ({"lang": "fr"}, set()),
    ],
)
def test_what_matches(attributes: Attributes, expression: dict[str, Any], numbers: set[int]) -> None:
    assert attributes.matching(parse(expression)) == numbers


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        (None, "object of fields"),
        ([], "object of fields"),
        ({"year": {"$near": 3}}, "no operator"),
        ({"$not": {"year": 3}}, "no field"),
        ({"$or": []}, "at least one"),
        ({"$or": {"year": 3}}, "at least one"),
        ({"$and": [3]}, "object of fields"),
        ({"year": {}}, "empty"),
        ({"year": None}, "null"),
        ({"year": [1990]}, "a list"),
        ({"year": {"$in": 3}}, "takes a list"),
        ({"year": {"$in": [[3]]}}, "a list"),
        ({"year": {"$gt": float("nan")}}, "nan"),
        ({"year": {"$lt": True}}, "no order"),
        ({"year": {"$exists": 1}}, "true or false"),
    ],
)
def test_what_is_no_filter(expression: Any, part: str) -> None:
    with pytest.raises(InvalidInput, match=part):
        parse(expression)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ({"yeer": 1990}, "No document has a field 'yeer'"),
        ({"nested": {"$exists": True}}, "No document has a field 'nested'"),
        ({"yeer": {"$exists": False}}, "No document has a field"),
        ({"year": "1990"}, "holds numbers; '1990' is a text"),
        ({"draft": 1}, "holds booleans; 1 is a number"),
        ({"lang": {"$in": ["en", True]}}, "true is a boolean"),
        ({"$or": [{"lang": "en"}, {"$and": [{"year": {"$gt": "x"}}]}]}, "holds numbers"),
    ],
)
def test_fields_and_kinds_that_do_not_exist_are_refused(
    attributes: Attributes, expression: dict[str, Any], part: str
) -> None:
    with pytest.raises(InvalidInput, match=part):
        attributes.matching(parse(expression))


def test_depth_and_size_are_bounded() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        deep = {"$and": [deep]}
    parse(deep)
    with pytest.raises(InvalidInput, match="levels"):
        parse({"$or": [deep]})
    parse({"a": {"$in": list(range(MAX_CONDITIONS))}})
    with pytest.raises(InvalidInput, match="conditions"):
        parse({"a": {"$in": list(range(MAX_CONDITIONS + 1))}})


def test_a_document_that_goes_takes_its_fields_along(attributes: Attributes) -> None:
    attributes.put(1, {"lang": "fr"})
    assert attributes.matching(parse({"lang": "fr"})) == {1}
    assert attributes.matching(parse({"lang": "en"})) == {3}
    attributes.remove(2)
    with pytest.raises(InvalidInput, match="No document has a field 'draft'"):
        attributes.matching(parse({"draft": False}))
    attributes.remove(77)
    assert len(attributes) == 3


values = st.one_of(st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0]), st.sampled_from(["", "a", "b"]))
metadata = st.dictionaries(st.sampled_from(["x", "y"]), st.one_of(values, st.lists(values, max_size=3), st.none()))
conditions = st.one_of(
    st.builds(
        lambda name, sign, value: Condition(name, sign, (value,)),
        st.sampled_from(["x", "y"]),
        st.sampled_from(["$eq", "$ne", "$in"]),
        values,
    ),
    st.builds(
        lambda name, sign, value: Condition(name, sign, (value,)),
        st.sampled_from(["x", "y"]),
        st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
        values.filter(lambda value: not isinstance(value, bool)),
    ),
    st.builds(lambda name, value: Condition(name, "$exists", (value,)), st.sampled_from(["x", "y"]), st.booleans()),
)
filters = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(lambda parts: Every(tuple(parts)), st.lists(inner, max_size=3)),
        st.builds(lambda parts: Some(tuple(parts)), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)


def holds(wanted: Filter, document: dict[str, Any]) -> bool:
    """The same, read one document at a time."""
    if isinstance(wanted, Every):
        return all(holds(part, document) for part in wanted.parts)
    if isinstance(wanted, Some):
        return any(holds(part, document) for part in wanted.parts)
    own = document.get(wanted.field)
    items = [item for item in (own if isinstance(own, list) else [own]) if item is not None]
    (value,) = wanted.values
    alike = [item for item in items if kind(item) == kind(value)]
    match wanted.operator:
        case "$eq" | "$in":
            return value in alike
        case "$ne":
            return value not in alike
        case "$gt":
            return any(item > value for item in alike)
        case "$gte":
            return any(item >= value for item in alike)
        case "$lt":
            return any(item < value for item in alike)
        case "$lte":
            return any(item <= value for item in alike)
        case "$exists":
            return bool(items) is value


@given(st.lists(metadata, max_size=6), st.lists(st.tuples(st.integers(0, 5), metadata), max_size=4), filters)
def test_it_agrees_with_reading_one_document_at_a_time(
    documents: list[dict[str, Any]], changes: list[tuple[int, dict[str, Any]]], wanted: Filter
) -> None:
    held = Attributes()
    state = dict(enumerate(documents)) | dict(changes)
    for number, document in [*enumerate(documents), *changes]:
        held.put(number, document)
    try:
        matching = held.matching(wanted)
    except InvalidInput:
        return
    assert matching == {number for number, document in state.items() if holds(wanted, document)}
