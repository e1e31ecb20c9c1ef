"""Room on the disks that the store writes to: told while there is still some, and while there is none.

A full disk refuses whoever writes next, which may be nobody for hours: searches go on, and all looks well.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

LOW_BYTES: Final = 50_000_000
"""What a few documents of usual size and the database's own log need."""


def shortages(folders: Mapping[str, Path]) -> dict[str, str]:
    """The disks that are full, or nearly, each with a sentence that says so. Blocks: call it in a thread.

    Args:
        folders: by what is kept there; one that is not there yet is passed over.
    """
    found = {}
    for what, folder in folders.items():
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if free < LOW_BYTES:
                found[what] = f"The disk has {free / 1e6:.1f} MB left for {what}. Make room on it."
    return found
