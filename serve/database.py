"""What `gatherum db` does: the schema, backups and moves of a store, by hand and with the system down where it must be.

The work is in `actors/store/`; here is decided which store is meant, and whether somebody is using it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from actors.errors import Conflict, InvalidInput, Unavailable
from actors.node import Running
from actors.store import backup, dialect, migrations, transfer
from actors.store.blobs import open_blobs
from actors.store.transfer import Account, Tell
from config.settings import Settings


def current(settings: Settings) -> dict[str, Any]:
    """The revision of the store and the newest one: `{database, revision, newest}`; the revision of none is null."""
    found = migrations.current(_own(settings), settings.database)
    return {"database": _shown(_own(settings)), "revision": found.found, "newest": found.head}


def check(settings: Settings) -> None:
    """Look whether the database can be used, before anything is started that would not say as clearly why not.

    Raises:
        Unavailable: it cannot be reached.
        GatherumError: the server refuses, or the database is of a newer version.
    """
    _look_at(_own(settings), settings, "database.url")


def upgrade(settings: Settings) -> dict[str, Any]:
    """Bring the store up to date: `{database, before, revision}`.

    Raises:
        Conflict: the system is up; it would be working on tables that change.
    """
    url = _own(settings)
    _must_be_down(settings, "upgrade the database")
    if (path := dialect.file_of(url)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    before = migrations.current(url, settings.database).found
    return {"database": _shown(url), "before": before, "revision": migrations.upgrade(url, settings.database)}


async def save(settings: Settings, path: Path, *, files: bool, tell: Tell) -> dict[str, Any]:
    """Write a backup. The system may be up: it is one state of the store all the same."""
    blobs = open_blobs(settings.blobs, settings.data_dir) if files else None
    made = await backup.save(_own(settings), settings.database, blobs, path, tell=tell)
    return {"backup": str(path), **_said(made.account), **_files(made)}


async def restore(settings: Settings, path: Path, *, files: bool, force: bool, tell: Tell) -> dict[str, Any]:
    """Make the store from a backup.

    Raises:
        Conflict: the system is up, or the store is not empty.
    """
    _must_be_down(settings, "restore")
    url = _own(settings)
    if (place := dialect.file_of(url)) is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    blobs = open_blobs(settings.blobs, settings.data_dir) if files else None
    made = await backup.restore(path, url, settings.database, blobs, force=force, tell=tell)
    return {"backup": str(path), "made_at": made.made_at, **_said(made.account), **_files(made)}


async def copy(settings: Settings, source: str, target: str, *, force: bool, tell: Tell) -> dict[str, Any]:
    """Copy a store from one database to another.

    Raises:
        Conflict: the system is up and uses one of them, or the target is not empty.
    """
    from_url, to_url = _parsed(source, "FROM"), _parsed(target, "TO")
    if _own(settings) in (from_url, to_url):
        _must_be_down(settings, "copy")
    for url, name in ((from_url, "FROM"), (to_url, "TO")):
        await asyncio.to_thread(_look_at, url, settings, name)
    if (place := dialect.file_of(to_url)) is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
    account = await transfer.copy(from_url, to_url, settings.database, force=force, tell=tell)
    return {"from": _shown(from_url), "to": _shown(to_url), **_said(account)}


def _own(settings: Settings) -> URL:
    return dialect.parse_url(settings.database_url)


def _parsed(given: str, name: str) -> URL:
    try:
        return dialect.parse_url(given)
    except InvalidInput as error:
        raise InvalidInput(error.detail.replace("database.url", name)) from None


def _look_at(url: URL, settings: Settings, name: str) -> None:
    try:
        migrations.current(url, settings.database)
    except Unavailable as error:
        raise Unavailable(f"{error.detail} It is {_shown(url)}: does the server run, and is {name} right?") from None


def _must_be_down(settings: Settings, what: str) -> None:
    running = Running.load(settings.data_dir)
    if running is not None and running.alive:
        raise Conflict(f"Gatherum is running. Stop it with `gatherum down`, then {what}.")


def _shown(url: URL) -> str:
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def _said(account: Account) -> dict[str, Any]:
    tables = {name: {"rows": tally.rows, "sha256": tally.sha256} for name, tally in account.tables.items()}
    return {"revision": account.revision, "rows": account.rows, "tables": tables}


def _files(made: backup.Made) -> dict[str, Any]:
    return {"files": made.files, "left_out": list(made.left_out)}
