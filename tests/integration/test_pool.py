"""Pools over real actors: what a caller sees when replicas are slow, fail or die."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest
import ray

from actors import pool as module
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, Unavailable, UnknownDocument
from actors.pool import NAMESPACE, names_of, on_each, pool_of, replica_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_node")]

REPLICAS = 2


class Toy:
    """A role with one method of each kind."""

    ROLE: ClassVar[str] = "toy"
    IDEMPOTENT: ClassVar[frozenset[str]] = frozenset({"pid", "wait", "state"})

    def __init__(self) -> None:
        self.running = 0
        self.cancelled = 0

    async def pid(self, *, deadline: Deadline) -> int:
        return os.getpid()

    async def pid_once(self, *, deadline: Deadline) -> int:
        return os.getpid()

    async def wait(self, seconds: float, *, deadline: Deadline) -> int:
        self.running += 1
        try:
            await asyncio.sleep(seconds)
            return os.getpid()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def state(self, *, deadline: Deadline) -> tuple[int, int]:
        return self.running, self.cancelled

    async def fail(self, *, deadline: Deadline) -> None:
        raise UnknownDocument("There is no document of that id.")

    async def break_(self, *, deadline: Deadline) -> None:
        raise RuntimeError("secret internals")

    async def count(self, to: int, *, deadline: Deadline) -> AsyncIterator[int]:
        try:
            for number in range(to):
                yield number
                await asyncio.sleep(0)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


@pytest.fixture
def toys() -> Iterator[Any]:
    remote_toy: Any = ray.remote(Toy)
    actors = [
        remote_toy.options(name=replica_name("toy", index), namespace=NAMESPACE, num_cpus=0, max_restarts=-1).remote()
        for index in range(REPLICAS)
    ]
    # A call that is cancelled before its actor is up never runs, so tests start with actors that are.
    ray.get([actor.pid.remote(deadline=soon()) for actor in actors])
    yield pool_of(Toy, tuple(range(REPLICAS)))
    for actor in actors:
        ray.kill(actor)


def soon() -> Deadline:
    return Deadline.after(30)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.05)


async def test_calls_in_flight_are_spread_over_the_replicas(toys: Toy) -> None:
    pids = await asyncio.gather(*(toys.wait(0.2, deadline=soon()) for _ in range(8)))
    assert sorted(pids.count(pid) for pid in set(pids)) == [4, 4]


async def test_an_error_of_ours_arrives_with_its_type_and_detail(toys: Toy) -> None:
    with pytest.raises(UnknownDocument, match="no document of that id") as caught:
        await toys.fail(deadline=soon())
    assert type(caught.value) is UnknownDocument


async def test_a_defect_arrives_without_its_internals(toys: Toy) -> None:
    with pytest.raises(GatherumError) as caught:
        await toys.break_(deadline=soon())
    assert "secret" not in str(caught.value)
    assert caught.value.code == "internal"


async def test_no_call_starts_without_time_left(toys: Toy) -> None:
    with pytest.raises(DeadlineExceeded):
        await toys.pid(deadline=Deadline.after(-1))


async def test_the_deadline_ends_the_remote_half_too(toys: Toy) -> None:
    with pytest.raises(DeadlineExceeded):
        await toys.wait(60, deadline=Deadline.after(1))
    await assert_cancelled_once(toys)


async def test_cancelling_the_caller_ends_the_remote_half_too(toys: Toy) -> None:
    call = asyncio.create_task(toys.wait(60, deadline=soon()))

    async def started() -> bool:
        return sum(running for running, _ in await states(toys)) == 1

    await until(started)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await assert_cancelled_once(toys)


async def test_an_idempotent_call_outlives_the_death_of_every_replica(toys: Toy) -> None:
    before = await on_each(toys, lambda replica: replica.pid(deadline=soon()))
    for pid in before:
        assert isinstance(pid, int)
        os.kill(pid, signal.SIGKILL)
    after = await toys.pid(deadline=soon())
    assert after not in before


async def test_an_idempotent_call_in_flight_moves_to_another_replica(toys: Toy) -> None:
    call = asyncio.create_task(toys.wait(1.5, deadline=soon()))
    victims: list[int] = []

    async def victim_known() -> bool:
        pids = await on_each(toys, lambda replica: replica.pid(deadline=soon()))
        victims[:] = [pid for pid, (running, _) in zip(pids, await states(toys), strict=True) if running]  # type: ignore[misc]
        return bool(victims)

    await until(victim_known)
    os.kill(victims[0], signal.SIGKILL)
    assert await call != victims[0]


async def test_a_call_that_may_have_run_is_not_repeated(toys: Toy) -> None:
    alone = pool_of(Toy, (0,))
    pid = await alone.pid(deadline=soon())
    os.kill(pid, signal.SIGKILL)

    async def call_until_it_fails() -> None:
        # Those that were sent before Ray noticed, or after the actor was back, succeed.
        for _ in range(1000):
            await alone.pid_once(deadline=soon())

    with pytest.raises(Unavailable):
        await call_until_it_fails()


async def test_a_stream_yields_in_order_and_stops_when_left(toys: Toy) -> None:
    assert [number async for number in toys.count(20, deadline=soon())] == list(range(20))
    stream = toys.count(1_000_000, deadline=soon())
    assert await anext(stream) == 0
    await stream.aclose()  # type: ignore[attr-defined]
    await assert_cancelled_once(toys)


async def test_replicas_that_come_and_go_are_noticed(toys: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.pool.LOOK_S", 0.0)
    pool = pool_of(Toy, (0,))
    remote_toy: Any = ray.remote(Toy)

    async def pids() -> set[int]:
        return set(await asyncio.gather(*(pool.wait(0.05, deadline=soon()) for _ in range(8))))

    async def both() -> bool:
        return len(await pids()) == REPLICAS

    await until(both)
    third = remote_toy.options(name=replica_name("toy", REPLICAS), namespace=NAMESPACE, num_cpus=0).remote()
    await third.pid.remote(deadline=soon())

    async def all_three() -> bool:
        return len(await pids()) == REPLICAS + 1

    await until(all_three)
    ray.kill(third)
    # Calls in flight on it are made again; afterwards it is not looked for.
    assert len(await pids()) <= REPLICAS

    async def two_again() -> bool:
        await pids()
        return len(names_of(pool)) == REPLICAS

    await until(two_again)


async def test_a_dead_replica_is_not_the_first_choice_of_every_call(toys: Toy) -> None:
    victim, other = await on_each(toys, lambda replica: replica.pid(deadline=soon()))
    assert isinstance(victim, int)
    os.kill(victim, signal.SIGKILL)
    before = module._RETRIES.values.get(("toy", "yes"), 0.0)
    found = {await toys.pid(deadline=soon()) for _ in range(200)}
    assert other in found
    assert victim not in found
    assert module._RETRIES.values.get(("toy", "yes"), 0.0) <= before + 1


async def test_a_missing_role_is_unavailable_after_the_deadline() -> None:
    class Absent(Toy):
        ROLE: ClassVar[str] = "absent"

    with pytest.raises((Unavailable, DeadlineExceeded)):
        await pool_of(Absent, (0,)).pid(deadline=Deadline.after(0.3))


async def test_a_pool_survives_pickling(toys: Toy) -> None:
    copy = pickle.loads(pickle.dumps(toys))  # noqa: S301 - our own
    assert await copy.pid(deadline=soon()) in await on_each(toys, lambda replica: replica.pid(deadline=soon()))


async def states(toys: Toy) -> list[tuple[int, int]]:
    found = await on_each(toys, lambda replica: replica.state(deadline=soon()))
    return [state for state in found if not isinstance(state, GatherumError)]


async def assert_cancelled_once(toys: Toy) -> None:
    async def settled() -> bool:
        found = await states(toys)
        return sum(running for running, _ in found) == 0 and sum(cancelled for _, cancelled in found) == 1

    await until(settled)
