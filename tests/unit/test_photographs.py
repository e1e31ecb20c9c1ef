"""Photographs are told from their own pixels, and what may be text never is taken for one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pymupdf
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from actors.reading import pages, photographs, scans, triage
from actors.reading.triage import Picture

DPI = 100
WHERE = pymupdf.Rect(50, 40, 350, 240)
Pixels = npt.NDArray[np.uint8]


@cache
def photograph(width: int, height: int) -> Pixels:
    """Colours that run into one another, with grain."""
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    planes = np.stack((x, y, (x + y) / 2), axis=2) * 200 + np.random.default_rng(3).integers(0, 40, (height, width, 1))
    return planes.astype(np.uint8)


@cache
def printed(width: int, height: int, size: int) -> Pixels:
    """Lines of text, as a camera or a screen has them."""
    image = Image.new("RGB", (width, height), (250, 248, 240))
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(size)
    for top in range(size, height - 2 * size, int(1.4 * size)):
        pen.text((size, top), "Rhea and Dione were found by Cassini. " * 4, (20, 20, 30), font=font)
    return np.asarray(image)


def jpeg(pixels: Pixels, quality: int = 80, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, format="JPEG", quality=quality)
    return out.getvalue()


def on_page(content: bytes, *, mask: bytes | None = None, rotation: int = 0) -> Iterator[tuple[pymupdf.Page, Picture]]:
    """The page that an image stands on, and the image as it stands there."""
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=300)
        page.insert_text((50, 20), "Beside a picture.", fontsize=12)
        page.insert_image(WHERE, stream=content, mask=mask, rotate=rotation, keep_proportion=False)
        (found,) = triage.pictures(page)
        yield page, found


def told(content: bytes, *, mask: bytes | None = None) -> bool:
    ((_, found),) = ((page, photographs.is_photograph(found, DPI)) for page, found in on_page(content, mask=mask))
    return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_photograph_is_one(mode: str) -> None:
    assert told(jpeg(photograph(800, 600), mode=mode))


@pytest.mark.parametrize(
    "content",
    [
        jpeg(printed(800, 600, 24)),
        jpeg(photograph(800, 600), mode="CMYK"),
        jpeg(photograph(800, 600))[:3000],
    ],
    ids=["print", "four colours", "cut off"],
)
def test_what_is_not_surely_one_is_none(content: bytes) -> None:
    assert not told(content)


def test_an_image_of_another_kind_is_none() -> None:
    out = io.BytesIO()
    Image.fromarray(photograph(800, 600)).save(out, format="PNG")
    assert not told(out.getvalue())


def test_text_that_is_the_shape_of_its_mask_is_none() -> None:
    """As scanners store a page: its colours apart from the shapes of the letters."""
    shape = Image.fromarray(255 - printed(800, 600, 24)).convert("L").point(lambda value: 255 if value > 128 else 0)
    out = io.BytesIO()
    shape.save(out, format="PNG")
    colours = jpeg(photograph(800, 600) // 4)
    assert told(colours)
    assert not told(colours, mask=out.getvalue())


@given(
    size=st.sampled_from([12, 17, 24, 40]),
    width=st.sampled_from([300, 420, 700, 1200]),
    share=st.floats(0.0, 0.5),
    quality=st.integers(30, 95),
    rotation=st.sampled_from([0, 90, 180]),
)
@settings(max_examples=40, deadline=None)
def test_what_looks_written_when_drawn_is_no_photograph(
    size: int, width: int, share: float, quality: int, rotation: int
) -> None:
    """Print with a photograph below it that takes `share` of the height."""
    height = width * 2 // 3
    middle = round(height * (1 - share))
    pixels = np.concatenate((printed(width, height, size)[:middle], photograph(width, height)[middle:]))
    for page, found in on_page(jpeg(pixels, quality), rotation=rotation):
        drawn, _ = pages.rasterise(page, DPI, 10_000_000, grey=True, box=found.box)
        assume(scans.written(drawn))
        assert not photographs.is_photograph(found, DPI)


def test_a_photograph_is_not_drawn_unless_something_else_is_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object, **__: object) -> None:
        raise RuntimeError("drawn")

    monkeypatch.setattr(pages, "rasterise", drawn)
    for page, _ in on_page(jpeg(photograph(800, 600))):
        read, why = pages.read(page.parent, 1)
        assert (read.error, why) == (None, None)
        page.insert_image(pymupdf.Rect(60, 50, 200, 100), stream=jpeg(printed(800, 300, 24)))
        assert pages.read(page.parent, 1)[0].error == "The page is damaged: drawn"
