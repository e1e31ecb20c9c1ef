"""Evidence from a real database of each kind: the same names, rows and results, and failures that cost themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import shop
from servers import KINDS, PASSWORD, Kind, Server
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, Unavailable
from actors.messages import Evidence, Lookup, LookupCall, Parameter, Row, Source, StoredLookup
from actors.sql import lookups
from actors.sql.access import Own
from actors.sql.evidence import Finder
from actors.sql.sources import Sources
from actors.sql.vault import Vault

SPENT = StoredLookup(
    "shop",
    "customer_total",
    "Total of the invoices of a customer since a day",
    "SELECT count(*) AS invoices, sum(invoice.total) AS total FROM invoice"
    " JOIN customer ON customer.id = invoice.customer_id"
    " WHERE customer.name = :name AND invoice.day >= :since AND invoice.total >= :least AND invoice.id <= :most",
    (
        Parameter("name", "text", column="customer.name"),
        Parameter("since", "date"),
        Parameter("least", "number", required=False, default=0.5),
        Parameter("most", "integer", required=False, default=1_000_000),
    ),
)
SLOW = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "postgresql": "SELECT count(*) FROM track a, track b, track c, track d",
    "mysql": "SELECT count(*) FROM track a, track b, track c, track d",
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture(scope="module")
def made() -> dict[Kind, Source]:
    return {}


@pytest.fixture
def source(kind: Kind, made: dict[Kind, Source], server_of: Callable[[Kind], Server], tmp_path: Path) -> Source:
    """The shop in a database of this kind; on a server it is made once."""
    if kind == "sqlite":
        shop.in_sqlite(tmp_path / "shop.db")
        return Source("shop", "sqlite", "shop.db")
    if kind not in made:
        server = server_of(kind)
        made[kind] = Source(
            *("shop", kind),
            host="127.0.0.1",
            port=server.port,
            database=shop.MAKERS[kind](server),
            user=shop.READER,
            password_env="SHOP_PASSWORD",  # noqa: S106 - a name
        )
    return made[kind]


@asynccontextmanager
async def reading(root: Path, source: Source) -> AsyncIterator[Finder]:
    settings = DEFAULTS.sources.model_copy(
        update={
            "sqlite_root": str(root),
            "allow_hosts": (f"127.0.0.1:{source.port}",) if source.port else (),
            "timeout_s": 20,
            "exclude": ("*.email",),
        }
    )
    vault = Vault(root / "key", variables=("SHOP_*",), environ={"SHOP_PASSWORD": PASSWORD})
    sources = Sources(settings, own=Own(), vault=vault)
    try:
        yield Finder(settings, sources)
    finally:
        await sources.close()


@pytest.fixture
async def finder(tmp_path: Path, source: Source) -> AsyncIterator[Finder]:
    """Reads the shop."""
    async with reading(tmp_path, source) as finder:
        yield finder


def rows_of(found: Evidence | GatherumError) -> tuple[Row, ...]:
    assert isinstance(found, Evidence), found
    assert found.error is None, found.error
    return found.rows


async def test_names_rows_and_lookups_are_the_same(finder: Finder, source: Source, kind: Kind) -> None:
    values = [value for value in await finder.values(source) if value.table == "customer"]
    [table] = [table for table in shop.tables() if table.name == "customer"]
    names = [row[1] for row in table.rows]
    assert {value.value for value in values} == set(names)
    assert {value.column for value in values} == {"name"}
    # A customer whose name is its own, so that its key is known.
    value = next(value for value in values if value.key is not None)
    [found] = await finder.find_many(
        source, [Lookup("shop", "customer", "name", value.value, value.key)], {}, Deadline.after(20)
    )
    customer, employee, *invoices = rows_of(found)
    assert customer.key == {"id": value.key}
    assert list(customer.columns) == ["id", "name", "country", "rep_id"]
    assert (employee.table, employee.via) == ("employee", "customer.rep_id")
    assert {(row.table, row.via) for row in invoices} <= {("invoice", "invoice.customer_id")}
    assert all(row.columns["customer_id"] == value.key for row in invoices)

    await finder.check(source, SPENT, Deadline.after(20))
    call = lookups.call(SPENT, {"name": value.value, "since": "2020-03-01"})
    [result] = await finder.find_many(source, [call], {SPENT.name: SPENT}, Deadline.after(20))
    [total] = rows_of(result)
    [bills] = [table for table in shop.tables() if table.name == "invoice"]
    mine = [row for row in bills.rows if row[1] == value.key and str(row[2]) >= "2020-03-01" and row[3] >= 0.5]
    assert int(total.columns["invoices"]) == len(mine)
    assert float(total.columns["total"] or 0) == pytest.approx(float(sum(row[3] for row in mine)))
    assert total.key == {"name": value.value, "since": "2020-03-01", "least": 0.5, "most": 1_000_000, "row": 1}


async def test_what_is_shown_finds_the_row_again(finder: Finder, source: Source) -> None:
    [found] = await finder.find_many(source, [Lookup("shop", "genre", "name", "Jazz")], {}, Deadline.after(20))
    jazz = rows_of(found)[0]
    again = StoredLookup("shop", "again", "Again", jazz.sql)
    [row] = (await finder.run(source, again, LookupCall("shop", "again"), 5, Deadline.after(20))).rows
    assert row.columns == jazz.columns


async def test_a_slow_statement_ends_and_the_source_answers_the_next(
    finder: Finder, source: Source, kind: Kind
) -> None:
    slow = StoredLookup("shop", "slow", "Slow", SLOW[kind])
    began = time.monotonic()
    [late] = await finder.find_many(source, [LookupCall("shop", "slow")], {"slow": slow}, Deadline.after(0.5))
    assert isinstance(late, DeadlineExceeded), late
    assert time.monotonic() - began < 3
    [fine] = await finder.find_many(source, [Lookup("shop", "genre", "name", "Jazz")], {}, Deadline.after(20))
    assert rows_of(fine)[0].columns["name"] == "Jazz"


async def test_a_statement_whose_session_is_ended_is_told_and_the_next_one_answered(
    finder: Finder, source: Source, kind: Kind, server_of: Callable[[Kind], Server]
) -> None:
    if kind == "sqlite":
        pytest.skip("A file has no server that could end a session.")
    slow = StoredLookup("shop", "slow", "Slow", SLOW[kind])
    asked: list[Lookup | LookupCall] = [LookupCall("shop", "slow"), Lookup("shop", "genre", "name", "Jazz")]
    asking = asyncio.create_task(finder.find_many(source, asked, {"slow": slow}, Deadline.after(20)))
    while not await asyncio.to_thread(end_session, server_of(kind), kind):
        assert not asking.done(), asking.result()
    killed, fine = await asking
    assert isinstance(killed, Unavailable), killed
    assert rows_of(fine)[0].columns["name"] == "Jazz"
    [again] = await finder.find_many(source, asked[1:], {}, Deadline.after(20))
    assert rows_of(again)


def end_session(server: Server, kind: Kind) -> bool:
    """End the session that the slow statement runs in; whether there was one."""
    if kind == "postgresql":
        return "t" in server.administer(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            # What a cursor fetches is not told, but nothing else takes so long.
            " WHERE state = 'active' AND query LIKE 'FETCH%' AND clock_timestamp() - query_start > interval '200 ms'"
        )
    found = server.administer(
        "SELECT id FROM information_schema.processlist"
        " WHERE info LIKE '%track b%' AND time_ms > 200 AND id <> connection_id()"
    )
    for session in found.split():
        server.administer(f"KILL CONNECTION {session}")
    return bool(found.split())


@pytest.mark.parametrize("away", ["postgresql", "mysql"])
async def test_a_server_that_is_away_is_told_and_then_left_alone(away: Kind, tmp_path: Path) -> None:
    gone = Source("gone", away, host="127.0.0.1", port=1, database="shop", user="x", password_env="SHOP_PASSWORD")  # noqa: S106
    wanted = [Lookup("gone", "genre", "name", "Jazz")]
    async with reading(tmp_path, gone) as finder:
        for _ in range(3):
            [found] = await finder.find_many(gone, wanted, {}, Deadline.after(20))
            assert isinstance(found, Unavailable), found
            assert PASSWORD not in found.detail
        [left] = await finder.find_many(gone, wanted, {}, Deadline.after(20))
        assert isinstance(left, Unavailable)
        assert "3 times in a row" in left.detail
