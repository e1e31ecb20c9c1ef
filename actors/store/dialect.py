"""What differs between databases, in one place: the rest of the store is SQLAlchemy Core that any of them understands.

A class a database, each with the same few answers; what goes wrong with them is told apart in `faults.py`.
"""

from __future__ import annotations

import hashlib
import sqlite3
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import (
    URL,
    Connection,
    Double,
    Engine,
    Pool,
    Table,
    bindparam,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import ArgumentError, IntegrityError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.functions import FunctionElement, char_length

from actors.errors import Conflict, InvalidInput, Unavailable
from actors.store.faults import Fault, fault_of
from config.settings import DatabaseSettings

MAX_PARAMETERS = 500
"""Values bound in one IN list; SQLite's compiled-in limit on parameters was 999 for long."""

WAL_TRIES = 5
"""Times the switch to WAL is tried again when others are in the way; see `_enter_wal`."""

CONNECT_S = 5.0
"""How long a server may take to let us in, s."""

IDLE_S = 2.0
"""A connection that has lain in the pool for longer is looked at before it is used, s. To look at each would add up to
three round trips to the five of a claim; one that breaks sooner is met, and replaced, by its first statement."""

MIGRATION_WAIT_S = 300.0
"""How long a process that starts waits for another one that migrates, s."""

PATIENCE_S = 24 * 3600.0
"""Time-out of statements while a store is migrated or moved, s: to index a large table takes as long as it takes."""

_NO_URL = (
    "database.url is no database URL, such as sqlite:///gatherum.db or postgresql://user:password@host/gatherum. What "
    "is special in a password is written with %, as in %40 for @ and %2F for /."
)
_SSL_MODES = {"disable", "prefer", "require", "verify-ca", "verify-full"}


class clock(FunctionElement[float]):  # noqa: N801 -- it reads as the SQL function it stands for
    """The database's clock, seconds since the epoch: leases are judged by one clock, whichever node asks."""

    type = Double()
    inherit_cache = True


@compiles(clock, "sqlite")
def _clock_on_sqlite(element: clock, compiler: Any, **options: Any) -> str:
    # unixepoch('subsec') is shorter, but came with SQLite 3.42; this is as exact (1 ms) on every version.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _clock_on_postgresql(element: clock, compiler: Any, **options: Any) -> str:
    # now() would be the time at which the transaction began.
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(clock, "mysql")
def _clock_on_mysql(element: clock, compiler: Any, **options: Any) -> str:
    # A DECIMAL until the addition. Sessions are in UTC: a local time may be any of two when clocks are set back.
    return "(UNIX_TIMESTAMP(NOW(6)) + 0e0)"


@compiles(char_length, "sqlite")
def _char_length_on_sqlite(element: char_length, compiler: Any, **options: Any) -> str:
    # What it counts are characters, too; to MySQL `length` is bytes.
    return f"length{compiler.function_argspec(element, **options)}"


@compiles(CreateTable, "mysql")
def _table_on_mysql(element: CreateTable, compiler: Any, **options: Any) -> str:
    # Strings are equal if their bytes are, as on the other databases: with the default collation 'Ä' is 'a', and with
    # most others 'a' is 'a '. The name of the one that pads nothing differs.
    collation = "utf8mb4_nopad_bin" if compiler.dialect.is_mariadb else "utf8mb4_0900_bin"
    return (
        f"{compiler.visit_create_table(element, **options).rstrip()} ENGINE=InnoDB CHARSET=utf8mb4 COLLATE={collation}"
    )


class _Database:
    """One kind of database."""

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    driver: ClassVar[str]

    def complete(self, url: URL) -> URL:
        """The URL with our driver, and all that it needs."""
        raise NotImplementedError

    def options(self, url: URL, settings: DatabaseSettings, *, write: bool) -> dict[str, Any]:
        """Arguments of `create_async_engine`."""
        raise NotImplementedError

    def configure(self, engine: Engine, url: URL, *, write: bool) -> None:
        """Have every new connection of the engine set up."""

    def writers(self, settings: DatabaseSettings) -> int:
        """How many transactions may write at once."""
        return settings.writers

    async def insert_new(self, connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
        """See the function of this name."""
        raise NotImplementedError

    async def insert_missing(
        self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """See the function of this name."""
        raise NotImplementedError

    async def settle_ids(self, connection: AsyncConnection, tables: Sequence[Table]) -> None:
        """See the function of this name."""

    async def delete_by_id(self, connection: AsyncConnection, table: Table, ids: Sequence[int]) -> None:
        """See the function of this name."""
        await connection.execute(delete(table).where(table.c.id.in_(ids)))

    async def check_server(self, connection: AsyncConnection) -> None:
        """Refuse a server that cannot do what the store needs."""

    async def lock_migrations(self, connection: AsyncConnection) -> None:
        """Wait until no other process migrates, and keep them waiting until the connection is closed."""


class _Sqlite(_Database):
    """An embedded database: a file that the processes of one machine share."""

    name = "sqlite"
    schemes = ("sqlite",)
    driver = "sqlite+aiosqlite"

    def complete(self, url: URL) -> URL:
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise InvalidInput(
                "database.url must name a file, such as sqlite:///gatherum.db: actors share it by its path."
            )
        return url.set(drivername=self.driver, database=str(Path(url.database).expanduser().absolute()))

    def options(self, url: URL, settings: DatabaseSettings, *, write: bool) -> dict[str, Any]:
        # The driver's own way of opening transactions (deferred, and not at all before DDL) is off: see `configure`.
        return {"connect_args": {"isolation_level": None, "timeout": settings.busy_timeout_s}}

    def configure(self, engine: Engine, url: URL, *, write: bool) -> None:
        """Take transactions into our own hands, and set every new connection up.

        - Transactions that will write begin as BEGIN IMMEDIATE, because a deferred one that reads and then writes fails
          at once when another has written meanwhile, whatever the busy timeout.
        - WAL lets readers go on while one writes.
        - synchronous=FULL: in WAL mode NORMAL may lose the last commits when the power fails, and an upload that was
          answered with 202 has been promised to last.
        """
        begin = "BEGIN IMMEDIATE" if write else "BEGIN"

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            _enter_wal(cursor)
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

    def writers(self, settings: DatabaseSettings) -> int:
        return 1  # SQLite lets one in

    async def insert_new(self, connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
        # Unlike OR IGNORE it still reports a NULL or a broken reference.
        return (await connection.execute(sqlite.insert(table).on_conflict_do_nothing(), row)).rowcount == 1

    async def insert_missing(
        self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        await connection.execute(sqlite.insert(table).on_conflict_do_nothing(), list(rows))


class _Postgresql(_Database):
    """PostgreSQL."""

    name = "postgresql"
    schemes = ("postgresql", "postgres")
    driver = "postgresql+asyncpg"
    oldest = (15,)

    def complete(self, url: URL) -> URL:
        return _completed(url, self.driver, {"host", "port", "sslmode", "sslrootcert"})

    def options(self, url: URL, settings: DatabaseSettings, *, write: bool) -> dict[str, Any]:
        milliseconds = str(int(settings.statement_timeout_s * 1000))
        server = {
            "application_name": "gatherum",
            "statement_timeout": milliseconds,
            "lock_timeout": str(int(settings.busy_timeout_s * 1000)),
            # A process that stopped in the middle of a transaction must not keep its locks for ever.
            "idle_in_transaction_session_timeout": milliseconds,
            # Compiling a plan takes longer than any statement of ours.
            "jit": "off",
        }
        arguments: dict[str, Any] = {"server_settings": server, "timeout": CONNECT_S}
        arguments["command_timeout"] = settings.statement_timeout_s + CONNECT_S  # of a server that has gone silent
        if tls := _tls(url):
            arguments["ssl"] = tls
        return {
            "connect_args": arguments,
            # Readers see one state; writers see what those have committed that they waited for.
            "isolation_level": "READ COMMITTED" if write else "REPEATABLE READ",
            "execution_options": {"postgresql_readonly": not write},
        }

    async def insert_new(self, connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
        return (await connection.execute(postgresql.insert(table).on_conflict_do_nothing(), row)).rowcount == 1

    async def insert_missing(
        self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        await connection.execute(postgresql.insert(table).on_conflict_do_nothing(), list(rows))

    async def settle_ids(self, connection: AsyncConnection, tables: Sequence[Table]) -> None:
        for table in tables:
            counted = table.autoincrement_column
            if counted is not None:
                sequence = func.pg_get_serial_sequence(table.name, counted.name)
                newest = select(func.coalesce(func.max(counted), 0) + 1).scalar_subquery()
                await connection.execute(select(func.setval(sequence, newest, False)))

    async def check_server(self, connection: AsyncConnection) -> None:
        version = connection.dialect.server_version_info or ()
        if version < self.oldest:
            raise Conflict(f"The server is PostgreSQL {version[0]}; 15 or newer is needed.")
        encoding = (await connection.execute(text("SHOW server_encoding"))).scalar_one()
        if encoding != "UTF8":
            raise Conflict(f"The database is encoded in {encoding}. Create it with ENCODING 'UTF8'.")

    async def lock_migrations(self, connection: AsyncConnection) -> None:
        # For the transaction, which is where tables are made.
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_number("migrations")})


class _Mysql(_Database):
    """MySQL and MariaDB."""

    name = "mysql"
    schemes = ("mysql", "mariadb")
    driver = "mysql+aiomysql"
    oldest = (8, 0, 17)
    oldest_mariadb = (10, 6)

    def complete(self, url: URL) -> URL:
        return _completed(url, self.driver, {"unix_socket", "sslmode", "sslrootcert"})

    def options(self, url: URL, settings: DatabaseSettings, *, write: bool) -> dict[str, Any]:
        from actors.store import mysql as driver

        seconds = settings.statement_timeout_s
        # What stands in comments is run by the one server and passed over by the other.
        session = (
            "SET SESSION time_zone='+00:00', sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
            f" innodb_lock_wait_timeout={max(1, round(settings.busy_timeout_s))}"
            # A process that stopped in the middle of a transaction must not keep its locks. MySQL has no such limit,
            # but one for idle connections; it makes no odds to lose those in the pool: see IDLE_S.
            f" /*M! , max_statement_time={seconds:.3f}, idle_transaction_timeout={max(1, round(seconds))} */"
            f" /*!80000 , max_execution_time={round(seconds * 1000)}, wait_timeout={max(1, round(seconds))} */"
        )
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_S, "charset": "utf8mb4", "init_command": session}
        arguments["async_creator_fn"] = driver.connect
        if tls := _tls(url):
            arguments["ssl"] = tls
        return {
            "connect_args": arguments,
            # As on PostgreSQL. The default would have writers read what was there before they waited.
            "isolation_level": "READ COMMITTED" if write else "REPEATABLE READ",
        }

    def configure(self, engine: Engine, url: URL, *, write: bool) -> None:
        """The driver goes on in the clear where the server offers no TLS; then so do we only if that was asked for."""
        if _ssl_mode(url) in ("disable", "prefer"):
            return

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
            _, cipher = cursor.fetchone()
            cursor.close()
            if not cipher:
                raise Conflict("The database server offers no TLS, and sslmode in database.url wants it.")

    async def insert_new(self, connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
        # INSERT IGNORE would pass over a NULL and a broken reference too, and ON DUPLICATE KEY UPDATE cannot say what
        # it did. A duplicate key undoes its statement and nothing else.
        try:
            await connection.execute(insert(table), row)
        except IntegrityError as error:
            if fault_of(error) is Fault.TAKEN:
                return False
            raise
        return True

    async def insert_missing(
        self, connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        key = table.primary_key.columns[0]
        await connection.execute(mysql.insert(table).on_duplicate_key_update({key.name: key}), list(rows))

    async def delete_by_id(self, connection: AsyncConnection, table: Table, ids: Sequence[int]) -> None:
        # Left to itself it may make a scan of a list, which waits for the rows of others. Only where several tables are
        # named may it be told of an index.
        name = connection.dialect.identifier_preparer.format_table(table)
        statement = text(f"DELETE t FROM {name} AS t FORCE INDEX (PRIMARY) WHERE t.id IN :ids")
        await connection.execute(statement.bindparams(bindparam("ids", expanding=True)), {"ids": list(ids)})

    async def check_server(self, connection: AsyncConnection) -> None:
        version = tuple(part for part in connection.dialect.server_version_info or () if isinstance(part, int))
        on_mariadb = getattr(connection.dialect, "is_mariadb", False)
        oldest: tuple[int, ...] = self.oldest_mariadb if on_mariadb else self.oldest
        if version < oldest:
            shown, wanted = (".".join(map(str, numbers)) for numbers in (version, oldest))
            product = "MariaDB" if on_mariadb else "MySQL"
            raise Conflict(f"The server is {product} {shown}; {wanted} or newer is needed.")

    async def lock_migrations(self, connection: AsyncConnection) -> None:
        # Held by the connection: here a transaction ends with every table that is made. Names are the whole server's.
        name = f"gatherum.{_lock_number(connection.engine.url.database or '')}"
        got = await connection.execute(
            text("SELECT GET_LOCK(:name, :wait_s)"), {"name": name, "wait_s": MIGRATION_WAIT_S}
        )
        if got.scalar_one() != 1:
            raise Unavailable("Another process has been migrating the database for minutes; try again.")


_DATABASES: tuple[_Database, ...] = (_Sqlite(), _Postgresql(), _Mysql())
_BY_NAME = {database.name: database for database in _DATABASES}


def parse_url(given: str) -> URL:
    """The store's URL with the driver we use, e.g. `sqlite:///x.db` as `sqlite+aiosqlite:////home/me/x.db`.

    `postgres:`, `postgresql:`, `mysql:` and `mariadb:` are understood, with any driver or none.

    Raises:
        InvalidInput: it is no URL, names a database that is not supported, or lacks what is needed.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise InvalidInput(_NO_URL) from None
    scheme = url.get_backend_name()
    for database in _DATABASES:
        if scheme in database.schemes:
            return database.complete(url)
    raise InvalidInput(f"database.url names {scheme}, but the store can be sqlite, postgresql, mysql or mariadb.")


def file_of(url: URL) -> Path | None:
    """The file an embedded store lies in; None where it is a server."""
    return Path(url.database) if url.get_backend_name() == _Sqlite.name and url.database else None


def create_engine(
    url: URL, settings: DatabaseSettings, *, write: bool, connections: int, poolclass: type[Pool] | None = None
) -> AsyncEngine:
    """An engine of up to `connections` connections, each set up for transactions that write, or that only read.

    Args:
        url: from `parse_url`.
        settings: time-outs, and when connections are replaced.
        write: whether its transactions will write.
        connections: most at once.
        poolclass: `NullPool` for an engine that is used once.
    """
    database = _BY_NAME[url.get_backend_name()]
    options = database.options(url, settings, write=write)
    if poolclass is None:
        options |= {"pool_size": connections, "max_overflow": 0, "pool_recycle": settings.recycle_s}
    else:
        options["poolclass"] = poolclass
    engine = create_async_engine(url.difference_update_query(("sslmode", "sslrootcert")), **options)
    database.configure(engine.sync_engine, url, write=write)
    if poolclass is None and file_of(url) is None:  # a file does not go away
        _look_at_idle(engine.sync_engine)
    return engine


def patient(settings: DatabaseSettings) -> DatabaseSettings:
    """The settings for work that nobody waits for with a deadline: migrating a store, or moving it as a whole.

    On every database the time for a lock is that for the migrations of another process: SQLite has no other lock, and
    the client's and the server's own time-outs for statements cannot be lifted for the one that waits.
    """
    return settings.model_copy(update={"statement_timeout_s": PATIENCE_S, "busy_timeout_s": MIGRATION_WAIT_S})


def configure(engine: Engine, *, write: bool = True) -> None:
    """Have an engine that was made otherwise set its connections up as `create_engine` does."""
    _BY_NAME[engine.dialect.name].configure(engine, engine.url, write=write)


def writers(url: URL, settings: DatabaseSettings) -> int:
    """How many transactions may write at once."""
    return _BY_NAME[url.get_backend_name()].writers(settings)


def interruptible(url: URL) -> bool:
    """Whether a statement can be cut off from the outside without leaving a lock behind; see `engine.py`."""
    return file_of(url) is None


async def insert_new(connection: AsyncConnection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row, unless one with its key is there; whether it was inserted.

    A transaction that is inserting the same key is waited for.
    """
    return await _of(connection).insert_new(connection, table, row)


async def insert_missing(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, but for those whose key is there. Bring them in order: so two transactions cannot deadlock."""
    await _of(connection).insert_missing(connection, table, rows)


async def delete_by_id(connection: AsyncConnection, table: Table, ids: Sequence[int]) -> None:
    """Remove up to 500 rows by their `id`, without waiting for any other row."""
    await _of(connection).delete_by_id(connection, table, ids)


async def settle_ids(connection: AsyncConnection, tables: Sequence[Table]) -> None:
    """After rows were inserted with their ids: have the database count on from there."""
    await _of(connection).settle_ids(connection, tables)


async def check_server(connection: AsyncConnection) -> None:
    """Look whether the server can do what the store needs.

    Raises:
        Conflict: it is too old, or the database has another encoding than UTF-8.
    """
    await _of(connection).check_server(connection)


async def lock_migrations(connection: AsyncConnection) -> None:
    """Wait until no other process migrates, and keep them waiting until this connection is closed.

    Raises:
        Unavailable: another process has been at it for minutes.
    """
    await _of(connection).lock_migrations(connection)


def _of(connection: AsyncConnection) -> _Database:
    return _BY_NAME[connection.dialect.name]


def _look_at_idle(engine: Engine) -> None:
    """Have connections that have been idle looked at before use: firewalls forget those, and servers restart."""

    @event.listens_for(engine, "checkin")
    def _rests(connection: Any, record: ConnectionPoolEntry) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _is_taken(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        since = record.info.get("idle_since")  # not of a new one
        if since is None or time.monotonic() - since < IDLE_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            if not engine.dialect.is_disconnect(error, connection, None):
                raise
            raise InvalidatePoolError from error


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


def _completed(url: URL, driver: str, known: set[str]) -> URL:
    if not url.database:
        raise InvalidInput("database.url must name a database, as in postgresql://user:password@host/gatherum.")
    if "@" in url.database:  # of a password that was not escaped
        raise InvalidInput(_NO_URL)
    unknown = sorted(set(url.query) - known)
    if unknown:
        raise InvalidInput(
            f"database.url has the parameter {unknown[0]!r}, which is not known here. There are: "
            f"{', '.join(sorted(known))}."
        )
    _ssl_mode(url)
    return url.set(drivername=driver)


def _ssl_mode(url: URL) -> str:
    mode = str(url.query.get("sslmode", "prefer")).lower()
    if mode not in _SSL_MODES:
        raise InvalidInput(f"sslmode in database.url is one of {', '.join(sorted(_SSL_MODES))}.")
    return mode


def _tls(url: URL) -> ssl.SSLContext | bool | None:
    """How to talk to the server, in the meaning that libpq has given the modes; None for whatever the driver does."""
    mode = _ssl_mode(url)
    if mode in ("disable", "prefer"):
        return False if mode == "disable" else None
    authorities = url.query.get("sslrootcert")
    try:
        context = ssl.create_default_context(cafile=str(authorities) if authorities else None)
    except OSError:
        raise InvalidInput(
            "sslrootcert in database.url names no file of certificates (PEM) that can be read."
        ) from None
    if mode != "verify-full":
        context.check_hostname = False
    if mode == "require" and not authorities:
        context.verify_mode = ssl.CERT_NONE
    return context


def _lock_number(name: str) -> int:
    """A number of 63 bits for the name of a lock."""
    return int.from_bytes(hashlib.sha256(f"gatherum {name}".encode()).digest()[:8], "big") >> 1
