"""Replicas that come and go, what is seen of all of them, and a stop that drops nothing, while questions are asked."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from harness import System, pdf


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("scaled"), {})
    system.up()
    system.add(pdf("The kestrel hovers above the meadow."), collection="scaled")
    yield system
    system.down()


def became(answer: httpx.Response) -> str:
    """What became of a question that was answered."""
    if answer.status_code != 200:
        return str(answer.status_code)
    body = answer.json()
    whole = "meadow" in body["answer"]["text"]
    # What has neither the sentence nor a reason for its absence is wrong.
    return "whole" if whole else "partial" if body["partial"] else answer.text


@contextmanager
def asking(system: System) -> Iterator[Counter[str]]:
    """Questions from four clients while the block runs, and what became of them."""
    found: Counter[str] = Counter()
    stop = threading.Event()

    def ask() -> None:
        with system.client() as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/ask", json={"question": "Where does the kestrel hover?"})
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    found["not taken"] += 1
                    stop.wait(0.05)
                except httpx.TransportError as error:
                    # Once the proxy has nobody behind it any more, no question is taken; then it ends itself.
                    found["not taken" if found["404"] else f"dropped: {error!r}"] += 1
                else:
                    found[became(answer)] += 1

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    try:
        yield found
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def replicas(system: System) -> set[str]:
    with system.client() as client:
        state = client.get("/health").json()
    return {name for name, replica in state["replicas"].items() if replica["ready"]}


def test_replicas_come_and_go_while_questions_are_answered(own: System) -> None:
    with asking(own) as found:
        own.eventually(lambda: found["whole"] > 8, "questions to flow")
        own.run("scale", "orchestrator=2", "retrieval=2")
        more = {"orchestrator-1", "retrieval-1"}
        own.eventually(lambda: more <= replicas(own), "the new replicas to be called", within_s=30)
        assert "retrieval-1" in own.run("status").stdout
        own.run("scale", "orchestrator=1", "retrieval=1")
        own.eventually(lambda: not more & replicas(own), "them to be forgotten", within_s=30)
        before = found["whole"]
        own.eventually(lambda: found["whole"] > before + 8, "questions to flow on")
    assert set(found) == {"whole"}


def test_every_process_is_seen_from_outside(own: System) -> None:
    own.ask("Where does the kestrel hover?")
    with own.client() as client:
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for replica in ("orchestrator-0", "retrieval-0", "entities-0", "database-0", "pdf-0", "ingest-0"):
        assert any(line.startswith(f'gatherum_resident_bytes{{replica="{replica}"}}') for line in lines)
    assert any(line.startswith('gatherum_loop_lag_seconds_count{replica="api-') for line in lines)
    assert any(line.startswith('gatherum_answers_total{replica="orchestrator-0",outcome="whole"}') for line in lines)


def test_a_stop_drops_no_question_that_was_taken(own: System) -> None:
    with asking(own) as found:
        own.eventually(lambda: found["whole"] > 8, "questions to flow")
        own.down()
        own.eventually(lambda: found["not taken"] > 0, "it to be gone")
    # What comes while nobody is there any more is told so by the proxy, as long as that is there.
    assert set(found) <= {"whole", "partial", "not taken", "503", "404"}, found
