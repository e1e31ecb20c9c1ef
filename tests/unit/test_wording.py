"""The wording of a question: which of its words find entries, and which only score."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.search.wording import Known, Word, parted


def word(frequency: int, field: str, stem: str) -> Word:
    return Word(Known(frequency, field, stem, 0, 0, 1.0, 1.0), 1.0)


words = st.lists(
    st.builds(
        word, st.integers(1, 100), st.sampled_from(["text_english", "title_english"]), st.sampled_from("abcdefgh")
    ),
    unique_by=lambda one: (one.known.field, one.known.stem),
    max_size=12,
)


def frequency(these: list[Word]) -> int:
    """Of those of the text."""
    return sum(known.frequency for known, _ in these if known.field == "text_english")


@given(words, st.integers(0, 200), st.integers(0, 300))
def test_the_rarest_find_enough_and_no_more_than_is_cheap(asked: list[Word], least: int, most: int) -> None:
    rare, left = parted(asked, least=least, most=most)
    assert sorted([*rare, *left]) == sorted(asked)
    assert {known.stem for known, _ in rare}.isdisjoint({known.stem for known, _ in left})
    assert frequency(rare) >= min(least, frequency(asked))
    of_text = [known.frequency for known, _ in rare if known.field == "text_english"]
    # Without the last one that was needed there would be too few.
    assert frequency(rare) <= most or frequency(rare) - max(of_text) < least


def test_where_all_are_needed_none_is_left() -> None:
    asked = [word(5, "text_english", "a"), word(90, "text_english", "b"), word(3, "title_english", "b")]
    assert parted(asked, least=6, most=0) == (asked, [])
    assert parted(asked, least=5, most=0) == (asked[:1], asked[1:])
