"""Questions that travel together, and identical ones that are asked once.

At hundreds a second the hop between processes costs more than the work, so what arrives together is sent together. A
question that comes while nothing is under way is sent as soon as the requests that are being read with it are in: it
waits for nobody. Only when others are on their way already does it wait for company, and then for a few milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from actors.deadline import ALIKE, Deadline, alike
from actors.errors import GatherumError
from actors.messages import Question
from actors.metrics import PROCESS, SIZES

T = TypeVar("T")
R = TypeVar("R")

Ask = Callable[[list[Question], Deadline], Awaitable[list[bytes | GatherumError]]]


_WAITING = PROCESS.gauge("gatherum_batch_waiting", "What waits to be sent in a batch.", "what")
_UNDER_WAY = PROCESS.gauge("gatherum_batches_under_way", "Batches that are not back.", "what")
_JOINED = PROCESS.counter("gatherum_joined_total", "Questions that joined the same one under way.")
_SIZES = PROCESS.histogram("gatherum_batch_size", "What travels together.", bounds=SIZES)


class Batcher(Generic[T, R]):
    """Groups what is submitted into calls.

    What waits is bounded by who submits (see `admission.py`). Clients take turns in a batch, so one that sends much
    does not hold up the others.

    Args:
        call: does a batch; gives a value or an error for each, in their order.
        size: most in a batch.
        wait_s: for company, while another batch is under way, s.
        in_flight: batches under way at once; while there are so many, what comes waits and becomes the next ones.
        what: items are, in metrics.

    Attributes:
        waiting: items that are not sent yet.
    """

    def __init__(
        self,
        call: Callable[[list[T]], Awaitable[Sequence[R | GatherumError]]],
        *,
        size: int,
        wait_s: float,
        in_flight: int,
        what: str,
    ) -> None:
        self._call = call
        self._size = size
        self._wait_s = wait_s
        self._in_flight = in_flight
        self._waiting: OrderedDict[str, deque[_Entry[T, R]]] = OrderedDict()
        self._timer: asyncio.Handle | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self.waiting = 0
        _WAITING.of(what, read=lambda: self.waiting)
        _UNDER_WAY.of(what, read=lambda: self.under_way)

    async def submit(self, item: T, client: str = "") -> R:
        """One item's value. Once nobody waits for any item of a batch, the batch is cancelled.

        Raises:
            GatherumError: what became of the item.
        """
        entry = _Entry[T, R](item, client, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(client, deque()).append(entry)
        self.waiting += 1
        self._see()
        try:
            value = await entry.future
        finally:
            if entry.batch is None:
                if not entry.future.done() or entry.future.cancelled():
                    self._forget(entry)
            elif entry.batch.leave() and entry.batch.task is not None:
                entry.batch.task.cancel()
        if isinstance(value, GatherumError):
            raise value
        return value

    @property
    def under_way(self) -> int:
        """Batches."""
        return len(self._under_way)

    def _see(self) -> None:
        """Send what is to be sent now, or see to it that it is looked at again."""
        while self.waiting >= self._size and len(self._under_way) < self._in_flight:
            self._send()
        if not self.waiting or len(self._under_way) >= self._in_flight:
            return
        loop = asyncio.get_running_loop()
        if not self._under_way:
            # Whatever company was waited for: nobody else is on the way.
            if isinstance(self._timer, asyncio.TimerHandle):
                self._timer.cancel()
                self._timer = None
            self._timer = self._timer or loop.call_soon(self._due)
        elif self._timer is None:
            self._timer = loop.call_later(self._wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if self.waiting and len(self._under_way) < self._in_flight:
            self._send()
        self._see()

    def _send(self) -> None:
        entries: list[_Entry[T, R]] = []
        while self.waiting and len(entries) < self._size:
            client, queue = self._waiting.popitem(last=False)
            entries.append(queue.popleft())
            self.waiting -= 1
            if queue:
                self._waiting[client] = queue  # at the end: the others are next
        batch = _Batch(len(entries))
        for entry in entries:
            entry.batch = batch
        batch.task = asyncio.create_task(self._do(entries))
        self._under_way.add(batch.task)
        batch.task.add_done_callback(self._ended)
        _SIZES.observe(len(entries))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._see()

    async def _do(self, entries: Sequence[_Entry[T, R]]) -> None:
        try:
            values: Sequence[R | BaseException] = await self._call([entry.item for entry in entries])
        except asyncio.CancelledError:
            for entry in entries:
                entry.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is raised where the items were submitted
            values = [error] * len(entries)
        for entry, value in zip(entries, values, strict=True):
            if not entry.future.done():
                if isinstance(value, BaseException) and not isinstance(value, GatherumError):
                    entry.future.set_exception(value)
                else:
                    entry.future.set_result(value)

    def _forget(self, entry: _Entry[T, R]) -> None:
        queue = self._waiting[entry.client]
        queue.remove(entry)
        self.waiting -= 1
        if not queue:
            del self._waiting[entry.client]


class _Batch:
    __slots__ = ("_left", "task")

    def __init__(self, size: int) -> None:
        self._left = size
        self.task: asyncio.Task[None] | None = None

    def leave(self) -> bool:
        """One less waits for it; whether that was the last."""
        self._left -= 1
        return self._left == 0


class _Entry(Generic[T, R]):
    __slots__ = ("batch", "client", "future", "item")

    def __init__(self, item: T, client: str, future: asyncio.Future[R | GatherumError]) -> None:
        self.item = item
        self.client = client
        self.future = future
        self.batch: _Batch | None = None


class SingleFlight(Generic[R]):
    """Lets those who ask the same thing at the same time share one call.

    One joins a call only if that ends before its own time is up, and not so much earlier that it would be given less
    than it has patience for.

    Attributes:
        joined: how many have been answered by a call of another so far.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[R]] = {}
        self.joined = 0

    async def do(self, key: Hashable, deadline: Deadline, call: Callable[[], Awaitable[R]]) -> R:
        """The value of the call for this key that is under way, or of a new one.

        Args:
            key: equal for those whose values are.
            deadline: of whoever asks.
            call: made if there is none to join; it is cancelled when the last who waits for it goes away.
        """
        flight = self._flights.get(key)
        if flight is None or not _fits(flight.deadline, deadline):
            flight = _Flight(asyncio.ensure_future(call()), deadline)
            self._flights[key] = flight
            mine = flight
            flight.task.add_done_callback(lambda _: self._landed(key, mine))
        else:
            self.joined += 1
            _JOINED.add()
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._landed(key, flight)
                flight.task.cancel()

    def _landed(self, key: Hashable, flight: _Flight[R]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class _Flight(Generic[R]):
    __slots__ = ("deadline", "task", "waiting")

    def __init__(self, task: asyncio.Future[R], deadline: Deadline) -> None:
        self.task = task
        self.deadline = deadline
        self.waiting = 0


def _fits(under_way: Deadline, own: Deadline) -> bool:
    return under_way <= own and own.remaining() <= ALIKE * under_way.remaining()


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
