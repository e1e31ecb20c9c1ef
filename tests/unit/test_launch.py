"""Holding a system in a terminal: whatever ends it, it is taken down, once and wholly."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actors.errors import Conflict
from config.settings import Settings, load
from serve import launch, system
from serve.cli import serve_until_stopped


@dataclass
class FakeSystem:
    """Counts what is asked of it. Its URL is a port that nobody listens on."""

    url: str
    address: str = "127.0.0.1:6379"
    calls: list[str] = field(default_factory=list)

    def up(self, settings: Settings, *, address: str | None = None) -> FakeSystem:
        self.calls.append("up")
        # As Ray does when it connects.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return self

    def down(self, settings: Settings) -> bool:
        self.calls.append("down")
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSystem:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        fake = FakeSystem(f"http://127.0.0.1:{probe.getsockname()[1]}")
    monkeypatch.setattr(system, "up", fake.up)
    monkeypatch.setattr(system, "down", fake.down)
    monkeypatch.setattr(launch, "CHECK_S", 0.001)
    return fake


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load({"data_dir": tmp_path})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_takes_it_down_and_a_second_one_does_not_interrupt_that(
    fake: FakeSystem, settings: Settings, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(settings: Settings) -> bool:
        os.kill(os.getpid(), number)
        return fake.down(settings)

    monkeypatch.setattr(system, "down", impatient)
    before = signal.getsignal(number)
    serve_until_stopped(settings, then=lambda url: os.kill(os.getpid(), number))
    assert fake.calls == ["up", "down"]
    assert signal.getsignal(number) == before


def test_detached_it_is_left_running(fake: FakeSystem, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    serve_until_stopped(settings, detach=True)
    assert fake.calls == ["up"]
    assert fake.url in capsys.readouterr().out


def test_detached_it_is_taken_down_if_what_follows_fails(fake: FakeSystem, settings: Settings) -> None:
    def fail(url: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve_until_stopped(settings, detach=True, then=fail)
    assert fake.calls == ["up", "down"]


def test_if_it_goes_away_that_is_said_and_the_rest_is_taken_down(fake: FakeSystem, settings: Settings) -> None:
    with pytest.raises(launch.LaunchError, match="any more"):
        serve_until_stopped(settings)
    assert fake.calls == ["up", "down"]


def test_if_it_is_running_already_that_one_is_left_alone(
    fake: FakeSystem, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taken(settings: Settings, *, address: str | None = None) -> FakeSystem:
        raise Conflict("Port 8000 on 127.0.0.1 is taken.")

    monkeypatch.setattr(system, "up", taken)
    with pytest.raises(Conflict):
        serve_until_stopped(settings)
    assert fake.calls == []
