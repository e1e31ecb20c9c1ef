"""What a reading looks like on its way out: which pages, and each of them as JSON, text or Markdown.

Pure functions. The JSON is the messages' own fields, so what the reader learns to tell comes through without a change
here; only words are unpacked, since nobody outside should need to know how they are packed.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import orjson

from actors.errors import InvalidInput
from actors.messages import DocumentInfo, Page, PageImage, Table, Words

Format = Literal["json", "text", "markdown"]

MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "markdown": "text/markdown; charset=utf-8",
}

_SPAN = re.compile(r"([0-9]{1,7})(-([0-9]{1,7})?)?", re.ASCII)
_MARKUP = re.compile(
    r"^\s*(?:\d+(?=[.)]\s)|(?=#|>|[-+*]\s|```|~~~|---|===))", re.MULTILINE
)  # a backslash goes behind it
_IN_COMMENT = str.maketrans({"-": "\u2010", ">": "\u203a"})
_SPECIAL = re.compile(r"([\\`*_\[\]<])")


@dataclass(frozen=True, slots=True)
class Selection:
    """Pages as a person writes them: `1-3,7`, `5-` for the rest; nothing means all.

    Attributes:
        spans: first and last page of each part; None for the document's last.
    """

    spans: tuple[tuple[int, int | None], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the notation.

        Raises:
            InvalidInput: it is wrong; the message names the part.
        """
        spans: list[tuple[int, int | None]] = []
        for part in text.split(",") if text.strip() else ():
            found = _SPAN.fullmatch(part.strip())
            if found is None:
                raise InvalidInput(f"pages: {part.strip()[:20]!r} is not a page or a range. Write them as 1-3,7 or 5-.")
            first = int(found[1])
            last = first if found[2] is None else int(found[3]) if found[3] else None
            if first == 0 or (last is not None and last < first):
                raise InvalidInput(f"pages: {part.strip()!r} is no range. Pages count from 1, and ranges go up.")
            spans.append((first, last))
        return cls(tuple(spans))

    def of(self, pages: int) -> tuple[int, ...]:
        """The numbers, ascending and each once, in a document of so many pages.

        Raises:
            InvalidInput: it has no such page.
        """
        if not self.spans:
            return tuple(range(1, pages + 1))
        for first, last in self.spans:
            if max(first, last or 0) > pages:
                raise InvalidInput(
                    f"pages: the document has {pages:,} page{'s' * (pages != 1)}; there is no {max(first, last or 0)}."
                )
        chosen: set[int] = set()
        for first, last in self.spans:
            chosen.update(range(first, (last or pages) + 1))
        return tuple(sorted(chosen))


def encode(value: Any) -> bytes:
    """A JSON value that may hold our messages."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_SERIALIZE_NUMPY)


def page_value(page: Page, form: Format, info: DocumentInfo, *, images: bool = False) -> dict[str, Any]:
    """A page, to be encoded: all of it for `json`, else its number, its text in that form, and what went wrong.

    Args:
        page: as read.
        form: of its text.
        info: of the document.
        images: whether its images have their bytes, or the reason why not.
    """
    if form == "json":
        placed = [_image(image, with_bytes=images) for image in page.images]
        return {**_plain(page), "words": list(_words(page.words, page.text)), "images": placed}
    body = page.text if form == "text" else markdown(page, info)
    return {"number": page.number, form: body, "error": page.error}


def stored_page(page: Page) -> dict[str, Any]:
    """A page out of the store, to be encoded. Links, images and tables are not kept, so nothing is said of them."""
    return {
        "number": page.number,
        "label": page.label,
        "width": round(page.width, 2),
        "height": round(page.height, 2),
        "text": page.text,
        "words": list(_words(page.words, page.text)),
        "ocr": page.ocr,
        "error": page.error,
    }


def plain_text(page: Page) -> str:
    """A page of plain text, ended by a form feed, as pdftotext does it."""
    return f"{page.text}\n\f"


def markdown(page: Page, info: DocumentInfo) -> str:
    """A page as Markdown, after a comment with its number.

    Headings are the lines that the document's own outline names on this page; tables become pipes where their words
    stand in the text; everything else is paragraphs as read.
    """
    if page.error:
        # A message may quote the file, which must not end the comment.
        return f"<!-- page {page.number}: not read: {page.error.translate(_IN_COMMENT)} -->\n\n"
    levels = {_squeezed(item.title): item.level for item in info.outline if item.page == page.number}
    blocks = [f"<!-- page {page.number} -->"]
    for block in _blocks(page):
        if isinstance(block, Table):
            blocks.append(pipes(block))
        elif level := levels.pop(_squeezed(block), 0):
            blocks.append(f"{'#' * min(level, 6)} {_SPECIAL.sub(_escaped, ' '.join(block.split()))}")
        else:
            blocks.append(_MARKUP.sub(r"\g<0>\\", _SPECIAL.sub(_escaped, block)))
    return "\n\n".join(blocks) + "\n\n"


def pipes(table: Table) -> str:
    """A table in the notation of GitHub's Markdown. One without a header gets an empty one: the notation needs it."""
    width = max([len(table.header), *map(len, table.rows)])
    rows = [table.header or ("",) * width, ("---",) * width, *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, [*row, *[""] * (width - len(row))])) + " |" for row in rows)


def _cell(text: str) -> str:
    return "---" if text == "---" else _SPECIAL.sub(_escaped, " ".join(text.split())).replace("|", r"\|")


def _escaped(found: re.Match[str]) -> str:
    return "\\" + found[1]


def _squeezed(text: str) -> str:
    return " ".join(text.split()).casefold()


def _blocks(page: Page) -> Iterator[str | Table]:
    """Paragraphs, and in the place of the words of each table the table."""
    inside = _table_of_word(page)
    starts = page.words.array["start"]
    told: set[int] = set()
    lines: list[str] = []
    start = 0
    for line in page.text.split("\n"):
        end = start + len(line)
        owners = inside[np.searchsorted(starts, start) : np.searchsorted(starts, end)]
        start = end + 1
        owner = int(owners[0]) if len(owners) and (owners == owners[0]).all() else -1
        if line.strip() and owner < 0:
            lines.append(line)
            continue
        if lines and (owner >= 0 or not line.strip()):
            yield "\n".join(lines)
            lines = []
        if owner >= 0 and owner not in told:
            told.add(owner)
            yield page.tables[owner]
    if lines:
        yield "\n".join(lines)
    yield from (table for position, table in enumerate(page.tables) if position not in told)


def _table_of_word(page: Page) -> Any:
    """Position of the table that each word's centre lies in, -1 for none; shape (words,)."""
    words = page.words.array
    x, y = (words["x0"] + words["x1"]) / 2, (words["y0"] + words["y1"]) / 2
    inside = np.full(len(words), -1)
    for position, table in enumerate(page.tables):
        x0, y0, x1, y1 = table.box
        inside[(x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1)] = position
    return inside


def _words(words: Words, text: str) -> Iterator[dict[str, Any]]:
    for start, end, x0, y0, x1, y1 in words.array.tolist():
        box = (round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2))
        yield {"text": text[start:end], "start": start, "end": end, "box": box}


def _image(image: PageImage, *, with_bytes: bool) -> dict[str, Any]:
    place = {"box": image.box, "width": image.width, "height": image.height}
    if not with_bytes:
        return place
    return {
        **place,
        "media_type": image.media_type or None,
        "sha256": image.sha256 or None,
        "data": b64encode(image.data).decode() if image.data else None,
        "omitted": image.omitted or None,
    }


def _plain(value: Any) -> Any:
    """One of our messages as a mapping of its fields; orjson comes back for what is inside."""
    if isinstance(value, Words):
        return list(_words(value, ""))
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    raise TypeError(type(value).__name__)
