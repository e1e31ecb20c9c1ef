"""What went wrong with a database, told from the codes of each, and what that means for the caller.

The rest of the store asks only two questions: may the same unit of work succeed if it is tried again, and what is a
person to be told. What the database said goes to the log; it may name tables and values, so callers never see it.
"""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Mapping
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from actors.errors import Conflict, DeadlineExceeded, GatherumError, InvalidInput, Unavailable

ERRORS = (SQLAlchemyError, OSError)
"""What a unit of work may fail with that is the database's doing. Connecting fails with bare errors of the system."""


class Fault(Enum):
    """Kinds of failure."""

    LOST = auto()  # the connection, or the server, is gone
    CLASH = auto()  # rolled back in favour of another transaction
    BUSY = auto()  # a lock or a connection was not to be had in time
    SLOW = auto()  # over the statement timeout
    TAKEN = auto()  # a key is there already
    FULL = auto()
    DENIED = auto()
    NO_DATABASE = auto()
    DAMAGED = auto()
    TOO_LARGE = auto()
    BROKEN = auto()  # a defect: ours, or of the tables


TRANSIENT = frozenset({Fault.LOST, Fault.CLASH, Fault.BUSY})
"""Faults after which the same unit may well succeed."""

_POSTGRESQL: Mapping[str, Fault] = {
    "40001": Fault.CLASH,  # serialization_failure
    "40P01": Fault.CLASH,  # deadlock_detected
    # A row that another transaction has removed, or begun to point at, meanwhile: a second look sees it as it is.
    "23503": Fault.CLASH,  # foreign_key_violation
    "23505": Fault.TAKEN,
    "25006": Fault.LOST,  # read_only_sql_transaction: a standby that has not taken over yet
    "25P03": Fault.LOST,  # idle_in_transaction_session_timeout
    "28000": Fault.DENIED,
    "28P01": Fault.DENIED,  # invalid_password
    "3D000": Fault.NO_DATABASE,
    "42501": Fault.DENIED,  # insufficient_privilege
    "53100": Fault.FULL,
    "53300": Fault.BUSY,  # too_many_connections
    "55P03": Fault.BUSY,  # lock_not_available
    "57014": Fault.SLOW,  # query_canceled
    "57P01": Fault.LOST,  # admin_shutdown
    "57P02": Fault.LOST,  # crash_shutdown
    "57P03": Fault.LOST,  # cannot_connect_now
}

_MYSQL: Mapping[int, Fault] = {
    1020: Fault.CLASH,  # record has changed since last read
    1021: Fault.FULL,
    1040: Fault.BUSY,  # too many connections
    1044: Fault.DENIED,
    1045: Fault.DENIED,
    1049: Fault.NO_DATABASE,
    1053: Fault.LOST,  # server shutdown in progress
    1062: Fault.TAKEN,
    1114: Fault.FULL,
    1142: Fault.DENIED,
    1153: Fault.TOO_LARGE,  # more than max_allowed_packet
    1205: Fault.BUSY,  # lock wait timeout
    1213: Fault.CLASH,  # deadlock
    1227: Fault.DENIED,
    1290: Fault.LOST,  # --read-only: see 25006 above
    1317: Fault.SLOW,
    1451: Fault.CLASH,  # foreign keys: see 23503 above
    1452: Fault.CLASH,
    1698: Fault.DENIED,
    1836: Fault.LOST,  # read-only mode
    1927: Fault.LOST,
    1969: Fault.SLOW,  # MariaDB's max_statement_time
    2002: Fault.LOST,
    2003: Fault.LOST,
    2006: Fault.LOST,
    2013: Fault.LOST,
    2055: Fault.LOST,
    3024: Fault.SLOW,  # MySQL's max_execution_time
    4031: Fault.LOST,
}

_SQLITE: Mapping[int, Fault] = {
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_NOTADB: Fault.DAMAGED,
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_CANTOPEN: Fault.LOST,
    sqlite3.SQLITE_IOERR: Fault.LOST,
    sqlite3.SQLITE_READONLY: Fault.DENIED,
    sqlite3.SQLITE_PERM: Fault.DENIED,
}
_SQLITE_TAKEN = (sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE)


def fault_of(error: BaseException) -> Fault:
    """Which kind of failure an error of SQLAlchemy, of a driver or of the system is."""
    if isinstance(error, PoolTimeout):
        return Fault.BUSY
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Fault.LOST
    known = next((fault for cause in _causes(error) if (fault := _by_code(cause)) is not None), None)
    if known is not None:
        return known
    return Fault.TAKEN if isinstance(error, IntegrityError) else Fault.BROKEN


def translation(error: BaseException) -> GatherumError:
    """The error that a caller gets: what to do, and nothing of what is inside."""
    fault = fault_of(error)
    if fault is Fault.TAKEN:
        return Conflict("Another change came in between; look again and repeat the call.")
    if fault is Fault.SLOW:
        return DeadlineExceeded("The database did not finish in time.")
    if fault is Fault.FULL:
        return Unavailable(
            "The disk that the database lies on is full, so nothing can be changed, and nothing deleted either. "
            "Make room on it by other means, then try again."
        )
    if fault is Fault.DENIED:
        return GatherumError(
            "The database refuses: the user or password in database.url is wrong, or the user lacks a privilege."
        )
    if fault is Fault.NO_DATABASE:
        return GatherumError(
            "The server has no database of the name in database.url. Create it; docs/store.md says how."
        )
    if fault is Fault.DAMAGED:
        return GatherumError("The file of the database is damaged, or is no SQLite database.")
    if fault is Fault.TOO_LARGE:
        return InvalidInput("It is more than the database server takes at once: raise its max_allowed_packet.")
    if fault in TRANSIENT:
        return Unavailable(_unreachable(error))
    return GatherumError("The store could not do this; its log says why.")


def _unreachable(error: BaseException) -> str:
    causes = _causes(error)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "The database cannot be reached: no server answers at the host and port of database.url; try again."
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "The database cannot be reached: the name service does not know the host in database.url."
    return "The database cannot be reached or is busy; try again."


def said(error: BaseException) -> str:
    """What the database said, for the log: the innermost message, without SQLAlchemy's statement and parameters."""
    last = _causes(error)[-1]
    return str(last) or type(last).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what lies beneath it, outermost first."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = getattr(step, "orig", None) or step.__cause__
    return found


def _by_code(error: BaseException) -> Fault | None:
    if isinstance(error, OSError):
        return Fault.LOST
    if isinstance(error, SQLAlchemyError):
        return None
    number = error.args[0] if error.args else None
    if isinstance(number, int):
        # MySQL's own; it has an SQLSTATE too, which says less.
        return _MYSQL.get(number)
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        # Class 08: connection exceptions, of which there are many.
        return Fault.LOST if sqlstate.startswith("08") else _POSTGRESQL.get(sqlstate)
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        # The low byte is the primary code; what stands above says more exactly where it was met.
        if code in _SQLITE_TAKEN:
            return Fault.TAKEN
        # SHMSIZE: the file that processes share their locks in cannot grow; the first thing to fail on a full disk.
        return Fault.FULL if code == sqlite3.SQLITE_IOERR_SHMSIZE else _SQLITE.get(code & 0xFF)
    return None
