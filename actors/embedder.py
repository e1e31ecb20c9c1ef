"""Embedder: sees to it, in the background, that every published chunk has a vector and that the fast encoder is fresh.

It belongs to the role that ingests, of which there is one, so nothing is done twice. Nobody waits for it: chunks are
found by their words until their vectors come, and questions are encoded exactly until there is a fast encoder. When
the encoder is changed, all chunks are embedded anew in this way, while the vectors of the one before go on serving;
only then is it told, by the change log, that the new one serves, and the old vectors are removed.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from actors.deadline import Deadline
from actors.errors import GatherumError
from actors.messages import SERVING, Fitted, PageChunks
from config import logs
from config.settings import EncoderSettings

if TYPE_CHECKING:
    from actors.database import Database
    from actors.pdf import Pdf

PAGES: Final = 16
"""Pages embedded by one task, and stored together."""

CALL_S: Final = 30.0
"""Budget of a call to the store, s."""

TASK_S: Final = 900.0
"""Budget of a task, s: those of documents that are read may come first."""

FIRST_CHUNKS: Final = 1
"""Chunks that a fast encoder is first fitted to: its prior knows something of every piece. What a fit to few chunks is
worth is in docs/benchmarks.md."""

FIRST_REMOTE_CHUNKS: Final = 50
"""The same for an endpoint, whose imitation has no prior."""

GROWTH: Final = 2.0
"""Times as many chunks as at the last fit call for another one."""

MOST_CHUNKS: Final = 40_000
"""Chunks that are drawn for a fit: as many as it uses."""

UNEXPECTED: Final = "An unexpected error; the log has the details."

SAMPLE_PAGES: Final = 200
"""Pages asked of the store at once."""


class Embedder:
    """Works for ever, a step at a time.

    Args:
        database: the store.
        pdf: has the tasks.
        encoder: what chunks are embedded by.
        pause_s: time between two looks when there was nothing to do, s.
        sleep: waits for so many seconds.

    Attributes:
        trouble: why it waits though there is something to do; empty while it does not.
    """

    def __init__(
        self,
        database: Database,
        pdf: Pdf,
        encoder: EncoderSettings,
        *,
        pause_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._pdf = pdf
        self._encoder = encoder
        self._pause_s = pause_s
        self._sleep = sleep
        self._identity = ""
        self.trouble = ""

    async def run(self) -> None:
        """Never returns."""
        while True:
            try:
                busy = await self.step()
            except Exception as error:  # noqa: BLE001 -- whatever it is, it can wait
                busy = False
                self.trouble = error.detail if isinstance(error, GatherumError) else UNEXPECTED
                detail = error.detail if isinstance(error, GatherumError) else str(error)
                logs.get().warning("embedding_waits", kind=type(error).__name__, error=detail)
            else:
                self.trouble = ""
            if not busy:
                await self._sleep(self._pause_s)

    async def step(self) -> bool:
        """Do the next thing; whether there was one."""
        if not self._identity:
            self._identity = await self._pdf.encoder_identity(deadline=Deadline.after(TASK_S))
        if await self._embed():
            return True
        serving = await self._database.fitted(SERVING, deadline=Deadline.after(CALL_S))
        if serving is not None and serving.version == self._identity:
            return await self._forget() or await self._fit()
        try:
            # First, or questions would have nothing but the encoder itself until it is fitted.
            fitted = await self._fit()
        except GatherumError as error:
            logs.get().warning("fast_encoder_waits", error=error.detail)
            fitted = False
        return fitted or await self._serve()

    async def _serve(self) -> bool:
        """Have every index take up the vectors of this encoder: they are complete."""
        content = self._encoder.model_dump_json().encode()
        kept = Fitted(SERVING, self._identity, 0, content)
        await self._database.keep_fitted(kept, deadline=Deadline.after(CALL_S))
        logs.get().info("encoder_serves", encoder=self._identity)
        return True

    async def _embed(self) -> bool:
        pages = await self._database.unembedded(self._identity, PAGES, deadline=Deadline.after(CALL_S))
        if not pages:
            return False
        made = await self._pdf.embed(
            [page.chunks for page in pages], [page.title for page in pages], deadline=Deadline.after(TASK_S)
        )
        embedded = [dataclasses.replace(page, embeddings=each) for page, each in zip(pages, made, strict=True)]
        await self._database.add_vectors(embedded, deadline=Deadline.after(CALL_S))
        logs.get().debug("chunks_embedded", pages=len(pages), chunks=sum(len(page.chunks) for page in pages))
        return True

    async def _forget(self) -> bool:
        """Remove vectors of other encoders: nothing asks for them once this one serves."""
        return await self._database.forget_vectors(self._identity, deadline=Deadline.after(CALL_S)) > 0

    async def _fit(self) -> bool:
        name, prior_name = f"fast:{self._identity}", f"prior:{self._identity}"
        chunks = await self._database.embedded_chunks(self._identity, deadline=Deadline.after(CALL_S))
        before = await self._database.fitted(name, deadline=Deadline.after(CALL_S))
        first = FIRST_REMOTE_CHUNKS if self._encoder.kind == "remote" else FIRST_CHUNKS
        if chunks < first or (before is not None and chunks < GROWTH * before.chunks):
            return False
        pages = await self._sample(min(1.0, MOST_CHUNKS / chunks))
        if not pages:
            return False
        prior = await self._database.fitted(prior_name, known="", deadline=Deadline.after(CALL_S))
        version, content, learnt = await self._pdf.fit_encoder(
            pages, prior.content if prior else b"", deadline=Deadline.after(TASK_S)
        )
        if learnt and (prior is None or prior.content != learnt):
            kept = Fitted(prior_name, self._identity, 0, learnt)
            await self._database.keep_fitted(kept, deadline=Deadline.after(CALL_S))
        await self._database.keep_fitted(Fitted(name, version, chunks, content), deadline=Deadline.after(CALL_S))
        logs.get().info("fast_encoder_fitted", version=version, chunks=chunks)
        return True

    async def _sample(self, share: float) -> list[PageChunks]:
        pages: list[PageChunks] = []
        after: tuple[str, int, int] | None = None
        drawn = 0
        while drawn < MOST_CHUNKS:
            some = await self._database.vectors_sample(
                self._identity, share, after, SAMPLE_PAGES, deadline=Deadline.after(CALL_S)
            )
            if not some:
                break
            pages += some
            drawn += sum(len(page.chunks) for page in some)
            after = (some[-1].sha256, some[-1].pipeline, some[-1].page)
        return pages
