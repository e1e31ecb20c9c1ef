"""What a process may use and know while it reads files that nobody vouches for.

MuPDF, Leptonica and Tesseract have crashed, looped and allocated without end over crafted files, and some of those
faults were worth an exploit. So the process that opens a PDF gives up what it does not need before it does: memory
beyond an allowance, the right to write large files, a core dump with the document in it, the credentials in its
environment, children that outlive it. What it may do next is bounded by clocks that the kernel keeps.

What holds against what: crashes, hangs, bombs and leaks of memory into a page's text are contained. Code that an
exploit runs in the worker is still this user's code: it can ask the node's other processes for what this one has
forgotten, and find in its own memory the token that Ray shows with every call. Running Ray under a user of its own, or
in a container without the database's address, bounds that.
"""

from __future__ import annotations

import atexit
import ctypes
import math
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from actors.errors import DocumentTooLarge

MB: Final = 1_000_000
FOLDER_PREFIX: Final = "gatherum-pages-"
CPU_GRACE_S: Final = 2  # by which the clock on the wall comes first
LEAST_S: Final = 0.001  # of a clock; one of nothing would never ring

KEPT: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
        *("TESSDATA_PREFIX", "OMP_THREAD_LIMIT", "OMP_NUM_THREADS", "GATHERUM_NODE_ID"),
    }
)
KEPT_PREFIXES: Final = ("LC_", "PYTHON", "RAY_")
SECRET: Final = ("TOKEN", "PASSWORD", "SECRET", "CREDENTIAL", "ACCESS_KEY", "REDIS", "JOB_CONFIG")
"""Parts of the names of Ray's own variables that hold credentials, or all variables that a driver gave its workers. Ray
has read them when the first task runs."""

# A zombie has ended, though Ray may not have noticed: a child that the worker forked holds the worker's connection to
# Ray open, and until that closes Ray does not ask for the worker's status.
_GUARD: Final = """
runs() {
    while read -r name value _; do
        if [ "$name" = State: ]; then [ "$value" != Z ]; return; fi
    done 2>/dev/null < "/proc/$1/status"
    return 1
}
while runs "$0"; do sleep 0.5; done
kill -s KILL -- "-$0"
"""


def check_file(path: str, max_mb: float) -> None:
    """Refuse a file by its size, before anything reads it.

    Raises:
        DocumentTooLarge: it has more than `max_mb` (10^6 bytes).
    """
    size = Path(path).stat().st_size
    if size > max_mb * MB:
        raise DocumentTooLarge(f"The file has {size / MB:,.1f} MB; the limit is {max_mb:g} MB.")


def check_text(chars: int, max_mb: float) -> None:
    """Refuse a document by the length of its text so far.

    Raises:
        DocumentTooLarge: it has more than `max_mb` (10^6 characters).
    """
    if chars > max_mb * MB:
        raise DocumentTooLarge(f"The text of the PDF is longer than {max_mb:g} million characters.")


@cache
def confine(memory_mb: int, file_mb: int) -> None:
    """Give up for good what reading a PDF does not need. Does it once in a process, at the first call.

    Args:
        memory_mb: private memory that the process may take beyond what it has now, MB; each child as much in all.
        file_mb: largest file that it or a child may write, MB.
    """
    _scrub_environment()
    _private_folder()
    # Not 0: where the kernel pipes cores to a program, such as systemd-coredump, it heeds no limit but 1.
    _limit(resource.RLIMIT_CORE, 1)
    _limit(resource.RLIMIT_FSIZE, file_mb * MB)
    # Not the address space: Ray maps its whole object store into each worker, 8.8 GB of addresses for 0.35 GB of
    # memory, and at a moment of its own. Since Linux 4.7 RLIMIT_DATA counts every private writable mapping and no
    # shared one, which is what a bomb takes. What fails is one allocation: MuPDF and Python report it as an error of
    # the page, and the process goes on.
    _limit(resource.RLIMIT_DATA, private_memory() + memory_mb * MB)
    _guard_children()


@contextmanager
def clock(seconds: float) -> Iterator[None]:
    """Let the kernel end this process if the block takes longer.

    The clock is the worker's, not the actor's, which could not tell a slow page from one that waits for a core. Nothing
    handles the alarm's signal, so it ends a loop inside MuPDF or a read that blocks as well, where no Python code would
    run. A second clock counts CPU seconds and is inherited by children, whose alarms are not.
    """
    seconds = max(seconds, LEAST_S)
    used = time.process_time()
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_at_most(math.ceil(used + seconds) + CPU_GRACE_S, most), most))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (most, most))


class Budget:
    """Time that several steps share: what one of them leaves, the next one has.

    Args:
        seconds: for all of them.

    Attributes:
        left: seconds; below 0 once they are used up.
    """

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    @contextmanager
    def clock(self) -> Iterator[None]:
        """`clock` with what is left."""
        began = time.monotonic()
        try:
            with clock(self.left):
                yield
        finally:
            self.left -= time.monotonic() - began


def private_memory() -> int:
    """Bytes of private writable memory this process has mapped, as RLIMIT_DATA counts them."""
    return _status("VmData")


def resident_memory() -> int:
    """Bytes of private memory this process has in RAM; pages of Ray's object store are not its own."""
    return _status("RssAnon")


def kept_variables(environ: Mapping[str, str]) -> frozenset[str]:
    """Names of the variables that a worker and the programs it starts need.

    A list of what is allowed, because nobody can list every name that holds a credential: the store's URL, the
    passwords of SQL sources, tokens of a cloud.
    """
    return frozenset(
        name
        for name in environ
        if name in KEPT or (name.startswith(KEPT_PREFIXES) and not any(part in name.upper() for part in SECRET))
    )


def _status(field: str) -> int:
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _limit(which: int, wanted: int) -> None:
    _, most = resource.getrlimit(which)
    value = _at_most(wanted, most)
    resource.setrlimit(which, (value, value))


def _at_most(wanted: int, most: int) -> int:
    return wanted if most == resource.RLIM_INFINITY else min(wanted, most)


def _scrub_environment() -> None:
    """Forget every variable that is not needed, in Python, in libc, and in the block the kernel shows to others."""
    kept = kept_variables(os.environ)
    for dropped in set(os.environ) - kept:
        del os.environ[dropped]
    # /proc/<pid>/environ shows the memory that the process was started with. Only the values of what was dropped are
    # overwritten: libc still points to the others.
    stat = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(stat[47]), int(stat[48])
    position = start
    for entry in ctypes.string_at(start, end - start).split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals and os.fsdecode(name) not in kept:
            ctypes.memset(position + len(name) + 1, ord("x"), len(value))
        position += len(entry) + 1


def _private_folder() -> None:
    """Have temporary files, of children too, lie in a folder that only this user can enter and that goes with us."""
    parent = Path(tempfile.gettempdir())
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        # Left by a process that was killed before it could tidy up.
        pid = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)
    own = tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = own


@cache
def _guard_children() -> subprocess.Popen[bytes]:
    """See to it that whatever this process starts ends with it, also if it is killed.

    Ray ends the children of a worker that it kills, but not those of one that crashed or was stopped by an alarm:
    Tesseract went on with its page. A shell in the worker's own process group, which no other process can be in, waits
    for it and then ends the group. It costs 1 MB. It does not wait on a pipe: a forked child would hold that open too.
    """
    with suppress(PermissionError):  # a session leader leads its group already
        os.setpgid(0, 0)
    return subprocess.Popen(  # noqa: S603 -- our own words
        ["/bin/sh", "-c", _GUARD, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
