"""The engine of MySQL and MariaDB: one SELECT at a time, in a transaction that cannot write.

The layers, each of which stops something that the others let through or stop later: the first word, and the few words
that make a SELECT write or lock; PREPARE, which takes one statement where the drivers always allow several; a READ ONLY
transaction in a session whose next ones would be READ ONLY too; limits for time and locks; a list of functions that do
more than read; KILL QUERY over a second connection; a session that forgets everything afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final

import aiomysql
import orjson
import pymysql
from pymysql.constants import CLIENT, FIELD_TYPE, FLAG
from pymysql.converters import decoders

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Refused, Unavailable
from actors.messages import Source
from actors.sql import mysql_catalog, wire
from actors.sql.access import CONNECT_S, Access, Reach
from actors.sql.idle import Idle
from actors.sql.lexing import Statement, read
from actors.sql.running import GRACE_S, Allowance, Column, Limits, Params, Result, no_query, too_slow
from actors.sql.schema import Fetch, Schema, Tested

LAYERS: Final = frozenset({"words", "single", "read_only", "timeouts", "functions", "rollback", "forget", "cancel"})
"""The fences, each by a name that a test can take it away by."""

FIRST: Final = frozenset({"select", "with", "values", "table"})
"""What a query begins with."""

WORDS: Final = frozenset({"into", "outfile", "dumpfile", "procedure", "handler"})
"""What makes a SELECT write, or call. None of them can be a name without quotes."""

LOCKING: Final = (("for", "update"), ("for", "share"), ("lock", "in"), ("next", "value"), ("previous", "value"))
"""Words that follow one another where a SELECT locks rows or draws numbers."""

BATCH_ROWS, BATCH_BYTES = 500, 1_000_000
"""Rows, and bytes of them, that are handed on together."""

RESET: Final = 0x1F
"""The command that gives a session the state of a new one (COM_RESET_CONNECTION)."""

# fmt: off
DENIED: Final = frozenset({
    # Files, programs, other servers.
    "load_file", "sys_exec", "sys_eval", "sys_get", "sys_set", "lib_mysqludf_sys_info", "extractvalue_file",
    # Wait, hold, or change what others see.
    "sleep", "benchmark", "get_lock", "release_lock", "release_all_locks", "is_free_lock", "is_used_lock",
    "master_pos_wait", "source_pos_wait", "master_gtid_wait", "wait_for_executed_gtid_set", "nextval", "setval",
    "wsrep_sync_wait_upto_gtid", "wait_until_sql_thread_after_gtids",
    # Settings of a component or plugin.
    "keyring_key_store", "keyring_key_generate", "keyring_key_remove", "keyring_key_fetch",
    "audit_log_filter_set_filter",
    "group_replication_switch_to_single_primary_mode", "group_replication_switch_to_multi_primary_mode",
    "group_replication_set_as_primary", "mysql_firewall_flush_status", "set_firewall_mode", "version_tokens_set",
    "version_tokens_lock_exclusive", "version_tokens_lock_shared", "service_get_write_locks", "service_get_read_locks",
    "asynchronous_connection_failover_add_source", "asynchronous_connection_failover_delete_source",
})
"""Functions that do more than read."""
# fmt: on

STORE: Final = """
SELECT 1 FROM information_schema.tables
WHERE table_name IN ('alembic_version', 'idempotency_keys', 'superseded', 'counters', 'mentions')
GROUP BY table_schema HAVING count(*) >= 2 LIMIT 1
"""
"""Finds a store of Gatherum that the user can see, in whatever database of the server, and be it two of its tables."""

_TYPES: Final = {
    value: name.lower()
    for name, value in vars(FIELD_TYPE).items()
    if name.isupper() and name not in ("CHAR", "INTERVAL")
}
_NAMES: Final[Mapping[str, str]] = {
    **{"tiny": "tinyint", "short": "smallint", "int24": "mediumint", "long": "int", "longlong": "bigint"},
    **{
        "newdecimal": "decimal",
        "newdate": "date",
        "string": "char",
        "var_string": "varchar",
        "timestamp2": "timestamp",
    },
}
_TEXTS: Final[Mapping[str, str]] = {
    **{"char": "binary", "varchar": "varbinary", "tiny_blob": "tinyblob", "medium_blob": "mediumblob"},
    **{"long_blob": "longblob"},
}
_BINARY: Final = 63
"""Number of the character set that is none."""


class _Driver(aiomysql.Connection):  # type: ignore[misc]
    """The driver's connection, which insists on TLS if it was told to: by itself it would go on without."""

    insists = False

    async def _request_authentication(self) -> None:
        if self.insists and not self.server_capabilities & CLIENT.SSL:
            raise pymysql.OperationalError(2026, "The server has no TLS.")
        await super()._request_authentication()


class _Connection:
    """A connection, and what is behind it."""

    def __init__(self, driver: Any, access: Access, address: str) -> None:
        self.driver = driver
        self.access = access
        self.address = address
        self.is_mariadb = "mariadb" in driver.get_server_info().lower()

    @property
    def transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self.driver._writer.transport
        return transport

    async def fetch(self, sql: str) -> list[Any]:
        """All rows of a statement of ours."""
        await self.driver.query(sql)
        return list(self.driver._result.rows or ())

    async def kill(self) -> None:
        """End what runs in it, over a second connection, and close it."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(2 * GRACE_S):
                second = await _driver(self.access, self.address, Deadline.after(2 * GRACE_S))
                try:
                    await second.query(f"KILL QUERY {self.driver.thread_id():d}")
                finally:
                    second.close()
        self.driver.close()

    async def close(self) -> None:
        """Close it; nothing runs in it."""
        self.driver.close()


class MysqlEngine:
    """Runs statements in MySQL and MariaDB.

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
        statement = read(sql, "mysql") if "words" in self._layers else Statement(sql, "")
        async with self._executed(source, statement, statement.text, params, deadline, limits.rows) as connection:
            answer = connection.driver._result
            if answer.description is None:
                raise InvalidInput("The statement gives no rows. Only a SELECT can be asked.")
            columns = tuple(Column(field.name, _type_of(field)) for field in answer.fields)
            parsed = [at for at, field in enumerate(answer.fields) if field.type_code == FIELD_TYPE.JSON]

            async def batches() -> AsyncIterator[list[tuple[Any, ...]]]:
                allowance, ended = Allowance(limits), False
                async with wire.bounded(connection.transport, limits.bytes):
                    while not ended:
                        most = min(BATCH_ROWS, allowance.rows + 1)
                        batch, size, ended = await self._step(_batch(answer, most), source, deadline)
                        taken, cut = allowance.take([_with_json(row, parsed) for row in batch], size)
                        if taken:
                            yield taken
                        if cut:
                            result.truncated = True
                            return

            result = Result(columns, batches())
            yield result

    async def explain(self, source: Source, sql: str, params: Params, deadline: Deadline) -> Any:
        """See `Engine.explain`."""
        statement = read(sql, "mysql")
        explain = f"EXPLAIN FORMAT=JSON {statement.text}"
        async with self._executed(source, statement, explain, params, deadline, BATCH_ROWS) as connection:
            rows, _, _ = await self._step(_batch(connection.driver._result, BATCH_ROWS), source, deadline)
            return orjson.loads(rows[0][0])

    async def schema(self, source: Source, deadline: Deadline, *, samples: int) -> Schema:
        """See `Engine.schema`."""
        async with self._begun(source, deadline) as connection:
            fetch = self._fetching(connection, source, deadline)
            return await mysql_catalog.schema(fetch, samples=samples)

    async def test(self, source: Source, deadline: Deadline) -> Tested:
        """See `Engine.test`."""
        async with self._begun(source, deadline) as connection:
            fetch = self._fetching(connection, source, deadline)
            return await mysql_catalog.test(fetch)

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._idle.close()

    @asynccontextmanager
    async def _executed(
        self, source: Source, statement: Statement, text: str, params: Params, deadline: Deadline, rows: int
    ) -> AsyncIterator[_Connection]:
        """A connection in which a statement has been executed, its rows (one more than wanted) not yet read."""
        values = statement.values(params)
        self._vet(statement)
        async with self._begun(source, deadline) as connection:
            driver = connection.driver
            if "single" in self._layers:
                places = [f"@gatherum_{at:d}" for at in range(len(values))]
                given = [f"{place} = {_literal(value)}" for place, value in zip(places, values, strict=True)]
                steps = [
                    f"SET SESSION sql_select_limit = {rows + 1:d}",
                    f"SET {', '.join([f'@gatherum = {_literal(text)}', *given])}",
                    "PREPARE gatherum FROM @gatherum",
                ]
                for step in steps:
                    await self._step(driver.query(step), source, deadline)
                using = f" USING {', '.join(places)}" if places else ""
                await self._step(driver.query(f"EXECUTE gatherum{using}", unbuffered=True), source, deadline)
            else:
                await self._step(driver.query(text), source, deadline)
                while driver._result.has_next:
                    await self._step(driver.next_result(), source, deadline)
            yield connection

    @asynccontextmanager
    async def _begun(self, source: Source, deadline: Deadline) -> AsyncIterator[_Connection]:
        """A connection in a transaction that cannot write; statement and session are over when the block is left."""
        deadline.check(f"reading the source {source.name!r}")
        connection, fresh = self._idle.take(source), False
        while True:
            if connection is None:
                connection, fresh = await self._connect(source, deadline), True
            try:
                for step in self._prologue(connection, deadline):
                    await self._step(connection.driver.query(step), source, deadline)
            except BaseException as error:
                await self._left(connection, error)
                # One that was kept may have been cut since: a new one decides.
                if fresh or not isinstance(error, Unavailable):
                    raise
                connection = None
                continue
            break
        whole = False
        try:
            yield connection
            whole = True
        except (InvalidInput, Refused):
            whole = True
            raise
        finally:
            if whole and await self._forgotten(connection):
                self._idle.give(source, connection)
            elif "cancel" in self._layers:
                await asyncio.shield(connection.kill())
            else:
                await connection.close()

    async def _left(self, connection: _Connection, error: BaseException) -> None:
        """Give up a connection in which a statement of ours failed, or may still run."""
        if isinstance(error, GatherumError) and not isinstance(error, DeadlineExceeded):
            await connection.close()
        else:
            await asyncio.shield(connection.kill())

    def _prologue(self, connection: _Connection, deadline: Deadline) -> list[str]:
        """What comes before a statement."""
        settings = ["sql_mode = ''", "NAMES utf8mb4", "SESSION group_concat_max_len = 16000000"]
        steps = []
        if "timeouts" in self._layers:
            limit = max(0.001, deadline.remaining())
            time = (
                f"max_statement_time = {limit:.3f}"
                if connection.is_mariadb
                else f"max_execution_time = {round(limit * 1000):d}"
            )
            settings += [f"SESSION {time}", "SESSION lock_wait_timeout = 1", "SESSION innodb_lock_wait_timeout = 1"]
        names = settings.pop(1)
        steps += [f"SET {names}", "SET " + ", ".join(settings)]
        if "read_only" in self._layers:
            # What follows a COMMIT out of sight, in a procedure for instance, is READ ONLY as well.
            steps += ["SET SESSION TRANSACTION READ ONLY", "START TRANSACTION READ ONLY"]
        else:
            steps.append("START TRANSACTION")
        return steps

    def _vet(self, statement: Statement) -> None:
        if "words" in self._layers:
            if statement.first not in FIRST:
                raise no_query(statement.first)
            if found := sorted(statement.words & WORDS):
                raise Refused(f"A source is only read, and {found[0].upper()} in a statement would do more.")
            for pair in LOCKING:
                if pair in statement.pairs:
                    raise Refused(f"A source is only read, and {' '.join(pair).upper()} would do more.")
        if "functions" in self._layers and (found := sorted(statement.calls & DENIED)):
            raise Refused(f"A source is only read, and the function {found[0]} may do more than that.")

    async def _forgotten(self, connection: _Connection) -> bool:
        """Whether the session has nothing left of the statement."""
        try:
            async with asyncio.timeout(GRACE_S):
                answer = connection.driver._result
                unread = answer is not None and answer.unbuffered_active
                # Behind the last row that was wanted comes nothing but the end, unless the bytes were too many.
                if unread and await answer._read_rowdata_packet_unbuffered() is not None:
                    return False
                await connection.driver.query("ROLLBACK" if "rollback" in self._layers else "COMMIT")
                if "forget" in self._layers:
                    await connection.driver._execute_command(RESET, b"")
                    await connection.driver._read_ok_packet()
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
            connection = _Connection(driver, access, address)
            try:
                is_store = await self._step(connection.fetch(STORE), source, deadline)
            except BaseException as error:
                await self._left(connection, error)
                raise
            if not is_store:
                return connection
            await connection.close()
            raise Refused("This user can see a store of Gatherum, which cannot be a source.")
        raise failure

    def _fetching(self, connection: _Connection, source: Source, deadline: Deadline) -> Fetch:
        """What gives the rows of a statement of ours, in a session that has begun."""

        async def fetch(sql: str) -> list[Any]:
            rows: list[Any] = await self._step(connection.fetch(sql), source, deadline)
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
        except (pymysql.Error, OSError, RuntimeError, ValueError, asyncio.IncompleteReadError) as error:
            raise _explained(error, source) from None


async def _driver(access: Access, address: str, deadline: Deadline) -> Any:
    """A connection of the driver's. Everything is said, so that it looks for nothing in files."""
    driver = _Driver(
        host=address,
        port=access.port,
        user=access.user,
        password=access.password,
        db=access.database,
        charset="utf8mb4",
        ssl=access.context(),
        local_infile=False,
        autocommit=None,
        conv={**decoders, FIELD_TYPE.TIME: str, FIELD_TYPE.JSON: str},
        connect_timeout=min(CONNECT_S, max(0.01, deadline.remaining())),
        program_name="gatherum",
    )
    driver.insists = access.tls != "prefer"
    await driver._connect()
    return driver


def _literal(value: Any) -> str:
    """A value as MySQL's own text, without a quote to get out of: strings travel as digits."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(int(value))
        case int() | Decimal():
            return str(value)
        case float() if value == value and abs(value) != float("inf"):
            return repr(value)
        case bytes():
            return f"X'{value.hex()}'"
        case str():
            try:
                return f"CONVERT(X'{value.encode().hex()}' USING utf8mb4)"
            except UnicodeEncodeError:
                raise InvalidInput("The statement or a parameter is not valid Unicode.") from None
    raise InvalidInput(f"A parameter has a value that MySQL has no type for: {value!r}.")


async def _batch(answer: Any, most: int) -> tuple[list[tuple[Any, ...]], int, bool]:
    """Rows of an answer as they come, their bytes, and whether it is at its end."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    while len(rows) < most and size < BATCH_BYTES:
        row = await answer._read_rowdata_packet_unbuffered()
        if row is None:
            return rows, size, True
        rows.append(row)
        size += _size(row)
    return rows, size, False


def _with_json(row: tuple[Any, ...], columns: Sequence[int]) -> tuple[Any, ...]:
    if not columns:
        return row
    cells = list(row)
    for at in columns:
        if isinstance(cells[at], str):
            # What is nested deeper than the decoder goes stays text.
            with contextlib.suppress(orjson.JSONDecodeError):
                cells[at] = orjson.loads(cells[at])
    return tuple(cells)


def _type_of(field: Any) -> str:
    name = _TYPES.get(field.type_code, "")
    name = _NAMES.get(name, name)
    if name in ("char", "varchar") or name.endswith("blob"):
        is_binary = field.charsetnr == _BINARY
        name = _TEXTS.get(name, name) if is_binary else name.replace("_blob", "text").replace("blob", "text")
    return f"{name} unsigned" if field.flags & FLAG.UNSIGNED and name not in ("year", "timestamp") else name


def _size(row: Sequence[Any]) -> int:
    """Bytes of a row, about as they travel."""
    return sum(len(cell) if isinstance(cell, str | bytes) else 8 for cell in row)


def _explained(error: Exception, source: Source) -> GatherumError:
    name = repr(source.name)
    code = error.args[0] if isinstance(error, pymysql.Error) and error.args else 0
    text = error.args[1] if isinstance(error, pymysql.Error) and len(error.args) > 1 else str(error)
    match code:
        case 1317 | 1969 | 3024 | 1028:
            return too_slow(source)
        case 1205 | 1206 | 1213:
            return Unavailable(f"A table of the source {name} is locked by another program.")
        case 1044 | 1045 | 1698 | 1251:
            return InvalidInput(f"The source {name} does not let this user in with this password.")
        case 1049:
            return NotFound(f"The source {name} has no database of that name.")
        case 1792 | 1290 | 1223 | 1836 | 1568:
            return Refused(f"A source is only read, and the statement would do more: {text}.")
        case 1142 | 1143 | 1227 | 1370 | 1419:
            return Refused(f"The source's user may not do that: {text}.")
        case 2026:
            return Unavailable(f"The source {name} has no TLS, or shows a certificate that is not for its host.")
        case 1037 | 1038 | 1041 | 1114:
            return Refused("The statement needs more memory or space than the server gives it.")
        case 1040 | 1053 | 1203 | 1226 | 1927:
            return Unavailable(f"The source {name} is away, or takes nobody in at the moment.")
        case _ if (code and 1000 <= code < 2000) or code >= 3000:
            return InvalidInput(f"The server does not take the statement: {text}.")
    return Unavailable(f"The source {name} is away, or takes nobody in at the moment.")
