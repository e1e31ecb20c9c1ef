"""What it takes to run one guarded statement, whatever the kind of database: limits, rows in batches, and an end.

Each kind of database has an engine of its own behind the protocol here. An engine trusts nothing that comes before it:
the layers that keep a statement from writing are all its own, and each can be taken away by a test that wants to see
what it is for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, Refused
from actors.messages import Source
from actors.sql.schema import Schema, Tested

GRACE_S: Final = 0.5
"""After its deadline, what a statement has to end by itself before it is ended by force."""

Params = Mapping[str, Any]
"""Values of a statement's `:names`: None, truth values, numbers, texts and bytes."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of an answer is wanted.

    Attributes:
        rows: most rows; 0 for the columns alone.
        bytes: most bytes of values, about as they travel. The row that goes beyond is the last.
    """

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer.

    Attributes:
        name: as the database gives it; two may be alike.
        type: in the database's own words; empty where it has none, as SQLite for what was computed.
    """

    name: str
    type: str = ""


@dataclass(slots=True)
class Result:
    """The answer to a statement while it comes in.

    Attributes:
        columns: in order.
        batches: rows, as tuples of Python's values; to be read once.
        truncated: whether there was more than the limits let through. Known when the batches are at their end.
    """

    columns: tuple[Column, ...]
    batches: AsyncIterator[list[tuple[Any, ...]]] = field(repr=False)
    truncated: bool = False

    async def rows(self) -> list[tuple[Any, ...]]:
        """All that is left."""
        return [row async for batch in self.batches for row in batch]


class Engine(Protocol):
    """Runs statements in one kind of database. What it runs can read, and nothing else."""

    def run(
        self, source: Source, sql: str, params: Params, limits: Limits, deadline: Deadline
    ) -> AbstractAsyncContextManager[Result]:
        """One statement. It is ended on the server when the block is left, whatever the reason.

        Raises:
            InvalidInput: it is no single SELECT, does not fit the database, or its parameters do not fit it.
            Refused: it would do more than read.
            DeadlineExceeded: it took too long.
            Unavailable: the database is away, or takes nobody in.
        """

    async def explain(self, source: Source, sql: str, params: Params, deadline: Deadline) -> Any:
        """How the server would run a statement, in the form that `plans.py` reads. It is not run.

        Raises:
            GatherumError: as `run`.
        """

    async def schema(self, source: Source, deadline: Deadline, *, samples: int) -> Schema:
        """The tables as they are now, with up to `samples` values of each column.

        Raises:
            GatherumError: as `run`.
        """

    async def test(self, source: Source, deadline: Deadline) -> Tested:
        """What a new connection finds out.

        Raises:
            GatherumError: as `run`.
        """

    async def close(self) -> None:
        """End everything that runs, and every connection."""


class Allowance:
    """Counts what comes in against the limits.

    Args:
        limits: what may come.
    """

    def __init__(self, limits: Limits) -> None:
        self.rows = limits.rows
        self.bytes = limits.bytes

    def take(self, batch: Sequence[tuple[Any, ...]], size: int) -> tuple[list[tuple[Any, ...]], bool]:
        """As much of a batch as is allowed, and whether something was left.

        Args:
            batch: rows.
            size: of them all, bytes.
        """
        if self.bytes <= 0:
            return [], bool(batch)
        taken = list(batch[: self.rows])
        self.rows -= len(taken)
        self.bytes -= size
        return taken, len(taken) < len(batch)


def no_query(first: str) -> Refused:
    """The error of a statement that begins with another word than a query does."""
    return Refused(f"A source is only read: the statement begins with {first.upper() or 'no word'}, not with SELECT.")


def too_slow(source: Source) -> DeadlineExceeded:
    """The error of a statement whose time is up."""
    return DeadlineExceeded(f"The source {source.name!r} did not answer in time.")
