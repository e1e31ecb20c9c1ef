"""The HTTP client: streamed uploads, patience, and two errors told apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
from fake_http import ANSWER, FakeServer, problem

from serve.client import ApiError, AsyncClient, Multipart, Unreachable

Hook = Callable[[httpx.Request], httpx.Response | None]


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses that were asked for and did not happen."""
    asked: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return asked


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / 'Größe "1".pdf'
    path.write_bytes(b"%PDF-" + bytes(range(256)) * 3000)
    return path


def client_of(server: FakeServer, *, patience_s: float = 0.0) -> AsyncClient:
    return AsyncClient("http://gatherum.test/", patience_s=patience_s, transport=httpx.MockTransport(server.handle))


def first(times: int, then: httpx.Response | Exception) -> Hook:
    """A hook that interferes with so many requests, and then no more."""
    left = [times]

    def hook(request: httpx.Request) -> httpx.Response | None:
        left[0] -= 1
        if left[0] < 0:
            return None
        if isinstance(then, Exception):
            raise then
        return then

    return hook


async def test_an_upload_arrives_whole_with_its_name(server: FakeServer, big: Path) -> None:
    async with client_of(server) as client:
        receipt = await client.upload(big, collection="c")
    assert receipt.job_id == "j1"
    ((collection, name, content),) = server.uploads
    assert (collection, name) == ("c", "Größe %221%22.pdf")
    assert len(content) == 5 + 256 * 3000
    assert content.endswith(bytes(range(256)))


async def test_a_file_is_streamed_in_pieces(big: Path) -> None:
    form = Multipart("file", big.name, 5 + 256 * 3000)
    with big.open("rb") as file:
        pieces = [piece async for piece in form.stream(file)]
    assert len(pieces) == 2 + 3
    assert sum(map(len, pieces)) == form.length


async def test_waiting_ends_when_the_job_rests(server: FakeServer, big: Path, naps: list[float]) -> None:
    async with client_of(server) as client:
        receipt = await client.upload(big, collection="c")
        states = [job["state"] async for job in client.wait(receipt.job_id)]
    assert states == ["queued", "done"]
    assert len(naps) == 1


async def test_a_problem_becomes_an_error_with_its_code(server: FakeServer) -> None:
    server.hook = first(1, problem(422, "question_too_long", "Too long."))
    async with client_of(server) as client:
        with pytest.raises(ApiError, match="Too long") as caught:
            await client.ask("?")
    assert (caught.value.status, caught.value.code, caught.value.retryable) == (422, "question_too_long", False)


@pytest.mark.parametrize("body", [b"<html>502</html>", b"[]", b""])
async def test_a_proxy_that_knows_no_problems_is_an_error_too(server: FakeServer, body: bytes) -> None:
    server.hook = first(1, httpx.Response(502, content=body))
    async with client_of(server) as client:
        with pytest.raises(ApiError) as caught:
            await client.ask("?")
    assert caught.value.code == "http_502"


@pytest.mark.parametrize("body", [b"hello", b"[1]"])
async def test_another_program_on_the_port_is_recognised(server: FakeServer, body: bytes) -> None:
    server.hook = first(1, httpx.Response(200, content=body))
    async with client_of(server) as client:
        with pytest.raises(ApiError, match="not Gatherum"):
            await client.version()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectError("refused"), "gatherum up"),
        (httpx.ReadTimeout("slow"), "in time"),
        (httpx.RemoteProtocolError("cut"), "broke"),
    ],
)
async def test_no_answer_is_told_apart_from_a_bad_one(server: FakeServer, error: Exception, words: str) -> None:
    server.hook = first(1, error)
    async with client_of(server) as client:
        with pytest.raises(Unreachable, match=words):
            await client.ask("?")


async def test_patience_outlasts_a_restart(server: FakeServer, big: Path, naps: list[float]) -> None:
    server.hook = first(3, httpx.ConnectError("restarting"))
    async with client_of(server, patience_s=60) as client:
        await client.upload(big, collection="c")
    assert len(server.uploads) == 1
    assert len(naps) == 3
    assert naps[2] > naps[0]


async def test_the_server_says_how_long_to_wait(server: FakeServer, naps: list[float]) -> None:
    busy = problem(429, "overloaded", "Later.")
    busy.headers["retry-after"] = "7"
    server.hook = first(1, busy)
    async with client_of(server, patience_s=60) as client:
        assert await client.ask("?") == ANSWER
    assert naps == [7.0]


@pytest.mark.usefixtures("naps")
async def test_patience_ends(server: FakeServer) -> None:
    server.hook = first(10**6, problem(503, "unavailable", "Restarting."))
    async with client_of(server, patience_s=0.05) as client:
        with pytest.raises(ApiError, match="Restarting"):
            await client.ask("?")


async def test_what_may_not_run_twice_is_not_repeated(server: FakeServer) -> None:
    server.hook = first(1, problem(503, "unavailable", "Restarting."))
    async with client_of(server, patience_s=60) as client:
        with pytest.raises(ApiError):
            await client.add_source("sky", "sky.db")


async def test_only_what_was_given_is_sent(server: FakeServer) -> None:
    async with client_of(server) as client:
        await client.ask("Who?")
        await client.ask("Who?", collections=["a"], sources=[], timeout_ms=5)
    assert server.asked == [
        {"question": "Who?"},
        {"question": "Who?", "collections": ["a"], "sources": [], "timeout_ms": 5},
    ]


async def test_cancelling_an_upload_leaves_no_file_open(server: FakeServer, big: Path) -> None:
    opened: list[BinaryIO] = []
    ready, go_on = threading.Event(), threading.Event()

    class Slow(type(big)):  # type: ignore[misc]
        """A path that takes its time to open."""

        def open(self, *how: Any, **more: Any) -> BinaryIO:
            ready.set()
            go_on.wait()
            opened.append(super().open(*how, **more))
            return opened[0]

    async with client_of(server) as client:
        task = asyncio.create_task(client.upload(Slow(big), collection="c"))
        await asyncio.to_thread(ready.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    go_on.set()
    async with asyncio.timeout(10):
        while not (opened and opened[0].closed):  # noqa: ASYNC110 - a file has no event for its end
            await asyncio.sleep(0)


async def test_a_file_is_sent_under_one_key_however_often_and_another_file_under_another(
    server: FakeServer, big: Path, naps: list[float]
) -> None:
    """An answer that was lost is asked for again: it must be the same one."""
    lost = [True]

    def hook(request: httpx.Request) -> httpx.Response | None:
        if lost and request.method == "POST":
            lost.clear()
            server.keys.append(request.headers["idempotency-key"])
            raise httpx.ReadTimeout("lost")
        return None

    server.hook = hook
    async with client_of(server, patience_s=60) as client:
        await client.upload(big, collection="c")
        await client.upload(big, collection="c")
    first, again, other = server.keys
    assert first == again
    assert other != first


async def test_hashes_are_gathered_from_every_page_of_the_list(server: FakeServer) -> None:
    server.known = {"c": ["a", "b", "d"]}
    async with client_of(server) as client:
        assert await client.known_hashes("c") == {"a", "b", "d"}
        assert await client.known_hashes("none") == set()
