"""The indexes of a replica: built empty or loaded from a snapshot on its disk, and saved there.

A snapshot is only a cache. One that is damaged, or of another encoder, language or shard, is dropped with a warning,
and the indexes begin empty, to be filled from the store.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from actors.messages import Change, Fitted
from actors.search.placement import Shard
from config import logs
from config.settings import EgressSettings, EncoderSettings, RetrievalSettings

if TYPE_CHECKING:
    # Every process that knows the role would load the libraries of the indexes, 100 MB.
    from actors.search.changeover import Changeover
    from actors.search.encoder import Encoder
    from actors.search.queries import QueryEncoder
    from actors.search.shelf import Shelf
    from actors.search.snapshots import Snapshot, Snapshots

SNAPSHOT_SHARE: Final = 20
"""Times as long as writing a snapshot takes nothing is written after it: so that is at most a twentieth of the time."""


@dataclass(frozen=True, slots=True)
class Index:
    """What a replica searches with.

    Attributes:
        shelf: the chunks.
        queries: encodes queries; None where all go by words alone.
        trouble: why they do though they should not; empty for nothing.
        snapshot: what the shelf was loaded from; None for an empty one.
    """

    shelf: Shelf
    queries: QueryEncoder | None
    trouble: str = ""
    snapshot: Snapshot | None = None

    @property
    def identity(self) -> str:
        """Of the encoder whose vectors are held; empty for none."""
        return self.queries.identity if self.queries else ""


class Indexes:
    """Where a replica's indexes come from and are saved to.

    Args:
        settings: see `config/settings.py`.
        encoder: what the vectors of chunks are made by.
        egress: what the address of an encoder that is an endpoint must be allowed by; None for what is public.
        folder: for snapshots, of all replicas on this machine; None for none.
        shard: whose documents they hold.
        clock: seconds from some moment on.

    Attributes:
        saved: number of the last change in the snapshot; 0 without one.
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        encoder: EncoderSettings,
        *,
        egress: EgressSettings | None,
        folder: Path | None,
        shard: Shard,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._encoder = encoder
        self._egress = egress
        # A place for each: a replica that found the snapshot of another shard would throw it away.
        self._folder = folder / str(shard).replace(" ", "-") if folder and shard.of > 1 else folder
        self._shard = shard
        self._clock = clock
        self._languages = dict(entry.split("=", 1) for entry in settings.languages)
        self._snapshots: Snapshots | None = None
        self.saved = 0
        self._save_at = 0.0
        self._log = logs.get()

    def language(self, collection: str) -> str:
        """Of a collection."""
        return self._languages.get(collection, self._settings.language)

    def close(self) -> None:
        """Give the place on the disk back."""
        if self._snapshots is not None:
            self._snapshots.close()

    def opened(self, serving: Fitted | None) -> tuple[QueryEncoder | None, str]:
        """See `serving.opened`. Runs in a thread."""
        from actors.search.serving import opened

        queries, trouble = opened(self._encoder, serving, self._settings, self._egress)
        if trouble:
            self._log.warning("no_encoder", error=trouble)
        return queries, trouble

    def changeover(self, index: Index, queries: QueryEncoder) -> Changeover:
        """What takes the vectors of another encoder in beside those that are held. Runs in a thread."""
        from actors.search.changeover import Changeover
        from actors.search.dense import DenseIndex

        dense = DenseIndex(queries.dimension, queries.identity, exact_below=self._settings.exact_below)
        return Changeover(index.shelf, dense)

    def build(self, serving: Fitted | None, *, fresh: bool = False) -> Index:
        """Load libraries, the encoder with its tokenizer, and, unless a fresh index is wanted, the snapshot.

        Runs in a thread.
        """
        from actors.search.dense import CorruptSnapshot

        queries, trouble = self.opened(serving)
        encoder = queries.encoder if queries else None
        snapshot = None if fresh else self._find_snapshot(encoder.identity if encoder else "")
        if snapshot is not None:
            try:
                return Index(self._shelf(encoder, snapshot), queries, trouble, snapshot)
            except (CorruptSnapshot, OSError, ValueError, KeyError, TypeError) as error:
                self._log.warning("snapshot_discarded", reason=str(error))
        return Index(self._shelf(encoder), queries, trouble)

    def _find_snapshot(self, encoder: str) -> Snapshot | None:
        from actors.search.dense import CorruptSnapshot
        from actors.search.snapshots import Snapshots

        if self._folder is None:
            return None
        try:
            self._snapshots = self._snapshots or Snapshots(self._folder)
            return self._snapshots.newest(self._fingerprint(encoder))
        except OSError as error:
            self._log.warning("no_snapshots", error=str(error))
        except CorruptSnapshot as error:
            self._log.warning("snapshot_discarded", reason=str(error))
        return None

    def _fingerprint(self, encoder: str) -> dict[str, Any]:
        """What the indexes depend on besides the rows of the store."""
        languages = {"": self._settings.language, **self._languages}
        shard = (self._shard.number, self._shard.of)
        return {"encoder": encoder, "languages": languages, "shard": list(shard)}

    def _shelf(self, encoder: Encoder | None, snapshot: Snapshot | None = None) -> Shelf:
        from actors.search.dense import DenseIndex
        from actors.search.shelf import DENSE, Shelf

        settings = self._settings
        dense = None
        if encoder is not None:
            about = (encoder.dimension, encoder.identity)
            dense = (
                DenseIndex.load(snapshot.folder / DENSE, *about, exact_below=settings.exact_below)
                if snapshot
                else DenseIndex(*about, exact_below=settings.exact_below)
            )
        options: dict[str, Any] = {
            "writer_memory_mb": settings.writer_memory_mb,
            "max_query_terms": settings.max_query_terms,
            "dense": dense,
            "languages": tuple(dict.fromkeys([settings.language, *self._languages.values()])),
            "folder": self._snapshots.work() if self._snapshots else None,
            "k1": settings.k1,
            "b": settings.b,
            "shared": self._shard.of > 1,
        }
        return Shelf.load(snapshot.folder, snapshot.account, **options) if snapshot else Shelf(**options)

    def due(self, change: int) -> bool:
        """Whether a snapshot is to be written, where the last change is that one."""
        return self._snapshots is not None and change > self.saved and self._clock() >= self._save_at

    def save(self, index: Index, last: Change) -> None:
        """Write a snapshot. Runs in the writing thread, so that nothing changes meanwhile."""
        if self._snapshots is None:
            return
        began = self._clock()
        try:
            folder = self._snapshots.begin()
            account = index.shelf.save(folder)
            fingerprint = self._fingerprint(index.identity)
            self._snapshots.finish(folder, change=last, account=account, fingerprint=fingerprint)
        except OSError as error:
            self._log.warning("snapshot_not_written", error=str(error))
        else:
            self.saved = last.number
            keep_for_good()
            self._log.debug("snapshot_written", change=self.saved, seconds=round(self._clock() - began, 3))
        took = self._clock() - began
        self._save_at = self._clock() + max(self._settings.snapshot_s, SNAPSHOT_SHARE * took)


def keep_for_good() -> None:
    """Take what there is out of the garbage collector's sight: it would look through 100,000 documents for 30 ms."""
    gc.collect()
    gc.freeze()
