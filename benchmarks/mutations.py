"""Makes bad PDFs of good ones, the same ones for the same seed.

Each kind of damage is one that parsers have fallen over: bytes that changed under way, files cut short, objects that
stand for one another, structures without end and numbers without bound. Kinds that need a whole file of their own
(bombs, cycles, trees that are too deep) ignore most of what they are given.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

MB: Final = 1_000_000

Kind = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bad file.

    Attributes:
        name: kind and number, e.g. `truncated-17`.
        content: its bytes.
    """

    name: str
    content: bytes


def mutations(originals: Sequence[bytes], count: int, seed: int) -> Iterator[Mutation]:
    """Bad files, every kind in turn.

    Args:
        originals: PDFs that can be read, at least one.
        count: of files.
        seed: equal ones give equal files.
    """
    kinds = list(KINDS)
    for number in range(count):
        dice = random.Random(f"{seed}/{number}")
        name = kinds[number % len(kinds)]
        yield Mutation(f"{name}-{number}", KINDS[name](dice.choice(originals), dice))


# --- damage to a file -----------------------------------------------------------------------------------------------


def flipped(original: bytes, dice: random.Random) -> bytes:
    """Some bits changed."""
    content = bytearray(original)
    for _ in range(dice.choice((1, 10, 100, 1000))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def overwritten(original: bytes, dice: random.Random) -> bytes:
    """A stretch of noise, of zeros or of the file itself in the wrong place."""
    length = min(len(original) // 4, dice.choice((16, 512, 4096)))
    at, source = dice.randrange(len(original) - length), dice.randrange(len(original) - length)
    stretch = dice.choice((dice.randbytes(length), bytes(length), original[source : source + length]))
    return original[:at] + stretch + original[at + length :]


def truncated(original: bytes, dice: random.Random) -> bytes:
    """The end, or a stretch within, is missing."""
    at = dice.randrange(16, len(original))
    return original[:at] + (original[dice.randrange(at, len(original)) :] if dice.random() < 0.5 else b"")


def swapped(original: bytes, dice: random.Random) -> bytes:
    """References lead to other objects than they did."""
    found = re.findall(rb"(?<![\w.])(\d{1,5}) 0 R\b", original)
    if not found:
        return flipped(original, dice)

    def other(match: re.Match[bytes]) -> bytes:
        return b"%s 0 R" % dice.choice(found) if dice.random() < 0.2 else match[0]

    return re.sub(rb"(?<![\w.])(\d{1,5}) 0 R\b", other, original)


def numbers(original: bytes, dice: random.Random) -> bytes:
    """Numbers in dictionaries become extreme: lengths, widths, counts, boxes."""
    extremes = (b"0", b"-1", b"2147483647", b"4294967296", b"99999999999999999999", b"1e30", b"-0.0000001")

    def extreme(match: re.Match[bytes]) -> bytes:
        return match[1] + dice.choice(extremes) if dice.random() < 0.1 else match[0]

    return re.sub(rb"(/[A-Za-z]{1,20}\s*\[?\s*)(-?\d+(?:\.\d+)?)(?! \d+ R)", extreme, original)


# --- files of their own ---------------------------------------------------------------------------------------------


def page_box(original: bytes, dice: random.Random) -> bytes:
    """A page of absurd size, with something drawn so that it must be rendered."""
    box = dice.choice(
        (b"0 0 1e9 1e9", b"0 0 14400 14400", b"0 0 9e37 3", b"5 5 5 5", b"-1e9 -1e9 1e9 1e9", b"0 0 1 1e7")
    )
    unit = dice.choice((b"", b"/UserUnit 75000", b"/Rotate 90", b"/UserUnit -1"))
    return pdf(b"0 0 m 9e8 9e8 l S", page=b"/MediaBox [%s] %s" % (box, unit))


def cyclic(original: bytes, dice: random.Random) -> bytes:
    """Structures that contain themselves: page trees, forms, fonts, colour spaces, outlines."""
    kind = dice.randrange(5)
    if kind == 0:
        return assemble({1: b"<</Type/Catalog/Pages 2 0 R>>", 2: b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>"})
    if kind == 1:
        tree = {1: b"<</Type/Catalog/Pages 2 0 R>>", 2: b"<</Type/Pages/Kids[3 0 R]/Count 1/Parent 3 0 R>>"}
        return assemble(tree | {3: b"<</Type/Page/Parent 3 0 R>>"})
    if kind == 2:
        return pdf(b"/X Do", resources=b"/XObject<</X 9 0 R>>", extra={9: form(b"/X Do /X Do", b"/X 9 0 R")})
    if kind == 3:
        space = b"[/Indexed 9 0 R 1 <0000>]"
        return pdf(b"/C cs 1 sc 0 0 99 99 re f", resources=b"/ColorSpace<</C 9 0 R>>", extra={9: space})
    loop = {9: b"<</First 10 0 R/Last 10 0 R/Count 9>>", 10: b"<</Title(a)/Parent 9 0 R/Next 10 0 R/First 10 0 R>>"}
    return pdf(b"BT ET", catalog=b"/Outlines 9 0 R", extra=loop)


def deep(original: bytes, dice: random.Random) -> bytes:
    """Nesting without end: arrays, graphics states, page trees, forms that fan out."""
    kind, depth = dice.randrange(4), dice.choice((1_000, 30_000, 300_000))
    if kind == 0:
        return pdf(b"[" * depth + b"]" * depth + b" 0 d 0 0 m 9 9 l S")
    if kind == 1:
        return pdf(b"q 1 0 0 1 0 0 cm " * depth + b"0 0 9 9 re f")
    if kind == 2:
        length = min(depth, 20_000)
        tree = {n: b"<</Type/Pages/Count 1/Kids[%d 0 R]/Parent %d 0 R>>" % (n + 1, n - 1) for n in range(2, length)}
        return assemble({1: b"<</Type/Catalog/Pages 2 0 R>>"} | tree | {length: b"<</Type/Page>>"})
    # Each form draws the next ten times: 10^9 in all.
    forms = {n: form(b"/X Do " * 10, b"/X %d 0 R" % (n + 1)) for n in range(9, 18)}
    return pdf(b"/X Do", resources=b"/XObject<</X 9 0 R>>", extra=forms | {18: form(b"0 0 9 9 re f", b"")})


def many_pages(original: bytes, dice: random.Random) -> bytes:
    """A page tree that promises, or has, more pages than anybody wants."""
    if dice.random() < 0.5:
        count = dice.choice((2_147_483_647, 1_000_000, -5))
        return assemble({1: b"<</Type/Catalog/Pages 2 0 R>>", 2: b"<</Type/Pages/Kids[]/Count %d>>" % count})
    kids = b"3 0 R " * dice.choice((1_900, 2_100, 50_000))
    tree = {1: b"<</Type/Catalog/Pages 2 0 R>>", 2: b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(kids) // 6)}
    return assemble(tree | {3: b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>"})


def bomb(original: bytes, dice: random.Random) -> bytes:
    """Streams that are small until they are unpacked: content, text, an object stream, twice packed."""
    size = dice.choice((50, 500)) * MB
    kind = dice.randrange(4)
    if kind == 0:
        return pdf(b"", content=stream(zlib.compress(bytes(size), 9), b"/Filter/FlateDecode"))
    if kind == 1:
        shown = b"BT /F 9 Tf 9 9 Td " + b"(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa) Tj 0 9 Td\n" * (size // 500) + b"ET"
        return pdf(b"", content=stream(zlib.compress(shown, 9), b"/Filter/FlateDecode"), resources=FONT)
    if kind == 2:
        packed = zlib.compress(zlib.compress(bytes(size), 9), 9)
        return pdf(b"", content=stream(packed, b"/Filter[/FlateDecode/FlateDecode]"))
    inner = zlib.compress(b"2 0 3 9 " + b"<</Type/Pages/Kids[3 0 R]/Count 1>>" + bytes(size), 9)
    objects = stream(inner, b"/Type/ObjStm/N 2147483647/First 8/Filter/FlateDecode")
    return assemble({1: b"<</Type/Catalog/Pages 2 0 R>>", 4: objects})


def image(original: bytes, dice: random.Random) -> bytes:
    """Pictures whose data is noise or far too short for the size they claim, in every codec."""
    codec = dice.choice(
        (b"JBIG2Decode", b"CCITTFaxDecode", b"DCTDecode", b"JPXDecode", b"RunLengthDecode", b"LZWDecode")
    )
    side = dice.choice((64, 5_000, 60_000, 2_000_000_000))
    data = HEADS.get(codec, b"") + dice.randbytes(dice.choice((0, 64, 20_000)))
    options = b"/DecodeParms<</K -1/Columns %d/Rows %d>>" % (side, side) if codec == b"CCITTFaxDecode" else b""
    colours = b"/ColorSpace/DeviceGray/BitsPerComponent %d" % dice.choice((1, 8, 16))
    shape = b"/Type/XObject/Subtype/Image/Width %d/Height %d%s/Filter/%s%s" % (side, side, colours, codec, options)
    return pdf(b"500 0 0 700 9 9 cm /X Do", resources=b"/XObject<</X 9 0 R>>", extra={9: stream(data, shape)})


def reaching_out(original: bytes, dice: random.Random) -> bytes:
    """A file that wants others: streams, fonts and forms kept elsewhere, actions on opening, scripts."""
    place = dice.choice((b"/etc/passwd", b"file:///etc/passwd", b"http://127.0.0.1:9/a", b"\\\\\\\\127.0.0.1\\\\a"))
    spec = b"<</Type/Filespec/F(%s)/UF(%s)/FS/URL>>" % (place, place)
    catalog = dice.choice(
        (
            b"/OpenAction<</S/URI/URI(%s)>>" % place,
            b"/OpenAction<</S/Launch/F %s>>" % spec,
            b"/OpenAction<</S/GoToR/F %s/D[0/Fit]>>" % spec,
            b"/OpenAction<</S/JavaScript/JS(app.launchURL\\('%s'\\))>>" % place,
            b"/OpenAction<</S/ImportData/F %s>>" % spec,
            b"/AcroForm<</XFA(<x href='%s'/>)/Fields[]>>" % place,
        )
    )
    outside = b"<</F %s/FFilter/FlateDecode/Length 0/Type/XObject/Subtype/Form/BBox[0 0 9 9]>>" % spec
    kept = {9: outside + b"stream\n\nendstream", 10: b"<</Type/XObject/Subtype/Form/Ref<</F %s/Page 0>>>>" % spec}
    return pdf(b"BT ET /X Do /Y Do", resources=b"/XObject<</X 9 0 R/Y 10 0 R>>", catalog=catalog, extra=kept)


KINDS: Final[dict[str, Kind]] = {
    kind.__name__: kind
    for kind in (
        flipped, truncated, swapped, overwritten, numbers, page_box, cyclic, deep, many_pages, bomb, image,
        reaching_out,
    )
}  # fmt: skip

# --- how a PDF is put together --------------------------------------------------------------------------------------

FONT: Final = b"/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"
HEADS: Final = {
    b"DCTDecode": bytes.fromhex("ffd8ffc0001108ffffffff03012200021101031101"),
    b"JPXDecode": bytes.fromhex("ff4fff51002f0000") + b"\xff" * 32,
    b"JBIG2Decode": bytes.fromhex("0000000030000100000013ffffffffffffffff000000000000000001"),
}


def stream(data: bytes, entries: bytes) -> bytes:
    """A stream object."""
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(data), data)


def form(content: bytes, objects: bytes) -> bytes:
    """A form that may draw others."""
    return stream(content, b"/Type/XObject/Subtype/Form/BBox[0 0 99 99]/Resources<</XObject<<%s>>>>" % objects)


def pdf(
    drawing: bytes,
    *,
    content: bytes = b"",
    page: bytes = b"/MediaBox[0 0 595 842]",
    resources: bytes = b"",
    catalog: bytes = b"",
    extra: dict[int, bytes] | None = None,
) -> bytes:
    """A PDF of one page.

    Args:
        drawing: its content.
        content: a stream object in place of that.
        page: further entries of the page.
        resources: entries of its resources.
        catalog: further entries of the catalog.
        extra: further objects, by number from 5.
    """
    objects = {
        1: b"<</Type/Catalog/Pages 2 0 R%s>>" % catalog,
        2: b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        3: b"<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<<%s>>%s>>" % (resources, page),
        4: content or stream(drawing, b""),
    }
    return assemble(objects | (extra or {}))


def assemble(objects: dict[int, bytes]) -> bytes:
    """A file of these objects, the first of which is the catalog, with a right table of where they stand."""
    parts = [b"%PDF-1.7\n"]
    at = len(parts[0])
    table = [b"xref\n0 1\n0000000000 65535 f \n"]
    for number, body in objects.items():
        table.append(b"%d 1\n%010d 00000 n \n" % (number, at))
        parts.append(b"%d 0 obj\n%s\nendobj\n" % (number, body))
        at += len(parts[-1])
    trailer = b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (max(objects) + 1, at)
    return b"".join((*parts, *table, trailer))
