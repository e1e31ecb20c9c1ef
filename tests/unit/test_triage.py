"""Which pages must be recognised optically, and what of them."""

from __future__ import annotations

import io
import string

import numpy as np
import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from actors.messages import Page, Words
from actors.reading import triage
from actors.reading.triage import Picture

PROSE = {
    "English": "The engineers had measured the river for thirty years before anybody asked them what the water meant "
    "to those who lived beside it, and by then the answer had been lost with the men who drew the old maps. ",
    "German": "Die Ingenieure hatten den Fluss schon seit vielen Jahren vermessen, bevor jemand fragte, was das "
    "Wasser den Menschen bedeutete, die an seinen Ufern lebten und dort auch sterben wollten. ",
    "French": "Les habitants de la vallée avaient toujours connu cette rivière, mais personne ne leur demandait jamais "
    "ce que les eaux leur avaient donné pendant toutes ces longues années de silence. ",
    "Spanish": "Los habitantes del valle siempre conocieron aquel río, pero nadie les preguntaba nunca lo que el agua "
    "les había dado durante todos esos largos años de silencio y de trabajo. ",
    "Polish": "Mieszkańcy doliny zawsze znali tę rzekę, ale nikt ich nigdy nie pytał, co woda dała im przez wszystkie "
    "te długie lata milczenia i pracy na polach ojców. ",
    "Turkish": "Vadide oturan insanlar bu nehri her zaman severdi ama hiç kimse onlara suyun bunca sene boyunca "
    "neler verdiğini sormadı ve kimse de bir cevap beklemedi. ",  # noqa: RUF001
}


def page_of(text: str) -> Page:
    words, position = [], 0
    for word in text.split():
        position = text.index(word, position)
        words.append((position, position + len(word), 0.0, 0.0, 1.0, 1.0))
    return Page(1, 400, 300, text, Words.of(words))


def never() -> bool:
    raise AssertionError("a text page was looked at twice")


@pytest.mark.parametrize(
    ("text", "covered", "why"),
    [
        ("\ufffd\ufffd\ue001 \ufffd\ufffd ab", 0, "garbage"),
        ("Naïve façade \ufffd", 0, None),
        ("Downloaded by a reader", 0.95, "hidden"),
        ("A title", 0.5, None),
    ],
)
def test_what_is_wrong_with_a_text_layer(text: str, covered: float, why: str | None) -> None:
    assert triage.judge(page_of(text), never, lambda: covered) == why


@pytest.mark.parametrize(("marked", "why"), [(False, None), (True, "absent")])
def test_a_page_without_text_is_blank_or_drawn(marked: bool, why: str | None) -> None:
    assert triage.judge(page_of(""), lambda: marked, never) == why


def test_text_pages_are_not_looked_at_twice() -> None:
    assert triage.judge(page_of("word " * triage.STAMP_WORDS), never, never) is None
    assert triage.judge(page_of(PROSE["English"] * 3), never, never) is None


@pytest.mark.parametrize("language", PROSE)
def test_languages_are_plausible(language: str) -> None:
    assert triage.plausible(PROSE[language] * 3)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT name, mass FROM moons WHERE planet = 'Saturn' ORDER BY mass DESC; " * 8,
        "INTERNATIONAL STANDARD FOR THE EXCHANGE OF ACCOUNTING RECORDS BETWEEN BANKS " * 6,
        "ACGT TGCA GATTACA " * 5,  # too little to tell
        "Жители долины всегда знали эту реку, но никто их ни о чем не спрашивал. " * 6,  # noqa: RUF001
        "土星最大的卫星是土卫六。惠更斯于一六五五年发现了它。" * 20,
        "3.14 2.71 1,024 17.5 % " * 60,
    ],
)
def test_what_is_no_prose_is_let_pass(text: str) -> None:
    assert triage.plausible(text)


@given(st.permutations(string.ascii_lowercase))
def test_letters_exchanged_at_random_are_garbage(order: list[str]) -> None:
    moved = sum(a != b for a, b in zip(order, string.ascii_lowercase, strict=True))
    table = str.maketrans(dict(zip(string.ascii_lowercase, order, strict=True)))
    text = (PROSE["English"] * 3).lower().translate(table)
    assert moved < 20 or not triage.plausible(text)


def test_a_font_whose_codes_are_shifted_is_garbage() -> None:
    shifted = "".join(chr(ord(char) + 1) if char.isalpha() else char for char in PROSE["English"] * 3)
    assert triage.judge(page_of(shifted), never, never) == "garbage"


def shifted(text: str) -> str:
    return "".join(chr(ord(char) + 1) if char.isascii() and char.isalpha() else char for char in text)


@pytest.mark.parametrize("language", PROSE)
def test_a_page_of_which_a_part_is_garbage_is_not_believed(language: str) -> None:
    prose = PROSE[language] * 20
    middle = len(prose) * 3 // 5
    assert triage.judge(page_of(prose), never, never) is None
    assert triage.judge(page_of(prose[:middle] + shifted(prose[middle:])), never, never) == "garbage"


def test_over_all_of_a_page_its_garbage_does_not_show() -> None:
    prose = PROSE["English"] * 20
    middle = len(prose) * 3 // 5
    share = triage.familiarity(prose[:middle] + shifted(prose[middle:]))
    assert share is not None
    assert share > triage.PLAUSIBLE


def test_a_passage_that_is_no_language_costs_no_recognition() -> None:
    prose = PROSE["English"] * 20
    part = len(prose) // 5
    assert triage.plausible(prose[:-part] + shifted(prose[-part:]))


@given(st.lists(st.sampled_from([*PROSE.values(), shifted(PROSE["English"])]), max_size=30))
def test_a_page_is_garbage_by_the_share_of_its_garbled_passages(parts: list[str]) -> None:
    text = "".join(parts)
    garbled = sum(len(part) for part in parts if part == shifted(PROSE["English"])) / max(1, len(text))
    if garbled > 0.6:
        assert len(text) < 500 or not triage.plausible(text)
    if not garbled:
        assert triage.plausible(text)


# --- pictures -------------------------------------------------------------------------------------------------------


def sheet(*boxes: tuple[float, float, float, float]) -> Page:
    """An A4 page with a word in each box."""
    return Page(1, 595, 842, "word" * len(boxes), Words.of([(4 * i, 4 * i + 4, *box) for i, box in enumerate(boxes)]))


LARGE = Picture((100, 100, 400, 300), 600, 400)


def test_a_picture_without_words_over_it_is_silent() -> None:
    assert triage.silent(sheet((50, 50, 90, 60)), [LARGE]) == (LARGE,)
    assert triage.silent(sheet((150, 150, 190, 160)), [LARGE]) == ()


@pytest.mark.parametrize(
    "picture",
    [
        Picture((100, 100, 400, 150), 1200, 200),  # too low
        Picture((100, 100, 200, 200), 400, 400),  # too small a part of the page
        Picture((100, 100, 400, 300), 200, 133),  # too coarse
    ],
)
def test_what_cannot_be_read_is_not_tried(picture: Picture) -> None:
    assert triage.silent(sheet(), [picture]) == ()


def test_of_two_that_overlap_the_larger_is_taken() -> None:
    inner = Picture((120, 120, 300, 280), 600, 600)
    apart = Picture((100, 400, 400, 600), 900, 600)
    assert triage.silent(sheet(), [inner, LARGE, apart]) == (LARGE, apart)


def test_resolution_counts_a_picture_on_its_side() -> None:
    assert LARGE.dpi == pytest.approx(144)
    assert Picture((0, 0, 200, 300), 600, 400).dpi == pytest.approx(144)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_pictures_are_where_they_are_displayed(rotation: int) -> None:
    with pymupdf.open() as document:
        page = document.new_page(width=400, height=300)
        out = io.BytesIO()
        Image.fromarray(np.zeros((120, 240), dtype=np.uint8)).save(out, format="PNG")
        page.insert_image(pymupdf.Rect(10, 20, 130, 80), stream=out.getvalue())
        page.set_rotation(rotation)
        assert triage.may_hold_text(page)
        (picture,) = triage.pictures(page)
    where = {0: (10, 20, 130, 80), 90: (220, 10, 280, 130), 180: (270, 220, 390, 280), 270: (20, 270, 80, 390)}
    assert picture.box == pytest.approx(where[rotation], abs=0.01)
    assert (picture.width, picture.height, round(picture.dpi)) == (240, 120, 144)


@pytest.mark.parametrize(("width", "height", "large"), [(200, 100, True), (100, 200, True), (199, 199, False)])
def test_images_inside_forms_are_found(width: int, height: int, large: bool) -> None:
    out = io.BytesIO()
    Image.fromarray(np.zeros((height, width), dtype=np.uint8)).save(out, format="PNG")
    with pymupdf.open() as source, pymupdf.open() as document:
        source.new_page().insert_image(pymupdf.Rect(0, 0, 50, 50), stream=out.getvalue())
        page = document.new_page()
        page.show_pdf_page(page.rect, source, 0)
        assert triage.may_hold_text(page) is large


def test_a_form_that_holds_itself_is_looked_into_once() -> None:
    with pymupdf.open() as document:
        page = document.new_page()
        form = document.get_new_xref()
        document.update_object(form, f"<</Type/XObject/Subtype/Form/Resources<</XObject<</A {form} 0 R>>>>>>")
        document.update_stream(form, b"/A Do")
        document.xref_set_key(page.xref, "Resources", f"<</XObject<</A {form} 0 R>>>>")
        assert not triage.may_hold_text(page)
