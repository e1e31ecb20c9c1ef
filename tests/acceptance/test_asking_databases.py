"""Questions that a database answers: the row is quoted and cited, by a name or by a stored lookup."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import System

LOOKUP = Path(__file__).parents[2] / "examples" / "moons_of_planet.toml"


@pytest.fixture(scope="module")
def sky(system: System, library: Path) -> Iterator[Path]:
    """The example library's database as a source, its names known; gone afterwards."""
    [file] = library.glob("*.db")
    system.run("sources", "add", "sky", file.name)
    system.eventually(lambda: ask(system, "Titan")["rows"], "the names of the database")
    yield file
    system.run("sources", "remove", "sky")


def ask(system: System, question: str) -> dict[str, Any]:
    return system.ask(question, sources=["sky"])


def test_the_radius_of_a_moon_is_quoted_from_its_row(system: System, sky: Path) -> None:
    answer = ask(system, "What is the mean radius of Titan?")
    [first, *_] = answer["answer"]["sentences"]
    assert first["text"].startswith("moons · Titan: mean_radius_km 2574.7")
    [row, *others] = answer["rows"]
    assert first["citation"] == {"source": "sky", "table": "moons", "key": row["key"], "kind": "table"}
    [branch] = [branch for branch in answer["branches"] if branch["name"] == "sql:sky"]
    assert (branch["status"], answer["partial"]) == ("ok", False)
    # One step further stands its planet.
    assert [(other["table"], other["columns"]["name"], other["via"]) for other in others] == [
        ("planets", "Saturn", "moons.planet_id")
    ]
    connection = sqlite3.connect(sky)
    connection.row_factory = sqlite3.Row
    assert [dict(found) for found in connection.execute(row["sql"])] == [row["columns"]]
    connection.close()


def test_a_stored_lookup_answers_from_its_result(system: System, sky: Path) -> None:
    stored = json.loads(system.run("lookups", "add", "sky", str(LOOKUP), "--json").stdout)
    assert stored["arguments"]["required"] == ["planet"]
    question = "How many moons does Saturn have?"
    cited = system.eventually(
        lambda: [s for s in ask(system, question)["answer"]["sentences"] if s["citation"].get("kind") == "lookup"],
        "the lookup to be known",
    )
    ran = json.loads(system.run("lookups", "run", "sky", "moons_of_planet", "planet=Saturn", "--json").stdout)
    [row] = ran["rows"]
    assert cited[0]["text"].startswith(f"moons_of_planet · Saturn: moons {row['columns']['moons']}, ")
    assert cited[0]["citation"]["key"] == row["key"] == {"planet": "Saturn", "row": 1}
    assert row["columns"]["largest"] == "Titan"


def test_a_database_that_changes_under_a_question_breaks_nothing(system: System, sky: Path) -> None:
    alter(sky, "ALTER TABLE moons RENAME COLUMN name TO title")
    try:
        answer = ask(system, "What is the mean radius of Titan?")
        assert answer["partial"]
        [why] = answer["degraded"]
        # Told by the schema, or by the database where the schema has just been looked at.
        assert re.match("sql:sky: (not_found|invalid_input): .* no (such )?column", why)
        system.run("sources", "refresh", "sky")
        system.eventually(lambda: ask(system, "Titan")["rows"], "the names to be read again")
        assert not ask(system, "Titan")["partial"]
    finally:
        alter(sky, "ALTER TABLE moons RENAME COLUMN title TO name")


def alter(file: Path, script: str) -> None:
    connection = sqlite3.connect(file)
    connection.executescript(script)
    connection.close()
