"""Branches: what became of each call of the fan-out, and how they join into one answer per question.

The calls are shared by a batch, the deadlines are not: each question takes from a call only what was there before its
own time was up. All of it is pure, so that every way of failing can be tried without any of the roles.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Unavailable, UnknownSource
from actors.messages import (
    Answer,
    Branch,
    BranchStatus,
    Evidence,
    Found,
    LinkedEntity,
    Lookup,
    LookupCall,
    Question,
    Row,
    StoredLookup,
)
from actors.search import matching
from actors.search.answer import choose, text_of

NOT_SEARCHED = "The documents could not be searched; `degraded` says why."

T = TypeVar("T")

Wanted = Lookup | LookupCall
"""What is wanted from an SQL source."""


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
    """What one question has of a call: a value, or the report of why not, or a part of it and both."""

    branch: Branch
    value: T | None = None
    error: GatherumError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that came back for the questions of a batch, or did not.

    Attributes:
        took: when the orchestrator took the questions.
        rows: for what is wanted from each source, by its name.
        wanted: per question, what it calls for; empty where its names are not known.
        places: where each of what is wanted stands in the call of its source.
        models: per question that a language model was asked about, by its place, the rows of the model's statement.
        sources: names of the registered sources; None where nobody asked, or it could not be found out.
    """

    took: float
    retrieval: Call[Found]
    entities: Call[tuple[LinkedEntity, ...]]
    rows: Mapping[str, Call[Evidence]]
    wanted: Sequence[Sequence[Wanted]]
    places: Mapping[Wanted, int]
    models: Mapping[int, Call[Evidence]]
    sources: frozenset[str] | None = None


def plan(question: Question, entities: Sequence[LinkedEntity], stored: Sequence[StoredLookup]) -> list[Wanted]:
    """What a question calls for from the sources that it allows, each once: rows with its names, and stored lookups."""
    allowed = question.sources
    rows: dict[Wanted, None] = {
        Lookup(link.source, link.table, link.column, entity.text if link.value is None else link.value, link.key): None
        for entity in entities
        for link in entity.links
        if link.source is not None
        and link.table is not None
        and link.column is not None
        and (allowed is None or link.source in allowed)
    }
    lookups = stored if allowed is None else [lookup for lookup in stored if lookup.source in allowed]
    return [*rows, *(match.call for match in matching.choose(question.text, entities, lookups))]


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
        return _share(name, _status(value), took, started, call.ended, error=value)
    return _share(name, "ok", took, started, call.ended, value=value)


def _status(error: GatherumError) -> BranchStatus:
    return "timeout" if isinstance(error, DeadlineExceeded) else "error"


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
) -> tuple[list[Share[Evidence]], tuple[Row, ...]]:
    """A branch for each source that was looked into, and the rows of all, each once."""
    branches: dict[str, Share[Evidence]] = {}
    found: list[Row] = []
    for wanted in batch.wanted[index] if entities.error is None else ():
        name = f"sql:{wanted.source}"
        part = _evidence(name, batch.rows[wanted.source], batch.places[wanted], batch.took, until)
        # What failed marks its source; the rows of the others count all the same.
        if part.error is not None or name not in branches:
            branches[name] = part
        found += part.value.rows if part.value else ()
    model = batch.models.get(index)
    if model is not None:
        part = branches["model"] = _evidence("model", model, 0, batch.took, until)
        found += part.value.rows if part.value else ()
    if not branches:
        unknown = entities.error is not None and question.sources != ()
        why = "The names in the question could not be found out." if unknown else None
        return [Share(Branch("sql", "skipped", 0.0, 0.0, attempts=0, error=why))], ()
    # What was found by a name itself comes before what a foreign key led to, also where both did.
    rows: dict[tuple[object, ...], Row] = {}
    for row in sorted(found, key=lambda row: bool(row.via)):
        rows.setdefault((row.source, row.kind, row.table, *map(str, row.key.values())), row)
    return list(branches.values()), tuple(rows.values())


def _evidence(name: str, call: Call[Evidence], place: int, took: float, until: float) -> Share[Evidence]:
    part = share(name, call, place, took=took, until=until)
    if part.value is None or part.value.error is None:
        return part
    return _share(
        name,
        _status(part.value.error),
        took,
        call.started or took,
        call.ended,
        value=part.value,
        error=part.value.error,
    )


def _nothing(failed: Sequence[Branch]) -> GatherumError:
    if all(branch.status == "timeout" for branch in failed):
        return DeadlineExceeded("The question could not be answered in time.")
    reasons = "; ".join(f"{branch.name}: {branch.error}" for branch in failed)
    return Unavailable(f"No part of the system could work on the question. {reasons}")
