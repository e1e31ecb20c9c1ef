"""Where a system of this machine serves, and holding it in a terminal until Ctrl-C without leaving processes behind.

Ray takes signals for itself as it connects: a SIGTERM at the wrong moment aborts the whole process, and an exception
out of a signal handler comes to light inside Ray's C code. So the process that a person holds never connects to Ray:
it starts and stops the system in processes apart, which signals do not reach.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from actors.node import Running
from config.settings import Settings

T = TypeVar("T")

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
    # What `up` recorded knows of a `--port` that the settings of this command do not.
    if (running := Running.load(settings.data_dir)) and running.url:
        return running.url
    if settings.api.port == 0:
        raise LaunchError("api.port is 0, so the port is chosen at start: say where Gatherum is with --url.")
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    host = every.get(settings.api.host, settings.api.host)
    return f"http://[{host}]:{settings.api.port}" if ":" in host else f"http://{host}:{settings.api.port}"


class Signals:
    """SIGINT, SIGTERM and SIGHUP while this context lasts: the first raises `Stopped`, later ones are ignored.

    So an impatient second Ctrl-C cannot leave half a system behind.
    """

    CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}
        self._held = False
        self._pending: str | None = None

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._stop) for number in self.CAUGHT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a signal waits; `Stopped` is raised at the end of the block, unless that ends with an error."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            raise Stopped(self._pending)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        for each in self.CAUGHT:
            signal.signal(each, signal.SIG_IGN)
        self._pending = signal.Signals(number).name
        if not self._held:
            raise Stopped(self._pending)


def apart(call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Make a call in a process and session of its own, and wait for its value.

    Args:
        call: a function of a module, since it is found by name.
        *args: picklable.
        **kwargs: picklable.

    Raises:
        Exception: what the call raised.
        LaunchError: the process died.
    """
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit threads' locks
    receiving, sending = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(sending, call, args, kwargs))
    process.start()
    sending.close()
    try:
        value, error = receiving.recv()
    except EOFError:
        process.join()
        raise LaunchError(
            f"The process that starts and stops the system died (exit code {process.exitcode})."
        ) from None
    process.join()
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def _answer(sending: Connection, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    os.setsid()
    answer: tuple[Any, Exception | None]
    try:
        answer = (call(*args, **kwargs), None)
    except Exception as error:  # noqa: BLE001 - it is raised on the other side
        # The traceback does not cross the border; for an unexpected error it is worth more than the error.
        note = traceback.format_exc()
        error.add_note(note)
        try:
            pickle.dumps(error)
        except (pickle.PicklingError, AttributeError, TypeError):
            # Ray makes a class for each error that comes from a task: where the system does not start, it is that one.
            error = RuntimeError(str(error))
            error.add_note(note)
        answer = (None, error)
    sending.send(answer)


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
