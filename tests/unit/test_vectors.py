"""Vectors that come later than their pages, and what is fitted to them, in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import page_reading
from hypothesis import given
from hypothesis import strategies as st
from stores import open_database, publish, soon, upload

from actors.database import Database
from actors.messages import Change, Embeddings, Fitted, PageChunks, PageReading
from actors.store import vectors

ENCODER = "m@1"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path) as opened:
        yield opened


def made(count: int = 1, encoder: str = ENCODER) -> Embeddings:
    return Embeddings.of(encoder, np.tile(np.array([[0.6, 0.8]], np.float32), (count, 1)))


def embedded(number: int, text: str = "Titan orbits Saturn.", encoder: str = ENCODER) -> PageReading:
    return replace(page_reading(number, text), embeddings=made(encoder=encoder))


async def unembedded(database: Database, limit: int = 10) -> list[PageChunks]:
    return await database.unembedded(ENCODER, limit, deadline=soon())


async def changes_after(database: Database, number: int) -> list[Change]:
    return await database.changes(number, 0.0, 100, deadline=soon())


async def test_chunks_without_vectors_are_found_embedded_and_published_again(
    database: Database, tmp_path: Path
) -> None:
    accepted, change = await publish(
        database, tmp_path, [page_reading(1), embedded(2), embedded(3, encoder="m@0"), page_reading(4)]
    )
    found = await unembedded(database)
    assert [page.page for page in found] == [1, 3, 4]
    assert [chunk.text for chunk in found[0].chunks] == ["Titan orbits Saturn."]
    assert await unembedded(database, 1) == found[:1]
    await database.add_vectors([replace(page, embeddings=made()) for page in found[:2]], deadline=soon())
    assert await changes_after(database, change.number) == []
    await database.add_vectors([replace(found[2], embeddings=made())], deadline=soon())
    [again] = await changes_after(database, change.number)
    assert again == Change(change.number + 1, "publish", accepted.document_id, "main")
    assert await unembedded(database) == []
    assert await database.embedded_chunks(ENCODER, deadline=soon()) == 4
    [document] = await database.published(None, 10, encoder=ENCODER, deadline=soon())
    assert document.embeddings is not None
    assert document.embeddings.array == pytest.approx(np.tile([0.6, 0.8], (4, 1)), abs=1e-3)


async def test_every_document_of_the_file_is_published_again(database: Database, tmp_path: Path) -> None:
    await publish(database, tmp_path, [page_reading(1)], collection="one")
    _, change = await publish(database, tmp_path, [page_reading(1)], collection="two")
    [page] = await unembedded(database)
    await database.add_vectors([replace(page, embeddings=made())], deadline=soon())
    assert sorted(entry.collection for entry in await changes_after(database, change.number)) == ["one", "two"]


async def test_vectors_of_a_page_that_is_gone_or_was_read_anew_are_left_out(database: Database, tmp_path: Path) -> None:
    accepted, _ = await publish(database, tmp_path, [page_reading(1)])
    [page] = await unembedded(database)
    other = replace(page, chunks=(replace(page.chunks[0], text="Another text."),), embeddings=made())
    await database.add_vectors([other], deadline=soon())
    assert await unembedded(database) == [page]
    await database.delete_document(accepted.document_id, deadline=soon())
    await database.add_vectors([replace(page, embeddings=made())], deadline=soon())
    assert await database.embedded_chunks(ENCODER, deadline=soon()) == 0


async def test_what_is_not_published_is_not_embedded(database: Database, tmp_path: Path) -> None:
    await database.accept(await upload(tmp_path, pages=2), deadline=soon())
    lease = await database.claim("w", 30.0, deadline=soon())
    assert lease is not None
    await database.commit_pages(lease.job_id, lease.fence, (page_reading(1), page_reading(2)), deadline=soon())
    assert await unembedded(database) == []
    await database.publish(lease.job_id, lease.fence, deadline=soon())
    assert len(await unembedded(database)) == 2


async def test_vectors_of_other_encoders_are_removed(database: Database, tmp_path: Path) -> None:
    await publish(database, tmp_path, [embedded(1), embedded(2, encoder="m@0")])
    assert await database.forget_vectors(ENCODER, deadline=soon()) == 1
    assert await database.forget_vectors(ENCODER, deadline=soon()) == 0
    assert await database.embedded_chunks(ENCODER, deadline=soon()) == 1


async def test_a_sample_is_of_whole_files_and_paged_without_a_gap(database: Database, tmp_path: Path) -> None:
    for number in range(6):
        await publish(database, tmp_path, [embedded(1), embedded(2)], f"file {number}".encode())

    async def pages_of(share: float, limit: int) -> list[tuple[str, int]]:
        found: list[PageChunks] = []
        after = None
        while some := await database.vectors_sample(ENCODER, share, after, limit, deadline=soon()):
            assert all(page.embeddings == made() for page in some)
            found += some
            after = (some[-1].sha256, some[-1].pipeline, some[-1].page)
        return [(page.sha256, page.page) for page in found]

    everything = await pages_of(1.0, 5)
    assert len(set(everything)) == len(everything) == 12
    some = await pages_of(0.5, 3)
    assert 0 < len(some) < 12
    assert set(some) < set(everything)
    assert {page for _, page in some} == {1, 2}
    assert await pages_of(0.0, 3) == []


@pytest.mark.parametrize("size", [0, 1, vectors.PART_BYTES, vectors.PART_BYTES + 1])
async def test_what_is_fitted_comes_back_and_is_told_of(database: Database, size: int) -> None:
    before = await database.last_change(deadline=soon())
    assert await database.fitted("fast:m", deadline=soon()) is None
    content = bytes(range(256)) * (size // 256 + 1)
    for version in ("1", "2"):
        await database.keep_fitted(Fitted("fast:m", version, 7, content[:size]), deadline=soon())
    assert await database.fitted("fast:m", deadline=soon()) == Fitted("fast:m", "2", 7)
    assert await database.fitted("fast:m", known="2", deadline=soon()) == Fitted("fast:m", "2", 7)
    assert await database.fitted("fast:m", known="1", deadline=soon()) == Fitted("fast:m", "2", 7, content[:size])
    assert [change.kind for change in await changes_after(database, before)] == ["encoder"] * 2


@given(st.lists(st.lists(st.floats(-1, 1, width=16), min_size=3, max_size=3), max_size=5))
def test_packed_vectors_come_back(rows: list[list[float]]) -> None:
    array = np.array(rows, np.float32).reshape(-1, 3)
    packed = Embeddings.of(ENCODER, array)
    assert len(packed) == len(rows)
    assert packed.array.tolist() == array.tolist()
