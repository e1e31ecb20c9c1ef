"""The tables of the store.

What a file says does not depend on who uploaded it, so pages, chunks and mentions belong to a *reading*: the content
hash of the file together with the version of the pipeline that read it. Documents point at a reading; two collections
that hold the same file share one. A document becomes visible when its `pipeline` is set and a change number is drawn,
in one transaction: rows of pages that are still being read are there already, but no document points at them.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql

# SQLite gives row ids only to INTEGER PRIMARY KEY.
Id = BigInteger().with_variant(Integer, "sqlite")

# MySQL's plain ones end at 64 KB.
LongText = Text().with_variant(mysql.LONGTEXT(), "mysql")
LongBinary = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql")

# Names for every constraint, so that a later migration can drop it on any database.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

collections = Table(
    "collections",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("created_at", Double, nullable=False),  # seconds since the epoch, the database's clock
)

documents = Table(
    "documents",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("collection", String(100), ForeignKey("collections.name"), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("title", String(500), nullable=False),
    Column("filename", String(500), nullable=False),
    Column("pages", Integer, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("state", String(12), nullable=False),
    Column("pipeline", Integer),  # version of the published reading; NULL until published
    Column("created_at", Double, nullable=False),
    UniqueConstraint("collection", "sha256"),
    Index(None, "sha256", "pipeline"),  # those of a reading; SQLite would look for them by the pipeline alone
    Index(None, "pipeline"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("document_id", String(32), nullable=False),
    Column("dedup_key", String(200), nullable=False, unique=True),
    Column("state", String(12), nullable=False),
    Column("pipeline", Integer, nullable=False),  # version to read with
    Column("run_at", Double, nullable=False),  # when it is due; of a job that was claimed, when that was
    Column("attempt", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("lease_until", Double),
    Column("worker", String(100)),
    Column("fence", BigInteger, nullable=False),
    Column("error", Text),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("collection", String(100), nullable=False, server_default=text("''")),  # of its document
    Column("lane", Integer, nullable=False, server_default=text("0")),  # lower ones first; see `queue.py`
    Column("turn", BigInteger, nullable=False, server_default=text("0")),
    Column("read_before", Integer, nullable=False, server_default=text("0")),  # pages in when the attempt began
    Index(None, "document_id"),
    Index(None, "state", "lane", "turn", "run_at"),  # claims
    Index(None, "lease_until"),  # those whose worker has gone: few have a lease at all
    Index(None, "collection", "state", "lane", "turn"),  # a collection's last turn
    Index(None, "state", "id"),  # lists
)

# What an upload under an Idempotency-Key was answered with.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("document_id", String(32), nullable=False),
    Column("job_id", String(32), nullable=False),
    Column("duplicate", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "created_at"),
)

# A row for the content of every document: whoever adds or removes bytes holds it; see `files.py`.
contents = Table(
    "contents",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("removing", Double),  # since when its bytes are being removed
)

# Readings that a newer one has taken the place of: removed once nothing uses them any more.
superseded = Table(
    "superseded",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("pipeline", Integer, primary_key=True),
)

pages = Table(
    "pages",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("pipeline", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("width", Double, nullable=False),
    Column("height", Double, nullable=False),
    Column("text", LongText, nullable=False),
    Column("words", LongBinary, nullable=False),  # zlib over Words.data
    Column("ocr", JSON(none_as_null=True)),
    Column("error", Text),
    Column("label", String(50), nullable=False, server_default=text("''")),
    # How many there were, so that a loss can be seen; NULL of pages of before.
    Column("chunks", Integer),
    Column("mentions", Integer),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("sha256", String(64), nullable=False),
    Column("pipeline", Integer, nullable=False),
    Column("page", Integer, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("text", LongText, nullable=False),
    Column("words", LongBinary, nullable=False),  # zlib over Words.data
    Column("heading", Text, nullable=False, server_default=text("('')")),  # MySQL takes no other
    Column("kind", String(12), nullable=False, server_default="text"),
    UniqueConstraint("sha256", "pipeline", "page", "ordinal"),
)

# The vectors of a page's chunks, in their order, by the encoder that made them: while another one takes its place,
# there are those of both.
vectors = Table(
    "vectors",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("pipeline", Integer, primary_key=True),
    Column("page", Integer, primary_key=True),
    Column("encoder", String(100), primary_key=True),
    Column("dimension", Integer, nullable=False),
    Column("data", LongBinary, nullable=False),  # dtype `VECTOR`
)

# What was computed from all vectors of an encoder, in parts.
fitted = Table(
    "fitted",
    metadata,
    Column("name", String(150), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("version", String(100), nullable=False),
    Column("chunks", BigInteger, nullable=False),  # that there were then
    Column("data", LongBinary, nullable=False),
)

entities = Table(
    "entities",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("name", String(200), nullable=False),  # as first written
    Column("normal", String(200), nullable=False),  # what makes two spellings one; see `actors/search/names.py`
    Column("label", String(20), nullable=False),
    UniqueConstraint("normal", "label"),
)

mentions = Table(
    "mentions",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("sha256", String(64), nullable=False),
    Column("pipeline", Integer, nullable=False),
    Column("page", Integer, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("text", String(500), nullable=False),
    Column("entity_id", Id, ForeignKey("entities.id"), nullable=False),
    Index(None, "sha256", "pipeline", "page"),
    Index(None, "entity_id"),
)

changes = Table(
    "changes",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(12), nullable=False),
    Column("document_id", String(32), nullable=False),
    Column("collection", String(100), nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "document_id"),
)

# One row a counter. Drawing a number locks its row until the transaction ends: numbers commit in order, without gaps.
counters = Table(
    "counters",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

sources = Table(
    "sources",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("kind", String(12), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
)

lookups = Table(
    "lookups",
    metadata,
    Column("source", String(100), ForeignKey("sources.name"), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("description", Text, nullable=False),
    Column("sql", LongText, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
)
