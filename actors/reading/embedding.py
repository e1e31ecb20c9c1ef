"""Embedding: the vectors of chunks, and what imitates their encoder, computed in tasks.

The encoder is loaded once in a worker's process. Whatever is wrong with it costs chunks only their vectors: they are
read, found by their words, and embedded later.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Sequence

import numpy as np

from actors.errors import Unavailable
from actors.messages import Chunk, Embeddings, PageChunks
from actors.search import encoder as encoders
from actors.search import fast, wordpieces
from actors.search.encoder import OnnxEncoder, Vectors
from config.settings import EncoderSettings

THREADS = 1
"""Of the encoder in a task: the tasks are what runs side by side."""


def load(settings: EncoderSettings) -> OnnxEncoder:
    """The encoder of this process.

    Raises:
        Unavailable: it cannot be loaded.
    """
    return encoders.local(settings, threads=THREADS)


def embed(
    pages: Sequence[Sequence[Chunk]], titles: Sequence[str], settings: EncoderSettings, expected: str = ""
) -> list[Embeddings]:
    """The vectors of the chunks of each page.

    Args:
        pages: their chunks.
        titles: of the document of each page; empty for none.
        settings: of an encoder that runs here.
        expected: identity that it must have; empty for any.

    Raises:
        Unavailable: the encoder cannot be loaded, or is another one than elsewhere.
    """
    encoder = load(settings)
    if expected and encoder.identity != expected:
        raise Unavailable(
            f"The encoder on {socket.gethostname()} is {encoder.identity}, not {expected}: its files must be the same "
            "on every node."
        )
    # All at once: the encoder takes texts of a length together.
    return dealt(encoder.identity, pages, encoder.vectors(wordings(pages, titles)))


def wordings(pages: Sequence[Sequence[Chunk]], titles: Sequence[str]) -> list[str]:
    """What an encoder makes vectors of: the chunks of all pages, one after the other, each below its document's title.

    A chunk seldom says what the whole is about. Measured (nDCG@10 of hybrid exact, without and with): cranfield 0.395 /
    0.417, cacm 0.536 / 0.548.
    """
    return [
        f"{title}\n{chunk.wording}" if title else chunk.wording
        for page, title in zip(pages, titles, strict=True)
        for chunk in page
    ]


def dealt(identity: str, pages: Sequence[Sequence[Chunk]], vectors: Vectors) -> list[Embeddings]:
    """The vectors of all chunks, dealt out to their pages."""
    ends = itertools.accumulate(len(page) for page in pages)
    return [Embeddings.of(identity, vectors[end - len(page) : end]) for page, end in zip(pages, ends, strict=True)]


def fit(pages: Sequence[PageChunks], settings: EncoderSettings, prior: bytes) -> tuple[str, bytes, bytes]:
    """Fit a fast encoder to chunks and their vectors.

    Args:
        pages: with vectors of the encoder of the settings.
        settings: see there.
        prior: as this returned it before for the same encoder; empty if it never did.

    Returns:
        Version and content of the fast encoder, and the prior, which takes half a minute of a core to make; empty
        where there is none.

    Raises:
        Unavailable: the encoder cannot be loaded.
    """
    embedded = [page.embeddings for page in pages if page.embeddings]
    vectors = np.concatenate([each.array for each in embedded]).astype(np.float32)
    if settings.kind == "remote":
        # Its vectors of 30,522 pieces would be too many requests, so nothing is known of a piece that no chunk has.
        pieces, identity, learnt = wordpieces.default(), embedded[0].encoder, b""
        start = np.zeros((len(pieces), vectors.shape[1]), np.float32)
    else:
        encoder = load(settings)
        pieces, identity = encoder.pieces, encoder.identity
        known = _unpacked(prior, len(pieces), encoder.dimension)
        start = fast.prior(encoder, pieces) if known is None else known
        learnt = _packed(start)
    texts = pieces.pieces(wordings([page.chunks for page in pages], [page.title for page in pages]))
    made = fast.fit(texts, vectors, start, identity=identity)
    return made.version, made.to_bytes(), learnt


_SHAPE = struct.Struct("<II")


def _packed(prior: fast.Floats) -> bytes:
    return _SHAPE.pack(*prior.shape) + prior.astype("<f2").tobytes()


def _unpacked(content: bytes, rows: int, dimension: int) -> fast.Floats | None:
    if len(content) != _SHAPE.size + 2 * rows * dimension or _SHAPE.unpack_from(content) != (rows, dimension):
        return None
    return np.frombuffer(content, "<f2", offset=_SHAPE.size).reshape(rows, dimension).astype(np.float32)
