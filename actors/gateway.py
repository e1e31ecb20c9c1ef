"""Gatherum in Python: one object for a running system, blocking and awaitable, in scripts and in notebooks.

There is one implementation, the awaitable one. The blocking calls run it on an event loop in a thread of their own,
so that they also work where a loop is running already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import atexit
import secrets
import threading
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from actors import cluster
from actors.cluster import Roles
from actors.deadline import Deadline
from actors.errors import GatherumError, Unavailable
from actors.messages import Answer, EncoderChoice, LinkedEntity, Mode, Passage, Query, Question, Row
from actors.node import Running
from config.settings import load

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
M = TypeVar("M")

DEFAULT_TIMEOUT_S = 30.0


class Table(tuple[M, ...]):
    """A tuple of messages that also comes as a data frame."""

    __slots__ = ()

    def to_pandas(self) -> pd.DataFrame:
        """One row a message, one column a field. Needs pandas, which is not installed with Gatherum."""
        import pandas as pd

        return pd.DataFrame([_fields(item) for item in self])


def _fields(item: Any) -> dict[str, Any]:
    if isinstance(item, Passage):
        values = asdict(item) | {"boxes": item.boxes}
        del values["words"]
        return values
    if isinstance(item, Row):
        return {"source": item.source, "table": item.table, **item.columns}
    return asdict(item) if is_dataclass(item) and not isinstance(item, type) else {"value": item}


class Gatherum:
    """A running system.

    The raw actor handles are attributes, for those who know Ray: `retrieval`, `entities`, `pdf`, `database`, `ingest`,
    `orchestrator`. Their methods take a `deadline`.
    """

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._loop = _BackgroundLoop()

    # Blocking ----------------------------------------------------------------------------------------------------

    def ask(self, question: str, **options: Any) -> Answer:
        """Answer a question. Options as for `aask`."""
        return self._loop.run(self.aask(question, **options))

    def ask_many(self, questions: Sequence[str], **options: Any) -> list[Answer]:
        """Answer several questions at once. Options as for `aask`."""
        return self._loop.run(self.aask_many(questions, **options))

    def search(self, query: str, **options: Any) -> Table[Passage]:
        """Find passages. Options as for `asearch`."""
        return self._loop.run(self.asearch(query, **options))

    def link(self, text: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Table[LinkedEntity]:
        """Find the known names in a text."""
        return self._loop.run(self.alink(text, timeout=timeout))

    # Awaitable ---------------------------------------------------------------------------------------------------

    async def aask(self, question: str, **options: Any) -> Answer:
        """Answer a question.

        Args:
            question: in plain words.
            **options: `collections` and `sources` (names; all by default), `limit` (passages, 5), `filters` (on the
                metadata of documents), `timeout` (s, 30).

        Raises:
            GatherumError: the question could not be answered at all; a branch that failed only makes it `partial`.
        """
        return (await self.aask_many([question], **options))[0]

    async def aask_many(
        self,
        questions: Sequence[str],
        *,
        collections: Iterable[str] = (),
        sources: Iterable[str] | None = None,
        limit: int = 5,
        filters: dict[str, Any] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - becomes a deadline here
    ) -> list[Answer]:
        """Answer several questions at once. Options as for `aask`."""
        deadline = Deadline.after(timeout)
        named = None if sources is None else tuple(sources)
        inside = tuple(collections)
        batch = [Question(secrets.token_hex(8), text, deadline, inside, named, limit, filters) for text in questions]
        answers = await self._roles.orchestrator.ask_many(batch, deadline=deadline)
        return [_as_tables(_unwrap(answer)) for answer in answers]

    async def asearch(
        self,
        query: str,
        *,
        collections: Iterable[str] = (),
        limit: int = 10,
        mode: Mode = "hybrid",
        filters: dict[str, Any] | None = None,
        encoder: EncoderChoice | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - becomes a deadline here
    ) -> Table[Passage]:
        """Find passages.

        Args:
            query: words to look for.
            collections: names; all by default.
            limit: passages wanted.
            mode: which indexes are asked.
            filters: on the metadata of documents, such as `{"year": {"$gte": 1990}}`.
            encoder: what makes the vector of the query, if another than is configured.
            timeout: s.
        """
        wanted = Query(query, tuple(collections), limit, mode, filters, encoder)
        found = await self._roles.retrieval.search_many([wanted], deadline=Deadline.after(timeout))
        return Table(_unwrap(found[0]).passages)

    async def alink(self, text: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> Table[LinkedEntity]:  # noqa: ASYNC109
        """Find the known names in a text."""
        return Table((await self._roles.entities.link_many([text], deadline=Deadline.after(timeout)))[0])

    # Actors ------------------------------------------------------------------------------------------------------

    def __getattr__(self, role: str) -> Any:
        if role.startswith("_"):
            raise AttributeError(role)
        return cluster.handle(role)

    def close(self) -> None:
        """Disconnect. The system goes on running."""
        self._loop.stop()
        cluster.leave()


def connect(address: str | None = None, *, data_dir: str | Path | None = None) -> Gatherum:
    """Connect to a running system.

    Args:
        address: `auto` for the Ray cluster of this machine, `ray://host:10001` for a remote one; by default the
        system that
            `gatherum up` recorded in the data directory.
        data_dir: the data directory; by default the configured one.

    Raises:
        Unavailable: nothing runs there.
    """
    if address is None:
        settings = load({"data_dir": str(data_dir) if data_dir else None})
        running = Running.load(settings.data_dir)
        if running is None or not running.alive:
            raise Unavailable("Gatherum is not running. Start it with `gatherum up`, or give an address.")
        address = running.address
    cluster.join(address)
    return Gatherum(Roles.running())


def start(*, data_dir: str | Path | None = None, address: str | None = None) -> Gatherum:
    """Start the actors, without an HTTP entry point, and connect. `gatherum down` stops them.

    Args:
        data_dir: the data directory; by default the configured one.
        address: of a running Ray cluster; a node of our own is started where it is None.
    """
    settings = load({"data_dir": str(data_dir) if data_dir else None})
    cluster.start(settings, address=address, url="", scratch=None, environment={})
    return Gatherum(Roles.running())


def _unwrap(value: T | GatherumError) -> T:
    if isinstance(value, GatherumError):
        raise value
    return value


def _as_tables(answer: Answer) -> Answer:
    return replace(
        answer,
        passages=Table(answer.passages),
        rows=Table(answer.rows),
        entities=Table(answer.entities),
        branches=Table(answer.branches),
    )


class _BackgroundLoop:
    """An event loop in a thread, started with the first blocking call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="gatherum", daemon=True).start()
                atexit.register(self.stop)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = None
