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
INSIDE: Final = frozenset({pymupdf.LINK_GOTO, pymupdf.LINK_NAMED})
"""Kinds of links that stay in the document; others may name a page too, of another file."""


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
    if not _label_rules(document):
        return ()
    return tuple(label(document, index) for index in range(document.page_count))


def label(document: pymupdf.Document, index: int) -> str:
    """What the document calls a page, counted from 0; empty if it does not say."""
    rules = _label_rules(document)
    if not rules:
        return ""
    try:
        return clean(str(pymupdf.utils.get_label_pno(index, rules)))[:MAX_LABEL_CHARS]
    except Exception:  # noqa: BLE001 -- as above
        return ""


def _label_rules(document: pymupdf.Document) -> list[tuple[int, str]]:
    """First page and rule of each run of labels, by page; empty if there are none, or they are damaged."""
    # Kept with the document, for which a weak reference cannot be made: anew for each page they cost up to 0.1 ms.
    rules: list[tuple[int, str]] | None = getattr(document, "label_rules", None)
    if rules is None:
        try:
            rules = sorted(document._get_page_labels())  # as `Page.get_label` has them
        except Exception:  # noqa: BLE001 -- as above
            rules = []
        vars(document)["label_rules"] = rules
    return rules


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
        elif link["kind"] in INSIDE and 0 <= (page := link.get("page", -1)) < source.parent.page_count:
            found.append(PageLink(box, page=page + 1))
    return tuple(found)


def images(source: pymupdf.Page) -> tuple[PageImage, ...]:
    """The images placed on a page, in the order drawn; without those of no extent."""
    found = source.get_image_info()[:MAX_IMAGES]
    placed = ((pymupdf.Rect(image["bbox"]), image["width"], image["height"]) for image in found)
    return tuple(PageImage(_displayed(source, box), width, height) for box, width, height in placed if not box.is_empty)


def _displayed(source: pymupdf.Page, box: Any) -> Box:
    """A box of the unrotated page on the page as displayed, points."""
    return _box(pymupdf.Rect(box) * source.rotation_matrix)


def _box(rectangle: Any) -> Box:
    x0, y0, x1, y1 = (round(float(value), 2) for value in rectangle)
    return (x0, y0, x1, y1)
