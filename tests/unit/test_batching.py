"""Questions that travel together, and identical ones that are asked once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, Unavailable
from actors.messages import Question
from serve.batching import Batcher, SingleFlight, ask_together


def question(name: str, seconds: float) -> Question:
    return Question(name, name, Deadline.after(seconds))


async def test_answers_come_back_in_the_order_of_the_questions() -> None:
    calls: list[list[str]] = []

    async def ask(some: list[Question], deadline: Deadline) -> list[bytes | GatherumError]:
        calls.append([each.text for each in some])
        assert deadline == max(each.deadline for each in some)
        return [each.text.encode() for each in some]

    asked = [question("a", 30), question("b", 1), question("c", 31), question("d", 1.1)]
    assert await ask_together(asked, ask) == [b"a", b"b", b"c", b"d"]
    assert sorted(calls) == [["a", "c"], ["b", "d"]]


async def test_a_part_that_fails_costs_only_its_own_questions() -> None:
    late = DeadlineExceeded("No time was left.")

    async def ask(some: list[Question], deadline: Deadline) -> list[bytes | GatherumError]:
        if some[0].text == "late":
            raise late
        return [b"fine"] * len(some)

    asked = [question("patient", 30), question("late", -1), question("patient", 30)]
    assert await ask_together(asked, ask) == [b"fine", late, b"fine"]


class Calls:
    """What a batcher calls: it waits at a gate, and says each item in capitals."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[str]] = []
        self.cancelled = 0

    async def __call__(self, items: list[str]) -> list[str | GatherumError]:
        self.batches.append(items)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if "defect" in items:
            raise RuntimeError("defect")
        return [Unavailable("No.") if item == "bad" else item.upper() for item in items]


def batcher(calls: Calls, *, size: int = 4, wait_s: float = 60, in_flight: int = 2) -> Batcher[str, str]:
    return Batcher(calls, size=size, wait_s=wait_s, in_flight=in_flight, what="items")


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_question_is_not_held_back() -> None:
    calls = Calls()
    async with asyncio.timeout(5):  # the wait for company would take a minute
        assert await batcher(calls).submit("a") == "A"
        assert calls.batches == [["a"]]


async def test_what_arrives_together_travels_together() -> None:
    calls = Calls()
    of = batcher(calls)
    assert await asyncio.gather(*map(of.submit, "abc")) == ["A", "B", "C"]
    assert calls.batches == [["a", "b", "c"]]


async def test_while_one_is_under_way_the_next_wait_for_company_or_until_they_are_enough() -> None:
    calls = Calls()
    calls.gate.clear()
    of = batcher(calls, in_flight=2)
    tasks = [asyncio.create_task(of.submit(each)) for each in "a"]
    await ticks()
    tasks += [asyncio.create_task(of.submit(each)) for each in "bcd"]
    await ticks()
    assert calls.batches == [["a"]]
    tasks.append(asyncio.create_task(of.submit("e")))
    await ticks()
    assert calls.batches == [["a"], ["b", "c", "d", "e"]]
    # No more than so many at once, however many wait.
    tasks += [asyncio.create_task(of.submit(each)) for each in "fghijk"]
    await ticks()
    assert len(calls.batches) == of.under_way == 2
    assert of.waiting == 6
    calls.gate.set()
    assert await asyncio.gather(*tasks) == list("ABCDEFGHIJK")
    assert max(map(len, calls.batches)) <= 4


async def test_clients_take_turns() -> None:
    calls = Calls()
    of = batcher(calls, size=4, in_flight=1)
    greedy = [of.submit(f"g{number}", "greedy") for number in range(10)]
    others = [of.submit("x", "other"), of.submit("y", "third")]
    await asyncio.gather(*greedy, *others)
    # What was first in line is among the first still, and so is whoever came later with little.
    assert {"x", "y"} <= {item for batch in calls.batches[1:2] for item in batch} | set(calls.batches[0])


async def test_an_error_is_of_the_item_and_a_defect_of_its_batch() -> None:
    calls = Calls()
    of = batcher(calls)
    fine, bad = await asyncio.gather(of.submit("a"), of.submit("bad"), return_exceptions=True)
    assert fine == "A"
    assert isinstance(bad, Unavailable)
    with pytest.raises(RuntimeError, match="defect"):
        await of.submit("defect")
    assert await of.submit("b") == "B"


async def test_who_goes_away_before_it_was_sent_is_forgotten() -> None:
    calls = Calls()
    calls.gate.clear()
    of = batcher(calls, in_flight=1)
    first = asyncio.create_task(of.submit("a"))
    await ticks()
    second = asyncio.create_task(of.submit("b"))
    await ticks()
    second.cancel()
    await asyncio.wait([second])
    assert of.waiting == 0
    calls.gate.set()
    assert await first == "A"
    assert calls.batches == [["a"]]


async def test_a_batch_that_nobody_waits_for_is_cancelled_and_only_then() -> None:
    calls = Calls()
    calls.gate.clear()
    of = batcher(calls)
    tasks = [asyncio.create_task(of.submit(each)) for each in "ab"]
    await ticks()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    await ticks()
    assert calls.cancelled == 0
    tasks[1].cancel()
    await asyncio.wait(tasks)
    await ticks()
    assert calls.cancelled == 1
    assert of.under_way == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@given(
    st.lists(st.tuples(st.sampled_from(["submit", "cancel", "open", "close"]), st.integers(0, 20)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 3),
)
def test_each_gets_its_own_answer_and_nothing_is_left(
    history: list[tuple[str, int]], size: int, in_flight: int
) -> None:
    async def go() -> None:
        calls = Calls()
        of = batcher(calls, size=size, wait_s=0, in_flight=in_flight)
        tasks: list[asyncio.Task[str]] = []
        for what, number in history:
            if what == "submit":
                tasks.append(asyncio.create_task(of.submit(f"i{len(tasks)}", f"c{number % 3}")))
            elif what == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif what == "open":
                calls.gate.set()
            else:
                calls.gate.clear()
            await asyncio.sleep(0)
            assert of.under_way <= in_flight
        calls.gate.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks, return_exceptions=True)
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(left)
        assert of.under_way == 0
        for number, task in enumerate(tasks):
            assert task.cancelled() or task.result() == f"I{number}"
        assert of.waiting == 0
        assert all(len(batch) <= size for batch in calls.batches)

    asyncio.run(go())


class Counting:
    """A call that waits until it may end."""

    def __init__(self) -> None:
        self.made = 0
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.made += 1
        number = self.made
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return number


SOON = Deadline.after(7200)


async def test_the_same_question_asked_meanwhile_is_asked_once() -> None:
    flights, call = SingleFlight[int](), Counting()
    asking = [asyncio.create_task(flights.do("a", SOON, call)) for _ in range(3)]
    await ticks()
    other = asyncio.create_task(flights.do("b", SOON, call))
    await ticks()
    call.gate.set()
    assert await asyncio.gather(*asking, other) == [1, 1, 1, 2]
    assert flights.joined == 2
    # Afterwards it is asked anew: this is no cache.
    assert await flights.do("a", SOON, call) == 3


async def test_nobody_is_given_less_than_it_has_patience_for() -> None:
    flights, call = SingleFlight[int](), Counting()
    hasty = asyncio.create_task(flights.do("a", Deadline.after(1), call))
    await ticks()
    patient = asyncio.create_task(flights.do("a", Deadline.after(30), call))
    await ticks()
    short = asyncio.create_task(flights.do("a", Deadline.after(0.5), call))
    await ticks()
    call.gate.set()
    assert [await hasty, await patient, await short] == [1, 2, 3]


async def test_the_first_may_go_away_and_with_the_last_the_call_does() -> None:
    flights, call = SingleFlight[int](), Counting()
    asking = [asyncio.create_task(flights.do("a", SOON, call)) for _ in range(2)]
    await ticks()
    asking[0].cancel()
    await ticks()
    assert call.cancelled == 0
    asking[1].cancel()
    await asyncio.wait(asking)
    await ticks()
    assert call.cancelled == 1
    call.gate.set()
    assert await flights.do("a", SOON, call) == 2


async def test_an_error_is_everybodys() -> None:
    flights = SingleFlight[int]()

    async def fails() -> int:
        await asyncio.sleep(0)
        raise Unavailable("Down.")

    got = await asyncio.gather(*(flights.do("a", SOON, fails) for _ in range(2)), return_exceptions=True)
    assert [type(error) for error in got] == [Unavailable, Unavailable]
