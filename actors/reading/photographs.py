"""Tells photographs by the JPEG that they are stored as.

Whether a picture holds text is seen on the page as it is drawn. Most pictures are photographs, though, and to draw one
takes MuPDF 5 to 15 ms; libjpeg gives its grey values alone, at a fraction of its size, in 1 to 3.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image, JpegImagePlugin

from actors.reading import scans
from actors.reading.mupdf import pymupdf
from actors.reading.triage import Picture

mupdf = pymupdf.mupdf

MARGIN: Final = 0.1
"""By which a photograph must be beyond what text may be, because what is drawn has other pixels. In 46 JPEGs of real
PDFs the shares of paper and ink are mostly 0.02 off, at most 0.12; text is the most even of them."""
MAX_PIXELS: Final = 50_000_000
WHITE: Final = 255


def is_photograph(picture: Picture, dpi: int) -> bool:
    """Whether a picture is surely a photograph; False also where that is not known without drawing it.

    Args:
        picture: with its image, and nothing else drawn where it is.
        dpi: that it would be drawn with.
    """
    try:
        grey = _grey(picture, min(1.0, dpi / picture.dpi))
    # Pillow raises what it meets in a damaged file, and MuPDF draws what it can of it.
    except Exception:  # noqa: BLE001
        return False
    if grey is None:
        return False
    pixels = np.asarray(grey)
    paper, ink = scans.shares(pixels)
    if paper < scans.PAPER_SHARE - MARGIN or ink > scans.INK_SHARE + MARGIN:
        return True
    # Letters that are not there in finer pixels are not in coarser ones.
    return picture.dpi >= dpi and scans.x_height(scans.ink(pixels)) is None


def _grey(picture: Picture, scale: float) -> Image.Image | None:
    """A JPEG in shades of grey, on white where it is transparent, at `scale` or finer; None for what is no JPEG."""
    image = picture.image
    # Those of four colours come in two ways, one of them inverted.
    if image is None or image.n() > 3 or picture.width * picture.height > MAX_PIXELS:
        return None
    packed = mupdf.fz_compressed_image_buffer(image).m_internal
    if not packed or packed.params.type != mupdf.FZ_IMAGE_JPEG:
        return None
    content = mupdf.fz_buffer_extract_copy(mupdf.FzBuffer(mupdf.ll_fz_keep_buffer(packed.buffer)))
    jpeg = JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    if jpeg.size != (picture.width, picture.height):
        return None
    jpeg.draft("L", (int(picture.width * scale), int(picture.height * scale)))
    grey = jpeg.convert("L")
    mask = image.mask()
    if not mask.m_internal:
        return grey
    if mask.w() * mask.h() > MAX_PIXELS:
        return None
    opaque = pymupdf.Pixmap(mupdf.fz_get_unscaled_pixmap_from_image(mask))
    shape = Image.frombytes("L", (opaque.width, opaque.height), opaque.samples).resize(grey.size)
    return Image.composite(grey, Image.new("L", grey.size, WHITE), shape)
