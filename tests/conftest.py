"""Rules that every test lives under.

Unit tests (tests/unit) cannot start Ray and cannot sleep: a test that wants to wait for something is asking for an
event or a clock of its own. What blocks the event loop raises there, with blockbuster watching the project's own code.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog.testing
from blockbuster import blockbuster_ctx
from hypothesis import settings

from config.settings import ALIASES, CONFIG_VARIABLE, NOT_SETTINGS, PREFIX

pytest_plugins = ("servers",)

UNIT = Path(__file__).parent / "unit"

settings.register_profile("default", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _rules_of_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not request.path.is_relative_to(UNIT):
        yield
        return
    monkeypatch.setattr("ray.init", _cannot_start_ray)
    monkeypatch.setattr(time, "sleep", _cannot_sleep)
    monkeypatch.setattr(asyncio, "sleep", _async_sleep(asyncio.sleep))
    # A logger would write to the stream of the test that made it, by then closed.
    structlog.configure(logger_factory=structlog.testing.ReturnLoggerFactory())
    with blockbuster_ctx(scanned_modules=["actors", "config", "serve"]) as watch:
        watch.functions["os.path.abspath"].deactivate()  # touches no disk; SQLAlchemy calls it on every new engine
        yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> Iterator[None]:
    """A developer's environment and gatherum.yaml must not decide what a test sees."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name in ALIASES or (name.startswith(PREFIX) and name not in NOT_SETTINGS):
                patch.delenv(name)
        patch.setenv(CONFIG_VARIABLE, os.devnull)
        yield


def _cannot_start_ray(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("A unit test cannot start Ray; tests that need it belong in tests/integration.")


def _cannot_sleep(seconds: float) -> NoReturn:
    pytest.fail(f"A unit test cannot sleep (time.sleep({seconds})).")


def _async_sleep(original: Any) -> Any:
    def sleep(delay: float, result: Any = None) -> Coroutine[Any, Any, Any]:
        if delay > 0:
            pytest.fail(f"A unit test cannot sleep (asyncio.sleep({delay})).")
        return original(delay, result)  # type: ignore[no-any-return]

    return sleep
