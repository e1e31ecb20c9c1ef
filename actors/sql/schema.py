"""What a source holds, as far as its user may see it: tables, columns, keys, and how large they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, TypeAlias

Fetch: TypeAlias = Callable[[str], Awaitable[list[Any]]]
"""A statement of ours to its rows."""

MAX_SAMPLE_CHARS: Final = 80
"""Longer samples are cut."""


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column of a table.

    Attributes:
        type: in the database's words.
        samples: some values, if the source allows them to be shown.
    """

    name: str
    type: str
    nullable: bool
    comment: str = ""
    samples: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Columns that point at those of another table.

    Attributes:
        namespace: of that table; empty for that of its own.
    """

    columns: tuple[str, ...]
    table: str
    references: tuple[str, ...]
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """An index, with its columns in order; an expression is an empty name."""

    name: str
    columns: tuple[str, ...]
    unique: bool


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table or a view.

    Attributes:
        namespace: PostgreSQL's schema, MySQL's database; empty in SQLite.
        rows: an estimate, None where there is none.
    """

    name: str
    namespace: str
    kind: str
    columns: tuple[ColumnInfo, ...]
    key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    rows: int | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Schema:
    """What there is.

    Attributes:
        at: when it was read, seconds since the epoch.
        truncated: whether there are more tables than are given.
    """

    tables: tuple[TableInfo, ...]
    at: float = 0.0
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Tested:
    """What a look at a source has found.

    Attributes:
        version: of the server, in its own words.
        writable: what its user could write to if nothing were between; empty is how it should be.
        warnings: what should be changed, in plain words.
        latency_ms: of one exchange, once connected.
    """

    version: str
    writable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    latency_ms: float = 0.0


MAX_TABLES: Final = 2000
"""More are not listed."""


@dataclass(slots=True)
class Draft:
    """A table while it is put together from the rows of a catalogue.

    Attributes:
        foreign: by name of the key: its columns, namespace and name of the table it points at, and the columns there.
    """

    name: str
    namespace: str
    kind: str
    rows: int | None = None
    comment: str = ""
    columns: list[ColumnInfo] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    foreign: dict[str, tuple[list[str], tuple[str, str], list[str]]] = field(default_factory=dict)
    indexes: dict[str, tuple[list[str], bool]] = field(default_factory=dict)
    samples: Sequence[Sequence[Any]] = ()

    def finished(self) -> TableInfo:
        """The table."""
        columns = [
            ColumnInfo(
                each.name, each.type, each.nullable, each.comment, tuple(_shown(row[at]) for row in self.samples)
            )
            for at, each in enumerate(self.columns)
        ]
        return TableInfo(
            self.name,
            self.namespace,
            self.kind,
            tuple(columns),
            key=tuple(self.key),
            foreign_keys=tuple(
                ForeignKey(tuple(of), table, tuple(to), "" if namespace == self.namespace else namespace)
                for of, (namespace, table), to in self.foreign.values()
            ),
            indexes=tuple(Index(name, tuple(of), unique) for name, (of, unique) in sorted(self.indexes.items())),
            rows=self.rows,
            comment=self.comment,
        )


def finish(drafts: Mapping[Any, Draft]) -> Schema:
    """The schema of all drafts, by name."""
    tables = sorted((draft.finished() for draft in drafts.values()), key=lambda table: (table.namespace, table.name))
    return Schema(tuple(tables[:MAX_TABLES]), truncated=len(tables) > MAX_TABLES)


def _shown(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case bytes():
            return f"({len(value)} bytes)"
        case date() | datetime() | time():
            return value.isoformat()
        case Decimal():
            return str(value)
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SAMPLE_CHARS else text[: MAX_SAMPLE_CHARS - 1] + "\N{HORIZONTAL ELLIPSIS}"
