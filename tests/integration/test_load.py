"""The load generator counts what a server did, no more and no less: miscounting would make every figure wrong."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks import load


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    seen: Counter[bytes]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen[body] += 1
        status = json.loads(body)["status"]
        answer = b'{"partial":true}' if self.server.seen[body] % 2 else b'{"partial":false}'
        if status == 0:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        # In two pieces: an answer may arrive in as many as it likes.
        self.wfile.write(answer[:5])
        self.wfile.flush()
        self.wfile.write(answer[5:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.seen = Counter()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def run(server: _Server, *statuses: int, connections: int = 4) -> load.Result:
    bodies = [json.dumps({"status": status}).encode() for status in statuses]
    url = f"http://127.0.0.1:{server.server_address[1]}/v1/ask"
    return load.run(url, bodies, connections=connections, seconds=0.4, warm_up_s=0.1, mark=b'"partial":true')


def test_good_answers_are_counted_for_each_connection(server: _Server) -> None:
    result = run(server, 200)
    sent = sum(server.seen.values())
    assert 0 < result.requests <= sent
    assert sum(result.per_connection) == result.requests
    assert min(result.per_connection) > 0
    assert result.errors == {}
    assert 0 < result.percentile(50) <= result.percentile(99)
    # Half of the answers carry the mark, give or take those at the ends of the measured time.
    assert result.marked == pytest.approx(result.requests / 2, abs=10)


def test_every_body_is_sent_in_turn(server: _Server) -> None:
    run(server, 200, 201, 202)
    assert len(server.seen) == 3
    assert max(server.seen.values()) - min(server.seen.values()) <= 4


def test_errors_are_counted_by_status_and_not_as_answers(server: _Server) -> None:
    result = run(server, 200, 503)
    assert set(result.errors) == {"503"}
    assert result.errors["503"] == pytest.approx(result.requests, abs=10)


def test_a_dropped_connection_is_an_error_and_is_opened_again(server: _Server) -> None:
    result = run(server, 200, 0)
    assert set(result.errors) == {"connection_lost"}
    assert result.requests > 4


def test_nobody_there_is_an_error(server: _Server) -> None:
    server.shutdown()
    server.server_close()
    result = run(server, 200)
    assert result.requests == 0
    assert sum(result.errors.values()) > 0
    assert result.to_json()["p99_ms"] == 0
