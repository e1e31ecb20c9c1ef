"""The dashboard asks for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

from actors import orchestrator, pool
from actors.metrics import PROCESS
from serve import app, batching

ROOT = Path(__file__).parents[2]
MODULES = (app, batching, orchestrator, pool)  # imported for what they register


def known() -> set[str]:
    return set(PROCESS.families())


def test_every_metric_of_the_dashboard_is_one() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "gatherum.json").read_text(encoding="utf-8"))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"gatherum_\w+", target["expr"])
    }
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= known()
    assert len(asked) > 10


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert {name for name in known() if f"`{name}`" not in text} == set()
