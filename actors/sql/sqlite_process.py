"""SQLite's engine: statements run in child processes that can be killed, see `sqlite_child.py` for what holds there.

A child serves one source, one statement at a time, and is kept for the next one, for a while. Whoever leaves a
statement before its end, or gets no answer in time, kills the child; the next statement starts another, which takes
about 50 ms.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from actors.deadline import Deadline
from actors.errors import GatherumError, InvalidInput, Refused, Unavailable
from actors.messages import Source
from actors.sql import sqlite_catalog, sqlite_child
from actors.sql.idle import Idle
from actors.sql.running import GRACE_S, Allowance, Column, Limits, Params, Result, too_slow
from actors.sql.schema import Schema, Tested

MAX_MESSAGE: Final = 128_000_000
"""Longest message taken from a child, bytes: a row of the largest cells that SQLite is allowed, in base64."""

VETTED_S: Final = 1.0
"""How long a path is taken for what it was found to be, s. Whether the same file is there, the child sees each time."""

OURS: Final = Limits(rows=100_000, bytes=50_000_000)
"""For what is asked to know the tables."""


class _Gone(Exception):
    """The child ended before its answer did."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file that policy allows.

    Attributes:
        identity: its device and number.
        until: how long that is believed; monotonic, s.
    """

    path: str
    identity: tuple[int, int]
    until: float


class _Child:
    """A process that answers one request at a time."""

    def __init__(
        self, process: subprocess.Popen[bytes], answers: asyncio.StreamReader, requests: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._answers = answers
        self._requests = requests
        self.aside = False

    @classmethod
    async def start(cls, *, confined: bool) -> _Child:
        """Start one. It has neither the environment nor the files of this process."""
        ours, theirs = socket.socketpair()
        # In a thread: libraries of event loops copy the tables of all of this process' memory for it, and nobody is
        # served meanwhile; 20 ms where it was looked at, and eight at once were seen in the answers to others.
        starting = asyncio.create_task(asyncio.to_thread(_spawn, theirs, confined=confined))
        try:
            process = await asyncio.shield(starting)
        except BaseException:
            ours.close()
            starting.add_done_callback(_unwanted)
            raise
        return cls(process, *await asyncio.open_connection(sock=ours, limit=1 << 20))

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.returncode is None and not self._answers.at_eof()

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask, and take the first message of the answer."""
        data = orjson.dumps(request)
        try:
            self._requests.write(sqlite_child.HEADER.pack(len(data)) + data)
            await self._requests.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise _Gone from None
        return await self.receive()

    async def receive(self) -> dict[str, Any]:
        """The next message of the answer."""
        try:
            (length,) = sqlite_child.HEADER.unpack(await self._answers.readexactly(sqlite_child.HEADER.size))
            if length > MAX_MESSAGE:
                raise _Gone
            message: dict[str, Any] = orjson.loads(await self._answers.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionResetError, orjson.JSONDecodeError):
            raise _Gone from None
        self.aside = message.get("aside", False)
        return message

    async def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._requests.transport.abort()
        await asyncio.to_thread(self._process.wait)

    @property
    def killed_for(self) -> int:
        """The signal that ended it, 0 if none did."""
        return -(self._process.returncode or 0)


def _spawn(theirs: socket.socket, *, confined: bool) -> subprocess.Popen[bytes]:
    with theirs:
        return subprocess.Popen(  # noqa: S603 - a script of ours
            [sys.executable, "-I", "-B", sqlite_child.__file__, *([] if confined else ["--unconfined"])],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )


def _unwanted(starting: asyncio.Task[subprocess.Popen[bytes]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        process = starting.result()
        process.kill()
        # It has hardly begun, so this takes no time to speak of.
        process.wait()


class SqliteEngine:
    """Runs statements in SQLite files.

    Args:
        locate: the file of a source, if policy allows it; blocks.
        keep: idle children kept for a source.
        without: fences to leave out, for tests that show what each is for.
    """

    def __init__(
        self, locate: Callable[[Source], Path], *, keep: int = 8, without: frozenset[str] = frozenset()
    ) -> None:
        self._locate = locate
        self._without = without
        self._idle: Idle[_Child] = Idle(_Child.kill, keep=keep)
        self._files: dict[Source, _File] = {}

    @asynccontextmanager
    async def run(
        self, source: Source, sql: str, params: Params, limits: Limits, deadline: Deadline
    ) -> AsyncIterator[Result]:
        """See `Engine.run`."""
        async with self._run(source, sql, params, limits, deadline, schema=False) as result:
            yield result

    async def explain(self, source: Source, sql: str, params: Params, deadline: Deadline) -> Any:
        """See `Engine.explain`."""
        async with self._run(source, f"EXPLAIN QUERY PLAN {sql}", params, OURS, deadline, schema=False) as result:
            return [dict(zip(("id", "parent", "notused", "detail"), row, strict=True)) for row in await result.rows()]

    async def schema(self, source: Source, deadline: Deadline, *, samples: int) -> Schema:
        """See `Engine.schema`."""
        return await sqlite_catalog.schema(functools.partial(self._look, source, deadline), samples=samples)

    async def test(self, source: Source, deadline: Deadline) -> Tested:
        """See `Engine.test`."""
        file = await self._file(source, anew=True)
        look = functools.partial(self._look, source, deadline)
        return await sqlite_catalog.test(look, writable=await asyncio.to_thread(os.access, file.path, os.W_OK))

    async def _look(self, source: Source, deadline: Deadline, sql: str) -> list[tuple[Any, ...]]:
        """A statement of ours about the shape of the tables, which may ask what a user's may not."""
        async with self._run(source, sql, {}, OURS, deadline, schema=True) as result:
            return await result.rows()

    async def close(self) -> None:
        """See `Engine.close`."""
        await self._idle.close()

    @asynccontextmanager
    async def _run(
        self, source: Source, sql: str, params: Params, limits: Limits, deadline: Deadline, *, schema: bool
    ) -> AsyncIterator[Result]:
        deadline.check(f"reading the source {source.name!r}")
        file = await self._file(source)
        request = {
            "sql": sql,
            "params": {name: _wrapped(name, value) for name, value in params.items()},
            "rows": limits.rows,
            "bytes": limits.bytes,
            "seconds": deadline.remaining(),
            "schema": schema,
            "without": sorted(self._without),
        }
        child = await self._take(source)
        done = False
        try:
            for anew in (False, True):
                if anew:
                    file = await self._file(source, anew=True)
                asked = {**request, "path": file.path, "identity": file.identity}
                with _encodable():
                    message = await self._within(child.ask(asked), child, source, deadline)
                if "moved" not in message:
                    break
            done = not message.keys().isdisjoint(("end", "error", "moved"))
            if "moved" in message:
                raise Unavailable(f"The SQLite file {source.path!r} is being replaced. Try again.")
            if "error" in message:
                raise _explained(message, source)
            if not message["columns"]:
                raise InvalidInput("The statement gives no rows. Only a SELECT can be asked.")

            async def batches() -> AsyncIterator[list[tuple[Any, ...]]]:
                nonlocal done, message
                allowance = Allowance(limits)
                while True:
                    if message.get("rows"):
                        taken, _ = allowance.take(_restored(message), 0)
                        yield taken
                    if "end" in message:
                        result.truncated = message["truncated"]
                        return
                    if "error" in message:
                        raise _explained(message, source)
                    message = await self._within(child.receive(), child, source, deadline)
                    done = not message.keys().isdisjoint(("end", "error"))

            result = Result(tuple(map(Column, message["columns"])), batches())
            yield result
        finally:
            # One in the middle of a statement has nothing to say any more that anybody would wait for.
            if done and child.alive and not child.aside:
                self._idle.give(source, child)
            else:
                await asyncio.shield(child.kill())

    async def _take(self, source: Source) -> _Child:
        """An idle child of the source, or a new one."""
        while (child := self._idle.take(source)) is not None:
            if child.alive:
                return child
        return await _Child.start(confined="rlimits" not in self._without)

    async def _within(self, step: Any, child: _Child, source: Source, deadline: Deadline) -> Any:
        """One step of a child's, which ends by itself at the deadline or is ended soon after."""
        try:
            async with asyncio.timeout(deadline.remaining() + GRACE_S):
                return await step
        except TimeoutError:
            raise too_slow(source) from None
        except _Gone:
            await child.kill()
            if child.killed_for == signal.SIGXFSZ:
                raise Refused(f"The statement would have written a file beside {source.path!r}.") from None
            raise Unavailable(
                f"The process that read the SQLite file {source.path!r} ended with the statement; the file may be "
                "damaged on purpose."
            ) from None

    async def _file(self, source: Source, *, anew: bool = False) -> _File:
        """The file of a source, if policy allows it, as it was a moment ago, or as it is now."""
        known = self._files.get(source)
        if known is None or anew or known.until < time.monotonic():
            self._files = {each: file for each, file in self._files.items() if file.until >= time.monotonic()}
            self._files[source] = known = await asyncio.to_thread(self._find, source)
        return known

    def _find(self, source: Source) -> _File:
        path = self._locate(source)
        try:
            found = os.stat(path)  # noqa: PTH116 - a Path's own takes three times as long
        except OSError:
            raise Unavailable(f"The SQLite file {source.path!r} is being replaced. Try again.") from None
        return _File(str(path), (found.st_dev, found.st_ino), time.monotonic() + VETTED_S)


def _wrapped(name: str, value: Any) -> Any:
    match value:
        case bytes():
            return {"blob": base64.b64encode(value).decode("ascii")}
        case bool():
            return int(value)
        case None | float() | str():
            return value
        case int() if -(2**63) <= value < 2**63:
            return value
    raise InvalidInput(f"The parameter {name!r} has a value that SQLite has no type for.")


@contextlib.contextmanager
def _encodable() -> Iterator[None]:
    try:
        yield
    except TypeError:
        raise InvalidInput("The statement or a parameter is not valid Unicode.") from None


def _restored(message: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a message, with the cells that JSON has no form for as they were."""
    rows: list[Any] = message["rows"]
    for row, column in message.get("blobs", ()):
        rows[row][column] = base64.b64decode(rows[row][column])
    for row, column, text in message.get("numbers", ()):
        rows[row][column] = float(text)
    return list(map(tuple, rows))


def _explained(message: Mapping[str, Any], source: Source) -> GatherumError:
    """What a child reports, as an error of ours. SQLite's messages name tables and words of the statement only."""
    file, text = f"The SQLite file {source.path!r}", message["error"]
    if message["kind"] == "memory":
        return Refused("The statement needs more memory than one may have. Ask for less, or sort less.")
    match (message["code"] or sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_INTERRUPT:
            return too_slow(source)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Unavailable(f"{file} is locked by another program.")
        case sqlite3.SQLITE_AUTH | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return Refused(f"A source is only read, and the statement would do more: {text}.")
        case sqlite3.SQLITE_TOOBIG | sqlite3.SQLITE_NOMEM | sqlite3.SQLITE_FULL:
            return Refused(f"The statement makes a value, or needs memory, beyond what is allowed: {text}.")
        case sqlite3.SQLITE_NOTADB:
            return InvalidInput(f"{file} is not an SQLite database, or is encrypted.")
        case sqlite3.SQLITE_CORRUPT:
            return InvalidInput(f"{file} is damaged. `PRAGMA integrity_check` says where.")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR:
            return InvalidInput(
                f"{file} cannot be opened read-only. One in WAL mode needs its -wal and -shm files beside it."
            )
    if "not authorized" in text or "prohibited" in text:
        return Refused(f"A source is only read, and the statement would do more: {text}.")
    return InvalidInput(f"SQLite does not take the statement: {text}.")
