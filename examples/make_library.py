"""Make the example library: five PDFs about the solar system, one of them scanned, and an SQLite database.

    python -m examples.make_library [FOLDER]

Everything is made from `facts.toml`, offline, and comes out the same each time. The library is small but not tame: one
document is nothing but noisy pictures of pages, one has sixty pages, fonts have ligatures, and names such as Galileo
and Titan mean more than one thing.
"""

from __future__ import annotations

import argparse
import datetime
import html
import io
import random
import sqlite3
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageChops, ImageFilter, ImageOps

from actors.reading.mupdf import pymupdf

FACTS: Final = Path(__file__).with_name("facts.toml")
LIBRARY: Final = Path(__file__).with_name("library")
DATABASE: Final = "solar_system.db"
GAZETTEER: Final = "gazetteer.pdf"

QUESTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    # From the text of missions.pdf.
    "Which moon did Huygens land on?": ("Titan",),
    # Only the scanned document knows, so it takes OCR.
    "Which aircraft carrier recovered the crew of Apollo 11?": ("Hornet",),
    # A row of the table `moons`: the documents give diameters only.
    "What is the radius of Titan?": ("2574.7",),
}
"""Questions that the library answers, each with words that its answer holds."""

PAPER: Final = pymupdf.paper_rect("a4")
BODY: Final = pymupdf.Rect(68, 64, PAPER.x1 - 68, PAPER.y1 - 72)
INK: Final = (0.10, 0.20, 0.32)
GREY: Final = (0.45, 0.48, 0.52)
STYLE: Final = """
    body { margin: 0; font-family: serif; font-size: 11pt; line-height: 1.45; color: #1c1c1c; }
    h1 { font-family: sans-serif; font-size: 28pt; color: #1a3352; margin: 0 0 2pt 0; line-height: 1.1; }
    h2 { font-family: sans-serif; font-size: 14pt; color: #1a3352; margin: 16pt 0 3pt 0; }
    p { margin: 0 0 7pt 0; text-align: justify; }
    p.subtitle { font-family: sans-serif; font-size: 12pt; color: #73797f; margin: 0 0 18pt 0; text-align: left; }
    td { font-family: sans-serif; font-size: 9.5pt; padding: 3pt 14pt 3pt 0; border-bottom: 0.5pt solid #c9ced4; }
    td.what { color: #73797f; }
    table { margin: 4pt 0 14pt 0; border-collapse: collapse; }
    td.page { text-align: right; padding-right: 40pt; }
"""
TYPEWRITER: Final = """
    body { margin: 0; font-family: monospace; font-size: 11.5pt; line-height: 1.6; }
    h1 { font-size: 13pt; text-align: center; margin: 0 0 30pt 0; }
    h2 { font-size: 11.5pt; margin: 0 0 14pt 0; }
    p { margin: 0 0 14pt 0; }
"""

# Planets of the title figure and their colours.
FIGURE: Final[Mapping[str, tuple[float, float, float]]] = {
    "Mercury": (0.60, 0.57, 0.53),
    "Venus": (0.87, 0.75, 0.50),
    "Earth": (0.25, 0.47, 0.70),
    "Mars": (0.76, 0.39, 0.24),
    "Jupiter": (0.80, 0.66, 0.51),
    "Saturn": (0.88, 0.79, 0.58),
    "Uranus": (0.60, 0.82, 0.85),
    "Neptune": (0.27, 0.42, 0.78),
}

FIGURE_HEIGHT: Final = 64.0
"""Points."""

SCAN_DPI: Final = 220
SCAN_TILTS: Final = (0.35, -0.25, 0.2)
"""Degrees by which the sheets lay askew on the glass."""


def make_library(folder: Path) -> list[Path]:
    """Write the library.

    Args:
        folder: created if need be; files of earlier runs are replaced.

    Returns:
        The files written: the PDFs, then the database.
    """
    facts = tomllib.loads(FACTS.read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    sources: Mapping[str, str] = facts["sources"]
    made = {document["file"]: _essay(document, facts) for document in facts["documents"]}
    made[GAZETTEER] = _gazetteer(facts)
    made[facts["scan"]["file"]] = _scan(facts["scan"], sources)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    _write_database(folder / DATABASE, facts)
    return [folder / name for name in (*made, DATABASE)]


# --- documents -------------------------------------------------------------------------------------------------------


def _essay(document: Mapping[str, Any], facts: Mapping[str, Any]) -> bytes:
    """A document of headed sections that run on from page to page."""
    head = f"<h1>{_text(document['title'])}</h1><p class='subtitle'>{_text(document['subtitle'])}</p>"
    if document.get("figure"):
        # Room for the drawing, which is put in afterwards.
        head += f"<p style='margin-top: {FIGURE_HEIGHT + 12}pt'></p>"
    sections = [f"<h2>{_text(part['heading'])}</h2>{_paragraphs(part['text'])}" for part in document["sections"]]
    pdf = _typeset([head, *sections], STYLE, run_on=True)
    if document.get("figure"):
        radii = {planet["name"]: planet["mean_radius_km"] for planet in facts["planets"]}
        _draw_planets(pdf[0], radii, top=BODY.y0 + 62)
    _put_foot(pdf, document["title"], [facts["sources"][key] for key in document["sources"]])
    return _saved(pdf, document["title"], document["subtitle"])


def _gazetteer(facts: Mapping[str, Any]) -> bytes:
    """A page for each body and mission, sixty with the list of contents."""
    title = "Gazetteer of the Solar System"
    entries = [(planet["name"], _planet_page(planet)) for planet in facts["planets"]]
    entries += [(moon["name"], _moon_page(moon)) for moon in facts["moons"]]
    entries += [(mission["name"], _mission_page(mission)) for mission in facts["missions"]]
    numbered = [f"<td>{_text(name)}</td><td class='page'>{page}</td>" for page, (name, _) in enumerate(entries, 2)]
    # Three columns of names with their pages, read downwards.
    height = -(-len(numbered) // 3)
    rows = ("".join(numbered[row::height]) for row in range(height))
    contents = (
        f"<h1>{title}</h1><p class='subtitle'>Planets, moons and missions, a page each</p>"
        f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
    )
    small = STYLE + "td { padding: 1.5pt 12pt 1.5pt 0; }"
    pdf = _typeset([contents], small)
    pdf.insert_pdf(_typeset([page for _, page in entries], STYLE))
    _put_foot(pdf, title, [facts["sources"][key] for key in ("planets", "satellites", "missions")])
    pdf.set_toc([[1, name, page] for page, (name, _) in enumerate(entries, 2)])
    return _saved(pdf, title, "Planets, moons and missions, a page each")


def _planet_page(planet: Mapping[str, Any]) -> str:
    name, turn = planet["name"], planet["rotation_hours"]
    about = (
        f"{name} is a {planet['kind']}. It goes round the Sun in {_number(planet['orbital_period_days'])} days, at "
        f"a mean distance of {_number(planet['distance_million_km'])} million kilometres. It turns "
        f"{'backwards ' if turn < 0 else ''}on its axis once in {_number(abs(turn))} hours."
    )
    table = {
        "Mean diameter": f"{_number(round(2 * planet['mean_radius_km']))} km",
        "Mass": f"{planet['mass_e24_kg']:g} \N{MULTIPLICATION SIGN} 10²⁴ kg",
        "Mean density": f"{_number(planet['density_kg_m3'])} kg/m³",
        "Gravity": f"{planet['gravity_m_s2']:.1f} m/s²",
        "Escape velocity": f"{planet['escape_velocity_km_s']:.1f} km/s",
        "Mean temperature": f"{planet['mean_temperature_c']} °C".replace("-", "\N{MINUS SIGN}"),
    }
    return _entry(name, planet["kind"].capitalize(), table, about, planet["note"])


def _moon_page(moon: Mapping[str, Any]) -> str:
    name, planet = moon["name"], moon["planet"]
    called = "The Moon" if name == "Moon" else name
    diameter, period = _number(round(2 * moon["mean_radius_km"], 1)), _number(moon["period_days"])
    about = (
        f"{called} is {'the' if name == 'Moon' else 'a'} moon of {planet}. Its mean diameter is {diameter} kilometres. "
        f"It goes round {planet} in {period} days, at a mean distance of {_number(moon['orbit_km'])} kilometres."
    )
    table = {
        "Mean diameter": f"{diameter} km",
        "Distance": f"{_number(moon['orbit_km'])} km",
        "Period": f"{period} days",
    }
    if "discoverer" in moon:
        about += f" {name} was discovered by {moon['discoverer']} in {moon['discovery_year']}."
        table["Discovered"] = f"{moon['discovery_year']}, {moon['discoverer']}"
    return _entry(called, f"Moon of {planet}", table, about, moon["note"])


def _mission_page(mission: Mapping[str, Any]) -> str:
    name, target = mission["name"], mission["target"]
    launched = _day(mission["launch_date"])
    about = (
        f"{name} was launched on {launched} by {mission['operator']}. It reached {target} in {mission['arrival_year']}."
    )
    table = {
        "Operator": mission["operator"],
        "Kind": mission["kind"],
        "Target": target,
        "Launch": launched,
        "Arrival": str(mission["arrival_year"]),
    }
    if "end_year" in mission:
        about += f" The mission ended in {mission['end_year']}."
        table["End"] = str(mission["end_year"])
    return _entry(name, f"Mission to {target}", table, about, mission["note"])


def _entry(name: str, kind: str, table: Mapping[str, str], *paragraphs: str) -> str:
    rows = "".join(f"<tr><td class='what'>{_text(a)}</td><td>{_text(b)}</td></tr>" for a, b in table.items())
    return f"<h1>{_text(name)}</h1><p class='subtitle'>{_text(kind)}</p><table>{rows}</table>" + "".join(
        f"<p>{_text(paragraph)}</p>" for paragraph in paragraphs
    )


def _scan(scan: Mapping[str, Any], sources: Mapping[str, str]) -> bytes:
    """A typewritten report as a scanner sees it: pictures of pages, without a word of text behind them."""
    pages = [f"<h2>{_text(page['heading'])}</h2>{_paragraphs(page['text'])}" for page in scan["pages"]]
    pages[0] = f"<h1>{_text(scan['title'].upper())}</h1>{pages[0]}"
    pages[-1] += f"<p style='margin-top: 40pt'>Source: {_text('; '.join(sources[key] for key in scan['sources']))}.</p>"
    written = _typeset(pages, TYPEWRITER)
    pdf = pymupdf.open()
    for sheet, tilt in zip(written, SCAN_TILTS, strict=True):
        picture = io.BytesIO()
        _scanned(sheet, tilt).save(picture, "JPEG", quality=70, dpi=(SCAN_DPI, SCAN_DPI))
        pdf.new_page(width=PAPER.width, height=PAPER.height).insert_image(PAPER, stream=picture.getvalue())
    return _saved(pdf, scan["title"], "Scanned typescript")


def _scanned(sheet: Any, tilt: float) -> Image.Image:
    """A page on grey paper, a little askew, out of focus and grainy."""
    clean = sheet.get_pixmap(dpi=SCAN_DPI, colorspace=pymupdf.csGRAY)
    image = Image.frombytes("L", (clean.width, clean.height), clean.samples)
    image = image.rotate(tilt, Image.Resampling.BICUBIC, fillcolor=255).filter(ImageFilter.GaussianBlur(0.7))
    # Ink becomes dark grey and paper light grey, so that grain shows on both.
    image = ImageOps.colorize(image, black=(42, 42, 42), white=(236, 236, 236)).convert("L")
    seeded = random.Random(sheet.number)  # noqa: S311 - grain, not a secret
    grain = Image.frombytes("L", image.size, seeded.randbytes(image.width * image.height))
    grain = grain.filter(ImageFilter.GaussianBlur(0.6)).point([value // 3 for value in range(256)])
    return ImageChops.add(image, grain, scale=1.0, offset=-42)


# --- typesetting -----------------------------------------------------------------------------------------------------


def _typeset(parts: Iterable[str], style: str, *, run_on: bool = False) -> Any:
    """A PDF of HTML parts that fit a page each.

    Args:
        parts: the HTML.
        style: CSS.
        run_on: whether a part goes on the page of the one before it if it fits there, else each begins a page.
    """
    out = io.BytesIO()
    writer = pymupdf.DocumentWriter(out)
    device = None
    free = pymupdf.Rect(BODY)
    for part in parts:
        story = pymupdf.Story(part, user_css=style)
        if device is not None:
            cut, filled = story.place(free)
            if cut or not run_on:
                writer.end_page()
                device = None
        if device is None:
            device = writer.begin_page(PAPER)
            free = pymupdf.Rect(BODY)
            story.reset()
            cut, filled = story.place(free)
            if cut:
                raise ValueError("A part is longer than a page.")
        story.draw(device)
        free.y0 = filled[3]
    writer.end_page()
    writer.close()
    return pymupdf.open("pdf", out.getvalue())


def _draw_planets(page: Any, radii: Mapping[str, float], *, top: float) -> None:
    """The planets beside each other, true to scale."""
    scale = FIGURE_HEIGHT / 2 / radii["Jupiter"]
    gap = (BODY.width - sum(2 * scale * radii[name] for name in FIGURE)) / (len(FIGURE) - 1)
    x = BODY.x0
    for name, colour in FIGURE.items():
        radius = scale * radii[name]
        centre = pymupdf.Point(x + radius, top + FIGURE_HEIGHT / 2)
        shape = page.new_shape()
        shape.draw_circle(centre, radius)
        shape.finish(color=None, fill=colour)
        if name == "Saturn":
            wide, high = pymupdf.Point(2.3 * radius, 0), pymupdf.Point(0, 0.5 * radius)
            shape.draw_oval(pymupdf.Rect(centre - wide - high, centre + wide + high))
            shape.finish(color=(0.72, 0.63, 0.45), width=2)
        shape.commit()
        width = pymupdf.get_text_length(name, fontsize=7)
        left = min(max(centre.x - width / 2, BODY.x0), BODY.x1 - width)
        page.insert_text((left, top + FIGURE_HEIGHT + 14), name, fontsize=7, color=GREY)
        x += 2 * radius + gap


def _put_foot(pdf: Any, title: str, sources: Sequence[str]) -> None:
    """A rule at the top; title, sources and number at the foot of each page."""
    for page in pdf:
        page.draw_line((BODY.x0, 44), (BODY.x1, 44), color=INK, width=1.2)
        foot = BODY.y1 + 22
        page.draw_line((BODY.x0, foot), (BODY.x1, foot), color=GREY, width=0.4)
        page.insert_text((BODY.x0, foot + 12), title, fontsize=8, color=INK)
        number = str(page.number + 1)
        page.insert_text(
            (BODY.x1 - pymupdf.get_text_length(number, fontsize=8), foot + 12), number, fontsize=8, color=INK
        )
        for line, source in enumerate(sources):
            page.insert_text((BODY.x0, foot + 22 + 8 * line), f"Source: {source}", fontsize=6.5, color=GREY)


def _saved(pdf: Any, title: str, subject: str) -> bytes:
    """The finished file, without anything that differs from run to run."""
    pdf.set_metadata({"title": title, "subject": subject, "author": "Gatherum examples", "creator": "make_library.py"})
    data: bytes = pdf.tobytes(garbage=4, deflate=True, use_objstms=1, no_new_id=True)
    pdf.close()
    return data


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.strip().split("\n\n"))


def _text(text: str) -> str:
    return html.escape(text)


def _number(value: float) -> str:
    """A figure with thousands separated, as people read it."""
    return f"{value:,}".removesuffix(".0")


def _day(date: datetime.date) -> str:
    return f"{date.day} {date:%B} {date.year}"


# --- database --------------------------------------------------------------------------------------------------------

SCHEMA: Final = """
CREATE TABLE planets (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    mean_radius_km REAL NOT NULL,
    mass_e24_kg REAL NOT NULL,
    density_kg_m3 REAL NOT NULL,
    gravity_m_s2 REAL NOT NULL,
    escape_velocity_km_s REAL NOT NULL,
    rotation_hours REAL NOT NULL,
    distance_million_km REAL NOT NULL,
    orbital_period_days REAL NOT NULL,
    mean_temperature_c REAL NOT NULL,
    source TEXT NOT NULL
);
CREATE TABLE moons (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    planet_id INTEGER NOT NULL REFERENCES planets (id),
    mean_radius_km REAL NOT NULL,
    orbit_km REAL NOT NULL,
    period_days REAL NOT NULL,
    discovery_year INTEGER,
    discoverer TEXT,
    source TEXT NOT NULL
);
CREATE TABLE missions (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    operator TEXT NOT NULL,
    kind TEXT NOT NULL,
    target_id INTEGER NOT NULL REFERENCES planets (id),
    launch_date TEXT NOT NULL,
    arrival_year INTEGER NOT NULL,
    end_year INTEGER,
    source TEXT NOT NULL
);
CREATE INDEX moons_planet ON moons (planet_id);
CREATE INDEX missions_target ON missions (target_id);
"""


def _write_database(path: Path, facts: Mapping[str, Any]) -> None:
    """The same figures as tables: planets, and the moons and missions that refer to them."""
    sources = facts["sources"]
    planet_ids = {planet["name"]: number for number, planet in enumerate(facts["planets"], 1)}
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    try:
        connection.executescript(SCHEMA)
        for planet in facts["planets"]:
            _insert(connection, "planets", planet | {"source": sources["planets"]})
        for moon in facts["moons"]:
            owner = planet_ids[moon["planet"]]
            _insert(connection, "moons", moon | {"planet_id": owner, "source": sources["satellites"]})
        for mission in facts["missions"]:
            target = planet_ids[mission["target"]]
            launched = mission["launch_date"].isoformat()
            row = mission | {"target_id": target, "launch_date": launched, "source": sources["missions"]}
            _insert(connection, "missions", row)
        connection.commit()
    finally:
        connection.close()


def _insert(connection: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> None:
    columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})") if name in values]
    connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)})",  # noqa: S608
        values,
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the example library: five PDFs and an SQLite database.")
    parser.add_argument("folder", nargs="?", type=Path, default=LIBRARY, help="where to (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="do not list the files")
    arguments = parser.parse_args()
    files = make_library(arguments.folder)
    if not arguments.quiet:
        for path in files:
            print(f"{path}  {path.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
