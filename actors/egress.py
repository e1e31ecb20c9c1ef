"""The guard before every address that a user may choose and this system then connects to (SSRF).

A URL is an order to connect from inside the operator's network. What stands in it decides nothing here: names lie,
resolvers take `0x7f.1` for loopback, and an answer may change between a check and a connection. So a name is resolved
once, every address it has is vetted, and the connection goes to a vetted address, not to the name; TLS and the Host
header keep the name. `ipaddress.is_global` alone would let NAT64, 6to4, site-local and multicast through.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Self, cast

import httpcore
import httpx

from actors.errors import FetchFailed, InvalidInput, Overloaded, Refused
from config import logs
from config.settings import HOST_AND_PORT

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A name and a port to every address it has, as text."""

PORTS: Final = {"http": 80, "https": 443}
"""Schemes, each with the port it has by default. Both ports are open to both schemes."""

MAX_URL_CHARS: Final = 2000
MAX_TRIES: Final = 4
"""Addresses of one host that are tried; all of them are vetted."""

FIRST_TRY_S: Final = 5.0
"""For an address that is not the last to be tried, s."""

LOOKUPS: Final = 16
"""Look-ups of names under way at once."""

# Threads of their own: a name server that does not answer holds its thread however soon the caller gives up, and the
# loop's own threads write uploads and encode answers.
_RESOLVING: Final = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="resolve")
_LOOKUPS: Final = threading.BoundedSemaphore(LOOKUPS)

BLOCKED: Final[tuple[tuple[Network, str], ...]] = tuple(
    (ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "host service of a cloud"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "multicast tunnels"),
        ("192.88.99.0/24", "6to4 relays"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated"),
        ("::/96", "IPv4-compatible"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "6bone"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "unique local"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)
"""Networks that no connection goes to, each with its reason; the first that holds an address names it."""

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All that the registries have given out so far; what lies outside leads nowhere, or somewhere inside."""

_ISATAP_MASK, _ISATAP = 0xFDFFFFFF, 0x00005EFE  # RFC 5214: an IPv4 address in the last 32 bits
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?")
_NUMERIC = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")  # WHATWG URL: such a host is an IPv4 address or an error
_NOT_PUBLIC = "cannot be found, or is not on the public internet"


def objection(address: Address) -> str | None:
    """Why no connection may go to an address, None if it may. For the log: a client is not told."""
    for network, why in BLOCKED:
        if address.version == network.version and address in network:
            return why
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "scoped"
        if address not in GLOBAL_UNICAST:
            return "not assigned"
        if (int(address) >> 32) & _ISATAP_MASK == _ISATAP:
            return "ISATAP"
    # What a newer registry knows and the table above does not.
    return None if address.is_global else "special purpose"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What an operator has opened besides the public internet.

    Attributes:
        hosts: names (or addresses) as they stand in a URL, each with its port, or None for the usual ones. Their
            addresses are not vetted.
        networks: addresses that are open to every name that leads there, on the usual ports.
    """

    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Self:
        """Read `host`, `host:port`, an address or a network in CIDR notation; IPv6 with a port in brackets.

        Raises:
            ValueError: an entry is none of these; the message names it.
        """
        hosts: set[tuple[str, int | None]] = set()
        networks: list[Network] = []
        for entry in entries:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                named = HOST_AND_PORT.fullmatch(entry)
                if named is None:
                    raise ValueError(f"{entry!r} is neither a host, nor host:port, nor a network") from None
                port = int(named["port"]) if named["port"] else None
                hosts.add((_canonical(named["v6"] or named["name"]), port))
        return cls(frozenset(hosts), tuple(networks))

    def host(self, host: str, port: int, usual: Collection[int]) -> bool:
        """Whether connections to this host at this port are open whatever its addresses."""
        return (host, port) in self.hosts or (port in usual and (host, None) in self.hosts)

    def address(self, address: Address) -> bool:
        """Whether an address is open that would be refused otherwise."""
        return any(address.version == network.version and address in network for network in self.networks)


class Guard:
    """Decides which URLs may be fetched and which addresses connected to.

    Args:
        allow: what the operator has opened, see `Allowed.of`.
        resolve: the resolver; the system's by default.
        ports: those that are open at any public host.
    """

    def __init__(
        self, allow: Iterable[str] = (), *, resolve: Resolve | None = None, ports: Collection[int] = PORTS.values()
    ) -> None:
        self._allowed = Allowed.of(allow)
        self._ports = tuple(sorted(ports))
        self._resolve = resolve or system_resolver

    def vet_url(self, text: str, *, base: httpx.URL | None = None) -> httpx.URL:
        """The URL, if it may be fetched as far as can be told without looking up its host.

        Args:
            text: absolute, or relative to `base`.
            base: where a redirect comes from.

        Raises:
            InvalidInput: it is no URL.
            Refused: policy forbids it.
        """
        # Parsers disagree about these, and only one of them asks here.
        if len(text) > MAX_URL_CHARS or "\\" in text or any(character.isspace() for character in text):
            raise InvalidInput(f"The URL has blanks or backslashes, or more than {MAX_URL_CHARS:,} characters.")
        try:
            url = httpx.URL(text) if base is None else base.join(text)
            _ = url.host  # decoded only when it is asked for, and not every name that begins like a coded one can be
        except (httpx.InvalidURL, ValueError):
            raise InvalidInput("The URL is not valid.") from None
        if url.scheme not in PORTS:
            raise Refused("Only http and https URLs are fetched.")
        if url.userinfo:
            raise Refused("A URL with a user name or password is not fetched.")
        host, port = _canonical(url.raw_host.decode("ascii")), PORTS[url.scheme] if url.port is None else url.port
        if not host:
            raise InvalidInput("The URL names no host.")
        if not self._is_open(host, port) and port not in self._ports:
            raise self._closed()
        self._vet_host(host, port)
        return url

    async def addresses(self, host: str, port: int) -> tuple[str, ...]:
        """Where to connect to for a host: addresses that have been looked up once, and all vetted.

        Args:
            host: a name, or an address in plain notation without brackets.
            port: where the connection is to go.

        Raises:
            Refused: policy forbids the host or the port as they stand.
            FetchFailed: the name leads to no public address, or cannot be looked up at the moment.
        """
        host = _canonical(host)
        opened = self._is_open(host, port)
        if not opened and port not in self._ports:
            raise self._closed()
        self._vet_host(host, port)
        if literal := _literal(host):
            return (str(literal),)
        try:
            found = [ip_address(text) for text in await self._resolve(host, port)]
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise FetchFailed(f"The host {host} could not be looked up at the moment. Try again.") from None
            found = []
        except (OSError, ValueError):
            found = []
        # The same error for a name that does not exist as for one of a private address, or names inside could be told
        # from it. And no refusal: that would be untrue of every name that is misspelled.
        if not found or not (opened or all(self._passes(address, host) for address in found)):
            raise FetchFailed(f"The host {host} {_NOT_PUBLIC}.")
        return tuple(dict.fromkeys(map(str, found)))

    def opened(self, host: str, port: int, addresses: Iterable[str]) -> bool:
        """Whether the operator has named this host, or the networks of all these addresses of it."""
        return self._is_open(_canonical(host), port) or all(
            self._allowed.address(ip_address(address)) for address in addresses
        )

    def _is_open(self, host: str, port: int) -> bool:
        return self._allowed.host(host, port, self._ports)

    def _closed(self) -> Refused:
        return Refused(f"Only the ports {' and '.join(map(str, self._ports))} are open.")

    def _vet_host(self, host: str, port: int) -> None:
        if self._is_open(host, port):
            return
        if literal := _literal(host):
            if not self._passes(literal, host):
                raise Refused(f"The host {host} {_NOT_PUBLIC}.")
        elif _NUMERIC.fullmatch(host):
            # Even a public one: 134744072 is 8.8.8.8 to one resolver and a name to another.
            raise Refused(f"The host {host} is an address in a notation that is not accepted.")
        elif len(host) > 253 or not _NAME.fullmatch(host):
            raise InvalidInput("The host is not a valid name.")

    def _passes(self, address: Address, host: str) -> bool:
        """Whether an address may be connected to; the log has the reason if it may not."""
        why = objection(address)
        if why is None or self._allowed.address(address):
            return True
        logs.get().warning("egress_refused", host=host, address=str(address), why=why)
        return False


def _canonical(host: str) -> str:
    """One spelling for each host: lower case, and an address as it is written shortest."""
    literal = _literal(host)
    return str(literal) if literal else host.lower()


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


async def system_resolver(host: str, port: int) -> list[str]:
    """Every address the operating system knows for a host.

    Raises:
        Overloaded: every thread for look-ups waits for a name server already.
    """
    if not _LOOKUPS.acquire(blocking=False):
        raise Overloaded("Too many look-ups of host names are under way. Try again later.")
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    work = _RESOLVING.submit(look_up)
    work.add_done_callback(lambda _: _LOOKUPS.release())
    return [str(sockaddr[0]) for _, _, _, _, sockaddr in await asyncio.wrap_future(work)]


class VettedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, only to addresses that the guard has vetted.

    Here, and not before the request, because nothing comes between this and the connection: no second look-up.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first vetted address that answers."""
        failure: Exception = httpcore.ConnectError("no address")
        addresses = (await self._guard.addresses(host, port))[:MAX_TRIES]
        for number, address in enumerate(addresses, 1):
            # One that is silent, as IPv6 is behind some routers, must leave time for the next.
            patience = timeout if number == len(addresses) else min(timeout or FIRST_TRY_S, FIRST_TRY_S)
            try:
                return await self._network.connect_tcp(address, port, patience, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: a socket file is inside by definition."""
        raise Refused("Only http and https URLs are fetched.")

    async def sleep(self, seconds: float) -> None:
        """Pause."""
        await self._network.sleep(seconds)


class _Body(httpx.AsyncByteStream):
    """An answer's body, as httpx wants it."""

    def __init__(self, stream: AsyncIterable[bytes]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


@functools.cache
def tls_context(ca_file: str) -> ssl.SSLContext:
    """Trusts what httpx does, what the machine does, and whom the operator names: an intranet has its own authority."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class GuardedTransport(httpx.AsyncBaseTransport):
    """An httpx transport whose connections all pass the guard.

    It builds httpcore's pool itself: httpx offers no way to give one a network backend, and to put it into a private
    attribute would fail open when that is renamed. Errors of the connection are httpcore's own.
    """

    def __init__(self, guard: Guard, tls: ssl.SSLContext, *, connections: int = 1) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls, max_connections=connections, network_backend=VettedBackend(guard)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=cast("httpx.AsyncByteStream", request.stream),
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(cast("AsyncIterable[bytes]", answer.stream)),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()
