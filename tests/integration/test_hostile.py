"""Bad files through the real role: every one ends in a definite state, in time, and harms nothing else.

`GATHERUM_HOSTILE` says how many mutations are made (CONTRIBUTING.md); the seed is fixed, so that a failure can be had
again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import hostile
from benchmarks.mutations import mutations

SEED = 20
COUNT = int(os.environ.get("GATHERUM_HOSTILE", "36"))
ROOT = Path(__file__).parents[2]
TRACED = max(36, COUNT // 10)
CALLS = (
    *("connect", "sendto", "sendmsg", "sendmmsg", "bind", "listen"),
    *("open", "openat", "openat2", "creat", "truncate", "mknod", "mknodat", "mkdir", "mkdirat", "rmdir"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat"),
)
NETWORK = CALLS[:6]
CONFIGURATION = (
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/resolv.conf", "/etc/hosts"),
    *("/etc/ldap/", f"{Path.home()}/ldaprc", f"{Path.home()}/.ldaprc"),
)
"""What starting a program reads. Tesseract is linked to libcurl, whose helpers ask for the machine's own name."""

READER = """
import json, os, sys
from actors.reading import ocr, pages, tasks
from actors.reading.ranges import Range
from config.settings import load
settings = load(json.loads(sys.argv[1]))
setup = tasks.Setup(settings.pdf, None, settings.logs, {})
tasks.check_ocr(settings.pdf.ocr_languages)  # once, and not in each child
for path in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        try:
            info = tasks.inspect_file(path, setup)
            report, _ = tasks.read_range(path, Range(tuple(range(1, min(info.pages, 5) + 1))), setup)
            if report.scanned:
                numbers, whys = zip(*report.scanned)
                tasks.read_range(path, Range(numbers[:1], whys[:1]), setup)
        finally:
            try:
                pass  # here an evil file acts
            finally:
                os._exit(0)
    os.waitpid(child, 0)
"""
"""Reads each file in a process of its own, by the functions that page tasks run."""

EVIL = {
    "import socket; socket.socket().connect_ex(('127.0.0.1', 9))": "connect(",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))": "sendto(",
    "socket.socket().bind(('127.0.0.1', 0))": "bind(",
    "open('/etc/passwd').close()": "/etc/passwd",
    "open('../../../../../../../etc/group').close()": "/etc/group",
    "open('/usr/../etc/hostname').close()": "/etc/hostname",
    "os.open('etc/shells', os.O_RDONLY, dir_fd=os.open('/', os.O_RDONLY))": '"etc/shells"',
    "open('/dev/shm/evil', 'w').close()": '"/dev/shm/evil", O_WRONLY',
    "os.symlink('a', '/dev/shm/evil-link')": "symlink(",
    "os.unlink('/dev/shm/evil'); os.unlink('/dev/shm/evil-link')": "unlink(",
}
"""Statements, and what must be seen of each."""


def collected() -> Path:
    return Path(os.environ.get("GATHERUM_DATA", ROOT.parent / "shared" / "data")) / "hostile" / "files"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_node")
async def test_every_bad_file_ends_in_a_definite_state(tmp_path: Path) -> None:
    gathered = hostile.collected(collected())
    if not gathered:
        print(f"The collected files are left out: there are none in {collected()}.")  # noqa: T201 -- as below
    files = [*gathered, *mutations(hostile.originals(), COUNT, SEED)]
    result = await hostile.run(files, tmp_path, SEED)
    print(hostile.report(result))  # noqa: T201 -- shown by pytest -s, and where the test fails
    assert len(result.outcomes) == len(files)
    assert [outcome for outcome in result.outcomes if outcome.state == "broken" or outcome.late] == []
    readings, whole = result.good
    assert readings == whole > 0
    # Watched at all; then what a worker starts with, and what it may take.
    assert result.peak_mb > 50
    assert result.peak_mb < 400 + float(str(hostile.LIMITS["pdf.worker_memory_mb"]))
    # Not everything was refused at the door.
    assert result.states["read"] > len(files) / 10


def bad_files(folder: Path, count: int) -> list[str]:
    paths = []
    for file in mutations(hostile.originals(), count, SEED):
        path = folder / f"{file.name}.pdf"
        path.write_bytes(file.content)
        paths.append(str(path))
    return paths


def strange(paths: list[str], folder: Path, *, evil: str = "pass") -> list[str]:
    """The calls made while files are read that are not harmless.

    Args:
        paths: of the files.
        folder: in which they lie, the only one that may be written to.
        evil: a statement run in the process that read a file.
    """
    log = folder / "calls"
    # Only these calls stop the process, so tracing costs little.
    command = ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-e", f"trace={','.join(CALLS)}", "-o", str(log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder)}
    code = READER.replace("pass  # here an evil file acts", evil)
    reader = [sys.executable, "-c", code, json.dumps(hostile.LIMITS), *paths]
    subprocess.run([*command, *reader], check=True, env=environment, cwd=folder, timeout=600, capture_output=True)
    lines = log.read_text(errors="replace").splitlines()
    assert {path for path in paths if any(path in line for line in lines)} == set(paths)
    return [line for line in while_reading(lines, folder) if not harmless(line, folder)]


traced = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to see what the kernel was asked for")


@traced
def test_a_bad_file_opens_no_connection_and_no_other_file(tmp_path: Path) -> None:
    found = strange(bad_files(tmp_path, TRACED), tmp_path)
    assert found == [], found[:20]


@traced
def test_a_file_that_does_is_noticed(tmp_path: Path) -> None:
    found = strange(bad_files(tmp_path, 1), tmp_path, evil="; ".join(EVIL))
    assert [act for act, seen in EVIL.items() if not any(seen in line for line in found)] == []


def while_reading(lines: list[str], folder: Path) -> list[str]:
    """The calls made from the first file on, by processes that were not there before it: not by those that import."""
    first = next(index for index, line in enumerate(lines) if f'"{folder}/' in line and ".pdf" in line)
    before = {line.split(maxsplit=1)[0] for line in lines[:first]}
    return [line for line in lines[first:] if line.split(maxsplit=1)[0] not in before]


def harmless(line: str, folder: Path) -> bool:
    """Whether a call touches the folder of the files, or reads what the programs themselves consist of."""
    call = re.search(r"(\w+)\((.*)", line)
    if call is None or "resumed>" in line:
        return True
    if call[1] in NETWORK:
        # The name service's cache, which is asked for the machine's own name.
        return "/var/run/nscd/socket" in line
    # Relative to an open directory, or to the working directory, which is the folder.
    paths = re.findall(r'(?:<([^>]*)>, )?"([^"]*)"', call[2])
    places = [os.path.normpath(Path(start or folder) / path) for start, path in paths]
    reads_only = call[1] in {"open", "openat"} and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", line)
    code = (sys.prefix, sys.base_prefix, str(ROOT), *filter(None, sys.path))
    programs = (*code, "/usr/", "/lib", "/proc/", "/sys/", "/dev/", *CONFIGURATION)
    return all(
        place.startswith((str(folder), "/dev/shm/gatherum-"))  # noqa: S108 -- only looked at
        or place == "/dev/null"
        or (reads_only and place.startswith(programs))
        for place in places
    )
