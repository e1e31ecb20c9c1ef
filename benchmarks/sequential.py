"""What `benchmarks/overload.py` is held against: the same answers by a pipeline written synchronously, step after step.

Same store, indexes, vectors, names, choice of sentences and JSON, in one process: FastAPI with plain `def` handlers in
its default pool of 40 threads, each question by itself. Questions are encoded by the fast encoder, as in a crowd.

    GATHERUM_DATA_DIR=LIBRARY uvicorn benchmarks.sequential:app
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.responses import Response

from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.messages import Answer, Branch, Passage, Query
from actors.retrieval import Retriever
from actors.search.answer import choose, text_of
from actors.search.encoding import encode_answer
from actors.search.shelf import Wanted
from actors.store.blobs import Folder
from config import logs
from config.settings import load
from serve.schemas import AskBody

FILL_S = 300.0
SETTINGS = load()


@asynccontextmanager
async def _filled(app: FastAPI) -> AsyncIterator[None]:
    """The roles serve only to fill the indexes, and to follow the store as they do elsewhere."""
    logs.configure(SETTINGS.logs, role="sequential")
    blobs = Folder(SETTINGS.data_dir / "blobs")
    database = Database(
        SETTINGS.database, SETTINGS.sources, SETTINGS.blobs, url=SETTINGS.database_url, blobs=blobs, max_attempts=1
    )
    await database.start()
    # A folder of its own: a replica's snapshot is its own.
    folder = Path(os.environ.get("SEQUENTIAL_FOLDER", SETTINGS.data_dir / "sequential"))
    retriever = Retriever(SETTINGS.retrieval, SETTINGS.encoder, database, folder=folder)
    entities = Entities(SETTINGS.entities, database)
    await retriever.start()
    await entities.start()
    await retriever.search_many([Query("flow")], deadline=Deadline.after(FILL_S))
    await entities.link_many(["flow"], deadline=Deadline.after(FILL_S))
    while not retriever._follower.built.queries or not retriever._follower.built.queries.fast_version:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    app.state.index, app.state.phrases = retriever._follower.built, entities._phrases
    yield
    await entities.stop()
    await retriever.stop()
    await database.stop()


app = FastAPI(lifespan=_filled)
_one = threading.Lock()  # the index is searched by one thread at a time


@app.post("/v1/ask")
def ask(body: AskBody) -> Response:
    """Answer a question, step after step."""
    began = time.time()
    index: Any = app.state.index
    names = app.state.phrases.find(body.question)
    linked = time.time()
    queries = index.queries
    with _one:
        vectors = queries._fast.encode(queries.encoder.pieces.pieces([body.question]))
        wanted = Wanted(
            Query(body.question, limit=body.limit),
            None,
            SETTINGS.retrieval.lexical_weight,
            SETTINGS.retrieval.fast_weight,
        )
        found: list[Passage] | Exception = index.shelf.search_many([wanted], vectors)[0]
    if isinstance(found, Exception):
        raise HTTPException(503, str(found))
    searched = time.time()
    chosen = choose(body.question, found, (), names, limit=SETTINGS.orchestrator.sentences)
    branches = (
        Branch("entities", "ok", 0.0, 1000 * (linked - began)),
        Branch("retrieval", "ok", 1000 * (linked - began), 1000 * (searched - linked)),
    )
    answer = Answer(
        request_id="0" * 16,
        question=body.question,
        text=text_of(chosen),
        mode="extractive",
        sentences=chosen,
        passages=tuple(found),
        rows=(),
        entities=names,
        branches=branches,
        partial=False,
        degraded=(),
        elapsed_ms=1000 * (time.time() - began),
        encoder="fast",
    )
    return Response(encode_answer(answer), media_type="application/json")


@app.get("/ready")
def ready() -> Response:
    """It is up."""
    return Response(b"ok")
