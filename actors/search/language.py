"""Words as the index sees them: one definition for indexed text, queries, and the choice of sentences.

If the three disagreed on where a word ends or what its stem is, a passage would be found for a word that the answer
then fails to recognise in it.
"""

from __future__ import annotations

import functools
from typing import Final

from tantivy import Filter, TextAnalyzer, TextAnalyzerBuilder, Tokenizer

_SNOWBALL = (
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves what which who whom this that these those am is "
    "are was were be been being have has had having do does did doing would should could ought a an the and "
    "but if or because as until while of at by for with about against between into through during before after "
    "above below to from up down in out on off over under again further then once here there when where why "
    "how all any both each few more most other some such no nor not only own same so than too very s"
)

STOP_WORDS = frozenset(_SNOWBALL.split())
"""Snowball's English list without its contractions, and the `s` that a possessive leaves behind. Dropped from queries,
never from the index. Measured (nDCG@10, none / Lucene's 33 words / this list): cranfield 0.378 / 0.378 / 0.380,
cacm 0.404 / 0.418 / 0.429, scifact 0.705 / 0.705 / 0.706; and a query costs a third less without them."""

LONGEST_WORD = 40
"""Bytes of UTF-8; longer runs are no words and would bloat the index."""


REMEMBERED: Final = 1 << 15
"""Words of a language whose stems are kept, some 5 MB."""

_PLAIN: Final = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))
"""ASCII in lower case, with a space in place of what is in no word."""

_UNSTOPPED: Final = frozenset({"arabic", "greek", "romanian", "tamil", "turkish"})
"""Languages that tantivy has no stop words for; there, all words of a query are looked up."""


def _analyzer(language: str, *, stop: bool) -> TextAnalyzer:
    builder = TextAnalyzerBuilder(Tokenizer.simple())
    builder = builder.filter(Filter.remove_long(LONGEST_WORD)).filter(Filter.lowercase())
    # Other languages tell words apart by their accents, and have stemmers and stop words that expect them.
    if language == "english":
        builder = builder.filter(Filter.ascii_fold())
    if stop and language not in _UNSTOPPED:
        english = language == "english"
        builder = builder.filter(Filter.custom_stopword(sorted(STOP_WORDS)) if english else Filter.stopword(language))
    builder = builder.filter(Filter.stemmer(language))
    if language != "english":
        builder = builder.filter(Filter.ascii_fold())
    return builder.build()


class _Stems(dict[str, str]):
    """The stems of plain words, those met lately. Few words of a text are new, and each costs a call of an analyzer."""

    def __init__(self, analyzer: TextAnalyzer) -> None:
        self._analyzer = analyzer

    def __missing__(self, word: str) -> str:
        if len(self) >= REMEMBERED:
            self.clear()
        stem = "".join(self._analyzer.analyze(word))  # nothing, of what is too long to be a word
        if stem:
            self[word] = stem
        return stem


class Language:
    """How texts of one language are cut into stems.

    Attributes:
        name: see `config.settings.LANGUAGES`.
        analyzer: runs of letters and digits, in lower case, stemmed (Snowball), with accents folded.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.analyzer = _analyzer(name, stop=False)
        self._content = _analyzer(name, stop=True)
        self._stem = _Stems(self.analyzer)

    def stems(self, text: str) -> list[str]:
        """The stems of all words, in order, repeats included."""
        # What the analyzer does, in half its time. Beyond ASCII the two may not agree on what a letter is.
        if text.isascii():
            return list(filter(None, map(self._stem.__getitem__, text.translate(_PLAIN).split())))
        return _analyze(self.analyzer, text)

    def content_stems(self, text: str) -> list[str]:
        """The stems of the words that are not stop words, in order, repeats included."""
        return _analyze(self._content, text)


@functools.cache
def language(name: str) -> Language:
    """A language by its name in `config.settings.LANGUAGES`."""
    return Language(name)


ENGLISH = language("english")


def well_formed(text: str) -> str:
    """The text without the lone surrogates that UTF-8, and so tantivy, does not know."""
    return text.encode("utf-8", "replace").decode("utf-8")


def stems(text: str) -> list[str]:
    """The English stems of all words, in order, repeats included."""
    return ENGLISH.stems(text)


def content_stems(text: str) -> list[str]:
    """The English stems of the words that are not stop words, in order, each once."""
    return list(dict.fromkeys(ENGLISH.content_stems(text)))


def _analyze(analyzer: TextAnalyzer, text: str) -> list[str]:
    try:
        return analyzer.analyze(text)
    except UnicodeEncodeError:
        return analyzer.analyze(well_formed(text))
