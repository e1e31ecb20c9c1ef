"""What a page that goes wrong costs: itself, and nothing else. Real tasks, real crashes, real limits."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pymupdf
import pytest
import ray
from faults import (
    CREDENTIALS,
    PLANTED,
    abandon_child,
    abandon_escaped_child,
    block_in_read,
    crash,
    crash_in,
    eat_memory,
    faulty,
    fill_disk,
    fill_disk_in_child,
    hang_in_c,
    on_page,
    spin_in_c,
)

from actors.deadline import Deadline
from actors.messages import Page, PageRange
from actors.pdf import Pdf, confined
from actors.reading import limits
from actors.reading.ranges import Range
from actors.reading.tasks import Setup, read_range
from config.settings import load

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_node")]

LINE = "Page {number} of seven."
BAD = 3
PAGE_TIMEOUT_S = 1


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("isolation") / "seven.pdf"
    with pymupdf.open() as document:
        for number in range(1, 8):
            document.new_page().insert_text((40, 80), LINE.format(number=number))
        document.save(path)
    return str(path)


def role(**overrides: Any) -> Pdf:
    values = {"range_pages": 4, "page_timeout_s": PAGE_TIMEOUT_S, "worker_memory_mb": 400, **overrides}
    settings = load({f"pdf.{name}": value for name, value in values.items()})
    return Pdf(settings.pdf, settings.entities, settings.logs)


async def read(pdf: Pdf, path: str) -> dict[int, Page]:
    found: dict[int, Page] = {}
    stream: AsyncIterator[PageRange] = pdf.read(path, range(1, 8), enrich=False, deadline=Deadline.after(60))
    async for part in stream:
        readings = part.readings
        for reading in readings:
            assert reading.page.number not in found
            found[reading.page.number] = reading.page
    return found


def only_the_bad_page_is_lost(found: dict[int, Page]) -> None:
    assert sorted(found) == list(range(1, 8))
    assert found[BAD].error == f"The reader crashed on it or needed more than {PAGE_TIMEOUT_S} s."
    assert {number: page.text for number, page in found.items() if number != BAD} == {
        number: LINE.format(number=number) for number in range(1, 8) if number != BAD
    }


@pytest.mark.parametrize("fault", [crash, eat_memory, hang_in_c, spin_in_c, block_in_read])
async def test_a_bad_page_costs_only_itself(document: str, fault: Callable[[], None]) -> None:
    started = time.monotonic()
    only_the_bad_page_is_lost(await read(faulty(role(), on_page(BAD, fault)), document))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("fault", [fill_disk, fill_disk_in_child])
async def test_no_large_file_is_written(document: str, fault: Callable[[], None]) -> None:
    found = await read(faulty(role(page_timeout_s=10, max_pixels=1_000_000), on_page(BAD, fault)), document)
    assert found[BAD].error == "An unexpected error; the log has the details."
    assert [number for number, page in found.items() if page.error] == [BAD]
    # The worker goes on, so its folder is there; it was the file that was too large.
    assert all(path.stat().st_size <= 5_000_000 for path in files_of_workers())


async def test_a_crash_leaves_no_core(document: str, tmp_path: Path) -> None:
    only_the_bad_page_is_lost(await read(faulty(role(), on_page(BAD, crash_in(tmp_path))), document))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("abandon", [abandon_child, abandon_escaped_child])
async def test_a_child_does_not_outlive_a_crashed_worker(
    document: str, tmp_path: Path, abandon: Callable[[Path], Callable[[], None]]
) -> None:
    note = tmp_path / "child"
    only_the_bad_page_is_lost(await read(faulty(role(), on_page(BAD, abandon(note))), document))
    # One that left the group is ended by its CPU clock, which has what the worker had used by then, and 3 s.
    end = time.monotonic() + 30
    while alive(int(note.read_text())):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


async def test_memory_beyond_the_allowance_is_an_error_of_the_page(document: str) -> None:
    def hoard(part: Range) -> None:
        bytearray(2_000_000_000)

    found = await read(faulty(role(), on_page(BAD, lambda: hoard(Range(())))), document)
    assert found[BAD].error == "An unexpected error; the log has the details."
    assert [number for number, page in found.items() if page.error] == [BAD]


async def test_a_worker_has_given_up_what_it_does_not_need(document: str, tmp_path: Path) -> None:
    note, seen = tmp_path / "state", tmp_path / "seen"

    def look(part: Range) -> None:
        names = ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_DATA")
        (tmp_path / "part").write_text(
            json.dumps(
                {
                    "pid": os.getpid(),
                    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in names},
                    "environ": dict(os.environ),
                    "folder": os.environ["TMPDIR"],
                    "mode": Path(os.environ["TMPDIR"]).stat().st_mode & 0o777,
                    "group": os.getpgid(0) == os.getpid(),
                }
            )
        )
        (tmp_path / "part").rename(note)
        while not seen.exists():
            time.sleep(0.02)

    reading = asyncio.create_task(read(faulty(role(page_timeout_s=20, range_pages=7), look), document))
    while not note.exists():
        assert not reading.done()
        await asyncio.sleep(0.02)
    state = json.loads(note.read_text())
    # As any other process of this user sees it.
    entries = Path(f"/proc/{state['pid']}/environ").read_bytes().decode(errors="replace").split("\0")
    seen.touch()
    await reading
    assert state["limits"]["RLIMIT_CORE"][1] in (0, 1)  # -1 is no limit
    assert state["limits"]["RLIMIT_FSIZE"] == [161_000_000] * 2
    assert 400_000_000 < state["limits"]["RLIMIT_DATA"][0] < 1_500_000_000
    assert state["group"]
    assert state["mode"] == 0o700
    assert Path(state["folder"]).name.startswith(limits.FOLDER_PREFIX)
    assert limits.kept_variables(state["environ"]) == state["environ"].keys()
    shown = dict(entry.split("=", 1) for entry in entries if "=" in entry)
    dropped = shown.keys() - limits.kept_variables(shown)
    assert dropped
    assert all(set(shown[name]) <= {"x"} for name in dropped)
    # The node had them when the worker started.
    assert shown.keys() >= CREDENTIALS.keys()
    assert not CREDENTIALS.keys() & state["environ"].keys()
    assert PLANTED not in json.dumps([state["environ"], entries])
    assert shown["PATH"] == os.environ["PATH"]


async def test_a_worker_that_has_grown_is_replaced_after_its_task_and_nothing_is_lost(document: str) -> None:
    pids: set[int] = set()
    grown = load({"pdf.worker_max_rss_mb": 300, "pdf.range_pages": 4})

    def hoard(path: str, part: Range, setup: Setup) -> Any:
        globals()["hoard"] = b"x" * 300_000_000
        report, readings = read_range(path, part, setup)
        return (os.getpid(), report), readings

    task: Any = ray.remote(num_cpus=1, num_returns=2, max_calls=500, max_retries=0)(confined(hoard))
    for _ in range(3):
        setup = Setup(grown.pdf, None, grown.logs, {})
        noted, readings = task.remote(document, Range((1, 2)), setup)
        pid, report = await noted
        assert report.done == (1, 2)
        assert len(await readings) == 2
        pids.add(pid)
    assert len(pids) == 3


def files_of_workers() -> list[Path]:
    """What lies in the folders of the workers that run."""
    return [path for path in Path(tempfile.gettempdir()).glob(f"{limits.FOLDER_PREFIX}*/*") if path.is_file()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
