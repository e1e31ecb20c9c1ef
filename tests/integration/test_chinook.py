"""A database that nobody here wrote, in all three engines: the same queries and the same names give the same rows.

Chinook is a music shop in 11 tables (MIT-style licence). Where its scripts are not, this is skipped; the generated shop
of `shop.py`, of the same kind, is compared on every machine.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import AsyncIterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import shop
from servers import PASSWORD, Kind, Server
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.messages import Evidence, Lookup, Source
from actors.sql.access import Own
from actors.sql.evidence import Finder
from actors.sql.running import Limits
from actors.sql.sources import Sources
from actors.sql.vault import Vault

DATA: Final = Path(os.environ.get("GATHERUM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sql" / "chinook"
SCRIPTS: Final[dict[Kind, str]] = {"postgresql": "Chinook_PostgreSql.sql", "mysql": "Chinook_MySql.sql"}
PIECE: Final = 60_000

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="Chinook is not here (GATHERUM_DATA)")

QUERIES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("SELECT * FROM Genre ORDER BY GenreId", {}),
    ("SELECT * FROM MediaType ORDER BY MediaTypeId", {}),
    ("SELECT Name FROM Artist WHERE ArtistId = :id", {"id": 22}),
    ("SELECT ArtistId FROM Artist WHERE Name = :name", {"name": "AC/DC"}),
    ("SELECT Title FROM Album WHERE ArtistId = :id ORDER BY AlbumId", {"id": 90}),
    (
        "SELECT a.Title, r.Name FROM Album a JOIN Artist r ON r.ArtistId = a.ArtistId WHERE r.Name LIKE :like"
        " ORDER BY a.AlbumId",
        {"like": "Led%"},
    ),
    ("SELECT count(*) FROM Track", {}),
    ("SELECT count(Composer) FROM Track", {}),
    ("SELECT TrackId, Composer FROM Track WHERE Composer IS NULL ORDER BY TrackId LIMIT 20", {}),
    ("SELECT Name, Milliseconds FROM Track ORDER BY Milliseconds DESC, TrackId LIMIT 5", {}),
    ("SELECT sum(Total) FROM Invoice", {}),
    ("SELECT min(Total), max(Total) FROM Invoice", {}),
    (
        "SELECT CustomerId, sum(Total) FROM Invoice GROUP BY CustomerId ORDER BY round(sum(Total), 2) DESC, 1 LIMIT 10",
        {},
    ),
    (
        "SELECT c.FirstName, c.LastName, i.Total FROM Customer c JOIN Invoice i ON i.CustomerId = c.CustomerId"
        " WHERE c.Email = :email ORDER BY i.InvoiceId",
        {"email": "luisg@embraer.com.br"},
    ),
    (
        "SELECT BillingCountry, sum(Total) FROM Invoice GROUP BY BillingCountry"
        " ORDER BY round(sum(Total), 2) DESC, 1 LIMIT 5",
        {},
    ),
    ("SELECT Country, count(*) FROM Customer GROUP BY Country HAVING count(*) > 2 ORDER BY min(CustomerId)", {}),
    (
        "SELECT g.Name, count(*) FROM Genre g JOIN Track t ON t.GenreId = g.GenreId GROUP BY g.Name ORDER BY 2 DESC, 1",
        {},
    ),
    (
        "SELECT e.LastName, b.LastName FROM Employee e LEFT JOIN Employee b ON b.EmployeeId = e.ReportsTo"
        " ORDER BY e.EmployeeId",
        {},
    ),
    (
        "WITH RECURSIVE chain(id, depth) AS (SELECT EmployeeId, 0 FROM Employee WHERE ReportsTo IS NULL UNION ALL"
        " SELECT e.EmployeeId, chain.depth + 1 FROM Employee e JOIN chain ON e.ReportsTo = chain.id)"
        " SELECT id, depth FROM chain ORDER BY id",
        {},
    ),
    (
        "SELECT p.Name, count(*) FROM Playlist p JOIN PlaylistTrack t ON t.PlaylistId = p.PlaylistId"
        " GROUP BY p.PlaylistId, p.Name ORDER BY p.PlaylistId",
        {},
    ),
    (
        "SELECT PlaylistId FROM Playlist p WHERE NOT EXISTS (SELECT 1 FROM PlaylistTrack t WHERE t.PlaylistId ="
        " p.PlaylistId) ORDER BY PlaylistId",
        {},
    ),
    ("SELECT DISTINCT UnitPrice FROM Track ORDER BY UnitPrice", {}),
    (
        "SELECT InvoiceLineId, UnitPrice * Quantity FROM InvoiceLine WHERE InvoiceId = :id ORDER BY InvoiceLineId",
        {"id": 5},
    ),
    (
        "SELECT InvoiceId FROM Invoice WHERE InvoiceDate >= :start AND InvoiceDate < :stop ORDER BY InvoiceId",
        {"start": "2022-01-01 00:00:00", "stop": "2022-02-01 00:00:00"},
    ),
    ("SELECT InvoiceDate, Total FROM Invoice ORDER BY InvoiceId LIMIT 5", {}),
    ("SELECT FirstName, BirthDate FROM Employee ORDER BY EmployeeId", {}),
    (
        "SELECT TrackId, CASE WHEN Milliseconds > 300000 THEN 'long' ELSE 'short' END FROM Track ORDER BY TrackId"
        " LIMIT 9",
        {},
    ),
    (
        "SELECT InvoiceId, row_number() OVER (ORDER BY Total DESC, InvoiceId) FROM Invoice ORDER BY InvoiceId LIMIT 9",
        {},
    ),
    ("SELECT GenreId FROM Genre WHERE GenreId < 3 UNION ALL SELECT MediaTypeId FROM MediaType ORDER BY 1", {}),
    ("SELECT coalesce(Company, 'nobody'), CustomerId FROM Customer ORDER BY CustomerId LIMIT 9", {}),
    ("SELECT Name FROM Artist WHERE ArtistId IN (:id, :other) ORDER BY ArtistId", {"id": 6, "other": 18}),
)

NAMES: Final[tuple[tuple[str, str, str], ...]] = (
    *(("Artist", "Name", name) for name in ("AC/DC", "Antônio Carlos Jobim", "Zeca Pagodinho", "Metallica", "U2")),
    *(("Album", "Title", name) for name in ("Facelift", "Big Ones", "Out Of Exile", "Garage Inc. (Disc 1)")),
    *(("Track", "Name", name) for name in ("Fast As a Shark", "Água de Beber", "Radio/Video", "Não existe")),
    *(("Customer", "LastName", name) for name in ("Köhler", "Gonçalves", "Tremblay", "Hansen", "Schröder", "O'Reilly")),
    *(("Customer", "Company", name) for name in ("Google Inc.", "Rogers Canada", "Telus", "JetBrains s.r.o.")),
    *(("Employee", "LastName", name) for name in ("Adams", "Peacock", "Callahan")),
    *(("Genre", "Name", name) for name in ("Jazz", "Bossa Nova", "Opera")),
    *(("Playlist", "Name", name) for name in ("Grunge",)),
)
"""Names that questions mention, 30 of them."""


def snake(text: str) -> str:
    """Names of tables and columns as the script for PostgreSQL has them."""
    return re.sub(r"\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b", lambda found: _snake(found[0]), text)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def load(server: Server) -> Source:
    """Chinook in a new database of a server, for the reader of the shop."""
    shop.MAKERS[server.kind](server)  # for its roles
    database = server.create_database()
    text = (DATA / SCRIPTS[server.kind]).read_text(encoding="utf-8-sig")
    text = re.sub(r"(?m)^(?:DROP DATABASE|CREATE DATABASE|USE |\\c).*$", "", text)
    piece = ""
    for statement in re.split(r"(?<=;)\s*\n", text):
        if len(piece) + len(statement) > PIECE and piece:
            server.administer(piece, database)
            piece = ""
        piece += statement + "\n"
    server.administer(piece, database)
    if server.kind == "postgresql":
        server.administer(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {shop.READER}", database)
    else:
        server.administer(f"GRANT SELECT ON {database}.* TO {shop.READER}@'%'")
    return Source(
        *("chinook", server.kind),
        host="127.0.0.1",
        port=server.port,
        database=database,
        user=shop.READER,
        password_env="SHOP_PASSWORD",  # noqa: S106 - a name
    )


@pytest.fixture(scope="module")
def every(postgresql_server: Server, source_mariadb: Server, tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("chinook")
    shutil.copy(DATA / "Chinook_Sqlite.sqlite", folder / "chinook.db")
    return [
        Source("chinook", "sqlite", str(folder / "chinook.db")),
        load(postgresql_server),
        load(source_mariadb),
    ]


@pytest.fixture
async def sources(every: list[Source], tmp_path: Path) -> AsyncIterator[Sources]:
    allow = tuple(f"127.0.0.1:{source.port}" for source in every if source.port)
    settings = DEFAULTS.sources.model_copy(
        update={"sqlite_root": str(Path(every[0].path).parent), "allow_hosts": allow, "timeout_s": 20}
    )
    vault = Vault(tmp_path / "key", variables=("SHOP_*",), environ={"SHOP_PASSWORD": PASSWORD})
    made = Sources(settings, own=Own(), vault=vault)
    yield made
    await made.close()


def plain(value: Any) -> Any:
    """A cell as SQLite has it."""
    if isinstance(value, datetime | date):
        return value.isoformat(" ") if isinstance(value, datetime) else f"{value.isoformat()} 00:00:00"
    return round(float(value), 6) if isinstance(value, Decimal | float) else value


async def test_the_same_queries_give_the_same_rows(sources: Sources, every: list[Source]) -> None:
    assert len(QUERIES) >= 30
    for sql, params in QUERIES:
        found = []
        for source in every:
            text = snake(sql) if source.kind == "postgresql" else sql
            async with sources.query(source, text, params, Limits(10_000, 10**8), Deadline.after(20)) as result:
                found.append([tuple(map(plain, row)) for row in await result.rows()])
        assert found[1] == found[0], ("postgresql", sql)
        assert found[2] == found[0], ("mysql", sql)


async def test_the_same_names_give_the_same_rows(sources: Sources, every: list[Source]) -> None:
    assert len(NAMES) >= 30
    finder = Finder(sources._settings, sources)
    for source in every:
        await finder.values(source)
    for table, column, name in NAMES:
        found = []
        for source in every:
            named = (snake(table), snake(column)) if source.kind == "postgresql" else (table, column)
            [evidence] = await finder.find_many(source, [Lookup("chinook", *named, name)], {}, Deadline.after(20))
            assert isinstance(evidence, Evidence), (source.kind, table, name, evidence)
            # Of the rows that refer to one, any five are shown; the others have no choice.
            found.append(
                sorted(
                    repr((_snake(row.table), {_snake(key): plain(value) for key, value in row.columns.items()}))
                    for row in evidence.rows
                    if not row.via or _snake(row.via.partition(".")[0]) == _snake(table)
                )
            )
        assert found[1] == found[0], ("postgresql", table, name)
        assert found[2] == found[0], ("mysql", table, name)


async def test_the_same_names_are_found(sources: Sources, every: list[Source]) -> None:
    finder = Finder(sources._settings, sources)
    in_sqlite, in_postgresql, in_mysql = [
        # The scripts are not alike in a blank at the end of one city.
        {(_snake(value.table), _snake(value.column), value.value.strip()) for value in await finder.values(source)}
        for source in every
    ]
    assert len(in_sqlite) > 1000
    assert in_postgresql == in_sqlite
    # MySQL takes spellings that differ in case or accents for one name, and tells one of them.
    assert {(table, column, _folded(name)) for table, column, name in in_mysql} == {
        (table, column, _folded(name)) for table, column, name in in_sqlite
    }


def _folded(name: str) -> str:
    # A backslash is an escape in MySQL's script, and in the others itself.
    name = name.replace("\\", "")
    return "".join(each for each in unicodedata.normalize("NFD", name) if not unicodedata.combining(each)).casefold()
