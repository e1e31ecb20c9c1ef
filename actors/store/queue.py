"""Who is next: the order in which jobs are claimed.

Lanes come first: a job of a higher priority goes before every job of a lower one. Within a lane, collections take
turns. Each job gets the number of its turn when it joins the queue: one past the last of its own collection, but never
before the one that is being served. So the ten thousandth document of a collection waits behind the first of another,
and that other one gains nothing from having been idle. This is start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM
1996) with every job counted as one unit: all of it is decided at the entrance, and a claim is the first entry of an
index, however long the queue and however many collections there are.

Two uploads at the same moment may draw the same turn. Nothing hangs on it but a fair order, so nobody waits for a lock.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import InvalidInput
from actors.store.tables import jobs

PRIORITIES = {"low": -10, "normal": 0, "high": 10}
HIGHEST = 100

BACKGROUND = PRIORITIES["low"]
"""Priority of work that nobody asked for, such as reading again with a newer pipeline."""


def priority_of(text: str) -> int:
    """A priority as a person writes it: `low`, `normal`, `high`, or a whole number; higher goes first.

    Raises:
        InvalidInput: it is none of them.
    """
    if text in PRIORITIES:
        return PRIORITIES[text]
    try:
        number = int(text)
    except ValueError:
        number = HIGHEST + 1
    if abs(number) > HIGHEST:
        raise InvalidInput(
            f"The priority is low, normal, high, or a whole number from -{HIGHEST} to {HIGHEST}; higher goes first."
        )
    return number


def lane_of(priority: int) -> int:
    """Where the priority stands in the index, which can only be read upwards on every database."""
    return -priority


def priority_in(lane: int) -> int:
    """The inverse of `lane_of`."""
    return -lane


async def turn(connection: AsyncConnection, now: float, collection: str, lane: int) -> int:
    """The turn of a job that joins the queue now."""
    last: int | None = (await connection.execute(_last_turn(collection, lane))).scalar_one()
    served = await _served(connection, now, lane)
    return served if last is None else max(served, last + 1)


async def turn_again(connection: AsyncConnection, now: float, lane: int, before: int) -> int:
    """The turn of a job that comes back: its own, but not one before the head.

    From there it would give every newcomer the turn of long ago.
    """
    return max(before, await _served(connection, now, lane))


async def _served(connection: AsyncConnection, now: float, lane: int) -> int:
    """The turn that a lane has come to: that of its next job."""
    found: int | None = (await connection.execute(_first_turn(now, lane))).scalar_one_or_none()
    if found is None:
        newest = select(func.max(jobs.c.turn)).where(jobs.c.state == "queued", jobs.c.lane == lane)
        found = (await connection.execute(newest)).scalar_one()
    return found or 0


def _last_turn(collection: str, lane: int) -> Select[Any]:
    return select(func.max(jobs.c.turn)).where(
        jobs.c.collection == collection, jobs.c.state == "queued", jobs.c.lane == lane
    )


def _first_turn(now: float, lane: int) -> Select[Any]:
    # One that waits for its retry is not next, whatever its turn.
    due = (jobs.c.state == "queued", jobs.c.lane == lane, jobs.c.run_at <= now)
    return select(jobs.c.turn).where(*due).order_by(jobs.c.turn).limit(1)


def gone(*columns: Any) -> Select[Any]:
    """The job whose worker has been gone for longest, as a statement with the parameters `now` and `pipeline`.

    Two statements, this one and the next, so that each takes the first entry of its index and neither sorts the whole
    queue. Jobs for a newer pipeline are left to newer workers.
    """
    expired = (jobs.c.state == "reading", jobs.c.lease_until <= bindparam("now"))
    return _claimable(select(*columns).where(*expired).order_by(jobs.c.lease_until))


def due(*columns: Any) -> Select[Any]:
    """The first job in the queue, as such a statement."""
    # Jobs that wait for their retry are passed over at the head of the index: as many as fail in a minute.
    in_order = (jobs.c.lane, jobs.c.turn, jobs.c.run_at)
    waiting = (jobs.c.state == "queued", jobs.c.run_at <= bindparam("now"))
    return _claimable(select(*columns).where(*waiting).order_by(*in_order))


def _claimable(statement: Select[Any]) -> Select[Any]:
    return statement.where(jobs.c.pipeline <= bindparam("pipeline")).limit(1).with_for_update(skip_locked=True)
