"""The process that reads SQLite files: it imports nothing of Gatherum, can write nothing, and may be killed any time.

What SQLite's own fences miss ends here. A single function call that makes a gigabyte out of little is not interrupted
by any handler, and a crafted file may crash the library: the limits of the process stop the first, and neither takes
more than this process with it. Run as a script, it answers requests from standard input on standard output, in JSON,
each with its length before it.
"""

from __future__ import annotations

import base64
import contextlib
import math
import os
import resource
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

HEADER: Final = struct.Struct("<I")
"""Length of the message that follows, bytes."""

PROGRESS_STEPS: Final = 1000
"""Virtual machine steps between two looks at the clock, about 0.1 ms."""

BUSY_S: Final = 0.5
"""Wait for a writer that locks the file. SQLite's own wait cannot be interrupted, so it is short."""

SLOW_S: Final = 0.1
"""A statement that has taken so much of a processor goes behind everything else: it would hold up questions, s."""

LOWEST: Final = 19
"""Priority of such a one. Where the process may not take it back, it is not used again."""

MEMORY: Final = 256_000_000
"""Memory of the process beyond what it starts with, bytes."""

STATEMENTS: Final = 64
"""Statements kept prepared. Another authorizer has all of them prepared anew by the library."""

FIRST_ROWS: Final = 4
"""Rows fetched before anybody knows how large they are."""

BATCH_ROWS: Final = 500
BATCH_BYTES: Final = 1_000_000
"""Rows are sent when there are so many, or so many bytes of them."""

# fmt: off
FUNCTIONS: Final = frozenset({
    "abs", "acos", "asin", "atan", "atan2", "avg", "ceil", "ceiling", "char", "coalesce", "concat", "concat_ws", "cos",
    "count", "cume_dist", "current_date", "current_time", "current_timestamp", "date", "datetime", "degrees",
    "dense_rank", "exp", "first_value", "floor", "format", "glob", "group_concat", "hex", "ifnull", "iif", "instr",
    "json", "json_array", "json_array_length", "json_each", "json_extract", "json_group_array", "json_group_object",
    "json_object", "json_quote", "json_tree", "json_type", "json_valid", "julianday", "lag", "last_value", "lead",
    "length", "like", "ln", "log", "log10", "log2", "lower", "ltrim", "max", "min", "mod", "nth_value", "ntile",
    "nullif", "octet_length", "percent_rank", "pi", "pow", "power", "printf", "quote", "radians", "random", "rank",
    "replace", "round", "row_number", "rtrim", "sign", "sin", "sqrt", "strftime", "string_agg", "substr", "substring",
    "sum", "tan", "time", "timediff", "total", "trim", "trunc", "typeof", "unhex", "unicode", "unixepoch", "upper",
    "->", "->>",
})
# fmt: on
"""What a statement may call: nothing that reads files, loads code or tells what the library is made of."""

LIMITS: Final[Mapping[int, int]] = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}

PRAGMAS: Final = frozenset({"table_xinfo", "foreign_key_list", "index_list", "index_xinfo"})
"""What is asked for the schema, and only by the parent: never by a statement that a user wrote."""

LAYERS: Final = frozenset({"readonly", "query_only", "authorizer", "limits", "progress", "rlimits", "single"})
"""The fences, each by a name that a test can take it away by."""


def authorizer(*, schema: bool) -> Callable[[int, str | None, str | None, str | None, str | None], int]:
    """What decides about each thing a statement would do, when it is prepared.

    Args:
        schema: whether the shape of tables may be asked for.
    """

    def decide(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
        match action:
            case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_READ | sqlite3.SQLITE_RECURSIVE:
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_FUNCTION if second is not None and (
                second.lower() in FUNCTIONS or (schema and second == "sqlite_version")
            ):
                return sqlite3.SQLITE_OK
            case sqlite3.SQLITE_PRAGMA if schema and first in PRAGMAS and second is not None:
                return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    return decide


class Session:
    """A connection to one file, kept from one statement to the next.

    Args:
        path: of the file.
        layers: the fences in force.
    """

    def __init__(self, path: str, layers: frozenset[str]) -> None:
        self.path = path
        self.opened = _identity(path)
        self._layers = layers
        self._until = math.inf
        self._slow_at = math.inf
        self._for_schema: bool | None = None
        self.aside = False
        self._usual = 0
        # What a statement is refused is not what opening the file needs: SQLite reads the schema by itself.
        self._connection = sqlite3.connect(
            f"{Path(path).as_uri()}?mode={'ro' if 'readonly' in layers else 'rwc'}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            cached_statements=STATEMENTS,
        )
        self._connection.text_factory = _decode
        if "limits" in layers:
            for limit, value in LIMITS.items():
                self._connection.setlimit(limit, value)
        if "query_only" in layers:
            self._connection.execute("PRAGMA query_only = 1")
        # A view or a default in a hostile file must not call functions with side effects.
        self._connection.execute("PRAGMA trusted_schema = 0")
        # Sorting goes to memory, which is limited; there is no disk to go to.
        self._connection.execute("PRAGMA temp_store = MEMORY")
        if "progress" in layers:
            self._connection.set_progress_handler(self._look_at_the_clock, PROGRESS_STEPS)

    def is_of(self, path: str, identity: Sequence[int]) -> bool:
        """Whether it is this very file that is open."""
        return self.path == path and list(self.opened) == list(identity)

    def run(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages that answer a request: batches of `rows`, with `columns` in the first and `end` in the last."""
        self._until = time.monotonic() + request["seconds"]
        self._slow_at = time.process_time() + SLOW_S
        schema = request["schema"]
        # Only when it is another one: it costs every statement that is kept its preparation.
        if "authorizer" in self._layers and schema is not self._for_schema:
            self._connection.set_authorizer(authorizer(schema=schema))
            self._for_schema = schema
        params = {name: _given(value) for name, value in request["params"].items()}
        cursor = self._connection.cursor()
        try:
            if "single" in self._layers:
                cursor.execute(request["sql"], params)
            else:
                *before, last = [part for part in request["sql"].split(";") if part.strip()]
                for part in before:
                    cursor.execute(part)
                cursor.execute(last, params if not before else {})
            head = {"columns": [description[0] for description in cursor.description or ()]}
            for message in _batches(cursor, request["rows"], request["bytes"]):
                yield {**head, **message}
                head = {}
        finally:
            cursor.close()

    def _look_at_the_clock(self) -> bool:
        """Whether the statement's time is up."""
        if not self.aside and time.process_time() > self._slow_at:
            self.aside = True
            self._usual = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, 0, LOWEST)
        return time.monotonic() > self._until

    def back(self) -> None:
        """Take its priority back, after a statement that took long."""
        if self.aside:
            with contextlib.suppress(PermissionError):
                os.setpriority(os.PRIO_PROCESS, 0, self._usual)
                self.aside = False

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _batches(cursor: sqlite3.Cursor, rows: int, size: int) -> Iterator[dict[str, Any]]:
    """The rows of a cursor within the limits, then whether there were more."""
    each = FIRST_ROWS
    while rows > 0 and size > 0:
        wanted = min(each, rows)
        batch = cursor.fetchmany(wanted)
        message, length = _encoded(batch)
        if len(batch) < wanted:
            yield {**message, "end": True, "truncated": False}
            return
        rows -= wanted
        size -= length
        each = max(1, min(8 * each, BATCH_ROWS, BATCH_BYTES * wanted // length))
        yield message
    yield {"end": True, "truncated": cursor.fetchone() is not None}


def _encoded(batch: Sequence[tuple[Any, ...]]) -> tuple[dict[str, Any], int]:
    """Rows as a message, and their bytes."""
    blobs = 0

    def text(value: Any) -> str:
        nonlocal blobs
        blobs += 1
        return _blob(value)

    encoded = orjson.dumps(batch, default=text)
    # What JSON has no form for has come out as text, or as null; most rows have neither, and are not looked through.
    special = _special(batch) if blobs or b"null" in encoded else {}
    return {"rows": orjson.Fragment(encoded), **special}, len(encoded)


def _special(batch: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Where the cells are that JSON has no form for: `blobs`, and the `numbers` that are none or without end."""
    blobs: list[tuple[int, int]] = []
    numbers: list[tuple[int, int, str]] = []
    for row, cells in enumerate(batch):
        for column, cell in enumerate(cells):
            if type(cell) is bytes:
                blobs.append((row, column))
            elif type(cell) is float and not math.isfinite(cell):
                numbers.append((row, column, repr(cell)))
    return {**({"blobs": blobs} if blobs else {}), **({"numbers": numbers} if numbers else {})}


def _blob(value: Any) -> str:
    return base64.b64encode(value).decode("ascii")


def _given(value: Any) -> Any:
    """A parameter as it came: bytes are wrapped, because JSON has none."""
    return base64.b64decode(value["blob"]) if isinstance(value, dict) else value


def _decode(data: bytes) -> str:
    """Text as it is meant; a file with broken UTF-8 in one cell is still readable."""
    return data.decode("utf-8", "replace")


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - a Path's own takes three times as long
    return found.st_dev, found.st_ino


def confine() -> None:
    """Take from this process what reading a database does not need."""
    # Of the size 0: no file is written, wherever and by whatever means.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    if hasattr(resource, "RLIMIT_NPROC") and os.geteuid() != 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    session: Session | None = None
    while header := requests.read(HEADER.size):
        request = orjson.loads(requests.read(*HEADER.unpack(header)))
        kept, session = session, None
        try:
            session = _session(kept, request)
            if session is None:
                _send(answers, {"moved": True})
                continue
            for message in session.run(request):
                if "end" in message:
                    session.back()
                _send(answers, {**message, "aside": session.aside})
        except (sqlite3.Error, sqlite3.Warning, MemoryError, OverflowError, OSError, UnicodeEncodeError) as error:
            if session is not None:
                session.back()
            _send(answers, _failed(error, session))


def _session(kept: Session | None, request: Mapping[str, Any]) -> Session | None:
    """The session of a request's file; None if that is not the file which is there now."""
    path, identity = request["path"], request["identity"]
    if kept is not None and not kept.is_of(path, identity):
        kept.close()
        kept = None
    try:
        session = kept or Session(path, LAYERS - frozenset(request["without"]))
        # The parent does not look at the file before each statement.
        if session.is_of(path, identity) and _identity(path) == session.opened:
            return session
    except OSError:
        return None
    session.close()
    return None


def _failed(error: Exception, session: Session | None) -> dict[str, Any]:
    code = getattr(error, "sqlite_errorcode", None)
    kind = "memory" if isinstance(error, MemoryError) else type(error).__name__
    return {"error": str(error), "code": code, "kind": kind, "aside": bool(session and session.aside)}


def _send(answers: BinaryIO, message: Mapping[str, Any]) -> None:
    data = orjson.dumps(message, default=_blob)
    answers.write(HEADER.pack(len(data)) + data)
    answers.flush()


if __name__ == "__main__":
    if "--unconfined" not in sys.argv:
        confine()
    serve(sys.stdin.buffer, sys.stdout.buffer)
