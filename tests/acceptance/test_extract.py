"""Extraction over HTTP: a PDF in, its reading out, nothing kept; and URLs."""

from __future__ import annotations

import io
import json
import os
import socket
from base64 import b64decode
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pymupdf
import pytest
from harness import System, pdf
from PIL import Image

SENTENCE = "The Huygens probe landed on Titan on 14 January 2005."


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as client:
        yield client


def stored(system: System) -> set[Path]:
    return {path for path in (system.data_dir / "blobs").rglob("*") if path.is_file()}


def unchanged(system: System, before: set[Path]) -> bool:
    # The temporary file goes when the last byte has gone out, which the client may see first.
    return bool(system.eventually(lambda: stored(system) == before, "the temporary file to go", within_s=10))


def scanned(text: str) -> bytes:
    """A PDF whose only page is a picture of the text."""
    with pymupdf.open() as document:
        page = document.new_page()
        picture = pymupdf.open(stream=pdf(text))[0].get_pixmap(dpi=150)
        page.insert_image(page.rect, pixmap=picture)
        content: bytes = document.tobytes()
    return content


def extract(client: httpx.Client, content: bytes, **params: Any) -> httpx.Response:
    return client.post("/v1/extract", params=params, files={"file": ("a.pdf", content)})


def test_the_words_of_a_page_have_their_boxes(system: System, client: httpx.Client) -> None:
    before = stored(system)
    content = pdf("Cover.", SENTENCE, title="Only extracted")
    value = extract(client, content).raise_for_status().json()
    assert (value["document"]["title"], value["document"]["pages"]) == ("Only extracted", 2)
    page = value["pages"][1]
    assert (page["number"], page["text"], page["ocr"]) == (2, SENTENCE, None)
    with pymupdf.open(stream=content) as document:
        gold = document[1].get_text("words")
    assert [word["text"] for word in page["words"]] == [word[4] for word in gold]
    for word, expected in zip(page["words"], gold, strict=True):
        assert word["box"] == pytest.approx(expected[:4], abs=1)
    assert unchanged(system, before)
    assert all(item["title"] != "Only extracted" for item in client.get("/v1/documents").json()["items"])


def test_a_scanned_page_says_how_it_was_recognised(client: httpx.Client) -> None:
    page = extract(client, scanned(SENTENCE)).raise_for_status().json()["pages"][0]
    assert "Huygens" in page["text"]
    assert page["ocr"]["why"]
    assert page["ocr"]["languages"] == ["eng"]
    assert page["ocr"]["confidence"] > 50


def test_text_and_markdown_of_chosen_pages(client: httpx.Client) -> None:
    content = pdf(*[f"Page number {number}." for number in range(1, 9)])
    assert extract(client, content, format="text", pages="1-2,7-").text == "".join(
        f"Page number {number}.\n\f" for number in (1, 2, 7, 8)
    )
    assert extract(client, content, format="markdown", pages="3").text == "<!-- page 3 -->\n\nPage number 3.\n\n"
    assert extract(client, content, pages="9").json()["code"] == "invalid_input"


def test_images_come_out_as_they_went_in(client: httpx.Client) -> None:
    out = io.BytesIO()
    Image.effect_noise((60, 40), 80).save(out, format="JPEG")
    with pymupdf.open() as document:
        for _ in range(2):
            document.new_page().insert_image(pymupdf.Rect(50, 50, 170, 130), stream=out.getvalue())
        content: bytes = document.tobytes()
    value = extract(client, content, images=True).raise_for_status().json()
    first, again = (page["images"][0] for page in value["pages"])
    assert (first["media_type"], b64decode(first["data"])) == ("image/jpeg", out.getvalue())
    assert (again["data"], again["omitted"], again["sha256"]) == (None, "repeated", first["sha256"])
    assert value["truncated"] is False


def test_pages_are_streamed_in_order(system: System, client: httpx.Client) -> None:
    before = stored(system)
    files = {"file": ("a.pdf", pdf(*[f"Page number {number}." for number in range(1, 301)]))}
    with client.stream("POST", "/v1/extract", files=files, headers={"accept": "application/x-ndjson"}) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line) for line in answer.iter_lines()]
    assert [line["page"]["number"] for line in lines[1:-1]] == list(range(1, 301))
    assert lines[-1] == {"end": {"pages": 300, "unread": []}}
    assert unchanged(system, before)


def test_a_client_that_goes_away_ends_the_reading(system: System, client: httpx.Client) -> None:
    before = stored(system)
    with pymupdf.open(stream=scanned(SENTENCE * 20)) as document:
        for _ in range(59):  # a minute of recognition, of one picture
            document.fullcopy_page(0)
        files = {"file": ("a.pdf", document.tobytes())}
    with client.stream("POST", "/v1/extract", params={"stream": True}, files=files) as answer:
        lines = answer.iter_lines()  # kept: httpx closes the connection with it
        assert "document" in json.loads(next(lines))
        system.eventually(lambda: documents_in_work(client) == 1, "the reading to begin", within_s=10)
    system.eventually(lambda: documents_in_work(client) == 0, "the reading to end", within_s=15)
    assert unchanged(system, before)


def documents_in_work(client: httpx.Client) -> int:
    replicas = client.get("/health").json()["replicas"]
    return sum(replica["detail"]["documents"] for name, replica in replicas.items() if name.startswith("pdf"))


def connection(system: System, content: bytes, *, last: int | None = None, **params: Any) -> socket.socket:
    """A connection over which a file was sent for extraction, up to byte `last` of the request's body."""
    request = httpx.Request("POST", f"{system.url}/v1/extract", params=params, files={"file": ("a.pdf", content)})
    body = request.read()
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    opened.settimeout(60)
    opened.connect((request.url.host, request.url.port))
    head = f"POST {request.url.raw_path.decode()} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    opened.sendall(head.encode() + b"\r\n" + body[:last])
    return opened


def test_a_client_that_stops_reading_is_given_up(system: System) -> None:
    before = stored(system)
    # More than the buffers hold that lie in between.
    noise = pymupdf.Pixmap(pymupdf.csRGB, 4000, 2000, os.urandom(24_000_000), False)
    with pymupdf.open() as document:
        document.new_page().insert_image((0, 0, 500, 250), pixmap=noise)
        content: bytes = document.tobytes()
    with connection(system, content, images=True, stream=True) as client:
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        assert stored(system) > before
        system.eventually(lambda: stored(system) == before, "the place to be free", within_s=30)


def test_a_client_that_drips_its_upload_is_given_up(system: System) -> None:
    before = stored(system)
    with connection(system, pdf(SENTENCE), last=-20) as client:
        # Its head and its body may come apart.
        answer = HTTPResponse(client)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["code"]) == (408, "request_timeout")
    assert unchanged(system, before)


def test_bad_files_have_the_errors_of_an_upload(system: System, client: httpx.Client) -> None:
    before = stored(system)
    for content, code in ((b"", "empty_file"), (b"a letter", "not_a_pdf")):
        assert extract(client, content, stream=True).json()["code"] == code
    assert unchanged(system, before)


@pytest.mark.parametrize("path", ["/v1/extract", "/v1/documents"])
@pytest.mark.parametrize("url", ["http://127.0.0.1/a.pdf", "http://0x7f.1/", "http://[::ffff:a9fe:a9fe]/", "file:///a"])
def test_urls_inside_are_refused(system: System, client: httpx.Client, path: str, url: str) -> None:
    before = stored(system)
    answer = client.post(path, json={"url": url})
    assert (answer.status_code, answer.json()["code"]) == (403, "refused")
    assert unchanged(system, before)
