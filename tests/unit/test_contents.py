"""The file of texts: what is put in comes back, and a snapshot stays what it was whatever is added later."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Chunk, ChunkKind, Words
from actors.search.contents import Contents, Kept

WORDS = Words.of([(0, 3, 1.0, 2.0, 3.0, 4.0)])


def chunk(text: str, page: int = 1, kind: ChunkKind = "text") -> Chunk:
    return Chunk(page, 0, 5, 5 + len(text), text, WORDS, kind=kind)


def kept(document: int, of: Chunk) -> Kept:
    return Kept(document, of.page, of.start, of.end, of.text, of.words.data, of.kind)


@given(st.lists(st.lists(st.text(), max_size=4), max_size=5))
def test_whatever_is_added_comes_back(documents: list[list[str]]) -> None:
    contents = Contents()
    added = {}
    for number, texts in enumerate(documents):
        chunks = [chunk(text, page, "table" if page % 2 else "text") for page, text in enumerate(texts)]
        added.update(dict(zip(contents.add(number, chunks), [kept(number, one) for one in chunks], strict=True)))
    assert {entry: contents.get(entry) for entry in added} == added
    assert contents.next_entry == len(added)


def saved(folder: Path) -> tuple[Contents, dict[str, int]]:
    contents = Contents(folder / "work")
    contents.add(0, [chunk("one"), chunk("two")])
    account = contents.save(folder / "saved", folder / "ends.npy")
    contents.add(2, [chunk("three")])
    return contents, account


def load(folder: Path, account: dict[str, int]) -> Contents:
    (folder / "work").unlink(missing_ok=True)
    return Contents.load(folder / "saved", folder / "ends.npy", account, folder / "work")


def test_a_snapshot_has_what_was_there_and_goes_on(tmp_path: Path) -> None:
    before, account = saved(tmp_path)
    before.close()
    for _ in range(2):
        contents = load(tmp_path, account)
        assert contents.next_entry == 2
        assert contents.get(1) == kept(0, chunk("two"))
        assert contents.add(9, [chunk("four")]) == range(2, 3)
        assert contents.get(2) == kept(9, chunk("four"))
        contents.close()


def test_what_is_damaged_is_not_loaded(tmp_path: Path) -> None:
    before, account = saved(tmp_path)
    before.close()
    content = (tmp_path / "saved").read_bytes()
    for damaged in (content[:20], content[:8] + b"?" + content[9:], b""):
        (tmp_path / "saved").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load(tmp_path, account)


def test_a_file_without_a_name_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without a name"):
        Contents().save(tmp_path / "saved", tmp_path / "ends.npy")
