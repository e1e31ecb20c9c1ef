"""The embedder over a real store and a stand-in for tasks: what it does, in which order, and when it rests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEncoder, page_reading
from stores import DEFAULTS, open_database, publish, soon
from structlog.testing import capture_logs

from actors import embedder as module
from actors.database import Database
from actors.deadline import Deadline
from actors.embedder import Embedder
from actors.errors import Unavailable
from actors.messages import SERVING, Chunk, Embeddings, PageChunks
from actors.reading import embedding
from actors.search import encoder as encoders
from actors.search import fast
from actors.search.fast import FastEncoder


class FakeTasks:
    """The part of the Pdf role that is called."""

    def __init__(self, encoder: FakeEncoder) -> None:
        self.encoder = encoder
        self.down: Exception | None = None
        self.unfit: Exception | None = None
        self.priors: list[bytes] = []
        self.embedded = 0
        self.titles: list[str] = []

    async def encoder_identity(self, *, deadline: Deadline) -> str:
        return self.encoder.identity

    async def embed(self, pages: list[tuple[Chunk, ...]], titles: list[str], *, deadline: Deadline) -> list[Embeddings]:
        if self.down:
            raise self.down
        self.embedded += len(pages)
        self.titles += titles
        return embedding.embed(pages, titles, DEFAULTS.encoder)

    async def fit_encoder(
        self, pages: list[PageChunks], prior: bytes, *, deadline: Deadline
    ) -> tuple[str, bytes, bytes]:
        if self.unfit:
            raise self.unfit
        self.priors.append(prior)
        made = self.encoder.fast()
        return made.version, made.to_bytes(), b"prior"


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    fake = FakeEncoder()
    monkeypatch.setattr(encoders, "local", lambda settings, *, threads: fake)
    monkeypatch.setattr(module, "FIRST_CHUNKS", 3)
    return fake


async def steps(embedder: Embedder) -> int:
    count = 0
    while await embedder.step():
        count += 1
    return count


async def test_chunks_get_their_vectors_and_questions_their_fast_encoder(
    encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGES", 2)
    monkeypatch.setattr(module, "SAMPLE_PAGES", 2)
    tasks = FakeTasks(encoder)
    async with open_database(tmp_path) as database:
        embedder = Embedder(database, tasks, DEFAULTS.encoder, pause_s=60)  # type: ignore[arg-type]
        assert await steps(embedder) == 1
        serving = await database.fitted(SERVING, known="", deadline=soon())
        assert serving is not None
        assert (serving.version, json.loads(serving.content)["kind"]) == ("fake@1", "minilm")
        await publish(database, tmp_path, [page_reading(1), page_reading(2)], b"one")
        assert await steps(embedder) == 1
        assert await database.fitted("fast:fake@1", deadline=soon()) is None
        await publish(database, tmp_path, [page_reading(1), page_reading(2), page_reading(3)], b"two")
        assert await steps(embedder) == 3
        assert tasks.embedded == 5
        kept = await database.fitted("fast:fake@1", known="", deadline=soon())
        assert kept is not None
        assert (kept.version, kept.chunks) == (encoder.fast().version, 5)
        assert FastEncoder.from_bytes(kept.content).identity == "fake@1"
        # Not before the corpus has doubled; and the prior is made once.
        pages = [page_reading(number) for number in range(1, 6)]
        await publish(database, tmp_path, pages[:4], b"three")
        assert await steps(embedder) == 2
        await publish(database, tmp_path, pages[:1], b"four")
        assert await steps(embedder) == 2
        assert tasks.priors == [b"", b"prior"]


async def test_another_encoder_serves_once_it_has_embedded_everything(
    encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGES", 1)

    async def state(database: Database) -> tuple[str, int, int]:
        serving = await database.fitted(SERVING, deadline=soon())
        old, new = [await database.embedded_chunks(name, deadline=soon()) for name in ("fake@1", "fake@2")]
        return serving.version if serving else "", old, new

    async with open_database(tmp_path) as database:
        pages = [page_reading(number) for number in range(1, 4)]
        await publish(database, tmp_path, pages, b"one")
        await steps(Embedder(database, FakeTasks(encoder), DEFAULTS.encoder, pause_s=60))  # type: ignore[arg-type]
        assert await database.fitted("fast:fake@1", deadline=soon()) is not None
        before = await database.last_change(deadline=soon())
        encoder.identity = "fake@2"
        # Each step by another one, as after a restart.
        seen = []
        for _ in range(6):
            embedder = Embedder(database, FakeTasks(encoder), DEFAULTS.encoder, pause_s=60)  # type: ignore[arg-type]
            assert await embedder.step()
            seen.append(await state(database))
        assert not await embedder.step()
        assert seen == [
            ("fake@1", 3, 1),
            ("fake@1", 3, 2),
            ("fake@1", 3, 3),
            ("fake@1", 3, 3),  # the fast encoder comes first
            ("fake@2", 3, 3),
            ("fake@2", 0, 3),
        ]
        # Nothing was published: every index takes the vectors up when it hears of the encoder.
        told = await database.changes(before, 0.0, 100, deadline=soon())
        assert {change.kind for change in told} == {"encoder"}
        assert await database.fitted("fast:fake@1", deadline=soon()) is None
        assert await database.fitted("fast:fake@2", deadline=soon()) is not None


async def test_a_single_chunk_has_its_fast_encoder_but_not_that_of_an_endpoint(
    encoder: FakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(encoders, "local", lambda settings, *, threads: encoder)
    remote = DEFAULTS.encoder.model_copy(update={"kind": "remote"})
    async with open_database(tmp_path) as database:
        await publish(database, tmp_path, [page_reading(1)])
        tasks = FakeTasks(encoder)
        await steps(Embedder(database, tasks, remote, pause_s=60))  # type: ignore[arg-type]
        assert tasks.priors == []
        await steps(Embedder(database, tasks, DEFAULTS.encoder, pause_s=60))  # type: ignore[arg-type]
        assert tasks.priors == [b""]


async def test_a_fast_encoder_that_cannot_be_fitted_does_not_hold_up_the_encoder(
    encoder: FakeEncoder, tmp_path: Path
) -> None:
    tasks = FakeTasks(encoder)
    tasks.unfit = Unavailable("Fitting crashed.")
    async with open_database(tmp_path) as database:
        await publish(database, tmp_path, [page_reading(number) for number in range(1, 4)])
        embedder = Embedder(database, tasks, DEFAULTS.encoder, pause_s=60)  # type: ignore[arg-type]
        assert await embedder.step()
        with capture_logs() as lines:
            assert await embedder.step()
        assert [line["event"] for line in lines] == ["fast_encoder_waits", "encoder_serves"]
        # From then on it is what the embedder waits for, and says so.
        with pytest.raises(Unavailable):
            await embedder.step()


async def test_what_fails_is_tried_again_after_a_pause(encoder: FakeEncoder, tmp_path: Path) -> None:
    tasks = FakeTasks(encoder)
    tasks.down = Unavailable("No page tasks.")
    pauses: list[float] = []
    troubles: list[str] = []
    async with open_database(tmp_path) as database:
        await publish(database, tmp_path, [page_reading(1)])

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            troubles.append(embedder.trouble)
            tasks.down = None
            if len(pauses) == 2:
                raise asyncio.CancelledError

        embedder = Embedder(database, tasks, DEFAULTS.encoder, pause_s=60, sleep=sleep)  # type: ignore[arg-type]
        with capture_logs() as lines, pytest.raises(asyncio.CancelledError):
            await embedder.run()
        assert await database.unembedded("fake@1", 10, deadline=soon()) == []
    assert pauses == [60, 60]
    assert troubles == ["No page tasks.", ""]
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [(line["event"], line["error"]) for line in warnings] == [("embedding_waits", "No page tasks.")]


def test_a_fit_uses_its_prior_and_gives_it_back(encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    start = np.zeros((len(encoder.pieces), encoder.dimension), np.float32)
    start[:, 0] = np.linspace(0, 1, len(start))

    def prior(used: Any, pieces: Any) -> Any:
        made.append(1)
        return start

    monkeypatch.setattr(fast, "prior", prior)
    texts = ["Titan is a moon.", "Heat the oven.", "A wing in the flow."]
    chunks = tuple(Chunk(1, n, 0, len(text), text, page_reading(1).page.words) for n, text in enumerate(texts))
    [embedded] = embedding.embed([chunks], [""], DEFAULTS.encoder)
    pages = [PageChunks("a" * 64, 1, 1, chunks, embedded)]
    version, content, kept = embedding.fit(pages, DEFAULTS.encoder, b"")
    again = embedding.fit(pages, DEFAULTS.encoder, kept)
    assert made == [1]
    assert again[2] == kept
    assert embedding.fit(pages, DEFAULTS.encoder, b"something else")[0] == version
    assert made == [1, 1]
    fitted = FastEncoder.from_bytes(content)
    assert fitted.version == version
    pieces: Callable[[list[str]], Any] = encoder.pieces.pieces
    near = fitted.encode(pieces(["moon"])) @ encoder.vectors(texts).T
    assert int(near.argmax()) == 0


def test_an_encoder_that_differs_from_node_to_node_embeds_nothing(encoder: FakeEncoder) -> None:
    chunks = page_reading(1).chunks
    with pytest.raises(Unavailable, match="same on every node"):
        embedding.embed([chunks], [""], DEFAULTS.encoder, "fake@2")
    assert embedding.embed([chunks], [""], DEFAULTS.encoder, "fake@1")[0].encoder == "fake@1"


def test_an_imitation_of_an_endpoint_knows_what_the_chunks_say() -> None:
    fake = FakeEncoder()
    texts = ["Titan is a moon.", "Heat the oven.", "A wing in the flow."]
    chunks = tuple(Chunk(1, n, 0, len(text), text, page_reading(1).page.words) for n, text in enumerate(texts))
    made = Embeddings.of("remote:m/3", fake.vectors(texts))
    settings = DEFAULTS.encoder.model_copy(update={"kind": "remote", "model": "m", "dimension": 3})
    _, content, prior = embedding.fit([PageChunks("a" * 64, 1, 1, chunks, made)], settings, b"")
    fitted = FastEncoder.from_bytes(content)
    assert (fitted.identity, prior) == ("remote:m/3", b"")
    near = fitted.encode(fake.pieces.pieces(["the oven"])) @ made.array.T
    assert int(near.argmax()) == 1


async def test_chunks_stand_below_the_title_that_a_document_has_of_its_own(
    encoder: FakeEncoder, tmp_path: Path
) -> None:
    tasks = FakeTasks(encoder)
    async with open_database(tmp_path) as database:
        await publish(database, tmp_path, [page_reading(1)], b"one", title="Moons of Saturn")
        await publish(database, tmp_path, [page_reading(1)], b"two", filename="scan.pdf")
        await steps(Embedder(database, tasks, DEFAULTS.encoder, pause_s=60))  # type: ignore[arg-type]
        sample = await database.vectors_sample("fake@1", 1.0, None, 10, deadline=soon())
    assert sorted(tasks.titles) == sorted(page.title for page in sample) == ["", "Moons of Saturn"]
    text = page_reading(1).chunks[0].text
    assert embedding.wordings([page_reading(1).chunks] * 2, ["Moons", ""]) == [f"Moons\n{text}", text]
