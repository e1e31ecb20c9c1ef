"""RemoteEncoder: vectors from an endpoint shaped like OpenAI's `/v1/embeddings`, and the choice among encoders.

An endpoint may be slow, away, or refuse. What passes is tried again, a few times and never by everybody at once. Once
it is given up nobody waits for it any more: calls fail at once, until a probe of its own finds that it answers again.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpcore
import httpx
import numpy as np
import orjson

from actors.deadline import Deadline
from actors.egress import Guard, GuardedTransport, tls_context
from actors.errors import DeadlineExceeded, FetchFailed, GatherumError, InvalidInput, Overloaded, Refused, Unavailable
from actors.search import encoder as encoders
from actors.search import models, wordpieces
from actors.search.encoder import Encoder, Vectors, unit
from actors.search.wordpieces import WordPieces
from config import logs
from config.settings import EgressSettings, EncoderSettings

BATCH: Final = 64
"""Texts in one request."""

MAX_ANSWER_BYTES: Final = 64_000_000
"""Of an endpoint, for one request: 64 vectors of 4,096 dimensions as JSON take 6 MB."""

ATTEMPTS: Final = 3
"""Of one request."""

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 2.0
"""Between attempts; an endpoint that asks for more by `Retry-After` is given up."""

RETRIES: Final = 10.0
"""That may be spent at once; each request that succeeds earns a tenth of one. An endpoint that is overloaded is not
asked three times as much for it."""

FIRST_PROBE_S: Final = 1.0
LONGEST_PROBE_S: Final = 30.0
"""Between two looks whether an endpoint that was given up answers again."""

LARGEST: Final = 1e18
"""Number in a vector; the square of a larger one is none of 32 bits."""

SHORTEST: Final = 200
"""Characters to which a text that is refused is cut before it is given up: some endpoints refuse a text that is longer
than their model reads."""

_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_OF_THE_TEXT: Final = frozenset({400, 413, 422})
_FAILURES: Final = (httpcore.NetworkError, httpcore.ProtocolError, httpx.TransportError)
_TIMEOUTS: Final = (httpcore.TimeoutException, httpx.TimeoutException)


class _Passing(Exception):
    """A failure after which another attempt may succeed.

    Args:
        detail: what it was.
        after_s: how long the endpoint wants to be left alone, s.
    """

    def __init__(self, detail: str, after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.after_s = after_s


class _RefusedText(Exception):
    """The endpoint does not take these texts."""


class RemoteEncoder:
    """See the module's docstring.

    Args:
        client: with the base address (ending before `/embeddings`) and the authorisation header.
        model: its name there.
        dimension: what the model gives.
        requests: under way at once.
        timeout_s: for one request, s.
        sleep: waits for so many seconds.
        dice: decides the jitter of pauses.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        model: str,
        dimension: int,
        requests: int,
        timeout_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        dice: random.Random | None = None,
    ) -> None:
        self._client = client
        self._model = model
        self._dimension = dimension
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._dice = dice or random.Random()  # noqa: S311 - no secret depends on it
        self._places = asyncio.Semaphore(requests)
        self._retries = RETRIES
        self._trouble = ""
        self._probe: asyncio.Task[None] | None = None

    @classmethod
    def at(cls, settings: EncoderSettings, egress: EgressSettings | None, *, timeout_s: float) -> RemoteEncoder:
        """The endpoint of the settings; nothing is sent yet. Reads certificates: call it in a thread.

        Raises:
            Unavailable: policy forbids the address, or its key is not there.
        """
        guard = Guard(egress.allow_hosts if egress else ())
        base = settings.url.rstrip("/") + "/"
        try:
            guard.vet_url(base)
        except (Refused, InvalidInput):
            raise Unavailable(_NOT_OPEN) from None
        client = httpx.AsyncClient(
            base_url=base,
            transport=GuardedTransport(
                guard, tls_context(egress.ca_file if egress else ""), connections=settings.requests
            ),
            headers={"user-agent": "Gatherum", "accept-encoding": "identity", **_authorisation(settings.key_env)},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
        )
        about = {"model": settings.model, "dimension": settings.dimension, "requests": settings.requests}
        return cls(client, **about, timeout_s=timeout_s)  # type: ignore[arg-type]

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def identity(self) -> str:
        """See `models.remote_identity`."""
        return models.remote_identity(self._model, self._dimension)

    @property
    def pieces(self) -> WordPieces:
        """What its imitation is made of: whatever the model's own tokenizer is, it stays at the endpoint."""
        return wordpieces.default()

    @property
    def trouble(self) -> str:
        """Why it is not asked at the moment; empty while it is."""
        return self._trouble

    async def close(self) -> None:
        """End the probe and the connections."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])
        await self._client.aclose()

    async def encode(self, texts: Sequence[str], *, deadline: Deadline) -> Vectors:
        """See `Encoder.encode`."""
        parts = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
        try:
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(self._vectors(part, deadline)) for part in parts]
        except ExceptionGroup as failed:
            # All went to one endpoint: what one met, the others would.
            raise failed.exceptions[0] from None
        return unit(np.concatenate([np.zeros((0, self._dimension), np.float32), *(part.result() for part in made)]))

    async def _vectors(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        """The vectors of some texts; what of them the endpoint does not take is found out, and cut until it does."""
        try:
            return await self._ask(texts, deadline)
        except _RefusedText:
            if len(texts) > 1:
                half = len(texts) // 2
                return np.concatenate([await self._vectors(part, deadline) for part in (texts[:half], texts[half:])])
            (text,) = texts
            if len(text) <= SHORTEST:
                raise Unavailable("The embeddings endpoint refuses what it is sent; is its model configured?") from None
            return await self._vectors([text[: max(SHORTEST, len(text) // 2)]], deadline)

    async def _ask(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        """One request, as often as it is worth while.

        Raises:
            Unavailable: the endpoint is given up.
            _RefusedText: it does not take the texts.
            DeadlineExceeded: the time is up.
        """
        for attempt in range(1, ATTEMPTS + 1):
            if self._trouble:
                raise Unavailable(self._trouble)
            try:
                # Waiting for a place is not the endpoint's fault, and not in its time.
                async with _place(self._places, deadline):
                    made = await self._once(texts, deadline)
            except _Passing as error:
                pause = max(self._dice.uniform(0, FIRST_PAUSE_S * 2**attempt), error.after_s)
                patient = pause <= min(LONGEST_PAUSE_S, deadline.remaining())
                if attempt == ATTEMPTS or self._retries < 1 or not patient:
                    self._give_up(error.detail, error.after_s)
                    raise Unavailable(error.detail) from None
                self._retries -= 1
                await self._sleep(pause)
            except Unavailable as error:
                self._give_up(error.detail)
                raise
            else:
                self._retries = min(RETRIES, self._retries + 0.1)
                return made
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        """Send one request and understand what comes back."""
        deadline.check("the encoder")
        # Some endpoints refuse an empty text.
        body = {"model": self._model, "input": [text or " " for text in texts], "encoding_format": "float"}
        content = await asyncio.to_thread(orjson.dumps, body)
        within = deadline.within(self._timeout_s)
        try:
            answer = await within.run(self._read(content), "The embeddings endpoint")
        except (DeadlineExceeded, *_TIMEOUTS):
            if deadline.expired:
                raise DeadlineExceeded("The embeddings endpoint did not answer in time.") from None
            # Not tried again: it had all the time that anybody has for it.
            raise Unavailable(f"The embeddings endpoint does not answer within {self._timeout_s:g} s.") from None
        except _FAILURES as error:
            raise _Passing(f"The embeddings endpoint cannot be reached ({type(error).__name__}).") from None
        except Refused:
            raise Unavailable(_NOT_OPEN) from None
        except (FetchFailed, Overloaded):
            raise _Passing(_NOT_FOUND) from None
        return await asyncio.to_thread(_parsed, answer, len(texts), self._dimension)

    async def _read(self, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        async with self._client.stream("POST", "embeddings", content=body, headers=headers) as response:
            status = response.status_code
            said = f"The embeddings endpoint answers with status {status}."
            if status in _PASSING:
                raise _Passing(said, _seconds(response.headers.get("retry-after", "")))
            if status in _OF_THE_TEXT:
                raise _RefusedText
            if status != httpx.codes.OK:
                raise Unavailable(said)
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise Unavailable(f"The embeddings endpoint answers with more than {MAX_ANSWER_BYTES:,} bytes.")
            return bytes(content)

    # --- while it is away ---

    def _give_up(self, detail: str, after_s: float = 0.0) -> None:
        """Have nobody ask any more, until the probe has had an answer; it waits at least so many seconds."""
        if not self._trouble:
            logs.get().warning("embeddings_endpoint_away", error=detail)
        self._trouble = detail
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._look_again(after_s), name="embeddings-probe")

    async def _look_again(self, after_s: float) -> None:
        pause = FIRST_PROBE_S
        await self._sleep(min(after_s, LONGEST_PROBE_S))
        while True:
            await self._sleep(pause * self._dice.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PROBE_S)
            try:
                await self._once(["probe"], Deadline.after(2 * self._timeout_s))
            except (_Passing, GatherumError) as error:
                self._trouble = error.detail
            except _RefusedText:
                # It answers. Whether it takes the texts of others, they will find out.
                break
            else:
                break
        self._trouble = ""
        logs.get().info("embeddings_endpoint_back")


def opened(settings: EncoderSettings, egress: EgressSettings | None, *, threads: int, timeout_s: float) -> Encoder:
    """The encoder of the settings. Takes time where it is a local one: call it in a thread.

    Args:
        settings: of any kind but `none`.
        egress: what an endpoint's address must be allowed by; None for what is public.
        threads: of a local one.
        timeout_s: for one request to a remote one, s.

    Raises:
        Unavailable: its files are missing or not what they should be, or the endpoint may not be asked.
    """
    if settings.kind == "remote":
        return RemoteEncoder.at(settings, egress, timeout_s=timeout_s)
    return encoders.local(settings, threads=threads)


# The guard tells neither from the other, lest names inside be told from it.
_NOT_FOUND: Final = (
    "The host of the embeddings endpoint cannot be found at the moment, or is not on the public internet; if it is "
    "inside, name host:port in egress.allow_hosts."
)
_NOT_OPEN: Final = (
    "The embeddings endpoint may not be connected to: its host is not on the public internet, or its port is another "
    "than 80 and 443. Name host:port in egress.allow_hosts."
)


@asynccontextmanager
async def _place(places: asyncio.Semaphore, deadline: Deadline) -> AsyncIterator[None]:
    await deadline.run(places.acquire(), "Waiting for the embeddings endpoint")
    try:
        yield
    finally:
        places.release()


def _authorisation(variable: str) -> dict[str, str]:
    """The header with the key; only here it is looked at, and no error says what it is."""
    if not variable:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Unavailable("The key of the embeddings endpoint is not set: the variable that encoder.key_env names.")
    if not (key.isascii() and key.isprintable()):
        raise Unavailable("The key of the embeddings endpoint has characters that no header can have.")
    return {"authorization": f"Bearer {key}"}


def _parsed(answer: bytes, count: int, dimension: int) -> Vectors:
    try:
        items = sorted(orjson.loads(answer)["data"], key=lambda item: item["index"])
        vectors = np.array([item["embedding"] for item in items], np.float64)
    except (ValueError, TypeError, KeyError):
        raise Unavailable("The embeddings endpoint answers with something else than embeddings.") from None
    if vectors.shape != (count, dimension) or not (np.abs(vectors) < LARGEST).all():
        raise Unavailable(
            f"The embeddings endpoint answers with an array of shape {vectors.shape}, not {(count, dimension)}; "
            "configure the dimension of its model."
        )
    return vectors.astype(np.float32)


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 0.0
