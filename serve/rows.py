"""Rows on their way out: as JSON objects or arrays, as lines of JSON, as CSV, as an Arrow stream.

JSON keeps what it can: a decimal is a number with all its digits, times are ISO 8601, bytes are `{"$base64": …}`. A
float that is no number is null there, and itself in the other two.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, Literal

import orjson

from actors.errors import InvalidInput
from actors.sql.running import Column

Shape = Literal["objects", "arrays"]
Form = Literal["json", "ndjson", "csv", "arrow"]

MEDIA_TYPES: Final[Mapping[Form, str]] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}

Rows = Sequence[tuple[Any, ...]]


def form_of(named: Form | None, accept: str) -> Form:
    """The form wanted: by its name, else the first that the Accept header has."""
    if named is not None:
        return named
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        for form, media_type in MEDIA_TYPES.items():
            if kind == media_type.partition(";")[0]:
                return form
    return "json"


def names_of(columns: Sequence[Column]) -> list[str]:
    """A name for each column in an object, where two alike would be one: the second `id` is `id_2`."""
    names: list[str] = []
    taken: set[str] = set()
    # Where to go on counting, or a thousand columns of one name would cost a thousand looks each.
    numbers: dict[str, int] = {}
    for column in columns:
        name, number = column.name, numbers.get(column.name, 1)
        while name in taken:
            number += 1
            name = f"{column.name}_{number}"
        numbers[column.name] = number
        taken.add(name)
        names.append(name)
    return names


def shaped(rows: Rows, names: Sequence[str], shape: Shape) -> Sequence[Any]:
    """Rows as JSON has them."""
    return rows if shape == "arrays" else [dict(zip(names, row, strict=True)) for row in rows]


def encode(value: Any) -> bytes:
    """JSON.

    Raises:
        InvalidInput: a value is nested deeper than the encoder goes, or has no form there.
    """
    # Twice, because allowing for keys that are no text makes all others slower.
    for option in (0, orjson.OPT_NON_STR_KEYS):
        try:
            return orjson.dumps(value, default=_value, option=option)
        except TypeError:
            continue
    raise InvalidInput("A value is nested too deeply for JSON. Ask for it as text.")


def lines(rows: Rows, names: Sequence[str], shape: Shape) -> bytes:
    """Rows as lines of JSON."""
    return b"".join(encode({"row": row}) + b"\n" for row in shaped(rows, names, shape))


def csv_rows(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows as CSV (RFC 4180): null is empty, bytes are base64, what JSON would nest is JSON."""
    text = io.StringIO()
    csv.writer(text).writerows([[_cell(cell) for cell in row] for row in rows])
    return text.getvalue().encode("utf-8", "replace")


def arrow(columns: Sequence[Column], rows: Rows) -> bytes:
    """Rows as an Arrow IPC stream. Types are those that hold every value; a column of several kinds is text."""
    # It is loaded by those who ask for it: 0.2 s and 40 MB.
    import pyarrow
    from pyarrow import ipc

    names = names_of(columns)
    arrays = [_array(pyarrow, [row[at] for row in rows]) for at in range(len(columns))]
    fields = [
        pyarrow.field(name, array.type, metadata={"type": column.type} if column.type else None)
        for name, array, column in zip(names, arrays, columns, strict=True)
    ]
    table = pyarrow.Table.from_arrays(arrays, schema=pyarrow.schema(fields))
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=10_000)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _array(pyarrow: Any, values: list[Any]) -> Any:
    plain = [encode(value).decode() if isinstance(value, dict) else _readable(value) for value in values]
    try:
        return pyarrow.array(plain)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
        return pyarrow.array([None if value is None else str(_cell(value)) for value in values])


def _readable(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return Decimal(value)
    return value if isinstance(value, _PLAIN) or value is None or not _is_foreign(value) else str(value)


_PLAIN: Final = (str, bytes, int, float, Decimal, list, tuple)


def _is_foreign(value: Any) -> bool:
    return type(value).__module__ not in ("builtins", "datetime", "decimal")


def _cell(value: Any) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case bool():
            return "true" if value else "false"
        case None | str() | int() | float() | Decimal():
            return value
        case dict() | list() | tuple():
            return encode(value).decode()
    isoformat: Callable[[], str] | None = getattr(value, "isoformat", None)
    return isoformat() if isoformat is not None else str(value)


def _value(value: Any) -> Any:
    """What JSON has no form for."""
    match value:
        case Decimal():
            # The digits as they are: a client that reads numbers as decimals loses nothing.
            return orjson.Fragment(format(value, "f")) if value.is_finite() else str(value)
        case bytes() | bytearray() | memoryview():
            return {"$base64": base64.b64encode(value).decode("ascii")}
        case timedelta():
            return str(value)
        case set() | frozenset():
            return sorted(value)
    if isinstance(value, Sequence):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    items: Callable[[], Any] | None = getattr(value, "items", None)
    return dict(items()) if items is not None else str(value)
