"""One entity for all spellings of a name; documents found by their reading.

Follows 0005.
"""

from __future__ import annotations

from alembic import op

from actors.store.entities import normalise_all

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Broken off on MySQL, it goes on where it was: what is as it should be is left alone."""
    op.create_index(op.f("ix_documents_sha256_pipeline"), "documents", ["sha256", "pipeline"], unique=False)
    op.drop_index(op.f("ix_documents_sha256"), table_name="documents")
    normalise_all(op.get_bind())
