"""The fast query encoder: that the fit is ridge regression, in one block or many, and that it survives storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.search import fast
from actors.search.encoder import Vectors, unit
from actors.search.fast import FastEncoder, fit

PIECES = 60
DIMENSION = 8


def corpus(count: int, seed: int = 0) -> tuple[list[list[int]], Vectors, Vectors]:
    """Texts of random pieces, vectors that are near the sum of hidden ones, and a prior near those."""
    chance = np.random.default_rng(seed)
    hidden = chance.normal(size=(PIECES, DIMENSION)).astype(np.float32)
    # Frequent pieces and rare ones, as words are.
    odds = 1 / np.arange(1, PIECES - 9)
    texts = [
        chance.choice(PIECES - 10, int(chance.integers(3, 12)), p=odds / odds.sum()).tolist() for _ in range(count)
    ]
    vectors = unit(np.array([hidden[text].sum(axis=0) for text in texts], np.float32))
    prior = hidden + chance.normal(size=hidden.shape).astype(np.float32)
    return texts, vectors, prior


def nearness(encoder: FastEncoder, texts: list[list[int]], vectors: Vectors) -> float:
    return float((encoder.encode(texts) * vectors).sum(axis=1).mean())


def test_it_imitates_better_than_the_prior_alone() -> None:
    texts, vectors, prior = corpus(400)
    encoder = fit(texts[:300], vectors[:300], prior, identity="m")
    weights = np.ones(PIECES, np.float32)
    alone = FastEncoder((prior - prior.mean(axis=0)).astype(np.float16), weights, identity="m", rows=0)
    assert nearness(encoder, texts[300:], vectors[300:]) > nearness(alone, texts[300:], vectors[300:]) + 0.02
    assert encoder.rows == 300


def test_the_fit_is_ridge_regression_around_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, vectors, prior = corpus(120)
    monkeypatch.setattr(fast, "COMMON", 15)  # so that both ways of storing are taken
    encoder = fit(texts, vectors, prior, identity="m")
    idf = encoder._idf
    bags = np.zeros((len(texts), PIECES))
    for row, text in enumerate(texts):
        np.add.at(bags[row], text, idf[text])
    bags /= np.linalg.norm(bags, axis=1, keepdims=True)
    start = prior - prior[bags.any(axis=0)].mean(axis=0)
    start = start * (np.vdot(bags @ start, vectors) / np.vdot(bags @ start, bags @ start))
    system = bags.T @ bags + fast.RIDGE * np.eye(PIECES)
    expected = start + np.linalg.solve(system, bags.T @ (vectors - bags @ start))
    assert encoder._table == pytest.approx(expected, abs=2e-3)


def test_many_blocks_come_to_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, vectors, prior = corpus(300)
    whole = fit(texts, vectors, prior, identity="m")
    monkeypatch.setattr(fast, "BLOCK", 40)
    monkeypatch.setattr(fast, "SETTLED", 1e-4)
    monkeypatch.setattr(fast, "SWEEPS", 100)
    parts = fit(texts, vectors, prior, identity="m")
    assert parts.encode(texts) == pytest.approx(whole.encode(texts), abs=5e-3)


def test_of_too_many_rows_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, vectors, prior = corpus(200)
    monkeypatch.setattr(fast, "MAX_ROWS", 50)
    assert fit(texts, vectors, prior, identity="m").rows == 50


def test_chunks_that_say_nothing_are_left_out() -> None:
    texts, vectors, prior = corpus(20)
    vectors[3] = 0
    encoder = fit([[], *texts[1:]], vectors, prior, identity="m")
    assert encoder.rows == 18


def test_an_empty_corpus_leaves_the_prior() -> None:
    _, _, prior = corpus(1)
    encoder = fit([], np.zeros((0, DIMENSION), np.float32), prior, identity="m")
    assert encoder.encode([[5]]) == pytest.approx(unit((prior - prior.mean(axis=0))[[5]]), abs=2e-3)


@given(st.lists(st.lists(st.integers(0, PIECES - 1), max_size=20), max_size=8))
def test_a_batch_is_its_texts_one_by_one(texts: list[list[int]]) -> None:
    _, _, prior = corpus(1)
    encoder = FastEncoder(prior.astype(np.float16), np.ones(PIECES, np.float32), identity="m", rows=0)
    batch = encoder.encode(texts)
    assert batch.shape == (len(texts), DIMENSION)
    for row, text in enumerate(texts):
        assert batch[row] == pytest.approx(encoder.encode([text])[0], abs=1e-5)
        assert float(np.linalg.norm(batch[row])) == pytest.approx(1.0 if text else 0.0, abs=1e-4)


def test_it_survives_storage_and_damage_does_not() -> None:
    texts, vectors, prior = corpus(30)
    encoder = fit(texts, vectors, prior, identity="m@1")
    content = encoder.to_bytes()
    again = FastEncoder.from_bytes(content)
    assert (again.version, again.identity, again.rows) == (encoder.version, "m@1", 30)
    assert (again.encode(texts) == encoder.encode(texts)).all()
    assert fit(texts[:29], vectors[:29], prior, identity="m@1").version != encoder.version
    half = len(content) // 2
    for harm in (b"", b"nothing", content[:-30], content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]):
        with pytest.raises(ValueError, match="fast encoder"):
            FastEncoder.from_bytes(harm)
