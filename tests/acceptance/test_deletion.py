"""Deletion that is true, and the doctor, on a whole system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import System, pdf
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as client:
        yield client


def blobs(system: System) -> set[str]:
    return {path.name for path in (system.data_dir / "blobs").glob("??/*")}


def ask(client: httpx.Client, question: str, collection: str) -> tuple[list[str], list[str]]:
    """Documents and names of an answer."""
    answer: dict[str, Any] = (
        client.post("/v1/ask", json={"question": question, "collections": [collection]}).raise_for_status().json()
    )
    return (
        [passage["document_id"] for passage in answer["passages"]],
        [entity["text"] for entity in answer["entities"] if any(link["kind"] == "entity" for link in entity["links"])],
    )


def test_a_deleted_document_is_gone_from_every_store_and_from_every_answer(
    system: System, client: httpx.Client
) -> None:
    content = pdf("Ottoline Fanshawe-Murgatroyd composed the aardvark nocturne in Reykjavik in 1897.")
    document_id = system.add(content, collection="deleted")
    sha256 = client.get(f"/v1/documents/{document_id}").json()["sha256"]
    question = "Who composed the aardvark nocturne in Reykjavik?"
    documents, names = ask(client, question, "deleted")
    assert document_id in documents
    assert "Reykjavik" in names
    removed = client.delete(f"/v1/documents/{document_id}").raise_for_status().json()
    assert ask(client, question, "deleted") == ([], [])
    found = client.post("/v1/search", json={"query": "aardvark nocturne", "collections": ["deleted"]}).json()
    assert found["passages"] == []
    counted = {name: removed[name] for name in ("documents", "jobs", "pages", "chunks", "blobs")}
    assert counted == {"documents": 1, "jobs": 1, "pages": 1, "chunks": 1, "blobs": 1}
    assert removed["bytes"] == len(content)
    assert removed["entities"] > 0
    assert removed["indexes"] == {"retrieval-0": 1, "entities-0": removed["entities"]}
    assert sha256 not in blobs(system)
    for method in ("GET", "DELETE"):
        assert client.request(method, f"/v1/documents/{document_id}").status_code == 404


def test_a_deletion_wins_over_the_reading(system: System, client: httpx.Client) -> None:
    before = blobs(system)
    content = pdf(*(f"Page {number} of a long zeppelin ledger." for number in range(60)))
    receipt = system.upload(content, collection="won")
    removed = client.delete(f"/v1/documents/{receipt['document_id']}").raise_for_status().json()
    assert (removed["documents"], removed["jobs"], removed["blobs"]) == (1, 1, 1)
    assert client.get(f"/v1/jobs/{receipt['job_id']}").status_code == 404
    assert blobs(system) == before
    # The same file again is a document of its own, and is read.
    assert ask(client, "zeppelin ledger", "won")[0] == []
    again = system.add(content, collection="won")
    assert again != receipt["document_id"]
    assert set(ask(client, "zeppelin ledger", "won")[0]) == {again}


def test_a_collection_is_deleted_with_its_documents_and_shared_files_stay(system: System, client: httpx.Client) -> None:
    shared = pdf("The quagga census was kept by hand.")
    kept = system.add(shared, collection="stays")
    for content in (shared, pdf("The quagga census was lost."), pdf("The quagga census was found.")):
        system.add(content, collection="goes")
    removed = client.delete("/v1/collections/goes").raise_for_status().json()
    assert (removed["collection"], removed["documents"], removed["blobs"]) == ("goes", 3, 2)
    assert removed["indexes"]["retrieval-0"] == 3
    assert "goes" not in client.get("/v1/collections").json()["items"]
    refused = client.post("/v1/search", json={"query": "quagga", "collections": ["goes"]})
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_collection")
    assert ask(client, "Who kept the quagga census?", "stays")[0] == [kept]
    assert client.delete("/v1/collections/goes").status_code == 404


def test_the_doctor_finds_nothing_in_a_running_system_and_then_what_was_broken(system: System) -> None:
    healthy = system.run("doctor", "--deep", "--json", check=False)
    assert (healthy.returncode, json.loads(healthy.stdout)["findings"]) == (0, []), healthy.stdout + healthy.stderr
    content = pdf("The lighthouse ledger of 1911.")
    document_id = system.add(content, collection="doctor")
    with system.client() as client:
        sha256 = client.get(f"/v1/documents/{document_id}").json()["sha256"]
    path = system.data_dir / "blobs" / sha256[:2] / sha256
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert system.run("doctor").returncode == 0, "whether a file is whole, only hashing it tells"
    for options in (("--deep",), ("--deep", "--repair")):
        sick = system.run("doctor", *options, "--json", check=False)
        (found,) = json.loads(sick.stdout)["findings"]
        assert (sick.returncode, found["subject"], found["repair"]) == (1, document_id, "")
    assert system.upload(content, collection="doctor")["duplicate"] is True
    assert system.run("doctor", "--deep").stdout.startswith("All is well.")


def test_a_system_whose_files_are_in_a_bucket(tmp_path: Path) -> None:
    service = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    service.start()
    host, port = service.get_host_and_port()
    credentials = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    files = S3FileSystem(
        key="tests",
        secret="secret",  # noqa: S106 -- any will do
        endpoint_url=f"http://{host}:{port}",
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    files.mkdir("shelf")
    places = {"GATHERUM_BLOBS__URL": "s3://shelf/files", "GATHERUM_BLOBS__ENDPOINT": f"http://{host}:{port}"}
    system = System(tmp_path / "data", {**credentials, **places})
    system.up()
    try:
        document_id = system.add(pdf("The narwhal almanac is kept in a bucket."), collection="bucket")
        (key,) = files.find("shelf")
        with system.client() as client:
            document = client.get(f"/v1/documents/{document_id}").json()
            assert key == f"shelf/files/{document['sha256'][:2]}/{document['sha256']}"
            assert ask(client, "What is the narwhal almanac kept in?", "bucket")[0] == [document_id]
            picture = client.get(f"/v1/documents/{document_id}/pages/1.png").raise_for_status()
            assert picture.content.startswith(b"\x89PNG")
            assert [path.name for path in (tmp_path / "data" / "cache").glob("??/*")] == [document["sha256"]]
            assert system.run("doctor", "--deep").stdout.startswith("All is well.")
            removed = client.delete(f"/v1/documents/{document_id}").raise_for_status().json()
        assert (removed["blobs"], files.find("shelf")) == (1, [])
    finally:
        system.down()
        service.stop()
