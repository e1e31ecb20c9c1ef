"""Deletion as a client sees it: when it answers, nothing finds the document any more, and the answer says what went.

The store removes rows and bytes, and notes a change; the indexes follow the change log. So the answer waits until every
replica of both kinds of index has come to that change, and then counts what each of them no longer holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, NotFound
from actors.messages import Removed
from actors.pool import names_of, on_each
from serve.services import Roles

BATCH: Final = 50
"""Documents of a collection that are deleted before the indexes are waited for."""

BATCH_S: Final = 60.0
"""Budget of so many, s."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was removed, and from which index how much: chunks or names by replica, None for one that was down."""

    removed: Removed = field(default_factory=Removed)
    indexes: dict[str, int | None] = field(default_factory=dict)

    def __add__(self, other: Deleted) -> Deleted:
        names = self.indexes | other.indexes
        sums = {name: _sum(self.indexes.get(name, 0), other.indexes.get(name, 0)) for name in names}
        return Deleted(self.removed + other.removed, sums)


async def delete_documents(roles: Roles, document_ids: Sequence[str], *, deadline: Deadline) -> Deleted:
    """Delete documents, wait until no index holds them, and count.

    Raises:
        UnknownDocument: there is none of the id of an only one; of several, those that are gone are passed over.
        DeadlineExceeded: they are deleted, but an index has not followed yet.
        GatherumError: what else `Database.delete_document` says; documents before that one are deleted.
    """
    named = await asyncio.gather(*(roles.database.entities_of(one, deadline=deadline) for one in document_ids))
    entity_ids = sorted(set().union(*named))
    before = await _held(roles, document_ids, entity_ids, deadline)
    removed = Removed()
    for document_id in document_ids:
        try:
            removed += await roles.database.delete_document(document_id, deadline=deadline)
        except NotFound:
            if len(document_ids) == 1:
                raise
    await followed(roles, removed.change, deadline=deadline)
    after = await _held(roles, document_ids, entity_ids, deadline)
    return Deleted(removed, {name: _sum(count, after[name], -1) for name, count in before.items()})


async def delete_collection(roles: Roles, name: str) -> Deleted:
    """Delete a collection with all its documents, some at a time. Broken off, it can be repeated.

    Raises:
        UnknownCollection: there is none of this name.
        Conflict: documents are being added to it.
        GatherumError: see `delete_documents`.
    """
    deleted = Deleted()
    while True:
        deadline = Deadline.after(BATCH_S)
        documents, more = await roles.database.documents(name, None, BATCH, deadline=deadline)
        if documents:
            ids = [document.document_id for document in documents]
            deleted += await delete_documents(roles, ids, deadline=deadline)
        if more is None:
            break
    removed = await roles.database.delete_collection(name, deadline=deadline)
    await followed(roles, removed.change, deadline=deadline)
    return deleted + Deleted(removed)


async def followed(roles: Roles, change: int, *, deadline: Deadline) -> None:
    """Wait until every index has followed the change log to a number.

    A replica that is down is not waited for: when it comes back it reads the store as it is then, before it answers.

    Raises:
        DeadlineExceeded: one has not, in time.
    """
    outcomes = await asyncio.gather(
        on_each(roles.retrieval, lambda replica: replica.caught_up(change, deadline=deadline)),
        on_each(roles.entities, lambda replica: replica.caught_up(change, deadline=deadline)),
    )
    if any(isinstance(outcome, DeadlineExceeded) for role in outcomes for outcome in role):
        raise DeadlineExceeded("It is deleted, but an index has not followed yet; it will.")


async def _held(
    roles: Roles, document_ids: Sequence[str], entity_ids: list[int], deadline: Deadline
) -> dict[str, int | None]:
    """What each replica of an index holds of documents: chunks, or names that they mention."""
    ids = list(document_ids)
    chunks, names = await asyncio.gather(
        on_each(roles.retrieval, lambda replica: replica.chunks_of(ids, deadline=deadline)),
        on_each(roles.entities, lambda replica: replica.known(entity_ids, deadline=deadline)),
    )
    return {
        name: None if isinstance(answer, GatherumError) else answer
        for role, answers in ((roles.retrieval, chunks), (roles.entities, names))
        for name, answer in zip(names_of(role), answers, strict=True)
    }


def _sum(one: int | None, other: int | None, sign: int = 1) -> int | None:
    return None if one is None or other is None else one + sign * other
