"""Embedding: the vectors of chunks, and what imitates their encoder, computed in tasks.

The encoder is loaded once in a worker's process. Whatever is wrong with it costs chunks only their vectors: they are
read, found by their words, and embedded later.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import numpy as np

from actors.messages import Chunk, Embeddings, PageChunks
from actors.search import encoder as encoders
from actors.search import fast
from config.settings import EncoderSettings

THREADS = 1
"""Of the encoder in a task: the tasks are what runs side by side."""


def identity(settings: EncoderSettings) -> str:
    """Of the encoder.

    Raises:
        Unavailable: it cannot be loaded.
    """
    return encoders.local(settings, threads=THREADS).identity


def embed(pages: Sequence[Sequence[Chunk]], settings: EncoderSettings) -> list[Embeddings]:
    """The vectors of the chunks of each page.

    Raises:
        Unavailable: the encoder cannot be loaded.
    """
    encoder = encoders.local(settings, threads=THREADS)
    # All at once: the encoder takes texts of a length together.
    vectors = encoder.vectors([chunk.wording for page in pages for chunk in page])
    ends = itertools.accumulate(len(page) for page in pages)
    return [
        Embeddings.of(encoder.identity, vectors[end - len(page) : end]) for page, end in zip(pages, ends, strict=True)
    ]


def fit(pages: Sequence[PageChunks], settings: EncoderSettings, prior: bytes) -> tuple[str, bytes, bytes]:
    """Fit a fast encoder to chunks and their vectors.

    Args:
        pages: with vectors of the encoder of the settings.
        settings: see there.
        prior: as this returned it before for the same encoder; empty if it never did.

    Returns:
        Version and content of the fast encoder, and the prior, which takes half a minute of a core to make.

    Raises:
        Unavailable: the encoder cannot be loaded.
    """
    encoder = encoders.local(settings, threads=THREADS)
    pieces = encoder.pieces
    start = _unpacked(prior, len(pieces), encoder.dimension)
    if start is None:
        start = fast.prior(encoder, pieces)
    texts = pieces.pieces([chunk.wording for page in pages for chunk in page.chunks])
    vectors = np.concatenate([page.embeddings.array for page in pages if page.embeddings]).astype(np.float32)
    made = fast.fit(texts, vectors, start, identity=encoder.identity)
    return made.version, made.to_bytes(), _packed(start)


_SHAPE = struct.Struct("<II")


def _packed(prior: fast.Floats) -> bytes:
    return _SHAPE.pack(*prior.shape) + prior.astype("<f2").tobytes()


def _unpacked(content: bytes, rows: int, dimension: int) -> fast.Floats | None:
    if len(content) != _SHAPE.size + 2 * rows * dimension or _SHAPE.unpack_from(content) != (rows, dimension):
        return None
    return np.frombuffer(content, "<f2", offset=_SHAPE.size).reshape(rows, dimension).astype(np.float32)
