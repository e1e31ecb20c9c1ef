"""Which spellings are one name."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search.names import MAX_CHARS, WORD, fold, normal, spellings


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("GPE", ["U.S.", "US", "u.s", "the U.S.", "U.S.'s", "The US"]),
        ("ORG", ["Acme", "ACME, Inc.", "Acme Inc", "The Acme Company", "Acme's", "acme corp."]),
        ("ORG", ["Siemens AG", "Siemens"]),
        ("ORG", ["Meyer GmbH & Co. KG", "Meyer"]),
        ("ORG", ["Johnson & Johnson", "Johnson and Johnson"]),
        ("PERSON", ["J. F. Kennedy", "J.F. Kennedy", "J F Kennedy", "j.f.kennedy"]),
        ("PERSON", ["Dr. Ada Lovelace", "Ada Lovelace", "Ada Lovelace\u2019s", "Prof. Dr. Ada  Lovelace"]),
        ("LOC", ["Cassini\u2013Huygens", "Cassini-Huygens", "Cassini Huygens", "cassini\nhuygens"]),
        ("LOC", ["Enc\u00e9lade", "Ence\u0301lade", "ENC\u00c9LADE"]),
    ],
)
def test_these_are_one_name(label: str, names: list[str]) -> None:
    assert len({normal(name, label) for name in names}) == 1


@pytest.mark.parametrize(
    ("label", "one", "other"),
    [
        ("PRODUCT", "C", "C++"),
        ("PRODUCT", "C#", "C++"),
        ("PERSON", "Martin Luther King", "Martin Luther King Jr."),
        ("PERSON", "Kenneth Clark", "Kenneth Clarke"),
        ("GPE", "Limited", "The"),
        ("LOC", "Titan", "Titania"),
        ("WORK_OF_ART", "Acme Inc", "Acme"),
    ],
)
def test_these_are_two_names(label: str, one: str, other: str) -> None:
    assert normal(one, label) != normal(other, label)


@pytest.mark.parametrize(("name", "label"), [("Inc.", "ORG"), ("Dr.", "PERSON"), ("The", "ORG"), ("!!!", "ORG")])
def test_something_is_left_of_every_name(name: str, label: str) -> None:
    assert normal(name, label)


@pytest.mark.parametrize(
    ("name", "label", "sure", "maybe"),
    [
        ("Titan", "LOC", {"titan"}, set()),
        ("Acme, Inc.", "ORG", {"acme inc", "acme"}, set()),
        ("the U.S.", "GPE", {"us"}, set()),
        ("Neil Armstrong", "PERSON", {"neil armstrong"}, {"n armstrong"}),
        (
            "John F. Kennedy",
            "PERSON",
            {"john f kennedy"},
            {"john kennedy", "j f kennedy", "jf kennedy", "j kennedy"},
        ),
        ("J.F. Kennedy", "PERSON", {"jf kennedy", "j f kennedy"}, {"j kennedy"}),
        ("Mr. Smith", "PERSON", {"mr smith", "smith"}, set()),
        (
            "Martin King Jr.",
            "PERSON",
            {"martin king jr"},
            {"martin king", "m king"},
        ),
        ("...", "ORG", set(), set()),
    ],
)
def test_the_ways_a_name_is_written(name: str, label: str, sure: set[str], maybe: set[str]) -> None:
    names, guesses = spellings(name, label)
    assert set(names) == sure
    assert set(guesses) == maybe


LABELS = st.sampled_from(["PERSON", "ORG", "GPE", "WORK_OF_ART"])
PIECES = st.lists(
    st.sampled_from(["Ann", "b.", "J.R.", "O'Neil", "the", "The", "Inc.", "& Co.", "Dr.", "Jr.", "-", "'s", "C++"]),
    max_size=6,
)
NAMES = st.one_of(st.text(max_size=40), PIECES.map(" ".join), PIECES.map("".join))
PLAIN = st.lists(st.text(string.ascii_letters + string.digits, min_size=1, max_size=8), min_size=1, max_size=4)


@given(NAMES, LABELS)
def test_normalising_again_changes_nothing(name: str, label: str) -> None:
    once = normal(name, label)
    assert normal(once, label) == once
    assert len(once) <= MAX_CHARS


@given(PLAIN, LABELS)
def test_case_and_punctuation_never_count(words: list[str], label: str) -> None:
    plain = " ".join(words)
    assert {normal(other, label) for other in (plain.upper(), ", ".join(words), "-".join(words), f"({plain})")} == {
        normal(plain, label)
    }


@given(NAMES, LABELS)
def test_a_name_is_found_by_its_own_words(name: str, label: str) -> None:
    sure, maybe = spellings(name, label)
    assert not set(sure) & set(maybe)
    words = " ".join(map(fold, WORD.findall(name)))
    if words and name.isascii() and not re.search(r"'", name):
        assert words.removeprefix("the ") in sure
