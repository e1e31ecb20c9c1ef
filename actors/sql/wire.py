"""How much a server may send: a driver reads a value as a whole, one of a gigabyte too, before anybody can count it.

The kernel counts what has come in over a connection. That is looked at while a step is under way, and a connection over
which more comes than the limits could use is cut.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from actors.errors import Refused

HEADROOM: Final = 20_000_000
"""What may come in beyond the bytes wanted: a batch, its form on the wire, one large cell."""

LOOK_S: Final = 0.02
"""Time between two looks, s. Enough for 40 MB from a server on the same machine."""

_RECEIVED: Final = struct.Struct("=Q")
_OFFSET: Final = 128  # of tcpi_bytes_received in Linux's struct tcp_info


def received(transport: asyncio.BaseTransport) -> int:
    """Bytes that have come in over a connection so far; 0 for one that is lost."""
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy:
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _RECEIVED.size)
    except (AttributeError, OSError):
        # A transport that has lost its connection has no socket any more, or a closed one.
        return 0
    return int(_RECEIVED.unpack_from(info, _OFFSET)[0]) if len(info) >= _OFFSET + _RECEIVED.size else 0


@asynccontextmanager
async def bounded(transport: asyncio.Transport, most: int) -> AsyncIterator[None]:
    """Cut the connection when more than `most` bytes, and the headroom, come in while the block runs.

    Raises:
        Refused: that happened.
    """
    cut = False
    limit = received(transport) + most + HEADROOM

    async def watch() -> None:
        nonlocal cut
        while not transport.is_closing():
            await asyncio.sleep(LOOK_S)
            if received(transport) > limit:
                cut = True
                transport.abort()
                return

    watching = asyncio.create_task(watch())
    try:
        yield
    except Exception:
        if cut:
            raise Refused("A row is larger than an answer may be. Ask for parts of its values.") from None
        raise
    finally:
        watching.cancel()
        await asyncio.wait((watching,))
