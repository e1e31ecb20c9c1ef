"""Branches: what became of each call of the fan-out, and how they join into one answer per question.

The calls are shared by a batch, the deadlines are not: each question takes from a call only what was there before its
own time was up. All of it is pure, so that every way of failing can be tried without any of the roles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Unavailable, UnknownSource
from actors.messages import Answer, Branch, BranchStatus, Found, LinkedEntity, Lookup, Question, Row
from actors.search.answer import choose, text_of

NOT_SEARCHED = "The documents could not be searched; `degraded` says why."

T = TypeVar("T")


@dataclass(slots=True)
class Call(Generic[T]):
    """One call to a role for a whole batch. Times are seconds since the epoch, as in `Deadline`.

    Attributes:
        started: None until it is made.
        ended: infinity while it has not come back.
        values: one per item asked for, unless `error`.
        error: why the call failed as a whole.
    """

    started: float | None = None
    ended: float = math.inf
    values: Sequence[T | GatherumError] = ()
    error: GatherumError | None = None


@dataclass(frozen=True, slots=True)
class Share(Generic[T]):
    """What one question has of a call: a value, or the report of why not."""

    branch: Branch
    value: T | None = None
    error: GatherumError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that came back for the questions of a batch, or did not.

    Attributes:
        took: when the orchestrator took the questions.
        rows: for the distinct look-ups.
        lookups: per question, what its names call for; empty where the names are not known.
        distinct: look-up to its place in `rows`.
        sources: names of the registered sources; None where nobody asked, or it could not be found out.
    """

    took: float
    retrieval: Call[Found]
    entities: Call[tuple[LinkedEntity, ...]]
    rows: Call[list[Row]]
    lookups: Sequence[Sequence[Lookup]]
    distinct: Mapping[Lookup, int]
    sources: frozenset[str] | None = None


def plan_lookups(question: Question, entities: Iterable[LinkedEntity]) -> list[Lookup]:
    """The look-ups that the names in a question call for, in the sources that it allows, each once."""
    lookups = {
        Lookup(link.source, link.table, link.column, entity.text if link.value is None else link.value): None
        for entity in entities
        for link in entity.links
        if link.source is not None
        and link.table is not None
        and link.column is not None
        and (question.sources is None or link.source in question.sources)
    }
    return list(lookups)


def merge(
    question: Question, index: int, batch: Batch, *, until: float, now: float, sentences: int
) -> Answer | GatherumError:
    """Join the branches of one question.

    Args:
        question: the question.
        index: its place in the batch.
        batch: what came back.
        until: when its branches' time was up, seconds since the epoch.
        now: seconds since the epoch.
        sentences: most sentences quoted.

    Returns:
        An answer, partial if a branch failed or was late. Or an error: the question's where it is at fault, else one
        that sums up how every branch failed.
    """
    for name in question.sources or ():
        if batch.sources is not None and name not in batch.sources:
            return UnknownSource(f"There is no source named {name!r}.")
    retrieval = share("retrieval", batch.retrieval, index, took=batch.took, until=until)
    if isinstance(retrieval.error, InvalidInput | NotFound):
        return retrieval.error
    entities = share("entities", batch.entities, index, took=batch.took, until=until)
    sql, rows = _rows(question, index, batch, entities, until)
    branches = (entities.branch, retrieval.branch, *(part.branch for part in sql))
    tried = [branch for branch in branches if branch.status != "skipped"]
    failed = [branch for branch in tried if branch.status != "ok"]
    if len(failed) == len(tried):
        return _nothing(failed)
    found = retrieval.value or Found()
    passages = found.passages
    names = entities.value or ()
    chosen = choose(question.text, passages, rows, names, limit=sentences)
    return Answer(
        request_id=question.request_id,
        question=question.text,
        text=text_of(chosen) if chosen or retrieval.branch.status == "ok" else NOT_SEARCHED,
        mode="extractive",
        sentences=chosen,
        passages=passages,
        rows=rows,
        entities=names,
        branches=branches,
        partial=bool(failed) or found.partial,
        degraded=(
            *(f"{branch.name}: {branch.error}" for branch in failed),
            *((f"retrieval: {found.degraded}",) if found.degraded else ()),
        ),
        elapsed_ms=1000 * (now - batch.took),
        encoder=found.encoder,
    )


def share(name: str, call: Call[T], index: int, *, took: float, until: float) -> Share[T]:
    """One question's share of a call, as of `until`."""
    started = until if call.started is None else call.started
    if call.ended > until:
        late = DeadlineExceeded(f"{name} did not answer in time.")
        return _share(name, "timeout", took, started, max(started, until), error=late)
    value = call.error or call.values[index]
    if isinstance(value, GatherumError):
        status: BranchStatus = "timeout" if isinstance(value, DeadlineExceeded) else "error"
        return _share(name, status, took, started, call.ended, error=value)
    return _share(name, "ok", took, started, call.ended, value=value)


def _share(
    name: str,
    status: BranchStatus,
    took: float,
    started: float,
    ended: float,
    *,
    value: T | None = None,
    error: GatherumError | None = None,
) -> Share[T]:
    branch = Branch(
        name=name,
        status=status,
        started_ms=round(1000 * (started - took), 3),
        elapsed_ms=round(1000 * (ended - started), 3),
        error=f"{error.code}: {error.detail}" if error else None,
    )
    return Share(branch, value, error)


def _rows(
    question: Question, index: int, batch: Batch, entities: Share[tuple[LinkedEntity, ...]], until: float
) -> tuple[list[Share[list[Row]]], tuple[Row, ...]]:
    """A branch for each source that was looked into, and the rows of all, each once."""
    lookups = batch.lookups[index] if entities.error is None else ()
    if not lookups:
        unknown = entities.error is not None and question.sources != ()
        why = "The names in the question could not be found out." if unknown else None
        return [Share(Branch("sql", "skipped", 0.0, 0.0, attempts=0, error=why))], ()
    branches: dict[str, Share[list[Row]]] = {}
    rows: dict[tuple[object, ...], Row] = {}
    for lookup in lookups:
        part = share(f"sql:{lookup.source}", batch.rows, batch.distinct[lookup], took=batch.took, until=until)
        # One failed look-up marks its source; the rows of the others count all the same.
        if part.error is not None or lookup.source not in branches:
            branches[lookup.source] = part
        for row in part.value or ():
            rows.setdefault((row.source, row.table, *map(str, row.key.values())), row)
    return list(branches.values()), tuple(rows.values())


def _nothing(failed: Sequence[Branch]) -> GatherumError:
    if all(branch.status == "timeout" for branch in failed):
        return DeadlineExceeded("The question could not be answered in time.")
    reasons = "; ".join(f"{branch.name}: {branch.error}" for branch in failed)
    return Unavailable(f"No part of the system could work on the question. {reasons}")
