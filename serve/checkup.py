"""The checkup behind `gatherum doctor`: the store, its files and its indexes, compared with one another.

While the system runs it goes through the actors; while it is down, it opens the store itself, and there are no indexes
to look at: they are built from the store at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, TypeVar

from actors.database import Database
from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError
from actors.messages import Finding
from actors.node import Running
from actors.pool import names_of, on_each
from actors.search.placement import Shard
from actors.shards import shards_of
from actors.store.blobs import open_blobs
from actors.store.doctor import CHECKS
from config.settings import Settings
from serve.services import Roles

T = TypeVar("T")

STEP_S: Final = 300.0
"""Budget of one step, s: with `--deep`, it hashes the files of some documents."""

FOLLOW_S: Final = 30.0
PAGE: Final = 1000
INDEXES: Final = "indexes"


@dataclass(slots=True)
class Checkup:
    """What was found.

    Attributes:
        running: whether the system was up; if not, there were no indexes to look at.
        looked_at: things looked at, by check.
        findings: what is wrong, or was.
    """

    running: bool
    looked_at: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Findings that are not repaired."""
        return sum(not finding.repaired for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        findings = [asdict(finding) for finding in self.findings]
        return {"running": self.running, "looked_at": self.looked_at, "findings": findings, "left": self.left}


def run(settings: Settings, *, deep: bool, repair: bool) -> Checkup:
    """Examine the system of these settings, up or down.

    Raises:
        GatherumError: the store cannot be opened, or a role that is needed does not answer.
    """
    running = Running.load(settings.data_dir)
    if running is None or not running.alive:
        return asyncio.run(_while_down(settings, deep=deep, repair=repair))
    from actors import cluster  # brings Ray along, which nobody needs while the system is down

    cluster.join(running.address)
    return asyncio.run(examine(cluster.Roles.of(settings), deep=deep, repair=repair))


async def examine(roles: Roles, *, deep: bool, repair: bool) -> Checkup:
    """Examine a running system."""
    checkup = Checkup(running=True)
    await _examine_store(roles.database, checkup, deep=deep, repair=repair)
    findings = [*await _compare_chunks(roles, checkup), *await _compare_names(roles, checkup)]
    if findings and repair:
        findings = await _repaired(roles, findings)
    checkup.findings += findings
    return checkup


async def _while_down(settings: Settings, *, deep: bool, repair: bool) -> Checkup:
    checkup = Checkup(running=False)
    async with _opened(settings) as database:
        await _examine_store(database, checkup, deep=deep, repair=repair)
    return checkup


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    database = Database(
        settings.database,
        settings.sources,
        settings.blobs,
        url=settings.database_url,
        blobs=open_blobs(settings.blobs, settings.data_dir),
        max_attempts=settings.ingest.max_attempts,
    )
    try:
        await database.start()
        yield database
    finally:
        await database.stop()


async def _examine_store(database: Database, checkup: Checkup, *, deep: bool, repair: bool) -> None:
    for check in CHECKS:
        after: str | None = ""
        while after is not None:
            step = await database.examine(check, after, deep=deep, repair=repair, deadline=Deadline.after(STEP_S))
            checkup.looked_at[check] = checkup.looked_at.get(check, 0) + step.looked_at
            checkup.findings += step.findings
            after = step.next


# --- indexes --------------------------------------------------------------------------------------------------------


async def _compare_chunks(roles: Roles, checkup: Checkup) -> list[Finding]:
    """Each replica's documents, and how many chunks of each, against the published ones of its shard."""
    held = await _contents(roles.retrieval, "")
    # Read after the indexes: what is published meanwhile looks wrong, and is looked at again.
    stored = dict(await _all(lambda after: roles.database.sizes(after, PAGE, deadline=_soon()), "", _first))
    checkup.looked_at[INDEXES] = len(stored)
    suspects = {
        name: answer
        if isinstance(answer, GatherumError)
        else sorted(dict.fromkeys(key for key, _ in dict(answer).items() ^ _of(shard, stored).items()))
        for (name, answer), shard in zip(held.items(), shards_of(roles.retrieval), strict=True)
    }
    return [finding async for finding in _confirmed(roles, suspects)]


async def _confirmed(roles: Roles, suspects: dict[str, Any]) -> AsyncIterator[Finding]:
    for index, (name, ids) in enumerate(suspects.items()):
        if isinstance(ids, GatherumError):
            yield Finding(INDEXES, name, f"The replica does not answer: {ids.detail}")
            continue
        for document_id in ids:
            has, should = await _counts(roles, index, document_id)
            if has != should:
                what = f"{name} has {has} chunks of the document {document_id}; {should} are published."
                yield Finding(INDEXES, document_id, what, "Have every index read the document again.")


async def _counts(roles: Roles, index: int, document_id: str) -> tuple[int, int]:
    """Chunks of a document in one replica and in the store, once the replica has followed all that was known then."""
    await _caught_up(roles, await roles.database.last_change(deadline=_soon()))
    counts = await on_each(roles.retrieval, lambda replica: replica.chunks_of([document_id], deadline=_soon()))
    document = await roles.database.published_document(document_id, deadline=_soon())
    has = counts[index]
    if isinstance(has, GatherumError):
        raise has
    here = document is not None and shards_of(roles.retrieval)[index].holds(document_id)
    return has, len(document.chunks) if document is not None and here else 0


def _of(shard: Shard, stored: dict[str, int]) -> dict[str, int]:
    return {document_id: chunks for document_id, chunks in stored.items() if shard.holds(document_id)}


async def _compare_names(roles: Roles, checkup: Checkup) -> list[Finding]:
    """Each replica's names against those that published documents mention."""
    await _caught_up(roles, await roles.database.last_change(deadline=_soon()))

    async def stored_ids() -> set[int]:
        names = await _all(
            lambda after: roles.database.entity_names(after, PAGE, deadline=_soon()), 0, lambda name: name.entity_id
        )
        return {name.entity_id for name in names}

    before = await stored_ids()
    held = await _contents(roles.entities, 0)
    after = await stored_ids()
    checkup.looked_at["names"] = len(after)
    findings = []
    for name, ids in held.items():
        if isinstance(ids, GatherumError):
            findings.append(Finding(INDEXES, name, f"The replica does not answer: {ids.detail}"))
            continue
        # What came or went meanwhile is neither missing nor too much.
        missing, extra = (before & after) - set(ids), set(ids) - (before | after)
        if missing or extra:
            what = f"{name} lacks {len(missing)} names and has {len(extra)} that are in no published document."
            findings.append(Finding(INDEXES, name, what, "Have every index read the names again."))
    return findings


async def _repaired(roles: Roles, findings: list[Finding]) -> list[Finding]:
    """Have the indexes read again what is wrong, wait until they have, and look again."""
    documents = sorted({finding.subject for finding in findings if "document" in finding.repair})
    for start in range(0, max(1, len(documents)), PAGE):
        change = await roles.database.announce(documents[start : start + PAGE], deadline=_soon())
        await _caught_up(roles, change)
    again = Checkup(running=True)
    left = {
        (finding.subject, finding.what.partition(" ")[0])
        for finding in [*await _compare_chunks(roles, again), *await _compare_names(roles, again)]
    }
    return [
        replace(
            finding, repaired=bool(finding.repair) and (finding.subject, finding.what.partition(" ")[0]) not in left
        )
        for finding in findings
    ]


async def _caught_up(roles: Roles, change: int) -> None:
    deadline = Deadline.after(FOLLOW_S)
    for role in (roles.retrieval, roles.entities):
        outcomes = await on_each(role, lambda replica: replica.caught_up(change, deadline=deadline))
        if any(isinstance(outcome, DeadlineExceeded) for outcome in outcomes):
            raise DeadlineExceeded("An index does not follow the change log. `gatherum status` says more.")


async def _contents(role: Any, first: Any) -> dict[str, Any]:
    async def one(replica: Any) -> list[Any]:
        return await _all(
            lambda after: replica.contents(after, PAGE, deadline=_soon()), first, _first if first == "" else _itself
        )

    answers = await on_each(role, one)
    return dict(zip(names_of(role), answers, strict=True))


async def _all(page: Callable[[Any], Awaitable[list[T]]], first: Any, key: Callable[[T], Any]) -> list[T]:
    found: list[T] = []
    while True:
        some = await page(key(found[-1]) if found else first)
        found += some
        if len(some) < PAGE:
            return found


def _first(pair: tuple[Any, Any]) -> Any:
    return pair[0]


def _itself(value: Any) -> Any:
    return value


def _soon() -> Deadline:
    return Deadline.after(FOLLOW_S)
