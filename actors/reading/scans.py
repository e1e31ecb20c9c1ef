"""Makes a drawn page fit for recognition: upright, level, and with letters of the size that is read best.

Tesseract brings every line to a height of 36 pixels itself, so more pixels than that only cost time, and its layout
analysis loses more to them than it gains: over 29 book pages at 300 dpi a third of the pixels is both faster and more
accurate. What was done to the pixels is kept as one affine matrix, so boxes find back to the page exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Ink = npt.NDArray[np.bool_]
Points = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

X_HEIGHT: Final = 12.0
"""Pixels. Over 29 book pages at 300 dpi, where it is 15 to 22: characters wrong and CPU seconds are 1.20 % and 27.6 s
as they are, 1.30 % and 24.4 s at 10, 1.05 % and 26.7 s at 11, 1.03 % and 25.6 s at 12, 1.13 % and 27.8 s at 13."""
KEEP: Final = (0.9, 1.1)  # a scale in here gains nothing
FULL_DPI: Final = 300  # what is as fine as this is never enlarged: what seems like tiny print there is noise
SCALES: Final = (0.3, 2.5)
SMALL: Final = 0.3  # degrees; Tesseract follows lines that slope less than this without loss

SIGHT: Final = 1000  # pixels of the longer side on which skew is looked for: one line of text is still several
MAX_SKEW: Final = 12.0  # degrees; beyond it lies no scanner's fault
COARSE: Final = 0.5
FINE: Final = 0.05
MAX_POINTS: Final = 20_000
MIN_POINTS: Final = 200
SHARPER: Final = 1.15  # times as sharp as the page as it is, or the page is not levelled
PROMINENT: Final = 2.5  # times as sharp as at most angles; noise has up to 1.7, text 5 and more
SIDEWAYS: Final = 1.6  # times as sharp along columns as along rows
STRIPS: Final = (48, 24, 12)
"""In a page's width: the narrowest that hold some letters, so that slope and columns matter least."""
STRIP_WIDTH: Final = 3.0  # heights of small letters; in less stands one letter, whose own shape would be measured
CORE: Final = 0.4  # of a line's densest row: rows with more ink lie between baseline and x-height
MIN_X_HEIGHT: Final = 4  # pixels; below this lies noise
MIN_RUNS: Final = 20
DARK: Final = 100  # grey value of a ground that print on it is lighter than
PAPER_RANGE: Final = 24  # grey values about the commonest one
PAPER_SHARE: Final = 0.6
INK_SHARE: Final = 0.2  # pictures of print in real PDFs have 0.05 to 0.15, paintings and photographs 0.23 to 0.5


@dataclass(frozen=True, slots=True)
class Placement:
    """An affine map from pixels to points: x' = a x + c y + e, y' = b x + d y + f."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float

    def after(self, first: Placement) -> Placement:
        """The map that applies `first` and then this one."""
        return Placement(
            self.a * first.a + self.c * first.b,
            self.b * first.a + self.d * first.b,
            self.a * first.c + self.c * first.d,
            self.b * first.c + self.d * first.d,
            self.a * first.e + self.c * first.f + self.e,
            self.b * first.e + self.d * first.f + self.f,
        )

    def boxes(self, boxes: Floats) -> Floats:
        """Upright boxes around the mapped ones, both of shape (4, boxes): x0, y0, x1, y1."""
        x = boxes[[0, 2, 2, 0]]
        y = boxes[[1, 1, 3, 3]]
        across, down = self.a * x + self.c * y + self.e, self.b * x + self.d * y + self.f
        return np.stack((across.min(axis=0), down.min(axis=0), across.max(axis=0), down.max(axis=0)))


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Pixels and where they lie.

    Attributes:
        pixels: grey values, shape (height, width).
        placement: from pixels to points of the page as displayed.
        rotation: degrees clockwise the content was turned by to stand upright: 0, 90, 180 or 270.
        skew: degrees the lines sloped, clockwise, before they were levelled; 0 if they were left alone.
    """

    pixels: Pixels
    placement: Placement
    rotation: int = 0
    skew: float = 0.0


def turned(bitmap: Bitmap, degrees: int) -> Bitmap:
    """The bitmap turned clockwise by a multiple of 90 degrees."""
    quarter = degrees // 90 % 4
    height, width = bitmap.pixels.shape
    back = {
        0: Placement(1, 0, 0, 1, 0, 0),
        1: Placement(0, -1, 1, 0, 0, height),
        2: Placement(-1, 0, 0, -1, width, height),
        3: Placement(0, 1, -1, 0, width, 0),
    }[quarter]
    pixels = np.ascontiguousarray(np.rot90(bitmap.pixels, -quarter))
    return Bitmap(pixels, bitmap.placement.after(back), (bitmap.rotation + 90 * quarter) % 360, bitmap.skew)


def scaled(bitmap: Bitmap, scale: float) -> Bitmap:
    """The bitmap with `scale` times as many pixels a side, smoothed."""
    height, width = bitmap.pixels.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # Averages: what was black and white becomes grey, which Tesseract's network was trained on.
    image = Image.fromarray(bitmap.pixels).resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    back = Placement(width / size[0], 0, 0, height / size[1], 0, 0)
    return Bitmap(np.asarray(image), bitmap.placement.after(back), bitmap.rotation, bitmap.skew)


def levelled(bitmap: Bitmap, skew: float) -> Bitmap:
    """The bitmap turned about its middle so that lines that slope by `skew` degrees clockwise become level."""
    height, width = bitmap.pixels.shape
    angle = np.deg2rad(skew)
    sine, cosine = float(np.sin(angle)), float(np.cos(angle))
    # Grown, so that no corner is cut off.
    wide = int(np.ceil(width * cosine + height * abs(sine)))
    high = int(np.ceil(height * cosine + width * abs(sine)))
    back = Placement(
        cosine,
        sine,
        -sine,
        cosine,
        width / 2 - cosine * wide / 2 + sine * high / 2,
        height / 2 - sine * wide / 2 - cosine * high / 2,
    )
    paper = int(np.median(bitmap.pixels[:: max(1, height // 100), :: max(1, width // 100)]))
    image = Image.fromarray(bitmap.pixels).transform(
        (wide, high),
        Image.Transform.AFFINE,
        (back.a, back.c, back.e, back.b, back.d, back.f),
        Image.Resampling.BILINEAR,
        fillcolor=paper,
    )
    return Bitmap(np.asarray(image), bitmap.placement.after(back), bitmap.rotation, skew)


def fitted(bitmap: Bitmap, dpi: int) -> Bitmap:
    """The bitmap with level lines and letters of the size that is read best.

    Args:
        bitmap: upright.
        dpi: its resolution.
    """
    height = x_height(ink(bitmap.pixels))
    if height is not None:
        scale = min(X_HEIGHT / height, max(1.0, FULL_DPI / dpi))
        if not KEEP[0] <= scale <= KEEP[1]:
            bitmap = scaled(bitmap, min(max(scale, SCALES[0]), SCALES[1]))
    slope = skew(ink(small(bitmap.pixels)))
    return levelled(bitmap, slope) if abs(slope) >= SMALL else bitmap


def dark_on_light(pixels: Pixels) -> Pixels:
    """The pixels, exchanged if most of them are dark: Tesseract is not asked to try both."""
    return 255 - pixels if float(np.median(pixels)) < DARK else pixels


def excerpt(bitmap: Bitmap) -> Bitmap:
    """A quarter of the bitmap: the band across it with most ink, for a trial."""
    height = bitmap.pixels.shape[0]
    band = max(1, height // 4)
    rows = np.concatenate(([0], np.cumsum(ink(bitmap.pixels).sum(axis=1))))
    top = int((rows[band:] - rows[:-band]).argmax())
    placement = bitmap.placement.after(Placement(1, 0, 0, 1, 0, top))
    return Bitmap(bitmap.pixels[top : top + band], placement, bitmap.rotation, bitmap.skew)


def written(pixels: Pixels) -> bool:
    """Whether a picture looks like text: lines of even height on one colour; photographs and most charts do not."""
    paper, inked = shares(pixels)
    return paper >= PAPER_SHARE and inked <= INK_SHARE and x_height(ink(pixels)) is not None


def shares(pixels: Pixels) -> tuple[float, float]:
    """The parts of a picture that are of its commonest colour, and that are `ink`, 0 to 1."""
    counts = _histogram(pixels)
    paper = int(counts.argmax())
    plain = counts[max(0, paper - PAPER_RANGE) : paper + PAPER_RANGE + 1].sum()
    dark = counts[: _threshold(counts) + 1].sum()
    return float(plain / pixels.size), float(min(dark, pixels.size - dark) / pixels.size)


# --- looking --------------------------------------------------------------------------------------------------------


def ink(pixels: Pixels) -> Ink:
    """Which pixels are ink: on the rarer side of Otsu's threshold (IEEE Trans. SMC 9, 1979)."""
    counts = _histogram(pixels)
    threshold = _threshold(counts)
    dark = pixels <= threshold
    return dark if 2 * counts[: threshold + 1].sum() <= pixels.size else ~dark


def _histogram(pixels: Pixels) -> Floats:
    return np.array(Image.fromarray(pixels).histogram(), dtype=np.float64)  # ten times as fast as numpy's


def _threshold(counts: Floats) -> int:
    """The last grey value of the darker side: Otsu's."""
    below = np.cumsum(counts)
    mass = np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num((mass[-1] * below - mass * below[-1]) ** 2 / (below * above))
    return int(between.argmax())


def small(pixels: Pixels) -> Pixels:
    """The pixels reduced to what skew and orientation can be seen on."""
    factor = max(pixels.shape) // SIGHT
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def edges(seen: Ink) -> Points:
    """Where ink ends downwards, at most `MAX_POINTS`: along baselines mostly. Shape (2, points): rows, columns."""
    found = np.stack(np.nonzero(seen[:-1] & ~seen[1:]))
    step = -(-found.shape[1] // MAX_POINTS)
    return found[:, :: max(1, step)]


def sharpness(points: Points, slopes: Floats) -> Floats:
    """How sharply the points gather in lines, for each slope (rows a column, downwards), shape (slopes,).

    The sum of the squared differences of neighbouring rows of the sheared projection (Postl, 1986).
    """
    rows, columns = points
    reach = int(np.ceil(np.abs(slopes).max() * (columns.max() + 1))) + 1
    length = int(rows.max()) + 2 * reach + 1
    found = np.empty(len(slopes))
    for index, slope in enumerate(slopes):
        row = (rows - slope * columns + reach).astype(np.intp)
        found[index] = (np.diff(np.bincount(row, minlength=length)).astype(np.float64) ** 2).sum()
    return found


def skew(seen: Ink) -> float:
    """Degrees that lines slope, clockwise; 0 if there are no lines to tell it from.

    Args:
        seen: ink on a page, as `small` as it may be.
    """
    points = edges(seen)
    if points.shape[1] < MIN_POINTS:
        return 0.0

    angles = np.arange(-MAX_SKEW, MAX_SKEW + COARSE, COARSE)
    found = sharpness(points, np.tan(np.deg2rad(angles)))
    coarse, common = float(angles[found.argmax()]), float(np.median(found))
    angles = np.arange(coarse - COARSE, coarse + COARSE, FINE)
    found = sharpness(points, np.tan(np.deg2rad(angles)))
    angle, sharp = float(angles[found.argmax()]), float(found.max())
    if abs(angle) >= MAX_SKEW or sharp < max(PROMINENT * common, SHARPER * float(sharpness(points, np.zeros(1))[0])):
        return 0.0
    return round(angle, 2)


def sideways(seen: Ink) -> bool:
    """Whether lines run up and down."""
    slopes = np.tan(np.deg2rad(np.arange(-MAX_SKEW, MAX_SKEW + 1, 1.0)))
    along, across = edges(seen), edges(np.ascontiguousarray(seen.T))
    if min(along.shape[1], across.shape[1]) < MIN_POINTS:
        return False
    rows, columns = (
        float(sharpness(points, slopes).max()) / points.shape[1] ** 2 * size
        for points, size in ((along, seen.shape[0]), (across, seen.shape[1]))
    )
    return bool(columns > SIDEWAYS * rows)


def x_height(seen: Ink) -> float | None:
    """Height of small letters in pixels, of the smaller print where there are two; None if there is no text to tell.

    In a narrow strip a line of text is a run of rows with ink, and the rows between its baseline and its x-height hold
    much more of it than those of ascenders and descenders.
    """
    found = None
    for strips in STRIPS:
        across = max(1, seen.shape[1] // strips)
        found = _core_height(seen, across) or found
        if found is not None and across >= STRIP_WIDTH * found:
            break
    return found


def _core_height(seen: Ink, across: int) -> float | None:
    """`x_height` from strips that are `across` pixels wide."""
    height, width = seen.shape
    strips = width // across
    counts = np.add.reduce(seen[:, : strips * across].reshape(height, strips, across), axis=2, dtype=np.int32)
    # One column of all strips, with a blank row between them.
    column = np.vstack((counts, np.zeros((1, strips), dtype=np.int32))).T.ravel()
    change = np.diff(np.concatenate(([0], (column > 0).astype(np.int8))))
    starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    if len(starts) < MIN_RUNS:
        return None
    # From the first run on; the blank rows behind a run add nothing to it.
    column = column[starts[0] :]
    ends, starts = ends - starts[0], starts - starts[0]
    peaks = np.maximum.reduceat(column, starts)
    dense = column >= np.maximum(1, CORE * np.repeat(peaks, np.diff(np.append(starts, len(column)))))
    cores = np.add.reduceat(dense.astype(np.int32), starts)
    heights = ends - starts
    # A line is not much higher than its small letters; rules, pictures and lines that touch are something else.
    text = (cores >= MIN_X_HEIGHT) & (heights <= 3 * cores) & (heights <= height // 8) & (peaks >= across // 10)
    if text.sum() < MIN_RUNS:
        return None
    return float(np.percentile(cores[text], 40))
