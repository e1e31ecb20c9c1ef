"""Run by Alembic: hands it the connection that `upgrade` has opened, and the tables as the code knows them."""

from __future__ import annotations

from alembic import context

from actors.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
