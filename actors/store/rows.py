"""Rows as the statements give them, their times as the world outside sees them, and text as every database takes it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from actors.store.lifecycle import JobRow
from actors.store.tables import jobs

AnyRow = Row[*tuple[Any, ...]]
"""A row of any columns."""


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601, UTC, to the millisecond: `2025-03-01T12:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Text with a replacement character for each that not every database stores: NUL, and halves of pairs.

    The length stays, so positions in a text do too.
    """
    return _UNSTORABLE.sub("\ufffd", text)


def storable_json(value: Any) -> Any:
    """The same for all text within a JSON value, keys too."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict):
        return {storable_json(key): storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(item) for item in value]
    return value


JOB_ROW = (
    jobs.c.state,
    jobs.c.run_at,
    jobs.c.attempt,
    jobs.c.max_attempts,
    jobs.c.lease_until,
    jobs.c.fence,
    jobs.c.error,
)
"""The columns that `job_row` needs."""


def job_row(row: AnyRow) -> JobRow:
    """The part of a row that the life of a job hangs on."""
    return JobRow(
        state=row.state,
        run_at=row.run_at,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        lease_until=row.lease_until,
        fence=row.fence,
        error=row.error,
    )
