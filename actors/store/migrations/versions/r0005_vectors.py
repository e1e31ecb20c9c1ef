"""Vectors of chunks, and what is fitted to them.

Follows 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Chunks of before have no vectors yet."""
    op.create_table(
        "vectors",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.Integer(), nullable=False),
        sa.Column("page", sa.Integer(), nullable=False),
        sa.Column("encoder", sa.String(length=100), nullable=False),
        sa.Column("dimension", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql"), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "pipeline", "page", "encoder", name=op.f("pk_vectors")),
    )
    op.create_table(
        "fitted",
        sa.Column("name", sa.String(length=150), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=100), nullable=False),
        sa.Column("chunks", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql"), nullable=False),
        sa.PrimaryKeyConstraint("name", "part", name=op.f("pk_fitted")),
    )
