"""Encoders over a real store: an endpoint on loopback that goes away and comes back, and one that is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEncoder, page_reading
from stores import DEFAULTS, open_database, publish, soon

from actors import embedder as embedding_work
from actors.database import Database
from actors.deadline import Deadline
from actors.embedder import Embedder
from actors.messages import SERVING, Chunk, Embeddings, Found, PageChunks, Query
from actors.pdf import Pdf
from actors.reading import embedding
from actors.retrieval import Retriever
from actors.search import models
from actors.search.wordpieces import default
from config.settings import EncoderSettings

KEY = "sk-of-the-test"
TEXTS = ("Titan is a moon of Saturn.", "Knead the dough and heat it.", "An aircraft in a stream of air.")


class Endpoint:
    """A server like OpenAI's whose model knows three subjects; it can be stopped, and started at the same port."""

    def __init__(self) -> None:
        self.port = 0
        self.asked: list[list[str]] = []
        self._server: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []

    def start(self) -> None:
        endpoint, model = self, FakeEncoder()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                endpoint._connections.append(self.connection)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                known = self.path == "/v1/embeddings" and self.headers["authorization"] == f"Bearer {KEY}"
                endpoint.asked.append(body["input"])
                rows = model.vectors(body["input"]).tolist()
                data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
                answer = json.dumps({"data": data, "model": body["model"]}).encode()
                self.send_response(200 if known else 401)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    @property
    def settings(self) -> EncoderSettings:
        about = {"kind": "remote", "model": "three", "dimension": 3, "key_env": "GATHERUM_TEST_KEY"}
        return DEFAULTS.encoder.model_copy(update={**about, "url": f"http://127.0.0.1:{self.port}/v1"})

    @property
    def egress(self) -> Any:
        return DEFAULTS.egress.model_copy(update={"allow_hosts": (f"127.0.0.1:{self.port}",)})


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("GATHERUM_TEST_KEY", KEY)
    started = Endpoint()
    started.start()
    yield started
    started.stop()


class InThisProcess:
    """What the Pdf role does with a local encoder, without tasks."""

    def __init__(self, settings: EncoderSettings) -> None:
        self._settings = settings

    async def encoder_identity(self, *, deadline: Deadline) -> str:
        return await asyncio.to_thread(models.identity, self._settings)

    async def embed(self, pages: list[tuple[Chunk, ...]], titles: list[str], *, deadline: Deadline) -> list[Embeddings]:
        return await asyncio.to_thread(embedding.embed, pages, titles, self._settings)

    async def fit_encoder(
        self, pages: list[PageChunks], prior: bytes, *, deadline: Deadline
    ) -> tuple[str, bytes, bytes]:
        raise AssertionError("too few chunks for a fit")


@asynccontextmanager
async def searching(
    database: Database, endpoint: Endpoint, encoder: EncoderSettings, folder: Path | None = None
) -> AsyncIterator[Retriever]:
    settings = DEFAULTS.retrieval.model_copy(update={"writer_memory_mb": 15, "poll_s": 0.1, "snapshot_s": 0.1})
    retriever = Retriever(settings, encoder, database, egress=endpoint.egress, folder=folder)
    await retriever.start()
    try:
        await followed(database, retriever)
        yield retriever
    finally:
        await retriever.stop()


async def followed(database: Database, retriever: Retriever) -> None:
    await retriever.caught_up(await database.last_change(deadline=soon()), deadline=soon())


async def ask(retriever: Retriever, text: str) -> Found:
    [found] = await retriever.search_many([Query(text)], deadline=soon())
    assert isinstance(found, Found), found
    return found


async def eventually(condition: Callable[[], Any], what: str) -> None:
    for _ in range(600):
        if await condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"waited 30 s for {what}")


async def finish(embedder: Embedder) -> None:
    while await embedder.step():
        pass


async def test_an_endpoint_that_goes_away_leaves_the_words_until_it_is_back(endpoint: Endpoint, tmp_path: Path) -> None:
    settings = endpoint.settings
    pdf = Pdf(DEFAULTS.pdf, DEFAULTS.entities, settings, DEFAULTS.logs, egress=endpoint.egress)
    async with open_database(tmp_path) as database:
        embedder = Embedder(database, pdf, settings, pause_s=60)
        for number, text in enumerate(TEXTS):
            await publish(database, tmp_path, [page_reading(1, text)], f"file {number}".encode())
        await finish(embedder)
        assert endpoint.asked == [list(endpoint.asked[0])]
        assert sorted(endpoint.asked[0]) == sorted(TEXTS)
        async with searching(database, endpoint, settings) as retriever:
            found = await ask(retriever, "satellite")
            assert (found.encoder, found.degraded) == ("exact", "")
            assert found.passages[0].text == TEXTS[0]

            await asyncio.to_thread(endpoint.stop)
            found = await ask(retriever, "dough")
            assert found.passages[0].text == TEXTS[1]
            assert found.encoder is None
            assert "by their words alone: The embeddings endpoint cannot be reached" in found.degraded
            assert "cannot be reached" in (await retriever.health(deadline=soon())).detail["trouble"]["vectors"]
            # Documents are published all the same, and embedded later.
            await publish(database, tmp_path, [page_reading(1, "The oven is hot.")], b"file 4")
            with pytest.raises(Exception, match="cannot be reached"):
                await embedder.step()
            await followed(database, retriever)
            assert (await ask(retriever, "hot")).passages[0].text == "The oven is hot."
            assert "cannot be reached" in (await pdf.health(deadline=soon())).detail["trouble"]["vectors of documents"]

            await asyncio.to_thread(endpoint.start)

            async def well() -> bool:
                states = [await role.health(deadline=soon()) for role in (retriever, pdf)]
                return not any(state.detail["trouble"] for state in states)

            await eventually(well, "the probes to find it")
            await finish(embedder)
            await followed(database, retriever)
            found = await ask(retriever, "bread")
            assert (found.encoder, found.degraded) == ("exact", "")
            assert {passage.text for passage in found.passages[:2]} == {TEXTS[1], "The oven is hot."}
            for state in (found, await retriever.health(deadline=soon()), await pdf.health(deadline=soon())):
                assert KEY not in repr(state)
    await pdf.stop()


async def test_questions_have_vectors_all_the_while_another_encoder_takes_over(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_work, "FIRST_CHUNKS", 1000)
    monkeypatch.setattr(embedding_work, "PAGES", 1)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(models.MINILM.path)
    default()._tokenizer.save(str(folder / "tokenizer.json"))
    old = endpoint.settings
    new = DEFAULTS.encoder.model_copy(update={"kind": "folder", "path": str(folder)})
    identity = models.identity(new)
    pdf = Pdf(DEFAULTS.pdf, DEFAULTS.entities, old, DEFAULTS.logs, egress=endpoint.egress)
    indexes = tmp_path / "indexes"

    async def asked(retriever: Retriever) -> None:
        found = await ask(retriever, "satellite orbit planet")
        assert (found.encoder, found.degraded) == ("exact", "")
        assert "dense" in found.passages[0].scores
        assert found.passages[0].text == TEXTS[0]

    async def all_the_while(retriever: Retriever, enough: asyncio.Event) -> int:
        times = 0
        while not enough.is_set():
            await asked(retriever)
            times += 1
        return times

    async with open_database(tmp_path) as database:
        for number, text in enumerate(TEXTS):
            await publish(database, tmp_path, [page_reading(1, text)], f"file {number}".encode())
        await finish(Embedder(database, pdf, old, pause_s=60))
        async with searching(database, endpoint, old, indexes) as retriever:
            await asked(retriever)
        # The settings are changed, and all is started again.
        tasks: Any = InThisProcess(new)
        async with searching(database, endpoint, new, indexes) as retriever:
            enough = asyncio.Event()
            asking = asyncio.create_task(all_the_while(retriever, enough))
            assert await Embedder(database, tasks, new, pause_s=60).step()
            assert await database.embedded_chunks(identity, deadline=soon()) == 1
            enough.set()
            assert await asking > 0
        # Stopped in the middle: what is done is not done again.
        async with searching(database, endpoint, new, indexes) as retriever:
            assert (await retriever.health(deadline=soon())).detail["encoder"] == "remote:three/3"
            enough = asyncio.Event()
            asking = asyncio.create_task(all_the_while(retriever, enough))
            embedder = Embedder(database, tasks, new, pause_s=60)
            for done in (2, 3):
                assert await embedder.step()
                assert await database.embedded_chunks(identity, deadline=soon()) == done
            serving = await database.fitted(SERVING, deadline=soon())
            assert serving is not None
            assert serving.version == "remote:three/3"
            await finish(embedder)

            async def over() -> bool:
                return bool((await retriever.health(deadline=soon())).detail["encoder"] == identity)

            await eventually(over, "the replica to change over")
            await asked(retriever)
            enough.set()
            assert await asking > 0
            assert await database.embedded_chunks("remote:three/3", deadline=soon()) == 0
            # The endpoint is not needed any more, and new documents have vectors of the new encoder.
            await asyncio.to_thread(endpoint.stop)
            await publish(database, tmp_path, [page_reading(1, "Bread is baked of flour.")], b"file 4")
            await finish(embedder)
            await followed(database, retriever)
            found = await ask(retriever, "a loaf from the bakery")
            assert found.passages[0].text == "Bread is baked of flour."
            assert (await retriever.health(deadline=soon())).detail["vectors"] == 4
    await pdf.stop()
