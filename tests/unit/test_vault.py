"""Passwords of sources: sealed for one place, or named in the environment."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.egress import Guard
from actors.errors import InvalidInput, Refused, Unavailable
from actors.messages import Source
from actors.sql.access import PORTS, Own, check_fields, reaching
from actors.sql.vault import Vault

CRM = Source("crm", "postgresql", host="db.example.org", database="crm", user="reader")
ENVIRON = {"CRM_PASSWORD": "hunter2", "AWS_SECRET_ACCESS_KEY": "x", "GATHERUM_X_PASSWORD": "x"}


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "data" / "key", variables=["*_PASSWORD"], environ=ENVIRON)


def test_what_is_sealed_can_be_opened_by_another_process(vault: Vault, tmp_path: Path) -> None:
    sealed = replace(CRM, secret=vault.seal(CRM, "p\u00e4ss"))
    assert "p\u00e4ss" not in sealed.secret
    assert Vault(tmp_path / "data" / "key", variables=()).open(sealed) == "p\u00e4ss"
    assert vault.seal(CRM, "p\u00e4ss") == sealed.secret
    assert vault.seal(CRM, "other") != sealed.secret


@pytest.mark.parametrize(
    "change", [{"host": "evil.example.org"}, {"port": 1}, {"user": "x"}, {"name": "x"}, {"kind": "mysql"}]
)
def test_a_password_is_for_one_place(vault: Vault, change: dict[str, Any]) -> None:
    sealed = replace(CRM, secret=vault.seal(CRM, "hunter2"))
    with pytest.raises(Unavailable, match="another key"):
        vault.open(replace(sealed, **change))


def test_a_key_that_is_gone_or_damaged_is_told(vault: Vault, tmp_path: Path) -> None:
    sealed = replace(CRM, secret=vault.seal(CRM, "hunter2"))
    with pytest.raises(Unavailable, match="cannot be read"):
        Vault(tmp_path / "none", variables=()).open(sealed)
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(Unavailable, match="damaged"):
        Vault(tmp_path / "short", variables=()).open(sealed)


def test_a_variable_that_may_be_named_is_read(vault: Vault) -> None:
    assert vault.open(replace(CRM, password_env="CRM_PASSWORD")) == "hunter2"  # noqa: S106 - a name
    assert vault.open(CRM) == ""


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "GATHERUM_X_PASSWORD", "HOME", "NO_PASSWORD"])
def test_no_other_variable_is_read(vault: Vault, name: str) -> None:
    with pytest.raises(Refused, match=name):
        vault.open(replace(CRM, password_env=name))


def test_by_default_only_variables_of_sources_may_be_named(tmp_path: Path) -> None:
    environ = {"POSTGRES_PASSWORD": "x", "SOURCE_CRM": "hunter2"}
    vault = Vault(tmp_path / "key", variables=DEFAULTS.sources.password_variables, environ=environ)
    assert vault.open(replace(CRM, password_env="SOURCE_CRM")) == "hunter2"  # noqa: S106 - a name
    with pytest.raises(Refused, match="POSTGRES_PASSWORD"):
        vault.open(replace(CRM, password_env="POSTGRES_PASSWORD"))  # noqa: S106 - a name


@pytest.mark.parametrize(
    ("tls", "allow", "goes"),
    [
        ("prefer", (), False),
        ("require", (), True),
        ("verify", (), True),
        ("prefer", ("db.example.org",), True),
        ("prefer", ("93.184.0.0/16",), True),
        ("prefer", ("other.example.org", "10.0.0.0/8"), False),
    ],
)
async def test_a_password_of_the_operators_goes_where_nobody_reads_it(
    vault: Vault, tls: Any, allow: tuple[str, ...], goes: bool
) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    reach = reaching(Guard(allow, resolve=resolve, ports=PORTS.values()), vault, Own())
    named = replace(CRM, tls=tls, password_env="CRM_PASSWORD")  # noqa: S106 - a name
    if goes:
        assert (await reach(named, Deadline.after(5))).password == "hunter2"  # noqa: S105 - of no account
    else:
        with pytest.raises(Refused, match="over TLS"):
            await reach(named, Deadline.after(5))
    # A password that came with the source is its own.
    sealed = replace(CRM, tls=tls)
    sealed = replace(sealed, secret=await asyncio.to_thread(vault.seal, sealed, "own"))
    assert (await reach(sealed, Deadline.after(5))).password == "own"  # noqa: S105 - of no account


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Source("s", "sqlite"), "path"),
        (Source("s", "sqlite", "a.db", host="x"), "host"),
        (replace(CRM, path="a.db"), "path"),
        (replace(CRM, host=""), "host"),
        (replace(CRM, user=""), "user"),
        (replace(CRM, host="/var/run/postgresql"), "Sockets"),
        (replace(CRM, host="@abstract"), "Sockets"),
        (replace(CRM, database="crm service=x"), "connection string"),
        (replace(CRM, database="postgresql://x"), "connection string"),
        (replace(CRM, secret="x", password_env="Y"), "not both"),  # noqa: S106 - as above
    ],
)
def test_fields_that_do_not_go_together_are_told(source: Source, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_fields(source)


@pytest.mark.parametrize(
    ("url", "is_own"),
    [
        ("postgresql://u:p@db.example.org/crm", True),
        ("postgresql://u:p@db.example.org:5432/crm", True),
        ("postgresql://u:p@93.184.216.34/crm", True),
        ("postgresql://u:p@db.example.org:5433/crm", False),
        ("postgresql://u:p@db.example.org/other", False),
        ("postgresql://u:p@other.invalid/crm", False),
        ("postgresql:///crm", False),
        ("mysql://u:p@db.example.org:5432/crm", False),
    ],
)
async def test_the_store_is_known_by_where_it_is_before_anything_is_connected_to(
    vault: Vault, url: str, is_own: bool
) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    reach = reaching(Guard((), resolve=resolve, ports=PORTS.values()), vault, Own.of(make_url(url), None))
    if is_own:
        with pytest.raises(Refused, match="own store"):
            await reach(CRM, Deadline.after(5))
    else:
        assert (await reach(CRM, Deadline.after(5))).host == CRM.host


def test_a_store_in_mariadb_is_one_in_mysql() -> None:
    own = Own.of(make_url("mariadb://u:p@127.0.0.1/crm"), None)
    with pytest.raises(Refused, match="own store"):
        own.refuse(Source("s", "mysql", host="localhost", database="crm", user="u"), ["127.0.0.1"])
