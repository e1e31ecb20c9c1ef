"""Which SQLite files may be sources: those in one folder, whatever their path says, and never Gatherum's own store.

A file is looked at anew each time it is opened: it may have been replaced by a link since it was registered.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from actors.errors import InvalidInput, NotFound, Refused
from actors.messages import Source
from config.settings import SourcesSettings

MAGIC: Final = b"SQLite format 3\0"


class SqliteFiles:
    """The SQLite files that lie in one folder.

    Args:
        settings: the root folder.
        store_path: Gatherum's own database, which is never a source; None if it is no file.
    """

    def __init__(self, settings: SourcesSettings, *, store_path: Path | None) -> None:
        self._settings = settings
        self._store = store_path

    def locate(self, source: Source) -> Path:
        """The file of a source, if policy allows it.

        Raises:
            Refused: no root is set, or the file lies outside it or is Gatherum's own store.
            NotFound: there is no such file.
            InvalidInput: the file is no SQLite database, or cannot be read.
        """
        if not self._settings.sqlite_root:
            raise Refused(
                "SQLite sources are switched off. Set sources.sqlite_root (GATHERUM_SOURCES__SQLITE_ROOT) to the "
                "folder they lie in."
            )
        named = f"The SQLite file {source.path!r}"
        try:
            root = Path(self._settings.sqlite_root).expanduser().resolve()
            path = (root / source.path).resolve()
            if not path.is_relative_to(root):
                raise Refused(f"{named} lies outside the folder that sources.sqlite_root allows.")
            mode = path.stat().st_mode
            if self._store is not None and self._store.exists() and path.samefile(self._store):
                raise Refused(f"{named} is Gatherum's own store, which cannot be a source.")
            # Opening anything but a plain file may block (a pipe) or make no sense (a folder).
            start = _first_bytes(path) if stat.S_ISREG(mode) else b""
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{named} does not exist. Paths are relative to sources.sqlite_root.") from None
        except PermissionError:
            raise InvalidInput(f"{named} may not be read by the server.") from None
        except (OSError, RuntimeError, ValueError):
            raise InvalidInput(f"{named} cannot be opened: its path is not valid.") from None
        if start != MAGIC:
            raise InvalidInput(f"{named} is not an SQLite database.")
        return path


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(MAGIC))
