"""Readings: the pages, chunks, vectors and mentions of a file, under its hash and the version of the pipeline.

Words take most of the space (24 bytes each, on the page and again on its chunks), so they are stored compressed.
Packing happens before a transaction is opened and unpacking after it has ended, both in a thread: neither the event
loop nor the one writer waits for zlib.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    ScalarSelect,
    and_,
    delete,
    func,
    insert,
    literal,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import UnknownPage
from actors.messages import VECTOR, Chunk, Embeddings, Mention, OcrRecord, Page, PageReading, PublishedDocument, Words
from actors.search.names import normal
from actors.search.placement import Shard
from actors.store.dialect import MAX_PARAMETERS, delete_by_id, insert_missing, insert_new
from actors.store.rows import AnyRow, storable
from actors.store.tables import chunks, documents, entities, mentions, pages, superseded, vectors

T = TypeVar("T")

COMPRESSION = 1
"""zlib's fastest level: measured on words of real pages 1.88 times smaller at 72 MB/s (level 6: 1.89 at 37 MB/s)."""


MAX_NOTE_CHARS = 2000
"""Longest error of a page, and heading of a chunk."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Page readings as rows, lacking only the reading they belong to.

    Attributes:
        pages: rows of `pages`.
        chunks: rows of `chunks`.
        vectors: rows of `vectors`.
        mentions: rows of `mentions`, with `normal` and `label` in place of `entity_id`.
        names: (normal, label) to the name as first written.
    """

    pages: list[dict[str, Any]]
    chunks: list[dict[str, Any]]
    vectors: list[dict[str, Any]]
    mentions: list[dict[str, Any]]
    names: dict[tuple[str, str], str]


def pack(readings: Sequence[PageReading]) -> Packed:
    """Turn readings into rows. Takes CPU time: call it in a thread."""
    packed = Packed([], [], [], [], {})
    for reading in readings:
        page = reading.page
        found = [row for row in map(_mention_row, reading.mentions) if row["normal"]]
        packed.pages.append(
            {
                "number": page.number,
                "width": page.width,
                "height": page.height,
                "text": storable(page.text),
                "words": zlib.compress(page.words.data, COMPRESSION),
                "ocr": None if page.ocr is None else asdict(page.ocr),
                "error": None if page.error is None else storable(page.error)[:MAX_NOTE_CHARS],
                "label": storable(page.label)[:50],
                "chunks": len(reading.chunks),
                "mentions": len(found),
            }
        )
        packed.chunks.extend(
            {
                "page": chunk.page,
                "ordinal": chunk.ordinal,
                "start": chunk.start,
                "end": chunk.end,
                "text": storable(chunk.text),
                "words": zlib.compress(chunk.words.data, COMPRESSION),
                "heading": storable(chunk.heading)[:MAX_NOTE_CHARS],
                "kind": chunk.kind,
            }
            for chunk in reading.chunks
        )
        if reading.embeddings is not None and reading.chunks:
            packed.vectors.append({"page": page.number, **asdict(reading.embeddings)})
        packed.mentions.extend(found)
        for row in found:
            packed.names.setdefault((row["normal"], row["label"]), " ".join(row["text"].split())[:200])
    return packed


def _mention_row(mention: Mention) -> dict[str, Any]:
    text, label = storable(mention.text), mention.label[:20]
    return {
        "page": mention.page,
        "start": mention.start,
        "end": mention.end,
        "text": text[:500],
        "normal": normal(text, label),
        "label": label,
    }


async def add(connection: AsyncConnection, sha256: str, pipeline: int, packed: Packed) -> None:
    """Insert what is new. A page that is there, from another worker or document, keeps its chunks and all the rest."""
    if not packed.pages:
        return
    reading = {"sha256": sha256, "pipeline": pipeline}
    # One by one, because not every database can say which of many were new. In order: see `insert_missing`.
    in_order = sorted(packed.pages, key=itemgetter("number"))
    new = {row["number"] for row in in_order if await insert_new(connection, pages, reading | row)}
    rows = [reading | row for row in packed.chunks if row["page"] in new]
    if rows:
        await connection.execute(insert(chunks), rows)
    rows = [reading | row for row in packed.vectors if row["page"] in new]
    if rows:
        # There should be none of a page that was not there.
        left = and_(_reading(vectors, sha256, pipeline), vectors.c.page.in_([row["page"] for row in rows]))
        await connection.execute(delete(vectors).where(left))
        await connection.execute(insert(vectors), rows)
    found = [row for row in packed.mentions if row["page"] in new]
    if not found:
        return
    ids = await _entity_ids(connection, {key: packed.names[key] for key in {(r["normal"], r["label"]) for r in found}})
    await connection.execute(
        insert(mentions),
        [
            {
                **reading,
                "page": row["page"],
                "start": row["start"],
                "end": row["end"],
                "text": row["text"],
                "entity_id": ids[row["normal"], row["label"]],
            }
            for row in found
        ],
    )


async def count(connection: AsyncConnection, sha256: str, pipeline: int) -> int:
    """Pages that are in."""
    return (
        await connection.execute(select(func.count()).select_from(pages).where(_reading(pages, sha256, pipeline)))
    ).scalar_one()


def counted(of: ColumnElement[bool], pipeline: BindParameter[int]) -> ScalarSelect[int]:
    """Pages that are in of the document for which `of` is true, as a part of another statement."""
    both = pages.join(documents, documents.c.sha256 == pages.c.sha256)
    return select(func.count()).select_from(both).where(of, pages.c.pipeline == pipeline).scalar_subquery()


async def missing(connection: AsyncConnection, sha256: str, pipeline: int, total: int) -> tuple[int, ...]:
    """Pages of 1 … `total` that are not in, ascending."""
    rows = await connection.execute(select(pages.c.number).where(_reading(pages, sha256, pipeline)))
    have = set(rows.scalars())
    return tuple(number for number in range(1, total + 1) if number not in have)


async def chars(connection: AsyncConnection, sha256: str, pipeline: int) -> int:
    """Length of the text of the pages that are in, characters."""
    length = func.coalesce(func.sum(func.char_length(pages.c.text)), 0)
    return int((await connection.execute(select(length).where(_reading(pages, sha256, pipeline)))).scalar_one())


async def errors(connection: AsyncConnection, sha256: str, pipeline: int) -> list[tuple[int, str]]:
    """Pages that could not be read, with the reason, in order."""
    rows = await connection.execute(
        select(pages.c.number, pages.c.error)
        .where(_reading(pages, sha256, pipeline), pages.c.error.is_not(None))
        .order_by(pages.c.number)
    )
    return [(number, error) for number, error in rows]


async def forget_errors(connection: AsyncConnection, sha256: str, pipeline: int) -> None:
    """Remove the pages that could not be read, so that they are tried again."""
    await connection.execute(delete(pages).where(_reading(pages, sha256, pipeline), pages.c.error.is_not(None)))


async def page(connection: AsyncConnection, sha256: str, pipeline: int | None, number: int, total: int) -> AnyRow:
    """The row of a page of a published reading of `total` pages, for `unpack_page`.

    Raises:
        UnknownPage: it has no such page, or is not published yet, or the page is being read again.
    """
    found = await connection.execute(
        select(pages).where(pages.c.sha256 == sha256, pages.c.pipeline == pipeline, pages.c.number == number)
    )
    row = found.first()
    if row is not None:
        return row
    if pipeline is None:
        raise UnknownPage("The document has not been read yet.")
    if number > total:
        raise UnknownPage(f"The document has {total} page{'s' * (total != 1)}; there is no page {number}.")
    raise UnknownPage(f"Page {number} could not be read; its job was started again, and has not read it yet.")


def unpack_page(row: AnyRow) -> Page:
    """A page from its row."""
    ocr = None if row.ocr is None else OcrRecord(**{**row.ocr, "languages": tuple(row.ocr["languages"])})
    words = Words(zlib.decompress(row.words))
    return Page(row.number, row.width, row.height, row.text, words, ocr=ocr, error=row.error, label=row.label)


@dataclass(frozen=True, slots=True)
class Rows:
    """Published documents as rows, for `unpack_documents`.

    Attributes:
        heads: of the documents, by id.
        parts: of their chunks, in order.
        vectors: of their pages; none where no encoder was named.
    """

    heads: Sequence[AnyRow] = ()
    parts: Sequence[AnyRow] = ()
    vectors: Sequence[AnyRow] = ()


async def published(connection: AsyncConnection, after: str | None, limit: int, encoder: str, shard: Shard) -> Rows:
    """Up to `limit` published documents past the id `after`, with the vectors of an encoder; empty for no encoder.

    Of a shard, its documents alone; of others, no more than the ids are read.
    """
    own: list[str] = []
    while len(own) < limit:
        chosen = select(documents.c.id).where(documents.c.pipeline.is_not(None)).order_by(documents.c.id).limit(limit)
        if after is not None:
            chosen = chosen.where(documents.c.id > after)
        ids = (await connection.execute(chosen)).scalars().all()
        own += [document_id for document_id in ids if shard.holds(document_id)][: limit - len(own)]
        if len(ids) < limit:
            break
        after = ids[-1]
    if not own:
        return Rows()
    which = documents.c.id.between(own[0], own[-1]) if shard.of == 1 else documents.c.id.in_(own)
    return await _with_chunks(connection, which, encoder)


async def published_document(connection: AsyncConnection, document_id: str, encoder: str) -> Rows:
    """The same for one document; empty if it is not published."""
    return await _with_chunks(connection, documents.c.id == document_id, encoder)


async def _with_chunks(connection: AsyncConnection, which: ColumnElement[bool], encoder: str) -> Rows:
    heads = await connection.execute(
        select(documents.c.id, documents.c.title, documents.c.collection, documents.c.metadata)
        .where(which, documents.c.pipeline.is_not(None))
        .order_by(documents.c.id)
    )
    parts = await connection.execute(
        select(
            documents.c.id,
            chunks.c.page,
            chunks.c.ordinal,
            chunks.c.start,
            chunks.c.end,
            chunks.c.text,
            chunks.c.words,
            chunks.c.heading,
            chunks.c.kind,
        )
        .join(documents, and_(documents.c.sha256 == chunks.c.sha256, documents.c.pipeline == chunks.c.pipeline))
        .where(which)
        .order_by(documents.c.id, chunks.c.page, chunks.c.ordinal)
    )
    if not encoder:
        return Rows(heads.all(), parts.all())
    return Rows(heads.all(), parts.all(), await _vectors(connection, which, encoder))


async def _vectors(connection: AsyncConnection, which: ColumnElement[bool], encoder: str) -> Sequence[AnyRow]:
    made = await connection.execute(
        select(documents.c.id, vectors.c.page, vectors.c.dimension, vectors.c.data)
        .join(documents, and_(documents.c.sha256 == vectors.c.sha256, documents.c.pipeline == vectors.c.pipeline))
        .where(which, vectors.c.encoder == encoder)
    )
    return made.all()


def unpack_documents(rows: Rows, encoder: str) -> list[PublishedDocument]:
    """Published documents from the rows of `published`. Takes CPU time: call it in a thread."""
    found: dict[str, list[Chunk]] = {head.id: [] for head in rows.heads}
    for document_id, number, ordinal, start, end, text, words, heading, kind in rows.parts:
        boxes = Words(zlib.decompress(words))
        found[document_id].append(Chunk(number, ordinal, start, end, text, boxes, heading, kind))
    made: dict[str, dict[int, tuple[int, bytes]]] = {}
    for document_id, number, dimension, data in rows.vectors:
        made.setdefault(document_id, {})[number] = (dimension, data)
    return [
        PublishedDocument(
            head.id,
            head.title,
            head.collection,
            tuple(found[head.id]),
            head.metadata,
            _embeddings(encoder, Counter(chunk.page for chunk in found[head.id]), made.get(head.id, {})),
        )
        for head in rows.heads
    ]


async def vectors_of(connection: AsyncConnection, document_ids: Sequence[str], encoder: str) -> Rows:
    """The vectors of published documents alone; `parts` are their pages, each with its number of chunks."""
    which = documents.c.id.in_(document_ids)
    parts = await connection.execute(
        select(documents.c.id, chunks.c.page, func.count())
        .join(documents, and_(documents.c.sha256 == chunks.c.sha256, documents.c.pipeline == chunks.c.pipeline))
        .where(which)
        .group_by(documents.c.id, chunks.c.page)
        .order_by(documents.c.id, chunks.c.page)
    )
    return Rows((), parts.all(), await _vectors(connection, which, encoder))


def unpack_vectors(rows: Rows, encoder: str) -> dict[str, Embeddings]:
    """Vectors by document, of those that have any, from the rows of `vectors_of`. Call it in a thread."""
    counts: dict[str, dict[int, int]] = {}
    for document_id, number, count in rows.parts:
        counts.setdefault(document_id, {})[number] = count
    made: dict[str, dict[int, tuple[int, bytes]]] = {}
    for document_id, number, dimension, data in rows.vectors:
        made.setdefault(document_id, {})[number] = (dimension, data)
    joined = {each: _embeddings(encoder, counts.get(each, {}), pages_of) for each, pages_of in made.items()}
    return {document_id: each for document_id, each in joined.items() if each is not None}


def _embeddings(encoder: str, counts: Mapping[int, int], made: Mapping[int, tuple[int, bytes]]) -> Embeddings | None:
    """The vectors of a document's chunks, joined from those of its pages; None if it has none at all.

    Args:
        encoder: that made them.
        counts: chunks by page, in the order of the pages.
        made: dimension and data by page.
    """
    # What does not fit its page is as good as missing.
    fitting = {
        page: np.frombuffer(data, VECTOR).reshape(-1, dimension)
        for page, (dimension, data) in made.items()
        if len(data) == counts.get(page, 0) * dimension * VECTOR.itemsize
    }
    if not fitting:
        return None
    dimension = next(iter(fitting.values())).shape[1]
    pages_in_order = [
        fitting[page] if page in fitting else np.zeros((count, dimension), VECTOR) for page, count in counts.items()
    ]
    return Embeddings.of(encoder, np.concatenate(pages_in_order))


async def sizes(connection: AsyncConnection, after: str, limit: int) -> list[tuple[str, int]]:
    """Up to `limit` published documents past the id `after`, in order, each with its number of chunks."""
    same = and_(documents.c.sha256 == chunks.c.sha256, documents.c.pipeline == chunks.c.pipeline)
    counted = select(func.count()).select_from(chunks).where(same).scalar_subquery()
    rows = await connection.execute(
        select(documents.c.id, counted)
        .where(documents.c.id > after, documents.c.pipeline.is_not(None))
        .order_by(documents.c.id)
        .limit(limit)
    )
    return [(document_id, number) for document_id, number in rows]


@dataclass(frozen=True, slots=True)
class RemovedRows:
    """How many rows of a file's readings were removed, and of entities that nothing mentions any more."""

    pages: int = 0
    chunks: int = 0
    mentions: int = 0
    entities: int = 0


async def remove(connection: AsyncConnection, sha256: str) -> RemovedRows:
    """Remove every reading of a file, and the entities that nothing mentions any more."""
    await connection.execute(delete(superseded).where(superseded.c.sha256 == sha256))
    return await _remove(connection, *(table.c.sha256 == sha256 for table in (mentions, vectors, chunks, pages)))


async def remove_pages(connection: AsyncConnection, sha256: str, pipeline: int, numbers: Sequence[int]) -> RemovedRows:
    """The same for some pages of one reading."""
    return await _remove(
        connection,
        and_(_reading(mentions, sha256, pipeline), mentions.c.page.in_(numbers)),
        and_(_reading(vectors, sha256, pipeline), vectors.c.page.in_(numbers)),
        and_(_reading(chunks, sha256, pipeline), chunks.c.page.in_(numbers)),
        and_(_reading(pages, sha256, pipeline), pages.c.number.in_(numbers)),
    )


async def _remove(
    connection: AsyncConnection,
    of_mentions: ColumnElement[bool],
    of_vectors: ColumnElement[bool],
    of_chunks: ColumnElement[bool],
    of_pages: ColumnElement[bool],
) -> RemovedRows:
    touched = await connection.execute(
        select(mentions.c.entity_id).distinct().where(of_mentions).order_by(mentions.c.entity_id)
    )
    candidates = touched.scalars().all()
    await connection.execute(delete(vectors).where(of_vectors))
    return RemovedRows(
        mentions=(await connection.execute(delete(mentions).where(of_mentions))).rowcount,
        chunks=(await connection.execute(delete(chunks).where(of_chunks))).rowcount,
        pages=(await connection.execute(delete(pages).where(of_pages))).rowcount,
        entities=await remove_unmentioned(connection, candidates),
    )


async def remove_unmentioned(connection: AsyncConnection, entity_ids: Sequence[int]) -> int:
    """Remove those of the entities that nothing mentions; how many there were.

    One that a page under way is about to mention is held by its transaction (see `_entity_ids`), and stays.
    """
    unmentioned = ~select(literal(1)).select_from(mentions).where(mentions.c.entity_id == entities.c.id).exists()
    removed = 0
    for ids in _batches(entity_ids):
        free = select(entities.c.id).where(entities.c.id.in_(ids), unmentioned).order_by(entities.c.id)
        held = (await connection.execute(free.with_for_update(skip_locked=True))).scalars().all()
        # Looked at again, now that nobody can mention them: one may have been mentioned since it was found.
        again = select(entities.c.id).where(entities.c.id.in_(held), unmentioned)
        gone = (await connection.execute(again)).scalars().all()
        if gone:
            await delete_by_id(connection, entities, gone)
            removed += len(gone)
    return removed


async def _entity_ids(connection: AsyncConnection, names: dict[tuple[str, str], str]) -> dict[tuple[str, str], int]:
    """Ids of entities by (normal, label), created where missing."""
    known: dict[tuple[str, str], int] = {}

    async def look_up(wanted: Iterable[tuple[str, str]]) -> None:
        for normals in _batches(sorted({form for form, _ in wanted})):
            # Held, so that nobody removes what is about to be mentioned: see `remove_unmentioned`. With a column that
            # is in no index, because MySQL would hold only the entry of one that has all columns asked for.
            rows = await connection.execute(
                select(entities.c.normal, entities.c.label, entities.c.id, entities.c.name)
                .where(entities.c.normal.in_(normals))
                .order_by(entities.c.id)
                .with_for_update(read=True, key_share=True)
            )
            known.update({(row.normal, row.label): row.id for row in rows})

    await look_up(names)
    # In order, so that two transactions that create the same names wait for each other instead of deadlocking.
    while new := sorted(key for key in names if key not in known):
        rows = [{"name": names[key], "normal": key[0], "label": key[1]} for key in new]
        await insert_missing(connection, entities, rows)
        await look_up(new)
    return known


def _reading(table: Any, sha256: str, pipeline: int) -> ColumnElement[bool]:
    return and_(table.c.sha256 == sha256, table.c.pipeline == pipeline)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), MAX_PARAMETERS):
        yield items[start : start + MAX_PARAMETERS]
