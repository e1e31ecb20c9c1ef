"""The routes of stored lookups in memory, over a real store and a real SQLite source."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from stores import DEFAULTS, open_database, soon

from serve.app import create_app
from serve.services import Roles, Services

SCRIPT = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, last_name TEXT);
CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer (id), total NUMERIC);
INSERT INTO customer VALUES (1, 'Gonçalves'), (2, 'Köhler');
INSERT INTO invoice VALUES (1, 1, 3.96), (2, 1, 35.66), (3, 2, 8.91);
"""

TOTAL: dict[str, Any] = {
    "name": "customer_total",
    "description": "Total of all invoices of a customer",
    "sql": "SELECT sum(total) AS total FROM invoice JOIN customer ON customer.id = customer_id WHERE last_name = :name",
    "parameters": [{"name": "name", "type": "text", "column": "customer.last_name"}],
}
PLACE = "/v1/sources/shop/lookups"


@pytest.fixture
def roles() -> SimpleNamespace:
    return SimpleNamespace(database=None)


@pytest.fixture
def app(roles: SimpleNamespace) -> FastAPI:
    nothing = cast("Any", None)
    return create_app(Services(DEFAULTS, cast("Roles", roles), nothing, nothing, nothing))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    connection = sqlite3.connect(root / "shop.db")
    connection.executescript(SCRIPT)
    connection.close()
    return root


@pytest.fixture
async def client(app: FastAPI, roles: SimpleNamespace, tmp_path: Path, root: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with open_database(tmp_path, sqlite_root=root) as roles.database:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            source = {"name": "shop", "kind": "sqlite", "path": "shop.db"}
            assert (await client.post("/v1/sources", json=source)).status_code == 201
            yield client


async def test_a_lookup_is_stored_listed_run_and_forgotten(client: httpx.AsyncClient, roles: SimpleNamespace) -> None:
    stored = await client.post(PLACE, json=TOTAL)
    assert stored.status_code == 201, stored.text
    assert (await client.post(PLACE, json=TOTAL)).status_code == 201  # the very same again
    [listed] = (await client.get(PLACE)).json()["items"]
    assert listed == stored.json()
    assert listed["source"] == "shop"
    assert listed["arguments"] == {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    ran = await client.post(f"{PLACE}/customer_total", json={"arguments": {"name": "Gonçalves"}})
    assert ran.json() == {
        "rows": [
            {
                "source": "shop",
                "table": "customer_total",
                "key": {"name": "Gonçalves", "row": 1},
                "columns": {"total": 39.62},
                "sql": TOTAL["sql"].replace(":name", "'Gonçalves'"),
                "kind": "lookup",
                "via": "",
            }
        ],
        "truncated": False,
    }
    assert (await client.delete(f"{PLACE}/customer_total")).status_code == 204
    assert (await client.get(PLACE)).json() == {"items": [], "next": None}
    changes = await roles.database.changes(0, 0.0, 10, deadline=soon())
    assert [change.kind for change in changes] == ["sources", "lookups", "lookups"]


async def test_more_rows_than_wanted_are_said_to_be_more(client: httpx.AsyncClient) -> None:
    body = {"name": "all", "description": "All invoices", "sql": "SELECT id FROM invoice ORDER BY id"}
    assert (await client.post(PLACE, json=body)).status_code == 201
    few = (await client.post(f"{PLACE}/all", json={"limit": 2})).json()
    assert ([row["columns"] for row in few["rows"]], few["truncated"]) == ([{"id": 1}, {"id": 2}], True)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"name": "no name"}, 422, "invalid_input"),
        ({"description": ""}, 422, "invalid_input"),
        ({"sql": "SELECT no FROM invoice WHERE id = :name"}, 422, "invalid_input"),
        ({"sql": "SELECT :name; DELETE FROM invoice"}, 422, "invalid_input"),
        ({"sql": "SELECT load_extension(:name)"}, 403, "refused"),
        ({"sql": "SELECT 1"}, 422, "invalid_input"),
        ({"parameters": [{"name": "name", "type": "colour"}]}, 422, "invalid_input"),
        ({"more": 1}, 422, "invalid_input"),
    ],
)
async def test_what_is_no_lookup_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], status: int, code: str
) -> None:
    answer = await client.post(PLACE, json=TOTAL | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await client.get(PLACE)).json()["items"] == []


async def test_what_is_not_there_is_404_and_what_is_taken_409(client: httpx.AsyncClient) -> None:
    await client.post(PLACE, json=TOTAL)
    other = await client.post(PLACE, json=TOTAL | {"description": "Something else"})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    for method, path, code in [
        ("GET", "/v1/sources/no/lookups", "unknown_source"),
        ("POST", f"{PLACE}/no", "unknown_lookup"),
        ("DELETE", f"{PLACE}/no", "unknown_lookup"),
        ("POST", "/v1/sources/no/refresh", "unknown_source"),
    ]:
        answer = await client.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["code"]) == (404, code)
    wrong = await client.post(f"{PLACE}/customer_total", json={"arguments": {"nme": "x"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_input")
    assert "its parameters are name" in wrong.json()["detail"]


async def test_a_source_takes_its_lookups_along(client: httpx.AsyncClient, roles: SimpleNamespace) -> None:
    await client.post(PLACE, json=TOTAL)
    assert (await client.delete("/v1/sources/shop")).status_code == 204
    assert await roles.database.lookups(deadline=soon()) == []


async def test_a_registration_names_columns_to_leave_out(client: httpx.AsyncClient, roles: SimpleNamespace) -> None:
    source = {"name": "closed", "kind": "sqlite", "path": "shop.db", "exclude": ["customer.*"]}
    added = await client.post("/v1/sources", json=source)
    assert (added.status_code, added.json()["exclude"]) == (201, ["customer.*"])
    assert await roles.database.source_values("closed", deadline=soon()) == []
    assert (await client.post("/v1/sources", json=source)).status_code == 201  # the very same again


async def test_a_refresh_tells_those_who_look_for_names(client: httpx.AsyncClient, roles: SimpleNamespace) -> None:
    assert (await client.post("/v1/sources/shop/refresh")).status_code == 202
    changes = await roles.database.changes(1, 0.0, 10, deadline=soon())
    assert [change.kind for change in changes] == ["sources"]
    values = await roles.database.source_values("shop", deadline=soon())
    assert [(value.value, value.key) for value in values] == [("Gonçalves", 1), ("Köhler", 2)]


async def test_a_client_that_goes_takes_its_lookup_along(
    client: httpx.AsyncClient, app: FastAPI, roles: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    messages = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def never(*_: Any, **__: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await begun.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    monkeypatch.setattr(roles.database, "run_lookup", never)
    scope = {
        "type": "http",
        "method": "POST",
        "path": f"{PLACE}/customer_total",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
    }
    async with asyncio.timeout(2):
        await app(cast("Any", scope), receive, send)
    assert ended.is_set()
