"""Traces: when the parts of an answer ran, in OpenTelemetry's form, for whoever keeps such things.

Nothing is carried from process to process. A trace's id, and that of its root, are made from the request's id, so each
process tells by itself what it has done, once it is done; and whether a request is among the share that is traced
follows from its id too. The spans go to a collector as OTLP in JSON over HTTP, in the background: what it does not take
in time is dropped, and never waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from config import logs
from config.settings import TracingSettings

MOST: Final = 5_000
"""Spans that wait to be sent; later ones are dropped."""

EVERY_S: Final = 1.0
SEND_S: Final = 5.0
BATCH: Final = 500

UNTRACED: Final = TracingSettings(url="", share=0.0)

_WHOLE: Final = float(2**64)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of what was done for a request.

    Attributes:
        request_id: of the request.
        name: of the part; the root has an empty one.
        shown: what people read.
        began: seconds since the epoch.
        ended: seconds since the epoch.
        parent: name of the part it belongs to.
        failed: why it failed; empty if it did not.
        about: more of it.
    """

    request_id: str
    name: str
    shown: str
    began: float
    ended: float
    parent: str | None = None
    failed: str = ""
    about: Mapping[str, str | int | float] = field(default_factory=dict)


def trace_id(request_id: str) -> str:
    """Of a request, 32 hex digits."""
    return hashlib.sha256(request_id.encode()).hexdigest()[:32]


def span_id(request_id: str, name: str) -> str:
    """Of a part of it, 16 hex digits."""
    return hashlib.sha256(f"{request_id}\0{name}".encode()).hexdigest()[:16]


def is_traced(request_id: str, share: float) -> bool:
    """Whether a request is among so large a share; every process says the same."""
    return int(trace_id(request_id)[:16], 16) / _WHOLE < share


def encoded(spans: Iterable[Span], resource: Mapping[str, str]) -> dict[str, Any]:
    """An OTLP `ExportTraceServiceRequest` in its JSON form."""
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": {"name": "gatherum"}, "spans": [_span(span) for span in spans]}],
            }
        ]
    }


def _span(span: Span) -> dict[str, Any]:
    made: dict[str, Any] = {
        "traceId": trace_id(span.request_id),
        "spanId": span_id(span.request_id, span.name),
        "name": span.shown,
        "kind": 2 if span.parent is None else 1,  # server, internal
        "startTimeUnixNano": str(int(span.began * 1e9)),
        "endTimeUnixNano": str(int(max(span.began, span.ended) * 1e9)),
        "attributes": _attributes({"gatherum.request_id": span.request_id, **span.about}),
        "status": {"code": 2, "message": span.failed} if span.failed else {"code": 1},
    }
    if span.parent is not None:
        made["parentSpanId"] = span_id(span.request_id, span.parent)
    return made


def _attributes(values: Mapping[str, str | int | float]) -> list[dict[str, Any]]:
    def typed(value: str | int | float) -> dict[str, Any]:
        if isinstance(value, str):
            return {"stringValue": value}
        return {"intValue": str(value)} if isinstance(value, int) else {"doubleValue": value}

    return [{"key": key, "value": typed(value)} for key, value in values.items()]


class Tracer:
    """Sends spans in the background.

    Args:
        settings: where to; without a URL nothing is kept.
        role: what this process is.
    """

    def __init__(self, settings: TracingSettings, role: str) -> None:
        self._settings = settings
        self._resource = {
            "service.name": f"gatherum-{role}",
            "host.name": socket.gethostname(),
            "process.pid": str(os.getpid()),
        }
        self._spans: deque[Span] = deque(maxlen=MOST)
        self._sending: asyncio.Task[None] | None = None

    def wants(self, request_id: str) -> bool:
        """Whether spans of this request are kept."""
        return bool(self._settings.url) and is_traced(request_id, self._settings.share)

    def tell(self, *spans: Span) -> None:
        """Keep spans of a request that is wanted; from the event loop."""
        self._spans.extend(spans)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="tracing")

    async def _send(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=SEND_S) as client:
            while self._spans:
                await asyncio.sleep(EVERY_S)
                some = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
                try:
                    answer = await client.post(
                        f"{self._settings.url.rstrip('/')}/v1/traces", json=encoded(some, self._resource)
                    )
                    answer.raise_for_status()
                except (httpx.HTTPError, OSError) as error:
                    logs.get().warning("spans_dropped", spans=len(some), kind=type(error).__name__)
