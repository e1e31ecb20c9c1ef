"""What a PDF holds beside its text: table of contents, page labels, links, images.

None of it is needed to answer questions, so reading for the store leaves out what costs time; whoever asks for details
of a page gets it here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from actors.messages import Box, OutlineItem, Page, PageImage, PageLink
from actors.reading.mupdf import pymupdf
from actors.reading.text import clean

MAX_OUTLINE: Final = 5_000  # entries
MAX_TITLE_CHARS: Final = 500
MAX_URL_CHARS: Final = 2_000
MAX_LINKS: Final = 5_000  # of a page
MAX_IMAGES: Final = 5_000  # of a page
MAX_LABEL_CHARS: Final = 50


def outline(document: pymupdf.Document) -> tuple[OutlineItem, ...]:
    """The table of contents, without entries that have no title; empty if it is damaged."""
    try:
        entries: list[list[Any]] = document.get_toc(simple=True)
    # An outline may loop or point anywhere, and PyMuPDF raises what it meets.
    except Exception:  # noqa: BLE001
        return ()
    items = (
        OutlineItem(int(level), clean(" ".join(str(title).split()))[:MAX_TITLE_CHARS], max(0, int(page)))
        for level, title, page in entries[:MAX_OUTLINE]
    )
    return tuple(item for item in items if item.title)


def labels(document: pymupdf.Document) -> tuple[str, ...]:
    """What the document calls each of its pages; empty if it does not say, or if that is damaged."""
    if not _labelled(document):
        return ()
    try:
        return tuple(label(document, document[index]) for index in range(document.page_count))
    except Exception:  # noqa: BLE001 -- as above
        return ()


def label(document: pymupdf.Document, source: pymupdf.Page) -> str:
    """What the document calls a page; empty if it does not say."""
    if not _labelled(document):
        return ""
    try:
        return clean(str(source.get_label()))[:MAX_LABEL_CHARS]
    except Exception:  # noqa: BLE001 -- as above
        return ""


def _labelled(document: pymupdf.Document) -> bool:
    # Asking a page for a label that is not there costs 0.2 ms, asking the document 0.03 ms.
    kind, _ = document.xref_get_key(document.pdf_catalog(), "PageLabels")
    return bool(kind != "null")


def detailed(document: pymupdf.Document, page: Page) -> Page:
    """A page with its links and images; as it is where they are damaged."""
    try:
        source = document[page.number - 1]
        return replace(page, links=links(source), images=images(source))
    except Exception:  # noqa: BLE001 -- as above
        return page


def links(source: pymupdf.Page) -> tuple[PageLink, ...]:
    """The links of a page that lead somewhere: to a URL or to a page of the document. In the order of the file."""
    kind, _ = source.parent.xref_get_key(source.xref, "Annots")
    if kind == "null":
        return ()
    found: list[PageLink] = []
    for link in source.get_links()[:MAX_LINKS]:
        # As displayed already, other than the boxes of text and images.
        box = _box(link["from"])
        if url := clean(link.get("uri") or "")[:MAX_URL_CHARS]:
            found.append(PageLink(box, url=url))
        elif isinstance(page := link.get("page"), int) and page >= 0:
            found.append(PageLink(box, page=page + 1))
    return tuple(found)


def images(source: pymupdf.Page) -> tuple[PageImage, ...]:
    """The images placed on a page, in the order drawn; without those of no extent."""
    found = source.get_image_info()[:MAX_IMAGES]
    placed = ((pymupdf.Rect(image["bbox"]), image["width"], image["height"]) for image in found)
    return tuple(PageImage(_displayed(source, box), width, height) for box, width, height in placed if not box.is_empty)


def export_image(source: pymupdf.Page, index: int, max_pixels: int) -> bytes | None:
    """An image of a page as PNG, with its own pixels.

    Args:
        source: the page.
        index: position in `images`, from 0.
        max_pixels: largest image decoded.

    Returns:
        None if there is no such image, it is too large, or it cannot be decoded.
    """
    blocks = source.get_text("dict", flags=pymupdf.TEXT_PRESERVE_IMAGES)["blocks"]
    found = [block for block in blocks if block["type"] == 1 and not pymupdf.Rect(block["bbox"]).is_empty]
    if not 0 <= index < len(found) or found[index]["width"] * found[index]["height"] > max_pixels:
        return None
    try:
        pixmap = pymupdf.Pixmap(found[index]["image"])
        if pixmap.colorspace is None or pixmap.colorspace.n > 3:
            pixmap = pymupdf.Pixmap(pymupdf.csRGB, pixmap)
        png: bytes = pixmap.tobytes("png")
    except (RuntimeError, ValueError, pymupdf.mupdf.FzErrorBase):
        return None
    return png


def _displayed(source: pymupdf.Page, box: Any) -> Box:
    """A box of the unrotated page on the page as displayed, points."""
    return _box(pymupdf.Rect(box) * source.rotation_matrix)


def _box(rectangle: Any) -> Box:
    x0, y0, x1, y1 = (round(float(value), 2) for value in rectangle)
    return (x0, y0, x1, y1)
