"""What every command of the terminal does alike: errors in one line, a client, and a result printed twice over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from serve.client import AsyncClient

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value instead of tables.")]
Url = Annotated[str | None, typer.Option(help="Where Gatherum serves; by default from api.host and api.port.")]


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong, and end the program."""
    typer.echo(f"gatherum: {message}", err=True)
    raise SystemExit(code)


def url_of(given: str | None) -> str:
    """Where Gatherum serves: as given, or as the settings have it."""
    from config.settings import load
    from serve.launch import base_url

    return given or base_url(load())


def with_client(url: str | None, call: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """What a call of a client gives."""
    from serve.client import AsyncClient

    place = url_of(url)

    async def run() -> T:
        async with AsyncClient(place) as client:
            return await call(client)

    return asyncio.run(run())


def print_both(value: Any, as_json: bool, shown: str | Callable[[], RenderableType]) -> None:
    """Print a result: as JSON, or as it is shown to a person."""
    if as_json:
        typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
    elif isinstance(shown, str):
        typer.echo(shown)
    else:
        show(shown())


def show(renderable: RenderableType) -> None:
    """Print something rich."""
    from rich.console import Console

    Console().print(renderable)
