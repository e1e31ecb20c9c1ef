"""Answers and passages as JSON, in the form of the HTTP surface.

They are encoded once, where they are made; the entry point passes the bytes through untouched.
"""

from __future__ import annotations

import base64
import decimal
import functools
from typing import Any

import orjson

from actors.messages import Answer, Evidence, Found, Passage, Words

REMEMBERED_BOXES = 2048
"""Passages whose boxes are kept as JSON, about 5 KB each. Computing them takes longer (0.17 ms) than encoding all the
rest of an answer, and the passages that people ask for are few."""


def encode_answer(answer: Answer) -> bytes:
    """The JSON form of an answer.

    `passages` carry `boxes` in place of `words`. In rows, dates and times are ISO 8601, decimals are numbers where a
    double keeps every digit and strings elsewhere, and bytes are `{"base64": …}`.
    """
    return orjson.dumps(
        {
            "request_id": answer.request_id,
            "question": answer.question,
            "answer": {"text": answer.text, "mode": answer.mode, "sentences": answer.sentences},
            "passages": [_passage(passage) for passage in answer.passages],
            "rows": answer.rows,
            "entities": answer.entities,
            "branches": answer.branches,
            "partial": answer.partial,
            "degraded": answer.degraded,
            "elapsed_ms": round(answer.elapsed_ms, 3),
            "encoder": answer.encoder,
        },
        default=_plain,
    )


def addressed_to(encoded: bytes, request_id: str) -> bytes:
    """An encoded answer as that of another request for the same."""
    start, end = encoded.index(b":") + 1, encoded.index(b",")
    return encoded[:start] + orjson.dumps(request_id) + encoded[end:]


def encode_found(found: Found) -> bytes:
    """The JSON form of a result: `{"passages": […], "encoder": "exact", "degraded": […], "partial": false}`."""
    return orjson.dumps(
        {
            "passages": [_passage(passage) for passage in found.passages],
            "encoder": found.encoder,
            "degraded": [found.degraded] if found.degraded else [],
            "partial": found.partial,
        }
    )


def encode_evidence(evidence: Evidence) -> bytes:
    """The JSON form of rows: `{"rows": […], "truncated": false}`."""
    return orjson.dumps({"rows": evidence.rows, "truncated": evidence.truncated}, default=_plain)


def _passage(passage: Passage) -> dict[str, Any]:
    return {
        "document_id": passage.document_id,
        "title": passage.title,
        "collection": passage.collection,
        "page": passage.page,
        "boxes": orjson.Fragment(_boxes(passage.words, len(passage.text))),
        "start": passage.start,
        "end": passage.end,
        "text": passage.text,
        "score": passage.score,
        "scores": passage.scores,
    }


@functools.lru_cache(maxsize=REMEMBERED_BOXES)
def _boxes(words: Words, length: int) -> bytes:
    return orjson.dumps(words.boxes(0, length))


def _plain(value: Any) -> Any:
    """What JSON has no form for."""
    if isinstance(value, decimal.Decimal):
        number = float(value)
        return number if value.is_finite() and decimal.Decimal(repr(number)) == value else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode("ascii")}
    return str(value)
