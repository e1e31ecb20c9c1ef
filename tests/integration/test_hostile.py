"""Bad files through the real role: every one ends in a definite state, in time, and harms nothing else.

`GATHERUM_HOSTILE` says how many mutations are made; the seed is fixed, so that a failure can be had again.
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
COUNT = int(os.environ.get("GATHERUM_HOSTILE", "96"))
ROOT = Path(__file__).parents[2]
TRACED = 36
CONFIGURATION = (
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/resolv.conf", "/etc/hosts"),
    *("/etc/ldap/", f"{Path.home()}/ldaprc", f"{Path.home()}/.ldaprc"),
)
"""What starting a program reads. Tesseract is linked to libcurl, whose helpers ask for the machine's own name."""

READER = """
import json, os, sys
from actors import pdf
from actors.reading import ocr, pages
from actors.reading.ranges import Range
from config.settings import load
settings = load(json.loads(sys.argv[1]))
setup = pdf.Setup(settings.pdf, None, settings.logs, {})
for path in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        try:
            info = pdf.inspect_file(path, setup)
            report, _ = pdf.read_range(path, Range(tuple(range(1, min(info.pages, 5) + 1))), setup)
            if report.scanned:
                numbers, whys = zip(*report.scanned)
                pdf.read_range(path, Range(numbers[:1], whys[:1]), setup)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""
"""Reads each file in a process of its own, by the functions that page tasks run."""


def collected() -> Path:
    return Path(os.environ.get("GATHERUM_DATA", ROOT.parent / "shared" / "data")) / "hostile" / "files"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_node")
async def test_every_bad_file_ends_in_a_definite_state(tmp_path: Path) -> None:
    files = [*hostile.collected(collected()), *mutations(hostile.originals(), COUNT, SEED)]
    result = await hostile.run(files, tmp_path, SEED)
    print(hostile.report(result))  # noqa: T201 -- shown by pytest -s, and where the test fails
    assert len(result.outcomes) == len(files)
    assert [outcome for outcome in result.outcomes if outcome.state == "broken" or outcome.late] == []
    readings, whole = result.good
    assert readings == whole > 0
    # What a worker starts with, and what it may take.
    assert result.peak_mb < 400 + float(str(hostile.LIMITS["pdf.worker_memory_mb"]))
    # Not everything was refused at the door.
    assert result.states["read"] > len(files) / 10


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, to see what the kernel was asked for")
def test_a_bad_file_opens_no_connection_and_no_other_file(tmp_path: Path) -> None:
    paths = []
    for file in mutations(hostile.originals(), TRACED, SEED):
        path = tmp_path / f"{file.name}.pdf"
        path.write_bytes(file.content)
        paths.append(str(path))
    log = tmp_path / "calls"
    calls = "connect,sendto,bind,open,openat,openat2,creat,rename,renameat2,unlink,unlinkat,symlink,mkdir"
    # Only these calls stop the process, so tracing costs little.
    command = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={calls}", "-o", str(log)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path)}
    reader = [sys.executable, "-c", READER, json.dumps(hostile.LIMITS), *paths]
    subprocess.run([*command, *reader], check=True, env=environment, timeout=300, capture_output=True)
    lines = log.read_text(errors="replace").splitlines()
    assert {path for path in paths if any(path in line for line in lines)} == set(paths)
    strange = [line for line in while_reading(lines, tmp_path) if not harmless(line, tmp_path)]
    assert strange == [], strange[:20]


def while_reading(lines: list[str], work: Path) -> list[str]:
    """The calls made from the first file on, by processes that were not there before it: not by those that import."""
    first = next(index for index, line in enumerate(lines) if f'"{work}/' in line and ".pdf" in line)
    before = {line.split(maxsplit=1)[0] for line in lines[:first]}
    return [line for line in lines[first:] if line.split(maxsplit=1)[0] not in before]


def harmless(line: str, work: Path) -> bool:
    """Whether a call touches the work folder, or reads what the programs themselves consist of."""
    call = re.search(r"(\w+)\((.*)", line)
    if call is None or "resumed>" in line:
        return True
    if call[1] in {"connect", "sendto", "bind"}:
        # The name service's cache, which is asked for the machine's own name.
        return "/var/run/nscd/socket" in line
    path = re.search(r'"([^"]*)"', call[2])
    if path is None or not path[1].startswith("/"):  # relative to an open folder, or to the working directory
        return True
    if path[1].startswith((str(work), "/dev/shm/gatherum-")) or path[1] == "/dev/null":  # noqa: S108 -- only looked at
        return True
    code = (sys.prefix, sys.base_prefix, str(ROOT), *filter(None, sys.path))
    programs = (*code, "/usr/", "/lib", "/proc/", "/sys/", "/dev/", *CONFIGURATION)
    reads_only = call[1] in {"open", "openat"} and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", line)
    return reads_only and path[1].startswith(programs)
