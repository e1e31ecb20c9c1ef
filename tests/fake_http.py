"""A Gatherum server that is only a function, for tests of what speaks HTTP to one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
import pytest

from actors.messages import Job

ANSWER: dict[str, Any] = {
    "request_id": "r1",
    "question": "Which moon did Huygens land on?",
    "answer": {
        "text": "Huygens landed on Titan.",
        "mode": "extractive",
        "sentences": [
            {
                "text": "Huygens landed on Titan.",
                "citation": {
                    "document_id": "d1",
                    "title": "Moons of Saturn",
                    "page": 3,
                    "boxes": [[72.0, 100.5, 300.25, 112.0]],
                    "start": 0,
                    "end": 24,
                },
            },
            {"text": "Titan: radius_km 2574.7", "citation": {"source": "sky", "table": "moons", "key": {"id": 6}}},
        ],
    },
    "passages": [],
    "rows": [
        {
            "source": "sky",
            "table": "moons",
            "key": {"id": 6},
            "columns": {"id": 6, "name": "Titan", "radius_km": 2574.7},
            "sql": "SELECT * FROM moons WHERE id = 6",
        }
    ],
    "entities": [],
    "branches": [
        {"name": "retrieval", "status": "ok", "started_ms": 0.1, "elapsed_ms": 8.0, "attempts": 1, "error": None},
        {"name": "sql:sky", "status": "timeout", "started_ms": 8.2, "elapsed_ms": 11.0, "attempts": 2, "error": "late"},
    ],
    "partial": True,
    "degraded": ["sql:sky was left out"],
    "elapsed_ms": 20.0,
}


def problem(status: int, code: str, detail: str) -> httpx.Response:
    return httpx.Response(status, json={"status": status, "code": code, "detail": detail, "title": "", "type": ""})


OF_SOURCES: dict[str, Any] = {
    "test": {"version": "PostgreSQL 15", "latency_ms": 0.4, "warnings": ["The role can write."]},
    "schema": {
        "tables": [
            {
                "name": "moons",
                "rows": 7,
                "key": ["id"],
                "foreign_keys": [{"columns": ["planet"], "table": "planets", "references": ["id"], "namespace": ""}],
                "columns": [
                    {"name": "id", "type": "integer", "samples": [1, 2]},
                    {"name": "planet", "type": "integer", "samples": []},
                ],
            }
        ]
    },
    "query": {"columns": [{"name": "name"}], "rows": [["Titan"], [None]], "truncated": True, "elapsed_ms": 1.5},
    "explain": {"plan": [], "analysis": [{"level": "warning", "table": "moons", "text": "All of moons is read."}]},
}


@dataclass
class FakeServer:
    """Takes every PDF that starts like one; each job is done at the second look.

    Attributes:
        pages: of every document.
        listed: what the list of jobs holds.
        trouble: what `/health` tells of.
        told: verb and id of each job that was cancelled or retried.
        known: hashes of the files in each collection; they are listed one a page.
        keys: idempotency keys of the uploads, as they came.
        hook: called with each request first; what it returns is the answer, what it raises is the network's failure.
    """

    pages: int = 4
    hook: Callable[[httpx.Request], httpx.Response | None] = lambda request: None
    uploads: list[tuple[str, str, bytes]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    lookups: dict[str, dict[str, Any]] = field(default_factory=dict)
    listed: list[Job] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    known: dict[str, list[str]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
        """Put it behind every httpx client made from now on."""
        real = httpx.AsyncClient

        def client(**how: Any) -> httpx.AsyncClient:
            return real(**how | {"transport": httpx.MockTransport(self.handle)})

        monkeypatch.setattr(httpx, "AsyncClient", client)
        return self

    def handle(self, request: httpx.Request) -> httpx.Response:
        if (answer := self.hook(request)) is not None:
            return answer
        match request.method, request.url.path.split("/")[1:]:
            case "GET", ["version"]:
                return httpx.Response(200, json={"version": "0.1.0"})
            case "POST", ["v1", "documents"]:
                return self._upload(request)
            case "GET", ["v1", "documents"]:
                items = [{"sha256": name} for name in self.known.get(request.url.params["collection"], ())]
                if not items:
                    return problem(404, "unknown_collection", "There is no collection of this name.")
                after = int(request.url.params.get("after", 0))
                following = str(after + 1) if after + 1 < len(items) else None
                return httpx.Response(200, json={"items": items[after : after + 1], "next": following})
            case "GET", ["v1", "jobs"]:
                states = request.url.params.get_list("state")
                items = [asdict(each) for each in self.listed if each.state in states or not states]
                limit = int(request.url.params["limit"])
                return httpx.Response(200, json={"items": items[:limit], "next": "x" if items[limit:] else None})
            case "GET", ["health"]:
                states = [each.state for each in self.listed]
                detail = {"jobs": {state: states.count(state) for state in sorted(set(states))}}
                return httpx.Response(
                    200, json={"trouble": self.trouble, "replicas": {"database-0": {"detail": detail}}}
                )
            case "GET", ["v1", "jobs", job_id]:
                return self._job(job_id)
            case "POST", ["v1", "jobs", job_id, verb]:
                self.told.append((verb, job_id))
                state = {"cancel": "cancelled", "retry": "queued"}[verb]
                return httpx.Response(200, json={"job_id": job_id, "state": state})
            case "POST", ["v1", "ask"]:
                self.asked.append(json.loads(request.content))
                return httpx.Response(200, json=ANSWER)
            case "POST", ["v1", "sources"]:
                source = json.loads(request.content)
                self.sources[source["name"]] = source.get("path", "")
                return httpx.Response(201, json=source)
            case "GET", ["v1", "sources"]:
                items = [{"name": name, "kind": "sqlite", "path": path} for name, path in self.sources.items()]
                return httpx.Response(200, json={"items": items, "next": None})
            case _, ["v1", "sources", source, "lookups", *rest]:
                return self._lookup(request, source, *rest)
            case "POST", ["v1", "sources", name, "refresh"]:
                self.told.append(("refresh", name))
                return httpx.Response(202)
            case _, ["v1", "sources", _, ("test" | "schema" | "query" | "explain") as verb]:
                self.asked.append({"verb": verb, **dict(request.url.params), **json.loads(request.content or b"{}")})
                return httpx.Response(200, json=OF_SOURCES[verb])
            case "DELETE", ["v1", "sources", name]:
                if self.sources.pop(name, None) is None:
                    return problem(404, "unknown_source", f"There is no source {name}.")
                return httpx.Response(204)
        return problem(404, "not_found", "There is nothing at this path.")

    def _lookup(self, request: httpx.Request, source: str, name: str = "") -> httpx.Response:
        match request.method:
            case "GET":
                return httpx.Response(200, json={"items": list(self.lookups.values()), "next": None})
            case "DELETE":
                if self.lookups.pop(name, None) is None:
                    return problem(404, "unknown_lookup", "The source has no lookup of this name.")
                return httpx.Response(204)
        body = json.loads(request.content)
        if not name:
            self.lookups[body["name"]] = {"parameters": [], **body, "source": source}
            return httpx.Response(201, json=self.lookups[body["name"]])
        key = {**body["arguments"], "row": 1}
        row = {"source": source, "table": name, "key": key, "columns": {"total": 39.62}, "sql": ""}
        return httpx.Response(200, json={"rows": [row][: body["limit"]], "truncated": False})

    def _upload(self, request: httpx.Request) -> httpx.Response:
        self.keys.append(request.headers["idempotency-key"])
        body = request.content
        assert int(request.headers["content-length"]) == len(body)
        boundary = request.headers["content-type"].partition("boundary=")[2].encode()
        parts = body.split(b"--" + boundary)
        assert parts[-1] == b"--\r\n"
        head, _, content = parts[1].partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        found = re.search(rb'name="file"; filename="(.*)"', head)
        assert found
        if not content.startswith(b"%PDF-"):
            return problem(415, "not_a_pdf", "The file is not a PDF.")
        self.uploads.append((request.url.params["collection"], found[1].decode(), content))
        job_id = f"j{len(self.uploads)}"
        self.jobs[job_id] = {"state": "queued", "pages_done": 0, "pages_total": self.pages, "error": None}
        return httpx.Response(202, json={"document_id": f"d{job_id}", "job_id": job_id, "duplicate": False})

    def _job(self, job_id: str) -> httpx.Response:
        job = self.jobs[job_id]
        answer = httpx.Response(200, json=job)
        job |= {"state": "done", "pages_done": self.pages}
        return answer
