"""Pool: the replicas of one role, used as if they were one local object.

A role that needs another is given a Pool typed as that role's class, so its code (and its unit tests) cannot tell a
remote replica from a plain object. The pool picks the replica with the fewest calls in flight of those that are there.
A call that fails because a process died is repeated, on another replica or on the restarted one, but only if the role
declares the method idempotent and the retry budget has something left; every call ends by its deadline, and then its
remote half is cancelled too.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, Protocol, TypeVar, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError, TaskCancelledError

from actors import metrics
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, Unavailable
from actors.retries import RetryBudget
from config import logs

NAMESPACE = "gatherum"

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
READY_S = 10.0
"""How long one look waits for a replica that is being started, s."""

LOOK_S = 5.0
"""How often a pool that is used looks which replicas there are, s."""

STREAM_BUFFER = 8
"""Items a streaming call may be ahead of its reader."""

WORK = {
    "database": "the work of the store",
    "retrieval": "the search",
    "entities": "the search for names",
    "pdf": "the reading of the PDF",
    "ingest": "the call to the ingestion",
    "orchestrator": "the answer",
}
"""What the roles do, for clients, who know nothing of their methods."""


_CALLS = metrics.PROCESS.counter("gatherum_calls_total", "Remote calls, by what became of them.", "role", "outcome")
_RETRIES = metrics.PROCESS.counter(
    "gatherum_retries_total", "Calls that were lost, by whether they were made again.", "role", "made"
)
_LOST = metrics.PROCESS.counter("gatherum_replicas_lost_total", "Times that a replica was found gone.", "role")


class Role(Protocol):
    """What a class must declare to be run as a pool of actors."""

    ROLE: ClassVar[str]
    IDEMPOTENT: ClassVar[frozenset[str]]


R = TypeVar("R")
T = TypeVar("T")


def replica_name(role: str, index: int, *, shard: int | None = None) -> str:
    """Name of a replica's actor in the namespace: `retrieval-0`, or `retrieval.1-0` for one of shard 1."""
    return f"{role}-{index}" if shard is None else f"{role}.{shard}-{index}"


def replica_of(name: str) -> str:
    """What an actor is a replica of: `retrieval` of `retrieval-0`; empty for the name of something else."""
    family, dash, index = name.rpartition("-")
    return family if dash and index.isdecimal() else ""


class _Replica:
    """One replica, as this process knows it.

    Attributes:
        returning: looks for it since a call to it was lost; None while it is taken to be there.
    """

    __slots__ = ("handle", "in_flight", "name", "returning")

    def __init__(self, name: str) -> None:
        self.name = name
        self.handle: ActorHandle[Any] | None = None
        self.in_flight = 0
        self.returning: asyncio.Task[None] | None = None


class Pool:
    """Forwards each method as a remote call. See the module's docstring.

    Replicas that come and go (`gatherum scale`) are noticed within `LOOK_S` of a call.

    Args:
        role: name of the role.
        idempotent: methods that may be repeated.
        streaming: methods that are async generators.
        names: of the replicas' actors.
        fixed: whether it is these replicas and no others.
    """

    def __init__(
        self,
        role: str,
        idempotent: frozenset[str],
        streaming: frozenset[str],
        names: tuple[str, ...],
        *,
        fixed: bool = False,
    ) -> None:
        self._role = role
        self._idempotent = idempotent
        self._streaming = streaming
        self._work = WORK.get(role, f"the work of the {role} role")
        self._replicas = [_Replica(name) for name in names]
        self._retries = RetryBudget(time.monotonic)
        self._family = names[0].rpartition("-")[0]
        self._look_at = float("inf") if fixed else time.monotonic() + LOOK_S
        self._looking: asyncio.Task[None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Calls in flight and handles belong to one process.
        return (Pool, (self._role, self._idempotent, self._streaming, self._names))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(replica.name for replica in self._replicas)

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)
        forward = self._stream if method in self._streaming else self._call
        bound = functools.partial(forward, method)
        # Next time the attribute is found without coming here: this is on the path of every question.
        self.__dict__[method] = bound
        return bound

    def _alone(self, name: str) -> Pool:
        return Pool(self._role, self._idempotent, self._streaming, (name,), fixed=True)

    async def _call(self, method: str, *args: Any, deadline: Deadline, **kwargs: Any) -> Any:
        what = self._work
        self._retries.deposit()
        self._look_around()
        while True:
            deadline.check(what)
            replica = await self._present(method, deadline)
            # Counted from the choice on, or calls that start together would all choose the same one.
            replica.in_flight += 1
            try:
                handle = replica.handle
                if handle is None:
                    handle = await deadline.run(self._find(replica), what)
                return await self._attempt(handle, method, args, kwargs, deadline)
            except RayTaskError as error:
                _CALLS.add(self._role, "error")
                raise _cause(error, f"{self._role}.{method}", what) from None
            except (RayActorError, ActorUnavailableError) as error:
                self._lost(replica)
                if method not in self._idempotent:
                    # It may or may not have run; only the caller can find out.
                    raise self._away(method, "broke off. Try again.", error) from error
                paid = self._retries.withdraw()
                _RETRIES.add(self._role, "yes" if paid else "no")
                if not paid:
                    raise self._away(method, "broke off, as too much else does. Try again.", error) from error
            except ValueError:
                # No actor of that name: it is being created, or the system is down. Nothing was begun.
                self._lost(replica)
            except TaskCancelledError:
                raise self._away(method, "was cancelled. Try again.") from None
            except RayError as error:
                raise self._away(method, "was lost on its way. Try again.", error) from error
            finally:
                replica.in_flight -= 1

    async def _present(self, method: str, deadline: Deadline) -> _Replica:
        """The least busy of the replicas that are there; where none is, the first that comes back.

        Raises:
            Unavailable: none comes back in time.
        """
        while (replica := self._least_busy()) is None:
            looks = [replica.returning for replica in self._replicas if replica.returning is not None]
            done, _ = await asyncio.wait(looks, timeout=deadline.remaining(), return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise self._away(method, "is not possible at the moment. Try again in a few seconds.")
        return replica

    def _look_around(self) -> None:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._looking = asyncio.create_task(self._look(), name=f"look-{self._family}")

    async def _look(self) -> None:
        """Find out which replicas there are now; those that are here already keep what is known of them."""
        try:
            listed = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        except RayError:
            return
        names = sorted(
            entry["name"]
            for entry in listed
            if entry["namespace"] == NAMESPACE and replica_of(entry["name"]) == self._family
        )
        known = {replica.name: replica for replica in self._replicas}
        if names and set(names) != set(known):
            logs.get().info("replicas_changed", role=self._role, replicas=names)
            self._replicas = [known[name] if name in known else _Replica(name) for name in names]
            for name, gone in known.items():
                if name not in names and gone.returning is not None:
                    gone.returning.cancel()

    def _lost(self, replica: _Replica) -> None:
        """A call to it was lost: no other is sent there until it is found again, which one look at a time finds out.

        Without this the dead replica, which has nothing in flight, would be the first choice of every call.
        """
        replica.handle = None
        if replica.returning is None:
            _LOST.add(self._role)
            replica.returning = asyncio.create_task(self._await_return(replica), name=f"return-{replica.name}")

    async def _await_return(self, replica: _Replica) -> None:
        pause = FIRST_PAUSE_S
        try:
            while not await self._is_back(replica):
                # Full jitter: those who lost it together do not come back together.
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret depends on it
                pause = min(2 * pause, LONGEST_PAUSE_S)
        finally:
            replica.returning = None

    async def _is_back(self, replica: _Replica) -> bool:
        try:
            handle: Any = await self._find(replica)
            async with asyncio.timeout(READY_S):
                await handle.__ray_ready__.remote()
        except (RayError, ValueError, TimeoutError):
            replica.handle = None
            return False
        return True

    async def _attempt(
        self,
        handle: ActorHandle[Any],
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        deadline: Deadline,
    ) -> Any:
        ref = getattr(handle, method).remote(*args, deadline=deadline, **kwargs)
        try:
            value = await deadline.run(ref, self._work)
        except (DeadlineExceeded, asyncio.CancelledError):
            # Awaiting less does not stop the remote half.
            _cancel(ref)
            _CALLS.add(self._role, "given up")
            raise
        _CALLS.add(self._role, "ok")
        return value

    async def _stream(self, method: str, *args: Any, deadline: Deadline, **kwargs: Any) -> AsyncIterator[Any]:
        what = self._work
        deadline.check(what)
        replica = await self._present(method, deadline)
        try:
            handle = replica.handle or await deadline.run(self._find(replica), what)
        except ValueError:
            self._lost(replica)
            raise self._away(method, "is not possible at the moment. Try again in a few seconds.") from None
        replica.in_flight += 1
        call = getattr(handle, method).options(
            num_returns="streaming", _generator_backpressure_num_objects=STREAM_BUFFER
        )
        items = call.remote(*args, deadline=deadline, **kwargs)
        finished = False
        try:
            while True:
                try:
                    ref = await deadline.run(anext(items), what)
                except StopAsyncIteration:
                    finished = True
                    return
                yield await deadline.run(ref, what)
        except RayTaskError as error:
            raise _cause(error, f"{self._role}.{method}", what) from None
        except RayError as error:
            self._lost(replica)
            raise self._away(method, "broke off. Try again.", error) from error
        finally:
            replica.in_flight -= 1
            if not finished:
                _cancel(items)

    def _away(self, method: str, said: str, error: Exception | None = None) -> Unavailable:
        """What a client is told of a replica that does not answer, in its own terms; the log has ours."""
        kind = type(error).__name__ if error else ""
        logs.get().warning("replica_away", role=self._role, method=method, said=said, kind=kind)
        return Unavailable(f"{self._work[0].upper()}{self._work[1:]} {said}")

    def _least_busy(self) -> _Replica | None:
        there = [replica for replica in self._replicas if replica.returning is None]
        if len(there) <= 1:
            return there[0] if there else None
        fewest = min(replica.in_flight for replica in there)
        return random.choice([replica for replica in there if replica.in_flight == fewest])  # noqa: S311 - spreads load

    async def _find(self, replica: _Replica) -> ActorHandle[Any]:
        # A blocking look-up in Ray's control store.
        replica.handle = await asyncio.to_thread(ray.get_actor, replica.name, namespace=NAMESPACE)
        return replica.handle


def pool_of(role: type[R], indexes: tuple[int, ...], *, shard: int | None = None) -> R:
    """The pool of a role's replicas, typed as the role.

    Args:
        role: its class.
        indexes: which replicas.
        shard: of which shard; None where there is only one.
    """
    declared = cast("type[Role]", role)
    streaming = frozenset(
        name for name, member in vars(role).items() if hasattr(member, "__code__") and member.__code__.co_flags & 0x200
    )
    names = tuple(replica_name(declared.ROLE, index, shard=shard) for index in indexes)
    return cast("R", Pool(declared.ROLE, declared.IDEMPOTENT, streaming, names))


def names_of(role: Any) -> tuple[str, ...]:
    """The names of a role's replicas, in the order in which `on_each` goes through them."""
    return role._names if isinstance(role, Pool) else (replica_name(role.ROLE, 0),)


async def on_each(role: R, call: Callable[[R], Awaitable[T]]) -> list[T | GatherumError]:
    """Run a call on every replica of a role at once; a replica's failure is its value.

    Args:
        role: a pool, or a plain object (then it is the only replica).
        call: given one replica, typed as the role.
    """
    if isinstance(role, Pool):
        alone = [cast("R", role._alone(name)) for name in role._names]
        role._look_around()
    else:
        alone = [role]

    async def one(replica: R) -> T | GatherumError:
        try:
            return await call(replica)
        except GatherumError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(replica)) for replica in alone]
    return [task.result() for task in tasks]


async def value_of(value: Any, *, deadline: Deadline) -> Any:
    """What a message refers to: the object of a reference; anything else (without Ray) is it already.

    Raises:
        Unavailable: the object was lost with the process that owned it.
    """
    if not isinstance(value, ray.ObjectRef):
        return value
    try:
        return await deadline.run(value, "Taking over the pages")
    except RayError as error:
        raise Unavailable("Pages were lost on their way. Try again.") from error


def _cause(error: RayTaskError, call: str, what: str) -> Exception:
    """The error that the remote side raised, as our own type where it is one of ours.

    Args:
        error: as Ray gives it.
        call: for the log.
        what: for the client.
    """
    cause = error.cause
    if isinstance(cause, GatherumError):
        return cause
    if isinstance(cause, RayError):
        # For example the object of an argument was lost with the process that owned it.
        return Unavailable(f"A call was lost on its way: {what}. Try again.")
    # A defect: the log has all of it, the caller learns only that it happened.
    logs.get().error("remote_call_failed", call=call, error=str(error))
    return GatherumError(f"{what[0].upper()}{what[1:]} failed unexpectedly. The log has the details.")


def _cancel(ref: Any) -> None:
    try:
        ray.cancel(ref, recursive=False)
    except (RayError, ValueError, TypeError) as error:
        logs.get().debug("cancel_failed", error=str(error))
