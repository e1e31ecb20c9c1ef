"""Priorities and turns of jobs, idempotency keys, readings that were superseded.

Follows 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Jobs that wait keep their order: they all have the same turn, and then the time decides."""
    op.add_column("jobs", sa.Column("collection", sa.String(length=100), server_default=sa.text("''"), nullable=False))
    op.add_column("jobs", sa.Column("lane", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("turn", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("read_before", sa.Integer(), server_default=sa.text("0"), nullable=False))
    jobs = sa.table("jobs", sa.column("document_id"), sa.column("collection"))
    documents = sa.table("documents", sa.column("id"), sa.column("collection"))
    its_collection = sa.select(documents.c.collection).where(documents.c.id == jobs.c.document_id).scalar_subquery()
    op.execute(jobs.update().values(collection=sa.func.coalesce(its_collection, "")))
    op.drop_index(op.f("ix_jobs_state_run_at"), table_name="jobs")
    op.create_index(op.f("ix_jobs_state_lane_turn_run_at"), "jobs", ["state", "lane", "turn", "run_at"], unique=False)
    op.create_index(op.f("ix_jobs_lease_until"), "jobs", ["lease_until"], unique=False)
    op.create_index(
        op.f("ix_jobs_collection_state_lane_turn"), "jobs", ["collection", "state", "lane", "turn"], unique=False
    )
    op.create_index(op.f("ix_jobs_state_id"), "jobs", ["state", "id"], unique=False)
    op.create_index(op.f("ix_documents_pipeline"), "documents", ["pipeline"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("document_id", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("duplicate", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "superseded",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("pipeline", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", "pipeline", name=op.f("pk_superseded")),
    )
