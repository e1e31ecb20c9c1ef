"""Cuts a page's text into sentences and passage-sized chunks; the same page always gives the same chunks.

A chunk is a run of whole sentences of one page, so that it can be quoted and its words found on the page. The splitter
is our own, because quotations need exact offsets and no rewriting, and it takes a fraction of a millisecond a page
where a statistical one takes tens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from actors.messages import Chunk, Page

Span = tuple[int, int]

HEADING_CHARS: Final = 90
HEADING_WORDS: Final = 12
BODY_CHARS: Final = 60  # what follows a heading is longer than a cell of a table


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never end a sentence: a name or a number follows.
_TITLES: Final = _words(
    "dr mr mrs ms prof rev hon st sen rep gov gen col maj capt lt sgt cmdr adm pres mt ft fig figs eq eqs ref refs sec "
    "ch no nos vol vols pp vs cf ca approx ed eds viz resp tab art ser op cit"
)
# May end one: it does if what follows begins like a sentence.
_ABBREVIATIONS: Final = _words(
    "e.g i.e etc al inc ltd co corp bros dept univ est assn jr sr ph.d b.c a.d a.m p.m jan feb mar apr jun jul aug sep "
    "sept oct nov dec"
)
_STARTERS: Final = _words(
    "a an the this that these those it its he she they we i you his her their our in on at by for from with as if when "
    "while after before since although though however but and so then there here what who how why where most some many "
    "all both each no not one"
)

_BLOCK: Final = re.compile(r"\n[^\S\n]*\n\s*")
_END: Final = re.compile(r"""[.!?…]+["'”’»)\]]*(?=\s)|[。！？]+["'”’»」』）)\]]*""")
_LAST_WORD: Final = re.compile(r"[^\s(\[\"“‘«]*$")
_INITIALS: Final = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]$")
_NUMBERING: Final = re.compile(r"[(\[]?(?:\d{1,3}(?:\.\d{1,3})*|[ivxlcIVXLC]{1,5}|[a-zA-Z])$")
_NEXT_WORD: Final = re.compile(r"[\"'“‘«(\[]*([^\W\d_]*)")
_TERMINAL: Final = re.compile(r"""[.!?…:;,。！？]["'”’»)\]]*$""")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, or what is cut from one that is too long; `heading` if it begins a heading."""

    start: int
    end: int
    heading: bool


def chunk(page: Page, chunk_chars: int) -> tuple[Chunk, ...]:
    """Pack a page's sentences into chunks.

    Args:
        page: as read.
        chunk_chars: longest chunk, characters. Only a word longer than this is cut.

    Returns:
        Chunks in order, without overlap; together they hold every character that is not white space. A heading begins a
        chunk, unless the chunk before it has nothing but headings.
    """
    chunks: list[Chunk] = []
    for start, end in pack(page.text, chunk_chars):
        chunks.append(Chunk(page.number, len(chunks), start, end, page.text[start:end], page.words.within(start, end)))
    return tuple(chunks)


def pack(text: str, chunk_chars: int) -> list[Span]:
    """The spans of the chunks of a text. See `chunk`."""
    spans: list[Span] = []
    start = end = 0
    body = False  # whether the open chunk holds more than headings
    for piece in _pieces(text, chunk_chars):
        if end > start and (piece.end - start > chunk_chars or (piece.heading and body)):
            spans.append((start, end))
            start, body = piece.start, False
        elif end == start:
            start = piece.start
        end = piece.end
        body = body or not piece.heading
    if end > start:
        spans.append((start, end))
    return spans


def sentences(text: str) -> list[Span]:
    """The sentences of a text, as spans without the white space around them.

    A heading, a caption or a table cell that stands in a block of its own counts as a sentence. They are in order, do
    not overlap, and hold every character that is not white space.
    """
    return [span for block in _paragraphs(text) for span in _split(text, *block)]


def _pieces(text: str, longest: int) -> Iterator[_Piece]:
    blocks = _paragraphs(text)
    for block, heading in zip(blocks, _headings(text, blocks), strict=True):
        for start, end in _split(text, *block):
            for part in _cut(text, start, end, longest):
                yield _Piece(*part, heading)


def _headings(text: str, blocks: list[Span]) -> list[bool]:
    """Which blocks are headings: short, without an end mark, and followed by a body, or by a heading that is."""
    marks = [False] * len(blocks)
    below = False  # whether the block below is a body or a heading
    for index in range(len(blocks) - 1, -1, -1):
        start, end = blocks[index]
        block = text[start:end]
        short = len(block) <= HEADING_CHARS and len(block.split()) <= HEADING_WORDS
        marks[index] = below and short and _begins(block) and not _TERMINAL.search(block) and block.count("\n") < 2
        below = marks[index] or end - start >= BODY_CHARS
    return marks


def _begins(block: str) -> bool:
    """Whether a block could be a title: it has letters, and they do not start in lower case."""
    letter = next((char for char in block if char.isalpha()), "")
    return letter != "" and not letter.islower()


def _paragraphs(text: str) -> list[Span]:
    """The blocks of a text, those that a sentence runs across joined: some programs make a block of every line."""
    spans: list[Span] = []
    position = 0
    for gap in [*_BLOCK.finditer(text), None]:
        start, end = _trim(text, position, len(text) if gap is None else gap.start())
        position = len(text) if gap is None else gap.end()
        if start == end:
            continue
        if spans and text[start].islower() and not _TERMINAL.search(text, *spans[-1]):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return spans


def _split(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of one paragraph."""
    position = start
    for mark in _END.finditer(text, start, end):
        if _ends(text, position, mark, end):
            yield _trim(text, position, mark.end())
            position = mark.end()
    start, end = _trim(text, position, end)
    if start < end:
        yield start, end


def _ends(text: str, start: int, mark: re.Match[str], end: int) -> bool:
    """Whether a mark ends the sentence that began at `start`."""
    follows = text[mark.end() : min(end, mark.end() + 40)].lstrip()
    if not follows:
        return True
    word = _NEXT_WORD.match(follows)
    following = word[1] if word else ""
    if following[:1].islower():
        return False
    if mark[0] != ".":
        return True
    last = _LAST_WORD.search(text, max(start, mark.start() - 40), mark.start())
    before = last[0] if last else ""
    if before.lower() in _TITLES:
        return False
    if text[start : mark.start()].strip() == before and _NUMBERING.match(before):
        return False
    if before.lower() in _ABBREVIATIONS or _INITIALS.match(before):
        return following.lower() in _STARTERS
    return True


def _cut(text: str, start: int, end: int, longest: int) -> Iterator[Span]:
    """A span in parts of at most `longest` characters, cut at white space where there is any."""
    while end - start > longest:
        limit = start + longest
        cut = max((text.rfind(space, start, limit + 1) for space in (" ", "\n")), default=-1)
        cut = cut if cut > start else limit
        yield _trim(text, start, cut)
        start, _ = _trim(text, cut, end)
    if start < end:
        yield start, end


def _trim(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), max(start, end - len(part) + len(part.rstrip()))
