"""Images as files: what the PDF holds, byte for byte, each once, and no more than there is room for."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.messages import Page, PageImage, Words
from actors.reading import images, pages, structure
from actors.reading.allowance import Allowance, Ledger, Taken
from actors.reading.allowance import taken as bytes_of

BIG = 1_000_000


def noise(width: int, height: int, seed: int = 7) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(pixels: npt.NDArray[np.uint8], form: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=form)
    return out.getvalue()


def taken(path: Path, allowance: Allowance, *, max_pixels: int = BIG) -> list[Page]:
    with pages.opened(str(path)) as document:
        read = [structure.detailed(document, pages.read(document, n + 1)[0]) for n in range(document.page_count)]
        return [images.with_bytes(document, page, allowance, max_pixels) for page in read]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two pages: a JPEG, the same once more, a JPEG 2000; a raster, and the JPEG again."""
    files = [encoded(noise(40, 30), "JPEG"), encoded(noise(20, 20), "JPEG2000"), encoded(noise(24, 16), "PNG")]
    with pymupdf.open() as document:
        for _ in range(2):
            document.new_page()
        first, second = document
        xref = first.insert_image(pymupdf.Rect(50, 50, 130, 110), stream=files[0])
        first.insert_image(pymupdf.Rect(50, 150, 130, 210), xref=xref)
        first.insert_image(pymupdf.Rect(50, 250, 130, 330), stream=files[1])
        second.insert_image(pymupdf.Rect(50, 50, 130, 110), stream=files[2])
        second.insert_image(pymupdf.Rect(50, 150, 130, 210), xref=xref)
        document.save(tmp_path / "a.pdf")
    for number, content in enumerate(files):
        (tmp_path / str(number)).write_bytes(content)
    return tmp_path / "a.pdf"


def test_what_the_pdf_holds_as_a_file_comes_out_byte_for_byte_and_once(path: Path) -> None:
    first, second = taken(path, Allowance(BIG))
    jpeg, again, jpx = first.images
    assert (jpeg.media_type, jpeg.data) == ("image/jpeg", (path.parent / "0").read_bytes())
    assert (jpx.media_type, jpx.data) == ("image/jp2", (path.parent / "1").read_bytes())
    png, elsewhere = second.images
    assert png.media_type == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.data))), noise(24, 16))
    for repeated in (again, elsewhere):
        assert (repeated.sha256, repeated.data, repeated.omitted) == (jpeg.sha256, b"", "repeated")
    assert [image.omitted for image in (jpeg, jpx, png)] == [""] * 3


def test_what_is_too_large_is_left_out(path: Path) -> None:
    held = len((path.parent / "0").read_bytes())
    first, second = taken(path, Allowance(held))
    # After the first that does not fit none goes out, not even one that went out before.
    assert [image.omitted for image in (*first.images, *second.images)] == ["", "size", "size", "size", "size"]
    # A raster would have to be decoded; what is a file already need not be.
    first, second = taken(path, Allowance(BIG), max_pixels=20)
    assert [image.omitted for image in (*first.images, *second.images)] == ["", "repeated", "", "pixels", "repeated"]


def test_a_damaged_image_costs_only_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = images._encoded

    def encode(image: PageImage, raster: object, max_pixels: int) -> PageImage:
        if image.width == 20:
            raise RuntimeError("code=2: premature end of data")
        return real(image, raster, max_pixels)

    monkeypatch.setattr(images, "_encoded", encode)
    first, second = taken(path, Allowance(BIG))
    assert [image.omitted for image in (*first.images, *second.images)] == ["", "repeated", "damaged", "", "repeated"]


def picture(name: int) -> PageImage:
    return PageImage((0, 0, 1, 1), 1, 1, "image/png", b"x" * (5 * name), f"{name}")


@given(st.lists(st.integers(1, 6), max_size=20), st.lists(st.integers(0, 20), max_size=4), st.integers(1, 60))
def test_what_goes_out_does_not_depend_on_the_ranges(names: list[int], cuts: list[int], most: int) -> None:
    document = [picture(name) for name in names]
    whole = Allowance(most)
    expected = [whole.admit(image) for image in document]
    edges = sorted({0, len(document), *(min(cut, len(document)) for cut in cuts)})
    over_all = Allowance(most)
    found = []
    for first, last in itertools.pairwise(edges):
        task = Allowance(most)
        found += [over_all.admit(task.admit(image)) for image in document[first:last]]
    assert found == expected
    assert sum(len(image.data) for image in found) <= most


@given(
    names=st.lists(st.lists(st.integers(1, 6), max_size=4), max_size=12),
    most=st.integers(1, 90),
    at_once=st.integers(1, 4),
    data=st.data(),
)
def test_what_goes_out_does_not_depend_on_the_order_of_the_ranges_and_little_more_is_taken(
    names: list[list[int]], most: int, at_once: int, data: st.DataObject
) -> None:
    """Ranges of one page, so many at once, that end in any order."""
    document = {number: tuple(map(picture, found)) for number, found in enumerate(names, start=1)}
    whole = Allowance(most)
    expected = {number: tuple(map(whole.admit, found)) for number, found in document.items()}
    ledger = Ledger(Allowance(most))
    waiting = list(document)
    running: dict[int, Allowance] = {}
    given: dict[int, Page] = {}
    while waiting or running:
        while waiting and len(running) < at_once:
            page = waiting.pop(0)
            running[page] = ledger.before(page)
        page = data.draw(st.sampled_from(sorted(running)))
        allowance = running.pop(page)
        images_of = tuple(map(allowance.admit, document[page]))
        given[page] = Page(page, 1, 1, "", Words(), images=images_of)
        found = bytes_of([given[page]])
        assert sum(image.size for image in found) <= most
        ledger.note(found)
    over_all = Allowance(most)
    assert {page: tuple(map(over_all.admit, given[page].images)) for page in document} == expected
    different = {image.sha256: image.size for image in bytes_of(given.values())}
    # What is read at the same time does not know of each other.
    assert sum(different.values()) <= (at_once if at_once > 1 else 0) * most + most


def test_an_image_counts_where_it_stands_first() -> None:
    ledger = Ledger(Allowance(10, {"x"}))
    ledger.note([Taken(7, "a", 4), Taken(3, "a", 4), Taken(5, "b", 4)])
    assert ledger.before(3) == Allowance(10, {"x"})
    assert ledger.before(4) == Allowance(6, {"x", "a"})
    assert ledger.before(6) == Allowance(2, {"x", "a", "b"})
    ledger.note([Taken(1, "c", 9)])
    assert ledger.before(6).left == 0
