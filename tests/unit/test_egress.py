"""The guard: no address inside is connected to, whatever it is written like; those outside are."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import httpcore
import httpx
import pytest
from addresses import ALL, URLS
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.egress import BLOCKED, FIRST_TRY_S, LOOKUPS, PORTS, Guard, VettedBackend, objection, system_resolver
from actors.errors import FetchFailed, GatherumError, InvalidInput, Overloaded, Refused
from config.settings import EgressSettings, SettingsError, load

HERE = ("127.0.0.1", "::1")
OUTSIDE = "93.184.215.14"


async def as_libc(host: str, port: int) -> list[str]:
    """Every name leads here, and numbers are read as `inet_aton` does."""
    try:
        return [socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        return list(HERE)


def answers(*rounds: Sequence[str]) -> tuple[Guard, list[str]]:
    """A guard whose resolver gives these answers in turn, the last for ever, and what it was asked."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return rounds[min(len(asked), len(rounds)) - 1]

    return Guard(resolve=resolve), asked


async def connect_targets(guard: Guard, url: str) -> tuple[str, ...]:
    vetted = guard.vet_url(url)
    return await guard.addresses(vetted.raw_host.decode(), vetted.port or PORTS[vetted.scheme])


def test_the_list_is_long_and_has_no_repetitions() -> None:
    assert len(ALL) == len(set(ALL)) >= 150


@pytest.mark.parametrize("url", ALL)
async def test_no_bad_url_gets_an_address(url: str) -> None:
    with pytest.raises((Refused, FetchFailed, InvalidInput)) as caught:
        await connect_targets(Guard(resolve=as_libc), url)
    if "localhost" in url.lower():
        # What a name leads to is not for the client to know.
        assert not any(address in caught.value.detail for address in HERE)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://example.org/a.pdf", OUTSIDE),
        ("https://example.org", OUTSIDE),
        ("HTTP://EXAMPLE.ORG:80/", OUTSIDE),
        ("http://example.org:443/", OUTSIDE),
        ("http://b\u00fccher.example/", OUTSIDE),
        ("http://a_b.example.org./x?y=%2f#z", OUTSIDE),
        ("http://8.8.8.8/", "8.8.8.8"),
        ("http://[2a00:1450:4001:80b::200e]/", "2a00:1450:4001:80b::200e"),
        ("http://1.example/", OUTSIDE),
        ("http://0x7f.example/", OUTSIDE),
    ],
)
async def test_what_is_public_passes(url: str, address: str) -> None:
    guard, _ = answers([OUTSIDE])
    assert await connect_targets(guard, url) == (address,)


@pytest.mark.parametrize(("network", "why"), BLOCKED, ids=lambda value: str(value))
def test_a_blocked_network_is_blocked_to_its_edges(network: object, why: str) -> None:
    net = ip_network(str(network))
    for address in (net.network_address, net.broadcast_address):
        assert objection(address)
    assert why


blocked_v4 = st.sampled_from([net for net, _ in BLOCKED if net.version == 4]).flatmap(
    lambda net: st.integers(int(net.network_address), int(net.broadcast_address)).map(IPv4Address)
)


def notations(address: IPv4Address) -> st.SearchStrategy[str]:
    """Ways that `inet_aton` reads as this address."""
    number = int(address)
    a, b, c, d = address.packed

    def digits(value: int) -> st.SearchStrategy[str]:
        return st.sampled_from([f"{value}", f"0x{value:x}", f"0X{value:X}", f"0{value:o}", f"0x00{value:x}"])

    parts = st.sampled_from([(a, b, c, d), (a, b, number & 0xFFFF), (a, number & 0xFFFFFF), (number,)])
    return parts.flatmap(lambda values: st.tuples(*map(digits, values)).map(".".join))


def embeddings(address: IPv4Address) -> list[IPv6Address]:
    """IPv6 addresses that some stack, tunnel or gateway turns into this one."""
    v4 = int(address)
    return [
        IPv6Address(v4),
        IPv6Address(0xFFFF << 32 | v4),
        IPv6Address(0xFFFF << 48 | v4),
        IPv6Address(0x64FF9B << 96 | v4),
        IPv6Address(0x64FF9B0001 << 80 | v4),
        IPv6Address(0x2002 << 112 | v4 << 80),
        IPv6Address(0x20010000 << 96 | (v4 ^ 0xFFFFFFFF)),
        IPv6Address(0x2A001450 << 96 | 0x5EFE << 32 | v4),
    ]


@given(data=st.data(), address=blocked_v4)
async def test_a_blocked_address_is_refused_in_every_notation_and_embedding(
    data: st.DataObject, address: IPv4Address
) -> None:
    hosts = [data.draw(notations(address)), *(f"[{v6}]" for v6 in embeddings(address))]
    for host in hosts:
        # Some notations are names to us, and addresses to the resolver.
        with pytest.raises((Refused, FetchFailed)):
            await connect_targets(Guard(resolve=as_libc), f"http://{host}/")
    for found in (address, *embeddings(address)):
        guard, _ = answers([OUTSIDE, str(found)])
        with pytest.raises(FetchFailed):
            await guard.addresses("example.org", 443)


@given(st.integers(0, 2**128 - 1).map(IPv6Address))
def test_of_ipv6_only_global_unicast_passes(address: IPv6Address) -> None:
    if objection(address) is None:
        assert address in ip_network("2000::/3")
        assert (address.ipv4_mapped, address.sixtofour, address.teredo) == (None, None, None)


@given(st.ip_addresses())
def test_what_passes_is_global_and_what_is_not_does_not(address: IPv4Address | IPv6Address) -> None:
    if not address.is_global or address.is_multicast:
        assert objection(address)


@given(
    st.one_of(
        st.integers(1 << 24, (224 << 24) - 1).map(IPv4Address),
        st.integers(0x24 << 120, (0x25 << 120) - 1).map(IPv6Address),
    )
)
async def test_a_public_address_passes_as_a_name_and_as_a_literal(address: IPv4Address | IPv6Address) -> None:
    assume(address.is_global)
    assume(not any(address in net for net, _ in BLOCKED if net.version == address.version))
    assume((int(address) >> 32) & 0xFDFFFFFF != 0x5EFE)
    guard, _ = answers([str(address)])
    literal = f"[{address}]" if address.version == 6 else str(address)
    assert await connect_targets(guard, f"http://{literal}/") == (str(address),)
    assert await connect_targets(guard, "https://example.org/") == (str(address),)


@given(st.one_of(st.text(max_size=40), st.text("htps:/@[]%0x7f.1\\?#a", max_size=30).map("http://".__add__)))
def test_any_text_is_a_url_or_an_error_of_ours(text: str) -> None:
    try:
        url = Guard().vet_url(text)
    except GatherumError:
        return
    assert url.scheme in {"http", "https"}
    assert not url.userinfo


@pytest.mark.parametrize("url", ["http://xn--0.example/x.pdf", "https://xn--zn7c.com/", "//xn--0.example/x.pdf"])
def test_a_name_that_is_coded_wrongly_is_no_url(url: str) -> None:
    base = httpx.URL("http://example.org/") if url.startswith("//") else None
    with pytest.raises(InvalidInput, match="The URL is not valid"):
        Guard().vet_url(url, base=base)


async def test_one_bad_address_spoils_the_host() -> None:
    guard, _ = answers([OUTSIDE, "10.0.0.1"])
    with pytest.raises(FetchFailed) as caught:
        await guard.addresses("example.org", 80)
    assert "10.0.0.1" not in caught.value.detail


async def test_a_private_name_and_none_read_the_same() -> None:
    details = []
    for found in (["10.0.0.1"], []):
        guard, _ = answers(found)
        with pytest.raises(FetchFailed, match="cannot be found, or is not on the public internet") as caught:
            await guard.addresses("db.internal", 80)
        details.append(caught.value.detail)
    assert details[0] == details[1]


async def test_a_name_that_is_not_there_is_a_failure_and_no_refusal() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for allowed in ((), ("example.org",)):
        with pytest.raises(FetchFailed, match=r"The host example\.org cannot be found"):
            await Guard(allowed, resolve=resolve).addresses("example.org", 80)


async def test_a_resolver_in_trouble_is_not_a_refusal() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with pytest.raises(FetchFailed, match="Try again"):
        await Guard(resolve=resolve).addresses("example.org", 80)


@pytest.mark.parametrize(
    ("entry", "url", "found", "passes"),
    [
        ("intranet", "http://intranet/", "10.0.0.1", True),
        ("intranet", "http://INTRANET:443/", "10.0.0.1", True),
        ("intranet", "http://intranet:8080/", "10.0.0.1", False),
        ("intranet", "http://other/", "10.0.0.1", False),
        ("intranet:8080", "http://intranet:8080/", "10.0.0.1", True),
        ("intranet:8080", "http://intranet/", "10.0.0.1", False),
        ("intranet", "http://sub.intranet/", "10.0.0.1", False),
        ("10.0.0.0/8", "http://other/", "10.0.0.1", True),
        ("10.0.0.0/8", "http://10.2.3.4/", "", True),
        ("10.0.0.0/8", "http://10.2.3.4:8080/", "", False),
        ("10.0.0.0/8", "http://0x0a000001/", "10.0.0.1", False),
        ("10.0.0.0/8", "http://other/", "192.168.0.1", False),
        ("127.0.0.1:8080", "http://127.0.0.1:8080/", "", True),
        ("127.0.0.1:8080", "http://127.0.0.1/", "", False),
        ("[::1]:8080", "http://[::1]:8080/", "", True),
        ("[0:0::1]:8080", "http://[::1]:8080/", "", True),
        ("[::1]:8080", "http://[::0001]:8080/", "", True),
        ("::1", "http://[::1]/", "", True),
        ("fd00::/8", "http://[fd00::1]/", "", True),
        ("fd00::/8", "http://10.0.0.1/", "", False),
    ],
)
async def test_an_operator_opens_what_is_named_and_no_more(entry: str, url: str, found: str, passes: bool) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [found]

    guard = Guard([entry], resolve=resolve)
    if passes:
        assert await connect_targets(guard, url)
    else:
        with pytest.raises((Refused, FetchFailed)):
            await connect_targets(guard, url)


@given(
    st.from_regex(r"(\[::[0-9a-f]{1,4}\]|[a-zA-Z0-9_.-]{1,12}|[0-9.]{7,9}(/[0-9]{1,2})?)(:[0-9]{1,4})?", fullmatch=True)
)
def test_what_the_settings_take_the_guard_takes(entry: str) -> None:
    try:
        EgressSettings(enabled=True, allow_hosts=(entry,), ca_file="", timeout_s=1, max_fetches=1)
    except ValidationError:
        return
    Guard([entry])


@pytest.mark.parametrize("entry", ["", "http://intranet/", "10.0.0.1/8", "a b", "user@host", "host/path", "host:port"])
def test_an_entry_that_means_nothing_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Guard([entry])


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_file_of_authorities_that_is_none_is_named_at_the_start(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"authorities\.pem' is not a readable file of certificates"):
        load({"egress.ca_file": str(file)})


@pytest.mark.parametrize("location", ["http://127.0.0.1/", "//127.0.0.1/", "file:///etc/passwd", "//user@example.org/"])
def test_a_redirect_is_vetted_like_a_url(location: str) -> None:
    guard = Guard()
    base = guard.vet_url("http://example.org/a/b")
    assert str(guard.vet_url("../c", base=base)) == "http://example.org/c"
    with pytest.raises(Refused):
        guard.vet_url(location, base=base)


async def test_the_connection_goes_to_the_address_that_was_vetted(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[str] = []

    async def connect(self: object, host: str, *_: object) -> httpcore.AsyncNetworkStream:
        connected.append(host)
        raise httpcore.ConnectError("down")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    guard, asked = answers([OUTSIDE, "93.184.215.15"], ["127.0.0.1"])  # rebinding: the second answer leads inside
    with pytest.raises(httpcore.ConnectError):
        await VettedBackend(guard).connect_tcp("example.org", 80)
    assert (asked, connected) == (["example.org"], [OUTSIDE, "93.184.215.15"])
    with pytest.raises(FetchFailed):
        await VettedBackend(guard).connect_tcp("example.org", 80)
    assert len(connected) == 2


async def test_a_silent_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []

    async def connect(self: object, host: str, port: int, timeout: float | None, *_: object) -> None:  # noqa: ASYNC109
        given.append(timeout)
        raise httpcore.ConnectTimeout("silent")

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connect)
    guard, _ = answers([OUTSIDE, "93.184.215.15"])
    with pytest.raises(httpcore.ConnectTimeout):
        await VettedBackend(guard).connect_tcp("example.org", 80, 60.0)
    assert given == [FIRST_TRY_S, 60.0]


async def test_look_ups_without_an_answer_are_bounded_and_leave_other_threads_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: answered.wait(30) and [(0, 0, 0, "", ("192.0.2.1", 80))]
    )
    waiting = [asyncio.create_task(system_resolver("slow.example", 80)) for _ in range(LOOKUPS)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await system_resolver("slow.example", 80)
    assert await asyncio.to_thread(lambda: "free") == "free"
    answered.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.1"]] * LOOKUPS
    assert await system_resolver("slow.example", 80) == ["192.0.2.1"]


async def test_no_socket_files() -> None:
    with pytest.raises(Refused):
        await VettedBackend(Guard()).connect_unix_socket("docker.sock")


def test_each_reason_has_urls() -> None:
    assert all(URLS.values())
    assert ip_address(OUTSIDE).is_global


# --- servers of databases -------------------------------------------------------------------------------------------


async def test_database_servers_have_ports_of_their_own_and_the_same_addresses() -> None:
    async def public(host: str, port: int) -> Sequence[str]:
        return [OUTSIDE]

    guard = Guard(["intern.example:6543"], resolve=public, ports=(3306, 5432))
    assert await guard.addresses("db.example.org", 5432) == (OUTSIDE,)
    assert await guard.addresses("intern.example", 6543) == (OUTSIDE,)
    for port in (25, 80, 443, 6543):
        with pytest.raises(Refused, match="3306 and 5432"):
            await guard.addresses("db.example.org", port)
    for host in ("127.0.0.1", "::1", "10.0.0.1", "169.254.169.254", "0x7f.1", "2130706433"):
        with pytest.raises(Refused):
            await Guard(resolve=as_libc, ports=(3306, 5432)).addresses(host, 5432)
    with pytest.raises(FetchFailed):
        await Guard(resolve=as_libc, ports=(3306, 5432)).addresses("localhost", 5432)


def test_what_is_allowed_for_sources_is_checked_at_the_start() -> None:
    with pytest.raises(SettingsError, match="neither a host"):
        load({"sources.allow_hosts": ["postgresql://x"]}, environ={})
