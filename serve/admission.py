"""Admission: how many requests of each kind may be under way, and who is let in when there is not room for all.

Questions, uploads, statements and the rest have limits of their own, so none takes the place of another, and nothing
queues in front of them: what is too much is refused at once. Within a kind the limit is shared by a dynamic threshold
(Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998): a client may have as much as `SHARE` times what
is free. Alone it gets the whole limit; the more of them there are, the less each, and there is always a place for one
that has nothing yet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from actors.errors import Overloaded

SHARE: Final = 8
"""What one client may have, in times of what is free. When one has the whole limit, an eighth of it is free besides."""

NAMING: Final = (b"authorization", b"x-api-key", b"x-forwarded-for")
"""Headers that tell clients apart, the first that is there; else their addresses do. They authenticate nobody."""


class Lane:
    """Requests of one kind.

    Args:
        limit: what one client alone may have under way.
        what: they are, in the plural.

    Attributes:
        inside: how many are under way.
        room: what all clients together may have.
    """

    def __init__(self, limit: int, what: str) -> None:
        self.inside = 0
        self.limit = limit
        self.what = what
        self.room = math.ceil(limit * (1 + 1 / SHARE))
        self._held: dict[str, int] = {}

    @contextmanager
    def entered(self, client: str) -> Iterator[None]:
        """Inside while the block runs.

        Args:
            client: whose request it is.

        Raises:
            Overloaded: there is no place for it.
        """
        held = self._held.get(client, 0)
        free = self.limit * (1 + 1 / SHARE) - self.inside
        if free <= 0 or held >= SHARE * free:
            raise Overloaded(
                f"{self.inside:,} {self.what} are under way already, {held:,} of them yours. Try again in a moment."
            )
        self._held[client] = held + 1
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            left = self._held[client] - 1
            if left:
                self._held[client] = left
            else:
                del self._held[client]


@dataclass(frozen=True, slots=True)
class Lanes:
    """The kinds of requests. Those that ask for the state of the system have none: they are always answered."""

    questions: Lane
    uploads: Lane
    statements: Lane
    others: Lane

    def of(self, method: str, path: str) -> Lane:
        """The one that a request belongs to."""
        if path in ("/v1/ask", "/v1/search"):
            return self.questions
        if path.startswith("/v1/sources/") and method == "POST":
            return self.statements
        if path == "/v1/extract" or (path == "/v1/documents" and method == "POST"):
            return self.uploads
        return self.others

    @property
    def room(self) -> int:
        """Requests that all of them take together, whoever they are from."""
        return sum(lane.room for lane in self)

    def __iter__(self) -> Iterator[Lane]:
        """All of them."""
        return iter((self.questions, self.uploads, self.statements, self.others))


def client_of(headers: Iterable[tuple[bytes, bytes]], address: str) -> str:
    """Who sends a request, as far as it can be told; a key is hashed, so that it is nowhere kept.

    Args:
        headers: names in lower case.
        address: of the connection.
    """
    given = {name: value for name, value in headers if name in NAMING}
    for name in NAMING:
        if value := given.get(name):
            if name == b"x-forwarded-for":
                # The last one is what the proxy next to us saw; those before are what the client says.
                return value.rpartition(b",")[2].strip().decode("latin-1")
            return hashlib.sha256(value).hexdigest()[:16]
    return address
