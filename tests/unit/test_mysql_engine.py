"""The engine of MySQL ends on the server what it gives up, in its own opening statements too."""

from __future__ import annotations

import asyncio

import pytest

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded
from actors.messages import Source
from actors.sql import mysql
from actors.sql.access import Access
from actors.sql.mysql import MysqlEngine

SHOP = Source("shop", "mysql", host="db.example.org", database="shop", user="reader")


class Driver:
    """Stands for a connection in which one statement, and what follows it, never ends.

    Attributes:
        asked: what came, of all connections.
    """

    def __init__(self, endless: str, asked: list[str]) -> None:
        self._endless = endless
        self.asked = asked
        self._result = type("Answer", (), {"rows": ()})()

    def get_server_info(self) -> str:
        return "11.4-MariaDB"

    def thread_id(self) -> int:
        return 4711

    async def query(self, sql: str) -> None:
        self.asked.append(sql)
        if self._endless in sql:
            await asyncio.Event().wait()

    def close(self) -> None:
        self.asked.append("closed")


@pytest.mark.parametrize("endless", ["information_schema", "NAMES utf8mb4", "START TRANSACTION"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_an_opening_statement_that_is_given_up_is_killed_on_the_server(
    monkeypatch: pytest.MonkeyPatch, endless: str, leaves: bool
) -> None:
    asked: list[str] = []

    async def reach(source: Source, deadline: Deadline) -> Access:
        return Access(("192.0.2.1",), source.host, 3306, source.database, source.user, "prefer", "")

    async def driver(access: Access, address: str, deadline: Deadline) -> Driver:
        return Driver(endless, asked)

    monkeypatch.setattr(mysql, "_driver", driver)
    engine = MysqlEngine(reach, keep=1)
    if leaves:
        running = asyncio.create_task(engine.test(SHOP, Deadline.after(60)))
        while not any(endless in sql for sql in asked):
            await asyncio.to_thread(lambda: None)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        with pytest.raises(DeadlineExceeded):
            await engine.test(SHOP, Deadline.after(0.05))
    assert asked[-3:] == ["KILL QUERY 4711", "closed", "closed"]
