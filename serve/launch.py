"""Where a system of this machine serves, and holding it in a terminal until Ctrl-C without leaving processes behind."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from urllib.parse import urlsplit

from config.settings import Settings

CHECK_S = 2.0
"""How often a foreground `up` looks whether it still serves, s."""

MISSES = 5
"""Looks in a row that must find nobody listening before it gives up."""


class LaunchError(Exception):
    """What was asked of the terminal cannot be done. The message says what to do."""


class Stopped(BaseException):
    """A signal asked for the end. Like KeyboardInterrupt it must pass through every `except Exception`."""


def base_url(settings: Settings) -> str:
    """Where the system of this data directory serves, or would, as seen from this machine.

    Raises:
        LaunchError: the port is chosen at start, and nothing has been started.
    """
    # What `up` recorded, read without importing Ray: it knows of a `--port` that the settings of this command do not.
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        if url := json.loads((settings.data_dir / "running.json").read_text(encoding="utf-8"))["url"]:
            return str(url)
    if settings.api.port == 0:
        raise LaunchError("api.port is 0, so the port is chosen at start: say where Gatherum is with --url.")
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    host = every.get(settings.api.host, settings.api.host)
    return f"http://[{host}]:{settings.api.port}" if ":" in host else f"http://{host}:{settings.api.port}"


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[Callable[[], None]]:
    """Inside, the first SIGINT, SIGTERM or SIGHUP raises `Stopped`.

    Later ones are ignored, so that an impatient second Ctrl-C cannot leave half a system behind. The value is a
    function that takes the signals again, for after a library (Ray, as it connects) has taken one for itself.
    """
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    def take() -> None:
        for number in caught:
            signal.signal(number, stop)

    before = {number: signal.getsignal(number) for number in caught}
    take()
    try:
        yield take
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_while_serving(url: str) -> None:
    """Return only when nobody listens at the URL any more; a restart of the front end is waited out."""
    place = urlsplit(url)
    misses = 0
    tick = threading.Event()
    while misses < MISSES:
        tick.wait(CHECK_S)
        try:
            socket.create_connection((place.hostname or "", place.port or 80), timeout=CHECK_S).close()
            misses = 0
        except OSError:
            misses += 1
