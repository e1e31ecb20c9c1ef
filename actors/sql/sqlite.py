"""SQLite files as sources: opened read-only, fenced in by SQLite's own authorizer, and stopped when their time is up.

`mode=ro` alone is not enough (`VACUUM INTO` and `ATTACH` can still create files), so every connection also has
`query_only`, an authorizer that knows four actions and a short list of functions, and size limits. A file is checked
anew each time it is opened: it may have been replaced by a link since it was registered.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import stat
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiosqlite

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Refused, Unavailable
from actors.messages import Lookup, Row, Source, SourceValue
from actors.sql.guard import MAX_NAME_CHARS, identifier, is_name, is_name_column, literal, statement
from config import logs
from config.settings import SourcesSettings

MAGIC: Final = b"SQLite format 3\0"
SAMPLE_ROWS: Final = 1000
"""Rows a column is judged by."""

VALUES_BUDGET: Final = 10
"""Reading the names of a whole source may take this many times the budget of a look-up."""

MAX_CELL_CHARS: Final = 2000
"""Longer texts are cut in evidence: a row is shown to a person."""

PROGRESS_STEPS: Final = 1000
"""Virtual machine steps between two looks at the clock, about 0.1 ms."""

CONNECTIONS_PER_SOURCE: Final = 4
"""A source that hangs holds up this many threads and no more."""

# fmt: off
FUNCTIONS: Final = frozenset({
    "abs", "ceil", "coalesce", "date", "datetime", "floor", "ifnull", "iif", "instr", "julianday", "length", "like",
    "lower", "ltrim", "max", "min", "nullif", "round", "rtrim", "strftime", "substr", "time", "trim", "typeof",
    "unixepoch", "upper",
})
# fmt: on
"""What a statement, or a computed column it reads, may call: nothing that reads files or makes much out of little."""

BUSY_S: Final = 0.5
"""Wait for a writer that locks the file. SQLite's own wait cannot be interrupted, so it is short."""

LIMITS: Final[Mapping[int, int]] = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 10,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# Declared types that hold no names: the words SQLite itself goes by, and the usual ones for times and truth values.
_NO_NAMES = ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "BLOB", "DATE", "TIME", "BOOL", "JSON")


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    """Allow reading, named functions and the look at a table's columns; everything else is denied when prepared."""
    match action:
        case sqlite3.SQLITE_SELECT | sqlite3.SQLITE_READ | sqlite3.SQLITE_RECURSIVE:
            return sqlite3.SQLITE_OK
        case sqlite3.SQLITE_FUNCTION if second in FUNCTIONS:
            return sqlite3.SQLITE_OK
        case sqlite3.SQLITE_PRAGMA if first == "table_xinfo" and second is not None:
            return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


@dataclass(slots=True)
class _Clock:
    """When running statements are stopped (monotonic); moved on by the loop, read by the connection's thread."""

    until: float

    def late(self) -> bool:
        return time.monotonic() > self.until


class Guarded(sqlite3.Connection):
    """A connection that cannot write, from its first statement on, and stops when its clock says so."""

    def __init__(self, database: str, *, clock: _Clock, **options: Any) -> None:
        super().__init__(database, **options)
        for limit, value in LIMITS.items():
            self.setlimit(limit, value)
        self.text_factory = _decode
        self.execute("PRAGMA query_only = 1")
        # A view or a default in a hostile file must not call functions with side effects.
        self.execute("PRAGMA trusted_schema = 0")
        self.set_progress_handler(clock.late, PROGRESS_STEPS)
        self.set_authorizer(_authorize)


def _decode(data: bytes) -> str:
    """Text as it is meant; a file with broken UTF-8 in one cell is still readable."""
    return data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the live schema.

    Attributes:
        columns: name to declared type, in order.
        key: primary key columns, in order of the key; `("rowid",)` for a table that declares none.
    """

    name: str
    columns: Mapping[str, str]
    key: tuple[str, ...]


class _Connection:
    """What a reader does with a guarded connection: fetch within the time, with errors in Gatherum's words."""

    def __init__(self, connection: aiosqlite.Connection, clock: _Clock, source: Source) -> None:
        self._connection = connection
        self._clock = clock
        self._source = source

    def allow(self, until: float) -> None:
        """Let statements run until this monotonic time."""
        self._clock.until = until

    async def fetch(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of a statement."""
        # The clock is looked at every so many steps, which a short statement never reaches.
        if self._clock.late():
            raise _too_slow(self._source)
        with _translated(self._source):
            return [tuple(row) for row in await self._connection.execute_fetchall(sql, parameters)]

    async def schema(self) -> dict[str, Table]:
        """The ordinary tables of the file as they are now, by name."""
        made = await self.fetch("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        virtual = tuple(f"{name}_" for name, sql in made if str(sql).upper().startswith("CREATE VIRTUAL"))
        tables = {}
        for name, _ in made:
            # Virtual tables run a module's code, and the tables behind them repeat what is elsewhere.
            if f"{name}_" in virtual or name.startswith(("sqlite_", *virtual)):
                continue
            about = await self.fetch(f"PRAGMA table_xinfo({identifier(name)})")
            key = sorted((part, column) for _, column, _, _, _, part, _ in about if part)
            tables[name] = Table(
                name,
                columns={column: declared for _, column, declared, _, _, _, hidden in about if hidden != 1},
                key=tuple(column for _, column in key) or ("rowid",),
            )
        return tables


@contextmanager
def _translated(source: Source) -> Iterator[None]:
    """Errors of SQLite as errors of ours, without its paths and statements."""
    try:
        yield
    except UnicodeEncodeError:
        raise InvalidInput("The value is not valid Unicode, so no database holds it.") from None
    except sqlite3.Error as error:
        raise _explained(error, source) from None


def _explained(error: sqlite3.Error, source: Source) -> GatherumError:
    file = f"The SQLite file {source.path!r}"
    # The low byte is the primary code; the rest says more than a caller can use.
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_INTERRUPT:
            return _too_slow(source)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"{file} is locked by another program.")
        case sqlite3.SQLITE_AUTH:
            return Refused(f"{file} holds something that a read-only source may not use: {error}.")
        case sqlite3.SQLITE_NOTADB:
            return InvalidInput(f"{file} is not an SQLite database, or is encrypted.")
        case sqlite3.SQLITE_CORRUPT:
            return InvalidInput(f"{file} is damaged. `PRAGMA integrity_check` says where.")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return InvalidInput(
                f"{file} cannot be opened read-only. One in WAL mode needs its -wal and -shm files beside it."
            )
    return InvalidInput(f"{file} could not be read: {error}.")


def _too_slow(source: Source) -> DeadlineExceeded:
    return DeadlineExceeded(f"The source {source.name!r} did not answer in time.")


def _cell(quoted: str) -> str:
    """A cell as evidence, cut inside SQLite so that a large one never gets here."""
    return (
        f"CASE typeof({quoted}) WHEN 'blob' THEN '(' || length({quoted}) || ' bytes)'"
        f" WHEN 'text' THEN substr({quoted}, 1, {MAX_CELL_CHARS:d}) ELSE {quoted} END"
    )


class SqliteReader:
    """Reads SQLite files that lie in one folder.

    Args:
        settings: root folder and limits.
        store_path: Gatherum's own database, which is never a source; None if it is no file.
    """

    def __init__(self, settings: SourcesSettings, *, store_path: Path | None) -> None:
        self._settings = settings
        self._store = store_path
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(CONNECTIONS_PER_SOURCE)
        )

    async def check(self, source: Source) -> None:
        """See `Reader.check`."""
        async with self._open(source, self._settings.timeout_s) as connection:
            await connection.schema()

    async def values(self, source: Source) -> list[SourceValue]:
        """See `Reader.values`."""
        if self._settings.max_values == 0:
            return []
        found: list[SourceValue] = []
        stop = time.monotonic() + self._settings.timeout_s * VALUES_BUDGET
        async with self._open(source, self._settings.timeout_s) as connection:
            for table in (await connection.schema()).values():
                for column, declared in table.columns.items():
                    if any(word in declared.upper() for word in _NO_NAMES):
                        continue
                    connection.allow(min(stop, time.monotonic() + self._settings.timeout_s))
                    try:
                        names = await self._names(connection, table.name, column)
                    except DeadlineExceeded:
                        logs.get().warning(
                            "source_column_too_slow", source=source.name, table=table.name, column=column
                        )
                        continue
                    found += (SourceValue(source.name, table.name, column, name) for name in names)
        return found

    async def rows(
        self, source: Source, lookups: Sequence[Lookup], deadline: Deadline
    ) -> list[list[Row] | GatherumError]:
        """See `Reader.rows`."""
        found: list[list[Row] | GatherumError] = []
        async with self._open(source, deadline.remaining()) as connection:
            schema = await connection.schema()
            for lookup in lookups:
                try:
                    found.append(await self._lookup(connection, schema, lookup))
                except GatherumError as error:
                    found.append(error)
        return found

    async def _names(self, connection: _Connection, table: str, column: str) -> list[str]:
        """The distinct names of a column, empty if it is not one of names."""
        of, cell = identifier(table), identifier(column)
        texts: str = f"{of} WHERE typeof({cell}) = 'text'"
        sample = await connection.fetch(f"SELECT {cell} FROM {texts} LIMIT ?", SAMPLE_ROWS)  # noqa: S608 - quoted
        if not is_name_column([value for (value,) in sample]):
            return []
        rows = await connection.fetch(
            f"SELECT DISTINCT {cell} FROM {texts} AND length({cell}) <= ? LIMIT ?",  # noqa: S608 - quoted
            MAX_NAME_CHARS,
            self._settings.max_values,
        )
        return [value for (value,) in rows if is_name(value)]

    async def _lookup(self, connection: _Connection, schema: Mapping[str, Table], lookup: Lookup) -> list[Row]:
        table = schema.get(lookup.table)
        if table is None or lookup.column not in table.columns:
            raise NotFound(f"The source {lookup.source!r} has no column {lookup.column!r} in a table {lookup.table!r}.")
        key = [identifier(name) for name in table.key]
        cells = [_cell(identifier(name)) for name in table.columns]
        rows = await connection.fetch(
            f"SELECT {', '.join(key + cells)} FROM {identifier(table.name)}"  # noqa: S608 - quoted
            f" WHERE {identifier(lookup.column)} = ? LIMIT ?",
            lookup.value,
            self._settings.max_rows,
        )
        wanted: dict[str, Any] = {lookup.column: lookup.value}
        found = []
        for row in rows:
            values = dict(zip(table.key, row, strict=False))
            columns = dict(zip(table.columns, row[len(key) :], strict=True))
            # One row is found by what was asked for, as a person would; one of several needs its key.
            where = wanted if len(rows) == 1 else wanted | values
            found.append(
                Row(
                    lookup.source,
                    table.name,
                    {name: _plain(value) for name, value in values.items()},
                    columns,
                    statement(table.name, where),
                )
            )
        return found

    @asynccontextmanager
    async def _open(self, source: Source, seconds: float) -> AsyncIterator[_Connection]:
        """A guarded connection for `seconds`, interrupted if the caller is cancelled."""
        deadline = Deadline.after(seconds)
        slot = self._slots[source.name]
        await deadline.run(slot.acquire(), f"Waiting for the source {source.name!r}")
        try:
            path = await asyncio.to_thread(self.locate, source)
            clock = _Clock(time.monotonic() + deadline.remaining())
            with _translated(source):
                connection = await aiosqlite.connect(
                    f"{path.as_uri()}?mode=ro",
                    uri=True,
                    timeout=min(BUSY_S, deadline.remaining()),
                    isolation_level=None,
                    factory=functools.partial(Guarded, clock=clock),
                )
            try:
                yield _Connection(connection, clock, source)
            except BaseException:
                # Whoever waited is gone; the thread must not go on until its time is up.
                await connection.interrupt()
                raise
            finally:
                await connection.close()
        finally:
            slot.release()

    def locate(self, source: Source) -> Path:
        """The file of a source, if policy allows it.

        Raises:
            Refused: no root is set, or the file lies outside it or is Gatherum's own store.
            NotFound: there is no such file.
            InvalidInput: the file is no SQLite database, or cannot be read.
        """
        if not self._settings.sqlite_root:
            raise Refused(
                "SQLite sources are switched off. Set sources.sqlite_root (GATHERUM_SOURCES__SQLITE_ROOT) to the "
                "folder they lie in."
            )
        named = f"The SQLite file {source.path!r}"
        try:
            root = Path(self._settings.sqlite_root).expanduser().resolve()
            path = (root / source.path).resolve()
            if not path.is_relative_to(root):
                raise Refused(f"{named} lies outside the folder that sources.sqlite_root allows.")
            mode = path.stat().st_mode
            if self._store is not None and self._store.exists() and path.samefile(self._store):
                raise Refused(f"{named} is Gatherum's own store, which cannot be a source.")
            # Opening anything but a plain file may block (a pipe) or make no sense (a folder).
            start = _first_bytes(path) if stat.S_ISREG(mode) else b""
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{named} does not exist. Paths are relative to sources.sqlite_root.") from None
        except PermissionError:
            raise InvalidInput(f"{named} may not be read by the server.") from None
        except (OSError, RuntimeError, ValueError):
            raise InvalidInput(f"{named} cannot be opened: its path is not valid.") from None
        if start != MAGIC:
            raise InvalidInput(f"{named} is not an SQLite database.")
        return path


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(MAGIC))


def _plain(value: Any) -> Any:
    """A key's value in a form JSON can carry."""
    return literal(value) if isinstance(value, bytes) else value
