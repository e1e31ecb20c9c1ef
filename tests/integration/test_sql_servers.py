"""The same questions to the same rows in three kinds of databases; types; and what happens when one is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import shop
import trustme
from servers import PASSWORD, Server
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, NotFound, Overloaded, Refused, Unavailable
from actors.messages import Source
from actors.sql.access import Own
from actors.sql.running import Limits
from actors.sql.sources import Sources
from actors.sql.vault import Vault

VARIABLE, WRONG = "SHOP_PASSWORD", "OTHER_PASSWORD"
LIMITS = Limits(rows=10_000, bytes=20_000_000)

QUERIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SELECT * FROM genre ORDER BY id", {}),
    ("SELECT * FROM artist ORDER BY id LIMIT 5", {}),
    ("SELECT name FROM artist WHERE id = :id", {"id": 7}),
    ("SELECT name FROM artist WHERE id = :id OR id = :other OR id = :id ORDER BY id", {"id": 7, "other": 3}),
    ("SELECT id FROM artist WHERE name LIKE :like ORDER BY id", {"like": "The B%"}),
    ("SELECT count(*) FROM track", {}),
    ("SELECT count(composer) FROM track", {}),
    ("SELECT id, composer FROM track WHERE composer IS NULL ORDER BY id LIMIT 10", {}),
    ("SELECT unit_price, count(*) FROM track GROUP BY unit_price ORDER BY unit_price", {}),
    ("SELECT sum(total) FROM invoice", {}),
    ("SELECT max(day), min(day) FROM invoice", {}),
    ("SELECT id, day FROM invoice WHERE day < :day ORDER BY day", {"day": "2020-03-01"}),
    ("SELECT customer_id, sum(total) FROM invoice GROUP BY customer_id ORDER BY 2 DESC, 1 LIMIT 5", {}),
    (
        "SELECT c.name, i.id, i.total FROM customer c JOIN invoice i ON i.customer_id = c.id WHERE c.id = :id"
        " ORDER BY i.id",
        {"id": 4},
    ),
    (
        "SELECT t.name, a.title, r.name FROM track t JOIN album a ON a.id = t.album_id"
        " JOIN artist r ON r.id = a.artist_id WHERE t.id <= 20 ORDER BY t.id",
        {},
    ),
    (
        "SELECT g.name, count(*) FROM genre g LEFT JOIN track t ON t.genre_id = g.id GROUP BY g.name ORDER BY g.name",
        {},
    ),
    ("SELECT country, count(*) FROM customer GROUP BY country HAVING count(*) > 2 ORDER BY country", {}),
    ("SELECT id, name FROM track ORDER BY milliseconds DESC, id LIMIT 3", {}),
    ("SELECT DISTINCT country FROM customer ORDER BY country", {}),
    ("SELECT e.name, b.name FROM employee e LEFT JOIN employee b ON b.id = e.reports_to ORDER BY e.id", {}),
    (
        "WITH RECURSIVE chain(id, depth) AS (SELECT id, 0 FROM employee WHERE reports_to IS NULL UNION ALL"
        " SELECT e.id, chain.depth + 1 FROM employee e JOIN chain ON e.reports_to = chain.id)"
        " SELECT id, depth FROM chain ORDER BY id",
        {},
    ),
    ("SELECT id FROM album WHERE artist_id IN (SELECT id FROM artist WHERE id < 5) ORDER BY id", {}),
    ("SELECT id FROM artist r WHERE NOT EXISTS (SELECT 1 FROM album a WHERE a.artist_id = r.id) ORDER BY id", {}),
    ("SELECT id, CASE WHEN milliseconds > 300000 THEN 'long' ELSE 'short' END FROM track ORDER BY id LIMIT 9", {}),
    ("SELECT id, row_number() OVER (ORDER BY total DESC, id) FROM invoice ORDER BY id LIMIT 9", {}),
    ("SELECT id FROM artist WHERE id < 3 UNION ALL SELECT id FROM genre WHERE id < 3 ORDER BY 1", {}),
    ("SELECT coalesce(composer, 'nobody'), id FROM track ORDER BY id LIMIT 5", {}),
    ("SELECT upper(name), length(name) FROM genre ORDER BY id", {}),
    ("SELECT quantity * unit_price, id FROM invoice_line WHERE quantity > :least ORDER BY id", {"least": 2}),
    ("SELECT id, name FROM artist WHERE 1 = 0", {}),
    ("SELECT ':no', name /* :no */ FROM genre WHERE name <> ':no' AND id = :id -- :no\n;", {"id": 2}),
    ("SELECT n FROM scratch WHERE n > :n ORDER BY n", {"n": "1"}),
)


def loopback(**changes: Any) -> Sources:
    settings = DEFAULTS.sources.model_copy(update={"allow_hosts": ("127.0.0.0/8",), **changes})
    vault = Vault(Path("/nonexistent/key"), variables=["*_PASSWORD"], environ={VARIABLE: PASSWORD})
    return Sources(settings, own=Own(), vault=vault)


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    made = loopback(sqlite_root=str(tmp_path))
    yield made
    await made.close()


@pytest.fixture(scope="module")
def postgresql(postgresql_server: Server) -> Source:
    return _on(postgresql_server, "postgresql")


@pytest.fixture(scope="module")
def mysql(source_mariadb: Server) -> Source:
    return _on(source_mariadb, "mysql")


def _on(server: Server, kind: Any) -> Source:
    name = shop.MAKERS[server.kind](server)
    return Source(
        "shop", kind, host="127.0.0.1", port=server.port, database=name, user=shop.READER, password_env=VARIABLE
    )


@pytest.fixture(autouse=True)
def _their_ports(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The servers of tests are not where servers usually are."""
    ports = {}
    for kind, fixture in (("postgresql", "postgresql_server"), ("mysql", "source_mariadb")):
        if fixture in request.fixturenames:
            ports[kind] = request.getfixturevalue(fixture).port
    monkeypatch.setattr("actors.sql.sources.PORTS", ports)


async def ask(sources: Sources, source: Source, sql: str, seconds: float = 10, **params: Any) -> list[tuple[Any, ...]]:
    async with sources.query(source, sql, params, LIMITS, Deadline.after(seconds)) as result:
        return await result.rows()


def plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows as SQLite would have them, which knows neither decimals nor dates."""

    def cell(value: Any) -> Any:
        if isinstance(value, Decimal | float):
            return round(float(value), 6)
        return value.isoformat() if isinstance(value, date) else value

    return [tuple(map(cell, row)) for row in rows]


async def test_the_same_queries_give_the_same_rows(
    sources: Sources,
    tmp_path: Path,
    postgresql: Source,
    mysql: Source,
    postgresql_server: Server,
    source_mariadb: Server,
) -> None:
    shop.in_sqlite(tmp_path / "shop.db")
    assert len(QUERIES) >= 30
    for sql, params in QUERIES:
        expected = plain(await ask(sources, Source("shop", "sqlite", "shop.db"), sql, **params))
        for source in (postgresql, mysql):
            found = plain(await ask(sources, replace(source, name=source.kind), sql, **params))
            assert found == expected, (source.kind, sql)


async def test_types_of_postgresql_survive(sources: Sources, postgresql: Source, postgresql_server: Server) -> None:
    sql = (
        "SELECT 1.10::numeric(10,2) AS a, 12345678901234567890.123456789::numeric, 'NaN'::numeric, '2020-02-29'::date,"
        " '2020-02-29 12:00:00.5+02'::timestamptz, '2020-02-29 12:00'::timestamp, '12:30'::time,"
        " '1 mon 2 days'::interval,"
        " '{\"a\": [1, null]}'::jsonb, '\\x00ff'::bytea, NULL::int, ARRAY[1, NULL, 3], ARRAY['a,b'], true,"
        " 9223372036854775807, 0.1::float8, 'infinity'::date, '123e4567-e89b-12d3-a456-426614174000'::uuid,"
        " '10.0.0.1/8'::inet, '[1,5)'::int4range::text, 'x'::char(3)"
    )
    ((row),) = await ask(sources, postgresql, sql)
    assert row[:10] == (
        *(Decimal("1.10"), Decimal("12345678901234567890.123456789"), row[2], date(2020, 2, 29)),
        datetime.fromisoformat("2020-02-29T10:00:00.500000+00:00"),
        *(datetime(2020, 2, 29, 12), row[6], "1 mon 2 days", {"a": [1, None]}, b"\x00\xff"),
    )
    assert row[2].is_nan()
    assert row[6].isoformat() == "12:30:00"
    assert row[10:] == (
        *(None, [1, None, 3], ["a,b"], True, 2**63 - 1, 0.1, "infinity", "123e4567-e89b-12d3-a456-426614174000"),
        *("10.0.0.1/8", "[1,5)", "x  "),
    )


async def test_cells_that_do_not_say_their_size_are_counted_as_they_travel(
    sources: Sources, postgresql: Source, postgresql_server: Server
) -> None:
    sql = (
        "SELECT array_agg(i), json_agg(i), repeat('9', 1000)::numeric FROM generate_series(1, 200) i, track GROUP BY id"
    )
    async with sources.query(postgresql, sql, {}, Limits(rows=10_000, bytes=20_000), Deadline.after(10)) as result:
        rows = await result.rows()
    assert result.truncated
    assert len(rows) <= 20


async def test_types_of_mysql_survive(sources: Sources, mysql: Source, source_mariadb: Server) -> None:
    sql = (
        "SELECT CAST(1.10 AS DECIMAL(10,2)), 12345678901234567890.123456789, DATE '2020-02-29',"
        " TIMESTAMP '2020-02-29 12:00:00.5', TIME '-100:30:00', X'00ff', NULL, 18446744073709551615, -1, 0.1e0,"
        " CAST('\u00e9' AS CHAR), b'101', DATE '0000-00-00', JSON_OBJECT('a', 1)"
    )
    ((row),) = await ask(sources, mysql, sql)
    assert row[:11] == (
        *(Decimal("1.10"), Decimal("12345678901234567890.123456789"), date(2020, 2, 29)),
        *(datetime(2020, 2, 29, 12, 0, 0, 500000), "-100:30:00", b"\x00\xff", None, 2**64 - 1, -1, 0.1, "\u00e9"),
    )
    assert row[11:13] in ((b"\x05", "0000-00-00"), (5, "0000-00-00"))


async def test_a_server_says_who_its_user_is_and_what_there_is(
    sources: Sources, postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    for source in (postgresql, mysql):
        source = replace(source, name=source.kind)
        reading = await sources.test(source, Deadline.after(10))
        assert reading.version
        assert reading.writable == ()
        ruling = await sources.test(replace(source, user=shop.BOSS), Deadline.after(10))
        assert ruling.writable
        assert any("write" in warning or "superuser" in warning or "ALL" in warning for warning in ruling.warnings)
        schema = await sources.schema(source, Deadline.after(10))
        tables = {table.name: table for table in schema.tables}
        track = tables["track"]
        assert track.key == ("id",)
        assert {key.columns: key.table for key in track.foreign_keys} == {
            ("album_id",): "album",
            ("genre_id",): "genre",
        }
        assert [column.name for column in track.columns][:2] == ["id", "name"]
        assert all(column.samples == () for column in track.columns)
        shown = await sources.schema(replace(source, samples=True), Deadline.after(10))
        assert next(table for table in shown.tables if table.name == "genre").columns[1].samples[:2] == ("Rock", "Jazz")


async def test_a_plan_names_the_table_that_is_read_as_a_whole(
    sources: Sources, postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    for source in (postgresql, mysql):
        source = replace(source, name=source.kind)
        sql = "SELECT a.id FROM track a, track b WHERE a.composer = b.composer AND a.name = :name"
        _, advice = await sources.explain(source, sql, {"name": "x"}, Deadline.after(10))
        assert "track" in " ".join(each.text for each in advice) or "All of a" in " ".join(each.text for each in advice)
        with pytest.raises(GatherumError):
            await sources.explain(source, "ANALYZE DELETE FROM scratch", {}, Deadline.after(10))
        with pytest.raises(GatherumError):
            await sources.explain(source, "DELETE FROM scratch", {}, Deadline.after(10))


async def test_the_schema_is_remembered_until_it_is_asked_for_anew(
    sources: Sources, postgresql: Source, postgresql_server: Server
) -> None:
    before = await sources.schema(postgresql, Deadline.after(10))
    postgresql_server.administer("CREATE TABLE later (n int)", postgresql.database)
    postgresql_server.administer(f"GRANT SELECT ON later TO {shop.READER}", postgresql.database)
    assert await sources.schema(postgresql, Deadline.after(10)) == before
    after = await sources.schema(postgresql, Deadline.after(10), refresh=True)
    assert {table.name for table in after.tables} - {table.name for table in before.tables} == {"later"}
    postgresql_server.administer("ALTER TABLE later RENAME TO gone", postgresql.database)
    with pytest.raises(InvalidInput, match="later"):
        await ask(sources, postgresql, "SELECT * FROM later")


async def test_who_is_not_let_in_is_told_so_and_no_more(
    sources: Sources, postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    vault = Vault(Path("/nonexistent/key"), variables=["*"], environ={WRONG: "wrong-secret"})
    wrong = Sources(DEFAULTS.sources.model_copy(update={"allow_hosts": ("127.0.0.0/8",)}), own=Own(), vault=vault)
    for source in (postgresql, mysql):
        with pytest.raises(InvalidInput, match="does not let this user in") as raised:
            await ask(wrong, replace(source, password_env=WRONG), "SELECT 1")
        assert "wrong-secret" not in str(raised.value)
        with pytest.raises((NotFound, InvalidInput)):
            await ask(sources, replace(source, database="nowhere"), "SELECT 1")
    await wrong.close()


async def test_loopback_is_closed_unless_it_was_opened(postgresql: Source, postgresql_server: Server) -> None:
    closed = loopback(allow_hosts=())
    with pytest.raises(Refused, match="public internet"):
        await closed.check(postgresql)
    await closed.close()


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_the_store_is_never_a_source(
    sources: Sources, kind: str, postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    server, source = (postgresql_server, postgresql) if kind == "postgresql" else (source_mariadb, mysql)
    name = shop.MAKERS[server.kind](server)
    for table in ("alembic_version", "idempotency_keys", "superseded", "counters", "mentions"):
        server.administer(f"CREATE TABLE {table} (n int)", name)
    with pytest.raises(Refused, match="store of Gatherum"):
        await sources.check(replace(source, database=name))
    if kind == "mysql":
        # Nor by way of another database of the same server.
        with pytest.raises(Refused, match="store of Gatherum"):
            await sources.check(replace(source, user=shop.BOSS))
        # Nor with rights to a part of it.
        for table in ("counters", "mentions", "superseded"):
            server.administer(f"DROP TABLE {table}", name)
        with pytest.raises(Refused, match="store of Gatherum"):
            await sources.check(replace(source, user=shop.BOSS))
    server.drop_database(name)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_tls_is_used_where_there_is_some_insisted_on_and_verified(
    kind: str,
    postgresql: Source,
    mysql: Source,
    postgresql_server: Server,
    source_mariadb: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, source = (postgresql_server, postgresql) if kind == "postgresql" else (source_mariadb, mysql)
    is_encrypted = {
        "postgresql": "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        "mysql": "SELECT variable_value <> '' FROM information_schema.session_status"
        " WHERE variable_name = 'ssl_cipher'",
    }[kind]

    async def seen(tls: Any) -> list[tuple[Any, ...]]:
        each = loopback()
        try:
            return await ask(each, replace(source, tls=tls), is_encrypted)
        finally:
            await each.close()

    assert await seen("prefer") == [(0,)]
    with pytest.raises(Unavailable):
        await seen("require")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    paths = [server.folder / "certificate.pem", server.folder / "key.pem"]
    paths[0].write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    paths[1].write_bytes(certificate.private_key_pem.bytes())
    for path in paths:
        path.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(path, "nobody")
    await asyncio.to_thread(server.stop)
    server.options = (
        ["ssl=on", f"ssl_cert_file={paths[0]}", f"ssl_key_file={paths[1]}"]
        if kind == "postgresql"
        else [f"--ssl-cert={paths[0]}", f"--ssl-key={paths[1]}"]
    )
    try:
        await asyncio.to_thread(server.start)
        assert await seen("prefer") == await seen("require") == [(1,)]
        with pytest.raises(Unavailable):
            await seen("verify")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert await seen("verify") == [(1,)]
    finally:
        await asyncio.to_thread(server.stop)
        server.options = []
        await asyncio.to_thread(server.start)


async def test_a_statement_ends_on_the_server_with_its_client(
    sources: Sources, postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    busy = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gatherum' AND state = 'active'",
        "mysql": "SELECT count(*) FROM information_schema.processlist WHERE user LIKE 'shop%' AND command <> 'Sleep'",
    }
    endless = "SELECT count(*) FROM track a, track b, track c, track d, track e"
    for source, server in ((postgresql, postgresql_server), (mysql, source_mariadb)):
        running = asyncio.create_task(ask(sources, source, endless, seconds=30))
        while await asyncio.to_thread(server.administer, busy[source.kind]) != "1\n":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        until = time.monotonic() + 1.0
        while (left := await asyncio.to_thread(server.administer, busy[source.kind])) != "0\n":
            assert time.monotonic() < until + 1.0, left
            await asyncio.sleep(0.02)


async def test_a_slow_source_holds_up_no_other_and_fills_up(
    postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    few = loopback(max_concurrent=2, max_waiting=3)
    slow = "SELECT count(*) FROM track a, track b, track c, track d, track e"
    mysql = replace(mysql, name="other")
    waiting = [asyncio.create_task(ask(few, postgresql, slow, seconds=1.5)) for _ in range(8)]
    await asyncio.sleep(0.3)
    assert await ask(few, mysql, "SELECT count(*) FROM genre", seconds=5) == [(5,)]
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended].count(Overloaded) == 3
    assert [type(each) for each in ended].count(DeadlineExceeded) == 5
    assert await ask(few, postgresql, "SELECT count(*) FROM genre", seconds=5) == [(5,)]
    await few.close()


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_a_server_that_is_killed_in_mid_query_is_away_until_it_is_back(
    sources: Sources, kind: str, postgresql: Source, mysql: Source, postgresql_server: Server, source_mariadb: Server
) -> None:
    server, source = (postgresql_server, postgresql) if kind == "postgresql" else (source_mariadb, mysql)
    slow = "SELECT count(*) FROM track a, track b, track c, track d, track e"
    running = asyncio.create_task(ask(sources, source, slow, seconds=20))
    await asyncio.sleep(0.5)
    # PostgreSQL's own process would leave those behind that run the statements.
    await asyncio.to_thread(server.stop if kind == "postgresql" else server.kill)
    try:
        with pytest.raises(Unavailable):
            await running
        with pytest.raises(Unavailable):
            await ask(sources, source, "SELECT 1", seconds=3)
    finally:
        await asyncio.to_thread(server.start)
    assert await ask(sources, source, "SELECT count(*) FROM genre") == [(5,)]
