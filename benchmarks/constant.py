"""The yardstick of `benchmarks/ask.py`: a plain route that takes the same question and returns a constant.

CONSTANT_BYTES=4000 uvicorn benchmarks.constant:app
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from fastapi.responses import Response

from serve.schemas import AskBody

app = FastAPI()
CONSTANT = b'"' + b"x" * (int(os.environ.get("CONSTANT_BYTES", "1000")) - 2) + b'"'


@app.post("/v1/ask")
async def ask(body: AskBody) -> Response:
    """Validate as the real route does, and answer."""
    return Response(CONSTANT, media_type="application/json")


@app.get("/ready")
async def ready() -> Response:
    """It is up."""
    return Response(b"ok")
