"""Headings and kinds of chunks, labels of pages, and the changes of a document.

Follows 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Readings of before have none of it."""
    op.add_column("chunks", sa.Column("heading", sa.Text(), server_default=sa.text("('')"), nullable=False))
    op.add_column("chunks", sa.Column("kind", sa.String(length=12), server_default="text", nullable=False))
    op.add_column("pages", sa.Column("label", sa.String(length=50), server_default=sa.text("''"), nullable=False))
    op.create_index(op.f("ix_changes_document_id"), "changes", ["document_id"], unique=False)
