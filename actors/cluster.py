"""The composition root: which roles there are, how many replicas each has, and what each is given.

This is the only place that turns a role's class into Ray actors. The roles themselves are plain classes; what they
need of one another they receive as pools.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray import _raylet
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError

from actors import metrics
from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.errors import Conflict, GatherumError, Unavailable
from actors.ingest import Ingest
from actors.messages import Health
from actors.node import TOKEN, Node, Running, ensure_token, start_node, stop_node
from actors.orchestrator import Orchestrator
from actors.pdf import Pdf
from actors.pool import NAMESPACE, Pool, names_of, on_each, pool_of, replica_name, replica_of
from actors.retrieval import Retriever
from actors.search.placement import WHOLE, Shard
from actors.shards import Shards
from actors.store.blobs import open_blobs
from config import logs
from config.settings import LogSettings, Settings

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
DRAIN_S = 5.0

SCALABLE = ("orchestrator", "retrieval", "entities", "pdf")
"""Roles whose number of replicas can be changed while they run."""


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
            retrieval=_retrieval([replicas(settings.retrieval.replicas)] * settings.retrieval.shards),
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
            if entry["namespace"] == NAMESPACE and (role := replica_of(entry["name"])):
                found.setdefault(role, []).append(int(entry["name"].rpartition("-")[2]))

        def indexes(role: type[Any], shard: str = "") -> tuple[int, ...]:
            return tuple(sorted(found.get(f"{role.ROLE}{shard}", [0])))

        shards = [int(name.rpartition(".")[2]) for name in found if name.startswith(f"{Retriever.ROLE}.")]
        divided = [f".{number}" for number in range(max(shards) + 1)] if shards else [""]

        return cls(
            database=pool_of(Database, indexes(Database)),
            retrieval=_retrieval([indexes(Retriever, shard) for shard in divided]),
            entities=pool_of(Entities, indexes(Entities)),
            pdf=pool_of(Pdf, indexes(Pdf)),
            ingest=pool_of(Ingest, indexes(Ingest)),
            orchestrator=pool_of(Orchestrator, indexes(Orchestrator)),
        )

    def __iter__(self) -> Iterator[Any]:
        return iter((self.database, self.retrieval, self.entities, self.pdf, self.ingest, self.orchestrator))


def _retrieval(shards: Sequence[tuple[int, ...]]) -> Retriever:
    """The pool of the retrieval role, by the indexes of the replicas of each shard."""
    if len(shards) == 1:
        return pool_of(Retriever, shards[0])
    pools = [pool_of(Retriever, indexes, shard=number) for number, indexes in enumerate(shards)]
    return cast("Retriever", Shards(cast("list[Pool]", pools)))


# --- actors ---------------------------------------------------------------------------------------------------------


def create_roles(settings: Settings) -> list[tuple[str, ActorHandle[Any]]]:
    """Create the actors that are not running yet, in the connected Ray cluster.

    Returns:
        Name of the role and handle of every actor, in the order in which they build on one another. They start while
        the caller goes on; see `wait_for_roles`.
    """
    roles = Roles.of(settings)
    database: tuple[Any, ...] = (settings.database, settings.sources, settings.blobs)
    files = open_blobs(settings.blobs, settings.data_dir)
    places = {"url": settings.database_url, "blobs": files}
    shards = settings.retrieval.shards
    wanted: list[tuple[type[Any], int, tuple[Any, ...], dict[str, Any]]] = [
        (
            Database,
            1,
            database,
            {
                **places,
                "max_attempts": settings.ingest.max_attempts,
                "sources_key": settings.sources_key,
                "model": settings.model,
            },
        ),
        *(
            (
                Retriever,
                settings.retrieval.replicas,
                (settings.retrieval, settings.encoder, roles.database),
                {
                    "folder": settings.data_dir / "indexes",
                    "egress": settings.egress,
                    "shard": Shard(number, shards),
                },
            )
            for number in range(shards)
        ),
        (Entities, settings.entities.replicas, (settings.entities, roles.database), {}),
        (
            Pdf,
            settings.pdf.replicas,
            (settings.pdf, settings.entities, settings.encoder, settings.logs),
            {"egress": settings.egress, "ingest_cpus": settings.ingest.cpus},
        ),
        (
            Ingest,
            1,
            (settings.ingest, roles.database, roles.pdf, settings.encoder),
            {"blobs": files, "document_timeout_s": settings.pdf.document_timeout_s},
        ),
        (
            Orchestrator,
            settings.orchestrator.replicas,
            (settings.orchestrator,),
            {
                "retrieval": roles.retrieval,
                "entities": roles.entities,
                "database": roles.database,
                "text_to_sql": bool(settings.model.url) and settings.model.text_to_sql,
                "tracing": settings.tracing,
            },
        ),
    ]
    started = []
    for role, replicas, args, kwargs in wanted:
        hosted = _hosted(role)
        shard = kwargs.get("shard", WHOLE)
        for index in range(replicas):
            handle = (
                ray.remote(hosted)
                .options(
                    name=replica_name(role.ROLE, index, shard=shard.number if shard.of > 1 else None),
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
    return started


def wait_for_roles(started: list[tuple[str, ActorHandle[Any]]]) -> None:
    """Wait until every actor has started.

    Raises:
        Unavailable: one could not start; the detail says which and why.
    """
    deadline = Deadline.after(START_TIMEOUT_S)
    for name, actor in started:
        try:
            ray.get(actor.health.remote(deadline=deadline), timeout=deadline.remaining())
        except RayActorError as error:
            raise Unavailable(f"The {name} role could not start: {_reason(error)}") from None
        except GetTimeoutError:
            raise Unavailable(f"The {name} role did not start within {START_TIMEOUT_S:g} s.") from None


def scale_roles(settings: Settings, counts: Mapping[str, int]) -> None:
    """Have so many replicas of some roles from now on; the others stay as they are.

    New replicas are waited for. Those that are too many are removed, and the calls on them are made again elsewhere.

    Args:
        settings: those that the system was started with.
        counts: replicas by role, of `SCALABLE`.

    Raises:
        Unavailable: a replica could not start.
    """
    roles = Roles.running()
    before = {role: len(names_of(getattr(roles, role))) for role in SCALABLE}
    # Actors that are there already are only looked up.
    sections = {
        role: getattr(settings, role).model_copy(update={"replicas": counts.get(role, before[role])})
        for role in SCALABLE
    }
    settings = settings.model_copy(update=sections)
    wait_for_roles(create_roles(settings))
    for role, count in counts.items():
        for index in range(count, before[role]):
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(replica_name(role, index), namespace=NAMESPACE), no_restart=True)


def stop_roles() -> None:
    """Stop the roles that run, those that accept work first, and remove their actors."""
    roles = Roles.running()
    with contextlib.suppress(GatherumError):
        asyncio.run(on_each(roles.ingest, lambda role: role.drain(deadline=Deadline.after(STOP_TIMEOUT_S))))
    for pool in reversed(list(roles)):
        if pool is roles.database:
            # The last, when nobody asks it any more: so it can close its connections, and a server has no complaint.
            with contextlib.suppress(GatherumError):
                asyncio.run(on_each(pool, lambda role: role.drain(deadline=Deadline.after(DRAIN_S))))
        for name in names_of(pool):
            with contextlib.suppress(ValueError):
                ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)


async def health(roles: Roles, *, deadline: Deadline) -> dict[str, Health | GatherumError]:
    """The state of every replica, by actor name; a replica that does not answer is there with its error."""

    async def ask(pool: Any) -> list[tuple[str, Health | GatherumError]]:
        names = names_of(pool)
        return [*zip(names, await on_each(pool, lambda role: role.health(deadline=deadline)), strict=True)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(pool)) for pool in roles]
    return dict(item for task in tasks for item in task.result())


async def measures(roles: Roles, *, deadline: Deadline) -> dict[str, dict[str, metrics.Family]]:
    """The metrics of every replica that answers, by actor name."""

    async def ask(pool: Any) -> list[tuple[str, dict[str, metrics.Family] | GatherumError]]:
        names = names_of(pool)
        return [*zip(names, await on_each(pool, lambda role: role.metrics(deadline=deadline)), strict=True)]

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask(pool)) for pool in roles]
    answers = [answer for task in tasks for answer in task.result()]
    return {name: answer for name, answer in answers if not isinstance(answer, GatherumError)}


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
            self._watching_loop = asyncio.create_task(metrics.watch_loop(), name="loop-lag")
            await self.start()
            logs.get().info("role_started", pid=os.getpid())

        async def metrics(self, *, deadline: Deadline) -> dict[str, metrics.Family]:
            return metrics.PROCESS.families()

    Hosted.__name__ = Hosted.__qualname__ = role.__name__
    return Hosted


def _reason(error: RayActorError) -> str:
    """The last line of the traceback that Ray carries: the error itself; of ours what it says to people."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    kind, _, detail = last.partition(": ")
    return detail if detail and kind.startswith("actors.errors.") else last


# --- connecting -----------------------------------------------------------------------------------------------------


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


def left_over(settings: Settings) -> Running | None:
    """The system of this data directory that was killed; None if it was stopped, or there was none.

    Raises:
        Conflict: it is running.
    """
    before = Running.load(settings.data_dir)
    if before and before.alive:
        raise Conflict(f"Gatherum is running in this data directory already, at {before.url or before.address}.")
    return before


def start(
    settings: Settings,
    *,
    address: str | None,
    url: str,
    scratch: Path | None,
    environment: dict[str, str],
    meanwhile: Callable[[], None] = lambda: None,
) -> Running:
    """Start the roles, on a Ray node of our own or on a running cluster, and record them in the data directory.

    Args:
        settings: for every role.
        address: of a running Ray cluster; a node of our own is started where it is None.
        url: where the HTTP entry point will be; empty for none.
        scratch: a folder that is removed when the system stops.
        environment: variables that every process of a node of our own must see.
        meanwhile: called, connected, while the roles start.

    Raises:
        Conflict: the data directory has a running system.
        Unavailable: something did not start; the detail names it.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    if before := left_over(settings):
        # What is left of its processes would hold ports and the store.
        stop(settings, before)
    node = None
    if address is None:
        node = Node.planned()
        address = node.address
    running = Running(url, address, node, str(scratch or ""))
    running.save(settings.data_dir)
    try:
        if node:
            ensure_token()
            start_node(node, settings, environment)
        join(address)
        started = create_roles(settings)
        meanwhile()
        wait_for_roles(started)
    except BaseException:
        stop(settings, running)
        raise
    return running


def stop(settings: Settings, running: Running) -> None:
    """Stop the roles and our node, whatever state they are in: what was accepted is safe in the store."""
    if running.alive:
        with contextlib.suppress(GatherumError):
            join(running.address)
            stop_roles()
        leave()
    if running.node:
        stop_node(running.node)
    if running.scratch:
        shutil.rmtree(running.scratch, ignore_errors=True)
    Running.forget(settings.data_dir)
