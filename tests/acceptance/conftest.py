"""One running system for the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import System

from examples.make_library import make_library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example library."""
    folder = tmp_path_factory.mktemp("library")
    make_library(folder)
    return folder


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[System]:
    """A running system, shared by all tests of the session: tests use collections of their own."""
    # Slow clients are given up soon, so that a test need not wait for a minute.
    environment = {"GATHERUM_SOURCES__SQLITE_ROOT": str(library), "GATHERUM_API__STALL_S": "5"}
    system = System(tmp_path_factory.mktemp("system"), environment)
    system.up()
    yield system
    system.down()
