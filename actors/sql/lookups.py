"""Stored lookups: what makes one sound, what arguments it takes, and how it is shown to a person and to a model.

A lookup is a SELECT that somebody who knows a database wrote once, so that questions can be answered by it without
anybody writing SQL again. All of this is pure; that its statement is one which may run, only the database can say.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from actors.errors import InvalidInput
from actors.messages import LookupCall, Parameter, ParameterType, Scalar, StoredLookup
from actors.sql.guard import literal
from actors.sql.lexing import Dialect, tokens

MAX_SQL_CHARS: Final = 20_000
MAX_DESCRIPTION_CHARS: Final = 2_000
MAX_PARAMETERS: Final = 20

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
"""Of lookups and parameters: what every database takes for a parameter, and every model's API for a tool."""

_WORD: Final = re.compile(r"[^\W\d_]{2,}")

_JSON_TYPES: Final[Mapping[ParameterType, dict[str, str]]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "date": {"type": "string", "format": "date"},
    "boolean": {"type": "boolean"},
}


def check(lookup: StoredLookup, kind: Dialect) -> None:
    """Make sure that a lookup is complete and agrees with itself.

    Args:
        lookup: to be stored.
        kind: of its source.

    Raises:
        InvalidInput: the detail says what to change.
        Refused: its statement holds what servers read in more than one way.
    """
    if not _NAME.fullmatch(lookup.name):
        raise InvalidInput("A lookup's name is a letter and up to 63 more letters, digits and underscores.")
    if not _WORD.search(lookup.description):
        raise InvalidInput("The lookup needs a description: a question is matched with the words of it.")
    if len(lookup.description) > MAX_DESCRIPTION_CHARS:
        raise InvalidInput(f"The description is longer than {MAX_DESCRIPTION_CHARS:,} characters.")
    if not lookup.sql.strip() or len(lookup.sql) > MAX_SQL_CHARS:
        raise InvalidInput(f"A lookup's statement has between 1 and {MAX_SQL_CHARS:,} characters.")
    if len(lookup.parameters) > MAX_PARAMETERS:
        raise InvalidInput(f"A lookup has at most {MAX_PARAMETERS} parameters.")
    names = [parameter.name for parameter in lookup.parameters]
    if len(set(names)) < len(names):
        raise InvalidInput("Two parameters have the same name.")
    for parameter in lookup.parameters:
        _check_parameter(parameter)
    used = set(placeholders(lookup.sql, kind))
    if undeclared := sorted(used.difference(names)):
        raise InvalidInput(f"The statement has :{undeclared[0]}, which is none of the parameters.")
    if unused := [name for name in names if name not in used]:
        raise InvalidInput(f"The statement does not use the parameter :{unused[0]}.")


def _check_parameter(parameter: Parameter) -> None:
    if not _NAME.fullmatch(parameter.name):
        raise InvalidInput("A parameter's name is a letter and up to 63 more letters, digits and underscores.")
    if parameter.column and not all(parameter.column.rpartition(".")[::2]):
        raise InvalidInput(f"The column of the parameter {parameter.name!r} must be given as table.column.")
    if parameter.default is not None:
        if parameter.required:
            raise InvalidInput(f"The parameter {parameter.name!r} has a default, so it cannot be required.")
        typed(parameter, parameter.default)


def call(lookup: StoredLookup, arguments: Mapping[str, Any]) -> LookupCall:
    """A call with these arguments, defaults filled in; a parameter that has none is null.

    Raises:
        InvalidInput: one is missing, unknown or of the wrong type.
    """
    known = {parameter.name for parameter in lookup.parameters}
    if unknown := sorted(set(arguments) - known):
        of = f"its parameters are {', '.join(sorted(known))}" if known else "it has none"
        raise InvalidInput(f"The lookup {lookup.name!r} has no parameter {unknown[0]!r}; {of}.")
    filled: list[tuple[str, Scalar]] = []
    for parameter in lookup.parameters:
        value = arguments.get(parameter.name)
        if value is None:
            if parameter.required:
                raise InvalidInput(f"The lookup {lookup.name!r} needs the parameter {parameter.name!r}.")
            value = parameter.default
        filled.append((parameter.name, None if value is None else typed(parameter, value)))
    return LookupCall(lookup.source, lookup.name, tuple(filled))


def typed(parameter: Parameter, value: Any) -> Scalar:
    """A value as its parameter's type has it. Text is read as what is wanted.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return _READ[parameter.type](value)
    except (TypeError, ValueError, OverflowError):
        form = " (year-month-day)" if parameter.type == "date" else ""
        raise InvalidInput(f"The parameter {parameter.name!r} must be of type {parameter.type}{form}.") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    found = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(found, bool):
        raise TypeError
    return found


def _integer(value: Any) -> int:
    # A float is one if it is whole: JSON does not tell 2 and 2.0 apart everywhere. Nothing is made a float for that: a
    # number of 64 bits would be another then.
    found = int(value)
    if isinstance(value, bool) or (not isinstance(value, str) and found != value):
        raise TypeError
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(float(value)):
        raise TypeError
    return float(value)


def _date(value: Any) -> str:
    return datetime.date.fromisoformat(_text(value)).isoformat()


_READ: Final[Mapping[ParameterType, Callable[[Any], Scalar]]] = {
    "text": _text,
    "integer": _integer,
    "number": _number,
    "date": _date,
    "boolean": _boolean,
}


def json_schema(lookup: StoredLookup) -> dict[str, Any]:
    """The JSON schema of a lookup's arguments, as tools of language models are described."""
    properties = {}
    for parameter in lookup.parameters:
        about: dict[str, Any] = dict(_JSON_TYPES[parameter.type])
        if parameter.description:
            about["description"] = parameter.description
        if parameter.default is not None:
            about["default"] = parameter.default
        properties[parameter.name] = about
    return {
        "type": "object",
        "properties": properties,
        "required": [parameter.name for parameter in lookup.parameters if parameter.required],
        "additionalProperties": False,
    }


def placeholders(sql: str, kind: Dialect) -> Iterator[str]:
    """Names of the parameters in a statement, in order, repetitions included."""
    return (token.text[1:] for token in tokens(sql, kind) if token.kind == "param")


def shown(sql: str, kind: Dialect, arguments: Mapping[str, Scalar]) -> str:
    """The statement with its arguments as literals, so that a person can paste it; it is never run."""
    return "".join(
        literal(arguments[token.text[1:]]) if token.kind == "param" and token.text[1:] in arguments else token.text
        for token in tokens(sql, kind)
    )
