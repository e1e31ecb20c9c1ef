"""Traces: parts that were told apart from one another make one trace."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import tracing
from actors.tracing import Span, Tracer, encoded, is_traced, span_id, trace_id
from config.settings import TracingSettings

ROOT = Span("r1", "", "POST /v1/ask", 10.0, 10.5, about={"http.response.status_code": 200})
BATCH = Span("r1", "batch", "orchestrator batch", 10.1, 10.4, "")
LATE = Span("r1", "retrieval", "retrieval", 10.1, 10.4, "batch", "late")


def test_parts_told_by_different_processes_make_one_tree() -> None:
    one = encoded([ROOT], {"service.name": "gatherum-api"})["resourceSpans"][0]
    other = encoded([BATCH, LATE], {"service.name": "gatherum-orchestrator"})["resourceSpans"][0]
    [root] = one["scopeSpans"][0]["spans"]
    batch, late = other["scopeSpans"][0]["spans"]
    assert root["traceId"] == batch["traceId"] == late["traceId"] == trace_id("r1")
    assert "parentSpanId" not in root
    assert batch["parentSpanId"] == root["spanId"]
    assert late["parentSpanId"] == batch["spanId"]
    assert late["status"] == {"code": 2, "message": "late"}
    assert root["startTimeUnixNano"] == "10000000000"
    assert {"key": "http.response.status_code", "value": {"intValue": "200"}} in root["attributes"]
    json.dumps(one)


@given(st.text(), st.floats(0, 1))
def test_ids_are_those_of_the_form_and_everybody_draws_alike(request_id: str, share: float) -> None:
    assert len(bytes.fromhex(trace_id(request_id))) == 16
    assert len(bytes.fromhex(span_id(request_id, "batch"))) == 8
    assert is_traced(request_id, 1.0)
    assert not is_traced(request_id, 0.0)
    if is_traced(request_id, share):
        assert is_traced(request_id, min(1.0, share + 0.1))


def test_without_a_collector_nothing_is_kept() -> None:
    assert not Tracer(TracingSettings(url="", share=1.0), "api").wants("r1")


async def test_spans_are_sent_in_the_background_and_lost_without_a_word_to_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracing, "EVERY_S", 0.0)
    sent: list[httpx.Request] = []
    client = httpx.AsyncClient

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(503 if len(sent) == 1 else 200)

    monkeypatch.setattr(
        "actors.tracing.httpx.AsyncClient",
        lambda **options: client(transport=httpx.MockTransport(answer), **options),
    )
    tracer = Tracer(TracingSettings(url="http://collector:4318/", share=1.0), "api")
    for span in (ROOT, BATCH):
        tracer.tell(span)
        assert tracer._sending is not None
        await tracer._sending
    assert [str(request.url) for request in sent] == ["http://collector:4318/v1/traces"] * 2
    assert json.loads(sent[1].content)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"] == "orchestrator batch"
