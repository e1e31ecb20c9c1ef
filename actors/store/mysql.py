"""aiomysql, with what it lacks. A module of its own, because only a store on MySQL needs the driver loaded."""

from __future__ import annotations

from typing import Any

import aiomysql


class Connection(aiomysql.Connection):  # type: ignore[misc]  # it has no types
    """A connection that can send bytes: PyMySQL 1.2 took away the function that aiomysql 0.3.2 quotes them with."""

    def escape(self, value: Any) -> Any:
        """A value as it stands in a statement."""
        if isinstance(value, bytes):
            return f"_binary X'{value.hex()}'"
        return super().escape(value)


async def connect(**arguments: Any) -> Connection:
    """As `aiomysql.connect`."""
    connection = Connection(**arguments)
    await connection._connect()
    return connection
