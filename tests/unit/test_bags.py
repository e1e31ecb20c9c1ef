"""Bags: the score of an entry is BM25's own, whatever was added, removed, saved or hashed alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search import bags as module
from actors.search.bags import Bags, Counted, Entries, Scores, key

FIELDS = ("title", "text")
Entry = dict[str, list[str]]

word = st.sampled_from(["moon", "io", "ice", "wing", "a", "été"])
entry = st.fixed_dictionaries({"text": st.lists(word, min_size=1, max_size=12)}, optional={"title": st.lists(word)})
entries = st.lists(entry, min_size=1, max_size=8)
weights = st.dictionaries(st.tuples(st.sampled_from(FIELDS), word), st.floats(0.1, 5), max_size=6)
constants = st.tuples(st.floats(0, 3), st.floats(0, 1))


def filled(held: Sequence[Entry]) -> Bags:
    made = Bags(FIELDS)
    for number, stems in enumerate(held):
        made.add(number, stems)
    made.settle()
    return made


def terms(of: dict[tuple[str, str], float], averages: dict[str, float] | None = None) -> list[Counted]:
    return [
        Counted(key(name, stem), FIELDS.index(name), weight, (averages or {}).get(name, 1.0))
        for (name, stem), weight in of.items()
    ]


def scores(
    made: Bags, asked: Sequence[int] | Entries, wanted: list[Counted], *, k1: float = 1.2, b: float = 0.75
) -> Scores:
    entries = np.array(asked, np.int64)
    return made.scores(entries, np.zeros_like(entries), [wanted], k1=k1, b=b)


def expected(
    held: Sequence[Entry], of: dict[tuple[str, str], float], averages: dict[str, float], k1: float, b: float
) -> list[float]:
    scores = []
    for one in held:
        score = 0.0
        for (name, stem), weight in of.items():
            times = one.get(name, []).count(stem)
            if times:
                share = len(one[name]) / averages[name]
                score += weight * (k1 + 1) * times / (times + k1 * (1 - b + b * share))
        scores.append(score)
    return scores


@given(entries, weights, constants)
def test_scores_are_those_of_the_formula(
    held: list[Entry], of: dict[tuple[str, str], float], how: tuple[float, float]
) -> None:
    k1, b = how
    averages = {"title": 2.5, "text": 7.0}
    found = scores(filled(held), range(len(held)), terms(of, averages), k1=k1, b=b)
    assert found == pytest.approx(expected(held, of, averages, k1, b))


@given(entries, weights, st.data())
def test_any_entries_in_any_order(held: list[Entry], of: dict[tuple[str, str], float], data: st.DataObject) -> None:
    asked = data.draw(st.lists(st.integers(0, len(held) - 1)))
    made = filled(held)
    whole = scores(made, range(len(held)), terms(of))
    part = scores(made, asked, terms(of))
    assert part.tolist() == whole[asked].tolist()


@given(entries, st.lists(weights, min_size=1, max_size=4), st.integers(1, 9))
def test_each_query_of_many_is_as_if_alone(
    held: list[Entry], queries: list[dict[tuple[str, str], float]], at_once: int
) -> None:
    made, wanted = filled(held), [terms(of) for of in queries]
    alone = [scores(made, range(len(held)), one).tolist() for one in wanted]
    of = np.repeat(np.arange(len(wanted)), len(held))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_ONCE", at_once)
        together = made.scores(np.tile(np.arange(len(held)), len(wanted)), of, wanted, k1=1.2, b=0.75)
    assert together.reshape(len(wanted), -1).tolist() == alone


def test_words_are_those_of_what_is_not_removed() -> None:
    made = filled([{"title": ["moon"], "text": ["moon", "io"]}, {"text": ["ice"] * 100}])
    assert made.words() == {"title": 1, "text": 102}
    made.remove(range(1, 2))
    assert made.words() == {"title": 1, "text": 2}
    assert made.longest() == 100


def test_entries_that_were_given_up_half_way_are_not_counted() -> None:
    made = Bags(FIELDS)
    made.add(2, {"text": ["moon"]})
    made.remove(range(5))
    made.add(5, {"text": ["moon", "ice"]})
    made.settle()
    assert made.words() == {"text": 2}


def test_lengths_are_as_coarse_as_those_of_tantivy() -> None:
    made = filled([{"text": ["moon"] * 41}])
    assert made.length(0, made.field("text")) == 40
    assert made.length(0, made.field("title")) == 0
    made = filled([{"text": ["moon", *["io"] * others]} for others in (38, 39, 40)])
    shorter, one, other = scores(made, range(3), terms({("text", "moon"): 1.0})).tolist()
    assert shorter > one == other


def test_numbers_may_be_left_out_but_none_comes_twice() -> None:
    made = Bags(FIELDS)
    made.add(3, {"text": ["moon"]})
    made.add(2000, {"text": ["moon"]})
    made.settle()
    found = scores(made, [0, 3, 4, 2000], terms({("text", "moon"): 1.0}))
    assert found.tolist() == [0.0, 1.0, 0.0, 1.0]
    for taken in (2000, 7):
        with pytest.raises(ValueError, match="is there"):
            made.add(taken, {})


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), entry), min_size=1, max_size=8), weights)
def test_it_makes_no_difference_which_entries_are_settled_together(
    steps: list[tuple[int, bool, Entry]], of: dict[tuple[str, str], float]
) -> None:
    one, other = Bags(FIELDS), Bags(FIELDS)
    number = -1
    for step, alone, stems in steps:
        number += step
        one.add(number, stems)
        other.add(number, stems)
        if alone:
            one.settle()
    one.settle()
    other.settle()
    asked = np.arange(number + 1)
    first, second = (scores(bags, asked, terms(of)).tolist() for bags in (one, other))
    assert first == second
    assert (one.words(), one.longest()) == (other.words(), other.longest())


def test_rows_that_would_be_too_full_are_more() -> None:
    stems = [f"w{number}" for number in range(600)]
    of = {("text", stem): 1.0 for stem in stems}
    held: list[Entry] = [{"text": stems}, {"text": stems[::3]}, {"text": ["other"]}]
    found = scores(filled(held), range(3), terms(of), b=0)
    assert found == pytest.approx(expected(held, of, {"text": 1.0}, 1.2, 0))


ALIKE = (
    "00000000000000000000000000000000000000",
    "10101110110011011010000111110110000001",
    "01011001010110100101111001011011000010",
    "11110111100101111111111110101101000011",
    "10110010101101001011110010110110000100",
    "00011100011110010001110101000000000101",
    "11101011111011101110001011101101000110",
    "01000101001000110100001100011011000111",
    "01100001101010000110010011011011001000",
)
"""Words of one key, whatever the field."""


def test_words_of_one_key_take_no_more_room_than_others_and_leave_their_neighbours_alone() -> None:
    assert len({key("text", stem) for stem in ALIKE}) == len({key("title", stem) for stem in ALIKE}) == 1
    held: list[Entry] = [{"text": ["moon"]}, {"text": [*ALIKE, "io"]}, {"text": ["ice"]}]
    made = filled(held)
    of = {("text", stem): 1.0 for stem in ("moon", "io", "ice")}
    assert made._size < 20
    found = scores(made, range(3), terms(of), b=0)
    assert found == pytest.approx(expected(held, of, {"text": 1.0}, 1.2, 0))


def test_no_words_and_no_entries_are_no_score() -> None:
    made = filled([{"text": ["moon"]}])
    assert scores(made, [0], terms({})).tolist() == [0.0]
    assert scores(made, [], terms({("text", "moon"): 1.0})).tolist() == []


def test_what_was_saved_is_there_again_and_can_grow(tmp_path: Path) -> None:
    held: list[Entry] = [{"title": ["io"], "text": ["moon", "io", "io"]}, {"text": ["ice"]}]
    of = {("text", "io"): 1.0, ("title", "io"): 0.2}
    made = filled(held)
    made.save(tmp_path / "bags")
    loaded = Bags.load(tmp_path / "bags", FIELDS)
    for bags in (made, loaded):
        bags.remove(range(1, 2))
        bags.add(2, {})
        bags.add(3, {"text": ["io", "ice"]})
        bags.settle()
    asked = np.array([0, 1, 2, 3])
    one, other = (scores(bags, asked, terms(of)).tolist() for bags in (made, loaded))
    assert one == other
    assert one[3] > 0
    assert made.words() == loaded.words() == {"title": 1, "text": 5}
    assert loaded.longest() == 3
    assert scores(Bags.load(tmp_path / "bags", FIELDS), asked[:2], terms(of))[0] > 0


def test_an_empty_one_can_be_saved(tmp_path: Path) -> None:
    Bags(FIELDS).save(tmp_path / "bags")
    loaded = Bags.load(tmp_path / "bags", FIELDS)
    loaded.add(0, {"text": ["moon"]})
    loaded.settle()
    assert scores(loaded, [0], terms({("text", "moon"): 1.0})).tolist() == [1.0]


def test_one_of_other_fields_is_refused(tmp_path: Path) -> None:
    filled([{"text": ["moon"]}]).save(tmp_path / "bags")
    with pytest.raises(ValueError, match="damaged"):
        Bags.load(tmp_path / "bags", ("text",))
