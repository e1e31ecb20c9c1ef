"""Questions that travel together, and what each gets when some of them fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from actors.deadline import Deadline, alike
from actors.errors import GatherumError
from actors.messages import Question

Ask = Callable[[list[Question], Deadline], Awaitable[list[bytes | GatherumError]]]


async def ask_together(questions: Sequence[Question], ask: Ask) -> list[bytes | GatherumError]:
    """Ask a batch; a failure is the value of those it concerns, and of nobody else.

    A batch is answered when its last question is, so questions with little time left do not travel with patient ones.

    Args:
        questions: that arrived together.
        ask: answers questions of like deadlines, with the latest of them.
    """

    async def part(members: list[int]) -> list[bytes | GatherumError]:
        some = [questions[member] for member in members]
        try:
            return await ask(some, max(question.deadline for question in some))
        except GatherumError as error:
            return [error] * len(some)

    parts = alike([question.deadline for question in questions])
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part(members)) for members in parts]
    answers: list[bytes | GatherumError] = [b""] * len(questions)
    for members, task in zip(parts, tasks, strict=True):
        for member, answer in zip(members, task.result(), strict=True):
            answers[member] = answer
    return answers
