"""URLs of databases as people write them, and what the errors of each database mean."""

from __future__ import annotations

import socket
import sqlite3
import ssl
from pathlib import Path
from typing import Any

import pytest
from asyncpg import exceptions as asyncpg_errors
from pymysql import err as pymysql_errors
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from stores import DEFAULTS

from actors.errors import Conflict, DeadlineExceeded, GatherumError, InvalidInput, Unavailable
from actors.store import dialect, faults
from actors.store.faults import Fault


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("postgres://u:p@host/gatherum", "postgresql+asyncpg"),
        ("postgresql://u:p@host:5433/gatherum", "postgresql+asyncpg"),
        ("postgresql+psycopg2://host/gatherum", "postgresql+asyncpg"),
        ("postgresql:///gatherum?host=/var/run/postgresql", "postgresql+asyncpg"),
        ("postgresql://host/gatherum?sslmode=verify-full&sslrootcert=/ca.pem", "postgresql+asyncpg"),
        ("mysql://u:p@host/gatherum", "mysql+aiomysql"),
        ("mariadb://u:p@host/gatherum", "mysql+aiomysql"),
        ("mysql+pymysql://host/gatherum?sslmode=require", "mysql+aiomysql"),
        ("sqlite:///x.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///x.db", "sqlite+aiosqlite"),
    ],
)
def test_urls_as_people_write_them(given: str, driver: str) -> None:
    assert dialect.parse_url(given).drivername == driver


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no url",
        "nosuch://x/y",
        "oracle://x/y",
        "postgresql://host",
        "mysql://host/",
        "postgresql://u:p@ss/word@host:port/gatherum",
        "postgresql://host/gatherum?sslmode=perhaps",
        "postgresql://host/gatherum?options=-c",
        "mysql://host/gatherum?charset=latin1",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x",
    ],
)
def test_urls_that_cannot_be_the_store(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"database\.url") as raised:
        dialect.parse_url(url)
    assert "ss/word" not in raised.value.detail


def test_a_file_may_be_named_relatively_and_only_it_is_a_file() -> None:
    assert dialect.file_of(dialect.parse_url("sqlite:///x.db")) == Path.cwd() / "x.db"
    assert dialect.parse_url("sqlite:///x.db") == dialect.parse_url("sqlite+aiosqlite:///x.db")
    assert dialect.file_of(dialect.parse_url("postgresql://host/gatherum")) is None


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_what_tls_is_asked_for_is_what_is_used(scheme: str) -> None:
    def tls(query: str) -> Any:
        url = dialect.parse_url(f"{scheme}://host/gatherum{query}")
        options = dialect._BY_NAME[url.get_backend_name()].options(url, DEFAULTS.database, write=True)
        return options["connect_args"].get("ssl")

    assert tls("") is None
    assert not tls("?sslmode=disable")
    assert (tls("?sslmode=require").verify_mode, tls("?sslmode=require").check_hostname) == (ssl.CERT_NONE, False)
    assert tls("?sslmode=verify-ca").verify_mode == ssl.CERT_REQUIRED
    assert tls("?sslmode=verify-full").check_hostname
    with pytest.raises(InvalidInput, match="sslrootcert"):
        tls("?sslmode=verify-ca&sslrootcert=/no/such/file.pem")


def test_one_writes_to_a_file_and_many_to_a_server() -> None:
    assert dialect.writers(dialect.parse_url("sqlite:///x.db"), DEFAULTS.database) == 1
    assert dialect.writers(dialect.parse_url("mysql://host/x"), DEFAULTS.database) == DEFAULTS.database.writers


def of_sqlite(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError("it said so")
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


def of_asyncpg(kind: type[Exception]) -> Exception:
    """As SQLAlchemy hands it on: translated, with the driver's own below."""
    error = Exception("translated")
    error.__cause__ = kind("it said so")
    return error


@pytest.mark.parametrize(
    ("error", "fault", "becomes"),
    [
        (of_sqlite("SQLITE_BUSY"), Fault.BUSY, Unavailable),
        (of_sqlite("SQLITE_BUSY_SNAPSHOT"), Fault.BUSY, Unavailable),
        (of_sqlite("SQLITE_FULL"), Fault.FULL, Unavailable),
        (of_sqlite("SQLITE_IOERR_SHMSIZE"), Fault.FULL, Unavailable),
        (of_sqlite("SQLITE_IOERR_READ"), Fault.LOST, Unavailable),
        (of_sqlite("SQLITE_NOTADB"), Fault.DAMAGED, GatherumError),
        (of_sqlite("SQLITE_CONSTRAINT_UNIQUE"), Fault.TAKEN, Conflict),
        (of_sqlite("SQLITE_ERROR"), Fault.BROKEN, GatherumError),
        (of_asyncpg(asyncpg_errors.SerializationError), Fault.CLASH, Unavailable),
        (of_asyncpg(asyncpg_errors.DeadlockDetectedError), Fault.CLASH, Unavailable),
        (of_asyncpg(asyncpg_errors.ForeignKeyViolationError), Fault.CLASH, Unavailable),
        (of_asyncpg(asyncpg_errors.UniqueViolationError), Fault.TAKEN, Conflict),
        (of_asyncpg(asyncpg_errors.ConnectionDoesNotExistError), Fault.LOST, Unavailable),
        (of_asyncpg(asyncpg_errors.CannotConnectNowError), Fault.LOST, Unavailable),
        (of_asyncpg(asyncpg_errors.TooManyConnectionsError), Fault.BUSY, Unavailable),
        (of_asyncpg(asyncpg_errors.LockNotAvailableError), Fault.BUSY, Unavailable),
        (of_asyncpg(asyncpg_errors.QueryCanceledError), Fault.SLOW, DeadlineExceeded),
        (of_asyncpg(asyncpg_errors.InvalidPasswordError), Fault.DENIED, GatherumError),
        (of_asyncpg(asyncpg_errors.InvalidCatalogNameError), Fault.NO_DATABASE, GatherumError),
        (of_asyncpg(asyncpg_errors.DiskFullError), Fault.FULL, Unavailable),
        (of_asyncpg(asyncpg_errors.UndefinedTableError), Fault.BROKEN, GatherumError),
        (pymysql_errors.OperationalError(1213, "x"), Fault.CLASH, Unavailable),
        (pymysql_errors.OperationalError(1205, "x"), Fault.BUSY, Unavailable),
        (pymysql_errors.OperationalError(2013, "x"), Fault.LOST, Unavailable),
        (pymysql_errors.IntegrityError(1062, "x"), Fault.TAKEN, Conflict),
        (pymysql_errors.OperationalError(1049, "x", sqlstate="42000"), Fault.NO_DATABASE, GatherumError),
        (pymysql_errors.OperationalError(1045, "x"), Fault.DENIED, GatherumError),
        (pymysql_errors.OperationalError(1153, "x"), Fault.TOO_LARGE, InvalidInput),
        (pymysql_errors.ProgrammingError(1146, "x"), Fault.BROKEN, GatherumError),
    ],
)
def test_what_databases_say_is_understood(error: Exception, fault: Fault, becomes: type[GatherumError]) -> None:
    wrapped = OperationalError("SELECT secret FROM t", {"a": "secret"}, error)
    assert faults.fault_of(wrapped) is fault
    told = faults.translation(wrapped)
    assert type(told) is becomes
    assert "secret" not in told.detail
    assert "it said so" not in told.detail
    assert "secret" not in faults.said(wrapped)


def test_what_is_no_statement_s_error_is_understood_too() -> None:
    assert faults.fault_of(ConnectionRefusedError(111, "no")) is Fault.LOST
    assert faults.fault_of(TimeoutError()) is Fault.LOST
    assert faults.fault_of(PoolTimeout()) is Fault.BUSY
    assert faults.fault_of(DBAPIError("x", {}, Exception("x"), connection_invalidated=True)) is Fault.LOST
    assert faults.fault_of(IntegrityError("x", {}, Exception("x"))) is Fault.TAKEN
    assert faults.said(TimeoutError()) == "TimeoutError"


@pytest.mark.parametrize(
    ("beneath", "said"),
    [
        (ConnectionRefusedError(111, "refused"), "cannot be reached: no server answers"),
        (socket.gaierror(-2, "unknown"), "cannot be reached: the name service"),
        (TimeoutError(), "cannot be reached or is busy"),
    ],
)
def test_a_server_that_is_not_reached_is_told_from_one_that_is_not_there(beneath: OSError, said: str) -> None:
    driver = Exception(2003, "Can't connect to MySQL server on 'secret.example'")
    driver.__cause__ = beneath
    for error in (beneath, OperationalError("SELECT 1", {}, driver)):
        told = faults.translation(error)
        assert isinstance(told, Unavailable)
        assert said in told.detail
        assert "secret" not in told.detail
