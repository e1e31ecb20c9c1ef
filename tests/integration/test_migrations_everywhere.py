"""Migrations on every kind of database: started together, cut off, with rows in the tables, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic.ddl.impl import DefaultImpl
from servers import Kind, Server
from sqlalchemy import JSON, ColumnClause, Connection, NullPool, TableClause, func, insert, inspect, select, text
from sqlalchemy import column as sa_column
from sqlalchemy import table as sa_table

from actors.errors import Conflict, GatherumError, Unavailable
from actors.store import dialect, migrations
from actors.store.tables import metadata
from config.settings import load

SETTINGS = load(environ={}).database
EVERY_REVISION = migrations.known()


def upgrade(url: str, to: str | None = None) -> str:
    return migrations.upgrade(dialect.parse_url(url), SETTINGS, to=to)


def on(url: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run blocking work over a connection that may write."""

    async def run() -> Any:
        engine = dialect.create_engine(dialect.parse_url(url), SETTINGS, write=True, connections=1, poolclass=NullPool)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work, *arguments)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def schema(connection: Connection) -> dict[str, Any]:
    """All that the database says of its tables, in one form for every kind."""
    inspector = inspect(connection)
    found = {}
    for table in sorted(set(inspector.get_table_names()) - {migrations.VERSION_TABLE}):
        columns = [
            (column["name"], repr(column["type"]), column["nullable"], column["default"])
            for column in inspector.get_columns(table)
        ]
        indexes = [(index["name"], index["column_names"], index["unique"]) for index in inspector.get_indexes(table)]
        found[table] = {
            "columns": sorted(columns),
            "key": (
                inspector.get_pk_constraint(table)["name"],
                inspector.get_pk_constraint(table)["constrained_columns"],
            ),
            "unique": sorted((key["name"], key["column_names"]) for key in inspector.get_unique_constraints(table)),
            "indexes": sorted(indexes, key=str),
            "foreign": sorted((key["name"], key["constrained_columns"]) for key in inspector.get_foreign_keys(table)),
            "options": inspector.get_table_options(table),
        }
    return found


def tables_of(connection: Connection) -> list[TableClause]:
    """The tables that are there, with those of their columns that are; those that others refer to come first."""
    there = inspect(connection)
    return [
        sa_table(
            known.name,
            *(sa_column(found["name"], known.c[found["name"]].type) for found in there.get_columns(known.name)),
        )
        for known in metadata.sorted_tables
        if there.has_table(known.name)
    ]


def fill(connection: Connection) -> None:
    """A row, or more, in every table of whatever revision this is."""
    for table in tables_of(connection):
        if not rows_of(connection, table):
            connection.execute(insert(table), {column.name: value_for(column) for column in table.columns})


def value_for(column: ColumnClause[Any]) -> Any:
    if isinstance(column.type, JSON):
        return {"a": ["é"]}
    if column.name in ("collection", "name", "source"):  # some refer to others
        return "main"
    return {int: 1, float: 1.5, str: "é", bytes: b"\x00\xff", bool: True}[column.type.python_type]


def rows_of(connection: Connection, table: TableClause) -> int:
    number: int = connection.execute(select(func.count()).select_from(table)).scalar_one()
    return number


def counts(connection: Connection) -> dict[str, int]:
    return {table.name: rows_of(connection, table) for table in tables_of(connection)}


def test_the_migrations_make_the_tables_as_the_code_knows_them(
    fresh_database: Callable[[Kind], str], store_kind: Kind
) -> None:
    migrated, created = fresh_database(store_kind), fresh_database(store_kind)
    upgrade(migrated)
    on(created, metadata.create_all)
    of_migrated, of_created = on(migrated, schema), on(created, schema)
    assert of_migrated == of_created
    assert set(of_migrated) == set(metadata.tables)


@pytest.mark.parametrize("revision", EVERY_REVISION)
def test_rows_of_every_earlier_revision_are_kept(store_url: str, revision: str) -> None:
    assert upgrade(store_url, to=revision) == revision
    on(store_url, fill)
    before = on(store_url, counts)
    assert all(before.values())
    assert upgrade(store_url) == EVERY_REVISION[-1]
    after = on(store_url, counts)
    assert {name: after[name] for name in before} == before


def test_of_many_that_start_together_one_migrates(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    lock = threading.Lock()
    original = migrations._migrate

    def counted(*arguments: Any) -> Any:
        with lock:
            made.append("migrated")
        return original(*arguments)

    monkeypatch.setattr(migrations, "_migrate", counted)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(upgrade, [store_url] * 4)) == {EVERY_REVISION[-1]}
    assert made == ["migrated"]


def test_no_time_out_of_a_unit_of_work_ends_a_migration_or_the_wait_for_one(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = SETTINGS.model_copy(update={"statement_timeout_s": 0.3, "busy_timeout_s": 0.3})
    monkeypatch.setattr(dialect, "CONNECT_S", 1.0)  # which the client's own time-out has on top
    slow = {"postgresql": "SELECT pg_sleep(1.5)", "mysql": "SELECT SLEEP(1.5)"}.get(store_url.partition(":")[0])
    began, original = threading.Event(), migrations._migrate

    def slowly(connection: Connection, *arguments: Any) -> Any:
        began.set()
        time.sleep(1.5)  # in the middle of the transaction, as while rows are worked on here
        if slow is not None:
            connection.execute(text(slow))
        return original(connection, *arguments)

    monkeypatch.setattr(migrations, "_migrate", slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(migrations.upgrade, dialect.parse_url(store_url), hasty)
        assert began.wait(20)
        second = pool.submit(migrations.upgrade, dialect.parse_url(store_url), hasty)
        assert first.result() == second.result() == EVERY_REVISION[-1]


class CutOff(Exception):
    """The process died here."""


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[str]]:
    """Have the statement past this number fail; None for none. Returns the list of those that were run."""
    limit: list[int | None] = [None]
    run: list[str] = []
    original = DefaultImpl._exec

    def counting(self: Any, construct: Any, *args: Any, **kwargs: Any) -> Any:
        if limit[0] is not None and len(run) >= limit[0]:
            raise CutOff
        run.append(str(construct))
        return original(self, construct, *args, **kwargs)

    monkeypatch.setattr(DefaultImpl, "_exec", counting)

    def cut(at: int | None) -> list[str]:
        limit[0] = at
        run.clear()
        return run

    return cut


def test_a_migration_cut_off_anywhere_is_made_whole_by_the_next_start(
    fresh_database: Callable[[Kind], str], store_kind: Kind, cut_after: Callable[[int | None], list[str]]
) -> None:
    run = cut_after(None)
    reference = fresh_database(store_kind)
    upgrade(reference)
    statements = len(run)
    wanted = on(reference, schema)
    assert statements > 15
    for number in range(1, statements, 4 if store_kind == "mysql" else 12):
        url = fresh_database(store_kind)
        cut_after(number)
        with pytest.raises(CutOff):
            upgrade(url)
        if store_kind != "mysql":
            assert on(url, counts) == {}
        cut_after(None)
        upgrade(url)
        assert on(url, schema) == wanted
        assert on(url, lambda connection: connection.execute(text("SELECT name, value FROM counters")).all()) == on(
            reference, lambda connection: connection.execute(text("SELECT name, value FROM counters")).all()
        )


def test_a_database_of_a_newer_version_is_refused_untouched(store_url: str) -> None:
    upgrade(store_url)
    on(store_url, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    before = on(store_url, schema)
    for look in (upgrade, lambda url: migrations.current(dialect.parse_url(url), SETTINGS)):
        with pytest.raises(Conflict, match=r"written by a newer version of Gatherum \(schema 9999"):
            look(store_url)
    assert on(store_url, schema) == before


def test_tables_of_something_else_are_not_taken_for_ours(store_url: str) -> None:
    on(store_url, lambda connection: connection.execute(text("CREATE TABLE documents (id INTEGER)")))
    with pytest.raises(
        Conflict, match=r"holds tables of something else .*: documents\. Give Gatherum a database of its own"
    ):
        upgrade(store_url)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_an_old_server_is_refused(
    fresh_database: Callable[[Kind], str], kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = fresh_database(kind)
    monkeypatch.setattr(dialect._Postgresql, "oldest", (99,))
    monkeypatch.setattr(dialect._Mysql, "oldest", (99, 1))
    monkeypatch.setattr(dialect._Mysql, "oldest_mariadb", (99, 1))
    with pytest.raises(Conflict, match=r"^The server is (PostgreSQL|MariaDB|MySQL) \d.*newer is needed"):
        upgrade(url)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_who_cannot_get_in_hears_why(
    server_of: Callable[[Kind], Server], fresh_database: Callable[[Kind], str], kind: Kind
) -> None:
    url, server = fresh_database(kind), server_of(kind)
    name = url.rpartition("/")[2]
    with pytest.raises(Unavailable, match="cannot be reached"):
        upgrade(server.url(name, port=1))
    with pytest.raises(GatherumError, match=r"user or password in database\.url is wrong") as raised:
        upgrade(url.replace("p%40ss", "wrong"))
    assert "wrong%" not in str(raised.value)
    with pytest.raises(GatherumError, match=r"no database of the name in database\.url|lacks a privilege"):
        upgrade(server.url("gatherum_nowhere"))
