"""Filters on a document's metadata: `{"year": {"$gte": 1990}, "$or": [{"lang": "en"}, {"draft": {"$ne": true}}]}`.

A filter that was misspelt must not look like one that nothing matches. So a field that no document has, and a value of
a kind that the field never holds, are refused; and what matches nothing gives nothing, never everything. The result is
a set of document numbers, which every index can be held to in the same way.

Values are texts, numbers and booleans, and lists of them: a list matches where any of its elements does. `null` is the
same as no value.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, Literal

from actors.errors import InvalidInput

MAX_CONDITIONS: Final = 200
"""Conditions of one filter, all levels and the values of `$in` together: each is a walk over a field's values."""

MAX_DEPTH: Final = 8
"""Levels of `$and` and `$or`."""

Kind = Literal["text", "number", "boolean"]
Value = str | float | bool
Operator = Literal["$eq", "$ne", "$in", "$gt", "$gte", "$lt", "$lte", "$exists"]

_Key = tuple[Kind, Value]  # true and 1 are the same key of a dict, and so are not enough

_ORDER: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS: Final = ("$eq", "$ne", "$in", *_ORDER, "$exists")
_KINDS: Final[Mapping[Kind, str]] = {"text": "texts", "number": "numbers", "boolean": "booleans"}


@dataclass(frozen=True, slots=True)
class Condition:
    """One field against one operator.

    Attributes:
        field: name in the metadata.
        operator: see `Operator`.
        values: what it is compared with: one value, or for `$in` any number of them.
    """

    field: str
    operator: Operator
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Every:
    """What matches all the parts; no parts match everything."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """What matches at least one of the parts."""

    parts: tuple[Filter, ...]


Filter = Condition | Every | Some


def parse(expression: Any) -> Filter:
    """Read a filter as it comes from JSON.

    Args:
        expression: an object of `field: value` (which is `$eq`), `field: {operator: value, …}`, `$and: […]` and
            `$or: […]`; its members must all hold. An empty object holds for every document.

    Raises:
        InvalidInput: it is not of this form, too deep or too long.
    """
    parsed = _parse(expression, MAX_DEPTH)
    if _size(parsed) > MAX_CONDITIONS:
        raise InvalidInput(f"The filter has more than {MAX_CONDITIONS} conditions; use fewer.")
    return parsed


class Attributes:
    """The metadata of all documents, by field and value, to evaluate filters on.

    `put` and `remove` belong to one writing thread. `matching` may run in another: what it sees of a document that is
    being written at that moment is its former or its new self, or parts of both.
    """

    def __init__(self) -> None:
        self._numbers: set[int] = set()
        self._keys: dict[int, tuple[tuple[str, _Key], ...]] = {}
        self._fields: dict[str, dict[_Key, set[int]]] = {}
        self._holders: dict[str, Counter[Kind]] = {}

    def __len__(self) -> int:
        """Documents held."""
        return len(self._numbers)

    def put(self, number: int, metadata: Mapping[str, Any]) -> None:
        """Take in a document's metadata, in place of what was there. Values that no filter can name are left out."""
        self.remove(number)
        keys = tuple(dict.fromkeys((name, key) for name, value in metadata.items() for key in _keys(value)))
        for name, key in keys:
            self._fields.setdefault(name, {}).setdefault(key, set()).add(number)
            self._holders.setdefault(name, Counter())[key[0]] += 1
        self._keys[number] = keys
        self._numbers.add(number)

    def remove(self, number: int) -> None:
        """Drop a document, if it is held."""
        self._numbers.discard(number)
        for name, key in self._keys.pop(number, ()):
            values = self._fields[name]
            values[key].discard(number)
            if not values[key]:
                del values[key]
            self._holders[name][key[0]] -= 1
            if not values:
                del self._fields[name], self._holders[name]

    def kinds(self) -> dict[str, frozenset[Kind]]:
        """What each field holds."""
        # Copied before they are walked: the writing thread may change them at any time.
        return {
            name: frozenset(kind for kind, holders in list(counts.items()) if holders)
            for name, counts in self._holders.copy().items()
        }

    def matching(self, wanted: Filter) -> frozenset[int]:
        """The numbers of the documents that a filter holds for.

        Raises:
            InvalidInput: it names a field that no document has, or a value of another kind than the field's.
        """
        check(wanted, self.kinds())
        return self.holding(wanted)

    def holding(self, wanted: Filter) -> frozenset[int]:
        """The same for a filter that was checked already, with shards against what the fields hold in all of them."""
        return frozenset(self._evaluate(wanted))

    def _evaluate(self, wanted: Filter) -> Set[int]:
        if isinstance(wanted, Condition):
            return self._compare(wanted)
        sets = [self._evaluate(part) for part in wanted.parts]
        if isinstance(wanted, Some):
            return set().union(*sets)
        if not sets:
            return self._numbers.copy()
        smallest, *others = sorted(sets, key=len)
        return set(smallest).intersection(*others)

    def _compare(self, condition: Condition) -> Set[int]:
        values = self._fields.get(condition.field, {})
        match condition.operator:
            case "$eq" | "$in":
                return self._any(values, [(kind(value), value) for value in condition.values])
            case "$ne":
                return self._numbers - self._any(values, [(kind(value), value) for value in condition.values])
            case "$exists":
                holding = self._any(values, list(values))
                return holding if condition.values[0] else self._numbers - holding
        (bound,) = condition.values
        within, kind_of_bound = _ORDER[condition.operator], kind(bound)
        return self._any(values, [key for key in list(values) if key[0] == kind_of_bound and within(key[1], bound)])

    @staticmethod
    def _any(values: Mapping[_Key, set[int]], keys: Sequence[_Key]) -> set[int]:
        # Copied one by one: the writing thread may change any of them at any time.
        return set().union(*(values.get(key, set()).copy() for key in keys))


def check(wanted: Filter, kinds: Mapping[str, frozenset[Kind]]) -> None:
    """Hold a filter against what the fields are known to hold. With shards, that is what they hold in any of them.

    Raises:
        InvalidInput: it names a field that no document has, or a value of another kind than the field's.
    """
    for condition in _conditions(wanted):
        known = kinds.get(condition.field)
        if not known:
            raise InvalidInput(f"No document has a field {_shown(condition.field)} to filter on.")
        if condition.operator == "$exists":
            continue
        for value in condition.values:
            if kind(value) not in known:
                held = " and ".join(_KINDS[name] for name in _KINDS if name in known)
                raise InvalidInput(
                    f"The field {_shown(condition.field)} holds {held}; {_shown(value)} is a {kind(value)}."
                )


def kind(value: Value) -> Kind:
    """The kind of a value."""
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _keys(value: Any) -> Iterator[_Key]:
    for item in value if isinstance(value, list | tuple) else (value,):
        if _is_value(item):
            yield kind(item), item


def _is_value(item: Any) -> bool:
    return isinstance(item, str | bool | int) or (isinstance(item, float) and math.isfinite(item))


def _parse(expression: Any, depth: int) -> Filter:
    if not isinstance(expression, Mapping):
        raise InvalidInput(f"A filter is an object of fields and conditions, not {_shown(expression)}.")
    if depth == 0:
        raise InvalidInput(f"The filter is nested more than {MAX_DEPTH} levels deep.")
    parts: list[Filter] = []
    for name, value in expression.items():
        if name in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise InvalidInput(f"{name} takes a list of at least one filter, not {_shown(value)}.")
            inner = tuple(_parse(part, depth - 1) for part in value)
            parts.append(Every(inner) if name == "$and" else Some(inner))
        elif not isinstance(name, str) or name.startswith("$"):
            raise InvalidInput(f"{_shown(name)} is no field; filters are joined with $and and $or.")
        elif isinstance(value, Mapping):
            parts += _comparisons(name, value)
        else:
            parts.append(Condition(name, "$eq", (_value(name, "$eq", value),)))
    return parts[0] if len(parts) == 1 else Every(tuple(parts))


def _comparisons(name: str, comparisons: Mapping[Any, Any]) -> Iterator[Condition]:
    if not comparisons:
        raise InvalidInput(f"The condition on {_shown(name)} is empty; use one of {', '.join(_OPERATORS)}.")
    for sign, value in comparisons.items():
        if sign not in _OPERATORS:
            raise InvalidInput(f"{_shown(sign)} is no operator; use one of {', '.join(_OPERATORS)}.")
        if sign == "$in":
            if not isinstance(value, list | tuple):
                raise InvalidInput(f"$in on {_shown(name)} takes a list, not {_shown(value)}.")
            yield Condition(name, sign, tuple(_value(name, sign, item) for item in value))
            continue
        value = _value(name, sign, value)
        if sign == "$exists" and not isinstance(value, bool):
            raise InvalidInput(f"$exists on {_shown(name)} takes true or false, not {_shown(value)}.")
        if sign in _ORDER and isinstance(value, bool):
            raise InvalidInput(f"{sign} on {_shown(name)} takes a number or a text: booleans have no order.")
        yield Condition(name, sign, (value,))


def _value(name: str, sign: str, value: Any) -> Value:
    if not _is_value(value):
        raise InvalidInput(f"{sign} on {_shown(name)} takes a text, a number or a boolean, not {_shown(value)}.")
    return value  # type: ignore[no-any-return]


def _conditions(wanted: Filter) -> Iterator[Condition]:
    if isinstance(wanted, Condition):
        yield wanted
    else:
        yield from itertools.chain.from_iterable(map(_conditions, wanted.parts))


def _size(wanted: Filter) -> int:
    return sum(max(1, len(condition.values)) for condition in _conditions(wanted))


def _shown(value: Any) -> str:
    """A value as JSON would have it, in few characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"'{value[:40]}…'" if len(value) > 40 else f"'{value}'"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"{value}"[:40]
