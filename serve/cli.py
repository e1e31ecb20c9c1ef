"""The `gatherum` command.

Each command loads the settings once, does one thing and prints it twice over: as tables for a person, as one JSON value
with `--json`. Ray and the actors are imported only by the commands that start or stop the system, so that help and the
client commands answer at once. An expected error is one line on standard error: exit code 2 for a wrong setting or
argument, 1 for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import StrEnum
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from serve.cli_sources import lookups_app, sources_app
from serve.terminal import Json, Url
from serve.terminal import fail as _fail
from serve.terminal import print_both as _print
from serve.terminal import show as _show
from serve.terminal import url_of as _url
from serve.terminal import with_client as _with_client

if TYPE_CHECKING:
    from config.settings import Settings
    from serve.client import AsyncClient

T = TypeVar("T")


class JobState(StrEnum):
    """States of jobs."""

    QUEUED = "queued"
    READING = "reading"
    PUBLISHING = "publishing"
    DONE = "done"
    PARTIAL = "partial"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Form(StrEnum):
    """Forms that a reading is printed in."""

    JSON = "json"
    TEXT = "text"
    MARKDOWN = "markdown"


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect."""

PATIENCE_S = 60.0
"""How long an ingestion waits for a server that has gone away, s."""


class Commands(TyperGroup):
    """The group of commands, which turns expected errors into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with one_line_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Inside, an expected error becomes a line on standard error and the end of the program."""
    try:
        yield
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        _fail(str(error), code)


def _exit_code(error: Exception) -> int | None:
    """The exit code of an expected error, None for a bug, whose traceback is wanted."""
    from actors.errors import GatherumError
    from config.settings import SettingsError
    from serve.client import ClientError
    from serve.launch import LaunchError

    if isinstance(error, SettingsError):
        return 2
    return 1 if isinstance(error, GatherumError | ClientError | LaunchError) else None


app = typer.Typer(
    name="gatherum",
    cls=Commands,
    help="Answers questions over PDFs and SQL databases, with the evidence for every statement.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(sources_app, name="sources")
app.add_typer(lookups_app, name="lookups")
jobs_app = typer.Typer(invoke_without_command=True)
app.add_typer(jobs_app, name="jobs")
db_app = typer.Typer(help="Upgrade, back up, restore and move the database.", no_args_is_help=True)
app.add_typer(db_app, name="db")

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Port to serve on; 0 takes a free one.")]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the embedded store, the blobs and Ray's start log.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"gatherum {distribution_version('gatherum')}")
        except PackageNotFoundError:
            typer.echo("gatherum (not installed: run from a bare checkout)")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def up(
    port: Port = None,
    data_dir: DataDir = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, host:port; without it a node is started here.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once ready, and keep serving.")] = False,
    as_json: Json = False,
) -> None:
    """Start Gatherum, and serve until Ctrl-C."""
    settings = _settings({"api.port": port, "data_dir": data_dir})
    serve_until_stopped(settings, address=address, detach=detach, as_json=as_json)


def serve_until_stopped(
    settings: Settings,
    *,
    address: str | None = None,
    detach: bool = False,
    as_json: bool = False,
    then: Callable[[str], None] | None = None,
) -> None:
    """Bring the system up, say where, and wait for its end; whatever ends it, nothing is left running.

    Args:
        settings: of the system.
        address: of a Ray cluster, None for a node of our own.
        detach: return once ready and leave it running.
        as_json: print JSON.
        then: called with the URL once ready, before waiting.

    Raises:
        GatherumError: it did not come up; the port is taken, for instance.
        LaunchError: it went away while this waited.
    """
    from serve import launch

    with launch.Signals() as signals:
        ours = False
        try:
            _note("Starting Gatherum. The first time takes longest.")
            with signals.held():
                url, ray_address = launch.apart(bring_up, settings, address=address)
                ours = True
            _print({"url": url, "address": ray_address}, as_json, f"Gatherum serves at {url}")
            if then is not None:
                then(url)
            if detach:
                ours = False
            else:
                _note("Ctrl-C stops it.")
                launch.wait_while_serving(url)
                raise launch.LaunchError(f"Nothing serves at {url} any more.")
        except launch.Stopped:
            _note("Stopping.")
        finally:
            if ours:
                launch.apart(take_down, settings)


def bring_up(settings: Settings, *, address: str | None) -> tuple[str, str]:
    """Start the system; returns where it serves, and Ray's address."""
    from serve import system

    running = system.up(settings, address=address)
    return running.url, running.address


def take_down(settings: Settings) -> bool:
    """Stop the system; returns whether it was running."""
    from serve import system

    return system.down(settings)


@app.command()
def down(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Stop Gatherum. What it has accepted is kept, and finished after the next start."""
    settings = _settings({"data_dir": data_dir})
    stopped = take_down(settings)
    _print({"stopped": stopped}, as_json, "Gatherum is stopped." if stopped else "Gatherum was not running.")


@app.command()
def scale(
    counts: Annotated[
        list[str], typer.Argument(metavar="NAME=COUNT...", help="orchestrator, retrieval, entities, pdf or api.")
    ],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change how many replicas there are, while Gatherum runs; until it is stopped."""
    settings = _settings({"data_dir": data_dir})
    wanted: dict[str, int] = {}
    for one in counts:
        name, equals, count = one.partition("=")
        if not equals or not count.isdecimal():
            raise typer.BadParameter(f"{one!r} is not NAME=COUNT, such as retrieval=2.")
        wanted[name] = int(count)
    from serve import system

    system.scale(settings, wanted)
    _print(wanted, as_json, "There are now " + ", ".join(f"{count} of {name}" for name, count in wanted.items()) + ".")


@app.command()
def status(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show what runs and whether it is ready; exit code 1 if something is not."""
    settings = _settings({"data_dir": data_dir})
    from serve import render, system

    state = system.status(settings)
    _print(state, as_json, lambda: render.status(state))
    if not state["running"] or state["not_ready"]:
        raise typer.Exit(1)


@app.command()
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="PDFs, folders to look for *.pdf in, and URLs that the server fetches."),
    ],
    collection: Annotated[str, typer.Option(help="Collection the documents go to.")] = "default",
    priority: Annotated[
        str, typer.Option(help="low, normal, high, or -100 to 100: higher is read before what waits already.")
    ] = "normal",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; say what it would come to, by a look at some pages.")
    ] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Read PDFs; exit code 1 if any of them failed, or would be refused."""
    from serve import bulk, render

    try:
        files = bulk.find_pdfs(paths)
    except FileNotFoundError as error:
        _fail(str(error), 2)
    if not files:
        _fail("There are no PDFs in " + ", ".join(paths) + ".", 1)
    if dry_run:
        estimate = estimated(url, files, collection=collection, quiet=as_json)
        _print(estimate, as_json, lambda: render.estimate(estimate))
        raise typer.Exit(1 if estimate["refused"] else 0)
    report = bulk.Report([bulk.Outcome(file) for file in files])
    try:
        interrupted = not ingest_shown(_url(url), report, collection=collection, priority=priority, quiet=as_json)
        _print(report.to_json(), as_json, lambda: render.summary(report))
    finally:
        troubled = [*report.failures, *report.having("partial")]
        if troubled and not as_json:
            _show(render.failures(troubled))
    if interrupted:
        accepted, unsent = len(report.having("accepted")), len(report.having("unsent"))
        _note(
            f"Interrupted: {accepted} accepted documents are read to their end by the server, {unsent} were not sent. "
            "Run the same command again to send them; what is there already is recognised."
        )
        raise typer.Exit(INTERRUPTED)
    if report.failures:
        raise typer.Exit(1)


def ingest_shown(url: str, report: Any, *, collection: str, quiet: bool, priority: str = "normal") -> bool:
    """Ingest with a progress bar; False if Ctrl-C cut it short."""
    from serve import bulk, render
    from serve.client import AsyncClient

    async def run() -> None:
        async with AsyncClient(url, patience_s=PATIENCE_S) as client:
            await client.version()
            async with render.progress(report, shown=not quiet and sys.stderr.isatty()):
                await bulk.ingest(client, report, collection=collection, priority=priority)

    try:
        asyncio.run(run())
    except KeyboardInterrupt:
        return False
    return True


def estimated(url: str | None, files: list[Path | str], *, collection: str, quiet: bool) -> dict[str, Any]:
    """What ingesting the files would come to. The server is asked only for what it has; it need not be there."""
    from config.settings import load
    from serve import estimate, render
    from serve.client import AsyncClient, ClientError

    place, limits = _url(url), estimate.Limits.of(load())
    paths = [file for file in files if isinstance(file, Path)]

    async def run() -> dict[str, Any]:
        known: set[str] | None = None
        try:
            async with AsyncClient(place) as client:
                known = await client.known_hashes(collection)
        except ClientError as error:
            _note(f"Which files are known already could not be asked: {error}")
        looks: list[estimate.Look] = []
        async with render.counting(looks, len(paths), shown=not quiet and sys.stderr.isatty()):
            await estimate.look_at_all(paths, limits, looks)
        return estimate.summary(looks, known, embeds=limits.embeds, urls=len(files) - len(paths))

    return asyncio.run(run())


@jobs_app.callback()
def jobs(
    context: typer.Context,
    state: Annotated[
        list[JobState] | None, typer.Option(help="Only jobs of this state; may be repeated. By default those to do.")
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Only jobs of this collection.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs of a state that are shown.")] = 20,
    once: Annotated[bool, typer.Option("--once", help="Print the table once and end.")] = False,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Show what is being read and what waits, until Ctrl-C; once where the output is no terminal."""
    if context.invoked_subcommand is not None:
        return
    from serve import render

    states = [each.value for each in state or (JobState.READING, JobState.QUEUED)]
    if as_json or once or not sys.stdout.isatty():
        board = _with_client(url, lambda client: board_of(client, states, collection, limit))
        _print(board, as_json, lambda: render.jobs(board))
        return

    async def watch(client: AsyncClient) -> None:
        look = over_outages(lambda: board_of(client, states, collection, limit))
        await render.keep_shown(look, render.jobs)

    with contextlib.suppress(KeyboardInterrupt):
        _with_client(url, watch)


async def board_of(client: AsyncClient, states: list[str], collection: str | None, limit: int) -> dict[str, Any]:
    """The jobs of each state, and how many there are in all: the JSON of `gatherum jobs --json`."""
    items: list[dict[str, Any]] = []
    complete = True
    for state in states:
        page = await client.jobs([state], collection=collection, limit=limit)
        items += page["items"]
        complete = complete and page["next"] is None
    health = await client.health()
    database = health["replicas"].get("database-0", {})
    return {
        "items": items,
        "complete": complete,
        "counts": database.get("detail", {}).get("jobs", {}),
        "trouble": health["trouble"],
        "waits": any(trouble.startswith("ingest-") for trouble in health["trouble"]),
    }


def over_outages(look: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A look that, once it has succeeded, gives the last board again while there is no answer, and says so."""
    from serve.client import ClientError

    last: dict[str, Any] | None = None

    async def again() -> dict[str, Any]:
        nonlocal last
        try:
            last = await look()
        except ClientError as error:
            if last is None:
                raise
            return {**last, "waits": True, "trouble": [f"As it was before: {error.detail}"]}
        return last

    return again


JobId = Annotated[str, typer.Argument(metavar="JOB_ID", help="As in the receipt of the upload, or in the table.")]


@jobs_app.command("cancel")
def jobs_cancel(job_id: JobId, url: Url = None, as_json: Json = False) -> None:
    """Cancel a job that waits or is being read. What is published stays."""
    job = _with_client(url, lambda client: client.cancel_job(job_id))
    _print(job, as_json, f"Job {job_id} is {job['state']}.")


@jobs_app.command("retry")
def jobs_retry(job_id: JobId, url: Url = None, as_json: Json = False) -> None:
    """Start a failed, cancelled or partial job again; pages that could not be read are tried again."""
    job = _with_client(url, lambda client: client.retry_job(job_id))
    _print(job, as_json, f"Job {job_id} is {job['state']}.")


@app.command()
def extract(
    file: Annotated[str, typer.Argument(help="A PDF, or a URL that the server fetches.")],
    pages: Annotated[str, typer.Option(help="Such as 1-3,7 or 5-; all by default.")] = "",
    form: Annotated[Form, typer.Option("--format", help="Form of the pages.")] = Form.TEXT,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the images into this folder, and print their names.")
    ] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Read a PDF and print what it says. Nothing is stored."""
    from serve import bulk

    what = file if bulk.is_url(file) else Path(file)
    if isinstance(what, Path) and not what.is_file():
        _fail(f"There is no file {file}.", 2)
    if images is not None:
        _extract_images(what, images, pages, url, as_json)
        return
    chosen = Form.JSON if as_json else form
    body = _with_client(url, lambda client: client.extract(what, form=chosen.value, pages=pages))
    typer.echo(body, nl=chosen is Form.JSON)


def _extract_images(what: Path | str, folder: Path, pages: str, url: str | None, as_json: bool) -> None:
    """Write the images of a PDF as files and print which."""
    from serve import export

    async def write(client: AsyncClient) -> export.Exported:
        return await export.write_images(client.extract_lines(what, pages=pages, images=True), folder)

    try:
        exported = _with_client(url, write)
    except OSError as error:
        _fail(f"{error.filename or folder} cannot be used: {error.strerror}.", 2)
    _print(exported.files, as_json, "\n".join(str(file["path"]) for file in exported.files))
    if exported.omitted:
        _note("Left out: " + ", ".join(f"{count} {why}" for why, count in exported.omitted.items()) + ".")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    collection: Annotated[list[str] | None, typer.Option(help="Collection to look in; may be repeated.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="SQL source to look in; may be repeated.")] = None,
    timeout_ms: Annotated[int | None, typer.Option(min=1, help="Budget of the answer, ms.")] = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Ask a question, and see the answer with its evidence."""
    from serve import render

    answer = _with_client(
        url, lambda client: client.ask(question, collections=collection, sources=source, timeout_ms=timeout_ms)
    )
    _print(answer, as_json, lambda: render.answer(answer))


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be; again is harmless.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file; takes as long as reading them all.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Compare rows, files and indexes, whether or not the system runs; exit code 1 if something stays wrong."""
    settings = _settings({"data_dir": data_dir}, quiet=True)
    from serve import checkup, render

    found = checkup.run(settings, deep=deep, repair=repair)
    _print(found.to_json(), as_json, lambda: render.checkup(found.to_json()))
    if found.left:
        raise typer.Exit(1)


@db_app.command("current")
def db_current(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show which revision the schema of the database has, and which is the newest."""
    settings = _settings({"data_dir": data_dir}, quiet=True)
    from serve import database

    state = database.current(settings)
    is_newest = state["revision"] == state["newest"]
    _print(
        state,
        as_json,
        f"{state['database']} is "
        + ("empty" if state["revision"] is None else f"at revision {state['revision']}")
        + (", the newest." if is_newest else f"; the newest is {state['newest']}. `gatherum db upgrade` applies it."),
    )


@db_app.command("upgrade")
def db_upgrade(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Bring the schema of the database up to date, as every start does. The system must be down."""
    settings = _settings({"data_dir": data_dir}, quiet=True)
    from serve import database

    state = database.upgrade(settings)
    _print(state, as_json, f"{state['database']} is at revision {state['revision']}.")


@db_app.command("backup")
def db_backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not exist.")],
    rows_only: Annotated[bool, typer.Option("--rows-only", help="Leave the PDFs out, and list them.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write every row and every PDF into one file. The system may be up."""
    settings = _settings({"data_dir": data_dir}, quiet=True)
    from serve import database, render

    with render.counting_rows(shown=not as_json and sys.stderr.isatty()) as tell:
        done = asyncio.run(database.save(settings, file, files=not rows_only, tell=tell))
    _print(done, as_json, lambda: render.transfer(done))


@db_app.command("restore")
def db_restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    force: Annotated[bool, typer.Option("--force", help="Lose what the database holds.")] = False,
    rows_only: Annotated[bool, typer.Option("--rows-only", help="Leave the PDFs of the backup alone.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make the store from a backup, in whatever database is configured. The system must be down."""
    settings = _settings({"data_dir": data_dir}, quiet=True)
    from serve import database, render

    with render.counting_rows(shown=not as_json and sys.stderr.isatty()) as tell:
        done = asyncio.run(database.restore(settings, file, files=not rows_only, force=force, tell=tell))
    _print(done, as_json, lambda: render.transfer(done))


@db_app.command("copy")
def db_copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="URL of the database to copy.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="URL of the database to copy it to.")],
    force: Annotated[bool, typer.Option("--force", help="Lose what the target holds.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Copy a store from one database to another, of any kind, and prove that the copy is equal. Files stay put."""
    settings = _settings({"data_dir": data_dir}, quiet=True)
    from serve import database, render

    with render.counting_rows(shown=not as_json and sys.stderr.isatty()) as tell:
        done = asyncio.run(database.copy(settings, source, target, force=force, tell=tell))
    _print(done, as_json, lambda: render.transfer(done))


@app.command("eval")
def evaluate(
    folder: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Folder with corpus.jsonl, queries.jsonl and qrels.tsv or qrels/."),
    ],
    mode: Annotated[list[str] | None, typer.Option(help="Only this mode of search; may be repeated.")] = None,
    split: Annotated[str | None, typer.Option(help="File of qrels/ to judge by; test, else dev, else train.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write quality against cost into this file, as SVG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge the search by a collection that people have judged. No running system is needed, and none is touched."""
    from serve import evaluation, render
    from serve.plot import quality_against_cost

    settings = _settings({})
    chosen = evaluation.modes(mode or ())
    found = asyncio.run(evaluation.evaluate(settings, folder, split=split, chosen=chosen, tell=_note))
    if plot is not None:
        try:
            plot.write_text(quality_against_cost(found), encoding="utf-8")
        except OSError as error:
            _fail(f"{plot} cannot be written: {error.strerror}.", 2)
    _print(found, as_json, lambda: render.evaluation(found))


@app.command()
def config(as_json: Json = False) -> None:
    """Show every setting, its value and where that came from."""
    from config.settings import load_with_origins
    from serve import render

    loaded = load_with_origins()
    values = {
        key: {
            "value": render.without_password(value) if key == "database.url" else value,
            "origin": loaded.origins[key],
        }
        for key, value in render.leaves(loaded.settings.model_dump(mode="json"))
    }
    _print(values, as_json, lambda: render.settings(values))


def _settings(overrides: Mapping[str, Any], *, quiet: bool = False) -> Settings:
    """The settings, with logging set up; `quiet` where the store is opened in this process, for a person to read."""
    from config.logs import configure
    from config.settings import load

    settings = load(overrides)
    told = settings.logs
    configure(told.model_copy(update={"level": "WARNING"}) if quiet and told.level == "INFO" else told, role="cli")
    return settings


def _note(text: str) -> None:
    """Say something that is not the result: on standard error, so that `--json` stays pure."""
    typer.echo(text, err=True)


def main() -> None:
    """Entry point of the `gatherum` script."""
    app()


if __name__ == "__main__":
    main()
