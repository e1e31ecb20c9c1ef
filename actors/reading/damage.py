"""Tells a page that is blank from one whose content could not be interpreted.

MuPDF goes on after nearly every error and says so on a list of messages. A page of garbage thus looks like a blank one,
and a document of them would be published as read. Beside words that were read only the loss of a stream counts, and as
a warning: what is said there of a broken colour profile or an unbalanced stack costs neither time nor false alarms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from actors.reading.mupdf import pymupdf

if TYPE_CHECKING:
    from pymupdf import Document, Page

MAX_CHARS: Final = 200

_NO_STREAM: Final = "content stream is not a stream"
_LOST: Final = re.compile(
    f"{_NO_STREAM}|cannot load content stream part|ignoring rest of page|Ignoring error during interpretation"
    "|treating as end of file|premature end|padding truncated image|cannot decode|unknown filter name"
)
_SYNTAX: Final = "encountered syntax errors"
_ERROR: Final = re.compile("^syntax error")
# What is drawn with another colour or graphics state than was meant is drawn all the same.
_HARMLESS: Final = re.compile("ICC profile|cannot find (?:ExtGState|ColorSpace) resource")


def forget() -> None:
    """Begin a page: what was said before is not about it. The list also grows without end where nobody does."""
    pymupdf.TOOLS.reset_mupdf_warnings()


def lost(said: Sequence[str]) -> str:
    """What was said that means that a stream or a picture of the page was lost; empty if none was."""
    return _first(said, _LOST)


def lost_content(document: Document, source: Page, said: Sequence[str]) -> str:
    """The same of a page on which nothing was drawn, where a syntax error also means that something was lost.

    Args:
        document: open.
        source: the page.
        said: while it was interpreted.

    Returns:
        Empty if the page has nothing that could have been drawn: some programs write a blank page as an empty stream
        that names a filter, which MuPDF finds too short.
    """
    found = _first(said, _LOST)
    if not found and any(_SYNTAX in line for line in said):
        found = _first([line for line in said if not _HARMLESS.search(line)], _ERROR)
    if not found or _NO_STREAM in found or any(document.xref_stream_raw(xref) for xref in source.get_contents()):
        return found
    return ""


def said() -> tuple[str, ...]:
    """What MuPDF said since `forget`."""
    return tuple(pymupdf.TOOLS.mupdf_warnings(reset=False).splitlines())


def _first(said: Iterable[str], grave: re.Pattern[str]) -> str:
    return next((told(line) for line in said if grave.search(line)), "")


def told(message: str) -> str:
    """MuPDF's own words, for people: they hold no paths, but may quote any bytes of the file."""
    line = (message.splitlines() or [""])[0][:MAX_CHARS]
    return "".join(char if char.isprintable() else "?" for char in line)
