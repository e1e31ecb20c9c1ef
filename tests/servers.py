"""Private database servers: the store's tests run on real ones, started on free ports in folders of their own.

A server that runs on the machine already is neither used nor touched. What is missing here is installed by
`scripts/install-system.sh … test`; without it, tests that need a server skip and say so.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import quote

import psutil
import pytest

Kind = Literal["sqlite", "postgresql", "mysql"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql", "mysql")

USER = "gatherum"
PASSWORD = "p@ss:w/ord%1"  # noqa: S105 -- of servers that live for one test run; with all that a URL has to escape
START_S = 60.0

PORTS = range(20_000, 29_000)
"""Below those that systems give to clients: a server that is away for a moment would not get such a one back."""

MYSQLD = os.environ.get("GATHERUM_MYSQLD", "")
"""Path of a `mysqld` to test with in place of MariaDB; Debian has none."""

LEFT_BEHIND = re.compile(r"gatherum-(?:postgresql|mysql)-(\d+)-\w+")
"""Folders of servers; the number is that of the process they serve."""

_SPAWNER = ThreadPoolExecutor(1)
"""Starts the servers: they die with the *thread* that started them, so it has to be one that stays."""


class Server:
    """A server of ours. `start` it, `stop` it, `kill` it; the data stays until `close`.

    Attributes:
        kind: as in the URLs of its databases.
        port: on 127.0.0.1.
        folder: its data and its log.
        options: further options of the command line; they count from the next `start`.
    """

    kind: ClassVar[Kind]

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"gatherum-{self.kind}-{os.getpid()}-"))
        self.port = _free_port()
        self.options: list[str] = []
        self._reused = ""
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody")
        self._initialise()

    @classmethod
    def missing(cls) -> str | None:
        """What has to be installed before there can be one."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            command = _unprivileged(self._command(), dying_too=True)
            spawn = _SPAWNER.submit(
                subprocess.Popen, command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
            self._process = spawn.result()
        give_up = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"{self.kind} did not start:\n" + (self.folder / "log").read_text(errors="replace"))
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it in an orderly way; open connections are cut."""
        self._end(signal.SIGINT if self.kind == "postgresql" else signal.SIGTERM)

    def kill(self) -> None:
        """Kill it as a power failure would, but for the operating system's cache."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Kill it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, *, port: int | None = None) -> str:
        """URL of a database; with another port, that of a proxy before the server."""
        return f"{self.kind}://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port or self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database of a new name; returns the name."""
        name = f"gatherum_{secrets.token_hex(6)}"
        self.administer(f"CREATE DATABASE {name}" + (f" OWNER {USER}" if self.kind == "postgresql" else ""))
        return name

    def reused_database(self) -> str:
        """Name of a database for tests that empty it before they begin."""
        self._reused = self._reused or self.create_database()
        return self._reused

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self.administer(f"DROP DATABASE {name}" + (" WITH (FORCE)" if self.kind == "postgresql" else ""))

    def administer(self, sql: str, database: str = "") -> str:
        """Run statements as the administrator; what they print."""
        raise NotImplementedError

    def _initialise(self) -> None:
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class PostgreSQL(Server):
    """PostgreSQL, with passwords as a server of today wants them (SCRAM)."""

    kind = "postgresql"

    @classmethod
    def missing(cls) -> str | None:
        return None if _find("postgres") and _find("initdb") else "PostgreSQL (Debian: postgresql)"

    def administer(self, sql: str, database: str = "postgres") -> str:
        command = [_need("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port)]
        command += ["-U", "postgres", "-c", sql, database]
        return _run(command, {"PGPASSWORD": PASSWORD})

    def _initialise(self) -> None:
        (self.folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(self.folder / "password", "nobody")
        command = [_need("initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "--no-sync"]
        command += ["--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}", "-E", "UTF8", "--locale=C.UTF-8"]
        _run(_unprivileged(command))
        self.start()
        self.administer(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")

    def _command(self) -> list[str]:
        options = ["listen_addresses=127.0.0.1", f"port={self.port}", "unix_socket_directories="]
        options += ["shared_buffers=32MB", "max_connections=200", *self.options]
        command = [_need("postgres"), "-D", str(self.folder / "data")]
        return [*command, *(word for option in options for word in ("-c", option))]

    def _answers(self) -> bool:
        try:
            self.administer("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True


class MariaDB(Server):
    """MariaDB. The user has the privileges that docs/store.md asks for, and no others."""

    kind = "mysql"

    @classmethod
    def missing(cls) -> str | None:
        found = _find("mariadbd") and _find("mariadb-install-db") and _find("mariadb")
        return None if found else "MariaDB (Debian: mariadb-server)"

    def administer(self, sql: str, database: str = "mysql") -> str:
        return _run([self._client(), "--no-defaults", "-N", "-S", self._socket, "-u", "root", "-e", sql, database])

    @property
    def _socket(self) -> str:
        return str(self.folder / "socket")

    def _client(self) -> str:
        return _need("mariadb")

    def _program(self) -> str:
        return _need("mariadbd")

    def _make_data(self) -> list[str]:
        command = [_need("mariadb-install-db"), "--no-defaults", f"--datadir={self.folder / 'data'}"]
        return [*command, "--auth-root-authentication-method=normal", "--skip-test-db"]

    def _initialise(self) -> None:
        _run(_unprivileged(self._make_data()))
        self.start()
        self.administer(f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'")
        self.administer(
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES "
            rf"ON `gatherum\_%`.* TO {USER}@'%'"
        )

    def _command(self) -> list[str]:
        command = [self._program(), "--no-defaults", f"--datadir={self.folder / 'data'}", f"--socket={self._socket}"]
        command += [f"--pid-file={self.folder / 'pid'}", "--bind-address=127.0.0.1", f"--port={self.port}"]
        # A server's default character set may be anything; one of 3 bytes would be the old default.
        return [*command, "--character-set-server=latin1", "--innodb-buffer-pool-size=64M", *self.options]

    def _answers(self) -> bool:
        try:
            self.administer("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True


class MySQL(MariaDB):
    """MySQL, in place of MariaDB where `GATHERUM_MYSQLD` names its server; the client `mysql` lies beside it."""

    @classmethod
    def missing(cls) -> str | None:
        return None if Path(MYSQLD).is_file() else f"{MYSQLD} (GATHERUM_MYSQLD)"

    def _client(self) -> str:
        return str(Path(MYSQLD).with_name("mysql"))

    def _program(self) -> str:
        return MYSQLD

    def _make_data(self) -> list[str]:
        return [MYSQLD, "--no-defaults", "--initialize-insecure", f"--datadir={self.folder / 'data'}"]

    def _command(self) -> list[str]:
        return [*super()._command(), "--mysqlx=OFF", "--secure-file-priv=NULL"]


SERVERS: dict[Kind, type[Server]] = {"postgresql": PostgreSQL, "mysql": MySQL if MYSQLD else MariaDB}


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL for the whole run. A test that stops it starts it again."""
    yield from _serve("postgresql")


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Server]:
    """A MariaDB for the whole run. A test that stops it starts it again."""
    yield from _serve("mysql")


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: Server) -> str:
    """URL of a database on the shared PostgreSQL. It is shared too: tests of the store take a `fresh_database`."""
    return postgresql_server.url(postgresql_server.create_database())


@pytest.fixture(scope="session")
def source_mariadb() -> Iterator[Server]:
    """A MariaDB of their own for sources: a user who may see all of a server would see the stores of other tests."""
    yield from _serve("mysql")


@pytest.fixture(scope="session")
def mariadb_url(mariadb_server: Server) -> str:
    """The same on MariaDB."""
    return mariadb_server.url(mariadb_server.create_database())


@pytest.fixture
def server_of(request: pytest.FixtureRequest) -> Callable[[Kind], Server]:
    """The shared server of a kind, started when it is first asked for."""

    def find(kind: Kind) -> Server:
        server: Server = request.getfixturevalue({"postgresql": "postgresql_server", "mysql": "mariadb_server"}[kind])
        return server

    return find


@pytest.fixture
def fresh_database(server_of: Callable[[Kind], Server], tmp_path: Path) -> Iterator[Callable[[Kind], str]]:
    """Call it with a kind: URL of an empty database, which goes when the test ends."""
    made: list[tuple[Server, str]] = []

    def make(kind: Kind) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path / secrets.token_hex(6)}.db"
        server = server_of(kind)
        name = server.create_database()
        made.append((server, name))
        return server.url(name)

    yield make
    for server, name in made:
        server.drop_database(name)


@pytest.fixture(params=KINDS)
def store_kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of database in turn."""
    kind: Kind = request.param
    return kind


@pytest.fixture
def store_url(store_kind: Kind, fresh_database: Callable[[Kind], str]) -> str:
    """URL of an empty database of each kind in turn."""
    return fresh_database(store_kind)


def _serve(kind: Kind) -> Iterator[Server]:
    server = SERVERS[kind]
    if missing := server.missing():
        pytest.skip(f"{missing} is not installed; as root, `make test` installs it")
    sweep(Path(tempfile.gettempdir()))
    running = server()
    yield running
    running.close()


def sweep(folder: Path) -> None:
    """Remove what servers have left behind whose own process was killed, and could not."""
    for path in folder.glob("gatherum-*-*-*"):
        found = LEFT_BEHIND.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _free_port() -> int:
    while True:
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _find(program: str) -> str | None:
    """Debian keeps PostgreSQL's programs off the PATH, a folder a version."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(program, path=os.pathsep.join([*map(str, homes), os.environ["PATH"], "/usr/sbin"]))


def _need(program: str) -> str:
    found = _find(program)
    assert found, program
    return found


def _unprivileged(command: list[str], *, dying_too: bool = False) -> list[str]:
    """The command as somebody without privileges, as servers insist; `dying_too`: it ends when this process does."""
    prefix = ["setpriv"]
    if os.geteuid() == 0:
        prefix += ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    if dying_too:
        prefix.append("--pdeathsig=KILL")
    return [*prefix, *command] if len(prefix) > 1 else command


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout
