"""Fetching a PDF from a URL into a temporary file, as if its bytes had been uploaded.

The guard decides where connections go; this holds the rest of what a stranger's server may do: how often it redirects,
how long it takes in all (httpx's own timeouts count each operation alone, so a server that drips a byte now and then is
never late), how many bytes come out of its compression, and what they are.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import AsyncIterator, Iterator
from email.message import Message
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpcore
import httpx

from actors.deadline import Deadline
from actors.egress import Guard, GuardedTransport, tls_context
from actors.errors import DocumentTooLarge, EmptyFile, FetchFailed, NotAPdf, Refused
from actors.store.blobs import Incoming
from config.settings import ApiSettings, EgressSettings
from serve.services import Turnstile
from serve.upload import plain_name

MAX_REDIRECTS: Final = 3
HEADER_BYTES: Final = 1024
"""Readers accept junk of this length before %PDF-."""
PIECE_BYTES: Final = 1 << 16
"""Decompressed at a time: what a bomb can make us hold."""

HEADERS: Final = {
    "user-agent": "Gatherum",
    "accept": "application/pdf, application/octet-stream;q=0.5",
    # PDFs are compressed inside. What is compressed nevertheless is decoded here, in bounded pieces: httpx would decode
    # a whole read at once, and several codings one over the other, a million times the size.
    "accept-encoding": "identity",
}

_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpx.HTTPError)


class Fetcher:
    """Fetches files for the HTTP replica it belongs to.

    Args:
        settings: budget, bounds and what the operator has opened.
        api: the size limit of uploads is that of fetched files.
        guard: for tests; by default one with the operator's list and the system's resolver.
    """

    def __init__(self, settings: EgressSettings, api: ApiSettings, *, guard: Guard | None = None) -> None:
        self._settings = settings
        self._max_bytes = int(api.max_upload_mb * 1_000_000)
        self._guard = guard or Guard(settings.allow_hosts)
        self._turnstile = Turnstile(settings.max_fetches, "fetches")

    async def fetch(self, url: str, incoming: Incoming, *, deadline: Deadline) -> str:
        """Fetch a PDF into `incoming`, flushed and not committed.

        Returns:
            The file's name, from the server or from the URL.

        Raises:
            InvalidInput: the URL makes no sense.
            Refused: policy forbids it, or a redirect that it leads to.
            FetchFailed: the other server did not give a file.
            NotAPdf, EmptyFile, DocumentTooLarge: what it gave is not wanted; no more of it is read.
            DeadlineExceeded: it did not finish in time.
            Overloaded: too many are under way.
        """
        if not self._settings.enabled:
            raise Refused("This server does not fetch URLs. Upload the file.")
        target = self._guard.vet_url(url)
        with self._turnstile.entered():
            within = deadline.within(self._settings.timeout_s)
            return await within.run(self._fetch(target, incoming), "Fetching the URL")

    async def _fetch(self, target: httpx.URL, incoming: Incoming) -> str:
        transport = GuardedTransport(self._guard, await asyncio.to_thread(tls_context, self._settings.ca_file))
        async with httpx.AsyncClient(
            transport=transport,
            headers=HEADERS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=self._settings.timeout_s,
            follow_redirects=False,
            trust_env=False,
        ) as client:
            try:
                for _ in range(1 + MAX_REDIRECTS):
                    async with client.stream("GET", target) as response:
                        if response.has_redirect_location:
                            target = self._guard.vet_url(response.headers["location"], base=target)
                            continue
                        if response.status_code != 200:
                            raise FetchFailed(f"{target.host} answered with status {response.status_code}.")
                        await self._take(response, incoming)
                        return _filename(response, target)
            except _FAILURES as error:
                raise FetchFailed(_said(error, target.host)) from None
        raise FetchFailed(f"The URL is redirected more than {MAX_REDIRECTS} times.")

    async def _take(self, response: httpx.Response, incoming: Incoming) -> None:
        announced = response.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            raise self._too_large()
        head = bytearray()
        is_pdf = False
        async for piece in self._decoded(response):
            if incoming.size + len(head) + len(piece) > self._max_bytes:
                raise self._too_large()
            if is_pdf:
                await incoming.write(piece)
                continue
            head += piece
            if is_pdf := b"%PDF-" in head[:HEADER_BYTES]:
                await incoming.write(bytes(head))
                head.clear()
            elif len(head) >= HEADER_BYTES:
                break
        if not is_pdf:
            raise NotAPdf("What the URL leads to is not a PDF.") if head else EmptyFile("The URL leads to nothing.")
        await incoming.flush()

    async def _decoded(self, response: httpx.Response) -> AsyncIterator[bytes]:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"", "identity", "gzip", "x-gzip", "deflate"}:
            raise FetchFailed("The other server sends a compression that was not asked for.")
        inflate = None if coding in {"", "identity"} else _Inflate()
        received = 0
        async for raw in response.aiter_raw():
            received += len(raw)
            if received > self._max_bytes:
                raise self._too_large()
            for piece in inflate.feed(raw) if inflate else (raw,):
                yield piece
        if inflate and not inflate.ended:
            raise FetchFailed("The file ends before its end.")

    def _too_large(self) -> DocumentTooLarge:
        return DocumentTooLarge(f"The file is larger than {self._max_bytes / 1e6:g} MB, the most that is accepted.")


class _Inflate:
    """Undoes gzip or deflate in bounded pieces.

    Attributes:
        ended: whether the compressed data have come to their own end.
    """

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(wbits=47)  # either header
        self.ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds; what follows the end is ignored, as browsers do.

        Raises:
            FetchFailed: the data are damaged.
        """
        while data and not self.ended:
            try:
                piece = self._engine.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise FetchFailed("The compression of the file is damaged.") from None
            data, self.ended = self._engine.unconsumed_tail, self._engine.eof
            if piece:
                yield piece


def _said(error: Exception, host: str) -> str:
    """What a failed connection tells the client: a certificate's fault, which someone can mend, or none of ours."""
    origin: BaseException | None = error
    while origin:
        if isinstance(origin, ssl.SSLCertVerificationError):
            return f"The certificate of {host} is not accepted: {origin.verify_message.rstrip('.')}."
        origin = origin.__context__  # httpcore's pool takes the cause away
    return f"The connection to {host} failed or broke off."


def _filename(response: httpx.Response, url: httpx.URL) -> str:
    header = Message()
    header["content-disposition"] = "".join(filter(str.isprintable, response.headers.get("content-disposition", "")))
    try:
        said = header.get_filename()
    except ValueError:  # the name is in a character set that decodes nothing, such as Python's `undefined`
        said = None
    name = said or url.path.rpartition("/")[2]
    return plain_name("".join(filter(str.isprintable, name)))
