"""Idempotency keys: what makes two uploads the same, and how long that is remembered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection
from stores import open_database, soon, upload

from actors.database import Database
from actors.errors import InvalidInput, KeyReused
from actors.messages import DocumentInfo, Upload
from actors.store import keys
from actors.store.tables import idempotency_keys

UPLOAD = Upload("0" * 64, 10, "a.pdf", "main", DocumentInfo(3, "A"), {"year": 1, "tags": ["x"]}, 0, "k")


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(tmp_path) as database:
        yield database


@pytest.mark.parametrize(
    "other",
    [{"sha256": "1" * 64}, {"filename": "b.pdf"}, {"collection": "other"}, {"metadata": {"year": 2}}, {"priority": 1}],
)
def test_whatever_the_client_sends_makes_another_request(other: dict[str, Any]) -> None:
    assert keys.fingerprint(UPLOAD) != keys.fingerprint(replace(UPLOAD, **other))


def test_what_it_does_not_send_makes_none_and_neither_does_the_order_of_metadata() -> None:
    again = replace(UPLOAD, info=DocumentInfo(4), metadata={"tags": ["x"], "year": 1}, idempotency_key="other")
    assert keys.fingerprint(UPLOAD) == keys.fingerprint(again)


async def test_a_key_is_free_again_after_a_day_and_its_row_is_swept(database: Database, tmp_path: Path) -> None:
    first = await database.accept(await upload(tmp_path, idempotency_key="k"), deadline=soon())
    other = await upload(tmp_path, b"%PDF-1.7 other", idempotency_key="k")
    assert (await database.tend(1, deadline=soon())).keys == 0
    with pytest.raises(KeyReused):
        await database.accept(other, deadline=soon())
    await age(database, keys.KEPT_S)
    second = await database.accept(other, deadline=soon())
    assert second.document_id != first.document_id
    await age(database, keys.KEPT_S)
    assert (await database.tend(1, deadline=soon())).keys == 1


async def age(database: Database, seconds: float) -> None:
    async def work(connection: AsyncConnection, now: float) -> None:
        older = idempotency_keys.c.created_at - seconds
        await connection.execute(update(idempotency_keys).values(created_at=older))

    await database._store.write(work)


async def test_an_upload_that_is_refused_leaves_its_key_free(database: Database, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        await database.accept(await upload(tmp_path, collection="../x", idempotency_key="k"), deadline=soon())
    accepted = await database.accept(await upload(tmp_path, idempotency_key="k"), deadline=soon())
    assert not accepted.duplicate


async def test_a_key_is_compared_by_its_bytes(database: Database, tmp_path: Path) -> None:
    await database.accept(await upload(tmp_path, idempotency_key="key"), deadline=soon())
    accepted = await database.accept(await upload(tmp_path, b"%PDF-1.7 other", idempotency_key="KEY"), deadline=soon())
    assert not accepted.duplicate
