"""Structured log lines, one event each, that carry the id of the request they belong to.

The same set-up runs in the command line, the HTTP replicas, the actors and the page tasks, so a question can be
followed through all of them by its `request_id`. Ray ships each worker's standard output to its own log file;
nothing here opens one.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, TextIO

import structlog

from config.settings import LogSettings


def configure(settings: LogSettings, *, role: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process.

    Args:
        settings: level and format.
        role: what the process is, e.g. `retrieval`; stands in every line.
        stream: where lines go; standard error by default.
    """
    stream = stream or sys.stderr
    pretty = settings.format == "pretty" or (settings.format == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _role(role),
    ]
    level = logging.getLevelNamesMapping()[settings.level]
    renderer: Any = (
        structlog.dev.ConsoleRenderer()
        if pretty
        else structlog.processors.JSONRenderer(default=str, sort_keys=True, ensure_ascii=False)
    )
    finish: list[Any] = [] if pretty else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, *finish, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        # A worker process configures once, but a test may configure again.
        cache_logger_on_first_use=False,
    )
    # Libraries that log through the standard module come out in the same form.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def _role(role: str) -> Any:
    def add(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("role", role)
        return event

    return add


def get() -> Any:
    """A logger: `get().info("event_name", key=value)`."""
    return structlog.get_logger()


@contextlib.contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Add values (such as `request_id`) to every line logged inside the block, in this task and its children."""
    with structlog.contextvars.bound_contextvars(**values):
        yield
