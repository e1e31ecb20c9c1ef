"""Log lines: JSON with the request id, through structlog and through the standard module alike."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from config import logs
from config.settings import LogSettings


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def configure(level: Any = "INFO", form: Any = "json") -> None:
    logs.configure(LogSettings(level=level, format=form), role="retrieval")


def test_a_line_is_json_with_role_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logs.get().info("index_filled", chunks=3)
    (line,) = lines(capsys)
    assert line["event"] == "index_filled"
    assert line["chunks"] == 3
    assert line["role"] == "retrieval"
    assert line["level"] == "info"
    assert line["timestamp"].endswith("Z")


def test_bound_values_are_on_every_line_inside_and_on_none_outside(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    with logs.bound(request_id="r1"):
        logs.get().info("inside")
        logging.getLogger("a.library").warning("library %s", "too")
    logs.get().info("outside")
    inside, library, outside = lines(capsys)
    assert inside["request_id"] == library["request_id"] == "r1"
    assert library["event"] == "library too"
    assert "request_id" not in outside


async def test_concurrent_requests_keep_their_ids_apart(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    both = asyncio.Barrier(2)

    async def handle(request_id: str) -> None:
        with logs.bound(request_id=request_id):
            await both.wait()
            logs.get().info("handled", expected=request_id)

    await asyncio.gather(handle("a"), handle("b"))
    got = lines(capsys)
    assert len(got) == 2
    assert all(line["request_id"] == line["expected"] for line in got)


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="WARNING")
    logs.get().info("unimportant")
    logs.get().warning("important")
    assert [line["event"] for line in lines(capsys)] == ["important"]


def test_an_exception_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    try:
        int("boom")
    except ValueError:
        logs.get().exception("defect")
    (line,) = lines(capsys)
    assert "ValueError: invalid literal" in line["exception"]


def test_auto_is_json_where_no_terminal_is_and_pretty_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure(form="auto")
    logs.get().info("to_a_file")
    assert lines(capsys)[0]["event"] == "to_a_file"
    configure(form="pretty")
    logs.get().info("to_a_person")
    text = capsys.readouterr().err
    assert "to_a_person" in text
    assert not text.startswith("{")


def test_configuring_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    configure()
    logging.getLogger("a.library").warning("once")
    assert len(lines(capsys)) == 1


def test_values_json_does_not_know_are_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logs.get().info("odd", value={1, 2}.__class__, text="Größe")
    out = capsys.readouterr().err
    assert "Größe" in out
    assert json.loads(out)["value"] == "<class 'set'>"
