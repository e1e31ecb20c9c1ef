from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import EntityName, Link, SourceValue
from actors.search import phrases
from actors.search.phrases import Phrases

NAMES = [
    "Titan",
    "Saturn",
    "Io",
    "Cassini–Huygens",
    "Huygens",
    "Saturn V",
    "the Great Red Spot",
    "Voyager 2",
    "Encélade",
]


def known(*names: str, values: tuple[str, ...] = (), min_chars: int = 2, label: str = "LOC") -> Phrases:
    phrases = Phrases(min_chars=min_chars)
    for number, name in enumerate(names, 1):
        phrases.add(EntityName(number, name, label))
    for value in values:
        phrases.add_value(SourceValue("planets", "moons", "name", value))
    return phrases


def found(phrases: Phrases, text: str) -> list[str]:
    return [entity.text for entity in phrases.find(text)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the radius of Titan?", ["Titan"]),
        ("what is the radius of titan?", ["titan"]),
        ("WHAT IS THE RADIUS OF TITAN?", ["TITAN"]),
        ("Is Saturn's moon Titan larger than Io?", ["Saturn", "Titan", "Io"]),
        ("Is Saturn\u2019s moon wet?", ["Saturn"]),
        ("Did Cassini-Huygens land?", ["Cassini-Huygens"]),
        ("Which rocket was a Saturn V, and is Saturn a planet?", ["Saturn V", "Saturn"]),
        ("How old is The  Great\nRed Spot?", ["Great\nRed Spot"]),
        ("Did voyager 2 pass Neptune?", ["voyager 2"]),
        ("Where is Ence\u0301lade?", ["Ence\u0301lade"]),
        ("Are there missions to Titania?", []),
        ("Where is radioactive iodine found?", []),
        ("Which titan ruled Greece?", []),
        ("", []),
        ("?!", []),
    ],
)
def test_finds_names_as_people_write_them(question: str, expected: list[str]) -> None:
    assert found(known(*NAMES), question) == expected


def test_offsets_count_characters_of_the_question_as_it_was_asked() -> None:
    # The sharp s folds to two letters and the accent composes to none of its own.
    question = "Große  e\u0301toiles: is Titan one?"
    (entity,) = known("Titan").find(question)
    assert question[entity.start : entity.end] == entity.text == "Titan"


def test_links_say_everywhere_a_name_is_known_from() -> None:
    phrases = known(values=("Titan",))
    for name in (EntityName(9, "TITAN", "ORG"), EntityName(7, "Titan", "LOC")):
        phrases.add(name)
    (entity,) = phrases.find("where is titan?")
    assert entity.label == "LOC"
    assert entity.links == (
        Link("entity", 7),
        Link("entity", 9),
        Link("value", None, "planets", "moons", "name", "Titan"),
    )


def test_a_name_only_a_source_knows_is_labelled_so() -> None:
    (entity,) = known(values=("Miranda",)).find("How big is Miranda?")
    assert entity.label == phrases.VALUE_LABEL


@pytest.mark.parametrize("question", ["Which moon is icy?", "which moon is icy?", "Name the second planet", "name it"])
def test_ordinary_words_are_not_taken_for_names(question: str) -> None:
    assert found(known("Name", "second", values=("moon", "planet", "icy")), question) == []


def test_a_lower_case_name_is_found_where_the_question_writes_it_with_a_capital() -> None:
    assert found(known(values=("miranda",)), "How big is Miranda?") == ["Miranda"]


@pytest.mark.parametrize("name", ["X", "1969", "12.5", "the", "of the", "...", ""])
def test_what_cannot_be_a_name_is_not_looked_for(name: str) -> None:
    assert len(known(name)) == 0


@pytest.mark.parametrize(
    ("name", "label", "question", "expected"),
    [
        ("Acme, Inc.", "ORG", "Who owns Acme?", ["Acme"]),
        ("Acme", "ORG", "Who owns ACME Inc.?", ["ACME"]),
        ("John F. Kennedy", "PERSON", "Where was J.F. Kennedy born?", ["J.F. Kennedy"]),
        ("John F. Kennedy", "PERSON", "Where was John Kennedy born?", ["John Kennedy"]),
        ("U.S.", "GPE", "How large is the US?", ["US"]),
        ("US", "GPE", "How large is the U.S.?", ["U.S."]),
        ("US", "GPE", "is the u.s. large?", ["u.s."]),
        ("US", "GPE", "Tell us about Mars", []),
        ("US", "GPE", "TELL US ABOUT MARS", []),
        ("WHO", "ORG", "What did the WHO say?", ["WHO"]),
        ("WHO", "ORG", "Who said that?", []),
        ("AT&T", "ORG", "When was AT&T founded?", ["AT&T"]),
        ("Paris, Texas", "GPE", "Where is Paris Texas?", ["Paris Texas"]),
    ],
)
def test_other_spellings_are_found(name: str, label: str, question: str, expected: list[str]) -> None:
    assert found(known(name, label=label), question) == expected


def test_initials_that_two_may_have_are_nobody() -> None:
    phrases = known("John Kennedy", "Jane Kennedy", label="PERSON")
    assert found(phrases, "Who was J. Kennedy?") == []
    phrases.discard(EntityName(2, "Jane Kennedy", "PERSON"))
    (entity,) = phrases.find("Who was J. Kennedy?")
    assert entity.links == (Link("entity", 1),)


def test_who_is_called_by_initials_comes_with_the_one_who_may_be_meant() -> None:
    (entity,) = known("J. Kennedy", "John Kennedy", label="PERSON").find("Who was J. Kennedy?")
    assert entity.links == (Link("entity", 1), Link("entity", 2))


def test_more_labels_than_there_is_room_for_do_no_harm() -> None:
    phrases = Phrases(min_chars=2)
    for number in range(300):
        phrases.add(EntityName(number, f"Moon {number}", f"L{number}"))
    assert [entity.label for entity in phrases.find("Moon 3 or Moon 299")] == ["L3", "L255"]


WORDS = st.text(string.ascii_letters + "éßÅİŉ", min_size=2, max_size=8)


@given(
    st.lists(WORDS, min_size=1, max_size=3),
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from([" ", "  ", "\n\t", "-", ", "]),
)
def test_a_name_is_found_wherever_it_stands(words: list[str], before: str, after: str, space: str) -> None:
    question = f"{before} {space.join([*words, 'x2'])} {after}"
    entities = known(" ".join([*words, "X2"])).find(question)
    assert entities
    for entity, following in itertools.pairwise(entities):
        assert entity.end <= following.start
    for entity in entities:
        assert question[entity.start : entity.end] == entity.text


NAMES_OF_FEW_WORDS = st.lists(
    st.tuples(st.integers(1, 5), st.lists(st.sampled_from(["Ann", "Bo", "C.", "Jr."]), min_size=1, max_size=3)),
    max_size=8,
    unique_by=lambda pair: pair[0],
)


@given(NAMES_OF_FEW_WORDS, st.sets(st.integers(1, 5)), st.sampled_from(["PERSON", "ORG"]))
def test_what_is_taken_out_leaves_no_trace(names: list[tuple[int, list[str]]], gone: set[int], label: str) -> None:
    everything = [EntityName(number, " ".join(words), label) for number, words in names]
    emptied, fresh = Phrases(min_chars=2), Phrases(min_chars=2)
    for name in everything:
        emptied.add(name)
    for name in everything:
        if name.entity_id in gone:
            emptied.discard(name)
        else:
            fresh.add(name)
    assert len(emptied) == len(fresh)
    for name in everything:
        assert emptied.find(f"Is {name.name} here?") == fresh.find(f"Is {name.name} here?")
