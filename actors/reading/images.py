"""Takes the images out of a page as files, for those who ask for them.

What the PDF holds as JPEG or JPEG 2000 goes out byte for byte; anything else is a raster without a container, and
becomes a PNG, which loses nothing. Masks are not applied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from actors.messages import Page, PageImage
from actors.reading.allowance import Allowance, without_bytes
from actors.reading.mupdf import pymupdf

if TYPE_CHECKING:
    from pymupdf import Document

JPEG: Final = "image/jpeg"
JPX: Final = "image/jp2"
PNG: Final = "image/png"


def with_bytes(document: Document, page: Page, allowance: Allowance, max_pixels: int) -> Page:
    """A page with the bytes of its images, as far as they can be had.

    Args:
        document: from `pages.opened`.
        page: with its `images`.
        allowance: what the pages before it have left.
        max_pixels: largest raster that is made a PNG.
    """
    if not page.images:
        return page
    rasters = list(_rasters(document, page.number)) if allowance.left > 0 else []
    placed = zip_longest(page.images, rasters[: len(page.images)])
    return replace(page, images=tuple(_taken(image, raster, allowance, max_pixels) for image, raster in placed))


def _taken(image: PageImage, raster: Any, allowance: Allowance, max_pixels: int) -> PageImage:
    if allowance.left <= 0:
        return without_bytes(image, "size")
    try:
        return allowance.admit(_encoded(image, raster, max_pixels))
    # MuPDF raises errors without a common base over what is broken; a raster that is missing is broken, too.
    except Exception:  # noqa: BLE001
        return without_bytes(image, "damaged")


def _rasters(document: Document, number: int) -> Iterator[Any]:
    """The images of a page as MuPDF has them, one for each of `structure.images`."""
    blocks = document[number - 1].get_textpage(flags=pymupdf.TEXT_PRESERVE_IMAGES)
    for block in blocks.this:
        place = block.m_internal.bbox
        if block.m_internal.type == pymupdf.mupdf.FZ_STEXT_BLOCK_IMAGE and place.x0 < place.x1 and place.y0 < place.y1:
            yield block.i_image()


def _encoded(image: PageImage, raster: Any, max_pixels: int) -> PageImage:
    """The image with its bytes, or with the reason why there are none."""
    mupdf = pymupdf.mupdf
    held = {mupdf.FZ_IMAGE_JPEG: JPEG, mupdf.FZ_IMAGE_JPX: JPX}.get(raster.fz_compressed_image_type())
    if held:
        buffer = mupdf.FzBuffer(mupdf.ll_fz_keep_buffer(mupdf.ll_fz_compressed_image_buffer(raster.m_internal).buffer))
    elif image.width * image.height > max_pixels:
        return without_bytes(image, "pixels")
    else:
        buffer = raster.fz_new_buffer_from_image_as_png(mupdf.FzColorParams(mupdf.fz_default_color_params))
    data = bytes(pymupdf.JM_BinFromBuffer(buffer))
    return replace(image, data=data, media_type=held or PNG, sha256=hashlib.sha256(data).hexdigest())
