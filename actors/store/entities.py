"""Entities: the names of the corpus, where they are mentioned, and which of them stand together.

Only what a published document mentions is there for anybody to see: pages that are still being read, or that a newer
reading has taken the place of, count for nothing. Lists are paged by cursors that say where the last page ended, so a
page costs the same wherever it is, and nothing is seen twice while documents come and go.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import InvalidInput, UnknownEntity
from actors.messages import Entity, EntityDetail, EntityMention, EntityName, RelatedEntity, Words
from actors.search.names import ORGANISATIONS, PEOPLE, normal
from actors.store import documents as document_rows
from actors.store.dialect import MAX_PARAMETERS
from actors.store.rows import AnyRow, storable
from actors.store.tables import changes, documents, entities, mentions, pages

SPELLINGS: Final = 20
"""Most spellings that are told of an entity."""

NEAR_PAGES: Final = 5_000
"""Pages of an entity that are looked at for those beside it; of one on more pages, the first so many tell enough."""

_PUBLISHED: Final = and_(documents.c.sha256 == mentions.c.sha256, documents.c.pipeline == mentions.c.pipeline)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entities of the corpus.

    Attributes:
        text: the beginning of one of its words, spelled in any way; empty for all.
        label: its type; None for any.
        collection: mentioned in; None for any.
        document_id: mentioned in; None for any.
    """

    text: str = ""
    label: str | None = None
    collection: str | None = None
    document_id: str | None = None


# --- what links questions -------------------------------------------------------------------------------------------


async def names(connection: AsyncConnection, after: int, limit: int) -> list[EntityName]:
    """Up to `limit` names past the id `after` that are mentioned in at least one published document."""
    rows = await connection.execute(
        select(entities.c.id, entities.c.name, entities.c.label)
        .where(entities.c.id > after, _mentioned())
        .order_by(entities.c.id)
        .limit(limit)
    )
    return [EntityName(*row) for row in rows]


async def names_of(connection: AsyncConnection, document_ids: Sequence[str]) -> tuple[list[EntityName], bool]:
    """The names that some documents mention, by id; and whether one of them was published before, with other names."""
    found = await connection.execute(
        select(entities.c.id, entities.c.name, entities.c.label)
        .distinct()
        .join(mentions, mentions.c.entity_id == entities.c.id)
        .join(documents, _PUBLISHED)
        .where(documents.c.id.in_(document_ids))
        .order_by(entities.c.id)
    )
    before = await connection.execute(
        select(changes.c.document_id)
        .where(changes.c.document_id.in_(document_ids), changes.c.kind == "publish")
        .group_by(changes.c.document_id)
        .having(func.count() > 1)
        .limit(1)
    )
    return [EntityName(*row) for row in found], before.first() is not None


async def ids_of(connection: AsyncConnection, document_id: str) -> list[int]:
    """Ids of the entities that a published document mentions, in order."""
    rows = await connection.execute(
        select(mentions.c.entity_id)
        .distinct()
        .join(documents, _PUBLISHED)
        .where(documents.c.id == document_id)
        .order_by(mentions.c.entity_id)
    )
    return list(rows.scalars())


# --- what people look at --------------------------------------------------------------------------------------------


async def page_of(
    connection: AsyncConnection, wanted: Wanted, after: str | None, limit: int
) -> tuple[list[Entity], str | None]:
    """Up to `limit` entities past a cursor, in the order of their names, and the cursor to go on from.

    Those whose name begins with the text come before those of which another word does.

    Raises:
        InvalidInput: the cursor is none of this list.
        UnknownCollection, UnknownDocument: there is none of this name, or id.
    """
    place = _place(after, int, str, str)
    if wanted.collection is not None:
        await document_rows.check_collection(connection, wanted.collection)
    if wanted.document_id is not None:
        await document_rows.find(connection, wanted.document_id)
    # As whichever type of name it may be: the legal form of a company, for one, is in no normal form of a company.
    forms = {normal(wanted.text, label) for label in ("", *PEOPLE, *ORGANISATIONS)} if wanted.text else set()
    if forms and not any(map(str.isalnum, "".join(forms))):
        return [], None
    first = or_(*(entities.c.normal.startswith(form, autoescape=True) for form in sorted(forms)), false())
    inner = or_(*(entities.c.normal.contains(f" {form}", autoescape=True) for form in sorted(forms)), false())
    rank: ColumnElement[int] = case((first, 0), else_=1)
    order: list[ColumnElement[Any]] = [rank, entities.c.normal, entities.c.label]
    query = select(entities.c.id, entities.c.name, entities.c.label, entities.c.normal, rank.label("rank"))
    query = query.where(_mentioned(wanted.collection, wanted.document_id))
    if forms:
        query = query.where(or_(first, inner))
    else:
        # All rank alike. Without it the order is that of an index, so the first page costs no look at the last.
        order = order[1:]
    if wanted.label is not None:
        query = query.where(entities.c.label == storable(wanted.label))
    if place is not None:
        query = query.where(_past(order, place[-len(order) :]))
    rows = (await connection.execute(query.order_by(*order).limit(limit + 1))).all()
    shown = rows[:limit]
    counts = await _counts(connection, [row.id for row in shown], wanted.collection, wanted.document_id)
    more = len(rows) > limit
    return (
        [Entity(row.id, row.name, row.label, *counts[row.id]) for row in shown],
        _cursor(shown[-1].rank, shown[-1].normal, shown[-1].label) if more else None,
    )


async def find(connection: AsyncConnection, entity_id: int) -> EntityDetail:
    """An entity with the spellings of its name, those that are met most come first.

    Raises:
        UnknownEntity: no published document mentions one of this id.
    """
    row = await _entity(connection, entity_id)
    times = func.count()
    spelled = await connection.execute(
        select(mentions.c.text)
        .join(documents, _PUBLISHED)
        .where(mentions.c.entity_id == entity_id)
        .group_by(mentions.c.text)
        .order_by(times.desc(), mentions.c.text)
        .limit(SPELLINGS)
    )
    spellings = tuple(dict.fromkeys(" ".join(text.split()) for text in spelled.scalars()))
    counts = await _counts(connection, [entity_id], None, None)
    return EntityDetail(row.id, row.name, row.label, *counts[entity_id], spellings)


async def mentions_of(
    connection: AsyncConnection, entity_id: int, collection: str | None, after: str | None, limit: int
) -> tuple[list[AnyRow], dict[tuple[str, int, int], bytes], str | None]:
    """Rows of up to `limit` mentions past a cursor, the words of their pages, and the cursor to go on from.

    They come by document, the oldest first, and in each in the order of its text. For `unpack_mentions`.

    Raises:
        UnknownEntity: no published document mentions one of this id.
        UnknownCollection: there is none of this name.
        InvalidInput: the cursor is none of this list.
    """
    place = _place(after, str, int, int, int)
    await _entity(connection, entity_id)
    order = (documents.c.id, mentions.c.page, mentions.c.start, mentions.c.id)
    columns = (documents.c.id.label("document_id"), documents.c.title, documents.c.collection)
    query = select(*columns, mentions).join(documents, _PUBLISHED).where(mentions.c.entity_id == entity_id)
    if collection is not None:
        await document_rows.check_collection(connection, collection)
        query = query.where(documents.c.collection == collection)
    if place is not None:
        query = query.where(_past(order, place))
    rows = (await connection.execute(query.order_by(*order).limit(limit + 1))).all()
    shown = list(rows[:limit])
    words: dict[tuple[str, int, int], bytes] = {}
    for sha256, pipeline in {(row.sha256, row.pipeline) for row in shown}:
        numbers = {row.page for row in shown if (row.sha256, row.pipeline) == (sha256, pipeline)}
        for some in _batches(sorted(numbers)):
            found = await connection.execute(
                select(pages.c.number, pages.c.words).where(
                    pages.c.sha256 == sha256, pages.c.pipeline == pipeline, pages.c.number.in_(some)
                )
            )
            words.update({(sha256, pipeline, number): packed for number, packed in found})
    last = shown[-1] if len(rows) > limit else None
    return shown, words, _cursor(last.document_id, last.page, last.start, last.id) if last is not None else None


def unpack_mentions(rows: Sequence[AnyRow], words: dict[tuple[str, int, int], bytes]) -> list[EntityMention]:
    """Mentions with their boxes. Takes CPU time: call it in a thread."""
    unpacked = {place: Words(zlib.decompress(packed)) for place, packed in words.items()}
    nothing = Words()
    return [
        EntityMention(
            document_id=row.document_id,
            title=row.title,
            collection=row.collection,
            page=row.page,
            start=row.start,
            end=row.end,
            text=row.text,
            boxes=unpacked.get((row.sha256, row.pipeline, row.page), nothing).boxes(row.start, row.end),
        )
        for row in rows
    ]


async def related(
    connection: AsyncConnection, entity_id: int, after: str | None, limit: int
) -> tuple[list[RelatedEntity], str | None]:
    """Up to `limit` entities past a cursor that stand on the same pages, those with the most pages first.

    Raises:
        UnknownEntity: no published document mentions one of this id.
        InvalidInput: the cursor is none of this list.
    """
    place = _place(after, int, int)
    await _entity(connection, entity_id)
    where = (mentions.c.sha256, mentions.c.pipeline, mentions.c.page)
    # Of a page, not of a document: two collections may hold the same file.
    near = (
        select(*where)
        .distinct()
        .where(mentions.c.entity_id == entity_id, select(literal(1)).where(_PUBLISHED).exists())
        .order_by(*where)
        .limit(NEAR_PAGES)
        .subquery()
    )
    same = [column == near.c[column.name] for column in where]
    beside = select(mentions.c.entity_id, *where).distinct().join(near, and_(*same)).subquery()
    number = func.count()
    counted = (
        select(beside.c.entity_id.label("id"), number.label("pages"))
        .where(beside.c.entity_id != entity_id)
        .group_by(beside.c.entity_id)
    )
    if place is not None:
        counted = counted.having(or_(number < place[0], and_(number == place[0], beside.c.entity_id > place[1])))
    counted = counted.order_by(number.desc(), beside.c.entity_id).limit(limit + 1)
    rows = (await connection.execute(counted)).all()
    shown = rows[:limit]
    there: dict[int, AnyRow] = {}
    for ids in _batches([row.id for row in shown]):
        found = await connection.execute(select(entities).where(entities.c.id.in_(ids)))
        there.update({row.id: row for row in found})
    last = shown[-1] if len(rows) > limit else None
    return (
        [RelatedEntity(row.id, there[row.id].name, there[row.id].label, row.pages) for row in shown],
        _cursor(last.pages, last.id) if last is not None else None,
    )


# --- one row for each name ------------------------------------------------------------------------------------------


def normalise_all(connection: Connection) -> tuple[int, int]:
    """Give every entity the normal form of today, and make one of those that now have the same.

    The oldest stays, and takes over the mentions of the others. It may be repeated, and broken off anywhere where each
    statement is committed by itself.

    Returns:
        How many entities were renamed, and how many were removed.
    """
    kept: dict[tuple[str, str], int] = {}
    moved: list[dict[str, Any]] = []
    renamed: list[dict[str, Any]] = []
    for row in connection.execute(
        select(entities.c.id, entities.c.normal, entities.c.label).order_by(entities.c.id)
    ).all():
        # From the old form, not from the name: applied to a form that is as it should be, `normal` changes nothing. So
        # one that is renamed never meets one of that name which is renamed itself, and the order makes no difference.
        form = normal(row.normal, row.label)
        first = kept.setdefault((form, row.label), row.id)
        if first != row.id:
            moved.append({"gone": row.id, "kept": first})
        elif form != row.normal:
            renamed.append({"which": row.id, "form": form})
    if moved:
        of_gone = mentions.c.entity_id == bindparam("gone")
        connection.execute(update(mentions).where(of_gone).values(entity_id=bindparam("kept")), moved)
        connection.execute(delete(entities).where(entities.c.id == bindparam("gone")), moved)
    if renamed:
        which = entities.c.id == bindparam("which")
        connection.execute(update(entities).where(which).values(normal=bindparam("form")), renamed)
    return len(renamed), len(moved)


async def renormalise(connection: AsyncConnection, now: float, *, entity_id: int) -> None:
    """The same for one entity, while others work."""
    this = select(entities).where(entities.c.id == entity_id).with_for_update()
    row = (await connection.execute(this)).first()
    if row is None or (form := normal(row.normal, row.label)) == row.normal:
        return
    same = select(entities.c.id).where(entities.c.normal == form, entities.c.label == row.label).with_for_update()
    kept = (await connection.execute(same)).scalar_one_or_none()
    if kept is None:
        await connection.execute(update(entities).where(entities.c.id == entity_id).values(normal=form))
        return
    await connection.execute(update(mentions).where(mentions.c.entity_id == entity_id).values(entity_id=kept))
    await connection.execute(delete(entities).where(entities.c.id == entity_id))


# --------------------------------------------------------------------------------------------------------------------


def _mentioned(collection: str | None = None, document_id: str | None = None) -> ColumnElement[bool]:
    """Whether a published document (of those) mentions the entity."""
    # One within the other: SQLite may join them the wrong way round, from all documents to the mentions of each.
    published = _of(select(literal(1)).where(_PUBLISHED), collection, document_id).exists()
    return select(literal(1)).where(mentions.c.entity_id == entities.c.id, published).exists()


def _of(query: Select[Any], collection: str | None, document_id: str | None) -> Select[Any]:
    if collection is not None:
        query = query.where(documents.c.collection == collection)
    if document_id is not None:
        query = query.where(documents.c.id == document_id)
    return query


async def _counts(
    connection: AsyncConnection, entity_ids: Sequence[int], collection: str | None, document_id: str | None
) -> dict[int, tuple[int, int]]:
    """Of each entity, how many mentions there are and in how many documents."""
    counts = dict.fromkeys(entity_ids, (0, 0))
    for ids in _batches(entity_ids):
        query = (
            select(mentions.c.entity_id, func.count(), func.count(documents.c.id.distinct()))
            .join(documents, _PUBLISHED)
            .where(mentions.c.entity_id.in_(ids))
            .group_by(mentions.c.entity_id)
        )
        for entity_id, of_mentions, of_documents in await connection.execute(_of(query, collection, document_id)):
            counts[entity_id] = (of_mentions, of_documents)
    return counts


async def _entity(connection: AsyncConnection, entity_id: int) -> AnyRow:
    row = (await connection.execute(select(entities).where(entities.c.id == entity_id, _mentioned()))).first()
    if row is None:
        raise UnknownEntity("There is no entity of this id.")
    return row


def _past(columns: Sequence[ColumnElement[Any]], place: Sequence[Any]) -> ColumnElement[bool]:
    """Whether a row comes after a place in the order of the columns."""
    steps = []
    for number, (column, value) in enumerate(zip(columns, place, strict=True)):
        same = [other == known for other, known in zip(columns[:number], place[:number], strict=True)]
        steps.append(and_(*same, column > value))
    # The first says nothing that is not in the others, but says it so that an index can begin there.
    return and_(columns[0] >= place[0], or_(*steps))


def _cursor(*place: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _place(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """The place that a cursor names.

    Raises:
        InvalidInput: it is no cursor of a list that is ordered by values of these types.
    """
    if cursor is None:
        return None
    try:
        place = orjson.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        place = None
    if not isinstance(place, list) or [type(value) for value in place] != list(kinds):
        raise InvalidInput("`after` is not what this list gave as `next`. Begin without it.")
    return tuple(place)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), MAX_PARAMETERS):
        yield items[start : start + MAX_PARAMETERS]
