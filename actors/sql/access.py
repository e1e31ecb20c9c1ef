"""How a database server is reached: by which address, vetted as every one that a user may choose, and as whom."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL

from actors.deadline import Deadline
from actors.egress import Guard
from actors.errors import InvalidInput, Refused
from actors.messages import Source
from actors.sql.vault import Vault

PORTS: Final = {"postgresql": 5432, "mysql": 3306}
"""The port that each kind of server has by default. All of them are open at public hosts, others only if allowed."""

CONNECT_S: Final = 5.0
"""Longest wait for a connection, s."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where to connect to, and as whom.

    Attributes:
        addresses: of the host, all vetted; tried in order.
        host: as it was given, for certificates.
        tls: see `Source`.
    """

    addresses: tuple[str, ...]
    host: str
    port: int
    database: str
    user: str
    tls: str
    password: str = field(repr=False)

    def context(self) -> ssl.SSLContext:
        """What TLS goes by: certificates are checked only where that was asked for, and then for the host's name."""
        context = _ForHost(ssl.PROTOCOL_TLS_CLIENT)
        context.host = self.host
        if self.tls == "verify":
            context.load_default_certs()
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _ForHost(ssl.SSLContext):
    """Checks certificates for a host's name, although the connection goes to its address."""

    host: str

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        kwargs["server_hostname"] = self.host
        return super().wrap_bio(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class Own:
    """Where Gatherum's own store is, which is never a source.

    Attributes:
        file: of a store in SQLite.
        kind: of a store on a server, as of sources.
        host: empty for a socket in the file system.
    """

    file: Path | None = None
    kind: str = ""
    host: str = ""
    port: int = 0
    database: str = ""

    @classmethod
    def of(cls, url: URL, file: Path | None) -> Own:
        """The store that a URL names; `file` is that of an embedded one."""
        kind = {"mariadb": "mysql"}.get(url.get_backend_name(), url.get_backend_name())
        port = url.port or PORTS.get(kind, 0)
        return cls(file, kind, url.host or "", port, url.database or "") if file is None else cls(file)

    def refuse(self, source: Source, addresses: Collection[str]) -> None:
        """Make sure that a source is not the store; may ask the name server.

        Args:
            source: on a server.
            addresses: of its host.

        Raises:
            Refused: it is.
        """
        if (self.kind, self.port, self.database) != (source.kind, port_of(source), source.database) or not self.host:
            return
        there = {self.host}
        # A name that is not known now is compared as it stands.
        with contextlib.suppress(OSError):
            there |= {str(found[4][0]) for found in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        if there & {source.host, *addresses}:
            raise Refused("This database is Gatherum's own store, which cannot be a source.")


Reach = Callable[[Source, Deadline], Awaitable[Access]]
"""A source to how it is reached, or an error of ours why it is not."""


def reaching(guard: Guard, vault: Vault, own: Own) -> Reach:
    """What vets a source's host and fetches its password, anew for each connection: both may change."""

    async def reach(source: Source, deadline: Deadline) -> Access:
        addresses = await deadline.run(guard.addresses(source.host, port_of(source)), "Looking up the host")
        await deadline.run(asyncio.to_thread(own.refuse, source, addresses), "Looking up the store's host")
        # A password of the operator's, which whoever registers the source need not know: nobody on the way may read it.
        if source.password_env and source.tls == "prefer" and not guard.opened(source.host, port_of(source), addresses):
            raise Refused(
                "A password from the environment is sent over TLS only, or to a host that sources.allow_hosts names. "
                "Register the source with `tls` as `require` or `verify`."
            )
        password = await asyncio.to_thread(vault.open, source)
        return Access(
            addresses,
            host=source.host,
            port=port_of(source),
            database=source.database,
            user=source.user,
            tls=source.tls,
            password=password,
        )

    return reach


def port_of(source: Source) -> int:
    """The port of a server."""
    return source.port or PORTS[source.kind]


def check_fields(source: Source) -> None:
    """Make sure that a source has the fields of its kind, and no others.

    Raises:
        InvalidInput: it has not; the message names the field.
    """
    server = {"host": source.host, "database": source.database, "user": source.user}
    if source.kind == "sqlite":
        others = {**server, "port": source.port, "password_env": source.password_env, "password": source.secret}
        if not source.path:
            raise InvalidInput("An SQLite source needs `path`, a file below sources.sqlite_root.")
        if given := [name for name, value in others.items() if value]:
            raise InvalidInput(f"An SQLite source has no `{given[0]}`.")
        return
    if source.path:
        raise InvalidInput(f"A {source.kind} source has no `path`. Sockets in the file system are not connected to.")
    if missing := [name for name, value in server.items() if not value]:
        raise InvalidInput(f"A {source.kind} source needs `{missing[0]}`.")
    if "/" in source.host or source.host.startswith("@"):
        raise InvalidInput("`host` is a name or an address. Sockets in the file system are not connected to.")
    if "=" in source.database or "://" in source.database:
        raise InvalidInput("`database` is the name of a database, not a connection string.")
    if source.password_env and source.secret:
        raise InvalidInput("Give `password` or `password_env`, not both.")
