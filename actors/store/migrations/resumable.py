"""Migrations on MySQL that were cut off half-way, and go on from there.

MySQL commits with every table it makes or changes, so a migration that dies leaves part of it behind, under the
revision of before. The next start runs the same migration again. Here it passes over what is there already. That is
safe because nobody else makes such tables: a database that holds them without a revision is refused at first.
"""

from __future__ import annotations

from typing import Any

from alembic.ddl.mysql import MySQLImpl
from sqlalchemy.exc import DBAPIError

from config import logs

DONE = frozenset(
    {
        1050,  # the table exists
        1060,  # the column exists
        1061,  # the key exists
        1062,  # the row is there: of the few that migrations insert
        1091,  # what is to be dropped is not there
    }
)


class ResumableMySQL(MySQLImpl):
    """What Alembic does on MySQL. It is found by the name of its dialect, in place of Alembic's own."""

    __dialect__ = "mysql"

    def _exec(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._exec(*args, **kwargs)
        except DBAPIError as error:
            code = error.orig.args[0] if error.orig is not None and error.orig.args else None
            if code not in DONE:
                raise
            logs.get().info("migration_resumed", passed_over=str(error.orig))
            return None
