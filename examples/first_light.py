"""The first run (`make run`): make the example library, start Gatherum, read the library, ask three questions, serve.

It does nothing that the `gatherum` command cannot do; it only does it in one go.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from rich.console import Console

from config.settings import load
from examples.make_library import DATABASE, QUESTIONS, make_library
from serve import bulk, render
from serve.cli import ingest_shown, one_line_errors, serve_until_stopped
from serve.client import ApiError, AsyncClient

LIBRARY = Path(__file__).with_name("library")
COLLECTION = "solar-system"
SOURCE = "solar-system"

console = Console()


def main() -> None:
    """Run it; ends with Ctrl-C."""
    with one_line_errors():
        console.print(f"Making the example library in {LIBRARY}")
        make_library(LIBRARY)
        settings = load({"sources.sqlite_root": str(LIBRARY)})
        serve_until_stopped(settings, then=read_and_ask)


def read_and_ask(url: str) -> None:
    """Read the library and ask the three questions."""
    report = bulk.Report([bulk.Outcome(path) for path in bulk.find_pdfs([LIBRARY])])
    ingest_shown(url, report, collection=COLLECTION, quiet=False)
    console.print(render.summary(report))
    if report.failures:
        console.print(render.failures(report.failures))
    asyncio.run(_ask(url))
    console.print(f"\nAsk your own: .venv/bin/gatherum ask 'How long is a day on Venus?'\nThe HTTP API: {url}/docs")


async def _ask(url: str) -> None:
    async with AsyncClient(url) as client:
        try:
            await client.add_source(SOURCE, DATABASE)
        except ApiError as error:
            if error.code != "conflict":  # registered by an earlier run
                raise
        for question in QUESTIONS:
            console.rule(f"[bold]{question}", align="left")
            console.print(render.answer(await client.ask(question)))


if __name__ == "__main__":
    main()
