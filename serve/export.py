"""Writes the images of an extraction into a folder, as they come in."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SUFFIXES: Final = {"image/jpeg": ".jpg", "image/jp2": ".jp2", "image/png": ".png"}
WHYS: Final = {
    "repeated": "repeated",
    "size": "beyond the server's pdf.max_images_mb",
    "pixels": "larger than the server's pdf.max_pixels",
    "damaged": "damaged",
}


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        files: of each image: `path`, `page`, `box`, `width`, `height`, `media_type`, `sha256`.
        omitted: images that were not, by reason.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)


async def write_images(lines: AsyncIterator[dict[str, Any]], folder: Path) -> Exported:
    """Write each image to `page-<number>-<position>`, with the suffix of its kind.

    Args:
        lines: of `AsyncClient.extract_lines`, with images.
        folder: made if it is not there.

    Raises:
        OSError: it cannot be written to.
    """
    exported = Exported()
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async for line in lines:
        page = line.get("page", {})
        for position, image in enumerate(page.get("images", ()), 1):
            if image["omitted"]:
                exported.omitted[WHYS.get(image["omitted"], image["omitted"])] += 1
                continue
            data = b64decode(image.pop("data"))
            path = folder / f"page-{page['number']:04d}-{position:02d}{SUFFIXES.get(image['media_type'], '.bin')}"
            await asyncio.to_thread(path.write_bytes, data)
            del image["omitted"]
            exported.files.append({"path": str(path), "page": page["number"], **image})
    return exported
