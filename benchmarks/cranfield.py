"""Collections of abstracts as PDFs, an abstract a page, and questions about them; Cranfield where none is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pymupdf

PAGES_PER_PDF = 100
PAGE = pymupdf.paper_rect("a4")
MARGIN = pymupdf.Rect(54, 54, PAGE.width - 54, PAGE.height - 54)


def folder(name: str = "cranfield") -> Path | None:
    """Where a collection lies (`GATHERUM_DATA`, else beside the checkout), or None where it does not."""
    root = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    found = root / "retrieval" / name
    return found if (found / "corpus.jsonl").is_file() else None


def questions(source: Path, count: int = 300) -> list[str]:
    """So many distinct questions: the collection's own, then variations of them."""
    own = [record["text"] for record in records(source / "queries.jsonl")]
    forms = ("{}", "what is known about this: {}", "who has studied {}", "please explain {}")
    return list(dict.fromkeys(form.format(text) for form in forms for text in own))[:count]


def write_pdfs(source: Path, target: Path) -> list[Path]:
    """Write the abstracts as PDFs; returns their paths."""
    target.mkdir(parents=True, exist_ok=True)
    found = records(source / "corpus.jsonl")
    written = []
    for first in range(0, len(found), PAGES_PER_PDF):
        document = pymupdf.open()
        for record in found[first : first + PAGES_PER_PDF]:
            page = document.new_page(width=PAGE.width, height=PAGE.height)
            text = f"{record['title']}\n\n{record['text']}".strip() or "(no text)"
            size = 11.0
            while page.insert_textbox(MARGIN, text, fontsize=size) < 0:
                size *= 0.9
        path = target / f"{source.name}-{first + 1:04}.pdf"
        document.set_metadata({"title": f"{source.name.capitalize()} {first + 1} to {first + document.page_count}"})
        document.save(path)
        document.close()
        written.append(path)
    return written


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of the collection."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
