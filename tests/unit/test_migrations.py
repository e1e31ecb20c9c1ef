"""Migrations: they make the tables that the code believes in, once, and never touch a database that is ahead of it."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from stores import DEFAULTS

from actors.errors import Conflict, GatherumError, Unavailable
from actors.store import dialect, migrations
from actors.store.tables import metadata

OUTER_COMMA = re.compile(r",(?![^()]*\)(?!\s*$))|\(\s*\n|\n\)\s*$|\)\s*$")


def upgrade(path: Path, *, to: str | None = None) -> str:
    return migrations.upgrade(dialect.parse_url(f"sqlite:///{path}"), DEFAULTS.database, to=to)


def test_the_migrations_make_the_tables_as_the_code_knows_them(tmp_path: Path) -> None:
    upgrade(tmp_path / "migrated.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_several_databases_are_migrated_at_once_in_one_process(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(6)]
    with ThreadPoolExecutor(len(paths)) as threads:
        assert set(threads.map(upgrade, paths)) == {migrations.known()[-1]}


def test_the_tables_are_the_same_to_the_letter(tmp_path: Path) -> None:
    """Alembic's own comparison leaves out names of constraints and collations; SQLite keeps the text of each CREATE."""
    upgrade(tmp_path / "migrated.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'created.db'}")
    metadata.create_all(engine)
    engine.dispose()

    def schema(path: Path) -> dict[str, list[str]]:
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
        connection.close()
        # Columns added later stand behind the constraints, in one line with the last of them.
        return {name: sorted(" ".join(part.split()) for part in OUTER_COMMA.split(sql)) for name, sql in rows}

    migrated = schema(tmp_path / "migrated.db")
    del migrated["alembic_version"]
    assert migrated == schema(tmp_path / "created.db")


def test_what_was_read_before_headings_and_labels_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    upgrade(path, to="0001")
    connection = sqlite3.connect(path)
    connection.execute(
        "INSERT INTO pages (sha256, pipeline, number, width, height, text, words) VALUES ('0', 1, 1, 9, 9, 'a', '')"
    )
    connection.execute("INSERT INTO chunks VALUES (1, '0', 1, 1, 0, 0, 1, 'a', '')")
    connection.commit()
    upgrade(path)
    assert connection.execute("SELECT text, label FROM pages").fetchall() == [("a", "")]
    assert connection.execute("SELECT text, heading, kind FROM chunks").fetchall() == [("a", "", "text")]
    connection.close()


def test_spellings_of_before_become_one_name(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    upgrade(path, to="0004")
    connection = sqlite3.connect(path)
    old = [(1, "Acme", "acme", "ORG"), (2, "Acme, Inc.", "acme, inc.", "ORG"), (3, "U.S.", "u.s.", "GPE")]
    connection.executemany("INSERT INTO entities (id, name, normal, label) VALUES (?, ?, ?, ?)", old)
    connection.executemany(
        'INSERT INTO mentions (sha256, pipeline, page, start, "end", text, entity_id) VALUES (0, 1, 1, 0, 1, ?, ?)',
        [(name, number) for number, name, _, _ in old],
    )
    connection.commit()
    upgrade(path)
    names = connection.execute("SELECT id, name, normal, label FROM entities").fetchall()
    assert names == [(1, "Acme", "acme", "ORG"), (3, "U.S.", "us", "GPE")]
    mentions = connection.execute("SELECT text, entity_id FROM mentions").fetchall()
    assert mentions == [("Acme", 1), ("Acme, Inc.", 1), ("U.S.", 3)]
    connection.close()


def test_upgrading_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    revision = upgrade(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE counters SET value = 7")
    connection.commit()
    assert upgrade(path) == revision
    assert connection.execute("SELECT name, value FROM counters").fetchall() == [("change", 7)]
    connection.close()


async def test_of_many_that_start_together_one_migrates(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.to_thread(upgrade, tmp_path / "store.db")) for _ in range(4)]
    assert len({task.result() for task in tasks}) == 1
    connection = sqlite3.connect(tmp_path / "store.db")
    assert connection.execute("SELECT count(*) FROM counters").fetchone() == (1,)
    connection.close()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.bulk_insert", stop)  # the last thing the first migration does
        with pytest.raises(RuntimeError):
            upgrade(tmp_path / "store.db")
    connection = sqlite3.connect(tmp_path / "store.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    connection.close()
    upgrade(tmp_path / "store.db")


def test_a_database_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    upgrade(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    with pytest.raises(Conflict, match=r"newer version of Gatherum \(schema 9999; this one knows up to "):
        upgrade(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
    connection.close()


def test_a_file_that_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"no database at all, but long enough to look like one" * 100)
    with pytest.raises(GatherumError, match=r"^The file of the database is damaged, or is no SQLite database\.$"):
        upgrade(path)


def test_a_locked_database_is_waited_for_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "MIGRATION_WAIT_S", 0.01)
    path = tmp_path / "store.db"
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        upgrade(path)
    blocker.close()


def test_a_start_of_a_database_that_is_as_it_should_be_waits_for_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "MIGRATION_WAIT_S", 0.01)
    path = tmp_path / "store.db"
    there = upgrade(path)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert upgrade(path) == there
    blocker.close()
