"""A small music shop, the same in every kind of database: what queries are compared on and attacks are aimed at."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from servers import PASSWORD, Kind, Server

READER, BOSS = "shop_reader", "shop_boss"
"""Roles on the servers: one as the documentation asks for, one that may do anything. The password is the servers'."""

_TYPES: Final[dict[Kind, dict[str, str]]] = {
    "sqlite": {"int": "INTEGER", "text": "TEXT", "money": "NUMERIC", "day": "TEXT"},
    "postgresql": {"int": "integer", "text": "varchar(120)", "money": "numeric(10,2)", "day": "date"},
    "mysql": {"int": "integer", "text": "varchar(120)", "money": "decimal(10,2)", "day": "date"},
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its rows; the first columns are its key."""

    name: str
    columns: dict[str, str]
    rows: list[tuple[Any, ...]]
    points: dict[str, str]
    keys: int = 1


def tables() -> list[Table]:
    """The shop, always the same."""
    dice = random.Random(7)
    words = ["Blue", "Night", "River", "Stone", "Glass", "Winter", "Golden", "Silent", "Harbour", "Iron", "Paper"]

    def name() -> str:
        return " ".join(dice.sample(words, 2))

    genres = [(n, each) for n, each in enumerate(["Rock", "Jazz", "Classical", "Folk", "Metal"], 1)]
    artists = [(n, f"The {name()}s") for n in range(1, 41)]
    albums = [(n, name(), dice.randint(1, 40)) for n in range(1, 81)]
    tracks = [
        (
            *(n, name(), dice.randint(1, 80), dice.randint(1, 5), f"{name()} / {name()}" if n % 3 else None),
            *(dice.randint(90_000, 600_000), Decimal(dice.choice(["0.99", "1.99", "1.29"]))),
        )
        for n in range(1, 401)
    ]
    staff = [(n, f"Clerk {n}", None if n == 1 else 1 + (n - 2) // 2) for n in range(1, 8)]
    customers = [
        (n, f"{name()} & Sons", dice.choice(["Norway", "Chile", "Ghana", "Nepal"]), f"c{n}@example.org", n % 7 + 1)
        for n in range(1, 31)
    ]
    invoices: list[tuple[Any, ...]] = []
    lines: list[tuple[Any, ...]] = []
    for n in range(1, 121):
        parts = [(len(lines) + at, n, dice.randint(1, 400), dice.randint(1, 3)) for at in range(1, dice.randint(2, 5))]
        priced = [(*part, tracks[part[2] - 1][6]) for part in parts]
        lines += priced
        total = sum((part[3] * part[4] for part in priced), Decimal(0))
        invoices.append((n, dice.randint(1, 30), date(2020, 1, 1) + timedelta(days=9 * n), total))
    return [
        Table("genre", {"id": "int", "name": "text"}, genres, {}),
        Table("artist", {"id": "int", "name": "text"}, artists, {}),
        Table("album", {"id": "int", "title": "text", "artist_id": "int"}, albums, {"artist_id": "artist"}),
        Table(
            "track",
            {"id": "int", "name": "text", "album_id": "int", "genre_id": "int", "composer": "text"}
            | {"milliseconds": "int", "unit_price": "money"},
            tracks,
            {"album_id": "album", "genre_id": "genre"},
        ),
        Table("employee", {"id": "int", "name": "text", "reports_to": "int"}, staff, {"reports_to": "employee"}),
        Table(
            "customer",
            {"id": "int", "name": "text", "country": "text", "email": "text", "rep_id": "int"},
            customers,
            {"rep_id": "employee"},
        ),
        Table(
            "invoice",
            {"id": "int", "customer_id": "int", "day": "day", "total": "money"},
            invoices,
            {"customer_id": "customer"},
        ),
        Table(
            "invoice_line",
            {"id": "int", "invoice_id": "int", "track_id": "int", "quantity": "int", "unit_price": "money"},
            lines,
            {"invoice_id": "invoice", "track_id": "track"},
        ),
    ]


def script(kind: Kind) -> Iterator[str]:
    """The statements that make it, a few hundred rows each."""
    for table in tables():
        columns = [f"{name} {_TYPES[kind][what]}" for name, what in table.columns.items()]
        columns.append(f"PRIMARY KEY ({', '.join(list(table.columns)[: table.keys])})")
        columns += [f"FOREIGN KEY ({of}) REFERENCES {to} (id)" for of, to in table.points.items()]
        yield f"CREATE TABLE {table.name} ({', '.join(columns)})"
        for at in range(0, len(table.rows), 200):
            rows = ", ".join(f"({', '.join(map(_literal, row))})" for row in table.rows[at : at + 200])
            yield f"INSERT INTO {table.name} VALUES {rows}"  # noqa: S608 - our own
    yield "CREATE TABLE scratch (n integer)"
    yield "INSERT INTO scratch VALUES (1), (2), (3)"


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int | Decimal) else "'" + str(value).replace("'", "''") + "'"


def in_sqlite(path: Path) -> None:
    """Make it as a file."""
    connection = sqlite3.connect(path)
    connection.executescript(";\n".join(script("sqlite")) + ";")
    connection.close()


def in_postgresql(server: Server) -> str:
    """Make it in a new database, with what attackers would like to find there; returns the name."""
    name = server.create_database()
    for role, more in ((READER, ""), (BOSS, "SUPERUSER")):
        server.administer(
            f"DO $$ BEGIN CREATE ROLE {role} LOGIN {more} PASSWORD '{PASSWORD}'; "
            "EXCEPTION WHEN duplicate_object THEN NULL; END $$"
        )
    for statement in script("postgresql"):
        server.administer(statement, name)
    for statement in (
        "CREATE SEQUENCE numbers",
        "CREATE PROCEDURE wipe() LANGUAGE plpgsql AS 'BEGIN COMMIT; DELETE FROM scratch; COMMIT; END'",
        "CREATE FUNCTION wiped() RETURNS int LANGUAGE plpgsql AS 'BEGIN DELETE FROM scratch; RETURN 1; END'",
        "CREATE FUNCTION quietly() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN DELETE FROM scratch; RETURN 1; END'",
        "CREATE VIEW sleeper AS SELECT pg_sleep(60)::text AS slept",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}",
    ):
        server.administer(statement, name)
    return name


def in_mysql(server: Server) -> str:
    """The same in MySQL."""
    name = server.create_database()
    for role, rights in ((READER, f"SELECT ON {name}.*"), (BOSS, "ALL ON *.*")):
        server.administer(f"CREATE USER IF NOT EXISTS {role}@'%' IDENTIFIED BY '{PASSWORD}'")
        server.administer(f"GRANT {rights} TO {role}@'%'")
    for statement in script("mysql"):
        server.administer(statement, name)
    for statement in (
        "ALTER TABLE scratch ENGINE = InnoDB",
        "CREATE SEQUENCE numbers",
        "CREATE PROCEDURE wipe() BEGIN COMMIT; DELETE FROM scratch; COMMIT; END",
        "CREATE FUNCTION wiped() RETURNS int BEGIN DELETE FROM scratch; RETURN 1; END",
        f"GRANT EXECUTE ON {name}.* TO {READER}@'%'",
    ):
        # The client ends a statement at every semicolon unless told otherwise.
        server.administer(f"DELIMITER //\n{statement}//", name)
    return name


MAKERS: Final[dict[Kind, Callable[[Server], str]]] = {"postgresql": in_postgresql, "mysql": in_mysql}
