"""A power failure, as far as files are concerned: what was not forced to the disk is gone.

A process that is killed loses nothing it has written, because the kernel has it; so killing processes cannot show
whether a program calls fsync where it must. `PowerLoss` keeps account of what POSIX promises to outlive a power failure
and, when it strikes, takes away the rest: what files hold that were not synced, and the names of files and folders
(made or renamed) whose own folder was not. Most file systems are kinder than this.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any


class PowerLoss:
    """The account of one process, from here on; it lasts as long as the process does.

    Args:
        root: what happens below this folder counts.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: list[Path] = []  # not safe yet, in the order in which they came to be
        self._files: dict[Path, int] = {}  # opened for writing: bytes that are safe
        self._struck = False
        self._sync = os.fsync
        os.fsync = self._fsync  # type: ignore[assignment]  # called by position
        sys.addaudithook(self._watch)

    def strike(self) -> None:
        """Take away what is not on the disk."""
        self._struck = True
        for path, safe in self._files.items():
            if path.is_file():
                os.truncate(path, min(safe, path.stat().st_size))
        for path in reversed(self._names):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _fsync(self, file: Any) -> None:
        self._sync(file)
        fd = file if isinstance(file, int) else file.fileno()
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.is_dir():
            self._names = [name for name in self._names if name.parent != path]
        elif path in self._files:
            self._files[path] = os.fstat(fd).st_size

    def _watch(self, event: str, args: tuple[Any, ...]) -> None:
        # Told before it happens, and whether or not it then succeeds.
        if self._struck or event not in ("open", "os.mkdir", "os.rename") or not isinstance(args[0], str | os.PathLike):
            return
        path = Path(args[0])
        if event == "os.rename":
            self._rename(path, Path(args[1]))
        elif self._root in path.parents:
            if event == "open":
                if not args[2] & (os.O_WRONLY | os.O_RDWR):
                    return
                self._files.setdefault(path, 0)
            if not path.exists():
                self._names.append(path)

    def _rename(self, source: Path, target: Path) -> None:
        if self._root in target.parents:
            if source in self._names:
                self._names.remove(source)
            if source in self._files:
                self._files[target] = self._files.pop(source)
            if not target.exists():
                self._names.append(target)
