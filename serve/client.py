"""The HTTP client that the command line speaks through.

It keeps two promises that a plain httpx call does not: a file is streamed from disk by a thread, so that neither memory
nor the event loop feels its size, and every failure is one of two errors, told apart by whether the server answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import httpx

CHUNK = 256 * 1024
"""Bytes read from a file at a time."""

LONG_S = 1000.0
"""Longest silence of the server while it fetches or reads a whole document: more than its own limit, s."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
"""Pause before a call is repeated, s; doubles from the first to the longest, less a random part."""

DONE_STATES = frozenset({"done", "partial", "failed", "cancelled"})
"""States in which a job has come to rest."""


class ClientError(Exception):
    """Base of what a call can fail with.

    Attributes:
        code: stable, machine-readable name.
        detail: one or two sentences for a person.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Unreachable(ClientError):
    """No answer came: nobody listens there, or the connection broke."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreachable", detail)


class ApiError(ClientError):
    """The server answered with a problem (RFC 9457).

    Attributes:
        status: of the HTTP answer.
        retry_after_s: seconds the server asks to wait, if it says so.
    """

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(code, detail)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later."""
        return self.status in {429, 502, 503}

    @classmethod
    def of(cls, response: httpx.Response) -> ApiError:
        """The error that a response carries, whoever wrote it: Gatherum, or a proxy that knows no problem details."""
        wait = response.headers.get("retry-after", "")
        try:
            problem = response.json()
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            problem = {}
        return cls(
            response.status_code,
            str(problem.get("code") or f"http_{response.status_code}"),
            str(problem.get("detail") or f"{response.status_code} {response.reason_phrase}"),
            float(wait) if wait.isdecimal() else None,
        )


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the server says when it has taken a file."""

    document_id: str
    job_id: str
    duplicate: bool


class AsyncClient:
    """Calls to one Gatherum server; an async context manager.

    Args:
        url: where it serves, e.g. `http://127.0.0.1:8000`.
        timeout_s: longest silence of the server, s.
        patience_s: how long a call that may be repeated is repeated while the server is away or overloaded, s.
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 0.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(
            base_url=self.url, timeout=httpx.Timeout(timeout_s, connect=5.0), transport=transport, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether every part of the server can do its work."""
        try:
            await self._call("GET", "/ready")
        except ApiError as error:
            if error.status == 503:
                return False
            raise
        return True

    async def version(self) -> dict[str, Any]:
        """What is running there. Never repeated: it is the call that finds out whether anything is."""
        return await self._call("GET", "/version")

    async def upload(self, path: Path, *, collection: str, priority: str = "normal") -> Receipt:
        """Send a file, from disk and as a stream.

        It is sent under a key of its own, so that the receipt is the same however often it had to be sent.

        Raises:
            ApiError: it was refused, and why.
            Unreachable: no answer came. The file may have been taken; sending it again does no harm.
            OSError: the file cannot be read.
        """
        key = secrets.token_hex(16)

        async def send() -> dict[str, Any]:
            async with _posted(path, idempotency_key=key) as body:
                params = {"collection": collection, "priority": priority}
                return await self._call("POST", "/v1/documents", params=params, **body)

        answer = await self._patiently(send)
        return Receipt(answer["document_id"], answer["job_id"], answer["duplicate"])

    async def upload_url(self, url: str, *, collection: str, priority: str = "normal") -> Receipt:
        """Have the server fetch a file and take it in.

        Raises:
            ApiError: it was refused, and why.
            Unreachable: no answer came. The file may have been taken; sending the URL again does no harm.
        """
        params = {"collection": collection, "priority": priority}
        headers = {"idempotency-key": secrets.token_hex(16)}
        answer = await self._patiently(
            lambda: self._call(
                "POST", "/v1/documents", params=params, json={"url": url}, headers=headers, timeout=LONG_S
            )
        )
        return Receipt(answer["document_id"], answer["job_id"], answer["duplicate"])

    async def extract(self, what: Path | str, *, form: str = "json", pages: str = "") -> bytes:
        """Read a PDF without storing it.

        Args:
            what: a file here, or a URL that the server fetches.
            form: `json`, `text` or `markdown`.
            pages: such as `1-3,7`; empty for all.

        Returns:
            The body of `POST /v1/extract`.
        """
        async with _posted(what) as body:
            params = {"format": form, "pages": pages}
            return (await self._send("POST", "/v1/extract", params=params, timeout=LONG_S, **body)).content

    async def extract_lines(
        self, what: Path | str, *, pages: str = "", images: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Read a PDF without storing it, as it is read: `document`, each `page`, `end`, one mapping each.

        Args:
            what: a file here, or a URL that the server fetches.
            pages: such as `1-3,7`; empty for all.
            images: with the bytes of images, base64.

        Raises:
            ApiError: it was refused, or the reading broke off.
            Unreachable: the answer has no end.
        """
        params = {"stream": True, "pages": pages, "images": images}
        async with _posted(what) as body, self._streamed("POST", "/v1/extract", params=params, **body) as lines:
            async for line in lines:
                value = json.loads(line)
                if problem := value.get("problem"):
                    raise ApiError(problem["status"], problem["code"], problem["detail"])
                yield value
                if "end" in value:
                    return
        raise Unreachable(f"The answer of {self.url} broke off.")

    async def job(self, job_id: str) -> dict[str, Any]:
        """The state of a job."""
        return await self._patiently(lambda: self._call("GET", f"/v1/jobs/{job_id}"))

    async def jobs(
        self, states: Sequence[str] = (), *, collection: str | None = None, after: str | None = None, limit: int = 100
    ) -> dict[str, Any]:
        """Jobs, oldest first: the JSON of `GET /v1/jobs`."""
        params = _given({"state": list(states), "collection": collection, "after": after, "limit": limit})
        return await self._patiently(lambda: self._call("GET", "/v1/jobs", params=params))

    async def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a job that waits or is being read; its state after that."""
        return await self._patiently(lambda: self._call("POST", f"/v1/jobs/{job_id}/cancel"))

    async def retry_job(self, job_id: str) -> dict[str, Any]:
        """Start a failed, cancelled or partial job again; its state after that."""
        return await self._patiently(lambda: self._call("POST", f"/v1/jobs/{job_id}/retry"))

    async def health(self) -> dict[str, Any]:
        """The state of every part of the server."""
        return await self._call("GET", "/health")

    async def known_hashes(self, collection: str) -> set[str]:
        """SHA-256, in hex, of every file in a collection; none if there is no such collection."""
        known: set[str] = set()
        after: str | None = None
        while True:
            params = _given({"collection": collection, "after": after, "limit": 1000})
            try:
                page = await self._call("GET", "/v1/documents", params=params)
            except ApiError as error:
                if error.code == "unknown_collection":
                    return known
                raise
            known.update(item["sha256"] for item in page["items"])
            after = page.get("next")
            if not after:
                return known

    async def wait(self, job_id: str, *, first_s: float = 0.1, longest_s: float = 1.0) -> AsyncIterator[dict[str, Any]]:
        """The job as it proceeds, until it has come to rest; asked for ever more rarely.

        Args:
            job_id: as in the receipt.
            first_s: pause before the second look, s.
            longest_s: longest pause, s.
        """
        pause = first_s
        while True:
            job = await self.job(job_id)
            yield job
            if job["state"] in DONE_STATES:
                return
            await asyncio.sleep(pause)
            pause = min(longest_s, pause * 1.5)

    async def ask(
        self,
        question: str,
        *,
        collections: list[str] | None = None,
        sources: list[str] | None = None,
        timeout_ms: int | None = None,
    ) -> dict[str, Any]:
        """Ask a question; the answer is the JSON of `POST /v1/ask`."""
        body = {"question": question, "collections": collections, "sources": sources, "timeout_ms": timeout_ms}
        return await self._patiently(lambda: self._call("POST", "/v1/ask", json=_given(body)))

    async def search(self, query: str, *, collections: list[str] | None = None, limit: int = 10) -> dict[str, Any]:
        """Find passages; the answer is the JSON of `POST /v1/search`."""
        body = {"query": query, "collections": collections, "limit": limit}
        return await self._patiently(lambda: self._call("POST", "/v1/search", json=_given(body)))

    async def sources(self) -> list[dict[str, Any]]:
        """Every registered SQL source."""
        items: list[dict[str, Any]] = []
        after: str | None = None
        while True:
            page = await self._call("GET", "/v1/sources", params=_given({"after": after}))
            items += page["items"]
            after = page.get("next")
            if not after:
                return items

    async def add_source(self, name: str, path: str = "", *, kind: str = "sqlite", **fields: Any) -> dict[str, Any]:
        """Register an SQL source: an SQLite file, or by `host`, `database`, `user` … as the API has them."""
        given = {"path": path} if path else {}
        return await self._call("POST", "/v1/sources", json={"name": name, "kind": kind, **given, **fields})

    async def test_source(self, name: str) -> dict[str, Any]:
        """Have the server look at a source."""
        return await self._call("POST", f"/v1/sources/{name}/test")

    async def source_schema(self, name: str, *, refresh: bool = False) -> dict[str, Any]:
        """The tables of a source."""
        return await self._call("GET", f"/v1/sources/{name}/schema", params={"refresh": refresh})

    async def query(
        self, name: str, sql: str, params: Mapping[str, Any] | None = None, *, limit: int | None = None
    ) -> dict[str, Any]:
        """The rows of a statement, as arrays."""
        how = _given({"_shape": "arrays", "limit": limit})
        body = {"sql": sql, "params": dict(params or {})}
        return await self._call("POST", f"/v1/sources/{name}/query", params=how, json=body)

    async def explain(self, name: str, sql: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """How a statement would be run."""
        body = {"sql": sql, "params": dict(params or {})}
        return await self._call("POST", f"/v1/sources/{name}/explain", json=body)

    async def remove_source(self, name: str) -> None:
        """Forget a source. The database itself is not touched."""
        await self._call("DELETE", f"/v1/sources/{name}")

    async def refresh_source(self, name: str) -> None:
        """Have the names in a source read again, soon."""
        await self._call("POST", f"/v1/sources/{name}/refresh")

    async def lookups(self, source: str) -> list[dict[str, Any]]:
        """The stored lookups of a source."""
        items: list[dict[str, Any]] = (await self._call("GET", f"/v1/sources/{source}/lookups"))["items"]
        return items

    async def add_lookup(self, source: str, lookup: Mapping[str, Any]) -> dict[str, Any]:
        """Store a lookup: `{name, description, sql, parameters}`, as `POST /v1/sources/{name}/lookups` takes it."""
        return await self._call("POST", f"/v1/sources/{source}/lookups", json=dict(lookup))

    async def run_lookup(
        self, source: str, name: str, arguments: Mapping[str, Any], *, limit: int = 100
    ) -> dict[str, Any]:
        """Run a stored lookup; the answer is `{rows, truncated}`."""
        body = {"arguments": dict(arguments), "limit": limit}
        return await self._call("POST", f"/v1/sources/{source}/lookups/{name}", json=body)

    async def remove_lookup(self, source: str, name: str) -> None:
        """Forget a stored lookup."""
        await self._call("DELETE", f"/v1/sources/{source}/lookups/{name}")

    async def _patiently(self, call: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """The call's answer, repeating it within the patience; only for calls that may run twice."""
        give_up = time.monotonic() + self._patience_s
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except ClientError as error:
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients, hides nothing
                if isinstance(error, ApiError):
                    if not error.retryable:
                        raise
                    wait = max(wait, error.retry_after_s or 0.0)
                if time.monotonic() + wait > give_up:
                    raise
            await asyncio.sleep(wait)
            pause = min(LONGEST_PAUSE_S, pause * 2)

    async def _send(self, method: str, path: str, **how: Any) -> httpx.Response:
        with self._reached(method, path):
            response = await self._http.request(method, path, **how)
        if response.is_error:
            raise ApiError.of(response)
        return response

    @contextlib.asynccontextmanager
    async def _streamed(self, method: str, path: str, **how: Any) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of an answer, each as it comes."""
        with self._reached(method, path):
            async with self._http.stream(method, path, timeout=LONG_S, **how) as response:
                if response.is_error:
                    await response.aread()
                    raise ApiError.of(response)
                yield response.aiter_lines()

    @contextlib.contextmanager
    def _reached(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise Unreachable(f"Gatherum does not answer at {self.url}. Start it with `gatherum up`.") from None
        except httpx.TimeoutException:
            raise Unreachable(f"Gatherum at {self.url} did not answer {method} {path} in time.") from None
        except httpx.TransportError as error:
            raise Unreachable(f"The connection to {self.url} broke: {error or type(error).__name__}.") from None

    async def _call(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        response = await self._send(method, path, **how)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ApiError(response.status_code, "not_gatherum", f"What answers at {self.url} is not Gatherum.")
        return answer


class Multipart:
    """A multipart form of one file, with its length known before the first byte is read.

    httpx would read the file on the event loop; here a thread does, and a server can refuse the length at once.
    """

    def __init__(self, field: str, filename: str, size: int) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{field}"; filename="{_quoted(filename)}"\r\n'
            "Content-Type: application/pdf\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.length = len(self._head) + size + len(self._tail)

    async def stream(self, file: BinaryIO) -> AsyncIterator[bytes]:
        """The form, piece by piece."""
        yield self._head
        while piece := await asyncio.to_thread(file.read, CHUNK):
            yield piece
        yield self._tail


@contextlib.asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[tuple[BinaryIO, int]]:
    """A file and its size; closed also if the caller is cancelled while a thread is still opening it."""

    def open_it() -> tuple[BinaryIO, int]:
        file = path.open("rb")
        return file, os.fstat(file.fileno()).st_size

    opening = asyncio.create_task(asyncio.to_thread(open_it))
    try:
        file, size = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise
    with file:
        yield file, size


@contextlib.asynccontextmanager
async def _posted(what: Path | str, *, idempotency_key: str | None = None) -> AsyncIterator[dict[str, Any]]:
    """The body that sends a file, or names a URL; while it is entered the file is open."""
    headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
    if isinstance(what, str):
        yield {"json": {"url": what}, "headers": headers}
        return
    async with _opened(what) as (file, size):
        form = Multipart("file", what.name, size)
        headers |= {"content-type": form.content_type, "content-length": str(form.length)}
        yield {"content": form.stream(file), "headers": headers}


def _close(opening: asyncio.Task[tuple[BinaryIO, int]]) -> None:
    if not opening.cancelled() and not opening.exception():
        opening.result()[0].close()


def _quoted(filename: str) -> str:
    """A file name as browsers write it into a form (WHATWG HTML, multipart/form-data encoding algorithm)."""
    clean = filename.encode("utf-8", "replace").decode()
    return clean.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
