"""Rows of contents, which guard the files; how many chunks and mentions a page has.

Follows 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. What pages of before had is not known, and stays so."""
    op.create_table(
        "contents",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_contents")),
    )
    contents = sa.table("contents", sa.column("sha256"))
    documents = sa.table("documents", sa.column("sha256"))
    op.execute(contents.insert().from_select(["sha256"], sa.select(documents.c.sha256).distinct()))
    op.add_column("pages", sa.Column("chunks", sa.Integer(), nullable=True))
    op.add_column("pages", sa.Column("mentions", sa.Integer(), nullable=True))
