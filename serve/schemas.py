"""The HTTP models: what a client may send and what it gets back, as the OpenAPI document shows them.

Answers to questions are encoded once, in the orchestrator, and passed through as bytes; their models here only
describe them.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Collection = Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

FILTERS = Field(
    None,
    description="What must hold for a document's metadata: `$eq $ne $in $gt $gte $lt $lte $exists`, `$and`, `$or`.",
    examples=[{"year": {"$gte": 1990}, "lang": "en"}],
)


class Body(BaseModel):
    """Base of request bodies: a field we do not know is an error, not a silent loss."""

    model_config = ConfigDict(extra="forbid")


class AskBody(Body):
    """A question."""

    question: str = Field(description="The question, in plain words.", examples=["Which moon did Huygens land on?"])
    collections: list[str] | None = Field(None, max_length=100, description="Collections to look in; all by default.")
    sources: list[str] | None = Field(None, max_length=100, description="SQL sources to look in; all by default.")
    timeout_ms: int | None = Field(None, ge=1, le=600_000, description="Budget of the answer, ms.")
    limit: int = Field(5, ge=1, le=50, description="Passages wanted.")
    filters: dict[str, Any] | None = FILTERS


class SearchBody(Body):
    """A search."""

    query: str = Field(description="Words to look for.", examples=["hydrocarbon lakes"])
    collections: list[str] | None = Field(None, max_length=100, description="Collections to look in; all by default.")
    limit: int = Field(10, ge=1, le=100, description="Passages wanted.")
    mode: Literal["hybrid", "lexical", "dense"] = Field("hybrid", description="Which indexes are asked.")
    timeout_ms: int | None = Field(None, ge=1, le=600_000, description="Budget of the search, ms.")
    filters: dict[str, Any] | None = FILTERS
    encoder: Literal["exact", "fast", "auto"] | None = Field(
        None, description="What makes the vector of the query; as configured by default."
    )


class CollectionBody(Body):
    """A collection."""

    name: str = Collection


class SourceBody(Body):
    """An SQL source: a file, or a database on a server and who may read it."""

    name: str = Collection
    kind: Literal["sqlite", "postgresql", "mysql"] = Field(description="Kind of database; MariaDB is `mysql`.")
    path: str = Field("", max_length=1000, description="Of SQLite: the file, relative to `sources.sqlite_root`.")
    host: str = Field("", max_length=253, description="Name or address of the server.")
    port: int = Field(0, ge=0, le=65535, description="Its port; 0 for the usual one.")
    database: str = Field("", max_length=100, description="Name of the database.")
    user: str = Field("", max_length=100, description="Name of the role, which should be able to read and no more.")
    password: str = Field("", max_length=1000, description="Kept encrypted, and never given out again.")
    password_env: str = Field(
        "", max_length=100, description="In its place: the environment variable, where Gatherum runs, that holds it."
    )
    tls: Literal["prefer", "require", "verify"] = Field(
        "prefer", description="`require`: no connection without TLS; `verify`: nor without a certificate for the host."
    )
    samples: bool = Field(False, description="Whether some values of each column may be shown with the tables.")
    exclude: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Columns left out of names and of rows shown as evidence, as `table.column` with `*` for anything.",
    )


class QueryBody(Body):
    """A statement."""

    sql: str = Field(
        max_length=100_000,
        description="A single SELECT, its parameters as `:name`.",
        examples=["SELECT name, radius_km FROM moons WHERE planet = :planet ORDER BY radius_km DESC"],
    )
    params: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, max_length=100, description="Their values. Dates and decimals are given as text."
    )


class ParameterBody(Body):
    """A parameter of a stored lookup."""

    name: str = Field(max_length=64, description="As in the statement, where a colon stands before it.")
    type: Literal["text", "integer", "number", "date", "boolean"]
    description: str = Field("", max_length=500, description="For people and models.")
    column: str = Field(
        "",
        max_length=300,
        description="`table.column` whose values it takes; a name of any column fits where it is empty.",
    )
    required: bool = Field(True, description="Whether the lookup needs it.")
    default: str | int | float | bool | None = Field(None, description="What it is where it is not given.")


class LookupBody(Body):
    """A stored lookup: a SELECT that questions are answered by."""

    name: str = Field(max_length=64, examples=["customer_total"])
    description: str = Field(
        description="What it finds, in the words of those who ask; each sentence is another way to ask for it.",
        examples=["Total of all invoices of a customer. How much has a customer spent."],
    )
    sql: str = Field(description="One SELECT, with `:name` for each parameter.")
    parameters: list[ParameterBody] = Field(default_factory=list)


class LookupRunBody(Body):
    """Arguments of a stored lookup."""

    arguments: dict[str, Any] = Field(default_factory=dict, description="A value for each parameter, by its name.")
    limit: int = Field(100, ge=1, le=10_000, description="Most rows.")


class UrlBody(Body):
    """A PDF to be fetched."""

    url: str = Field(description="Where the PDF is: http or https.", examples=["https://example.org/report.pdf"])
    metadata: dict[str, Any] = Field(default_factory=dict, description="Kept with the document.")


class Problem(BaseModel):
    """An error, as RFC 9457 problem details."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    code: str = Field(examples=["unknown_document"])
    detail: str = Field(examples=["There is no document of that id."])
    request_id: str


class AcceptedView(BaseModel):
    """The receipt of an upload."""

    document_id: str
    job_id: str
    duplicate: bool = Field(description="The collection held this very file already.")


class DocumentView(BaseModel):
    """A document."""

    document_id: str
    title: str
    filename: str
    collection: str
    sha256: str
    pages: int
    state: str
    metadata: dict[str, Any]
    created_at: str


class DocumentsView(BaseModel):
    """A page of documents."""

    items: list[DocumentView]
    next: str | None = Field(description="Pass it as `after` for the following page; null at the end.")


class WordView(BaseModel):
    """A word of a page; one that was divided at the end of a line is two that touch."""

    text: str
    start: int = Field(description="In the page's text, characters from 0.")
    end: int
    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1 in points from the top left.")


class OcrView(BaseModel):
    """What was done about a page whose own text did not seem to do."""

    why: Literal["absent", "garbage", "hidden", "mixed"] = Field(description="What was wrong with its own text.")
    engine: str = Field(examples=["tesseract 5.3.0"])
    dpi: int = Field(description="Of what was recognised; 0 if nothing was.")
    languages: list[str]
    confidence: float = Field(description="Mean of the words, 0 to 100.")
    milliseconds: float = Field(description="Drawing, preparing and recognising.")
    rotation: int = Field(description="Degrees that the page was turned by.")
    skew: float = Field(description="Degrees that the page was levelled by.")
    used: bool = Field(description="Whether recognised words are in `text`; else it is the page's own.")


class PageView(BaseModel):
    """A page as it was read."""

    number: int = Field(description="From 1.")
    label: str = Field(description="What the document calls it (`iv`); empty where it says nothing.")
    width: float = Field(description="Points, as displayed.")
    height: float
    text: str
    words: list[WordView]
    ocr: OcrView | None = Field(description="Null where nothing was wrong with the page's own text.")
    error: str | None = Field(description="Why the page could not be read.")


class CountsView(BaseModel):
    """What a deletion removed from each store."""

    documents: int
    jobs: int
    idempotency_keys: int
    pages: int
    chunks: int
    mentions: int
    entities: int = Field(description="Names that nothing else mentions.")
    blobs: int = Field(description="Files that no other document is.")
    bytes: int = Field(description="Of those files.")
    indexes: dict[str, int | None] = Field(
        description="Chunks or names taken out of each index; null for a replica that is down, and reads the store "
        "anew before it answers again."
    )
    change: int = Field(description="Number of the change that every index has followed.")


class RemovedView(CountsView):
    """What the deletion of a document removed."""

    document_id: str


class RemovedCollectionView(CountsView):
    """What the deletion of a collection removed."""

    collection: str


class JobView(BaseModel):
    """The work of reading one document."""

    job_id: str
    document_id: str
    state: str
    pages_done: int = Field(description="Pages committed to the store.")
    pages_total: int
    attempt: int
    error: str | None
    change: int | None = Field(description="Number of the change that published the document.")
    created_at: str
    updated_at: str
    collection: str
    filename: str
    priority: int = Field(description="-100 to 100; higher goes first.")
    pages_per_s: float | None = Field(description="Mean of the attempt under way, or of the last one.")
    eta_s: float | None = Field(description="Seconds until all pages are read; null while nobody can tell.")


class JobsView(BaseModel):
    """A page of jobs."""

    items: list[JobView]
    next: str | None = Field(description="Pass it as `after` for the following page; null at the end.")


class NameView(BaseModel):
    """A name that documents mention."""

    entity_id: int
    name: str = Field(description="As it was first written.")
    label: str = Field(description="Its type, in the scheme of the spaCy pipeline.", examples=["PERSON"])
    mentions: int
    documents: int = Field(description="How many mention it.")


class EntitiesView(BaseModel):
    """A page of names."""

    items: list[NameView]
    next: str | None = Field(description="Pass it as `after` for the following page; null at the end.")


class EntityDetailView(NameView):
    """A name with its spellings."""

    spellings: list[str] = Field(description="As it is written, the most frequent first.")


class MentionView(BaseModel):
    """A place where a name is mentioned."""

    document_id: str
    title: str
    collection: str
    page: int
    start: int = Field(description="Offset into the text of the page, characters.")
    end: int
    text: str
    boxes: list[tuple[float, float, float, float]]


class MentionsView(BaseModel):
    """A page of mentions."""

    items: list[MentionView]
    next: str | None = Field(description="Pass it as `after` for the following page; null at the end.")


class RelatedNameView(BaseModel):
    """A name that stands beside another."""

    entity_id: int
    name: str
    label: str
    pages: int = Field(description="Pages that mention both.")


class RelatedView(BaseModel):
    """A page of names that stand beside one."""

    items: list[RelatedNameView]
    next: str | None = Field(description="Pass it as `after` for the following page; null at the end.")


class NamesView(BaseModel):
    """A list of names."""

    items: list[str]
    next: str | None


class SourceView(BaseModel):
    """A registered SQL source."""

    name: str
    kind: str
    path: str = Field(description="Of an SQLite file; else empty, as what follows is for one.")
    host: str
    port: int
    database: str
    user: str
    password: Literal["none", "stored", "environment"] = Field(description="Where it comes from.")
    password_env: str
    tls: str
    samples: bool
    exclude: tuple[str, ...]


class TestView(BaseModel):
    """What a look at a source found."""

    ok: bool
    version: str = Field(examples=["PostgreSQL 15.4"])
    latency_ms: float = Field(description="Of one exchange, once connected.")
    connect_ms: float = Field(description="Of all of it, the connection included.")
    writable: list[str] = Field(description="What the user could write to if it went there by itself.")
    warnings: list[str]


class SourceColumnView(BaseModel):
    """A column."""

    name: str
    type: str
    nullable: bool
    comment: str
    samples: list[Any]


class ForeignKeyView(BaseModel):
    """Columns that point at another table."""

    columns: list[str]
    table: str
    references: list[str]
    namespace: str = Field(description="Of that table; empty where it is the same.")


class IndexView(BaseModel):
    """An index; an expression in it is an empty name."""

    name: str
    columns: list[str]
    unique: bool


class TableView(BaseModel):
    """A table."""

    name: str
    namespace: str
    kind: str
    columns: list[SourceColumnView]
    key: list[str]
    foreign_keys: list[ForeignKeyView]
    indexes: list[IndexView]
    rows: int | None = Field(description="An estimate.")
    comment: str


class SchemaView(BaseModel):
    """The tables of a source."""

    tables: list[TableView]
    read_at: str = Field(description="When the source was looked at.")
    truncated: bool = Field(description="There are more tables.")


class ResultColumnView(BaseModel):
    """A column of an answer."""

    name: str
    type: str = Field(description="In the database's words; empty where it has none.")


class RowsView(BaseModel):
    """The rows of a statement."""

    columns: list[ResultColumnView]
    rows: list[Any] = Field(description="Objects, or arrays with `_shape=arrays`.")
    truncated: bool = Field(description="There were more than the limits let through.")
    elapsed_ms: float


class AdviceView(BaseModel):
    """Something that a plan says."""

    level: Literal["warning", "note"]
    table: str | None
    text: str


class PlanView(BaseModel):
    """How a statement would be run."""

    plan: Any = Field(description="In the database's own form.")
    analysis: list[AdviceView] = Field(description="The same in plain words, warnings first.")


class SourcesView(BaseModel):
    """Registered SQL sources."""

    items: list[SourceView]
    next: str | None


class LookupView(LookupBody):
    """A stored lookup."""

    source: str
    arguments: dict[str, Any] = Field(description="JSON schema of its arguments, as tools of models are described.")


class LookupsView(BaseModel):
    """The stored lookups of a source."""

    items: list[LookupView]
    next: str | None


class CitationView(BaseModel):
    """Where a sentence stands: boxes on a page of a document, or a row of a table."""

    document_id: str | None = None
    title: str | None = None
    page: int | None = None
    boxes: list[tuple[float, float, float, float]] | None = None
    start: int | None = None
    end: int | None = None
    source: str | None = None
    table: str | None = None
    key: dict[str, Any] | None = None
    kind: Literal["table", "lookup", "model"] | None = None


class SentenceView(BaseModel):
    """One statement with its evidence."""

    text: str
    citation: CitationView


class PassageView(BaseModel):
    """A passage found."""

    document_id: str
    title: str
    collection: str
    page: int
    boxes: list[tuple[float, float, float, float]]
    start: int
    end: int
    text: str
    score: float
    scores: dict[str, float]


class PassagesView(BaseModel):
    """The passages found for a query."""

    passages: list[PassageView]
    encoder: Literal["exact", "fast"] | None = Field(
        description="What made the vector of the query; null where it was searched for by its words alone."
    )
    degraded: list[str] = Field(description="What was done in a poorer way than was asked for, and why.")
    partial: bool = Field(description="Whether a part of the documents could not be searched; `degraded` says which.")


class RowView(BaseModel):
    """A row of an SQL source."""

    source: str
    table: str = Field(description="Of a lookup's result its name; empty for a statement of a language model.")
    key: dict[str, Any] = Field(description="Primary key; of a result the arguments, and `row`, its place in it.")
    columns: dict[str, Any]
    sql: str = Field(description="The statement that finds it again.")
    kind: Literal["table", "lookup", "model"]
    via: str = Field(description="The foreign key that led to it, as `table.column`; empty where a name did.")


class LookupRowsView(BaseModel):
    """Rows of a stored lookup."""

    rows: list[RowView]
    truncated: bool = Field(description="Whether there are more.")


class EntityView(BaseModel):
    """A name in the question and where it is known from."""

    text: str
    label: str
    start: int
    end: int
    links: list[dict[str, Any]]


class BranchView(BaseModel):
    """What became of one branch of the fan-out."""

    name: str
    status: Literal["ok", "timeout", "error", "skipped"]
    started_ms: float
    elapsed_ms: float
    attempts: int
    error: str | None


class AnswerView(BaseModel):
    """What an answer says and how."""

    text: str
    mode: str
    sentences: list[SentenceView]


class AskView(BaseModel):
    """An answer with all its evidence."""

    request_id: str
    question: str
    answer: AnswerView
    passages: list[PassageView]
    rows: list[RowView]
    entities: list[EntityView]
    branches: list[BranchView]
    partial: bool
    degraded: list[str]
    elapsed_ms: float
    encoder: Literal["exact", "fast"] | None = Field(
        description="What made the vector of the question; null where passages were found by words alone, or not."
    )


class ReplicaView(BaseModel):
    """The state of one actor."""

    ready: bool
    error: str | None = None
    pid: int | None = None
    node: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class HealthView(BaseModel):
    """The state of the system."""

    status: Literal["ok", "degraded"]
    not_ready: list[str] = Field(description="Actors that cannot do their work now.")
    trouble: list[str] = Field(description="What actors that are ready wait for, or go on without, and why.")
    replicas: dict[str, ReplicaView]


class VersionView(BaseModel):
    """Versions."""

    version: str
    pipeline: int = Field(description="Version of the reading pipeline.")
