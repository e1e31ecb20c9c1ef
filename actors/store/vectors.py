"""Vectors that come later than the pages they belong to, and what is fitted to vectors.

A page task embeds what it reads. Chunks without vectors of the encoder in use are left from before there was one, from
another one, or from a moment in which it failed; they are found here, some pages at a time, in the order of the pages,
so that documents become complete one after the other. A document whose last vectors have come is published once more.

What is fitted to all of them (see `search/fast.py`) is kept in parts, because servers take no statement of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, delete, func, insert, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.messages import SERVING, Change, Chunk, Embeddings, Fitted, PageChunks, Words
from actors.store import changes, files
from actors.store.dialect import insert_new
from actors.store.tables import chunks, documents, fitted, pages, vectors

PART_BYTES: Final = 1 << 20
"""MariaDB takes 16 MB in one statement by default, MySQL 64 MB."""

_BUCKETS: Final = 16**6


async def missing(connection: AsyncConnection, encoder: str, limit: int) -> list[PageChunks]:
    """Up to `limit` pages of published documents whose chunks have no vectors of an encoder."""
    has_chunks = select(literal(1)).where(*_same_page(chunks))
    has_vectors = select(literal(1)).where(*_same_page(vectors), vectors.c.encoder == encoder)
    found = await connection.execute(
        select(pages.c.sha256, pages.c.pipeline, pages.c.number)
        .where(_published(pages), has_chunks.exists(), ~has_vectors.exists())
        .order_by(pages.c.sha256, pages.c.pipeline, pages.c.number)
        .limit(limit)
    )
    rows = found.all()
    titles = await _titles(connection, [row.sha256 for row in rows])
    return [
        PageChunks(
            sha256, pipeline, page, await _chunks(connection, sha256, pipeline, page), title=titles.get(sha256, "")
        )
        for sha256, pipeline, page in rows
    ]


async def add(connection: AsyncConnection, now: float, embedded: Sequence[PageChunks]) -> None:
    """Insert the vectors of pages; documents that have all of theirs now are published once more.

    A page that is gone meanwhile, or has other chunks, is left out. Vectors of an encoder that does not serve yet are
    no reason to publish anything: all of them are taken up at once, when they are complete.
    """
    # Nobody deletes what is looked at below: vectors that came after a deletion would stay for ever.
    used = {
        sha256 for sha256 in sorted({page.sha256 for page in embedded}) if await files.hold_used(connection, sha256)
    }
    touched: dict[tuple[str, int], str] = {}
    for page in sorted(embedded, key=lambda each: (each.sha256, each.pipeline, each.page)):
        made = page.embeddings
        if made is None or page.sha256 not in used:
            continue
        if await _chunks(connection, page.sha256, page.pipeline, page.page) != page.chunks:
            continue
        row = {"sha256": page.sha256, "pipeline": page.pipeline, "page": page.page}
        values = {"encoder": made.encoder, "dimension": made.dimension, "data": made.data}
        await insert_new(connection, vectors, row | values)
        touched[page.sha256, page.pipeline] = made.encoder
    serving = (await connection.execute(select(fitted.c.version).where(fitted.c.name == SERVING).limit(1))).scalar()
    for (sha256, pipeline), encoder in touched.items():
        if serving in (None, encoder) and await _is_complete(connection, sha256, pipeline, encoder):
            of_it = select(documents.c.id, documents.c.collection).where(
                documents.c.sha256 == sha256, documents.c.pipeline == pipeline
            )
            for document_id, collection in (await connection.execute(of_it)).all():
                change = Change(0, "publish", document_id=document_id, collection=collection)
                await changes.draw(connection, now, change)


async def forget_others(connection: AsyncConnection, encoder: str, limit: int) -> int:
    """Remove the vectors of other encoders of up to `limit` pages; how many there were."""
    keys = list(vectors.primary_key.columns)
    old = (await connection.execute(select(*keys).where(vectors.c.encoder != encoder).limit(limit))).all()
    for row in old:
        await connection.execute(delete(vectors).where(*(key == row[number] for number, key in enumerate(keys))))
    return len(old)


async def forget_fitted(connection: AsyncConnection, encoder: str) -> None:
    """Remove what was fitted to vectors of other encoders."""
    kept = (SERVING, *(f"{kind}:{encoder}" for kind in ("fast", "prior")))
    await connection.execute(delete(fitted).where(fitted.c.name.not_in(kept)))


async def count(connection: AsyncConnection, encoder: str) -> int:
    """Chunks that have vectors of an encoder."""
    size = func.sum(func.length(vectors.c.data) / (2 * vectors.c.dimension))
    found = (await connection.execute(select(size).where(vectors.c.encoder == encoder))).scalar_one()
    return int(found or 0)


async def sample(
    connection: AsyncConnection, encoder: str, share: float, after: tuple[str, int, int] | None, limit: int
) -> list[PageChunks]:
    """Up to `limit` pages with vectors past a place, in order, of a share of all published files.

    The hash of a file decides whether it is among them.

    Args:
        connection: that reads.
        encoder: whose vectors.
        share: 0 to 1.
        after: hash, pipeline and page; None to begin.
        limit: pages.
    """
    below = f"{int(share * _BUCKETS):06x}"
    wanted: list[ColumnElement[bool]] = [_published(vectors), vectors.c.encoder == encoder]
    if share < 1:
        wanted.append(vectors.c.sha256 < below)
    if after is not None:
        wanted.append(_past(after))
    drawn = await connection.execute(
        select(vectors).where(*wanted).order_by(vectors.c.sha256, vectors.c.pipeline, vectors.c.page).limit(limit)
    )
    rows = drawn.all()
    titles = await _titles(connection, [row.sha256 for row in rows])
    found = []
    for row in rows:
        of_it = await _chunks(connection, row.sha256, row.pipeline, row.page)
        made = Embeddings(encoder, row.dimension, row.data)
        if len(made) == len(of_it):
            found.append(PageChunks(row.sha256, row.pipeline, row.page, of_it, made, titles.get(row.sha256, "")))
    return found


async def keep(connection: AsyncConnection, now: float, what: Fitted) -> None:
    """Store something fitted in the place of what has its name, and tell those who use it."""
    await connection.execute(delete(fitted).where(fitted.c.name == what.name))
    about = {"name": what.name, "version": what.version, "chunks": what.chunks}
    for part, start in enumerate(range(0, max(1, len(what.content)), PART_BYTES)):
        row = {**about, "part": part, "data": what.content[start : start + PART_BYTES]}
        await connection.execute(insert(fitted).values(**row))
    await changes.draw(connection, now, Change(0, "encoder"))


async def find(connection: AsyncConnection, name: str, *, known: str | None) -> Fitted | None:
    """What is kept under a name; None if nothing is.

    Args:
        connection: that reads.
        name: see `Fitted`.
        known: a version of it that the content is not wanted of; None to have no content at all.
    """
    head = (
        await connection.execute(select(fitted.c.version, fitted.c.chunks).where(fitted.c.name == name).limit(1))
    ).first()
    if head is None:
        return None
    content = b""
    if known is not None and known != head.version:
        parts = select(fitted.c.data).where(fitted.c.name == name).order_by(fitted.c.part)
        content = b"".join((await connection.execute(parts)).scalars())
    return Fitted(name, head.version, head.chunks, content)


async def _chunks(connection: AsyncConnection, sha256: str, pipeline: int, page: int) -> tuple[Chunk, ...]:
    """The chunks of a page, in order, without their words."""
    columns = (chunks.c.ordinal, chunks.c.start, chunks.c.end, chunks.c.text, chunks.c.heading, chunks.c.kind)
    rows = await connection.execute(
        select(*columns)
        .where(chunks.c.sha256 == sha256, chunks.c.pipeline == pipeline, chunks.c.page == page)
        .order_by(chunks.c.ordinal)
    )
    return tuple(
        Chunk(page, ordinal, start, end, text, Words(), heading, kind)
        for ordinal, start, end, text, heading, kind in rows
    )


async def _titles(connection: AsyncConnection, sha256s: Sequence[str]) -> dict[str, str]:
    """The title that each file has of its own; not there for one that is called by its file name."""
    found = await connection.execute(
        select(documents.c.sha256, documents.c.title, documents.c.filename).where(documents.c.sha256.in_(set(sha256s)))
    )
    return {sha256: title for sha256, title, filename in found.all() if title != PurePath(filename).stem.strip()}


async def _is_complete(connection: AsyncConnection, sha256: str, pipeline: int, encoder: str) -> bool:
    has_vectors = select(literal(1)).where(
        vectors.c.sha256 == chunks.c.sha256,
        vectors.c.pipeline == chunks.c.pipeline,
        vectors.c.page == chunks.c.page,
        vectors.c.encoder == encoder,
    )
    left = select(literal(1)).where(chunks.c.sha256 == sha256, chunks.c.pipeline == pipeline, ~has_vectors.exists())
    return (await connection.execute(left.limit(1))).first() is None


def _same_page(table: Any) -> tuple[ColumnElement[bool], ...]:
    return (table.c.sha256 == pages.c.sha256, table.c.pipeline == pages.c.pipeline, table.c.page == pages.c.number)


def _published(table: Any) -> ColumnElement[bool]:
    shown: Select[int] = select(literal(1)).where(
        documents.c.sha256 == table.c.sha256, documents.c.pipeline == table.c.pipeline
    )
    return shown.exists()


def _past(place: tuple[str, int, int]) -> ColumnElement[bool]:
    sha256, pipeline, page = place
    return or_(
        vectors.c.sha256 > sha256,
        and_(vectors.c.sha256 == sha256, vectors.c.pipeline > pipeline),
        and_(vectors.c.sha256 == sha256, vectors.c.pipeline == pipeline, vectors.c.page > page),
    )
