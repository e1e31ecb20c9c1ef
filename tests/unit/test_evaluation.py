"""`gatherum eval`: through the retrieval role, to figures, a table and a plot."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result
from unit.test_judging import write

from actors.errors import InvalidInput
from actors.search import fast
from serve import evaluation
from serve.cli import app
from serve.plot import quality_against_cost

LONG = "Europa has a sea under its ice. " * 400
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = [
        {"_id": "a", "title": "Titan", "text": "Titan orbits Saturn."},
        {"_id": "b", "title": "", "text": "Io orbits Jupiter."},
        {"_id": "c", "title": "Mimas", "text": ""},
        {"_id": "d", "title": "", "text": ""},
        {"_id": "e", "title": "Europa", "text": LONG},
    ]
    queries = [
        {"_id": "1", "text": "Which moon orbits Saturn?"},
        {"_id": "2", "text": "Mimas"},
        {"_id": "3", "text": "sea ice"},
        {"_id": "4", "text": "the"},
    ]
    return write(tmp_path, "1\ta\t2\n2\tc\t1\n3\te\t1\n3\tgone\t1\n4\tb\t1\n", corpus=corpus, queries=queries)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "TIMED_S", 1e-3)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *arguments])


def test_a_collection_is_judged_document_by_document(folder: Path, tmp_path: Path) -> None:
    result = run(str(folder), "--mode", "lexical", "--json", "--plot", str(tmp_path / "plot.svg"))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["documents"], found["queries"], found["judged_but_missing"]) == (5, 4, 1)
    assert found["chunks"] > 10
    [mode] = found["modes"]
    assert mode["mode"] == "lexical"
    # Three of four find theirs first, and one of these has a second that nothing can find.
    assert mode["mrr"] == pytest.approx(3 / 4)
    assert mode["recall_at_100"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert mode["queries_per_s"] > 0
    assert mode["cpu_s_per_1000"] >= 0
    assert ET.parse(tmp_path / "plot.svg").getroot().tag == f"{SVG}svg"  # noqa: S314 - written by ourselves


def test_documents_that_share_no_word_with_a_query_are_found_by_their_vectors(folder: Path) -> None:
    with (folder / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "5", "text": "frozen ocean"}) + "\n")
    (folder / "qrels.tsv").write_text("5\te\t1\n")
    result = run(str(folder), "--mode", "lexical", "--mode", "hybrid-exact", "--json")
    assert result.exit_code == 0, result.output
    assert [mode["mrr"] for mode in json.loads(result.stdout)["modes"]] == [0.0, 1.0]


def test_queries_are_encoded_by_what_was_fitted_to_the_documents(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The vectors of single pieces take half a minute; of most of them this test asks nothing.
    monkeypatch.setattr(fast, "prior", lambda encoder, pieces: np.eye(len(pieces), encoder.dimension, dtype=np.float32))
    result = run(str(folder), "--mode", "dense-fast", "--json")
    assert result.exit_code == 0, result.output
    [mode] = json.loads(result.stdout)["modes"]
    assert mode["mrr"] > 0


def test_without_an_encoder_only_words_can_be_judged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATHERUM_ENCODER__KIND", "none")
    assert run(str(folder), "--mode", "lexical").exit_code == 0
    result = run(str(folder))
    assert result.exit_code == 1
    assert "--mode lexical" in result.stderr


def test_the_table_says_what_was_judged_and_what_is_missing(folder: Path) -> None:
    result = run(str(folder), "--mode", "lexical")
    assert result.exit_code == 0, result.output
    for words in ("nDCG@10", "lexical", "0.7500", "5 documents", "1 relevant documents are not in the corpus"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nowhere",), 1, "There is no folder nowhere."),
        ((".", "--mode", "psychic"), 1, "There is no mode 'psychic'; there are lexical"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], code: int, words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


def test_a_plot_that_cannot_be_written_is_said_so(folder: Path) -> None:
    result = run(str(folder), "--mode", "lexical", "--plot", str(folder / "no" / "plot.svg"))
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_modes_are_known_by_name() -> None:
    assert evaluation.modes(()) == evaluation.MODES
    assert [mode.name for mode in evaluation.modes(["lexical"])] == ["lexical"]
    with pytest.raises(InvalidInput):
        evaluation.modes(["dense"])


def modes(*points: tuple[float, float]) -> dict[str, Any]:
    return {
        "folder": "<sets> & such",
        "documents": 5183,
        "queries": 809,
        "modes": [
            {"mode": f"mode {number}", "cpu_s_per_1000": cost, "ndcg_at_10": quality}
            for number, (cost, quality) in enumerate(points)
        ],
    }


@pytest.mark.parametrize(
    "points",
    [[(0.25, 0.38), (9.1, 0.41), (0.4, 0.405)], [(1.0, 0.0)], [(0.0, 1.0)], [(1000.0, 0.5), (0.001, 0.5)]],
)
def test_a_plot_shows_every_mode_within_its_frame(points: list[tuple[float, float]]) -> None:
    root = ET.fromstring(quality_against_cost(modes(*points)))  # noqa: S314 - written by ourselves
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < width
        assert 0 < float(circle.attrib["cy"]) < height
    title, desc = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert desc is not None
    assert "<sets> & such: 5,183 documents" in (title.text or "")
    assert all(f"mode {number}" in (desc.text or "") for number in range(len(points)))


def test_what_is_better_is_higher_and_what_costs_more_is_to_the_right() -> None:
    root = ET.fromstring(quality_against_cost(modes((0.2, 0.3), (8.0, 0.4))))  # noqa: S314 - written by ourselves
    cheap, dear = root.findall(f"{SVG}circle")
    assert float(cheap.attrib["cx"]) < float(dear.attrib["cx"])
    assert float(cheap.attrib["cy"]) > float(dear.attrib["cy"])
