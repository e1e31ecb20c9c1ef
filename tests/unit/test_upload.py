"""The form of an upload, cut into pieces anywhere."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.errors import DocumentTooLarge, EmptyFile, GatherumError, MalformedRequest
from actors.store.blobs import Folder, Incoming
from serve.upload import MAX_FIELD_BYTES, MAX_PARTS, Upload

HEADERS = {"content-type": "multipart/form-data; boundary=frontier"}


def part(disposition: str, content: bytes) -> bytes:
    return b"--frontier\r\nContent-Disposition: form-data; " + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--frontier--\r\n"


async def pieces(body: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        yield body[start:end]


async def receive(folder: Path, body: bytes, cuts: list[int] | None = None, limit: int = 10**6) -> tuple[Upload, bytes]:
    async with Incoming(Folder(folder)) as incoming:
        upload = Upload(HEADERS, incoming, limit)
        await upload.receive(pieces(body, cuts or []))
        return upload, incoming.path.read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(min_size=1, max_size=2000), cuts=st.lists(st.integers(0, 5000), max_size=40))
async def test_the_file_arrives_whole_wherever_the_body_is_cut(tmp_path: Path, content: bytes, cuts: list[int]) -> None:
    body = form(part('name="metadata"', b'{"a": 1}'), part('name="file"; filename="x.pdf"', content))
    upload, stored = await receive(tmp_path, body, cuts)
    assert stored == content
    assert upload.filename == "x.pdf"
    assert upload.metadata() == {"a": 1}


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("/home/ann/report.pdf", "report.pdf"),
        ("..\\\\..\\\\report.pdf", "report.pdf"),
        ("r\u00e9sum\u00e9.pdf", "r\u00e9sum\u00e9.pdf"),
        ("", "document.pdf"),
        ("x" * 900, "x" * 500),
    ],
)
async def test_only_the_last_part_of_the_name_is_kept(tmp_path: Path, given_name: str, kept: str) -> None:
    upload, _ = await receive(tmp_path, form(part(f'name="file"; filename="{given_name}"', b"x")))
    assert upload.filename == kept


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (form(part('name="file"; filename="a"', b"")), EmptyFile),
        (form(part('name="file"; filename="a"', b"x" * 1001)), DocumentTooLarge),
        (form(part('name="other"', b"x")), MalformedRequest),
        (form(*[part('name="file"; filename="a"', b"x")] * 2), MalformedRequest),
        (form(*[part('name="f"', b"x")] * (MAX_PARTS + 1)), MalformedRequest),
        (form(part('name="f"', b"x" * (MAX_FIELD_BYTES + 1))), MalformedRequest),
        (form(part('name="file"; x="' + "y" * 9000 + '"', b"x")), MalformedRequest),
        (part('name="file"; filename="a"', b"cut off"), MalformedRequest),
        (b"no form at all", MalformedRequest),
    ],
)
async def test_a_bad_form_is_refused_and_its_file_removed(
    tmp_path: Path, body: bytes, error: type[GatherumError]
) -> None:
    with pytest.raises(error):
        await receive(tmp_path, body, limit=1000)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content_type", ["", "application/pdf", "multipart/form-data"])
async def test_another_content_type_is_refused(tmp_path: Path, content_type: str) -> None:
    async with Incoming(Folder(tmp_path)) as incoming:
        with pytest.raises(MalformedRequest, match="multipart/form-data"):
            Upload({"content-type": content_type}, incoming, 1000)


@pytest.mark.parametrize("text", ["[1]", "{", "7", '"x"'])
async def test_metadata_must_be_an_object(tmp_path: Path, text: str) -> None:
    body = form(part('name="metadata"', text.encode()), part('name="file"; filename="a"', b"x"))
    upload, _ = await receive(tmp_path, body)
    with pytest.raises(MalformedRequest):
        upload.metadata()
