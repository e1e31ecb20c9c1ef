"""A backup: one file with every row and every PDF of a store, that any kind of database can be restored from.

It is a ZIP archive: `manifest.json` says what it holds, `tables/*.ndjson` are the rows, `blobs/*` the files under their
content addresses. The rows are one state of the store, taken while it may be in use. The files need none: what lies at
a content address never changes. One that was deleted meanwhile is left out and counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, TableClause, column, table

from actors.errors import Conflict, InvalidInput, ReadingFailed
from actors.store import transfer
from actors.store.blobs import Blobs, Incoming, sync_folder
from actors.store.tables import metadata
from actors.store.transfer import Account, Filling, Snapshot, Tally, Tell
from config.settings import DatabaseSettings

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds.

    Attributes:
        account: of its rows.
        files: how many PDFs.
        left_out: files that documents refer to and that the backup does not have.
        made_at: ISO 8601, UTC.
    """

    account: Account
    files: int
    left_out: tuple[str, ...] = ()
    made_at: str = ""
    columns: dict[str, list[str]] = field(default_factory=dict)


async def save(
    url: URL, settings: DatabaseSettings, blobs: Blobs | None, path: Path, *, tell: Tell = lambda what, number: None
) -> Made:
    """Write a backup; it appears at `path` when it is whole and safe on the disk.

    Args:
        url: of the store.
        settings: the database's section.
        blobs: the files; None for a backup of the rows alone.
        path: of the archive.
        tell: called with what is being written, and how much of it.

    Raises:
        Conflict: there is something at the path.
        InvalidInput: there is no store in the database, or no folder for the path.
    """
    await asyncio.to_thread(_look_at_place, path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        made = await _write(url, settings, blobs, partial, tell)
        await asyncio.to_thread(_settle, partial, path)
    finally:
        await asyncio.to_thread(partial.unlink, missing_ok=True)
    return made


async def restore(
    path: Path,
    url: URL,
    settings: DatabaseSettings,
    blobs: Blobs | None,
    *,
    force: bool = False,
    tell: Tell = lambda what, number: None,
) -> Made:
    """Make a store from a backup. Files come first: no document is ever there without its bytes.

    Args:
        path: of the archive.
        url: of an empty database, or one of Gatherum.
        settings: the database's section.
        blobs: where the files go; None to leave them.
        force: empty a store that is not empty.
        tell: called with what is being read, and how much of it.

    Raises:
        InvalidInput: it is no backup, or a damaged one; the database is as it was.
        Conflict: the store is not empty, or the backup is of a newer version.
    """
    try:
        archive = await asyncio.to_thread(zipfile.ZipFile, path)
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.") from None
    except (OSError, zipfile.BadZipFile):
        raise InvalidInput(f"{path} is no backup of Gatherum, or cannot be read.") from None
    with archive:
        try:
            return await _read(archive, url, settings, blobs, force, tell)
        except (zipfile.BadZipFile, EOFError) as error:
            raise InvalidInput(f"The backup is damaged ({error}). The database was not changed.") from None


# --- writing ---------------------------------------------------------------------------------------------------------


async def _write(url: URL, settings: DatabaseSettings, blobs: Blobs | None, path: Path, tell: Tell) -> Made:
    # Compressed by little: words are compressed already, and text gives way to the fastest level almost as well.
    with await asyncio.to_thread(zipfile.ZipFile, path, "x", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        account = Account("")
        addresses: list[str] = []

        async def rows(snapshot: Snapshot) -> dict[str, list[str]]:
            for each in snapshot.tables:
                with archive.open(f"tables/{each.name}.ndjson", "w", force_zip64=True) as entry:
                    async for lines in snapshot.lines(each):
                        await asyncio.to_thread(entry.write, b"".join(line + b"\n" for line in lines))
                        tell(each.name, snapshot.tallies[each.name].rows)
                        if each.name == "documents":
                            at = [one.name for one in each.columns].index("sha256")
                            addresses.extend(json.loads(line)[at] for line in lines)
            nonlocal account
            account = snapshot.account
            return {each.name: [one.name for one in each.columns] for each in snapshot.tables}

        columns = await transfer.take(url, settings, rows)
        left_out = []
        wanted = sorted(set(addresses))
        for number, sha256 in enumerate(wanted, start=1):
            if blobs is None or not await _keep_file(archive, blobs, sha256):
                left_out.append(sha256)
            tell("files", number)
        made_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        made = Made(account, len(wanted) - len(left_out), tuple(left_out), made_at, columns)
        archive.writestr(MANIFEST, json.dumps(_manifest(made), indent=2))
    return made


async def _keep_file(archive: zipfile.ZipFile, blobs: Blobs, sha256: str) -> bool:
    """Put a file into the archive; False if it is not there any more."""
    try:
        async with blobs.local(sha256) as file:
            await asyncio.to_thread(archive.write, file, f"blobs/{sha256}", zipfile.ZIP_STORED)
    except (ReadingFailed, FileNotFoundError):
        return False
    return True


def _manifest(made: Made) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "made_at": made.made_at,
        "revision": made.account.revision,
        "tables": {
            name: {"rows": tally.rows, "sha256": tally.sha256, "columns": made.columns[name]}
            for name, tally in made.account.tables.items()
        },
        "files": made.files,
        "left_out": list(made.left_out),
    }


def _look_at_place(path: Path) -> None:
    if path.exists():
        raise Conflict(f"{path} exists. Choose another name, or remove it.")
    if not path.parent.is_dir():
        raise InvalidInput(f"There is no folder {path.parent}.")


def _settle(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


# --- reading ---------------------------------------------------------------------------------------------------------


async def _read(
    archive: zipfile.ZipFile, url: URL, settings: DatabaseSettings, blobs: Blobs | None, force: bool, tell: Tell
) -> Made:
    made = _made(archive)
    tables = _tables(made)
    names = [name for name in archive.namelist() if name.startswith("blobs/")]
    if blobs is not None:
        await blobs.prepare()
        for number, name in enumerate(names, start=1):
            await _put_file(archive, name, blobs)
            tell("files", number)

    async def into(filling: Filling) -> None:
        for each in tables:
            async for lines in _lines(archive, each.name):
                await filling.put(each, lines)
                tell(each.name, filling.tallies[each.name].rows)
            filling.tallies.setdefault(each.name, Tally())
        filling.match(made.account)

    await transfer.fill(url, settings, made.account.revision, into, force=force)
    return made


def _made(archive: zipfile.ZipFile) -> Made:
    try:
        manifest = json.loads(archive.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise InvalidInput("The backup has a form that this version of Gatherum does not know. Use a newer one.")
        tallies = {name: Tally(of["rows"], int(of["sha256"], 16)) for name, of in manifest["tables"].items()}
        columns = {name: of["columns"] for name, of in manifest["tables"].items()}
        account = Account(manifest["revision"], tallies)
        return Made(account, manifest["files"], tuple(manifest["left_out"]), manifest["made_at"], columns)
    except (KeyError, ValueError, TypeError):
        raise InvalidInput("It is no backup of Gatherum: it holds no manifest that can be read.") from None


def _tables(made: Made) -> list[TableClause]:
    """The tables of the backup, those first that others refer to."""
    try:
        return [
            table(known.name, *(column(name, known.c[name].type) for name in made.columns[known.name]))
            for known in metadata.sorted_tables
            if known.name in made.columns
        ]
    except KeyError as error:
        raise InvalidInput(f"The backup has a column {error} that this version of Gatherum does not know.") from None


async def _lines(archive: zipfile.ZipFile, name: str) -> AsyncIterator[list[bytes]]:
    with archive.open(f"tables/{name}.ndjson") as entry:
        while lines := await asyncio.to_thread(_some, entry):
            yield lines


def _some(entry: Iterator[bytes]) -> list[bytes]:
    return [line.rstrip(b"\n") for _, line in zip(range(transfer.BATCH), entry, strict=False)]


async def _put_file(archive: zipfile.ZipFile, name: str, blobs: Blobs) -> None:
    sha256 = name.removeprefix("blobs/")
    async with Incoming(blobs) as file:
        with archive.open(name) as entry:
            while piece := await asyncio.to_thread(entry.read, PIECE):
                await file.write(piece)
        found, _ = await file.commit()
    if found != sha256:
        await blobs.remove(found)
        raise InvalidInput(
            f"The backup is damaged: the file {sha256} is not what it says. The database was not changed."
        )
