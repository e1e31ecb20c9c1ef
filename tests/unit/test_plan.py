"""Plans: how they print, in which order they run, and that nothing of them is left when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.breaker import FAILURES, Breaker
from actors.deadline import Deadline
from actors.errors import Unavailable
from actors.plan import (
    Branch,
    Call,
    Calls,
    Make,
    Plan,
    branch,
    efficiency,
    fork_join,
    pipeline,
    run,
    scatter_gather,
    tree,
)

SOON = Deadline.after(7200)


class World:
    """What the branches of a plan do, and a note of it.

    Attributes:
        events: `+name` when a call begins, `-name` when it ends, `!name` when it is cancelled.
        gates: calls that wait for an event.
        failing: calls that fail.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.failing: set[str] = set()

    async def until(self, event: str) -> None:
        """Wait for it to be noted."""
        for _ in range(100):
            if event in self.events:
                return
            await asyncio.sleep(0)
        pytest.fail(f"{event} did not happen: {self.events}")

    def call(self, name: str) -> Branch:
        return branch(name, self.make(name), items=1)

    def make(self, name: str) -> Make:
        async def make(until: Deadline) -> Sequence[str]:
            self.events.append(f"+{name}")
            try:
                await asyncio.sleep(0)
                if name in self.gates:
                    await self.gates[name].wait()
            except asyncio.CancelledError:
                self.events.append(f"!{name}")
                raise
            self.events.append(f"-{name}")
            if name in self.failing:
                raise Unavailable("Down.")
            return [name]

        return make


async def others() -> None:
    """Wait until no other task is left: what hangs here is an orphan."""
    async with asyncio.timeout(5):
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left)


def question(world: World) -> Plan:
    def sources(calls: Calls) -> list[Branch]:
        return [world.call(f"sql:{place}") for place in ("a", "b")] if calls["entities"].brought else []

    return fork_join(
        pipeline(world.call("entities"), scatter_gather("the sources", sources)),
        world.call("retrieval"),
    )


async def test_it_prints_as_a_tree_before_and_after() -> None:
    world = World()
    assert tree(question(world)) == (
        "fork_join\n├── pipeline\n│   ├── entities\n│   └── scatter_gather over the sources\n└── retrieval"
    )
    world.failing = {"sql:b"}
    now = iter(range(100))
    calls = await run(question(world), SOON, clock=lambda: float(next(now)))
    said = tree(question(world), calls)
    assert "│       ├── sql:a: " in said
    assert "│       └── sql:b: " in said
    assert said.count("ms") == 4
    assert said.count("unavailable") == 1


async def test_independent_work_does_not_wait_for_other_work() -> None:
    world = World()
    world.gates = {"retrieval": asyncio.Event()}
    running = asyncio.create_task(run(question(world), SOON))
    await world.until("-sql:b")
    assert "-retrieval" not in world.events
    world.gates["retrieval"].set()
    assert all(call.brought for call in (await running).values())


async def test_a_stage_that_brought_nothing_ends_its_pipeline_only() -> None:
    world = World()
    world.failing = {"entities"}
    calls = await run(question(world), SOON)
    assert set(calls) == {"entities", "retrieval"}
    assert isinstance(calls["entities"].error, Unavailable)
    assert not any("sql" in event for event in world.events)
    assert calls["retrieval"].values == ["retrieval"]


async def test_no_branch_begins_without_time() -> None:
    world = World()
    calls = await run(fork_join(world.call("a"), branch("b", world.make("b"), until=Deadline(1.0))), SOON)
    assert calls["a"].brought
    assert calls["b"].started is None
    assert world.events == ["+a", "-a"]
    assert tree(branch("b", world.make("b")), calls) == "b: no time was left"
    assert (await run(world.call("c"), Deadline(1.0)))["c"].started is None


async def test_each_call_gets_the_earlier_deadline() -> None:
    given_: list[Deadline] = []

    async def make(until: Deadline) -> Sequence[int]:
        given_.append(until)
        return []

    sooner = Deadline(SOON.at - 1)
    later = Deadline(SOON.at + 1)
    await run(fork_join(branch("a", make), branch("b", make, until=sooner), branch("c", make, until=later)), SOON)
    assert given_ == [SOON, sooner, SOON]


async def test_what_is_late_is_cancelled_and_what_came_counts() -> None:
    world = World()
    world.gates = {"retrieval": asyncio.Event()}
    calls = await run(question(world), Deadline.after(0.05))
    await others()
    assert "!retrieval" in world.events
    assert not calls["retrieval"].brought
    assert calls["sql:a"].brought
    assert tree(question(world), calls).endswith("retrieval: not back in time")


async def test_the_record_is_closed_when_the_run_is_over() -> None:
    stubborn = asyncio.Event()

    async def make(until: Deadline) -> Sequence[int]:
        while not stubborn.is_set():
            try:
                await stubborn.wait()
            except asyncio.CancelledError:
                continue
        return [1]

    calls = await run(branch("stubborn", make), Deadline.after(0.01))
    stubborn.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not calls["stubborn"].brought


async def test_a_cancelled_run_takes_its_calls_along() -> None:
    world = World()
    world.gates = {"entities": asyncio.Event(), "retrieval": asyncio.Event()}
    running = asyncio.create_task(run(question(world), SOON))
    await world.until("+retrieval")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await others()
    assert {event for event in world.events if event[0] == "!"} == {"!entities", "!retrieval"}


async def test_too_few_values_and_defects_are_failures_of_the_branch() -> None:
    async def defect(until: Deadline) -> Sequence[int]:
        raise RuntimeError("secret")

    async def short(until: Deadline) -> Sequence[int]:
        return [1]

    calls = await run(fork_join(branch("defect", defect), branch("short", short, items=2)), SOON)
    for call in calls.values():
        assert isinstance(call.error, Unavailable)
        assert "secret" not in call.error.detail
        assert call.values == ()


async def test_two_branches_of_one_name_are_a_defect() -> None:
    world = World()
    with pytest.raises(ValueError, match="two branches are named 'a'"):
        await run(pipeline(world.call("a"), world.call("a")), SOON)


def test_efficiency_is_how_much_ran_beside_one_another() -> None:
    one = {"a": Call[int](0.0, 1.0), "b": Call[int](1.0, 2.0)}
    assert efficiency(one, 0.0, 2.0) == 1.0
    assert efficiency({"a": Call[int](0.0, 2.0), "b": Call[int](0.0)}, 0.0, 2.0) == 2.0
    assert efficiency({"a": Call[int]()}, 0.0, 2.0) == 0.0
    assert efficiency({}, 1.0, 1.0) == 0.0


def plans(world: Callable[[], World]) -> st.SearchStrategy[object]:
    """Shapes: a number is a branch, a tuple a fork, a list a pipeline."""
    return st.recursive(
        st.just(0),
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.lists(inner, max_size=3).map(tuple),
        max_leaves=12,
    )


def built(shape: object, world: World, names: list[str]) -> Plan:
    if shape == 0:
        names.append(f"b{len(names)}")
        return world.call(names[-1])
    assert isinstance(shape, list | tuple)
    parts = [built(part, world, names) for part in shape]
    return fork_join(*parts) if isinstance(shape, tuple) else pipeline(*parts)


@given(plans(World), st.sets(st.integers(0, 11)))
def test_every_plan_ends_with_a_record_of_each_branch_it_reached(shape: object, failing: set[int]) -> None:
    world, names = World(), list[str]()
    plan = built(shape, world, names)
    world.failing = {f"b{number}" for number in failing}

    async def go() -> dict[str, Call[object]]:
        calls = await run(plan, SOON)
        assert len(asyncio.all_tasks()) == 1
        return calls

    calls = asyncio.run(go())
    begun = [event[1:] for event in world.events if event[0] == "+"]
    assert sorted(begun) == sorted(calls)
    assert len(begun) == len(set(begun))
    for name, call in calls.items():
        assert call.brought == (name not in world.failing)
    if not world.failing & set(names):
        assert set(calls) == set(names)
    assert tree(plan, calls).count("not reached") == len(set(names) - set(calls))


@given(plans(World))
def test_stages_of_a_pipeline_do_not_overlap(shape: object) -> None:
    world, names = World(), list[str]()
    inner = built(shape, world, names)
    before, after = world.call("before"), world.call("after")
    asyncio.run(run(pipeline(before, inner, after), SOON))
    assert world.events[:2] == ["+before", "-before"]
    assert world.events[-2:] == ["+after", "-after"]


@given(plans(World), plans(World))
def test_what_follows_a_failed_stage_is_not_begun_whatever_runs_beside_it(beside: object, after: object) -> None:
    world, names = World(), list[str]()
    other = built(beside, world, names)
    kept = list(names)
    following = built(after, world, names)
    world.failing = {"first"}
    calls = asyncio.run(run(fork_join(pipeline(world.call("first"), following), other), SOON))
    assert set(calls) == {"first", *kept}


async def test_a_target_that_lets_time_pass_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.plan.FAIR_S", 0.0)
    world, breaker = World(), Breaker("The search")
    world.gates = {"retrieval": asyncio.Event()}
    plan = branch("retrieval", world.make("retrieval"), breaker=breaker)
    for _ in range(FAILURES):
        assert not (await run(plan, Deadline.after(0.01)))["retrieval"].brought
        await others()
    assert breaker.open
    call = (await run(plan, SOON))["retrieval"]
    assert isinstance(call.error, Unavailable)
    assert "is tried again" in call.error.detail
    assert world.events.count("+retrieval") == FAILURES


async def test_a_client_that_goes_away_is_no_fault_of_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.plan.FAIR_S", 0.0)
    world, breaker = World(), Breaker("The search")
    world.gates = {"retrieval": asyncio.Event()}
    for _ in range(2 * FAILURES):
        running = asyncio.create_task(run(branch("retrieval", world.make("retrieval"), breaker=breaker), SOON))
        await world.until("+retrieval")
        running.cancel()
        await asyncio.wait([running])
        await others()
    assert not breaker.open
