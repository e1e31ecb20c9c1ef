"""Bad input over HTTP: each kind has a clear error of its own and leaves nothing; the next request is served."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pymupdf
import pytest
from harness import System, pdf

GOOD = pdf(*["A page of sensible words that can be found again."] * 3)


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as client:
        yield client


def encrypted() -> bytes:
    with pymupdf.open(stream=GOOD) as document:
        aes = pymupdf.PDF_ENCRYPT_AES_256  # type: ignore[attr-defined]
        content: bytes = document.tobytes(encryption=aes, user_pw="sesame", owner_pw="owner")
    return content


def stored(system: System) -> set[Path]:
    return {path for path in (system.data_dir / "blobs").rglob("*") if path.is_file()}


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code), answer.text
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(problem["detail"]) > 10
    assert "/" not in problem["detail"].replace("application/json", "").replace("multipart/form-data", "").replace(
        "/docs", ""
    )
    return problem


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 422, "empty_file"),
        (b"Dear sir, this is a letter.", 415, "not_a_pdf"),
        (GOOD[: len(GOOD) // 2], 422, "truncated_pdf"),
        (encrypted(), 422, "encrypted_pdf"),
    ],
    ids=["empty", "not-a-pdf", "truncated", "encrypted"],
)
def test_a_bad_file_is_refused_and_leaves_nothing(
    system: System, client: httpx.Client, content: bytes, status: int, code: str
) -> None:
    before = stored(system)
    answer = client.post("/v1/documents", params={"collection": "bad"}, files={"file": ("a.pdf", content)})
    assert_problem(answer, status, code)
    assert stored(system) == before
    # Not even the collection was made.
    assert client.get("/v1/documents", params={"collection": "bad"}).json()["code"] == "unknown_collection"
    assert client.get("/livez").status_code == 200


def test_a_file_over_the_limit_is_refused_while_it_arrives(system: System, client: httpx.Client) -> None:
    before = stored(system)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n%PDF-1.7\n'
        for _ in range(10_000):
            sent += 1
            yield b"0" * 100_000

    headers = {"content-type": "multipart/form-data; boundary=x"}
    # The server may answer and close while we are still sending.
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):
        assert_problem(client.post("/v1/documents", content=endless(), headers=headers), 413, "too_large")
    assert sent < 8_000, "the whole body, ten times the limit, was taken in"
    assert stored(system) == before
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"{", {"content-type": "application/json"}), (b'{"question": ', {"content-type": "application/json"})],
)
def test_malformed_json(client: httpx.Client, body: bytes, headers: dict[str, str]) -> None:
    assert_problem(client.post("/v1/ask", content=body, headers=headers), 400, "malformed_json")


def test_a_body_over_the_limit(client: httpx.Client) -> None:
    answer = client.post("/v1/ask", json={"question": "x" * 3_000_000})
    assert_problem(answer, 413, "too_large")


def test_a_bad_collection_name_leaves_nothing(system: System, client: httpx.Client) -> None:
    before = stored(system)
    answer = client.post("/v1/documents", params={"collection": "../bad"}, files={"file": ("a.pdf", GOOD)})
    assert_problem(answer, 422, "invalid_input")
    assert stored(system) == before


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/ask", {"question": ""}, 422, "invalid_input"),
        ("/v1/ask", {"question": "   "}, 422, "invalid_input"),
        ("/v1/ask", {"question": "x" * 1_000_000}, 422, "question_too_long"),
        ("/v1/ask", {}, 422, "invalid_input"),
        ("/v1/ask", {"question": "who?", "colour": "red"}, 422, "invalid_input"),
        ("/v1/ask", {"question": "who?", "timeout_ms": -5}, 422, "invalid_input"),
        ("/v1/ask", {"question": "who?", "collections": ["no-such"]}, 404, "unknown_collection"),
        ("/v1/search", {"query": "who?", "collections": ["no-such"]}, 404, "unknown_collection"),
        ("/v1/search", {"query": "", "limit": 3}, 422, "invalid_input"),
        ("/v1/search", {"query": "who?", "limit": 0}, 422, "invalid_input"),
        ("/v1/search", {"query": "who?", "limit": 10**9}, 422, "invalid_input"),
        ("/v1/collections", {"name": "../etc"}, 422, "invalid_input"),
        ("/v1/sources", {"name": "x", "kind": "sqlite", "path": "../../etc/passwd"}, 403, "refused"),
    ],
)
def test_a_bad_request_says_what_is_wrong(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == code
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/documents/no-such", "unknown_document"),
        ("DELETE", "/v1/documents/no-such", "unknown_document"),
        ("GET", "/v1/documents/no-such/pages/1.png", "unknown_document"),
        ("GET", "/v1/jobs/no-such", "unknown_job"),
        ("DELETE", "/v1/sources/no-such", "unknown_source"),
        ("GET", "/v1/nothing-here", "not_found"),
    ],
)
def test_an_unknown_id_is_404(client: httpx.Client, method: str, path: str, code: str) -> None:
    assert_problem(client.request(method, path), 404, code)


def test_a_page_beyond_the_last_is_404(system: System, client: httpx.Client) -> None:
    document_id = system.add(pdf("Only one page."), collection="one-page")
    assert_problem(client.get(f"/v1/documents/{document_id}/pages/2.png"), 404, "unknown_page")


def test_a_form_without_a_file_is_refused(client: httpx.Client) -> None:
    assert_problem(client.post("/v1/documents", files={"other": (None, b"text")}), 400, "malformed_request")
    assert_problem(client.post("/v1/documents", content=b"%PDF-1.7"), 400, "malformed_request")


def test_bad_metadata_leaves_nothing(system: System, client: httpx.Client) -> None:
    before = stored(system)
    answer = client.post("/v1/documents", files={"file": ("a.pdf", pdf("Unique."))}, data={"metadata": "[1"})
    assert_problem(answer, 400, "malformed_request")
    assert stored(system) == before


def test_a_corrupt_file_does_not_stop_the_others(system: System, tmp_path: Path) -> None:
    for name in ("a", "c"):
        (tmp_path / f"{name}.pdf").write_bytes(pdf(f"File {name} is fine."))
    (tmp_path / "b.pdf").write_bytes(b"not a pdf at all")
    result = system.run("ingest", str(tmp_path), "--collection", "folder", "--url", system.url, check=False)
    assert result.returncode == 1
    assert "b.pdf" in result.stdout + result.stderr
    with system.client() as client:
        items = client.get("/v1/documents", params={"collection": "folder"}).json()["items"]
    assert sorted(item["filename"] for item in items) == ["a.pdf", "c.pdf"]
