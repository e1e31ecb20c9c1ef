"""English words as the index sees them: one definition for indexed text, queries, and the choice of sentences.

If the three disagreed on where a word ends or what its stem is, a passage would be found for a word that the answer
then fails to recognise in it.
"""

from __future__ import annotations

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


def _analyzer(*, stop: bool) -> TextAnalyzer:
    builder = TextAnalyzerBuilder(Tokenizer.simple())
    for step in (Filter.remove_long(LONGEST_WORD), Filter.lowercase(), Filter.ascii_fold()):
        builder = builder.filter(step)
    if stop:
        builder = builder.filter(Filter.custom_stopword(sorted(STOP_WORDS)))
    return builder.filter(Filter.stemmer("english")).build()


ENGLISH = _analyzer(stop=False)
"""Runs of letters and digits, in lower case, stemmed (Porter 2): tantivy's `en_stem`, with accents folded."""

_CONTENT = _analyzer(stop=True)


def well_formed(text: str) -> str:
    """The text without the lone surrogates that UTF-8, and so tantivy, does not know."""
    return text.encode("utf-8", "replace").decode("utf-8")


def stems(text: str) -> list[str]:
    """The stems of all words, in order, repeats included."""
    return _analyze(ENGLISH, text)


def content_stems(text: str) -> list[str]:
    """The stems of the words that are not stop words, in order, each once."""
    return list(dict.fromkeys(_analyze(_CONTENT, text)))


def _analyze(analyzer: TextAnalyzer, text: str) -> list[str]:
    try:
        return analyzer.analyze(text)
    except UnicodeEncodeError:
        return analyzer.analyze(well_formed(text))
