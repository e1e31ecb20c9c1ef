"""What a page task does: the functions that open a PDF, each run in a process that may be lost over it.

They are plain functions of a path and a `Setup`, so all that they do can be tested without a task. PyMuPDF and spaCy
are imported where they are used: an actor or an HTTP replica that knows the role, but never opens a PDF itself, stays
150 MB smaller.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from actors.errors import DocumentTooLarge, ReadingFailed, Unavailable
from actors.messages import Box, Chunk, DocumentInfo, Embeddings, Mention, Page, PageChunks, PageReading
from actors.reading import limits
from actors.reading.allowance import Allowance, Taken, taken
from actors.reading.ranges import Range
from config import logs
from config.settings import EncoderSettings, LogSettings, PdfSettings

if TYPE_CHECKING:
    import pymupdf

    from actors.reading.furniture import Margins
    from actors.reading.survey import Survey
    from actors.reading.triage import Why

EMBEDDING_S: Final = 900.0  # of a task that embeds or fits; they take a minute at most, on a core of their own
ENRICHING_SHARE: Final = 0.5  # of a page's time that chunks and names have at least, however slow the pages were
OCR_SHARE: Final = 0.9  # of a range's time; the rest is for the worker to report that Tesseract took too long


@dataclass(frozen=True, slots=True)
class Setup:
    """What a task needs to know besides its pages.

    Attributes:
        settings: limits and resolutions.
        model: spaCy pipeline; None where only the pages are wanted.
        logs: level and format.
        context: values bound to every log line, such as the request's id.
        details: whether links, images and tables are wanted.
        images: what the bytes of images may come to; None where they are not wanted.
        survey: what the chunks of a page need to know of the rest of the document; None where that is unknown.
        encoder: what makes the vectors of chunks; None where nothing does, or not here: no process that opens PDFs
            has the key of an endpoint, or a connection to it.
        identity: that the encoder must have; empty for any.
    """

    settings: PdfSettings
    model: str | None
    logs: LogSettings
    context: dict[str, Any]
    details: bool = False
    images: Allowance | None = None
    survey: Survey | None = None
    encoder: EncoderSettings | None = None
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a task did, small enough to travel through the actor.

    Attributes:
        done: pages among its readings.
        scanned: pages it left, each with what is wrong with its text: they need optical recognition.
        chars: length of the text read.
        margins: of the pages that were recognised: what they tell of heads and feet.
        images: whose bytes are among the readings.
    """

    done: tuple[int, ...]
    scanned: tuple[tuple[int, Why], ...] = ()
    chars: int = 0
    margins: tuple[Margins, ...] = ()
    images: tuple[Taken, ...] = ()


def read_range(path: str, part: Range, setup: Setup) -> tuple[Report, tuple[PageReading, ...]]:
    """Read some pages.

    Args:
        path: of the PDF.
        part: pages; their text layer is read, unless the range says why it will not do.
        setup: see there.

    Raises:
        EncryptedPdf, DocumentTooLarge, ReadingFailed, UnknownPage: the range cannot be read.
        Unavailable: pages are to be recognised, and Tesseract or a language pack is missing on this node.
    """
    from actors.reading import furniture, pages

    settings = setup.settings
    if part.whys:
        try:
            with limits.clock(settings.page_timeout_s):
                check_ocr(settings.ocr_languages)
        except ReadingFailed as error:
            # Of the node and not of the pages, which another node can read.
            logs.get().error("node_cannot_recognise", node=socket.gethostname(), error=error.detail)
            raise Unavailable(
                "A node that reads pages is not set up for scanned ones. The log has the details."
            ) from None
    found: list[Page] = []
    scanned: list[tuple[int, Why]] = []
    budgets = _budgets(part, settings.page_timeout_s)
    _load_models(setup)
    with _opened(path, setup) as document:
        if part.whys:
            from actors.reading import ocr

            budget = settings.page_timeout_s * len(part.pages)
            with budgets[part.pages[0]].clock():
                found = ocr.read(
                    document,
                    list(zip(part.pages, part.whys, strict=True)),
                    dpi=settings.ocr_dpi,
                    max_pixels=settings.max_pixels,
                    languages=settings.ocr_languages,
                    timeout_s=budget * OCR_SHARE,
                )
        else:
            for page, why in pages.read_all(document, part.pages, lambda number: budgets[number].clock()):
                if why:
                    scanned.append((page.number, why))
                else:
                    found.append(page)
        for page in found:
            if page.error:
                logs.get().warning("page_unreadable", page=page.number, error=page.error)
            elif page.warning:
                logs.get().warning("page_damaged", page=page.number, warning=page.warning)
        if setup.details or setup.model:
            from actors.reading import structure, tables

            for index, page in enumerate(found):
                with budgets[page.number].clock():
                    page = tables.with_tables(document, page)
                    found[index] = structure.detailed(document, page) if setup.details else page
        if setup.images is not None:
            from actors.reading import images

            allowance = Allowance(setup.images.left, set(setup.images.sent))
            for index, page in enumerate(found):
                with budgets[page.number].clock():
                    found[index] = images.with_bytes(document, page, allowance, settings.max_pixels)
        readings = tuple(map(PageReading, found))
        if setup.model:
            left = sum(budget.left for budget in set(budgets.values()))
            with limits.clock(max(left, settings.page_timeout_s * ENRICHING_SHARE)):
                readings = enrich(found, setup)
    chars = sum(len(page.text) for page in found)
    margins = tuple(map(furniture.margins, found)) if part.whys else ()
    done = tuple(page.number for page in found)
    return Report(done, tuple(scanned), chars, margins, taken(found)), readings


def _budgets(part: Range, page_timeout_s: float) -> dict[int, limits.Budget]:
    """The time of each page, for all that is done about it; pages that are recognised together share the sum."""
    if part.whys:
        return dict.fromkeys(part.pages, limits.Budget(page_timeout_s * len(part.pages)))
    return {number: limits.Budget(page_timeout_s) for number in part.pages}


def enrich_range(
    readings: Sequence[PageReading], pages: tuple[int, ...], setup: Setup
) -> tuple[Report, tuple[PageReading, ...]]:
    """Add chunks and mentions to pages that were read without.

    Args:
        readings: of some pages.
        pages: those of them that are wanted.
        setup: with a model.
    """
    settings = setup.settings
    _load_models(setup)
    with limits.clock(settings.page_timeout_s * len(pages)):
        found = [reading.page for reading in readings if reading.page.number in pages]
        chars = sum(len(page.text) for page in found)
        return Report(pages, chars=chars), enrich(found, setup)


def _load_models(setup: Setup) -> None:
    """Load what enriching needs, once in a process, in time of its own.

    In a page's time, a page that leaves little of it would end each worker while it loads, and the next one too.
    """
    if not setup.model:
        return
    from actors.reading import mentions

    with limits.clock(setup.settings.page_timeout_s):
        mentions.load(setup.model)
        if setup.encoder is not None:
            with suppress(Exception):  # `embed` reports it
                from actors.reading import embedding

                embedding.load(setup.encoder)


def enrich(found: Sequence[Page], setup: Setup) -> tuple[PageReading, ...]:
    """Pages with their chunks, the vectors of these, and their mentions."""
    from actors.reading import chunking, mentions
    from actors.reading.survey import Survey

    survey = setup.survey or Survey()
    named = mentions.find_mentions([page.text for page in found], setup.model or "")
    chunks = [
        chunking.chunk(
            page,
            setup.settings.chunk_tokens,
            furniture=survey.furniture_of(page),
            heading=survey.heading(page.number),
        )
        for page in found
    ]
    return tuple(
        PageReading(
            page,
            of_page,
            tuple(Mention(m.text, m.label, m.start, m.end, page.number) for m in names),
            embeddings,
        )
        for page, of_page, names, embeddings in zip(
            found, chunks, named, embed(chunks, survey.title, setup), strict=True
        )
    )


def embed(pages: Sequence[Sequence[Chunk]], title: str, setup: Setup) -> list[Embeddings | None]:
    """The vectors of the chunks of each page of a document; None where there is no encoder, or it fails."""
    if setup.encoder is None:
        return [None for _ in pages]
    try:
        from actors.reading import embedding

        return [*embedding.embed(pages, [title] * len(pages), setup.encoder, setup.identity)]
    except Exception as error:  # noqa: BLE001 -- the pages are read, and found by their words until they have vectors
        logs.get().warning("chunks_not_embedded", kind=type(error).__name__, error=str(error))
        return [None for _ in pages]


def embed_chunks(pages: Sequence[Sequence[Chunk]], titles: Sequence[str], setup: Setup) -> list[Embeddings]:
    """`embedding.embed` in a task."""
    from actors.reading import embedding

    with limits.clock(EMBEDDING_S):
        return embedding.embed(pages, titles, _encoder(setup), setup.identity)


def fit_encoder(pages: Sequence[PageChunks], prior: bytes, setup: Setup) -> tuple[str, bytes, bytes]:
    """`embedding.fit` in a task."""
    from actors.reading import embedding

    with limits.clock(EMBEDDING_S):
        return embedding.fit(pages, _encoder(setup), prior)


def _encoder(setup: Setup) -> EncoderSettings:
    if setup.encoder is None:
        raise Unavailable("There is no encoder.")
    return setup.encoder


def survey_file(path: str, setup: Setup) -> Survey:
    """See `survey.survey`."""
    from actors.reading.survey import survey

    with _opened(path, setup) as document:
        return survey(document, setup.settings.page_timeout_s)


def check_ocr(languages: tuple[str, ...]) -> None:
    """`tesseract.check_languages`; what that needs is imported only here."""
    from actors.reading import tesseract

    tesseract.check_languages(languages)


def inspect_file(path: str, setup: Setup) -> DocumentInfo:
    """See `pages.inspect`."""
    from actors.reading import pages

    limits.check_file(path, setup.settings.max_file_mb)
    with limits.clock(setup.settings.page_timeout_s):
        return pages.inspect(path, setup.settings.max_pages)


def render_page(path: str, page: int, boxes: tuple[Box, ...], dpi: int, setup: Setup) -> bytes:
    """See `pages.render`."""
    from actors.reading import pages

    limits.check_file(path, setup.settings.max_file_mb)
    with limits.clock(setup.settings.page_timeout_s):
        return pages.render(path, page, boxes, dpi, setup.settings.max_pixels)


@contextmanager
def _opened(path: str, setup: Setup) -> Iterator[pymupdf.Document]:
    """The open document, if it is within the limits. Opening a damaged one searches it, so that has its clock too."""
    from actors.reading import pages

    settings = setup.settings
    limits.check_file(path, settings.max_file_mb)
    with ExitStack() as stack:
        with limits.clock(settings.page_timeout_s):
            document = stack.enter_context(pages.opened(path, coloured=setup.images is not None))
            count = document.page_count
        if count > settings.max_pages:
            raise DocumentTooLarge(f"The PDF has {count:,} pages; the limit is {settings.max_pages:,}.")
        yield document
