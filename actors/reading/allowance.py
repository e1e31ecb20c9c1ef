"""Bounds the bytes of images that one document may give out.

The task that takes images out of its pages is bounded so that it cannot fill memory, and the answer over all tasks;
both by this rule, so that what is left out does not depend on how the pages were dealt out. It knows no library for
PDFs, because the process that answers knows none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from actors.messages import PageImage


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
        if image.omitted in ("damaged", "pixels"):
            return image
        if image.omitted == "size" or self.left <= 0:
            self.left = 0
            return without_bytes(image, "size")
        if image.omitted == "repeated" or image.sha256 in self.sent:
            return replace(image, data=b"", omitted="repeated")
        self.left -= len(image.data)
        if self.left < 0:
            return without_bytes(image, "size")
        self.sent.add(image.sha256)
        return image


def without_bytes(image: PageImage, why: str) -> PageImage:
    """The place of an image alone, and why there is no more; see `PageImage.omitted`."""
    return PageImage(image.box, image.width, image.height, omitted=why)
