"""Phrases: finds known names in a question, all of them in one pass.

An Aho-Corasick automaton over every name of the corpus and every name-like value of the SQL sources reads a question
once, however many names there are. It is immutable: a new one is built beside the old and swapped in. What the
automaton cannot know is when a word is a name at all; the rules for that are these, and deliberately few:

- Case is ignored, and so are the kinds of dash, apostrophe and space, a leading "the" and a possessive 's.
- A match starts and ends at word boundaries. Of overlapping matches the longest wins.
- A name needs a letter, `min_chars` characters, and a word that is no function word or question verb ("who", "name").
- A single word of letters only is a name where somebody wrote it as one: with a capital in the question, or, in a
  question that has no capitals at all, with a capital where the name comes from. So the moon Io is found in "What is
  Io?" and "what is io?", while a column of values such as "moon" does not claim the word in "Which moon is icy?".
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Final

import ahocorasick

from actors.messages import EntityName, Link, LinkedEntity, SourceValue

VALUE_LABEL: Final = "VALUE"
"""Label of a name that only an SQL source knows."""

SHARD_NAMES: Final = 10_000
"""Names an automaton holds at most. Finishing and freeing one each hold the interpreter lock, 1 ms per 1,000 names, in
which nothing else in the process runs; so there are several small ones instead of one large."""

_FUNCTION_WORDS = """
    a about above according across after again against all almost along already also although always am among an and
    another any anyone anything are around as at away be became because been before behind being below between both
    but by can cannot could did do does doing done down during each either else ever every few for from further had
    has have having he her here hers him his how however i if in into is it its itself just last least less like
    made many may me might mine more most much must my near neither never new next no none nor not nothing now of
    off often old on once one only onto or other others our out over own per perhaps please quite rather same
    several she should since so some such than that the their them then there these they this those though three
    through to together too toward two under until up upon us use used using very was we were what whatever when
    where whether which while who whole whom whose why will with within without would yes yet you your
"""

# What people begin a question or an order with, so that it is capitalised though it is no name.
_OPENINGS = """
    calculate compare count define describe explain find first get give go list name second show summarize tell
    third write
"""

NOT_NAMES: Final = frozenset(_FUNCTION_WORDS.split() + _OPENINGS.split())
"""Words that are no names, capitalised or not."""

_IRREGULAR = re.compile(r"\s{2,}|[^\S ]")
_CLUSTER = re.compile(r"\s+|[^\s][\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]*")
_APOSTROPHES = "\u2018\u2019\u02bc\uff07"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212"
_SAME = str.maketrans(dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_DASHES, "-"))
_EDGES = " \t\n.,:;!?\"'()[]{}<>*“”«»-"


def fold(text: str) -> tuple[str, list[tuple[int, int]] | None]:
    """A text as it is compared, and the span that each of its characters comes from; None if each is in its own place.

    Case is folded, Unicode composed, runs of white space become one space, dashes and apostrophes one kind each.
    """
    regular = not _IRREGULAR.search(text)
    if regular and text.isascii():
        return text.lower(), None
    if regular and unicodedata.is_normalized("NFC", text):
        folded = text.casefold().translate(_SAME)
        # Folding never drops a character, so equal lengths mean that each one stayed in its place.
        if len(folded) == len(text):
            return folded, None
    out: list[str] = []
    spans: list[tuple[int, int]] = []
    for cluster in _CLUSTER.finditer(text):
        written = cluster.group()
        piece = " " if written.isspace() else unicodedata.normalize("NFC", written).casefold().translate(_SAME)
        out.append(piece)
        spans += [cluster.span()] * len(piece)
    return "".join(out), spans


def phrase(name: str) -> str:
    """A name as the automaton holds it; empty if nothing is left of it."""
    key = fold(name)[0].strip(_EDGES).removeprefix("the ").removesuffix("'s")
    return key.strip(_EDGES)


class _Known:
    """What is known of one phrase.

    Attributes:
        size: length of the phrase.
        word: it is a single word of letters only, so that capitals decide.
        proper: somebody wrote it with a capital (or in a script that has none).
    """

    __slots__ = ("label", "links", "proper", "size", "word")

    def __init__(self, key: str, label: str) -> None:
        self.size = len(key)
        self.word = key.isalpha()
        self.proper = False
        self.label = label
        self.links: tuple[Link, ...] = ()


class Phrases:
    """The names to look for. Building takes about 0.6 s per 100,000 names, and belongs in a thread.

    Args:
        names: of the corpus, by ascending id: a name known under several labels goes by its first.
        values: of the SQL sources.
        min_chars: shorter names are ignored.
    """

    def __init__(self, names: Iterable[EntityName], values: Iterable[SourceValue], *, min_chars: int) -> None:
        self._automata: list[Any] = []
        known: dict[str, _Known] = {}
        for name in names:
            _put(known, name.name, name.label, Link("entity", name.entity_id), min_chars)
        for value in values:
            link = Link("value", None, value.source, value.table, value.column, value.value)
            _put(known, value.value, VALUE_LABEL, link, min_chars)
        self._size = len(known)
        entries = iter(known.items())
        while shard := list(itertools.islice(entries, SHARD_NAMES)):
            automaton = ahocorasick.Automaton()
            for key, entry in shard:
                automaton.add_word(key, entry)
            automaton.make_automaton()
            self._automata.append(automaton)

    def __del__(self) -> None:
        # One by one, so that other threads get their turn in between.
        while self._automata:
            self._automata.pop()

    def __len__(self) -> int:
        """Number of distinct names."""
        return self._size

    def find(self, text: str) -> tuple[LinkedEntity, ...]:
        """The names in a text, in order, none overlapping another. See the module's docstring for what counts."""
        folded, spans = fold(text)
        hits: list[tuple[int, int, _Known]] = []
        for automaton in self._automata:
            for last, known in automaton.iter(folded):
                end = last + 1
                start = end - known.size
                if not _inside_word(folded, start) and not _inside_word(folded, end):
                    hits.append((start, end, known))
        found: list[LinkedEntity] = []
        for start, end, known in _longest(hits):
            first, past = (start, end) if spans is None else (spans[start][0], spans[end - 1][1])
            written = text[first:past]
            # Whether the whole question is without capitals matters only for a word without one.
            if known.word and written.islower() and not (known.proper and text.islower()):
                continue
            found.append(LinkedEntity(written, known.label, first, past, known.links))
        return tuple(found)


def _put(known: dict[str, _Known], name: str, label: str, link: Link, min_chars: int) -> None:
    key = phrase(name)
    if len(key) < min_chars or not any(map(str.isalpha, key)) or NOT_NAMES.issuperset(key.split()):
        return
    entry = known.get(key)
    if entry is None:
        entry = known[key] = _Known(key, label)
    entry.proper = entry.proper or not name.islower()
    entry.links += (link,)


def _inside_word(text: str, at: int) -> bool:
    """Whether the position lies between two characters of one word."""
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _longest(hits: list[tuple[int, int, _Known]]) -> list[tuple[int, int, _Known]]:
    """Of overlapping hits the longest, then the first; in order of their place."""
    if len(hits) < 2:
        return hits
    kept: list[tuple[int, int, _Known]] = []
    taken = bytearray(max(end for _, end, _ in hits))
    for hit in sorted(hits, key=lambda hit: (hit[0] - hit[1], hit[0])):
        start, end, _ = hit
        # What is taken is at least as long as this hit, so if they overlap it covers an end of it.
        if not taken[start] and not taken[end - 1]:
            taken[start:end] = b"\1" * (end - start)
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit[0])
