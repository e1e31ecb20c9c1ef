"""Questions that travel together."""

from __future__ import annotations

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError
from actors.messages import Question
from serve.batching import ask_together


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
