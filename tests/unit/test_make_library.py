from __future__ import annotations

import math
import sqlite3
import tomllib
from pathlib import Path
from typing import Any

import pymupdf
import pytest
from stores import DEFAULTS

from actors.deadline import Deadline
from actors.messages import Link, LinkedEntity, Parameter, Source, StoredLookup
from actors.search import matching
from actors.sql.access import Own
from actors.sql.evidence import Finder
from actors.sql.sources import Sources
from examples import make_library
from examples.make_library import DATABASE, GAZETTEER, QUESTIONS

FACTS: dict[str, Any] = tomllib.loads(make_library.FACTS.read_text(encoding="utf-8"))
SCAN: str = FACTS["scan"]["file"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "library"
    make_library.make_library(folder)
    return folder


@pytest.fixture(scope="module")
def texts(library: Path) -> dict[str, list[str]]:
    """Text of the pages, by file; the flags leave ligatures out, as a reader would type the words."""
    found = {}
    for path in sorted(library.glob("*.pdf")):
        with pymupdf.open(path) as pdf:
            found[path.name] = [" ".join(page.get_text(flags=0).split()) for page in pdf]
    return found


@pytest.fixture
def tables(library: Path) -> Any:
    connection = sqlite3.connect(library / DATABASE)
    connection.row_factory = sqlite3.Row
    yield connection
    connection.close()


def test_the_same_library_comes_out_each_time(library: Path, tmp_path: Path) -> None:
    again = make_library.make_library(tmp_path)
    assert {path.name for path in again} == {path.name for path in library.iterdir()}
    assert [path.name for path in again if path.read_bytes() != (library / path.name).read_bytes()] == []


def test_making_it_again_replaces_it(library: Path) -> None:
    before = {path: path.read_bytes() for path in library.iterdir()}
    make_library.make_library(library)
    assert {path: path.read_bytes() for path in library.iterdir()} == before


def test_the_scan_is_pictures_and_nothing_else(library: Path) -> None:
    with pymupdf.open(library / SCAN) as pdf:
        assert pdf.page_count == len(FACTS["scan"]["pages"])
        for page in pdf:
            assert page.get_text() == ""
            ((_, _, width, height, *_),) = page.get_images()
            assert 200 <= 72 * width / page.rect.width <= 300
            assert 200 <= 72 * height / page.rect.height <= 300


def test_every_other_page_has_text_and_names_its_sources(texts: dict[str, list[str]]) -> None:
    pages = [page for name, pages in texts.items() if name != SCAN for page in pages]
    assert len(texts) == 5
    assert all("Source: " in page and len(page) > 300 for page in pages)


def test_the_gazetteer_has_a_page_for_each_entry_of_its_contents(texts: dict[str, list[str]]) -> None:
    contents, *pages = texts[GAZETTEER]
    names = [entry["name"] for kind in ("planets", "moons", "missions") for entry in FACTS[kind]]
    assert len(texts[GAZETTEER]) == 60
    assert len(names) == len(pages)
    for number, (name, page) in enumerate(zip(names, pages, strict=True), 2):
        assert page.removeprefix("The ").startswith(name)
        assert f"{name} {number}" in contents


def test_what_the_scan_tells_stands_nowhere_else(texts: dict[str, list[str]], library: Path) -> None:
    others = " ".join(page for pages in texts.values() for page in pages).encode() + (library / DATABASE).read_bytes()
    for word in (b"Apollo", b"Hornet", b"Armstrong", b"Tranquility"):
        assert word not in others
        assert word.decode() in str(FACTS["scan"]).replace("'apollo'", "")


def test_each_question_is_answered_by_one_kind_of_evidence(texts: dict[str, list[str]], tables: Any) -> None:
    by_text, by_scan, by_row = QUESTIONS.items()
    assert by_text == ("Which moon did Huygens land on?", ("Titan",))
    assert any("Huygens landed on Titan" in page for page in texts["missions.pdf"])
    assert by_scan[1] == ("Hornet",)
    assert "USS Hornet recovered the crew" in FACTS["scan"]["pages"][2]["text"]
    (radius,) = tables.execute("SELECT mean_radius_km FROM moons WHERE name = 'Titan'").fetchone()
    assert by_row == ("What is the radius of Titan?", (str(radius),))
    assert not any("2574.7" in page or "2,574.7" in page for pages in texts.values() for page in pages)


def test_the_tables_hold_together(tables: Any) -> None:
    assert tables.execute("PRAGMA foreign_key_check").fetchall() == []
    for kind in ("planets", "moons", "missions"):
        rows = tables.execute(f"SELECT * FROM {kind}").fetchall()  # noqa: S608 - a name from this test
        assert [row["name"] for row in rows] == [fact["name"] for fact in FACTS[kind]]
        for row, fact in zip(rows, FACTS[kind], strict=True):
            stored = dict(row)
            assert stored.pop("source") in FACTS["sources"].values()
            launched = {"launch_date": fact["launch_date"].isoformat()} if "launch_date" in fact else {}
            assert {key: value for key, value in stored.items() if key in fact} == {
                key: value for key, value in (fact | launched).items() if key in stored
            }


async def test_its_names_are_offered_to_questions(library: Path) -> None:
    settings = DEFAULTS.sources.model_copy(update={"sqlite_root": str(library)})
    sources = Sources(settings, own=Own())
    values = await Finder(settings, sources).values(Source("solar", "sqlite", DATABASE))
    await sources.close()
    names = {(value.table, value.value) for value in values if value.column == "name"}
    assert {("planets", "Saturn"), ("moons", "Titan"), ("missions", "Cassini\N{EN DASH}Huygens")} <= names
    assert {value.column for value in values} <= {"name", "discoverer"}


async def test_its_lookup_is_called_for_and_finds_the_moons_of_a_planet(library: Path) -> None:
    text = (Path(make_library.__file__).parent / "moons_of_planet.toml").read_text(encoding="utf-8")
    told = tomllib.loads(text)
    parameters = tuple(Parameter(**parameter) for parameter in told.pop("parameters"))
    lookup = StoredLookup("solar", **told, parameters=parameters)
    question = "How many moons does Saturn have?"
    saturn = LinkedEntity("Saturn", "VALUE", 20, 26, (Link("value", None, "solar", "planets", "name", "Saturn"),))
    [match] = matching.choose(question, (saturn,), [lookup])
    settings = DEFAULTS.sources.model_copy(update={"sqlite_root": str(library)})
    sources = Sources(settings, own=Own())
    source, finder = Source("solar", "sqlite", DATABASE), Finder(settings, sources)
    await finder.check(source, lookup, Deadline.after(10))
    [row] = (await finder.run(source, lookup, match.call, 5, Deadline.after(10))).rows
    await sources.close()
    moons = [moon for moon in FACTS["moons"] if moon["planet"] == "Saturn"]
    assert row.columns == {"moons": len(moons), "largest_radius_km": 2574.7, "largest": "Titan"}


# --- the figures agree with the laws of physics, so that a slip of the pen is found ---------------------------------

G = 6.6743e-11
SUN_KG = 1.9885e30


@pytest.mark.parametrize("planet", FACTS["planets"], ids=lambda planet: planet["name"])
def test_figures_of_a_planet_agree_with_each_other(planet: dict[str, Any]) -> None:
    radius, mass = planet["mean_radius_km"] * 1e3, planet["mass_e24_kg"] * 1e24
    orbit_s = 2 * math.pi * math.sqrt((planet["distance_million_km"] * 1e9) ** 3 / (G * SUN_KG))
    assert planet["orbital_period_days"] == pytest.approx(orbit_s / 86400, rel=0.01)
    assert planet["density_kg_m3"] == pytest.approx(mass / (4 / 3 * math.pi * radius**3), rel=0.01)
    assert planet["escape_velocity_km_s"] == pytest.approx(math.sqrt(2 * G * mass / radius) / 1e3, rel=0.1)
    # At the equator of the giants, which bulge and spin, it is less than at the mean radius.
    assert planet["gravity_m_s2"] == pytest.approx(G * mass / radius**2, rel=0.2)


@pytest.mark.parametrize("moon", FACTS["moons"], ids=lambda moon: moon["name"])
def test_a_moon_moves_as_its_planet_is_heavy(moon: dict[str, Any]) -> None:
    (mass,) = (planet["mass_e24_kg"] * 1e24 for planet in FACTS["planets"] if planet["name"] == moon["planet"])
    if moon["name"] in ("Moon", "Charon"):
        mass *= {"Moon": 1.0123, "Charon": 1.122}[moon["name"]]  # heavy enough to count
    period_s = 2 * math.pi * math.sqrt((moon["orbit_km"] * 1e3) ** 3 / (G * mass))
    # Flattening matters for those close in; the outermost are pulled about by the Sun.
    assert moon["period_days"] == pytest.approx(period_s / 86400, rel=0.02)


@pytest.mark.parametrize("mission", FACTS["missions"], ids=lambda mission: mission["name"])
def test_a_mission_arrives_after_its_launch_and_ends_last(mission: dict[str, Any]) -> None:
    assert mission["launch_date"].year <= mission["arrival_year"] <= mission.get("end_year", 9999)
    assert mission["target"] in {planet["name"] for planet in FACTS["planets"]}


# --- command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quiet", [True, False])
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    asked: list[Path] = []

    def make(folder: Path) -> list[Path]:
        asked.append(folder)
        (folder / "made.pdf").touch()
        return [folder / "made.pdf"]

    monkeypatch.setattr(make_library, "make_library", make)
    monkeypatch.setattr("sys.argv", ["make_library", str(tmp_path), *(["--quiet"] if quiet else [])])
    make_library.main()
    assert asked == [tmp_path]
    assert ("made.pdf" in capsys.readouterr().out) is not quiet
