"""What a query may say, over HTTP: phrases, open ends, and words in the language of a collection."""

from __future__ import annotations

import pytest
from harness import System, pdf

pytestmark = pytest.mark.ray

GERMAN = "grammatik"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    environment = {
        "GATHERUM_ENCODER__KIND": "none",
        "GATHERUM_RETRIEVAL__LANGUAGES": f"[{GERMAN}=german]",
        "GATHERUM_RETRIEVAL__K1": "0.9",
        "GATHERUM_RETRIEVAL__SHARDS": "2",
    }
    return System(tmp_path_factory.mktemp("syntax"), environment)


def found(system: System, query: str, **options: object) -> list[str]:
    with system.client() as client:
        answer = client.post("/v1/search", json={"query": query, **options})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["partial"] is False
    return [passage["document_id"] for passage in body["passages"]]


def test_phrases_open_ends_and_languages(system: System) -> None:
    system.up()
    try:
        probe = system.add(pdf("The Huygens probe landed on the moon Titan in the year 2005."), name="probe.pdf")
        moon = system.add(pdf("The moon landed nowhere, and no probe of Huygens was there."), name="moon.pdf")
        houses = system.add(pdf("Die Häuser der alten Städte wurden neu gebaut."), name="de.pdf", collection=GERMAN)

        assert found(system, '"probe landed"') == [probe]
        assert found(system, '"landed probe"') == []
        assert found(system, 'moon "landed nowhere"')[0] == moon
        assert sorted(found(system, "huyg*", limit=5)) == sorted([probe, moon])
        assert found(system, "tita*") == [probe]
        assert found(system, "tita") == []
        assert found(system, "Haus Stadt", collections=[GERMAN]) == [houses]
        assert found(system, "Haus") == [houses]
        assert found(system, "Haus", collections=["default"]) == []
        assert found(system, "landing", collections=["default"])
    finally:
        system.down()
