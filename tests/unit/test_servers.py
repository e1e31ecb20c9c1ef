"""The private servers of the tests tidy up behind runs that were killed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import servers


def test_only_what_the_dead_have_left_is_swept(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    stay = [f"gatherum-mysql-{os.getpid()}-abc", "gatherum-mysql-abc", f"gatherum-bench-{ended.pid}-abc"]
    for name in (*stay, f"gatherum-mysql-{ended.pid}-abc", f"gatherum-postgresql-{ended.pid}-a_c"):
        (tmp_path / name / "data").mkdir(parents=True)
    servers.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)


@pytest.mark.parametrize("kind", servers.SERVERS)
def test_the_folder_of_a_server_names_whom_it_serves(kind: servers.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.SERVERS[kind], "_initialise", lambda self: None)
    server = servers.SERVERS[kind]()
    found = servers.LEFT_BEHIND.fullmatch(server.folder.name)
    server.close()
    assert found
    assert int(found[1]) == os.getpid()
