"""Words: the quick way to their stems gives what the index's own analyzer gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search import language as tested
from actors.search.language import LONGEST_WORD, Language
from config.settings import LANGUAGES

ascii_text = st.text(st.characters(max_codepoint=127))
plain = ["Wings", "were", "flying", "it's", "a_b", "3rd", "été"]
words = st.sampled_from([*plain, "x" * LONGEST_WORD, "x" * (LONGEST_WORD - 1)])
spoken = st.lists(words).map(" ".join)


@given(st.sampled_from(LANGUAGES), ascii_text | spoken | st.text())
def test_stems_are_those_of_the_analyzer(name: str, text: str) -> None:
    known = tested.language(name)
    assert known.stems(text) == known.analyzer.analyze(tested.well_formed(text))


def test_no_more_words_are_kept_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "REMEMBERED", 3)
    english = Language("english")
    many = " ".join(f"w{number}" for number in range(50))
    assert english.stems(many) == many.split()
    assert len(english._stem) <= 3
