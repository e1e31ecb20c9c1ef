"""Idempotency keys: an upload that is sent again, because its answer was lost, gets the answer of the first.

A key is a row that the first upload inserts in the transaction that takes its document in. A second one under way at
the same moment waits at the unique key for the first to commit, then finds its answer. Without a key, sending a file
again is harmless too, but the answer calls it a duplicate.
"""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import KeyReused
from actors.messages import Accepted, Upload
from actors.store.dialect import MAX_PARAMETERS, insert_new
from actors.store.tables import idempotency_keys

KEPT_S = 24 * 3600.0
"""How long a key is remembered, s."""


def fingerprint(upload: Upload) -> str:
    """What makes two uploads the same request: all that the client has sent."""
    sent = [upload.sha256, upload.collection, upload.filename, upload.metadata, upload.priority]
    return hashlib.sha256(json.dumps(sent, sort_keys=True).encode()).hexdigest()


async def claim(connection: AsyncConnection, now: float, upload: Upload) -> Accepted | None:
    """Take the upload's key for it; or, where that was done before, the answer of then.

    Raises:
        KeyReused: the key was used for something else.
    """
    name, mine = upload.idempotency_key, fingerprint(upload)
    expired = idempotency_keys.c.created_at <= now - KEPT_S
    await connection.execute(delete(idempotency_keys).where(idempotency_keys.c.name == name, expired))
    row = {"name": name, "fingerprint": mine, "document_id": "", "job_id": "", "duplicate": False, "created_at": now}
    if await insert_new(connection, idempotency_keys, row):
        return None
    there = (await connection.execute(select(idempotency_keys).where(idempotency_keys.c.name == name))).one()
    if there.fingerprint != mine:
        raise KeyReused(
            "This Idempotency-Key was used within the last 24 hours for another upload: another file, collection, file "
            "name, metadata or priority. Send each upload under a key of its own."
        )
    return Accepted(there.document_id, there.job_id, there.duplicate)


async def settle(connection: AsyncConnection, upload: Upload, answer: Accepted) -> None:
    """Keep the answer with the key."""
    await connection.execute(
        update(idempotency_keys)
        .where(idempotency_keys.c.name == upload.idempotency_key)
        .values(document_id=answer.document_id, job_id=answer.job_id, duplicate=answer.duplicate)
    )


async def remove(connection: AsyncConnection, document_id: str) -> int:
    """Remove the keys that are answered with a document which is being deleted; how many there were."""
    # By name, since one that is being claimed has no document yet, and must not be waited for.
    rows = await connection.execute(
        select(idempotency_keys.c.name).where(idempotency_keys.c.document_id == document_id)
    )
    names = rows.scalars().all()
    removed = 0
    for start in range(0, len(names), MAX_PARAMETERS):
        some = idempotency_keys.c.name.in_(names[start : start + MAX_PARAMETERS])
        removed += (await connection.execute(delete(idempotency_keys).where(some))).rowcount
    return removed


async def forget(connection: AsyncConnection, now: float) -> int:
    """Remove the keys that are no longer remembered; how many there were."""
    old = idempotency_keys.c.created_at <= now - KEPT_S
    return (await connection.execute(delete(idempotency_keys).where(old))).rowcount
