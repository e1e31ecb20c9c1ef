"""Value links: which values of a source are names, which rows have them, and what their foreign keys lead to.

The statements are made here, for every kind of database, and run by whoever calls. Tables and columns are named as the
schema has them and quoted; values are bound. Rows that a foreign key leads to are joined to the one that was found,
instead of being asked for by its key: so a key of any type and number of columns can be followed.
"""

from __future__ import annotations

import datetime
import decimal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from actors.messages import Lookup, Row
from actors.sql.guard import MAX_NAME_CHARS, is_name, literal
from actors.sql.schema import ForeignKey, Schema

Kind = Literal["sqlite", "postgresql", "mysql"]

MAX_CELL_CHARS: Final = 2000
"""Longer texts are cut in evidence: a row is shown to a person."""

SAMPLE_ROWS: Final = 1000
"""Rows a column is judged by."""

FOLLOW: Final = 3
"""Rows with a name from which foreign keys are followed; where there are more, the name is hardly theirs."""

STEPS: Final = 8
"""Foreign keys followed from one row, those that it has itself first."""

REFERRING: Final = 5
"""Rows taken of those that refer to one by a foreign key."""

# Declared types of SQLite that hold no names: the words it goes by itself, and the usual ones for times and truth.
_NO_NAMES: Final = ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "BLOB", "DATE", "TIME", "BOOL", "JSON")
_TEXTS: Final = ("char", "text")
_KEYS: Final = ("int", "serial", "char", "text")
# What is told as it is. All else is cut, or counted where it is bytes.
_PLAIN: Final = ("int", "serial", "num", "dec", "float", "double", "real", "bool", "date", "time", "year", "uuid")
_BYTES: Final = ("bytea", "blob", "binary", "geometry")


@dataclass(frozen=True, slots=True)
class Table:
    """What has to be known of a table.

    Attributes:
        name: as it is called in evidence: with its namespace where that is not the usual one.
        columns: name to type, in order.
        key: columns of the primary key, in order; empty where there is none.
        foreign: keys to tables by those names.
        place: namespace and name, where they are not the name; to be quoted each.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...] = ()
    foreign: tuple[ForeignKey, ...] = ()
    place: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement for rows of one table.

    Attributes:
        params: values of its `:names`.
        limit: most rows it gives.
        via: the foreign key that is followed, as `table.column`; empty where none is.
    """

    sql: str
    params: Mapping[str, Any]
    table: Table
    limit: int
    via: str = ""


def quoted(kind: Kind, name: str) -> str:
    """A table or column name, quoted for this kind of database.

    Raises:
        ValueError: the name holds a NUL, which no quoting can carry.
    """
    if "\0" in name:
        raise ValueError("An SQL identifier cannot hold a NUL character.")
    mark = "`" if kind == "mysql" else '"'
    return mark + name.replace(mark, 2 * mark) + mark


def tables(kind: Kind, schema: Schema) -> dict[str, Table]:
    """The tables of a schema, without its views: what is computed has no names of its own."""
    found = {}
    for table in schema.tables:
        if table.kind == "table":
            name = _called(kind, table.namespace, table.name)
            foreign = tuple(
                replace(key, table=_pointed_at(kind, table.namespace, key), namespace="")
                for key in table.foreign_keys
                if len(key.columns) == len(key.references)
            )
            columns = {column.name: column.type for column in table.columns}
            place = (table.namespace, table.name) if table.namespace else ()
            found[name] = Table(name, columns, table.key, foreign, place)
    return found


def _called(kind: Kind, namespace: str, name: str) -> str:
    return f"{namespace}.{name}" if kind == "postgresql" and namespace not in ("", "public") else name


def _pointed_at(kind: Kind, namespace: str, key: ForeignKey) -> str:
    # Of MySQL's databases only the source's own has its tables here; a key to another one leads nowhere.
    if kind == "mysql" and key.namespace:
        return f"{key.namespace}.{key.table}"
    return _called(kind, key.namespace or namespace, key.table)


def hidden(table: str, column: str, patterns: Sequence[str]) -> bool:
    """Whether a column is left out of names and of evidence: patterns are as `table.column`, with `*`; case is not."""
    name = f"{table}.{column}".casefold()
    return any(fnmatchcase(name, pattern.casefold()) for pattern in patterns)


# --- names -----------------------------------------------------------------------------------------------------------


def text_columns(kind: Kind, table: Table, exclude: Sequence[str]) -> list[str]:
    """The columns that may hold names, by their type."""
    return [
        name for name, type_ in table.columns.items() if _is_text(kind, type_) and not hidden(table.name, name, exclude)
    ]


def sample(kind: Kind, table: Table, column: str) -> str:
    """The statement for some of the texts of a column, repetitions included."""
    cell = quoted(kind, column)
    return f"SELECT {cell} FROM {_quoted_table(kind, table)} WHERE {_holds_text(kind, cell)} LIMIT {SAMPLE_ROWS:d}"  # noqa: S608


def names(kind: Kind, table: Table, column: str, most: int) -> str:
    """The statement for the different short texts of a column: each, the key of a row that has it, and of how many."""
    cell = quoted(kind, column)
    key = table.key[0] if len(table.key) == 1 else ""
    usable = key and any(word in table.columns.get(key, "").lower() for word in _KEYS)
    length = "length" if kind == "sqlite" else "char_length"
    return (
        f"SELECT {cell}, {f'min({quoted(kind, key)})' if usable else 'NULL'}, count(*)"  # noqa: S608 - quoted
        f" FROM {_quoted_table(kind, table)} WHERE {_holds_text(kind, cell)} AND {length}({cell}) <= {MAX_NAME_CHARS:d}"
        f" GROUP BY {cell} LIMIT {most:d}"
    )


def named(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, int | str | None]]:
    """Of what `names` gave, the names; each with the key of its row, if it is the only one."""
    for value, key, count in rows:
        if isinstance(value, str) and is_name(value):
            yield value, key if count == 1 and isinstance(key, int | str) else None


def _is_text(kind: Kind, type_: str) -> bool:
    if kind == "sqlite":
        return not any(word in type_.upper() for word in _NO_NAMES)
    return any(word in type_.lower() for word in _TEXTS) and "[]" not in type_


def _holds_text(kind: Kind, cell: str) -> str:
    return f"typeof({cell}) = 'text'" if kind == "sqlite" else f"{cell} IS NOT NULL"


# --- rows ------------------------------------------------------------------------------------------------------------


def direct(kind: Kind, table: Table, lookup: Lookup, exclude: Sequence[str], limit: int) -> Statement:
    """The rows that have a value; by the key where one is known, which needs no search."""
    condition, params = _condition(kind, table, lookup, "t")
    return Statement(_select(kind, table, "t", exclude, "", condition, limit), params, table, limit)


def followed(
    kind: Kind, schema: Mapping[str, Table], table: Table, lookup: Lookup, exclude: Sequence[str]
) -> list[Statement]:
    """The rows that foreign keys of those rows lead to, and those whose foreign keys lead to them; `STEPS` at most."""
    condition, params = _condition(kind, table, lookup, "t")
    statements = []
    for key in table.foreign:
        target = schema.get(key.table)
        if target is not None and set(key.references) <= target.columns.keys():
            on = _on(kind, zip(key.references, key.columns, strict=True))
            via = f"{table.name}.{', '.join(key.columns)}"
            sql = _select(kind, target, "f", exclude, _join(kind, table, on), condition, FOLLOW)
            statements.append(Statement(sql, params, target, FOLLOW, via))
    for other in schema.values():
        for key in other.foreign:
            if key.table == table.name and set(key.references) <= table.columns.keys():
                on = _on(kind, zip(key.columns, key.references, strict=True))
                via = f"{other.name}.{', '.join(key.columns)}"
                sql = _select(kind, other, "f", exclude, _join(kind, table, on), condition, REFERRING)
                statements.append(Statement(sql, params, other, REFERRING, via))
    return statements[:STEPS]


def rows(
    kind: Kind, source: str, statement: Statement, found: Sequence[tuple[Any, ...]], exclude: Sequence[str]
) -> list[Row]:
    """What a statement gave, as evidence."""
    table = statement.table
    visible = _visible(table, exclude)
    evidence = []
    for values in found:
        key = dict(zip(_key(kind, table), values, strict=False))
        columns = dict(zip(visible, values[len(key) :], strict=True))
        # A table without a key has only its columns to find a row by.
        where = key or {name: value for name, value in columns.items() if not _cut(value)}
        shown = again(kind, table, where)
        evidence.append(
            Row(source, table.name, {n: _portable(v) for n, v in key.items()}, columns, shown, via=statement.via)
        )
    return evidence


def again(kind: Kind, table: Table, where: Mapping[str, Any]) -> str:
    """A readable statement that finds rows again, e.g. `SELECT * FROM "moons" WHERE "id" = 6`."""
    terms = [
        f"{quoted(kind, column)} {'IS NULL' if value is None else f'= {_literal(kind, value)}'}"
        for column, value in where.items()
    ]
    condition = f" WHERE {' AND '.join(terms)}" if terms else ""
    return f"SELECT * FROM {_quoted_table(kind, table)}{condition}"  # noqa: S608 - shown, not run


def _quoted_table(kind: Kind, table: Table) -> str:
    return ".".join(quoted(kind, part) for part in table.place or (table.name,))


def _select(kind: Kind, table: Table, alias: str, exclude: Sequence[str], join: str, condition: str, limit: int) -> str:
    key = [f"{alias}.{quoted(kind, name)}" for name in _key(kind, table)]
    cells = [_cell(kind, f"{alias}.{quoted(kind, name)}", table.columns[name]) for name in _visible(table, exclude)]
    return (
        f"SELECT {', '.join([*key, *cells]) or '1'} FROM {_quoted_table(kind, table)} AS {alias}{join}"  # noqa: S608 - quoted
        f" WHERE {condition} LIMIT {limit:d}"
    )


def _condition(kind: Kind, table: Table, lookup: Lookup, alias: str) -> tuple[str, dict[str, Any]]:
    condition = f"{alias}.{quoted(kind, lookup.column)} = :value"
    if lookup.key is None or len(table.key) != 1:
        return condition, {"value": lookup.value}
    # The value is compared all the same: the source may have changed since its names were read.
    return f"{alias}.{quoted(kind, table.key[0])} = :key AND {condition}", {"value": lookup.value, "key": lookup.key}


def _join(kind: Kind, table: Table, on: str) -> str:
    return f" JOIN {_quoted_table(kind, table)} AS t ON {on}"


def _on(kind: Kind, pairs: Iterator[tuple[str, str]]) -> str:
    return " AND ".join(f"f.{quoted(kind, there)} = t.{quoted(kind, here)}" for there, here in pairs)


def _key(kind: Kind, table: Table) -> tuple[str, ...]:
    return table.key or (("rowid",) if kind == "sqlite" else ())


def _visible(table: Table, exclude: Sequence[str]) -> list[str]:
    return [name for name in table.columns if not hidden(table.name, name, exclude)]


def _cell(kind: Kind, cell: str, type_: str) -> str:
    """A cell as evidence, cut inside the database so that a large one never gets here."""
    type_ = type_.lower()
    if kind == "sqlite":
        return (
            f"CASE typeof({cell}) WHEN 'blob' THEN '(' || length({cell}) || ' bytes)'"
            f" WHEN 'text' THEN substr({cell}, 1, {MAX_CELL_CHARS:d}) ELSE {cell} END"
        )
    if any(word in type_ for word in _BYTES):
        if kind == "mysql":
            return f"concat('(', octet_length({cell}), ' bytes)')"
        return f"'(' || octet_length({cell}) || ' bytes)'"
    if any(word in type_ for word in _PLAIN) and "[]" not in type_ and "range" not in type_:
        return cell
    text = f"CAST({cell} AS char)" if kind == "mysql" else f"CAST({cell} AS text)"
    return f"left({text}, {MAX_CELL_CHARS:d})"


def _cut(value: Any) -> bool:
    return isinstance(value, str) and (len(value) >= MAX_CELL_CHARS or value.endswith(" bytes)"))


def _literal(kind: Kind, value: Any) -> str:
    match value:
        case datetime.date() | datetime.time() | uuid.UUID():
            return f"'{value}'"
        case decimal.Decimal():
            return str(value)
        case str() if kind == "mysql":
            # There a backslash escapes, unless the server was told otherwise; doubled inside a string it is itself.
            return literal(value.replace("\\", "\\\\"))
        case bytes() if kind == "postgresql":
            return f"'\\x{value.hex()}'"
    return literal(value)


def _portable(value: Any) -> Any:
    """A key's value in a form that JSON can carry."""
    return value if value is None or isinstance(value, bool | int | float | str) else _text(value)


def _text(value: Any) -> str:
    return f"X'{value.hex()}'" if isinstance(value, bytes) else str(value)
