from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import EntityName, Link, SourceValue
from actors.search import phrases
from actors.search.phrases import Phrases, fold, phrase

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


def known(*names: str, values: tuple[str, ...] = (), min_chars: int = 2) -> Phrases:
    return Phrases(
        [EntityName(number, name, "LOC") for number, name in enumerate(names, 1)],
        [SourceValue("planets", "moons", "name", value) for value in values],
        min_chars=min_chars,
    )


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
    phrases = Phrases(
        [EntityName(7, "Titan", "LOC"), EntityName(9, "TITAN", "ORG")],
        [SourceValue("planets", "moons", "name", "Titan")],
        min_chars=2,
    )
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


def test_names_are_found_across_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phrases, "SHARD_NAMES", 2)
    shards = known(*NAMES)
    assert len(shards) == len(NAMES)
    assert found(shards, "From Huygens to the Great Red Spot by Saturn V") == ["Huygens", "Great Red Spot", "Saturn V"]


WORDS = st.text(string.ascii_letters + "éßÅİŉ", min_size=2, max_size=8)


@given(
    st.lists(WORDS, min_size=1, max_size=3),
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from([" ", "  ", "\n\t"]),
)
def test_a_name_is_found_wherever_it_stands(words: list[str], before: str, after: str, space: str) -> None:
    name = " ".join([*words, "X2"])
    question = f"{before} {space.join([*words, 'x2'])} {after}"
    entities = known(name).find(question)
    assert any(phrase(entity.text) == phrase(name) for entity in entities)
    for entity, following in itertools.pairwise(entities):
        assert entity.end <= following.start
    for entity in entities:
        assert question[entity.start : entity.end] == entity.text


@given(st.text())
def test_folding_knows_where_each_character_came_from(text: str) -> None:
    folded, spans = fold(text)
    if spans is None:
        assert len(folded) == len(text)
    else:
        assert len(folded) == len(spans)
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(a[0] <= b[0] for a, b in itertools.pairwise(spans))
    assert fold(folded)[0] == folded
