"""Snapshots: a replica's indexes on its disk, so that it is up again in seconds instead of reading the whole store.

They are a cache: what is damaged, of another encoder, or of another store is thrown away and built from rows. A
snapshot is a folder that is written under another name and renamed when it is whole. Most of it costs nothing to write,
because tantivy's files never change and the texts' file only grows: they get second names. Loading gives them third
ones, in the folder that the replica goes on working in, so that whatever happens there the snapshot stays as it was.

Replicas on one machine have a folder each; whichever starts takes one that nobody holds.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from actors.messages import Change
from actors.search.dense import CorruptSnapshot, checksum

FORMAT: Final = 2
_MANIFEST: Final = "snapshot.json"
_CHECKED: Final = ("lexical", "bags", "ends.npy", "documents.json")
"""What the manifest has the checksums of; the dense index and the texts have their own."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One that can be loaded.

    Attributes:
        folder: where it is.
        change: the last change that is in it.
        account: what else the indexes want to know.
    """

    folder: Path
    change: Change
    account: Mapping[str, Any]


class Snapshots:
    """A replica's place on the disk.

    Args:
        root: of the places of all replicas on this machine.

    Raises:
        OSError: there is no place.
    """

    def __init__(self, root: Path) -> None:
        for number in itertools.count():
            self._folder = root / str(number)
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
            else:
                break

    def work(self) -> Path:
        """An empty folder to work in; what a process before left in it is gone."""
        folder = self._folder / "work"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def newest(self, fingerprint: Mapping[str, Any]) -> Snapshot | None:
        """The snapshot that is there, if there is one.

        Args:
            fingerprint: what it depends on besides the store's rows.

        Raises:
            CorruptSnapshot: there is one, but it is damaged, or depends on something else.
        """
        folder = self._folder / "snapshot"
        if not folder.exists():
            return None
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            if (manifest["format"], manifest["fingerprint"]) != (FORMAT, dict(fingerprint)):
                raise CorruptSnapshot("The snapshot is of another encoder, language or format.")
            for name, expected in manifest["files"].items():
                if checksum(folder / name) != expected:
                    raise CorruptSnapshot(f"The file {name} of the snapshot is damaged.")
            change = Change(**manifest["change"])
            return Snapshot(folder, change, manifest["account"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptSnapshot(f"The snapshot cannot be read ({type(error).__name__}).") from None

    def begin(self) -> Path:
        """An empty folder to write a snapshot into."""
        folder = self._folder / "new"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def finish(
        self,
        folder: Path,
        *,
        change: Change,
        account: Mapping[str, Any],
        fingerprint: Mapping[str, Any],
    ) -> None:
        """Put what was written in the place of the snapshot before."""
        manifest = {
            "format": FORMAT,
            "fingerprint": dict(fingerprint),
            "change": asdict(change),
            "account": dict(account),
            "files": {str(file.relative_to(folder)): checksum(file) for file in _files(folder)},
        }
        (folder / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        self.discard()
        folder.rename(self._folder / "snapshot")

    def discard(self) -> None:
        """Remove the snapshot."""
        shutil.rmtree(self._folder / "snapshot", ignore_errors=True)

    def close(self) -> None:
        """Give the place back."""
        os.close(self._lock)


def _files(folder: Path) -> list[Path]:
    found: list[Path] = []
    for name in _CHECKED:
        path = folder / name
        if path.is_dir():
            found += sorted(path.iterdir())
        elif path.exists():
            found.append(path)
    return found
