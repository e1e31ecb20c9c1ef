"""From one encoder's vectors to another's, while the shelf is searched and written to."""

from __future__ import annotations

import numpy as np
from fakes import FakeEncoder, published
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.messages import PublishedDocument, Query
from actors.search.changeover import DOCUMENTS, Changeover
from actors.search.dense import DenseIndex
from actors.search.shelf import Shelf, Wanted

OLD, NEW = FakeEncoder(), FakeEncoder()
NEW.identity = "fake@2"
TEXTS = ("Titan is a moon.", "Knead the dough.", "A wing in the air.", "The oven and the moon.")


def shelf() -> Shelf:
    return Shelf(writer_memory_mb=15, max_query_terms=64, dense=DenseIndex(OLD.dimension, OLD.identity))


def document(name: str, count: int, encoder: FakeEncoder) -> PublishedDocument:
    return published(name, *(TEXTS[(ord(name[-1]) + number) % len(TEXTS)] for number in range(count)), encoder=encoder)


def loaded(changeover: Changeover, documents: dict[str, PublishedDocument]) -> None:
    for batch in changeover.batches():
        found = {name: documents[name].embeddings for name in batch if name in documents}
        changeover.load(batch, {name: made for name, made in found.items() if made is not None})


def kept(shelf: Shelf) -> dict[str, list[list[float]]]:
    """The vectors of each document's chunks."""
    dense = shelf._dense
    assert dense is not None
    return {
        name: dense.vectors(np.array(entries, np.int64)).round(2).tolist() for name, entries in shelf.entries().items()
    }


def test_the_shelf_before_goes_on_being_searched_with_its_own_vectors() -> None:
    before = shelf()
    before.put(document("d1", 2, OLD))
    before.commit()
    queries = OLD.vectors(["moon"])
    found = before.search_many([Wanted(Query("moon", mode="dense"))], queries)
    changeover = Changeover(before, DenseIndex(NEW.dimension, NEW.identity))
    loaded(changeover, {"d1": document("d1", 2, NEW)})
    after = changeover.finish()
    for one in (before, after):
        assert one.search_many([Wanted(Query("moon", mode="dense"))], queries) == found
    assert (before._dense and before._dense.identity, after._dense and after._dense.identity) == ("fake@1", "fake@2")
    assert (before.vectors, after.vectors) == (2, 2)
    # What is written to the new one from now on is of the new encoder.
    after.put(document("d2", 1, NEW))
    after.put(document("d3", 1, OLD))
    after.commit()
    assert (after.documents, after.vectors) == (3, 3)


def test_vectors_of_other_chunks_are_left_out() -> None:
    before = shelf()
    before.put(document("d1", 3, OLD))
    before.put(document("d2", 1, OLD))
    before.commit()
    changeover = Changeover(before, DenseIndex(NEW.dimension, NEW.identity))
    loaded(changeover, {"d1": document("d1", 2, NEW), "d2": document("d2", 1, OLD)})
    assert changeover.finish().vectors == 0


Changes = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=5)
"""Documents by name, each put in with so many chunks; with none it is removed."""


@settings(max_examples=25)  # each commits indexes on five occasions
@given(Changes, Changes, Changes, Changes)
def test_whatever_is_written_meanwhile_the_outcome_is_that_of_a_new_index(
    first: list[tuple[str, int]],
    early: list[tuple[str, int]],
    late: list[tuple[str, int]],
    after: list[tuple[str, int]],
) -> None:
    held = shelf()
    now: dict[str, PublishedDocument] = {}

    def write(changes: list[tuple[str, int]], encoder: FakeEncoder, changeover: Changeover | None = None) -> None:
        for name, count in changes:
            if count:
                made = document(name, count, encoder)
                held.put(made)
                now[name] = document(name, count, NEW)
            else:
                made = None
                held.remove(name)
                now.pop(name, None)
            if changeover:
                changeover.note(name, made.embeddings if made else None)
        held.commit()

    write(first, OLD)
    changeover = Changeover(held, DenseIndex(NEW.dimension, NEW.identity))
    write(early, NEW, changeover)
    loaded(changeover, now)
    write(late, NEW, changeover)
    held = changeover.finish()
    write(after, NEW)
    fresh = Shelf(writer_memory_mb=15, max_query_terms=64, dense=DenseIndex(NEW.dimension, NEW.identity))
    for each in now.values():
        fresh.put(each)
    fresh.commit()
    assert kept(held) == kept(fresh)
    assert held.vectors == fresh.vectors == sum(len(each.chunks) for each in now.values())


def test_many_documents_are_asked_for_in_batches_in_the_order_of_their_entries() -> None:
    held = shelf()
    names = [f"d{number:04}" for number in np.random.default_rng(0).permutation(DOCUMENTS + 5)]
    for name in names:
        held.put(published(name, "Titan.", encoder=OLD))
    held.commit()
    batches = list(Changeover(held, DenseIndex(NEW.dimension, NEW.identity)).batches())
    assert [len(batch) for batch in batches] == [DOCUMENTS, 5]
    assert [name for batch in batches for name in batch] == names
