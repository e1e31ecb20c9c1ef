"""The whole system as its operator sees it: up, down, status.

Ray Serve reads its flags when it is imported, so they are set here, before anything imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from actors import cluster
from actors.deadline import Deadline
from actors.errors import Conflict, GatherumError, InvalidInput, Unavailable
from actors.messages import Health
from actors.node import Running, free_port
from actors.reading import tasks
from config.settings import EncoderSettings, Settings
from serve import database

READY_TIMEOUT_S = 120.0
STATUS_TIMEOUT_S = 5.0


def flags(folder: Path) -> dict[str, str]:
    """Ray's and Serve's environment flags, which every process of the node must see.

    Args:
        folder: for HAProxy's configuration and sockets. Its path must be short: a socket's may have 97 characters.

    HAProxy in front of the replicas and one loop per replica bring ten times the requests of the default. The
    proxy's files and its statistics port are this system's own, so that two systems can run on one machine.
    """
    return {
        "RAY_AUTH_MODE": "token",
        # Ray nices its workers by 15, and any other program would then starve the questions. Page tasks nice
        # themselves.
        "RAY_worker_niceness": "0",
        # Ray ends idle processes after a second where there are more than CPUs, actors among them, so every upload,
        # extraction and page image would wait for one to start: 1.7 s and more for what takes 0.06 s.
        "RAY_idle_worker_killing_time_threshold_ms": "60000",
        # A page task has two results. Where it dies we hear of it by the first, and Ray would report the second as an
        # error that nobody handled, without a word on which task it was.
        "RAY_IGNORE_UNHANDLED_ERRORS": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1" if (os.cpu_count() or 1) <= 2 else "2",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        # Where requests go that no replica is there for. With the fixed default, those of a system that is stopped
        # were answered by another one on the same machine.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        # Longer than our own limits (a body's 900 s, a question's 600 s), so that whoever is cut off is told why.
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "1000",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "1000",
        # Replicas are drained by their own graceful shutdown; the default of 30 s is for many-node routing tables.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # The default of 0.1 s costs an idle laptop several per cent of a core.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    }


def up(settings: Settings, *, address: str | None = None) -> Running:
    """Start everything and wait until it is ready to answer.

    Args:
        settings: `api.port` 0 takes a free port.
        address: of a running Ray cluster; a node of our own is started where it is None.

    Raises:
        Conflict: it is running already, or the port is taken.
        Unavailable: something did not start; the detail names it.
        ReadingFailed: Tesseract or a language pack is missing.
        InvalidInput: the folder of the encoder is none.
        GatherumError: the database refuses; the detail says why.
    """
    cluster.left_over(settings)  # before its own port is found to be taken
    settings = _with_port(settings)
    database.check(settings)
    if address is None:
        # The Pdf role looks too, but only once Ray is up; of another cluster's nodes this machine cannot tell.
        tasks.check_ocr(settings.pdf.ocr_languages)
        _check_encoder(settings.encoder)
    # Private to this user: whoever reaches HAProxy's socket commands it.
    scratch = Path(tempfile.mkdtemp(prefix="gatherum-"))
    environment = flags(scratch)
    os.environ.update(environment)
    url = f"http://{settings.api.host}:{settings.api.port}"

    def deploy() -> None:
        from serve import deployment  # only now that the flags are set

        deployment.deploy(settings)

    try:
        running = cluster.start(
            settings, address=address, url=url, scratch=scratch, environment=environment, meanwhile=deploy
        )
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    try:
        _wait_until_ready(url)
    except BaseException:
        down(settings)
        raise
    return running


def down(settings: Settings) -> bool:
    """Stop the system of this data directory: first what accepts work, then the roles, then our node.

    Returns:
        Whether anything was running.
    """
    running = Running.load(settings.data_dir)
    if running is None:
        return False
    was_alive = running.alive
    try:
        if was_alive and running.url:
            os.environ.update(flags(Path(running.scratch)))
            with contextlib.suppress(GatherumError):
                cluster.join(running.address)
                from serve import deployment  # only now that the flags are set

                deployment.withdraw()
    finally:
        # Whatever state the entry point is in: a node that is left running would hold the data directory.
        cluster.stop(settings, running)
    return was_alive


def scale(settings: Settings, counts: Mapping[str, int]) -> None:
    """Have so many replicas of some roles, or of the entry point (`api`), while the system runs.

    It lasts until the system is stopped; the settings say what it starts with.

    Args:
        settings: those that the system was started with.
        counts: replicas by name.

    Raises:
        InvalidInput: a name that cannot be scaled, or no replica wanted of one.
        Unavailable: nothing runs, or a replica could not start.
    """
    names = (*cluster.SCALABLE, "api")
    for name, count in counts.items():
        if name not in names:
            raise InvalidInput(f"{name!r} cannot be scaled; {', '.join(names)} can.")
        if count < 1:
            raise InvalidInput(f"There must be one replica of {name} at least.")
    if "retrieval" in counts and settings.retrieval.shards > 1:
        raise InvalidInput("With several shards, set retrieval.replicas and start again.")
    running = Running.load(settings.data_dir)
    if running is None or not running.alive:
        raise Unavailable("Gatherum is not running. Start it with `gatherum up`.")
    if "api" in counts and not running.url:
        raise InvalidInput("The system runs without an HTTP entry point.")
    cluster.join(running.address)
    cluster.scale_roles(settings, {name: count for name, count in counts.items() if name != "api"})
    if "api" in counts:
        os.environ.update(flags(Path(running.scratch)))
        from serve import deployment  # only now that the flags are set

        port = urlsplit(running.url).port
        api = settings.api.model_copy(update={"replicas": counts["api"], "port": port})
        deployment.deploy(settings.model_copy(update={"api": api}))
        _wait_until_ready(running.url)


def status(settings: Settings) -> dict[str, Any]:
    """What runs where: `{running, url, address, not_ready, replicas: {name: {ready, pid, node, detail}}}`."""
    running = Running.load(settings.data_dir)
    if running is None or not running.alive:
        return {"running": False}
    cluster.join(running.address)
    states = asyncio.run(cluster.health(cluster.Roles.running(), deadline=Deadline.after(STATUS_TIMEOUT_S)))
    return {
        "running": True,
        "url": running.url,
        "address": running.address,
        "not_ready": [name for name, state in states.items() if not isinstance(state, Health) or not state.ready],
        "replicas": {
            name: asdict(state) if isinstance(state, Health) else {"ready": False, "error": state.detail}
            for name, state in states.items()
        },
    }


def _with_port(settings: Settings) -> Settings:
    """Settings with a port that is free at this moment."""
    api = settings.api
    if api.port == 0:
        return settings.model_copy(update={"api": api.model_copy(update={"port": free_port()})})
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((api.host, api.port))
        except OSError:
            raise Conflict(
                f"Port {api.port} on {api.host} is taken. Choose another with --port, or stop what uses it."
            ) from None
    return settings


def _check_encoder(settings: EncoderSettings) -> None:
    """Look at a folder that is configured before anything starts: later, searches would only go on without vectors.

    A model with another hash than is asked for is not looked at: whatever it is, the rest can work.
    """
    if settings.kind != "folder":
        return
    # Libraries of 100 MB, which only this kind needs here.
    from actors.search.encoder import OnnxEncoder

    try:
        OnnxEncoder.folder(Path(settings.path), threads=1)
    except Unavailable as error:
        raise InvalidInput(f"encoder.path ({settings.path}): {error.detail}") from None


def _wait_until_ready(url: str) -> None:
    give_up = time.monotonic() + READY_TIMEOUT_S
    state = "it does not answer over HTTP"
    while time.monotonic() < give_up:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{url}/ready", timeout=5.0, trust_env=False)
            if answer.status_code == 200:
                return
            if answer.headers["content-type"].startswith("application/json"):
                state = "not ready: " + ", ".join(answer.json()["not_ready"])
        time.sleep(0.1)
    raise Unavailable(f"The system did not become ready in {READY_TIMEOUT_S:g} s: {state}.")
