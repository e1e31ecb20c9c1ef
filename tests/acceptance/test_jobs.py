"""Jobs over HTTP and the command line: followed, cancelled, started again, named so that they can be repeated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import System, pdf

PAGES = 150


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as client:
        yield client


def long_pdf(word: str) -> bytes:
    return pdf(*(f"Page {number}: the {word} waits by the river in Utrecht." for number in range(1, PAGES + 1)))


def events_of(client: httpx.Client, job_id: str, last: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    headers = {"last-event-id": last} if last else {}
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        number = ""
        for line in stream.iter_lines():
            if line.startswith("id: "):
                number = line.removeprefix("id: ")
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")) | {"last_event_id": number})
    return found


def test_events_follow_a_document_from_the_queue_to_the_answer(system: System, client: httpx.Client) -> None:
    receipt = system.upload(long_pdf("bittern"), collection="followed")
    told = events_of(client, receipt["job_id"])
    assert told[-1]["state"] == "done"
    assert told[-1]["pages_done"] == told[-1]["pages_total"] == PAGES
    done = [event["pages_done"] for event in told]
    assert done == sorted(done)
    assert told[-1]["pages_per_s"] > 0
    assert {event["state"] for event in told} <= {"queued", "reading", "publishing", "done"}
    # The end that events tell is the one that lists tell, and questions find the document by then.
    listed = client.get("/v1/jobs", params={"collection": "followed"}).raise_for_status().json()
    assert [(item["job_id"], item["state"]) for item in listed["items"]] == [(receipt["job_id"], "done")]
    search = {"query": "bittern", "collections": ["followed"]}
    assert client.post("/v1/search", json=search).raise_for_status().json()["passages"]
    again = client.get(f"/v1/jobs/{receipt['job_id']}/events", headers={"last-event-id": told[-1]["last_event_id"]})
    assert again.status_code == 204


def test_a_cancelled_job_stops_and_a_retry_finishes_it(system: System, client: httpx.Client) -> None:
    receipt = system.upload(long_pdf("heron"), collection="cancelled")
    job_id = receipt["job_id"]
    cancelled = client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status().json()
    assert cancelled["state"] == "cancelled"
    assert client.get(f"/v1/documents/{receipt['document_id']}").json()["state"] == "cancelled"
    search = {"query": "heron", "collections": ["cancelled"]}
    assert client.post("/v1/search", json=search).raise_for_status().json()["passages"] == []
    retried = json.loads(system.run("jobs", "retry", job_id, "--url", system.url, "--json").stdout)
    assert retried["state"] in ("queued", "reading")
    assert system.finished(job_id)["state"] == "done"
    refused = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert client.post(f"/v1/jobs/{job_id}/retry").status_code == 409


def test_the_same_upload_under_a_key_gets_the_same_answer(system: System, client: httpx.Client) -> None:
    def send(content: bytes, key: str) -> httpx.Response:
        return client.post(
            "/v1/documents",
            params={"collection": "named", "priority": "high"},
            files={"file": ("a.pdf", content)},
            headers={"idempotency-key": key},
        )

    content = pdf("The osprey dives.")
    first, again = send(content, "one"), send(content, "one")
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert first.json()["duplicate"] is False
    assert send(content, "two").json() == {**first.json(), "duplicate": True}
    other = send(pdf("The egret stalks."), "one")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert system.finished(first.json()["job_id"])["priority"] == 10
    assert send(content, "two words").status_code == 422
    wrong = client.post("/v1/documents", params={"priority": "urgent"}, files={"file": ("a.pdf", content)})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_input")


def test_the_command_line_shows_jobs_and_estimates(system: System, tmp_path: Path) -> None:
    (tmp_path / "new.pdf").write_bytes(pdf("The avocet wades.", "It sweeps its bill."))
    (tmp_path / "bad.pdf").write_bytes(b"no PDF")
    content = pdf("The known one.")
    (tmp_path / "known.pdf").write_bytes(content)
    system.add(content, collection="estimated")
    run = system.run(
        "ingest", str(tmp_path), "--collection", "estimated", "--dry-run", "--json", "--url", system.url, check=False
    )
    found = json.loads(run.stdout)
    assert (run.returncode, found["new"], found["known"], found["pages"]) == (1, 1, 1, 2)
    assert [entry["code"] for entry in found["refused"]] == ["not_a_pdf"]
    with system.client() as client:
        items = client.get("/v1/documents", params={"collection": "estimated"}).json()["items"]
    assert len(items) == 1
    board = json.loads(system.run("jobs", "--state", "done", "--url", system.url, "--json").stdout)
    assert {item["state"] for item in board["items"]} == {"done"}
