"""Finds names in texts with spaCy: a pure function over a model that each process loads once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from actors.errors import ReadingFailed
from actors.messages import Mention

NO_NAMES: Final = frozenset(
    ("DATE", "TIME", "PERCENT", "MONEY", "QUANTITY", "ORDINAL", "CARDINAL", "LANGUAGE", "NUM", "EXT")
)
"""Types that are left out, in the schemes of spaCy's pipelines. What else a pipeline finds, it has a name for."""

BATCH: Final = 32  # texts
MAX_TEXT_CHARS: Final = 100_000  # memory of the model grows with the text: about 1 GB for each 100,000 words
MAX_NAME_CHARS: Final = 120  # beyond these two the model has run across the cells of a table
MAX_NAME_LINES: Final = 2

_LINE_BREAK: Final = re.compile(r"(?<!\n)\n(?!\n)")
# Part of the name to those who annotated what the model was trained on, and not to most others.
_ARTICLE: Final = re.compile(r"the\s+(?=\S)", re.IGNORECASE)
_POSSESSIVE: Final = re.compile("\\s*['\u2019\u00b4]s?$")
_EDGES: Final = ' \t\n,;:()[]{}"“”‘«»*•|–—-'


@cache
def load(model: str) -> Any:
    """The pipeline, with nothing but what finding names needs.

    Args:
        model: package name or folder.

    Raises:
        ReadingFailed: it is not installed.
    """
    # Imported with the first model: it costs 50 MB, and most processes only import the names of this module.
    import spacy

    try:
        nlp = spacy.load(model)
    except OSError:
        raise ReadingFailed(f"The spaCy model {model} is not installed. Install it or change entities.model.") from None
    needed = {"ner"}
    for name in ("tok2vec", "transformer"):
        if name in nlp.pipe_names and "ner" in getattr(nlp.get_pipe(name), "listening_components", ()):
            needed.add(name)
    for name in list(nlp.pipe_names):
        if name not in needed:
            # Removed, not disabled: the tagger and parser would stay in memory.
            nlp.remove_pipe(name)
    return nlp


def find_mentions(texts: Sequence[str], model: str) -> list[tuple[Mention, ...]]:
    """The names in each text. One call at a time in a process: the model is not thread-safe.

    Args:
        texts: pages or questions.
        model: spaCy pipeline, by package name or folder.

    Returns:
        For each text its mentions in order; `text[mention.start:mention.end] == mention.text`. Their `page` is 0.

    Raises:
        ReadingFailed: the model is not installed.
    """
    nlp = load(model)
    found: list[list[Mention]] = [[] for _ in texts]
    parts = ((text[start:end], (index, start)) for index, text in enumerate(texts) for start, end in _parts(text))
    # The model was trained on running text: a line break inside a name would end it. The length stays the same.
    lines = ((_LINE_BREAK.sub(" ", part), place) for part, place in parts)
    # Without a zone the vocabulary keeps every new word for good: 64 MB for each 190,000 that OCR makes up.
    with nlp.memory_zone():
        for parsed, (index, offset) in nlp.pipe(lines, as_tuples=True, batch_size=BATCH):
            for entity in parsed.ents:
                if entity.label_ not in NO_NAMES:
                    found[index].extend(_mention(texts[index], offset + entity.start_char, entity.text, entity.label_))
    return [tuple(mentions) for mentions in found]


def _mention(text: str, start: int, name: str, label: str) -> Iterator[Mention]:
    """The mention, trimmed; none if nothing like a name is left."""
    # A blank line ends a block of the page, and with it the name.
    name = name.partition("\n\n")[0]
    start += len(name) - len(name.lstrip(_EDGES))
    name = name.strip(_EDGES)
    article, possessive = _ARTICLE.match(name), _POSSESSIVE.search(name)
    if possessive and possessive.start():
        name = name[: possessive.start()]
    if article:
        start += article.end()
        name = name[article.end() :]
    if "." not in name.removesuffix("."):
        # The stop of a sentence, not of an abbreviation like "U.S.".
        name = name.removesuffix(".")
    end = start + len(name)
    lines = text.count("\n", start, end) + 1
    if 1 < len(name) <= MAX_NAME_CHARS and lines <= MAX_NAME_LINES and any(map(str.isalpha, name)):
        yield Mention(text[start:end], label, start, end)


def _parts(text: str) -> Iterator[tuple[int, int]]:
    """A text in parts the model can take, cut at white space."""
    start = 0
    while len(text) - start > MAX_TEXT_CHARS:
        cut = max(text.rfind(space, start + MAX_TEXT_CHARS // 2, start + MAX_TEXT_CHARS) for space in " \n")
        end = cut if cut > 0 else start + MAX_TEXT_CHARS
        yield start, end
        start = end
    if text[start:].strip():
        yield start, len(text)
