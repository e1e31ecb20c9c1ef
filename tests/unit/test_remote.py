"""An endpoint for embeddings that answers well, badly, late, or not at all, and what becomes of those who ask it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, FetchFailed, Unavailable
from actors.search import remote as module
from actors.search.remote import ATTEMPTS, BATCH, LONGEST_PAUSE_S, RETRIES, SHORTEST, RemoteEncoder
from config.settings import EncoderSettings, load

Answer = Callable[[httpx.Request], httpx.Response]

SETTINGS = load(environ={})
MINE = SETTINGS.encoder.model_copy(
    update={"kind": "remote", "url": "http://127.0.0.1:9/v1", "model": "small", "dimension": 2}
)
OPEN = SETTINGS.egress.model_copy(update={"allow_hosts": ("127.0.0.1:9",)})


class Endpoint:
    """Answers as it is told, then well.

    Attributes:
        answers: for the next requests, in turn.
        asked: texts, by request.
        pauses: that were slept.
        awake: if set, the pauses of a probe last until then.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[list[str]] = []
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []
        self.awake: asyncio.Event | None = None

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked.append(json.loads(request.content)["input"])
        return (self.answers.pop(0) if self.answers else embeddings)(request)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        task = asyncio.current_task()
        if self.awake is not None and task is not None and task.get_name() == "embeddings-probe":
            await self.awake.wait()

    def encoder(self, **options: Any) -> RemoteEncoder:
        client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle), base_url="http://127.0.0.1/v1/")
        about: dict[str, Any] = {"model": "small", "dimension": 2, "requests": 2, "timeout_s": 60.0, **options}
        return RemoteEncoder(client, **about, sleep=self.sleep, dice=random.Random(0))


def embeddings(request: httpx.Request) -> httpx.Response:
    texts = json.loads(request.content)["input"]
    data = [{"index": index, "embedding": [len(text), 0.0]} for index, text in enumerate(texts)]
    return httpx.Response(200, json={"data": data[::-1]})


def status(number: int, **headers: str) -> Answer:
    return lambda _: httpx.Response(number, headers={name.replace("_", "-"): text for name, text in headers.items()})


def broken(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no")


def soon() -> Deadline:
    return Deadline.after(60)


async def test_texts_are_asked_for_in_batches() -> None:
    endpoint = Endpoint()
    encoder = endpoint.encoder()
    vectors = await encoder.encode(["text", ""] * BATCH, deadline=soon())
    assert vectors.tolist() == [[1.0, 0.0]] * (2 * BATCH)
    assert [request.url.path for request in endpoint.requests] == ["/v1/embeddings"] * 2
    assert json.loads(endpoint.requests[0].content)["model"] == "small"
    assert endpoint.asked[0][:2] == ["text", " "]
    assert encoder.identity == "remote:small/2"
    assert (await encoder.encode([], deadline=soon())).shape == (0, 2)


async def test_so_many_requests_are_under_way_and_no_more() -> None:
    running = most = 0

    async def handle(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await asyncio.sleep(0)
        running -= 1
        return embeddings(request)

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://127.0.0.1/v1/")
    encoder = RemoteEncoder(client, model="small", dimension=2, requests=3, timeout_s=60)
    await encoder.encode(["x"] * (10 * BATCH), deadline=soon())
    assert most == 3


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (status(401), "status 401"),
        (status(307, location="http://127.0.0.1/elsewhere"), "status 307"),
        (lambda _: httpx.Response(200, content=b"<html>"), "something else"),
        (lambda _: httpx.Response(200, json={"data": [{"index": 0}]}), "something else"),
        (lambda _: httpx.Response(200, json=[]), "something else"),
        (lambda _: httpx.Response(200, json={"data": []}), "shape"),
        (lambda _: httpx.Response(200, json={"data": [{"index": 0, "embedding": [1, 2, 3]}]}), "shape"),
        (lambda _: httpx.Response(200, json={"data": [{"index": 0, "embedding": [[1], 2]}]}), "something else"),
        (lambda _: httpx.Response(200, content=b'{"data":[{"index":0,"embedding":[1e300,1]}]}'), "shape"),
    ],
)
async def test_what_another_attempt_would_meet_again_is_asked_once(answer: Answer, part: str) -> None:
    endpoint = Endpoint(answer)
    endpoint.awake = asyncio.Event()  # keeps the probe waiting
    encoder = endpoint.encoder()
    with pytest.raises(Unavailable, match=part):
        await encoder.encode(["x"], deadline=soon())
    assert len(endpoint.asked) == 1
    assert part in encoder.trouble
    await encoder.close()


@pytest.mark.parametrize("answer", [status(429), status(503, retry_after="1"), status(500), broken])
async def test_what_passes_is_asked_again(answer: Answer) -> None:
    endpoint = Endpoint(*[answer] * (ATTEMPTS - 1))
    encoder = endpoint.encoder()
    assert (await encoder.encode(["x"], deadline=soon())).tolist() == [[1.0, 0.0]]
    assert len(endpoint.asked) == ATTEMPTS
    assert len(endpoint.pauses) == ATTEMPTS - 1
    assert all(0 < pause <= LONGEST_PAUSE_S for pause in endpoint.pauses)
    assert encoder.trouble == ""


async def test_a_host_inside_is_told_how_it_is_opened() -> None:
    def inside(_: httpx.Request) -> httpx.Response:
        raise FetchFailed("The host models.internal is not on the public internet.")

    endpoint = Endpoint(inside, inside, inside, inside)
    endpoint.awake = asyncio.Event()  # keeps the probe waiting
    encoder = endpoint.encoder()
    with pytest.raises(Unavailable, match=r"name host:port in egress\.allow_hosts"):
        await encoder.encode(["x"], deadline=soon())
    await encoder.close()


async def test_an_endpoint_is_left_alone_as_long_as_it_asks() -> None:
    endpoint = Endpoint(status(429, retry_after="20"))
    endpoint.awake = asyncio.Event()
    encoder = endpoint.encoder()
    with pytest.raises(Unavailable, match="429"):
        await encoder.encode(["x"], deadline=soon())
    await asyncio.sleep(0)
    assert (len(endpoint.asked), endpoint.pauses) == (1, [20.0])
    await encoder.close()


async def test_an_endpoint_that_is_away_is_asked_by_its_probe_alone_until_it_is_back() -> None:
    endpoint = Endpoint(*[broken] * (ATTEMPTS + 2))
    endpoint.awake = asyncio.Event()
    encoder = endpoint.encoder()
    with capture_logs() as lines:
        with pytest.raises(Unavailable, match=r"cannot be reached \(ConnectError\)"):
            await encoder.encode(["x"], deadline=soon())
        for _ in range(5):
            with pytest.raises(Unavailable, match="cannot be reached"):
                await encoder.encode(["y"], deadline=soon())
        assert endpoint.asked == [["x"]] * ATTEMPTS
        endpoint.awake.set()
        assert encoder._probe is not None
        await encoder._probe
    assert endpoint.asked[ATTEMPTS:] == [["probe"]] * 3
    assert encoder.trouble == ""
    assert (await encoder.encode(["z"], deadline=soon())).tolist() == [[1.0, 0.0]]
    assert [line["event"] for line in lines] == ["embeddings_endpoint_away", "embeddings_endpoint_back"]


async def test_attempts_beyond_the_first_have_a_budget() -> None:
    endpoint = Endpoint(*[status(503)] * 1000)
    endpoint.awake = asyncio.Event()
    encoder = endpoint.encoder()
    for _ in range(100):
        encoder._trouble = ""  # as if the probe had had an answer
        with pytest.raises(Unavailable):
            await encoder._ask(["x"], soon())
    assert len(endpoint.asked) == 100 + RETRIES
    await encoder.close()


async def test_a_text_that_is_too_long_for_the_model_is_found_and_cut() -> None:
    def picky(request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        return httpx.Response(413) if any(len(text) > 1000 for text in texts) else embeddings(request)

    endpoint = Endpoint(*[picky] * 100)
    encoder = endpoint.encoder()
    vectors = await encoder.encode(["x"] * 5 + ["y" * 3000] + ["z"] * 3, deadline=soon())
    assert vectors.tolist() == [[1.0, 0.0]] * 9
    assert ["y" * 750] in endpoint.asked
    assert encoder.trouble == ""


async def test_an_endpoint_that_refuses_every_text_is_not_asked_for_ever() -> None:
    endpoint = Endpoint(*[status(400)] * 1000)
    encoder = endpoint.encoder()
    with pytest.raises(Unavailable, match="refuses"):
        await encoder.encode(["x" * 4000] * BATCH, deadline=soon())
    assert len(endpoint.asked) < 20
    assert len(endpoint.asked[-1][0]) == SHORTEST


async def test_an_endpoint_that_hangs_costs_its_time_once() -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        await asyncio.Event().wait()
        raise AssertionError

    asked: list[httpx.Request] = []
    pausing = Endpoint()
    pausing.awake = asyncio.Event()
    client = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://127.0.0.1/v1/")
    encoder = RemoteEncoder(
        client, model="small", dimension=2, requests=1, timeout_s=0.01, sleep=pausing.sleep, dice=random.Random(0)
    )
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"within 0\.01 s"):
            await encoder.encode(["x"], deadline=soon())
    assert len(asked) == 1
    await encoder.close()


async def test_a_question_that_has_no_time_left_says_nothing_about_the_endpoint() -> None:
    async def handle(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://127.0.0.1/v1/")
    encoder = RemoteEncoder(client, model="small", dimension=2, requests=1, timeout_s=60)
    with pytest.raises(DeadlineExceeded):
        await encoder.encode(["x"], deadline=Deadline.after(0.01))
    assert encoder.trouble == ""
    with pytest.raises(DeadlineExceeded):
        await encoder.encode(["x"], deadline=Deadline.after(-1))


async def test_an_answer_that_never_ends_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 100)
    endpoint = Endpoint(lambda _: httpx.Response(200, content=b" " * 101))
    encoder = endpoint.encoder()
    with pytest.raises(Unavailable, match="more than"):
        await encoder.encode(["x"], deadline=soon())
    await encoder.close()


# --- the settings ---


async def opened(monkeypatch: pytest.MonkeyPatch, **update: Any) -> RemoteEncoder:
    settings = MINE.model_copy(update=update)
    return await asyncio.to_thread(RemoteEncoder.at, settings, OPEN, timeout_s=1.0)


async def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    encoder = await opened(monkeypatch, key_env="MY_KEY")
    assert encoder._client.headers["authorization"] == "Bearer sk-secret"
    with capture_logs() as lines, pytest.raises(Unavailable) as refusal:
        await encoder.encode(["x"], deadline=soon())
    assert "sk-secret" not in f"{lines} {refusal.value!r} {vars(encoder)} {encoder.trouble}"
    await encoder.close()


@pytest.mark.parametrize("key", ["", "  ", "a\nb", "schlüssel"])
async def test_a_key_that_is_none_is_told_at_once(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(Unavailable, match="key of the embeddings endpoint") as refusal:
        await opened(monkeypatch, key_env="MY_KEY")
    assert not key.strip() or key not in refusal.value.detail


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:10/v1", "http://10.0.0.1/v1", "http://0x7f.1:9/v1", "https://example.com:8443/v1"]
)
async def test_what_is_not_public_must_be_opened(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(Unavailable, match=r"egress\.allow_hosts") as refusal:
        await opened(monkeypatch, url=url)
    assert "127.0.0.1" not in refusal.value.detail
    for good in ("http://127.0.0.1:9/v1/", "https://api.example.com/v1"):
        await (await opened(monkeypatch, url=good)).close()


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("url", "", "http or https URL"),
        ("url", "ftp://a/v1", "http or https URL"),
        ("url", "https://me:sk-secret@a/v1", "key_env"),
        ("url", "https://a/v1?key=sk-secret", "key_env"),
        ("model", "", "must be given"),
        ("dimension", 0, "must be given"),
        ("key_env", "sk-secret", "not the key"),
    ],
)
def test_settings_of_an_endpoint_that_make_no_sense(key: str, value: Any, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        EncoderSettings(**{**MINE.model_dump(), key: value})


def test_a_wrong_setting_that_may_be_a_key_is_not_shown() -> None:
    given = {f"encoder.{key}": value for key, value in MINE.model_dump().items()}
    for key, value in (("encoder.key_env", "sk-secret"), ("encoder.url", "https://me:sk-secret@a/v1")):
        with pytest.raises(Exception, match=key) as refusal:
            load({**given, key: value}, environ={})
        assert "sk-secret" not in str(refusal.value)
