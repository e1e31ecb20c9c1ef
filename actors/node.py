"""The Ray node that runs on this machine for one data directory, and the record of the system that runs on it.

A node is recorded before it is started and all its processes carry its mark, so that whatever is killed, and when, the
next `up` or `down` finds what is left and ends it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from actors.errors import Unavailable
from config.settings import Settings

HOST = "127.0.0.2"
"""Where our own node lives: a loopback address, but not the one that Ray replaces by the machine's outward address."""

TOKEN = Path.home() / ".ray" / "auth_token"
"""Ray's token for its control plane, at Ray's own place for it."""

PORTS = range(20_000, 30_000)
"""Where free ports are looked for. Above lie those that the kernel gives to outgoing connections: on a busy machine one
was taken between the choice and the start of HAProxy half a minute later. On both sides lie Ray's own."""

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0

MARK = "GATHERUM_NODE_ID"
"""Environment variable inherited by every process of a node, so that none is left behind when it is stopped."""


@dataclass(frozen=True, slots=True)
class Node:
    """A local Ray node started by us.

    Attributes:
        address: `host:port` of Ray's control store.
        mark: value of `MARK` in the environment of all its processes.
    """

    address: str
    mark: str

    @classmethod
    def planned(cls) -> Node:
        """A node that has yet to be started, so that it can be recorded first: what is recorded can be stopped."""
        return cls(f"{HOST}:{free_port()}", secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Running:
    """Where a running system is, as recorded in its data directory.

    Attributes:
        url: of the HTTP entry point; empty where there is none.
        address: of Ray's control store.
        node: the local node, or None where the system runs on a cluster of somebody else's.
        scratch: folder for sockets and the like, removed when the system stops; empty for none.
    """

    url: str
    address: str
    node: Node | None
    scratch: str = ""

    def save(self, data_dir: Path) -> None:
        """Record it."""
        partial = data_dir / "running.json.partial"
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(data_dir / "running.json")

    @classmethod
    def load(cls, data_dir: Path) -> Running | None:
        """The recorded system, or None where nothing was recorded. It may have died since; see `alive`."""
        try:
            record = json.loads((data_dir / "running.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        node = Node(**record["node"]) if record["node"] else None
        return cls(record["url"], record["address"], node, record["scratch"])

    @property
    def alive(self) -> bool:
        """Whether its node is there. Of a cluster of somebody else's only that cluster can tell."""
        return self.node is None or listens(self.node)

    @staticmethod
    def forget(data_dir: Path) -> None:
        """Remove the record."""
        (data_dir / "running.json").unlink(missing_ok=True)


def free_port() -> int:
    """A port that nobody has at this moment.

    Raises:
        Unavailable: there is none.
    """
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise Unavailable(f"No port from {PORTS[0]} to {PORTS[-1]} is free on this machine.")


def start_node(node: Node, settings: Settings, environment: dict[str, str]) -> None:
    """Start a planned Ray node, bound to a loopback address, as processes that outlive this one.

    Args:
        node: where, and marked how.
        settings: the `ray` section and the data directory are used.
        environment: variables that every process of the node must see, such as Serve's flags.

    Raises:
        Unavailable: Ray did not come up.
    """
    log = settings.data_dir / "ray.log"
    host, _, port = node.address.rpartition(":")
    command = [
        _ray_program(), "start", "--head", "--block", "--disable-usage-stats",
        f"--node-ip-address={host}", f"--port={port}",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        f"--dashboard-port={free_port()}", f"--include-dashboard={str(settings.ray.dashboard).lower()}",
        "--include-log-monitor=false", f"--object-store-memory={settings.ray.object_store_mb * 1_000_000}",
    ]  # fmt: skip
    if settings.ray.num_cpus:
        command.append(f"--num-cpus={settings.ray.num_cpus}")
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            env={**os.environ, "RAY_AUTH_MODE": "token", **environment, MARK: node.mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    give_up = time.monotonic() + START_TIMEOUT_S
    while not listens(node):
        if process.poll() is not None or time.monotonic() > give_up:
            raise Unavailable(f"Ray did not start. Its output is in {log.name} in the data directory.")
        time.sleep(0.05)


def stop_node(node: Node) -> None:
    """Stop every process of a local node: politely first, then those that are left."""
    for process in node_processes(node):
        # The one that holds the node together stops the others in order.
        with contextlib.suppress(psutil.Error):
            if "--block" in process.cmdline():
                process.terminate()
    give_up = time.monotonic() + STOP_TIMEOUT_S
    while (left := list(node_processes(node))) and time.monotonic() < give_up:
        psutil.wait_procs(left, timeout=0.2)
    for process in node_processes(node):
        with contextlib.suppress(psutil.Error):
            process.kill()


def node_processes(node: Node) -> Iterator[psutil.Process]:
    """The live processes that inherited the node's mark."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == node.mark:
                yield process


def listens(node: Node) -> bool:
    """Whether the node's control store takes connections."""
    host, _, port = node.address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


def ensure_token() -> None:
    """Make the token that Ray's control plane asks for: it runs code for whoever reaches it."""
    if not TOKEN.exists():
        subprocess.run([_ray_program(), "get-auth-token", "--generate"], check=True, capture_output=True)  # noqa: S603


def _ray_program() -> str:
    return str(Path(sys.executable).with_name("ray"))
