"""`gatherum db`, as an operator types it, over a store in a folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import page_reading
from servers import Kind
from stores import open_database, publish
from typer.testing import CliRunner, Result

from actors.node import Node, Running
from serve.cli import app

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a store in it."""
    folder = tmp_path / "data"

    async def fill() -> None:
        async with open_database(folder) as database:
            await publish(database, folder, [page_reading(1), page_reading(2)])

    asyncio.run(fill())
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GATHERUM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("config.logs.configure", lambda *_, **__: None)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["db", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def is_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    def put_up(data: Path) -> None:
        Running("http://127.0.0.1:1", "127.0.0.1:1", Node.planned()).save(data)
        monkeypatch.setattr(Running, "alive", True)

    return put_up


def test_a_store_that_is_not_there_is_empty_and_not_made_by_looking(run: Run, tmp_path: Path) -> None:
    assert "is empty; the newest is" in run("current").stdout
    assert not (tmp_path / "data").exists()
    assert run("upgrade").exit_code == 0
    assert "the newest." in run("current").stdout


def test_a_backup_comes_back(run: Run, data: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "b.zip")
    made = run("backup", file)
    assert made.exit_code == 0, made.output
    assert "documents" in made.stdout
    assert "1 files" in made.stdout
    refused = run("restore", file)
    assert (refused.exit_code, "--force" in refused.stderr) == (1, True)
    data.rename(tmp_path / "lost")
    done = json.loads(run("restore", file, "--json").stdout)
    assert (done["files"], done["tables"]["pages"]["rows"]) == (1, 2)
    again = json.loads(run("backup", str(tmp_path / "again.zip"), "--json").stdout)
    assert again["tables"] == done["tables"]


def test_a_store_moves_to_a_server(run: Run, data: Path, fresh_database: Callable[[Kind], str]) -> None:
    target = fresh_database("postgresql")
    moved = run("copy", f"sqlite:///{data / 'gatherum.db'}", target)
    assert moved.exit_code == 0, moved.output
    assert "equal on both sides" in " ".join(moved.stdout.split())
    assert "p%40ss" not in moved.output
    assert "***" in moved.output


def test_what_would_lose_something_waits_until_the_system_is_down(
    run: Run, data: Path, tmp_path: Path, is_up: Callable[[Path], None]
) -> None:
    file, store = str(tmp_path / "b.zip"), f"sqlite:///{data / 'gatherum.db'}"
    is_up(data)
    for arguments in (("upgrade",), ("restore", file, "--force"), ("copy", store, f"sqlite:///{tmp_path / 'x.db'}")):
        refused = run(*arguments)
        assert refused.exit_code == 1
        assert "gatherum down" in refused.stderr
    assert run("backup", file).exit_code == 0
    assert run("current").exit_code == 0


def test_what_is_wrong_with_a_copy_names_the_one_that_is_wrong_and_makes_nothing(
    run: Run, data: Path, tmp_path: Path
) -> None:
    store, away = f"sqlite:///{data / 'gatherum.db'}", "postgresql://u:secret@127.0.0.1:1/x"
    nowhere = f"sqlite:///{tmp_path / 'nowhere.db'}"
    expected = {
        ("copy", "foo", store): "FROM is no database URL",
        ("copy", store, "oracle://h/x"): "TO names oracle",
        ("copy", store, away): "It is postgresql://u:***@127.0.0.1:1/x: does the server run, and is TO right?",
        ("copy", away, store): "is FROM right?",
        ("copy", nowhere, f"sqlite:///{tmp_path / 'new.db'}"): "There is no store of Gatherum at",
        ("copy", store, store): "the same one",
        ("restore", str(tmp_path / "no.zip")): "There is no file",
        ("restore", str(__file__)): "is no backup of Gatherum, or cannot be read",
        ("backup", str(tmp_path / "no" / "b.zip")): "There is no folder",
    }
    before = sorted(tmp_path.rglob("*"))
    for arguments, said in expected.items():
        refused = run(*arguments)
        assert (refused.exit_code, said in refused.stderr) == (1, True), (arguments, refused.output)
    assert sorted(tmp_path.rglob("*")) == before


def test_databases_are_shown_as_people_write_them(run: Run, data: Path) -> None:
    assert run("current").stdout.startswith(f"sqlite:///{data / 'gatherum.db'} is at revision")
