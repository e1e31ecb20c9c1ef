"""Setting a drawn page upright and level, with boxes that find back exactly."""

from __future__ import annotations

import numpy as np
import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.reading import scans
from actors.reading.scans import Bitmap, Pixels, Placement

SENTENCE = "The quick brown fox jumps over the lazy dog near the bank of the river and goes on. "
AS_IT_IS = Placement(1, 0, 0, 1, 0, 0)

numbers = st.floats(-3, 3)
placements = st.builds(Placement, numbers, numbers, numbers, numbers, numbers, numbers)


def printed(size: float, *, dpi: int = 150) -> Pixels:
    """A page of Helvetica, whose small letters are 0.523 of its size high."""
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=500)
        assert page.insert_textbox((30, 30, 370, 490), SENTENCE * round(2200 / size**2), fontsize=size) >= 0
        pixmap = page.get_pixmap(dpi=dpi, colorspace=pymupdf.csGRAY)
        rows = np.frombuffer(pixmap.samples, dtype=np.uint8).reshape(pixmap.height, pixmap.stride)
        return rows[:, : pixmap.width].copy()


def dotted(width: int, height: int, x: int, y: int) -> Bitmap:
    """White but for a black square of three pixels about a point."""
    pixels = np.full((height, width), 255, dtype=np.uint8)
    pixels[y - 1 : y + 2, x - 1 : x + 2] = 0
    return Bitmap(pixels, AS_IT_IS)


def centre(bitmap: Bitmap) -> tuple[float, float]:
    """Where the ink of a bitmap lies on the page."""
    rows, columns = np.nonzero(bitmap.pixels < 200)
    weight = 255.0 - bitmap.pixels[rows, columns]
    x, y = (float((side + 0.5) @ weight / weight.sum()) for side in (columns, rows))
    box = bitmap.placement.boxes(np.array([[x], [y], [x], [y]]))
    return float(box[0, 0]), float(box[1, 0])


@given(placements, placements, st.tuples(numbers, numbers))
def test_one_map_after_another(last: Placement, first: Placement, point: tuple[float, float]) -> None:
    box = np.array([point[0], point[1], point[0], point[1]])[:, None]
    assert np.allclose(last.after(first).boxes(box), last.boxes(first.boxes(box)))


@given(placements, st.lists(numbers, min_size=4, max_size=4), st.floats(0, 1), st.floats(0, 1))
def test_a_mapped_box_holds_all_that_the_box_held(
    placement: Placement, sides: list[float], across: float, down: float
) -> None:
    box = np.array([min(sides[0], sides[2]), min(sides[1], sides[3]), max(sides[0], sides[2]), max(sides[1], sides[3])])
    x, y = box[0] + across * (box[2] - box[0]), box[1] + down * (box[3] - box[1])
    outer = placement.boxes(box[:, None])[:, 0]
    inner = placement.boxes(np.array([x, y, x, y])[:, None])[:, 0]
    assert (inner[:2] >= outer[:2] - 1e-9).all()
    assert (inner[2:] <= outer[2:] + 1e-9).all()


@given(
    st.integers(20, 60),
    st.integers(20, 60),
    st.floats(0.2, 0.8),
    st.floats(0.2, 0.8),
    st.sampled_from([0, 90, 180, 270]),
    st.floats(0.6, 2.0),
    st.floats(-12, 12),
)
def test_ink_finds_back_to_where_it_was_drawn(
    width: int, height: int, across: float, down: float, way: int, scale: float, skew: float
) -> None:
    x, y = round(across * width), round(down * height)
    bitmap = scans.levelled(scans.scaled(scans.turned(dotted(width, height, x, y), way), scale), skew)
    # Half a pixel of the finer grid is what smoothing and the limits of the square may move its centre.
    assert centre(bitmap) == pytest.approx((x + 0.5, y + 0.5), abs=0.8)
    assert (bitmap.rotation, bitmap.skew) == (way, skew)


@pytest.mark.parametrize(("way", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_turning_is_clockwise(way: int, corner: tuple[int, int]) -> None:
    pixels = np.full((3, 5), 255, dtype=np.uint8)
    pixels[0, 0] = 0
    assert scans.turned(Bitmap(pixels, AS_IT_IS), way).pixels[corner] == 0


def test_levelling_cuts_nothing_off() -> None:
    pixels = np.full((60, 90), 255, dtype=np.uint8)
    pixels[1:4, 1:4] = pixels[-4:-1, -4:-1] = pixels[1:4, -4:-1] = pixels[-4:-1, 1:4] = 0
    before, after = (255.0 - pixels).sum(), (255.0 - scans.levelled(Bitmap(pixels, AS_IT_IS), 7).pixels).sum()
    assert after == pytest.approx(before, rel=0.15)


@pytest.mark.parametrize("skew", [-8.0, -1.7, 0.0, 0.6, 3.3])
def test_skew_is_found_and_removed(skew: float) -> None:
    sloping = scans.levelled(Bitmap(printed(11), AS_IT_IS), -skew)
    found = scans.skew(scans.ink(scans.small(sloping.pixels)))
    assert found == pytest.approx(skew, abs=0.15)
    level = scans.levelled(sloping, found)
    assert scans.skew(scans.ink(scans.small(level.pixels))) == pytest.approx(0, abs=0.15)


def test_noise_and_emptiness_have_no_skew() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (400, 300), dtype=np.uint8)
    assert scans.skew(scans.ink(noise)) == 0
    assert scans.skew(scans.ink(np.full((400, 300), 255, dtype=np.uint8))) == 0


@pytest.mark.parametrize(("way", "lying"), [(0, False), (90, True), (180, False), (270, True)])
def test_lines_that_run_up_and_down_are_seen(way: int, lying: bool) -> None:
    bitmap = scans.turned(Bitmap(printed(11), AS_IT_IS), way)
    assert scans.sideways(scans.ink(scans.small(bitmap.pixels))) == lying
    assert not scans.sideways(scans.ink(np.full((400, 300), 255, dtype=np.uint8)))


@pytest.mark.parametrize("dpi", [150, 300])
@pytest.mark.parametrize("size", [9.0, 12.0, 16.0])
def test_the_height_of_small_letters_is_estimated(size: float, dpi: int) -> None:
    assert scans.x_height(scans.ink(printed(size, dpi=dpi))) == pytest.approx(0.523 * size * dpi / 72, rel=0.15)


def test_a_blank_page_has_no_letters() -> None:
    assert scans.x_height(np.zeros((300, 200), dtype=bool)) is None


def test_print_is_brought_to_one_size() -> None:
    bitmap = scans.fitted(Bitmap(printed(12, dpi=300), AS_IT_IS), 300)
    assert scans.x_height(scans.ink(bitmap.pixels)) == pytest.approx(scans.X_HEIGHT, abs=1.5)
    fine = scans.fitted(Bitmap(printed(5, dpi=300)[:800], AS_IT_IS), 300)
    assert fine.placement.a >= 0.9, "what is fine enough is not enlarged"


def test_white_on_black_is_exchanged() -> None:
    pixels = printed(11)
    assert np.array_equal(scans.dark_on_light(255 - pixels), pixels)
    assert scans.dark_on_light(pixels) is pixels


def test_ink_is_the_rarer_side() -> None:
    pixels = np.full((20, 20), 230, dtype=np.uint8)
    pixels[5:8, 5:8] = 40
    assert np.array_equal(np.argwhere(scans.ink(pixels)), np.argwhere(pixels == 40))
    assert np.array_equal(scans.ink(255 - pixels), scans.ink(pixels))


def test_an_excerpt_is_the_band_with_most_ink_in_its_place() -> None:
    bitmap = dotted(40, 80, 20, 60)
    part = scans.excerpt(bitmap)
    assert part.pixels.shape == (20, 40)
    assert centre(part) == pytest.approx(centre(bitmap))


def test_text_looks_written_and_a_photograph_does_not() -> None:
    assert scans.written(printed(11))
    slope = np.add.outer(np.arange(500), np.arange(400)) % 256
    assert not scans.written(slope.astype(np.uint8))
    assert not scans.written(np.full((500, 400), 255, dtype=np.uint8))
