"""The values that cross process borders, one frozen dataclass per noun.

They are plain dataclasses, not pydantic models: validation happens once, at the HTTP edge, and pickling thousands of
them a second must stay cheap. Offsets are character offsets into the text of one page; boxes are PDF points (1/72
inch) with the origin at the top left of the unrotated-for-reading page, as a person sees it. Pages count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from actors.deadline import Deadline
from actors.errors import GatherumError

C = TypeVar("C")

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in points, origin top left."""

Mode = Literal["hybrid", "lexical", "dense"]
EncoderChoice = Literal["exact", "fast", "auto"]
BranchStatus = Literal["ok", "timeout", "error", "skipped"]
JobState = Literal["queued", "reading", "publishing", "done", "partial", "failed", "cancelled"]
DocumentState = Literal["queued", "done", "partial", "failed", "cancelled"]
ChunkKind = Literal["text", "table"]
RowKind = Literal["table", "lookup", "model"]
ParameterType = Literal["text", "integer", "number", "date", "boolean"]
Scalar = str | int | float | bool | None
"""A value as JSON has it; a date is ISO 8601 text."""

VECTOR = np.dtype("<f2")
"""A number of a stored vector. Rankings are the same as with 32 bits (docs/benchmarks.md)."""

WORD = np.dtype([("start", "<i4"), ("end", "<i4"), ("x0", "<f4"), ("y0", "<f4"), ("x1", "<f4"), ("y1", "<f4")])
"""One word: its span in the text and its box."""


def by_position(message: type[C]) -> type[C]:
    """Have a message pickled as its class and the values of its fields.

    What `dataclass` gives frozen classes with slots goes through the fields by name for every object. To send and take
    in what is found for a batch of 64 questions took 2.1 ms in that way, on the loop of either side, and takes 0.95 ms.
    """
    names = tuple(each.name for each in fields(message))  # type: ignore[arg-type]  # it is a dataclass

    def reduced(self: Any) -> tuple[type[C], tuple[Any, ...]]:
        return message, tuple([getattr(self, name) for name in names])

    message.__reduce__ = reduced  # type: ignore[method-assign]
    return message


@by_position
@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text with their boxes, packed: 24 bytes a word instead of an object each.

    Attributes:
        data: records of dtype `WORD`, ordered by `start`.
    """

    data: bytes = b""

    @classmethod
    def of(cls, records: list[tuple[int, int, float, float, float, float]]) -> Words:
        """Pack (start, end, x0, y0, x1, y1) records."""
        return cls(np.array(records, dtype=WORD).tobytes())

    @property
    def array(self) -> npt.NDArray[Any]:
        """A read-only view, shape (words,), dtype `WORD`."""
        return np.frombuffer(self.data, dtype=WORD)

    def __len__(self) -> int:
        return len(self.data) // WORD.itemsize

    def within(self, start: int, end: int) -> Words:
        """The words that overlap [start, end), with offsets counted from `start`."""
        part = self.array[self._range(start, end)].copy()
        part["start"] -= start
        part["end"] -= start
        return Words(part.tobytes())

    def boxes(self, start: int, end: int) -> tuple[Box, ...]:
        """The boxes that cover [start, end), the words of one line merged into one box."""
        boxes: list[Box] = []
        left = top = right = bottom = 0.0
        open_line = False
        for x0, y0, x1, y1 in _runs(self.array[self._range(start, end)]):
            # A word goes on the line to the right of its start, if they overlap by more than half of the lower height.
            overlap = (bottom if bottom < y1 else y1) - (top if top > y0 else y0)
            height, line = y1 - y0, bottom - top
            if open_line and x0 >= left and overlap > 0.5 * (line if line < height else height):
                top = top if top < y0 else y0
                right = right if right > x1 else x1
                bottom = bottom if bottom > y1 else y1
            else:
                if open_line:
                    boxes.append((round(left, 2), round(top, 2), round(right, 2), round(bottom, 2)))
                left, top, right, bottom = x0, y0, x1, y1
                open_line = True
        if open_line:
            boxes.append((round(left, 2), round(top, 2), round(right, 2), round(bottom, 2)))
        return tuple(boxes)

    def _range(self, start: int, end: int) -> slice:
        words = self.array
        first = int(np.searchsorted(words["end"], start, side="right"))
        last = int(np.searchsorted(words["start"], end, side="left"))
        return slice(first, max(first, last))


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of some texts, packed.

    Attributes:
        encoder: identity of the encoder that made them; only those of one encoder compare.
        dimension: numbers in each.
        data: the vectors one after the other, dtype `VECTOR`, each of length 1, or 0 where there is none.
    """

    encoder: str
    dimension: int
    data: bytes = b""

    @classmethod
    def of(cls, encoder: str, vectors: npt.NDArray[Any]) -> Embeddings:
        """Pack vectors, shape (texts, dimension)."""
        return cls(encoder, vectors.shape[1], vectors.astype(VECTOR).tobytes())

    @property
    def array(self) -> npt.NDArray[Any]:
        """A read-only view, shape (texts, dimension)."""
        return np.frombuffer(self.data, dtype=VECTOR).reshape(-1, self.dimension)

    def __len__(self) -> int:
        return len(self.data) // (VECTOR.itemsize * self.dimension)


def _runs(words: npt.NDArray[Any]) -> list[Box]:
    """Words that stand one after the other at one height, as one box each: they are on one line whatever that is.

    A page has ten words a line and a thousand words a question go through here, so what need not be looked at word by
    word is not.
    """
    if not len(words):
        return []
    x0, y0, y1 = words["x0"], words["y0"], words["y1"]
    begins = np.ones(len(words), bool)
    # A word without a height joins no line.
    begins[1:] = (y0[1:] != y0[:-1]) | (y1[1:] != y1[:-1]) | (x0[1:] < x0[:-1]) | (y1[1:] <= y0[1:])
    firsts = np.flatnonzero(begins)
    first = words[firsts]
    right = np.maximum.reduceat(words["x1"], firsts)
    return list(zip(first["x0"].tolist(), first["y0"].tolist(), right.tolist(), first["y1"].tolist(), strict=True))


# --- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OcrRecord:
    """What was done about a page whose own text layer did not seem to do.

    Attributes:
        why: `absent`, `garbage` or `hidden`: what was wrong with the text layer; `mixed`: it lacked the text of
            pictures on the page, and only those were recognised.
        engine: program and version.
        dpi: resolution of what was recognised, after it was brought to the size that is read best; 0 if nothing was.
        languages: Tesseract language codes.
        confidence: mean word confidence, 0 to 100.
        milliseconds: time spent on this page.
        rotation: degrees clockwise that the content was turned by to stand upright: 0, 90, 180 or 270.
        skew: degrees clockwise that its lines sloped, before they were levelled.
        used: whether words that were recognised are in the page's text; else it is the page's own.
    """

    why: str
    engine: str
    dpi: int
    languages: tuple[str, ...]
    confidence: float
    milliseconds: float
    rotation: int = 0
    skew: float = 0.0
    used: bool = True


@dataclass(frozen=True, slots=True)
class PageLink:
    """A link on a page.

    Attributes:
        box: what is clicked on.
        url: where it leads outside the document, else empty.
        page: where it leads inside the document, from 1; 0 for a link that leads outside.
    """

    box: Box
    url: str = ""
    page: int = 0


@dataclass(frozen=True, slots=True)
class PageImage:
    """An image placed on a page; one that is placed twice is there twice.

    Attributes:
        box: where it stands.
        width: of its own grid, pixels.
        height: of its own grid, pixels.
        media_type: of `data`.
        data: the file as the PDF holds it, or a PNG; only where the bytes were asked for.
        sha256: of the file, hex.
        omitted: why there are no bytes though they were asked for: `repeated` (they are those of an image before it,
            with the same `sha256`), `size` (the document's images are too large together), `pixels` (it is too large
            itself) or `damaged`.
    """

    box: Box
    width: int
    height: int
    media_type: str = ""
    data: bytes = b""
    sha256: str = ""
    omitted: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table on a page.

    Attributes:
        box: around all of its cells.
        header: names of the columns; empty where the table has none.
        rows: the cells of each row below the header, as many as there are columns; empty text for an empty cell.
        lines: top and bottom of each of `rows`, points.
    """

    box: Box
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One page as read.

    Attributes:
        number: from 1.
        width: points, as displayed (after the page's own rotation).
        height: points, as displayed.
        text: NFC text in reading order, lines separated by newline, blocks by a blank line. A word that was divided at
            the end of a line is whole; the line breaks behind it.
        words: spans into `text` with boxes; a divided word has two that touch, one for each part.
        ocr: None where nothing was wrong with the page's own text layer.
        error: why the page could not be read; then `text` is empty.
        label: what the document calls the page (`iv`, `A-3`), where it says so; else empty.
        warning: what of the page was lost beside the words that were read; else empty. It is not stored.
        links: only where details were asked for.
        images: only where details were asked for.
        tables: only where details or chunks were asked for.
    """

    number: int
    width: float
    height: float
    text: str
    words: Words
    ocr: OcrRecord | None = None
    error: str | None = None
    label: str = ""
    warning: str = ""
    links: tuple[PageLink, ...] = ()
    images: tuple[PageImage, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage-sized piece of one page.

    Attributes:
        page: from 1.
        ordinal: position on the page, from 0.
        start: offset into the page's text.
        end: offset into the page's text.
        text: `page.text[start:end]`.
        words: spans relative to `start`, with boxes.
        heading: what stands over it: headings of the section and, for a table, the names of its columns; not a
            quotation. Empty where there is none.
        kind: `table` for rows of a table, which are never in one chunk with prose.
    """

    page: int
    ordinal: int
    start: int
    end: int
    text: str
    words: Words
    heading: str = ""
    kind: ChunkKind = "text"

    @property
    def wording(self) -> str:
        """What an encoder makes its vector of."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


@dataclass(frozen=True, slots=True)
class PageChunks:
    """The chunks of a page in the store, without their words, and their vectors where they have any.

    Attributes:
        sha256: of the file.
        pipeline: version of the reading.
        page: from 1.
        chunks: in order.
        embeddings: of the chunks.
        title: that the document has of its own; empty for none.
    """

    sha256: str
    pipeline: int
    page: int
    chunks: tuple[Chunk, ...]
    embeddings: Embeddings | None = None
    title: str = ""


SERVING: Final = "serving"
"""Name under which the store keeps whose vectors are searched: those of an encoder that has embedded every chunk."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was computed from all vectors of an encoder and is kept in the store.

    Attributes:
        name: `fast:` or `prior:` and the identity of the encoder; or `SERVING`, once for all encoders.
        version: of the content; under `SERVING` the identity of the encoder.
        chunks: that there were then.
        content: empty where it was not asked for; under `SERVING` the encoder's settings as JSON, so that it can be
            loaded while another one takes its place.
    """

    name: str
    version: str
    chunks: int
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Mention:
    """A name found in a text.

    Attributes:
        text: as written.
        label: type in the scheme of the model that found it (`PERSON`, `GPE`, …).
        start: offset into the page's text (or the question).
        end: offset into the page's text (or the question).
        page: from 1; 0 for a question.
    """

    text: str
    label: str
    start: int
    end: int
    page: int = 0


@dataclass(frozen=True, slots=True)
class PageReading:
    """What one page gives: the page, and, if asked for, its chunks and mentions.

    Attributes:
        embeddings: of the chunks, in their order; None where none were made.
    """

    page: Page
    chunks: tuple[Chunk, ...] = ()
    mentions: tuple[Mention, ...] = ()
    embeddings: Embeddings | None = None


@dataclass(frozen=True, slots=True)
class OutlineItem:
    """An entry of a document's own table of contents.

    Attributes:
        level: from 1.
        title: one line.
        page: from 1; 0 where the entry leads to no page.
    """

    level: int
    title: str
    page: int


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """What a PDF says of itself before its pages are read.

    Attributes:
        pages: page count.
        title: from its metadata, or empty.
        metadata: author, subject, producer and dates, as far as given.
        outline: its table of contents, in order.
        labels: what it calls each page; empty where it does not say.
    """

    pages: int
    title: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    outline: tuple[OutlineItem, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PageRange:
    """Pages that are finished; those between them that need OCR follow in a range of their own.

    Attributes:
        pages: their numbers, from 1, ascending.
        readings: of these pages.
        chars: length of their text.
    """

    pages: tuple[int, ...]
    readings: tuple[PageReading, ...]
    chars: int = 0


# --- questions and answers ------------------------------------------------------------------------------------------


@by_position
@dataclass(frozen=True, slots=True)
class Query:
    """A search.

    Attributes:
        text: words to look for.
        collections: names; empty means all.
        limit: passages wanted.
        mode: which indexes are asked.
        filters: on the metadata of documents, as in `search/filters.py`; None for none.
        encoder: what makes the vector of the text, if another than is configured.
    """

    text: str
    collections: tuple[str, ...] = ()
    limit: int = 10
    mode: Mode = "hybrid"
    filters: dict[str, Any] | None = None
    encoder: EncoderChoice | None = None


@by_position
@dataclass(frozen=True, slots=True)
class Question:
    """A question on its way through the orchestrator.

    Attributes:
        request_id: names the question in logs and in the answer.
        text: the question.
        deadline: when the answer is of no more use.
        collections: names; empty means all.
        sources: names of SQL sources; None means all, empty means none.
        limit: passages wanted.
        filters: on the metadata of documents; None for none.
    """

    request_id: str
    text: str
    deadline: Deadline
    collections: tuple[str, ...] = ()
    sources: tuple[str, ...] | None = None
    limit: int = 5
    filters: dict[str, Any] | None = None


@by_position
@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk found for a query.

    Attributes:
        words: spans relative to `start`, with boxes; not part of the JSON form, which has `boxes` instead.
        score: of the fused ranking, higher is better.
        scores: per index, e.g. `{"lexical": 7.1}`.
        kind: of the chunk; not part of the JSON form.
    """

    document_id: str
    title: str
    collection: str
    page: int
    start: int
    end: int
    text: str
    words: Words
    score: float
    scores: dict[str, float]
    kind: ChunkKind = "text"

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Boxes of the whole passage, one a line."""
        return self.words.boxes(0, len(self.text))


@by_position
@dataclass(frozen=True, slots=True)
class Found:
    """What a search gives.

    Attributes:
        passages: best first.
        encoder: what made the vector of the query; None where it was searched for by its words alone.
        degraded: what was done in a poorer way than was asked for, and why; empty for nothing.
        partial: a shard's documents are missing, and `degraded` says which; what is here is still right.
        change: number of the last change of the store that was in the index; 0 where that cannot be told.
    """

    passages: tuple[Passage, ...] = ()
    encoder: Literal["exact", "fast"] | None = None
    degraded: str = ""
    partial: bool = False
    change: int = field(default=0, compare=False)


@by_position
@dataclass(frozen=True, slots=True)
class Link:
    """Where an entity of a question is known from.

    Attributes:
        kind: `entity` (a name in the corpus) or `value` (a value in an SQL source).
        entity_id: of a corpus entity, else None.
        source, table, column: of an SQL value, else None.
        value: of an SQL value, as stored (a question may write `titan` for `Titan`); else None.
        key: primary key of the one row that has the value, where it is a single column; else None.
    """

    kind: Literal["entity", "value"]
    entity_id: int | None = None
    source: str | None = None
    table: str | None = None
    column: str | None = None
    value: str | None = None
    key: int | str | None = None


@by_position
@dataclass(frozen=True, slots=True)
class LinkedEntity:
    """A name in a question and what it is linked to."""

    text: str
    label: str
    start: int
    end: int
    links: tuple[Link, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an SQL source, as evidence.

    Attributes:
        source: name of the source.
        table: name of the table; of the lookup whose result it is; empty for a statement of a language model.
        key: primary key column(s) and value(s); of a result the arguments, and `row`, its place in it from 1.
        columns: every column of the row, by name.
        sql: the statement that finds this row again.
        kind: what `table` names.
        via: the foreign key that led to it from a row with a name of the question, as `table.column`; else empty.
    """

    source: str
    table: str
    key: dict[str, Any]
    columns: dict[str, Any]
    sql: str
    kind: RowKind = "table"
    via: str = ""


@dataclass(frozen=True, slots=True)
class PageCitation:
    """Where a sentence stands: document, page and the boxes of its words."""

    document_id: str
    title: str
    page: int
    boxes: tuple[Box, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RowCitation:
    """Which row a statement was read from; see `Row`."""

    source: str
    table: str
    key: dict[str, Any]
    kind: RowKind = "table"


@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement of an answer with its evidence. A quotation where the citation is a page."""

    text: str
    citation: PageCitation | RowCitation


@dataclass(frozen=True, slots=True)
class Branch:
    """What became of one branch of the fan-out.

    Attributes:
        name: e.g. `retrieval`, `entities`, `sql:planets`.
        started_ms: since the orchestrator took the question.
        elapsed_ms: duration.
        attempts: calls made by the orchestrator; what a pool repeated after a process died counts as one.
        error: code and detail when the status is not `ok`.
    """

    name: str
    status: BranchStatus
    started_ms: float
    elapsed_ms: float
    attempts: int = 1
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question, with all its evidence.

    Attributes:
        text: the sentences joined, or a plain statement that nothing was found.
        mode: `extractive`.
        partial: a branch failed or was late, or a part of the documents was away; what is here is still right.
        degraded: what was done in a cheaper or poorer way, and why.
        encoder: what made the question's vector; None where passages were found by words alone, or not at all.
    """

    request_id: str
    question: str
    text: str
    mode: str
    sentences: tuple[Sentence, ...]
    passages: tuple[Passage, ...]
    rows: tuple[Row, ...]
    entities: tuple[LinkedEntity, ...]
    branches: tuple[Branch, ...]
    partial: bool
    degraded: tuple[str, ...]
    elapsed_ms: float
    encoder: Literal["exact", "fast"] | None = None


# --- documents and jobs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that lies safely in the blob store and waits to be accepted.

    Attributes:
        sha256: of the content, hex; also its address in the blob store.
        size: bytes.
        filename: as given by the client, without any folder.
        collection: name.
        info: what the PDF says of itself.
        metadata: the client's own, a flat JSON object.
        priority: of its reading, -100 to 100; higher goes first.
        idempotency_key: the client's name for this upload, so that it can be repeated; empty for none.
    """

    sha256: str
    size: int
    filename: str
    collection: str
    info: DocumentInfo
    metadata: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    idempotency_key: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receipt of an upload: from here on the document is not lost."""

    document_id: str
    job_id: str
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Document:
    """A document as its owner sees it. Times are ISO 8601, UTC."""

    document_id: str
    title: str
    filename: str
    collection: str
    sha256: str
    pages: int
    state: DocumentState
    metadata: dict[str, Any]
    created_at: str


@dataclass(frozen=True, slots=True)
class Job:
    """The work of reading one document. `pages_done` counts committed pages, the same from every replica.

    Attributes:
        change: number of the change that published the document; None before.
        collection: of the document.
        filename: of the document.
        priority: -100 to 100; higher goes first.
        pages_per_s: mean of the attempt under way, or of the last one; None before its first page.
        eta_s: seconds until all pages are read; None while nobody can tell, as before it is begun.
    """

    job_id: str
    document_id: str
    state: JobState
    pages_done: int
    pages_total: int
    attempt: int
    error: str | None
    change: int | None
    created_at: str
    updated_at: str
    collection: str
    filename: str
    priority: int
    pages_per_s: float | None
    eta_s: float | None


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim on a job: valid while the job's fence is this fence.

    Attributes:
        fence: grows at every claim; a commit names it, and is refused if it has moved on.
        attempt: this attempt's number, from 1.
        last: whether there is none after it.
        missing: pages not yet committed, from 1, ascending.
        chars: length of the text of the others.
    """

    job_id: str
    document_id: str
    sha256: str
    collection: str
    fence: int
    attempt: int
    last: bool
    pages: int
    missing: tuple[int, ...]
    chars: int = 0


@dataclass(frozen=True, slots=True)
class Tended:
    """What the upkeep of the store has done.

    Attributes:
        queued: documents of an older pipeline that were queued to be read again.
        pages: removed with readings that were superseded.
        keys: idempotency keys forgotten.
    """

    queued: int
    pages: int
    keys: int


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the change log, which indexes follow.

    Attributes:
        number: gap-free, ascending.
        kind: `publish` or `delete` a document, `collection` (created), `drop` (a collection), `sources` (SQL sources
            changed), `lookups` (stored lookups changed), `encoder` (a fast encoder was fitted, or another encoder
            serves), or `gap` (an entry was lost, and `gatherum doctor` put this one in its place).
        document_id: empty where it is about none.
        collection: empty where it is about none; of `sources`, the name of the source.
    """

    number: int
    kind: Literal["publish", "delete", "collection", "drop", "sources", "lookups", "encoder", "gap"]
    document_id: str = ""
    collection: str = ""


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion removed: rows of each table, then files.

    Attributes:
        entities: that nothing else mentions.
        blobs: files that no other document is.
        bytes: of those.
        change: number of the change that tells the indexes.
    """

    documents: int = 0
    jobs: int = 0
    idempotency_keys: int = 0
    pages: int = 0
    chunks: int = 0
    mentions: int = 0
    entities: int = 0
    blobs: int = 0
    bytes: int = 0
    change: int = 0

    def __add__(self, other: Removed) -> Removed:
        counts = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__ if name != "change"}
        return Removed(**counts, change=max(self.change, other.change))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        check: which check found it.
        subject: what it is about: an id, an address, a replica.
        what: what is wrong, in a sentence.
        repair: what a repair does; empty where none can, and `what` says what helps.
        repaired: whether it was done.
    """

    check: str
    subject: str
    what: str
    repair: str = ""
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Examined:
    """What one step of an examination has found.

    Attributes:
        looked_at: how many things.
        next: where the check goes on; None at its end.
    """

    findings: tuple[Finding, ...]
    looked_at: int
    next: str | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The state of one actor.

    Attributes:
        role: e.g. `retrieval`.
        ready: whether it can do its work now.
        pid: process id.
        node: host name.
        detail: role-specific figures (index size, change number, queue length …). Under `trouble`, by subject, stands
            what a role goes on without, or waits for, each in a sentence for the operator.
    """

    role: str
    ready: bool
    pid: int
    node: str
    detail: dict[str, Any] = field(default_factory=dict)


# --- what indexes are filled from -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublishedDocument:
    """A published document with all its chunks, for an index to take in.

    Attributes:
        metadata: to filter on.
        embeddings: of all chunks, with zeros for those that have none yet; None where nobody asked for them.
    """

    document_id: str
    title: str
    collection: str
    chunks: tuple[Chunk, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    embeddings: Embeddings | None = None


@dataclass(frozen=True, slots=True)
class EntityName:
    """A name of the corpus, for whoever looks for names in questions."""

    entity_id: int
    name: str
    label: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A name of the corpus as people look it up; counts are of published documents.

    Attributes:
        name: as it was first written.
        label: type in the scheme of the model that found it.
        mentions: how often it is mentioned.
        documents: in how many documents.
    """

    entity_id: int
    name: str
    label: str
    mentions: int
    documents: int


@dataclass(frozen=True, slots=True)
class EntityDetail(Entity):
    """An entity with the ways in which it is written, the most frequent first."""

    spellings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RelatedEntity:
    """An entity that stands on pages of another; on how many."""

    entity_id: int
    name: str
    label: str
    pages: int


@dataclass(frozen=True, slots=True)
class EntityMention:
    """A place where an entity is mentioned: offsets into the text of the page, and the boxes of the words."""

    document_id: str
    title: str
    collection: str
    page: int
    start: int
    end: int
    text: str
    boxes: tuple[Box, ...]


# --- SQL sources ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Source:
    """A registered SQL database.

    Attributes:
        path: of SQLite: the file, relative to `sources.sqlite_root`.
        host, port, database, user: of a server.
        password_env: name of the environment variable that holds the password.
        secret: the password in the form that it is stored in, see `actors/sql/vault.py`; never shown.
        tls: `prefer`: if the server has it; `require`: else no connection; `verify`: with a certificate for the host.
        samples: whether values may be shown with the schema.
        exclude: columns left out of names and evidence, as in `sources.exclude`.
    """

    name: str
    kind: Literal["sqlite", "postgresql", "mysql"]
    path: str = ""
    host: str = ""
    port: int = 0
    database: str = ""
    user: str = ""
    password_env: str = ""
    secret: str = field(default="", repr=False)
    tls: Literal["prefer", "require", "verify"] = "prefer"
    samples: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceValue:
    """A name-like value of a source, for whoever looks for names in questions; `key` as in `Link`."""

    source: str
    table: str
    column: str
    value: str
    key: int | str | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rows wanted: those of `table` whose `column` is `value`; `key` as in `Link`, which saves a search for them."""

    source: str
    table: str
    column: str
    value: str
    key: int | str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a stored lookup.

    Attributes:
        name: as in its statement, where a colon stands before it.
        description: for people and models.
        column: `table.column` whose values it takes; empty for any.
        required: whether the lookup needs it.
        default: what it is where it is not given.
    """

    name: str
    type: ParameterType
    description: str = ""
    column: str = ""
    required: bool = True
    default: Scalar = None


@dataclass(frozen=True, slots=True)
class StoredLookup:
    """A SELECT that somebody wrote, named and described, for questions to be answered by.

    Attributes:
        source: that it asks.
        name: unique within the source.
        description: what it finds; each sentence is a way to ask for it.
        sql: the statement, with `:name` for each parameter.
    """

    source: str
    name: str
    description: str
    sql: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class LookupCall:
    """A stored lookup to be run, with its arguments in the order of its parameters."""

    source: str
    name: str
    arguments: tuple[tuple[str, Scalar], ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows found in a source.

    Attributes:
        error: what kept further rows back.
        truncated: whether a limit did.
    """

    rows: tuple[Row, ...] = ()
    error: GatherumError | None = None
    truncated: bool = False
