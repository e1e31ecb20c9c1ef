"""What a question asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search.asking import asked_for, named


@pytest.mark.parametrize(
    ("question", "has", "has_not"),
    [
        ("When did it land?", "It landed on 14 January.", "It landed on Titan."),
        ("In what year was it found?", "It was found in 1655.", "It was found by Huygens, 3 weeks later."),
        ("How long does it take?", "It takes 15.9 days.", "It is 15.9 kilometres long."),
        ("How many days does a year have there?", "The year has 88 days.", "It has 3 moons."),
        ("How far is Titan from Saturn?", "It is 1,221,870\nkilometres away.", "It is far away, for 16 days."),
        ("How long is the canyon?", "The canyon has 4,000 km.", "The canyon is old."),
        ("What is the radius of Titan?", "Its radius is 2575 km.", "Its radius is large."),
        ("How cold is Uranus?", "It has minus 224 degrees.", "It has 27 moons."),
        ("How heavy is the Earth?", "It has 5.97 times 10 to the 24 kg.", "It has one moon."),
        ("How fast is light?", "It makes 299,792 km/s.", "It makes 8 minutes from the Sun."),
        ("How many moons has Mars?", "Mars has two moons.", "Mars has moons."),
        ("Why is Mars red?", "It is red because of iron oxide.", "It is red and dry."),
        ("Who found Titan?", "It was found by Christiaan Huygens.", "It was found with a telescope."),
        ("Who was Huygens?", "He worked with Cassini.", "Then Huygens saw it."),
    ],
)
def test_a_sentence_has_it_or_not(question: str, has: str, has_not: str) -> None:
    fits = asked_for(question)
    assert fits is not None
    assert fits(has)
    assert not fits(has_not)


@pytest.mark.parametrize("question", ["What is Titan?", "Tell me of Titan", "", "Whenever", "Is the whole red?"])
def test_many_questions_do_not_say(question: str) -> None:
    assert asked_for(question) is None


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("Which moon did Huygens land on?", "Huygens"),
        ("When did Voyager 2 reach Neptune?", "Voyager Neptune"),
        ("Mars is red. Titan is what?", ""),
        ("what is titan?", ""),
        ("WHAT IS TITAN?", ""),
        ("What Is Titan?", ""),
    ],
)
def test_names_are_what_has_a_capital_within_a_sentence(question: str, names: str) -> None:
    assert named(question) == names


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_may_be_asked_and_looked_at(question: str, sentence: str) -> None:
    fits = asked_for(question)
    assert fits is None or fits(sentence) in (True, False)
    assert set(named(question).split()) <= set(question.split()) | set(named(question).split())
