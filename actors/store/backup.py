"""A backup: one file with every row and every PDF of a store, that any kind of database can be restored from.

It is a ZIP archive: `manifest.json` says what it holds, `tables/*.ndjson` are the rows, `blobs/*` the files under their
content addresses. The rows are one state of the store, taken while it may be in use. The files need none: what lies at
a content address never changes. One that was deleted meanwhile, or is damaged where it lies, is left out and named.

Rows are restored all or none, so the whole archive is read and counted before anything is touched. A damaged file keeps
no other from coming back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sqlalchemy import URL, TableClause, column, table

from actors.errors import Conflict, InvalidInput, ReadingFailed, Unavailable
from actors.store import transfer
from actors.store.blobs import Blobs, Incoming, sync_folder
from actors.store.tables import metadata
from actors.store.transfer import Account, Filling, Snapshot, Tally, Tell
from config.settings import DatabaseSettings

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = 1 << 20

_DAMAGED = (OSError, EOFError, KeyError, NotImplementedError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)
"""What reading an archive fails with, depending on which of its bytes are wrong."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a backup holds, or what of it has come back.

    Attributes:
        account: of its rows.
        files: how many PDFs.
        left_out: files that documents refer to and that the backup does not have, or not undamaged.
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
        Unavailable: the archive cannot be written, as on a full disk; or the database cannot be reached.
    """
    await asyncio.to_thread(_look_at_place, path)
    # A name of one's own: another backup to the same place may be under way.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
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
    """Make a store from a backup. Files come first: no document is there without its bytes, unless they are damaged.

    Args:
        path: of the archive.
        url: of an empty database, or one of Gatherum.
        settings: the database's section.
        blobs: where the files go; None to leave them.
        force: empty a store that is not empty.
        tell: called with what is being read, and how much of it.

    Returns:
        What has come back; under `left_out` also files that are damaged in the archive.

    Raises:
        InvalidInput: it is no backup, or its rows are damaged; nothing was changed.
        Conflict: the store is not empty, or the backup is of a newer version; nothing was changed.
    """
    try:
        archive = await asyncio.to_thread(zipfile.ZipFile, path)
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.") from None
    except (OSError, zipfile.BadZipFile):
        raise InvalidInput(f"{path} is no backup of Gatherum, or cannot be read.") from None
    with archive:
        return await _read(archive, url, settings, blobs, force, tell)


# --- writing ---------------------------------------------------------------------------------------------------------


async def _write(url: URL, settings: DatabaseSettings, blobs: Blobs | None, path: Path, tell: Tell) -> Made:
    # Compressed by little: words are compressed already, and text gives way to the fastest level almost as well.
    file = await asyncio.to_thread(_create, path)
    with file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
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
    """Put a file into the archive; False if it is not there any more, or is damaged."""
    try:
        async with blobs.local(sha256) as file:
            return await asyncio.to_thread(_keep, archive, file, sha256)
    except (ReadingFailed, FileNotFoundError):
        return False


def _keep(archive: zipfile.ZipFile, path: Path, sha256: str) -> bool:
    try:
        # Before it is written: an entry cannot be taken back.
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:  # of a bad sector too
        return False
    if whole:
        archive.write(path, f"blobs/{sha256}", zipfile.ZIP_STORED)
    return whole


class _Written(io.FileIO):
    """The file of an archive that is being written; its errors must not be taken for the database's."""

    def write(self, piece: Any) -> int:
        with _told():
            return super().write(piece)


def _create(path: Path) -> io.BufferedWriter:
    with _told():
        return io.BufferedWriter(_Written(path, "x"), PIECE)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The backup cannot be written: {error.strerror}.") from error


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
    with _told():
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        _look_at_place(path)  # again: another backup may have come first
        partial.replace(path)
        sync_folder(path.parent)


# --- reading ---------------------------------------------------------------------------------------------------------


async def _read(
    archive: zipfile.ZipFile, url: URL, settings: DatabaseSettings, blobs: Blobs | None, force: bool, tell: Tell
) -> Made:
    made = await asyncio.to_thread(_made, archive)
    tables = _tables(made)
    wanted = await _check_rows(archive, made, tables)
    await transfer.check_target(url, settings, made.account.revision, force=force)
    if blobs is not None:
        await blobs.prepare()
        there = set(archive.namelist())
        left_out = []
        for number, sha256 in enumerate(sorted(wanted), start=1):
            if f"blobs/{sha256}" not in there or not await _put_file(archive, sha256, blobs):
                left_out.append(sha256)
            tell("files", number)
        made = replace(made, files=len(wanted) - len(left_out), left_out=tuple(left_out))

    async def into(filling: Filling) -> None:
        for each in tables:
            async for lines in _lines(archive, each.name):
                await filling.put(each, lines)
                tell(each.name, filling.tallies[each.name].rows)
            filling.tallies.setdefault(each.name, Tally())
        made.account.match(Account(filling.revision, filling.tallies))

    await transfer.fill(url, settings, made.account.revision, into, force=force)
    return made


async def _check_rows(archive: zipfile.ZipFile, made: Made, tables: list[TableClause]) -> set[str]:
    """Read all rows, for nothing but to know that they are what was saved.

    Returns:
        The addresses of the documents' files.

    Raises:
        InvalidInput: they are not.
    """
    addresses: set[str] = set()
    tallies = {each.name: Tally() for each in tables}
    for each in tables:
        async for lines in _lines(archive, each.name):
            for line in lines:
                tallies[each.name].add(line)
                row = transfer.decoded(line, each)
                if each.name == "documents":
                    addresses.add(str(row["sha256"]))
    made.account.match(Account(made.account.revision, tallies))
    return addresses


def _made(archive: zipfile.ZipFile) -> Made:
    try:
        with _sound(MANIFEST):
            content = archive.read(MANIFEST)
        manifest = json.loads(content)
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
    with _sound(name):
        entry = await asyncio.to_thread(archive.open, f"tables/{name}.ndjson")
    with entry:
        while lines := await asyncio.to_thread(_some, entry, name):
            yield lines


def _some(entry: Iterator[bytes], name: str) -> list[bytes]:
    with _sound(name):
        return [line.rstrip(b"\n") for _, line in zip(range(transfer.BATCH), entry, strict=False)]


@contextlib.contextmanager
def _sound(name: str) -> Iterator[None]:
    """Tell what an archive cannot be read for; of the database are errors of other calls."""
    try:
        yield
    except _DAMAGED:
        raise InvalidInput(f"The backup is damaged: its {name} cannot be read. Nothing was changed.") from None


async def _put_file(archive: zipfile.ZipFile, sha256: str, blobs: Blobs) -> bool:
    """Put a file where it belongs; False if it is not what its name says."""
    async with Incoming(blobs) as file:
        try:
            with _sound(sha256):
                entry = await asyncio.to_thread(archive.open, f"blobs/{sha256}")
            with entry:
                while piece := await asyncio.to_thread(_piece, entry, sha256):
                    await file.write(piece)
        except InvalidInput:
            return False
        # Looked at before it gets its place, where the file of a document may lie that is to stay.
        if await file.hash() != sha256:
            return False
        await file.commit()
    return True


def _piece(entry: IO[bytes], sha256: str) -> bytes:
    with _sound(sha256):
        return entry.read(PIECE)
