"""The composition root: which roles there are, how many replicas each has, and what each is given.

This is the only place that turns a role's class into Ray actors. The roles themselves are plain classes; what they
need of one another they receive as pools.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import _raylet
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.errors import Conflict, GatherumError, Unavailable
from actors.ingest import Ingest
from actors.messages import Health
from actors.orchestrator import Orchestrator
from actors.pdf import Pdf
from actors.pool import NAMESPACE, on_each, pool_of, replica_name
from actors.retrieval import Retriever
from config import logs
from config.settings import LogSettings, Settings

HOST = "127.0.0.2"
"""Where our own node lives: a loopback address, but not the one that Ray replaces by the machine's outward address."""

TOKEN = Path.home() / ".ray" / "auth_token"
"""Ray's token for its control plane, at Ray's own place for it."""

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
MARK = "GATHERUM_NODE_ID"
"""Environment variable inherited by every process of a local node, so that none is left behind when it is stopped."""


@dataclass(frozen=True, slots=True)
class Roles:
    """A pool for each role, typed as the role's class."""

    database: Database
    retrieval: Retriever
    entities: Entities
    pdf: Pdf
    ingest: Ingest
    orchestrator: Orchestrator

    @classmethod
    def of(cls, settings: Settings) -> Roles:
        """Pools that find the running actors by name."""

        def replicas(count: int) -> tuple[int, ...]:
            return tuple(range(count))

        return cls(
            database=pool_of(Database, replicas(1)),
            retrieval=pool_of(Retriever, replicas(settings.retrieval.replicas)),
            entities=pool_of(Entities, replicas(settings.entities.replicas)),
            pdf=pool_of(Pdf, replicas(settings.pdf.replicas)),
            ingest=pool_of(Ingest, replicas(1)),
            orchestrator=pool_of(Orchestrator, replicas(settings.orchestrator.replicas)),
        )

    @classmethod
    def running(cls) -> Roles:
        """Pools of the actors that are there in the connected cluster."""
        found: dict[str, list[int]] = {}
        for entry in ray.util.list_named_actors(all_namespaces=True):
            role, dash, index = entry["name"].rpartition("-")
            if entry["namespace"] == NAMESPACE and dash and index.isdecimal():
                found.setdefault(role, []).append(int(index))

        def indexes(role: type[Any]) -> tuple[int, ...]:
            return tuple(sorted(found.get(role.ROLE, [0])))

        return cls(
            database=pool_of(Database, indexes(Database)),
            retrieval=pool_of(Retriever, indexes(Retriever)),
            entities=pool_of(Entities, indexes(Entities)),
            pdf=pool_of(Pdf, indexes(Pdf)),
            ingest=pool_of(Ingest, indexes(Ingest)),
            orchestrator=pool_of(Orchestrator, indexes(Orchestrator)),
        )

    def __iter__(self) -> Iterator[Any]:
        return iter((self.database, self.retrieval, self.entities, self.pdf, self.ingest, self.orchestrator))


@dataclass(frozen=True, slots=True)
class Node:
    """A local Ray node started by us.

    Attributes:
        address: `host:port` of Ray's control store.
        pid: of the process that holds the node together.
        mark: value of `MARK` in the environment of all its processes.
    """

    address: str
    pid: int
    mark: str


# --- actors ---------------------------------------------------------------------------------------------------------


def start_roles(settings: Settings) -> Roles:
    """Create the actors that are not running yet, in the connected Ray cluster, and wait until each has started.

    Raises:
        GatherumError: a role could not start; the detail says which and why.
    """
    roles = Roles.of(settings)
    database: tuple[Any, ...] = (settings.database, settings.sources)
    places = {"url": settings.database_url, "blob_dir": settings.blob_dir}
    wanted: list[tuple[type[Any], int, tuple[Any, ...], dict[str, Any]]] = [
        (Database, 1, database, {**places, "max_attempts": settings.ingest.max_attempts}),
        (Retriever, settings.retrieval.replicas, (settings.retrieval, roles.database), {}),
        (Entities, settings.entities.replicas, (settings.entities, roles.database), {}),
        (Pdf, settings.pdf.replicas, (settings.pdf, settings.entities, settings.logs), {}),
        (
            Ingest,
            1,
            (settings.ingest, roles.database, roles.pdf),
            {"blob_dir": settings.blob_dir, "document_timeout_s": settings.pdf.document_timeout_s},
        ),
        (
            Orchestrator,
            settings.orchestrator.replicas,
            (settings.orchestrator,),
            {"retrieval": roles.retrieval, "entities": roles.entities, "database": roles.database},
        ),
    ]
    started = []
    for role, replicas, args, kwargs in wanted:
        hosted = _hosted(role)
        for index in range(replicas):
            handle = (
                ray.remote(hosted)
                .options(
                    name=replica_name(role.ROLE, index),
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,  # roles wait and route; page tasks are what the CPUs are set aside for
                    max_restarts=-1,
                    max_task_retries=0,
                    max_concurrency=1000,
                )
                .remote(settings.logs, *args, **kwargs)
            )
            started.append((role.ROLE, handle))
    for name, handle in started:
        try:
            ray.get(handle.health.remote(deadline=Deadline.after(START_TIMEOUT_S)), timeout=START_TIMEOUT_S)
        except RayActorError as error:
            raise Unavailable(f"The {name} role could not start: {_reason(error)}") from None
    return roles


def stop_roles(settings: Settings) -> None:
    """Stop the roles, those that accept work first, and remove their actors."""
    roles = Roles.of(settings)
    with contextlib.suppress(GatherumError):
        asyncio.run(on_each(roles.ingest, lambda role: role.drain(deadline=Deadline.after(STOP_TIMEOUT_S))))
    for pool in reversed(list(roles)):
        for replica in pool._replicas:
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(replica.name, namespace=NAMESPACE), no_restart=True)


async def health(roles: Roles, *, deadline: Deadline) -> dict[str, Health | GatherumError]:
    """The state of every replica, by actor name; a replica that does not answer is there with its error."""

    async def ask(pool: Any) -> list[tuple[str, Health | GatherumError]]:
        answers = await on_each(pool, lambda role: role.health(deadline=deadline))
        return [(replica.name, answer) for replica, answer in zip(pool._replicas, answers, strict=True)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(pool)) for pool in roles]
    return dict(item for task in tasks for item in task.result())


def _hosted(role: type[Any]) -> type[Any]:
    """The class that Ray runs: the role, with logging set up and `start()` awaited before its first call.

    Ray reruns only the constructor when it restarts an actor, so starting has to happen there.
    """

    class Hosted(role):  # type: ignore[misc]
        async def __init__(  # type: ignore[misc]  # Ray awaits it
            self, log_settings: LogSettings, *args: Any, **kwargs: Any
        ) -> None:
            logs.configure(log_settings, role=role.ROLE)
            super().__init__(*args, **kwargs)
            await self.start()
            logs.get().info("role_started", pid=os.getpid())

    Hosted.__name__ = Hosted.__qualname__ = role.__name__
    return Hosted


def _reason(error: RayActorError) -> str:
    """The last line of the traceback that Ray carries: the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


# --- the local node -------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def start_node(settings: Settings, environment: dict[str, str]) -> Node:
    """Start a Ray node bound to the loopback address, as processes that outlive this one.

    Args:
        settings: the `ray` section and the data directory are used.
        environment: variables that every process of the node must see, such as Serve's flags.

    Raises:
        Unavailable: Ray did not come up.
    """
    mark = secrets.token_hex(8)
    address = f"{HOST}:{free_port()}"
    log = settings.data_dir / "ray.log"
    command = [
        _ray_program(), "start", "--head", "--block", "--disable-usage-stats",
        f"--node-ip-address={HOST}", f"--port={address.rpartition(':')[2]}",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        f"--dashboard-port={free_port()}", f"--include-dashboard={str(settings.ray.dashboard).lower()}",
        "--include-log-monitor=false", f"--object-store-memory={settings.ray.object_store_mb * 1_000_000}",
    ]  # fmt: skip
    if settings.ray.num_cpus:
        command.append(f"--num-cpus={settings.ray.num_cpus}")
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            env={**os.environ, "RAY_AUTH_MODE": "token", **environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    node = Node(address, process.pid, mark)
    give_up = time.monotonic() + START_TIMEOUT_S
    while not _listens(address):
        if process.poll() is not None or time.monotonic() > give_up:
            stop_node(node)
            raise Unavailable(f"Ray did not start. Its output is in {log.name} in the data directory.")
        time.sleep(0.1)
    return node


def stop_node(node: Node) -> None:
    """Stop every process of a local node: politely first, then those that are left."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(node.pid, signal.SIGTERM)
    give_up = time.monotonic() + STOP_TIMEOUT_S / 3
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


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0


# --- connecting -----------------------------------------------------------------------------------------------------


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
        (data_dir / "running.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, data_dir: Path) -> Running | None:
        """The recorded system, or None where nothing was recorded or its node is gone."""
        try:
            record = json.loads((data_dir / "running.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        node = Node(**record["node"]) if record["node"] else None
        if node and not _listens(node.address):
            return None
        return cls(record["url"], record["address"], node, record["scratch"])

    @staticmethod
    def forget(data_dir: Path) -> None:
        """Remove the record."""
        (data_dir / "running.json").unlink(missing_ok=True)


def join(address: str) -> None:
    """Connect this process to a Ray cluster; nothing happens if it is connected already.

    Raises:
        Unavailable: there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    if TOKEN.exists():
        # Ray reads this when it is imported, which has happened, so it is told to read again.
        os.environ["RAY_AUTH_MODE"] = "token"
        _raylet.Config.initialize("")  # type: ignore[attr-defined]
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError) as error:
        raise Unavailable(f"There is no Ray cluster at {address}: {error}") from None


def leave() -> None:
    """Disconnect this process."""
    ray.shutdown()


def handle(role: str, index: int = 0) -> ActorHandle[Any]:
    """The raw Ray handle of a replica.

    Raises:
        AttributeError: there is no such actor, so that an object can offer roles as attributes.
    """
    try:
        return ray.get_actor(replica_name(role, index), namespace=NAMESPACE)
    except ValueError:
        raise AttributeError(f"there is no running actor for {role!r}") from None


def start(
    settings: Settings, *, address: str | None, url: str, scratch: Path | None, environment: dict[str, str]
) -> Running:
    """Start the roles, on a Ray node of our own or on a running cluster, and record them in the data directory.

    Args:
        settings: for every role.
        address: of a running Ray cluster; a node of our own is started where it is None.
        url: where the HTTP entry point will be; empty for none.
        scratch: a folder that is removed when the system stops.
        environment: variables that every process of a node of our own must see.

    Raises:
        Conflict: the data directory has a running system.
        Unavailable: something did not start; the detail names it.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if running := Running.load(settings.data_dir):
        raise Conflict(f"Gatherum is running in this data directory already, at {running.url or running.address}.")
    node = None
    if address is None:
        _ensure_token()
        node = start_node(settings, environment)
        address = node.address
    running = Running(url, address, node, str(scratch or ""))
    running.save(settings.data_dir)
    try:
        join(address)
        start_roles(settings)
    except BaseException:
        stop(settings, running)
        raise
    return running


def stop(settings: Settings, running: Running) -> None:
    """Stop the roles and our node, whatever state they are in: what was accepted is safe in the store."""
    with contextlib.suppress(GatherumError):
        join(running.address)
        stop_roles(settings)
    leave()
    if running.node:
        stop_node(running.node)
    if running.scratch:
        shutil.rmtree(running.scratch, ignore_errors=True)
    Running.forget(settings.data_dir)


def _ensure_token() -> None:
    """Make the token that Ray's control plane asks for: it runs code for whoever reaches it."""
    if not TOKEN.exists():
        subprocess.run([_ray_program(), "get-auth-token", "--generate"], check=True, capture_output=True)  # noqa: S603


def _ray_program() -> str:
    return str(Path(sys.executable).with_name("ray"))
