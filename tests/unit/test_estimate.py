"""The estimate before an ingestion: what a look at some pages says of all of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import load
from serve import estimate, render
from serve.estimate import (
    EMBEDDED_BYTES_PER_S,
    SAMPLE,
    SCANNED_BYTES,
    SCANNED_PAGE_S,
    SCANNED_TEXT_BYTES,
    TEXT_PAGE_S,
    VECTOR_SHARE,
    Limits,
    Look,
    sample,
    summary,
)

LIMITS = Limits(max_file_mb=1.0, max_pages=20, page_s=30.0, memory_mb=1500)
TEXT = "Huygens landed on Titan, the largest moon of Saturn, on 14 January 2005. " * 5


def pdf(path: Path, *, texts: int = 0, blank: int = 0) -> Path:
    document = pymupdf.open()
    for number in range(texts):
        document.new_page().insert_textbox(pymupdf.Rect(72, 72, 500, 700), f"{number}. {TEXT}")
    for _ in range(blank):
        page = document.new_page()
        pixmap = pymupdf.Pixmap(pymupdf.csGRAY, pymupdf.IRect(0, 0, 600, 800), False)
        pixmap.clear_with(255)
        for line in range(10):
            pixmap.set_rect(pymupdf.IRect(50, 50 + 40 * line, 550, 60 + 40 * line), (0,))
        page.insert_image(page.rect, pixmap=pixmap)
    document.save(path)
    return path


@given(st.integers(1, 5000))
def test_samples_are_pages_of_the_document_from_its_first_to_its_last(count: int) -> None:
    chosen = sample(count)
    assert len(chosen) == len(set(chosen)) == min(count, SAMPLE)
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (1, count)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look in this process, which must stay what it is."""
    monkeypatch.setattr("actors.reading.limits.confine", lambda *_: None)


@pytest.mark.usefixtures("looked")
def test_a_look_counts_pages_and_tells_scans_from_text(tmp_path: Path) -> None:
    path = pdf(tmp_path / "mixed.pdf", texts=3, blank=1)
    found = estimate.look(str(path), LIMITS)
    assert (found.code, found.pages, found.sampled, found.scanned) == (None, 4, 4, 1)
    assert (found.size, len(found.sha256)) == (path.stat().st_size, 64)
    assert found.text > 3 * len(TEXT)
    assert found.stored > 3 * 2 * len(TEXT)


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty_file"), (b"no PDF", "not_a_pdf"), (b"%PDF-" + b"x" * 2_000_000, "too_large")]
)
def test_what_would_be_refused_is_said_with_the_code_of_the_server(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "bad.pdf"
    path.write_bytes(content)
    found = estimate.look(str(path), LIMITS)
    assert found.code == code
    assert found.error


@pytest.mark.usefixtures("looked")
def test_a_file_of_too_many_pages_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert estimate.look(str(pdf(tmp_path / "long.pdf", texts=21)), LIMITS).code == "too_large"
    gone = estimate.look(str(tmp_path / "gone.pdf"), LIMITS)
    assert (gone.code, gone.error) == ("unreadable", "No such file or directory")


@pytest.mark.usefixtures("looked")
@pytest.mark.parametrize(("error", "said"), [(MemoryError(), "1,500 MB"), (RuntimeError("/secret"), "RuntimeError")])
def test_whatever_goes_wrong_with_a_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(estimate, "_looked_into", fail)
    found = estimate.look(str(pdf(tmp_path / "a.pdf", texts=1)), LIMITS)
    assert found.code == "reading_failed"
    assert said in (found.error or "")
    assert "/secret" not in (found.error or "")


def test_the_sum_weighs_pages_and_counts_each_file_once() -> None:
    looks = [
        Look("a.pdf", 1000, "a", pages=100, sampled=8, scanned=2, stored=6 * 3000),
        Look("b.pdf", 500, "b", pages=10, sampled=8, scanned=0, stored=8 * 2000),
        Look("copy of b.pdf", 500, "b", pages=10, sampled=8, scanned=0, stored=8 * 2000),
        Look("known.pdf", 500, "k", pages=10, sampled=8),
        Look("bad.pdf", code="not_a_pdf", error="The file is not a PDF."),
    ]
    found = summary(looks, {"k", "x"}, embeds=False, urls=1, cpus=2)
    seconds = (85 * TEXT_PAGE_S + 25 * SCANNED_PAGE_S) / 2
    assert found == {
        "files": 5,
        "new": 2,
        "known": 1,
        "repeated": 1,
        "refused": [{"path": "bad.pdf", "code": "not_a_pdf", "error": "The file is not a PDF."}],
        "urls": 1,
        "pages": 110,
        "scanned_pages": 25,
        "seconds": round(seconds, 1),
        "cpus": 2,
        "file_bytes": 1500,
        "store_bytes": 75 * 3000 + 10 * 2000 + 25 * SCANNED_BYTES,
    }
    assert summary(looks, None, embeds=False)["known"] is None
    assert summary([], set(), embeds=True)["pages"] == 0


def test_vectors_take_most_of_the_time_where_they_are_made_here() -> None:
    looks = [Look("a.pdf", 1000, "a", pages=100, sampled=8, scanned=2, text=6 * 2800, stored=6 * 3000)]
    without, found = (summary(looks, None, embeds=embeds, cpus=2) for embeds in (False, True))
    text = 75 * 2800 + 25 * SCANNED_TEXT_BYTES
    assert found["seconds"] - without["seconds"] == pytest.approx(text / EMBEDDED_BYTES_PER_S / 2, abs=0.2)
    assert found["store_bytes"] - without["store_bytes"] == pytest.approx(text * VECTOR_SHARE, abs=1)


@pytest.mark.parametrize(("kind", "embeds"), [("minilm", True), ("none", False)])
def test_whether_vectors_are_made_is_for_the_settings_to_say(kind: str, embeds: bool) -> None:
    assert Limits.of(load(environ={"GATHERUM_ENCODER__KIND": kind})).embeds is embeds


def crash(path: str, limits: Limits) -> Look:
    """Stands for `look` over a file that takes the reader down."""
    if "bad" in path:
        os._exit(1)
    return Look(path, pages=1, sampled=1)


async def test_a_file_that_takes_the_reader_down_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "look", crash)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    looks: list[Look] = []
    paths = [Path(name) for name in ("a.pdf", "bad.pdf", "c.pdf")]
    async with asyncio.timeout(60):
        await estimate.look_at_all(paths, LIMITS, looks)
    assert [(each.path, each.code) for each in looks] == [
        ("a.pdf", None),
        ("bad.pdf", "reading_failed"),
        ("c.pdf", None),
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3599, "1 h"), (3700, "1 h 2 min"), (90_000, "25 h")],
)
def test_lengths_of_time_are_said_as_people_do(seconds: float, said: str) -> None:
    assert render.duration(seconds) == said


def shown(values: dict[str, Any]) -> str:
    from rich.console import Console

    console = Console(width=160, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123 - ends with the test
    console.print(render.estimate(values))
    console.file.close()
    return console.export_text()


def test_the_table_says_what_counts() -> None:
    looks = [Look("a.pdf", 1_500_000, "a", pages=400, sampled=8, scanned=2), Look("b.pdf", code="x", error="Broken.")]
    text = shown(summary(looks, None, embeds=False, cpus=2))
    for part in ("400, about 100 of them scanned (25%)", "unknown", "1.5 MB", "2 cores", "b.pdf", "Broken."):
        assert part in text
