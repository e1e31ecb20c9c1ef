"""Names as people look them up, over a real SQLite file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from fakes import page_reading
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, select
from stores import open_database, publish, soon, upload

from actors.database import Database
from actors.errors import InvalidInput, UnknownCollection, UnknownDocument, UnknownEntity
from actors.messages import Entity, EntityMention, Mention, PageReading
from actors.search.names import normal
from actors.store import entities, tables
from actors.store.entities import Wanted


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """A file here; where `integration/test_store_on_servers.py` runs the same tests, a database on a server."""
    return f"sqlite:///{tmp_path / 'gatherum.db'}"


@pytest.fixture
async def database(tmp_path: Path, store_url: str) -> AsyncIterator[Database]:
    async with open_database(tmp_path, url=store_url) as database:
        yield database


def page(number: int, text: str, *names: tuple[str, str]) -> PageReading:
    """A page that mentions each name, of its label, wherever it stands."""
    bare = page_reading(number, text, names=())
    found = [
        Mention(name, label, at, at + len(name), number)
        for name, label in names
        for at in range(len(text))
        if text.startswith(name, at)
    ]
    return PageReading(bare.page, bare.chunks, tuple(found))


LIBRARY = (
    page(
        1,
        "Huygens saw Titan and C. Huygens was glad. Titan orbits Saturn.",
        ("Huygens", "PERSON"),
        ("Titan", "LOC"),
        ("Saturn", "LOC"),
    ),
    page(
        2,
        "TITAN is wet, says Acme, Inc. of Old Titanville.",
        ("TITAN", "LOC"),
        ("Acme, Inc.", "ORG"),
        ("Old Titanville", "GPE"),
    ),
    page(3, "Titan again, by Saturn.", ("Titan", "LOC"), ("Saturn", "LOC")),
)


@pytest.fixture
async def library(database: Database, tmp_path: Path) -> Database:
    await publish(database, tmp_path, LIBRARY, title="Moons")
    await publish(database, tmp_path, [page(1, "Acme is large.", ("Acme", "ORG"))], b"two", collection="firms")
    return database


async def listed(database: Database, **wanted: Any) -> list[str]:
    found, following = await database.entities(Wanted(**wanted), None, 100, deadline=soon())
    assert following is None
    return [entity.name for entity in found]


async def entity(database: Database, text: str) -> Entity:
    found, _ = await database.entities(Wanted(text), None, 1, deadline=soon())
    return found[0]


async def all_of(read: Callable[[str | None], Awaitable[tuple[list[Any], str | None]]]) -> list[list[Any]]:
    """All pages of a list."""
    pages: list[list[Any]] = []
    after = None
    while True:
        items, after = await read(after)
        pages.append(items)
        if after is None:
            return pages


async def test_names_are_listed_in_order_with_their_counts(library: Database) -> None:
    found, _ = await library.entities(Wanted(), None, 10, deadline=soon())
    assert [(one.name, one.label, one.mentions, one.documents) for one in found] == [
        ("Acme, Inc.", "ORG", 2, 2),
        ("Huygens", "PERSON", 2, 1),
        ("Old Titanville", "GPE", 1, 1),
        ("Saturn", "LOC", 2, 1),
        ("Titan", "LOC", 4, 1),
    ]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"text": "titan"}, ["Titan", "Old Titanville"]),
        ({"text": "TITANV"}, ["Old Titanville"]),
        ({"text": "Acme Inc"}, ["Acme, Inc."]),
        ({"text": "Dr. Huy"}, ["Huygens"]),
        ({"text": "acme limb"}, []),
        ({"text": "Acme,"}, ["Acme, Inc."]),
        ({"text": "old-titan"}, ["Old Titanville"]),
        ({"text": "itan"}, []),
        ({"text": "%"}, []),
        ({"text": "_itan"}, []),
        ({"text": "..."}, []),
        ({"label": "LOC"}, ["Saturn", "Titan"]),
        ({"label": "loc"}, []),
        ({"label": "\x00", "text": "a\x00"}, []),
        ({"collection": "firms"}, ["Acme, Inc."]),
        ({"text": "t", "label": "GPE", "collection": "main"}, ["Old Titanville"]),
    ],
)
async def test_names_are_found_by_the_beginning_of_a_word(
    library: Database, wanted: dict[str, str], expected: list[str]
) -> None:
    assert await listed(library, **wanted) == expected


async def test_what_is_not_there_is_said_to_be_unknown(library: Database) -> None:
    with pytest.raises(UnknownCollection):
        await listed(library, collection="nowhere")
    with pytest.raises(UnknownDocument):
        await listed(library, document_id="nothing")
    with pytest.raises(UnknownEntity):
        await library.entity(10**6, deadline=soon())
    with pytest.raises(UnknownEntity):
        await library.entity_mentions(10**6, None, None, 1, deadline=soon())
    with pytest.raises(UnknownEntity):
        await library.related_entities(10**6, None, 1, deadline=soon())


async def test_an_entity_tells_its_spellings(library: Database) -> None:
    found = await library.entity((await entity(library, "titan")).entity_id, deadline=soon())
    assert (found.name, found.mentions, found.spellings) == ("Titan", 4, ("Titan", "TITAN"))


async def test_mentions_have_their_boxes(library: Database) -> None:
    titan = await entity(library, "titan")
    pages = await all_of(lambda after: library.entity_mentions(titan.entity_id, None, after, 2, deadline=soon()))
    assert list(map(len, pages)) == [2, 2]
    mentions: list[EntityMention] = list(chain.from_iterable(pages))
    assert [(one.title, one.collection, one.page, one.start, one.text) for one in mentions] == [
        ("Moons", "main", 1, 12, "Titan"),
        ("Moons", "main", 1, 43, "Titan"),
        ("Moons", "main", 2, 0, "TITAN"),
        ("Moons", "main", 3, 0, "Titan"),
    ]
    # Words stand 40 points apart: the third, the ninth and the first of a page.
    assert [one.boxes for one in mentions] == [
        ((152.0, 72.0, 190.0, 84.0),),
        ((392.0, 72.0, 430.0, 84.0),),
        ((72.0, 72.0, 110.0, 84.0),),
        ((72.0, 72.0, 110.0, 84.0),),
    ]
    assert await library.entity_mentions(titan.entity_id, "firms", None, 9, deadline=soon()) == ([], None)


async def test_related_names_share_pages(library: Database) -> None:
    titan = await entity(library, "titan")
    pages = await all_of(lambda after: library.related_entities(titan.entity_id, after, 1, deadline=soon()))
    assert [(one.name, one.label, one.pages) for (one,) in pages] == [
        ("Saturn", "LOC", 2),
        ("Acme, Inc.", "ORG", 1),
        ("Huygens", "PERSON", 1),
        ("Old Titanville", "GPE", 1),
    ]


async def test_pages_of_a_list_join_to_the_whole(library: Database) -> None:
    for text in ("", "titan", "a"):
        whole, _ = await library.entities(Wanted(text), None, 100, deadline=soon())
        pages = await all_of(lambda after, text=text: library.entities(Wanted(text), after, 1, deadline=soon()))  # type: ignore[misc]
        assert list(chain.from_iterable(pages)) == whole


@pytest.mark.parametrize("cursor", ["", "x", "ÿ", "W10", "bnVsbA", "WzEsInRpdGFuIiwyXQ", "WzFd", "A" * 500])
async def test_what_is_no_cursor_is_refused(library: Database, cursor: str) -> None:
    titan = await entity(library, "titan")
    with pytest.raises(InvalidInput):
        await library.entities(Wanted(), cursor, 1, deadline=soon())
    with pytest.raises(InvalidInput):
        await library.entity_mentions(titan.entity_id, None, cursor, 1, deadline=soon())
    with pytest.raises(InvalidInput):
        await library.related_entities(titan.entity_id, cursor, 1, deadline=soon())


async def test_a_deleted_document_leaves_no_name_and_no_mention(library: Database) -> None:
    [document], _ = await library.documents("main", None, 10, deadline=soon())
    assert len(await listed(library, document_id=document.document_id)) == 5
    titan, acme = await entity(library, "titan"), await entity(library, "acme")
    await library.delete_document(document.document_id, deadline=soon())
    assert await listed(library) == ["Acme, Inc."]
    assert (await library.entity(acme.entity_id, deadline=soon())).mentions == 1
    with pytest.raises(UnknownEntity):
        await library.entity(titan.entity_id, deadline=soon())


async def test_pages_that_are_still_being_read_show_nothing(database: Database, tmp_path: Path) -> None:
    await database.accept(await upload(tmp_path, pages=2), deadline=soon())
    lease = await database.claim("test", 30.0, deadline=soon())
    assert lease is not None
    await database.commit_pages(lease.job_id, lease.fence, LIBRARY, deadline=soon())
    assert await listed(database) == []
    with pytest.raises(UnknownEntity):
        await database.entity(1, deadline=soon())


async def test_the_names_of_a_document_and_whether_it_had_others(library: Database) -> None:
    documents, _ = await library.documents(None, None, 10, deadline=soon())
    ids = [document.document_id for document in documents]
    names, again = await library.names_of(ids, deadline=soon())
    assert ({name.name for name in names}, again) == (
        {"Titan", "Saturn", "Huygens", "Acme, Inc.", "Old Titanville"},
        False,
    )
    names, again = await library.names_of(ids[1:], deadline=soon())
    assert ({name.name for name in names}, again) == ({"Acme, Inc."}, False)
    await library.announce(ids[1:], deadline=soon())
    assert (await library.names_of(ids[1:], deadline=soon()))[1]


SPELLINGS = st.sampled_from(
    ["titan", "titan's", "the titan", "titan, inc.", "acme", "acme inc", "u.s.", "us", "dr. no", "no"]
)


@given(st.dictionaries(st.integers(1, 9), st.tuples(SPELLINGS, st.sampled_from(["ORG", "PERSON"])), max_size=9))
def test_names_of_before_are_made_one(old: dict[int, tuple[str, str]]) -> None:
    """As the migration finds them: any forms, but none twice under one label."""
    rows = {number: pair for number, pair in old.items() if list(old.values()).index(pair) == list(old).index(number)}
    engine = create_engine("sqlite://")
    tables.metadata.create_all(engine)
    with engine.begin() as connection:
        for number, (form, label) in rows.items():
            connection.execute(insert(tables.entities).values(id=number, name=form, normal=form, label=label))
            place = {"sha256": "0", "pipeline": 1, "page": 1, "start": number, "end": number, "text": form}
            connection.execute(insert(tables.mentions).values(entity_id=number, **place))
        entities.normalise_all(connection)
        assert entities.normalise_all(connection) == (0, 0)
        found = connection.execute(select(tables.entities)).all()
        assert sorted((row.normal, row.label) for row in found) == sorted(
            {(normal(*pair), pair[1]) for pair in rows.values()}
        )
        forms = {row.id: (row.normal, row.label) for row in found}
        for mention in connection.execute(select(tables.mentions)):
            assert forms[mention.entity_id] == (normal(*rows[mention.start]), rows[mention.start][1])
    engine.dispose()
