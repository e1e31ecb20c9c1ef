"""What the command line prints for people: tables, the progress of an ingestion, a question's fan-out as a timeline.

Everything here takes plain JSON values and gives Rich renderables, so that what a person sees and what `--json` prints
come from the same data.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from serve.bulk import Outcome, Report

T = TypeVar("T")

COLOURS = {"ok": "green", "timeout": "yellow", "error": "red", "skipped": "bright_black"}
TIMELINE_WIDTH = 40
"""Columns of the timeline's bars."""


def answer(content: Mapping[str, Any]) -> RenderableType:
    """An answer: its text with numbered citations, the rows, the branches of the fan-out."""
    parts: list[RenderableType] = [Text(), _quoted_text(content), Text()]
    cited = [sentence["citation"] for sentence in content["answer"]["sentences"]]
    if cited:
        parts += [citations(cited), Text()]
    if content["rows"]:
        parts += [rows(content["rows"]), Text()]
    if content["branches"]:
        parts += [timeline(content["branches"], content["elapsed_ms"]), Text()]
    if content["partial"]:
        parts.append(Text("This answer is partial: see the branches that are not ok.", style="yellow"))
    parts += [Text(f"Degraded: {note}", style="yellow") for note in content["degraded"]]
    parts.append(Text(f"{content['elapsed_ms']:.0f} ms · request {content['request_id']}", style="bright_black"))
    return Group(*parts)


def _quoted_text(content: Mapping[str, Any]) -> Text:
    sentences = content["answer"]["sentences"]
    if not sentences:
        return Text(content["answer"]["text"], style="bold")
    text = Text()
    for number, sentence in enumerate(sentences, start=1):
        text.append(" ".join(sentence["text"].split()), style="bold")
        text.append(f" [{number}]", style="cyan")
        text.append("\n" if number < len(sentences) else "")
    return text


def citations(cited: Sequence[Mapping[str, Any]]) -> Table:
    """Where each numbered sentence stands."""
    table = _table("", "Document or row", "Page", "Box (points)")
    for number, citation in enumerate(cited, start=1):
        if citation.get("source"):
            place, page, box = f"{citation['source']}.{citation['table']} {_pairs(citation['key'])}", "", ""
        else:
            place, page, box = citation["title"], str(citation["page"]), "\n".join(map(_box, citation["boxes"]))
        table.add_row(Text(f"[{number}]", style="cyan"), Text(place), Text(page), Text(box))
    return table


def rows(found: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of SQL sources."""
    table = _table("Row", "Columns")
    for row in found:
        name = f"{row['source']}.{row['table']} {_pairs(row['key'])}"
        table.add_row(Text(name), Text(_pairs(row["columns"])))
    return table


def timeline(branches: Sequence[Mapping[str, Any]], elapsed_ms: float) -> Table:
    """The fan-out: one bar a branch, on the common time axis of the question."""
    whole = max([elapsed_ms, *(branch["started_ms"] + branch["elapsed_ms"] for branch in branches)], default=0.0) or 1.0
    table = _table("Branch", f"0 to {whole:.0f} ms", "ms", "Status")
    for branch in branches:
        colour = COLOURS.get(branch["status"], "default")
        end = branch["started_ms"] + branch["elapsed_ms"]
        note = branch["status"]
        if branch["attempts"] > 1:
            note += f", {branch['attempts']} attempts"
        if branch["error"]:
            note += f": {branch['error']}"
        bar = Bar(whole, branch["started_ms"], end, width=TIMELINE_WIDTH, color=colour)
        table.add_row(Text(branch["name"]), bar, Text(f"{branch['elapsed_ms']:.1f}"), Text(note, style=colour))
    return table


def failures(outcomes: Iterable[Outcome]) -> Table:
    """Files that were not, or not wholly, read, and why."""
    table = _table("File", "State", "Why")
    for outcome in outcomes:
        why = outcome.error or outcome.code or ""
        table.add_row(
            Text(str(outcome.path)), Text(outcome.state, style="red" if outcome.failed else "yellow"), Text(why)
        )
    return table


def summary(report: Report) -> Text:
    """One line that says what an ingestion did."""
    done = report.having("done", "partial")
    known = sum(outcome.duplicate for outcome in done)
    text = f"{len(done)} of {len(report.outcomes)} documents"
    if known:
        text += f" ({known} known already)"
    text += f", {report.pages} pages in {report.seconds:.1f} s ({report.pages_per_s:.1f} pages/s)"
    if report.failures:
        text += f", {len(report.failures)} failed"
    return Text(text)


REDRAW_S = 0.2
"""Time between two looks at a report, s."""


class _Pages(ProgressColumn):
    """Pages done and pages a second."""

    def __init__(self, report: Report) -> None:
        self._report = report
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(f"{self._report.pages} pages  {self._report.pages_per_s:5.1f} pages/s", style="cyan")


class _Files(ProgressColumn):
    """Files at rest of all files."""

    def __init__(self, report: Report) -> None:
        self._report = report
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(f"{self._report.finished}/{len(self._report.outcomes)} documents")


@contextlib.asynccontextmanager
async def progress(report: Report, *, shown: bool) -> AsyncIterator[None]:
    """Inside, a progress bar on standard error follows the report; nothing happens if it is not to be shown."""
    if not shown:
        yield
        return
    columns = (TextColumn("Reading"), BarColumn(), _Files(report), _Pages(report), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        drawing = asyncio.create_task(_follow(bar, report))
        try:
            yield
        finally:
            drawing.cancel()


async def _follow(bar: Progress, report: Report) -> None:
    task = bar.add_task("", total=len(report.outcomes))
    while True:
        bar.update(task, completed=report.share)
        await asyncio.sleep(REDRAW_S)


JOB_COLOURS = {"reading": "cyan", "publishing": "cyan", "done": "green", "partial": "yellow", "failed": "red"}
"""Colours of states; the others are said without one: to wait is nothing to worry about."""

WATCH_S = 1.0
"""Time between two looks at the jobs, s."""


def jobs(board: Mapping[str, Any]) -> RenderableType:
    """What is being read and what waits, with a line on top that sums it up."""
    table = _table("Job", "Document", "Collection", "State", "Pages", "Pages/s", "Left", "Try")
    for column in table.columns:
        column.no_wrap = True  # the id too, to be copied
    # A line a job: of names as much as there is room for.
    for column in table.columns[1:3]:
        column.no_wrap, column.header = False, Text(str(column.header), no_wrap=True, overflow="ellipsis")
    for job in board["items"]:
        # A mean of what was read before is no speed, while nothing is.
        speed, left = (None, None) if board["waits"] else (job["pages_per_s"], job["eta_s"])
        table.add_row(
            Text(job["job_id"]),
            Text(job["filename"], no_wrap=True, overflow="ellipsis"),
            Text(job["collection"], no_wrap=True, overflow="ellipsis"),
            Text(job["state"], style=JOB_COLOURS.get(job["state"], "")),
            Text(f"{job['pages_done']}/{job['pages_total']}"),
            Text("" if speed is None else f"{speed:.1f}"),
            Text("" if left is None or job["state"] not in ("reading", "publishing") else duration(left)),
            Text(str(job["attempt"] or "")),
        )
    if not board["items"]:
        return _in_all(board)
    errors = [Text(f"{job['job_id']}: {job['error']}", style="bright_black") for job in board["items"] if job["error"]]
    return Group(_in_all(board), Text(), table, *([Text(), *errors] if errors else []))


def _in_all(board: Mapping[str, Any]) -> Text:
    words = {"reading": "being read", "queued": "waiting"}
    counts = [f"{count:,} {words.get(state, state)}" for state, count in sorted(board["counts"].items())]
    parts = [", ".join(counts) or "Nothing to do"]
    under_way = [job for job in board["items"] if job["state"] in ("reading", "queued")]
    speed = sum(job["pages_per_s"] or 0.0 for job in under_way if job["state"] == "reading")
    if speed and not board["waits"]:
        parts.append(f"{speed:.1f} pages/s")
        if board["complete"]:
            left = sum(job["pages_total"] - job["pages_done"] for job in under_way)
            parts.append(f"{duration(left / speed)} left")
    told = Text(" · ".join(parts))
    for trouble in board["trouble"]:
        told.append(f"\n{trouble}", style="yellow")
    return told


def duration(seconds: float) -> str:
    """A length of time as a person says it: `40 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours:,} h" + (f" {rest} min" if rest and hours < 24 else "")


async def keep_shown(look: Callable[[], Awaitable[T]], render: Callable[[T], RenderableType]) -> None:
    """Show what each look gives in the place of the one before, until cancelled."""
    with Live(render(await look()), auto_refresh=False) as live:
        while True:
            await asyncio.sleep(WATCH_S)
            live.update(render(await look()), refresh=True)


def estimate(values: Mapping[str, Any]) -> RenderableType:
    """What an ingestion would come to."""
    table = _table("", "")
    scanned, pages = values["scanned_pages"], values["pages"]
    known = "unknown: the server was not asked" if values["known"] is None else f"{values['known']:,}"
    urls = f", and {values['urls']:,} URLs that were not looked at" if values["urls"] else ""
    lines = {
        "Files": f"{values['files']:,}{urls}",
        "New": f"{values['new']:,}, {values['file_bytes'] / 1e6:,.1f} MB",
        "Known already": known,
        "Same as another": f"{values['repeated']:,}",
        "Would be refused": f"{len(values['refused']):,}",
        "Pages": f"{pages:,}" + (f", about {scanned:,} of them scanned ({scanned / pages:.0%})" if pages else ""),
        "Time": f"about {duration(values['seconds'])} on {values['cpus']} cores",
        "In the store": f"about {values['store_bytes'] / 1e6:,.1f} MB, beside the files",
    }
    for name, value in lines.items():
        table.add_row(Text(name, style="bright_black"), Text(value))
    if not values["refused"]:
        return table
    refused = _table("File", "Why")
    for entry in values["refused"]:
        refused.add_row(Text(entry["path"]), Text(entry["error"]))
    return Group(table, Text(), refused)


@contextlib.asynccontextmanager
async def counting(done: Sequence[Any], total: int, *, shown: bool) -> AsyncIterator[None]:
    """Inside, a progress bar on standard error follows how long `done` is."""
    if not shown:
        yield
        return

    async def follow(bar: Progress) -> None:
        task = bar.add_task("", total=total)
        while True:
            bar.update(task, completed=len(done))
            await asyncio.sleep(REDRAW_S)

    columns = (TextColumn("Looking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        drawing = asyncio.create_task(follow(bar))
        try:
            yield
        finally:
            drawing.cancel()


@contextlib.contextmanager
def counting_rows(*, shown: bool) -> Iterator[Callable[[str, int], None]]:
    """Inside, a line on standard error says what is being moved; it is told by calling what this gives."""
    if not shown:
        yield lambda what, number: None
        return
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, number: bar.update(task, description=f"{what}: {number:,}")


def transfer(done: Mapping[str, Any]) -> RenderableType:
    """A backup, a restored one, or a copy, with the account of each table."""
    table = _table("Table", "Rows", "SHA-256 of its rows")
    for name, tally in done["tables"].items():
        table.add_row(name, f"{tally['rows']:,}", Text(tally["sha256"][:16] + "…", style="bright_black"))
    place = done.get("backup") or f"{done['from']} to {done['to']}"
    said = (
        f"{place}: {done['rows']:,} rows, equal on both sides" if "from" in done else f"{place}: {done['rows']:,} rows"
    )
    if "files" in done:
        said += f", {done['files']:,} files"
    if done.get("left_out"):
        said += f"; {len(done['left_out']):,} files are not in the backup, or not whole: --json names them"
    return Group(table, Text(), Text(f"{said}."))


def sources(items: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Registered SQL sources."""
    if not items:
        return Text("No sources. Register one: gatherum sources add NAME PATH")
    table = _table("Source", "Kind", "Place")
    for item in items:
        place = item["path"] or f"{item['user']}@{item['host']}:{item['port'] or 'usual port'}/{item['database']}"
        table.add_row(Text(item["name"]), Text(item["kind"]), Text(place))
    return table


def lookups(items: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Stored lookups of a source."""
    if not items:
        return Text("No lookups. Store one: gatherum lookups add SOURCE FILE")
    table = _table("Lookup", "Parameters", "What it finds")
    for item in items:
        parameters = ", ".join(f"{parameter['name']}: {parameter['type']}" for parameter in item["parameters"])
        table.add_row(Text(item["name"]), Text(parameters), Text(item["description"]))
    return table


def tested(found: Mapping[str, Any]) -> RenderableType:
    """What a look at a source has found."""
    lines = [Text(f"{found['version']}, answers in {found['latency_ms']:g} ms.")]
    lines += [Text(f"Warning: {warning}", style="yellow") for warning in found["warnings"]]
    return Group(*lines)


def schema(found: Mapping[str, Any]) -> RenderableType:
    """The tables of a source."""
    table = _table("Table", "Column", "Type", "")
    for each in found["tables"]:
        size = "" if each["rows"] is None else f" (about {each['rows']:,} rows)"
        points = {
            of: "-> " + ".".join(filter(None, (key["namespace"], key["table"])))
            for key in each["foreign_keys"]
            for of in key["columns"]
        }
        for at, column in enumerate(each["columns"]):
            notes = ["key"] if column["name"] in each["key"] else []
            notes += [points[column["name"]]] if column["name"] in points else []
            notes += [", ".join(map(str, column["samples"]))] if column["samples"] else []
            name = f"{each['name']}{size}" if at == 0 else ""
            table.add_row(Text(name), Text(column["name"]), Text(column["type"]), Text("; ".join(notes)))
    return table


def query(found: Mapping[str, Any]) -> RenderableType:
    """The rows of a statement, given as arrays."""
    table = _table(*(column["name"] for column in found["columns"]))
    for row in found["rows"]:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    end = f"{len(found['rows']):,} rows in {found['elapsed_ms']:g} ms" + (
        ", more left out" if found["truncated"] else ""
    )
    return Group(table, Text(f"{end}."))


def plan(found: Mapping[str, Any]) -> RenderableType:
    """What a plan says in plain words."""
    return Group(*(Text(f"{each['level']}: {each['text']}") for each in found["analysis"]))


def checkup(found: Mapping[str, Any]) -> RenderableType:
    """What the doctor has found, and what became of it."""
    # What has not been met is not "0 looked at": some checks count nothing but what is wrong.
    looked_at = _pairs({check: number for check, number in found["looked_at"].items() if number}) or "an empty store"
    if not found["running"]:
        looked_at += " (the system is down: its indexes are made at the next start)"
    if not found["findings"]:
        return Text(f"All is well. Looked at {looked_at}.")
    table = _table("Check", "About", "What is wrong", "Repair")
    for finding in found["findings"]:
        repair = Text(finding["repair"] or "none", style="default" if finding["repair"] else "bright_black")
        if finding["repaired"]:
            repair = Text(f"done: {finding['repair']}", style="green")
        table.add_row(Text(finding["check"]), Text(finding["subject"]), Text(finding["what"]), repair)
    end = Text(f"{len(found['findings'])} findings, {found['left']} of them left. Looked at {looked_at}.")
    if any(finding["repair"] and not finding["repaired"] for finding in found["findings"]):
        end.append(" gatherum doctor --repair does what can be done.")
    return Group(table, Text(), end)


def evaluation(found: Mapping[str, Any]) -> RenderableType:
    """How good each mode of search is, and what it costs."""
    table = _table("mode", "nDCG@10", "Recall@100", "MRR", "queries/s", "CPU s / 1,000 queries")
    for mode in found["modes"]:
        quality = (f"{mode[name]:.4f}" for name in ("ndcg_at_10", "recall_at_100", "mrr"))
        table.add_row(mode["mode"], *quality, f"{mode['queries_per_s']:,.0f}", f"{mode['cpu_s_per_1000']:.2f}")
    size = f"{found['documents']:,} documents in {found['chunks']:,} chunks, {found['queries']:,} queries"
    parts: list[RenderableType] = [table, Text(size, style="bright_black")]
    if found["judged_but_missing"]:
        number = f"{found['judged_but_missing']:,}"
        parts.append(
            Text(f"{number} relevant documents are not in the corpus: no search can find them.", style="yellow")
        )
    return Group(*parts)


def settings(values: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every setting, its value in force and where that came from."""
    table = _table("Setting", "Value", "From")
    for key, entry in values.items():
        default = entry["origin"] == "config/default.yaml"
        value = entry["value"]
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(Text(key), Text(shown), Text(entry["origin"], style="bright_black" if default else "green"))
    return table


def status(state: Mapping[str, Any]) -> RenderableType:
    """What runs: each actor with its process, node and figures."""
    if not state["running"]:
        return Text("Gatherum is not running. Start it: gatherum up")
    table = _table("Actor", "Ready", "Process", "Node", "Figures")
    for name, replica in state["replicas"].items():
        ready = Text("yes", style="green") if replica["ready"] else Text("no", style="red")
        figures = replica.get("error") or _pairs(replica.get("detail", {}))
        table.add_row(
            Text(name), ready, Text(str(replica.get("pid", ""))), Text(replica.get("node", "")), Text(figures)
        )
    where = f"serves at {state['url']}" if state["url"] else "runs without an HTTP entry point"
    return Group(Text(f"Gatherum {where}, on Ray at {state['address']}."), Text(), table)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested mapping by dotted key."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def without_password(url: str) -> str:
    """A database URL that may be shown: passwords of the authority and of the query are masked."""
    url = re.sub(r"(://[^:/?#@]*:).*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*(?:password|passwd|pwd|secret|token)[^=&]*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bright_black", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold", vertical="top")
    return table


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _box(box: Sequence[float]) -> str:
    return " ".join(f"{edge:.0f}" for edge in box)
