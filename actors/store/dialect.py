"""What differs between databases, in one place: the rest of the store is SQLAlchemy Core that any of them understands.

Supporting a further database means a branch in each function here, and nothing elsewhere.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Float, Table, event, make_url
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from actors.errors import Conflict, GatherumError, InvalidInput, Unavailable
from config import logs

MAX_PARAMETERS = 500
"""Values bound in one IN list; SQLite's compiled-in limit on parameters was 999 for long."""

WAL_TRIES = 5
"""Times the switch to WAL is tried again when others are in the way; see `_enter_wal`."""

AnyEngine = TypeVar("AnyEngine", Engine, AsyncEngine)

_WRITE = "gatherum_write"
_PASSING = (OperationalError, InterfaceError, PoolTimeout)


class clock(FunctionElement[float]):  # noqa: N801 -- it reads as the SQL function it stands for
    """The database's clock, seconds since the epoch: leases are judged by one clock, whichever node asks."""

    type = Float()
    inherit_cache = True


@compiles(clock, "sqlite")
def _clock_on_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    # unixepoch('subsec') is shorter, but came with SQLite 3.42; this is as exact (1 ms) on every version.
    return "((julianday('now') - 2440587.5) * 86400.0)"


def insert_ignore(connection: AsyncConnection, table: Table) -> sqlite.Insert:
    """An INSERT that skips rows whose key is taken; `rowcount` and RETURNING tell of the others only.

    Unlike SQLite's OR IGNORE it still reports a NULL or a broken reference.
    """
    return sqlite.insert(table).on_conflict_do_nothing()


def parse_url(text: str) -> URL:
    """The store's URL with the driver we use, e.g. `sqlite:///x.db` as `sqlite+aiosqlite:////home/me/x.db`.

    Raises:
        InvalidInput: it is no URL, names a database that is not supported, or an SQLite database without a file.
    """
    try:
        url = make_url(text)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise InvalidInput("database.url is no database URL, such as sqlite:///gatherum.db.") from None
    if backend != "sqlite":
        raise InvalidInput(f"database.url names {backend}, but the store supports sqlite only.")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise InvalidInput("database.url must name a file, such as sqlite:///gatherum.db: actors share it by its path.")
    return url.set(drivername="sqlite+aiosqlite", database=str(Path(url.database).expanduser().absolute()))


def file_of(url: URL) -> Path | None:
    """The file an embedded store lies in; None where it is a server."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def blocking_url(url: URL) -> URL:
    """The same database through a blocking driver, for work that runs in a thread of its own."""
    return url.set(drivername="sqlite")


def create_engine(url: URL, *, busy_timeout_s: float, connections: int) -> AsyncEngine:
    """An engine of up to `connections` connections, each set up as `configure` has it."""
    engine = create_async_engine(
        url, pool_size=connections, max_overflow=0, connect_args={"isolation_level": None, "timeout": busy_timeout_s}
    )
    configure(engine.sync_engine)
    return engine


def configure(engine: Engine) -> None:
    """Take transactions into our own hands and set every new connection up.

    - The driver's own way of opening transactions (deferred, and not at all before DDL) is off, by
      `isolation_level=None` in the engine's `connect_args`; transactions that will write begin as BEGIN IMMEDIATE,
      because a deferred one that reads and then writes fails at once when another has written meanwhile, whatever the
      busy timeout.
    - WAL lets readers go on while one writes.
    - synchronous=FULL: in WAL mode NORMAL may lose the last commits when the power fails, and an upload that was
      answered with 202 has been promised to last.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        _enter_wal(cursor)
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _enter_wal(cursor: Any) -> None:
    """Switch a file to WAL; it stays so, and on all but the first connection this does nothing.

    The switch fails at once if somebody else is at it, as when several processes open a new file together. A
    transaction does wait, so that is what we wait with.
    """
    for _ in range(WAL_TRIES):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            cursor.execute("BEGIN IMMEDIATE")
            cursor.execute("ROLLBACK")
        else:
            return
    cursor.execute("PRAGMA journal_mode=WAL")


def writing(engine: AnyEngine) -> AnyEngine:
    """The engine with its transactions opened for writing."""
    return engine.execution_options(**{_WRITE: True})


def writers(url: URL) -> int:
    """How many transactions may write at once: SQLite lets one in."""
    return 1


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours: what happened goes to the log, what to do goes to the caller."""
    try:
        yield
    except IntegrityError as error:
        logs.get().warning("store_conflict", error=str(error.orig))
        raise Conflict("Another change came in between; look again and repeat the call.") from None
    except SQLAlchemyError as error:
        logs.get().error("store_failed", kind=type(error).__name__, error=str(error.__cause__ or error))
        raise _translation(error) from None


def _translation(error: SQLAlchemyError) -> GatherumError:
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return GatherumError("The file of the database is damaged, or is no SQLite database.")
    if code == sqlite3.SQLITE_FULL:
        return Unavailable("The disk that the database lies on is full.")
    if isinstance(error, _PASSING):
        return Unavailable("The database cannot be reached or is busy; try again.")
    return GatherumError("The store could not do this; its log says why.")
