"""What `gatherum scale` refuses before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import GatherumError
from config.settings import load
from serve import system


@pytest.mark.parametrize(
    ("counts", "shards", "says"),
    [
        ({"database": 2}, 1, "'database' cannot be scaled; orchestrator, retrieval, entities, pdf, api can"),
        ({"retrieval": 0}, 1, "one replica of retrieval at least"),
        ({"retrieval": 2}, 2, "set retrieval.replicas and start again"),
        ({"api": 2}, 1, "not running"),
    ],
)
def test_what_cannot_be_scaled_is_told(tmp_path: Path, counts: dict[str, int], shards: int, says: str) -> None:
    settings = load({"data_dir": str(tmp_path), "retrieval.shards": shards}, environ={})
    with pytest.raises(GatherumError, match=says):
        system.scale(settings, counts)
