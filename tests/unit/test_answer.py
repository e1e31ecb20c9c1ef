"""Choosing sentences: quoted exactly, cited to their words, and none where nothing fits."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import (
    Answer,
    Branch,
    ChunkKind,
    Found,
    Link,
    LinkedEntity,
    PageCitation,
    Passage,
    Row,
    RowCitation,
    Words,
)
from actors.search.answer import NOTHING_FOUND, choose, text_of
from actors.search.encoding import encode_answer, encode_found

TITAN = (
    "Titan\n\nTitan is the largest moon of Saturn. It was discovered in 1655 by the astronomer\nChristiaan Huygens. "
    "Its radius is 2,574.7 km. On 14 January 2005 the Huygens probe landed there. Who was first to see it?"
)
SATURN = "Saturn is the sixth planet from the Sun. Saturn has 146 known moons. The rings are made mostly of ice."


TABLE = "Moon Found Radius\nTitan 1655 2575\nRhea 1672 764\nIapetus Giovanni 735\nDomenico Cassini\nDione 1684 561"


def passage(
    text: str,
    title: str = "Moons",
    *,
    document_id: str = "d1",
    start: int = 100,
    page: int = 3,
    kind: ChunkKind = "text",
) -> Passage:
    words, at = [], 0
    for line, row in enumerate(text.split("\n")):
        for position, word in enumerate(row.split(" ")):
            x = 50.0 + 30 * position
            words.append((at, at + len(word), x, 14.0 * line, x + 28, 14.0 * line + 11))
            at += len(word) + 1
    packed = Words.of([word for word in words if word[0] < word[1]])
    scores = {"lexical": 4.2}
    return Passage(document_id, title, "default", page, start, start + len(text), text, packed, 0.016, scores, kind)


def moon(name: str, **columns: Any) -> Row:
    columns = {"id": 6, "name": name, "radius_km": 2574.7, "planet": "Saturn", "discoveredBy": "Huygens", **columns}
    return Row("planets", "moons", {"id": 6}, columns, "SELECT 1")


def linked(text: str, column: str = "name") -> LinkedEntity:
    return LinkedEntity(text, "VALUE", 0, len(text), (Link("value", None, "planets", "moons", column, text),))


def texts(question: str, *passages: Passage, limit: int = 3) -> list[str]:
    return [sentence.text for sentence in choose(question, passages, (), (), limit=limit)]


def test_quotes_exactly_and_cites_the_place_in_the_page() -> None:
    [sentence, *_] = choose("When did the Huygens probe land?", [passage(TITAN)], (), (), limit=3)
    assert sentence.text == "On 14 January 2005 the Huygens probe landed there."
    citation = sentence.citation
    assert isinstance(citation, PageCitation)
    assert (citation.document_id, citation.title, citation.page) == ("d1", "Moons", 3)
    assert TITAN[citation.start - 100 : citation.end - 100] == sentence.text


def test_boxes_are_those_of_the_quoted_words_one_a_line() -> None:
    [sentence, *_] = choose("Which astronomer discovered it?", [passage(TITAN)], (), (), limit=1)
    assert sentence.text == "It was discovered in 1655 by the astronomer\nChristiaan Huygens."
    assert isinstance(sentence.citation, PageCitation)
    first, second = sentence.citation.boxes
    assert first == (50.0 + 30 * 7, 28.0, 50.0 + 30 * 14 + 28, 39.0)
    assert second == (50.0, 42.0, 50.0 + 30 + 28, 53.0)


def test_stems_match_and_the_rarer_words_decide() -> None:
    assert texts("How many moons has Saturn?", passage(SATURN))[0] == "Saturn has 146 known moons."
    assert texts("What is a ring of Saturn made of?", passage(SATURN))[0] == "The rings are made mostly of ice."


def test_the_title_tells_what_a_pronoun_means() -> None:
    two = [passage("It was discovered in 1610.", "Io", document_id="a"), passage("It was discovered in 1655.", "Titan")]
    assert texts("When was Titan discovered?", *two)[0] == "It was discovered in 1655."


def test_names_count_more_than_other_words() -> None:
    two = [passage("The orbit is narrow."), passage("Rhea is small.", document_id="d2")]
    [first, *_] = choose("orbit Rhea", two, (), (LinkedEntity("Rhea", "LOC", 6, 10),), limit=2)
    assert first.text == "Rhea is small."
    assert texts("orbit rhea", *two)[0] == "The orbit is narrow."


def test_a_figure_is_preferred_where_one_is_asked_for() -> None:
    both = passage("The radius of Rhea is small. The radius of Rhea is 764 km.")
    assert texts("What is the radius of Rhea?", both)[0] == "The radius of Rhea is 764 km."


def test_what_is_said_of_others_is_no_answer() -> None:
    moons = passage(
        "Titan was discovered in 1655. Rhea was discovered in 1672. Rhea goes round Saturn in 4.5 days.", ""
    )
    assert texts("When was Rhea discovered?", moons) == ["Rhea was discovered in 1672."]
    assert texts("When was Vulcan discovered?", moons) == []
    # Saturn is named too, but of the two Mimas is the one that tells.
    assert texts("In how many days does Mimas go round Saturn?", moons) == []
    # Somebody who writes no capitals is not held to them.
    assert texts("when was vulcan discovered in 1655?", moons)


def test_beside_a_sentence_that_has_what_is_asked_for_one_that_has_not_is_noise() -> None:
    both = passage("The radius of Rhea is 764 km. The radius of Rhea is larger than the radius of Dione.")
    assert texts("What is the radius of Rhea?", both) == ["The radius of Rhea is 764 km."]
    # Even one that has more words of the question, in a better passage.
    near = passage("Mimas is a moon of Saturn, and quite near.", "Mimas")
    orbit = passage("It goes round Saturn at a distance of 185,520 kilometres.", "Mimas", document_id="d2")
    assert texts("How far is Mimas from Saturn?", near, orbit) == [orbit.text]
    # Where nothing has it, what there is is quoted.
    neither = passage("The radius of Rhea is larger than the radius of Dione.")
    assert texts("What is the radius of Rhea?", neither)


@pytest.mark.parametrize(
    "question",
    ["Who won the cup in France?", "", "the of and", "Tell me!", "\ud800", "土星", "?" * 5000],
    ids=["foreign", "empty", "stop words", "fillers", "surrogate", "other script", "punctuation"],
)
def test_no_sentence_without_a_meaningful_word_in_common(question: str) -> None:
    assert texts(question, passage(TITAN), passage(SATURN, document_id="d2")) == []
    assert text_of(()) == NOTHING_FOUND


def test_one_shared_word_of_many_is_not_enough() -> None:
    assert texts("Which known composer wrote nine symphonies in Vienna and Bonn?", passage(SATURN)) == []


def test_headings_and_questions_are_no_answers() -> None:
    assert "Titan" not in texts("Titan", passage(TITAN))
    assert not [text for text in texts("Who was first to see Titan?", passage(TITAN), limit=10) if text.endswith("?")]


def test_repetitions_are_dropped() -> None:
    same = [passage(SATURN, document_id=name) for name in ("a", "b")]
    near = passage("Saturn has 146 known moons today.", document_id="c")
    assert texts("How many known moons has Saturn?", *same, near).count("Saturn has 146 known moons.") == 1
    assert "Saturn has 146 known moons today." not in texts("How many known moons has Saturn?", *same, near)


def test_the_limit_holds_and_weak_sentences_do_not_fill_it_up() -> None:
    assert len(texts("Which moons of Saturn did Huygens discover?", passage(TITAN), limit=1)) == 1
    far = passage("Ice is cold.", document_id="z")
    assert "Ice is cold." not in texts("How many known moons has Saturn?", passage(SATURN), far, limit=10)


def test_of_a_table_a_row_is_quoted_and_its_boxes_are_the_rows() -> None:
    [sentence, *_] = choose("What is the radius of Titan?", [passage(TABLE, kind="table")], (), (), limit=1)
    assert sentence.text == "Titan 1655 2575"
    assert isinstance(sentence.citation, PageCitation)
    assert sentence.citation.boxes == ((50.0, 14.0, 50.0 + 30 * 2 + 28, 25.0),)
    # The same words as prose are one sentence.
    assert texts("What is the radius of Titan?", passage(TABLE)) == [TABLE]


def test_running_text_has_no_line_breaks() -> None:
    sentences = choose("Which astronomer discovered it?", [passage(TITAN)], (), (), limit=1)
    assert text_of(sentences) == "It was discovered in 1655 by the astronomer Christiaan Huygens."
    rows = choose("What is the radius of Titan?", [passage(TITAN)], [moon("Titan")], [linked("Titan")], limit=2)
    assert text_of(rows) == (
        "moons · Titan: radius_km 2574.7, planet Saturn, discoveredBy Huygens. Its radius is 2,574.7 km."
    )


words = st.sampled_from(["Titan", "Saturn", "moon", "landed", "2005", "the", "of", "probe.", "ice!", "radius?", "\n\n"])


@given(st.lists(words, max_size=12), st.lists(st.lists(words, max_size=40), max_size=4), st.integers(1, 4))
def test_whatever_is_chosen_is_a_quotation(question: list[str], bodies: list[list[str]], limit: int) -> None:
    passages = [passage(" ".join(body), document_id=str(number)) for number, body in enumerate(bodies)]
    chosen = choose(" ".join(question), passages, (), (), limit=limit)
    assert len(chosen) <= limit
    for sentence in chosen:
        assert isinstance(sentence.citation, PageCitation)
        source = passages[int(sentence.citation.document_id)]
        assert sentence.text == source.text[sentence.citation.start - 100 : sentence.citation.end - 100]
        assert sentence.text.strip()


# --- rows ---


def test_a_row_comes_first_where_its_column_is_asked_for() -> None:
    [row, *quoted] = choose(
        "What is the radius of Titan?", [passage(TITAN)], [moon("Titan")], [linked("Titan")], limit=3
    )
    assert row.text == "moons · Titan: radius_km 2574.7, planet Saturn, discoveredBy Huygens"
    assert row.citation == RowCitation("planets", "moons", {"id": 6})
    assert quoted[0].text == "Its radius is 2,574.7 km."


def test_the_columns_asked_for_are_told_first() -> None:
    [row, *_] = choose("Who discovered Titan?", (), [moon("Titan")], [linked("Titan")], limit=3)
    assert row.text == "moons · Titan: discoveredBy Huygens, radius_km 2574.7, planet Saturn"


def test_a_row_that_was_not_asked_for_comes_last() -> None:
    chosen = choose("When did a probe land on Titan?", [passage(TITAN)], [moon("Titan")], [linked("Titan")], limit=10)
    assert chosen[0].text.startswith("On 14 January 2005")
    assert isinstance(chosen[-1].citation, RowCitation)


def test_what_the_row_was_found_by_is_not_asked_for() -> None:
    rows = [moon("Rhea"), moon("Titan")]
    by_planet = choose("Which planet Saturn?", [passage(SATURN)], rows, [linked("Saturn", "planet")], limit=5)
    assert isinstance(by_planet[0].citation, PageCitation)


def test_rows_that_a_name_names_come_before_those_that_refer_to_it() -> None:
    both = LinkedEntity("Titan", "VALUE", 0, 5, linked("Titan").links)
    rows = [
        Row("planets", "landings", {"id": 1}, {"craft": "Huygens", "radius": 1, "moon": "Titan"}, ""),
        moon("Titan"),
    ]
    refers = LinkedEntity("Titan", "VALUE", 0, 5, (Link("value", None, "planets", "landings", "moon", "Titan"),))
    told = choose("radius of Titan", (), rows, [refers, both], limit=5)
    assert [sentence.text.split(":")[0] for sentence in told] == ["moons · Titan", "landings · Huygens"]


def test_what_a_foreign_key_led_to_answers_only_where_its_table_is_named() -> None:
    titan = Row("planets", "moons", {"id": 6}, {"id": 6, "name": "Titan", "planet_id": 6, "radius_km": 2574.7}, "")
    saturn = Row(
        "planets", "planets", {"id": 6}, {"name": "Saturn", "mean_radius_km": 58232.0}, "", via="moons.planet_id"
    )
    asked = [
        told.text for told in choose("What is the radius of Titan?", (), [saturn, titan], [linked("Titan")], limit=5)
    ]
    assert asked[0].startswith("moons · Titan: radius_km 2574.7")
    assert asked[1].startswith("planets · Saturn")
    # The number of a planet is nothing that anybody asks for.
    [planet, beside] = choose("Which planet does Titan orbit?", (), [saturn, titan], [linked("Titan")], limit=5)
    assert planet.text == "planets · Saturn: mean_radius_km 58232.0"
    assert "planet_id" not in beside.text


def test_a_result_of_a_lookup_comes_first_and_is_told_whole() -> None:
    total = Row(
        "shop", "customer_total", {"name": "Titan", "row": 1}, {"total": decimal.Decimal("39.62"), "n": 7}, "", "lookup"
    )
    written = Row("shop", "", {"row": 1}, {"count": 3}, "SELECT 1", "model")
    [first, second, third] = choose("radius of Titan", (), [moon("Titan"), total, written], [linked("Titan")], limit=5)
    assert first.text == "customer_total · Titan: total 39.62, n 7"
    assert first.citation == RowCitation("shop", "customer_total", total.key, "lookup")
    assert second.text == "shop: count 3"
    assert third.text.startswith("moons · Titan")


def test_many_rows_leave_room_for_a_quotation() -> None:
    rows = [moon(f"Moon {number}") for number in range(9)]
    chosen = choose("What is the radius of Titan?", [passage(TITAN)], rows, [], limit=3)
    assert [isinstance(sentence.citation, RowCitation) for sentence in chosen] == [True, True, False]


def test_values_are_told_readably() -> None:
    row = Row(
        "shop",
        "tracks",
        {"id": 1},
        {
            "id": 1,
            "TrackName": "Io\nand others",
            "price": decimal.Decimal("0.99"),
            "sold": datetime.date(2009, 1, 2),
            "live": True,
            "cover": b"\x00",
            "note": None,
            "lyrics": "la " * 100,
        },
        "",
    )
    [told] = choose("Io", (), [row], (), limit=3)
    assert told.text.startswith("tracks · Io and others: price 0.99, sold 2009-01-02, live yes, lyrics la la")
    assert told.text.endswith("…")
    assert len(told.text) < 160


def test_a_row_without_any_text_is_called_by_its_key() -> None:
    [told] = choose("?", (), [Row("shop", "counts", {"id": 3}, {"id": 3, "total": 8}, "")], (), limit=3)
    assert told.text == "counts · 3: total 8"


# --- encoding ---


def answer(*passages: Passage, rows: tuple[Row, ...] = ()) -> Answer:
    sentences = choose("What is the radius of Titan?", passages, rows, [linked("Titan")], limit=2)
    return Answer(
        request_id="r1",
        question="What is the radius of Titan?",
        text=text_of(sentences),
        mode="extractive",
        sentences=sentences,
        passages=passages,
        rows=rows,
        entities=(linked("Titan"),),
        branches=(Branch("retrieval", "timeout", 0.0, 20.0, error="deadline_exceeded: late"),),
        partial=True,
        degraded=("retrieval: late",),
        elapsed_ms=1.23456,
    )


def test_an_answer_has_the_documented_form() -> None:
    one = passage(TITAN)
    decoded = orjson.loads(encode_answer(answer(one, rows=(moon("Titan"),))))
    assert list(decoded) == [
        *("request_id", "question", "answer", "passages", "rows", "entities", "branches"),
        *("partial", "degraded", "elapsed_ms", "encoder"),
    ]
    assert list(decoded["answer"]) == ["text", "mode", "sentences"]
    row, quotation = decoded["answer"]["sentences"]
    assert row["citation"] == {"source": "planets", "table": "moons", "key": {"id": 6}, "kind": "table"}
    assert list(quotation["citation"]) == ["document_id", "title", "page", "boxes", "start", "end"]
    [shown] = decoded["passages"]
    assert list(shown) == [
        *("document_id", "title", "collection", "page", "boxes", "start", "end", "text", "score", "scores")
    ]
    assert shown["boxes"] == [list(box) for box in one.boxes]
    assert list(decoded["rows"][0]) == ["source", "table", "key", "columns", "sql", "kind", "via"]
    assert list(decoded["entities"][0]) == ["text", "label", "start", "end", "links"]
    assert decoded["branches"][0]["status"] == "timeout"
    assert decoded["partial"] is True
    assert decoded["elapsed_ms"] == 1.235


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (decimal.Decimal("0.99"), 0.99),
        (decimal.Decimal("12345678901234567890.12"), "12345678901234567890.12"),
        (decimal.Decimal("NaN"), "NaN"),
        (datetime.date(2005, 1, 14), "2005-01-14"),
        (datetime.datetime(2005, 1, 14, 12, 30, tzinfo=datetime.UTC), "2005-01-14T12:30:00+00:00"),
        (datetime.timedelta(days=1), "1 day, 0:00:00"),
        (b"\x00\xff", {"base64": "AP8="}),
        (None, None),
        (float("inf"), None),
    ],
)
def test_values_of_rows_have_a_json_form(value: Any, shown: Any) -> None:
    decoded = orjson.loads(encode_answer(answer(rows=(moon("Titan", value=value),))))
    assert decoded["rows"][0]["columns"]["value"] == shown


def test_passages_are_encoded_alone() -> None:
    one = passage(SATURN)
    decoded = orjson.loads(encode_found(Found((one,), "fast")))
    assert decoded["passages"][0]["text"] == SATURN
    assert "words" not in decoded["passages"][0]
    assert decoded["encoder"] == "fast"
    degraded = Found(degraded="Passages were found by their words alone.")
    assert orjson.loads(encode_found(degraded)) == {
        "passages": [],
        "encoder": None,
        "degraded": ["Passages were found by their words alone."],
        "partial": False,
    }
