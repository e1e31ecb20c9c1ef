"""Scanned pages on real Ray and Tesseract: their heads are in the text and not in the chunks, however they are read."""

from __future__ import annotations

import pymupdf
import pytest

from actors.deadline import Deadline
from actors.messages import Chunk, PageReading
from actors.pdf import Pdf
from config.settings import load

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_node")]

PAGES = 14
"""More than are looked at first, so that there are pages of both kinds."""


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("book") / "moons.pdf"
    with pymupdf.open() as document:
        for number in range(1, PAGES + 1):
            page = document.new_page(width=420, height=300)
            head = f"{number + 4}   THE MOONS OF SATURN" if number % 2 else f"CHAPTER {number}   {number + 4}"
            page.insert_text((40, 24), head, fontsize=11)
            for line in range(5):
                page.insert_text((40, 90 + 16 * line), "Huygens discovered Titan and wrote to his friend.", fontsize=12)
            picture = page.get_pixmap(dpi=150, colorspace=pymupdf.csGRAY)
            document.delete_page(-1)
            document.new_page(width=420, height=300).insert_image((0, 0, 420, 300), pixmap=picture)
        document.save(path)
    return str(path)


async def read(path: str, pages: list[int]) -> dict[int, PageReading]:
    settings = load()
    found: dict[int, PageReading] = {}
    stream = Pdf(settings.pdf, settings.entities, settings.logs).read(
        path, pages, enrich=True, deadline=Deadline.after(150)
    )
    async for part in stream:
        readings = part.readings
        assert [reading.page.number for reading in readings] == list(part.pages)
        assert not found.keys() & part.pages
        found.update({reading.page.number: reading for reading in readings})
    return found


async def test_heads_of_scans_are_kept_out_of_chunks_the_same_after_a_crash(book: str) -> None:
    whole = await read(book, list(range(1, PAGES + 1)))
    assert sorted(whole) == list(range(1, PAGES + 1))
    for reading in whole.values():
        assert reading.page.ocr is not None
        assert str(reading.page.number + 4) in reading.page.text.split("\n")[0]
        assert reading.chunks[0].text.startswith("Huygens discovered Titan")
        assert any(mention.text == "Titan" for mention in reading.mentions)
    # What is left of it: a page that was looked at and one that was not.
    rest = await read(book, [2, 7])
    assert chunks(rest) == {number: parts for number, parts in chunks(whole).items() if number in (2, 7)}


def chunks(readings: dict[int, PageReading]) -> dict[int, tuple[Chunk, ...]]:
    return {number: reading.chunks for number, reading in readings.items()}
