"""cluster.yaml: what Ray's launcher would accept, with the flags that `gatherum up` sets on a node of its own."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from serve.system import flags

PATH = Path(__file__).parents[2] / "cluster.yaml"
OF_ONE_MACHINE = re.compile(r"_(PORT|LOC|PATH|BASE|FILE|NBTHREAD)$")
"""Flags whose value is a path, a port or a thread count of the machine, and has good defaults on a node of its own."""


@pytest.fixture
def config() -> dict[str, Any]:
    content = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_rays_own_schema_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_check_can_fail(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="clustername"):
        validate_config(config | {"clustername": "typo"})


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_starts_with_the_flags_of_gatherum_up(config: dict[str, Any], commands: str) -> None:
    (start,) = [command for command in config[commands] if "ray start" in command]
    given = dict(re.findall(r"(RAY_\w+)=(\S+)", start.partition("ray start")[0]))
    wanted = flags(Path("x"))
    assert given == {name: value for name, value in wanted.items() if not OF_ONE_MACHINE.search(name)}
