"""Readers that go wrong the way native code does, to be put in the place of the real one.

Each fault happens in the process of a page task, when it comes to a given page, and is what a crafted file did to a
parser somewhere: a write through a wild pointer, a loop that never returns to Python, a read that never ends, an
allocation without end, a helper program that nobody waits for.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from actors.pdf import Pdf, confined
from actors.reading import limits
from actors.reading.ranges import Range
from actors.reading.tasks import Setup, read_range

# Tasks run in processes that cannot import from the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

Fault = Callable[[Range], None]

PLANTED = "planted-7f3a"
CREDENTIALS = {
    "DATABASE_URL": f"postgresql://gatherum:{PLANTED}@db/gatherum",
    "GATHERUM_DATABASE__URL": f"mysql://gatherum:{PLANTED}@db/gatherum",
    "AWS_ACCESS_KEY_ID": PLANTED,
    "AWS_SECRET_ACCESS_KEY": PLANTED,
    "AWS_SESSION_TOKEN": PLANTED,
    "PGPASSWORD": PLANTED,
    "MOONS_PASSWORD": PLANTED,  # of an SQL source, by `password_env`
    "RAY_AUTH_TOKEN": PLANTED,
    "RAY_REDIS_PASSWORD": PLANTED,
    "RAY_JOB_CONFIG_JSON_ENV_VAR": f'{{"runtime_env": {{"env_vars": {{"KEY": "{PLANTED}"}}}}}}',
}
"""What the environment of a node may hold, and that of a page task must not."""


def faulty(pdf: Pdf, fault: Fault) -> Pdf:
    """The same role, whose tasks run `fault` first, under the limits of a page that is read."""

    def act(path: str, part: Range, setup: Setup) -> Any:
        with limits.clock(setup.settings.page_timeout_s):
            fault(part)
        return read_range(path, part, setup)

    pdf._read_range = ray.remote(num_cpus=1, num_returns=2, max_retries=0)(confined(act))
    return pdf


def on_page(number: int, act: Callable[[], object]) -> Fault:
    """The fault that happens whenever this page is among those to be read."""

    def fault(part: Range) -> None:
        if number in part.pages:
            act()

    return fault


def crash() -> None:
    """Read through a null pointer."""
    ctypes.string_at(0)


def hang_in_c() -> None:
    """Stay in C with the interpreter's lock held, so that no Python code runs in this process any more."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


def spin_in_c() -> None:
    """The same, using up a core."""
    pow(3, 10**9)


def block_in_read() -> None:
    """Wait for bytes that never come."""
    end, _ = os.pipe()
    os.read(end, 1)


def eat_memory() -> None:
    """Allocate and touch memory without end, as a decompression bomb does, and crash like C++ when there is no more."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    size = 50_000_000
    while place := libc.malloc(size):
        ctypes.memset(place, 1, size)
    os.abort()


def fill_disk() -> None:
    """Write a file without end, as an image does that unpacks to terabytes."""
    with tempfile.TemporaryFile() as file:
        while True:
            file.write(bytes(10_000_000))


def fill_disk_in_child() -> None:
    """The same in a helper program, which is not told that it is too much: it is killed."""
    subprocess.run(["dd", "if=/dev/zero", f"of={tempfile.gettempdir()}/endless", "bs=1M"], check=True)


def crash_in(folder: Path) -> Callable[[], None]:
    """Crash where a core dump would be written to this folder."""

    def act() -> None:
        os.chdir(folder)
        crash()

    return act


def abandon_child(note: Path) -> Callable[[], None]:
    """Fork a child that goes on for an hour, write its process id to `note`, and crash."""

    def act() -> None:
        child = os.fork()
        if child == 0:
            time.sleep(3600)
            os._exit(0)
        note.write_text(str(child))
        crash()

    return act


def abandon_escaped_child(note: Path) -> Callable[[], None]:
    """The same with a child that has left for a session of its own and uses up a core."""

    def act() -> None:
        child = subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"], start_new_session=True)
        note.write_text(str(child.pid))
        crash()

    return act
