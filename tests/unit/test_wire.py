"""What a server has sent is counted by the kernel, as long as there is a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from actors.sql import wire


@asynccontextmanager
async def sent(data: bytes) -> AsyncIterator[asyncio.Transport]:
    """A connection over which `data` has come in."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        reader, writer = await asyncio.open_connection(*server.getsockname())
        peer, _ = server.accept()
    with peer:
        peer.sendall(data)
        await reader.readexactly(len(data))
        yield cast("asyncio.Transport", writer.transport)
        writer.close()


async def test_what_has_come_in_is_counted_and_a_lost_connection_has_nothing() -> None:
    async with sent(b"x" * 5000) as transport:
        assert wire.received(transport) == 5000
        transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        assert wire.received(transport) == 0


async def test_a_step_over_a_lost_connection_ends_with_its_own_error() -> None:
    async with sent(b"x") as transport:
        transport.abort()
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(ConnectionError, match="its own"):
            async with wire.bounded(transport, 1):
                raise ConnectionError("its own")
