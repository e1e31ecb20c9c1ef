"""Rows as the statements give them, and their times as the world outside sees them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

AnyRow = Row[*tuple[Any, ...]]
"""A row of any columns."""


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601, UTC, to the millisecond: `2025-03-01T12:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
