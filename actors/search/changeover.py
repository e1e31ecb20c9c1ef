"""Changeover: the vectors of another encoder beside those that are searched, until they can take their place at once.

An index cannot hold vectors of two encoders, and to be without any while they are read would cost every question its
meaning. So another dense index is filled with what the shelf holds, while the shelf goes on being searched and written
to; what is written meanwhile is noted, and made up for at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from actors.messages import Embeddings
from actors.search.dense import DenseIndex
from actors.search.shelf import Shelf

DOCUMENTS: Final = 100
"""Documents whose vectors are asked of the store at once."""

COMMIT_CHUNKS: Final = 4096
"""Vectors added to the index together."""


class Changeover:
    """From the dense index of a shelf to another one.

    `batches` and `load` may run in another thread than the shelf's own; the rest belongs to that.

    Args:
        shelf: is left as it is.
        dense: empty; becomes the index of the new one.
    """

    def __init__(self, shelf: Shelf, dense: DenseIndex) -> None:
        self._shelf = shelf
        self._dense = dense
        # In the order of their entries, because an index takes them so.
        self._held = dict(sorted(shelf.entries().items(), key=lambda item: item[1].start))
        self._since: dict[str, Embeddings | None] = {}
        self._waiting = 0

    @property
    def identity(self) -> str:
        """Of the encoder whose vectors come."""
        return self._dense.identity

    def batches(self) -> Iterator[list[str]]:
        """Ids of the documents whose vectors are wanted, in the order in which `load` wants them."""
        names = list(self._held)
        for start in range(0, len(names), DOCUMENTS):
            yield names[start : start + DOCUMENTS]

    def load(self, batch: list[str], made: Mapping[str, Embeddings]) -> None:
        """Take the vectors of a batch in; a document without, or with others than its chunks, stays without."""
        for name in batch:
            entries, embeddings = self._held[name], made.get(name)
            if embeddings is not None and self._fits(entries, embeddings):
                self._dense.add(entries, embeddings.array)
                self._waiting += len(entries)
        if self._waiting >= COMMIT_CHUNKS:
            self._commit()

    def note(self, document_id: str, embeddings: Embeddings | None) -> None:
        """A document was put into the shelf with these vectors, or removed from it."""
        self._since[document_id] = embeddings

    def finish(self) -> Shelf:
        """The shelf with the other index; call it once all batches are in."""
        now = self._shelf.entries()
        changed = [(now[name], name) for name in self._since if name in now]
        for name in self._since:
            if name in self._held:
                self._dense.remove(self._held[name])
        self._commit()
        for entries, name in sorted(changed, key=lambda item: item[0].start):
            embeddings = self._since[name]
            if embeddings is not None and self._fits(entries, embeddings):
                self._dense.add(entries, embeddings.array)
        self._commit()
        return self._shelf.with_dense(self._dense)

    def _fits(self, entries: range, embeddings: Embeddings) -> bool:
        return embeddings.encoder == self._dense.identity and len(embeddings) == len(entries)

    def _commit(self) -> None:
        self._dense.commit()
        self._waiting = 0
