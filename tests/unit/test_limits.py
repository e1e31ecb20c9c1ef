"""What a worker keeps and gives up. The limits themselves are put to the test on real processes."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import DocumentTooLarge
from actors.reading import limits


def test_credentials_are_not_kept() -> None:
    secrets = {
        "DATABASE_URL": "postgresql://u:p@h/d",
        "GATHERUM_DATABASE__URL": "postgresql://u:p@h/d",
        "GATHERUM_API__KEYS": "k",
        "AWS_SECRET_ACCESS_KEY": "k",
        "PGPASSWORD": "p",
        "RAY_AUTH_TOKEN": "t",
        "RAY_REDIS_ADDRESS": "redis://:p@h",
        "RAY_external_password": "p",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}",
    }
    needed = {"PATH": "/bin", "LC_ALL": "C", "TESSDATA_PREFIX": "/t", "RAY_RAYLET_PID": "1", "GATHERUM_NODE_ID": "m"}
    assert limits.kept_variables(secrets | needed) == needed.keys()


@given(st.dictionaries(st.text(min_size=1), st.just("")))
def test_no_name_is_kept_that_was_not_foreseen(environ: dict[str, str]) -> None:
    for name in limits.kept_variables(environ):
        assert name in limits.KEPT or name.startswith(limits.KEPT_PREFIXES)


def test_a_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(bytes(2_000_000))
    limits.check_file(str(path), 2)
    path.write_bytes(bytes(2_000_001))
    with pytest.raises(DocumentTooLarge, match=r"has 2\.0 MB; the limit is 2 MB"):
        limits.check_file(str(path), 2)


def test_the_clocks_run_only_inside_the_block() -> None:
    before = resource.getrlimit(resource.RLIMIT_CPU)
    with limits.clock(100):
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
        assert soft >= 102
        assert hard == before[1]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert resource.getrlimit(resource.RLIMIT_CPU) == before


def test_steps_of_one_budget_share_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=time.process_time))
    budget = limits.Budget(30)
    for spent, left in ((10, 30), (15, 20), (6, 5)):
        with budget.clock():
            assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(left, abs=0.5)
            now[0] += spent
    assert budget.left == -1
    armed: list[float] = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: armed.append(seconds))
    with budget.clock():
        pass
    # At once, where 0 would be never.
    assert armed == [limits.LEAST_S, 0]


ROOT = Path(__file__).parents[2]

HOARDING = """
from actors.reading import limits
before = limits.resident_memory()
hoard = b"x" * 50_000_000
print(limits.resident_memory() - before, limits.private_memory())
"""


def test_memory_is_read_as_bytes() -> None:
    # In a process of its own: this one may give memory of other tests back at any moment.
    told = subprocess.run([sys.executable, "-c", HOARDING], cwd=ROOT, capture_output=True, check=True, text=True)
    grown, private = map(int, told.stdout.split())
    assert 45_000_000 < grown < 70_000_000
    assert private > 50_000_000
