"""Schema migrations, applied by code when the Database role starts.

There is no alembic.ini: the one setting that matters, the connection, is handed over by `upgrade`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, NullPool, create_engine

from actors.errors import Conflict
from actors.store import dialect


def upgrade(url: URL, *, busy_timeout_s: float) -> str:
    """Bring a database up to the tables this code knows, creating it if need be. Blocks: call it in a thread.

    All missing migrations run in one transaction that is opened for writing, so of several processes that start at once
    one migrates, and the others wait and find it done.

    Returns:
        The revision the database is at.

    Raises:
        Conflict: the database was written by a newer version of this code.
        Unavailable: the database cannot be reached or is busy.
    """
    engine = create_engine(
        dialect.blocking_url(url),
        poolclass=NullPool,
        connect_args={"isolation_level": None, "timeout": busy_timeout_s},
    )
    dialect.configure(engine)
    try:
        with dialect.translated(), dialect.writing(engine).begin() as connection:
            return _upgrade(connection)
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> str:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    if head is None:
        raise RuntimeError("the package holds no migrations")
    found = MigrationContext.configure(connection).get_current_revision()
    if found == head:
        return head
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise Conflict(
            f"The database was written by a newer version of Gatherum (schema {found}; this one knows up to {head}). "
            "Run that version, or point database.url to another database."
        )
    command.upgrade(config, head)
    return head
