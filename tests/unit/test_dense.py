"""The dense index: exact where it says so, near it elsewhere, and no damaged snapshot is ever mapped."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search import dense
from actors.search.dense import STEPS, CorruptSnapshot, DenseIndex
from actors.search.encoder import Vectors, unit

DIMENSION = 16
MODEL = "model@1"


def vectors(count: int, seed: int = 0) -> Vectors:
    made = unit(np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32))
    kept: Vectors = np.rint(made * np.float32(STEPS)) * np.float32(1 / STEPS)
    return kept


def filled(count: int, *, exact_below: int = 50_000, dead: range = range(0)) -> DenseIndex:
    index = DenseIndex(DIMENSION, MODEL, exact_below=exact_below)
    index.add(range(count), vectors(count))
    index.commit()
    index.remove(dead)
    index.commit()
    return index


def found(index: DenseIndex, query: Vectors, limit: int, allowed: list[int] | None = None) -> list[int]:
    held = None if allowed is None else np.array(allowed, np.int64)
    ((entries, _),) = index.search(query[None], limit=limit, allowed=held)
    return list(map(int, entries))


def closest(query: Vectors, among: npt.NDArray[np.int64], limit: int, count: int) -> list[int]:
    near = vectors(count)[among] @ query
    return list(map(int, among[np.lexsort((among, -near))[:limit]]))


@given(st.integers(1, 400), st.integers(1, 30), st.sets(st.integers(0, 399), max_size=200), st.integers(0, 5))
def test_small_is_exact(count: int, limit: int, gone: set[int], seed: int) -> None:
    index = filled(count)
    index.remove(np.array(sorted(gone), np.int64))
    index.commit()
    query = vectors(1, seed + 100)[0]
    left = np.array([entry for entry in range(count) if entry not in gone], np.int64)
    assert len(index) == len(left)
    assert found(index, query, limit) == closest(query, left, limit, count)


def test_the_best_of_many_blocks_are_the_best_of_all() -> None:
    index = filled(9_000)
    for query in vectors(20, 7):
        assert found(index, query, 12) == closest(query, np.arange(9_000), 12, 9_000)


def test_the_graph_finds_nearly_all_and_scores_them_exactly() -> None:
    index = filled(2_000, exact_below=500)
    hits = 0
    for query in vectors(20, 3):
        ((entries, near),) = index.search(query[None], limit=10)
        hits += len(set(entries.tolist()) & set(closest(query, np.arange(2_000), 10, 2_000)))
        assert near == pytest.approx(vectors(2_000)[entries] @ query, abs=2e-3)
        assert (np.diff(near) <= 0).all()
    assert hits >= 190


def test_the_graph_gives_no_dead_and_no_forbidden_entry() -> None:
    index = filled(2_000, exact_below=500, dead=range(0, 400))
    query = vectors(1, 5)[0]
    assert min(found(index, query, 50)) >= 400
    # More than are compared one by one, and half of all.
    odd = list(range(401, 2_000, 2))
    few = found(index, query, 50, odd)
    assert len(few) == 50
    assert set(few) <= set(odd)


def test_a_filter_that_lets_little_through_is_exact_in_the_graph_too() -> None:
    index = filled(2_000, exact_below=500)
    query = vectors(1, 6)[0]
    few = list(range(0, 2_000, 40))
    assert found(index, query, 20, few) == closest(query, np.array(few), 20, 2_000)


def test_nothing_allowed_finds_nothing() -> None:
    assert found(filled(10), vectors(1)[0], 3, []) == []
    assert found(filled(10), vectors(1)[0], 3, [77]) == []
    assert found(DenseIndex(DIMENSION, MODEL), vectors(1)[0], 3) == []


def test_a_blank_query_finds_nothing_and_its_neighbours_do() -> None:
    queries = np.zeros((2, DIMENSION), np.float32)
    queries[1] = vectors(1)[0]
    blank, other = filled(10).search(queries, limit=2)
    assert blank[0].tolist() == []
    assert other[0].tolist()[0] == 0


def test_a_limit_beyond_all_gives_all() -> None:
    assert len(found(filled(10), vectors(1)[0], 10**9)) == 10
    assert len(found(filled(900, exact_below=100), vectors(1)[0], 10**9)) == 900


def test_searches_go_on_while_a_graph_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(3_000, exact_below=500)
    query = vectors(1, 3)[0]
    seen: list[set[int]] = []
    empty = dense._graph

    def watched(dimension: int) -> Any:
        graph = empty(dimension)
        add = graph.add

        def adding(*what: Any, **how: Any) -> Any:
            search = threading.Thread(target=lambda: seen.append(set(found(index, query, 20))), daemon=True)
            search.start()
            search.join(10)
            assert not search.is_alive()
            return add(*what, **how)

        monkeypatch.setattr(graph, "add", adding)
        return graph

    monkeypatch.setattr(dense, "_graph", watched)
    index.add(range(3_000, 4_000), vectors(4_000)[3_000:])
    index.remove(range(0, 3_000))  # most are gone: the rest get a graph of their own
    index.commit()
    seen.append(set(found(index, query, 20)))
    assert len(seen) > 1
    assert min(map(len, seen)) >= 15
    # The state before or the one after, never some of both.
    assert all(max(one) < 3_000 or min(one) >= 3_000 for one in seen)


def test_nothing_is_seen_before_the_commit() -> None:
    index = filled(10)
    index.remove([0])
    index.add([10], vectors(11)[10:])
    assert found(index, vectors(1)[0], 1) == [0]
    index.commit()
    assert found(index, vectors(1)[0], 11) == closest(vectors(1)[0], np.arange(1, 11), 11, 11)


def test_what_is_added_and_removed_between_commits_is_gone() -> None:
    index = DenseIndex(DIMENSION, MODEL)
    index.add([1], vectors(1))
    index.remove([1])
    index.commit()
    assert len(index) == 0


def test_it_changes_over_to_the_graph_and_back_by_its_size() -> None:
    index = filled(1_500, exact_below=1_000)
    query = vectors(1, 9)[0]
    index.remove(range(0, 1_400))
    index.commit()
    assert found(index, query, 5) == closest(query, np.arange(1_400, 1_500), 5, 1_500)
    index.add(range(1_500, 3_000), vectors(3_000)[1_500:])
    index.commit()
    assert set(found(index, query, 5)) <= set(range(1_400, 3_000))


def test_cosines_of_what_is_held_and_of_what_is_not() -> None:
    index = filled(5, dead=range(3, 4))
    near = index.cosines(vectors(3), np.array([0, 0, 0, 2]), np.array([0, 3, 99, 2]))
    assert near == pytest.approx([1.0, 0.0, 0.0, 1.0], abs=1e-3)
    assert index.cosines(vectors(1), np.array([], np.int64), np.array([], np.int64)).tolist() == []


def test_entries_are_added_in_order_with_vectors_that_fit() -> None:
    index = filled(5)
    with pytest.raises(ValueError, match="dimension"):
        index.add([9], np.zeros((1, DIMENSION + 1), np.float32))
    index.add([2], vectors(1))
    with pytest.raises(ValueError, match="ascending"):
        index.commit()


@pytest.mark.parametrize("exact_below", [50_000, 100])
def test_a_snapshot_finds_the_same_and_can_go_on(tmp_path: Path, exact_below: int) -> None:
    index = filled(600, exact_below=exact_below, dead=range(0, 50))
    index.save(tmp_path / "one")
    again = DenseIndex.load(tmp_path / "one", DIMENSION, MODEL, exact_below=exact_below)
    query = vectors(1, 8)[0]
    assert len(again) == 550
    assert found(again, query, 20) == found(index, query, 20)
    again.remove(range(50, 100))
    again.add([600], query[None])
    again.commit()
    assert found(again, query, 1) == [600]
    again.save(tmp_path / "two")
    assert found(DenseIndex.load(tmp_path / "two", DIMENSION, MODEL, exact_below=exact_below), query, 1) == [600]


@pytest.mark.parametrize("name", ["entries.npy", "vectors.npy", "graph.usearch", "dense.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "missing"])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, name: str, harm: str) -> None:
    filled(300, exact_below=100).save(tmp_path)
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        file.write_bytes({"flip": bytes(content), "cut": bytes(content[:-9]), "empty": b""}[harm])
    with pytest.raises(CorruptSnapshot):
        DenseIndex.load(tmp_path, DIMENSION, MODEL)


def test_a_snapshot_of_another_encoder_is_refused(tmp_path: Path) -> None:
    filled(10).save(tmp_path)
    for dimension, identity in ((DIMENSION, "model@2"), (DIMENSION * 2, MODEL)):
        with pytest.raises(CorruptSnapshot, match="another encoder"):
            DenseIndex.load(tmp_path, dimension, identity)


def test_usearch_and_onnxruntime_live_in_one_process() -> None:
    # Loaded in the other order, the second one takes the process down; a process of its own shows it.
    code = "import actors.search.dense, onnxruntime, usearch.index"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
