"""The lexical index: what is found, in what order, and that no text whatever breaks it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search import lexical
from actors.search.language import content_stems, language, stems
from actors.search.lexical import LexicalIndex
from config.settings import LANGUAGES

ENTRIES = {
    1: ("moons", "Titan", "The Huygens probe landed on the moon in 2005."),
    2: ("moons", "Io", "Io has more than 400 active volcanoes."),
    3: ("missions", "Voyager 1", "It flew by Jupiter in 1979 and was landed nowhere."),
    4: ("missions", "Schrödinger", "A crater near the south pole of the Moon."),
}


@pytest.fixture
def index() -> LexicalIndex:
    index = LexicalIndex(writer_memory_mb=15, max_query_terms=8)
    for entry, (collection, title, text) in ENTRIES.items():
        index.add(entry, document_id=f"d{entry}", collection=collection, title=title, text=text)
    index.commit()
    return index


def found(index: LexicalIndex, text: str, *collections: str, limit: int = 10) -> list[int]:
    return [entry for entry, _ in index.search(text, collections=collections, limit=limit)]


def test_finds_other_forms_of_a_word(index: LexicalIndex) -> None:
    assert found(index, "volcano activity") == [2]
    assert found(index, "landing probes") == [1, 3]


def test_finds_words_of_the_title_and_without_their_accents(index: LexicalIndex) -> None:
    assert found(index, "TITAN") == [1]
    assert found(index, "Schrodinger's") == [4]


def test_a_match_in_the_title_counts_more() -> None:
    index = LexicalIndex(writer_memory_mb=15, max_query_terms=8)
    index.add(1, document_id="a", collection="c", title="Io and others", text="A moon of Jupiter called Europa.")
    index.add(2, document_id="b", collection="c", title="Europa and others", text="A moon of Jupiter called Io.")
    index.commit()
    assert found(index, "Europa") == [2, 1]


def test_scores_fall_and_the_limit_holds(index: LexicalIndex) -> None:
    hits = index.search("moon landing in 2005", limit=10)
    assert [entry for entry, _ in hits] == [1, 4, 3]
    scores = [score for _, score in hits]
    assert scores == sorted(scores, reverse=True)
    assert index.search("moon landing in 2005", limit=2) == hits[:2]
    assert index.search("moon landing in 2005", limit=10**9) == hits


def test_collections_filter_without_changing_the_scores(index: LexicalIndex) -> None:
    everything = index.search("moon landing", limit=10)
    one = index.search("moon landing", collections=["missions"], limit=10)
    assert one == [hit for hit in everything if hit[0] in (3, 4)]
    assert index.search("moon landing", collections=["missions", "moons", "none"], limit=10) == everything
    assert found(index, "moon", "none") == []


def test_stop_words_are_looked_up_only_where_there_is_nothing_else(index: LexicalIndex) -> None:
    assert found(index, "what is the volcano") == [2]
    assert 1 in found(index, "the")


def test_a_query_is_text_and_never_syntax(index: LexicalIndex) -> None:
    plain = found(index, "volcanoes Io")
    assert found(index, 'title:volcanoes AND -Io) ("*~^{[: OR NOT') == plain
    assert found(index, "+nothing -volcanoes") == [2]


def test_a_word_that_is_asked_for_twice_counts_twice(index: LexicalIndex) -> None:
    once, twice = (dict(index.search(text, limit=10)) for text in ("moon probe", "moon probe probe"))
    assert twice[4] == once[4]
    assert twice[1] > once[1]


def test_words_in_quotes_alone_must_stand_so(index: LexicalIndex) -> None:
    assert found(index, '"active volcanoes"') == [2]
    assert found(index, '"volcanoes active"') == []
    assert found(index, '"landed on the moon"') == [1]
    assert found(index, '"south pole" “the moon”') == [4]
    assert found(index, '"moon"') == [1, 4]
    # Not closed, or empty: no syntax.
    assert found(index, '"volcanoes active landing') == [2, 1, 3]
    assert found(index, 'volcanoes "" "?!"') == [2]


def test_words_in_quotes_beside_others_are_preferred(index: LexicalIndex) -> None:
    assert found(index, "was landed on the moon") == [1, 4, 3]
    assert found(index, 'moon "was landed"') == [3, 1, 4]


def test_entries_that_hold_the_phrases(index: LexicalIndex) -> None:
    assert index.holding("no phrase", limit=10) is None
    assert index.holding('the "active volcanoes" of Io', limit=10) is None
    assert index.holding('"active volcanoes"', limit=10) == [2]
    assert index.holding('"nothing of the kind"', limit=10) == []
    assert sorted(index.holding('"moon"', limit=10) or []) == [1, 4]


def test_the_end_of_a_word_may_be_left_open(index: LexicalIndex) -> None:
    assert found(index, "volc*") == [2]
    assert found(index, "volc") == []
    assert found(index, "Juno* jup*") == [3]
    assert found(index, "v* *volc") == []


def test_the_heading_is_found_and_counts_more() -> None:
    index = LexicalIndex(writer_memory_mb=15, max_query_terms=8)
    for entry, heading, text in (
        (1, "Io", "The moon Europa is described."),
        (2, "Europa", "The moon Io is described."),
    ):
        index.add(entry, document_id=f"d{entry}", collection="c", title="Moons", heading=heading, text=text)
    index.commit()
    assert found(index, "Europa") == [2, 1]
    assert found(index, "Io") == [1, 2]


def test_a_search_is_held_to_documents(index: LexicalIndex) -> None:
    everything = index.search("moon landing", limit=10)
    assert [entry for entry, _ in everything] == [1, 4, 3]
    for many in (["d1", "d3"], ["d1", "d3", *(f"x{number}" for number in range(100))]):
        held = index.search("moon landing", documents=many, limit=10)
        assert held == [hit for hit in everything if hit[0] in (1, 3)]
    assert index.search("moon landing", documents=[], limit=10) == []


def test_each_language_has_its_own_stems() -> None:
    index = LexicalIndex(writer_memory_mb=15, max_query_terms=8, languages=("english", "german"))
    german = "Die Häuser der Städte wurden gebaut."
    index.add(1, document_id="a", collection="de", title="", text=german, tongue="german")
    index.add(2, document_id="b", collection="en", title="", text="The houses of the towns were built.")
    index.commit()
    assert found(index, "Haus Stadt") == [1]
    assert found(index, "house town") == [2]
    assert found(index, '"die Häuser"') == [1]


def test_terms_beyond_the_cap_and_repeated_ones_are_ignored(index: LexicalIndex) -> None:
    words = [f"word{number}" for number in range(8)]
    assert found(index, " ".join([*words[:7], "volcano"])) == [2]
    assert found(index, " ".join([*words, "volcano"])) == []
    assert found(index, " ".join(["nothing"] * 50 + ["volcano"])) == [2]


def test_what_was_not_committed_is_not_seen(index: LexicalIndex) -> None:
    index.add(9, document_id="d9", collection="moons", title="Enceladus", text="Ice.")
    index.delete("d2", range(2, 3))
    assert found(index, "Enceladus volcanoes") == [2]
    assert len(index) == 4
    index.commit()
    assert found(index, "Enceladus volcanoes") == [9]
    assert len(index) == 4


def test_deleting_takes_only_what_was_added_before(index: LexicalIndex) -> None:
    index.delete("d2", range(2, 3))
    index.add(20, document_id="d2", collection="moons", title="Io", text="Volcanoes again.")
    index.commit()
    assert found(index, "volcanoes") == [20]


def test_an_empty_index_finds_nothing() -> None:
    assert LexicalIndex(writer_memory_mb=15, max_query_terms=8).search("moon", limit=3) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\x00\x01\x1f",
        "\ud800",
        "🙂🙂",
        "土星の衛星タイタン",
        "قمر زحل",
        "?!.,;",
        "a" * 100_000,
        "wing " * 20_000,
    ],
    ids=["empty", "blank", "control", "surrogate", "emoji", "japanese", "arabic", "punctuation", "long word", "100 KB"],
)
def test_strange_queries_find_nothing(index: LexicalIndex, text: str) -> None:
    assert found(index, text) == []


def test_other_scripts_are_found_by_whole_words(index: LexicalIndex) -> None:
    index.add(30, document_id="d30", collection="moons", title="قمر زحل", text="\ud800 タイタン \x00 Ω-function")
    index.commit()
    assert found(index, "زحل") == [30]
    assert found(index, "タイタン") == [30]


INDEX = LexicalIndex(writer_memory_mb=15, max_query_terms=8)
INDEX.add(1, document_id="d", collection="c", title="Titan", text="The Huygens probe landed on the moon.")
INDEX.commit()


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=200))
def test_any_text_can_be_searched_for(text: str) -> None:
    terms = set(stems("Titan The Huygens probe landed on the moon."))
    wanted = content_stems(text) or list(dict.fromkeys(stems(text)))
    assert bool(INDEX.search(text, limit=1)) == bool(terms.intersection(wanted[:8]))


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_has_a_stemmer(name: str) -> None:
    assert len(language(name).stems("one two \ud800")) >= 2
    assert isinstance(language(name).content_stems("one two"), list)


@pytest.fixture(scope="module")
def large() -> LexicalIndex:
    """Entries that all hold a common word, every tenth of collection `a` a rare one as well."""
    index = LexicalIndex(writer_memory_mb=15, max_query_terms=8)
    for entry in range(400):
        text = "flow " * (1 + entry % 7) + "plate " * (entry % 3) + ("laminar" if entry % 10 == 0 else "")
        index.add(entry, document_id=f"d{entry}", collection="a" if entry < 360 else "b", title="", text=text)
    index.commit()
    return index


def rare(entries: list[int]) -> list[int]:
    return [entry for entry in entries if entry % 10 == 0]


def test_a_common_word_counts_though_rare_ones_decide_what_is_looked_at(
    large: LexicalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [entry for entry, _ in large.search("laminar flow plate", limit=40)]
    monkeypatch.setattr(lexical, "ENOUGH", 1)
    monkeypatch.setattr(lexical, "CHEAP", 0)
    assert found(large, "laminar flow plate", limit=40) == whole == rare(whole)
    assert found(large, "laminar flow", limit=40) == rare(found(large, "laminar flow", limit=400))


def test_scores_are_those_of_tantivy_whichever_way_they_are_told(
    large: LexicalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "laminar flow plate"
    by_tantivy = dict(large.search(text, limit=40))
    monkeypatch.setattr(lexical, "ENOUGH", 1)
    monkeypatch.setattr(lexical, "CHEAP", 0)
    by_words = dict(large.search(text, limit=40))
    assert by_words == pytest.approx(by_tantivy, rel=1e-5)
    assert by_words != by_tantivy


def test_where_rare_words_are_not_enough_common_ones_find_the_rest(
    large: LexicalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "ENOUGH", 1)
    monkeypatch.setattr(lexical, "CHEAP", 0)
    entries = found(large, "laminar flow", limit=50)
    assert len(entries) == 50
    assert entries[:40] == rare(entries)


def test_rare_words_of_other_collections_are_not_enough(large: LexicalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "ENOUGH", 1)
    monkeypatch.setattr(lexical, "CHEAP", 0)
    entries = found(large, "laminar flow", "b", limit=10)
    assert len(entries) == 10
    assert min(entries) >= 360
    assert len(large.search("laminar flow", documents=["d1", "d2"], limit=10)) == 2
