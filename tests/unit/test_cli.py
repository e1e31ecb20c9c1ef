"""The command line, against a server that is a function."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_http import ANSWER, FakeServer, problem
from fakes import job
from rich.console import Console
from typer.testing import CliRunner, Result

from actors.node import Node, Running
from serve import bulk, estimate, launch, render
from serve.cli import app
from serve.client import ClientError, Unreachable

# `serve.cli` may be shadowed by an attribute; the module itself is wanted.
cli = importlib.import_module("serve.cli")

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GATHERUM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return FakeServer().install(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "library"
    (root / "deep").mkdir(parents=True)
    (root / "a.pdf").write_bytes(b"%PDF-1.7 a")
    (root / "b.pdf").write_bytes(b"no pdf at all")
    (root / "deep" / "c.PDF").write_bytes(b"%PDF-1.7 c")
    (root / "notes.txt").write_text("not for us")
    return root


# --- ingest ---------------------------------------------------------------------------------------------------------


def test_a_corrupt_file_does_not_stop_the_others(run: Run, server: FakeServer, folder: Path) -> None:
    result = run("ingest", str(folder), "--collection", "sky")
    assert result.exit_code == 1
    assert sorted(name for _, name, _ in server.uploads) == ["a.pdf", "c.PDF"]
    assert {collection for collection, _, _ in server.uploads} == {"sky"}
    assert "2 of 3 documents, 8 pages" in result.stdout
    assert "b.pdf" in result.stdout
    assert "The file is not a PDF." in result.stdout


def test_ingest_as_json_is_one_value(run: Run, server: FakeServer, folder: Path) -> None:
    result = run("ingest", str(folder), "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["files"], report["failed"], report["unfinished"], report["pages"]) == (3, 1, 0, 8)
    (bad,) = [document for document in report["documents"] if document["state"] == "refused"]
    assert bad["code"] == "not_a_pdf"
    assert bad["path"].endswith("b.pdf")


def test_ingest_of_good_files_succeeds(run: Run, server: FakeServer, folder: Path) -> None:
    assert run("ingest", str(folder / "a.pdf"), str(folder / "deep")).exit_code == 0


def test_a_file_named_twice_is_sent_once(run: Run, server: FakeServer, folder: Path) -> None:
    assert run("ingest", str(folder / "a.pdf"), str(folder / "a.pdf")).exit_code == 0
    assert len(server.uploads) == 1


def test_a_url_is_fetched_by_the_server(run: Run, server: FakeServer, folder: Path) -> None:
    asked: list[Any] = []
    receipt = {"document_id": "d9", "job_id": "j9", "duplicate": False}
    server.jobs["j9"] = {"state": "done", "pages_done": 4, "pages_total": 4, "error": None}

    def hook(request: httpx.Request) -> httpx.Response | None:
        if request.headers.get("content-type") != "application/json":
            return None
        asked.append((request.url.params["collection"], json.loads(request.content)))
        return httpx.Response(202, json=receipt)

    server.hook = hook
    result = run("ingest", "https://example.org//a.pdf", str(folder / "a.pdf"), "--collection", "sky", "--json")
    assert result.exit_code == 0
    assert asked == [("sky", {"url": "https://example.org//a.pdf"})]
    assert [name for _, name, _ in server.uploads] == ["a.pdf"]
    assert json.loads(result.stdout)["documents"][0]["path"] == "https://example.org//a.pdf"


@pytest.mark.parametrize(
    ("options", "form"), [([], "text"), (["--format", "markdown"], "markdown"), (["--json"], "json")]
)
def test_extract_prints_what_the_server_reads(
    run: Run, server: FakeServer, folder: Path, options: list[str], form: str
) -> None:
    asked: list[tuple[dict[str, str], bytes]] = []

    def hook(request: httpx.Request) -> httpx.Response:
        asked.append((dict(request.url.params), request.content))
        return httpx.Response(200, content=b"r\xc3\xa9sum\xc3\xa9\n\f")

    server.hook = hook
    for what in (str(folder / "a.pdf"), "http://example.org/a.pdf"):
        result = run("extract", what, "--pages", "1-3", *options)
        assert result.exit_code == 0
        assert result.stdout.rstrip() == "r\u00e9sum\u00e9"
    assert [params for params, _ in asked] == [{"format": form, "pages": "1-3"}] * 2
    assert b"%PDF-1.7 a" in asked[0][1]
    assert json.loads(asked[1][1]) == {"url": "http://example.org/a.pdf"}


def test_extract_writes_images_into_a_folder(run: Run, server: FakeServer, folder: Path, tmp_path: Path) -> None:
    place = {"box": [0, 0, 9, 9], "width": 3, "height": 2, "sha256": "abc"}
    here = {**place, "media_type": "image/jpeg", "data": "SkZJRg==", "omitted": None}
    gone = {**place, "media_type": None, "data": None, "omitted": "repeated"}
    lines: list[dict[str, object]] = [
        {"document": {}},
        {"page": {"number": 3, "images": [gone, here]}},
        {"end": {"pages": 1, "unread": [], "truncated": False}},
    ]
    asked: list[dict[str, str]] = []

    def hook(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        return httpx.Response(200, content="\n".join(map(json.dumps, lines)).encode())

    server.hook = hook
    out = tmp_path / "new" / "images"
    result = run("extract", str(folder / "a.pdf"), "--images", str(out), "--json")
    assert asked == [{"stream": "true", "pages": "", "images": "true"}]
    path = out / "page-0003-02.jpg"
    assert json.loads(result.stdout) == [{"path": str(path), "page": 3, **place, "media_type": "image/jpeg"}]
    assert path.read_bytes() == b"JFIF"
    assert result.stderr == "Left out: 1 repeated.\n"
    lines[2:] = [{"problem": {"status": 422, "code": "reading_failed", "detail": "The file is damaged."}}]
    result = run("extract", str(folder / "a.pdf"), "--images", str(out))
    assert (result.exit_code, result.stderr) == (1, "gatherum: The file is damaged.\n")
    lines[2:] = []
    assert "broke off" in run("extract", str(folder / "a.pdf"), "--images", str(out)).stderr


def test_extract_of_nothing_and_of_what_is_refused_is_one_line(run: Run, server: FakeServer, folder: Path) -> None:
    assert run("extract", str(folder / "none.pdf")).exit_code == 2
    server.hook = lambda request: problem(403, "refused", "Only http and https URLs are fetched.")
    result = run("extract", "http://localhost/")
    assert (result.exit_code, result.stderr) == (1, "gatherum: Only http and https URLs are fetched.\n")


@pytest.mark.parametrize(("path", "code"), [("nowhere", 2), ("empty", 1)])
def test_nothing_to_ingest_is_said(run: Run, tmp_path: Path, path: str, code: int) -> None:
    (tmp_path / "empty").mkdir()
    result = run("ingest", str(tmp_path / path))
    assert result.exit_code == code
    assert path in result.stderr


def test_a_job_that_fails_is_in_the_table(run: Run, server: FakeServer, folder: Path) -> None:
    failed = {"state": "failed", "pages_done": 1, "pages_total": 4, "error": "Page 2 crashed the reader three times."}
    server.hook = lambda request: httpx.Response(200, json=failed) if "/jobs/" in request.url.path else None
    result = run("ingest", str(folder / "a.pdf"))
    assert result.exit_code == 1
    assert "Page 2 crashed the reader three times." in result.stdout


def test_a_server_that_is_not_there_is_one_line(run: Run, server: FakeServer, folder: Path) -> None:
    def hook(request: httpx.Request) -> None:
        raise httpx.ConnectError("refused")

    server.hook = hook
    result = run("ingest", str(folder))
    assert result.exit_code == 1
    assert result.stderr == (
        "gatherum: Gatherum does not answer at http://127.0.0.1:8000. Start it with `gatherum up`.\n"
    )


def test_ctrl_c_says_what_is_left(run: Run, server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(client: Any, report: bulk.Report, **how: str) -> None:
        report.outcomes[0].state = "accepted"
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "ingest", interrupted)
    result = run("ingest", str(folder))
    assert result.exit_code == 130
    assert "1 accepted documents" in result.stderr
    assert "2 were not sent" in result.stderr


async def test_cancelling_leaves_a_true_report(server: FakeServer, folder: Path) -> None:
    from serve.client import AsyncClient

    looked = asyncio.Event()

    def hook(request: httpx.Request) -> httpx.Response | None:
        if "/jobs/" not in request.url.path:
            return None
        looked.set()
        return httpx.Response(200, json={"state": "reading", "pages_done": 1, "pages_total": 4, "error": None})

    server.hook = hook
    report = bulk.Report([bulk.Outcome(folder / "a.pdf"), bulk.Outcome(folder / "b.pdf")])
    async with AsyncClient("http://gatherum.test") as client:
        task = asyncio.create_task(bulk.ingest(client, report, collection="c"))
        await looked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [Path(outcome.path).name for outcome in report.having("accepted")] == ["a.pdf"]
    assert report.ended is not None


async def test_pages_a_duplicate_had_before_are_not_counted(server: FakeServer, folder: Path) -> None:
    from serve.client import AsyncClient

    def hook(request: httpx.Request) -> httpx.Response | None:
        if request.method == "POST":
            return httpx.Response(202, json={"document_id": "d", "job_id": "j", "duplicate": True})
        return httpx.Response(200, json={"state": "done", "pages_done": 4, "pages_total": 4, "error": None})

    server.hook = hook
    report = bulk.Report([bulk.Outcome(folder / "a.pdf")])
    async with AsyncClient("http://gatherum.test") as client:
        await bulk.ingest(client, report, collection="c")
    assert report.pages == 0
    assert render.summary(report).plain.startswith("1 of 1 documents (1 known already), 0 pages")


def test_folders_are_walked_in_order_and_without_end(tmp_path: Path) -> None:
    for name in ("b.pdf", "a.pdf", "sub/c.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [Path(path).name for path in bulk.find_pdfs([tmp_path])] == ["a.pdf", "b.pdf", "c.pdf"]


# --- ask and sources ------------------------------------------------------------------------------------------------


def test_an_answer_shows_its_evidence_and_its_timeline(run: Run, server: FakeServer) -> None:
    result = run("ask", "Which moon?", "--collection", "a", "--collection", "b", "--source", "sky")
    assert result.exit_code == 0
    for part in (
        "Huygens landed on Titan. [1]",
        "Moons of Saturn",
        "72 100 300 112",
        "sky.moons id=6",
        "radius_km=2574.7",
        "timeout, 2 attempts: late",
        "partial",
        "█",
    ):
        assert part in result.stdout, part
    assert server.asked == [{"question": "Which moon?", "collections": ["a", "b"], "sources": ["sky"]}]


def test_an_answer_as_json_is_the_servers(run: Run, server: FakeServer) -> None:
    assert json.loads(run("ask", "Which moon?", "--json").stdout) == ANSWER


def test_a_server_is_added_with_its_fields(run: Run, server: FakeServer) -> None:
    seen: list[dict[str, Any]] = []

    def look(request: httpx.Request) -> httpx.Response | None:
        if request.method == "POST":
            seen.append(json.loads(request.content))
        return None

    server.hook = look
    where = ["--kind", "postgresql", "--host", "db", "--database", "crm", "--user", "reader"]
    result = run("sources", "add", "crm", *where, "--password-env", "CRM_PASSWORD", "--tls", "verify", "--samples")
    assert result.exit_code == 0, result.output
    assert seen == [
        {
            **{"name": "crm", "kind": "postgresql", "host": "db", "database": "crm", "user": "reader"},
            **{"password_env": "CRM_PASSWORD", "tls": "verify", "samples": True},
        }
    ]


def test_a_source_is_looked_at_and_queried(run: Run, server: FakeServer) -> None:
    assert "Warning: The role can write." in run("sources", "test", "crm").stdout
    assert "-> planets" in run("sources", "schema", "crm", "--refresh").stdout
    result = run("sources", "query", "crm", "SELECT :a, :b", "--param", "a=5", "--param", "b=x=y", "--limit", "2")
    assert "Titan" in result.stdout
    assert "2 rows in 1.5 ms, more left out." in result.stdout
    assert server.asked[-1] == {
        **{"verb": "query", "_shape": "arrays", "limit": "2", "sql": "SELECT :a, :b", "params": {"a": 5, "b": "x=y"}}
    }
    assert "All of moons is read." in run("sources", "query", "crm", "SELECT 1", "--explain").stdout
    assert run("sources", "query", "crm", "SELECT 1", "--param", "a").exit_code == 2


def test_sources_are_added_listed_and_removed(run: Run, server: FakeServer) -> None:
    assert "No sources" in run("sources", "list").stdout
    assert run("sources", "add", "sky", "sky.db").exit_code == 0
    assert "sky.db" in run("sources", "list").stdout
    assert json.loads(run("sources", "list", "--json").stdout) == [{"name": "sky", "kind": "sqlite", "path": "sky.db"}]
    assert json.loads(run("sources", "remove", "sky", "--json").stdout) == {"removed": "sky"}
    result = run("sources", "remove", "sky")
    assert result.exit_code == 1
    assert result.stderr == "gatherum: There is no source sky.\n"


def test_the_names_of_a_source_are_refreshed(run: Run, server: FakeServer) -> None:
    assert json.loads(run("sources", "refresh", "sky", "--json").stdout) == {"refreshed": "sky"}
    assert server.told == [("refresh", "sky")]


def test_lookups_are_stored_listed_run_and_removed(run: Run, server: FakeServer, tmp_path: Path) -> None:
    assert "No lookups" in run("lookups", "list", "shop").stdout
    file = tmp_path / "total.toml"
    file.write_text(
        'name = "customer_total"\ndescription = "Total of a customer"\nsql = "SELECT :name"\n'
        '[[parameters]]\nname = "name"\ntype = "text"\n'
    )
    assert run("lookups", "add", "shop", str(file)).stdout == "Lookup customer_total is stored.\n"
    assert server.lookups["customer_total"]["parameters"] == [{"name": "name", "type": "text"}]
    assert "name: text" in run("lookups", "list", "shop").stdout
    shown = run("lookups", "run", "shop", "customer_total", "name=Köhler").stdout
    assert "shop.customer_total name=Köhler, row=1" in shown
    assert "total=39.62" in shown
    assert json.loads(run("lookups", "run", "shop", "customer_total", "name=a=b", "--json").stdout)["rows"][0][
        "key"
    ] == {"name": "a=b", "row": 1}
    assert json.loads(run("lookups", "remove", "shop", "customer_total", "--json").stdout) == {
        "removed": "customer_total"
    }
    assert run("lookups", "remove", "shop", "customer_total").exit_code == 1


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), (b"name =", "is no TOML"), (b"\xff", "no TOML")]
)
def test_a_file_that_is_no_lookup_is_named(
    run: Run, server: FakeServer, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "total.toml"
    if content is not None:
        file.write_bytes(content)
    result = run("lookups", "add", "shop", str(file))
    assert result.exit_code == 2
    assert says in result.stderr


# --- config ---------------------------------------------------------------------------------------------------------


def test_config_says_where_each_value_came_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATHERUM_API__PORT", "8123")
    values = json.loads(run("config", "--json").stdout)
    assert values["api.port"] == {"value": 8123, "origin": "GATHERUM_API__PORT"}
    assert values["api.host"] == {"value": "127.0.0.1", "origin": "config/default.yaml"}
    table = run("config").stdout
    assert "8123" in table
    assert "GATHERUM_API__PORT" in table


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://user:hunter2@host/db",
        "postgresql+asyncpg://user:hunt/er2@x@host/db",
        "postgresql+asyncpg://host/db?user=u&password=hunter2&ssl=1",
        "mysql+aiomysql://user@host/db?ssl_Password=hunter2",
    ],
)
@pytest.mark.parametrize("form", [["--json"], []])
def test_a_password_is_never_shown(run: Run, monkeypatch: pytest.MonkeyPatch, url: str, form: list[str]) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    shown = run("config", *form).stdout
    assert "er2" not in shown
    assert "***" in shown
    assert "host/db" in shown


def test_a_url_without_password_is_shown_whole() -> None:
    url = "sqlite+aiosqlite:////data/a@b:c.db?mode=ro"
    assert render.without_password(url) == url


def test_a_wrong_setting_is_named_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATHERUM_API__PRT", "1")
    result = run("config")
    assert result.exit_code == 2
    assert "GATHERUM_API__PRT" in result.stderr
    assert "Traceback" not in result.output


# --- where it serves ------------------------------------------------------------------------------------------------


def test_a_client_finds_the_system_that_up_recorded(tmp_path: Path) -> None:
    from config.settings import load

    settings = load({"data_dir": tmp_path, "api.port": 8000})
    assert launch.base_url(settings) == "http://127.0.0.1:8000"
    Running("http://127.0.0.1:8099", "127.0.0.2:1", Node("127.0.0.2:1", "mark")).save(tmp_path)
    assert launch.base_url(settings) == "http://127.0.0.1:8099"
    Running.forget(tmp_path)
    assert launch.base_url(settings) == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("host", "url"),
    [("::", "http://[::1]:80"), ("::1", "http://[::1]:80"), ("10.0.0.5", "http://10.0.0.5:80")],
)
def test_the_address_is_one_that_can_be_called(tmp_path: Path, host: str, url: str) -> None:
    from config.settings import load

    assert launch.base_url(load({"data_dir": tmp_path, "api.host": host, "api.port": 80})) == url


def test_a_port_that_is_not_known_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATHERUM_API__PORT", "0")
    result = run("ask", "Who?")
    assert result.exit_code == 1
    assert "--url" in result.stderr


# --- starting up ----------------------------------------------------------------------------------------------------


def test_help_needs_neither_ray_nor_the_settings() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from serve.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print([m for m in ('ray', 'spacy', 'httpx', 'pydantic', 'structlog') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": "."}
    )
    assert out.stdout == "[]\n"


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_jobs_shows_what_is_read_and_what_waits(run: Run, server: FakeServer) -> None:
    server.listed = [
        job("a", state="reading", pages_done=40, pages_total=100, attempt=2, pages_per_s=2.0, eta_s=30.0),
        job("b", filename="rings.pdf", pages_total=20),
        job("c", state="failed", error="The PDF is damaged."),
    ]
    result = run("jobs")
    assert result.exit_code == 0
    assert "1 failed, 1 waiting, 1 being read · 2.0 pages/s · 40 s left" in result.stdout
    assert "40/100" in result.stdout
    assert "30 s" in result.stdout
    assert "rings.pdf" in result.stdout
    assert "damaged" not in result.stdout
    assert "stalled" not in result.stdout
    assert "The PDF is damaged." in run("jobs", "--state", "failed", "--once").stdout


def test_jobs_that_wait_for_room_say_so_and_no_speed(run: Run, server: FakeServer) -> None:
    server.listed = [job("a", state="reading", pages_done=40, pages_total=100, pages_per_s=2.0, eta_s=30.0)]
    server.trouble = ["ingest-0: waiting jobs: The disk that the database lies on is full."]
    told = run("jobs").stdout
    assert server.trouble[0] in told
    assert "pages/s" not in told.replace("Pages/s", "")
    assert "30 s" not in told
    # An index that lags keeps no page from being read.
    server.trouble = ["entities-0: names: The database is restarting."]
    told = run("jobs").stdout
    assert server.trouble[0] in told
    assert "2.0 pages/s · 30 s left" in told


def test_in_a_narrow_terminal_a_job_is_one_line_with_its_whole_id() -> None:
    long = job("0123456789abcdef" * 2, filename="a very long name.pdf", collection="c" * 40, pages_total=1000)
    board = {"items": [asdict(long)], "complete": True, "counts": {}, "trouble": [], "waits": False}
    shown = StringIO()
    Console(file=shown, width=80).print(render.jobs(board))
    lines = shown.getvalue().splitlines()
    assert [line for line in lines if "0123456789abcdef" * 2 in line and "queued" in line and "0/1000" in line]
    assert len(lines) == 4


def test_jobs_as_json_is_one_value_and_says_whether_it_is_all(run: Run, server: FakeServer) -> None:
    server.listed = [job("a"), job("b")]
    board = json.loads(run("jobs", "--json").stdout)
    assert [item["job_id"] for item in board["items"]] == ["a", "b"]
    assert (board["complete"], board["counts"]) == (True, {"queued": 2})
    assert json.loads(run("jobs", "--json", "--limit", "1").stdout)["complete"] is False


def test_nothing_to_do_is_said(run: Run, server: FakeServer) -> None:
    assert run("jobs").stdout == "Nothing to do\n"


async def test_the_table_is_kept_up_to_date_until_it_is_cancelled(
    server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    boards = iter(
        [
            {"items": [], "complete": True, "counts": {"queued": number}, "trouble": [], "waits": False}
            for number in (3, 2)
        ]
    )

    async def look() -> dict[str, Any]:
        try:
            return next(boards)
        except StopIteration:
            raise asyncio.CancelledError from None

    with pytest.raises(asyncio.CancelledError):
        await render.keep_shown(look, render.jobs)
    assert "2 waiting" in capsys.readouterr().out


async def test_a_table_that_is_shown_outlives_a_restart_of_the_server() -> None:
    board = {"items": [], "complete": True, "counts": {"queued": 2}, "trouble": [], "waits": False}
    looks: list[dict[str, Any] | ClientError] = [board, Unreachable("Gatherum does not answer."), board]

    async def look() -> dict[str, Any]:
        seen = looks.pop(0)
        if isinstance(seen, ClientError):
            raise seen
        return seen

    again = cli.over_outages(look)
    assert await again() == board
    missed = await again()
    assert (missed["counts"], missed["waits"]) == ({"queued": 2}, True)
    assert missed["trouble"] == ["As it was before: Gatherum does not answer."]
    assert await again() == board
    # One that never answered is told at once.
    looks = [Unreachable("Gatherum does not answer.")]
    with pytest.raises(Unreachable):
        await cli.over_outages(look)()


def test_jobs_are_cancelled_and_retried_by_id(run: Run, server: FakeServer) -> None:
    assert run("jobs", "cancel", "j1").stdout == "Job j1 is cancelled.\n"
    assert json.loads(run("jobs", "retry", "j2", "--json").stdout)["state"] == "queued"
    assert server.told == [("cancel", "j1"), ("retry", "j2")]
    server.hook = lambda request: problem(409, "conflict", "The job is done: every page was read.")
    result = run("jobs", "retry", "j1")
    assert (result.exit_code, result.stderr) == (1, "gatherum: The job is done: every page was read.\n")


# --- dry run --------------------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file but b.pdf has four pages; nothing is opened."""

    async def look_at_all(paths: list[Path], limits: Any, looks: list[estimate.Look]) -> None:
        looks += [
            estimate.Look(str(path), 10, path.stem, pages=4, sampled=4, stored=4000)
            if path.name != "b.pdf"
            else estimate.Look(str(path), code="not_a_pdf", error="The file is not a PDF.")
            for path in paths
        ]

    monkeypatch.setattr(estimate, "look_at_all", look_at_all)


@pytest.mark.usefixtures("looks")
def test_a_dry_run_sends_nothing_and_knows_what_is_there(run: Run, server: FakeServer, folder: Path) -> None:
    server.known = {"sky": ["x", "a", "y"]}
    result = run("ingest", str(folder), "https://example.org/a.pdf", "--collection", "sky", "--dry-run", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (found["files"], found["new"], found["known"], found["urls"], found["pages"]) == (3, 1, 1, 1, 4)
    assert [entry["code"] for entry in found["refused"]] == ["not_a_pdf"]
    assert server.uploads == []


@pytest.mark.usefixtures("looks")
def test_a_dry_run_needs_no_server(run: Run, server: FakeServer, folder: Path) -> None:
    def hook(request: httpx.Request) -> None:
        raise httpx.ConnectError("refused")

    server.hook = hook
    result = run("ingest", str(folder / "a.pdf"), "--dry-run")
    assert result.exit_code == 0
    assert "could not be asked" in result.stderr
    assert "unknown" in result.stdout


@pytest.mark.usefixtures("looks")
def test_a_collection_that_is_not_there_knows_nothing(run: Run, server: FakeServer, folder: Path) -> None:
    found = json.loads(run("ingest", str(folder / "a.pdf"), "--dry-run", "--json").stdout)
    assert (found["new"], found["known"]) == (1, 0)


def test_the_priority_goes_with_every_file(run: Run, server: FakeServer, folder: Path) -> None:
    seen: list[str] = []

    def hook(request: httpx.Request) -> None:
        if request.method == "POST":
            seen.append(request.url.params["priority"])

    server.hook = hook
    assert run("ingest", str(folder / "a.pdf"), "--priority", "high").exit_code == 0
    assert seen == ["high"]


@pytest.mark.parametrize("command", ["up", "down", "status", "ingest", "ask", "config", "jobs"])
def test_every_command_has_help_and_json(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
