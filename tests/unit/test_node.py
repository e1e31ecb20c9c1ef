"""The ports of a local node."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from actors import node
from actors.errors import Unavailable


def test_a_free_port_is_one_that_no_outgoing_connection_gets() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert node.PORTS[-1] < first
    assert node.free_port() in node.PORTS


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", node.free_port()))
        port, free = taken.getsockname()[1], node.free_port()
        monkeypatch.setattr(node, "PORTS", (port, free))
        assert {node.free_port() for _ in range(20)} == {free}
        monkeypatch.setattr(node, "PORTS", (port,))
        with pytest.raises(Unavailable, match="is free on this machine"):
            node.free_port()
