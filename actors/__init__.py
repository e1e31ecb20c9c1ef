"""Gatherum from Python: `connect()` to a running system, `start()` one, and the messages that go in and out.

>>> from actors import connect
>>> g = connect()
>>> g.ask("Which moon did Huygens land on?").text

Blocking calls have an awaitable twin with an `a` in front (`await g.aask(...)`), for notebooks and async code. The
raw actors are there too, for those who know Ray: `g.retrieval.search_many.remote([...], deadline=...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.messages import Answer, Passage, Query, Question

if TYPE_CHECKING:
    from actors.gateway import Gatherum

__all__ = ["Answer", "Deadline", "Gatherum", "GatherumError", "Passage", "Query", "Question", "connect", "start"]


def __getattr__(name: str) -> Any:
    # Ray takes a second to import; whoever only wants the messages should not wait for it.
    if name in ("Gatherum", "connect", "start"):
        from actors import gateway

        return getattr(gateway, name)
    raise AttributeError(name)
