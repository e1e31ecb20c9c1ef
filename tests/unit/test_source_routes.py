"""Sources over HTTP, in memory: SQLite files are read by their own processes, the store is a stand-in."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from stores import DEFAULTS
from structlog.testing import capture_logs

from actors.deadline import Deadline
from actors.messages import Source
from serve.app import create_app
from serve.services import Roles, Services


class Registry:
    """The part of the store that keeps sources."""

    def __init__(self) -> None:
        self.kept: list[Source] = []

    async def sources(self, *, deadline: Deadline) -> list[Source]:
        return list(self.kept)

    async def add_source(self, source: Source, *, deadline: Deadline) -> None:
        self.kept.append(source)

    async def remove_source(self, name: str, *, deadline: Deadline) -> None:
        self.kept = [source for source in self.kept if source.name != name]


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def app(tmp_path: Path, registry: Registry) -> FastAPI:
    connection = sqlite3.connect(tmp_path / "sky.db")
    connection.executescript(
        "CREATE TABLE moons (id INTEGER PRIMARY KEY, name TEXT, radius REAL, data BLOB, note);"
        "INSERT INTO moons VALUES (1, 'Titan', 2574.7, X'00ff', NULL), (2, 'Io, or so', 1821.6, NULL, 9e999);"
        "CREATE TABLE many (n INTEGER PRIMARY KEY); CREATE TABLE visits (moon INTEGER REFERENCES moons);"
        "INSERT INTO many WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n < 3000) SELECT n FROM c;"
    )
    connection.close()
    sources = DEFAULTS.sources.model_copy(update={"sqlite_root": str(tmp_path), "query_rows": 2500})
    settings = DEFAULTS.model_copy(update={"data_dir": tmp_path / "data", "sources": sources})
    roles = cast("Roles", SimpleNamespace(database=registry))

    async def never(*_: Any) -> Any:
        raise AssertionError

    app = create_app(Services(settings, roles, never, never, never))
    registry.kept.append(Source("sky", "sqlite", "sky.db"))
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
    await app.state.queries.close()


async def query(client: httpx.AsyncClient, sql: str, how: str = "", **params: Any) -> httpx.Response:
    return await client.post(f"/v1/sources/sky/query{how}", json={"sql": sql, "params": params})


async def test_rows_are_objects_or_arrays(client: httpx.AsyncClient) -> None:
    sql = "SELECT id, name, radius FROM moons WHERE id = :id"
    answer = (await query(client, sql, id=1)).json()
    assert answer["rows"] == [{"id": 1, "name": "Titan", "radius": 2574.7}]
    assert [column["name"] for column in answer["columns"]] == ["id", "name", "radius"]
    assert answer["truncated"] is False
    assert answer["elapsed_ms"] > 0
    assert (await query(client, sql, "?_shape=arrays", id=1)).json()["rows"] == [[1, "Titan", 2574.7]]


async def test_what_json_has_no_form_for_is_told(client: httpx.AsyncClient) -> None:
    answer = (await query(client, "SELECT id, id, data, note FROM moons ORDER BY id")).json()
    assert answer["rows"] == [
        {"id": 1, "id_2": 1, "data": {"$base64": "AP8="}, "note": None},
        {"id": 2, "id_2": 2, "data": None, "note": None},
    ]


@pytest.mark.parametrize(
    ("how", "count", "truncated"),
    [("", 1000, True), ("?limit=3000", 2500, True), ("?limit=7", 7, True), ("?limit=0", 0, True)],
)
async def test_rows_are_limited_and_that_is_told(
    client: httpx.AsyncClient, how: str, count: int, truncated: bool
) -> None:
    answer = (await query(client, "SELECT n FROM many", how)).json()
    assert (len(answer["rows"]), answer["truncated"]) == (count, truncated)


async def test_lines_tell_their_columns_rows_and_end(client: httpx.AsyncClient) -> None:
    answer = await query(client, "SELECT n FROM many WHERE n < 2000", "?_format=ndjson&_shape=arrays")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[0] == {"columns": [{"name": "n", "type": ""}]}
    assert [line["row"][0] for line in lines[1:-1]] == list(range(1, 2000))
    assert lines[-1]["end"]["rows"] == 1999
    assert lines[-1]["end"]["truncated"] is False


async def test_lines_of_too_many_rows_say_so(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/sources/sky/query", json={"sql": "SELECT n FROM many"}, headers={"accept": "application/x-ndjson"}
    )
    end = json.loads(answer.text.splitlines()[-1])["end"]
    assert (end["rows"], end["truncated"]) == (2500, True)


async def test_csv_is_what_spreadsheets_read(client: httpx.AsyncClient) -> None:
    answer = await query(client, "SELECT id, name, data, note FROM moons ORDER BY id", "?_format=csv")
    assert answer.text == 'id,name,data,note\r\n1,Titan,AP8=,\r\n2,"Io, or so",,inf\r\n'
    assert (await query(client, "SELECT 1 AS one WHERE 0", "?_format=csv")).text == "one\r\n"


async def test_csv_is_whole_or_breaks_off(client: httpx.AsyncClient) -> None:
    assert len((await query(client, "SELECT n FROM many", "?_format=csv&limit=5")).text.splitlines()) == 6
    # The server cuts the connection of an answer without an end, and the log tells why; it is no defect of ours.
    with capture_logs() as logged, pytest.raises(AssertionError):  # httpx's own: the answer has no end
        await query(client, "SELECT n FROM many", "?_format=csv")
    assert [(entry["event"], entry.get("code")) for entry in logged] == [
        ("answer_broke_off", "too_large"),
        ("request", None),
    ]


WIDE = "SELECT n, printf('%.*c', 1000, 'x') AS text FROM many"


async def test_json_of_many_rows_comes_in_pieces(client: httpx.AsyncClient) -> None:
    few = await query(client, WIDE, "?limit=9")
    assert (len(few.json()["rows"]), few.headers["content-length"]) == (9, str(len(few.content)))
    many = await query(client, WIDE, "?limit=2500&_shape=arrays")
    assert "content-length" not in many.headers
    body = many.json()
    assert [n for n, _ in body["rows"]] == list(range(1, 2501))
    assert (list(body), body["truncated"]) == (["columns", "rows", "truncated", "elapsed_ms"], True)


async def test_json_that_breaks_off_has_no_end(client: httpx.AsyncClient) -> None:
    late = WIDE.replace(" AS", " || CASE n WHEN 2400 THEN json_extract('no json', '$') ELSE '' END AS")
    with capture_logs() as logged, pytest.raises(AssertionError):
        await query(client, late, "?limit=2500")
    assert logged[0]["event"] == "answer_broke_off"
    # What fails before so much is there is a status.
    assert (await query(client, late.replace("2400", "100"), "?limit=2500")).status_code == 422


async def test_arrow_keeps_types(client: httpx.AsyncClient) -> None:
    ipc = pytest.importorskip("pyarrow.ipc")
    answer = await query(client, "SELECT id, name, radius, data FROM moons ORDER BY id", "?_format=arrow")
    table = ipc.open_stream(io.BytesIO(answer.content)).read_all()
    assert table.to_pylist()[0] == {"id": 1, "name": "Titan", "radius": 2574.7, "data": b"\x00\xff"}
    assert [str(field.type) for field in table.schema] == ["int64", "string", "double", "binary"]


@pytest.mark.parametrize(
    ("sql", "status", "says"),
    [
        ("SELECT nowhere FROM moons", 422, "nowhere"),
        ("DELETE FROM moons", 403, "only read"),
        ("SELECT :x", 422, "x"),
        ("SELECT 1; SELECT 2", 422, "one statement"),
    ],
)
@pytest.mark.parametrize("how", ["", "?_format=ndjson", "?_format=csv"])
async def test_what_is_wrong_is_a_problem_in_every_form(
    client: httpx.AsyncClient, sql: str, status: int, says: str, how: str
) -> None:
    answer = await query(client, sql, how)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


async def test_a_statement_has_its_time(client: httpx.AsyncClient) -> None:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    answer = await query(client, sql, "?timeout_ms=100")
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")


async def test_a_client_that_goes_takes_its_statement_along(client: httpx.AsyncClient, app: FastAPI) -> None:
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    body = json.dumps({"sql": sql}).encode()
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/sources/sky/query",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
    }
    asking = asyncio.create_task(app(cast("Any", scope), receive, send))
    places = app.state.queries.sources._places
    while not ("sky" in places and places["sky"]._free._value < 8):
        await asyncio.to_thread(lambda: None)
    gone.set()
    async with asyncio.timeout(1.5):
        await asking
    assert places["sky"]._free._value == 8


async def test_a_client_that_goes_takes_its_explanation_along(
    client: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    body = json.dumps({"sql": "SELECT 1"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def never(*_: Any) -> Any:
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

    monkeypatch.setattr(app.state.queries.sources, "explain", never)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/sources/sky/explain",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
    }
    async with asyncio.timeout(2):
        await app(cast("Any", scope), receive, send)
    assert ended.is_set()


@pytest.mark.parametrize("form", ["ndjson", "csv"])
async def test_a_client_that_takes_no_rows_holds_no_statement_beyond_its_time(
    client: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr("serve.streaming.GRACE_S", 0.05)
    body = json.dumps({"sql": "SELECT a.n FROM many a, many b"}).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    started = asyncio.Event()

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Any) -> None:
        started.set()
        if message.get("body"):
            await asyncio.Event().wait()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/sources/sky/query",
        "query_string": f"_format={form}&timeout_ms=300".encode(),
        "headers": [(b"content-type", b"application/json")],
        "http_version": "1.1",
    }
    async with asyncio.timeout(3):
        await app(cast("Any", scope), receive, send)
    assert started.is_set()
    assert app.state.queries.sources._places["sky"]._free._value == 8


async def test_an_unknown_source_is_404(client: httpx.AsyncClient) -> None:
    for path in ("query", "explain", "test"):
        answer = await client.post(f"/v1/sources/none/{path}", json={"sql": "SELECT 1"})
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_source")
    assert (await client.get("/v1/sources/none/schema")).status_code == 404


async def test_the_tables_are_told(client: httpx.AsyncClient, registry: Registry) -> None:
    schema = (await client.get("/v1/sources/sky/schema")).json()
    tables = {table["name"]: table for table in schema["tables"]}
    assert tables["moons"]["key"] == ["id"]
    assert tables["moons"]["rows"] == 2
    assert tables["visits"]["foreign_keys"] == [
        {"columns": ["moon"], "table": "moons", "references": ["id"], "namespace": ""}
    ]
    assert tables["moons"]["columns"][1] == {
        "name": "name",
        "type": "TEXT",
        "nullable": True,
        "comment": "",
        "samples": [],
    }
    registry.kept.append(Source("open", "sqlite", "sky.db", samples=True))
    await asyncio.to_thread(lambda: None)
    registry.kept = registry.kept[::-1]
    await client.post("/v1/sources", json={"name": "again", "kind": "sqlite", "path": "sky.db"})
    shown = (await client.get("/v1/sources/open/schema")).json()
    moons = next(table for table in shown["tables"] if table["name"] == "moons")
    assert moons["columns"][1]["samples"] == ["Titan", "Io, or so"]


async def test_a_look_says_version_and_what_could_be_written(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/sources/sky/test")).json()
    assert found["version"].startswith("SQLite 3.")
    assert found["writable"] == ["the file"]
    assert "read-only" in found["warnings"][0]


async def test_a_plan_is_told_in_plain_words(client: httpx.AsyncClient) -> None:
    body = {"sql": "SELECT * FROM many WHERE n + 1 = :n", "params": {"n": 5}}
    found = (await client.post("/v1/sources/sky/explain", json=body)).json()
    assert found["analysis"][0]["level"] == "warning"
    assert "All of many is read" in found["analysis"][0]["text"]
    body = {"sql": "SELECT * FROM many WHERE n = :n", "params": {"n": 5}}
    found = (await client.post("/v1/sources/sky/explain", json=body)).json()
    assert [each["level"] for each in found["analysis"]] == ["note"]


async def test_a_password_is_stored_sealed_and_never_told(
    client: httpx.AsyncClient, registry: Registry, tmp_path: Path
) -> None:
    body = {"name": "crm", "kind": "postgresql", "host": "db.example.org", "database": "crm", "user": "reader"}
    answers = [await client.post("/v1/sources", json={**body, "password": "hunter2"}), await client.get("/v1/sources")]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json()["password"] == "stored"  # noqa: S105 - where it is, not what it is
    assert not any("hunter2" in answer.text or registry.kept[-1].secret in answer.text for answer in answers)
    assert registry.kept[-1].secret
    assert "hunter2" not in repr(registry.kept[-1])
    assert registry.kept[-1].secret not in repr(registry.kept[-1])
    key = tmp_path / "data" / "sources.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
