"""Moving a store: from one database to another, into a backup and out of it, with proof that nothing was lost.

Rows travel as JSON lines, the same for every database. Each table is counted and hashed where it is read and again
where it has been written, and the two accounts must be equal. A hash of a table is the sum of the hashes of its rows,
so it does not depend on the order, which databases do not agree on.

A source is read in one transaction that sees one state, whatever is written meanwhile; a target is filled in one
transaction, so a move that fails leaves it as it was. Old schemas are no hurdle: in that same transaction the target is
first brought to the revision of the source, and afterwards it is upgraded like any other database. Only on MySQL, which
commits with every table, is what the target held lost as soon as its tables are made anew.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Double,
    LargeBinary,
    NullPool,
    TableClause,
    column,
    delete,
    func,
    insert,
    inspect,
    select,
    table,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from actors.errors import Conflict, GatherumError, InvalidInput
from actors.store import changes, dialect, faults, migrations
from actors.store.tables import counters, metadata
from config import logs
from config.settings import DatabaseSettings

BATCH = 200
"""Rows read and written at once: of pages, which are the largest, some MB."""

Tell = Callable[[str, int], None]
"""Called with the name of a table and the rows moved so far."""


@dataclass(slots=True)
class Tally:
    """The account of a table.

    Attributes:
        rows: how many.
        total: sum of the rows' SHA-256, modulo 2^256.
    """

    rows: int = 0
    total: int = 0

    def add(self, line: bytes) -> None:
        """Count a row."""
        self.rows += 1
        self.total = (self.total + int.from_bytes(hashlib.sha256(line).digest(), "big")) % (1 << 256)

    @property
    def sha256(self) -> str:
        """The sum in hex."""
        return f"{self.total:064x}"


@dataclass(frozen=True, slots=True)
class Account:
    """What a store holds.

    Attributes:
        revision: of its schema.
        tables: by name.
    """

    revision: str
    tables: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(tally.rows for tally in self.tables.values())

    def differing(self, other: Account) -> list[str]:
        """Names of the tables whose accounts are not equal."""
        names = sorted({*self.tables, *other.tables})
        return [name for name in names if self.tables.get(name, Tally()) != other.tables.get(name, Tally())]

    def match(self, came: Account) -> None:
        """Compare what came with this, which was saved.

        Raises:
            InvalidInput: they differ.
        """
        if wrong := self.differing(came):
            raise InvalidInput(
                f"The backup is damaged: {', '.join(wrong)} differ from what was saved. Nothing was changed."
            )


class Snapshot:
    """One state of a store.

    Attributes:
        revision: of its schema.
        tables: its tables with the columns that it has; those that others refer to come first.
        tallies: filled while the lines of a table are read.
    """

    def __init__(self, connection: AsyncConnection, revision: str, tables: list[TableClause]) -> None:
        self._connection = connection
        self.revision = revision
        self.tables = tables
        self.tallies: dict[str, Tally] = {}

    async def lines(self, of: TableClause) -> AsyncIterator[list[bytes]]:
        """The rows of a table as JSON lines, some at a time."""
        tally = self.tallies[of.name] = Tally()
        kinds = [each.type for each in of.columns]
        result = await self._connection.stream(select(of))
        async for rows in result.partitions(BATCH):
            lines = [encoded(row, kinds) for row in rows]
            for line in lines:
                tally.add(line)
            yield lines

    async def count_all(self, tell: Tell) -> None:
        """Read every table for its account alone."""
        for each in self.tables:
            async for _ in self.lines(each):
                tell(each.name, self.tallies[each.name].rows)

    @property
    def account(self) -> Account:
        """Of what was read."""
        return Account(self.revision, self.tallies)


class Filling:
    """A target that is being filled, in a transaction."""

    def __init__(self, connection: AsyncConnection, revision: str) -> None:
        self._connection = connection
        self.revision = revision
        self.tallies: dict[str, Tally] = {}

    async def put(self, of: TableClause, lines: Iterable[bytes]) -> None:
        """Insert rows.

        Raises:
            InvalidInput: a line is none, or has other columns.
        """
        tally = self.tallies.setdefault(of.name, Tally())
        rows = []
        for line in lines:
            tally.add(line)
            rows.append(decoded(line, of))
        if rows:
            await self._connection.execute(insert(of), rows)


# --- rows as lines ---------------------------------------------------------------------------------------------------


def encoded(row: Iterable[Any], kinds: Iterable[Any]) -> bytes:
    """A row as a JSON line, the same whatever database it is from."""
    values = [_plain(value, kind) for value, kind in zip(row, kinds, strict=True)]
    return json.dumps(values, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def decoded(line: bytes, of: TableClause) -> dict[str, Any]:
    """The row of a line.

    Raises:
        InvalidInput: it is none of this table.
    """
    try:
        values = json.loads(line)
        columns = list(of.columns)
        return {
            each.name: base64.b64decode(value, validate=True) if _is_bytes(each) and value is not None else value
            for each, value in zip(columns, values, strict=True)
        }
    except (ValueError, TypeError):
        raise InvalidInput(f"The backup is damaged: a line of {of.name} cannot be read. Nothing was changed.") from None


def _plain(value: Any, kind: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode("ascii")
    if isinstance(kind, Double) and value is not None:
        return float(value)  # a whole number may come back as an integer
    return value


def _is_bytes(of: ColumnElement[Any]) -> bool:
    # A type with variants is one of its first.
    return isinstance(of.type, LargeBinary)


# --- sources and targets ---------------------------------------------------------------------------------------------


async def take(url: URL, settings: DatabaseSettings, work: Callable[[Snapshot], Any]) -> Any:
    """Call `work` with a snapshot of a store.

    Raises:
        InvalidInput: there is no store of Gatherum in the database.
        Conflict: it was written by a newer version of this code.
        Unavailable: the database cannot be reached or is busy.
    """
    path = dialect.file_of(url)
    if path is not None and not await asyncio.to_thread(path.exists):  # to connect would be to make it
        raise InvalidInput(f"There is no store of Gatherum at {path}.")
    engine = await _engine(url, settings, write=False)
    async with _open(engine) as connection, connection.begin():
        revision, tables = await connection.run_sync(_schema)
        return await work(Snapshot(connection, revision, tables))


async def fill(
    url: URL,
    settings: DatabaseSettings,
    revision: str,
    work: Callable[[Filling], Any],
    *,
    force: bool,
    tell: Tell = lambda table, rows: None,
) -> Account:
    """Make a store of `revision`, have `work` fill it, look whether all of it is there, and upgrade it.

    Args:
        url: an empty database, or one of Gatherum.
        settings: the database's section.
        revision: of the rows to come.
        work: fills it, in one transaction.
        force: empty a store that is not empty.
        tell: called while the rows are counted again.

    Returns:
        The account of what was written, as it was read back before the upgrade.

    Raises:
        Conflict: see `check_target`.
        GatherumError: what was read back is not what was written.
    """
    await check_target(url, settings, revision, force=force)
    engine = await _engine(url, settings, write=True)
    async with _open(engine) as connection, connection.begin() as transaction:
        await dialect.lock_migrations(connection)  # before anything is dropped
        if await connection.run_sync(migrations.revision_of) not in (None, revision):
            await connection.run_sync(_drop_everything)
        await migrations.upgrade_within(connection, to=revision)
        _, tables = await connection.run_sync(_schema)
        for each in reversed(tables):
            await connection.execute(delete(each))
        filling = Filling(connection, revision)
        await work(filling)
        await dialect.settle_ids(connection, [metadata.tables[each.name] for each in tables])
        await transaction.commit()

    async def look(snapshot: Snapshot) -> Account:
        await snapshot.count_all(tell)
        return snapshot.account

    written = Account(revision, filling.tallies)
    found: Account = await take(url, settings, look)
    if wrong := written.differing(found):
        raise GatherumError(
            f"The database did not keep what was written to it: {', '.join(wrong)} differ. Do not use it."
        )
    await asyncio.to_thread(migrations.upgrade, url, settings)
    return found


async def copy(
    source: URL, target: URL, settings: DatabaseSettings, *, force: bool = False, tell: Tell = lambda table, rows: None
) -> Account:
    """Copy a store to another database.

    Returns:
        The account of the copy, which is equal to that of the source.

    Raises:
        InvalidInput: the source is no store, or both are the same database.
        Conflict: the target is not empty and `force` is not set, or something was written to the source meanwhile.
    """
    if source == target:
        raise InvalidInput("The two databases are the same one.")

    async def from_source(snapshot: Snapshot) -> Account:
        async def into(filling: Filling) -> None:
            for each in snapshot.tables:
                async for lines in snapshot.lines(each):
                    await filling.put(each, lines)
                    tell(each.name, snapshot.tallies[each.name].rows)
                filling.tallies.setdefault(each.name, Tally())

        await fill(target, settings, snapshot.revision, into, force=force)
        return snapshot.account

    before = await _mark(source, settings)
    account: Account = await take(source, settings, from_source)
    if await _mark(source, settings) != before:
        raise Conflict(
            "Something was written to the source while it was copied, and is missing from the copy. Stop what writes "
            "to it (gatherum down) and copy again with --force."
        )
    return account


async def holds_something(url: URL, settings: DatabaseSettings) -> bool:
    """Whether any table of a store has rows; a counter that has not begun to count is none."""

    async def work(snapshot: Snapshot) -> bool:
        for each in snapshot.tables:
            query = select(func.count()).select_from(each)
            if each.name == counters.name:
                query = query.where(each.c.value > 0)
            if (await snapshot._connection.execute(query)).scalar_one():
                return True
        return False

    found: bool = await take(url, settings, work)
    return found


async def check_target(url: URL, settings: DatabaseSettings, revision: str, *, force: bool) -> None:
    """Look whether a database may be filled with rows of a revision; nothing is changed.

    Raises:
        Conflict: it holds a store that is not empty and `force` is not set, or the rows are of a newer version.
    """
    there = await asyncio.to_thread(migrations.current, url, settings)
    if revision not in there.known:
        raise Conflict(f"The rows are of a newer version of Gatherum (schema {revision}). Use that version.")
    if there.found is not None and not force and await holds_something(url, settings):
        raise Conflict(
            "The database holds a store that is not empty. Use an empty one, or --force to lose what it holds."
        )


def _drop_everything(connection: Connection) -> None:
    metadata.drop_all(connection)
    version = table(migrations.VERSION_TABLE, column("version_num"))
    connection.execute(delete(version))


async def _mark(url: URL, settings: DatabaseSettings) -> tuple[Any, ...]:
    """What changes whenever something is written that must not be lost."""

    async def work(snapshot: Snapshot) -> tuple[Any, ...]:
        jobs, documents = metadata.tables["jobs"], metadata.tables["documents"]
        look = (
            select(func.count(), func.max(jobs.c.updated_at), func.sum(jobs.c.fence)).select_from(jobs),
            select(func.count(), func.max(documents.c.id)).select_from(documents),
            select(counters.c.value).where(counters.c.name == changes.COUNTER),
        )
        return tuple([tuple((await snapshot._connection.execute(query)).one()) for query in look])

    mark: tuple[Any, ...] = await take(url, settings, work)
    return mark


def _schema(connection: Connection) -> tuple[str, list[TableClause]]:
    revision = migrations.revision_of(connection)
    if revision is None:
        raise InvalidInput("There is no store of Gatherum in the database.")
    there = inspect(connection)
    return revision, [
        table(known.name, *(column(each["name"], known.c[each["name"]].type) for each in there.get_columns(known.name)))
        for known in metadata.sorted_tables
        if there.has_table(known.name)
    ]


async def _engine(url: URL, settings: DatabaseSettings, *, write: bool) -> AsyncEngine:
    patient = dialect.patient(settings)
    return await asyncio.to_thread(dialect.create_engine, url, patient, write=write, connections=1, poolclass=NullPool)


@asynccontextmanager
async def _open(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection of an engine that is used once; errors of the database are told as ours."""
    try:
        async with engine.connect() as connection:
            yield connection
    except faults.ERRORS as error:
        logs.get().error("transfer_failed", kind=type(error).__name__, error=faults.said(error))
        raise faults.translation(error) from None
    finally:
        await engine.dispose()
