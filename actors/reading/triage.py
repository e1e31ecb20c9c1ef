"""Decides for each page whether its own text will do, and what of it must be recognised optically instead.

A wrong yes costs a thousand times the time of reading and trades exact text for a guess; a wrong no loses the page. So
text that reads like language is believed whatever lies around it, and text pages pay for the question with one pass
over their characters: a page's images are looked at only if it has little text or an image large enough to hold some.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from actors.messages import Box, Page
from actors.reading.mupdf import pymupdf

mupdf = pymupdf.mupdf

Why = Literal["absent", "garbage", "hidden", "mixed"]
"""What is wrong with a text layer; see `judge`."""

UNREADABLE_SHARE: Final = 0.3
STAMP_WORDS: Final = 25
COVERING_SHARE: Final = 0.8
MIN_PAIRS: Final = 200  # of letters; less is a table, a form or a list of names
PLAUSIBLE: Final = 0.55
"""Least share of common pairs among neighbouring letters. Measured on 226 pages of real PDFs in English and German,
tables and source code among them: at least 0.71, half of them above 0.84. The same pages with their letters exchanged
at random: at most 0.46; with each letter replaced by its neighbour: at most 0.30."""
ASCII_SHARE: Final = 0.7  # of letters; in other scripts the pairs say nothing

MIN_SIDE: Final = 72.0  # points; a picture that is smaller holds no paragraph
MIN_AREA: Final = 0.04  # of the page
MIN_GRID: Final = (200, 100)  # pixels of the longer and the shorter side
MIN_PICTURE_DPI: Final = 70  # small letters are then 5 pixels high

_PLANE: Final = pymupdf.INFINITE_RECT()
_UNREADABLE: Final = re.compile("[\ufffd\x7f-\x9f\ue000-\uf8ff\U000f0000-\U0010ffff]")

# The pairs of letters that are frequent in at least one of English, German, French, Spanish, Italian, Portuguese,
# Dutch, Swedish, Polish, Turkish and Latin; together about a fifth of all that are possible.
_COMMON: Final = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se le sa si ar ve ra ld "
    "ur ch ei ie ge un ic be el la ta ro li ri io ne me no na co om ma ll ss us ec ca ce ho ai em so sc ht ur il di do "
    "da os ad ue qu ui pa pe po pr tr mi mo ni nu ns nc am ee ij oo aa va vi wa we wi za ze zi cz rz sz ie ow ki ko go "
    "ac ct ci ut su sp sh wh fo fr ly ns rs ts tt pl pp op ol ot ow od id im um ul ab ag ap av ev iv bi bl bo br bu "
    "mp gh ay ig gi gr ga fe fi lo lu tu ru mu ir is yo ke ck ev ba"
)
_LETTERS: Final = bytes((code | 32) - 96 if chr(code).isascii() and chr(code).isalpha() else 0 for code in range(256))
"""Latin-1 to the number of a letter, from 1, in either case; 0 for what is none."""
_NO_LETTERS, _RARE, _FREQUENT = range(3)
_PAIRS: Final = np.zeros((32, 32), dtype=np.uint8)
_PAIRS[1:27, 1:27] = _RARE
for _pair in _COMMON.split():
    _PAIRS[tuple(_pair.encode().translate(_LETTERS))] = _FREQUENT
_KINDS: Final = _PAIRS.ravel()


@dataclass(frozen=True, slots=True)
class Picture:
    """An image on a page.

    Attributes:
        box: where it stands, points, as displayed.
        width: of its own grid, pixels.
        height: of its own grid, pixels.
        image: as MuPDF has it.
    """

    box: Box
    width: int
    height: int
    image: Any = field(default=None, compare=False, repr=False)

    @property
    def dpi(self) -> float:
        """Its own resolution where it stands, that of the finer direction."""
        x0, y0, x1, y1 = self.box
        # A picture that stands on its side has its width along the page's height.
        across, down = sorted((max(1.0, x1 - x0), max(1.0, y1 - y0)))
        shorter, longer = sorted((self.width, self.height))
        return 72 * max(shorter / across, longer / down)


def judge(page: Page, marked: Callable[[], bool], covered: Callable[[], float]) -> Why | None:
    """Whether a page must be recognised optically, and why; its pictures are judged by `silent`.

    Args:
        page: with its text layer.
        marked: whether anything is drawn on it beside text; asked only of pages without text.
        covered: part of it that images cover, 0 to 1; asked only of pages with little text.

    Returns:
        `absent`: no text, though something is drawn. `garbage`: glyphs without a known meaning, or with wrong ones, on
        three tenths of it.
        `hidden`: an image covers the page and the few words over it are likely a stamp. None: the text will do, or the
        page is blank.
    """
    if not page.words:
        return "absent" if marked() else None
    allowed = UNREADABLE_SHARE * (len(page.text) - len(page.words) + 1)
    # What UTF-8 takes beyond a byte a character bounds their number, and is known in a twentieth of the time.
    extra = len(page.text.encode("utf-8", "replace")) - len(page.text)
    if extra and extra + page.text.count("\x7f") > allowed and len(_UNREADABLE.findall(page.text)) > allowed:
        return "garbage"
    if not plausible(page.text):
        return "garbage"
    if len(page.words) < STAMP_WORDS and covered() >= COVERING_SHARE:
        return "hidden"
    return None


def plausible(text: str) -> bool:
    """Whether letters follow each other as in a language written in Latin letters; also if there are too few to tell.

    A font with a wrong or shifted encoding gives letters in the right number and at the right place, and only their
    company betrays them. It may be the font of a part of the page alone, so passages are judged one by one, and the
    page by how many of them are garbage; a page half of which is would pass as a whole. Measured on the 142 pages of
    the same PDFs that have so many letters: of their 987 passages none is below 0.69. With 40 % of a page's text
    shifted by a letter 103 of 105 are found, where the share over all of the page finds 2.
    """
    pairs = _pairs(text)
    passages = len(pairs) // MIN_PAIRS
    if not passages:
        return True
    length = len(pairs) // passages
    starts = range(0, passages * length, length)
    garbled = sum(pairs.count(_FREQUENT, start, start + length) < PLAUSIBLE * length for start in starts)
    return garbled < UNREADABLE_SHARE * passages


def familiarity(text: str) -> float | None:
    """Share of neighbouring letters that are a common pair, 0 to 1; None for other scripts and short texts."""
    pairs = _pairs(text)
    return pairs.count(_FREQUENT) / len(pairs) if len(pairs) >= MIN_PAIRS else None


def _pairs(text: str) -> bytes:
    """For each pair of neighbouring letters whether it is `_RARE` or `_FREQUENT`; none for other scripts."""
    letters = np.frombuffer(text.encode("latin-1", "replace").translate(_LETTERS), dtype=np.uint8)
    known = np.count_nonzero(letters)
    if not text.isascii():
        # A bound on the letters of any script; to ask each character takes longer than all the rest.
        longest = len(text) - text.count(" ") - text.count("\n")
        if known < ASCII_SHARE * longest and known < ASCII_SHARE * sum(map(str.isalpha, text)):
            return b""
    # Bytes, because numpy takes three times as long to leave some out and count the others.
    kinds: bytes = _KINDS[letters[:-1].astype(np.int64) << 5 | letters[1:]].tobytes()
    return kinds.translate(None, bytes([_NO_LETTERS]))


def silent(page: Page, pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """The pictures that may hold text of which the page's own has none, in order.

    Args:
        page: with its text layer.
        pictures: on it.

    Returns:
        Those that are large and fine enough to be read, with no word of the page over them; of two that overlap, the
        larger.
    """
    words = page.words.array
    across, down = (words["x0"] + words["x1"]) / 2, (words["y0"] + words["y1"]) / 2
    chosen: list[Picture] = []
    for picture in sorted(pictures, key=lambda each: -_area(each.box)):
        x0, y0, x1, y1 = picture.box
        large = min(x1 - x0, y1 - y0) >= MIN_SIDE and _area(picture.box) >= MIN_AREA * page.width * page.height
        if not large or picture.dpi < MIN_PICTURE_DPI or any(meet(picture, other) for other in chosen):
            continue
        if not ((across >= x0) & (across <= x1) & (down >= y0) & (down <= y1)).any():
            chosen.append(picture)
    return tuple(picture for picture in pictures if picture in chosen)


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def meet(one: Picture, other: Picture) -> bool:
    """Whether two pictures overlap."""
    (left, top, right, bottom), (x0, y0, x1, y1) = one.box, other.box
    return min(right, x1) > max(left, x0) and min(bottom, y1) > max(top, y0)


# --- looking at the page --------------------------------------------------------------------------------------------


def marked(source: pymupdf.Page) -> bool:
    """Whether anything is drawn on a page beside text; costs a pass over its content, and more for each drawing."""
    return any(not kind.endswith("-text") for kind, _ in source.get_bboxlog())


def covered(source: pymupdf.Page, placed: Sequence[Picture]) -> float:
    """The part of a page that its pictures cover, 0 to 1."""
    found = sum(_area(picture.box) for picture in placed)
    return min(1.0, found / max(1.0, float(source.rect.width * source.rect.height))) if found else 0.0


def may_hold_text(source: pymupdf.Page) -> bool:
    """Whether the page has an image of a size that text would need; a look at its resources, not at its content."""
    resources = mupdf.pdf_dict_get_inheritable(source._pdf_page().obj(), mupdf.PDF_ENUM_NAME_Resources)
    return _holds_image(resources, set())


def _holds_image(resources: Any, seen: set[int]) -> bool:
    """As `Page.get_images`, which takes a millisecond for 20 images, but only until one is found that is large enough.

    Args:
        resources: of a page or form, a `PdfObj`.
        seen: forms that were looked into, by number; a broken file has forms that hold themselves.
    """
    longer, shorter = MIN_GRID
    objects = mupdf.pdf_dict_get(resources, mupdf.PDF_ENUM_NAME_XObject)
    forms = []
    for index in range(mupdf.pdf_dict_len(objects)):
        entry = mupdf.pdf_dict_get_val(objects, index)
        kind = mupdf.pdf_to_name(mupdf.pdf_dict_get(entry, mupdf.PDF_ENUM_NAME_Subtype))
        if kind == "Image":
            width = mupdf.pdf_dict_get_int(entry, mupdf.PDF_ENUM_NAME_Width)
            height = mupdf.pdf_dict_get_int(entry, mupdf.PDF_ENUM_NAME_Height)
            if max(width, height) >= longer and min(width, height) >= shorter:
                return True
        elif kind == "Form" and (number := mupdf.pdf_to_num(entry)) not in seen:
            seen.add(number)
            forms.append(mupdf.pdf_dict_get(entry, mupdf.PDF_ENUM_NAME_Resources))
    return any(_holds_image(form, seen) for form in forms)


def pictures(source: pymupdf.Page) -> tuple[Picture, ...]:
    """The images on a page as displayed, cut to it; costs a pass over its content."""
    # `Page.get_image_info` takes 0.2 ms an image for what is not asked for here.
    # Unless the whole plane is asked for, MuPDF leaves out every image that reaches beyond the page.
    content = source.get_textpage(flags=pymupdf.TEXT_PRESERVE_IMAGES, clip=_PLANE)
    placed = [block for block in content.this if block.m_internal.type == mupdf.FZ_STEXT_BLOCK_IMAGE]
    if not placed:
        return ()
    sheet, matrix = source.rect, source.rotation_matrix
    found = []
    for block in placed:
        x0, y0, x1, y1 = pymupdf.Rect(block.m_internal.bbox) * matrix
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, sheet.width), min(y1, sheet.height))
        if box[0] < box[2] and box[1] < box[3]:
            image = block.i_image()
            found.append(Picture(box, image.w(), image.h(), image))
    return tuple(found)
