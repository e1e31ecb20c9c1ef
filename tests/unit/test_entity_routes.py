"""The routes of entities in memory, over a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fakes import page_reading
from fastapi import FastAPI
from stores import DEFAULTS, open_database, publish

from serve.app import create_app
from serve.services import Roles, Services


@pytest.fixture
def roles() -> SimpleNamespace:
    return SimpleNamespace(database=None)


@pytest.fixture
def app(roles: SimpleNamespace, tmp_path: Path) -> FastAPI:
    nothing = cast("Any", None)
    settings = DEFAULTS.model_copy(update={"data_dir": tmp_path})
    return create_app(Services(settings, cast("Roles", roles), nothing, nothing, nothing))


@pytest.fixture
async def client(app: FastAPI, roles: SimpleNamespace, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with open_database(tmp_path) as roles.database:
        pages = [page_reading(1), page_reading(2, "Titan is wet.")]
        await publish(roles.database, tmp_path, pages, title="Moons")
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def test_a_name_leads_to_its_mentions_and_its_neighbours(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/entities", params={"q": "TITAN"})).json()
    assert listed == {
        "items": [{"entity_id": 2, "name": "Titan", "label": "LOC", "mentions": 2, "documents": 1}],
        "next": None,
    }
    assert (await client.get("/v1/entities/2")).json() == {**listed["items"][0], "spellings": ["Titan"]}
    mentions = (await client.get("/v1/entities/2/mentions", params={"limit": 1})).json()
    [first] = mentions["items"]
    assert (first["title"], first["page"], first["start"], first["end"], first["text"]) == ("Moons", 1, 0, 5, "Titan")
    assert first["boxes"] == [[72.0, 72.0, 110.0, 84.0]]
    rest = (await client.get("/v1/entities/2/mentions", params={"after": mentions["next"]})).json()
    assert [(one["page"], rest["next"]) for one in rest["items"]] == [(2, None)]
    assert (await client.get("/v1/entities/2/related")).json() == {
        "items": [{"entity_id": 1, "name": "Saturn", "label": "LOC", "pages": 1}],
        "next": None,
    }
    of_document = (await client.get(f"/v1/documents/{first['document_id']}/entities")).json()
    assert [(one["name"], one["mentions"]) for one in of_document["items"]] == [("Saturn", 1), ("Titan", 2)]


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/v1/entities?after=nonsense", 422, "invalid_input", "`next`"),
        ("/v1/entities?limit=0", 422, "invalid_input", "limit"),
        ("/v1/entities?limit=1000000000", 422, "invalid_input", "limit"),
        ("/v1/entities?limit=many", 422, "invalid_input", "limit"),
        (f"/v1/entities?q={'x' * 201}", 422, "invalid_input", "q"),
        ("/v1/entities?collection=nowhere", 404, "unknown_collection", "collection"),
        ("/v1/entities/99", 404, "unknown_entity", "entity"),
        ("/v1/entities/0", 422, "invalid_input", "entity_id"),
        (f"/v1/entities/{2**63}", 422, "invalid_input", "entity_id"),
        (f"/v1/entities/{2**63 - 1}/mentions", 404, "unknown_entity", "entity"),
        ("/v1/entities/titan", 422, "invalid_input", "entity_id"),
        ("/v1/entities/99/mentions", 404, "unknown_entity", "entity"),
        ("/v1/entities/2/mentions?after=WzFd", 422, "invalid_input", "`next`"),
        ("/v1/entities/2/mentions?collection=nowhere", 404, "unknown_collection", "collection"),
        ("/v1/entities/99/related", 404, "unknown_entity", "entity"),
        ("/v1/entities/2/related?after=%00", 422, "invalid_input", "`next`"),
        ("/v1/documents/nothing/entities", 404, "unknown_document", "document"),
    ],
)
async def test_bad_input_gets_a_problem_that_says_what_is_wrong(
    client: httpx.AsyncClient, path: str, status: int, code: str, words: str
) -> None:
    answer = await client.get(path)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert words in problem["detail"]


@pytest.mark.parametrize(
    "q", ["%", "\x00", "\U0001f600", "' OR 1=1 --", "\u05ea\u05d9\u05d8\u05d0\u05df", "_", "...", "*"]
)
async def test_odd_searches_find_nothing_and_do_no_harm(client: httpx.AsyncClient, q: str) -> None:
    answer = await client.get("/v1/entities", params={"q": q})
    assert (answer.status_code, answer.json()["items"]) == (200, [])
