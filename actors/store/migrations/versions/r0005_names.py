"""One entity for all spellings of a name.

Follows 0004.
"""

from __future__ import annotations

from alembic import op

from actors.store.entities import normalise_all

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Broken off on MySQL, it goes on where it was: what is as it should be is left alone."""
    normalise_all(op.get_bind())
