"""Bounds the bytes of images that one document may give out.

The task that takes images out of its pages is bounded so that it cannot fill memory, and the answer over all tasks;
both by this rule, so that what is left out does not depend on how the pages were dealt out. A task is allowed what the
pages before its own have left, as far as that is known when it starts: of pages that are read in order, so many at
once, the images that are taken come to at most an allowance, and one more for each task under way. This module knows
no library for PDFs, because the process that answers knows none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from actors.messages import Page, PageImage


@dataclass(slots=True)
class Allowance:
    """How many bytes of images may go out: each image once, in the order of the document, until one does not fit.

    Attributes:
        left: bytes.
        sent: digests of the images that went out.
    """

    left: int
    sent: set[str] = field(default_factory=set)

    def admit(self, image: PageImage) -> PageImage:
        """The image, without its bytes where they went out before or are too many; then none goes out after it."""
        if image.omitted == "size" or self.left <= 0:
            self.left = 0
            return without_bytes(image, "size")
        if image.omitted in ("damaged", "pixels"):
            return image
        if image.omitted == "repeated" or image.sha256 in self.sent:
            return replace(image, data=b"", omitted="repeated")
        self.left -= len(image.data)
        if self.left < 0:
            return without_bytes(image, "size")
        self.sent.add(image.sha256)
        return image


@dataclass(frozen=True, slots=True)
class Taken:
    """An image that a task gave the bytes of.

    Attributes:
        page: it stands on, from 1.
        sha256: of its bytes.
        size: of them.
    """

    page: int
    sha256: str
    size: int


def taken(pages: Iterable[Page]) -> tuple[Taken, ...]:
    """The images of pages that have their bytes."""
    return tuple(
        Taken(page.number, image.sha256, len(image.data)) for page in pages for image in page.images if image.data
    )


class Ledger:
    """What is known to be taken of an allowance while pages are read in any order.

    Args:
        allowance: of all the pages.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._first: dict[str, Taken] = {}

    def note(self, images: Iterable[Taken]) -> None:
        """Images that were taken; one counts where it stands first."""
        for image in images:
            known = self._first.get(image.sha256)
            if known is None or image.page < known.page:
                self._first[image.sha256] = image

    def before(self, page: int) -> Allowance:
        """What is left to pages from this one on, or more: what is known of the pages before it, taken off."""
        earlier = [image for image in self._first.values() if image.page < page]
        left = self._allowance.left - sum(image.size for image in earlier)
        return Allowance(max(0, left), self._allowance.sent | {image.sha256 for image in earlier})


def without_bytes(image: PageImage, why: str) -> PageImage:
    """The place of an image alone, and why there is no more; see `PageImage.omitted`."""
    return PageImage(image.box, image.width, image.height, omitted=why)
