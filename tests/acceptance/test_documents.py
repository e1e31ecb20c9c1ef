"""A PDF in, cited answers out, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pymupdf
import pytest
from harness import System, pdf

HUYGENS = "The Huygens probe landed on Titan on 14 January 2005. It was released by the Cassini orbiter."
FILLER = "Nothing of note is written on this page. It only makes the document longer."


@pytest.fixture
def client(system: System) -> Iterator[httpx.Client]:
    with system.client() as client:
        yield client


def words_in(content: bytes, page: int, boxes: list[list[float]]) -> str:
    """What stands in the boxes, read back independently of the system."""
    with pymupdf.open(stream=content) as document:
        found = document[page - 1].get_text("words")
    inside = [
        word[4]
        for x0, y0, x1, y1 in boxes
        for word in found
        if x0 - 1 <= (word[0] + word[2]) / 2 <= x1 + 1 and y0 - 1 <= (word[1] + word[3]) / 2 <= y1 + 1
    ]
    return " ".join(inside)


def test_the_cited_box_on_the_cited_page_holds_the_quoted_words(system: System) -> None:
    content = pdf(FILLER, f"Background. {HUYGENS} More follows here.", title="Probes")
    document_id = system.add(content, collection="cited")
    answer = system.ask("When did the Huygens probe land?", collections=["cited"])
    sentence = answer["answer"]["sentences"][0]
    citation = sentence["citation"]
    assert "landed on Titan on 14 January 2005" in sentence["text"]
    assert (citation["document_id"], citation["title"], citation["page"]) == (document_id, "Probes", 2)
    assert words_in(content, 2, citation["boxes"]) == " ".join(sentence["text"].split())
    assert answer["answer"]["text"].startswith(sentence["text"])
    assert answer["partial"] is False
    assert {branch["name"]: branch["status"] for branch in answer["branches"]}["retrieval"] == "ok"


def test_a_page_image_shows_the_highlight(system: System, client: httpx.Client) -> None:
    document_id = system.add(pdf(HUYGENS), collection="images")
    plain = client.get(f"/v1/documents/{document_id}/pages/1.png").raise_for_status()
    marked = client.get(
        f"/v1/documents/{document_id}/pages/1.png", params={"highlight": "72,72,200,90"}
    ).raise_for_status()
    assert plain.headers["content-type"] == "image/png"
    before, after = pymupdf.Pixmap(plain.content), pymupdf.Pixmap(marked.content)
    scale = before.width / pymupdf.open(stream=pdf(HUYGENS))[0].rect.width
    # White paper inside the box takes the colour of the highlight; outside it stays white.
    inside, outside = (int(199 * scale), int(73 * scale)), (int(400 * scale), int(600 * scale))
    assert before.pixel(*inside) == (255, 255, 255)
    assert after.pixel(*inside) != (255, 255, 255)
    assert after.pixel(*outside) == (255, 255, 255)


def test_the_same_file_is_read_once_a_collection(system: System) -> None:
    content = pdf("The very same file, twice.")
    first = system.upload(content, collection="twice")
    again = system.upload(content, collection="twice", name="other-name.pdf")
    elsewhere = system.upload(content, collection="twice-elsewhere")
    assert (again["document_id"], again["job_id"], again["duplicate"]) == (
        first["document_id"],
        first["job_id"],
        True,
    )
    assert elsewhere["duplicate"] is False
    assert elsewhere["document_id"] != first["document_id"]
    for receipt in (first, elsewhere):
        assert system.finished(receipt["job_id"])["state"] == "done"


def test_documents_are_listed_page_by_page(system: System, client: httpx.Client) -> None:
    ids = {system.add(pdf(f"Number {number}."), collection="listed", name=f"{number}.pdf") for number in range(3)}
    seen: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        params = {"collection": "listed", "limit": "2", **({"after": after} if after else {})}
        answer = client.get("/v1/documents", params=params).raise_for_status().json()
        assert len(answer["items"]) <= 2
        seen += answer["items"]
        after = answer["next"]
        if after is None:
            break
    assert {item["document_id"] for item in seen} == ids
    assert len(seen) == 3
    assert all(item["state"] == "done" and item["pages"] == 1 for item in seen)


def test_metadata_is_kept_with_the_document(system: System, client: httpx.Client) -> None:
    answer = client.post(
        "/v1/documents",
        params={"collection": "kept"},
        files={"file": ("notes.pdf", pdf("Notes."))},
        data={"metadata": '{"year": 1997, "tags": ["a", "b"]}'},
    )
    document = client.get(f"/v1/documents/{answer.json()['document_id']}").json()
    assert document["metadata"] == {"year": 1997, "tags": ["a", "b"]}
    assert (document["filename"], document["title"]) == ("notes.pdf", "notes")


def test_a_name_leads_to_the_places_where_it_stands(system: System, client: httpx.Client) -> None:
    content = pdf("Maria Mitchell lived on Nantucket. In 1847 Maria Mitchell found a comet.", FILLER, title="Comets")
    document_id = system.add(content, collection="named")
    params = {"q": "mitch", "collection": "named"}
    [found] = client.get("/v1/entities", params=params).raise_for_status().json()["items"]
    assert (found["name"], found["label"], found["mentions"]) == ("Maria Mitchell", "PERSON", 2)
    mentions = client.get(f"/v1/entities/{found['entity_id']}/mentions").raise_for_status().json()["items"]
    assert [(mention["document_id"], mention["page"]) for mention in mentions] == [(document_id, 1)] * 2
    assert [words_in(content, 1, mention["boxes"]) for mention in mentions] == ["Maria Mitchell"] * 2
    related = client.get(f"/v1/entities/{found['entity_id']}/related").raise_for_status().json()["items"]
    assert "Nantucket" in {one["name"] for one in related}
    client.delete(f"/v1/documents/{document_id}").raise_for_status()
    assert client.get(f"/v1/entities/{found['entity_id']}").status_code == 404
