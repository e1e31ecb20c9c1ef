"""Doctor: looks whether everything the store holds fits together, and puts right what can be.

Each check goes through the store in steps, so it may run beside everything else: what it sees in one step is one state
of the database, and a repair looks again under the locks that the work itself takes. All repairs can be repeated. What
was read is never patched up: pages that have lost something are read again, from the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from sqlalchemy import delete, func, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from actors.errors import GatherumError, InvalidInput, ReadingFailed
from actors.messages import Change, Examined, Finding
from actors.search.names import normal
from actors.store import changes, files, jobs, readings, sweeping
from actors.store.blobs import PREFIXES, Blobs
from actors.store.dialect import insert_new
from actors.store.documents import new_id
from actors.store.engine import Store
from actors.store.engine import now as time_of
from actors.store.entities import renormalise
from actors.store.rows import AnyRow
from actors.store.tables import changes as changes_table
from actors.store.tables import chunks, contents, counters, documents, entities, mentions, pages, vectors
from actors.store.tables import jobs as jobs_table

CHECKS: Final = ("uploads", "files", "changes", "readings", "jobs", "documents", "entities")
"""In this order: what would be in the way of reading a page again is cleared away before pages are."""

DOCUMENTS: Final = 20
SHELVES: Final = 16
ROWS: Final = 500
"""Looked at, or found, in one step."""

NAMES: Final = 2000
"""Names looked at in one step, some 10 ms."""

LONG_EXPIRED_S: Final = 600.0
"""A lease that ran out so long ago belongs to nobody any more, s: any worker would have claimed the job."""

ACTIVE: Final = ("queued", "reading")

Repair = Callable[[AsyncConnection, float], Awaitable[object]]


@dataclass(slots=True)
class _Case:
    """A finding, and how to repair it: in a transaction, or by steps that have their own; None where it is not."""

    finding: Finding
    repair: Repair | None = None
    steps: Callable[[], Awaitable[object]] | None = None


@dataclass(slots=True)
class _Facts:
    """What one step needs to know of some documents, as of one moment."""

    documents: Sequence[AnyRow]
    pages: dict[tuple[str, int], dict[int, AnyRow]] = field(default_factory=dict)
    chunks: dict[tuple[str, int, int], int] = field(default_factory=dict)
    mentions: dict[tuple[str, int, int], int] = field(default_factory=dict)
    being_read: set[str] = field(default_factory=set)
    announced: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)


class Doctor:
    """Examines one store.

    Args:
        store: the rows.
        blobs: the files.
        pipeline: version that pages are read again with.
        max_attempts: of a job that is queued for that.
        grace_s: files younger than this may belong to an upload under way.
    """

    def __init__(self, store: Store, blobs: Blobs, *, pipeline: int, max_attempts: int, grace_s: float) -> None:
        self._store = store
        self._blobs = blobs
        self._pipeline = pipeline
        self._max_attempts = max_attempts
        self._grace_s = grace_s

    async def examine(self, check: str, after: str, *, deep: bool, repair: bool) -> Examined:
        """One step of a check.

        Args:
            check: one of `CHECKS`.
            after: empty to begin, then `next` of the step before.
            deep: whether files are hashed.
            repair: whether to repair what can be.

        Raises:
            InvalidInput: there is no such check.
            Unavailable: the store or the files cannot be reached.
        """
        steps: dict[str, Callable[..., Awaitable[tuple[list[_Case], int, str | None]]]] = {
            "uploads": self._uploads,
            "files": self._files,
            "changes": self._changes,
            "readings": self._readings,
            "jobs": self._jobs,
            "documents": partial(self._documents, deep=deep),
            "entities": self._entities,
        }
        if check not in steps:
            raise InvalidInput(f"There is no check {check!r}; there are {', '.join(CHECKS)}.")
        cases, looked_at, following = await steps[check](after)
        findings = [await self._treated(case) if repair else case.finding for case in cases]
        return Examined(tuple(findings), looked_at, following)

    async def _treated(self, case: _Case) -> Finding:
        if case.repair is None and case.steps is None:
            return case.finding
        try:
            if case.steps is not None:
                await case.steps()
            if case.repair is not None:
                await self._store.write(case.repair, repeatable=True)
        except GatherumError as error:
            return replace(case.finding, what=f"{case.finding.what} The repair failed: {error.detail}")
        return replace(case.finding, repaired=True)

    # --- files -------------------------------------------------------------------------------------------------------

    async def _uploads(self, after: str) -> tuple[list[_Case], int, str | None]:
        stale = await self._blobs.stale_uploads(older_than_s=self._grace_s)

        if not stale:
            return [], 0, None
        what = f"{len(stale)} uploads broke off and have left temporary files."
        sweep = partial(self._blobs.sweep_incoming, older_than_s=self._grace_s)
        return [_Case(Finding("uploads", "incoming", what, "Remove them."), steps=sweep)], len(stale), None

    async def _files(self, after: str) -> tuple[list[_Case], int, str | None]:
        start = int(after or "0")
        cases = []
        looked_at = 0
        for prefix in PREFIXES[start : start + SHELVES]:
            unused, held = await sweeping.orphans(self._store, self._blobs, prefix, grace_s=self._grace_s)
            looked_at += held
            for sha256 in unused:
                finding = Finding("files", sha256, "No document is this file.", "Remove it.")
                write = partial(self._store.write, repeatable=True)
                removal = partial(files.remove_unused, write, self._blobs, sha256=sha256)
                cases.append(_Case(finding, steps=removal))
        end = start + SHELVES
        return cases, looked_at, str(end) if end < len(PREFIXES) else None

    # --- the change log ----------------------------------------------------------------------------------------------

    async def _changes(self, after: str) -> tuple[list[_Case], int, str | None]:
        async def look(connection: AsyncConnection) -> tuple[int, int, int, Sequence[int]]:
            counter = select(counters.c.value).where(counters.c.name == changes.COUNTER)
            drawn = (await connection.execute(counter)).scalar_one_or_none() or 0
            last = await changes.last(connection)
            count = (await connection.execute(select(func.count()).select_from(changes_table))).scalar_one()
            if count == max(drawn, last):
                return drawn, last, count, ()
            return drawn, last, count, await _gaps(connection, max(drawn, last))

        drawn, last, count, gaps = await self._store.read(look)
        cases = []
        if drawn < last:
            what = f"The counter stands at {drawn}, the change log at {last}: the next change would fail."
            cases.append(_Case(Finding("changes", changes.COUNTER, what, "Set the counter."), _set_counter))
        for number in gaps:
            finding = Finding(
                "changes",
                str(number),
                "The change log has lost this entry; an index may have missed what it said.",
                "Put a mark in its place. What indexes have missed, the check of the indexes finds.",
            )
            cases.append(_Case(finding, partial(_fill_gap, number=number)))
        return cases, count, None

    # --- readings ----------------------------------------------------------------------------------------------------

    async def _readings(self, after: str) -> tuple[list[_Case], int, str | None]:
        async def look(connection: AsyncConnection) -> tuple[list[str], Sequence[AnyRow]]:
            strays: set[str] = set()
            for table in (pages, chunks, vectors, mentions):
                has_document = select(literal(1)).where(documents.c.sha256 == table.c.sha256).exists()
                found = select(table.c.sha256).distinct().where(~has_document).limit(ROWS)
                strays.update((await connection.execute(found)).scalars())
            loose: set[AnyRow] = set()
            for table in (chunks, vectors, mentions):
                place = (table.c.sha256, table.c.pipeline, table.c.page)
                same = (pages.c.sha256 == place[0], pages.c.pipeline == place[1], pages.c.number == place[2])
                found = select(*place).distinct().where(~select(literal(1)).where(*same).exists()).limit(ROWS)
                loose.update((await connection.execute(found)).all())
            return sorted(strays), [row for row in sorted(loose) if row.sha256 not in strays]

        strays, loose = await self._store.read(look)
        cases = []
        for sha256 in strays:
            finding = Finding("readings", sha256, "What was read from a file is there, but no document.", "Remove it.")
            cases.append(_Case(finding, partial(_remove_reading, sha256=sha256)))
        for sha256, pipeline, page in loose:
            what = f"Page {page} has chunks, vectors or mentions, and is not there itself."
            removal = partial(_remove_page, sha256=sha256, pipeline=pipeline, page=page)
            cases.append(_Case(Finding("readings", sha256, what, "Remove them."), removal))
        return cases, len(cases), None

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def _jobs(self, after: str) -> tuple[list[_Case], int, str | None]:
        async def look(connection: AsyncConnection) -> tuple[Sequence[str], Sequence[AnyRow]]:
            has_document = select(literal(1)).where(documents.c.id == jobs_table.c.document_id).exists()
            lost = select(jobs_table.c.id).where(~has_document).order_by(jobs_table.c.id).limit(ROWS)
            now = await time_of(connection)
            stuck = (
                select(jobs_table.c.id, jobs_table.c.fence, jobs_table.c.lease_until)
                .where(jobs_table.c.state == "reading", jobs_table.c.lease_until < now - LONG_EXPIRED_S)
                .order_by(jobs_table.c.id)
                .limit(ROWS)
            )
            return (await connection.execute(lost)).scalars().all(), (await connection.execute(stuck)).all()

        lost, stuck = await self._store.read(look)
        cases = []
        for job_id in lost:
            finding = Finding("jobs", job_id, "The job is there, its document is not.", "Remove the job.")
            cases.append(_Case(finding, partial(_remove_job, job_id=job_id)))
        for job_id, fence, _ in stuck:
            what = (
                f"Its worker has been silent for more than {LONG_EXPIRED_S / 60:.0f} minutes, and none has taken over."
            )
            finding = Finding("jobs", job_id, what, "Queue it anew. If that does not help, no worker runs.")
            cases.append(_Case(finding, partial(_free_job, job_id=job_id, fence=fence)))
        return cases, len(cases), None

    # --- documents ---------------------------------------------------------------------------------------------------

    async def _documents(self, after: str, *, deep: bool) -> tuple[list[_Case], int, str | None]:
        facts = await self._store.read(partial(_facts, after=after))
        cases = []
        for document in facts.documents:
            if document.sha256 not in facts.listed:
                finding = _of(document, "Its file is not among those that are guarded.", "Note it.")
                cases.append(_Case(finding, partial(_list_file, sha256=document.sha256)))
            cases += await self._file_of(document, deep=deep)
            if document.id not in facts.being_read:
                cases += self._reading_of(document, facts)
            if document.pipeline is not None and document.id not in facts.announced:
                finding = _of(document, "It is published, and the change log does not say so.", "Announce it.")
                cases.append(_Case(finding, partial(announce, document_ids=[document.id])))
        more = len(facts.documents) == DOCUMENTS
        return cases, len(facts.documents), facts.documents[-1].id if more else None

    async def _file_of(self, document: AnyRow, *, deep: bool) -> list[_Case]:
        stored = await self._blobs.stat(document.sha256)
        if stored is None:
            why = "Its file is missing."
        elif stored.size != document.size:
            why = f"Its file has {stored.size} bytes and should have {document.size}."
        elif deep and not await self._is_whole(document.sha256):
            why = "Its file is damaged: the content is not what was uploaded."
        else:
            return []
        # Only whoever uploaded it has the right bytes.
        return [_Case(_of(document, f"{why} Upload it again into the same collection: that puts it back."))]

    async def _is_whole(self, sha256: str) -> bool:
        try:
            return await self._blobs.hash(sha256) == sha256
        except ReadingFailed:
            return False

    def _reading_of(self, document: AnyRow, facts: _Facts) -> list[_Case]:
        again = partial(
            _read_again, document=document, pipeline=self._pipeline, max_attempts=self._max_attempts, lost=()
        )
        if document.pipeline is None:
            if document.state in ("failed", "cancelled"):
                return []
            finding = _of(document, "It waits to be read, and no job will do it.", "Queue it.")
            return [_Case(finding, again)]
        cases = []
        there = facts.pages.get((document.sha256, document.pipeline), {})
        if document.state not in ("done", "partial"):
            what = f"It is published, and its state is {document.state}."
            state = "partial" if any(page.error is not None for page in there.values()) else "done"
            setting = partial(_set_state, document_id=document.id, state=state)
            cases.append(_Case(_of(document, what, f"Set it to {state}."), setting))
        missing = [number for number in range(1, document.pages + 1) if number not in there]
        lost = []
        for number, page in there.items():
            place = (document.sha256, document.pipeline, number)
            counted = (facts.chunks.get(place, 0), facts.mentions.get(place, 0))
            # NULL of pages that were read before it was counted.
            if any(
                had is not None and had != has for had, has in zip((page.chunks, page.mentions), counted, strict=True)
            ):
                lost.append(number)
        if missing:
            what = f"It is published, and lacks {_listed(missing)}."
            cases.append(_Case(_of(document, what, "Read them again."), again))
        if lost:
            what = f"Chunks or mentions of {_listed(lost)} are not those that were read."
            cases.append(_Case(_of(document, what, "Read them again."), partial(again, lost=tuple(lost))))
        return cases

    # --- entities ----------------------------------------------------------------------------------------------------

    async def _entities(self, after: str) -> tuple[list[_Case], int, str | None]:
        return await self._forms(after) if after else await self._unmentioned()

    async def _unmentioned(self) -> tuple[list[_Case], int, str | None]:
        async def look(connection: AsyncConnection) -> Sequence[int]:
            mentioned = select(literal(1)).where(mentions.c.entity_id == entities.c.id).exists()
            found = select(entities.c.id).where(~mentioned).order_by(entities.c.id).limit(ROWS)
            return (await connection.execute(found)).scalars().all()

        ids = await self._store.read(look)

        async def remove(connection: AsyncConnection, now: float) -> None:
            await readings.remove_unmentioned(connection, ids)

        if not ids:
            return [], 0, "0"
        what = f"{len(ids)} names are mentioned nowhere."
        # Counted when their forms are looked at.
        return [_Case(Finding("entities", "entities", what, "Remove them."), remove)], 0, "0"

    async def _forms(self, after: str) -> tuple[list[_Case], int, str | None]:
        async def look(connection: AsyncConnection) -> Sequence[AnyRow]:
            columns = (entities.c.id, entities.c.name, entities.c.normal, entities.c.label)
            some = select(*columns).where(entities.c.id > int(after)).order_by(entities.c.id).limit(NAMES)
            return (await connection.execute(some)).all()

        rows = await self._store.read(look)
        wrong = await asyncio.to_thread(lambda: [row for row in rows if normal(row.normal, row.label) != row.normal])
        cases = [
            _Case(
                Finding(
                    "entities",
                    str(row.id),
                    f"The name {row.name!r} is kept as {row.normal!r}, which is not how names are compared.",
                    "Keep it as they are, as one with the name that is the same then.",
                ),
                partial(renormalise, entity_id=row.id),
            )
            for row in wrong
        ]
        return cases, len(rows), str(rows[-1].id) if len(rows) == NAMES else None


# --- what a step looks at -------------------------------------------------------------------------------------------


async def _facts(connection: AsyncConnection, after: str) -> _Facts:
    some = select(documents).where(documents.c.id > after).order_by(documents.c.id).limit(DOCUMENTS)
    facts = _Facts((await connection.execute(some)).all())
    hashes = sorted({document.sha256 for document in facts.documents})
    ids = [document.id for document in facts.documents]
    columns = (pages.c.sha256, pages.c.pipeline, pages.c.number, pages.c.chunks, pages.c.mentions, pages.c.error)
    for row in await connection.execute(select(*columns).where(pages.c.sha256.in_(hashes))):
        facts.pages.setdefault((row.sha256, row.pipeline), {})[row.number] = row
    # A mention whose entity is gone is none.
    named = select(literal(1)).where(entities.c.id == mentions.c.entity_id).exists()
    for table, counts, whole in ((chunks, facts.chunks, true()), (mentions, facts.mentions, named)):
        place = (table.c.sha256, table.c.pipeline, table.c.page)
        counted = select(*place, func.count()).where(table.c.sha256.in_(hashes), whole).group_by(*place)
        counts.update({(sha256, pipeline, page): n for sha256, pipeline, page, n in await connection.execute(counted)})
    active = select(jobs_table.c.document_id).where(jobs_table.c.document_id.in_(ids), jobs_table.c.state.in_(ACTIVE))
    facts.being_read.update((await connection.execute(active)).scalars())
    told = select(changes_table.c.document_id).where(
        changes_table.c.document_id.in_(ids), changes_table.c.kind == "publish"
    )
    facts.announced.update((await connection.execute(told)).scalars())
    known = select(contents.c.sha256).where(contents.c.sha256.in_(hashes))
    facts.listed.update((await connection.execute(known)).scalars())
    return facts


async def _gaps(connection: AsyncConnection, last: int) -> list[int]:
    """The first numbers from 1 to `last` that the change log lacks."""
    found: list[int] = []
    expected = 1
    following = changes_table.alias()
    # The last entry before each gap, and the first after it.
    successor = select(literal(1)).where(following.c.number == changes_table.c.number + 1).exists()
    edges = select(changes_table.c.number).where(~successor).order_by(changes_table.c.number).limit(ROWS)
    for edge in (await connection.execute(edges)).scalars():
        begins = select(func.min(changes_table.c.number)).where(changes_table.c.number >= expected)
        start: int = (await connection.execute(begins)).scalar_one()
        found += range(expected, start)
        expected = edge + 1
    if len(found) < ROWS:
        found += range(expected, min(last, expected + ROWS) + 1)
    return found[:ROWS]


# --- repairs --------------------------------------------------------------------------------------------------------


async def announce(connection: AsyncConnection, now: float, *, document_ids: Sequence[str]) -> None:
    """Have the indexes look at documents again: an entry of the change log says what there is of each now."""
    for document_id in document_ids:
        found = await connection.execute(
            select(documents.c.collection, documents.c.pipeline).where(documents.c.id == document_id)
        )
        row = found.first()
        if row is not None and row.pipeline is not None:
            change = Change(0, "publish", document_id=document_id, collection=row.collection)
        else:
            change = Change(0, "delete", document_id=document_id)
        await changes.draw(connection, now, change)


async def _read_again(
    connection: AsyncConnection,
    now: float,
    *,
    document: AnyRow,
    pipeline: int,
    max_attempts: int,
    lost: tuple[int, ...],
) -> None:
    await files.hold(connection, document.sha256)
    there = await connection.execute(select(documents.c.id).where(documents.c.id == document.id))
    if there.first() is None:
        return  # deleted meanwhile
    if lost:
        await readings.remove_pages(connection, document.sha256, document.pipeline, lost)
    if document.pipeline is None:
        await _set_state(connection, now, document_id=document.id, state="queued")
    await jobs.require(
        connection,
        now,
        job_id=new_id(now),
        document_id=document.id,
        collection=document.collection,
        pipeline=pipeline,
        max_attempts=max_attempts,
    )


async def _set_state(connection: AsyncConnection, now: float, *, document_id: str, state: str) -> None:
    await connection.execute(update(documents).where(documents.c.id == document_id).values(state=state))


async def _set_counter(connection: AsyncConnection, now: float) -> None:
    last = await changes.last(connection)
    await insert_new(connection, counters, {"name": changes.COUNTER, "value": last})
    behind = (counters.c.name == changes.COUNTER, counters.c.value < last)
    await connection.execute(update(counters).where(*behind).values(value=last))


async def _fill_gap(connection: AsyncConnection, now: float, *, number: int) -> None:
    row = {"number": number, "kind": "gap", "document_id": "", "collection": "", "created_at": now}
    await insert_new(connection, changes_table, row)


async def _remove_reading(connection: AsyncConnection, now: float, *, sha256: str) -> None:
    await files.hold(connection, sha256)
    if not await files.in_use(connection, sha256):
        await readings.remove(connection, sha256)
        await files.forget(connection, sha256)


async def _remove_page(connection: AsyncConnection, now: float, *, sha256: str, pipeline: int, page: int) -> None:
    there = await connection.execute(
        select(pages.c.number).where(pages.c.sha256 == sha256, pages.c.pipeline == pipeline, pages.c.number == page)
    )
    if there.first() is None:
        await readings.remove_pages(connection, sha256, pipeline, [page])


async def _remove_job(connection: AsyncConnection, now: float, *, job_id: str) -> None:
    await connection.execute(delete(jobs_table).where(jobs_table.c.id == job_id))


async def _free_job(connection: AsyncConnection, now: float, *, job_id: str, fence: int) -> None:
    held = (jobs_table.c.id == job_id, jobs_table.c.fence == fence, jobs_table.c.state == "reading")
    values: dict[str, Any] = {"state": "queued", "run_at": now, "lease_until": None, "fence": fence + 1}
    await connection.execute(update(jobs_table).where(*held).values(**values, updated_at=now))


async def _list_file(connection: AsyncConnection, now: float, *, sha256: str) -> None:
    await files.hold_used(connection, sha256)


def _of(document: AnyRow, what: str, repair: str = "") -> Finding:
    return Finding("documents", document.id, what, repair)


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (" …" if len(numbers) > 10 else "")
    return f"page {shown}" if len(numbers) == 1 else f"{len(numbers)} pages ({shown})"
