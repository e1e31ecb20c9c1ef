"""What a plan says, in plain words: which tables are read as a whole, and which index would save that.

Pure functions from the form in which each kind of server gives its plan to findings, worst first. They name what the
plan names, and leave alone what it does not say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

SMALL: Final = 1000
"""Reading as many rows as that one by one takes no time worth a word."""

_SQLITE_SCAN: Final = re.compile(r"^SCAN (?:TABLE )?(?P<table>.+?)(?: AS (?P<alias>.+?))?(?P<index> USING .+)?$")
_SQLITE_AUTO: Final = re.compile(
    r"^SEARCH (?:TABLE )?(?P<table>.+?)(?: AS (?P<alias>\S+))? USING AUTOMATIC (?:PARTIAL )?(?:COVERING )?INDEX "
    r"\((?P<columns>[^)]*)\)"
)
_SQLITE_SORT: Final = re.compile(r"^USE TEMP B-TREE FOR (?P<what>.+)$")
_COLUMN: Final = re.compile(
    r"(?:[\w\"`]+\.)?[\"`]?(?P<column>[A-Za-z_]\w*)[\"`]?(?:\)::\w+)?\s*(?:=|<|>|~~|IN\b|like\b)", re.I
)


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that a plan says.

    Attributes:
        level: `warning` where the statement may take long, `note` where it is only good to know.
        table: that it is about; empty for none.
        text: one or two sentences.
    """

    level: Literal["warning", "note"]
    table: str
    text: str


def advise(kind: str, plan: Any, rows: Mapping[str, int | None] | None = None) -> list[Advice]:
    """What a plan says.

    Args:
        kind: of the database.
        plan: as `Engine.explain` gives it.
        rows: estimates for tables, for plans that have none.
    """
    match kind:
        case "postgresql":
            found = list(_postgres(plan[0]["Plan"]))
        case "mysql":
            found = list(_mysql(plan))
        case _:
            found = list(_sqlite(plan, rows or {}))
    found = list(dict.fromkeys(found))
    if not found:
        found = [Advice("note", "", "Every table is reached by an index, or is small.")]
    return sorted(found, key=lambda advice: advice.level != "warning")


def _postgres(node: Mapping[str, Any], inner: bool = False) -> Iterator[Advice]:
    kind, rows = node["Node Type"], node.get("Plan Rows", 0)
    table = node.get("Relation Name", "")
    if kind in ("Seq Scan", "Parallel Seq Scan"):
        # What a page holds is not in the plan: the cost of a scan is about one for a page and a hundredth for a row.
        read = max(rows, round(node.get("Total Cost", 0) * 10))
        yield _scan(table, read if node.get("Filter") else rows, _columns(node.get("Filter", "")), inner)
    elif kind == "Index Only Scan" and not node.get("Index Cond") and rows > SMALL:
        yield Advice("note", table, f"All of the index {node.get('Index Name')} of {table} is read.")
    elif kind in ("Index Scan", "Bitmap Heap Scan") and node.get("Filter") and rows > SMALL:
        yield Advice(
            "note", table, f"Rows of {table} found by an index are looked at once more: {_short(node['Filter'])}."
        )
    elif kind == "Sort" and rows > SMALL:
        key = ", ".join(node.get("Sort Key", ()))
        yield Advice("note", "", f"About {rows:,} rows are sorted by {key}; an index in that order would save it.")
    elif kind == "Nested Loop" and not node.get("Join Filter") and len(node.get("Plans", ())) == 2:
        outer, within = node["Plans"]
        if outer.get("Plan Rows", 0) * max(1, within.get("Plan Rows", 0)) > 1_000_000:
            yield Advice(
                "warning", "", f"Tables are joined row by row, to about {rows:,} rows. Is a condition missing?"
            )
    if kind == "Nested Loop":
        for at, part in enumerate(node.get("Plans", ())):
            yield from _postgres(part, inner or at == 1)
        return
    for part in node.get("Plans", ()):
        yield from _postgres(part, inner and kind != "Materialize")


def _mysql(node: Any, inner: bool = False) -> Iterator[Advice]:
    if isinstance(node, list):
        for at, part in enumerate(node):
            yield from _mysql(part, inner or at > 0)
        return
    if not isinstance(node, Mapping):
        return
    table = node.get("table")
    if isinstance(table, Mapping) and "table_name" in table:
        name = str(table["table_name"])
        rows = int(table.get("rows") or table.get("rows_examined_per_scan") or 0)
        condition = str(table.get("attached_condition", ""))
        match table.get("access_type"):
            case "ALL":
                yield _scan(name, rows, _columns(condition), inner)
            case "index" if rows > SMALL:
                yield Advice("note", name, f"All of the index {table.get('key')} of {name} is read.")
    if "filesort" in node or node.get("using_filesort"):
        yield Advice("note", "", "Rows are sorted; an index in that order would save it.")
    if "temporary_table" in node or node.get("using_temporary_table"):
        yield Advice("note", "", "An intermediate table is made.")
    for key, part in node.items():
        if isinstance(part, Mapping | list):
            yield from _mysql(part, inner and key != "query_block")


def _sqlite(steps: Sequence[Mapping[str, Any]], rows: Mapping[str, int | None]) -> Iterator[Advice]:
    scans = 0
    for step in steps:
        detail = step["detail"]
        if found := _SQLITE_AUTO.match(detail):
            columns = [column.strip(" =?<>") for column in re.split(r" AND |,", found["columns"])]
            table = found["table"]
            yield Advice(
                "warning",
                table,
                f"An index of {table} is made for this statement alone, each time. "
                f"A lasting one on ({', '.join(columns)}) would save it.",
            )
        elif found := _SQLITE_SCAN.match(detail):
            table = found["table"]
            if table in ("CONSTANT ROW", "") or table.startswith(("CONSTANT ROW", "SUBQUERY", "(")):
                continue
            count = rows.get(table)
            if found["index"]:
                yield Advice("note", table, f"All of an index of {table} is read ({found['index'].strip().lower()}).")
            else:
                yield _scan(table, SMALL + 1 if count is None else count, (), inner=scans > 0, known=count is not None)
            scans += 1
        elif found := _SQLITE_SORT.match(detail):
            yield Advice("note", "", f"Rows are sorted for {found['what']}; an index in that order would save it.")


def _scan(table: str, rows: int, columns: Sequence[str], inner: bool = False, *, known: bool = True) -> Advice:
    """A table that is read as a whole; `inner` where that happens once for every row of another."""
    about = f", about {rows:,} rows" if known else ""
    if not inner and rows <= SMALL:
        return Advice("note", table, f"All of {table} is read{about}. It is small.")
    again = " once for every row of what comes before it" if inner else ""
    index = f" An index on {table} ({', '.join(columns)}) may save that." if columns else ""
    return Advice("warning", table, f"All of {table} is read{again}{about}.{index}")


def _columns(condition: str) -> tuple[str, ...]:
    """The columns that a condition compares, in order, as far as that can be told from its text."""
    names = [found["column"] for found in _COLUMN.finditer(re.sub(r"'(?:[^']|'')*'", "''", condition))]
    return tuple(dict.fromkeys(name for name in names if name.lower() not in ("and", "or", "not", "text")))


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:99] + "\N{HORIZONTAL ELLIPSIS}"
