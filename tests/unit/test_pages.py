"""Reading, judging and rendering pages of PDFs that are made here."""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from actors.errors import (
    DocumentTooLarge,
    EmptyFile,
    EncryptedPdf,
    NotAPdf,
    ReadingFailed,
    TruncatedPdf,
    UnknownPage,
)
from actors.messages import Page
from actors.reading import pages, textlayer
from actors.reading.text import assemble, clean
from actors.reading.triage import Why

AES_256 = 5  # PyMuPDF sets its own name for it in a way that type checkers do not see
TEXT = "Titan is the largest moon of Saturn.\nHuygens found it in 1655."


def make(path: Path, draw: Callable[[pymupdf.Page], object], *, count: int = 1) -> str:
    with pymupdf.open() as document:
        for _ in range(count):
            draw(document.new_page(width=400, height=300))
        document.save(path)
    return str(path)


def write(page: pymupdf.Page) -> None:
    page.insert_text((50, 80), TEXT, fontsize=12)
    page.insert_text((50, 200), "A second block.", fontsize=12)


def picture(page: pymupdf.Page, bleed: float = 0.0) -> None:
    pixels = np.random.default_rng(7).integers(0, 255, (30, 40), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    x0, y0, x1, y1 = page.rect
    where = pymupdf.Rect(x0 - bleed, y0 - bleed, x1 + bleed, y1 + bleed)
    page.insert_image(where, stream=out.getvalue(), keep_proportion=False)


def first(path: str) -> tuple[Page, Why | None]:
    with pages.opened(path) as document:
        return pages.read(document, 1)


def ink(path: str, dpi: int) -> npt.NDArray[np.bool_]:
    """Which pixels of the first page are not paper, shape (height, width)."""
    with pages.opened(path) as document:
        pixels, _ = pages.rasterise(document[0], dpi, 10_000_000, grey=True)
    return pixels < 200


# --- text and words -------------------------------------------------------------------------------------------------


def test_text_has_lines_and_blocks(tmp_path: Path) -> None:
    page, why = first(make(tmp_path / "a.pdf", write))
    assert page.text == f"{TEXT}\n\nA second block."
    assert why is None
    assert (page.number, page.width, page.height, page.error) == (1, 400, 300, None)


@pytest.mark.parametrize("again", [0.3, 0.0])
def test_what_is_printed_twice_is_read_once(tmp_path: Path, again: float) -> None:
    """Bold by printing each line again, a little to the right; and a page that is drawn twice over."""

    def draw(page: pymupdf.Page) -> None:
        lines = [(50 + 20 * row, text) for row, text in enumerate(TEXT.split("\n"))]
        twice = [line for line in lines for _ in range(2)] if again else [*lines, *lines]
        for number, (top, text) in enumerate(twice):
            page.insert_text((40 + again * (number % 2), top), text)

    page, why = first(make(tmp_path / "a.pdf", draw))
    assert " ".join(page.text.split()) == " ".join(TEXT.split())
    assert why is None


def test_a_single_line_that_is_printed_twice_is_read_once(tmp_path: Path) -> None:
    def draw(page: pymupdf.Page) -> None:
        for left in (40, 40.3):
            page.insert_text((left, 50), "Titan is the largest moon.")

    page, _ = first(make(tmp_path / "a.pdf", draw))
    assert page.text == "Titan is the largest moon."


odd = st.sampled_from(["\u200b", "\ufeff\u200b", "Titan", "caf\u00e9", "\ufb01rst", "so\u00adft"])


@given(st.lists(st.lists(odd, min_size=1, max_size=4), min_size=1, max_size=6))
def test_words_without_a_character_to_be_seen_leave_the_others_where_they_are(lines: list[list[str]]) -> None:
    texts = tuple(text for line in lines for text in line)
    boxes = [
        (40.0 * x, 20.0 * y, 40.0 * x + 30, 20.0 * y + 12) for y, line in enumerate(lines) for x in range(len(line))
    ]
    layer = textlayer.Layer(
        texts,
        np.array(boxes, dtype=np.float32).T.tobytes(),
        [sum(map(len, lines[:index])) for index in range(len(lines))],
        [0] * len(lines),
        textlayer.FLAGS,
    )
    with pymupdf.open() as document:
        text, words = textlayer.compose(document.new_page(), layer)
    seen = [[clean(text) for text in line if clean(text)] for line in lines]
    assert text == "\n".join(" ".join(line) for line in seen if line)
    left = [box[0] for box, text in zip(boxes, texts, strict=True) if clean(text)]
    assert words.array["x0"].tolist() == left


def test_spans_are_the_words(tmp_path: Path) -> None:
    page, _ = first(make(tmp_path / "a.pdf", write))
    words = page.words.array
    assert [page.text[s:e] for s, e in zip(words["start"], words["end"], strict=True)] == page.text.split()


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("cropped", [False, True])
def test_boxes_hold_the_ink_of_the_page_as_displayed(tmp_path: Path, rotation: int, cropped: bool) -> None:
    def draw(page: pymupdf.Page) -> None:
        write(page)
        if cropped:
            page.set_cropbox(pymupdf.Rect(40, 50, 380, 280))
        page.set_rotation(rotation)

    path = make(tmp_path / "a.pdf", draw)
    page, _ = first(path)
    dark = ink(path, 72)
    height, width = dark.shape
    assert (width, height) == (page.width, page.height)
    covered = np.zeros_like(dark)
    for word in page.words.array:
        box = (slice(int(word["y0"]), int(word["y1"]) + 1), slice(int(word["x0"]), int(word["x1"]) + 1))
        assert dark[box].any()
        covered[box] = True
    assert not (dark & ~covered).any()


def test_a_font_without_height_has_boxes_with_one(tmp_path: Path) -> None:
    plain, _ = first(make(tmp_path / "a.pdf", write))
    path = make(tmp_path / "b.pdf", write)
    with pymupdf.open(path) as document:
        (font,) = document[0].get_fonts()
        flat = "<</Type/FontDescriptor/FontName/Flat/Flags 32/Ascent 20/Descent 0/FontBBox[0 0 900 20]>>"
        descriptor = document.get_new_xref()
        document.update_object(descriptor, flat)
        document.xref_set_key(font[0], "FontDescriptor", f"{descriptor} 0 R")
        document.save(tmp_path / "c.pdf")
    page, _ = first(str(tmp_path / "c.pdf"))
    assert page.text == plain.text
    for word in page.words.array:
        assert word["y1"] - word["y0"] > 9


def test_clean_expands_ligatures_composes_and_drops_the_invisible() -> None:
    assert clean("e\ufb03cient cafe\u0301 so\u00adft\u200b a\u00a0b\x00\ud800") == "efficient café soft a b\ufffd"


words_ = st.lists(
    st.tuples(st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8), st.integers(0, 2)),
    max_size=30,
)


@given(words_)
def test_assembled_spans_are_exact(words: list[tuple[str, int]]) -> None:
    texts = [text for text, _ in words]
    gaps = np.array([gap for _, gap in words[1:]], dtype=np.int64)
    boxes = np.arange(4 * len(words), dtype=np.float32).reshape(4, len(words))
    text, packed = assemble(texts, gaps, boxes)
    assert [text[w["start"] : w["end"]] for w in packed.array] == texts
    assert text.count("\n\n") == sum(step == 2 for _, step in words[1:])
    assert np.array_equal(packed.array["y1"], boxes[3])


# --- judging --------------------------------------------------------------------------------------------------------


def test_a_blank_page_needs_nothing(tmp_path: Path) -> None:
    page, why = first(make(tmp_path / "a.pdf", lambda page: None))
    assert (page.text, len(page.words), why) == ("", 0, None)


def test_a_drawing_without_text_needs_ocr(tmp_path: Path) -> None:
    _, why = first(make(tmp_path / "a.pdf", lambda page: page.draw_line((10, 10), (200, 100))))
    assert why == "absent"


@pytest.mark.parametrize("bleed", [-1.0, 0.0, 0.5, 9.0])
@pytest.mark.parametrize("rotation", [0, 90])
def test_a_scan_under_a_stamp_is_hidden(tmp_path: Path, rotation: int, bleed: float) -> None:
    def draw(page: pymupdf.Page) -> None:
        picture(page, bleed)
        page.insert_text((20, 20), "Downloaded today")
        page.set_rotation(rotation)

    page, why = first(make(tmp_path / "a.pdf", draw))
    assert (page.text, why) == ("Downloaded today", "hidden")


def lines_of_text(page: pymupdf.Page, where: pymupdf.Rect) -> None:
    """A picture of print, of which the page's text has nothing."""
    with pymupdf.open() as source:
        print_ = source.new_page(width=where.width, height=where.height)
        for y in range(15, int(where.height), 14):
            print_.insert_text((8, y), "Rhea and Dione were found by Cassini.", fontsize=10)
        page.insert_image(where, pixmap=print_.get_pixmap(dpi=150))


@pytest.mark.parametrize("rotation", [0, 270])
def test_a_picture_of_text_beside_text_is_mixed(tmp_path: Path, rotation: int) -> None:
    def draw(page: pymupdf.Page) -> None:
        page.insert_text((50, 20), "Beside a picture.", fontsize=12)
        lines_of_text(page, pymupdf.Rect(50, 40, 250, 280))
        page.set_rotation(rotation)

    page, why = first(make(tmp_path / "a.pdf", draw))
    assert (page.text, why) == ("Beside a picture.", "mixed")


def test_a_photograph_beside_text_is_left_alone(tmp_path: Path) -> None:
    def draw(page: pymupdf.Page) -> None:
        page.insert_text((50, 20), "Beside a picture.", fontsize=12)
        rows = np.add.outer(np.arange(240), np.arange(200)) % 256
        out = io.BytesIO()
        Image.fromarray(rows.astype(np.uint8)).save(out, format="PNG")
        page.insert_image(pymupdf.Rect(50, 40, 250, 280), stream=out.getvalue())

    assert first(make(tmp_path / "a.pdf", draw))[1] is None


def test_a_destroyed_page_does_not_take_the_others_along(tmp_path: Path) -> None:
    path = make(tmp_path / "a.pdf", write, count=3)
    with pymupdf.open(path) as document:
        document.update_object(document.page_xref(1), "<< /Type /Page /Parent 99999 0 R >>")
        document.save(tmp_path / "b.pdf")
    with pages.opened(str(tmp_path / "b.pdf")) as document:
        read = [pages.read(document, number)[0] for number in (1, 2, 3)]
    assert [page.text.count("Titan") for page in read] == [1, 0, 1]


@pytest.mark.parametrize("part", ["extract", "compose"])
def test_a_page_that_mupdf_refuses_has_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("code=7: cycle in page tree\nmore")

    monkeypatch.setattr(textlayer, part, refuse)
    page, why = first(make(tmp_path / "a.pdf", write))
    assert (page.error, page.text, why) == ("The page is damaged: code=7: cycle in page tree", "", None)


def test_an_endless_page_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_PAGE_CHARS", 10)
    page, why = first(make(tmp_path / "a.pdf", write))
    assert (page.error, page.text, why) == ("The page has more than 10 characters.", "", None)


def stamped(page: pymupdf.Page) -> None:
    picture(page)
    page.insert_text((20, 20), "Downloaded today")


def broken(page: pymupdf.Page) -> None:
    page.insert_text((50, 80), TEXT)
    page.parent.update_stream(page.get_contents()[0], b"/X Do")


def bold(page: pymupdf.Page) -> None:
    for again in (0.0, 0.3):
        page.insert_text((40 + again, 40), TEXT)


def columns(page: pymupdf.Page) -> None:
    for row in range(12):
        for left in (210, 30):
            page.insert_text(
                (left, 30 + 20 * row), f"{row} of the largest mo-" if row % 2 else "ons of Saturn are here"
            )


def accented(page: pymupdf.Page) -> None:
    page.insert_text((40, 40), "caf\u00e9 na\u00efve \u00a0 \u00fcber")


def turned(page: pymupdf.Page) -> None:
    write(page)
    page.set_rotation(90)


KINDS: dict[str, Callable[[pymupdf.Page], object]] = {
    "text": write,
    "blank": lambda page: None,
    "drawing": lambda page: page.draw_line((10, 10), (200, 100)),
    "stamped": stamped,
    "broken": broken,
    "bold": bold,
    "columns": columns,
    "accented": accented,
    "turned": turned,
}


@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=6), st.sampled_from([1, 20, 10_000]))
@settings(max_examples=40, deadline=None)
def test_pages_read_together_are_those_read_one_by_one(kinds: list[str], ahead: int) -> None:
    entered: list[int] = []

    @contextmanager
    def clock(number: int) -> Iterator[None]:
        entered.append(number)
        yield
        entered.append(-number)

    with pymupdf.open() as made:
        for kind in kinds:
            KINDS[kind](made.new_page(width=400, height=300))
        content = made.tobytes()
    with tempfile.NamedTemporaryFile(suffix=".pdf") as file, pytest.MonkeyPatch.context() as patched:
        file.write(content)
        file.flush()
        patched.setattr(pages, "WORDS_AHEAD", ahead)
        numbers = [*range(1, len(kinds) + 1), 1]
        with pages.opened(file.name) as document:
            single = [pages.read(document, number) for number in numbers]
            together = list(pages.read_all(document, numbers, clock))
    assert together == single
    assert entered[::2] == [-number for number in entered[1::2]]
    # Each as it is drafted and as it is finished; what is done for all of them at once is the last one's.
    assert all(count >= 2 * numbers.count(number) for number, count in Counter(entered[::2]).items())
    assert set(entered[::2]) == set(numbers)
    wrong = [page.error is not None for page, _ in together[:-1]]
    assert wrong == [kind == "broken" for kind in kinds]


def test_there_is_no_page_zero(tmp_path: Path) -> None:
    with pages.opened(make(tmp_path / "a.pdf", write)) as document:
        for number in (0, 2):
            with pytest.raises(UnknownPage, match=f"no page {number}"):
                pages.read(document, number)
            with pytest.raises(UnknownPage, match=f"no page {number}"):
                list(pages.read_all(document, [1, number]))


# --- inspecting -----------------------------------------------------------------------------------------------------


def test_inspect_tells_pages_and_metadata(tmp_path: Path) -> None:
    with pymupdf.open() as document:
        document.new_page()
        document.new_page()
        document.set_metadata({"title": "  The\nMoons ", "author": "C. Huygens", "creationDate": "D:20240102"})
        document.save(tmp_path / "a.pdf")
    info = pages.inspect(str(tmp_path / "a.pdf"), 10)
    assert (info.pages, info.title) == (2, "The Moons")
    assert info.metadata == {"author": "C. Huygens", "created": "D:20240102"}


def test_inspect_refuses_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").touch()
    with pytest.raises(EmptyFile):
        pages.inspect(str(tmp_path / "a.pdf"), 10)


def test_inspect_refuses_what_is_no_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"<html>" + b" " * 2000 + b"%PDF-1.7")
    with pytest.raises(NotAPdf):
        pages.inspect(str(tmp_path / "a.pdf"), 10)


def test_inspect_takes_junk_before_the_header(tmp_path: Path) -> None:
    path = Path(make(tmp_path / "a.pdf", write))
    path.write_bytes(b"\n" * 100 + path.read_bytes())
    assert pages.inspect(str(path), 10).pages == 1


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_inspect_refuses_a_truncated_file(tmp_path: Path, part: float) -> None:
    path = Path(make(tmp_path / "a.pdf", write, count=5))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(TruncatedPdf):
        pages.inspect(str(path), 10)


def test_inspect_repairs_what_is_complete(tmp_path: Path) -> None:
    path = Path(make(tmp_path / "a.pdf", write))
    path.write_bytes(path.read_bytes().replace(b"xref", b"xxxx", 1))
    assert pages.inspect(str(path), 10).pages == 1


def test_inspect_refuses_an_encrypted_file(tmp_path: Path) -> None:
    with pymupdf.open() as document:
        write(document.new_page())
        for name, user in (("locked", "secret"), ("owned", "")):
            document.save(tmp_path / f"{name}.pdf", encryption=AES_256, owner_pw="owner", user_pw=user)
    with pytest.raises(EncryptedPdf):
        pages.inspect(str(tmp_path / "locked.pdf"), 10)
    # Only an owner password: everybody may read it.
    assert pages.inspect(str(tmp_path / "owned.pdf"), 10).pages == 1


def test_inspect_refuses_a_broken_page_tree(tmp_path: Path) -> None:
    path = Path(make(tmp_path / "a.pdf", write))
    content = path.read_bytes()
    assert content.count(b"/Count 1") == 1
    path.write_bytes(content.replace(b"/Count 1", b"/Count 2147483647"))
    with pytest.raises(ReadingFailed, match="beyond repair"):
        pages.inspect(str(path), 10)


def test_inspect_refuses_too_many_pages(tmp_path: Path) -> None:
    with pytest.raises(DocumentTooLarge, match=r"3 pages; the limit is 2"):
        pages.inspect(make(tmp_path / "a.pdf", write, count=3), 2)


# --- rendering ------------------------------------------------------------------------------------------------------


def test_render_highlights_the_box_and_nothing_else(tmp_path: Path) -> None:
    path = make(tmp_path / "a.pdf", write)
    page, _ = first(path)
    (box,) = page.words.boxes(0, 5)
    png = pages.render(path, 1, [box], 144, 10_000_000)
    plain = np.asarray(Image.open(io.BytesIO(pages.render(path, 1, [], 144, 10_000_000))))
    marked = np.asarray(Image.open(io.BytesIO(png)))
    assert marked.shape == (600, 800, 3)
    changed = np.argwhere((plain != marked).any(axis=2))
    top, left = changed.min(axis=0) / 2
    bottom, right = changed.max(axis=0) / 2
    assert (left, top, right, bottom) == pytest.approx(box, abs=1.6)
    assert tuple(marked[int(box[1] * 2) + 1, int(box[0] * 2) - 1]) == pages.HIGHLIGHT
    # The print under the pen stays dark.
    assert marked[int(box[1] * 2) : int(box[3] * 2), int(box[0] * 2) : int(box[2] * 2)].max(axis=2).min() < 80


def test_render_takes_boxes_beyond_the_page(tmp_path: Path) -> None:
    path = make(tmp_path / "a.pdf", write)
    png = pages.render(path, 1, [(-50, -50, 20, 20), (380, 280, 900, 900), (500, 500, 600, 600)], 72, 10_000_000)
    assert Image.open(io.BytesIO(png)).size == (400, 300)


def test_render_lowers_the_resolution_of_a_poster(tmp_path: Path) -> None:
    png = pages.render(make(tmp_path / "a.pdf", write), 1, [], 600, 1_000_000)
    width, height = Image.open(io.BytesIO(png)).size
    assert 900_000 < width * height <= 1_010_000


def test_render_shows_colours_as_profiles_have_them(tmp_path: Path) -> None:
    cyan = (1.0, 0.0, 0.0, 0.0)
    path = make(tmp_path / "a.pdf", lambda page: page.draw_rect(page.rect, color=cyan, fill=cyan))
    first(path)  # for which profiles are set aside
    red, green, blue = np.asarray(Image.open(io.BytesIO(pages.render(path, 1, [], 72, 1_000_000))))[150, 200]
    # Ink on paper, and not the light that a screen could show.
    assert red < 60
    assert 130 < green < 210
    assert 200 < blue < 250


def test_render_knows_its_pages(tmp_path: Path) -> None:
    with pytest.raises(UnknownPage):
        pages.render(make(tmp_path / "a.pdf", write), 2, [], 72, 1_000_000)


def test_rasterise_refuses_what_no_resolution_makes_small(tmp_path: Path) -> None:
    with pages.opened(make(tmp_path / "a.pdf", write)) as document, pytest.raises(ReadingFailed, match="too large"):
        pages.rasterise(document[0], 72, 10, grey=True)


@given(st.floats(1, 20_000), st.floats(1, 20_000), st.integers(1, 1200), st.integers(1_000_000, 100_000_000))
def test_fitted_resolution_keeps_the_bound(width: float, height: float, dpi: int, most: int) -> None:
    fitted = pages.fit_dpi(width, height, dpi, most)
    assert 1 <= fitted <= dpi
    assert fitted == 1 or width * height * (fitted / 72) ** 2 <= most
    assert fitted == dpi or width * height * ((fitted + 1) / 72) ** 2 > most
