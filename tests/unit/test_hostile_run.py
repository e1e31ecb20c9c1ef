"""The run over bad files, without any: what becomes of the watch over memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hostile
from benchmarks.hostile import Outcome
from benchmarks.mutations import Mutation
from config.settings import load


@pytest.fixture(autouse=True)
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read before there is an event loop to block."""
    settings = load(hostile.LIMITS)
    monkeypatch.setattr(hostile, "load", lambda given: settings)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_watch_that_fails_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool) -> None:
    watched = asyncio.Event()

    async def attempt(role: Any, settings: Any, name: str, path: Path) -> Outcome:
        await watched.wait()
        return Outcome(name, "read", "", 0.0, 1.0)

    def largest() -> float:
        if fails:
            raise RuntimeError("nothing can be seen")
        return 70.0

    async def watch(self: hostile.Peak) -> None:
        watched.set()
        self.mb = largest()
        await asyncio.Event().wait()

    monkeypatch.setattr(hostile, "attempt", attempt)
    monkeypatch.setattr(hostile.Peak, "watch", watch)
    run = hostile.run([Mutation("a", b"a"), Mutation("b", b"b")], tmp_path, 1)
    if fails:
        with pytest.raises(ExceptionGroup) as caught:
            await run
        assert caught.value.subgroup(RuntimeError)
    else:
        assert (await run).peak_mb == 70.0
