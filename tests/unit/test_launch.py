"""Holding a system in a terminal: whatever ends it, it is taken down, once and wholly."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from actors.errors import Conflict
from config.settings import Settings, load
from serve import cli, launch
from serve.cli import serve_until_stopped


@dataclass
class FakeSystem:
    """Counts what is asked of it. Its URL is a port that nobody listens on."""

    url: str
    calls: list[str] = field(default_factory=list)
    during_up: Callable[[], None] = lambda: None
    during_down: Callable[[], None] = lambda: None

    def apart(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of `launch.apart`."""
        self.calls.append(call.__name__)
        if call is cli.bring_up:
            self.during_up()
            return self.url, "127.0.0.1:6379"
        self.during_down()
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        fake = FakeSystem(f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setattr(launch, "apart", fake.apart)
    monkeypatch.setattr(launch, "CHECK_S", 0.001)
    return fake


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"data_dir": tmp_path})


@pytest.mark.parametrize("number", launch.Signals.CAUGHT)
def test_a_signal_takes_it_down_and_a_second_one_does_not_interrupt_that(
    fake: FakeSystem, settings: Settings, number: signal.Signals
) -> None:
    fake.during_down = lambda: send(number)
    before = signal.getsignal(number)
    serve_until_stopped(settings, then=lambda url: send(number))
    assert fake.calls == ["bring_up", "take_down"]
    assert signal.getsignal(number) == before


def test_a_signal_while_it_starts_waits_until_it_can_be_taken_down(fake: FakeSystem, settings: Settings) -> None:
    fake.during_up = lambda: send(signal.SIGTERM)
    serve_until_stopped(settings, detach=True, then=lambda url: pytest.fail("it was to stop"))
    assert fake.calls == ["bring_up", "take_down"]


def test_detached_it_is_left_running(fake: FakeSystem, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    serve_until_stopped(settings, detach=True)
    assert fake.calls == ["bring_up"]
    assert fake.url in capsys.readouterr().out


def test_detached_it_is_taken_down_if_what_follows_fails(fake: FakeSystem, settings: Settings) -> None:
    def fail(url: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve_until_stopped(settings, detach=True, then=fail)
    assert fake.calls == ["bring_up", "take_down"]


def test_if_it_goes_away_that_is_said_and_the_rest_is_taken_down(fake: FakeSystem, settings: Settings) -> None:
    with pytest.raises(launch.LaunchError, match="any more"):
        serve_until_stopped(settings)
    assert fake.calls == ["bring_up", "take_down"]


def test_if_it_is_running_already_that_one_is_left_alone(fake: FakeSystem, settings: Settings) -> None:
    def taken() -> None:
        raise Conflict("Port 8000 on 127.0.0.1 is taken.")

    fake.during_up = taken
    with pytest.raises(Conflict):
        serve_until_stopped(settings)
    assert fake.calls == ["bring_up"]


def test_a_call_apart_gives_its_value_from_a_session_of_its_own() -> None:
    assert launch.apart(os.getpgrp) != os.getpgrp()
    assert launch.apart(int, "ff", base=16) == 255


def test_an_error_of_a_call_apart_comes_back_with_its_traceback() -> None:
    with pytest.raises(ValueError, match="invalid literal") as caught:
        launch.apart(int, "x")
    assert "in _answer" in caught.value.__notes__[0]


def test_an_error_that_cannot_cross_the_border_still_says_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="HAProxy crashed") as caught:
        launch.apart(exec, "class Local(Exception): pass\nraise Local('HAProxy crashed during startup')")
    assert "in _answer" in caught.value.__notes__[0]


def test_a_process_that_dies_is_said() -> None:
    with pytest.raises(launch.LaunchError, match="exit code 3"):
        launch.apart(os._exit, 3)
