"""Names: which spellings are one name, and in which other ways people write it.

Two rules, both on words alone and so the same wherever a name stands. `normal` says what makes two names of one type
the same entity: case, punctuation, a leading "the", a possessive, the legal form of a company and the title of a person
do not count. `spellings` says how else a question may call it: a person also by initials, and without a middle name or
a "Jr.". Those are guesses, since another person may have the same initials, and whoever uses them has to treat them so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

PEOPLE: Final = frozenset({"PERSON", "PER"})
ORGANISATIONS: Final = frozenset({"ORG"})
"""Types in the schemes of spaCy's pipelines: the English ones say PERSON, most others PER."""

MAX_CHARS: Final = 200
"""Longest normal form, as long as its column."""

_LEGAL_FORMS = """
    ab ag as bv co company corp corporation gmbh inc incorporated kg kgaa limited llc llp lp ltd nv oy plc pte pty sa
    sarl se spa srl
"""
_FORMS: Final = frozenset(_LEGAL_FORMS.split())

_HONORIFICS = "capt captain col dame dr gen hon lady lord lt miss mr mrs ms prof professor rev sir st"
_TITLES: Final = frozenset(_HONORIFICS.split())

_GENERATIONS: Final = frozenset(["ii", "iii", "iv", "jr", "junior", "senior", "sr"])

# Letters with dots between them are one word, as in U.S.; + and # belong to what they follow, as in C++.
WORD: Final = re.compile(
    r"[^\W\d_](?:\.[^\W\d_])+(?![^\W_])\.?|[^\W_](?:[^\W_]|[\u0300-\u036f])*[+#]*|&",
)
_POSSESSIVE: Final = re.compile("['\u2019\u02bc\uff07][sS]?\\W*$")


def fold(word: str) -> str:
    """A word as it is compared: without case, without dots, composed."""
    if word == "&":
        return "and"
    if word.isascii():
        return word.lower().replace(".", "")
    return _folded(word).replace(".", "")


def normal(name: str, label: str) -> str:
    """What makes two names of one label the same entity.

    Args:
        name: as written.
        label: its type; of one that is unknown only case, punctuation, "the" and 's are left out.

    Returns:
        Words with a space between them, at most `MAX_CHARS` characters. A name without any letter or digit is itself.
        Applied again, it changes nothing.
    """
    words = _stripped(_words(name, split=label in PEOPLE), label)
    return " ".join(words)[:MAX_CHARS].strip() or " ".join(_folded(name).split())[:MAX_CHARS].strip()


def spellings(name: str, label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How a name is looked for, as keys: folded words with a space between them.

    Returns:
        What is the name itself, with and without what `normal` leaves out, and what may be the name, for guesses. No
        key is in both.
    """
    # In a text a dotted word is one, however the name has it.
    whole = _without_article(_words(name, split=False))
    if not whole:
        return (), ()
    sure = {" ".join(whole): None, " ".join(_stripped(whole, label)): None}
    if label not in PEOPLE:
        return tuple(sure), ()
    parts = _stripped(_words(name, split=True), label)
    sure[" ".join(parts)] = None
    while len(parts) > 2 and parts[-1] in _GENERATIONS:
        parts = parts[:-1]
    maybe = dict.fromkeys(" ".join(words) for words in _shortened(parts))
    return tuple(sure), tuple(key for key in maybe if key not in sure)


def _shortened(parts: list[str]) -> Iterator[list[str]]:
    """What a person of these names may be called besides."""
    if len(parts) < 2 or not all(part[0].isalpha() for part in parts):
        return
    yield parts
    *given, last = parts
    letters = [part[0] for part in given]
    if len(given) > 1:
        yield [given[0], last]
        yield [*letters, last]
        yield ["".join(letters), last]
        yield [given[0], *letters[1:], last]
    yield [letters[0], last]


def _words(name: str, *, split: bool) -> list[str]:
    """The folded words of a name, without a possessive s at its end; dotted letters taken apart on demand."""
    text = _folded(_POSSESSIVE.sub("", name) or name)
    words: list[str] = []
    for found in WORD.findall(text):
        words += found.replace(".", "") if split and "." in found else [fold(found)]
    return words


def _stripped(words: list[str], label: str) -> list[str]:
    """Without what does not count at either end, as long as a word is left."""
    while True:
        shorter = _without_article(words)
        if label in ORGANISATIONS and len(shorter) > 1 and (shorter[-1] in _FORMS or shorter[-1] == "and"):
            shorter = shorter[:-1]
        if label in PEOPLE and len(shorter) > 1 and shorter[0] in _TITLES:
            shorter = shorter[1:]
        if shorter == words:
            return words
        words = shorter


def _without_article(words: list[str]) -> list[str]:
    return words[1:] if len(words) > 1 and words[0] == "the" else words


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    # Folding may decompose what was composed, and composing may leave what folds again.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return text
