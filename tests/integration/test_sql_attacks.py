"""No statement writes, stays, or outlasts its time, on the real servers, whoever the user is; and each fence counts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attacks
import pytest
import shop
from servers import PASSWORD, Kind, Server

from actors.deadline import Deadline
from actors.errors import DeadlineExceeded, GatherumError, InvalidInput, Refused
from actors.messages import Source
from actors.sql import mysql, postgres, sqlite_child
from actors.sql.access import Access
from actors.sql.mysql import MysqlEngine
from actors.sql.postgres import PostgresEngine
from actors.sql.running import Engine, Limits
from actors.sql.sqlite_process import SqliteEngine

LIMITS = Limits(rows=1000, bytes=1_000_000)
BUDGET_S = 0.3
END_S = 1.0
"""By then a statement has ended on the server that had `BUDGET_S`."""


@dataclass(frozen=True)
class Shop:
    """The shop on one kind of database."""

    kind: Kind
    place: str  # name of the database, or path of the file
    server: Server | None
    folder: Path  # where a server could write

    def source(self, user: str) -> Source:
        if self.kind == "sqlite":
            return Source("shop", "sqlite", self.place)
        return Source("shop", self.kind, host="127.0.0.1", database=self.place, user=user)

    def engine(self, without: frozenset[str] = frozenset()) -> Engine:
        async def reach(source: Source, deadline: Deadline) -> Access:
            assert self.server is not None
            return Access(
                ("127.0.0.1",), "127.0.0.1", self.server.port, source.database, source.user, "prefer", PASSWORD
            )

        match self.kind:
            case "postgresql":
                return PostgresEngine(reach, keep=4, without=without)
            case "mysql":
                return MysqlEngine(reach, keep=4, without=without)
        return SqliteEngine(lambda source: Path(source.path), without=without)

    def state(self) -> Any:
        """All that an attack could have changed."""
        files = sorted(path.name for path in self.folder.rglob("attack*"))
        if self.kind == "sqlite":
            return files, Path(self.place).read_bytes()
        assert self.server is not None
        looks = {
            "postgresql": (
                "SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM artist a",
                "SELECT array_agg(n ORDER BY n) FROM scratch",
                "SELECT last_value, is_called FROM numbers",
                "SELECT md5(string_agg(relname, ',' ORDER BY relname)) FROM pg_class",
                "SELECT string_agg(rolname || rolsuper, ',' ORDER BY rolname) FROM pg_roles",
                "SELECT md5(string_agg(name || setting, ',' ORDER BY name)) FROM pg_settings",
                "SELECT count(*) FROM pg_largeobject_metadata",
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
                "SELECT count(*) FROM pg_extension",
            ),
            "mysql": (
                "CHECKSUM TABLE artist",
                "SELECT group_concat(n ORDER BY n) FROM scratch",
                "SELECT next_not_cached_value FROM numbers",
                "SHOW TABLES",
                "SELECT user, host FROM mysql.user",
                "SHOW GRANTS FOR shop_reader@'%'",
                "SELECT @@global.max_connections, @@global.read_only",
                "SELECT IS_USED_LOCK('attack')",
            ),
        }[self.kind]
        return files, [self.server.administer(look, self.place) for look in looks]

    def running(self) -> int:
        """Statements of ours that the server is busy with."""
        assert self.server is not None
        if self.kind == "postgresql":
            return int(
                self.server.administer(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gatherum' AND state = 'active'"
                )
            )
        return int(
            self.server.administer(
                "SELECT count(*) FROM information_schema.processlist WHERE user LIKE 'shop%' AND command <> 'Sleep'"
            )
        )

    def refill(self) -> None:
        """Put back what an attack has taken that was let through."""
        statement = "DELETE FROM scratch; INSERT INTO scratch VALUES (1), (2), (3)"
        if self.server is not None:
            self.server.administer(statement, self.place)

    def left(self) -> int:
        assert self.server is not None
        return int(self.server.administer("SELECT count(*) FROM scratch", self.place))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind, pytest.FixtureRequest], Shop]:
    made: dict[Kind, Shop] = {}

    def find(kind: Kind, request: pytest.FixtureRequest) -> Shop:
        if kind not in made:
            if kind == "sqlite":
                folder = tmp_path_factory.mktemp("shop")
                shop.in_sqlite(folder / "shop.db")
                made[kind] = Shop(kind, str(folder / "shop.db"), None, folder)
            else:
                server = request.getfixturevalue({"postgresql": "postgresql_server", "mysql": "source_mariadb"}[kind])
                made[kind] = Shop(kind, shop.MAKERS[kind](server), server, server.folder)
        return made[kind]

    return find


@pytest.fixture
def at(shops: Any, request: pytest.FixtureRequest) -> Callable[[Kind], Shop]:
    return lambda kind: shops(kind, request)


@pytest.fixture
async def engines() -> AsyncIterator[list[Engine]]:
    opened: list[Engine] = []
    yield opened
    for engine in opened:
        await engine.close()


async def ask(engine: Engine, source: Source, sql: str, seconds: float = 10.0, **params: Any) -> list[tuple[Any, ...]]:
    async with engine.run(source, sql, params, LIMITS, Deadline.after(seconds)) as result:
        return await result.rows()


@pytest.mark.parametrize(
    ("kind", "user", "tried"),
    [
        ("postgresql", shop.READER, attacks.POSTGRESQL),
        ("postgresql", shop.BOSS, attacks.POSTGRESQL),
        ("mysql", shop.READER, attacks.MYSQL),
        ("mysql", shop.BOSS, attacks.MYSQL),
        ("sqlite", "", attacks.SQLITE),
    ],
)
async def test_every_attack_is_refused_or_stopped_and_leaves_nothing(
    at: Callable[[Kind], Shop], engines: list[Engine], kind: Kind, user: str, tried: tuple[str, ...]
) -> None:
    assert len(tried) >= 40
    place = at(kind)
    engine = place.engine()
    engines.append(engine)
    source = place.source(user)
    await ask(engine, source, "SELECT 1")
    before = place.state()
    through, late, wrong = [], [], []
    for attack in tried:
        began = time.monotonic()
        try:
            await ask(engine, source, attack.replace("{out}", str(place.folder / "attack.txt")), seconds=BUDGET_S)
        except (Refused, DeadlineExceeded):
            pass
        except GatherumError as error:
            if not (isinstance(error, InvalidInput) and attack in attacks.NOT_UNDERSTOOD[kind]):
                wrong.append((attack, error.code))
        else:
            through.append(attack)
        if time.monotonic() - began > BUDGET_S + END_S:
            late.append((attack, time.monotonic() - began))
    assert through == []
    assert late == []
    assert wrong == []
    assert place.state() == before
    # The next session is as every one before.
    assert await ask(engine, source, "SELECT n FROM scratch ORDER BY n") == [(1,), (2,), (3,)]
    if place.server is not None:
        assert place.running() == 0


PG, MY = postgres.LAYERS, mysql.LAYERS
WRITES = "WITH gone AS (DELETE FROM scratch RETURNING n) SELECT * FROM gone"


@pytest.mark.parametrize(
    ("kind", "layer", "beside", "attack"),
    [
        ("postgresql", "words", {"single"}, "DELETE FROM scratch RETURNING n"),
        ("postgresql", "read_only", {"words", "single", "pinned", "functions"}, WRITES),
        ("postgresql", "cursor", {"single"}, "DELETE FROM scratch RETURNING n"),
        ("postgresql", "pinned", {"read_only"}, "SET TRANSACTION READ WRITE; DELETE FROM scratch"),
        ("postgresql", "single", set(), "SELECT 1; DELETE FROM scratch"),
        ("postgresql", "functions", {"words", "single", "cursor"}, "SELECT wiped()"),
        ("postgresql", "rollback", {"words", "single"}, WRITES),
        ("mysql", "words", {"single"}, "DELETE FROM scratch RETURNING n"),
        ("mysql", "read_only", {"words", "single", "functions"}, "SELECT wiped()"),
        ("mysql", "single", set(), "SELECT 1; DELETE FROM scratch"),
        ("mysql", "rollback", {"words", "single"}, "SELECT wiped()"),
    ],
)
async def test_each_fence_alone_keeps_rows_that_are_lost_without_it(
    at: Callable[[Kind], Shop], engines: list[Engine], kind: Kind, layer: str, beside: set[str], attack: str
) -> None:
    """All other fences that would stop the attack are taken away; then this one too."""
    place = at(kind)
    layers = PG if kind == "postgresql" else MY
    for fenced in (True, False):
        place.refill()
        kept = {*beside, "cancel", "timeouts", *([layer] if fenced else ())}
        engine = place.engine(without=layers - kept)
        engines.append(engine)
        with contextlib.suppress(GatherumError):
            await ask(engine, place.source(shop.BOSS), attack)
        await engine.close()
        assert place.left() == (3 if fenced else 0), fenced
    place.refill()


@pytest.mark.parametrize(
    ("kind", "attack"),
    [("postgresql", "SELECT length(pg_read_file('PG_VERSION'))"), ("mysql", "SELECT length(LOAD_FILE('{readable}'))")],
)
async def test_without_the_list_of_functions_files_can_be_read(
    at: Callable[[Kind], Shop], engines: list[Engine], kind: Kind, attack: str
) -> None:
    place = at(kind)
    readable = place.folder / "readable.txt"
    readable.write_text("secret")
    readable.chmod(0o644)
    attack = attack.replace("{readable}", str(readable))
    fenced, open_ = place.engine(), place.engine(without=frozenset({"functions"}))
    engines += [fenced, open_]
    with pytest.raises(GatherumError):
        await ask(fenced, place.source(shop.BOSS), attack)
    ((length,),) = await ask(open_, place.source(shop.BOSS), attack)
    assert length


@pytest.mark.parametrize(("kind", "attack"), [("postgresql", "SELECT pg_sleep(1.5)"), ("mysql", "SELECT SLEEP(1.5)")])
async def test_either_clock_ends_a_statement_and_without_both_it_goes_on(
    at: Callable[[Kind], Shop], engines: list[Engine], kind: Kind, attack: str
) -> None:
    place = at(kind)
    for gone in ({"cancel"}, {"timeouts"}, {"cancel", "timeouts"}):
        engine = place.engine(without=frozenset({"functions", *gone}))
        engines.append(engine)
        await ask(engine, place.source(shop.BOSS), "SELECT 1")
        began = time.monotonic()
        if len(gone) == 2:
            await ask(engine, place.source(shop.BOSS), attack, seconds=0.3)
            assert time.monotonic() - began >= 1.4
        else:
            # MySQL's SLEEP answers 1 when it is interrupted by the server's own clock, which is no error.
            with contextlib.suppress(GatherumError):
                await ask(engine, place.source(shop.BOSS), attack, seconds=0.3)
            assert time.monotonic() - began < 1.4
            assert place.running() == 0


@pytest.mark.parametrize(
    ("kind", "attack", "held"),
    [
        (
            "postgresql",
            "SELECT pg_advisory_lock(4711)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711",
        ),
        ("mysql", "SELECT GET_LOCK('attack', 0)", "SELECT IS_USED_LOCK('attack') IS NOT NULL"),
    ],
)
async def test_without_forgetting_a_lock_stays_in_the_session(
    at: Callable[[Kind], Shop], engines: list[Engine], kind: Kind, attack: str, held: str
) -> None:
    place = at(kind)
    assert place.server is not None
    for gone, expected in ((set(), 0), ({"forget"}, 1)):
        engine = place.engine(without=frozenset({"functions", *gone}))
        engines.append(engine)
        await ask(engine, place.source(shop.BOSS), attack)
        assert int(place.server.administer(held, place.place)) == expected
        await engine.close()


@pytest.mark.parametrize(
    ("layer", "attack"),
    [
        ("readonly", "DELETE FROM scratch RETURNING n"),
        ("query_only", "DELETE FROM scratch RETURNING n"),
        ("authorizer", "DELETE FROM scratch RETURNING n"),
        ("rlimits", "DELETE FROM scratch RETURNING n"),
        ("single", "SELECT 1; DELETE FROM scratch RETURNING n"),
        ("limits", "SELECT length(zeroblob(20000000))"),
    ],
)
async def test_each_fence_of_sqlite_alone_stops_what_passes_without_it(
    tmp_path: Path, engines: list[Engine], layer: str, attack: str
) -> None:
    for fenced in (True, False):
        path = tmp_path / f"{fenced}.db"
        shop.in_sqlite(path)
        kept = {"progress", *({"single"} if layer != "single" else ()), *({layer} if fenced else ())}
        engine = SqliteEngine(lambda source: Path(source.path), without=sqlite_child.LAYERS - kept)
        engines.append(engine)
        source = Source("shop", "sqlite", str(path))
        if fenced:
            with pytest.raises(GatherumError):
                await ask(engine, source, attack)
        else:
            assert await ask(engine, source, attack)
        await engine.close()


async def test_without_the_progress_handler_only_the_death_of_the_process_ends_a_statement(
    at: Callable[[Kind], Shop], engines: list[Engine]
) -> None:
    source = at("sqlite").source("")
    for without, survives in ((frozenset[str](), True), (frozenset({"progress"}), False)):
        engine = SqliteEngine(lambda source: Path(source.path), without=without)
        engines.append(engine)
        await ask(engine, source, "SELECT 1")
        ((_, child),) = engine._idle._idle[source]
        with pytest.raises(GatherumError):
            await ask(engine, source, attacks.ENDLESS, seconds=0.1)
        assert child.alive is survives
