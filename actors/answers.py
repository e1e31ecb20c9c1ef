"""Answers: those that were given, kept until something they were made of changes.

An answer is good as long as its collections are what they were when it was found. Every change of the store has a
number, and an index says up to which it was when it was searched; so an answer made by an index that is behind is out
of date as soon as the change is known here, and one that is ahead stays good when it is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from actors.messages import Change


@dataclass(frozen=True, slots=True)
class _Kept:
    body: bytes
    collections: tuple[str, ...]
    change: int


class AnswerCache:
    """Encoded answers by what was asked, the least recently asked for dropped first. Threads may share it.

    Args:
        max_bytes: of the answers together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._last: dict[str, int] = {}
        self._everywhere = 0
        self._newest = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def on(self) -> bool:
        """Whether it keeps anything."""
        return self._max_bytes > 0

    def get(self, key: Hashable) -> bytes | None:
        """The answer to what was asked, if there is one that is still good."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                return None
            if kept.change < self._changed(kept.collections):
                self._drop(key)
                return None
            self._kept.move_to_end(key)
            return kept.body

    def put(self, key: Hashable, collections: tuple[str, ...], change: int, body: bytes) -> None:
        """Keep an answer.

        Args:
            key: what was asked.
            collections: that were searched; empty for all.
            change: number of the last change that the index had.
            body: the answer.
        """
        with self._lock:
            if change < self._changed(collections) or len(body) > self._max_bytes:
                return
            self._drop(key)
            self._kept[key] = _Kept(body, collections, change)
            self._bytes += len(body)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._kept)))

    def follow(self, changes: Iterable[Change]) -> None:
        """Take note of changes of the store; one that belongs to no collection concerns all."""
        with self._lock:
            for change in changes:
                self._newest = max(self._newest, change.number)
                if change.collection:
                    self._last[change.collection] = max(self._last.get(change.collection, 0), change.number)
                else:
                    self._everywhere = max(self._everywhere, change.number)

    def _changed(self, collections: tuple[str, ...]) -> int:
        if not collections:
            return self._newest
        return max(self._everywhere, *(self._last.get(name, 0) for name in collections))

    def _drop(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept.body)
