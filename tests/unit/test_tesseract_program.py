"""The wrapper around Tesseract, with the program itself replaced."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytesseract
import pytest
from PIL import Image

from actors.errors import ReadingFailed
from actors.reading import tesseract
from actors.reading.scans import Pixels
from actors.reading.tesseract import Word

HEADER = "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
# Two pages: the first has two lines in one paragraph and a second block, the other is blank.
TABLE = "\n".join(
    [
        HEADER,
        "1\t1\t0\t0\t0\t0\t0\t0\t600\t400\t-1\t",
        "2\t1\t1\t0\t0\t0\t10\t20\t300\t60\t-1\t",
        "5\t1\t1\t1\t1\t1\t30\t60\t90\t30\t96.5\tTitan",
        '5\t1\t1\t1\t1\t2\t150\t60\t60\t30\t91.5\t"is"',
        "5\t1\t1\t1\t2\t1\t30\t120\t90\t30\t95.0\tbig",
        "5\t1\t2\t1\t1\t1\t30\t300\t90\t30\t97.0\tend",
        "5\t1\t2\t1\t1\t2\t130\t300\t90\t30\t20.0\t ",
        "1\t2\t0\t0\t0\t0\t0\t0\t600\t400\t-1\t",
        "",
    ]
)

Run = Callable[..., None]


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Tesseract 9 with English only, and shared memory of our own."""
    monkeypatch.setattr(pytesseract, "get_tesseract_version", lambda: "9.0")
    monkeypatch.setattr(pytesseract, "get_languages", lambda: ["eng", "osd"])
    monkeypatch.setattr(tesseract, "SHARED_MEMORY", tmp_path)
    monkeypatch.delenv("OMP_THREAD_LIMIT", raising=False)
    tesseract.engine.cache_clear()
    tesseract.check_languages.cache_clear()
    yield
    tesseract.engine.cache_clear()
    tesseract.check_languages.cache_clear()


def bitmap(width: int = 600, height: int = 400) -> Pixels:
    return np.full((height, width), 255, dtype=np.uint8)


def writes(table: str) -> Run:
    def run(listing: str, output: str, *_: object, **__: object) -> None:
        Path(f"{output}.tsv").write_text(table, encoding="utf-8")

    return run


def recognise(*bitmaps: Pixels, timeout_s: float = 60) -> list[list[Word]]:
    return tesseract.recognise(bitmaps, ("eng",), timeout_s)


def test_a_table_becomes_the_words_of_each_page() -> None:
    first, blank = tesseract.parse(TABLE, 2)
    assert first == [
        Word(1, 1, 1, (30, 60, 120, 90), 96.5, "Titan"),
        Word(1, 1, 1, (150, 60, 210, 90), 91.5, '"is"'),
        Word(1, 1, 2, (30, 120, 120, 150), 95.0, "big"),
        Word(2, 1, 1, (30, 300, 120, 330), 97.0, "end"),
    ]
    assert blank == []


def test_tesseract_runs_once_on_a_list_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, int], str, str]] = []

    def run(listing: str, output: str, extension: str, lang: str, config: str, timeout: float) -> None:
        for name in Path(listing).read_text().split():
            with Image.open(name) as image:
                assert image.getpixel((3, 2)) == 255
                seen.append((image.size, lang, os.environ["OMP_THREAD_LIMIT"]))
        assert Path(listing).parent.stat().st_mode & 0o077 == 0
        assert (extension, timeout) == ("tsv", 60)
        assert "tessedit_create_tsv=1" in config
        writes(TABLE)(listing, output)

    monkeypatch.setattr(tesseract, "run_tesseract", run)
    recognise(bitmap(), bitmap(200, 100))
    assert seen == [((600, 400), "eng", "1"), ((200, 100), "eng", "1")]


def test_nothing_is_recognised_without_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tesseract, "run_tesseract", None)
    assert recognise(timeout_s=0) == []


def test_the_temporary_folder_serves_where_there_is_no_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tesseract, "SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tesseract, "run_tesseract", writes(TABLE))
    assert len(recognise(bitmap())[0]) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (pytesseract.TesseractError(-11, "boom"), "status -11"),
        (RuntimeError("Tesseract process timeout"), "longer than 60 s"),
        (FileNotFoundError("no output"), "no output"),
    ],
)
def test_failures_are_ours_and_nothing_stays_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, message: str
) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(tesseract, "run_tesseract", run)
    with pytest.raises(ReadingFailed, match=message):
        recognise(bitmap())
    assert list(tmp_path.iterdir()) == []


def test_no_time_left_is_said_before_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tesseract, "run_tesseract", writes(TABLE))
    with pytest.raises(ReadingFailed, match="all the time"):
        recognise(bitmap(), timeout_s=0)


def test_a_missing_language_is_named_with_its_package() -> None:
    with pytest.raises(ReadingFailed, match=r"no language pack deu, chi_sim.*tesseract-ocr-deu tesseract-ocr-chi-sim"):
        tesseract.check_languages(("eng", "deu", "chi_sim"))
    tesseract.check_languages(("eng",))


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise pytesseract.TesseractNotFoundError

    monkeypatch.setattr(pytesseract, "get_tesseract_version", absent)
    with pytest.raises(ReadingFailed, match="not installed"):
        tesseract.check_languages(("eng",))


def test_folders_of_dead_processes_are_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dead, alive, other = (tmp_path / name for name in ("gatherum-ocr-111-x", "gatherum-ocr-222-y", "gatherum-ocr-z"))
    for folder in (dead, alive, other):
        folder.mkdir()
    monkeypatch.setattr(tesseract, "_alive", lambda pid: pid == 222)
    monkeypatch.setattr(tesseract, "run_tesseract", writes(TABLE))
    recognise(bitmap())
    assert sorted(tmp_path.iterdir()) == [alive, other]


def test_this_process_is_alive() -> None:
    assert tesseract._alive(os.getpid())
    assert not tesseract._alive(2**22 + 1)
