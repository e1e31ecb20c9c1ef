"""Names every query parameter that a route does not take: one that is misspelled must not be ignored in silence.

It is one dependency of the whole application, so no route can forget it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from actors.errors import InvalidInput

MAX_NAME_CHARS = 40


async def known_parameters(request: Request) -> None:
    """Refuse a request with a query parameter that its route has no use for.

    Raises:
        InvalidInput: it has one; the message names it, and what the route takes.
    """
    route = request.scope.get("route")
    if not request.scope["query_string"] or not isinstance(route, APIRoute):
        return
    taken = tuple(dict.fromkeys(_names(route.dependant)))
    for name in request.query_params:
        if name not in taken:
            raise InvalidInput(_explained(name, taken))


def _names(dependant: Dependant) -> Iterator[str]:
    yield from (parameter.alias for parameter in dependant.query_params)
    for other in dependant.dependencies:
        yield from _names(other)


def _explained(name: str, taken: tuple[str, ...]) -> str:
    shown = name[:MAX_NAME_CHARS]
    if meant := difflib.get_close_matches(name, taken, n=1):
        return f"{shown!r} is not a parameter of this path. Did you mean {meant[0]}?"
    if taken:
        return f"{shown!r} is not a parameter of this path, which takes {', '.join(taken)}."
    return f"{shown!r} is not a parameter of this path, which takes none."
