"""What survives a killed process: everything that was accepted, and service within seconds."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from harness import System, pdf

ROLES = ("database-0", "retrieval-0", "entities-0", "pdf-0", "ingest-0", "orchestrator-0")
PAGES = 40


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that these tests may kill."""
    system = System(tmp_path_factory.mktemp("killed"), {"GATHERUM_PDF__RANGE_PAGES": "2"})
    system.up()
    yield system
    system.down()


@pytest.mark.parametrize("replica", ROLES)
def test_a_killed_actor_costs_at_most_what_was_in_flight(own: System, replica: str) -> None:
    own.add(pdf("The kestrel hovers above the meadow."), collection="killed")
    old = own.pid(replica)
    assert old
    statuses: Counter[str] = Counter()
    stop = threading.Event()

    def question() -> None:
        with own.client() as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/ask", json={"question": "Where does the kestrel hover?"})
                except httpx.TransportError as error:
                    statuses[type(error).__name__] += 1
                    continue
                right = answer.status_code == 200 and "above the meadow" in answer.json()["answer"]["text"]
                partial = answer.status_code == 200 and answer.json()["partial"]
                statuses["right" if right else "partial" if partial else f"wrong {answer.status_code}"] += 1

    askers = [threading.Thread(target=question) for _ in range(4)]
    for asker in askers:
        asker.start()
    own.eventually(lambda: statuses["right"] > 8, "questions to flow")
    os.kill(old, signal.SIGKILL)
    own.eventually(lambda: own.pid(replica) not in (old, None) and own.ready(), f"{replica} to be back", within_s=30)
    before = statuses.copy()
    own.eventually(lambda: statuses["right"] > before["right"] + 8, "questions to flow again")
    assert statuses["partial"] == before["partial"], "answers are still partial after the role is back"
    stop.set()
    for asker in askers:
        asker.join()
    # One question in flight for each asker is what a dead process may cost.
    assert sum(statuses.values()) - statuses["right"] <= len(askers), statuses


def test_documents_accepted_before_everything_was_killed_are_finished_once(own: System) -> None:
    texts = [
        [f"Document {number}, page {page}: the {number}th heron waits." for page in range(PAGES)] for number in range(6)
    ]
    receipts = [
        own.upload(pdf(*pages), collection="survivors", name=f"{number}.pdf") for number, pages in enumerate(texts)
    ]
    with own.client() as client:
        own.eventually(
            lambda: any(client.get(f"/v1/jobs/{r['job_id']}").json()["pages_done"] for r in receipts),
            "reading to begin",
        )
    kill_everything(own)
    own.up()
    for receipt in receipts:
        job = own.finished(receipt["job_id"])
        assert (job["state"], job["pages_done"], job["pages_total"]) == ("done", PAGES, PAGES)
    with own.client() as client:
        items = client.get("/v1/documents", params={"collection": "survivors"}).json()["items"]
        assert sorted(item["document_id"] for item in items) == sorted(r["document_id"] for r in receipts)
        passages = client.post(
            "/v1/search", json={"query": "heron", "collections": ["survivors"], "limit": 100}
        ).json()["passages"]
        others = client.get("/v1/documents", params={"collection": "killed"}).json()["items"]
    assert len(passages) == 100
    # One chunk a page: nothing is there twice.
    status = json.loads(own.run("status", "--json").stdout)
    assert status["replicas"]["retrieval-0"]["detail"]["chunks"] == len(receipts) * PAGES + len(others)


def kill_everything(system: System) -> None:
    """SIGKILL every process of the system, in no particular order, as a power failure would."""
    mark = json.loads((Path(system.data_dir) / "running.json").read_text())["node"]["mark"]
    victims = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GATHERUM_NODE_ID") == mark:
                victims.append(process)
        except psutil.Error:
            continue
    assert len(victims) > 8
    for process in victims:
        # A worker whose raylet was killed a moment ago goes by itself.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(victims, timeout=10)
