"""Schema migrations, applied by code when the Database role starts.

There is no alembic.ini and no env.py: the one setting that matters is the connection, and `upgrade` has it. A revision
is written by hand, like those that are there; the tests hold all of them together against `tables.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, NullPool, inspect
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import Conflict
from actors.store import dialect, faults
from actors.store.migrations import resumable  # noqa: F401 -- registers itself with Alembic
from actors.store.tables import metadata
from config import logs
from config.settings import DatabaseSettings

VERSION_TABLE = "alembic_version"

_ALEMBIC = threading.Lock()
"""What revisions call (`op`) stands for one migration a process: other threads, with other databases, wait for it."""


@dataclass(frozen=True, slots=True)
class Revisions:
    """Where a database stands.

    Attributes:
        found: its revision; None of an empty one.
        head: the newest that this code knows.
        known: all that it knows, oldest first.
    """

    found: str | None
    head: str
    known: tuple[str, ...]


def known() -> tuple[str, ...]:
    """The revisions that this code knows, oldest first. Reads files."""
    return _known(_scripts())


def upgrade(url: URL, settings: DatabaseSettings, *, to: str | None = None) -> str:
    """Bring a database up to the tables this code knows, creating it if need be. Blocks: call it in a thread.

    Of several processes that start at once one migrates, and the others wait and find it done. What is cut off half-way
    leaves nothing behind on SQLite and PostgreSQL, where making tables is part of the transaction; on MySQL the next
    start goes on from there, see `resumable.py`.

    Args:
        url: from `dialect.parse_url`.
        settings: the database's section.
        to: a revision to stop at; the newest by default.

    Returns:
        The revision the database is at.

    Raises:
        Conflict: the database was written by a newer version of this code, holds tables of something else, or the
            server is too old.
        Unavailable: the database cannot be reached or is busy.
        GatherumError: the server refuses, for a reason that the detail names.
    """
    scripts = _scripts()
    try:
        there = _there(url, settings, scripts)
        # One that is as it should be is only read: to begin with the lock, every start would wait for whoever writes.
        if there.found is not None and there.found == (to or there.head):
            return there.found
        return asyncio.run(_run(url, settings, scripts, to))
    except faults.ERRORS as error:
        logs.get().error("migration_failed", kind=type(error).__name__, error=faults.said(error))
        raise faults.translation(error) from None


def current(url: URL, settings: DatabaseSettings) -> Revisions:
    """Where a database stands; nothing is changed. Blocks: call it in a thread.

    Raises:
        As `upgrade`.
    """
    try:
        return _there(url, settings, _scripts())
    except faults.ERRORS as error:
        raise faults.translation(error) from None


def _there(url: URL, settings: DatabaseSettings, scripts: ScriptDirectory) -> Revisions:
    path = dialect.file_of(url)
    if path is not None and not path.exists():  # to connect would be to make it
        known = _known(scripts)
        return Revisions(None, known[-1], known)
    return asyncio.run(_look(url, settings, scripts))


async def upgrade_within(connection: AsyncConnection, *, to: str) -> str:
    """`upgrade` in a transaction of the caller, with whose other work it comes about or does not; but see MySQL above.

    Raises:
        As `upgrade`, and errors of the database as they come.
    """
    return await _upgrade_alone(connection, await asyncio.to_thread(_scripts), to)


async def _run(url: URL, settings: DatabaseSettings, scripts: ScriptDirectory, to: str | None) -> str:
    # In a loop and a thread of its own, over the async driver: so no database needs a second, blocking one.
    engine = dialect.create_engine(url, dialect.patient(settings), write=True, connections=1, poolclass=NullPool)
    try:
        async with engine.connect() as connection, connection.begin():
            return await _upgrade_alone(connection, scripts, to)
    finally:
        await engine.dispose()


async def _look(url: URL, settings: DatabaseSettings, scripts: ScriptDirectory) -> Revisions:
    engine = dialect.create_engine(url, settings, write=False, connections=1, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await dialect.check_server(connection)
            return await connection.run_sync(_revisions, scripts)
    finally:
        await engine.dispose()


async def _upgrade_alone(connection: AsyncConnection, scripts: ScriptDirectory, to: str | None) -> str:
    await dialect.check_server(connection)
    await dialect.lock_migrations(connection)
    async with _alembic():
        return await connection.run_sync(_upgrade, scripts, to)


@asynccontextmanager
async def _alembic() -> AsyncIterator[None]:
    """Hold `_ALEMBIC`. It is waited for in a thread: in this loop may run what holds it."""
    taking = asyncio.ensure_future(asyncio.to_thread(_ALEMBIC.acquire))
    try:
        await asyncio.shield(taking)
        yield
    finally:
        if taking.done():
            _ALEMBIC.release()
        else:  # the thread of a cancelled call goes on
            taking.add_done_callback(lambda _: _ALEMBIC.release())


def _upgrade(connection: Connection, scripts: ScriptDirectory, to: str | None) -> str:
    revisions = _revisions(connection, scripts)
    wanted = to or revisions.head
    if revisions.found == wanted:
        return wanted
    if revisions.found is None and not inspect(connection).has_table(VERSION_TABLE):
        _refuse_foreign_tables(connection)
    _migrate(connection, scripts, wanted)
    return wanted


def _migrate(connection: Connection, scripts: ScriptDirectory, to: str) -> None:
    def steps(revision: Any, _: MigrationContext) -> Any:
        return scripts._upgrade_revs(to, revision)

    with EnvironmentContext(Config(), scripts, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()


def _scripts() -> ScriptDirectory:
    scripts = ScriptDirectory(str(Path(__file__).parent))
    list(scripts.walk_revisions())  # reads them all: no event loop runs yet that could be blocked
    return scripts


def revision_of(connection: Connection) -> str | None:
    """The revision of a database; None of an empty one. Reads files: not for an event loop that others wait in.

    Raises:
        Conflict: it is further than this code knows.
    """
    return _revisions(connection, _scripts()).found


def _known(scripts: ScriptDirectory) -> tuple[str, ...]:
    return tuple(script.revision for script in scripts.walk_revisions())[::-1]


def _revisions(connection: Connection, scripts: ScriptDirectory) -> Revisions:
    """Where the database stands.

    Raises:
        Conflict: further than this code knows.
    """
    known = _known(scripts)
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in known:
        raise Conflict(
            f"The database was written by a newer version of Gatherum (schema {found}; this one knows up to "
            f"{known[-1]}). Run that version, or point database.url to another database."
        )
    return Revisions(found, known[-1], known)


def _refuse_foreign_tables(connection: Connection) -> None:
    """A database without a revision may hold anything, but not what is called as our tables are.

    Raises:
        Conflict: it does.
    """
    taken = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if taken:
        raise Conflict(
            f"The database holds tables of something else that Gatherum needs the names of: {', '.join(taken)}. "
            "Give Gatherum a database of its own."
        )
