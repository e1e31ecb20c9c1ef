"""Fetching from real sockets: what a hostile URL, name or server can do, and that a good one works."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from addresses import ALL

from actors.deadline import Deadline
from actors.egress import Guard
from actors.errors import (
    DeadlineExceeded,
    DocumentTooLarge,
    EmptyFile,
    FetchFailed,
    GatherumError,
    InvalidInput,
    NotAPdf,
    Overloaded,
    Refused,
)
from actors.store.blobs import Folder, Incoming
from config.settings import load
from serve.fetch import PIECE_BYTES, Fetcher, _Inflate

PDF = b"%PDF-1.7\n" + b"x" * 5000 + b"\n%%EOF\n"
Handler = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = b"", *, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class Server:
    """A server on loopback that answers by path, and counts."""

    routes: dict[str, bytes | Handler] = field(default_factory=dict)
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    sent: int = 0
    port: int = 0
    scheme: str = "http"
    asked_for: list[str | None] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            route = self.routes[head.split(b" ", 2)[1].decode()]
            if isinstance(route, bytes):
                writer.write(route)
                await writer.drain()
            else:
                await route(head, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@contextlib.asynccontextmanager
async def serving(
    host: str = "127.0.0.1", port: int = 0, certificate: trustme.LeafCert | None = None
) -> AsyncIterator[Server]:
    """A server; over TLS with a certificate, and then it notes the names it is asked for by."""
    server, tls = Server(), None
    if certificate:
        server.scheme, tls = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(tls)
        tls.sni_callback = lambda _, name, __: server.asked_for.append(name)
    listener = await asyncio.start_server(server.handle, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def fetcher(*allow: str, guard: Guard | None = None, settings: Mapping[str, object] | None = None) -> Fetcher:
    known = load({"egress.allow_hosts": allow, "api.max_upload_mb": 0.1, **(settings or {})})
    return Fetcher(known.egress, known.api, guard=guard)


async def fetch(fetcher: Fetcher, url: str, folder: Path, *, seconds: float = 20) -> tuple[str, bytes]:
    async with Incoming(Folder(folder)) as incoming:
        name = await fetcher.fetch(url, incoming, deadline=Deadline.after(seconds))
        return name, incoming.path.read_bytes()


# --- nothing inside is connected to ---------------------------------------------------------------------------------


async def test_no_bad_url_reaches_a_canary(tmp_path: Path) -> None:
    """Canaries listen on port 80 (and 443, where we may bind it) of both loopbacks; the resolver is the system's."""
    async with contextlib.AsyncExitStack() as stack:
        canaries = []
        for host in ("0.0.0.0", "::"):  # noqa: S104 - every address of this machine must be seen
            for port in (80, 443):
                with contextlib.suppress(OSError):
                    canaries.append(await stack.enter_async_context(serving(host, port)))
        if not canaries:
            pytest.skip("no permission to listen on ports 80 and 443")
        tried = fetcher(settings={"egress.timeout_s": 5})
        for url in ALL:
            with pytest.raises((Refused, FetchFailed, InvalidInput)):
                await fetch(tried, url, tmp_path)
        assert [canary.connections for canary in canaries] == [0] * len(canaries)
        # The canaries do sing.
        for host, canary in zip(("127.0.0.1", "::1"), canaries, strict=False):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, canary.port)
                writer.close()
        await asyncio.sleep(0.05)
        assert sum(canary.connections for canary in canaries) > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_no_bad_url_connects_anywhere(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same without privileges: nothing even tries to connect, whatever the resolver says the names are."""

    async def resolve(name: str, port: int) -> list[str]:
        try:
            return [socket.inet_ntoa(socket.inet_aton(name))]
        except OSError:
            return [host]

    tried: list[object] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "sock_connect", lambda self, sock, address: tried.append(address))
    monkeypatch.setattr(type(loop), "create_connection", lambda self, *args, **how: tried.append(args))
    guarded = fetcher(guard=Guard(resolve=resolve))
    for url in ALL:
        with pytest.raises((Refused, FetchFailed, InvalidInput)):
            await fetch(guarded, url, tmp_path)
    assert tried == []


async def test_a_name_that_changes_its_address_is_refused_the_second_time(server: Server, tmp_path: Path) -> None:
    answers: list[Sequence[str]] = [["127.0.0.1"], ["10.0.0.1"]]
    asked: list[str] = []

    async def resolve(name: str, port: int) -> Sequence[str]:
        asked.append(name)
        return answers[len(asked) - 1]

    server.routes["/"] = answer(status="302 Found", Location="http://rebound.example/")
    guard = Guard([f"first.example:{server.port}"], resolve=resolve)
    with pytest.raises(FetchFailed) as caught:
        await fetch(fetcher(guard=guard), server.url("/", "first.example"), tmp_path)
    assert asked == ["first.example", "rebound.example"]  # each looked up once
    assert "10.0.0.1" not in caught.value.detail


@pytest.mark.parametrize(
    "location",
    ["http://127.0.0.1/", "http://169.254.169.254/latest/", "http://[::1]/", "http://0x7f.1/", "file:///etc/passwd"],
)
async def test_a_redirect_inside_is_refused(server: Server, tmp_path: Path, location: str) -> None:
    server.routes["/"] = answer(status="302 Found", Location=location)
    with pytest.raises(Refused):
        await fetch(fetcher(f"127.0.0.1:{server.port}"), server.url(), tmp_path)
    assert server.connections == 1


async def test_switched_off_nothing_is_fetched(server: Server, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not fetch"):
        await fetch(fetcher(f"127.0.0.1:{server.port}", settings={"egress.enabled": False}), server.url(), tmp_path)
    assert server.connections == 0


# --- a good server --------------------------------------------------------------------------------------------------


@pytest.fixture
def local(server: Server) -> Fetcher:
    return fetcher(f"127.0.0.1:{server.port}")


async def test_an_allowed_local_server_works(server: Server, local: Fetcher, tmp_path: Path) -> None:
    server.routes["/papers/r%C3%A9sum%C3%A9.pdf"] = answer(PDF, Set_Cookie="a=b")
    assert await fetch(local, server.url("/papers/r%C3%A9sum%C3%A9.pdf"), tmp_path) == ("r\u00e9sum\u00e9.pdf", PDF)
    head = server.requests[0].lower()
    assert f"host: 127.0.0.1:{server.port}".encode() in head
    assert b"user-agent: gatherum\r\n" in head
    assert b"cookie" not in head


async def test_a_name_is_kept_in_the_host_header(server: Server, tmp_path: Path) -> None:
    async def resolve(name: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    server.routes["/"] = answer(PDF)
    guard = Guard([f"papers.example:{server.port}"], resolve=resolve)
    assert (await fetch(fetcher(guard=guard), server.url("/", "papers.example"), tmp_path))[1] == PDF
    assert f"host: papers.example:{server.port}".encode() in server.requests[0].lower()


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="report.pdf"', "report.pdf"),
        ('attachment; filename="../../etc/report.pdf"', "report.pdf"),
        ("attachment; filename*=UTF-8''r%C3%A9sum%C3%A9.pdf", "r\u00e9sum\u00e9.pdf"),
        ("inline", "a.pdf"),
        ("attachment; filename=", "a.pdf"),
        ("attachment; filename*=undefined''x", "a.pdf"),
        ('attachment; filename="' + "x" * 900 + '"', "x" * 500),
    ],
)
async def test_the_name_is_the_servers_or_the_urls(
    server: Server, local: Fetcher, tmp_path: Path, disposition: str, name: str
) -> None:
    server.routes["/a.pdf"] = answer(PDF, Content_Disposition=disposition)
    assert (await fetch(local, server.url("/a.pdf"), tmp_path))[0] == name


@pytest.mark.parametrize("path", ["/", "/x/"])
async def test_a_url_without_a_name_has_one_all_the_same(
    server: Server, local: Fetcher, tmp_path: Path, path: str
) -> None:
    server.routes[path] = answer(PDF)
    assert (await fetch(local, server.url(path), tmp_path))[0] == "document.pdf"


async def test_three_redirects_are_followed_without_cookies_and_four_are_not(
    server: Server, local: Fetcher, tmp_path: Path
) -> None:
    for hop in range(4):
        server.routes[f"/{hop}"] = answer(status="302 Found", Location=f"{hop + 1}", Set_Cookie=f"a{hop}=b; Path=/")
    server.routes["/4"] = answer(PDF)
    assert (await fetch(local, server.url("/1"), tmp_path))[1] == PDF
    assert not any(b"\r\ncookie:" in head.lower() for head in server.requests)
    with pytest.raises(FetchFailed, match="more than 3 times"):
        await fetch(local, server.url("/0"), tmp_path)


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_compression_is_undone(
    server: Server, local: Fetcher, tmp_path: Path, coding: str, encode: Callable[[bytes], bytes]
) -> None:
    server.routes["/"] = answer(encode(PDF), Content_Encoding=coding)
    assert (await fetch(local, server.url(), tmp_path))[1] == PDF


async def test_junk_before_the_header_is_accepted_as_readers_do(server: Server, local: Fetcher, tmp_path: Path) -> None:
    server.routes["/"] = answer(b"\n" * 1000 + PDF)
    assert (await fetch(local, server.url(), tmp_path))[1].endswith(PDF)


# --- over TLS -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intranet:
    """A certificate authority that nobody but this test knows, in a file."""

    authority: trustme.CA
    file: str

    def fetcher(self, server: Server, host: str, *, ca_file: str | None = None) -> Fetcher:
        """One whose operator has opened the host, which is at 127.0.0.1."""

        async def resolve(name: str, port: int) -> list[str]:
            return ["127.0.0.1"]

        settings = {"egress.ca_file": self.file if ca_file is None else ca_file}
        return fetcher(guard=Guard([f"{host}:{server.port}"], resolve=resolve), settings=settings)


@pytest.fixture
def intranet(tmp_path: Path) -> Intranet:
    authority, file = trustme.CA(), tmp_path / "authorities.pem"
    authority.cert_pem.write_to_path(str(file))
    return Intranet(authority, str(file))


@pytest.mark.parametrize("host", ["papers.example", "PAPERS.example", "127.0.0.1"])
async def test_a_file_comes_over_tls_from_the_vetted_address_under_the_urls_name(
    intranet: Intranet, tmp_path: Path, host: str
) -> None:
    async with serving(certificate=intranet.authority.issue_cert(host.lower())) as server:
        server.routes["/a.pdf"] = answer(PDF)
        assert await fetch(intranet.fetcher(server, host), server.url("/a.pdf", host), tmp_path / "in") == (
            "a.pdf",
            PDF,
        )
    # An address is no name that a server could be asked for by (RFC 6066), but its certificate must name it too.
    assert server.asked_for == [None if host == "127.0.0.1" else "papers.example"]
    assert f"host: {host.lower()}:{server.port}".encode() in server.requests[0].lower()


async def test_a_redirect_from_http_leads_to_tls(server: Server, intranet: Intranet, tmp_path: Path) -> None:
    async with serving(certificate=intranet.authority.issue_cert("127.0.0.1")) as secure:
        secure.routes["/"] = answer(PDF)
        server.routes["/"] = answer(status="301 Moved Permanently", Location=secure.url())
        allowed = fetcher(
            "127.0.0.1:" + str(server.port), f"127.0.0.1:{secure.port}", settings={"egress.ca_file": intranet.file}
        )
        assert (await fetch(allowed, server.url(), tmp_path / "in"))[1] == PDF


@pytest.mark.parametrize(
    ("named", "trusted", "why"),
    [
        ("other.example", True, "not valid for 'papers.example'"),
        ("127.0.0.1", True, "not valid for 'papers.example'"),  # where the connection goes to
        ("papers.example", False, "unable to get local issuer certificate"),
    ],
)
async def test_a_certificate_that_proves_nothing_is_refused(
    intranet: Intranet, tmp_path: Path, named: str, trusted: bool, why: str
) -> None:
    async with serving(certificate=intranet.authority.issue_cert(named)) as server:
        server.routes["/"] = answer(PDF)
        strict = intranet.fetcher(server, "papers.example", ca_file=None if trusted else "")
        with pytest.raises(FetchFailed, match=r"The certificate of papers\.example is not accepted") as caught:
            await fetch(strict, server.url("/", "papers.example"), tmp_path / "in")
    assert why in caught.value.detail
    assert server.requests == []


# --- a bad server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(b"", status="404 Not Found"), FetchFailed),
        (answer(b"x", status="206 Partial Content"), FetchFailed),
        (answer(b"", status="302 Found"), FetchFailed),
        (answer(b"", status="302 Found", Location="http://["), InvalidInput),
        (answer(b""), EmptyFile),
        (answer(b"<html>Please log in"), NotAPdf),
        (answer(b"x" * 2000), NotAPdf),
        (answer(PDF)[:-100], FetchFailed),
        (answer(PDF, Content_Encoding="br"), FetchFailed),
        (answer(PDF, Content_Encoding="gzip, gzip"), FetchFailed),
        (answer(PDF, Content_Encoding="gzip"), FetchFailed),
        (answer(gzip.compress(PDF)[:-10], Content_Encoding="gzip"), FetchFailed),
        (answer(PDF + b"x" * 100_000), DocumentTooLarge),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n%PDF-", DocumentTooLarge),
        (b"SSH-2.0-OpenSSH_9.6\r\n", FetchFailed),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, FetchFailed),
        (b"", FetchFailed),
    ],
)
async def test_what_is_not_a_pdf_is_an_error_of_its_own(
    server: Server, local: Fetcher, tmp_path: Path, reply: bytes, error: type[GatherumError]
) -> None:
    server.routes["/"] = reply
    with pytest.raises(error) as caught:
        await fetch(local, server.url(), tmp_path)
    assert type(caught.value) is error
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_nobody_there_is_an_error(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FetchFailed):
        await fetch(fetcher(f"127.0.0.1:{port}"), f"http://127.0.0.1:{port}/", tmp_path)


async def endless(server: Server, writer: asyncio.StreamWriter, piece: bytes, pause: float) -> None:
    while not writer.is_closing():
        writer.write(piece)
        await writer.drain()
        server.sent += len(piece)
        await asyncio.sleep(pause)


async def test_a_dripping_server_meets_the_total_deadline(server: Server, tmp_path: Path) -> None:
    async def drip(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n%PDF-")
        await endless(server, writer, b"x", 0.02)

    server.routes["/"] = drip
    local = fetcher(f"127.0.0.1:{server.port}", settings={"egress.timeout_s": 0.5})
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await fetch(local, server.url(), tmp_path)
    assert time.monotonic() - started < 2
    assert server.sent > 5  # it was never silent for long


async def test_headers_without_end_meet_it_too(server: Server, tmp_path: Path) -> None:
    async def drip(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await endless(server, writer, b"X-A: b\r\n", 0.02)

    server.routes["/"] = drip
    with pytest.raises(DeadlineExceeded):
        await fetch(fetcher(f"127.0.0.1:{server.port}"), server.url(), tmp_path, seconds=0.4)


async def test_a_bomb_is_stopped_at_the_limit(server: Server, local: Fetcher, tmp_path: Path) -> None:
    bomb = gzip.compress(b"%PDF-1.7\n" + bytes(80_000_000))
    assert len(bomb) < 100_000
    server.routes["/"] = answer(bomb, Content_Encoding="gzip")
    with pytest.raises(DocumentTooLarge):
        await fetch(local, server.url(), tmp_path)


async def test_wrong_content_is_refused_before_the_rest_is_read(server: Server, tmp_path: Path) -> None:
    async def flood(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await endless(server, writer, b"<html>" * 500, 0)

    server.routes["/"] = flood
    with pytest.raises(NotAPdf):
        await fetch(fetcher(f"127.0.0.1:{server.port}", settings={"api.max_upload_mb": 10_000}), server.url(), tmp_path)
    assert server.sent < 20_000_000  # what fits into the sockets' buffers


async def test_more_than_the_bound_are_turned_away(server: Server, tmp_path: Path) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def wait(head: bytes, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await gate.wait()
        writer.write(answer(PDF))

    server.routes["/"] = wait
    local = fetcher(f"127.0.0.1:{server.port}", settings={"egress.max_fetches": 1})
    first = asyncio.create_task(fetch(local, server.url(), tmp_path))
    await arrived.wait()
    with pytest.raises(Overloaded):
        await fetch(local, server.url(), tmp_path)
    gate.set()
    assert (await first)[1] == PDF
    assert (await fetch(local, server.url(), tmp_path))[1] == PDF


def test_what_is_compressed_a_thousandfold_is_decoded_in_bounded_pieces() -> None:
    inflate = _Inflate()
    pieces = list(inflate.feed(gzip.compress(bytes(10_000_000))))
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert (b"".join(pieces), inflate.ended) == (bytes(10_000_000), True)
