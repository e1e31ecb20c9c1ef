"""The Pdf role on real Ray: real tasks that read, crash, hang and are killed."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pymupdf
import pytest
import ray
from faults import faulty

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, EncryptedPdf, NotAPdf, UnknownPage
from actors.messages import PageRange, PageReading
from actors.pdf import Pdf
from actors.reading.ranges import Range
from config.settings import EntitiesSettings, LogSettings, PdfSettings, load

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_node")]

LINE = "Page {number}: Christiaan Huygens discovered Titan, a moon of Saturn."


def deadline(seconds: float = 60) -> Deadline:
    return Deadline.after(seconds)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten pages, of which 4 and 5 are images."""
    path = tmp_path_factory.mktemp("library") / "moons.pdf"
    with pymupdf.open() as document:
        for number in range(1, 11):
            page = document.new_page(width=500, height=200)
            page.insert_text((40, 80), LINE.format(number=number), fontsize=12)
            if number in (4, 5):
                pixmap = page.get_pixmap(dpi=200)
                document.delete_page(-1)
                document.new_page(width=500, height=200).insert_image((0, 0, 500, 200), pixmap=pixmap)
        document.save(path)
    return str(path)


def given(**overrides: Any) -> tuple[PdfSettings, EntitiesSettings, LogSettings]:
    settings = load({"pdf.range_pages": 3, **{f"pdf.{name}": value for name, value in overrides.items()}})
    return settings.pdf, settings.entities, settings.logs


def role(**overrides: Any) -> Pdf:
    return Pdf(*given(**overrides))


async def collect(stream: AsyncIterator[PageRange]) -> dict[int, PageReading]:
    readings: dict[int, PageReading] = {}
    async for found in stream:
        for reading in found.readings:
            assert reading.page.number in found.pages
            assert reading.page.number not in readings
            readings[reading.page.number] = reading
    return readings


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something outside this process; call it in a thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def noting(folder: Path) -> Callable[[Range], None]:
    """A fault that only notes the process it happens in."""

    def note(part: Range) -> None:
        (folder / str(os.getpid())).touch()

    return note


def noted(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir()]


def recognising(workers: list[int]) -> list[int]:
    """The Tesseract processes of these workers."""
    found = [Path(f"/proc/{pid}/task/{pid}/children") for pid in workers]
    pids = [child for path in found if path.exists() for child in path.read_text().split()]
    return [int(pid) for pid in pids if Path(f"/proc/{pid}/comm").read_text() == "tesseract\n"]


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_document_is_read_with_text_scans_chunks_and_names(library: str) -> None:
    readings = await collect(role().read(library, range(1, 11), enrich=True, deadline=deadline(120)))
    assert sorted(readings) == list(range(1, 11))
    for number, reading in readings.items():
        page = reading.page
        assert page.text == LINE.format(number=number)
        assert (page.ocr is not None) == (number in (4, 5))
        assert [chunk.text for chunk in reading.chunks] == [page.text]
        assert "Christiaan Huygens" in [mention.text for mention in reading.mentions]
        assert {mention.page for mention in reading.mentions} == {number}


async def test_pages_wait_for_a_slow_reader(tmp_path: Path) -> None:
    # More than 100 KB a range: less travels inline, and would be there in any case.
    path = str(tmp_path / "long.pdf")
    with pymupdf.open() as document:
        for _ in range(60):
            page = document.new_page()
            for line in range(60):
                page.insert_text((40, 40 + 13 * line), 16 * "moon " + f"{line}", fontsize=9)
        document.save(path)
    host: Any = ray.remote(num_cpus=0)(Pdf).remote(*given(range_pages=10))
    stream = host.read.options(num_returns="streaming", _generator_backpressure_num_objects=8).remote(
        path, range(1, 61), enrich=False, details=True, deadline=deadline()
    )
    parts: list[PageRange] = []
    async for item in stream:
        parts.append(await item)
        await asyncio.sleep(1.5 if len(parts) == 1 else 0)
    ray.kill(host)
    readings = [reading for part in parts for reading in part.readings]
    assert sorted(reading.page.number for reading in readings) == list(range(1, 61))
    assert all(len(pickle.dumps(part.readings)) > 100_000 for part in parts)


async def test_only_the_pages_asked_for_are_read(library: str) -> None:
    readings = await collect(role().read(library, [9, 2], enrich=False, deadline=deadline()))
    assert {number: reading.chunks for number, reading in readings.items()} == {2: (), 9: ()}


async def test_inspect_and_render(library: str) -> None:
    pdf = role()
    assert (await pdf.inspect(library, deadline=deadline())).pages == 10
    png = await pdf.render(library, 1, ((40, 60, 100, 90),), 72, deadline=deadline())
    assert png.startswith(b"\x89PNG")


async def test_errors_keep_their_type_across_the_border(library: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>not a PDF</html>")
    with pytest.raises(NotAPdf) as refused:
        await role().inspect(str(tmp_path / "page.html"), deadline=deadline())
    assert type(refused.value) is NotAPdf
    with pymupdf.open(library) as document:
        document.save(tmp_path / "locked.pdf", encryption=5, owner_pw="o", user_pw="u")
    with pytest.raises(EncryptedPdf):
        await collect(role().read(str(tmp_path / "locked.pdf"), [1], enrich=False, deadline=deadline()))
    with pytest.raises(UnknownPage):
        await role().render(library, 11, (), 72, deadline=deadline())


async def test_the_deadline_ends_the_tasks(library: str, tmp_path: Path) -> None:
    note = noting(tmp_path)

    def hang(part: Range) -> None:
        note(part)
        time.sleep(600)

    pdf = faulty(role(page_timeout_s=600), hang)
    with pytest.raises(DeadlineExceeded):
        await collect(pdf.read(library, range(1, 11), enrich=False, deadline=deadline(4)))
    pids = noted(tmp_path)
    assert pids
    await asyncio.to_thread(wait_until, lambda: gone(pids))
    # The cores are free again.
    assert len(await collect(role().read(library, [1], enrich=False, deadline=deadline()))) == 1


async def test_closing_the_iterator_ends_tesseract_too(library: str, tmp_path: Path) -> None:
    noise = str(tmp_path / "noise.pdf")
    with pymupdf.open(library) as document:
        page = document[3]
        pixmap = pymupdf.Pixmap(pymupdf.csGRAY, 2000, 2000, os.urandom(4_000_000), False)
        page.insert_image(page.rect, pixmap=pixmap, keep_proportion=False)
        document.save(noise)
    folder = tmp_path / "pids"
    folder.mkdir()
    stream: Any = faulty(role(), noting(folder)).read(noise, [1, 4], enrich=False, deadline=deadline())
    assert (await anext(stream)).pages[0] == 1
    following = asyncio.ensure_future(anext(stream))
    await asyncio.to_thread(wait_until, lambda: recognising(noted(folder)) != [])
    started = recognising(noted(folder))
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    await asyncio.to_thread(wait_until, lambda: gone(started))
