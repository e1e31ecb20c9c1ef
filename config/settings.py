"""Settings: what can be tuned, with its default, its unit and where the value in force came from.

Precedence, highest first: `GATHERUM_SECTION__KEY` in the environment, the plain aliases (`DATABASE_URL`, …), the config
file (`GATHERUM_CONFIG`, else `gatherum.yaml` in the working directory), `config/default.yaml`. Nothing reads
settings at import: they are loaded once at a process's entry and handed down, each actor getting its own section.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

PREFIX = "GATHERUM_"
DELIMITER = "__"
CONFIG_VARIABLE = "GATHERUM_CONFIG"
NOT_SETTINGS = frozenset({CONFIG_VARIABLE, "GATHERUM_DATA"})
"""Names with the prefix that are no settings; `GATHERUM_DATA` is where the benchmarks find their corpora."""
UNTOLD = frozenset({"encoder.url", "encoder.key_env"})
"""Settings whose wrong value is not shown: it may be a key in the wrong place."""
DEFAULTS = Path(__file__).with_name("default.yaml")

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_AND_PORT = re.compile(
    rf"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>{_LABEL}(?:\.{_LABEL})*))(?::(?P<port>[0-9]{{1,5}}))?"
)
"""A host, or a host with a port, as in a URL."""

ALIASES: Mapping[str, tuple[str, str]] = {
    "DATABASE_URL": ("database", "url"),
    "ASYNC_TIMEOUT": ("orchestrator", "timeout_s"),
    "MAX_CONCURRENT_REQUESTS": ("api", "max_concurrent_requests"),
    "BACKGROUND_TASK_WORKERS": ("ingest", "workers"),
}
"""Plain environment names that operators expect, and the setting each stands for."""


class SettingsError(Exception):
    """A setting is wrong. The message names the key, the value's source and what is expected."""


class Section(BaseModel):
    """Base of the sections: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ApiSettings(Section):
    """The HTTP entry point (`serve/deployment.py`)."""

    host: str = Field(description="Address to bind.")
    port: int = Field(ge=0, le=65535, description="Port of the HTTP entry point; 0 takes a free one.")
    replicas: int = Field(ge=1, description="Processes that accept requests.")
    max_concurrent_requests: int = Field(
        ge=1,
        description="Questions and searches that one client alone may have under way per replica; more are refused "
        "with 429. Several clients share them, and an eighth besides.",
    )
    max_uploads: int = Field(ge=1, description="The same for uploads and extractions.")
    max_statements: int = Field(ge=1, description="The same for what is asked of SQL sources.")
    max_others: int = Field(ge=1, description="The same for all else; what asks for the state is always answered.")
    max_upload_mb: float = Field(gt=0, description="Largest file accepted, MB (10^6 bytes).")
    upload_timeout_s: float = Field(gt=0, description="Time that the body of a request may take to come in, s.")
    stall_s: float = Field(
        gt=0, description="Time that a client has for each 64 KB it sends or takes, s; a slower one is cut off."
    )
    max_extractions: int = Field(ge=1, description="Extractions under way at once per replica; more get a 429.")
    max_extract_mb: float = Field(gt=0, description="Longest answer of an extraction that is not streamed, MB.")
    max_question_chars: int = Field(ge=1, description="Longest question accepted, characters.")
    batch_size: int = Field(ge=1, description="Most questions that travel to the orchestrator together.")
    batch_wait_ms: float = Field(
        ge=0, description="How long a question waits for company while others are on their way, ms."
    )
    batches_in_flight: int = Field(ge=1, description="Batches under way at once per replica.")
    max_event_streams: int = Field(ge=1, description="Clients that follow jobs at once per replica; more get a 429.")


class OrchestratorSettings(Section):
    """`actors/orchestrator.py`."""

    replicas: int = Field(ge=1, description="Processes.")
    timeout_s: float = Field(gt=0, description="Budget of a question that names none, s.")
    reserve_ms: float = Field(ge=0, description="Kept back from each branch for merging, ms.")
    max_in_flight: int = Field(ge=1, description="Questions under way at once; more are refused with 429.")
    sentences: int = Field(ge=1, le=10, description="Most sentences quoted in an answer.")
    cache_mb: float = Field(
        ge=0,
        description="Answers kept until a document of their collections changes, MB (10^6 bytes) per process; 0 keeps "
        "none. Those with rows of SQL sources, and partial ones, are never kept.",
    )
    slow_ms: float = Field(
        gt=0, description="Answers that take longer are logged, with when each of their branches ran, ms."
    )


LANGUAGES = (
    *("arabic", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hungarian", "italian"),
    *("norwegian", "portuguese", "romanian", "russian", "spanish", "swedish", "tamil", "turkish"),
)
"""Those that there is a stemmer for."""


def _language(name: str) -> str:
    if name not in LANGUAGES:
        raise ValueError(f"{name!r} is no language that words can be stemmed in; there are {', '.join(LANGUAGES)}")
    return name


class RetrievalSettings(Section):
    """`actors/retrieval.py` and `actors/follower.py`."""

    replicas: int = Field(ge=1, description="Processes for each shard, each with the whole of its index.")
    shards: int = Field(
        ge=1,
        le=256,
        description="Shares that the documents are divided into, each in processes of its own: 1 keeps all of them "
        "together. All shards are asked for every question. Every index is built anew when it is changed.",
    )
    writer_memory_mb: int = Field(ge=15, description="Memory of the index writer, MB.")
    poll_s: float = Field(gt=0, description="Longest wait for news from the store, s.")
    max_query_terms: int = Field(ge=1, description="Terms of a query that are looked up; the rest are ignored.")
    language: str = Field(description="Language of the documents, which decides how words are stemmed.")
    languages: tuple[str, ...] = Field(
        description="Collections in another language, each as `collection=language`. All documents are indexed anew "
        "when it is changed."
    )
    k1: float = Field(
        ge=0,
        le=10,
        description="Of BM25: how much more a word counts that is often in a passage. With another than 1.2, what is "
        "found by words is scored a second time.",
    )
    b: float = Field(
        ge=0,
        le=1,
        description="Of BM25: how much less a word counts in a long passage. With another than 0.75, likewise.",
    )
    encoder: Literal["exact", "fast", "auto"] = Field(
        description="What makes the vectors of queries: the encoder itself; its fast imitation, once there is one; or "
        "the first as long as its queue is short and it takes no more than its share, else the second."
    )
    exact_queue: int = Field(
        ge=1,
        description="Queries that the encoder may have before it for `auto` to use it, about 10 ms of a core each.",
    )
    exact_share: float = Field(
        gt=0,
        le=1,
        description="Of one core that `auto` may give to the encoder on the average; a second of work can be saved up.",
    )
    encoder_threads: int = Field(ge=1, description="Threads of the encoder for queries.")
    lexical_weight: float = Field(gt=0, description="Weight of the words in hybrid searches.")
    dense_weight: float = Field(gt=0, description="Weight of the vectors, where the encoder made the query's.")
    fast_weight: float = Field(gt=0, description="Weight of the vectors, where its fast imitation made it.")
    exact_below: int = Field(ge=0, description="Chunks from which vectors are searched by a graph (HNSW).")

    snapshot_s: float = Field(
        gt=0,
        description="Time between two snapshots of the indexes on the disk, s; longer where writing one takes long.",
    )
    lag_s: float = Field(gt=0, description="Time behind the change log from which a replica is not ready, s.")

    @field_validator("language")
    @classmethod
    def _is_known(cls, language: str) -> str:
        return _language(language)

    @field_validator("languages")
    @classmethod
    def _are_known(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            collection, equals, language = entry.partition("=")
            if not collection or not equals:
                raise ValueError(f"{entry!r} is not collection=language")
            _language(language)
        return entries


class EncoderSettings(Section):
    """What turns texts into vectors (`actors/search/encoder.py`); those of another encoder do not count."""

    kind: Literal["minilm", "folder", "remote", "none"] = Field(
        description="`minilm`: all-MiniLM-L6-v2 in 8 bits, which is installed with Gatherum. `folder`: any sentence "
        "transformer in ONNX form. `remote`: an endpoint shaped like OpenAI's `/v1/embeddings`. `none`: searches go by "
        "words alone."
    )
    path: str = Field(description="Of the `folder`: it holds `model.onnx` and `tokenizer.json`, on every node.")
    sha256: str = Field(
        description="That the `folder`'s model must have; one that has another is not loaded. Empty takes any."
    )
    url: str = Field(
        description="Of the `remote` endpoint, without `/embeddings` at the end: `https://api.example.com/v1`. A host "
        "that is not on the public internet, or another port than 80 and 443, is to be named in `egress.allow_hosts`."
    )
    model: str = Field(max_length=60, description="What the `remote` endpoint calls the model.")
    dimension: int = Field(ge=0, le=16_000, description="Numbers in a vector of the `remote` model.")
    key_env: str = Field(
        description="Name of the environment variable that has the key of the `remote` endpoint; empty for none. It is "
        "to be set on every node of the cluster before Ray is started there."
    )
    requests: int = Field(ge=1, description="Requests to the `remote` endpoint at once, for each process that asks it.")
    timeout_s: float = Field(
        gt=0, description="Time for one request to the `remote` endpoint with texts of documents, s."
    )
    question_timeout_s: float = Field(
        gt=0, description="Time for one with questions, s; after it they are searched for by their words."
    )

    @field_validator("path")
    @classmethod
    def _names_the_folder(cls, path: str, info: ValidationInfo) -> str:
        if info.data.get("kind") == "folder" and not path:
            raise ValueError("encoder.kind is folder, so it must name one")
        return path

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, sha256: str) -> str:
        if sha256 and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError("a sha256 is 64 hexadecimal digits in lower case")
        return sha256

    @field_validator("url")
    @classmethod
    def _is_an_endpoint(cls, url: str, info: ValidationInfo) -> str:
        """At the start, and without a key in it: what is configured is shown, and kept in the store."""
        if info.data.get("kind") == "remote":
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("encoder.kind is remote, so it must be an http or https URL")
            if parts.username is not None or parts.query or parts.fragment:
                raise ValueError("it has a user, a query or a fragment; a key belongs into the variable of key_env")
        return url

    @field_validator("model", "dimension")
    @classmethod
    def _is_there(cls, value: Any, info: ValidationInfo) -> Any:
        if info.data.get("kind") == "remote" and not value:
            raise ValueError("encoder.kind is remote, so it must be given")
        return value

    @field_validator("key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if name and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            # Not told which: somebody may have put the key itself here.
            raise ValueError("it is the name of an environment variable, not the key")
        return name


class EntitiesSettings(Section):
    """`actors/entities.py`."""

    replicas: int = Field(ge=1, description="Processes.")
    model: str = Field(description="spaCy pipeline, by package name or folder.")
    min_name_chars: int = Field(ge=1, description="Names shorter than this are not looked for in questions.")
    read_questions: int = Field(
        ge=0,
        description="Questions that come together up to which spaCy reads them too, while it has nothing else to do; 0 "
        "leaves questions to the names that are known.",
    )
    poll_s: float = Field(gt=0, description="Longest wait for news from the store, s.")
    refresh_s: float = Field(gt=0, description="Time after which the names in an SQL source are read again, s.")


class PdfSettings(Section):
    """`actors/pdf.py` and the page tasks."""

    replicas: int = Field(ge=1, description="Processes that direct page tasks.")
    range_pages: int = Field(
        ge=1, description="Pages read by one task; up to four times as many where only text is wanted."
    )
    scanned_range_pages: int = Field(ge=1, description="Pages read by one task where they need OCR.")
    task_cpus: float = Field(gt=0, description="CPUs Ray sets aside for a page task.")
    task_max_calls: int = Field(ge=2, description="Tasks after which a worker process is replaced.")
    worker_max_rss_mb: int = Field(
        ge=300, description="Private memory in RAM from which a worker process is replaced after its task, MB."
    )
    worker_memory_mb: int = Field(
        ge=300, description="Memory a worker process may take beyond what it starts with, and each of its children, MB."
    )
    page_timeout_s: float = Field(gt=0, description="Budget of one page, s; a range gets the sum.")
    document_timeout_s: float = Field(gt=0, description="Budget of a document, s.")
    max_file_mb: float = Field(gt=0, description="Largest file opened, MB (10^6 bytes).")
    max_pages: int = Field(ge=1, description="Largest document accepted, pages.")
    max_text_mb: float = Field(gt=0, description="Longest text taken from one document, millions of characters.")
    max_images_mb: float = Field(
        gt=0, description="Bytes of images that one document gives to whoever asks for them, MB (10^6 bytes)."
    )
    ocr_dpi: int = Field(ge=72, le=1200, description="Finest resolution scanned pages are drawn at.")
    ocr_languages: tuple[str, ...] = Field(min_length=1, description="Tesseract language codes.")
    max_pixels: int = Field(ge=1_000_000, description="Largest rendering of a page, pixels.")
    chunk_tokens: int = Field(ge=20, le=8_000, description="Longest chunk, word pieces (estimated).")


class DatabaseSettings(Section):
    """`actors/database.py`: the store."""

    url: str = Field(description="SQLAlchemy URL of the store; empty for SQLite in the data directory.")
    readers: int = Field(ge=1, description="Connections for reading.")
    writers: int = Field(ge=1, description="Connections for writing; SQLite has one, whatever this says.")
    recycle_s: float = Field(gt=0, description="Age at which a connection is replaced before its next use, s.")
    busy_timeout_s: float = Field(gt=0, description="How long the database waits for a lock, s.")
    statement_timeout_s: float = Field(gt=0, description="Budget of one unit of work, s.")
    retry_s: float = Field(
        ge=0, description="How long a unit of work is tried again after errors that pass, such as a lost connection, s."
    )


class BlobSettings(Section):
    """The files (`actors/store/blobs.py`)."""

    url: str = Field(
        description="Where they are kept: empty for the data directory, `file:///folder` for a share that every node "
        "has mounted there, `s3://bucket/prefix`. Credentials come from the environment (`AWS_ACCESS_KEY_ID` …)."
    )
    endpoint: str = Field(description="URL of the S3 service; empty for AWS_ENDPOINT_URL, else Amazon's.")
    cache_mb: int = Field(ge=1, description="Copies of files of a bucket kept on each node, MB; those in use stay.")
    grace_s: float = Field(ge=0, description="Age from which a file that belongs to no document is swept, s.")
    sweep_s: float = Field(gt=0, description="Time between two sweeps for files that a crash has left behind, s.")


class IngestSettings(Section):
    """`actors/ingest.py`."""

    workers: int = Field(ge=1, description="Documents read at once.")
    lease_s: float = Field(gt=0, description="How long a claimed job is held without a heartbeat, s.")
    heartbeat_s: float = Field(gt=0, description="Time between heartbeats, s; at most a third of the lease.")
    poll_s: float = Field(gt=0, description="Longest wait for a new job, s.")
    max_attempts: int = Field(ge=1, description="Attempts before a job is given up.")
    retry_base_s: float = Field(ge=0, description="First pause before a failed job is tried again, s; doubles.")
    upkeep_s: float = Field(
        gt=0, description="Time between two looks for documents to be read again with a newer pipeline, s."
    )
    cpus: float = Field(
        ge=0,
        description="CPUs of the cluster that its page tasks may use at once; 0 leaves one to questions where there "
        "are more than two, and else leaves them their share by priority alone.",
    )


def _hosts_or_networks(entries: tuple[str, ...]) -> tuple[str, ...]:
    """At the start, or an entry that means nothing would only be found by the first replica."""
    for entry in entries:
        try:
            ip_network(entry)
        except ValueError:
            if not HOST_AND_PORT.fullmatch(entry):
                raise ValueError(
                    f"{entry!r} is neither a host, nor host:port, nor a network such as 10.0.0.0/8"
                ) from None
    return entries


class SourcesSettings(Section):
    """Registered SQL databases (`actors/sql/`)."""

    sqlite_root: str = Field(description="Folder that SQLite sources lie in; empty allows none.")
    timeout_s: float = Field(gt=0, description="Budget of one look-up, s.")
    max_rows: int = Field(ge=1, description="Most rows read by one look-up.")
    max_values: int = Field(ge=0, description="Most name-like values taken from one column.")
    max_names: int = Field(ge=0, description="Most name-like values taken from one source.")
    exclude: tuple[str, ...] = Field(
        description="Columns whose values are neither looked for in questions nor shown as evidence, each as "
        "`table.column` with `*` for anything; statements and stored lookups may read them all the same."
    )
    max_concurrent: int = Field(ge=1, description="Statements that run in one source at once, per process.")
    max_waiting: int = Field(ge=0, description="Statements that wait for one source, per process; more get a 429.")
    query_timeout_s: float = Field(gt=0, description="Longest budget of a statement that a client sends, s.")
    query_rows: int = Field(ge=1, description="Most rows that a statement gives.")
    query_mb: float = Field(gt=0, description="Most that a statement gives, MB (10^6 bytes).")
    schema_s: float = Field(ge=0, description="Time after which the tables of a source are looked at again, s.")
    samples: int = Field(
        ge=0, description="Values of each column shown with the tables, where a source allows it; 0 shows none."
    )
    allow_hosts: tuple[str, ...] = Field(
        description="Database servers that are open besides those on the public internet at the ports 3306 and 5432: "
        "`host`, `host:port`, an address, or a network in CIDR notation. Loopback and private networks are closed "
        "unless they stand here. The addresses of a host named here are not vetted."
    )
    password_variables: tuple[str, ...] = Field(
        description="Patterns of the environment variables that a source may name for its password. None of Gatherum's "
        "own (`GATHERUM_…`) may be named. Whoever registers a source has such a password sent to a host of his choice, "
        "so let them be those of sources alone; without TLS they go to hosts of `sources.allow_hosts` only."
    )

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts_or_networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return _hosts_or_networks(entries)


class ModelSettings(Section):
    """A language model behind an OpenAI-compatible API (`actors/sql/model.py`); nothing needs one."""

    url: str = Field(
        description="Where its API is, such as `http://127.0.0.1:11434/v1`; empty for none. Questions, and names of "
        "tables, columns and values that they mention, are sent there."
    )
    name: str = Field(description="What the API calls the model.")
    key_env: str = Field(description="Name of the environment variable that holds the API's key; empty for none.")
    text_to_sql: bool = Field(
        description="Whether it is asked for an SQL statement where a question calls for no stored lookup. The "
        "statement goes through the same guard as any other, and is shown."
    )
    timeout_s: float = Field(gt=0, description="Budget of one call, s.")
    max_tokens: int = Field(ge=16, description="Longest reply that is asked for, tokens.")
    calls_per_minute: int = Field(ge=0, description="Most calls in any minute; questions beyond go without.")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if url and not re.match(r"https?://[^/\s?#@]+", url):
            raise ValueError(f"{url!r} is no http or https URL")
        return url.rstrip("/")


class EgressSettings(Section):
    """Fetching PDFs from URLs (`actors/egress.py`, `serve/fetch.py`)."""

    enabled: bool = Field(description="Whether URLs are fetched at all.")
    allow_hosts: tuple[str, ...] = Field(
        description="What is open besides the public internet: `host`, `host:port`, an address, or a network in CIDR "
        "notation. The addresses of a host named here are not vetted."
    )
    ca_file: str = Field(
        description="PEM file of certificate authorities trusted besides those of certifi and the system, such as an "
        "intranet's own; empty for none."
    )
    timeout_s: float = Field(gt=0, description="Budget of fetching one file, redirects included, s.")
    max_fetches: int = Field(ge=1, description="Files fetched at once per replica; more get a 429.")

    @field_validator("allow_hosts")
    @classmethod
    def _are_hosts_or_networks(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        return _hosts_or_networks(entries)

    @field_validator("ca_file")
    @classmethod
    def _holds_certificates(cls, path: str) -> str:
        """At the start, as above: the first fetch over TLS may be days away."""
        if path:
            try:
                ssl.create_default_context(cafile=path)
            except (OSError, ssl.SSLError):
                raise ValueError(f"{path!r} is not a readable file of certificates in PEM form") from None
        return path


class RaySettings(Section):
    """The Ray node that `gatherum up` starts."""

    num_cpus: int = Field(ge=0, description="CPUs offered to Ray; 0 offers all.")
    object_store_mb: int = Field(ge=80, description="Shared memory for page data, MB.")
    dashboard: bool = Field(description="Whether Ray's dashboard is started (on 127.0.0.1).")


class TracingSettings(Section):
    """Traces in OpenTelemetry's form (`actors/tracing.py`)."""

    url: str = Field(
        description="Of a collector that takes OTLP over HTTP, such as `http://host:4318`; empty for none."
    )
    share: float = Field(ge=0, le=1, description="Share of the requests that are traced.")


class LogSettings(Section):
    """Log lines."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(description="Least severe level written.")
    format: Literal["auto", "json", "pretty"] = Field(description="`auto`: pretty on a terminal, JSON elsewhere.")


class Settings(Section):
    """All settings. Build it with `load()`."""

    data_dir: Path = Field(description="Folder of the embedded store, the blobs and Ray's start log.")
    api: ApiSettings
    orchestrator: OrchestratorSettings
    retrieval: RetrievalSettings
    encoder: EncoderSettings
    entities: EntitiesSettings
    pdf: PdfSettings
    database: DatabaseSettings
    blobs: BlobSettings
    ingest: IngestSettings
    sources: SourcesSettings
    model: ModelSettings
    egress: EgressSettings
    ray: RaySettings
    tracing: TracingSettings
    logs: LogSettings

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the store, the embedded default filled in."""
        return self.database.url or f"sqlite+aiosqlite:///{self.data_dir / 'gatherum.db'}"

    @property
    def sources_key(self) -> Path:
        """File of the key that the passwords of sources are stored under."""
        return self.data_dir / "sources.key"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the origin of each value.

    Attributes:
        settings: the values in force.
        origins: dotted key to where it came from, e.g. `{"api.port": "GATHERUM_API__PORT"}`.
    """

    settings: Settings
    origins: Mapping[str, str]


Layer = tuple[dict[str, Any], Mapping[str, str] | str]


def load(overrides: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in force. See `load_with_origins`."""
    return load_with_origins(overrides, environ=environ).settings


def load_with_origins(
    overrides: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None
) -> Loaded:
    """Read every layer and merge them.

    Args:
        overrides: dotted keys from a command line, above everything else, e.g. `{"api.port": 8080}`. None is none.
        environ: the environment; `os.environ` by default.

    Raises:
        SettingsError: a key is unknown, a value is wrong, or the config file cannot be read.
    """
    env = os.environ if environ is None else environ
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for values, origin in _layers(overrides or {}, env):
        for key, value in _leaves(values):
            _put(merged, key, value)
            origins[key] = origin if isinstance(origin, str) else origin[key]
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from None
    # One absolute path for all processes, whatever their working directory.
    update: dict[str, Any] = {"data_dir": settings.data_dir.expanduser().resolve()}
    if settings.sources.sqlite_root:
        root = Path(settings.sources.sqlite_root).expanduser().resolve()
        update["sources"] = settings.sources.model_copy(update={"sqlite_root": str(root)})
    if settings.encoder.path:
        folder = Path(settings.encoder.path).expanduser().resolve()
        update["encoder"] = settings.encoder.model_copy(update={"path": str(folder)})
    settings = settings.model_copy(update=update)
    if settings.ingest.heartbeat_s * 3 > settings.ingest.lease_s:
        raise SettingsError(
            f"ingest.heartbeat_s ({settings.ingest.heartbeat_s:g} s, from {origins['ingest.heartbeat_s']}) must be at "
            f"most a third of ingest.lease_s ({settings.ingest.lease_s:g} s), or a job is lost by one late heartbeat."
        )
    return Loaded(settings, origins)


def _layers(overrides: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[Layer]:
    """The layers, weakest first."""
    yield _read_yaml(DEFAULTS), "config/default.yaml"
    named = env.get(CONFIG_VARIABLE)
    path = Path(named) if named else Path("gatherum.yaml")
    if named or path.is_file():
        yield _read_yaml(path), str(path)
    alias: dict[str, Any] = {}
    for name, (section, key) in ALIASES.items():
        if name in env:
            alias.setdefault(section, {})[key] = env[name]
    yield alias, {f"{section}.{key}": name for name, (section, key) in ALIASES.items()}
    nested: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in env.items():
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            key = name.removeprefix(PREFIX).lower().replace(DELIMITER, ".")
            _put(nested, key, _parse(value))
            names[key] = name
    yield nested, {key: _owner(key, names) for key, _ in _leaves(nested)}
    given = {key: value for key, value in overrides.items() if value is not None}
    line: dict[str, Any] = {}
    for key, value in given.items():
        _put(line, key, value)
    yield line, "command line"


def _owner(key: str, names: Mapping[str, str]) -> str:
    while key not in names:
        key = key.rpartition(".")[0]
    return names[key]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"The config file {path} cannot be read: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"The config file {path} must be a mapping of sections, not a {type(content).__name__}.")
    return content


def _parse(value: str) -> Any:
    """A value from the environment: lists and mappings as in YAML; everything else stays text for pydantic."""
    parsed = yaml.safe_load(value) if value[:1] in "[{" and value else value
    return parsed if isinstance(parsed, list | dict) else value


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"{dotted}: {parent} is a value, not a section.")
    tree[last] = value


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        origin = next((origins[name] for name in origins if name == key or name.startswith(f"{key}.")), None)
        known = f" ({origin})" if origin else ""
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}{known}: there is no such setting. `gatherum config` lists them all.")
        elif key in UNTOLD:
            lines.append(f"{key}{known}: {problem['msg']}.")
        else:
            lines.append(f"{key}{known}: {problem['msg']}, got {problem['input']!r}.")
    return "Wrong settings:\n" + "\n".join(f"  {line}" for line in lines)
