"""Cuts a page's text into sentences and passage-sized chunks; the same page always gives the same chunks.

A chunk is a run of whole sentences, or of whole rows of a table, so that it can be quoted and its words found on the
page. The splitter is our own, because quotations need exact offsets and no rewriting, and it takes a fraction of a
millisecond a page where a statistical one takes tens. A chunk's text is always the page's: the names of a table's
columns are repeated in the heading of its chunks, not in their text, where they would be no quotation.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from actors.messages import Chunk, ChunkKind, Page, Table, Words
from actors.reading.furniture import Furniture

Span = tuple[int, int]

HEADING_CHARS: Final = 90
HEADING_WORDS: Final = 12
BODY_CHARS: Final = 60  # what follows a heading is longer than a cell of a table


NO_FURNITURE: Final = Furniture()
PROSE: Final = -1  # what a word belongs to, if not to a table
FURNITURE: Final = -2

# Of `tokens`: it counts 1.05 to 1.19 times as many as BERT's own word pieces over three sets of abstracts (one text in
# twenty is counted 6 % short), 0.99 times over PDFs, whose formulas and codes fall into more pieces.
WORD_CHARS: Final = 7
PIECE_CHARS: Final = 4


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

_TOKEN: Final = re.compile(r"(?P<word>[A-Za-z\u00c0-\u024f]+)|(?P<pairs>\d+|[\u0370-\u1fff]+)|(?P<sign>\S)")
_WORD: Final = re.compile(r"\S+")
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


@dataclass(frozen=True, slots=True)
class Packed:
    """A chunk to be.

    Attributes:
        start: offset into the text.
        end: offset into the text.
        heading: the headings it begins with or stands under, as one line.
        kind: see `Chunk`.
    """

    start: int
    end: int
    heading: str
    kind: ChunkKind = "text"


def chunk(page: Page, budget: int, *, furniture: Furniture = NO_FURNITURE, heading: str = "") -> tuple[Chunk, ...]:
    """Pack a page's sentences and rows into chunks.

    Args:
        page: as read.
        budget: longest chunk, tokens as `tokens` counts them. Only a word longer than this is cut.
        furniture: what repeats in the document's margins, and belongs to no chunk.
        heading: title of the section that the page begins in.

    Returns:
        Chunks in order, without overlap; together they hold every character that is neither white space nor furniture.
        A heading begins a chunk, unless the chunk before it has nothing but headings; so does a table, and what
        follows one.
    """
    chunks: list[Chunk] = []
    for start, end, table in _segments(page, furniture.spans(page)):
        if table is None:
            packed = pack(page.text, budget, start=start, end=end, heading=heading)
        else:
            packed = _rows(page, start, end, table, budget, heading)
        for part in packed:
            text, words = page.text[part.start : part.end], page.words.within(part.start, part.end)
            chunks.append(Chunk(page.number, len(chunks), part.start, part.end, text, words, part.heading, part.kind))
        if packed and table is None:
            heading = packed[-1].heading
    return tuple(chunks)


def tokens(text: str) -> int:
    """About how many word pieces an encoder makes of a text, from its characters alone.

    A word is one piece, and one more for every four letters or part of four beyond the seventh; two digits, two
    letters of a script that English has no words in, or one sign are a piece. Never more than there are characters, and
    for texts parted by white space the sum of the parts.
    """
    count = 0
    for match in _TOKEN.finditer(text):
        kind, length = match.lastgroup, match.end() - match.start()
        if kind == "word":
            count += 1 + max(0, length - WORD_CHARS + PIECE_CHARS - 1) // PIECE_CHARS
        elif kind == "pairs":
            count += (length + 1) // 2
        else:
            count += 1
    return count


def pack(text: str, budget: int, *, start: int = 0, end: int | None = None, heading: str = "") -> list[Packed]:
    """Pack the sentences of a part of a text. See `chunk`."""
    packed: list[Packed] = []
    first = last = start
    used = 0
    body = False  # whether the open chunk holds more than headings
    headings: list[str] = []  # of the open chunk
    for piece in _pieces(text, start, len(text) if end is None else end, budget):
        cost = tokens(text[piece.start : piece.end])
        if used and (used + cost > budget or (piece.heading and body)):
            packed.append(Packed(first, last, heading))
            used, body = 0, False
            if piece.heading:
                headings = []
        if not used:
            first = piece.start
            if piece.heading:
                headings = []
        if piece.heading:
            headings.append(" ".join(text[piece.start : piece.end].split()))
            heading = " / ".join(headings)
        last = piece.end
        used += cost
        body = body or not piece.heading
    if used:
        packed.append(Packed(first, last, heading))
    return packed


def _segments(page: Page, furniture: Sequence[Span]) -> Iterator[tuple[int, int, Table | None]]:
    """The parts of a page's text between its furniture, each of a table or of prose. Whole words, in order."""
    if not page.words or not (furniture or page.tables):
        yield 0, len(page.text), None
        return
    words = page.words.array
    owner = np.full(len(words), PROSE)
    x, y = (words["x0"] + words["x1"]) / 2, (words["y0"] + words["y1"]) / 2
    for index, table in enumerate(page.tables):
        x0, y0, x1, y1 = table.box
        owner[(x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)] = index
    for start, end in furniture:
        owner[(words["start"] < end) & (words["end"] > start)] = FURNITURE
    # The parts of a divided word stay together.
    joined = np.flatnonzero(words["start"][1:] == words["end"][:-1])
    owner[joined + 1] = owner[joined]
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(words)]
    for first, last in itertools.pairwise(edges):
        kind = int(owner[first])
        if kind != FURNITURE:
            table_or_none = None if kind == PROSE else page.tables[kind]
            yield int(words["start"][first]), int(words["end"][last - 1]), table_or_none


def _rows(page: Page, start: int, end: int, table: Table, budget: int, heading: str) -> list[Packed]:
    """Pack whole rows of a table. Rows whose words are mixed up in the text stay together."""
    columns = " | ".join(filter(None, table.header))
    title = " / ".join(filter(None, (heading, columns)))
    words = page.words.array
    words = words[(words["start"] >= start) & (words["end"] <= end)]
    tops = np.array([top for top, _ in table.lines])
    row = np.searchsorted(tops, (words["y0"] + words["y1"]) / 2)
    # A new row begins where all words before are of rows above, and all behind of this one or below.
    above = np.maximum.accumulate(row)[:-1]
    below = np.minimum.accumulate(row[::-1])[::-1][1:]
    cuts = [0, *(np.flatnonzero(above < below) + 1).tolist(), len(words)]
    packed: list[Packed] = []
    used = 0
    first = last = start
    for begin, stop in itertools.pairwise(cuts):
        for part in _cut(page.text, int(words["start"][begin]), int(words["end"][stop - 1]), budget):
            cost = tokens(page.text[part[0] : part[1]])
            if used and used + cost > budget:
                packed.append(Packed(first, last, title, "table"))
                used = 0
            if not used:
                first = part[0]
            last = part[1]
            used += cost
    if used:
        packed.append(Packed(first, last, title, "table"))
    return packed


def sentences(text: str) -> list[Span]:
    """The sentences of a text, as spans without the white space around them.

    A heading, a caption or a table cell that stands in a block of its own counts as a sentence. They are in order, do
    not overlap, and hold every character that is not white space.
    """
    return [span for block in _paragraphs(text, 0, len(text)) for span in _split(text, *block)]


def rows(text: str, words: Words) -> list[Span]:
    """The rows of a table's chunk, as spans without the white space around them.

    A row ends where every word before it stands at least half a line above every word behind it: cells that run over
    several lines stay whole, unless all cells of their row wrap alike. They are in order, do not overlap, and hold
    every word.
    """
    records = words.array
    if len(records) == 0:
        return []
    middle = (records["y0"] + records["y1"]) / 2
    above = np.maximum.accumulate(middle)[:-1]
    below = np.minimum.accumulate(middle[::-1])[::-1][1:]
    apart = below - above > 0.5 * float(np.median(records["y1"] - records["y0"]))
    # The parts of a divided word stay together.
    apart &= records["start"][1:] > records["end"][:-1]
    cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(records)]
    starts, ends = records["start"].tolist(), records["end"].tolist()
    return [(max(0, starts[first]), min(len(text), ends[last - 1])) for first, last in itertools.pairwise(cuts)]


def _pieces(text: str, start: int, end: int, budget: int) -> Iterator[_Piece]:
    blocks = _paragraphs(text, start, end)
    for block, heading in zip(blocks, _headings(text, blocks), strict=True):
        for sentence in _split(text, *block):
            for part in _cut(text, *sentence, budget):
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


def _paragraphs(text: str, first: int, last: int) -> list[Span]:
    """The blocks of a text, those that a sentence runs across joined: some programs make a block of every line."""
    spans: list[Span] = []
    position = first
    for gap in [*_BLOCK.finditer(text, first, last), None]:
        start, end = _trim(text, position, last if gap is None else gap.start())
        position = last if gap is None else gap.end()
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


def _cut(text: str, start: int, end: int, budget: int) -> Iterator[Span]:
    """A span in parts of at most `budget` tokens, cut at white space where there is any."""
    if tokens(text[start:end]) <= budget:
        yield start, end
        return
    used = 0
    first = last = start
    for word in _WORD.finditer(text, start, end):
        cost = tokens(word[0])
        if used and used + cost > budget:
            yield first, last
            used = 0
        if not used:
            first = word.start()
        last, used = word.end(), used + cost
        if used > budget:
            # One word alone; no character is more than a token.
            yield from ((cut, min(cut + budget, last)) for cut in range(first, last, budget))
            used = 0
    if used:
        yield first, last


def _trim(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), max(start, end - len(part) + len(part.rstrip()))
