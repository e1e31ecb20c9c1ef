"""Answers: how often the quoted sentences hold the one that answers, and how often noise is quoted instead of nothing.

Two hundred questions are made by rule, each from a sentence that answers it: from the facts of the example library, and
from statements in the PDFs of public test suites, turned round (`X was removed because Y`: `Why was X removed?`). The
documents are read, indexed and searched as in a running system, in this process. Beside them are asked questions that
the documents cannot answer: those of Cranfield, about aerodynamics, and some of the library's own kind about bodies
that do not exist.

    python -m benchmarks.answers --out answers.json
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from actors.messages import EntityName, Passage, PublishedDocument, Query, Sentence
from actors.reading.chunking import sentences
from actors.reading.ranges import Range
from actors.reading.tasks import Setup, inspect_file, read_range, survey_file
from actors.search.answer import choose
from actors.search.names import normal
from actors.search.phrases import Phrases
from actors.search.shelf import Shelf
from benchmarks import cranfield
from config.settings import load
from examples.make_library import FACTS, make_library

QUESTIONS = 200
FROM_PDFS = 60
UNANSWERABLE = 100
PASSAGES = 5
PAGES = 40
"""Most pages of a PDF that are read."""

SETTINGS = load(environ={})
console = Console(width=120)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the sentence that answers it, and what of that must not be missing; both empty where none does."""

    kind: str
    question: str
    answer: str = ""
    fact: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was answered.

    Attributes:
        place: of the known sentence among those quoted, from 1; 0 where it is not.
        fact: whether the fact stands in any of them.
        found: whether a passage that was found holds the sentence.
        quoted: the sentences.
        ms: time to search, link and choose.
    """

    asked: Asked
    place: int
    fact: bool
    found: bool
    quoted: tuple[str, ...]
    ms: float


class Library:
    """Documents, read and indexed, with the names in them."""

    def __init__(self) -> None:
        retrieval = SETTINGS.retrieval
        self._shelf = Shelf(writer_memory_mb=retrieval.writer_memory_mb, max_query_terms=retrieval.max_query_terms)
        self._phrases = Phrases(min_chars=SETTINGS.entities.min_name_chars)
        self._names: dict[tuple[str, str], int] = {}
        self.texts: list[str] = []

    def add(self, path: Path) -> None:
        """Read a PDF as ingestion does, without its pages in processes of their own."""
        setup = Setup(SETTINGS.pdf, SETTINGS.entities.model, SETTINGS.logs, {}, survey=None)
        info = inspect_file(str(path), setup)
        setup = Setup(SETTINGS.pdf, SETTINGS.entities.model, SETTINGS.logs, {}, survey=survey_file(str(path), setup))
        pages = tuple(range(1, min(info.pages, PAGES * 2) + 1))
        report, readings = read_range(str(path), Range(pages), setup)
        if report.scanned:
            numbers, whys = zip(*report.scanned, strict=True)
            readings += read_range(str(path), Range(numbers, whys), setup)[1]
        ordered = sorted(readings, key=lambda reading: reading.page.number)
        chunks = tuple(chunk for reading in ordered for chunk in reading.chunks)
        self._shelf.put(PublishedDocument(path.stem, info.title or path.stem, "default", chunks))
        for reading in ordered:
            self.texts.append(reading.page.text)
            for mention in reading.mentions:
                key = (normal(mention.text, mention.label), mention.label)
                if key not in self._names:
                    self._names[key] = len(self._names) + 1
                    self._phrases.add(EntityName(self._names[key], mention.text, mention.label))

    def commit(self) -> None:
        """Make what was added be found."""
        self._shelf.commit()

    def ask(self, question: str) -> tuple[list[Passage], tuple[Sentence, ...]]:
        """The passages found for a question, and the sentences quoted."""
        passages = self._shelf.search(Query(question, limit=PASSAGES))
        names = self._phrases.find(question)
        return passages, choose(question, passages, (), names, limit=SETTINGS.orchestrator.sentences)


def main() -> None:
    """Run it, print tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=5, help="of the choice of questions")
    parser.add_argument("--misses", action="store_true", help="print what was quoted where the answer was missed")
    parser.add_argument("--out", type=Path, help="write questions, answers and figures here, as JSON")
    given = parser.parse_args()
    source = cranfield.folder()
    library = Library()
    with tempfile.TemporaryDirectory(prefix="gatherum-bench-") as scratch:
        for path in make_library(Path(scratch)):
            if path.suffix == ".pdf":
                library.add(path)
    own = len(library.texts)
    asked = list(_library_questions())
    if source is None:
        console.print("Without the PDFs of other people: they are not there. Say where with GATHERUM_DATA.")
    else:
        for path in sorted((source.parents[1] / "pdf").rglob("*.pdf")):
            _add(library, path)
        turned = _distinct(_turned_round(library.texts[own:]))
        asked = _sample(asked, QUESTIONS - min(FROM_PDFS, len(turned)), given.seed) + _sample(
            turned, FROM_PDFS, given.seed
        )
        asked += [Asked("foreign", text) for text in cranfield.questions(source, UNANSWERABLE)]
    asked += _made_up()
    library.commit()
    outcomes = [_outcome(library, one) for one in asked]
    figures = {kind: _figures([one for one in outcomes if one.asked.kind == kind]) for kind in _kinds(outcomes)}
    answerable = [one for one in outcomes if one.asked.answer]
    figures["all that have an answer"] = _figures(answerable)
    console.print(_table(figures))
    if given.misses:
        for one in answerable:
            if not one.place:
                console.print(f"[bold]{one.asked.question}[/] ({one.asked.answer})", one.found, *one.quoted, sep="\n  ")
    if given.out:
        values = [
            {"kind": one.asked.kind, "question": one.asked.question, "answer": one.asked.answer, "quoted": one.quoted}
            for one in outcomes
        ]
        given.out.write_text(json.dumps({"figures": figures, "answers": values}, indent=2) + "\n", encoding="utf-8")


def _add(library: Library, path: Path) -> None:
    try:
        setup = Setup(SETTINGS.pdf, None, SETTINGS.logs, {})
        info = inspect_file(str(path), setup)
        report, _ = read_range(str(path), Range((1,)), setup)
    except Exception:  # noqa: BLE001 - files made to be refused are among them
        return
    # Scans are left out: recognising them takes minutes, and is measured elsewhere.
    if info.pages <= PAGES and not report.scanned:
        library.add(path)


def _outcome(library: Library, asked: Asked) -> Outcome:
    began = time.perf_counter()
    passages, chosen = library.ask(asked.question)
    took = 1000 * (time.perf_counter() - began)
    quoted = tuple(_plain(sentence.text) for sentence in chosen)
    wanted = _plain(asked.answer)
    places = [place for place, text in enumerate(quoted, 1) if wanted and wanted in text]
    return Outcome(
        asked,
        places[0] if places else 0,
        bool(asked.fact) and any(asked.fact in text for text in quoted),
        bool(wanted) and any(wanted in _plain(passage.text) for passage in passages),
        quoted,
        took,
    )


# --- questions ------------------------------------------------------------------------------------------------------


def _library_questions() -> Iterator[Asked]:
    """From the facts that the gazetteer tells in sentences."""
    facts = tomllib.loads(FACTS.read_text(encoding="utf-8"))
    for planet in facts["planets"]:
        name, turn = planet["name"], planet["rotation_hours"]
        period, far = _number(planet["orbital_period_days"]), _number(planet["distance_million_km"])
        orbit = f"It goes round the Sun in {period} days, at a mean distance of {far} million kilometres."
        yield Asked("library", f"How long does {name} take to go round the Sun?", orbit, f"{period} days")
        yield Asked("library", f"How far is {name} from the Sun?", orbit, f"{far} million")
        hours = _number(abs(turn))
        turns = f"It turns {'backwards ' if turn < 0 else ''}on its axis once in {hours} hours."
        yield Asked("library", f"How long does it take {name} to turn on its axis?", turns, f"{hours} hours")
        yield Asked("library", f"What kind of planet is {name}?", f"{name} is a {planet['kind']}.", planet["kind"])
    for moon in facts["moons"]:
        name, planet = moon["name"], moon["planet"]
        size, period = _number(round(2 * moon["mean_radius_km"], 1)), _number(moon["period_days"])
        far = _number(moon["orbit_km"])
        orbit = f"It goes round {planet} in {period} days, at a mean distance of {far} kilometres."
        is_moon = f"{'The Moon' if name == 'Moon' else name} is {'the' if name == 'Moon' else 'a'} moon of {planet}."
        yield Asked(
            "library", f"What is the mean diameter of {name}?", f"Its mean diameter is {size} kilometres.", size
        )
        yield Asked("library", f"In how many days does {name} go round {planet}?", orbit, f"{period} days")
        yield Asked("library", f"How far is {name} from {planet}?", orbit, f"{far} kilometres")
        yield Asked("library", f"Of which planet is {name} a moon?", is_moon, planet)
        if "discoverer" in moon:
            who, year = moon["discoverer"], str(moon["discovery_year"])
            found = f"{name} was discovered by {who} in {year}."
            yield Asked("library", f"Who discovered {name}?", found, who)
            yield Asked("library", f"When was {name} discovered?", found, year)
    for mission in facts["missions"]:
        name, target, year = mission["name"], mission["target"], str(mission["arrival_year"])
        launched = f"{name} was launched on {_day(mission['launch_date'])} by {mission['operator']}."
        yield Asked("library", f"When was {name} launched?", launched, _day(mission["launch_date"]))
        yield Asked("library", f"Who launched {name}?", launched, mission["operator"])
        yield Asked("library", f"When did {name} reach {target}?", f"It reached {target} in {year}.", year)


def _made_up() -> Iterator[Asked]:
    """Questions of the same kind about what is in no document."""
    for name in ("Vulcan", "Nemesis", "Theia", "Phaeton", "Antichthon", "Krypton", "Arrakis", "Tatooine", "Solaris"):
        for form in (
            "How long does {} take to go round the Sun?",
            "What is the mean diameter of {}?",
            "Who discovered {}?",
            "When was {} discovered?",
            "When was the probe to {} launched?",
            "What is the capital of {}?",
            "How many people live on {}?",
            "Who wrote the novel about {}?",
        ):
            yield Asked("made up", form.format(name))
    for question in (
        "Who won the football world cup in 1998?",
        "What does a loaf of bread cost?",
        "How is cheese made?",
        "Which river flows through Vienna?",
        "Who painted the Mona Lisa?",
        "What is the boiling point of ethanol?",
        "How do I reset my password?",
        "When was the printing press invented?",
        "Which enzyme digests lactose?",
        "What are the rules of chess?",
    ):
        yield Asked("made up", question)


_SUBJECT = r"(?P<subject>(?:The |An? )?[A-Z][\w'()-]*(?: [\w'()-]+){0,9}?|(?:The|An?)(?: [\w'()-]+){1,9}?)"
_PASSIVE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are|was|were) (?P<verb>(?:\w+ly )?\w+ed)(?P<rest>(?: [\w'()-]+){{0,6}}?)"
    r" (?P<link>because|by|when|during|for|in|to) (?P<tail>\S.{8,200})\.$"
)
_IS = re.compile(rf"^{_SUBJECT} (?P<be>is|are|was|were) (?P<tail>(?!\w+ed )\S.{{20,250}})\.$")
_MODAL = re.compile(rf"^{_SUBJECT} (?P<be>can|must|should|shall) (?P<tail>\S.{{20,250}})\.$")
_ASKED_FOR = {"because": "Why", "by": "By what", "when": "When", "during": "When", "for": "For what", "in": "Where"}
_UNNAMED_WORDS = """
    after all although another any anyone anything as at because before both by during each either every everyone few
    for from he here how however i if in it its last many most none no not on one other others our she since some such
    that their there these they this those thus to what when where which while who with you your we
"""
_UNNAMED = frozenset(_UNNAMED_WORDS.split())


def _turned_round(texts: Iterable[str]) -> Iterator[Asked]:
    """Statements of running text as questions; one whose subject is no name of anything cannot be asked about alone."""
    for text in texts:
        for start, end in sentences(text):
            statement = _plain(text[start:end])
            found = _PASSIVE.match(statement) or _IS.match(statement) or _MODAL.match(statement)
            if not found or not statement.isascii():
                continue
            first, *others = found["subject"].split()
            article = first in ("The", "A", "An")
            naming = others if article else [first, *others]
            if (
                first.lower() in _UNNAMED
                or max(map(len, naming), default=0) < 5
                or naming[-1] in ("that", "which", "and")
            ):
                continue
            subject = " ".join([first.lower() if article else first, *others])
            parts = found.groupdict()
            if "link" in parts:
                asked_for = _ASKED_FOR.get(parts["link"], "To what")
                question = f"{asked_for} {parts['be']} {subject} {parts['verb']}{parts['rest']}?"
            elif parts["be"] in ("is", "are", "was", "were"):
                question = f"What {parts['be']} {subject}?"
            else:
                question = f"What {parts['be']} {subject} do?"
            yield Asked("pdf", question, statement, parts["tail"])


# --- figures --------------------------------------------------------------------------------------------------------


def _figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    count = len(outcomes)
    if not count:
        return {"questions": 0}

    def share(holds: Callable[[Outcome], bool]) -> float:
        return round(sum(map(holds, outcomes)) / count, 3)

    has_answer = bool(outcomes[0].asked.answer)
    return {
        "questions": count,
        "sentence": share(lambda one: one.place > 0) if has_answer else None,
        "first": share(lambda one: one.place == 1) if has_answer else None,
        "fact": share(lambda one: one.fact) if has_answer else None,
        "passage": share(lambda one: one.found) if has_answer else None,
        "nothing": share(lambda one: not one.quoted),
        "quoted": round(sum(len(one.quoted) for one in outcomes) / count, 2),
        "ms": round(sorted(one.ms for one in outcomes)[count // 2], 2),
    }


def _table(figures: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="Quoted sentences")
    heads = (
        "",
        "questions",
        "hold the sentence",
        "first",
        "hold the fact",
        "passage found",
        "nothing",
        "sentences",
        "ms",
    )
    for head in heads:
        table.add_column(head, justify="right" if head else "left")
    for kind, row in figures.items():
        table.add_row(kind, *("" if value is None else str(value) for value in row.values()))
    return table


def _kinds(outcomes: Iterable[Outcome]) -> list[str]:
    return list(dict.fromkeys(one.asked.kind for one in outcomes))


def _sample(asked: Sequence[Asked], count: int, seed: int) -> list[Asked]:
    return random.Random(seed).sample(asked, min(count, len(asked)))


def _distinct(asked: Iterable[Asked]) -> list[Asked]:
    """Without questions that several statements answer: which of them is right nobody knows."""
    by_question: dict[str, list[Asked]] = {}
    for one in asked:
        by_question.setdefault(one.question.lower(), []).append(one)
    return [same[0] for same in by_question.values() if len({one.answer for one in same}) == 1]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _number(value: float) -> str:
    """As the library writes it."""
    return f"{value:,}".removesuffix(".0")


def _day(date: Any) -> str:
    return f"{date.day} {date:%B} {date.year}"


if __name__ == "__main__":
    main()
