"""An HTTP load generator, in closed loop or in open loop.

In closed loop each connection sends its next request when the answer to the last has come. In open loop requests come
at a given rate whatever becomes of them (Poisson arrivals), and a latency counts from when a request should have been
sent: what waits here because the system under test is slow is not forgotten.

It is written on asyncio protocols, with hand-made HTTP/1.1, so that it takes a small part of a core that it shares with
the system under test: a client library would be what is measured.

    python -m benchmarks.load http://127.0.0.1:8000/v1/ask --body '{"question": "Which moon has lakes?"}'
    python -m benchmarks.load http://127.0.0.1:8000/v1/ask --body '{"question": "Which moon has lakes?"}' --rate 300
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured, the warm-up left out.

    Attributes:
        seconds: measured time.
        connections: open at once.
        errors: requests without a good answer, by status or reason.
        marked: answers that contained the mark.
        latencies_ms: of good answers.
        per_connection: good answers of each connection.
        bytes_mean: mean size of the bodies of good answers.
        refusals_ms: latencies of answers with 429 or 503.
        unsent: requests of an open loop that found no free connection in all of its time.
    """

    seconds: float
    connections: int
    errors: dict[str, int]
    marked: int
    latencies_ms: np.ndarray[Any, np.dtype[np.float64]]
    per_connection: tuple[int, ...]
    bytes_mean: float
    refusals_ms: np.ndarray[Any, np.dtype[np.float64]]
    unsent: int = 0

    @property
    def requests(self) -> int:
        """Good answers."""
        return len(self.latencies_ms)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.requests / self.seconds

    def percentile(self, share: float) -> float:
        """Latency that so many per cent of the good answers stay under, ms; 0 where there were none."""
        return float(np.percentile(self.latencies_ms, share)) if self.requests else 0.0

    def to_json(self) -> dict[str, Any]:
        """Figures to keep."""
        return {
            "connections": self.connections,
            "seconds": round(self.seconds, 2),
            "requests": self.requests,
            "requests_per_s": round(self.rate, 1),
            "errors": self.errors,
            "marked": self.marked,
            "mean_ms": round(float(self.latencies_ms.mean()), 1) if self.requests else 0.0,
            **{f"p{share}_ms": round(self.percentile(share), 1) for share in (50, 90, 99)},
            "refused": len(self.refusals_ms),
            "refused_p99_ms": round(float(np.percentile(self.refusals_ms, 99)), 1) if len(self.refusals_ms) else 0.0,
            "unsent": self.unsent,
            "per_connection": {
                "min": min(self.per_connection),
                "median": float(np.median(self.per_connection)),
                "max": max(self.per_connection),
            },
            "body_bytes": round(self.bytes_mean),
        }


class _Tally:
    """Counts of the run, kept by all connections together; nothing counts before `open`."""

    def __init__(self, mark: bytes | None) -> None:
        self.mark = mark
        self.counting = False
        self.stopping = False
        self.latencies = array("d")
        self.refusals = array("d")
        self.errors: Counter[str] = Counter()
        self.marked = 0
        self.bytes = 0

    def good(self, seconds: float, body: bytes) -> None:
        if self.counting:
            self.latencies.append(seconds * 1000)
            self.bytes += len(body)
            self.marked += self.mark is not None and self.mark in body

    def bad(self, reason: str, seconds: float | None = None) -> None:
        if self.counting:
            self.errors[reason] += 1
            if seconds is not None and reason in ("429", "503"):
                self.refusals.append(seconds * 1000)


class _Connection(asyncio.Protocol):
    """One connection. Sends, reads, sends again; `closed` is set when it will do no more."""

    def __init__(self, requests: Iterator[bytes], tally: _Tally, schedule: _Schedule | None) -> None:
        self._requests = requests
        self._tally = tally
        self._schedule = schedule
        self._buffer = bytearray()
        self._wanted = -1  # bytes of the whole answer; -1 until its head is here; 0 where its end says so itself
        self._body_at = 0
        self._sent = 0.0
        self.answers = 0
        self.closed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if self._wanted < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            length = _LENGTH.search(buffer, 0, end)
            if length is None and _CHUNKED.search(buffer, 0, end) is None:
                self._tally.bad("no_length")
                self._transport.abort()
                return
            self._body_at = end + 4
            self._wanted = self._body_at + int(length[1]) if length else 0
        if self._wanted == 0 and buffer.endswith(b"\r\n0\r\n\r\n"):
            self._wanted = len(buffer)
        if self._wanted == 0 or len(buffer) < self._wanted:
            return
        status = bytes(buffer[9:12])
        if status == b"200":
            self._tally.good(time.perf_counter() - self._sent, bytes(buffer[self._body_at : self._wanted]))
            self.answers += self._tally.counting
        else:
            self._tally.bad(status.decode("ascii", "replace"), time.perf_counter() - self._sent)
        last = _CLOSE.search(buffer, 0, self._body_at) is not None
        buffer.clear()
        self._wanted = -1
        self._sent = 0.0
        if self._tally.stopping or last:
            self._transport.close()
        else:
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._schedule is not None:
            self._schedule.gone(self)
        if self._sent and not self._tally.stopping:
            self._tally.bad("connection_lost")
        self.closed.set()

    def stop(self) -> None:
        self._transport.abort()

    def send(self, since: float) -> None:
        """Send a request that is due since then."""
        self._sent = since
        self._transport.write(next(self._requests))

    def _next(self) -> None:
        if self._schedule is None:
            self.send(time.perf_counter())
        else:
            self._schedule.free(self)


class _Schedule:
    """When the requests of an open loop are due, and which connection sends them.

    Args:
        rate: requests a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._due: deque[float] = deque()
        self._free: dict[_Connection, None] = {}
        self._dice = random.Random(0)

    @property
    def waiting(self) -> int:
        """Requests that are due and not sent."""
        return len(self._due)

    async def go(self, tally: _Tally) -> None:
        at = time.perf_counter()
        while not tally.stopping:
            at += self._dice.expovariate(self._rate)
            if (wait := at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self._due.append(at)
            while self._due and self._free:
                connection, _ = self._free.popitem()
                connection.send(self._due.popleft())

    def free(self, connection: _Connection) -> None:
        if self._due:
            connection.send(self._due.popleft())
        else:
            self._free[connection] = None

    def gone(self, connection: _Connection) -> None:
        self._free.pop(connection, None)


def run(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int = 256,
    seconds: float = 30.0,
    warm_up_s: float = 2.0,
    mark: bytes | None = None,
    queries: Sequence[str] = (),
    rate: float | None = None,
) -> Result:
    """POST the JSON bodies in turn, from all connections at once, for so long.

    Args:
        url: whole, with its path.
        bodies: sent in turn, the first again after the last.
        queries: query strings to GET the URL with, in the place of bodies.
        connections: open at once.
        seconds: measured time.
        warm_up_s: time before measuring.
        mark: bytes whose presence in an answer is counted, such as `"partial":true`.
        rate: requests a second, in open loop; None for a closed one.
    """
    return uvloop.run(_run(url, bodies, connections, seconds, warm_up_s, mark, queries, rate))


async def _run(
    url: str,
    bodies: Sequence[bytes],
    connections: int,
    seconds: float,
    warm_up_s: float,
    mark: bytes | None,
    queries: Sequence[str],
    rate: float | None,
) -> Result:
    place = urlsplit(url)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    head = (
        f"POST {place.path or '/'}{'?' if place.query else ''}{place.query} HTTP/1.1\r\nHost: {place.netloc}\r\n"
        "Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    get = f"GET {place.path or '/'}?%s HTTP/1.1\r\nHost: {place.netloc}\r\nAccept: application/json\r\n\r\n"
    wanted = [(get % query).encode() for query in queries]
    requests = itertools.cycle(wanted or [(head % len(body)).encode() + body for body in bodies])
    tally = _Tally(mark)
    answers = [0] * connections
    live: set[_Connection] = set()
    loop = asyncio.get_running_loop()
    schedule = _Schedule(rate) if rate else None
    sending = asyncio.create_task(schedule.go(tally)) if schedule else None

    async def keep_open(number: int) -> None:
        while not tally.stopping:
            try:
                _, connection = await loop.create_connection(lambda: _Connection(requests, tally, schedule), host, port)
            except OSError as error:
                tally.bad(f"connect: {error.strerror or type(error).__name__}")
                await asyncio.sleep(0.1)
                continue
            live.add(connection)
            await connection.closed.wait()
            live.discard(connection)
            answers[number] += connection.answers

    tasks = [asyncio.create_task(keep_open(number)) for number in range(connections)]
    await asyncio.sleep(warm_up_s)
    tally.counting = True
    started = time.perf_counter()
    await asyncio.sleep(seconds)
    tally.counting = False
    elapsed = time.perf_counter() - started
    tally.stopping = True
    for connection in list(live):
        connection.stop()
    await asyncio.gather(*tasks)
    if sending:
        sending.cancel()
    latencies = np.frombuffer(tally.latencies, dtype=np.float64)
    mean = tally.bytes / len(latencies) if len(latencies) else 0.0
    refusals = np.frombuffer(tally.refusals, dtype=np.float64)
    unsent = schedule.waiting if schedule else 0
    return Result(
        elapsed, connections, dict(tally.errors), tally.marked, latencies, tuple(answers), mean, refusals, unsent
    )


def main() -> None:
    """Run from a command line and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--body", action="append", required=True, help="JSON to post; may be repeated")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=float, help="requests a second, in open loop")
    given = parser.parse_args()
    bodies = [body.encode() for body in given.body]
    result = run(given.url, bodies, connections=given.connections, seconds=given.seconds, rate=given.rate)
    print(json.dumps(result.to_json(), indent=2))


if __name__ == "__main__":
    main()
