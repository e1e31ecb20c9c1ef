"""Names: how many of those in public sets are found in text, and what it costs to find known ones in questions.

Found in text: F1 over whole names (span and type) on wikigold and wnut17's dev set, beside the same spaCy pipeline as
it comes. Types are mapped as `OURS` and `GOLD` say; names of other types are left out on both sides. A sentence is a
text, its tokens with a space between them. Known names in questions: made-up names of one to three words, questions
that hold two of them, through the entities role in batches of 64; memory is that of a process of its own, at its height
and at rest. `pyahocorasick` is measured beside it where it is installed; it is no requirement.

    python -m benchmarks.entities --out entities.json
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import psutil
from rich.console import Console
from rich.table import Table

from actors.database import Database
from actors.deadline import Deadline
from actors.entities import Entities
from actors.messages import Change, EntityName, Source
from actors.reading.mentions import find_mentions
from benchmarks import cranfield
from config.settings import load

OURS = {"PERSON": "PER", "GPE": "LOC", "LOC": "LOC", "FAC": "LOC", "ORG": "ORG"}
"""Types of OntoNotes, on which the pipeline was trained. NORP, PRODUCT, EVENT, WORK_OF_ART, LAW have no counterpart."""

GOLD = {
    # wikigold; MISC is left out
    "PER": "PER",
    "LOC": "LOC",
    "ORG": "ORG",
    # wnut17; creative-work and product are left out
    "person": "PER",
    "location": "LOC",
    "corporation": "ORG",
    "group": "ORG",
}
SETS = {"wikigold": "wikigold/wikigold.conll", "wnut17 dev": "wnut17/dev.conll"}
BATCH = 64
QUESTIONS = 20_000
SYLLABLES = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
MB = 1e6

SETTINGS = load(environ={}).entities
console = Console(width=120)

Name = tuple[int, int, str]
"""Start, end and mapped type."""


def main() -> None:
    """Run it, print tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, nargs="*", default=[100_000, 1_000_000], help="how many are known")
    parser.add_argument("--linker", choices=["words", "letters"], help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    if given.linker:
        print(json.dumps(_linking(given.linker, given.names[0])))
        return
    figures: dict[str, Any] = {"found": {}, "linked": []}
    source = cranfield.folder()
    if source is None:
        console.print("Names in text are skipped: the sets are not there. Say where with GATHERUM_DATA.")
    else:
        for name, place in SETS.items():
            figures["found"][name] = _finding(source.parents[1] / "ner" / place)
        console.print(_found_table(figures["found"]))
    for count in given.names:
        for linker in ("words", *(["letters"] if find_spec("ahocorasick") else [])):
            # A process each: what one has freed would count as the next one's.
            command = [sys.executable, "-m", "benchmarks.entities", "--linker", linker, "--names", str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures["linked"].append(json.loads(done.stdout.splitlines()[-1]))
    console.print(_linked_table(figures["linked"]))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


# --- names in text --------------------------------------------------------------------------------------------------


def _finding(path: Path) -> dict[str, Any]:
    """Precision, recall and F1 of ours and of the bare pipeline."""
    import spacy

    texts, gold = zip(*_sentences(path), strict=True)
    began = time.process_time()
    ours = [
        {(one.start, one.end, OURS[one.label]) for one in mentions if one.label in OURS}
        for mentions in find_mentions(texts, SETTINGS.model)
    ]
    took = time.process_time() - began
    nlp = spacy.load(SETTINGS.model)
    began = time.process_time()
    bare = [
        {(one.start_char, one.end_char, OURS[one.label_]) for one in parsed.ents if one.label_ in OURS}
        for parsed in nlp.pipe(texts)
    ]
    bare_took = time.process_time() - began
    words = sum(len(text.split()) for text in texts)
    return {
        "sentences": len(texts),
        "names": sum(map(len, gold)),
        "ours": _agreement(ours, gold) | {"words_per_s": round(words / took)},
        "spaCy": _agreement(bare, gold) | {"words_per_s": round(words / bare_took)},
    }


def _sentences(path: Path) -> Iterator[tuple[str, set[Name]]]:
    """Each sentence with its names of mapped types."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        rows = [line.split("\t") for line in block.splitlines() if line.strip()]
        if not rows:
            continue
        text, names = "", set[Name]()
        start, kind = 0, ""
        for token, tag in [*((row[0], row[-1]) for row in rows), ("", "O")]:
            at = len(text) + bool(text)
            if kind and not tag.startswith("I-"):
                names.add((start, len(text), kind))
                kind = ""
            if tag.startswith("B-"):
                start, kind = at, GOLD.get(tag[2:], "")
            text = f"{text} {token}" if text and token else text or token
        yield text, names


def _agreement(found: Sequence[set[Name]], gold: Sequence[set[Name]]) -> dict[str, Any]:
    def measures(pairs: list[tuple[set[Name], set[Name]]]) -> tuple[float, float, float]:
        right = sum(len(one & other) for one, other in pairs)
        precision = right / max(1, sum(len(one) for one, _ in pairs))
        recall = right / max(1, sum(len(other) for _, other in pairs))
        return precision, recall, 2 * precision * recall / max(1e-9, precision + recall)

    pairs = list(zip(found, gold, strict=True))
    precision, recall, f1 = measures(pairs)
    by_type = {
        kind: round(
            measures([({n for n in a if n[2] == kind}, {n for n in b if n[2] == kind}) for a, b in pairs])[2], 3
        )
        for kind in ("PER", "LOC", "ORG")
    }
    return {"precision": round(precision, 3), "recall": round(recall, 3), "f1": round(f1, 3), **by_type}


# --- known names in questions ---------------------------------------------------------------------------------------


def _linking(linker: str, count: int) -> dict[str, Any]:
    """In a process of its own."""
    names = _made_up(count)
    questions = _questions(names)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    began = time.perf_counter()
    if linker == "words":
        rate, built = asyncio.run(_through_the_role(names, questions, began))
    else:
        rate, built = _through_an_automaton(names, questions, began)
    gc.collect()
    return {
        "linker": linker,
        "names": count,
        "built_s": round(built, 2),
        "questions_per_s": round(rate),
        "mb": round((process.memory_info().rss - before) / MB),
        "peak_mb": round((_peak() - before) / MB),
    }


async def _through_the_role(names: Sequence[EntityName], questions: Sequence[str], began: float) -> tuple[float, float]:
    role = Entities(SETTINGS, cast("Database", _Names(names)))
    await role.start()
    deadline = Deadline.after(3600)
    await role.caught_up(0, deadline=deadline)
    built = time.perf_counter() - began
    linked, started = 0, time.perf_counter()
    for start in range(0, len(questions), BATCH):
        found = await role.link_many(list(questions[start : start + BATCH]), deadline=deadline)
        linked += sum(len(entities) >= 2 for entities in found)
    rate = len(questions) / (time.perf_counter() - started)
    # A few of the made-up names are function words.
    if linked < 0.999 * len(questions):
        raise RuntimeError(f"Only {linked} of {len(questions)} questions were linked to their names.")
    _KEPT.append(role)
    return rate, built


def _through_an_automaton(names: Sequence[EntityName], questions: Sequence[str], began: float) -> tuple[float, float]:
    """The automaton alone: without word boundaries, choice of the longest, and links."""
    ahocorasick = import_module("ahocorasick")

    automaton = ahocorasick.Automaton(ahocorasick.STORE_INTS)
    for name in names:
        automaton.add_word(name.name.lower(), name.entity_id)
    automaton.make_automaton()
    built = time.perf_counter() - began
    started = time.perf_counter()
    for question in questions:
        list(automaton.iter(question.lower()))
    _KEPT.append(automaton)
    return len(questions) / (time.perf_counter() - started), built


_KEPT: list[Any] = []
"""What is measured must not be freed before it has been."""


class _Names:
    """What the role follows of the store, where nothing happens.

    A page of names is made anew each time, as a call to another process does: the role owns what it keeps.
    """

    def __init__(self, names: Sequence[EntityName]) -> None:
        self._names = names

    async def last_change(self, *, deadline: Deadline) -> int:
        return 0

    async def changes(self, after: int, wait_s: float, limit: int, *, deadline: Deadline) -> list[Change]:
        await asyncio.sleep(wait_s)
        return []

    async def entity_names(self, after: int, limit: int, *, deadline: Deadline) -> list[EntityName]:
        page = self._names[after : after + limit]
        return [EntityName(one.entity_id, "".join([*one.name]), one.label) for one in page]

    async def sources(self, *, deadline: Deadline) -> list[Source]:
        return []


def _made_up(count: int) -> list[EntityName]:
    chance = random.Random(1)
    words = ["".join(chance.choices(SYLLABLES, k=chance.randint(2, 4))).capitalize() for _ in range(60_000)]
    names: dict[str, None] = {}
    while len(names) < count:
        names[" ".join(chance.choices(words, k=chance.choice((1, 2, 2, 2, 3, 3))))] = None
    labels = ("PERSON", "ORG", "GPE")
    return [EntityName(number, name, labels[number % 3]) for number, name in enumerate(names, 1)]


def _questions(names: Sequence[EntityName]) -> list[str]:
    chance = random.Random(2)
    form = "Which mission of {} landed on the moon of {}, and when did it arrive?"
    return [form.format(chance.choice(names).name, chance.choice(names).name) for _ in range(QUESTIONS)]


def _peak() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return psutil.Process().memory_info().rss


# --- tables ---------------------------------------------------------------------------------------------------------


def _found_table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title="Names found in text")
    for title in ("", "names", "precision", "recall", "F1", "PER", "LOC", "ORG", "words/s, CPU"):
        table.add_column(title, justify="right" if title else "left")
    for name, figures in found.items():
        for who in ("ours", "spaCy"):
            row = figures[who]
            table.add_row(f"{name}, {who}", str(figures["names"]), *(str(value) for value in row.values()))
    return table


def _linked_table(linked: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Known names in questions")
    for title in ("", "names", "built s", "questions/s", "MB", "peak MB"):
        table.add_column(title, justify="right" if title else "left")
    for row in linked:
        what = "link_many, by words" if row["linker"] == "words" else "pyahocorasick alone, by letters"
        figures = (row["built_s"], row["questions_per_s"], row["mb"], row["peak_mb"])
        table.add_row(what, f"{row['names']:,}", *(f"{value:,}" for value in figures))
    return table


if __name__ == "__main__":
    main()
