"""Phrases: finds known names in a question, however many there are.

The names of the corpus and the name-like values of the SQL sources, as a dictionary by their words: every run of words
of a question that begins as some name does is looked up. It takes the place of an Aho-Corasick automaton, which reads
letter by letter and must be built anew, under the interpreter's lock, for every change; `docs/entities.md` has the
figures of both. What a dictionary cannot know is when a word is a name at all; the rules for that are these, and
deliberately few:

- Case and punctuation are ignored, and so are a leading "the", a possessive 's, the legal form of a company and the
  title of a person (`actors/search/names.py`).
- A person is found by initials or without a middle name where no other person may be meant.
- Of overlapping matches the longest wins.
- A name needs a letter, `min_chars` characters, and a word that is no function word or question verb ("who", "name"),
  unless it is written in capitals both where it comes from and in the question ("WHO", "U.S.").
- A single word of letters only is a name where somebody wrote it as one: with a capital in the question, or, in a
  question that has no capitals at all, with a capital where the name comes from. So the moon Io is found in "What is
  Io?" and "what is io?", while a column of values such as "moon" does not claim the word in "Which moon is icy?".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from actors.messages import EntityName, Link, LinkedEntity, SourceValue
from actors.search.names import WORD, fold, spellings

VALUE_LABEL: Final = "VALUE"
"""Label of a name that only an SQL source knows."""

MAX_WORDS: Final = 12
"""Words of the longest name that is looked for."""

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

# Who claims a key. The claim of an entity is its id with its label and marks, packed: an object for each of a million
# names would take four times the memory.
Claim = int | Link
_GUESS: Final = 1  # the entity may be meant, if nobody else is
_PROPER: Final = 2  # somebody wrote it with a capital, or in a script that has none
_CAPITALS: Final = 4  # it is written in capitals only
_LABEL_SHIFT: Final = 3
_ID_SHIFT: Final = 11
_LABELS: Final = 1 << (_ID_SHIFT - _LABEL_SHIFT)

_Hit = tuple[int, int, tuple[Claim, ...]]


class Phrases:
    """The names to look for. A question may be looked at in one thread while names are put in by another.

    Args:
        min_chars: shorter names are ignored.
    """

    def __init__(self, *, min_chars: int) -> None:
        self._min_chars = min_chars
        # A single claim stands there as it is: nearly every key has only one.
        self._known: dict[str, Claim | tuple[Claim, ...]] = {}
        # By first word, the number of words of the longest key. What is taken out may leave a mark here: it costs time.
        self._longest: dict[str, int] = {}
        self._labels: list[str] = []

    def __len__(self) -> int:
        """Number of keys that questions are compared with, more than one for some names."""
        return len(self._known)

    def add(self, name: EntityName) -> None:
        """Look for a name of the corpus from now on. Not for one that is there already."""
        for key, claim in self._claims(name):
            self._put(key, (*self._claims_of(key), claim))

    def discard(self, name: EntityName) -> None:
        """No longer look for a name that was added."""
        for key, claim in self._claims(name):
            self._put(key, tuple(other for other in self._claims_of(key) if other != claim))

    def add_value(self, value: SourceValue) -> None:
        """Look for a value of an SQL source from now on. Not for one that is there already."""
        link = _link(value)
        for key in self._value_keys(value):
            self._put(key, (*self._claims_of(key), link))

    def discard_value(self, value: SourceValue) -> None:
        """No longer look for a value that was added."""
        link = _link(value)
        for key in self._value_keys(value):
            self._put(key, tuple(other for other in self._claims_of(key) if other != link))

    def find(self, text: str) -> tuple[LinkedEntity, ...]:
        """The names in a text, in order, none overlapping another. See the module's docstring for what counts."""
        words = [(found.start(), found.end(), found.group()) for found in WORD.finditer(text)]
        if text.isascii():
            # Lowered in one go, because a call for each word takes a third of the time; only dots and & need a look.
            lowered = text.lower()
            words = [(start, end, lowered[start:end] if word.isalnum() else fold(word)) for start, end, word in words]
        else:
            words = [(start, end, fold(word)) for start, end, word in words]
        hits: list[_Hit] = []
        for first, (start, _, head) in enumerate(words):
            longest = self._longest.get(head)
            if longest is None:
                continue
            key = ""
            for _, end, word in words[first : first + longest]:
                key = f"{key} {word}" if key else word
                if key in self._known:
                    claims = _meant(self._claims_of(key), key, text[start:end], text)
                    if claims:
                        hits.append((start, end, claims))
        return tuple(self._linked(text, hit) for hit in _outermost(hits))

    def _linked(self, text: str, hit: _Hit) -> LinkedEntity:
        start, end, claims = hit
        first = claims[0]
        label = VALUE_LABEL if isinstance(first, Link) else self._labels[(first >> _LABEL_SHIFT) % _LABELS]
        links = tuple(c if isinstance(c, Link) else Link("entity", c >> _ID_SHIFT) for c in claims)
        return LinkedEntity(text[start:end], label, start, end, links)

    def _claims(self, name: EntityName) -> Iterator[tuple[str, int]]:
        sure, maybe = spellings(name.name, name.label)
        marks = _marks(name.name)
        claim = name.entity_id << _ID_SHIFT | self._number(name.label) << _LABEL_SHIFT | marks
        for keys, guess in ((sure, 0), (maybe, _GUESS)):
            for key in keys:
                if self._is_name(key, marks):
                    yield key, claim | guess

    def _value_keys(self, value: SourceValue) -> Iterator[str]:
        marks = _marks(value.value)
        return (key for key in spellings(value.value, VALUE_LABEL)[0] if self._is_name(key, marks))

    def _is_name(self, key: str, marks: int) -> bool:
        words = key.split(" ")
        return (
            len(key) >= self._min_chars
            and len(words) <= MAX_WORDS
            and any(map(str.isalpha, key))
            and (not NOT_NAMES.issuperset(words) or (len(words) == 1 and bool(marks & _CAPITALS)))
        )

    def _number(self, label: str) -> int:
        if label not in self._labels:
            # More labels than there is room for are no scheme of types: those beyond share the last number.
            if len(self._labels) == _LABELS:
                return _LABELS - 1
            self._labels.append(label)
        return self._labels.index(label)

    def _claims_of(self, key: str) -> tuple[Claim, ...]:
        known = self._known.get(key, ())
        return known if isinstance(known, tuple) else (known,)

    def _put(self, key: str, claims: tuple[Claim, ...]) -> None:
        if not claims:
            self._known.pop(key, None)
            return
        # Before the key itself, so that a question that is looked at meanwhile finds it or does not, but never half.
        head = key.partition(" ")[0]
        self._longest[head] = max(self._longest.get(head, 0), 1 + key.count(" "))
        self._known[key] = claims[0] if len(claims) == 1 else tuple(sorted(claims, key=_order))


def _link(value: SourceValue) -> Link:
    return Link("value", None, value.source, value.table, value.column, value.value, value.key)


def _marks(name: str) -> int:
    return (0 if name.islower() else _PROPER) | (_CAPITALS if name.isupper() else 0)


def _marks_of(claim: Claim) -> int:
    return claim if isinstance(claim, int) else _marks(claim.value or "")


def _order(claim: Claim) -> int:
    """Entities by id, so that a name known under several labels goes by its first; then values as they came."""
    return claim if isinstance(claim, int) else sys.maxsize


def _meant(claims: tuple[Claim, ...], key: str, written: str, text: str) -> tuple[Claim, ...]:
    """Those of the claims that hold for a key as it is written in a question."""
    if key.isalpha():
        if key in NOT_NAMES:
            capital = "." in written or (written.isupper() and not text.isupper())
            claims = tuple(claim for claim in claims if capital and _marks_of(claim) & _CAPITALS)
        # Whether the whole question is without capitals matters only for a word without one.
        elif written.islower() and not (text.islower() and any(_marks_of(claim) & _PROPER for claim in claims)):
            return ()
    if len(claims) > 1:
        guesses = sum(isinstance(claim, int) and claim & _GUESS for claim in claims)
        if guesses > 1:
            return tuple(claim for claim in claims if isinstance(claim, Link) or not claim & _GUESS)
    return claims


def _outermost(hits: list[_Hit]) -> list[_Hit]:
    """Of overlapping hits the longest, then the first; in order of their place."""
    if len(hits) < 2:
        return hits
    kept: list[_Hit] = []
    taken = bytearray(max(end for _, end, _ in hits))
    for hit in sorted(hits, key=lambda hit: (hit[0] - hit[1], hit[0])):
        start, end, _ = hit
        # What is taken is at least as long as this hit, so if they overlap it covers an end of it.
        if not taken[start] and not taken[end - 1]:
            taken[start:end] = b"\1" * (end - start)
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit[0])
