"""A proxy before a database server that cuts a connection off when a COMMIT passes: the outcome that nobody knows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from enum import Enum, auto


class Cut(Enum):
    """When the connection goes."""

    BEFORE = auto()  # the server never sees the COMMIT
    AFTER = auto()  # the server has carried it out, and its answer is lost


class Proxy:
    """Passes bytes between clients and a server on 127.0.0.1.

    Attributes:
        port: where clients connect.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._cut: Cut | None = None
        self._passing = 0
        self._server_port = server_port
        self._connections: set[asyncio.Task[None]] = set()

    def arm(self, cut: Cut, *, passing: int = 0) -> None:
        """Cut the connection that the next COMMIT comes through, after so many that pass."""
        self._cut, self._passing = cut, passing

    @property
    def armed(self) -> bool:
        """Whether that is still to happen."""
        return self._cut is not None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        """Serve for the length of the block."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            left = list(self._connections)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            try:
                await self._serve(client, to_client, server, to_server)
            finally:
                to_server.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            to_client.transport.abort()
            self._connections.discard(task)

    async def _serve(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        answers = asyncio.create_task(_pump(server, to_client))
        try:
            while sent := await client.read(1 << 20):
                cut = None
                # A COMMIT is a message of its own in both protocols, and the client waits for the answer.
                if b"COMMIT" in sent[:16]:
                    if self._passing:
                        self._passing -= 1
                    else:
                        cut, self._cut = self._cut, None
                if cut is Cut.BEFORE:
                    return
                if cut is Cut.AFTER:
                    answers.cancel()
                    await asyncio.wait((answers,))
                to_server.write(sent)
                await to_server.drain()
                if cut is Cut.AFTER:
                    assert await server.read(1), "the server has carried it out"
                    return
        finally:
            answers.cancel()
            await asyncio.wait((answers,))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while received := await source.read(1 << 20):
            sink.write(received)
            await sink.drain()
    except OSError:
        pass  # a server that ends with bytes of ours unread resets the connection instead of closing it
    finally:
        sink.close()
