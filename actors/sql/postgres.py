"""PostgreSQL's engine: one SELECT at a time, in a transaction that cannot write, by a role that should not be able to.

The layers, each of which stops something that the others let through or stop later: the first word; a transaction that
is READ ONLY, and cannot be switched, because a query has run in it; a server cursor, which takes nothing but a query;
the extended protocol, which takes one statement; limits for time and locks, set for the transaction; a list of
functions that do more than read, with all that the server itself calls volatile; a session that forgets everything
afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

import asyncpg
import orjson

from actors.deadline import Deadline
from actors.errors import GatherumError, InvalidInput, NotFound, Refused, Unavailable
from actors.messages import Source
from actors.sql import postgres_catalog, wire
from actors.sql.access import CONNECT_S, Access, Reach
from actors.sql.idle import Idle
from actors.sql.lexing import Statement, read
from actors.sql.running import GRACE_S, Allowance, Column, Limits, Params, Result, no_query, too_slow
from actors.sql.schema import Fetch, Schema, Tested

LAYERS: Final = frozenset(
    {"words", "read_only", "pinned", "cursor", "single", "timeouts", "functions", "rollback", "forget", "cancel"}
)
"""The fences, each by a name that a test can take it away by."""

FIRST: Final = frozenset({"select", "with", "values", "table"})
"""What a query begins with."""

FIRST_ROWS, BATCH_ROWS, BATCH_BYTES = 10, 500, 1_000_000
"""Rows fetched before their size is known; rows and bytes of a batch after that."""

LOCK_MS: Final = 500
"""Wait for a table that somebody changes, ms."""

# fmt: off
DENIED: Final = frozenset({
    # Run a statement from a text, out of sight.
    "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "cursor_to_xml", "cursor_to_xmlschema",
    "table_to_xml", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "database_to_xml",
    "database_to_xml_and_xmlschema", "ts_stat", "ts_rewrite", "crosstab", "crosstab2", "crosstab3", "crosstab4",
    "connectby", "xpath_table", "dblink", "dblink_exec", "dblink_connect", "dblink_connect_u", "dblink_open",
    "dblink_send_query", "dblink_fetch",
    # Read or write files and large objects.
    "pg_read_file", "pg_read_binary_file", "pg_ls_dir", "pg_stat_file", "pg_file_write", "lo_import", "lo_export",
    "lo_create", "lo_creat", "lo_from_bytea", "lo_put", "lo_get", "lo_open", "lo_unlink", "lo_truncate",
    # Wait, hold, or change what others see.
    "pg_sleep", "pg_sleep_for", "pg_sleep_until", "pg_advisory_lock", "pg_try_advisory_lock", "pg_advisory_xact_lock",
    "pg_notify", "nextval", "setval", "set_config", "pg_terminate_backend", "pg_cancel_backend", "pg_reload_conf",
    "pg_rotate_logfile", "pg_switch_wal", "pg_create_restore_point", "pg_promote", "pg_logical_emit_message",
    "pg_export_snapshot", "pg_current_xact_id", "txid_current",
})
"""Functions that do more than read, or whose cost is not theirs, also where the server does not call one volatile."""

HARMLESS: Final = frozenset({
    "random", "random_normal", "clock_timestamp", "statement_timestamp", "timeofday", "gen_random_uuid",
    "uuid_generate_v4", "uuidv4", "uuidv7", "currval", "lastval", "pg_relation_size", "pg_table_size",
    "pg_indexes_size", "pg_total_relation_size", "pg_database_size", "pg_tablespace_size", "pg_size_pretty",
})
"""Volatile by the server's account, but they change nothing that outlives the statement."""
# fmt: on

VOLATILE: Final = "SELECT DISTINCT proname::text FROM pg_catalog.pg_proc WHERE provolatile = 'v'"
STORE: Final = """
SELECT 1 FROM pg_catalog.pg_class c
WHERE c.relkind = 'r' AND c.relname IN ('alembic_version', 'idempotency_keys', 'superseded', 'counters', 'mentions')
GROUP BY c.relnamespace HAVING count(*) = 5
"""
"""Finds a store of Gatherum by its tables, so by whatever name or address the database is reached."""


def _text(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A decoder that leaves as text what Python has no value for, such as `infinity` or a year before Christ."""

    def decode(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            return text

    return decode


_CODECS: Final[Mapping[str, Callable[[str], Any]]] = {
    "date": _text(date.fromisoformat),
    "timestamp": _text(datetime.fromisoformat),
    "timestamptz": _text(datetime.fromisoformat),
    "time": _text(time.fromisoformat),
    "timetz": str,
    "interval": str,
    "numeric": Decimal,
    "uuid": str,
    "inet": str,
    "cidr": str,
    "json": _text(orjson.loads),
    "jsonb": _text(orjson.loads),
}
"""Types that travel as text, so that a client may give their values as text, and nothing is lost on the way back."""


class _Connection:
    """A connection, and what its server calls volatile."""

    def __init__(self, driver: Any, volatile: frozenset[str]) -> None:
        self.driver = driver
        self.volatile = volatile

    @property
    def transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self.driver._transport
        return transport

    async def close(self) -> None:
        """Close it; a statement that was left is ended on the server first, if that takes no longer than it may."""
        with contextlib.suppress(Exception):
            await self.driver.close(timeout=GRACE_S)


class PostgresEngine:
    """Runs statements in PostgreSQL.

    Args:
        reach: how a source is reached.
        keep: idle connections kept for a source.
        without: fences to leave out, for tests that show what each is for.
    """

    def __init__(self, reach: Reach, *, keep: int, without: frozenset[str] = frozenset()) -> None:
        self._reach = reach
        self._layers = LAYERS - without
        self._idle: Idle[_Connection] = Idle(_Connection.close, keep=keep)

    @asynccontextmanager
    async def run(
        self, source: Source, sql: str, params: Params, limits: Limits, deadline: Deadline
    ) -> AsyncIterator[Result]:
        """See `Engine.run`."""
        statement = read(sql, "postgresql") if "words" in self._layers else Statement(sql, "")
        values = statement.values(params)
        async with self._begun(source, statement, deadline) as connection:
            driver = connection.driver
            if "single" not in self._layers:
                await self._step(driver.execute(sql), source, deadline)
                yield Result((), _nothing())
                return
            if "cursor" in self._layers:
                prepared = await self._step(
                    driver.prepare(f"DECLARE gatherum NO SCROLL CURSOR FOR\n{statement.text}"), source, deadline
                )
                await self._step(prepared.fetch(*_fitting(values, prepared)), source, deadline)
                fetch = await self._step(driver.prepare(f"FETCH FORWARD {FIRST_ROWS} FROM gatherum"), source, deadline)
                values = []
            else:
                fetch = await self._step(driver.prepare(statement.text), source, deadline)
            columns = tuple(Column(each.name, each.type.name) for each in fetch.get_attributes())

            async def batches() -> AsyncIterator[list[tuple[Any, ...]]]:
                nonlocal fetch
                allowance, each = Allowance(limits), FIRST_ROWS
                while True:
                    before = wire.received(connection.transport)
                    async with wire.bounded(connection.transport, max(0, allowance.bytes)):
                        rows = await self._step(fetch.fetch(*values), source, deadline)
                    # A cell that is JSON, an array or a long number does not say how large it was; the kernel does.
                    size = max(sum(map(_size, rows)), wire.received(connection.transport) - before)
                    taken, cut = allowance.take([tuple(row) for row in rows], size)
                    if taken:
                        yield taken
                    if cut or len(rows) < each or "cursor" not in self._layers:
                        result.truncated = cut
                        return
                    wanted = max(1, min(BATCH_ROWS, 8 * each, BATCH_BYTES * len(rows) // max(1, size)))
                    if wanted != each:
                        each = wanted
                        fetch = await self._step(
                            driver.prepare(f"FETCH FORWARD {each} FROM gatherum"), source, deadline
                        )

            result = Result(columns, batches())
            yield result

    async def explain(self, source: Source, sql: str, params: Params, deadline: Deadline) -> Any:
        """See `Engine.explain`."""
        statement = read(sql, "postgresql")
        values = statement.values(params)
        async with self._begun(source, statement, deadline) as connection:
            # Prepared as a cursor first: what is no query is found out before it is explained.
            await self._step(
                connection.driver.prepare(f"DECLARE gatherum NO SCROLL CURSOR FOR\n{statement.text}"), source, deadline
            )
            explain = await self._step(
                connection.driver.prepare(f"EXPLAIN (FORMAT JSON)\n{statement.text}"), source, deadline
            )
            (row,) = await self._step(explain.fetch(*_fitting(values, explain)), source, deadline)
            return row[0]

    async def schema(self, source: Source, deadline: Deadline, *, samples: int) -> Schema:
        """See `Engine.schema`."""
        async with self._begun(source, None, deadline) as connection:
            fetch = self._fetching(connection, source, deadline)
            return await postgres_catalog.schema(fetch, samples=samples)

    async def test(self, source: Source, deadline: Deadline) -> Tested:
        """See `Engine.test`."""
        async with self._begun(source, None, deadline) as connection:
            fetch = self._fetching(connection, source, deadline)
            return await postgres_catalog.test(fetch)

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._idle.close()

    @asynccontextmanager
    async def _begun(
        self, source: Source, statement: Statement | None, deadline: Deadline
    ) -> AsyncIterator[_Connection]:
        """A connection in a transaction that cannot write; statement and session are over when the block is left."""
        if statement is not None and "words" in self._layers and statement.first not in FIRST:
            raise no_query(statement.first)
        deadline.check(f"reading the source {source.name!r}")
        connection, fresh = self._idle.take(source), False
        while True:
            if connection is None:
                connection, fresh = await self._connect(source, deadline), True
            try:
                await self._step(connection.driver.execute(self._prologue(deadline)), source, deadline)
            except BaseException as error:
                await asyncio.shield(connection.close())
                # One that was kept may have been cut since: a new one decides.
                if fresh or not isinstance(error, Unavailable):
                    raise
                connection = None
                continue
            break
        whole = False
        try:
            if statement is not None:
                self._vet(statement, connection.volatile)
            yield connection
            whole = True
        except GatherumError:
            whole = not connection.driver.is_closed() and not deadline.expired
            raise
        finally:
            if whole and await self._forgotten(connection):
                self._idle.give(source, connection)
            else:
                await asyncio.shield(connection.close())

    def _prologue(self, deadline: Deadline) -> str:
        """What comes before a statement, in one message."""
        parts = ["BEGIN" + (" READ ONLY" if "read_only" in self._layers else "")]
        if "timeouts" in self._layers:
            limit = max(1, round(deadline.remaining() * 1000))
            parts += [
                f"SET LOCAL statement_timeout = {limit}",
                f"SET LOCAL lock_timeout = {LOCK_MS}",
                f"SET LOCAL idle_in_transaction_session_timeout = {limit + 60_000}",
            ]
        parts += [
            "SET LOCAL standard_conforming_strings = on",
            "SET LOCAL DateStyle = 'ISO, YMD'",
            "SET LOCAL IntervalStyle = 'postgres'",
            "SET LOCAL TimeZone = 'UTC'",
            "SET LOCAL extra_float_digits = 1",
            "SET LOCAL bytea_output = 'hex'",
        ]
        if "pinned" in self._layers:
            # A transaction that has run a query can be switched to READ WRITE no more.
            parts.append("SELECT 1")
        return "; ".join(parts)

    def _vet(self, statement: Statement, volatile: frozenset[str]) -> None:
        if "functions" not in self._layers:
            return
        if found := sorted(statement.calls & (DENIED | (volatile - HARMLESS))):
            raise Refused(f"A source is only read, and the function {found[0]} may do more than that.")

    async def _forgotten(self, connection: _Connection) -> bool:
        """Whether the session has nothing left of the statement."""
        try:
            async with asyncio.timeout(GRACE_S):
                await connection.driver.execute("ROLLBACK" if "rollback" in self._layers else "COMMIT")
                if "forget" in self._layers:
                    await connection.driver.execute("DISCARD ALL")
        except Exception:  # noqa: BLE001 - whatever it is, the connection is of no more use
            return False
        return True

    async def _connect(self, source: Source, deadline: Deadline) -> _Connection:
        access = await self._reach(source, deadline)
        failure: GatherumError = Unavailable(f"The source {source.name!r} cannot be reached.")
        for address in access.addresses:
            try:
                driver = await self._step(_driver(access, address, deadline), source, deadline)
            except Unavailable as error:
                failure = error
                continue
            connection = _Connection(driver, frozenset())
            try:
                await self._step(_introduce(connection), source, deadline)
            except BaseException:
                await asyncio.shield(connection.close())
                raise
            return connection
        raise failure

    def _fetching(self, connection: _Connection, source: Source, deadline: Deadline) -> Fetch:
        """What gives the rows of a statement of ours, in a session that has begun."""

        async def fetch(sql: str) -> list[Any]:
            rows: list[Any] = await self._step(connection.driver.fetch(sql), source, deadline)
            return rows

        return fetch

    async def _step(self, step: Any, source: Source, deadline: Deadline) -> Any:
        """One exchange with the server, within the deadline, its errors in our words."""
        try:
            if "cancel" not in self._layers:
                return await step
            async with asyncio.timeout(deadline.remaining()):
                return await step
        except TimeoutError:
            raise too_slow(source) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:
            raise _explained(error, source) from None


async def _nothing() -> AsyncIterator[list[tuple[Any, ...]]]:
    return
    yield


async def _driver(access: Access, address: str, deadline: Deadline) -> Any:
    """A connection of the driver's. Everything is said, so that it looks for nothing in the environment or in files."""
    tls: tuple[Any, ...] = (access.context(),) if access.tls != "prefer" else (access.context(), False)
    for number, context in enumerate(tls, 1):
        try:
            return await asyncpg.connect(
                host=address,
                port=access.port,
                user=access.user,
                password=access.password,
                database=access.database,
                ssl=context,
                target_session_attrs="any",
                timeout=min(CONNECT_S, max(0.01, deadline.remaining())),
                statement_cache_size=0,
                server_settings={"application_name": "gatherum"},
            )
        except ConnectionError as error:
            if number == len(tls) or "rejected SSL" not in str(error):
                raise
    raise AssertionError("unreachable")


async def _introduce(connection: _Connection) -> None:
    """Prepare a new connection, after a look at where it has come to."""
    driver = connection.driver
    for name, decode in _CODECS.items():
        await driver.set_type_codec(name, schema="pg_catalog", encoder=_encode, decoder=decode, format="text")
    if await driver.fetch(STORE):
        raise Refused("This database holds a store of Gatherum, which cannot be a source.")
    connection.volatile = frozenset(row[0] for row in await driver.fetch(VOLATILE))


_INTEGERS: Final = ("int2", "int4", "int8", "oid")
_TEXTS: Final = ("text", "varchar", "bpchar", "name")


def _fitting(values: Sequence[Any], prepared: Any) -> list[Any]:
    """Parameters as the driver wants them: from JSON, or a command line, any may come as text or as number."""
    return [_fits(value, kind.name) for value, kind in zip(values, prepared.get_parameters(), strict=True)]


def _fits(value: Any, kind: str) -> Any:
    if isinstance(value, str) and kind in (*_INTEGERS, "float4", "float8"):
        try:
            return int(value) if kind in _INTEGERS else float(value)
        except ValueError:
            raise InvalidInput(f"The parameter {value!r} is no number, as the statement has it be one.") from None
    if isinstance(value, int | float) and not isinstance(value, bool) and kind in _TEXTS:
        return str(value)
    return value


def _encode(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _size(row: Sequence[Any]) -> int:
    """Bytes of a row, at least."""
    return sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)


def _explained(error: Exception, source: Source) -> GatherumError:
    name = repr(source.name)
    match error:
        case asyncpg.QueryCanceledError():
            return too_slow(source)
        case asyncpg.LockNotAvailableError():
            return Unavailable(f"A table of the source {name} is locked by another program.")
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return InvalidInput(f"The source {name} does not let this user in with this password.")
        case asyncpg.InvalidCatalogNameError():
            return NotFound(f"The source {name} has no database of that name.")
        case asyncpg.ReadOnlySQLTransactionError() | asyncpg.ActiveSQLTransactionError():
            return Refused(f"A source is only read, and the statement would do more: {error}.")
        case asyncpg.InsufficientPrivilegeError():
            return Refused(f"The source's user may not do that: {error}.")
        case (
            OSError()
            | asyncpg.PostgresConnectionError()
            | asyncpg.OperatorInterventionError()
            | asyncpg.TooManyConnectionsError()
        ):
            return Unavailable(f"The source {name} is away, or takes nobody in at the moment.")
        case asyncpg.InsufficientResourcesError():
            return Refused("The statement needs more memory or space than the server gives it.")
        case asyncpg.PostgresError():
            return InvalidInput(f"PostgreSQL does not take the statement: {error}.")
        case asyncpg.InterfaceError() if "closed" in str(error) or "released" in str(error):
            return Unavailable(f"The source {name} has closed the connection.")
    return InvalidInput(f"The statement or a parameter does not fit: {error}")
