"""A small private Ray node, shared by all tests that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
from faults import CREDENTIALS


@pytest.fixture(scope="session")
def ray_node() -> Iterator[None]:
    """Two CPUs on the loopback interface, and an environment with credentials in it, as on a node that serves."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        ray.init(
            # Never the cluster that happens to run on this machine.
            address="local",
            num_cpus=2,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            namespace="gatherum",
        )
    yield
    ray.shutdown()
